"""Settlement: which usage is covered by which grant, and what cuts and endings take.

A `Book` goes through time as a `Course` does, in one of three ways. *Advance*: a happening behind everything settled so
far takes one step on the stored book. *Settle again*: a happening that lies before the book's position starts a run
over all terms and all usage; the difference between its lines and the booked ones, line by line, is what is booked.
*Look ahead*: a read runs what is due on a book that is never stored. Which of the first two is taken depends on the
book alone, never on how events were batched, and both end in the same book: settling is a function of terms, usage and
reversals.

A run need not begin at nothing. Where a day ends, or much usage was booked since, the book keeps a `DayState`; what
touches nothing up to such a state settles again from there, to the same books. States after the first place that is
touched are wrong from then on and are dropped, and the run makes new ones.

A step that needs what is not loaded of the past raises `history.HistoryNeeded`. What is due and ahead is told in `due`,
what of an end to come in `expiring`, where new terms touch the past in `new_terms`; `runs` has what settles again, and
`merging` what a book does when a customer goes on as another.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from ledger_worker.domain.booked import BookedGrant
from ledger_worker.domain.catalogue import Entitlement
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.course import STATE_USAGE_MIN, Course
from ledger_worker.domain.history import History
from ledger_worker.domain.holding import end_open_hold, take_hold
from ledger_worker.domain.ledger import Account, Grant, GrantTerms, Hold, Line, Origin, Phase, Reversal, UsageFact
from ledger_worker.domain.lines import difference, line_order
from ledger_worker.domain.new_terms import first_touched, put_terms, uncovers
from ledger_worker.domain.parcels import ARRIVING, LEAVING, Parcel, parcels_of
from ledger_worker.domain.places import (
    BEGINNING,
    CUT,
    NOWHERE,
    Place,
    Transition,
    all_of,
    place_of_hold,
    place_of_hold_end,
    place_of_usage,
    places_of,
)
from ledger_worker.domain.runs import fresh_run, run_from
from ledger_worker.domain.using import burn, could_be_last

__all__ = ["Book"]

_MICROSECOND = timedelta(microseconds=1)


class Book(Course):
    """One customer's account of one entitlement while it is being settled.

    Made from the stored account and its open grants; lives for one decision or one read. `history` is set when the
    account's past was loaded. What settling `made` is there until the caller has taken it.
    `new_states` are to be stored, and what is stored of `stale_from` and later is to be dropped before.
    """

    def __init__(
        self,
        entitlement: Entitlement,
        account: Account,
        grants: Iterable[Grant],
        history: History | None = None,
    ) -> None:
        super().__init__(entitlement, account, grants if history is None else history.grants)
        self.history = history
        self.new_usage: list[UsageFact] = []
        self.new_reversals: list[Reversal] = []
        self.new_holds: dict[UUID, Hold] = {}
        self.new_lines: list[Line] = []
        self.stale_from: datetime | None = None
        self.arrivals: tuple[Parcel, ...] | None = None
        self.knows_all_grants = history is not None

    def touched_grants(self) -> list[Grant]:
        """The grants that changed since the book was opened, to be stored, in key order."""
        stored = []
        for grant_id in sorted(self.touched, key=_uuid_bytes):
            grant = self.grants[grant_id]
            if grant.phase in {Phase.ENDED, Phase.ENDING}:
                is_cut_later = any(place > (self.place or place) for place in places_of(grant.terms))
                is_over = not is_cut_later and not self.is_reached_back_to(grant)
                grant.phase = Phase.ENDED if is_over else Phase.ENDING
            stored.append(grant.value())
        return stored

    # -- what was told --

    def require_history(self) -> History:
        """All of the account's past; raises `HistoryNeeded` where that is not loaded."""
        history = self._require_any_history()
        if history.since is not None:
            raise self.history_needed()
        return history

    def _require_any_history(self) -> History:
        if self.history is None:
            raise self.history_needed()
        return self.history

    def all_holds(self) -> list[Hold]:
        """The holds of the history, as they are by now."""
        holds = {hold.hold_key: hold for hold in self._require_any_history().holds}
        return list((holds | self.new_holds).values())

    def reversals(self) -> tuple[Reversal, ...]:
        """Every reversal that was told of this account; needs a history."""
        return (*self._require_any_history().reversals, *self.new_reversals)

    def knows(self, reversal: Reversal) -> bool:
        """Whether a reversal of that id and content was told before; needs a history."""
        told = self.reversals()
        content = (reversal.reversal_id, reversal.usage_key, reversal.units)
        return any((one.reversal_id, one.usage_key, one.units) == content for one in told)

    def has_used(self, usage_key: UUID) -> bool:
        """Whether the usage is one of this account; needs the history."""
        usage = (*self.require_history().usage, *self.new_usage)
        return any(one.usage_key == usage_key for one in usage) or any(
            hold.hold_key == usage_key and hold.confirmed for hold in self.all_holds()
        )

    def waits_for(self, usage_key: UUID) -> bool:
        """Whether the usage was reversed before it was told."""
        return usage_key in self.waiting

    def wait_for(self, usage_key: UUID) -> None:
        """The usage was reversed before it was told."""
        if usage_key not in self.waiting:
            self.waiting = tuple(sorted((*self.waiting, usage_key), key=_uuid_bytes))

    def learn(self, reversals: Iterable[Reversal]) -> None:
        """What was told to reverse usage of another id of the same person is known here too; nothing is settled yet."""
        history = self.require_history()
        known = {reversal.tie for reversal in self.reversals()}
        new = tuple(reversal for reversal in reversals if reversal.tie not in known)
        self.history = msgspec.structs.replace(history, reversals=(*history.reversals, *new))

    def parcels(self) -> list[Parcel]:
        """What has left the book, as it is booked."""
        return parcels_of((*self.require_history().lines, *self.new_lines), LEAVING)

    def arrived(self) -> list[Parcel]:
        """What has arrived in the book, as it is booked."""
        return parcels_of((*self.require_history().lines, *self.new_lines), ARRIVING)

    @property
    def has_new_parcels(self) -> bool:
        """Whether what leaves the book has changed since it was opened."""
        return any(line.kind in LEAVING for line in self.new_lines)

    # -- steps --

    def follows(self, usage: UsageFact) -> bool:
        """Whether the usage is behind everything settled so far: then one step books it."""
        return self.place is None or place_of_usage(usage) > self.place

    def use(self, usage: UsageFact, until: datetime) -> list[Line]:
        """Usage is booked: by one step when it is the last happening so far, else by settling again.

        Also by one step when it is late and could stand at the end as well, so that services whose reports of the same
        minutes overtake each other cost no run. Usage without units happens nowhere.
        """
        place = place_of_usage(usage)
        if self.leaves_at is not None:
            self.require_history()
            self.new_usage.append(usage)
            return self.settle_again(all_of(until))
        if usage.usage_key in self.waiting:
            self._require_since(place)
            self.waiting = tuple(key for key in self.waiting if key != usage.usage_key)
            self.new_usage.append(usage)
            return self.settle_again(all_of(until), place)
        if not usage.units:
            self.new_usage.append(usage)
            return []
        if self.follows(usage):
            self._states_are_stale(place[0])
            self._pass_day(place)
            self.place = place
        elif could_be_last(self, usage):
            self._states_are_stale(usage.at)
            self.active[0].burns = None  # no longer in order; whoever needs them settles again
        else:
            self._require_since(place)
            self.new_usage.append(usage)
            return self.settle_again(all_of(until), place)
        self.new_usage.append(usage)
        self.since_state += 1
        return self._booked(burn(self, usage))

    def hold(self, hold: Hold, until: datetime) -> list[Line]:
        """Units are reserved by a hold: by one step when it is the last happening so far, else by settling again."""
        return self._book_hold(hold, place_of_hold(hold), take_hold, until)

    def end_hold(self, hold_key: UUID, at: datetime, confirmed: int, until: datetime) -> list[Line]:
        """The hold ends at `at`, before it expires: so many of its units are used, and the rest comes back.

        One that is not open ended before: nothing comes of it.
        """
        held = self.holds.get(hold_key)
        if held is None:
            return []
        hold = msgspec.structs.replace(held.hold, ended_at=at, confirmed=confirmed)
        if confirmed and hold_key in self.waiting:
            self._require_since(place_of_hold_end(hold))
            self.waiting = tuple(key for key in self.waiting if key != hold_key)
            self.new_holds[hold_key] = hold
            return self.settle_again(all_of(until), place_of_hold_end(hold))
        return self._book_hold(hold, place_of_hold_end(hold), end_open_hold, until)

    def _book_hold(
        self, hold: Hold, place: Place, step: Callable[[Counted, Hold], list[Line]], until: datetime
    ) -> list[Line]:
        if self.leaves_at is None and (self.place is None or place > self.place):
            self._states_are_stale(place[0])
            self._pass_day(place)
            lines = step(self, hold)
            self.place = place
            self.new_holds[hold.hold_key] = hold
            self._is_ahead_known = False
            return self._booked(lines)
        self._require_since(NOWHERE if self.leaves_at is not None else place)
        self.new_holds[hold.hold_key] = hold
        return self.settle_again(all_of(until), NOWHERE if self.leaves_at is not None else place)

    def reverse(self, reversal: Reversal, until: datetime) -> list[Line]:
        """The named usage is smaller by what is reversed of it, and the account is settled again.

        Where the usage was not told yet, the reversal waits for it (`waits_for`). Reversals keep their order by the
        instant at which they count, event source and event id; of one reversal id the last counts.
        """
        first = all_of(reversal.at)
        history = self._require_since(first)
        known = {usage.usage_key: place_of_usage(usage) for usage in (*history.usage, *self.new_usage)}
        known |= {hold.hold_key: place_of_hold_end(hold) for hold in self.all_holds() if hold.confirmed}
        named = {one.usage_key for one in self.reversals() if one.reversal_id == reversal.reversal_id}
        named.add(reversal.usage_key)
        if history.since is not None and not named <= {*known, *self.waiting}:
            raise self.history_needed()  # it was told before the state, or never
        self.new_reversals.append(reversal)
        if reversal.usage_key not in known:
            self.wait_for(reversal.usage_key)
        places = [known[key] for key in named if key in known]
        return self.settle_again(all_of(until), min([first, *places]))

    def pass_transition(self, transition: Transition) -> list[Line]:
        """One due transition is booked; they must be passed in order. No lines when nothing comes of it."""
        place = transition.place
        if transition.is_warning:
            self.warned = place
            self._is_ahead_known = False
            return []
        key = transition.hold_key
        what = self.holds[key].hold if key is not None else self.grants[transition.of_grant]
        if isinstance(what, BookedGrant) and place[1][0] == CUT and uncovers(self, what.terms):
            lines = self.settle_again(place)
        else:
            self._states_are_stale(place[0])
            self._pass_day(place)
            lines = self._booked(self._happen(place, what))
        self.place = max(self.place or transition.place, transition.place)
        self._is_ahead_known = False
        return lines

    def set_terms(
        self,
        before: Mapping[UUID, GrantTerms],
        after: Mapping[UUID, GrantTerms],
        until: Place,
    ) -> list[Line]:
        """The grants named have their new terms, and what follows from them up to `until` is booked.

        Everything else that is due by then was passed before. `before` and `after` hold only grants whose terms differ;
        a grant missing in `after` is undone.
        """
        self._has_warned(until)
        first = first_touched(self, before, after)
        if self.history is None and any(grant_id not in self.grants for grant_id in before):
            self._require_since(first or NOWHERE)
        if first is not None:
            self._require_since(first)
            put_terms(self, before, after, self.posting)
            return self.settle_again(until if self.place is None else max(until, self.place), first)
        lines = put_terms(self, before, after, self.posting)
        happenings = sorted(
            (place, grant_id)
            for grant_id in after
            for place in places_of(self.grants[grant_id].terms)
            if (self.place is None or place > self.place) and place <= until
        )
        for place, grant_id in happenings:
            self._states_are_stale(place[0])
            lines += self._happen(place, self.grants[grant_id])
            self.place = place
        self._is_ahead_known = False
        return self._booked(lines)

    # -- settling again --

    def settle_again(self, until: Place, first: Place = NOWHERE) -> list[Line]:
        """A run over all terms and usage, or what is later than a state before `first`.

        Returns the difference to what is booked, line by line.
        """
        history = self._require_since(first)
        self._has_warned(until)
        since = history.since
        booked = [*history.lines, *self.new_lines]
        usage = [*history.usage, *self.new_usage]
        holds = self.all_holds()
        reversals = self.reversals()
        if since is None:
            arriving = self.arrived() if self.arrivals is None else self.arrivals
            run = fresh_run(self)
        else:
            arriving = ()
            booked = [line for line in booked if line.at > since.at]
            usage = [fact for fact in usage if fact.at > since.at]
            run = run_from(self, since, booked, usage, holds, reversals)
        target = run.run_all(usage, reversals, until, holds, arriving, since)
        missing = difference(booked, target)
        self._states_are_stale(BEGINNING if since is None else since.at + _MICROSECOND)
        self._take_over(run)
        self.new_states += run.new_states
        self.stated_until = run.new_states[-1].at if run.new_states else None if since is None else since.at
        self.since_state = run.since_state
        return self._booked(missing)

    def _has_warned(self, until: Place) -> None:
        """Of ends that are near by then, and became known only now, is told with what made them known."""
        if self.lead_times:
            self.warned = until if self.warned is None else max(self.warned, until)

    def _require_since(self, first: Place) -> History:
        """The history of a time that begins before `first`, and before whatever made states stale just now."""
        before = first[0] if self.stale_from is None else min(first[0], self.stale_from)
        if self.history is None or (self.history.since is not None and self.history.since.at >= before):
            raise self.history_needed(before if first > NOWHERE else None)
        return self.history

    def _states_are_stale(self, instant: datetime) -> None:
        """States of `instant` and later do not hold any more."""
        if self.stated_until is None or self.stated_until < instant:
            return
        self.new_states = [state for state in self.new_states if state.at < instant]
        self.stale_from = instant if self.stale_from is None else min(instant, self.stale_from)
        self.stated_until = instant - _MICROSECOND if instant > BEGINNING else None
        self.since_state = max(self.since_state, STATE_USAGE_MIN)

    def _booked(self, lines: list[Line]) -> list[Line]:
        if len(lines) > 1:
            lines.sort(key=line_order)
        self.new_lines += lines
        return lines

    def _take_over(self, run: Course) -> None:
        """The run's result becomes this book; grants that it left as they were are not touched."""
        for grant_id, grant in self.grants.items():
            if grant_id not in run.grants:
                phase, set_by = Phase.VOID, self.posting if grant.phase is not Phase.VOID else grant.set_by
                run.grants[grant_id] = BookedGrant(grant.terms, phase, set_by, burns=[])
        for grant_id, grant in run.grants.items():
            known = self.grants.get(grant_id)
            if known is not None and grant.terms.origin is Origin.REGRANT and grant.phase is not Phase.VOID:
                is_same = known.terms == grant.terms and known.phase is not Phase.VOID
                grant.set_by = known.set_by if is_same else self.posting
                if not is_same:
                    self.made[grant_id] = grant.terms
            elif known is None:
                grant.set_by = self.posting
                self.made[grant_id] = grant.terms
            if known is None or grant.value() != known.value():
                self.touched.add(grant_id)
        level, warned = self.level, self.warned
        self._restore(run.account, [grant.value() for grant in run.grants.values()])
        self.level, self.warned = level, warned
        self._is_ahead_known = False


def _uuid_bytes(value: UUID) -> bytes:
    return value.bytes
