"""One subscription while it is made up: its items, its running period, and what is scheduled for the end of it."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from ledger_worker.domain.events import (
    SubscriptionActivated,
    SubscriptionItem,
    SubscriptionRenewed,
)
from ledger_worker.local.simulator.life import HOUR, Life, Source

__all__ = ["PLAN", "Subscription", "activate", "renew"]

PLAN = "plan"
"""The item that is there from the beginning."""


class Subscription(msgspec.Struct):
    """A subscription while it is made up: its items, its running period, and what is scheduled for the end of it."""

    life: Life
    source: Source
    subscription_id: str
    plans: Sequence[str]
    length: timedelta
    start: datetime
    end: datetime
    items: dict[str, SubscriptionItem] = {}
    scheduled: SubscriptionItem | None = None
    things: int = 0

    def next_id(self, kind: str) -> str:
        """Names a change, a pause, a cancellation and so on."""
        self.things += 1
        return f"{kind}-{self.subscription_id}-{self.things}"

    @property
    def plan(self) -> SubscriptionItem:
        """The item that is there from the beginning."""
        return self.items[PLAN]

    def set_plan(self, sku: str, quantity: int) -> None:
        """The plan is another, or of another quantity, from now on."""
        self.items[PLAN] = SubscriptionItem(item_id=PLAN, sku=sku, quantity=quantity)


def activate(subscription: Subscription) -> None:
    """The running period is told as the first of a life."""
    subscription.source.tell(
        subscription.start,
        SubscriptionActivated(
            subscription_id=subscription.subscription_id,
            items=tuple(subscription.items.values()),
            period_start=subscription.start,
            period_end=subscription.end,
        ),
    )


def renew(subscription: Subscription, *, start: datetime | None = None, paid_at: datetime | None = None) -> None:
    """A further period, at the end of the running one unless said otherwise, paid about when it begins."""
    chance = subscription.life.chance
    if subscription.scheduled is not None:
        subscription.items[subscription.scheduled.item_id] = subscription.scheduled
        subscription.scheduled = None
    start = start or subscription.end
    subscription.start, subscription.end = start, start + subscription.length
    told_at = start + chance.choices((-20 * HOUR * chance.random(), HOUR * chance.random()), (20, 80))[0]
    subscription.source.tell(
        paid_at or told_at,
        SubscriptionRenewed(
            subscription_id=subscription.subscription_id,
            period_start=start,
            period_end=subscription.end,
            items=tuple(subscription.items.values()) if chance.random() < 0.4 else (),  # noqa: PLR2004 - two in five
        ),
    )
