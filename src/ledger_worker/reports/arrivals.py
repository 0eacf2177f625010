"""What became of everything that came by a topic: each record once, as an event, a duplicate or a dead letter."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, TextClause, text

from ledger_worker.domain.events import Event, fact_of

__all__ = ["Arrivals", "arrivals", "consumed", "evictions", "fallen_due", "instants_recorded", "records_read"]


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """Records read, and what became of them: events by outcome, duplicates, dead letters by reason."""

    records: int
    outcomes: Mapping[str, int]
    duplicates: int
    dead_letters: Mapping[str, int]

    @property
    def events(self) -> int:
        """How many rows of the inbox came by a topic."""
        return sum(self.outcomes.values())

    @property
    def unaccounted(self) -> int:
        """Records that are neither; 0 unless the ledger is wrong."""
        return self.records - self.events - self.duplicates - sum(self.dead_letters.values())


_RECORDS = text("SELECT coalesce(sum(records), 0), coalesce(sum(duplicates), 0) FROM input_partition")
_OUTCOMES = text("SELECT outcome, count(*) FROM event WHERE topic IS NOT NULL GROUP BY outcome ORDER BY outcome")
_TYPES = text("SELECT type, count(*) FROM event WHERE topic IS NOT NULL GROUP BY type ORDER BY type")
_RECORDED = text("""
SELECT customer_id, event_source, event_id, recorded_at
FROM event
WHERE type IN ('UsageRecorded', 'CustomersMerged', 'SeatsRevoked')
""")
_EVICTIONS = text("""
SELECT customer_id, event_source, event_id, occurred_at, payload
FROM event
WHERE type = 'SeatsRevoked'
ORDER BY customer_id, occurred_at
""")
_FALLEN_DUE = text("""
SELECT occurred_at, recorded_at
FROM event
WHERE type = 'TransitionsDue' AND customer_id = ANY(:customer_ids) AND occurred_at > :since
ORDER BY occurred_at
""")
_DEAD_LETTERS = text("SELECT reason, count(*) FROM dead_letter GROUP BY reason ORDER BY reason")


def arrivals(connection: Connection) -> Arrivals:
    """What became of every record so far. Reads the whole inbox; consistent in a snapshot, or while nothing arrives."""
    records, duplicates = connection.execute(_RECORDS).one()
    return Arrivals(
        records=int(records),
        outcomes=_counts(connection, _OUTCOMES),
        duplicates=int(duplicates),
        dead_letters=_counts(connection, _DEAD_LETTERS),
    )


def consumed(connection: Connection) -> Mapping[str, int]:
    """How many events of each type of fact came by a topic and were kept. Reads the whole inbox."""
    return _counts(connection, _TYPES)


def instants_recorded(connection: Connection) -> Mapping[tuple[str, str, str], datetime]:
    """When usage, merges and evictions were recorded, by customer, event source and event id. Reads the whole inbox.

    Those are the facts of which it matters: for what is late, and for who holds a seat.
    """
    found = connection.execute(_RECORDED)
    return {(customer_id, source, event_id): recorded_at for customer_id, source, event_id, recorded_at in found}


def evictions(connection: Connection) -> list[Event]:
    """What the ledger decided of seats by itself: whose was lost because there were fewer. Reads the whole inbox."""
    found = connection.execute(_EVICTIONS)
    return [
        Event(
            event_source=source,
            event_id=event_id,
            customer_id=customer_id,
            occurred_at=occurred_at,
            fact=fact_of(payload),
        )
        for customer_id, source, event_id, occurred_at, payload in found
    ]


def fallen_due(connection: Connection, customer_ids: Sequence[str], since: datetime) -> list[tuple[datetime, datetime]]:
    """What fell due of these customers after `since` and is booked: its instant, and when it was recorded."""
    found = connection.execute(_FALLEN_DUE, {"customer_ids": list(customer_ids), "since": since})
    return [(occurred_at, recorded_at) for occurred_at, recorded_at in found]


def records_read(connection: Connection) -> int:
    """How many records of all input topics have been applied, cheap enough to ask every second."""
    return int(connection.execute(_RECORDS).one()[0])


def _counts(connection: Connection, statement: TextClause) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(statement)}
