"""The sentences in which a grant, a line of a posting and an answer are explained to people.

Values in, words out; what is read from the database to say them is `customer`'s matter.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from ledger_worker.domain.access import AccessReason, Resolved
from ledger_worker.domain.catalogue import Entitlement, EntitlementType
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.events import SeatAssigned, SeatFact, SeatsRevoked, SeatSwapped, SeatUnassigned
from ledger_worker.domain.ledger import Cut, CutPolicy, Grant, GrantTerms, Kind, Line, Origin, Phase, precedence
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.places import is_open, is_suspended
from ledger_worker.domain.requests import RequestReason
from ledger_worker.domain.values import MergePolicy

__all__ = [
    "GrantVerdict",
    "begins_words",
    "cause_words",
    "cut_words",
    "entry_words",
    "grant_words",
    "instant_words",
    "name_of",
    "origin_words",
    "precedence_words",
    "rule_words",
    "seats_words",
    "units_words",
    "upcoming_words",
    "usage_words",
    "value_precedence_words",
    "value_words",
    "verdict_of",
]


class GrantVerdict(StrEnum):
    """What one grant does for the customer now; the first that is true."""

    VOID = "void"
    """A correction undid it: it never was."""
    NOT_YET_BEGUN = "not_yet_begun"
    NOTHING_RECEIVED = "nothing_received"
    """It is there for what another grant leaves, and that left nothing."""
    ENDED = "ended"
    SUSPENDED = "suspended"
    DECIDES = "decides"
    """Its value of a setting is the one that counts, or is in it."""
    YIELDS = "yields"
    """It is in force, and its value is not the one that counts."""
    IN_FORCE = "in_force"
    """It gives access, or units without a limit."""
    REVOKED = "revoked"
    """It runs, but all its units were taken back."""
    USED_UP = "used_up"
    BURNING_NEXT = "burning_next"
    """The next unit is taken from it."""
    BURNING_LATER = "burning_later"
    """It has units, which others are burnt before."""


def verdict_of(grant: Grant, as_of: datetime, of_setting: Resolved | None = None) -> GrantVerdict:
    """What the grant does at `as_of`, where nothing burns before it; `of_setting` is what decides a value then."""
    if grant.phase is Phase.VOID:
        return GrantVerdict.VOID
    if grant.phase is Phase.PENDING:
        return GrantVerdict.NOT_YET_BEGUN
    if grant.terms.parent is not None and grant.terms.amount is not None and not grant.granted:
        return GrantVerdict.NOTHING_RECEIVED
    if grant.phase is not Phase.ACTIVE:
        return GrantVerdict.ENDED
    if is_suspended(grant.terms, as_of):
        return GrantVerdict.SUSPENDED
    if of_setting is not None:
        return GrantVerdict.DECIDES if grant.terms.grant_id in of_setting.deciding else GrantVerdict.YIELDS
    if grant.terms.amount is None:
        return GrantVerdict.IN_FORCE
    if grant.available:
        return GrantVerdict.BURNING_NEXT
    return GrantVerdict.REVOKED if grant.revoked and grant.revoked == grant.granted else GrantVerdict.USED_UP


_HAS_UNITS = frozenset({GrantVerdict.BURNING_NEXT, GrantVerdict.BURNING_LATER})


def grant_words(grant: Grant, verdict: GrantVerdict, entitlement: Entitlement, as_of: datetime) -> str:
    """What the grant does, and where those of its units are that it no longer has."""
    terms = grant.terms
    until = "without end" if terms.expires_at is None else f"until {instant_words(terms.expires_at)}"
    causes = ", ".join(cut.cut_id for cut in terms.cuts)
    if entitlement.type is EntitlementType.SEATS and verdict in _HAS_UNITS:
        return f"in force {until}, {units_words(grant.available, entitlement)}"
    words = {
        GrantVerdict.VOID: "undone by a correction",
        GrantVerdict.NOT_YET_BEGUN: f"begins at {instant_words(terms.effective_at)}",
        GrantVerdict.NOTHING_RECEIVED: "nothing was left for it",
        GrantVerdict.ENDED: f"ended at {instant_words(terms.expires_at or terms.effective_at)}",
        GrantVerdict.SUSPENDED: f"suspended by {_suspension_words(terms, as_of)}",
        GrantVerdict.DECIDES: f"in force {until}, its value counts",
        GrantVerdict.YIELDS: f"in force {until}, its value does not count now",
        GrantVerdict.IN_FORCE: f"in force {until}",
        GrantVerdict.REVOKED: f"revoked by {causes}" if causes else "revoked",
        GrantVerdict.USED_UP: f"used up, {until}",
        GrantVerdict.BURNING_NEXT: f"burning next, {units_words(grant.available, entitlement)} left {until}",
        GrantVerdict.BURNING_LATER: (
            f"burning after those above, {units_words(grant.available, entitlement)} left {until}"
        ),
    }[verdict]
    if verdict is GrantVerdict.REVOKED:
        return words
    parts = [words]
    if verdict is GrantVerdict.SUSPENDED and grant.available:
        parts.append(f"{units_words(grant.available, entitlement)} left {until}")
    if grant.moved:
        to = "to the grants that follow it" if terms.moves_to is None else f"to customer {terms.moves_to}"
        parts.append(f"{units_words(grant.moved, entitlement)} went on {to}")
    if grant.expired:
        parts.append(f"{units_words(grant.expired, entitlement)} expired")
    if grant.revoked and verdict is not GrantVerdict.VOID:
        parts.append(f"{units_words(grant.revoked, entitlement)} revoked by {causes}" if causes else "units revoked")
    if grant.short:
        parts.append(
            f"over-allocated by {units_words(grant.short, entitlement)}, which were used before they were taken back"
        )
    return ", ".join(parts)


def origin_words(terms: GrantTerms, giver: str | None) -> str | None:
    """Where the units of a child come from, of a transfer from the customer `giver`; None of a grant by its source."""
    match terms.origin:
        case None:
            return None
        case Origin.ROLLOVER:
            return f"rolled over from what ended at {instant_words(terms.effective_at)}"
        case Origin.TRANSFER:
            return f"transferred from {'another customer' if giver is None else f'customer {giver}'}"
        case Origin.REGRANT:
            return "granted once more, for usage that was reversed after its grant had ended"


def name_of(terms: GrantTerms) -> str:
    """How a grant is called in a sentence: its product and its source, or only that where a person gave it."""
    called = f"{terms.sku} of {terms.source_key}" if terms.sku else terms.source_key
    match terms.origin:
        case None:
            return called
        case Origin.ROLLOVER:
            return f"{called} (rolled over)"
        case Origin.TRANSFER:
            return f"{called} (transferred)"
        case Origin.REGRANT:
            return f"{called} (granted once more)"


def cause_words(cause: str) -> str:
    """What suspends a grant: a pause, a dispute, or a payment that is due."""
    if cause == "payment":
        return "a payment that failed"
    kind, _, name = cause.partition("/")
    return f"{kind} {name}"


def cut_words(cut: Cut, entitlement: Entitlement) -> str:
    """What a cut takes, when and how."""
    at = instant_words(cut.at)
    if cut.policy is CutPolicy.OPENING:
        return f"{cut.cut_id} takes as many as were used of the plan before it, at {at}"
    beyond = "" if cut.beyond is None else ", of which those that went on to another customer are taken there"
    return f"{cut.cut_id} asks for up to {units_words(cut.units, entitlement)} at {at} ({cut.policy}){beyond}"


def value_words(of_setting: Resolved, entitlement: Entitlement) -> str:
    """Why the value of a setting is the one it is: of which grant, and what decided; or how it was merged."""
    if entitlement.merge is None:
        first, *others = of_setting.grants
        return f"of {name_of(first)}, {value_precedence_words(first, others[0]) if others else 'the only one in force'}"
    count = len(of_setting.grants)
    if count == 1:
        return f"of {name_of(of_setting.grants[0])}, the only one in force"
    return {
        MergePolicy.MAX: f"the largest of {count} in force",
        MergePolicy.MIN: f"the smallest of {count} in force",
        MergePolicy.UNION: f"the elements of all {count} in force",
        MergePolicy.ANY: f"true where any of {count} in force is",
    }[entitlement.merge]


def value_precedence_words(first: GrantTerms, second: GrantTerms) -> str:
    """By what the value of one grant of a setting counts and not that of the next."""
    if first.priority != second.priority:
        return f"by priority {first.priority} before {second.priority}"
    if first.effective_at != second.effective_at:
        return f"which began later, at {instant_words(first.effective_at)}"
    if first.expires_at != second.expires_at:
        return "which ends later" if first.expires_at else "which never ends"
    return "by the order of their ids"


def upcoming_words(at: datetime, what: str, units: int | None, value: str | None, entitlement: Entitlement) -> str:
    """What is known to happen, from the closed list of a picture's `upcoming`; `value` is JSON text."""
    of = "" if units is None else f" of {units_words(units, entitlement)}"
    of = of if value is None else f" with the value {value}"
    words = {
        "begins": f"a grant{of} begins",
        "suspended": "a grant is suspended",
        "lifted": "a suspension is lifted",
        "cut": "units are taken back",
    }
    return f"{words.get(what, what)} at {instant_words(at)}"


