"""Records that nobody can apply, one for each reason for which a record becomes a dead letter by itself."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from ledger_worker.domain.events import Event, Fact, PurchaseCompleted, PurchaseLine, UsageRecorded
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.local.simulator.life import DAY, LIFE_DAYS_MAX
from ledger_worker.local.simulator.using import METERS
from ledger_worker.wire.encode import encode_event
from ledger_worker.wire.schemas import TopicFamily

__all__ = ["Poison", "poison"]


class Poison(msgspec.Struct, frozen=True):
    """A record's topic family and value, and why it cannot be applied."""

    reason: DeadLetterReason
    family: TopicFamily
    value: bytes


def poison(chance: random.Random, customer_id: str, number: int, now: datetime) -> Iterator[Poison]:
    """One of each kind, told of this customer; `number` makes the ids of this set its own."""

    def told(name: str, fact: Fact, at: datetime) -> bytes:
        """The bytes of that fact as an event of this customer."""
        return encode_event(
            Event(event_source=METERS, event_id=f"{name}-{number}", customer_id=customer_id, occurred_at=at, fact=fact)
        )

    at = now - chance.random() * LIFE_DAYS_MAX * DAY
    usage = UsageRecorded(entitlement="api-calls", units=1)
    whole = told("whole", usage, at)
    order = PurchaseCompleted(
        order_id=f"none-{number}", lines=(PurchaseLine(line_id="1", sku="video-pass", quantity=0),)
    )
    yield Poison(DeadLetterReason.UNDECODABLE, TopicFamily.PURCHASES, b'{"order": "in JSON"}')
    yield Poison(DeadLetterReason.UNDECODABLE, TopicFamily.USAGE, whole[: chance.randrange(11, len(whole))])
    yield Poison(DeadLetterReason.UNKNOWN_SCHEMA, TopicFamily.USAGE, whole[:2] + bytes(8) + whole[10:])
    yield Poison(DeadLetterReason.UNKNOWN_TYPE, TopicFamily.PURCHASES, whole)
    yield Poison(DeadLetterReason.IMPOSSIBLE_VALUE, TopicFamily.PURCHASES, told("free", order, at))
    for reason, fact, occurred_at in (
        (DeadLetterReason.IMPOSSIBLE_VALUE, UsageRecorded(entitlement="api-calls", units=-5), at),
        (DeadLetterReason.UNKNOWN_ENTITLEMENT, UsageRecorded(entitlement="teleports", units=1), at),
        (DeadLetterReason.WRONG_TYPE, UsageRecorded(entitlement="video", units=1), at),
        (DeadLetterReason.TOO_EARLY, usage, now + 2 * DAY),
        (DeadLetterReason.TOO_LATE, usage, now - _LONG_AGO),
    ):
        name = f"{reason.value}-{fact.entitlement}-{fact.units}"
        yield Poison(reason, TopicFamily.USAGE, told(name, fact, occurred_at))


_LONG_AGO = timedelta(days=500)
