"""The state of one customer's account of one entitlement on its way through time.

It counts what `ledger.EFFECTS` says that a line moves, knows the grants and what is yet to come of them, and becomes a
value again: an account to be stored, or the state of a day. What happens, and what it moves, is told elsewhere: each
file of happenings has functions that take such an account one step on.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from heapq import heappush
from uuid import UUID

from ledger_worker.domain.booked import BookedGrant, burning_order, receives, standing_of
from ledger_worker.domain.catalogue import Entitlement
from ledger_worker.domain.history import HistoryNeeded
from ledger_worker.domain.ledger import (
    EFFECTS,
    Account,
    DayState,
    Debt,
    Grant,
    GrantTerms,
    Hold,
    Kind,
    Line,
    Phase,
    Reversal,
    Standing,
    UsageFact,
    precedence,
)
from ledger_worker.domain.overage import Stretches
from ledger_worker.domain.parcels import Parcel
from ledger_worker.domain.places import NOWHERE, Place, place_of_hold_end, places_of, suspension_places, warnings_of

__all__ = ["Counted", "Happening"]

Happening = BookedGrant | UsageFact | Hold | Parcel | None
"""What happens in a run; None is the leaving of a customer who goes on as another."""


class Counted:
    """One customer's account of one entitlement on its way through time.

    It stands at `place`: everything up to there has happened. `posting` is the number of the posting that the next step
    will be in, `leaves_at` when the customer went on as another. `touched` are the grants that changed, `made` the
    terms of those that settling made, `new_states` the day states that were kept on the way.

    In a run (`is_run`) `coming` is a heap of what is yet to happen; `reversals_of` and `overage_of` tell of each usage
    what reverses it and what of it no grant covers by now. `used_at`, when usage happened, is filled where overage or
    debt may come or go.
    """

    def __init__(self, entitlement: Entitlement, account: Account, grants: Iterable[Grant] = ()) -> None:
        self.entitlement = entitlement
        self.lead_times = entitlement.lead_times if entitlement.expiring_soon else ()
        self.customer_id = ""
        self.leaves_at: datetime | None = None
        self.posting = 0
        self.touched: set[UUID] = set()
        self.made: dict[UUID, GrantTerms] = {}
        self.new_states: list[DayState] = []
        self.knows_all_grants = False
        self.is_run = False
        self._run_posting = 0
        self._burnt = 0
        self.coming: list[tuple[Place, int, Happening]] = []
        self.reversals_of: dict[UUID, list[Reversal]] = {}
        self.overage_of: dict[UUID, Debt] = {}
        self.used_at: dict[UUID, datetime] = {}
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
            self._next_transition_at = min((place[0] for place, _ in self.ahead()), default=None)
            self._is_ahead_known = True
        return self._next_transition_at

    def look_ahead_again(self) -> None:
        """The first instant at which something happens by itself is looked for anew, by the lead times of now."""
        self._is_ahead_known = False

    def ahead(self) -> list[tuple[Place, BookedGrant | Hold]]:
        """What the terms of the open grants, and the ends of open holds, will make happen after the book's position."""
        ends = [(place_of_hold_end(each.hold), each.hold) for each in self.holds.values()]
        return [
            *ends,
            *self.ahead_of_grants(),
        ]

    def ahead_of_grants(self) -> list[tuple[Place, BookedGrant]]:
        """What the terms of the open grants will make happen, or give to tell, after the book's position."""
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
        if not self.lead_times or grant.phase not in {Phase.PENDING, Phase.ACTIVE}:
            return happening
        warnings = warnings_of(grant.terms, self.lead_times)
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

    def _put(self, terms: GrantTerms, phase: Phase, set_by: int, stood: Grant | Standing) -> None:
        """The grant is in the book, as it was stood."""
        booked = BookedGrant(
            terms,
            phase,
            set_by,
            stood.granted,
            stood.available,
            stood.held,
            stood.used,
            stood.expired,
            stood.revoked,
            stood.moved,
            stood.short,
        )
        if not booked.used:
            booked.burns = []
        self.grants[terms.grant_id] = booked
        if phase is Phase.ACTIVE:
            booked.order = precedence(terms)
            self.active.append(booked)

    def state(self) -> DayState:
        """How the book stands. Only between two instants: all that happens at its position's must have happened."""
        place = self.place or NOWHERE
        return DayState(
            at=place[0],
            posting=self._run_posting if self.is_run else self.posting - 1,
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

    def expect(self, grant: BookedGrant) -> None:
        """What the terms of a grant that the run has made will make happen is yet to come in it."""
        for place in places_of(grant.terms):
            heappush(self.coming, (place, -len(self.grants), grant))

    def history_needed(self, before: datetime | None = None) -> HistoryNeeded:
        """What to raise where a step reaches behind what is loaded of this account."""
        return HistoryNeeded(self.entitlement.key, self.customer_id, before)

    def grant_units(self, grant: BookedGrant, terms: GrantTerms, units: int) -> list[Line]:
        """The grant has so many units more, or fewer, from its beginning on; the line of it, or none."""
        if not units:
            return []
        return [self.move(Kind.GRANTED, terms.effective_at, grant, units)]

    def move(
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

    def covers(self, grant: BookedGrant, usage_key: UUID, units: int) -> None:
        """So many units of that usage are covered by the grant: the last that it covers so far."""
        if grant.burns is not None:
            self._burnt += 1
            grant.burns.append((self._burnt, usage_key, units))

    def starts(self) -> list[datetime]:
        """When the active grants have begun."""
        return [grant.terms.effective_at for grant in self.active]


def _grant_key(item: tuple[UUID, BookedGrant]) -> bytes:
    return item[0].bytes
