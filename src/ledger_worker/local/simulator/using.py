"""Usage of what a customer has, and of a little more; and usage that was none after all."""

from ledger_worker.domain.events import Event, UsageRecorded, UsageReversed
from ledger_worker.local.simulator.life import Happening, Life, between

__all__ = ["METERS", "use"]

METERS = "meters"
"""The source of all usage."""

_TIMES, _TIMES_MORE_MAX = (4, 9), 3
"""How often a customer uses anything at all, and how often more for each thing it has."""
_BEYOND_SHARE = 0.1
"""The share of usage at a time when what is used need not be there."""
_REVERSED_SHARE, _REVERSED_TWICE_SHARE = 0.1, 0.25
_RESOURCES = (None, None, "the site", "the app")


def use(life: Life) -> None:
    """The customer uses what it has, some times; a part of it is taken back later."""
    chance = life.chance
    times = chance.randint(*_TIMES) + sum(chance.randint(0, _TIMES_MORE_MAX) for _ in life.used)
    for place in range(times if life.used else 0):
        used = chance.choice(life.used)
        until = min(used.until, life.now)
        is_beyond = chance.random() < _BEYOND_SHARE or until <= used.since
        at = between(chance, life.joined_at if is_beyond else used.since, life.now if is_beyond else until, (0, 1))
        units = max(1, round(used.units * chance.uniform(0.2, 1.8)))
        event_id = f"use-{life.number}-{place}"
        fact = UsageRecorded(entitlement=used.entitlement, units=units, resource=chance.choice(_RESOURCES))
        customer_id = life.customer_id
        if life.merged_at is not None and at > life.merged_at and chance.random() < 0.5:  # noqa: PLR2004 - a half
            customer_id = life.partner_id
        event = Event(event_source=METERS, event_id=event_id, customer_id=customer_id, occurred_at=at, fact=fact)
        life.happenings.append(Happening(event, is_plain=False))
        if chance.random() < _REVERSED_SHARE:
            _take_back(life, event, fact)


def _take_back(life: Life, usage: Event, used: UsageRecorded) -> None:
    """All of it, a part, or more than there was; one in four a second time."""
    chance = life.chance
    at = usage.occurred_at
    for turn in range(2 if chance.random() < _REVERSED_TWICE_SHARE else 1):
        at = between(chance, at, life.now)
        fact = UsageReversed(
            entitlement=used.entitlement,
            reversal_id=f"{usage.event_id}-back-{turn}",
            usage_event_id=usage.event_id,
            usage_event_source=chance.choice((None, METERS)),
            units=chance.choice((None, chance.randint(1, used.units), chance.randint(1, used.units), used.units + 1)),
        )
        event = Event(
            event_source=METERS,
            event_id=f"{usage.event_id}-reversed-{turn}",
            customer_id=usage.customer_id,
            occurred_at=at,
            fact=fact,
        )
        life.happenings.append(Happening(event, is_plain=True))
