"""What waits to be published: read whole, in a snapshot, and deleted once Kafka has it.

There is no cursor, because ids are given out before transactions commit: a cursor would pass rows that become visible
later. Every round reads the visible rows with the lowest ids of its lane instead. For one customer, ids rise with the
sequence, since its row is locked from before the first id is drawn until the commit; so what a round reads of a
customer is always the beginning of what waits for it, wherever the limit cuts.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.store.arrays import of_integers

__all__ = ["Backlog", "WaitingChange", "WaitingDeadLetter", "backlog", "delete", "read_changes", "read_dead_letters"]

COUNTED_ROWS_MAX = 100_000
"""Up to where a backlog is counted: a longer one is a long one, and counting it would slow the relays."""


class WaitingChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change that waits: `payload` is EntitlementChanged as an Avro single object."""

    outbox_id: int
    customer_id: str
    timeline: int
    sequence: int
    change_id: UUID
    payload: bytes
    traceparent: str | None
    recorded_at: datetime


class WaitingDeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter that waits, with the record's own bytes."""

    outbox_id: int
    dead_letter_id: UUID
    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    record_timestamp: datetime | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    failed_at: datetime


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """How much waits on a lane.

    `rows` up to COUNTED_ROWS_MAX, and the age of the row with the lowest id, 0 when none waits.
    """

    lane: int
    rows: int
    oldest_seconds: float


_READ_CHANGES = text("""
WITH waiting AS MATERIALIZED (
    SELECT outbox_id, customer_id, timeline, sequence, change_id, payload, traceparent, recorded_at
    FROM outbox
    WHERE lane = :lane
      AND change_id IS NOT NULL
    ORDER BY outbox_id
    LIMIT :rows_max
)
SELECT outbox_id, customer_id, timeline, sequence, change_id, payload, traceparent, recorded_at
FROM waiting
ORDER BY customer_id, timeline, sequence
""")


def read_changes(conn: Connection, lane: int, *, rows_max: int) -> list[WaitingChange]:
    """The longest-waiting changes of the lane, by customer and sequence: for each customer the first that wait."""
    rows = conn.execute(_READ_CHANGES, {"lane": lane, "rows_max": rows_max})
    return [
        WaitingChange(
            outbox_id=row[0],
            customer_id=row[1],
            timeline=row[2],
            sequence=row[3],
            change_id=row[4],
            payload=row[5],
            traceparent=row[6],
            recorded_at=row[7],
        )
        for row in rows
    ]


_READ_DEAD_LETTERS = text("""
WITH waiting AS (
    SELECT outbox_id, dead_letter_id
    FROM outbox
    WHERE lane = :lane
      AND dead_letter_id IS NOT NULL
    ORDER BY outbox_id
    LIMIT :rows_max
),
measured AS (
    SELECT
        waiting.outbox_id,
        waiting.dead_letter_id,
        sum(coalesce(octet_length(dead_letter.key), 0) + coalesce(octet_length(dead_letter.value), 0)
            + octet_length(dead_letter.headers)) OVER before_this AS bytes_before
    FROM waiting
    JOIN dead_letter ON dead_letter.dead_letter_id = waiting.dead_letter_id
    WINDOW before_this AS (ORDER BY waiting.outbox_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
    measured.outbox_id, measured.dead_letter_id, dead_letter.reason, dead_letter.message, dead_letter.topic,
    dead_letter.partition, dead_letter."offset", dead_letter.record_timestamp, dead_letter.key, dead_letter.value,
    dead_letter.headers, dead_letter.failed_at
FROM measured
JOIN dead_letter ON dead_letter.dead_letter_id = measured.dead_letter_id
WHERE measured.bytes_before IS NULL
   OR measured.bytes_before < :bytes_max
ORDER BY measured.outbox_id
""")
_HEADERS = msgspec.msgpack.Decoder(tuple[tuple[str, bytes | None], ...])


def read_dead_letters(conn: Connection, lane: int, *, rows_max: int, bytes_max: int) -> list[WaitingDeadLetter]:
    """The longest-waiting dead letters in their order, as many as `bytes_max` holds and always one."""
    rows = conn.execute(_READ_DEAD_LETTERS, {"lane": lane, "rows_max": rows_max, "bytes_max": bytes_max})
    return [
        WaitingDeadLetter(
            outbox_id=row[0],
            dead_letter_id=row[1],
            reason=row[2],
            message=row[3],
            topic=row[4],
            partition=row[5],
            offset=row[6],
            record_timestamp=row[7],
            key=row[8],
            value=row[9],
            headers=_HEADERS.decode(row[10]),
            failed_at=row[11],
        )
        for row in rows
    ]


_DELETE = text("DELETE FROM outbox WHERE outbox_id = ANY(CAST(:outbox_ids AS bigint[]))")


def delete(conn: Connection, outbox_ids: Sequence[int]) -> None:
    """These rows wait no more; those that are gone already are none of our business. The caller commits."""
    conn.execute(_DELETE, {"outbox_ids": of_integers(outbox_ids)})


_BACKLOG = text("""
SELECT
    lane.lane,
    (SELECT count(*) FROM (SELECT FROM outbox WHERE outbox.lane = lane.lane LIMIT :rows_max) AS counted) AS rows,
    coalesce(
        (
            SELECT extract(epoch FROM clock_timestamp() - outbox.recorded_at)
            FROM outbox
            WHERE outbox.lane = lane.lane
            ORDER BY outbox.outbox_id
            LIMIT 1
        ),
        0
    ) AS oldest_seconds
FROM lane
ORDER BY lane.lane
""")


def backlog(conn: Connection) -> list[Backlog]:
    """What waits on every lane."""
    rows = conn.execute(_BACKLOG, {"rows_max": COUNTED_ROWS_MAX})
    return [Backlog(lane=row[0], rows=row[1], oldest_seconds=max(0.0, float(row[2]))) for row in rows]
