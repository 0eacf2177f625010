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

A step that needs the account's history (grants, usage and booked lines, all or those since a state) and has none
raises `HistoryNeeded`; the caller loads it and decides the customer anew.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice, takewhile
from uuid import UUID

import msgspec

from ledger_worker.domain.booked import BookedGrant, burning_order, not_begun, receives
from ledger_worker.domain.catalogue import Entitlement
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.course import STATE_USAGE_MIN, Course
from ledger_worker.domain.history import History
from ledger_worker.domain.holding import end_open_hold, take_hold
from ledger_worker.domain.ledger import (
    NEVER,
    Account,
    CutPolicy,
    DayState,
    Grant,
    GrantTerms,
    Hold,
    Kind,
    Line,
    Origin,
    Phase,
    Reversal,
    UsageFact,
    precedence,
)
from ledger_worker.domain.occurrences import occurrences
from ledger_worker.domain.parcels import ARRIVING, LEAVING, Parcel, parcels_of
from ledger_worker.domain.places import (
    BEGIN,
    BEGINNING,
    CUT,
    NOWHERE,
    Place,
    Transition,
    all_of,
    cut_place,
    first_difference,
    is_suspended,
    place_of_hold,
    place_of_hold_end,
    place_of_usage,
    places_of,
    warnings_of,
)
from ledger_worker.domain.recurring import next_of
from ledger_worker.domain.using import burn

__all__ = ["Book"]

