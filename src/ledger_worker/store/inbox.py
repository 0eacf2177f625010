"""The inbox: every event that was applied or kept, once per customer and id.

Looked up and filled while the customer's row is held, so that no other transaction can insert the same key in between;
the primary key stands behind that. The row is written once, with its outcome.
"""

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from ledger_worker.domain.decided import DecidedEvent
from ledger_worker.domain.events import (
    HoldConfirmed,
    HoldFact,
    OfferReached,
    OfSource,
    SeatFact,
    TransitionsDue,
    UsageRecorded,
    UsageReversed,
    source_key,
)
from ledger_worker.store.arrays import of_texts, of_uuids
from ledger_worker.store.binary_copy import copy_rows

__all__ = ["InboxRow", "find", "insert"]

InboxRow = tuple[DecidedEvent, str | None, int | None, int | None, str | None]
"""A decided event, the topic, partition and offset it came from, and its traceparent."""

_FIND = text("""
SELECT event.customer_id, event.event_key, event.content_hash
FROM unnest(CAST(:ids AS text[]), CAST(:keys AS uuid[])) AS asked (customer_id, event_key)
JOIN event ON event.customer_id = asked.customer_id AND event.event_key = asked.event_key
""")

_COLUMNS = (
    ("customer_id", "text"),
    ("event_key", "uuid"),
    ("content_hash", "bytea"),
    ("event_source", "text"),
    ("event_id", "text"),
    ("type", "text"),
    ("source_key", "text"),
    ("entitlement", "text"),
    ("units", "int8"),
    ("counted_at", "timestamptz"),
    ("source_version", "int8"),
    ("occurred_at", "timestamptz"),
    ("recorded_at", "timestamptz"),
    ("outcome", "text"),
    ("payload", "bytea"),
    ("topic", "text"),
    ("partition", "int4"),
    ("offset", "int8"),
    ("traceparent", "text"),
)


def find(connection: Connection, asked: Sequence[tuple[str, UUID]]) -> dict[tuple[str, UUID], bytes]:
    """The content hash of each asked (customer as sent, event key) that is in the inbox."""
    if not asked:
        return {}
    found = connection.execute(
        _FIND, {"ids": of_texts(one[0] for one in asked), "keys": of_uuids(one[1] for one in asked)}
    ).all()
    return {(customer_id, key): bytes(content_hash) for customer_id, key, content_hash in found}


def insert(connection: Connection, rows: Iterable[InboxRow]) -> None:
    """The decided events are in the inbox with their outcomes."""
    copy_rows(connection, "event", _COLUMNS, (_row(*row) for row in rows))


def _row(
    decided: DecidedEvent, topic: str | None, partition: int | None, offset: int | None, traceparent: str | None
) -> tuple[object, ...]:
    event = decided.event
    fact = event.fact
    source = entitlement = units = None
    if isinstance(fact, UsageRecorded | UsageReversed | HoldConfirmed):
        entitlement, units = fact.entitlement, fact.units
    elif isinstance(fact, TransitionsDue | HoldFact | SeatFact):
        entitlement = fact.entitlement
    elif isinstance(fact, OfferReached):
        source = fact.source_key
    elif isinstance(fact, OfSource):
        source = source_key(fact)
    return (
        event.customer_id,
        decided.key,
        decided.content_hash,
        event.event_source,
        event.event_id,
        type(fact).__name__,
        source,
        entitlement,
        units,
        decided.counted_at,
        event.source_version,
        event.occurred_at,
        decided.recorded_at,
        decided.outcome.value,
        decided.payload,
        topic,
        partition,
        offset,
        traceparent,
    )