def begins_words(amounts: Sequence[int | None], entitlement: Entitlement) -> str:
    """What begins at an instant: one grant or more, with their units where all of them have some."""
    units = [amount for amount in amounts if amount is not None]
    of = f" of {units_words(sum(units), entitlement)}" if len(units) == len(amounts) else ""
    return f"a grant{of} begins" if len(amounts) == 1 else f"{len(amounts)} grants{of} begin"


def rule_words(decision: EntitlementPicture, units: int | None, reason: str | None) -> str:
    """The rule by which a request for so many units (None: for access) is granted, or refused for that `reason`."""
    if reason is None:
        if units is None:
            return "a grant is in force"
        if decision.unlimited:
            return "a grant without a limit is in force"
        if units <= (decision.remaining or 0):
            return "as many units are left of what is in force"
        return "something is in force, and its limit is soft"
    if reason == RequestReason.EXHAUSTED:
        return "fewer units than that are left of what is in force, and its limit is hard"
    return {
        AccessReason.ALLOWED: "",
        AccessReason.IN_DEBT: "units are owed, and the entitlement is blocked until they are paid",
        AccessReason.SUSPENDED: "every active grant is suspended",
        AccessReason.REVOKED: "all that is in force was taken back",
        AccessReason.EXHAUSTED: "nothing is left of what is in force",
        AccessReason.NOT_YET_ACTIVE: "nothing is in force, and a grant is to begin",
        AccessReason.EXPIRED: "nothing is in force, and the last grant has ended",
        AccessReason.NOT_ENTITLED: "nothing is or was in force",
    }[AccessReason(reason)]


