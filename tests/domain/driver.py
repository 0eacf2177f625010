"""Customers' lives by the pure rules alone: what is decided is stored as values, read back, and decided on.

It does what a transaction does around `decide` (asks for histories, catches up with what is due, claims sources), so
that rules can be tried thousands of times a second. It is a way to call pure functions, not a database: the tests of
`tests/apply` and `tests/stories` run the same on PostgreSQL.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

import msgspec

from ledger_worker.domain.access import picture, settle_due
from ledger_worker.domain.ahead import books_ahead
from ledger_worker.domain.answers import ToAnswer, answer
from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import Change, EntitlementPicture
from ledger_worker.domain.decide import book_due, decide
from ledger_worker.domain.decided import (
    CustomerHead,
    Decided,
    DecidedEvent,
    Loaded,
    LoadedCustomer,
    NeedsHistory,
    Refused,
    Told,
    TooManyDue,
    told_of,
)
from ledger_worker.domain.events import (
    CustomersMerged,
    Event,
    HoldFact,
    PurchaseTransferred,
    SourceFact,
    SubscriptionTransferred,
    UsageRecorded,
    UsageReversed,
    event_key,
    source_key,
)
from ledger_worker.domain.history import History, HistoryNeeded
from ledger_worker.domain.holds import HoldsTold, pieces
from ledger_worker.domain.ledger import Account, DayState, Grant, Kind, Line, Phase, Posting, Reversal, UsageFact
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.owners import Merge, goes_on_as
from ledger_worker.domain.places import usage_tie
from ledger_worker.domain.requests import Answer, Asked, Confirm, Release, judge
from ledger_worker.domain.settlement import Book
from ledger_worker.domain.sources import SourceState

USAGE_KEPT = timedelta(days=400)
SETTLEMENT_WINDOW = timedelta(days=35)

_Identity = tuple[Kind, datetime, UUID | None, UUID | None, str | None]
_Value = TypeVar("_Value", bound=msgspec.Struct)


class Customer:
    """What is stored of one customer."""

    def __init__(self, customer_id: str) -> None:
        self.head = CustomerHead(customer_id=customer_id)
        self.accounts: dict[str, Account] = {}
        self.grants: dict[UUID, Grant] = {}
        self.states: dict[str, list[DayState]] = defaultdict(list)
        self.postings: list[Posting] = []
        self.changes: list[Change] = []

    def open_grants(self, entitlement: str) -> list[Grant]:
        """Those that a decision loads: not over, and never void."""
        return [
            grant
            for grant in self.grants.values()
            if grant.terms.entitlement == entitlement and grant.phase in {Phase.PENDING, Phase.ACTIVE, Phase.ENDING}
        ]


class World:
    """Customers, from nothing."""

    def __init__(self, catalogue: Catalogue, settlement_window: timedelta = SETTLEMENT_WINDOW) -> None:
        self.catalogue = catalogue
        self.settlement_window = settlement_window
        self.customers: dict[str, Customer] = {}
        self.claimants: dict[str, str] = {}
        self.sources: dict[str, SourceState] = {}
        self.inbox: dict[tuple[str, UUID], DecidedEvent] = {}
        self.refused: list[Refused] = []
        self.answers: dict[tuple[str, str], Answer] = {}
        self._ahead: dict[tuple[str, datetime], dict[str, Book]] = {}

    def customer(self, customer_id: str) -> Customer:
        """What is stored of the customer; nothing yet of one who is named for the first time."""
        return self.customers.setdefault(customer_id, Customer(customer_id))

    def tell(self, *told: tuple[Event, datetime]) -> Decided:
        """The events are decided together, each recorded at its instant, and what was decided is stored.

        Where more falls due between two of them than one decision may book, those before it are decided first: workers
        record the events of a batch within microseconds. Returned is what was decided last.
        """
        told_values = [self._told(event, now) for event, now in told]
        for one in told_values:
            if isinstance(one.event.fact, SourceFact) and not one.known:
                self.claimants.setdefault(source_key(one.event.fact), one.event.customer_id)
        found = self._decide(told_values)
        rounds = 0
        while isinstance(found, TooManyDue):
            assert rounds < 100, "catching up does not end"
            caught_up = self.catch_up(told_values[0].now, found.customer_id, at_most=100)
            if not caught_up.events and len(told) > 1:
                middle = len(told) // 2
                self.tell(*told[:middle])
                return self.tell(*told[middle:])
            found = self._decide(told_values)
            rounds += 1
        self._store(found)
        return found

    def outcome_of(self, event: Event, now: datetime) -> Outcome:
        """The event is told alone; what became of it."""
        decided = self.tell((event, now))
        if decided.duplicates:
            return Outcome.DUPLICATE
        return decided.events[-1].outcome

    def ask(self, request: Asked, now: datetime) -> Answer:
        """The request is decided at that instant and answered, and what was decided is stored."""
        assert judge(request) is None
        histories: dict[tuple[str, str], History] = {}
        held = None
        if isinstance(request, Confirm | Release):
            held = self.answers.get((request.caller, request.hold))
        while True:
            group = {request.customer_id, *self.customer(request.customer_id).head.linked}
            to_answer = ToAnswer(request, now, held)
            found = answer(self._loaded(histories, group), [to_answer], self.catalogue, timeline=1)
            if isinstance(found, NeedsHistory):
                self._add_history(histories, found)
            elif isinstance(found, TooManyDue):
                self.catch_up(now, found.customer_id, at_most=100)
                histories.clear()
            else:
                decided, (answered,) = found
                self._store(decided)
                self.answers[request.caller, request.key] = answered
                return answered

    def catch_up(self, now: datetime, customer_id: str, at_most: int = 100_000) -> Decided:
        """What is due for the customer at `now` is booked, the earliest `at_most` of it."""
        self.customer(customer_id)
        histories: dict[tuple[str, str], History] = {}
        while True:
            loaded = self._loaded(histories, {customer_id, *self.customers[customer_id].head.linked})
            found = book_due(loaded, customer_id, now, self.catalogue, timeline=1, at_most=at_most)
            if not isinstance(found, NeedsHistory):
                self._store(found)
                return found
            self._add_history(histories, found)

    def picture_of(self, customer_id: str, entitlement: str, at: datetime) -> EntitlementPicture:
        """The entitlement as a read at `at` shows it, booked or not."""
        customer = self.customer(customer_id)
        if customer.head.linked:
            book = self._books_together(customer_id, at).get(entitlement)
            return picture(book or Book(self.catalogue.entitlements[entitlement], Account(entitlement=entitlement), ()))
        account = customer.accounts.get(entitlement) or Account(entitlement=entitlement)
        policy = self.catalogue.entitlements[entitlement]
        book = Book(policy, account, customer.open_grants(entitlement))
        try:
            settle_due(book, at)
        except HistoryNeeded:
            book = Book(policy, account, (), self.history_of(customer_id, entitlement))
            settle_due(book, at)
        return picture(book)

    def _books_together(self, customer_id: str, at: datetime) -> dict[str, Book]:
        """The customer's books with everything passed that is due of it and of those it is tied to.

        Kept until something is stored: they are only read.
        """
        if (customer_id, at) in self._ahead:
            return self._ahead[customer_id, at]
        histories: dict[tuple[str, str], History] = {}
        while True:
            loaded = self._loaded(histories, {customer_id, *self.customers[customer_id].head.linked})
            found = books_ahead(loaded, customer_id, at, self.catalogue)
            if not isinstance(found, NeedsHistory):
                self._ahead[customer_id, at] = found
                return found
            self._add_history(histories, found)

    def history_of(self, customer_id: str, entitlement: str, before: datetime | None = None) -> History:
        """What the account ever saw, or saw since its newest state before that, lines summed by identity."""
        customer = self.customer(customer_id)
        states = [one for one in customer.states[entitlement] if before is not None and one.at < before]
        since = states[-1] if states else None
        units: dict[_Identity, int] = defaultdict(int)
        before_state: dict[_Identity, int] = defaultdict(int)
        for posting in customer.postings:
            for entry in posting.entries:
                if entry.entitlement == entitlement and (since is None or entry.line.at > since.at):
                    units[entry.line.identity()] += entry.line.units
                    if since is not None and posting.number <= since.posting and entry.line.kind is not Kind.GRANTED:
                        before_state[entry.line.identity()] += entry.line.units
        assert not any(before_state.values()), "what is later than a state was booked before it"
        usage = []
        reversals = []
        holds = HoldsTold()
        merges = self.merges()
        root = goes_on_as(customer_id, merges)
        for decided in self.inbox.values():
            event, fact = decided.event, decided.event.fact
            if goes_on_as(event.customer_id, merges) != root or decided.counted_at is None:
                continue
            tie = usage_tie(event.event_source, event.event_id)
            if isinstance(fact, UsageRecorded) and fact.entitlement == entitlement:
                if goes_on_as(event.customer_id, merges, decided.counted_at) != customer_id:
                    continue
                if since is not None and decided.counted_at <= since.at:
                    continue
                usage.append(
                    UsageFact(
                        usage_key=decided.key,
                        at=decided.counted_at,
                        units=0 if decided.outcome is Outcome.IGNORED_LATE else fact.units,
                        tie=tie,
                        burns=decided.outcome is not Outcome.OVERAGE_LATE,
                    )
                )
            elif isinstance(fact, HoldFact) and fact.entitlement == entitlement:
                holds.tell(event.customer_id, fact, event.event_source, event.event_id, decided.counted_at)
            elif isinstance(fact, UsageReversed) and fact.entitlement == entitlement:
                key = event_key(fact.usage_event_source or event.event_source, fact.usage_event_id)
                reversals.append(
                    Reversal(
                        reversal_id=fact.reversal_id, usage_key=key, at=decided.counted_at, units=fact.units, tie=tie
                    )
                )
        return History(
            grants=tuple(grant for grant in customer.grants.values() if grant.terms.entitlement == entitlement),
            usage=tuple(usage),
            lines=tuple(Line(*identity, total) for identity, total in units.items() if total),
            reversals=tuple(reversals),
            holds=tuple(
                piece
                for teller, hold in holds.all()
                for owner, piece in pieces(hold, teller, merges)
                if owner == customer_id
            ),
            since=since,
        )

    def merges(self) -> dict[str, Merge]:
        """Who goes on as somebody else, by the id that is now an alias."""
        return {key: one.head.merge for key, one in self.customers.items() if one.head.merge is not None}

    # -- inside --

    def _told(self, event: Event, now: datetime) -> Told:
        told = told_of(event, now)
        known = {teller: kept.content_hash for (teller, key), kept in self.inbox.items() if key == told.key}
        return msgspec.structs.replace(told, known=known)

    def _decide(self, told: Sequence[Told]) -> Decided | TooManyDue:
        histories: dict[tuple[str, str], History] = {}
        while True:
            loaded = self._loaded(histories, self._group(told))
            found = decide(
                loaded,
                told,
                self.catalogue,
                timeline=1,
                usage_kept=USAGE_KEPT,
                settlement_window=self.settlement_window,
            )
            if not isinstance(found, NeedsHistory):
                return found
            self._add_history(histories, found)

    def _add_history(self, histories: dict[tuple[str, str], History], needed: NeedsHistory) -> None:
        pair = (needed.customer_id, needed.entitlement)
        assert pair not in histories or histories[pair].since is not None, "the history asked for did not help"
        histories[pair] = self.history_of(*pair, None if pair in histories else needed.before)

    def _group(self, told: Iterable[Told]) -> set[str]:
        """The customers whom the events name, and those tied to them."""
        group = set()
        for one in told:
            fact = one.event.fact
            group.add(one.event.customer_id)
            if isinstance(fact, PurchaseTransferred | SubscriptionTransferred):
                group.add(fact.to_customer_id)
            if isinstance(fact, CustomersMerged):
                group.add(fact.into_customer_id)
            if isinstance(fact, SourceFact):
                group.add(self.claimants[source_key(fact)])
        for customer_id in tuple(group):
            group.update(self.customer(customer_id).head.linked)
        return group

    def _loaded(self, histories: Mapping[tuple[str, str], History], group: Collection[str]) -> Loaded:
        return Loaded(
            customers={
                customer_id: LoadedCustomer(
                    head=self.customer(customer_id).head,
                    accounts=self.customer(customer_id).accounts,
                    grants=[
                        grant
                        for entitlement in self.customers[customer_id].accounts
                        for grant in self.customers[customer_id].open_grants(entitlement)
                    ],
                    histories={
                        entitlement: history
                        for (owner, entitlement), history in histories.items()
                        if owner == customer_id
                    },
                )
                for customer_id in group
            },
            sources=self.sources,
            claimants=self.claimants,
        )

    def _store(self, decided: Decided) -> None:
        """Everything goes through the bytes that are stored."""
        self._ahead.clear()
        for customer_id, one in decided.customers.items():
            customer = self.customer(customer_id)
            customer.head = _through_bytes(one.head)
            customer.accounts |= {booked.account.entitlement: _through_bytes(booked.account) for booked in one.accounts}
            customer.grants |= {grant.terms.grant_id: _through_bytes(grant) for grant in one.grants}
            for booked in one.accounts:
                states = customer.states[booked.account.entitlement]
                if booked.stale_from is not None:
                    states[:] = [state for state in states if state.at < booked.stale_from]
                states += [_through_bytes(state) for state in booked.states]
                assert [state.at for state in states] == sorted({state.at for state in states})
            customer.postings += one.postings
            customer.changes += one.changes
        self.sources |= {key: _through_bytes(state) for key, state in decided.sources.items()}
        for event in decided.events:
            place = (event.event.customer_id, event.key)
            assert place not in self.inbox
            self.inbox[place] = event
        self.refused += decided.refused


class Life(World):
    """One customer, from nothing."""

    def __init__(
        self,
        catalogue: Catalogue,
        customer_id: str = "ada",
        settlement_window: timedelta = SETTLEMENT_WINDOW,
    ) -> None:
        super().__init__(catalogue, settlement_window)
        self.customer_id = customer_id
        self.customer(customer_id)

    @property
    def head(self) -> CustomerHead:
        return self.customers[self.customer_id].head

    @property
    def accounts(self) -> dict[str, Account]:
        return self.customers[self.customer_id].accounts

    @property
    def grants(self) -> dict[UUID, Grant]:
        return self.customers[self.customer_id].grants

    @property
    def postings(self) -> list[Posting]:
        return self.customers[self.customer_id].postings

    @property
    def changes(self) -> list[Change]:
        return self.customers[self.customer_id].changes

    def catch_up(self, now: datetime, customer_id: str | None = None, at_most: int = 100_000) -> Decided:
        return super().catch_up(now, customer_id or self.customer_id, at_most)

    def picture(self, entitlement: str, at: datetime) -> EntitlementPicture:
        return self.picture_of(self.customer_id, entitlement, at)

    def pictures(self, at: datetime) -> dict[str, EntitlementPicture]:
        return {entitlement: self.picture(entitlement, at) for entitlement in sorted(self.catalogue.entitlements)}

    def open_grants(self, entitlement: str) -> list[Grant]:
        return self.customers[self.customer_id].open_grants(entitlement)

    def history(self, entitlement: str) -> History:
        return self.history_of(self.customer_id, entitlement)


def without_states(account: Account) -> Account:
    """The account without what it says of its day states: where those are kept may depend on the batches."""
    return msgspec.structs.replace(account, stated_until=None, since_state=0)


def _through_bytes(value: _Value) -> _Value:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value))
