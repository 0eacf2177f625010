"""What the ledger holds of every customer, beside what the oracle says of the same facts.

The oracle (`oracle`) reads a history from its beginning and follows every unit; it shares no rule with the ledger. Both
answer for one instant: the ledger from its books, with what is due by then passed. Customers are independent unless a
source moved between them or one went on as the other, so the oracle is asked for one group of linked customers at a
time: a millisecond or two for each.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from sqlalchemy import Connection

from ledger_worker.domain.access import picture
from ledger_worker.domain.catalogue import Catalogue, Entitlement, EntitlementType
from ledger_worker.domain.events import (
    Event,
    OfSource,
    customers_of,
    source_key,
)
from ledger_worker.domain.settlement import Book
from ledger_worker.domain.sources import child_id, grant_id
from ledger_worker.local.oracle.units import Outcome, Telling, outcomes
from ledger_worker.reports.arrivals import evictions, instants_recorded
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers, pictures

__all__ = ["Comparison", "Difference", "Figure", "compare", "linked"]

Figure = int | bool | str | None
Pair = tuple[str, str]
"""A customer and an entitlement."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one customer and entitlement that is not what it has to be."""

    customer_id: str
    entitlement: str
    field: str
    booked: Figure
    expected: Figure


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """How many customers and accounts were compared as of `at`, and all that differs, by customer and entitlement."""

    at: datetime
    customers: int
    accounts: int
    differing: tuple[Difference, ...]

    @property
    def customers_differing(self) -> int:
        """How many customers differ in anything."""
        return len({difference.customer_id for difference in self.differing})


def compare(connection: Connection, history: Sequence[Event], at: datetime | None = None) -> Comparison:
    """Every customer of the history was compared at `at` (None: the database's clock); `history` is all that was told.

    Whose seat the ledger took, and when, is a decision of its own, and is read from it; that as many have one as there
    are seats is compared. Reads the whole inbox once and the customers in portions; consistent in a snapshot, or while
    nothing arrives.
    """
    at = at or customers.clock(connection)
    ledger = catalogue_store.read_ledger(connection)
    catalogue = catalogue_store.read(connection, ledger.catalogue_version)
    telling = Telling(instants_recorded(connection), timedelta(days=ledger.settlement_window_days))
    ids = sorted({customer_id for event in history for customer_id in customers_of(event)}, key=str.encode)
    booked = _booked(connection, ids, catalogue, at)
    expected = _expected(linked([*history, *evictions(connection)]), catalogue, at, telling)
    pairs = sorted(booked.keys() | expected.keys())
    differing = []
    for customer_id, entitlement in pairs:
        nothing = _nothing(catalogue.entitlements[entitlement])
        was = booked.get((customer_id, entitlement), nothing)
        should_be = expected.get((customer_id, entitlement), nothing)
        differing += [
            Difference(
                customer_id=customer_id,
                entitlement=entitlement,
                field=field,
                booked=getattr(was, field),
                expected=getattr(should_be, field),
            )
            for field in _Figures.__struct_fields__
            if getattr(was, field) != getattr(should_be, field)
        ]
    return Comparison(at=at, customers=len(ids), accounts=len(booked), differing=tuple(differing))


def linked(history: Iterable[Event]) -> list[tuple[Event, ...]]:
    """The events by groups of customers that have to do with each other, in the order of their first event.

    Linked are a giver and a receiver, two that went on as one, and all of whom facts about one source are told.
    """
    root_of: dict[str, str] = {}

    def root(name: str) -> str:
        """By whom the group of that name is known; the way there is shortened."""
        while (above := root_of.setdefault(name, name)) != name:
            root_of[name] = name = root_of[above]
        return name

    events = list(history)
    for event in events:
        names = [f"customer/{customer_id}" for customer_id in customers_of(event)]
        if isinstance(event.fact, OfSource):
            names.append(source_key(event.fact))
        for name in names[1:]:
            root_of[root(name)] = root(names[0])
    groups: dict[str, list[Event]] = {}
    for event in events:
        groups.setdefault(root(f"customer/{event.customer_id}"), []).append(event)
    return [tuple(group) for group in groups.values()]