def precedence_words(first: GrantTerms, following: GrantTerms) -> str:
    """By which rule of the order of burning a grant burns before the one that stands next."""
    names = (
        "limited before unlimited",
        f"priority {first.priority} before {following.priority}",
        "the sooner end first",
        "what was rolled over first",
        "the earlier start first",
        "by grant id",
    )
    pairs = zip(precedence(first), precedence(following), names, strict=True)
    return next((name for one, other, name in pairs if one != other), names[-1])


def entry_words(
    line: Line,
    entitlement: Entitlement,
    *,
    sets_terms: bool,
    names: Mapping[UUID, str],
    usages: Mapping[UUID, str],
) -> str:
    """A line as a sentence; what a correction takes back is said as such.

    `names` are those of grants by id, `usages` what usage is called by its key (`usage_words`).
    """
    grant = _grant_name(line.grant_id, names)
    if line.kind is Kind.GRANTED and not line.units:
        return f"the terms of {grant} are set" if sets_terms else f"nothing changes of {grant}"
    at, amount, cut = instant_words(line.at), units_words(abs(line.units), entitlement), line.cut_id or ""
    usage = "" if line.usage_key is None else usages.get(line.usage_key, str(line.usage_key))
    receiver = _receiver_name(cut, names) if line.kind is Kind.MOVE else ""
    words = {
        Kind.GRANTED: f"{amount} granted from {at} by {grant}",
        Kind.BURN: f"{amount} used at {at} ({usage}), covered by {grant}",
        Kind.OVERAGE: f"{amount} used at {at} ({usage}), covered by nothing",
        Kind.REVOKE: f"{amount} of {grant} taken back at {at} by {cut}",
        Kind.EXPIRE: f"{amount} of {grant} expired at {at}",
        Kind.REVOKE_EXPIRED: f"{amount} of {grant} that had expired taken back at {at} by {cut}",
        Kind.DEBT: f"{amount} of {grant} that were used ({usage}) taken back at {at} by {cut}, and owed",
        Kind.FORGIVE: f"{amount} of {grant} that were used ({usage}) taken back at {at} by {cut}, and forgiven",
        Kind.PAY_DEBT: f"{amount} owed since {cut} ({usage}) paid at {at} by {grant}",
        Kind.PAY_OVERAGE: f"{amount} of overage ({usage}) paid at {at} by {grant}",
        Kind.MOVE: f"{amount} of {grant} went on at {at} to {receiver}",
        Kind.RECEIVE: f"{amount} received at {at} by {grant}",
        Kind.LEAVE_OVERAGE: f"{amount} of overage ({usage}) left at {at} with the customer, who goes on as another",
        Kind.LEAVE_DEBT: f"{amount} owed ({usage}) left at {at} with the customer, who goes on as another",
        Kind.ARRIVE_OVERAGE: f"{amount} of overage ({usage}) arrived at {at} with one who goes on as this customer",
        Kind.ARRIVE_DEBT: f"{amount} owed ({usage}) arrived at {at} with one who goes on as this customer",
        Kind.HOLD: f"{amount} of {grant} held since {at} ({usage})",
        Kind.RELEASE: f"{amount} of {grant} released at {at} ({usage})",
        Kind.CONFIRM: f"{amount} of {grant} that were held used at {at} ({usage})",
        Kind.REVOKE_HELD: f"{amount} of {grant} that were held ({usage}) taken back at {at} by {cut}",
    }[line.kind]
    return words if line.units > 0 else f"corrected, no longer so: {words}"


