"""Worker processes of this machine: `ledger-worker run` each, started, killed and stopped by who holds them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ledger_worker.errors import LedgerError

__all__ = ["WorkerEndedError", "Workers"]

_STOP_SECONDS_MAX = 40.0
_LOG_LINES_SHOWN = 15


class WorkerEndedError(LedgerError):
    """A worker has ended by itself; the message says which, with the end of its log."""


class _Worker(msgspec.Struct):
    """One worker process, by the number under which people see it."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path


class Workers:
    """The worker processes: `ledger-worker run` each, with what they say in a log of their own."""

    def __init__(self, folder: Path) -> None:
        self.environment: Mapping[str, str] = {}
        self._folder = folder
        self._running: list[_Worker] = []
        self._started = 0

    def start(self) -> int:
        """One more runs; the answer is its number."""
        self._started += 1
        log = self._folder / f"worker-{self._started}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ledger_worker.cli", "run"],
                env={**inherited, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C at the terminal is for us: we stop them, in order.
                start_new_session=True,
            )
        self._running.append(_Worker(self._started, process, log))
        return self._started

    def replace_one(self) -> tuple[int, int]:
        """The oldest is killed without warning, and another is started; the answer is their numbers."""
        killed = self._running.pop(0)
        killed.process.kill()
        killed.process.wait()
        return killed.number, self.start()

    def require_alive(self) -> None:
        """Raises when one has ended by itself, with the end of its log."""
        for worker in self._running:
            if worker.process.poll() is not None:
                raise WorkerEndedError(f"worker {worker.number} ended by itself: {_end_of(worker.log)}")

    def stop(self) -> list[str]:
        """All have ended, asked by SIGTERM; the answer is what was wrong with that."""
        problems = []
        for worker in self._running:
            worker.process.terminate()
        for worker in self._running:
            try:
                status = worker.process.wait(_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
                problems.append(f"worker {worker.number} did not stop within {_STOP_SECONDS_MAX:.0f} s")
            else:
                if status:
                    problems.append(f"worker {worker.number} stopped with status {status}: {_end_of(worker.log)}")
        self._running.clear()
        return problems

    def kill(self) -> None:
        """None runs, at once."""
        for worker in self._running:
            worker.process.kill()
            worker.process.wait()
        self._running.clear()


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES_SHOWN:])
