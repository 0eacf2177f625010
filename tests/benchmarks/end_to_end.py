"""End to end.

Records wait in Kafka, a worker process is started as in service, and the clock runs until all is published.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import Producer
from sqlalchemy import Engine, text

from ledger_worker.domain.events import Event
from ledger_worker.local.cluster import Cluster
from ledger_worker.store.database import engine
from ledger_worker.wire.encode import encode_event, family_of
from tests.benchmarks.processes import CpuMeter

__all__ = ["APART", "ONE_PROCESS", "check_ledger", "measure"]

_COMMAND = Path(sys.executable).with_name("ledger-worker")
_SECONDS_MAX = 600.0
_TICK_SECONDS = 0.05


ONE_PROCESS = (("run",),)
"""Consume and relay in one process, as `ledger-worker run` starts them."""
APART = (("run", "consume"), ("run", "consume"), ("run", "relay"))
"""Two processes that consume and one that relays: Python runs one thread at a time, so loops apart do not wait."""


def measure(
    cluster: Cluster, url: str, told: Sequence[Event], prefix: str, commands: Sequence[Sequence[str]] = ONE_PROCESS
) -> tuple[float, dict[str, float]]:
    """Events per second from the first batch until the last change is published, and CPU seconds per 100,000 events."""
    environment = {
        **os.environ,
        "LEDGER_DATABASE_URL": url,
        "LEDGER_KAFKA_BOOTSTRAP": cluster.kafka_bootstrap,
        "LEDGER_CONSUMER_GROUP": prefix,
        "LEDGER_START": "earliest",
        "LEDGER_LOG_LEVEL": "warning",
        **{f"LEDGER_TOPIC_{name.upper()}": f"{prefix}.{name}" for name in _TOPICS},
    }
    subprocess.run([str(_COMMAND), "topics", "create"], env=environment, check=True, capture_output=True)
    _produce(cluster, told, prefix)
    ledger = engine(url)
    workers = [subprocess.Popen([str(_COMMAND), *command], env=environment) for command in commands]
    try:
        named = {f"{' '.join(command)} ({place})": workers[place].pid for place, command in enumerate(commands)}
        meter = CpuMeter({**named, "broker": cluster.kafka_pid}, {"postgres": cluster.postgres_pid})
        _wait(ledger, workers, 1)
        started_at = time.perf_counter()
        meter.resume()
        already = _records(ledger)
        _wait(ledger, workers, len(told))
        while _waiting(ledger):
            _require_running(workers)
            time.sleep(_TICK_SECONDS)
        seconds = time.perf_counter() - started_at
        meter.pause()
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
    ledger.dispose()
    return (len(told) - already) / seconds, meter.seconds(100_000 / (len(told) - already))


def check_ledger(url: str) -> None:
    """Raises RuntimeError when `verify` finds anything wrong: a fast run that loses an event scores nothing."""
    found = subprocess.run(
        [str(_COMMAND), "ledger", "verify", "--json"],
        env={**os.environ, "LEDGER_DATABASE_URL": url, "LEDGER_KAFKA_BOOTSTRAP": "unused:9092"},
        check=False,
        capture_output=True,
        text=True,
    )
    if found.returncode:
        msg = f"the ledger is not right: {found.stdout}{found.stderr}"
        raise RuntimeError(msg)


_TOPICS = ("purchases", "subscriptions", "usage", "changes", "state", "dead_letters")


def _produce(cluster: Cluster, told: Sequence[Event], prefix: str) -> None:
    producer = Producer(
        {"bootstrap.servers": cluster.kafka_bootstrap, "partitioner": "murmur2_random", "linger.ms": 20}
    )
    for event in told:
        producer.produce(
            f"{prefix}.{family_of(event).value}", key=event.customer_id.encode(), value=encode_event(event)
        )
        producer.poll(0)
    producer.flush()


def _wait(ledger: Engine, workers: Sequence[subprocess.Popen[bytes]], records: int) -> None:
    until = time.monotonic() + _SECONDS_MAX
    while _records(ledger) < records:
        _require_running(workers)
        if time.monotonic() > until:
            msg = f"{_records(ledger)} of {records} records were applied after {_SECONDS_MAX} s"
            raise RuntimeError(msg)
        time.sleep(_TICK_SECONDS)


def _records(ledger: Engine) -> int:
    with ledger.connect() as connection:
        return int(connection.execute(text("SELECT coalesce(sum(records), 0) FROM input_partition")).scalar_one())


def _waiting(ledger: Engine) -> bool:
    with ledger.connect() as connection:
        return bool(connection.execute(text("SELECT EXISTS (SELECT FROM outbox)")).scalar_one())


def _require_running(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    ended = [worker.returncode for worker in workers if worker.poll() is not None]
    if ended:
        msg = f"workers stopped with status {ended}"
        raise RuntimeError(msg)
