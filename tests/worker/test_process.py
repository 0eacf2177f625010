import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.request import urlopen

import pytest

from ledger_worker.kafka.topics import create, plan
from tests.worker.running import SECONDS_MAX, Place, committed, eventually

CONSUMING = """
import os
from ledger_worker.config import load
from ledger_worker.worker.process import CONSUME, consume, run
run(load(os.environ), {CONSUME: consume})
"""
FAILING = """
import os
from ledger_worker.config import load
from ledger_worker.worker.process import CONSUME, consume, run
run(load(os.environ), {CONSUME: consume, "bad": lambda shared: 1 / 0})
"""
DEAF = """
import os, time
from ledger_worker.config import load
from ledger_worker.worker.process import CONSUME, run
run(load(os.environ), {CONSUME: lambda shared: time.sleep(600)})
"""
LANES = 4


@pytest.fixture
def ready(place: Place) -> Place:
    """A place with all topics."""
    create(place.admin, plan(place.settings, LANES))
    return place


@contextmanager
def process(place: Place, program: str, more: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    settings = place.settings
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")} | {
        "LEDGER_DATABASE_URL": settings.database_url,
        "LEDGER_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "LEDGER_CONSUMER_GROUP": settings.consumer_group,
        "LEDGER_TOPIC_PURCHASES": settings.topic_purchases,
        "LEDGER_TOPIC_SUBSCRIPTIONS": settings.topic_subscriptions,
        "LEDGER_TOPIC_USAGE": settings.topic_usage,
        "LEDGER_TOPIC_CHANGES": settings.topic_changes,
        "LEDGER_TOPIC_STATE": settings.topic_state,
        "LEDGER_TOPIC_DEAD_LETTERS": settings.topic_dead_letters,
        **(more or {}),
    }
    started = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def lines_of(stderr: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]


def records(place: Place) -> int:
    with place.engine.connect() as conn:
        return int(conn.exec_driver_sql("SELECT coalesce(sum(records), 0) FROM input_partition").scalar_one())


def test_a_process_applies_what_comes_and_stops_when_it_is_told(ready: Place) -> None:
    ready.send("a", "b", "c")
    with process(ready, CONSUMING) as worker:
        eventually(lambda: records(ready) == 3)
        worker.send_signal(signal.SIGTERM)
        _, stderr = worker.communicate(timeout=SECONDS_MAX)

    assert worker.returncode == 0
    told = [line["event"] for line in lines_of(stderr)]
    assert told[-1] == "process_stopped"
    batches = [line for line in lines_of(stderr) if line["event"] == "batch_applied"]
    # Nobody published an entitlement, so each is a dead letter: what matters here is that each is accounted for once.
    assert sum(json.loads(json.dumps(line["dead_letters"])).get("unknown_entitlement", 0) for line in batches) == 3


def test_a_process_that_stops_has_told_kafka_the_end_of_a_topic_written_in_transactions(ready: Place) -> None:
    ready.send_in_transaction("a", "b", "c")
    with process(ready, CONSUMING) as worker:
        eventually(lambda: records(ready) == 3)
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=SECONDS_MAX)

    assert worker.returncode == 0
    assert committed(ready) == 4
    assert ready.position().next_offset == 3


def test_a_process_that_is_killed_after_a_commit_applies_nothing_twice(ready: Place) -> None:
    ready.send("a", "b", "c")
    with process(ready, CONSUMING, {"LEDGER_CRASH_AT": "committed:1"}) as worker:
        worker.communicate(timeout=SECONDS_MAX)
    assert worker.returncode == -signal.SIGKILL
    ready.send("d")

    with process(ready, CONSUMING):
        eventually(lambda: sum(ready.position(partition).next_offset for partition in range(4)) == 4)

    assert records(ready) == 4


def test_a_loop_that_fails_takes_the_process_with_it(ready: Place) -> None:
    with process(ready, FAILING) as worker:
        _, stderr = worker.communicate(timeout=SECONDS_MAX)

    assert worker.returncode == 1
    failed = [line for line in lines_of(stderr) if line["event"] == "loop_failed"]
    assert [line["loop"] for line in failed] == ["bad"]


def test_a_process_that_does_not_let_go_ends_after_the_grace_time(ready: Place) -> None:
    with process(ready, DEAF, {"LEDGER_GRACE_SECONDS": "0.5"}) as worker:
        assert worker.stderr is not None
        while "process_started" not in worker.stderr.readline():
            assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        worker.wait(SECONDS_MAX)

    assert worker.returncode == 70


def test_health_and_metrics_are_served_while_it_runs(ready: Place) -> None:
    ready.send("a")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]

    def answer(path: str) -> bytes:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return bytes(response.read())

    with process(ready, CONSUMING, {"LEDGER_METRICS_PORT": str(port)}):
        eventually(lambda: records(ready) == 1)

        assert json.loads(answer("/livez"))["ok"] is True
        assert json.loads(answer("/readyz"))["ok"] is True
        assert b'ledger_dead_letters_total{reason="unknown_entitlement"} 1.0' in answer("/metrics")


def test_a_topic_that_is_missing_stops_the_process_before_it_starts(place: Place) -> None:
    place.make_topics()

    with process(place, CONSUMING) as worker:
        _, stderr = worker.communicate(timeout=SECONDS_MAX)

    assert worker.returncode == 1
    assert f"topic {place.settings.topic_changes}" in stderr
