"""The whole picture of customers, as it is published on the state topic and shown to people.

Computed from what is booked, with everything that is due at the instant asked for passed, booked or not, so that a
picture is right while no clock runs. Read in the caller's snapshot; nothing is stored.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from ledger_worker.domain.access import picture, settle_due
from ledger_worker.domain.ahead import books_ahead
from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import CustomerPicture
from ledger_worker.domain.decided import Loaded, LoadedCustomer, NeedsHistory
from ledger_worker.domain.history import History, HistoryNeeded
from ledger_worker.domain.owners import Merges, goes_on_as
from ledger_worker.domain.settlement import Book
from ledger_worker.store import accounts as accounts_store
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store
from ledger_worker.store import histories as histories_store
from ledger_worker.store.accounts import Pair

__all__ = ["books", "load"]


def load(
    connection: Connection, customer_ids: Sequence[str], at: datetime | None = None, catalogue: Catalogue | None = None
) -> list[CustomerPicture]:
    """The picture of each of these customers that exists, by customer id, at `at` (None: the database's clock).

    `catalogue`, when given, has to be the one in force; else it is read.
    """
    ledger = catalogue_store.read_ledger(connection)
    if catalogue is None or catalogue.version != ledger.catalogue_version:
        catalogue = catalogue_store.read(connection, ledger.catalogue_version)
    at = at or customers_store.clock(connection)
    heads, _ = customers_store.read_heads(connection, customer_ids)
    merges = customers_store.read_merges(connection, customer_ids)
    opened = books(connection, sorted(heads, key=str.encode), catalogue, at, merges)
    return [
        CustomerPicture(
            customer_id=customer_id,
            timeline=ledger.timeline,
            sequence=heads[customer_id].sequence,
            recorded_at=heads[customer_id].recorded_at or at,
            entitlements=() if customer_id in merges else tuple(picture(book) for book in opened[customer_id]),
            merged_into=goes_on_as(customer_id, merges) if customer_id in merges else None,
        )
        for customer_id in opened
    ]


def books(
    connection: Connection, customer_ids: Sequence[str], catalogue: Catalogue, at: datetime, merges: Merges
) -> dict[str, list[Book]]:
    """The books of all accounts of these customers, in order of entitlement, with what is due at `at` passed.

    `merges` are those of the customers and of all they are tied to.
    """
    keys = accounts_store.account_keys(connection, customer_ids)
    accounts = accounts_store.read_accounts(connection, keys, [], at)
    grants = accounts_store.read_open_grants(connection, keys)
    opened: dict[str, list[Book]] = {customer_id: [] for customer_id in customer_ids}
    for customer_id, entitlement in keys:
        own = [grant for grant in grants.get(customer_id, ()) if grant.terms.entitlement == entitlement]
        merge = merges.get(customer_id)
        book = Book(catalogue.entitlements[entitlement], accounts[customer_id, entitlement], own)
        book.leaves_at = None if merge is None else merge.at
        try:
            settle_due(book, at)
        except HistoryNeeded:
            pair = (customer_id, entitlement)
            history = histories_store.read_histories(connection, [pair], merges)[pair]
            book = Book(catalogue.entitlements[entitlement], accounts[pair], own, history)
            book.leaves_at = None if merge is None else merge.at
            settle_due(book, at)
        opened[customer_id].append(book)
    return opened | _tied_books(connection, customer_ids, catalogue, at, merges)


def _tied_books(
    connection: Connection, customer_ids: Sequence[str], catalogue: Catalogue, at: datetime, merges: Merges
) -> dict[str, list[Book]]:
    """The same of those of these customers who are tied to somebody of whom something is due at `at`."""
    heads, _ = customers_store.read_heads(connection, customer_ids)
    tied = sorted({other for head in heads.values() for other in head.linked}, key=str.encode)
    if not tied:
        return {}
    has_due = {owner for owner, _ in accounts_store.read_accounts(connection, [], tied, at)}
    return {
        customer_id: _books_together(connection, (customer_id, *head.linked), catalogue, at, merges)
        for customer_id, head in heads.items()
        if has_due.intersection(head.linked)
    }


def _books_together(
    connection: Connection, customer_ids: Sequence[str], catalogue: Catalogue, at: datetime, merges: Merges
) -> list[Book]:
    """The books of the first of these customers, who are tied to each other, with what is due of them all passed."""
    heads, _ = customers_store.read_heads(connection, customer_ids)
    keys = accounts_store.account_keys(connection, customer_ids)
    accounts = accounts_store.read_accounts(connection, keys, [], at)
    grants = accounts_store.read_open_grants(connection, keys)
    histories: dict[Pair, History] = {}
    while True:
        customers = {
            customer_id: LoadedCustomer(
                head=heads[customer_id],
                accounts={name: account for (owner, name), account in accounts.items() if owner == customer_id},
                grants=grants.get(customer_id, []),
                histories={name: history for (owner, name), history in histories.items() if owner == customer_id},
            )
            for customer_id in customer_ids
        }
        loaded = Loaded(customers=customers, sources={}, claimants={})
        found = books_ahead(loaded, customer_ids[0], at, catalogue)
        if not isinstance(found, NeedsHistory):
            return [found[name] for name in sorted(found)]
        pair = (found.customer_id, found.entitlement)
        histories |= histories_store.read_histories(connection, [pair], merges)
