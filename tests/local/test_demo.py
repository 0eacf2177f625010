"""The demo is clean and leaves nothing behind, however it ends. It runs as a program, as a person runs it."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

START_SECONDS_MAX = 60.0
PROGRAM = "import sys; from ledger_worker.local.demo import run; sys.exit(not run(customers=int(sys.argv[1]), seed=7))"


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo puts what it starts, so that nothing of others is taken for its own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def started(temporary_folder: Path) -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, "-c", PROGRAM, "40"]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=temporary_folder.parent
    ) as demo:
        yield demo
        if demo.poll() is None:
            demo.kill()


def running(folder: Path) -> list[list[str]]:
    """What runs in the folder, or was told of it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        parts = [*(process.info["cmdline"] or ()), process.info["cwd"] or ""]
        if any(str(folder) in part for part in parts):
            found.append(parts)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_demo_leaves_nothing_behind(
    temporary_folder: Path, started: subprocess.Popen[str], number: signal.Signals
) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while not list(temporary_folder.glob("ledger-demo-*/cluster/cluster.json")):
        assert time.monotonic() < deadline, "the demo does not begin"
        time.sleep(0.05)

    started.send_signal(number)
    said, _ = started.communicate(timeout=START_SECONDS_MAX)

    assert "Interrupted" in said
    assert started.returncode != 0
    assert running(temporary_folder) == [], said
    assert list(temporary_folder.iterdir()) == [], said


@pytest.mark.long
def test_the_demo_is_clean_and_leaves_nothing_behind(temporary_folder: Path, started: subprocess.Popen[str]) -> None:
    said, _ = started.communicate(timeout=180)

    assert started.returncode == 0, said
    assert "was killed (SIGKILL)" in said
    assert ": all are equal." in said
    assert " ".join(said.split()).count("eight threads at once asked for one each") == 2
    assert "gave somebody a seat" in " ".join(said.split())
    assert "that nobody confirmed were over by themselves" in said
    assert "a clock that came back booked" in said
    assert "All clean" in said
    assert running(temporary_folder) == []
    assert list(temporary_folder.iterdir()) == []
