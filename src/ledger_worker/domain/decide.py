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

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from ledger_worker.domain.booked import BookedGrant
from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.course import HistoryNeeded
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
from ledger_worker.domain.events import (
    CustomersMerged,
    Event,
    OfferReached,
    OfSource,
    UsageRecorded,
    UsageReversed,
    customers_of,
    source_key,
)
from ledger_worker.domain.ledger import Entry, GrantTerms, Line, Phase, Reversal
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from ledger_worker.domain.owners import Held, Merge, goes_on_as
from ledger_worker.domain.parcels import Parcel
from ledger_worker.domain.places import Place, Transition, all_of
from ledger_worker.domain.refusal import refusal
from ledger_worker.domain.side import Side, entries_of
from ledger_worker.domain.sources import Folded, SourceState, fold, refold
from ledger_worker.domain.usage import LATE_OUTCOMES, counts_at, reversal_of, usage_of

__all__ = ["DUE_MAX", "book_due", "decide"]

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
    decision = _Decision(loaded, catalogue, timeline, usage_kept, settlement_window)
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
    decision = _Decision(loaded, catalogue, timeline, timedelta(), timedelta())
    try:
        decision.book_due(customer_id, now, at_most)
    except HistoryNeeded as needed:
        return NeedsHistory(customer_id=needed.customer_id, entitlement=needed.entitlement, before=needed.before)
    return decision.decided()


class _Effect:
    """What one event does, by customer: entries, and the pictures to compare with, each drawn before its book changes.

    Books are settled up to `until`: the event's instant, or the place of a transition.
    """

    def __init__(self, now: datetime, until: Place | None = None) -> None:
        self.now = now
        self.until = until or all_of(now)
        self.entries: dict[str, list[Entry]] = {}
        self.before: dict[str, dict[str, EntitlementPicture]] = {}
        self.touched: list[tuple[Side, str]] = []
        self.merged: Side | None = None

    def touch(self, side: Side, entitlement: str) -> None:
        """The entitlement's book is about to change."""
        pictures = self.before.setdefault(side.customer_id, {})
        if entitlement not in pictures:
            pictures[entitlement] = side.shown(entitlement)
            self.touched.append((side, entitlement))

    def add(self, side: Side, entries: Iterable[Entry]) -> None:
        """These entries are booked at the customer."""
        self.entries.setdefault(side.customer_id, []).extend(entries)


