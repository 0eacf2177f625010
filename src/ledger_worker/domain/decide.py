"""What becomes of events.

Customers, the events told of them in order, and everything loaded, to what is to be written. Most often it is one
customer alone; those that a transfer or a merge ties together are decided together, because what reaches back in the
books of one may move units in another's.

Pure: reads only the events, the loaded state and the versions that the postings record. Whoever touches a customer
first books what has fallen due, each transition as an event of the ledger's own under a deterministic id.

Checks of an event are made in this order, and the first that applies decides: same id before (duplicate or conflicting
content), then those of `refusal` in theirs, then a merge that would close a circle; then the outcomes of
`outcomes.Outcome` in their order.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.customers import Customers
from ledger_worker.domain.decided import (
    Decided,
    DecidedCustomer,
    DecidedEvent,
    Loaded,
    NeedsHistory,
    Refused,
    Told,
    TooManyDue,
    told_of,
)
from ledger_worker.domain.effect import Effect
from ledger_worker.domain.events import (
    CustomersMerged,
    Event,
    HoldFact,
    HoldTaken,
    OfferReached,
    OfSource,
    SeatFact,
    UsageRecorded,
    UsageReversed,
    customers_of,
    source_key,
)
from ledger_worker.domain.expiring import warns
from ledger_worker.domain.history import HistoryNeeded
from ledger_worker.domain.holds import end_of, hold_of, pieces
from ledger_worker.domain.ledger import Entry, Holder, Line
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from ledger_worker.domain.owners import Merge, goes_on_as
from ledger_worker.domain.places import Transition, up_to_made
from ledger_worker.domain.refusal import refusal
from ledger_worker.domain.seats import beyond_bounds, evicted, holders_after, may_evict
from ledger_worker.domain.settlement import Book
from ledger_worker.domain.side import Side, entries_of
from ledger_worker.domain.sources import SourceState, fold, refold
from ledger_worker.domain.usage import LATE_OUTCOMES, counts_at, reversal_of, usage_of

__all__ = ["DUE_MAX", "Decision", "book_due", "decide"]

DUE_MAX = 100
"""Most transitions booked in one transaction for one customer."""


def decide(
    loaded: Loaded,
    told: Sequence[Told],
    catalogue: Catalogue,
    *,
    timeline: int,
    usage_kept: timedelta,
    settlement_window: timedelta,
) -> Decided | NeedsHistory | TooManyDue:
    """What becomes of `told`, in order, for the customers in `loaded`.

    `usage_kept` is how long the inbox keeps usage keys: older usage that it does not hold cannot be proven new. Usage
    that lies further back than `settlement_window` when it is recorded goes by its entitlement's policy `late_usage`.
    """
    decision = Decision(loaded, catalogue, timeline, usage_kept, settlement_window)
    try:
        for place, one in enumerate(told):
            due = decision.take(place, one)
            if due is not None:
                return due
    except HistoryNeeded as needed:
        return NeedsHistory(customer_id=needed.customer_id, entitlement=needed.entitlement, before=needed.before)
    return decision.decided()


def book_due(
    loaded: Loaded, customer_id: str, now: datetime, catalogue: Catalogue, *, timeline: int, at_most: int = DUE_MAX
) -> Decided | NeedsHistory:
    """What is due for the customer at `now` is booked, at most `at_most` transitions, the earliest first."""
    decision = Decision(loaded, catalogue, timeline, timedelta(), timedelta())
    try:
        decision.book_due(customer_id, now, at_most)
    except HistoryNeeded as needed:
        return NeedsHistory(customer_id=needed.customer_id, entitlement=needed.entitlement, before=needed.before)
    return decision.decided()


class Decision:
    """The customers while their events are being decided."""

    def __init__(
        self,
        loaded: Loaded,
        catalogue: Catalogue,
        timeline: int,
        usage_kept: timedelta,
        settlement_window: timedelta,
    ) -> None:
        self._loaded = loaded
        self.catalogue = catalogue
        self.customers = Customers(loaded, catalogue, timeline)
        self._usage_kept = usage_kept
        self._settlement_window = settlement_window
        self._sources: dict[str, SourceState] = {}
        self._seen: dict[tuple[str, UUID], bytes] = {}
        self._events: list[DecidedEvent] = []
        self._duplicates: list[int] = []
        self._refused: list[Refused] = []

    def take(self, place: int, told: Told) -> TooManyDue | None:
        """One event is decided; or, where too much is due of a customer it touches, nothing was done."""
        event = told.event
        known = self._known(told)
        if known is not None:
            if known == told.content_hash:
                self._duplicates.append(place)
            else:
                self._refuse(
                    place, DeadLetterReason.CONFLICTING_CONTENT, "this id was applied before with other content"
                )
            return None
        refused = refusal(event, told.now, self.catalogue, self._usage_kept)
        if refused is not None:
            self._refuse(place, *refused)
            return None
        if self.customers.closes_circle(event):
            message = (
                f"{event.customer_id} would go on as itself, expected another customer than one that goes on as it"
            )
            self._refuse(place, DeadLetterReason.CIRCULAR_MERGE, message)
            return None
        now = self.reach_now(self.customers.touched_by(event), told.now)
        if isinstance(now, TooManyDue):
            return now
        self._seen[event.customer_id, told.key] = told.content_hash
        self.customers.side(event.customer_id).last = now
        fact = event.fact
        if isinstance(fact, UsageRecorded):
            self.use(place, told, fact, now)
        elif isinstance(fact, UsageReversed):
            self._reverse(place, told, fact, now)
        elif isinstance(fact, HoldFact):
            self.hold(place, told, fact, now)
        elif isinstance(fact, OfSource):
            self._fold(place, told, source_key(fact), now)
        elif isinstance(fact, OfferReached):
            self._reach(place, told, fact, now)
        elif isinstance(fact, CustomersMerged):
            self._merge(place, told, fact, now)
        else:
            msg = f"{type(fact).__name__} cannot be told from outside"
            raise TypeError(msg)
        return None

    def reach_now(self, sides: Sequence[Side], now: datetime) -> datetime | TooManyDue:
        """What is due of these customers is booked; the instant behind it and behind everything recorded of them."""
        asked_at = now
        for side in sides:
            if side.last is not None and side.last >= now:
                now = side.last + _MICROSECOND
        due = self._due(sides, now)
        count = sum(1 + transition.makes_due for _, transition in due)
        if count > DUE_MAX:
            return TooManyDue(customer_id=due[0][0].customer_id, count=count, now=asked_at)
        return self.pass_due(sides, now)

    def pass_due(self, sides: Sequence[Side], now: datetime) -> datetime:
        """Whatever is due of these customers is booked; the instant behind it."""
        while due := self._due(sides, now):
            now = max(now, self._pass_all(sides, _up_to_made(due), now) + _MICROSECOND)
        for side in sides:
            side.look_ahead_again(now)
        return now

    def _known(self, told: Told) -> bytes | None:
        """The content under which the event was applied before: of its own customer, or of another id of the person."""
        own = told.event.customer_id
        known = told.known.get(own) or self._seen.get((own, told.key))
        if known is not None or not self.customers.merges:
            return known
        for side in self.customers.aliases(own):
            known = known or told.known.get(side.customer_id) or self._seen.get((side.customer_id, told.key))
        return known

    def book_due(self, customer_id: str, now: datetime, at_most: int) -> None:
        """Up to `at_most` transitions of the customer and those tied to it are booked, the earliest first."""
        side = self.customers.side(customer_id)
        sides = [self.customers.side(each) for each in sorted((customer_id, *side.linked), key=str.encode)]
        while at_most > 0 and (due := _up_to_made(self._due(sides, now))[:at_most]):
            self._pass_all(sides, due, now)
            at_most -= len(due)
        for side in sides:
            side.look_ahead_again(now)

    def decided(self) -> Decided:
        """Everything that is to be written."""
        customers = {}
        for customer_id in sorted(self.customers.sides, key=str.encode):
            side = self.customers.sides[customer_id]
            accounts, grants = side.booked()
            customers[customer_id] = DecidedCustomer(
                head=side.head(),
                is_tied_anew=side.is_tied_anew,
                postings=tuple(side.postings),
                changes=tuple(side.changes),
                accounts=accounts,
                grants=grants,
            )
        return Decided(
            customers=customers,
            events=tuple(self._events),
            duplicates=tuple(self._duplicates),
            refused=tuple(self._refused),
            sources=self._sources,
        )

    # -- what is due --

    @staticmethod
    def _due(sides: Sequence[Side], now: datetime) -> list[tuple[Side, Transition]]:
        """What is due of these customers at `now`, in the order in which it happens."""
        due = [(side, transition) for side in sides for transition in side.transitions(now)]
        due.sort(key=_due_order)
        return due

    def _pass_all(self, sides: Sequence[Side], due: Sequence[tuple[Side, Transition]], now: datetime) -> datetime:
        """The transitions are booked, a microsecond apart, just before `now` where there is room.

        What happens to one entitlement at one instant is told once, with the last of it: a period that ends where the
        next one begins is no loss of access. Returns the last instant used.
        """
        instant = now - sum(1 + may_evict(side.books[one.entitlement].entitlement) for side, one in due) * _MICROSECOND
        last = max((side.last for side in sides if side.last is not None), default=None)
        if last is not None:
            instant = max(instant, last + _MICROSECOND)
        tells = {
            _moment(side, transition): place
            for place, (side, transition) in enumerate(due)
            if not transition.is_told_apart
        }
        before: dict[tuple[str, str, datetime], EntitlementPicture] = {}
        for place, (side, transition) in enumerate(due):
            moment = _moment(side, transition)
            was = before.setdefault(moment, side.shown(transition.entitlement))
            if transition.is_told_apart:
                was = side.shown(transition.entitlement)
            tells_now = transition.is_told_apart or tells[moment] == place
            if not transition.is_warning:  # it moves nothing: where it is not told either, nothing is recorded of it
                side.last = instant
            instant = self._pass(side, transition, instant, was if tells_now else None) + _MICROSECOND
        return instant - _MICROSECOND

    def _pass(self, side: Side, transition: Transition, now: datetime, before: EntitlementPicture | None) -> datetime:
        """One transition is booked, with what moved by it to other customers; it takes an inbox row if anything was.

        It is told when `before`, the picture to compare with, is given. Returns the last instant used.
        """
        told = told_of(side.transition_event(transition), now)
        is_told = transition.is_warning and warns(side.open(transition.entitlement), transition)
        also = ("expiring_soon",) if is_told else ()
        effect = Effect(self.customers, now, until=transition.place, also=also)
        effect.has_changed(side, transition.entitlement, side.pass_transition(transition), before)
        effect.couple()
        if effect.post(told):
            self._keep(None, told, now, Outcome.APPLIED)
        return self._evict(effect, now)

    # -- checks --

    def _refuse(self, place: int, reason: DeadLetterReason, message: str) -> None:
        self._refused.append(Refused(told=place, reason=reason, message=message))

    # -- usage --

    def use(self, place: int | None, told: Told, fact: UsageRecorded, now: datetime) -> list[Entry]:
        """The usage is booked and told; the entries of whoever's it is."""
        entitlement = fact.entitlement
        event = told.event
        outcome = self._outcome_of_usage(event, entitlement, now)
        counted_at = counts_at(event.occurred_at, now, outcome)
        side = self.customers.side(goes_on_as(event.customer_id, self.customers.merges, counted_at))
        book = side.open(entitlement)
        self.customers.hand_over_waiting(side, entitlement, told.key)
        usage = usage_of(told.key, outcome, counted_at, fact.units, event.event_source, event.event_id)
        is_quiet = not side.linked and side.is_quiet(book, usage)
        before = None if is_quiet else side.shown(entitlement)
        entries = entries_of(book, book.use(usage, now), {})
        side.is_changed(entitlement, keeps_quiet=is_quiet)
        self._keep(place, told, now, outcome, counted_at)
        if not side.linked:
            side.post(told, now, entries, {} if before is None else {entitlement: before})
            return entries
        effect = Effect(self.customers, now)
        effect.has_changed(side, entitlement, entries, before)
        effect.couple()
        effect.post(told)
        return entries

    def hold(self, place: int | None, told: Told, fact: HoldFact, now: datetime) -> list[Entry]:
        """What was decided of a hold is booked and told; the entries of all whose it is or was."""
        event, merges, entitlement = told.event, self.customers.merges, fact.entitlement
        at = min(event.occurred_at, now)
        effect = Effect(self.customers, now)
        entries = []
        if isinstance(fact, HoldTaken):
            taken = pieces(hold_of(fact, event.event_source, event.event_id, at), event.customer_id, merges)
            for owner, hold in taken:
                book = self._touched(effect, owner, entitlement)
                entries += self._booked(effect, owner, book, book.hold(hold, now))
        else:
            end = end_of(fact, event.event_source, at)
            owner = goes_on_as(event.customer_id, merges, at)
            self.customers.hand_over_waiting(self.customers.side(owner), entitlement, end.hold_key)
            book = self._touched(effect, owner, entitlement)
            entries += self._booked(effect, owner, book, book.end_hold(end.hold_key, at, end.confirmed, now))
        self._keep(place, told, now, Outcome.APPLIED, at)
        effect.couple()
        effect.post(told)
        return entries

    def _touched(self, effect: Effect, customer_id: str, entitlement: str) -> Book:
        side = self.customers.side(customer_id)
        book = side.open(entitlement)
        effect.touch(side, entitlement)
        return book

    def _booked(self, effect: Effect, customer_id: str, book: Book, lines: Sequence[Line]) -> list[Entry]:
        side = self.customers.side(customer_id)
        entries = entries_of(book, lines, {})
        effect.add(side, entries)
        side.is_changed(book.entitlement.key)
        return entries

    def _outcome_of_usage(self, event: Event, entitlement: str, now: datetime) -> Outcome:
        """What becomes of usage that is recorded at `now`: beyond the settlement window as its policy says."""
        if now - event.occurred_at <= self._settlement_window:
            return Outcome.APPLIED
        return LATE_OUTCOMES[self.catalogue.entitlements[entitlement].late_usage]

    def _reverse(self, place: int, told: Told, fact: UsageReversed, now: datetime) -> None:
        event = told.event
        counted_at = min(event.occurred_at, now)
        reversal = reversal_of(fact, event.event_source, event.event_id, counted_at)
        side = self.customers.user_of(event.customer_id, fact.entitlement, reversal.usage_key)
        book = side.open(fact.entitlement)
        if self.customers.merges:
            self.customers.share_reversals(side, fact.entitlement)
        effect = Effect(self.customers, now)
        effect.touch(side, fact.entitlement)
        is_told_again = book.knows(reversal)
        lines = book.reverse(reversal, now)
        side.is_changed(fact.entitlement)
        effect.add(side, entries_of(book, lines, {}))
        if self.customers.merges:
            lines = [*lines, *effect.reverse_at_aliases(side, book.reversals(), fact.entitlement)]
        effect.couple()
        if is_told_again and not lines:
            outcome = Outcome.DUPLICATE_FACT
        elif book.waits_for(reversal.usage_key):
            outcome = Outcome.WAITING
        else:
            outcome = Outcome.APPLIED if lines else Outcome.NO_EFFECT
        self._keep(place, told, now, outcome, counted_at)
        effect.post(told)

    # -- seats --

    def seat(self, told: Told, fact: SeatFact, now: datetime) -> None:
        """What was decided of who holds a seat is recorded and told."""
        effect = Effect(self.customers, now)
        side = self.customers.side(goes_on_as(told.event.customer_id, self.customers.merges, now))
        book = self._touched(effect, side.customer_id, fact.entitlement)
        book.holders = holders_after(book.holders, fact, now)
        side.is_changed(fact.entitlement)
        self._keep(None, told, now, Outcome.APPLIED, now)
        effect.post(told)
        self._evict(effect, now)

    def _evict(self, effect: Effect, now: datetime) -> datetime:
        """Where the effect left fewer seats than holders, those without one are recorded right behind it, and told.

        Returns the last instant used.
        """
        for side, entitlement in effect.touched:
            book = side.open(entitlement)
            gone = evicted(book, effect.until)
            if gone:
                now = self._revoke(side, entitlement, gone, now)
        return now

    def _evict_beyond_bounds(self, customer_id: str, now: datetime) -> None:
        """Where a merge brought more holders together than can be told, the newest are recorded behind it, and told."""
        side = self.customers.side(goes_on_as(customer_id, self.customers.merges))
        for entitlement, gone in beyond_bounds({name: book.holders for name, book in side.books.items()}).items():
            now = self._revoke(side, entitlement, gone, now)

    def _revoke(self, side: Side, entitlement: str, gone: Sequence[Holder], now: datetime) -> datetime:
        """These, the last in the order of taking, have no seat any more. Returns the instant, which is behind `now`."""
        book = side.open(entitlement)
        now += _MICROSECOND
        if side.last is not None and side.last >= now:
            now = side.last + _MICROSECOND
        told = told_of(side.eviction_event(entitlement, tuple(one.name for one in gone), now), now)
        before = side.shown(entitlement)
        book.holders = book.holders[: -len(gone)]
        side.is_changed(entitlement)
        self._keep(None, told, now, Outcome.APPLIED, now)
        side.post(told, now, (), {entitlement: before})
        side.last = now
        return now

    # -- merges --

    def _merge(self, place: int, told: Told, fact: CustomersMerged, now: datetime) -> None:
        """The customer goes on as the other: sources and what they give, overage and debt, and usage since then."""
        old, into = told.event.customer_id, fact.into_customer_id
        at = min(told.event.occurred_at, now)
        if old in self.customers.merges:
            is_same = goes_on_as(old, self.customers.merges) == goes_on_as(into, self.customers.merges)
            self._keep(place, told, now, Outcome.ALREADY_MERGED if is_same else Outcome.CONTRADICTED, at)
            return
        self._keep(place, told, now, Outcome.APPLIED, at)
        before = dict(self.customers.merges)
        self.customers.merges[old] = Merge(fact.merge_id, at, into)
        self.customers.link((old, into))
        side = self.customers.side(old)
        effect = Effect(self.customers, now, merged=side)
        for key in sorted({*self._loaded.sources, *self._sources}, key=str.encode):
            state = self._sources.get(key) or self._loaded.sources[key]
            folded = refold(state, key, self.catalogue, before, self.customers.merges, now)
            if folded.state != state or folded.before != folded.terms:
                self._sources[key] = folded.state
                self.customers.link({state.claimant, *(holding.customer_id for holding in folded.owners)})
                effect.book(folded)
        side.merge = self.customers.merges[old]
        for book in side.books.values():
            book.leaves_at = at  # also of one that was only looked into, so that nobody is told of it
        for entitlement in side.entitlements:
            effect.leave(side, entitlement, at)
        effect.couple()
        effect.post(told)
        self._evict_beyond_bounds(old, self._evict(effect, now))

    # -- sources --

    def _fold(self, place: int, told: Told, key: str, now: datetime) -> None:
        event = told.event
        claimant = self._loaded.claimants.get(key, event.customer_id)
        state = self._sources.get(key) or self._loaded.sources.get(key) or SourceState(claimant=claimant)
        folded = fold(state, event, key, self.catalogue, self.customers.merges, now)
        self._sources[key] = folded.state
        self._keep(place, told, now, folded.outcome)
        self.customers.link({claimant, *customers_of(event), *(holding.customer_id for holding in folded.owners)})
        effect = Effect(self.customers, now)
        effect.book(folded)
        effect.post(told)
        self._evict(effect, now)

    def _reach(self, place: int, told: Told, fact: OfferReached, now: datetime) -> None:
        key = fact.source_key
        state = self._sources.get(key) or self._loaded.sources.get(key) or SourceState()
        folded = refold(state, key, self.catalogue, self.customers.merges, self.customers.merges, now)
        self._sources[key] = folded.state
        self._keep(place, told, now, folded.outcome)
        effect = Effect(self.customers, now)
        effect.book(folded)
        effect.post(told)
        self._evict(effect, now)

    # -- keeping and posting --

    def _keep(
        self, place: int | None, told: Told, now: datetime, outcome: Outcome, counted_at: datetime | None = None
    ) -> None:
        self._events.append(
            DecidedEvent(
                told=place,
                event=told.event,
                key=told.key,
                content_hash=told.content_hash,
                payload=told.payload,
                recorded_at=now,
                outcome=outcome,
                counted_at=counted_at,
            )
        )


_MICROSECOND = timedelta(microseconds=1)


def _up_to_made(due: Sequence[tuple[Side, Transition]]) -> Sequence[tuple[Side, Transition]]:
    return due[: len(up_to_made([transition for _, transition in due]))]


def _moment(side: Side, transition: Transition) -> tuple[str, str, datetime]:
    return side.customer_id, transition.entitlement, transition.place[0]


def _due_order(due: tuple[Side, Transition]) -> tuple[datetime, str, str, bytes]:
    side, transition = due
    return (*transition.place, transition.entitlement, side.customer_id.encode())
