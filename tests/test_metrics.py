import signal
import subprocess
import sys
from typing import Any

import pytest

from ledger_worker.errors import ConfigurationError
from ledger_worker.metrics import CollectorRegistry, Crash, Metrics, Stage, Stages, exposition


def test_every_stage_is_timed_under_its_name() -> None:
    metrics = Metrics(CollectorRegistry())
    stages = Stages(metrics)

    stages.begin()
    for stage in Stage:
        stages.reached(stage)

    for stage in Stage:
        assert metrics.registry.get_sample_value("ledger_stage_seconds_count", {"stage": stage.value}) == 1


def test_every_name_has_the_prefix_and_counters_end_in_total() -> None:
    metrics = Metrics(CollectorRegistry())

    for family in metrics.registry.collect():
        assert family.name.startswith("ledger_")
        assert "_milliseconds" not in family.name


def test_a_crash_kills_the_process_at_the_nth_time_and_not_before() -> None:
    program = (
        "from ledger_worker.metrics import *\n"
        "stages = Stages(Metrics(CollectorRegistry()), Crash.parse('written:2'))\n"
        "stages.reached(Stage.WRITTEN)\n"
        "stages.reached(Stage.COMMITTED)\n"
        "print('once', flush=True)\n"
        "stages.reached(Stage.WRITTEN)\n"
        "print('twice', flush=True)\n"
    )

    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == "once\n"


def test_a_crash_at_a_stage_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="LEDGER_CRASH_AT names 'nowhere', expected one of polled, decoded"):
        Crash.parse("nowhere:1")


def test_nothing_crashes_when_nothing_is_set() -> None:
    assert Crash.parse("") is None


def test_the_metrics_are_served_as_prometheus_reads_them() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.changes.inc(3)
    status: list[str] = []

    def start_response(line: str, _headers: Any) -> None:  # noqa: ANN401 - as WSGI has it
        status.append(line)

    body = b"".join(exposition(metrics.registry)({"PATH_INFO": "/metrics", "REQUEST_METHOD": "GET"}, start_response))

    assert status == ["200 OK"]
    assert b"ledger_changes_total 3.0" in body