class _Decision:
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
        self._catalogue = catalogue
        self._timeline = timeline
        self._usage_kept = usage_kept
        self._settlement_window = settlement_window
        self._merges: dict[str, Merge] = {
            customer_id: one.head.merge for customer_id, one in loaded.customers.items() if one.head.merge is not None
        }
        self._sides: dict[str, Side] = {}
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
        refused = refusal(event, told.now, self._catalogue, self._usage_kept)
        if refused is not None:
            self._refuse(place, *refused)
            return None
        if self._closes_circle(event):
            message = (
                f"{event.customer_id} would go on as itself, expected another customer than one that goes on as it"
            )
            self._refuse(place, DeadLetterReason.CIRCULAR_MERGE, message)
            return None
        sides = self._touched_by(event)
        now = told.now
        for side in sides:
            if side.last is not None and side.last >= now:
                now = side.last + _MICROSECOND
        due = self._due(sides, now)
        if len(due) > DUE_MAX:
            return TooManyDue(customer_id=due[0][0].customer_id, count=len(due), now=told.now)
        while due:
            now = max(now, self._pass_all(sides, due, now) + _MICROSECOND)
            due = self._due(sides, now)
        self._seen[event.customer_id, told.key] = told.content_hash
        self._side(event.customer_id).last = now
        fact = event.fact
        if isinstance(fact, UsageRecorded):
            self._use(place, told, fact, now)
        elif isinstance(fact, UsageReversed):
            self._reverse(place, told, fact, now)
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

    def _known(self, told: Told) -> bytes | None:
        """The content under which the event was applied before: of its own customer, or of another id of the person."""
        own = told.event.customer_id
        known = told.known.get(own) or self._seen.get((own, told.key))
        if known is not None or not self._merges:
            return known
        for side in self._aliases(own):
            known = known or told.known.get(side.customer_id) or self._seen.get((side.customer_id, told.key))
        return known

    def book_due(self, customer_id: str, now: datetime, at_most: int) -> None:
        """Up to `at_most` transitions of the customer and those tied to it are booked, the earliest first."""
        side = self._side(customer_id)
        sides = [self._side(each) for each in sorted((customer_id, *side.linked), key=str.encode)]
        due = self._due(sides, now)[:at_most]
        if due:
            self._pass_all(sides, due, now)

    def decided(self) -> Decided:
        """Everything that is to be written."""
        customers = {}
        for customer_id in sorted(self._sides, key=str.encode):
            side = self._sides[customer_id]
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

    # -- customers --

    def _side(self, customer_id: str) -> Side:
        side = self._sides.get(customer_id)
        if side is None:
            side = Side(self._loaded.customers[customer_id], self._catalogue, self._timeline)
            self._sides[customer_id] = side
        return side

    def _touched_by(self, event: Event) -> list[Side]:
        """The customers whose books the event may change, in key order: those it names and those tied to them."""
        if len(self._loaded.customers) == 1:
            return [self._side(event.customer_id)]
        ids = set(customers_of(event))
        fact = event.fact
        if isinstance(fact, OfSource):
            ids.add(self._loaded.claimants.get(source_key(fact), event.customer_id))
        for customer_id in tuple(ids):
            ids.update(self._side(customer_id).linked)
        return [self._side(customer_id) for customer_id in sorted(ids, key=str.encode)]

    def _link(self, customer_ids: Iterable[str]) -> None:
        """These customers, and all that are tied to any of them, are tied to each other."""
        tied = set(customer_ids)
        for customer_id in tuple(tied):
            tied.update(self._side(customer_id).linked)
        if len(tied) > 1:
            for customer_id in tied:
                self._side(customer_id).linked = tuple(sorted(tied - {customer_id}, key=str.encode))

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
        instant = now - len(due) * _MICROSECOND
        last = max((side.last for side in sides if side.last is not None), default=None)
        if last is not None:
            instant = max(instant, last + _MICROSECOND)
        tells = {
            _moment(side, transition): place
            for place, (side, transition) in enumerate(due)
            if not transition.is_payment
        }
        before: dict[tuple[str, str, datetime], EntitlementPicture] = {}
        for place, (side, transition) in enumerate(due):
            moment = _moment(side, transition)
            was = before.setdefault(moment, side.shown(transition.entitlement))
            if transition.is_payment:
                was = side.shown(transition.entitlement)
            tells_now = transition.is_payment or tells[moment] == place
            self._pass(side, transition, instant, was if tells_now else None)
            side.last = instant
            instant += _MICROSECOND
        return instant - _MICROSECOND

    def _pass(self, side: Side, transition: Transition, now: datetime, before: EntitlementPicture | None) -> None:
        """One transition is booked, with what moved by it to other customers; it takes an inbox row if anything was.

        It is told when `before`, the picture to compare with, is given.
        """
        told = told_of(side.transition_event(transition), now)
        effect = _Effect(now, transition.place)
        effect.before[side.customer_id] = {} if before is None else {transition.entitlement: before}
        effect.touched.append((side, transition.entitlement))
        effect.add(side, side.pass_transition(transition))
        self._couple(effect)
        if self._post(told, effect):
            self._keep(None, told, now, Outcome.APPLIED)

    # -- checks --

    def _refuse(self, place: int, reason: DeadLetterReason, message: str) -> None:
        self._refused.append(Refused(told=place, reason=reason, message=message))

    # -- usage --

    def _use(self, place: int, told: Told, fact: UsageRecorded, now: datetime) -> None:
        entitlement = fact.entitlement
        event = told.event
        outcome = self._outcome_of_usage(event, entitlement, now)
        counted_at = counts_at(event.occurred_at, now, outcome)
        side = self._side(goes_on_as(event.customer_id, self._merges, counted_at))
        book = side.open(entitlement)
        self._hand_over_waiting(side, entitlement, told.key)
        usage = usage_of(told.key, outcome, counted_at, fact.units, event.event_source, event.event_id)
        is_quiet = not side.linked and side.is_quiet(book, usage)
        before = {} if is_quiet else {entitlement: side.shown(entitlement)}
        entries = entries_of(book, book.use(usage, now), {})
        side.is_changed(entitlement, keeps_quiet=is_quiet)
        self._keep(place, told, now, outcome, counted_at)
        if not side.linked:
            side.post(told, now, entries, before)
            return
        effect = _Effect(now)
        effect.before[side.customer_id] = before
        effect.touched.append((side, entitlement))
        effect.add(side, entries)
        self._couple(effect)
        self._post(told, effect)

    def _outcome_of_usage(self, event: Event, entitlement: str, now: datetime) -> Outcome:
        """What becomes of usage that is recorded at `now`: beyond the settlement window as its policy says."""
        if now - event.occurred_at <= self._settlement_window:
            return Outcome.APPLIED
        return LATE_OUTCOMES[self._catalogue.entitlements[entitlement].late_usage]

    def _reverse(self, place: int, told: Told, fact: UsageReversed, now: datetime) -> None:
        event = told.event
        counted_at = min(event.occurred_at, now)
        reversal = reversal_of(fact, event.event_source, event.event_id, counted_at)
        side = self._user_of(event.customer_id, fact.entitlement, reversal.usage_key)
        book = side.open(fact.entitlement)
        if self._merges:
            self._share_reversals(side, fact.entitlement)
        effect = _Effect(now)
        effect.touch(side, fact.entitlement)
        is_told_again = book.knows(reversal)
        lines = book.reverse(reversal, now)
        side.is_changed(fact.entitlement)
        effect.add(side, entries_of(book, lines, {}))
        if self._merges:
            lines = [*lines, *self._reverse_at_aliases(side, book.reversals(), fact.entitlement, effect)]
        self._couple(effect)
        if is_told_again and not lines:
            outcome = Outcome.DUPLICATE_FACT
        elif book.waits_for(reversal.usage_key):
            outcome = Outcome.WAITING
        else:
            outcome = Outcome.APPLIED if lines else Outcome.NO_EFFECT
        self._keep(place, told, now, outcome, counted_at)
        self._post(told, effect)

    def _reverse_at_aliases(
        self, side: Side, reversals: tuple[Reversal, ...], entitlement: str, effect: _Effect
    ) -> list[Line]:
        """What reverses usage of one id of a person may have reversed other usage, of another id, before."""
        lines = []
        for other in self._aliases(side.customer_id):
            if other is not side:
                book = other.open(entitlement)
                effect.touch(other, entitlement)
                adopted = book.adopt((), reversals, effect.until)
                effect.add(other, entries_of(book, adopted, {}))
                other.is_changed(entitlement)
                lines += adopted
        return lines

    def _aliases(self, customer_id: str) -> list[Side]:
        """The customer and all who are the same person as it, by merges: whom it goes on as first."""
        root = goes_on_as(customer_id, self._merges)
        same = [each for each in self._side(root).linked if goes_on_as(each, self._merges) == root]
        return [self._side(each) for each in (root, *same)]

    def _user_of(self, customer_id: str, entitlement: str, usage_key: UUID) -> Side:
        """Whose usage that is, of all who are the same person; whom they go on as where it was not told yet."""
        if not self._merges:
            return self._side(customer_id)
        sides = self._aliases(customer_id)
        return next((side for side in sides if side.open(entitlement).has_used(usage_key)), sides[0])

    def _share_reversals(self, side: Side, entitlement: str) -> None:
        """All ids of the person know what was told to reverse usage of any, also where it is not stored yet."""
        same = self._aliases(side.customer_id)
        told = {one.tie: one for each in same for one in each.open(entitlement).reversals()}
        for each in same:
            each.open(entitlement).learn(told.values())

    def _hand_over_waiting(self, side: Side, entitlement: str, usage_key: UUID) -> None:
        """A reversal that waits for the usage at another id of the same person waits here."""
        if not self._merges:
            return
        for other in self._aliases(side.customer_id):
            if other is not side and other.open(entitlement).waits_for(usage_key):
                self._share_reversals(side, entitlement)
                side.open(entitlement).wait_for(usage_key)
                return

    # -- merges --

    def _closes_circle(self, event: Event) -> bool:
        fact = event.fact
        return (
            isinstance(fact, CustomersMerged)
            and event.customer_id not in self._merges
            and (goes_on_as(fact.into_customer_id, self._merges) == event.customer_id)
        )

    def _merge(self, place: int, told: Told, fact: CustomersMerged, now: datetime) -> None:
        """The customer goes on as the other: sources and what they give, overage and debt, and usage since then."""
        old, into = told.event.customer_id, fact.into_customer_id
        at = min(told.event.occurred_at, now)
        if old in self._merges:
            is_same = goes_on_as(old, self._merges) == goes_on_as(into, self._merges)
            self._keep(place, told, now, Outcome.ALREADY_MERGED if is_same else Outcome.CONTRADICTED, at)
            return
        self._keep(place, told, now, Outcome.APPLIED, at)
        before = dict(self._merges)
        self._merges[old] = Merge(fact.merge_id, at, into)
        self._link((old, into))
        effect = _Effect(now)
        effect.merged = self._side(old)
        for key in sorted({*self._loaded.sources, *self._sources}, key=str.encode):
            state = self._sources.get(key) or self._loaded.sources[key]
            folded = refold(state, key, self._catalogue, before, self._merges)
            if folded.state != state or folded.before != folded.terms:
                self._sources[key] = folded.state
                self._link({state.claimant, *(holding.customer_id for holding in folded.owners)})
                self._book(folded, effect)
        side = effect.merged
        side.merge = self._merges[old]
        for entitlement in sorted(side.books):
            self._leave(side, entitlement, at, effect)
        self._couple(effect)
        self._post(told, effect)

    def _leave(self, side: Side, entitlement: str, at: datetime, effect: _Effect) -> None:
        """Overage, debt and later usage of one entitlement go on with the customer."""
        book = side.open(entitlement)
        effect.touch(side, entitlement)
        lines, usage = book.leave(at, effect.now)
        effect.add(side, entries_of(book, lines, {}))
        side.is_changed(entitlement)
        same = self._aliases(side.customer_id)
        reversals = {one.tie: one for each in same for one in each.open(entitlement).reversals()}
        for other in same:
            theirs = [
                each for each in usage if goes_on_as(side.customer_id, self._merges, each.at) == other.customer_id
            ]
            if not theirs and not reversals:
                continue
            effect.touch(other, entitlement)
            adopted = other.open(entitlement).adopt(theirs, tuple(reversals.values()), effect.until)
            effect.add(other, entries_of(other.open(entitlement), adopted, {}))
            other.is_changed(entitlement)

    # -- sources --

    def _fold(self, place: int, told: Told, key: str, now: datetime) -> None:
        event = told.event
        claimant = self._loaded.claimants.get(key, event.customer_id)
        state = self._sources.get(key) or self._loaded.sources.get(key) or SourceState(claimant=claimant)
        folded = fold(state, event, key, self._catalogue, self._merges)
        self._sources[key] = folded.state
        self._keep(place, told, now, folded.outcome)
        self._link({claimant, *customers_of(event), *(holding.customer_id for holding in folded.owners)})
        effect = _Effect(now)
        self._book(folded, effect)
        self._post(told, effect)

    def _reach(self, place: int, told: Told, fact: OfferReached, now: datetime) -> None:
        key = fact.source_key
        state = self._sources.get(key) or self._loaded.sources.get(key) or SourceState()
        folded = refold(state, key, self._catalogue, self._merges, self._merges)
        self._sources[key] = folded.state
        self._keep(place, told, now, folded.outcome)
        effect = _Effect(now)
        self._book(folded, effect)
        self._post(told, effect)

    def _book(self, folded: Folded, effect: _Effect) -> None:
        """The difference of the terms is in the books of whoever holds the grants, givers before receivers."""
        before, after = _by_customer(folded.before), _by_customer(folded.terms)
        chain = [holding.customer_id for holding in folded.owners]
        for customer_id in dict.fromkeys((*chain, *sorted(before))):
            was, will = before.get(customer_id, {}), after.get(customer_id, {})
            changed = [grant_id for grant_id in was.keys() | will.keys() if was.get(grant_id) != will.get(grant_id)]
            if not changed:
                continue
            side = self._side(customer_id)
            entitlements = sorted(
                {terms[grant_id].entitlement for terms in (was, will) for grant_id in changed if grant_id in terms}
            )
            for entitlement in entitlements:
                book = side.open(entitlement)
                effect.touch(side, entitlement)
                old = self._with_units(side, _of(entitlement, was, changed))
                new = self._with_units(side, _of(entitlement, will, changed))
                lines = book.set_terms(old, new, effect.until)
                effect.add(side, entries_of(book, lines, new))
                side.is_changed(entitlement)
        self._couple(effect)

    def _with_units(self, side: Side, terms: dict[UUID, GrantTerms]) -> dict[UUID, GrantTerms]:
        """The terms of children by transfer with the units that moved to them: their source does not know how many.

        Of a new child nobody does yet: it gets them when what it receives is coupled to what its giver lost.
        """
        return {grant_id: self._with_moved(side, one) for grant_id, one in terms.items()}

    def _with_moved(self, side: Side, terms: GrantTerms) -> GrantTerms:
        if not terms.receives_from_another or terms.parent is None:
            return terms
        booked = side.open(terms.entitlement).grants.get(terms.grant_id)
        if booked is not None and booked.phase is not Phase.VOID:
            return msgspec.structs.replace(terms, amount=booked.terms.amount)
        return terms

    def _couple(self, effect: _Effect) -> None:
        """What moved between customers is as many units at the receiver as left the giver, through any chain of them.

        Each round goes on to a later instant, so it ends with the last transfer.
        """
        for side, entitlement in effect.touched:
            if not side.linked:
                continue
            self._deliver(side, entitlement, effect)
            for grant in sorted(side.books[entitlement].grants.values(), key=_by_start):
                terms = grant.terms
                if terms.moves_to is None or terms.amount is None or terms.rolls_into is None:
                    continue
                if grant.phase is Phase.VOID:
                    continue
                receiver = self._side(terms.moves_to)
                book = receiver.open(entitlement)
                child = book.grants.get(terms.rolls_into)
                if child is None:
                    if book.history is None:
                        raise HistoryNeeded(entitlement, receiver.customer_id)
                    continue
                if child.terms.amount == grant.moved:
                    continue
                effect.touch(receiver, entitlement)
                old = {terms.rolls_into: child.terms}
                new = {terms.rolls_into: msgspec.structs.replace(child.terms, amount=grant.moved)}
                lines = book.set_terms(old, new, effect.until)
                effect.add(receiver, entries_of(book, lines, new))
                receiver.is_changed(entitlement)
                # Its own children may have changed by that, also where it was looked at before.
                effect.touched.append((receiver, entitlement))

    def _deliver(self, side: Side, entitlement: str, effect: _Effect) -> None:
        """What has left the books of customers who went on as others has arrived in theirs.

        In the book of whom they have gone on as by then: who has gone on himself passes nothing on.
        """
        if side.merge is None or not (effect.merged or side.books[entitlement].has_new_parcels):
            return
        same = self._aliases(side.customer_id)
        sent: dict[str, list[Parcel]] = {each.customer_id: [] for each in same}
        for each in same:
            if each.merge is not None:
                for parcel in each.open(entitlement).parcels():
                    sent[goes_on_as(each.merge.into, self._merges, parcel.at)].append(parcel)
        for receiver in same:
            book = receiver.open(entitlement)
            parcels = sorted(sent[receiver.customer_id], key=_by_label)
            if parcels == sorted(book.arrived(), key=_by_label):
                continue
            effect.touch(receiver, entitlement)
            effect.add(receiver, entries_of(book, book.receive(parcels, effect.until), {}))
            receiver.is_changed(entitlement)
            effect.touched.append((receiver, entitlement))

    # -- keeping and posting --

    def _post(self, told: Told, effect: _Effect) -> bool:
        """One posting for each customer that the event did something to; False when there is none."""
        any_posted = False
        for customer_id in sorted(effect.before.keys() | effect.entries.keys(), key=str.encode):
            side = self._sides[customer_id]
            entries = effect.entries.get(customer_id, ())
            also = ("merged",) if side is effect.merged else ()
            is_posted = side.post(told, effect.now, entries, effect.before.get(customer_id, {}), also)
            any_posted = any_posted or is_posted
            if is_posted and (side.last is None or side.last < effect.now):
                side.last = effect.now
        return any_posted

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


def _by_start(grant: BookedGrant) -> tuple[datetime, bytes]:
    return (grant.terms.effective_at, grant.terms.grant_id.bytes)


def _by_label(parcel: Parcel) -> tuple[datetime, bytes, str, int]:
    return (parcel.at, parcel.debt.usage_key.bytes, parcel.label, parcel.debt.units)


def _moment(side: Side, transition: Transition) -> tuple[str, str, datetime]:
    return side.customer_id, transition.entitlement, transition.place[0]


def _due_order(due: tuple[Side, Transition]) -> tuple[datetime, str, str, bytes]:
    side, transition = due
    return (*transition.place, transition.entitlement, side.customer_id.encode())


def _by_customer(held: Iterable[Held]) -> dict[str, dict[UUID, GrantTerms]]:
    found: dict[str, dict[UUID, GrantTerms]] = {}
    for one in held:
        found.setdefault(one.customer_id, {})[one.terms.grant_id] = one.terms
    return found


def _of(entitlement: str, terms: Mapping[UUID, GrantTerms], changed: Iterable[UUID]) -> dict[UUID, GrantTerms]:
    return {
        grant_id: terms[grant_id]
        for grant_id in changed
        if grant_id in terms and terms[grant_id].entitlement == entitlement
    }
