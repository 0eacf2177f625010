"""What one transaction applies, and what came of it: values."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from ledger_worker.domain.changes import Change
from ledger_worker.domain.events import Event
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.wire.record import Record

__all__ = ["Applied", "Batch", "Delivery", "ManyDue", "Move", "Refused", "Rejected"]


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch moves one input partition, which is also its fence.

    The row must still stand at `from_offset` under `owner_epoch`; it is then set to `to_offset` (the offset after the
    last record consumed, which need not be contiguous).
    """

    topic: str
    partition: int
    topic_id: str
    owner_epoch: int
    from_offset: int
    to_offset: int


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One decoded event with the record it came in (None when it came by no topic)."""

    event: Event
    record: Record | None = None
    traceparent: str | None = None


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is a dead letter already: it could not be decoded, or its value is impossible."""

    record: Record
    topic_id: str
    reason: DeadLetterReason
    message: str
    event: Event | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction applies: deliveries in the order of their arrival (per partition by offset)."""

    moves: tuple[Move, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    rejected: tuple[Rejected, ...] = ()


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Why an event that came by no topic was not applied, and what was expected: it is answered, and not kept."""

    event: Event
    reason: DeadLetterReason
    message: str


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a batch, after its commit.

    Counts by outcome and dead-letter reason, and how many outbox rows it wrote. `told` are the changes in them, those
    of one customer in their order. `refused` are events that came by no topic: others become dead letters.
    """

    outcomes: Mapping[str, int]
    dead_letters: Mapping[str, int]
    changes: int
    postings: int
    recorded_at: datetime | None = None
    told: tuple[Change, ...] = ()
    refused: tuple[Refused, ...] = ()


class ManyDue(msgspec.Struct, frozen=True, kw_only=True):
    """A batch was not tried: for these customers more is due, each at an instant, than one transaction may book."""

    due_at: Mapping[str, datetime]
