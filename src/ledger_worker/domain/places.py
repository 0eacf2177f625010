"""Places: where the terms of grants make something happen, and in which order.

At one instant what leaves with a customer goes first, then ends (with what goes on in a child), what arrives, begins,
suspensions and lifts, cuts, payment of debt, ends of holds, then usage and the taking of holds by (event source,
event id); last what is told of an end to come.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from ledger_worker.domain.ledger import Cut, GrantTerms, Hold, Suspension, UsageFact

__all__ = [
    "ARRIVE",
    "BEGIN",
    "BEGINNING",
    "CUT",
    "END",
    "LEAVE",
    "NOWHERE",
    "PAY",
    "SUSPEND",
    "WARN",
    "Place",
    "Transition",
    "all_of",
    "cut_place",
    "first_difference",
    "is_open",
    "is_suspended",
    "place_of_hold",
    "place_of_hold_end",
    "place_of_usage",
    "places_of",
    "suspension_places",
    "up_to_made",
    "usage_tie",
    "warnings_of",
]

LEAVE, ARRIVE = "0!", "1"
END, BEGIN, SUSPEND, CUT, PAY, HOLD_END, USE, WARN = "0", "2", "3", "4", "5", "6", "7", "8"
"""Ranks within one instant."""
_AFTER_ALL = "9"
_LIFT_SUFFIX = "\x1flift"
_KINDS = {
    END: "end",
    BEGIN: "begin",
    SUSPEND: "suspend",
    CUT: "cut",
    PAY: "pay",
    HOLD_END: "release",
    WARN: "expiring_soon",
}

Place = tuple[datetime, str]
"""Where a happening stands in a run: its instant, then rank and tie as one string."""

BEGINNING = datetime.min.replace(tzinfo=UTC)
NOWHERE: Place = (BEGINNING, "")
"""Before every place."""


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """An instant the books know of that has come or will come, of a grant or of a hold.

    A grant's begin or end, a cut dated ahead, a payment, the end of a hold that nobody has confirmed or released, or
    that an end is near.
    `makes_due` is set on the begin of an occurrence by which others are made that are due too: about how many
    transitions these are.
    """

    place: Place
    entitlement: str
    set_by: int
    grant_id: UUID | None = None
    hold_key: UUID | None = None
    makes_due: int = 0

    @property
    def of_grant(self) -> UUID:
        """The grant of a transition that is not of a hold."""
        if self.grant_id is None:
            msg = "a transition is of a grant or of a hold"
            raise ValueError(msg)
        return self.grant_id

    @property
    def kind(self) -> str:
        """What happens, as a word."""
        return "lift" if self.place[1].endswith(_LIFT_SUFFIX) else _KINDS[self.place[1][0]]

    @property
    def is_warning(self) -> bool:
        """Whether it says that an end is near, and moves nothing."""
        return self.place[1][0] == WARN

    @property
    def is_told_apart(self) -> bool:
        """Whether it is told by itself and not with what else happens in its instant: it ends no access."""
        return self.place[1][0] in {PAY, WARN}


def up_to_made(due: Sequence[Transition]) -> list[Transition]:
    """Of transitions in order those up to the first instant at which more is made that is due: it comes after them."""
    until = next((transition.place[0] for transition in due if transition.makes_due), None)
    return [transition for transition in due if until is None or transition.place[0] <= until]


def all_of(instant: datetime) -> Place:
    """The place behind everything that happens at the instant."""
    return (instant, _AFTER_ALL)


def usage_tie(event_source: str, event_id: str) -> str:
    """What orders usage of one instant; ids are printable, so the separator sorts before all they can hold."""
    return f"{event_source}\x1f{event_id}"


def place_of_usage(usage: UsageFact) -> Place:
    """Where usage happens."""
    return (usage.at, USE + usage.tie)


def place_of_hold(hold: Hold) -> Place:
    """Where a hold is taken: as usage."""
    return (hold.at, USE + hold.tie)


def place_of_hold_end(hold: Hold) -> Place:
    """Where a hold ends: confirmed, released or expired."""
    return (hold.ends_at, HOLD_END + hold.tie)


def places_of(terms: GrantTerms) -> list[Place]:
    """Where the terms of one grant make something happen."""
    tie = terms.grant_id.hex
    places = [(terms.effective_at, BEGIN + tie), (terms.effective_at, PAY + tie)]
    if terms.expires_at is not None:
        # By generation: what was rolled over sorts behind what was not, for "~" comes after every digit.
        places.append((terms.expires_at, f"{END}~{terms.generation:03}{tie}" if terms.generation else END + tie))
    places += [cut_place(terms, cut) for cut in terms.cuts]
    for suspension in terms.suspensions:
        places += suspension_places(terms, suspension)
    return places


def warnings_of(terms: GrantTerms, lead_times: Sequence[timedelta]) -> list[Place]:
    """Where it is told that the grant ends soon: so long before its end, within its time.

    Nowhere where the end is none that is known: where it only waits for a renewal.
    """
    end = terms.expires_at
    if not lead_times or end is None or (terms.period_end is not None and terms.period_end < end):
        return []
    tie = WARN + terms.grant_id.hex
    return [(end - lead, tie) for lead in lead_times if end - lead > terms.effective_at]


def suspension_places(terms: GrantTerms, suspension: Suspension) -> list[Place]:
    """Where a suspension begins and where it is lifted, if it is within the grant's time."""
    tie = f"{SUSPEND}{terms.grant_id.hex}/{suspension.cause}"
    places = [(suspension.starts_at, tie)]
    if suspension.ends_at is not None:
        places.append((suspension.ends_at, tie + _LIFT_SUFFIX))
    return places