_CUSTOMERS_AT_ONCE = 1000


class _Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared of one customer and entitlement; of one without units `allowed` and the `value` alone.

    `usage`, `used`, `overage`, `debt` and `forgiven` are those of the account's whole life, the others those of the
    grants in force; `limit` and `level` are None when unlimited. `holders` are of seats alone.
    """

    allowed: bool
    value: str | None = None
    holders: str | None = None
    usage: int = 0
    used: int = 0
    overage: int = 0
    debt: int = 0
    forgiven: int = 0
    limit: int | None = None
    used_in_force: int = 0
    overage_counted: int = 0
    level: int | None = None
    over_allocated: int = 0


def _nothing(entitlement: Entitlement) -> _Figures:
    """What is so of an entitlement that the customer never had to do with."""
    if entitlement.type is EntitlementType.SEATS:
        return _Figures(allowed=False, limit=0, level=0, holders="")
    is_quota = entitlement.type is EntitlementType.QUOTA
    return _Figures(allowed=False, limit=0, level=0) if is_quota else _Figures(allowed=False)


# -- the ledger's answer --


def _booked(
    connection: Connection, customer_ids: Sequence[str], catalogue: Catalogue, at: datetime
) -> dict[Pair, _Figures]:
    found = {}
    for start in range(0, len(customer_ids), _CUSTOMERS_AT_ONCE):
        portion = customer_ids[start : start + _CUSTOMERS_AT_ONCE]
        merges = customers.read_merges(connection, portion)
        for customer_id, books in pictures.books(connection, portion, catalogue, at, merges).items():
            for book in books:
                found[customer_id, book.entitlement.key] = _figures_of_book(book)
    return found


def _figures_of_book(book: Book) -> _Figures:
    shown = picture(book)
    if not book.entitlement.type.has_units:
        return _Figures(allowed=shown.allowed, value=shown.value)
    return _Figures(
        allowed=shown.allowed,
        holders=_joined(shown.holders),
        usage=book.usage,
        used=book.used_total,
        overage=book.overage,
        debt=book.debt,
        forgiven=book.forgiven,
        limit=shown.limit,
        used_in_force=shown.used or 0,
        overage_counted=shown.overage or 0,
        level=shown.level,
        over_allocated=shown.over_allocated or 0,
    )


def _joined(names: Sequence[str] | None) -> str | None:
    return None if names is None else ", ".join(names)


# -- the oracle's answer --


class _NamesOfGrants:
    """How grants are named: by the ledger's own ids, for the oracle has to break ties as the ledger does."""

    def root(
        self, source: str, line: str, sku: str, allowance: str, period_start: datetime | None, segment: str
    ) -> UUID:
        """The id of a grant that a source gives."""
        return grant_id(source, line, sku, allowance, period_start, segment)

    def child(self, parent: UUID, kind: str, cause: str) -> UUID:
        """The id of a grant that goes on with what another left."""
        return child_id(parent, kind, cause)


def _expected(
    groups: Sequence[tuple[Event, ...]],
    catalogue: Catalogue,
    at: datetime,
    telling: Telling,
) -> dict[Pair, _Figures]:
    found = {}
    for group in groups:
        answer = outcomes(group, catalogue, _NamesOfGrants(), at, telling)
        found.update({pair: _figures_of_outcome(outcome) for pair, outcome in answer.items()})
    return found


def _figures_of_outcome(outcome: Outcome) -> _Figures:
    if outcome.is_access:
        return _Figures(allowed=outcome.allowed, value=outcome.value)
    return _Figures(
        allowed=outcome.allowed,
        holders=_joined(outcome.holders),
        usage=outcome.usage,
        used=outcome.used,
        overage=outcome.overage,
        debt=outcome.debt,
        forgiven=outcome.forgiven,
        limit=outcome.limit,
        used_in_force=outcome.used_in_force,
        overage_counted=outcome.overage_counted,
        level=outcome.level,
        over_allocated=outcome.over_allocated,
    )
