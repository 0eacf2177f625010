"""How subscriptions end: each ending begins at an instant within the running period."""

from collections.abc import Callable
from datetime import datetime

from ledger_worker.domain.events import (
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionRevoked,
)
from ledger_worker.local.simulator.life import DAY, HOUR, between
from ledger_worker.local.simulator.subscription import Subscription, activate
from ledger_worker.local.simulator.turns import fail_payment, pause_from, schedule_cancellation

__all__ = ["ENDINGS"]


def _cancel(subscription: Subscription, at: datetime, cancellation_id: str) -> None:
    subscription.source.tell(
        at,
        SubscriptionCancelled(
            subscription_id=subscription.subscription_id, cancellation_id=cancellation_id, effective_at=at
        ),
    )
    subscription.end = at


def _expire(subscription: Subscription, told_at: datetime, at: datetime) -> None:
    subscription.source.tell(
        told_at,
        SubscriptionExpired(
            subscription_id=subscription.subscription_id, expiry_id=subscription.next_id("expiry"), effective_at=at
        ),
    )
    subscription.end = at


def _cancelled(subscription: Subscription, at: datetime) -> None:
    _cancel(subscription, at, subscription.next_id("cancellation"))


def _cancelled_at_the_end(subscription: Subscription, at: datetime) -> None:
    schedule_cancellation(subscription, at)
    if subscription.life.chance.random() < 0.5:  # noqa: PLR2004 - one shop in two says so again when it comes
        _expires(subscription, at)


def _cancelled_sooner(subscription: Subscription, at: datetime) -> None:
    """Cancelled for the period's end, and then at once: the same cancellation at another instant."""
    cancellation_id = schedule_cancellation(subscription, at)
    _cancel(subscription, between(subscription.life.chance, at, subscription.end), cancellation_id)


def _expires(subscription: Subscription, _at: datetime) -> None:
    """Nobody renews it."""
    end = subscription.end
    _expire(subscription, end + subscription.life.chance.random() * 6 * HOUR, end)


def _is_not_paid(subscription: Subscription, _at: datetime) -> None:
    """The renewal is tried and tried again, and given up."""
    chance = subscription.life.chance
    at = subscription.end
    for _ in range(chance.choice((1, 2, 3))):
        at += chance.uniform(0.1, 2) * DAY
        fail_payment(subscription, at)
    given_up_at = at + chance.uniform(1, 10) * DAY
    _expire(subscription, given_up_at, given_up_at)


def _revoked(subscription: Subscription, at: datetime) -> None:
    """By the store, which says so some hours later."""
    subscription.source.tell(
        at + subscription.life.chance.random() * 5 * HOUR,
        SubscriptionRevoked(
            subscription_id=subscription.subscription_id,
            revocation_id=subscription.next_id("revocation"),
            effective_at=at,
        ),
    )
    subscription.end = at


def _rests(subscription: Subscription, at: datetime) -> None:
    """A pause that is not over."""
    pause_from(subscription, at)


def _comes_back(subscription: Subscription, at: datetime) -> None:
    """Cancelled, and after a while a new life begins under the same id."""
    chance = subscription.life.chance
    _cancelled(subscription, at)
    subscription.start = at + chance.uniform(0.5, 6) * DAY
    subscription.end = subscription.start + subscription.length
    subscription.set_plan(chance.choice(subscription.plans), 1)
    activate(subscription)


ENDINGS: dict[str, Callable[[Subscription, datetime], None]] = {
    "cancelled": _cancelled,
    "cancelled at the end": _cancelled_at_the_end,
    "cancelled sooner": _cancelled_sooner,
    "expires": _expires,
    "is not paid": _is_not_paid,
    "revoked": _revoked,
    "rests": _rests,
    "comes back": _comes_back,
}
