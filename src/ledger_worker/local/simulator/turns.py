"""The turns a subscription takes: each acts at an instant within the running period and answers when it is over."""

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from ledger_worker.domain.events import (
    SubscriptionAddOnAdded,
    SubscriptionAddOnRemoved,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionExtended,
    SubscriptionItem,
    SubscriptionPaused,
    SubscriptionPaymentFailed,
    SubscriptionPaymentRecovered,
    SubscriptionPlanChanged,
    SubscriptionQuantityChanged,
    SubscriptionResumed,
    SubscriptionTransferred,
)
from ledger_worker.local.simulator.life import DAY, HOUR, between
from ledger_worker.local.simulator.shop import ADD_ONS
from ledger_worker.local.simulator.subscription import PLAN, Subscription, renew

__all__ = ["TURNS", "extend", "fail_payment", "grow", "pause_from", "schedule_cancellation", "upgrade"]


def _change_plan(subscription: Subscription, at: datetime, sku: str, *, keep_schedule: bool = False) -> None:
    chance = subscription.life.chance
    quantity = subscription.plan.quantity + 1 if chance.random() < 0.3 else None  # noqa: PLR2004 - some take a seat more
    subscription.source.tell(
        at,
        SubscriptionPlanChanged(
            subscription_id=subscription.subscription_id,
            change_id=subscription.next_id("change"),
            item_id=PLAN,
            sku=sku,
            effective_at=at,
            quantity=quantity,
            keep_schedule=keep_schedule,
        ),
    )
    subscription.set_plan(sku, quantity or subscription.plan.quantity)


def _other_plan(subscription: Subscription, steps: int) -> str:
    """The plan so many steps up or down, as far as there are plans."""
    plans = subscription.plans
    return plans[min(max(plans.index(subscription.plan.sku) + steps, 0), len(plans) - 1)]


def upgrade(subscription: Subscription, at: datetime) -> datetime:
    """To the next larger plan, at once; what was scheduled is off."""
    _change_plan(subscription, at, _other_plan(subscription, 1))
    subscription.scheduled = None
    return at


def _downgrade(subscription: Subscription, at: datetime) -> datetime:
    """To the next smaller plan, at once; what was scheduled is off."""
    _change_plan(subscription, at, _other_plan(subscription, -1))
    subscription.scheduled = None
    return at


def _keep_the_schedule(subscription: Subscription, at: datetime) -> datetime:
    """To the largest plan for the rest of the period; what is scheduled for its end stays so."""
    _change_plan(subscription, at, subscription.plans[-1], keep_schedule=True)
    return at


def _downgrade_later(subscription: Subscription, at: datetime) -> datetime:
    sku = _other_plan(subscription, -1)
    subscription.source.tell(
        at,
        SubscriptionPlanChanged(
            subscription_id=subscription.subscription_id,
            change_id=subscription.next_id("change"),
            item_id=PLAN,
            sku=sku,
            effective_at=subscription.end,
        ),
    )
    subscription.scheduled = SubscriptionItem(item_id=PLAN, sku=sku, quantity=subscription.plan.quantity)
    return at


def _restart_the_period(subscription: Subscription, at: datetime) -> datetime:
    """To the next larger plan with a new period from now on; what was scheduled is off."""
    sku = _other_plan(subscription, 1)
    subscription.start, subscription.end = at, at + subscription.length
    subscription.source.tell(
        at,
        SubscriptionPlanChanged(
            subscription_id=subscription.subscription_id,
            change_id=subscription.next_id("change"),
            item_id=PLAN,
            sku=sku,
            effective_at=at,
            quantity=subscription.plan.quantity,
            period_end=subscription.end,
        ),
    )
    subscription.set_plan(sku, subscription.plan.quantity)
    subscription.scheduled = None
    return at


def _change_quantity(subscription: Subscription, at: datetime, effective_at: datetime, quantity: int) -> None:
    subscription.source.tell(
        at,
        SubscriptionQuantityChanged(
            subscription_id=subscription.subscription_id,
            change_id=subscription.next_id("change"),
            item_id=PLAN,
            quantity=quantity,
            effective_at=effective_at,
        ),
    )


