"""Books as they stood at an instant, by what was told until another: history that answers.

What was told is all it takes. Facts about sources are folded into terms; terms, usage, holds and reversals are settled
from nothing up to the instant asked for, by the same run that settles an account again. What is booked is not read: so
what fell due by then has happened, whoever booked it and when, and what happened later has not. What was told of later
instants is known all the same where it says what will be, or shapes what was: an end, a refund that is dated ahead, a
transfer. That is what a ledger would say that was told the same and nothing else, and asked at that instant.

Who holds a seat are decisions: those that were recorded by the instant asked for. What fell due by then, behind the
last event of the customer, is booked by nobody: that took seats all the same.

Customers who are tied are settled together, because units, overage and debt go from one to the other. A run is made
again where what came from others is not what it was made with; each such round goes on to a later instant, so it ends
with the last transfer or merge.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.booked import BookedGrant
from ledger_worker.domain.catalogue import Catalogue, Entitlement
from ledger_worker.domain.events import (
    CustomersMerged,
    Event,
    HoldFact,
    OfferReached,
    OfSource,
    SeatFact,
    SeatsRevoked,
    UsageRecorded,
    UsageReversed,
    source_key,
)
from ledger_worker.domain.holds import HoldsTold, pieces
from ledger_worker.domain.ledger import Account, GrantTerms, Hold, Line, Phase, Reversal, UsageFact
from ledger_worker.domain.owners import Held, Merge, goes_on_as, same_persons
from ledger_worker.domain.parcels import Parcel, left_by
from ledger_worker.domain.places import all_of, places_of
from ledger_worker.domain.seats import HoldersTold, evicted
from ledger_worker.domain.settlement import Book
from ledger_worker.domain.sources import SourceState, recorded, refold
from ledger_worker.domain.usage import reversal_of, usage_of

__all__ = ["KnownEvent", "books_at", "merges_of"]


class KnownEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it was recorded, with what became of it, under its inbox key.

    `catalogue_version` is the catalogue that was in force when it was recorded. `counted_at` is set of usage, of holds
    and seats, of a reversal and of a merge.
    """

    event: Event
    key: UUID
    recorded_at: datetime
    outcome: str
    catalogue_version: int
    counted_at: datetime | None = None


def merges_of(known: Iterable[KnownEvent]) -> dict[str, Merge]:
    """Who goes on as whom: of each customer the merge that was recorded first."""
    merges: dict[str, Merge] = {}
    for one in sorted(known, key=_recorded_at):
        fact = one.event.fact
        if isinstance(fact, CustomersMerged) and one.counted_at is not None:
            merges.setdefault(one.event.customer_id, Merge(fact.merge_id, one.counted_at, fact.into_customer_id))
    return merges


def books_at(known: Sequence[KnownEvent], catalogue: Catalogue, at: datetime) -> dict[str, dict[str, Book]]:
    """The books of all customers that `known` speaks of, by customer and entitlement, where they stand at `at`.

    `known` are the events recorded by the instant of knowing, of all customers that are tied to each other, in no
    order; what the ledger told itself of transitions may be left out, and usage that counts later than `at`. The
    catalogue is the one that was in force then.
    """
    merges = merges_of(known)
    told = _Told(known, merges, at)
    for key, facts in told.sources.items():
        for held in _given(key, facts, told.folds, catalogue, merges):
            told.account(held.customer_id, held.terms.entitlement).terms.append(held.terms)
    seats = _Seats(known, merges, at)
    for customer_id, entitlement in seats.accounts:
        told.account(customer_id, entitlement)
    by_entitlement: dict[str, dict[str, _Account]] = defaultdict(dict)
    for (customer_id, entitlement), account in told.accounts.items():
        by_entitlement[entitlement][customer_id] = account
    books: dict[str, dict[str, Book]] = defaultdict(dict)
    for entitlement in sorted(by_entitlement):
        settling = _Settling(catalogue.entitlements[entitlement], by_entitlement[entitlement], merges, at)
        for customer_id, book in settling.books().items():
            books[customer_id][entitlement] = book
            seats.take_in(book)
    return dict(books)


class _Account:
    """What was told of one customer and entitlement: the terms of its grants, usage, holds, and what reverses it."""

    def __init__(self) -> None:
        self.terms: list[GrantTerms] = []
        self.usage: list[UsageFact] = []
        self.holds: list[Hold] = []
        self.reversals: list[Reversal] = []


