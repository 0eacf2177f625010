"""Recorded events for people: what was told, when, of whom, by whom, and what became of it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.domain.decided import CustomerHead
from ledger_worker.domain.events import AssignmentFact, SeatFact, fact_of
from ledger_worker.reports.words import seats_words

__all__ = ["EVENTS_MAX", "EventTold", "ExplainedSource", "event_of", "explained_sources"]

EVENTS_MAX = 500
"""Most events told of the sources of one explanation, the newest."""


class EventTold(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded event and what became of it; `told_to` is the customer as sent where that is another one.

    `actor` and `note` are set where a person did it, `seats` says who has a seat by it.
    """

    told_to: str | None
    event_source: str
    event_id: str
    type: str
    occurred_at: datetime
    recorded_at: datetime
    outcome: str
    topic: str | None
    partition: int | None
    offset: int | None
    actor: str | None = None
    note: str | None = None
    seats: str | None = None


class ExplainedSource(msgspec.Struct, frozen=True, kw_only=True):
    """An order, subscription or assignment and everything told of it, in the order of recording."""

    source_key: str
    events: tuple[EventTold, ...]


def event_of(row: Sequence[Any]) -> EventTold:
    """The event of a row with these columns, in this order, and behind them the payload of an act by hand or a seat."""
    told_to, event_source, event_id, kind, occurred_at, recorded_at, outcome, topic, partition, offset, act = row
    fact = None if act is None else fact_of(bytes(act))
    by_hand = fact if isinstance(fact, AssignmentFact) else None
    return EventTold(
        told_to=told_to,
        event_source=event_source,
        event_id=event_id,
        type=kind,
        occurred_at=occurred_at,
        recorded_at=recorded_at,
        outcome=outcome,
        topic=topic,
        partition=partition,
        offset=offset,
        actor=None if by_hand is None else by_hand.actor,
        note=None if by_hand is None else by_hand.note,
        seats=seats_words(fact) if isinstance(fact, SeatFact) else None,
    )


_OF_SOURCES = text("""
SELECT source_key, NULLIF(customer_id, :customer_id), event_source, event_id, type, occurred_at, recorded_at, outcome,
       topic, partition, "offset", CASE WHEN source_key LIKE 'assignment/%' THEN payload END
FROM event
WHERE customer_id = ANY(:customer_ids)
  AND source_key = ANY(:source_keys)
ORDER BY recorded_at DESC
LIMIT :events_max
""")


def explained_sources(
    connection: Connection, head: CustomerHead, source_keys: Sequence[str]
) -> tuple[ExplainedSource, ...]:
    """The sources of these keys with what was told of each, of the customer or of one it is tied to."""
    rows = connection.execute(
        _OF_SOURCES,
        {
            "customer_id": head.customer_id,
            "customer_ids": [head.customer_id, *head.linked],
            "source_keys": list(source_keys),
            "events_max": EVENTS_MAX,
        },
    ).all()
    told: dict[str, list[EventTold]] = {key: [] for key in source_keys}
    for row in reversed(rows):
        told[row[0]].append(event_of(row[1:]))
    return tuple(ExplainedSource(source_key=key, events=tuple(events)) for key, events in told.items())