def grow(subscription: Subscription, at: datetime) -> datetime:
    """By a seat or two, at once; what was scheduled is off."""
    quantity = subscription.plan.quantity + subscription.life.chance.choice((1, 1, 2))
    _change_quantity(subscription, at, at, quantity)
    subscription.set_plan(subscription.plan.sku, quantity)
    subscription.scheduled = None
    return at


def _shrink(subscription: Subscription, at: datetime) -> datetime:
    """By a seat, at once; the last one grows first."""
    if subscription.plan.quantity == 1:
        at = between(subscription.life.chance, grow(subscription, at), subscription.end, (0.05, 0.3))
    quantity = subscription.plan.quantity - 1
    _change_quantity(subscription, at, at, quantity)
    subscription.set_plan(subscription.plan.sku, quantity)
    subscription.scheduled = None
    return at


def _shrink_later(subscription: Subscription, at: datetime) -> datetime:
    _change_quantity(subscription, at, subscription.end, 1)
    subscription.scheduled = SubscriptionItem(item_id=PLAN, sku=subscription.plan.sku, quantity=1)
    return at


def _add_item(subscription: Subscription, at: datetime, item: SubscriptionItem) -> None:
    subscription.source.tell(
        at,
        SubscriptionAddOnAdded(
            subscription_id=subscription.subscription_id,
            change_id=subscription.next_id("change"),
            item=item,
            effective_at=at,
        ),
    )
    subscription.items[item.item_id] = item


def _add(subscription: Subscription, at: datetime) -> datetime:
    """An item joins, or one that is there becomes more."""
    sku = subscription.life.chance.choice(ADD_ONS)
    known = subscription.items.get(sku)
    _add_item(subscription, at, SubscriptionItem(item_id=sku, sku=sku, quantity=1 + (known.quantity if known else 0)))
    return at


def _add_more(subscription: Subscription, at: datetime) -> datetime:
    """An item that is there becomes more, by being added again."""
    added = [item for item in subscription.items.values() if item.item_id != PLAN]
    if not added:
        return _add(subscription, at)
    _add_item(subscription, at, msgspec.structs.replace(added[0], quantity=added[0].quantity + 1))
    return at


def _remove(subscription: Subscription, at: datetime) -> datetime:
    """An item leaves, where there is one beside the plan."""
    added = [item_id for item_id in subscription.items if item_id != PLAN]
    if added:
        item_id = subscription.life.chance.choice(added)
        del subscription.items[item_id]
        subscription.source.tell(
            at,
            SubscriptionAddOnRemoved(
                subscription_id=subscription.subscription_id,
                change_id=subscription.next_id("change"),
                item_id=item_id,
                effective_at=at,
            ),
        )
    return at


def pause_from(subscription: Subscription, at: datetime) -> tuple[str, datetime]:
    """A pause begins at once, or in a while; the answer is its id and its beginning."""
    chance = subscription.life.chance
    pause_id = subscription.next_id("pause")
    begins_at = between(chance, at, subscription.end, (0.05, 0.2)) if chance.random() < 0.3 else at  # noqa: PLR2004 - some plan it
    subscription.source.tell(
        at,
        SubscriptionPaused(subscription_id=subscription.subscription_id, pause_id=pause_id, effective_at=begins_at),
    )
    return pause_id, begins_at


def _resume(subscription: Subscription, pause_id: str, at: datetime) -> None:
    subscription.source.tell(
        at,
        SubscriptionResumed(subscription_id=subscription.subscription_id, pause_id=pause_id, effective_at=at),
    )


def _pause(subscription: Subscription, at: datetime) -> datetime:
    """For some days, by which the period's end moves."""
    pause_id, begins_at = pause_from(subscription, at)
    resumed_at = begins_at + subscription.life.chance.uniform(0.5, 5) * DAY
    _resume(subscription, pause_id, resumed_at)
    subscription.end += resumed_at - begins_at
    return resumed_at


def _pause_twice(subscription: Subscription, at: datetime) -> datetime:
    """Two pauses, of which the second begins before the first is over: the time of both counts once."""
    chance = subscription.life.chance
    first_id, first_at = pause_from(subscription, at)
    second_id, second_at = pause_from(subscription, first_at + chance.random() * DAY)
    resumed_at = second_at + chance.uniform(0.5, 2) * DAY
    over_at = resumed_at + chance.random() * DAY
    _resume(subscription, first_id, resumed_at)
    _resume(subscription, second_id, over_at)
    subscription.end += over_at - first_at
    return over_at


