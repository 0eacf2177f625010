"""One customer's life by the pure rules alone: what is decided is stored as values, read back, and decided on.

It does what a transaction does around `decide` (asks for histories, catches up with what is due, claims sources), so
that rules can be tried thousands of times a second. It is a way to call pure functions, not a database: the tests of
`tests/apply` and `tests/stories` run the same on PostgreSQL.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

import msgspec

from ledger_worker.domain.access import picture, settle_due
from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import Change, EntitlementPicture
from ledger_worker.domain.decide import (
    CustomerHead,
    Decided,
    DecidedEvent,
    Loaded,
    NeedsHistory,
    Refused,
    Told,
    TooManyDue,
    book_due,
    decide,
)
from ledger_worker.domain.events import (
    Event,
    SourceFact,
    UsageRecorded,
    content_hash,
    event_key,
    fact_bytes,
    source_key,
)
from ledger_worker.domain.ledger import Account, Grant, Kind, Line, Phase, Posting, UsageFact
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.settlement import Book, History, HistoryNeeded, usage_tie
from ledger_worker.domain.sources import SourceState

USAGE_KEPT = timedelta(days=400)

_Identity = tuple[Kind, datetime, UUID | None, UUID | None, str | None]
_Value = TypeVar("_Value", bound=msgspec.Struct)


class Life:
    """A customer, from nothing. `owners` may be shared by several of them: it says who owns each source."""

    def __init__(self, catalogue: Catalogue, customer_id: str = "ada", owners: dict[str, str] | None = None) -> None:
        self.catalogue = catalogue
        self.head = CustomerHead(customer_id=customer_id)
        self.owners = {} if owners is None else owners
        self.sources: dict[str, SourceState] = {}
        self.accounts: dict[str, Account] = {}
        self.grants: dict[UUID, Grant] = {}
        self.inbox: dict[UUID, DecidedEvent] = {}
        self.postings: list[Posting] = []
        self.changes: list[Change] = []
        self.refused: list[Refused] = []

    def tell(self, *told: tuple[Event, datetime]) -> Decided:
        """The events are decided together, each recorded at its instant, and what was decided is stored."""
        told_values = [self._told(event, now) for event, now in told]
        found = self._decide(told_values)
        rounds = 0
        while isinstance(found, TooManyDue):
            assert rounds < 100, "catching up does not end"
            self.catch_up(told_values[0].now, at_most=100)
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

    def catch_up(self, now: datetime, at_most: int = 100_000) -> Decided:
        """What is due at `now` is booked, the earliest `at_most` of it."""
        histories: dict[str, History] = {}
        while True:
            found = book_due(self._loaded(histories), now, self.catalogue, timeline=1, at_most=at_most)
            if not isinstance(found, NeedsHistory):
                self._store(found)
                return found
            assert found.entitlement not in histories, "the history that was asked for did not help"
            histories[found.entitlement] = self.history(found.entitlement)

    def picture(self, entitlement: str, at: datetime) -> EntitlementPicture:
        """The entitlement as a read at `at` shows it, booked or not."""
        account = self.accounts.get(entitlement) or Account(entitlement=entitlement)
        policy = self.catalogue.entitlements[entitlement]
        book = Book(policy, account, self.open_grants(entitlement))
        try:
            settle_due(book, at)
        except HistoryNeeded:
            book = Book(policy, account, (), self.history(entitlement))
            settle_due(book, at)
        return picture(book, at)

    def pictures(self, at: datetime) -> dict[str, EntitlementPicture]:
        return {entitlement: self.picture(entitlement, at) for entitlement in sorted(self.catalogue.entitlements)}

    def open_grants(self, entitlement: str) -> list[Grant]:
        return [
            grant
            for grant in self.grants.values()
            if grant.terms.entitlement == entitlement and grant.phase in {Phase.PENDING, Phase.ACTIVE, Phase.ENDING}
        ]

    def history(self, entitlement: str) -> History:
        """Everything the account ever saw, its booked lines summed by identity."""
        units: dict[_Identity, int] = defaultdict(int)
        for posting in self.postings:
            for entry in posting.entries:
                if entry.entitlement == entitlement:
                    units[entry.line.identity()] += entry.line.units
        usage = [
            UsageFact(
                usage_key=decided.key,
                at=decided.counted_at,
                units=decided.event.fact.units,
                tie=usage_tie(decided.event.event_source, decided.event.event_id),
            )
            for decided in self.inbox.values()
            if isinstance(decided.event.fact, UsageRecorded)
            and decided.counted_at is not None
            and decided.event.fact.entitlement == entitlement
        ]
        return History(
            grants=tuple(grant for grant in self.grants.values() if grant.terms.entitlement == entitlement),
            usage=tuple(usage),
            lines=tuple(Line(*identity, total) for identity, total in units.items() if total),
        )

    # -- inside --

    def _told(self, event: Event, now: datetime) -> Told:
        payload = fact_bytes(event.fact)
        key = event_key(event.event_source, event.event_id)
        known = self.inbox.get(key)
        return Told(
            event=event,
            key=key,
            content_hash=content_hash(event, payload),
            payload=payload,
            now=now,
            known_hash=None if known is None else known.content_hash,
        )

    def _decide(self, told: Sequence[Told]) -> Decided | TooManyDue:
        for one in told:
            if isinstance(one.event.fact, SourceFact) and one.known_hash is None:
                self.owners.setdefault(source_key(one.event.fact), self.head.customer_id)
        histories: dict[str, History] = {}
        while True:
            found = decide(self._loaded(histories), told, self.catalogue, timeline=1, usage_kept=USAGE_KEPT)
            if not isinstance(found, NeedsHistory):
                return found
            assert found.entitlement not in histories, "the history that was asked for did not help"
            histories[found.entitlement] = self.history(found.entitlement)

    def _loaded(self, histories: Mapping[str, History]) -> Loaded:
        return Loaded(
            head=self.head,
            sources=self.sources,
            owners=self.owners,
            accounts=self.accounts,
            grants=[grant for entitlement in self.accounts for grant in self.open_grants(entitlement)],
            histories=histories,
        )

    def _store(self, decided: Decided) -> None:
        """Everything goes through the bytes that are stored."""
        self.head = _through_bytes(decided.head)
        self.sources |= {key: _through_bytes(state) for key, state in decided.sources.items()}
        self.accounts |= {booked.account.entitlement: _through_bytes(booked.account) for booked in decided.accounts}
        self.grants |= {grant.terms.grant_id: _through_bytes(grant) for grant in decided.grants}
        for event in decided.events:
            assert event.key not in self.inbox
            self.inbox[event.key] = event
        self.postings += decided.postings
        self.changes += decided.changes
        self.refused += decided.refused


def _through_bytes(value: _Value) -> _Value:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value))
