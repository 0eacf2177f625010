"""What figures share: a catalogue, batches, and a database at rest before the clock runs."""

from collections.abc import Iterable, Iterator
from itertools import islice

from sqlalchemy import text

from ledger_worker.apply.batch import Applied, Batch, Delivery
from ledger_worker.domain.events import Event
from ledger_worker.local.cluster import Cluster
from ledger_worker.metrics import CollectorRegistry, Metrics, Stages
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store.database import engine
from tests.benchmarks.workload import ENTITLEMENTS, OFFERS

__all__ = ["BATCH_EVENTS", "at_rest", "checkpoint", "in_batches", "publish", "require_all_applied", "unseen_stages"]

BATCH_EVENTS = 1_000
_REST_SECONDS_MAX = 3_600
"""For vacuuming a ledger of some gigabytes."""


def publish(url: str) -> None:
    """The load's catalogue is published."""
    ledger = engine(url)
    with ledger.begin() as connection:
        catalogue_store.lock_exclusive(connection)
        known = catalogue_store.read(connection, catalogue_store.read_ledger(connection).catalogue_version)
        catalogue_store.publish(connection, ENTITLEMENTS, OFFERS, known)
    ledger.dispose()


def at_rest(cluster: Cluster, url: str) -> None:
    """The database is as a server has it that has caught up: vacuumed, analysed, and on the disk."""
    _execute(url, "VACUUM (ANALYZE)")
    checkpoint(cluster)


def checkpoint(cluster: Cluster) -> None:
    """What was written before is on the disk, so that the next figure does not pay for it."""
    _execute(cluster.database_url, "CHECKPOINT")


def in_batches(told: Iterable[Event], events_max: int = BATCH_EVENTS) -> Iterator[Batch]:
    """The events in batches, none made before it is asked for."""
    left = iter(told)
    while events := tuple(islice(left, events_max)):
        yield Batch(deliveries=tuple(Delivery(event=event) for event in events))


def unseen_stages() -> Stages:
    """Stages that nobody reads."""
    return Stages(Metrics(CollectorRegistry()))


def require_all_applied(applied: Applied, expected: int) -> None:
    """Raises RuntimeError when any of the batch became nothing."""
    if sum(applied.outcomes.values()) != expected or applied.dead_letters:
        msg = f"{expected} events became {dict(applied.outcomes)} and {dict(applied.dead_letters)}"
        raise RuntimeError(msg)


def _execute(url: str, command: str) -> None:
    owner = engine(url, role=None, statement_timeout_seconds=_REST_SECONDS_MAX)
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(command))
    owner.dispose()