def usage_words(event_id: str, outcome: str) -> str:
    """What a usage is called: its event id, and why it counts otherwise where it was told too late."""
    match outcome:
        case Outcome.COUNTED_LATE:
            return f"{event_id}, told late and counted then"
        case Outcome.OVERAGE_LATE:
            return f"{event_id}, told too late to be covered"
        case _:
            return event_id


def seats_words(fact: SeatFact) -> str:
    """Who has a seat by what was decided, or has none any more."""
    match fact:
        case SeatAssigned():
            return f"{fact.holder} has a seat of {fact.entitlement}"
        case SeatUnassigned():
            return f"{fact.holder} gave a seat of {fact.entitlement} back"
        case SeatSwapped():
            return f"{fact.to} has the seat of {fact.entitlement} that {fact.holder} had"
        case SeatsRevoked():
            others = len(fact.holders) - _HOLDERS_NAMED_MAX
            more = f" and {others} others" if others > 0 else ""
            named = ", ".join(fact.holders[:_HOLDERS_NAMED_MAX])
            return f"fewer seats of {fact.entitlement} are there, and none any more for {named}{more}"


_HOLDERS_NAMED_MAX = 5


def units_words(units: int, entitlement: Entitlement) -> str:
    """So many units of an entitlement, by the name it has for them."""
    unit = entitlement.unit or ("seat" if entitlement.type is EntitlementType.SEATS else None)
    if not entitlement.type.has_units or unit is None:
        return str(units)
    return f"{units:,} {unit}{'' if units == 1 else 's'}"


def instant_words(instant: datetime) -> str:
    """An instant to the second."""
    return f"{instant:%Y-%m-%d %H:%M:%S}Z"


def _suspension_words(terms: GrantTerms, as_of: datetime) -> str:
    return _all_of(
        f"{cause_words(one.cause)} since {instant_words(one.starts_at)}"
        + ("" if one.ends_at is None else f" until {instant_words(one.ends_at)}")
        for one in terms.suspensions
        if is_open(one, as_of)
    )


def _all_of(parts: Iterable[str]) -> str:
    return " and ".join(parts)


def _receiver_name(cut_id: str, names: Mapping[UUID, str]) -> str:
    """The grant that a line of moved units goes to: `to/ID`."""
    return _grant_name(UUID(cut_id.removeprefix("to/")), names)


def _grant_name(grant_id: UUID | None, names: Mapping[UUID, str]) -> str:
    return "nothing" if grant_id is None else names.get(grant_id, f"grant {grant_id}")