def fail_payment(subscription: Subscription, at: datetime) -> None:
    """A payment was tried and not made."""
    subscription.source.tell(
        at,
        SubscriptionPaymentFailed(
            subscription_id=subscription.subscription_id, failure_id=subscription.next_id("failure")
        ),
    )


def _fail_at_the_end(subscription: Subscription, recovered_after: timedelta) -> datetime:
    """The renewal is not paid; it is tried again, and is paid in the end; the answer is when."""
    chance = subscription.life.chance
    failed_at = subscription.end + chance.random() * HOUR
    recovered_at = failed_at + recovered_after
    for at in (failed_at, between(chance, failed_at, recovered_at)):
        fail_payment(subscription, at)
    subscription.source.tell(
        recovered_at,
        SubscriptionPaymentRecovered(
            subscription_id=subscription.subscription_id, recovery_id=subscription.next_id("recovery")
        ),
    )
    return recovered_at


def _payment_that_comes_late(subscription: Subscription, _at: datetime) -> datetime:
    """Within the grace, for the period that began meanwhile."""
    paid_at = _fail_at_the_end(subscription, subscription.life.chance.uniform(0.1, 2.5) * DAY)
    renew(subscription, paid_at=paid_at)
    return paid_at


def _payment_that_comes_too_late(subscription: Subscription, _at: datetime) -> datetime:
    """After most of the plan was suspended; the next period begins with the payment, or began without it."""
    paid_at = _fail_at_the_end(subscription, subscription.life.chance.uniform(7.5, 10) * DAY)
    is_made_up_for = subscription.end + subscription.length > paid_at + DAY
    renew(subscription, start=None if is_made_up_for else paid_at, paid_at=paid_at)
    return paid_at


def schedule_cancellation(subscription: Subscription, at: datetime) -> str:
    """It is to end with the running period; the answer is the id of the cancellation."""
    cancellation_id = subscription.next_id("cancellation")
    subscription.source.tell(
        at,
        SubscriptionCancellationScheduled(
            subscription_id=subscription.subscription_id,
            cancellation_id=cancellation_id,
            effective_at=subscription.end,
        ),
    )
    return cancellation_id


def _change_of_mind(subscription: Subscription, at: datetime) -> datetime:
    """Cancelled for the period's end, and that taken back."""
    withdrawn_at = between(subscription.life.chance, at, subscription.end)
    cancellation_id = schedule_cancellation(subscription, at)
    subscription.source.tell(
        withdrawn_at,
        SubscriptionCancellationWithdrawn(
            subscription_id=subscription.subscription_id, cancellation_id=cancellation_id
        ),
    )
    return withdrawn_at


def extend(subscription: Subscription, at: datetime) -> datetime:
    """By some days, as an excuse for something."""
    subscription.end += subscription.life.chance.choice((1, 2, 3)) * DAY
    subscription.source.tell(
        at,
        SubscriptionExtended(
            subscription_id=subscription.subscription_id,
            extension_id=subscription.next_id("extension"),
            new_period_end=subscription.end,
        ),
    )
    return at


def _transfer(subscription: Subscription, at: datetime) -> datetime:
    subscription.source.hand_over(
        at,
        SubscriptionTransferred(
            subscription_id=subscription.subscription_id,
            transfer_id=subscription.next_id("transfer"),
            to_customer_id=subscription.life.partner_id,
        ),
    )
    return at


TURNS: dict[str, Callable[[Subscription, datetime], datetime]] = {
    "upgrade": upgrade,
    "downgrade": _downgrade,
    "keep the schedule": _keep_the_schedule,
    "downgrade later": _downgrade_later,
    "restart the period": _restart_the_period,
    "grow": grow,
    "shrink": _shrink,
    "shrink later": _shrink_later,
    "add": _add,
    "add more": _add_more,
    "remove": _remove,
    "pause": _pause,
    "pause twice": _pause_twice,
    "payment that comes late": _payment_that_comes_late,
    "payment that comes too late": _payment_that_comes_too_late,
    "change of mind": _change_of_mind,
    "extend": extend,
    "transfer": _transfer,
}
