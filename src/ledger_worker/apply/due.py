"""Booking what has fallen due, apart from any batch: for the clock, and before a batch that meets too much of it.

Who touches a customer books what is due of it first, so the clock is never needed for a right answer: without it an
expiry is told when its customer is next touched. Nothing here decides otherwise than a batch would.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ledger_worker.apply.batch import Batch, ManyDue
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.load import Group, load_due
from ledger_worker.apply.locks import MoreCustomersError, require_all_locked
from ledger_worker.apply.rounds import decide_due
from ledger_worker.apply.write import write
from ledger_worker.domain.decided import CustomerHead, Decided
from ledger_worker.kafka.murmur2 import murmur2
from ledger_worker.metrics import Stage, Stages
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store
from ledger_worker.store import due as due_store

__all__ = ["CUSTOMERS_MAX", "BookedDue", "ManyDueError", "book_due_apart", "book_due_now"]

CUSTOMERS_MAX = 200
"""Most customers of one transaction of the clock: it holds them for some tens of milliseconds."""
_TRANSITIONS_MAX = 400
"""After so many transitions a transaction of the clock takes no further customer."""
_TIED_MAX = 20
_HELD_SQLSTATES = frozenset({"55P03", "40P01"})


class ManyDueError(Exception):
    """More is due for these customers, each at an instant, than one transaction may book: `book_due_apart` first."""

    def __init__(self, many: ManyDue) -> None:
        super().__init__(", ".join(many.due_at))
        self.many = many


class BookedDue(msgspec.Struct, frozen=True, kw_only=True):
    """What one call booked: of how many customers, how many transitions, and how many changes that told.

    Customers are counted too of whom nothing is recorded: where an end is told beforehand by others than it was.
    `behind_seconds` is how long the first of what was due had been due when it looked, 0 when nothing was.
    """

    customers: int = 0
    transitions: int = 0
    changes: int = 0
    behind_seconds: float = 0.0


def book_due_now(
    engine: Engine, catalogues: Catalogues, stages: Stages, *, customers_max: int = CUSTOMERS_MAX
) -> BookedDue:
    """What is due at the database's clock is booked and committed, of at most so many customers.

    Of each as much as one transaction may book, the earliest first: whoever has more is found by the next call, and a
    call that books nothing has found nobody who was free. Any number of processes may call it at once.
    """
    booked = []
    stages.begin()
    with engine.connect() as connection:
        # Looking is one step in an index, four times a second; what finds and locks reads more.
        first_due_at, now = due_store.read_first_due(connection)
    if first_due_at is None or first_due_at > now:
        return BookedDue()
    with engine.connect() as connection, connection.begin():
        catalogue_store.lock_shared(connection)
        locked = due_store.lock_due(connection, customers_max)
        if locked:
            heads, key_hashes = customers_store.read_heads(connection, locked)
            # Tied or parked between finding and holding: then it is no customer for this transaction.
            alone = {key: head for key, head in heads.items() if not head.linked and not head.is_parked}
            stages.reached(Stage.DUE_LOCKED)
            now = customers_store.clock(connection)
            booked.append(_book(connection, sorted(alone, key=str.encode), alone, now, key_hashes, catalogues))
            stages.reached(Stage.DUE_WRITTEN)
    if booked:
        stages.reached(Stage.DUE_COMMITTED)
    with engine.connect() as connection:
        tied = due_store.read_tied_due(connection, _TIED_MAX)
        now = customers_store.clock(connection)
    for customer_id in tied:
        found = _book_tied(engine, customer_id, now, catalogues)
        if found is not None:
            booked.append(found)
    return BookedDue(
        customers=sum(one.customers for one in booked),
        transitions=sum(one.transitions for one in booked),
        changes=sum(one.changes for one in booked),
        behind_seconds=(now - first_due_at).total_seconds(),
    )


def book_due_apart(engine: Engine, due_at: Mapping[str, datetime], catalogues: Catalogues) -> None:
    """One transaction per customer books the earliest of what is due at its instant, as many as one transaction may.

    Raises MoreCustomersError when a tie was made just then: a second call finds it.
    """
    for customer_id, now in due_at.items():
        _book_apart(engine, customer_id, now, catalogues)


def _book_tied(engine: Engine, customer_id: str, now: datetime, catalogues: Catalogues) -> BookedDue | None:
    """As `_book_apart`, or None where somebody holds one of them, or ties are changing: the next call looks again."""
    try:
        with engine.connect() as connection, connection.begin():
            due_store.wait_shortly(connection)
            return _book_locked(connection, customer_id, now, catalogues)
    except MoreCustomersError:
        return None
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _HELD_SQLSTATES:
            raise
        return None


def _book_apart(engine: Engine, customer_id: str, now: datetime, catalogues: Catalogues) -> BookedDue:
    """The customer is locked with all who are tied to it, in key order."""
    with engine.connect() as connection, connection.begin():
        return _book_locked(connection, customer_id, now, catalogues)


def _book_locked(connection: Connection, customer_id: str, now: datetime, catalogues: Catalogues) -> BookedDue:
    catalogue_store.lock_shared(connection)
    locked = customers_store.lock(connection, [customer_id], murmur2)
    heads, key_hashes = customers_store.read_heads(connection, locked)
    require_all_locked(heads, {})
    if any(head.is_parked for head in heads.values()):
        return BookedDue()
    return _book(connection, [customer_id], heads, now, key_hashes, catalogues)


def _book(
    connection: Connection,
    customer_ids: Sequence[str],
    heads: Mapping[str, CustomerHead],
    now: datetime,
    key_hashes: Mapping[str, int],
    catalogues: Catalogues,
) -> BookedDue:
    """What is due of these customers is decided, each with those it is tied to, and written.

    In their order, until it is as many transitions as one transaction should hold customers for; who is left is found
    by the next call.
    """
    ledger = catalogue_store.read_ledger(connection)
    catalogue = catalogues.at(connection, ledger.catalogue_version)
    loaded = load_due(connection, customer_ids, heads, now)
    decided: list[Decided] = []
    groups: list[Group] = []
    transitions = 0
    for customer_id, one in loaded.items():
        decided.append(decide_due(connection, one, customer_id, now, catalogue, ledger))
        groups.append(Group(list(one.customers), [], [], []))
        transitions += len(decided[-1].events)
        if transitions >= _TRANSITIONS_MAX:
            break
    applied = write(connection, Batch(), groups, decided, ledger, key_hashes)
    return BookedDue(
        customers=sum(any(customer.accounts for customer in one.customers.values()) for one in decided),
        transitions=sum(len(one.events) for one in decided),
        changes=applied.changes,
    )
