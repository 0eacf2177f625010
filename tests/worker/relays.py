"""Relays on real servers: started in a thread or in a process, and what they told read back as careful readers do."""

import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from sqlalchemy import Engine, text

from ledger_worker.config import Settings
from ledger_worker.kafka.client import admin_client
from ledger_worker.kafka.topics import create, plan
from ledger_worker.metrics import Crash
from ledger_worker.store import database
from ledger_worker.wire.decode import decode_change, decode_customer_state
from ledger_worker.wire.framing import Registry
from ledger_worker.worker.relay import Pictures, run_relay
from ledger_worker.worker.shared import Shared
from tests.own_settings import settings_of
from tests.worker.running import shared_of
from tests.worker.waiting_changes import LANES, pictures

LEASE_SECONDS = 1.0
_SECONDS_MAX = 60.0
_ROOT = Path(__file__).parents[2]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader of committed records sees: sequences by customer, in the order of the partition."""

    changes: Mapping[str, list[int]]
    pictures: Mapping[str, list[int]]


def settings_with_topics(database_url: str, kafka_bootstrap: str, topic_prefix: str) -> Settings:
    """A ledger of this test's own, with its output topics made."""
    settings = settings_of(database_url, kafka_bootstrap, topic_prefix)
    create(admin_client(settings.broker), plan(settings, LANES)[3:])
    return settings


def relay_shared(settings: Settings, crash: Crash | None = None, registry: Registry | None = None) -> Shared:
    """What a relay is given, with a session for each lane. Whoever runs the loop disposes of the engine."""
    engine = database.engine(settings.database_url, connections_max=LANES + 6)
    return shared_of(settings, engine, crash=crash, registry=registry)


@contextmanager
def running_relay(
    settings: Settings, *, registry: Registry | None = None, drawn: Pictures = pictures
) -> Iterator[Shared]:
    """A relay in a thread, stopped in good order at the end; what it raised is raised here."""
    shared = relay_shared(settings, registry=registry)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            run_relay(shared, drawn, lease_seconds=LEASE_SECONDS)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            raised.append(error)

    thread = threading.Thread(target=run, name="relay under test")
    thread.start()
    try:
        yield shared
    finally:
        shared.stop.set()
        thread.join(_SECONDS_MAX)
        shared.engine.dispose()
    if raised:
        raise raised[0]


@contextmanager
def relay_process(settings: Settings, *, freeze_at: str = "", crash_at: str = "") -> Iterator[psutil.Popen]:
    """A relay in a process, killed at the end if it still lives."""
    program = {
        name: value
        for name, value in msgspec.structs.asdict(settings).items()
        if isinstance(value, str) and (name.startswith("topic_") or name in _PASSED_ON)
    }
    program |= {"freeze_at": freeze_at, "crash_at": crash_at}
    process = psutil.Popen(
        [sys.executable, "-m", "tests.worker.relay_program", json.dumps(program)],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.is_running():
            process.kill()
        process.wait(_SECONDS_MAX)


_PASSED_ON = ("database_url", "kafka_bootstrap", "consumer_group")


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """It is so, after a minute at most; another process brings it about, so there is no event to wait on."""
    until = time.monotonic() + _SECONDS_MAX
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError(f"still not so after {_SECONDS_MAX:.0f} s: {what}")
        time.sleep(0.02)


def wait_until_told(engine: Engine) -> None:
    """Nothing waits in the outbox."""

    def is_empty() -> bool:
        with engine.connect() as conn:
            return bool(conn.execute(text("SELECT NOT EXISTS (SELECT FROM outbox)")).scalar_one())

    wait_until(is_empty, "the outbox is empty")


def wait_until_frozen(process: psutil.Popen) -> None:
    """The process has stopped itself."""
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the relay has frozen")


def read_all(settings: Settings, topic: str) -> list[Message]:
    """Every committed record of the topic, partition by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap,
            "group.id": "reads-all",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    try:
        partitions = list(consumer.list_topics(topic, timeout=_SECONDS_MAX).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        messages: list[Message] = []
        ended: set[int | None] = set()
        until = time.monotonic() + _SECONDS_MAX
        while len(ended) < len(partitions):
            assert time.monotonic() < until, f"{topic} does not end: a transaction is open"
            for message in consumer.consume(1000, 0.1):
                error = message.error()
                if error is None:
                    messages.append(message)
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error  # noqa: SLF001 - the library's name for it
                    ended.add(message.partition())
        return sorted(messages, key=lambda message: (message.partition() or 0, message.offset() or 0))
    finally:
        consumer.close()


def read_told(settings: Settings, registry: Registry | None = None) -> Told:
    """Everything that was told about every customer."""
    changes: dict[str, list[int]] = defaultdict(list)
    for message in read_all(settings, settings.topic_changes):
        change = decode_change(message.value(), registry)
        changes[change.customer_id].append(change.sequence)
    states: dict[str, list[int]] = defaultdict(list)
    for message in read_all(settings, settings.topic_state):
        picture = decode_customer_state(message.value(), registry)
        states[picture.customer_id].append(picture.sequence)
    return Told(changes=changes, pictures=states)


def require_nothing_lost_and_no_inversion(engine: Engine, told: Told) -> None:
    """Promise 7: without repeats a customer's changes are 1, 2, … to its sequence; its pictures never grow older."""
    with engine.connect() as conn:
        rows = conn.execute(text("SELECT customer_id, sequence FROM customer")).all()
    for customer_id, sequence in rows:
        changes = told.changes.get(customer_id, [])
        assert list(dict.fromkeys(changes)) == list(range(1, sequence + 1)), customer_id
        states = told.pictures.get(customer_id, [])
        assert states == sorted(states), customer_id
        assert states[-1] == sequence, customer_id
