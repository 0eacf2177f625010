"""The walk of the README, command by command as it stands there, on a machine with nothing but the checkout."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger_worker.local import cluster as local_cluster
from tests.shared_cluster import Endpoints

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
TOLD_SECONDS_MAX = 60


@pytest.fixture
def checkout(cluster: Endpoints, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the examples in it and no setting exported; what `dev up` starts in it does not outlive the run."""
    # The shared cluster is not used, but whoever asks for it has the keeper that clears the folder of a killed run.
    assert cluster.database_url
    folder = Path(os.environ["LEDGER_TEST_RUN_FOLDER"])
    for name in [name for name in os.environ if name.startswith("LEDGER_")]:
        monkeypatch.delenv(name)
    (folder / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(folder)
    yield folder
    (folder / "docs").unlink()
    local_cluster.delete(folder / local_cluster.DEFAULT_FOLDER)


def walk() -> list[list[str]]:
    """The arguments of each `ledger-worker` in the README's walk, in its order."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## The same by hand")[1].split("\n## ")[0]
    return [shlex.split(line, comments=True) for line in re.findall(r"^\$ ledger-worker (.+)$", section, re.MULTILINE)]


def printed_changes() -> list[str]:
    """The changes that the README shows, without their instants."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return [without_instant(line) for line in readme.splitlines() if "  because of " in line]


def without_instant(line: str) -> str:
    return line.partition("  ")[2]


def ledger_worker(*arguments: str) -> str:
    """What the command prints, which has to end well."""
    ran = subprocess.run([PROGRAMS / "ledger-worker", *arguments], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, f"{arguments} ended with {ran.returncode}: {ran.stderr[-2000:]}"
    return ran.stdout


def changes_once_told(count: int) -> list[dict[str, object]]:
    """The changes on the topic, when there are that many."""
    until = time.monotonic() + TOLD_SECONDS_MAX
    while True:
        told = [json.loads(line) for line in ledger_worker("changes", "tail", "--json").splitlines()]
        if len(told) >= count or time.monotonic() > until:
            return told


@pytest.mark.usefixtures("checkout")
@pytest.mark.timeout(300)
def test_the_walk_of_the_readme_grants_once_revokes_once_and_verifies_clean() -> None:
    steps = walk()
    start = steps.index(["run"])
    for arguments in steps[:start]:
        ledger_worker(*arguments)
    with subprocess.Popen([PROGRAMS / "ledger-worker", "run"], stderr=subprocess.DEVNULL) as worker:
        try:
            sends = [step for step in steps[start + 1 :] if step[:2] == ["events", "send"]]
            for arguments in sends:
                ledger_worker(*arguments)
            told = changes_once_told(2)
            shown = {
                " ".join(arguments): ledger_worker(*arguments)
                for arguments in steps[start + 1 :]
                if arguments not in sends
            }
        finally:
            worker.send_signal(signal.SIGTERM)
            status = worker.wait(60)

    assert len(sends) == 3
    assert [(each["customer_id"], each["entitlement"], each["sequence"]) for each in told] == [
        ("ada", "exports", 1),
        ("ada", "exports", 2),
    ]
    assert [without_instant(line) for line in shown["changes tail"].splitlines()] == printed_changes()
    assert "PurchaseRefunded" in shown["customer explain ada"]
    assert "The ledger is clean" in shown["ledger verify"]
    assert "stopped" in shown["dev down"]
    assert status == 0
