"""The whole picture of customers, as it is published on the state topic and shown to people.

Computed from what is booked, with everything that is due at the instant asked for passed, booked or not, so that a
picture is right while no clock runs. Read in the caller's snapshot; nothing is stored.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from ledger_worker.domain.access import picture, settle_due
from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import CustomerPicture
from ledger_worker.domain.course import HistoryNeeded
from ledger_worker.domain.owners import Merges, goes_on_as
from ledger_worker.domain.settlement import Book
from ledger_worker.store import accounts as accounts_store
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store
from ledger_worker.store import histories as histories_store

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
    return opened