def cut_place(terms: GrantTerms, cut: Cut) -> Place:
    """Where a cut happens."""
    return (cut.at, f"{CUT}{terms.grant_id.hex}/{cut.cut_id}")


def is_suspended(terms: GrantTerms, at: datetime) -> bool:
    """Whether a suspension of the grant is open at `at`."""
    return bool(terms.suspensions) and any(is_open(suspension, at) for suspension in terms.suspensions)


def is_open(suspension: Suspension, at: datetime) -> bool:
    """Whether the cause is open at `at`."""
    return suspension.starts_at <= at and (suspension.ends_at is None or at < suspension.ends_at)


def first_difference(old: GrantTerms | None, new: GrantTerms | None) -> Place:
    """The first place at which two terms of one grant make something else happen."""
    places = []
    if old is None or new is None or _burning_terms(old) != _burning_terms(new):
        places += [(terms.effective_at, BEGIN) for terms in (old, new) if terms is not None]
        return min(places)
    if old.effective_at != new.effective_at:
        places += [(old.effective_at, BEGIN), (new.effective_at, BEGIN)]
    if old.expires_at != new.expires_at:
        places += [(terms.expires_at, END) for terms in (old, new) if terms.expires_at is not None]
    if _ending_terms(old) != _ending_terms(new):
        places += [(terms.expires_at, END) for terms in (old, new) if terms.expires_at is not None]
    places += [(cut.at, CUT) for cut in set(old.cuts) ^ set(new.cuts)]
    places += _suspension_differences(old.suspensions, new.suspensions)
    return min(places, default=(datetime.max.replace(tzinfo=new.effective_at.tzinfo), ""))


def _burning_terms(terms: GrantTerms) -> tuple[int | None, int, datetime | None]:
    return (terms.amount, terms.priority, terms.root_at)


def _ending_terms(terms: GrantTerms) -> tuple[UUID | None, int | None, bool, int | None]:
    """What an end does with what is left; a child by regrant is of its parent's offer version."""
    return (terms.rolls_into, terms.rollover_max, terms.regrants, terms.offer_version if terms.regrants else None)


def _suspension_differences(old: Sequence[Suspension], new: Sequence[Suspension]) -> list[Place]:
    """Where suspensions begin to differ: at their start, or where only one of both is lifted."""
    if old == new:
        return []
    begun = {(one.cause, one.starts_at): one for one in old}
    places = []
    for one in new:
        other = begun.pop((one.cause, one.starts_at), None)
        if other is None:
            places.append((one.starts_at, SUSPEND))
        elif other.ends_at != one.ends_at:
            places.append((min(end for end in (one.ends_at, other.ends_at) if end is not None), SUSPEND))
    places += [(one.starts_at, SUSPEND) for one in begun.values()]
    return places
