"""The course of an account through time: what happens to one customer's account of one entitlement, in its order.

Happenings go in the order of their places. Each moves units by lines, and the sum of its lines is what the course
counts. What one of them moves is told in the file about it: `beginning`, `ending`, `cutting`, `using`, `holding`, and
`sending` for what goes along when a customer goes on as another. `run_all` lets everything happen, from nothing or from
the state of a day; a `settlement.Book` is a course that also goes on by single steps.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from heapq import heapify, heappop

import msgspec

from ledger_worker.domain.beginning import begin_grant, pay_owed
from ledger_worker.domain.booked import BookedGrant
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.cutting import cut_grant
from ledger_worker.domain.ending import end_grant
from ledger_worker.domain.holding import end_open_hold, take_hold
from ledger_worker.domain.ledger import DayState, Hold, Line, Phase, Reversal, UsageFact
from ledger_worker.domain.parcels import Parcel
from ledger_worker.domain.places import (
    BEGIN,
    END,
    HOLD_END,
    LEAVE,
    PAY,
    SUSPEND,
    Place,
    all_of,
    place_of_hold,
    place_of_hold_end,
    place_of_usage,
    places_of,
)
from ledger_worker.domain.reversals import by_usage
from ledger_worker.domain.sending import arrive, send_owed
from ledger_worker.domain.using import burn

__all__ = [
    "STATE_USAGE_MAX",
    "STATE_USAGE_MIN",
    "Course",
    "Stops",
]

STATE_USAGE_MIN = 50
"""A day state is kept at the end of a day on which, with those before it, at least so many usages were booked."""
STATE_USAGE_MAX = 2_000
"""It is kept without waiting for the end of the day once so many usages were booked since the last one."""


class Stops(msgspec.Struct):
    """Instants, rising, at which a run is looked at: when everything up to and including them has happened."""

    instants: list[datetime]
    look: Callable[[datetime], None]


class Course(Counted):
    """One customer's account of one entitlement, and all that happens to it."""

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
        self.is_run = self.knows_all_grants = True
        self._run_posting = 0 if since is None else since.posting
        self.since_state = 0
        self.reversals_of = by_usage(reversals)
        self.coming = [(place_of_usage(fact), 0, fact) for fact in usage if fact.units]
        self.coming += [(parcel.place, 0, parcel) for parcel in arriving]
        for hold in holds:
            if since is None or hold.at > since.at:
                self.coming.append((place_of_hold(hold), 0, hold))
            if since is None or hold.ends_at > since.at:
                self.coming.append((place_of_hold_end(hold), 0, hold))
        if self.leaves_at is not None or arriving:
            self.used_at = {fact.usage_key: fact.at for fact in usage}
            self.used_at |= {hold.hold_key: hold.ends_at for hold in holds}
        if self.leaves_at is not None:
            self.coming.append(((self.leaves_at, LEAVE), 0, None))
        for grant in self.grants.values():
            if grant.phase is Phase.VOID:
                continue
            if since is None or grant.terms.effective_at > since.at:
                lines += self.grant_units(grant, grant.terms, grant.terms.amount or 0)
            places = places_of(grant.terms)
            self.coming += [(place, 0, grant) for place in places if since is None or place[0] > since.at]
        # Numbered, so that the heap never compares what happens.
        self.coming = [(place, number, what) for number, (place, _, what) in enumerate(self.coming)]
        heapify(self.coming)
        while self.coming:
            place, _, what = heappop(self.coming)
            if place <= until:
                self._pass_day(place)
                _pass_stops(stops, place)
            if isinstance(what, UsageFact):
                self.since_state += 1
                lines += burn(self, what)
            elif place > until:
                continue
            elif isinstance(what, BookedGrant | Hold):
                lines += self._happen(place, what)
            else:
                lines += send_owed(self, place[0]) if what is None else arrive(self, what)
            self.place = place if self.place is None else max(self.place, place)
        _pass_stops(stops, None)
        # Where a grant ends decides what becomes of units that were given back before: such an end reaches back.
        told = [all_of(reversal.at) for reversal in reversals if reversal.at <= until[0]]
        self.place = max(told if self.place is None else (self.place, *told), default=None)
        return lines

    def _pass_day(self, place: Place) -> None:
        """What happens next is at `place`: the state before it is kept where a day has ended, or much has happened."""
        if self.since_state < STATE_USAGE_MIN or self.place is None or place[0] <= self.place[0]:
            return
        if place[0].date() > self.place[0].date() or self.since_state >= STATE_USAGE_MAX:
            self.new_states.append(self.state())
            self.stated_until = self.place[0]
            self.since_state = 0

    def _happen(self, place: Place, grant: BookedGrant | Hold) -> list[Line]:
        """What the terms of a grant, or a hold, make happen at `place`."""
        at, rank = place[0], place[1][0]
        if isinstance(grant, Hold):
            return end_open_hold(self, grant) if rank == HOLD_END else take_hold(self, grant)
        if rank == BEGIN:
            return begin_grant(self, grant, at)
        if rank == END:
            return end_grant(self, grant, at)
        if rank == PAY:
            return pay_owed(self, grant, at)
        if rank == SUSPEND:
            self.touched.add(grant.terms.grant_id)
            return []
        cut_id = place[1].partition("/")[2]
        return cut_grant(self, grant, next(cut for cut in grant.terms.cuts if cut.cut_id == cut_id and cut.at == at))


def _pass_stops(stops: Stops | None, place: Place | None) -> None:
    """What happens next is at `place` (None: nothing more): whoever asked for a stop before it has a look."""
    while stops is not None and stops.instants and (place is None or place[0] > stops.instants[0]):
        stops.look(stops.instants.pop(0))
