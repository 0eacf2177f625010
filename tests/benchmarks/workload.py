"""The load that every figure is taken on: seeded, in order within a customer, with a share of each kind of fact.

Of a hundred events about 88 are usage, 6 purchases, 3 subscription periods, 2 renewals and 1 a refund. Customers are
many (a fifth of the events), so that a batch touches mostly different ones, which is the expensive case.
"""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from ledger_worker.domain.catalogue import Allowance, Apply, Entitlement, EntitlementType, Offer
from ledger_worker.domain.events import (
    Event,
    Fact,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    SubscriptionActivated,
    SubscriptionItem,
    SubscriptionRenewed,
    UsageRecorded,
)

__all__ = ["ENTITLEMENTS", "OFFERS", "Workload", "events"]

ENTITLEMENTS = (
    Entitlement(key="api", name="API calls", type=EntitlementType.QUOTA, unit="call"),
    Entitlement(key="storage", name="Storage", type=EntitlementType.QUOTA, unit="byte"),
    Entitlement(key="video", name="Video", type=EntitlementType.ACCESS, resources=("service:video",)),
)
OFFERS = (
    Offer(
        sku="CREDITS",
        apply=Apply.NOW,
        allowances=(Allowance(key="calls", entitlement="api", units=1_000, lasts="P365D", priority=200),),
    ),
    Offer(
        sku="PLAN",
        apply=Apply.NOW,
        allowances=(
            Allowance(key="calls", entitlement="api", units=500),
            Allowance(key="bytes", entitlement="storage", units=10_000),
            Allowance(key="video", entitlement="video"),
        ),
    ),
)


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What to make: how many events, over how many customers, from which instant on, by which seed."""

    events: int
    customers: int
    starts_at: datetime
    seed: int = 1


def events(workload: Workload) -> Iterator[Event]:
    """The events in the order in which they happened, a millisecond apart."""
    chance = random.Random(workload.seed)
    subscribed: dict[int, int] = {}
    orders: dict[int, str] = {}
    for place in range(workload.events):
        customer = chance.randrange(workload.customers)
        at = workload.starts_at + timedelta(milliseconds=place)
        yield Event(
            event_source="benchmark",
            event_id=f"{place:012}",
            customer_id=f"customer-{customer:08}",
            occurred_at=at,
            fact=_fact(chance, place, customer, at, subscribed, orders),
        )


_PERIOD = timedelta(days=30)


def _fact(
    chance: random.Random, place: int, customer: int, at: datetime, subscribed: dict[int, int], orders: dict[int, str]
) -> Fact:
    drawn = chance.random()
    if drawn < 0.06:
        orders[customer] = f"order-{place}"
        return PurchaseCompleted(
            order_id=orders[customer],
            lines=(PurchaseLine(line_id="1", sku="CREDITS", quantity=chance.randint(1, 3), amount=900),),
        )
    if drawn < 0.07 and customer in orders:
        return PurchaseRefunded(order_id=orders[customer], refund_id=f"refund-{place}", amount=300)
    if drawn < 0.12:
        return _period(customer, at, subscribed)
    return UsageRecorded(entitlement=chance.choice(("api", "api", "storage")), units=chance.randint(1, 5))


def _period(customer: int, at: datetime, subscribed: dict[int, int]) -> Fact:
    """The customer's subscription begins, or its next period is paid ahead."""
    if customer not in subscribed:
        subscribed[customer] = 1
        return SubscriptionActivated(
            subscription_id=f"subscription-{customer}",
            items=(SubscriptionItem(item_id="plan", sku="PLAN", quantity=1),),
            period_start=at,
            period_end=at + _PERIOD,
        )
    start = at + _PERIOD * subscribed[customer]
    subscribed[customer] += 1
    return SubscriptionRenewed(
        subscription_id=f"subscription-{customer}", period_start=start, period_end=start + _PERIOD
    )
