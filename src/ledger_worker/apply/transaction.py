"""One transaction per batch: fence, lock, inbox, load, decide, write, outbox. The only way to change the ledger.

Nothing happens but at the commit. What a later statement reads was locked by an earlier one, never by itself: a lock
and a read in one statement would read what was there before the wait. Customers are locked in key order, then sources
are claimed in key order, so that two workers wait for each other but never in a circle.

The number of statements does not grow with the batch. Where it shows under the locks that more customers are tied in,
or that too much is due, nothing is written and it begins again: with all of them locked, or behind transactions that
book what is due.

An event's `recorded_at` is read from the database's clock after the locks and may then only be raised, so that it
strictly increases within a customer. Tests and rebuilds pass the instants instead (`instants`).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ledger_worker.apply.batch import Applied, Batch, Delivery, ManyDue
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.due import ManyDueError, book_due_apart
from ledger_worker.apply.load import (
    claim_sources,
    group_customers,
    load,
    merges_of,
    read_claimants,
    read_told,
)
from ledger_worker.apply.locks import MoreCustomersError, require_all_locked, require_not_parked
from ledger_worker.apply.rounds import decide_groups
from ledger_worker.apply.write import write
from ledger_worker.domain.events import customers_of
from ledger_worker.errors import BrokenInvariantError
from ledger_worker.kafka.murmur2 import murmur2
from ledger_worker.metrics import Stage, Stages
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store
from ledger_worker.store import fence as fence_store

__all__ = [
    "ATTEMPTS_MAX",
    "Instants",
    "apply_batch",
    "by_database_clock",
    "catch_up",
    "rehearse_batch",
    "rehearse_on",
]

ATTEMPTS_MAX = 5
"""How often a batch is tried when the database chose it as the victim of a deadlock or a serialization failure."""

Instants = Callable[[Connection, Sequence[Delivery]], Sequence[datetime]]
"""Gives each delivery the instant it is recorded at, before it is raised to follow the customer's last."""


def by_database_clock(connection: Connection, deliveries: Sequence[Delivery]) -> Sequence[datetime]:
    """Every delivery of the batch is recorded at the database's clock, read now: after the locks."""
    return [customers_store.clock(connection)] * len(deliveries)


def apply_batch(
    engine: Engine, batch: Batch, catalogues: Catalogues, stages: Stages, instants: Instants = by_database_clock
) -> Applied:
    """The batch is committed: every delivery has changed the ledger, or changed it before, or is a dead letter.

    Raises FencedError when another owner holds a partition of it; SQLAlchemy's DBAPIError for what the database refuses
    (the caller tells the event's fault from ours and from an outage by its SQLSTATE). Nothing is committed when it
    raises, except that a lost answer to COMMIT leaves that open: applying the same batch again then either is fenced or
    does what was not done.
    """
    attempts = 0
    named: frozenset[str] = frozenset()
    due_at: Mapping[str, datetime] = {}
    for _ in range(_CATCH_UPS_MAX):
        try:
            book_due_apart(engine, due_at, catalogues)
            due_at = {}
            with engine.connect() as connection, connection.begin():
                applied = _transact(connection, batch, catalogues, stages, instants, named)
                stages.reached(Stage.WRITTEN)
            stages.reached(Stage.COMMITTED)
        except ManyDueError as error:
            due_at = error.many.due_at
        except MoreCustomersError as more:
            named |= more.customer_ids
        except DBAPIError as error:
            attempts += 1
            if attempts == ATTEMPTS_MAX or getattr(error.orig, "sqlstate", None) not in _VICTIM_SQLSTATES:
                raise
        else:
            return applied
    raise _never_caught_up()