class _Told:
    """What was told, by what it is about.

    `sources` are the facts of each source by its key, `folds` the events other than these that a source is folded
    again by: publications that reached it, by its key, and merges, under the empty key.
    """

    def __init__(self, known: Iterable[KnownEvent], merges: Mapping[str, Merge], at: datetime) -> None:
        self.accounts: dict[tuple[str, str], _Account] = {}
        self.sources: dict[str, list[KnownEvent]] = defaultdict(list)
        self.folds: dict[str, list[KnownEvent]] = defaultdict(list)
        persons = same_persons(merges)
        holds: dict[str, HoldsTold] = defaultdict(HoldsTold)
        for one in known:
            fact, teller = one.event.fact, one.event.customer_id
            if isinstance(fact, OfSource):
                self.sources[source_key(fact)].append(one)
            elif isinstance(fact, OfferReached):
                self.folds[fact.source_key].append(one)
            elif isinstance(fact, CustomersMerged):
                self.folds[""].append(one)
            elif isinstance(fact, HoldFact) and one.counted_at is not None:
                holds[fact.entitlement].tell(teller, fact, one.event.event_source, one.event.event_id, one.counted_at)
            elif isinstance(fact, UsageRecorded | UsageReversed) and one.counted_at is not None:
                source, event_id = one.event.event_source, one.event.event_id
                if isinstance(fact, UsageReversed):
                    reversal = reversal_of(fact, source, event_id, one.counted_at)
                    for each in persons.get(teller, (teller,)):
                        self.account(each, fact.entitlement).reversals.append(reversal)
                elif one.counted_at <= at:
                    usage = usage_of(one.key, one.outcome, one.counted_at, fact.units, source, event_id)
                    self.account(goes_on_as(teller, merges, usage.at), fact.entitlement).usage.append(usage)

        for entitlement, told in holds.items():
            for teller, hold in told.all():
                for owner, piece in pieces(hold, teller, merges):
                    self.account(owner, entitlement).holds.append(piece)

    def account(self, customer_id: str, entitlement: str) -> _Account:
        """What was told of that account."""
        found = self.accounts.get((customer_id, entitlement))
        if found is None:
            found = self.accounts[customer_id, entitlement] = _Account()
        return found


class _Seats:
    """Who held seats at `at`, by what was decided until then; `accounts` are those, by customer and entitlement."""

    def __init__(self, known: Sequence[KnownEvent], merges: Mapping[str, Merge], at: datetime) -> None:
        self._at = at
        self._told: dict[str, HoldersTold] = defaultdict(HoldersTold)
        self._evicted_later: set[tuple[str, str]] = set()
        self._booked_until: dict[str, datetime] = {}
        self.accounts: list[tuple[str, str]] = []
        for one in sorted(known, key=_recorded_at):
            self._booked_until[goes_on_as(one.event.customer_id, merges)] = one.recorded_at
        in_order = sorted((one for one in known if one.counted_at is not None), key=_recorded_at)
        merged: list[tuple[str, str]] = []
        for one in in_order:
            fact, teller, counted_at = one.event.fact, one.event.customer_id, one.counted_at or at
            if isinstance(fact, CustomersMerged) and counted_at <= at:
                merged.append((teller, fact.into_customer_id))
                for told in self._told.values():
                    told.merge(*merged[-1])
            elif isinstance(fact, SeatFact) and counted_at <= at:
                if fact.entitlement not in self._told:
                    for merge in merged:
                        self._told[fact.entitlement].merge(*merge)
                self._told[fact.entitlement].tell(teller, fact, counted_at)
            elif isinstance(fact, SeatsRevoked):
                self._evicted_later.add((teller, fact.entitlement))
        for entitlement, told in self._told.items():
            self.accounts += [(customer_id, entitlement) for customer_id in told.owners()]

    def take_in(self, book: Book) -> None:
        """The book, which stands at `at`, has its holders.

        Without whom an ending that nobody has booked left no seat: where it was booked later, they had it until then.
        """
        entitlement = book.entitlement.key
        if entitlement in self._told:
            book.holders = self._told[entitlement].of(book.customer_id)
            if (book.customer_id, entitlement) not in self._evicted_later and self._has_fallen_due(book):
                book.holders = book.holders[: len(book.holders) - len(evicted(book, self._at))]

    def _has_fallen_due(self, book: Book) -> bool:
        """Whether something happened to the seats by `at` that no event of the customer found due and booked."""
        booked_until = self._booked_until.get(book.customer_id)
        return any(
            grant.phase is not Phase.VOID and place[0] <= self._at and (booked_until is None or place[0] > booked_until)
            for grant in book.grants.values()
            for place in places_of(grant.terms)
        )


