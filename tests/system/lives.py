"""What the ledgers of these tests are told, by kcat: a few customers' lives, and records that are no events.

The customers' ids are of every kind that a telling system has, because the id is the key and chooses the partition.
"""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from ledger_worker.config import Settings
from ledger_worker.domain.events import (
    Event,
    Fact,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    SubscriptionActivated,
    SubscriptionItem,
    UsageRecorded,
)
from ledger_worker.wire.encode import encode_event, family_of
from tests.system.programs import Kcat, Outgoing

__all__ = ["CUSTOMERS", "KEYS", "LANES", "POISON", "TRACEPARENT", "life", "send"]

CUSTOMERS = (
    "ada",
    "grace hopper",
    "jürgen",
    "山田太郎",
    "a/b:c@example.org",
    "x",
    "0f8fad5b-d9cb-469f-a165-70867728950e",
)

KEYS = (*CUSTOMERS, *(f"customer-{number}" for number in range(500)), *("ü" * length for length in range(1, 20)))
"""Keys of all lengths, to compare where they are put."""

LANES = 4
"""How many partitions an output topic has."""

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""The trace that every beginning of a subscription belongs to, and nothing else."""

_TOO_LARGE_BYTES = 1_048_400
"""What the input topic just takes as a value, and a topic of dead letters does not: those have more headers."""

POISON = (
    Outgoing(key="jürgen", value=b"\xff\x00\nno event", headers={"origin": "nightly, job=7", "try": "2"}),
    Outgoing(key="ada", value=None, headers={"origin": "a tombstone"}),
    Outgoing(key="x", value=random.Random(1).randbytes(_TOO_LARGE_BYTES), headers={"origin": "bulk"}),
)
"""What is no event, under the keys of customers, so that their partitions can be compared. The last is too large."""


def life(customer_id: str, now: datetime) -> list[Event]:
    """A thousand calls are bought, three of them made, the money is given back, and a subscription begins."""
    at = now - timedelta(hours=1)
    facts: list[Fact] = [
        PurchaseCompleted(order_id=f"order of {customer_id}", lines=(_line(),)),
        UsageRecorded(entitlement="api", units=3),
        PurchaseRefunded(order_id=f"order of {customer_id}", refund_id=f"refund of {customer_id}"),
        SubscriptionActivated(
            subscription_id=f"subscription of {customer_id}",
            items=(SubscriptionItem(item_id="plan", sku="PLAN", quantity=1),),
            period_start=at,
            period_end=at + timedelta(days=30),
        ),
    ]
    return [
        Event(
            event_source="shop",
            event_id=f"{customer_id} {place}",
            customer_id=customer_id,
            occurred_at=at + timedelta(minutes=place),
            fact=fact,
        )
        for place, fact in enumerate(facts)
    ]


def send(kcat: Kcat, settings: Settings, events: Sequence[Event], file: Path) -> None:
    """The events are on their topics, and the poison is on that of usage. What is in `file` is replaced."""
    for event in events:
        topic = getattr(settings, f"topic_{family_of(event).value}")
        headers = {"traceparent": TRACEPARENT} if isinstance(event.fact, SubscriptionActivated) else {}
        kcat.send(topic, Outgoing(key=event.customer_id, value=encode_event(event), headers=headers), file)
    for letter in POISON:
        kcat.send(settings.topic_usage, letter, file)


def _line() -> PurchaseLine:
    return PurchaseLine(line_id="1", sku="CREDITS", quantity=1, amount=900)