def rehearse_batch(
    engine: Engine, batch: Batch, catalogues: Catalogues, stages: Stages, instants: Instants = by_database_clock
) -> Applied:
    """What `apply_batch` would do, by the same code, rolled back.

    What had to be caught up with first stays booked: it was due whatever becomes of the batch.
    """
    for _ in range(_CATCH_UPS_MAX):
        with engine.connect() as connection, connection.begin() as transaction:
            found = rehearse_on(connection, batch, catalogues, stages, instants)
            transaction.rollback()
        if isinstance(found, Applied):
            return found
        catch_up(engine, found, catalogues)
    raise _never_caught_up()


def rehearse_on(
    connection: Connection,
    batch: Batch,
    catalogues: Catalogues,
    stages: Stages,
    instants: Instants = by_database_clock,
) -> Applied | ManyDue:
    """What `apply_batch` would do, by the same code, inside the caller's transaction, which the caller rolls back.

    What that transaction published decides, though it is not committed: `catalogues` must then not outlive it. Where
    too much is due or the batch fails, the transaction is as if nothing had been tried. `catch_up` needs the customers
    that the transaction holds, so it comes after the rollback.
    """
    named: frozenset[str] = frozenset()
    for _ in range(_CATCH_UPS_MAX):
        try:
            with connection.begin_nested():
                applied = _transact(connection, batch, catalogues, stages, instants, named)
        except ManyDueError as error:
            return error.many
        except MoreCustomersError as more:
            named |= more.customer_ids
        else:
            return applied
    raise _never_caught_up()


def catch_up(engine: Engine, many: ManyDue, catalogues: Catalogues) -> None:
    """The earliest of what is due for these customers is booked and committed: it is due whatever is decided next."""
    for _ in range(_CATCH_UPS_MAX):
        try:
            book_due_apart(engine, many.due_at, catalogues)
        except MoreCustomersError:
            continue
        return
    raise _never_caught_up()


_VICTIM_SQLSTATES = frozenset({"40001", "40P01"})
_CATCH_UPS_MAX = 10_000
"""Most transactions that catch up with what is due before one batch: a hundred transitions each, so a million."""


def _never_caught_up() -> BrokenInvariantError:
    return BrokenInvariantError(f"customers still have too much due after {_CATCH_UPS_MAX} transactions of their own")


def _transact(
    connection: Connection,
    batch: Batch,
    catalogues: Catalogues,
    stages: Stages,
    instants: Instants,
    named: frozenset[str],
) -> Applied:
    """Everything but the commit, in the order that the module tells; `named` customers are locked beside all others.

    Raises ManyDueError or MoreCustomersError where something has to be done before the batch is tried again.
    """
    catalogue_store.lock_shared(connection)
    ledger = catalogue_store.read_ledger(connection)
    catalogue = catalogues.at(connection, ledger.catalogue_version)
    fence_store.move(
        connection, [(m.topic, m.partition, m.owner_epoch, m.from_offset, m.to_offset) for m in batch.moves]
    )
    stages.reached(Stage.FENCED)

    claimants = read_claimants(connection, batch.deliveries)
    wanted = {*named, *claimants.values(), *(each for one in batch.deliveries for each in customers_of(one.event))}
    customer_ids = customers_store.lock(connection, sorted(wanted, key=str.encode), murmur2)
    heads, key_hashes = customers_store.read_heads(connection, customer_ids)
    require_not_parked(heads)
    stages.reached(Stage.LOCKED)

    told = read_told(connection, batch.deliveries, instants(connection, batch.deliveries), heads)
    stages.reached(Stage.INBOX)

    usage_kept = timedelta(days=ledger.usage_kept_days)
    claimants = claim_sources(connection, told, catalogue, usage_kept, merges_of(heads))
    require_all_locked(heads, claimants)
    groups = group_customers(told, heads, claimants)
    loaded = load(connection, groups, heads, claimants, catalogue)
    stages.reached(Stage.LOADED)

    decided = decide_groups(connection, groups, loaded, catalogue, ledger)
    if isinstance(decided, ManyDue):
        raise ManyDueError(decided)
    stages.reached(Stage.DECIDED)

    return write(connection, batch, groups, decided, ledger, key_hashes)
