"""How the two servers are set: what differs between trying out, measuring and testing. Only values may live here."""

import msgspec


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a local cluster that a caller may choose. They are remembered, and hold until the next start."""

    survives_power_loss: bool
    """Whether PostgreSQL waits for the disk. Without it a killed process still loses nothing, a killed machine does."""
    shared_buffers_megabytes: int
    wal_megabytes_max: int
    """How much write-ahead log PostgreSQL lets grow between checkpoints."""
    broker_heap_megabytes: int
    group_session_timeout_seconds: float
    """After how long without a heartbeat the broker gives the partitions of a group's member to the others."""
    broker_session_timeout_seconds: float
    """How long a killed broker has to wait before it may come back."""


DURABLE = Tuning(
    survives_power_loss=True,
    shared_buffers_megabytes=512,
    wal_megabytes_max=4096,
    broker_heap_megabytes=768,
    group_session_timeout_seconds=45.0,
    broker_session_timeout_seconds=9.0,
)
"""As in service: for benchmarks, and for whoever tries things out."""

FAST = Tuning(
    survives_power_loss=False,
    shared_buffers_megabytes=128,
    wal_megabytes_max=512,
    broker_heap_megabytes=384,
    group_session_timeout_seconds=6.0,
    broker_session_timeout_seconds=3.0,
)
"""For tests, which kill processes and not the machine, and do not want to wait 45 seconds for a takeover."""
