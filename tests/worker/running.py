"""The consuming loop in a thread of the test, on topics and a database of the test's own.

`Recorder` stands where the ledger's transaction stands: it moves the fence in a real transaction and keeps the batches
that were committed, so that a test sees exactly what the loop delivers. What it does before the commit, or after, is
the test's to say.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from time import monotonic

import msgspec
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from sqlalchemy import Connection, Engine, text

from ledger_worker.apply.batch import Applied, Batch
from ledger_worker.config import Settings
from ledger_worker.domain.events import Event, UsageRecorded
from ledger_worker.health import Health
from ledger_worker.kafka.client import admin_client, idempotent_producer, transactional_producer
from ledger_worker.kafka.topics import PlannedTopic, create
from ledger_worker.metrics import CollectorRegistry, Crash, Metrics
from ledger_worker.store import fence, partitions
from ledger_worker.store.database import engine as new_engine
from ledger_worker.store.partitions import Position
from ledger_worker.wire.encode import encode_event
from ledger_worker.wire.framing import Registry
from ledger_worker.worker.consume import Transactions, run_consume
from ledger_worker.worker.shared import Shared

SECONDS_MAX = 30.0


def shared_of(
    settings: Settings, engine: Engine, *, crash: Crash | None = None, registry: Registry | None = None
) -> Shared:
    """What a process makes for its loops, around an engine that is the caller's to dispose of."""
    return Shared(
        settings=settings,
        engine=engine,
        registry=registry,
        metrics=Metrics(CollectorRegistry()),
        crash=crash,
        health=Health(stall_seconds=60.0),
        stop=threading.Event(),
        wake=threading.Event(),
    )


def ignore(_conn: Connection, _batch: Batch) -> None:
    """Nothing is done beside moving the fence."""


class Recorder:
    """Moves the fence of each batch, and keeps what was committed."""

    def __init__(
        self,
        engine: Engine,
        before_commit: Callable[[Connection, Batch], None] = ignore,
        after_commit: Callable[[Connection, Batch], None] = ignore,
    ) -> None:
        self._engine = engine
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._committed: queue.Queue[Batch] = queue.Queue()
        self.rehearsed = 0

    def apply(self, batch: Batch) -> Applied:
        """Stands for `apply_batch`."""
        with self._engine.begin() as conn:
            self._transact(conn, batch)
        self._committed.put(batch)
        with self._engine.begin() as conn:
            self._after_commit(conn, batch)
        return Applied(outcomes={"applied": len(batch.deliveries)}, dead_letters={}, changes=0, postings=0)

    def rehearse(self, batch: Batch) -> Applied:
        """Stands for `rehearse_batch`: counted, and rolled back."""
        self.rehearsed += 1
        with self._engine.connect() as conn, conn.begin() as transaction:
            self._transact(conn, batch)
            transaction.rollback()
        return Applied(outcomes={}, dead_letters={}, changes=0, postings=0)

    def batch(self) -> Batch:
        """The next batch that was committed."""
        return self._committed.get(timeout=SECONDS_MAX)

    def events(self, count: int) -> list[str]:
        """The ids of the next events that were committed, in order."""
        found: list[str] = []
        while len(found) < count:
            found += [delivery.event.event_id for delivery in self.batch().deliveries]
        return found

    def is_idle(self) -> bool:
        """Whether nothing more was committed."""
        return self._committed.empty()

    def _transact(self, conn: Connection, batch: Batch) -> None:
        moves = [(m.topic, m.partition, m.owner_epoch, m.from_offset, m.to_offset) for m in batch.moves]
        fence.move(conn, moves)
        self._before_commit(conn, batch)


