"""What the loops of one process share. Each loop has clients and timing of its own."""

import threading

import msgspec
from sqlalchemy import Engine

from ledger_worker.config import Settings
from ledger_worker.health import Health
from ledger_worker.metrics import Crash, Metrics, Stages
from ledger_worker.wire.framing import Registry

__all__ = ["Shared"]


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """Made once by the process. A loop ends soon after `stop` is set; `wake` is set when rows wait to be published."""

    settings: Settings
    engine: Engine
    registry: Registry | None
    metrics: Metrics
    crash: Crash | None
    health: Health
    stop: threading.Event
    wake: threading.Event

    def stages(self) -> Stages:
        """The timing of one loop, which may crash where the settings say so."""
        return Stages(self.metrics, self.crash)
