"""Who has a seat: the holders of one customer and entitlement, as they are once what is due has happened."""

from datetime import datetime

import msgspec
from sqlalchemy import Connection

from ledger_worker.domain.access import picture
from ledger_worker.domain.catalogue import EntitlementType
from ledger_worker.domain.owners import goes_on_as
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store
from ledger_worker.store import pictures

__all__ = ["SeatHeld", "Seats", "read_seats"]


class SeatHeld(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who has a seat, and since when it is taken: whom it was passed on to has it since before."""

    name: str
    since: datetime


class Seats(msgspec.Struct, frozen=True, kw_only=True):
    """The seats of a customer's entitlement; `limit` None is any number. `holders` are in the order of taking.

    The customer is whom the one asked for has gone on as.
    """

    customer_id: str
    entitlement: str
    limit: int | None
    over_allocated: int
    holders: tuple[SeatHeld, ...]


def read_seats(connection: Connection, customer_id: str, entitlement: str) -> Seats | None:
    """The seats as they are now; None where the customer never had any. Begins and ends a transaction of its own."""
    snapshot = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with snapshot.begin():
        merges = customers_store.read_merges(connection, [customer_id])
        owner = goes_on_as(customer_id, merges)
        catalogue = catalogue_store.read(connection, catalogue_store.read_ledger(connection).catalogue_version)
        now = customers_store.clock(connection)
        own_merges = merges if owner == customer_id else customers_store.read_merges(connection, [owner])
        books = pictures.books(connection, [owner], catalogue, now, own_merges)[owner]
    for book in books:
        if book.entitlement.key == entitlement and book.entitlement.type is EntitlementType.SEATS:
            decision = picture(book)
            return Seats(
                customer_id=owner,
                entitlement=entitlement,
                limit=decision.limit,
                over_allocated=decision.over_allocated or 0,
                holders=tuple(SeatHeld(name=one.name, since=one.since) for one in book.holders),
            )
    return None
