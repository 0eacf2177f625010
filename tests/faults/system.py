"""A whole ledger under test: a database, topics, a load whose truth is known, and processes that may be killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from sqlalchemy import Engine, text

from ledger_worker.config import Settings
from ledger_worker.domain.changes import Change, CustomerPicture
from ledger_worker.domain.events import Event
from ledger_worker.kafka import topics
from ledger_worker.operations.verify import verify
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store.database import engine
from ledger_worker.wire.decode import decode_change, decode_customer_state
from ledger_worker.wire.encode import encode_event, family_of
from tests.benchmarks.workload import ENTITLEMENTS, OFFERS, Workload, events
from tests.shared_cluster import Endpoints

__all__ = ["Load", "System", "make_load"]

_COMMAND = Path(sys.executable).with_name("ledger-worker")
_SECONDS_MAX = 90.0
_TICK_SECONDS = 0.05


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent: well-formed events, some of them twice, and bytes that are no events."""

    events: tuple[Event, ...]
    repeated: tuple[Event, ...]
    poison: tuple[bytes, ...]

    @property
    def records(self) -> int:
        """How many records there are on the topics."""
        return len(self.events) + len(self.repeated) + len(self.poison)


def make_load(count: int, customers: int, seed: int) -> Load:
    """`count` events, a tenth of them told twice, and a little poison."""
    chance = random.Random(seed)
    workload = Workload(events=count, customers=customers, starts_at=datetime.now(UTC) - timedelta(days=1), seed=seed)
    told = tuple(events(workload))
    return Load(
        events=told,
        repeated=tuple(chance.sample(told, count // 10)),
        poison=tuple(chance.randbytes(chance.randint(0, 40)) for _ in range(7)),
    )


class System:
    """One ledger with its topics. Worker processes are started by `worker`; what still runs is killed."""

    def __init__(self, cluster: Endpoints, database_url: str, prefix: str) -> None:
        self._cluster = cluster
        self._workers: list[subprocess.Popen[bytes]] = []
        self.settings = Settings(
            database_url=database_url,
            kafka_bootstrap=cluster.kafka_bootstrap,
            consumer_group=f"{prefix}group",
            **{f"topic_{name}": f"{prefix}{name}" for name in _TOPICS},  # type: ignore[arg-type]
        )
        self.ledger: Engine = engine(database_url)
        topics.create(AdminClient({"bootstrap.servers": cluster.kafka_bootstrap}), topics.plan(self.settings, 4))
        with self.ledger.begin() as connection:
            catalogue_store.publish(connection, ENTITLEMENTS, OFFERS, catalogue_store.read(connection, 0))

    def send(self, load: Load, seed: int = 1, records_a_second: int | None = None) -> None:
        """Everything is on the input topics; repetitions and poison lie somewhere behind the originals."""
        started_at = time.monotonic()
        chance = random.Random(seed)
        producer = Producer({"bootstrap.servers": self._cluster.kafka_bootstrap, "partitioner": "murmur2_random"})
        for place, event in enumerate((*load.events, *load.repeated)):
            if records_a_second is not None and time.monotonic() < started_at + place / records_a_second:
                time.sleep(_TICK_SECONDS)
            topic = getattr(self.settings, f"topic_{family_of(event).value}")
            producer.produce(topic, key=event.customer_id.encode(), value=encode_event(event))
            producer.poll(0)
        for value in load.poison:
            producer.produce(self.settings.topic_usage, key=b"poison", value=value, partition=chance.randrange(4))
        producer.flush()

    @contextmanager
    def worker(self, *, crash_at: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """A worker process as in service: consume and relay. Killed when the block ends, if it still runs."""
        environment = {
            **os.environ,
            "LEDGER_DATABASE_URL": self.settings.database_url,
            "LEDGER_KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "LEDGER_CONSUMER_GROUP": self.settings.consumer_group,
            "LEDGER_LOG_LEVEL": "warning",
            "LEDGER_BATCH_EVENTS_MAX": "100",
            "LEDGER_LANE_LEASE_SECONDS": "2",
            "LEDGER_IDLE_IN_TRANSACTION_SESSION_TIMEOUT_SECONDS": "5",
            **{f"LEDGER_TOPIC_{name.upper()}": getattr(self.settings, f"topic_{name}") for name in _TOPICS},
        }
        if crash_at is not None:
            environment["LEDGER_CRASH_AT"] = crash_at
        process = subprocess.Popen([str(_COMMAND), "run"], env=environment)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()

    def applied(self) -> int:
        """How many records of the input topics the ledger has seen."""
        with self.ledger.connect() as connection:
            return int(connection.execute(text("SELECT coalesce(sum(records), 0) FROM input_partition")).scalar_one())

    def wait_until_applied(self, records: int, *workers: subprocess.Popen[bytes]) -> None:
        """So many records are applied. Fails when it takes too long or one of the workers ends."""
        _wait(lambda: self.applied() >= records, f"{records} records applied", workers)

    def claims(self) -> int:
        """How often an input partition was claimed so far."""
        with self.ledger.connect() as connection:
            return int(
                connection.execute(text("SELECT coalesce(sum(owner_epoch), 0) FROM input_partition")).scalar_one()
            )

    def wait_until_claimed(self, more_than: int, *workers: subprocess.Popen[bytes]) -> None:
        """A partition was claimed once more."""
        _wait(lambda: self.claims() > more_than, "a claim", workers)

    def wait_until_finished(self, load: Load, *workers: subprocess.Popen[bytes]) -> None:
        """Everything is applied, and everything told is published."""
        self.wait_until_applied(load.records, *workers)
        _wait(lambda: not self._waiting(), "an empty outbox", workers)

    def prove(self, load: Load) -> None:
        """Every event is accounted for once, the ledger is right, and the topics tell it in order and without a gap."""
        with self.ledger.connect() as connection:
            records, duplicates, dead = connection.execute(
                text("SELECT sum(records), sum(duplicates), sum(dead_letters) FROM input_partition")
            ).one()
            kept = connection.execute(text("SELECT count(*) FROM event WHERE topic IS NOT NULL")).scalar_one()
            letters = connection.execute(text("SELECT count(*) FROM dead_letter")).scalar_one()
            heads = connection.execute(text("SELECT customer_id, sequence FROM customer WHERE sequence > 0")).all()
            sequences = {row.customer_id: row.sequence for row in heads}
        with self.ledger.connect() as connection:
            found = verify(connection)
        assert (kept, duplicates, dead, letters) == (
            len(load.events),
            len(load.repeated),
            len(load.poison),
            len(load.poison),
        )
        assert records == load.records
        assert found.is_clean, found
        self._prove_published(sequences)

    def _prove_published(self, sequences: dict[str, int]) -> None:
        told: dict[str, list[Change]] = defaultdict(list)
        for value in self._published(self.settings.topic_changes):
            change = decode_change(value)
            told[change.customer_id].append(change)
        assert {customer: max(c.sequence for c in changes) for customer, changes in told.items()} == sequences
        for changes in told.values():
            first_seen: dict[int, Change] = {}
            for change in changes:
                known = first_seen.setdefault(change.sequence, change)
                assert known == change, "a repeat differs from what was told first"
            assert list(first_seen) == list(range(1, len(first_seen) + 1)), "a gap or an inversion"
        newest: dict[str, CustomerPicture] = {}
        for value in self._published(self.settings.topic_state):
            picture = decode_customer_state(value)
            known_picture = newest.get(picture.customer_id)
            assert known_picture is None or known_picture.sequence <= picture.sequence, "an older picture"
            newest[picture.customer_id] = picture
        assert {customer: picture.sequence for customer, picture in newest.items()} == sequences

    def _published(self, topic: str) -> list[bytes]:
        """All committed values of the topic, partition by partition in their order."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._cluster.kafka_bootstrap,
                "group.id": "proof",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        values: list[bytes] = []
        unfinished = set(partitions)
        until = time.monotonic() + _SECONDS_MAX
        while unfinished:
            assert time.monotonic() < until, f"{topic} cannot be read to its end"
            for message in consumer.consume(1000, 0.2):
                error = message.error()
                if error is not None:
                    assert error.code() == -191, error
                    unfinished.discard(message.partition())
                else:
                    values.append(message.value() or b"")
        consumer.close()
        return values

    def _waiting(self) -> bool:
        with self.ledger.connect() as connection:
            return bool(connection.execute(text("SELECT EXISTS (SELECT FROM outbox)")).scalar_one())


_TOPICS = ("purchases", "subscriptions", "usage", "changes", "state", "dead_letters")


def _wait(is_true: object, what: str, workers: Sequence[subprocess.Popen[bytes]]) -> None:
    assert callable(is_true)
    until = time.monotonic() + _SECONDS_MAX
    while not is_true():
        ended = [process.returncode for process in workers if process.poll() is not None]
        assert not ended, f"a worker ended with status {ended} before {what}"
        assert time.monotonic() < until, f"no {what} within {_SECONDS_MAX} s"
        time.sleep(_TICK_SECONDS)
