"""What a transaction leaves to be told: changes in the outbox, and dead letters with their outbox rows."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.store.arrays import of_uuids
from ledger_worker.store.binary_copy import copy_rows
from ledger_worker.wire.record import Record

__all__ = [
    "DEAD_LETTER_LANE",
    "DeadLetterRow",
    "OutgoingChange",
    "append_changes",
    "append_dead_letters",
    "find_dead_letters",
]

DEAD_LETTER_LANE = -1
"""The lane of dead letters: apart from every customer's, so that neither waits for the other."""


class OutgoingChange(msgspec.Struct, frozen=True, kw_only=True):
    """An encoded change on its way out."""

    lane: int
    customer_id: str
    timeline: int
    sequence: int
    change_id: UUID
    payload: bytes
    traceparent: str | None
    recorded_at: datetime


class DeadLetterRow(msgspec.Struct, frozen=True, kw_only=True):
    """A record that could not be applied, with why; customer, source and id where it could be read."""

    dead_letter_id: UUID
    record: Record
    topic_id: str
    reason: str
    message: str
    customer_id: str | None
    event_source: str | None
    event_id: str | None
    failed_at: datetime


_OUTBOX_COLUMNS = (
    ("lane", "int4"),
    ("customer_id", "text"),
    ("timeline", "int4"),
    ("sequence", "int8"),
    ("change_id", "uuid"),
    ("dead_letter_id", "uuid"),
    ("payload", "bytea"),
    ("ce_type", "text"),
    ("traceparent", "text"),
    ("recorded_at", "timestamptz"),
)
_DEAD_LETTER_COLUMNS = (
    ("dead_letter_id", "uuid"),
    ("reason", "text"),
    ("message", "text"),
    ("topic", "text"),
    ("topic_id", "text"),
    ("partition", "int4"),
    ("offset", "int8"),
    ("record_timestamp", "timestamptz"),
    ("key", "bytea"),
    ("value", "bytea"),
    ("headers", "bytea"),
    ("customer_id", "text"),
    ("event_source", "text"),
    ("event_id", "text"),
    ("failed_at", "timestamptz"),
)


def append_changes(connection: Connection, changes: Sequence[OutgoingChange]) -> None:
    """The changes are in the outbox, in the order given: for one customer that of their sequence."""
    if changes:
        copy_rows(connection, "outbox", _OUTBOX_COLUMNS, (_change_row(change) for change in changes))


_FIND_DEAD_LETTERS = text("""
SELECT dead_letter_id
FROM dead_letter
WHERE dead_letter_id = ANY(CAST(:ids AS uuid[]))
""")


def find_dead_letters(connection: Connection, dead_letter_ids: Collection[UUID]) -> set[UUID]:
    """Which of these are kept already.

    Whoever moves a partition's fence is alone in keeping dead letters of its records.
    """
    if not dead_letter_ids:
        return set()
    return set(connection.execute(_FIND_DEAD_LETTERS, {"ids": of_uuids(dead_letter_ids)}).scalars())


def append_dead_letters(connection: Connection, rows: Sequence[DeadLetterRow]) -> None:
    """The dead letters are kept, and each has an outbox row on the lane of dead letters."""
    if rows:
        copy_rows(connection, "dead_letter", _DEAD_LETTER_COLUMNS, _dead_letter_rows(rows))
        copy_rows(
            connection,
            "outbox",
            _OUTBOX_COLUMNS,
            (
                (DEAD_LETTER_LANE, None, None, None, None, row.dead_letter_id, None, None, None, row.failed_at)
                for row in rows
            ),
        )


def _change_row(change: OutgoingChange) -> tuple[object, ...]:
    return (
        change.lane,
        change.customer_id,
        change.timeline,
        change.sequence,
        change.change_id,
        None,
        change.payload,
        "EntitlementChanged",
        change.traceparent,
        change.recorded_at,
    )


def _dead_letter_rows(rows: Iterable[DeadLetterRow]) -> Iterable[tuple[object, ...]]:
    for row in rows:
        record = row.record
        yield (
            row.dead_letter_id,
            row.reason,
            row.message,
            record.topic,
            row.topic_id,
            record.partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            msgspec.msgpack.encode(record.headers),
            _storable(row.customer_id),
            _storable(row.event_source),
            _storable(row.event_id),
            row.failed_at,
        )


def _storable(value: str | None) -> str | None:
    """PostgreSQL keeps no NUL in text; what has one stays readable in the record's own bytes."""
    return None if value is None or "\0" in value else value
