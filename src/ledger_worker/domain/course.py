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
    Cut,
    CutPolicy,
    DayState,
    Debt,
    Grant,
    GrantTerms,
    Kind,
    Line,
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
    LEAVE,
    NOWHERE,
    PAY,
    SUSPEND,
    Place,
    all_of,
    is_suspended,
    place_of_usage,
    places_of,
    suspension_places,
)
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


_Happening = BookedGrant | UsageFact | Parcel | None
"""What happens in a run; None is the leaving of a customer who goes on as another."""


class Course:
    """One customer's account of one entitlement on its way through time.

    It stands at `place`: everything up to there has happened. `posting` is the number of the posting that the next step
    will be in, `leaves_at` when the customer went on as another. `touched` are the grants that changed, `new_states`
    the day states that were kept on the way.
    """

    def __init__(self, entitlement: Entitlement, account: Account, grants: Iterable[Grant] = ()) -> None:
        self.entitlement = entitlement
        self.customer_id = ""
        self.leaves_at: datetime | None = None
        self.posting = 0
        self.touched: set[UUID] = set()
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

    def _ahead(self) -> list[tuple[Place, BookedGrant]]:
        """What the terms of the open grants will make happen after the book's position."""
        return [
            (place, grant)
            for grant in self.grants.values()
            if grant.phase is not Phase.VOID
            for place in places_of(grant.terms)
            if self.place is None or place > self.place
        ]

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
        self._used_at = {fact.usage_key: fact.at for fact in usage} if self.leaves_at is not None or arriving else {}
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
            elif isinstance(what, BookedGrant):
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
        return grant.phase is Phase.ACTIVE or any(each > place for each in places_of(grant.terms))

    def stand(self, grants: Iterable[BookedGrant], standings: Mapping[UUID, Standing]) -> None:
        """These grants stand as they did then, by their terms of now."""
        for grant in grants:
            phase = standings[grant.terms.grant_id].phase
            is_void = grant.phase is Phase.VOID
            self._put(grant.terms, Phase.VOID if is_void else phase, grant.set_by, standings[grant.terms.grant_id])
        self.active.sort(key=burning_order)

    # -- what happens --

    def _happen(self, place: Place, grant: BookedGrant) -> list[Line]:
        """What the terms of `grant` make happen at `place`."""
        at, rank = place[0], place[1][0]
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
        return []

    def _end(self, grant: BookedGrant, at: datetime) -> list[Line]:
        """What is available goes on in a child, as far as there is one and room in it, and else expires."""
        grant.phase = Phase.ENDED
        self.active = [other for other in self.active if other is not grant]
        self.touched.add(grant.terms.grant_id)
        if not grant.is_empty_child:
            self.last_end = at
            self.overage_since.begin(at, self._starts(), self.last_end)
        lines: list[Line] = []
        if grant.available and grant.terms.rolls_into is not None:
            lines += self._go_on(grant, at)
        if grant.available and grant.returned:
            lines += self._grant_again(grant, at)
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
        if child is None:
            raise HistoryNeeded(self.entitlement.key, self.customer_id)
        siblings = sum(other.granted for other in self.grants.values() if are_siblings(other.terms, child.terms))
        units = min(grant.available, terms.rollover_max - siblings)
        return self._hand_on(grant, child, units, at) if units > 0 else []

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
        if cut.policy in {CutPolicy.SHRINK, CutPolicy.OPENING}:
            grant.short += left
        if cut.policy is not CutPolicy.FULL_WITH_DEBT:
            return lines
        for one in lineage:
            taken = min(left, one.expired)
            if taken:
                lines.append(self._move(Kind.REVOKE_EXPIRED, cut.at, one, taken, None, cut.cut_id))
                left -= taken
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
            left = self._left_of(usage, returning)
        if not left:
            return lines
        for grant in self.active if usage.burns else ():
            units = left if grant.terms.amount is None else min(left, grant.available)
            if units and not is_suspended(grant.terms, usage.at):
                lines.append(self._move(Kind.BURN, usage.at, grant, units, usage.usage_key))
                self._covers(grant, usage.usage_key, units)
                left -= units
                if not left:
                    return lines
        lines.append(self._move(Kind.OVERAGE, usage.at, None, left, usage.usage_key))
        owed = Debt(usage.at, usage.usage_key, None, left, place_of_usage(usage)[1])
        if self._is_run:
            self._overage_of[usage.usage_key] = owed
        if self.overage_since.all:
            self.overage_since.count(left)
        else:
            starts = [grant.terms.effective_at for grant in self.active if not grant.is_empty_child]
            started_at = max(starts if self.last_end is None else [*starts, self.last_end], default=usage.at)
            self.overage_since.all.append((started_at, left))
        if self.entitlement.overage is OveragePolicy.CARRY:
            self.owed.append(owed)
        return lines

    def _left_of(self, usage: UsageFact, reversals: Sequence[Reversal]) -> int:
        """What reversals leave of a usage; the grants that would have covered the rest remember what came back.

        The reversed units would have burnt last, and of those the overage is the first to go back.
        """
        left = usage.units
        reversed_of = []
        for reversal in reversals:
            units = left if reversal.units is None else min(left, reversal.units)
            left -= units
            reversed_of.append((reversal, units))
        # From the first unit to the last: which grant would cover how many.
        covering: list[tuple[BookedGrant, int]] = []
        to_cover = usage.units
        for grant in self.active if usage.burns else ():
            units = to_cover if grant.terms.amount is None else min(to_cover, grant.available)
            if units and not is_suspended(grant.terms, usage.at):
                covering.append((grant, units))
                to_cover -= units
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