_MICROSECOND = timedelta(microseconds=1)
_MADE_MAX = 100
_TRANSITIONS_OF_ONE = 3


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
        self._arrivals: tuple[Parcel, ...] | None = None
        self.knows_all_grants = history is not None

    # -- what decisions and pictures read --

    def ahead(self) -> list[tuple[Transition, GrantTerms]]:
        """What the terms of open grants will make happen behind the book's position, in order."""
        places = sorted(self._ahead_of_grants(), key=_by_place)
        return [(self._transition(place, grant), grant.terms) for place, grant in places]

    def due(self, until: datetime) -> list[Transition]:
        """The transitions after the book's position and not after `until`, in their order."""
        if self.next_transition_at is None or self.next_transition_at > until:
            return []
        places = [(place, what) for place, what in self._ahead() if place[0] <= until]
        places.sort(key=_by_place)
        due = [self._transition(place, what) for place, what in places]
        return [
            msgspec.structs.replace(transition, makes_due=self._made_due(what.terms, until))
            if transition.kind == "begin" and isinstance(what, BookedGrant) and what.terms.recurs is not None
            else transition
            for transition, (_, what) in zip(due, places, strict=True)
        ]

    def warns(self, transition: Transition) -> bool:
        """Whether there is something to tell at this warning, which comes next; of grants that end together, by one."""
        instant = transition.place[0]
        near = [
            one.terms.grant_id
            for one in self._last_to_end()
            if any(place[0] == instant for place in warnings_of(one.terms, self.lead_times))
        ]
        return transition.grant_id == min(near, key=_uuid_bytes, default=None)

    def is_expiring(self, until: Place) -> bool:
        """Whether the present access ends soon: a lead time before its end had begun by then."""
        return any(place <= until for one in self._last_to_end() for place in warnings_of(one.terms, self.lead_times))

    def _last_to_end(self) -> list[BookedGrant]:
        """The grants with whose end the present access ends; none without one, or where another grant goes on."""
        in_force = [one for one in self.active if not one.is_empty_child and not self.open_causes(one)]
        end = max((one.terms.expires_at or NEVER for one in in_force), default=NEVER)
        goes_on = any(
            one.terms.effective_at <= end < (one.terms.expires_at or NEVER) and not is_suspended(one.terms, end)
            for one in self.grants.values()
            if one.phase in {Phase.PENDING, Phase.ACTIVE} and not one.is_empty_child
        )
        return [] if end is NEVER or goes_on else [one for one in in_force if one.terms.expires_at == end]

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
            self._require_history()
            self.new_usage.append(usage)
            return self._settle_again(all_of(until))
        if usage.usage_key in self.waiting:
            self._require_since(place)
            self.waiting = tuple(key for key in self.waiting if key != usage.usage_key)
            self.new_usage.append(usage)
            return self._settle_again(all_of(until), place)
        if not usage.units:
            self.new_usage.append(usage)
            return []
        if self.follows(usage):
            self._states_are_stale(place[0])
            self._pass_day(place)
            self.place = place
        elif self._could_be_last(usage):
            self._states_are_stale(usage.at)
            self.active[0].burns = None  # no longer in order; whoever needs them settles again
        else:
            self._require_since(place)
            self.new_usage.append(usage)
            return self._settle_again(all_of(until), place)
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
            return self._settle_again(all_of(until), place_of_hold_end(hold))
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
        return self._settle_again(all_of(until), NOWHERE if self.leaves_at is not None else place)

    def reverse(self, reversal: Reversal, until: datetime) -> list[Line]:
        """The named usage is smaller by what is reversed of it, and the account is settled again.

        Where the usage was not told yet, the reversal waits for it (`waits_for`). Reversals keep their order by the
        instant at which they count, event source and event id; of one reversal id the last counts.
        """
        first = all_of(reversal.at)
        history = self._require_since(first)
        known = {usage.usage_key: place_of_usage(usage) for usage in (*history.usage, *self.new_usage)}
        known |= {hold.hold_key: place_of_hold_end(hold) for hold in self._all_holds() if hold.confirmed}
        named = {one.usage_key for one in self.reversals() if one.reversal_id == reversal.reversal_id}
        named.add(reversal.usage_key)
        if history.since is not None and not named <= {*known, *self.waiting}:
            raise self.history_needed()  # it was told before the state, or never
        self.new_reversals.append(reversal)
        if reversal.usage_key not in known:
            self.wait_for(reversal.usage_key)
        places = [known[key] for key in named if key in known]
        return self._settle_again(all_of(until), min([first, *places]))

    def wait_for(self, usage_key: UUID) -> None:
        """The usage was reversed before it was told."""
        if usage_key not in self.waiting:
            self.waiting = tuple(sorted((*self.waiting, usage_key), key=_uuid_bytes))

    def waits_for(self, usage_key: UUID) -> bool:
        """Whether the usage was reversed before it was told."""
        return usage_key in self.waiting

    def has_used(self, usage_key: UUID) -> bool:
        """Whether the usage is one of this account; needs the history."""
        usage = (*self._require_history().usage, *self.new_usage)
        return any(one.usage_key == usage_key for one in usage) or any(
            hold.hold_key == usage_key and hold.confirmed for hold in self._all_holds()
        )

    def reversals(self) -> tuple[Reversal, ...]:
        """Every reversal that was told of this account; needs a history."""
        return (*self._require_any_history().reversals, *self.new_reversals)

    def knows(self, reversal: Reversal) -> bool:
        """Whether a reversal of that id and content was told before; needs a history."""
        told = self.reversals()
        content = (reversal.reversal_id, reversal.usage_key, reversal.units)
        return any((one.reversal_id, one.usage_key, one.units) == content for one in told)

    def learn(self, reversals: Iterable[Reversal]) -> None:
        """What was told to reverse usage of another id of the same person is known here too; nothing is settled yet."""
        history = self._require_history()
        known = {reversal.tie for reversal in self.reversals()}
        new = tuple(reversal for reversal in reversals if reversal.tie not in known)
        self.history = msgspec.structs.replace(history, reversals=(*history.reversals, *new))

    def adopt(
        self, usage: Sequence[UsageFact], holds: Sequence[Hold], reversals: Sequence[Reversal], until: Place
    ) -> list[Line]:
        """Usage and holds of a customer who went on as this one count here too, and what anyone told to reverse it.

        `reversals` are all that were told of both. The account is settled again.
        """
        self.history = msgspec.structs.replace(self._require_history(), reversals=tuple(reversals))
        self.new_reversals = []
        self.new_usage += usage
        self.new_holds |= {hold.hold_key: hold for hold in holds}
        return self._settle_again(until if self.place is None else max(until, self.place))

    def leave(self, leaves_at: datetime, until: datetime) -> tuple[list[Line], list[UsageFact], list[Hold]]:
        """The customer has gone on as another since `leaves_at`: overage and debt leave, usage since then is given up.

        So are holds, as far as they are since then. Returns the lines, that usage, and those holds.
        """
        history = self._require_history()
        self.leaves_at = leaves_at
        gone = [usage for usage in (*history.usage, *self.new_usage) if usage.at >= leaves_at]
        self.history = msgspec.structs.replace(
            history, usage=tuple(usage for usage in history.usage if usage.at < leaves_at)
        )
        self.new_usage = [usage for usage in self.new_usage if usage.at < leaves_at]
        lasting = [hold for hold in self._all_holds() if hold.ends_at > leaves_at]
        staying = [hold for hold in self._all_holds() if hold.ends_at <= leaves_at]
        staying += [
            msgspec.structs.replace(hold, ended_at=leaves_at, confirmed=0) for hold in lasting if hold.at < leaves_at
        ]
        self.history = msgspec.structs.replace(self.history, holds=())
        self.new_holds = {hold.hold_key: hold for hold in staying}
        going_on = [msgspec.structs.replace(hold, at=max(hold.at, leaves_at)) for hold in lasting]
        return self._settle_again(all_of(until)), gone, going_on

    def parcels(self) -> list[Parcel]:
        """What has left the book, as it is booked."""
        return parcels_of((*self._require_history().lines, *self.new_lines), LEAVING)

    def arrived(self) -> list[Parcel]:
        """What has arrived in the book, as it is booked."""
        return parcels_of((*self._require_history().lines, *self.new_lines), ARRIVING)

    def receive(self, parcels: Sequence[Parcel], until: Place) -> list[Line]:
        """These parcels, and no others, have arrived; the account is settled again."""
        self._arrivals = tuple(parcels)
        return self._settle_again(until if self.place is None else max(until, self.place))

    @property
    def has_new_parcels(self) -> bool:
        """Whether what leaves the book has changed since it was opened."""
        return any(line.kind in LEAVING for line in self.new_lines)

    def pass_transition(self, transition: Transition) -> list[Line]:
        """One due transition is booked; they must be passed in order. No lines when nothing comes of it."""
        place = transition.place
        if transition.is_warning:
            self.warned = place
            self._is_ahead_known = False
            return []
        key = transition.hold_key
        what = self.holds[key].hold if key is not None else self.grants[transition.of_grant]
        if isinstance(what, BookedGrant) and place[1][0] == CUT and self._uncovers(what.terms):
            lines = self._settle_again(place)
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
        first = self._first_touched(before, after)
        if self.history is None and any(grant_id not in self.grants for grant_id in before):
            self._require_since(first or NOWHERE)
        if first is not None:
            self._require_since(first)
            self._put_terms(before, after, self.posting)
            return self._settle_again(until if self.place is None else max(until, self.place), first)
        lines = self._put_terms(before, after, self.posting)
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

    # -- inside --

    def _made_due(self, terms: GrantTerms, until: datetime) -> int:
        """About how many transitions are due at `until` of occurrences that the begin of this one is yet to make."""
        following = next_of(terms)
        known = None if following is None else self.grants.get(following.grant_id)
        if terms.recurs is None or following is None or (known is not None and known.phase is not Phase.VOID):
            return 0
        later = islice(occurrences(terms.recurs), 1, None)
        begun = takewhile(lambda one: one[1] <= until, later)
        of_each = _TRANSITIONS_OF_ONE + len(self.lead_times)
        return of_each * sum(1 for _ in islice(begun, _MADE_MAX))

    def _could_be_last(self, usage: UsageFact) -> bool:
        """Whether late usage is covered by the same grant, and all else as it is, wherever since then it stands.

        So it is when since then nothing happened but usage, and the grant that burns first still has that many units:
        then it has covered everything since, and would have covered this.
        """
        if not self.active or (self.last_end is not None and self.last_end > usage.at):
            return False
        if self.released_at is not None and self.released_at > usage.at:
            return False
        for grant in self.active:
            terms = grant.terms
            if terms.effective_at > usage.at or terms.suspensions or any(cut.at > usage.at for cut in terms.cuts):
                return False
        first = self.active[0]
        return usage.burns and (first.terms.amount is None or first.available >= usage.units)

    def _booked(self, lines: list[Line]) -> list[Line]:
        if len(lines) > 1:
            lines.sort(key=_line_order)
        self.new_lines += lines
        return lines

    def _transition(self, place: Place, what: BookedGrant | Hold) -> Transition:
        name = self.entitlement.key
        if isinstance(what, Hold):
            return Transition(place=place, entitlement=name, set_by=0, hold_key=what.hold_key)
        return Transition(place=place, entitlement=name, set_by=what.set_by, grant_id=what.terms.grant_id)

    def _first_touched(self, before: Mapping[UUID, GrantTerms], after: Mapping[UUID, GrantTerms]) -> Place | None:
        """The first place at or before the book's position at which the new terms change anything; None: none."""
        if self.leaves_at is not None:
            return NOWHERE
        if self.place is None:
            return None
        touched = []
        for grant_id in before.keys() | after.keys():
            old, new = before.get(grant_id), after.get(grant_id)
            if new is not None and self._uncovers(new):
                return NOWHERE
            touched += [first_difference(old, new), *self._changes_of_order(grant_id, before, after)]
        first = min(touched, default=self.place)
        return first if touched and first <= self.place else None

    def _changes_of_order(
        self, grant_id: UUID, before: Mapping[UUID, GrantTerms], after: Mapping[UUID, GrantTerms]
    ) -> list[Place]:
        """Where a grant, begun before and after, begins to burn before or after another one as it did not before."""
        if grant_id not in before or grant_id not in after:
            return []
        old = before[grant_id]
        was, will = precedence(old), precedence(after[grant_id])
        if was == will:
            return []
        places = []
        for other_id, other in self.grants.items():
            if other_id == grant_id or other.phase is Phase.VOID:
                continue
            other_was = precedence(before.get(other_id, other.terms))
            other_will = precedence(after.get(other_id, other.terms))
            if (was < other_was) != (will < other_will):
                places.append((max(old.effective_at, other.terms.effective_at), BEGIN))
        return places

    def _uncovers(self, terms: GrantTerms) -> bool:
        """Whether a cut yet to come takes units back that were used or went on: that needs the whole lineage."""
        grant = self.grants.get(terms.grant_id)
        return (
            grant is not None
            and grant.used + grant.moved > 0
            and any(
                cut.policy is CutPolicy.FULL_WITH_DEBT and (self.place is None or cut_place(terms, cut) > self.place)
                for cut in terms.cuts
            )
        )

    def _put_terms(
        self, before: Mapping[UUID, GrantTerms], after: Mapping[UUID, GrantTerms], posting: int
    ) -> list[Line]:
        """Terms and `granted` are set; nothing has happened by them yet. Returns the lines of `granted`."""
        lines: list[Line] = []
        for grant_id in sorted(before.keys() - after.keys(), key=_uuid_bytes):
            grant = self.grants[grant_id]
            lines += self.grant_units(grant, grant.terms, -grant.granted)
            grant.phase = Phase.VOID
            grant.set_by = posting
            self.touched.add(grant_id)
        for grant_id in sorted(after, key=_uuid_bytes):
            terms = after[grant_id]
            grant = self.grants.get(grant_id) or BookedGrant(terms, Phase.PENDING, posting, burns=[])
            self.grants[grant_id] = grant
            if grant.phase is Phase.VOID:
                grant.phase = Phase.PENDING
            if receives(terms):
                grant.terms = terms
                self._is_set(grant, posting)
                continue
            counts_alike = (grant.terms.amount is None) == (terms.amount is None)
            if grant.terms.effective_at == terms.effective_at and counts_alike:
                lines += self.grant_units(grant, terms, (terms.amount or 0) - grant.granted)
                grant.terms = terms
            else:
                # Units are counted by the terms that are set: the old ones while they go, the new ones when they come.
                lines += self.grant_units(grant, grant.terms, -grant.granted)
                grant.terms = terms
                lines += self.grant_units(grant, terms, terms.amount or 0)
            self._is_set(grant, posting)
        return lines

    def _is_set(self, grant: BookedGrant, posting: int) -> None:
        grant.set_by = posting
        if grant.phase is Phase.ACTIVE:
            grant.order = precedence(grant.terms)
            self.active.sort(key=burning_order)
        self.touched.add(grant.terms.grant_id)

    # -- settling again --

    def _require_any_history(self) -> History:
        if self.history is None:
            raise self.history_needed()
        return self.history

    def _require_history(self) -> History:
        """All of it."""
        history = self._require_any_history()
        if history.since is not None:
            raise self.history_needed()
        return history

    def _require_since(self, first: Place) -> History:
        """The history of a time that begins before `first`, and before whatever made states stale just now."""
        before = first[0] if self.stale_from is None else min(first[0], self.stale_from)
        if self.history is None or (self.history.since is not None and self.history.since.at >= before):
            raise self.history_needed(before if first > NOWHERE else None)
        return self.history

    def _settle_again(self, until: Place, first: Place = NOWHERE) -> list[Line]:
        """A run over all terms and usage, or what is later than a state before `first`.

        Returns the difference to what is booked, line by line.
        """
        history = self._require_since(first)
        self._has_warned(until)
        since = history.since
        booked = [*history.lines, *self.new_lines]
        usage = [*history.usage, *self.new_usage]
        if since is None:
            arriving = self.arrived() if self._arrivals is None else self._arrivals
            run = self.fresh_run()
        else:
            arriving = ()
            booked = [line for line in booked if line.at > since.at]
            usage = [fact for fact in usage if fact.at > since.at]
            run = self._run_from(since, booked, usage)
        reversals = (*history.reversals, *self.new_reversals)
        target = run.run_all(usage, reversals, until, self._all_holds(), arriving, since)
        difference = _difference(booked, target)
        self._states_are_stale(BEGINNING if since is None else since.at + _MICROSECOND)
        self._take_over(run)
        self.new_states += run.new_states
        self.stated_until = run.new_states[-1].at if run.new_states else None if since is None else since.at
        self.since_state = run.since_state
        return self._booked(difference)

    def _has_warned(self, until: Place) -> None:
        """Of ends that are near by then, and became known only now, is told with what made them known."""
        if self.lead_times:
            self.warned = until if self.warned is None else max(self.warned, until)

    def _all_holds(self) -> list[Hold]:
        """The holds of the history, as they are by now."""
        holds = {hold.hold_key: hold for hold in self._require_any_history().holds}
        return list((holds | self.new_holds).values())

    def fresh_run(self) -> Course:
        """A book in which nothing has happened yet, with the same terms; children by regrant are made by the run."""
        run = self._empty(Account(entitlement=self.entitlement.key, waiting=self.waiting))
        for grant_id, grant in self.grants.items():
            if grant.terms.origin is not Origin.REGRANT:
                run.grants[grant_id] = not_begun(grant)
        return run

    def _run_from(self, since: DayState, booked: Iterable[Line], usage: Iterable[UsageFact]) -> Course:
        """A book as it stood at `since`, with the terms of now, which differ by nothing that happened up to then.

        Raises HistoryNeeded where the state does not tell enough of what may happen: what reversals gave back before
        it, or how a grant stood that was over and changes none the less.
        """
        run = self._empty(msgspec.structs.replace(since.account, waiting=self.waiting))
        stood = {one.grant_id: one for one in since.grants}
        over: set[UUID] = set()
        run.stand([grant for grant_id, grant in self.grants.items() if grant_id in stood], stood)
        for grant_id, grant in self.grants.items():
            if grant_id in stood:
                continue
            if grant.terms.effective_at <= since.at:
                over.add(grant_id)
                run.grants[grant_id] = msgspec.structs.replace(grant, burns=None if grant.used else [])
            elif grant.terms.origin is not Origin.REGRANT:
                run.grants[grant_id] = not_begun(grant)
        known = {fact.usage_key for fact in usage}.union(self.waiting)
        known |= {hold.hold_key for hold in self._all_holds() if hold.confirmed and hold.ends_at > since.at}
        is_enough = (
            len(stood.keys() - run.grants.keys()) == 0
            and not any(line.grant_id in over or line.kind in LEAVING | ARRIVING for line in booked)
            and not any(_changes_when_over(run.grants[grant_id], since.at) for grant_id in over)
            and (
                not any(run.grants[grant_id].terms.regrants for grant_id in stood)
                or all(reversal.usage_key in known for reversal in self.reversals())
            )
        )
        if not is_enough:
            raise self.history_needed()
        return run

    def _empty(self, account: Account) -> Course:
        run = Course(self.entitlement, account)
        run.posting = self.posting
        run.customer_id = self.customer_id
        run.leaves_at = self.leaves_at
        run.holders = self.holders
        return run

    def _states_are_stale(self, instant: datetime) -> None:
        """States of `instant` and later do not hold any more."""
        if self.stated_until is None or self.stated_until < instant:
            return
        self.new_states = [state for state in self.new_states if state.at < instant]
        self.stale_from = instant if self.stale_from is None else min(instant, self.stale_from)
        self.stated_until = instant - _MICROSECOND if instant > BEGINNING else None
        self.since_state = max(self.since_state, STATE_USAGE_MIN)

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


def _changes_when_over(grant: BookedGrant, since: datetime) -> bool:
    if grant.phase is Phase.VOID:
        return False
    return bool(grant.short) or any(place[0] > since for place in places_of(grant.terms))


def _difference(booked: Iterable[Line], target: Iterable[Line]) -> list[Line]:
    """For each identity, what has to be added to the booked units to get the target's."""
    units: dict[tuple[Kind, datetime, UUID | None, UUID | None, str | None], int] = defaultdict(int)
    for line in target:
        units[line.identity()] += line.units
    for line in booked:
        units[line.identity()] -= line.units
    return [Line(*identity, delta) for identity, delta in units.items() if delta]


def _by_place(happening: tuple[Place, BookedGrant | Hold]) -> Place:
    return happening[0]


def _uuid_bytes(value: UUID) -> bytes:
    return value.bytes


def _line_order(line: Line) -> tuple[datetime, Kind, bytes, bytes, str]:
    return (
        line.at,
        line.kind,
        b"" if line.grant_id is None else line.grant_id.bytes,
        b"" if line.usage_key is None else line.usage_key.bytes,
        line.cut_id or "",
    )