class Place:
    """The topics, database and settings of one test."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = new_engine(settings.database_url, lock_timeout_seconds=settings.lock_timeout_seconds)
        self.admin = admin_client(settings.broker)
        self._producer = idempotent_producer(settings.broker)

    def make_topics(self, partitions: int = 1) -> None:
        """The three input topics."""
        create(self.admin, [planned(name, partitions) for name in self.settings.input_topics])

    def send(self, *event_ids: str, partition: int = 0) -> None:
        """Usage with these ids lies in the topic."""
        self.send_bytes(*(encode_event(usage(event_id)) for event_id in event_ids), partition=partition)

    def send_bytes(self, *values: bytes, partition: int = 0) -> None:
        """These bytes lie in the topic, whatever they are."""

        def delivered(error: KafkaError | None, _message: Message) -> None:
            assert error is None

        for value in values:
            self._producer.produce(
                self.settings.topic_usage, value, key=b"customer", partition=partition, on_delivery=delivered
            )
        assert self._producer.flush(SECONDS_MAX) == 0

    def send_in_transaction(self, *event_ids: str, commits: bool = True) -> None:
        """Usage with these ids lies in partition 0, and the marker of its transaction takes the offset behind it."""
        producer = transactional_producer(self.settings.broker, f"{self.settings.topic_usage}/tests")
        producer.init_transactions(SECONDS_MAX)
        producer.begin_transaction()
        for event_id in event_ids:
            producer.produce(self.settings.topic_usage, encode_event(usage(event_id)), key=b"customer", partition=0)
        assert producer.flush(SECONDS_MAX) == 0
        if commits:
            producer.commit_transaction(SECONDS_MAX)
        else:
            producer.abort_transaction(SECONDS_MAX)

    def position(self, partition: int = 0) -> Position:
        """As it is stored, whoever owns it."""
        with self.engine.connect() as conn:
            return partitions.read(conn, [self.settings.topic_usage])[self.settings.topic_usage, partition]

    def claim(self, partition: int = 0) -> Position:
        """Another owner takes the partition."""
        topic = self.settings.topic_usage
        with self.engine.begin() as conn:
            return partitions.claim(conn, topic, partition, self.position(partition).topic_id, "another")

    def execute(self, statement: str) -> None:
        """As the owner of the schema."""
        owner = new_engine(self.settings.database_url, role=None)
        with owner.begin() as conn:
            conn.execute(text(statement))
        owner.dispose()

    def close(self) -> None:
        self.engine.dispose()


class Running:
    """A loop that runs; `error` is what it raised and nobody has asked for yet."""

    def __init__(self, shared: Shared, transactions: Transactions) -> None:
        self.shared = shared
        self.error: BaseException | None = None
        self._transactions = transactions
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The loop has left its group."""
        self.shared.stop.set()
        self._thread.join(SECONDS_MAX)
        assert not self._thread.is_alive()

    def failure(self) -> BaseException:
        """What it raised, once it has."""
        self._thread.join(SECONDS_MAX)
        failure, self.error = self.error, None
        assert failure is not None
        return failure

    def metric(self, name: str, **labels: str) -> float:
        """0 where it was not measured yet."""
        return self.shared.metrics.registry.get_sample_value(name, labels) or 0.0

    def _run(self) -> None:
        try:
            run_consume(self.shared, self.shared.stages(), self._transactions)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error


@contextmanager
def running(place: Place, recorder: Recorder, **changed: object) -> Iterator[Running]:
    """The loop runs inside the block, with some settings changed, and must not have failed at its end."""
    settings = msgspec.structs.replace(place.settings, **changed)
    shared = shared_of(settings, place.engine)
    run = Running(shared, Transactions(apply=recorder.apply, rehearse=recorder.rehearse))
    try:
        yield run
    finally:
        run.stop()
        if run.error is not None:
            raise run.error


def committed(place: Place) -> int:
    """What Kafka was told about partition 0; negative when nothing."""
    consumer = Consumer(
        {"bootstrap.servers": place.settings.kafka_bootstrap, "group.id": place.settings.consumer_group}
    )
    (found,) = consumer.committed([TopicPartition(place.settings.topic_usage, 0)], timeout=SECONDS_MAX)
    consumer.close()
    return int(found.offset)


def planned(name: str, partitions: int) -> PlannedTopic:
    """With the broker's own settings, and of no number of partitions that has to match another's."""
    return PlannedTopic(
        name=name, partitions=partitions, partitions_must_match=False, cleanup_policy="delete", config={}
    )


def usage(event_id: str) -> Event:
    """One unit used by the one customer of these tests."""
    return Event(
        event_source="tests",
        event_id=event_id,
        customer_id="customer",
        occurred_at=datetime(2026, 3, 1, tzinfo=UTC),
        fact=UsageRecorded(entitlement="api:calls", units=1),
    )


def eventually(is_true: Callable[[], bool]) -> None:
    """Looks again and again; what is looked at tells nobody when it changes."""
    until = monotonic() + SECONDS_MAX
    pause = threading.Event()
    while not is_true():
        assert monotonic() < until, "it did not become true"
        pause.wait(0.02)