def _given(
    key: str,
    told: Sequence[KnownEvent],
    folds: Mapping[str, Sequence[KnownEvent]],
    catalogue: Catalogue,
    merges: Mapping[str, Merge],
) -> tuple[Held, ...]:
    """The terms that a source gives by all that was told of it, by the catalogue it was folded with last."""
    first = min(told, key=_recorded_at)
    claimant = first.event.customer_id
    folded = [*told, *folds.get(key, ()), *(one for one in folds.get("", ()) if one.recorded_at > first.recorded_at)]
    version = max(one.catalogue_version for one in folded)
    state = SourceState(claimant=claimant, others=tuple(recorded(one.event, claimant) for one in told))
    return refold(state, key, msgspec.structs.replace(catalogue, version=version), merges, merges).terms


class _Settling:
    """One entitlement of tied customers, settled from nothing up to `at`."""

    def __init__(
        self, entitlement: Entitlement, accounts: Mapping[str, _Account], merges: Mapping[str, Merge], at: datetime
    ) -> None:
        self._entitlement = entitlement
        self._accounts = dict(accounts)
        self._merges = merges
        self._at = at
        self._units: dict[UUID, int] = {}
        self._arriving: dict[str, list[Parcel]] = {}
        self._books: dict[str, Book] = {}
        self._lines: dict[str, list[Line]] = {}

    def books(self) -> dict[str, Book]:
        """The book of each customer, made again until what came from others is what these have given."""
        stale = set(self._accounts)
        while stale:
            for customer_id in sorted(stale):
                self._run(customer_id)
            stale = self._couple()
        return self._books

    def _run(self, customer_id: str) -> None:
        account = self._accounts.setdefault(customer_id, _Account())
        book = Book(self._entitlement, Account(entitlement=self._entitlement.key), ())
        book.customer_id = customer_id
        merge = self._merges.get(customer_id)
        book.leaves_at = None if merge is None else merge.at
        for terms in account.terms:
            has = msgspec.structs.replace(terms, amount=self._units_of(terms))
            book.grants[terms.grant_id] = BookedGrant(has, Phase.PENDING, 0, burns=[])
        arriving = self._arriving.get(customer_id, ())
        until = all_of(self._at)
        self._lines[customer_id] = book.run_all(account.usage, account.reversals, until, account.holds, arriving)
        self._books[customer_id] = book

    def _units_of(self, terms: GrantTerms) -> int | None:
        """The units of a grant; of a child by transfer as many as have left the giver."""
        return self._units.get(terms.grant_id, 0) if terms.receives_from_another else terms.amount

    def _couple(self) -> set[str]:
        """What has left each book is on its way to the others; returns whose book was made with something else."""
        stale: set[str] = set()
        units: dict[UUID, int] = {}
        arriving: dict[str, list[Parcel]] = defaultdict(list)
        for customer_id, book in self._books.items():
            for grant in book.grants.values():
                terms = grant.terms
                if terms.moves_to is not None and terms.rolls_into is not None and terms.amount is not None:
                    units[terms.rolls_into] = grant.moved
                    if grant.moved != self._units.get(terms.rolls_into, 0):
                        stale.add(terms.moves_to)
            merge = self._merges.get(customer_id)
            if merge is not None:
                for parcel in left_by(self._lines[customer_id]):
                    arriving[goes_on_as(merge.into, self._merges, parcel.at)].append(parcel)
        stale |= {
            each for each in arriving.keys() | self._arriving.keys() if arriving[each] != self._arriving.get(each, [])
        }
        self._units, self._arriving = units, dict(arriving)
        return stale


def _recorded_at(known: KnownEvent) -> datetime:
    return known.recorded_at
