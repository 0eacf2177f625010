"""The course of an account through time: what happens to one customer's account of one entitlement, and what it moves.

Happenings go in the order of their places. Each moves units by lines, and the sum of its lines is what the course
counts. `run_all` lets everything happen, from nothing or from the state of a day; a `settlement.Book` is a course that
also goes on by single steps.

Usage that was reversed burns only what is left of it. The reversed units would have burnt last, so the grants that
would have covered them are known; where they have ended and their offer says so, a run makes a child of what came back
and was not needed. Such a child is the one kind of grant that no source names.

When a customer goes on as another, its overage and debt leave at that instant, with their part of `usage`, and arrive
in the other's book as what they are. Both sides are lines; what they carry beside their units is in `Parcel`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from heapq import heapify, heappop, heappush
from uuid import UUID

import msgspec

from ledger_worker.domain.booked import (
    BookedGrant,
    are_siblings,
    burning_order,
    last_burn,
    lineage_order,
    receives,
    standing_of,
)
from ledger_worker.domain.catalogue import DebtPolicy, Entitlement, OveragePolicy
from ledger_worker.domain.ledger import (
    EFFECTS,
    Account,
    Claim,
    Cut,
    CutPolicy,
    DayState,
    Debt,
    Grant,
    GrantTerms,
    Hold,
    Kind,
    Line,
    OpenHold,
    Origin,
    Phase,
    Reversal,
    Standing,
    UsageFact,
    precedence,
)
from ledger_worker.domain.overage import Stretches
from ledger_worker.domain.parcels import Parcel
from ledger_worker.domain.places import (
    BEGIN,
    CUT,
    END,
    HOLD_END,
    LEAVE,
    NOWHERE,
    PAY,
    SUSPEND,
    Place,
    all_of,
    is_suspended,
    place_of_hold,
    place_of_hold_end,
    place_of_usage,
    places_of,
    suspension_places,
    warnings_of,
)
from ledger_worker.domain.recurring import next_of
from ledger_worker.domain.reversals import by_usage, order_of
from ledger_worker.domain.stretches import child_id

__all__ = [
    "STATE_USAGE_MAX",
    "STATE_USAGE_MIN",
    "Course",
    "HistoryNeeded",
    "Stops",
]

STATE_USAGE_MIN = 50
"""A day state is kept at the end of a day on which, with those before it, at least so many usages were booked."""
STATE_USAGE_MAX = 2_000
"""It is kept without waiting for the end of the day once so many usages were booked since the last one."""


class HistoryNeeded(Exception):
    """The step reaches behind what is loaded: the account's history is needed.

    From a day state before the instant `before` on; all of it where that is None, or no such state is stored.
    """

    def __init__(self, entitlement: str, customer_id: str, before: datetime | None = None) -> None:
        super().__init__(customer_id, entitlement, before)
        self.entitlement = entitlement
        self.customer_id = customer_id
        self.before = before


class Stops(msgspec.Struct):
    """Instants, rising, at which a run is looked at: when everything up to and including them has happened."""

    instants: list[datetime]
    look: Callable[[datetime], None]


_Happening = BookedGrant | UsageFact | Hold | Parcel | None
"""What happens in a run; None is the leaving of a customer who goes on as another."""


class Course:
    """One customer's account of one entitlement on its way through time.

    It stands at `place`: everything up to there has happened. `posting` is the number of the posting that the next step
    will be in, `leaves_at` when the customer went on as another. `touched` are the grants that changed, `made` the
    terms of those that settling made, `new_states` the day states that were kept on the way.
    """

    def __init__(self, entitlement: Entitlement, account: Account, grants: Iterable[Grant] = ()) -> None:
        self.entitlement = entitlement
        self._lead_times = entitlement.lead_times if entitlement.expiring_soon else ()
        self.customer_id = ""
        self.leaves_at: datetime | None = None
        self.posting = 0
        self.touched: set[UUID] = set()
        self.made: dict[UUID, GrantTerms] = {}
        self.new_states: list[DayState] = []
        self._knows_all_grants = False
        self._is_run = False
        self._run_posting = 0
        self._stops: Stops | None = None
        self._burnt = 0
        self._coming: list[tuple[Place, int, _Happening]] = []
        self._reversed: dict[UUID, list[Reversal]] = {}
        self._overage_of: dict[UUID, Debt] = {}
        self._used_at: dict[UUID, datetime] = {}
        self._is_ahead_known: bool
        self.place: Place | None
        self.warned: Place | None
        self.waiting: tuple[UUID, ...]
        self._restore(account, grants)

    @property
    def account(self) -> Account:
        """The account as a value to be stored."""
        return Account(
            entitlement=self.entitlement.key,
            usage=self.usage,
            used_total=self.used_total,
            overage=self.overage,
            debt=self.debt,
            forgiven=self.forgiven,
            settled_at=self.place[0] if self.place else None,
            settled_tie=self.place[1] if self.place else "",
            owed=tuple(self.owed),
            overage_since=self.overage_since.kept(),
            last_end=self.last_end,
            level=self.level,
            next_transition_at=self.next_transition_at,
            waiting=self.waiting,
            holds=tuple(self.holds.values()),
            claims=tuple(self.claims),
            released_at=self.released_at,
            warned_at=None if self.warned is None else self.warned[0],
            warned_tie="" if self.warned is None else self.warned[1],
            holders=self.holders,
            stated_until=self.stated_until,
            since_state=self.since_state,
        )

    @property
    def next_transition_at(self) -> datetime | None:
        """The first instant after the book's position at which something happens by itself.

        Looked for when it is asked for: a hundred transitions passed in a row need it once.
        """
        if not self._is_ahead_known:
            self._next_transition_at = min((place[0] for place, _ in self._ahead()), default=None)
            self._is_ahead_known = True
        return self._next_transition_at

    def _ahead(self) -> list[tuple[Place, BookedGrant | Hold]]:
        """What the terms of the open grants, and the ends of open holds, will make happen after the book's position."""
        ends = [(place_of_hold_end(each.hold), each.hold) for each in self.holds.values()]
        return [
            *ends,
            *self._ahead_of_grants(),
        ]

    def _ahead_of_grants(self) -> list[tuple[Place, BookedGrant]]:
        return [
            (place, grant)
            for grant in self.grants.values()
            if grant.phase is not Phase.VOID
            for place in self._places_ahead(grant)
        ]

    def _places_ahead(self, grant: BookedGrant) -> list[Place]:
        """Where the terms of one grant will make something happen, or give something to tell before it ends.

        What is told of an end to come moves nothing: the book stands where it stood, and has `warned` up to there.
        """
        happening = [place for place in places_of(grant.terms) if self.place is None or place > self.place]
        if not self._lead_times or grant.phase not in {Phase.PENDING, Phase.ACTIVE}:
            return happening
        warnings = warnings_of(grant.terms, self._lead_times)
        return happening + [place for place in warnings if self.warned is None or place > self.warned]

    def open_causes(self, grant: BookedGrant) -> list[str]:
        """What suspends the grant where the book stands: begun by then and not lifted."""
        if not grant.terms.suspensions or self.place is None:
            return []
        found = []
        for suspension in grant.terms.suspensions:
            places = suspension_places(grant.terms, suspension)
            if places[0] <= self.place and (len(places) == 1 or places[1] > self.place):
                found.append(suspension.cause)
        return found

    def _restore(self, account: Account, grants: Iterable[Grant]) -> None:
        self.usage = account.usage
        self.used_total = account.used_total
        self.overage = account.overage
        self.debt = account.debt
        self.forgiven = account.forgiven
        self.place = None if account.settled_at is None else (account.settled_at, account.settled_tie)
        self.owed = list(account.owed)
        self.overage_since = Stretches(account.overage_since)
        self.last_end = account.last_end
        self.level = account.level
        self.waiting = account.waiting
        self.holds = {each.hold.hold_key: each for each in account.holds}
        self.claims = list(account.claims)
        self.released_at = account.released_at
        self.warned = None if account.warned_at is None else (account.warned_at, account.warned_tie)
        self.holders = account.holders
        self.stated_until = account.stated_until
        self.since_state = account.since_state
        self._next_transition_at = account.next_transition_at
        self._is_ahead_known = True
        self.grants: dict[UUID, BookedGrant] = {}
        self.active: list[BookedGrant] = []
        for grant in grants:
            self._put(grant.terms, grant.phase, grant.set_by, grant)
        if len(self.active) > 1:
            self.active.sort(key=burning_order)

    def _put(self, terms: GrantTerms, phase: Phase, set_by: int, counted: Grant | Standing) -> None:
        """The grant is in the book, as it was counted."""
        booked = BookedGrant(
            terms,
            phase,
            set_by,
            counted.granted,
            counted.available,
            counted.held,
            counted.used,
            counted.expired,
            counted.revoked,
            counted.moved,
            counted.short,
        )
        if not booked.used:
            booked.burns = []
        self.grants[terms.grant_id] = booked
        if phase is Phase.ACTIVE:
            booked.order = precedence(terms)
            self.active.append(booked)

    # -- runs --

    def run_all(
        self,
        usage: Sequence[UsageFact],
        reversals: Sequence[Reversal],
        until: Place,
        holds: Sequence[Hold] = (),
        arriving: Sequence[Parcel] = (),
        since: DayState | None = None,
        stops: Stops | None = None,
    ) -> list[Line]:
        """Everything up to `until` has happened, on a book that is empty or stands as at `since`. Returns its lines."""
        lines: list[Line] = []
        self._is_run = self._knows_all_grants = True
        self._stops = stops
        self._run_posting = 0 if since is None else since.posting
        self.since_state = 0
        self._reversed = by_usage(reversals)
        self._coming = [(place_of_usage(fact), 0, fact) for fact in usage if fact.units]
        self._coming += [(parcel.place, 0, parcel) for parcel in arriving]
        for hold in holds:
            if since is None or hold.at > since.at:
                self._coming.append((place_of_hold(hold), 0, hold))
            if since is None or hold.ends_at > since.at:
                self._coming.append((place_of_hold_end(hold), 0, hold))
        if self.leaves_at is not None or arriving:
            self._used_at = {fact.usage_key: fact.at for fact in usage}
            self._used_at |= {hold.hold_key: hold.ends_at for hold in holds}
        if self.leaves_at is not None:
            self._coming.append(((self.leaves_at, LEAVE), 0, None))
        for grant in self.grants.values():
            if grant.phase is Phase.VOID:
                continue
            if since is None or grant.terms.effective_at > since.at:
                lines += self._grant_units(grant, grant.terms, grant.terms.amount or 0)
            places = places_of(grant.terms)
            self._coming += [(place, 0, grant) for place in places if since is None or place[0] > since.at]
        # Numbered, so that the heap never compares what happens.
        self._coming = [(place, number, what) for number, (place, _, what) in enumerate(self._coming)]
        heapify(self._coming)
        while self._coming:
            place, _, what = heappop(self._coming)
            if place <= until:
                self._pass_day(place)
                self._pass_stops(place)
            if isinstance(what, UsageFact):
                self.since_state += 1
                lines += self._burn(what)
            elif place > until:
                continue
            elif isinstance(what, BookedGrant | Hold):
                lines += self._happen(place, what)
            else:
                lines += self._leave(place[0]) if what is None else self._arrive(what)
            self.place = place if self.place is None else max(self.place, place)
        self._pass_stops(None)
        # Where a grant ends decides what becomes of units that were given back before: such an end reaches back.
        told = [all_of(reversal.at) for reversal in reversals if reversal.at <= until[0]]
        self.place = max(told if self.place is None else (self.place, *told), default=None)
        return lines

    def _pass_stops(self, place: Place | None) -> None:
        """What happens next is at `place` (None: nothing more): whoever asked for a stop before it has a look."""
        stops = self._stops
        while stops is not None and stops.instants and (place is None or place[0] > stops.instants[0]):
            stops.look(stops.instants.pop(0))

    def _pass_day(self, place: Place) -> None:
        """What happens next is at `place`: the state before it is kept where a day has ended, or much has happened."""
        if self.since_state < STATE_USAGE_MIN or self.place is None or place[0] <= self.place[0]:
            return
        if place[0].date() > self.place[0].date() or self.since_state >= STATE_USAGE_MAX:
            self.new_states.append(self.state())
            self.stated_until = self.place[0]
            self.since_state = 0

    def state(self) -> DayState:
        """How the book stands. Only between two instants: all that happens at its position's must have happened."""
        place = self.place or NOWHERE
        return DayState(
            at=place[0],
            posting=self._run_posting if self._is_run else self.posting - 1,
            account=Account(
                entitlement=self.entitlement.key,
                usage=self.usage,
                used_total=self.used_total,
                overage=self.overage,
                debt=self.debt,
                forgiven=self.forgiven,
                settled_at=place[0],
                settled_tie=place[1],
                owed=tuple(self.owed),
                overage_since=self.overage_since.kept(),
                last_end=self.last_end,
                holds=tuple(self.holds.values()),
                claims=tuple(self.claims),
                released_at=self.released_at,
            ),
            grants=tuple(
                standing_of(grant)
                for _, grant in sorted(self.grants.items(), key=_grant_key)
                if self._is_in_state(grant, place)
            ),
        )

    def _is_in_state(self, grant: BookedGrant, place: Place) -> bool:
        """Whether a grant is not over, and has begun or received units, or something is yet to happen to it."""
        if grant.phase is Phase.VOID:
            return False
        if grant.phase is Phase.PENDING:
            return receives(grant.terms) and grant.granted > 0
        is_needed = grant.phase is Phase.ACTIVE or self.is_reached_back_to(grant)
        return is_needed or any(each > place for each in places_of(grant.terms))

    def is_reached_back_to(self, grant: BookedGrant) -> bool:
        """Whether units of the grant are held, or a cut of it may yet take held units of its children."""
        return grant.held > 0 or any(claim.grant_id == grant.terms.grant_id for claim in self.claims)

    def stand(self, grants: Iterable[BookedGrant], standings: Mapping[UUID, Standing]) -> None:
        """These grants stand as they did then, by their terms of now."""
        for grant in grants:
            phase = standings[grant.terms.grant_id].phase
            is_void = grant.phase is Phase.VOID
            self._put(grant.terms, Phase.VOID if is_void else phase, grant.set_by, standings[grant.terms.grant_id])
        self.active.sort(key=burning_order)

    # -- what happens --

    def _happen(self, place: Place, grant: BookedGrant | Hold) -> list[Line]:
        """What the terms of a grant, or a hold, make happen at `place`."""
        at, rank = place[0], place[1][0]
        if isinstance(grant, Hold):
            return self._end_hold(grant) if rank == HOLD_END else self._hold(grant)
        if rank == BEGIN:
            return self._begin(grant, at)
        if rank == END:
            return self._end(grant, at)
        if rank == PAY:
            return self._pay(grant, at)
        if rank == SUSPEND:
            self.touched.add(grant.terms.grant_id)
            return []
        cut_id = place[1].partition("/")[2]
        return self._cut(grant, next(cut for cut in grant.terms.cuts if cut.cut_id == cut_id and cut.at == at))

    def _begin(self, grant: BookedGrant, at: datetime) -> list[Line]:
        grant.phase = Phase.ACTIVE
        grant.order = precedence(grant.terms)
        self.active.append(grant)
        self.active.sort(key=burning_order)
        self.touched.add(grant.terms.grant_id)
        if not grant.is_empty_child:
            self.overage_since.begin(at, self._starts(), self.last_end)
        return [] if grant.terms.recurs is None else self._make_next(grant)

    def _make_next(self, grant: BookedGrant) -> list[Line]:
        """The occurrence after one that begins is there, with its units, unless it was before."""
        terms = next_of(grant.terms)
        known = None if terms is None else self.grants.get(terms.grant_id)
        if terms is None or (known is not None and known.phase is not Phase.VOID):
            return []
        made = BookedGrant(terms, Phase.PENDING, self.posting, burns=[])
        self.grants[terms.grant_id] = made
        self.made[terms.grant_id] = terms
        self.touched.add(terms.grant_id)
        if self._is_run:
            for place in places_of(terms):
                heappush(self._coming, (place, -len(self.grants), made))
        return self._grant_units(made, terms, terms.amount or 0)

    def _end(self, grant: BookedGrant, at: datetime) -> list[Line]:
        """What is available goes on in a child, as far as there is one and room in it, and else expires."""
        grant.phase = Phase.ENDED
        self.active = [other for other in self.active if other is not grant]
        self.touched.add(grant.terms.grant_id)
        if not grant.is_empty_child:
            self.last_end = at
            self.overage_since.begin(at, self._starts(), self.last_end)
        again = self._grant_again if grant.returned else None
        return self._over(grant, at, again)

    def _over(
        self, grant: BookedGrant, at: datetime, again: Callable[[BookedGrant, datetime], list[Line]] | None = None
    ) -> list[Line]:
        """What is available of a grant that has ended goes where its remainder went."""
        lines: list[Line] = []
        if grant.available and grant.terms.rolls_into is not None:
            lines += self._go_on(grant, at)
        if grant.available and again is not None:
            lines += again(grant, at)
        if grant.available:
            lines.append(self._move(Kind.EXPIRE, at, grant, grant.available))
        return lines

    def _go_on(self, grant: BookedGrant, at: datetime) -> list[Line]:
        """Roll-over into a child of this book, or a transfer to a child in another customer's."""
        terms = grant.terms
        if terms.rolls_into is None:
            return []
        if terms.rollover_max is None:
            return [self._move(Kind.MOVE, at, grant, grant.available, None, f"to/{terms.rolls_into}")]
        child = self.grants.get(terms.rolls_into)
        if child is None or (child.phase in {Phase.ENDED, Phase.ENDING} and not self._knows_all_grants):
            # Its siblings may be over, and count for the cap.
            raise HistoryNeeded(self.entitlement.key, self.customer_id)
        siblings = sum(other.granted for other in self.grants.values() if are_siblings(other.terms, child.terms))
        units = min(grant.available, terms.rollover_max - siblings)
        if units <= 0:
            return []
        lines = self._hand_on(grant, child, units, at)
        return lines + self._come_back(child, at)

    def _hand_on(self, grant: BookedGrant, child: BookedGrant, units: int, at: datetime) -> list[Line]:
        return [
            self._move(Kind.MOVE, at, grant, units, None, f"to/{child.terms.grant_id}"),
            self._move(Kind.RECEIVE, at, child, units),
        ]

    def _grant_again(self, grant: BookedGrant, at: datetime) -> list[Line]:
        """Units that came back by reversals told at or after the end are granted once more from there."""
        lines: list[Line] = []
        terms = grant.terms
        for reversal, returned in sorted(grant.returned or (), key=_by_reversal):
            units = min(returned, grant.available)
            if not units or reversal.at < at:
                continue
            child_terms = msgspec.structs.replace(
                terms,
                grant_id=child_id(terms.grant_id, Origin.REGRANT, reversal.reversal_id),
                amount=0,
                effective_at=reversal.at,
                expires_at=reversal.at + (at - terms.effective_at),
                period_end=None,
                cuts=(),
                suspensions=(),
                parent=terms.grant_id,
                origin=Origin.REGRANT,
                root_at=terms.root_at or terms.effective_at,
                rolls_into=None,
                rollover_max=None,
                recurs=None,
            )
            child = self.grants.get(child_terms.grant_id)
            if child is None:
                child = self.grants[child_terms.grant_id] = BookedGrant(
                    child_terms, Phase.PENDING, self.posting, burns=[]
                )
                for place in places_of(child_terms):
                    heappush(self._coming, (place, -len(self.grants), child))
            lines += self._hand_on(grant, child, units, at)
        return lines

    def _pay(self, grant: BookedGrant, at: datetime) -> list[Line]:
        """What is owed is paid by the grant that begins, the oldest first; by a child as by its root."""
        lines: list[Line] = []
        root_at = grant.terms.root_at
        left: list[Debt] = []
        for owed in self.owed:
            units = owed.units if grant.terms.amount is None else min(owed.units, grant.available)
            if not units or (root_at is not None and not owed.is_before(root_at)):
                left.append(owed)
                continue
            kind = Kind.PAY_OVERAGE if owed.cut_id is None else Kind.PAY_DEBT
            lines.append(self._move(kind, at, grant, units, owed.usage_key, owed.cut_id))
            self._covers(grant, owed.usage_key, units)
            rest = msgspec.structs.replace(owed, units=owed.units - units)
            if owed.cut_id is None:
                self.overage_since.shrink(self._used_at.get(owed.usage_key, owed.at), units)
                self._overage_of[owed.usage_key] = rest
            if rest.units:
                left.append(rest)
        self.owed = left
        return lines

    def _covers(self, grant: BookedGrant, usage_key: UUID, units: int) -> None:
        if grant.burns is not None:
            self._burnt += 1
            grant.burns.append((self._burnt, usage_key, units))

    def _cut(self, grant: BookedGrant, cut: Cut) -> list[Line]:
        """A cut takes what is available of the grant and then of its children.

        By `full_with_debt` then what expired of them, then what was used, the latest first. What a plan's cut cannot
        take is over-allocation.
        """
        self.touched.add(grant.terms.grant_id)
        left = self._asked(grant, cut)
        lineage = self._lineage(grant)
        lines: list[Line] = []
        for one in lineage:
            taken = min(left, one.available)
            if taken:
                lines.append(self._move(Kind.REVOKE, cut.at, one, taken, None, cut.cut_id))
                left -= taken
        is_short = cut.policy in {CutPolicy.SHRINK, CutPolicy.OPENING}
        if is_short:
            grant.short += left
        if cut.policy is not CutPolicy.FULL_WITH_DEBT:
            if left and any(one.held for one in lineage):
                self.claims.append(Claim(grant.terms.grant_id, cut.cut_id, left, is_short))
            return lines
        for one in lineage:
            taken = min(left, one.expired)
            if taken:
                lines.append(self._move(Kind.REVOKE_EXPIRED, cut.at, one, taken, None, cut.cut_id))
                left -= taken
        if left and any(one.held for one in lineage):
            from_holds = self._take_held(lineage, cut, left)
            lines += from_holds
            left -= sum(line.units for line in from_holds)
        if left and any(one.used for one in lineage):
            lines += self._uncover(lineage, cut, left)
        return lines

    def _asked(self, grant: BookedGrant, cut: Cut) -> int:
        """How many units a cut asks for: its own, what the grants it names have used, or what is beyond what moved."""
        if cut.policy is CutPolicy.OPENING:
            named = [self.grants.get(grant_id) for grant_id in cut.of]
            if None in named:
                raise HistoryNeeded(self.entitlement.key, self.customer_id)
            return sum(one.used for one in named if one is not None)
        if cut.beyond is not None:
            return max(0, cut.beyond + cut.units - grant.moved) - max(0, cut.beyond - grant.moved)
        return cut.units

    def _lineage(self, grant: BookedGrant) -> list[BookedGrant]:
        """The grant and what became of its units in this book: children by generation, start and id."""
        if not grant.moved:
            return [grant]
        children: dict[UUID | None, list[BookedGrant]] = defaultdict(list)
        for other in self.grants.values():
            if other.terms.parent is not None and other.phase is not Phase.VOID:
                children[other.terms.parent].append(other)
        found = [grant]
        for one in found:
            found += children[one.terms.grant_id]
        gone_on = sum(one.moved for one in found if one.terms.moves_to is None)
        if not self._knows_all_grants and gone_on != sum(one.granted for one in found[1:]):
            raise HistoryNeeded(self.entitlement.key, self.customer_id)
        return [grant, *sorted(found[1:], key=lineage_order)]

    def _uncover(self, lineage: Sequence[BookedGrant], cut: Cut, left: int) -> list[Line]:
        if any(one.burns is None for one in lineage):
            raise HistoryNeeded(self.entitlement.key, self.customer_id)
        kind = Kind.FORGIVE if self.entitlement.debt is DebtPolicy.FORGIVE else Kind.DEBT
        taken_of: dict[tuple[UUID, UUID], int] = defaultdict(int)
        by_id = {one.terms.grant_id: one for one in lineage}
        while left:
            last = max((one for one in lineage if one.burns), key=last_burn, default=None)
            if last is None or last.burns is None:
                break
            number, usage_key, units = last.burns.pop()
            taken = min(left, units)
            left -= taken
            taken_of[last.terms.grant_id, usage_key] += taken
            if taken < units:
                last.burns.append((number, usage_key, units - taken))
        lines = []
        owed_of: dict[UUID, int] = defaultdict(int)
        for (grant_id, usage_key), units in taken_of.items():
            lines.append(self._move(kind, cut.at, by_id[grant_id], units, usage_key, cut.cut_id))
            owed_of[usage_key] += units
        if kind is Kind.DEBT:
            debts = [
                Debt(cut.at, usage_key, cut.cut_id, units, f"{CUT}{lineage[0].terms.grant_id.hex}{place:04}")
                for place, (usage_key, units) in enumerate(owed_of.items())
            ]
            if self.leaves_at is not None and cut.at >= self.leaves_at:
                lines += [self._send(debt, cut.at) for debt in debts]
            else:
                self.owed += debts
        return lines

    def _leave(self, at: datetime) -> list[Line]:
        """Overage and debt go on to whom the customer goes on as."""
        owed = [debt for debt in self.owed if debt.cut_id is not None]
        over = [debt for debt in self._overage_of.values() if debt.units]
        self.owed = []
        self._overage_of = {}
        self.overage_since.forget()
        return [self._send(debt, at) for debt in (*over, *owed)]

    def _send(self, debt: Debt, at: datetime) -> Line:
        parcel = Parcel(at, self._used_at.get(debt.usage_key, debt.at), debt)
        kind = Kind.LEAVE_OVERAGE if debt.cut_id is None else Kind.LEAVE_DEBT
        return self._move(kind, at, None, debt.units, debt.usage_key, parcel.label)

    def _arrive(self, parcel: Parcel) -> list[Line]:
        """Overage or debt of a customer who went on as this one is this one's, owed since its own instant."""
        debt = parcel.debt
        self._used_at[debt.usage_key] = parcel.used_at
        is_overage = debt.cut_id is None
        kind = Kind.ARRIVE_OVERAGE if is_overage else Kind.ARRIVE_DEBT
        if is_overage:
            self._overage_of[debt.usage_key] = debt
            self.overage_since.add(parcel.used_at, debt.units, self._starts(), self.last_end)
        if not is_overage or self.entitlement.overage is OveragePolicy.CARRY:
            self.owed = sorted((*self.owed, debt), key=Debt.order)
        return [self._move(kind, parcel.at, None, debt.units, debt.usage_key, parcel.label)]

    def _burn(self, usage: UsageFact) -> list[Line]:
        """Usage burns the grants that are active and not suspended in their order; what none covers is overage.

        So is all of what does not burn.
        """
        lines: list[Line] = []
        left = usage.units
        returning = self._reversed.get(usage.usage_key)
        if returning:
            covering = self._covering(left, usage.at) if usage.burns else []
            left = self._left_of(left, covering, returning)
        if not left:
            return lines
        for grant, units in self._covering(left, usage.at) if usage.burns else ():
            lines.append(self._move(Kind.BURN, usage.at, grant, units, usage.usage_key))
            self._covers(grant, usage.usage_key, units)
            left -= units
        if left:
            lines.append(self._over_use(usage.usage_key, place_of_usage(usage), left))
        return lines

    def _covering(self, units: int, at: datetime) -> list[tuple[BookedGrant, int]]:
        """Which of the active grants that are not suspended have how many of these units for use at `at`, in order."""
        found = []
        for grant in self.active:
            has = units if grant.terms.amount is None else min(units, grant.available)
            if has and not is_suspended(grant.terms, at):
                found.append((grant, has))
                units -= has
                if not units:
                    break
        return found

    def _over_use(self, usage_key: UUID, place: Place, units: int) -> Line:
        """Usage of so many units that no grant covers happens at `place`."""
        at, tie = place
        owed = Debt(at, usage_key, None, units, tie)
        if self._is_run:
            self._overage_of[usage_key] = owed
        if self.overage_since.all:
            self.overage_since.count(units)
        else:
            starts = [grant.terms.effective_at for grant in self.active if not grant.is_empty_child]
            started_at = max(starts if self.last_end is None else [*starts, self.last_end], default=at)
            self.overage_since.all.append((started_at, units))
        if self.entitlement.overage is OveragePolicy.CARRY:
            self.owed.append(owed)
        return self._move(Kind.OVERAGE, at, None, units, usage_key)

    # -- holds --

    def _hold(self, hold: Hold) -> list[Line]:
        """Units are reserved in the grants that usage would burn now; of what none of them has nothing is reserved."""
        self.since_state += 1
        parts = []
        lines = []
        for grant, units in self._covering(hold.units, hold.at):
            lines.append(self._move(Kind.HOLD, hold.at, grant, units, hold.hold_key))
            parts.append((grant.terms.grant_id, units))
        open_hold = msgspec.structs.replace(hold, ended_at=None, confirmed=0)
        self.holds[hold.hold_key] = OpenHold(open_hold, tuple(parts))
        return lines

    def _end_hold(self, hold: Hold) -> list[Line]:
        """What is confirmed is used, of the reserved units first, and else overage; the rest comes back."""
        self.since_state += 1
        parts = self.holds.pop(hold.hold_key).parts
        place = place_of_hold_end(hold)
        at = place[0]
        left = hold.confirmed
        reserved = []
        for grant_id, units in parts:
            grant = self.grants.get(grant_id)
            if grant is None:
                raise HistoryNeeded(self.entitlement.key, self.customer_id)
            reserved.append((grant, units))
        returning = self._reversed.get(hold.hold_key)
        if returning and left:
            left = self._left_of(left, reserved, returning)
        lines = []
        for grant, units in reserved:
            used = min(left, units)
            left -= used
            if used:
                lines.append(self._move(Kind.CONFIRM, at, grant, used, hold.hold_key))
                self._covers(grant, hold.hold_key, used)
            if units > used:
                lines.append(self._move(Kind.RELEASE, at, grant, units - used, hold.hold_key))
        if left:
            lines.append(self._over_use(hold.hold_key, place, left))
        for grant, _ in reserved:
            lines += self._come_back(grant, at)
        self.released_at = at
        self._drop_claims()
        return lines

    def _drop_claims(self) -> None:
        """A claim of whose grant, and of its children, nothing is held any more is over."""
        if not self.claims:
            return
        held: set[UUID] = set()
        for grant in self.grants.values():
            if grant.held:
                held.update(self._ancestors(grant))
        over = [claim for claim in self.claims if claim.grant_id not in held]
        if over:
            self.claims = [claim for claim in self.claims if claim.grant_id in held]
            self.touched.update(claim.grant_id for claim in over)

    def _come_back(self, grant: BookedGrant, at: datetime) -> list[Line]:
        """Units that are available again go to cuts that found them held; those of an ended grant where others went."""
        lines = []
        if self.claims:
            lineage = self._ancestors(grant)
            left: list[Claim] = []
            for claim in self.claims:
                named = lineage.get(claim.grant_id)
                units = 0 if named is None else min(claim.units, grant.available)
                if units and named is not None:
                    lines.append(self._move(Kind.REVOKE, at, grant, units, None, claim.cut_id))
                    named.short -= units if claim.is_short else 0
                    self.touched.add(claim.grant_id)
                if claim.units > units:
                    left.append(msgspec.structs.replace(claim, units=claim.units - units))
            self.claims = left
        if grant.phase in {Phase.ENDED, Phase.ENDING} and grant.available:
            lines += self._over(grant, at)
        return lines

    def _ancestors(self, grant: BookedGrant) -> dict[UUID, BookedGrant]:
        """The grant and what its units came from, in this book."""
        found = {grant.terms.grant_id: grant}
        while grant.terms.parent is not None and grant.terms.origin is not Origin.TRANSFER:
            parent = self.grants.get(grant.terms.parent)
            if parent is None:
                raise HistoryNeeded(self.entitlement.key, self.customer_id)
            grant = found[parent.terms.grant_id] = parent
        return found

    def _take_held(self, lineage: Sequence[BookedGrant], cut: Cut, left: int) -> list[Line]:
        """A cut takes units from under holds, of the latest first."""
        by_id = {one.terms.grant_id: one for one in lineage if one.terms.amount is not None}
        lines = []
        for key, each in reversed(self.holds.items()):
            parts = list(each.parts)
            for place in range(len(parts) - 1, -1, -1):
                grant_id, units = parts[place]
                taken = min(left, units) if grant_id in by_id else 0
                if taken:
                    lines.append(self._move(Kind.REVOKE_HELD, cut.at, by_id[grant_id], taken, key, cut.cut_id))
                    parts[place] = (grant_id, units - taken)
                    left -= taken
            self.holds[key] = OpenHold(each.hold, tuple(part for part in parts if part[1]))
            if not left:
                break
        return lines

    def _left_of(self, left: int, would_cover: Iterable[tuple[BookedGrant, int]], reversals: Sequence[Reversal]) -> int:
        """What reversals leave of a usage; the grants that would have covered the rest remember what came back.

        The reversed units would have burnt last, and of those the overage is the first to go back.
        """
        covering: list[tuple[BookedGrant, int]] = []
        to_cover = left
        for grant, units in would_cover:
            covers = min(to_cover, units)
            if covers:
                covering.append((grant, covers))
                to_cover -= covers
        reversed_of = []
        for reversal in reversals:
            units = left if reversal.units is None else min(left, reversal.units)
            left -= units
            reversed_of.append((reversal, units))
        for reversal, taken_back in reversed_of:
            units = taken_back
            from_overage = min(units, to_cover)
            to_cover -= from_overage
            units -= from_overage
            while units and covering:
                grant, covered = covering.pop()
                returned = min(units, covered)
                units -= returned
                if returned < covered:
                    covering.append((grant, covered - returned))
                if grant.terms.regrants and grant.terms.amount is not None:
                    grant.returned = [*(grant.returned or ()), (reversal, returned)]
        return left

    def _grant_units(self, grant: BookedGrant, terms: GrantTerms, units: int) -> list[Line]:
        if not units:
            return []
        return [self._move(Kind.GRANTED, terms.effective_at, grant, units)]

    def _move(
        self,
        kind: Kind,
        at: datetime,
        grant: BookedGrant | None,
        units: int,
        usage_key: UUID | None = None,
        cut_id: str | None = None,
    ) -> Line:
        """Units move as `EFFECTS` says; a grant without amount only counts what was used of it."""
        effect = EFFECTS[kind]
        self.usage += effect.usage * units
        self.used_total += effect.used_total * units
        self.overage += effect.overage * units
        self.debt += effect.debt * units
        self.forgiven += effect.forgiven * units
        grant_id = None
        if grant is not None:
            grant_id = grant.terms.grant_id
            self.touched.add(grant_id)
            grant.used += effect.used * units
            if grant.terms.amount is not None:
                grant.granted += effect.granted * units
                grant.available += effect.available * units
                grant.held += effect.held * units
                grant.expired += effect.expired * units
                grant.revoked += effect.revoked * units
                grant.moved += effect.moved * units
        return Line(kind, at, grant_id, usage_key, cut_id, units)

    def _starts(self) -> list[datetime]:
        return [grant.terms.effective_at for grant in self.active]


def _grant_key(item: tuple[UUID, BookedGrant]) -> bytes:
    return item[0].bytes


def _by_reversal(returned: tuple[Reversal, int]) -> tuple[datetime, str]:
    return order_of(returned[0])
