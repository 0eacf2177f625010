"""A relay in a process of its own, which can be frozen or killed at a named stage of a round.

`python -m tests.worker.relay_program SETTINGS` where SETTINGS is JSON: those of the ledger, and `freeze_at`, `STAGE:N`.
"""

import itertools
import os
import signal
import sys

import msgspec

from ledger_worker.config import Settings
from ledger_worker.metrics import Crash, Stage
from ledger_worker.worker.relay import run_relay
from tests.worker.relays import LEASE_SECONDS, relay_shared
from tests.worker.waiting_changes import pictures


class Freeze(Crash):
    """Stops this process where a crash would kill it; SIGCONT lets it go on."""

    def __init__(self, stage: Stage, nth: int) -> None:
        super().__init__(stage, nth)
        self._before = itertools.count(1 - nth)

    def reached(self) -> None:
        if next(self._before) == 0:
            os.kill(os.getpid(), signal.SIGSTOP)


def main(program: str) -> None:
    """Publishes until it is killed."""
    parsed = msgspec.json.decode(program, type=dict[str, str])
    stage, _, nth = parsed.pop("freeze_at", "").partition(":")
    settings = Settings(**parsed)  # type: ignore[arg-type]  # all that a test sets is text
    crash = Freeze(Stage(stage), int(nth)) if stage else Crash.parse(settings.crash_at)
    run_relay(relay_shared(settings, crash), pictures, lease_seconds=LEASE_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1])
