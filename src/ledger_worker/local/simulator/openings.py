"""How subscriptions open: paid at once, or tried first."""

from datetime import datetime, timedelta

from ledger_worker.domain.events import (
    SubscriptionTrialConverted,
    SubscriptionTrialExpired,
    SubscriptionTrialStarted,
)
from ledger_worker.local.simulator.life import DAY, HOUR, between
from ledger_worker.local.simulator.subscription import Subscription, activate
from ledger_worker.local.simulator.turns import extend, grow, upgrade

__all__ = ["open_subscription"]

_EVENTFUL_TRIAL_SHARE = 0.2
_MINUTE = timedelta(minutes=1)


def open_subscription(subscription: Subscription, opening: str) -> bool:
    """The subscription has begun as the opening says; the answer is whether a paid period runs or will run."""
    if opening == "paid":
        activate(subscription)
        return True
    chance = subscription.life.chance
    trial_start = subscription.start
    trial_end = trial_start + chance.choice((3, 7)) * DAY
    subscription.end = trial_end
    subscription.source.tell(
        trial_start,
        SubscriptionTrialStarted(
            subscription_id=subscription.subscription_id,
            items=tuple(subscription.items.values()),
            trial_start=trial_start,
            trial_end=trial_end,
        ),
    )
    if chance.random() < _EVENTFUL_TRIAL_SHARE:
        turn = chance.choice((grow, upgrade, extend))
        turn(subscription, between(chance, trial_start, trial_end, (0.1, 0.3)))
        trial_end = subscription.end
    if opening == "trial that is converted":
        _convert(subscription, trial_end)
        return True
    if opening == "trial that expires":
        ended_at = between(chance, trial_start, trial_end, (0.5, 0.9)) if chance.random() < 0.3 else trial_end  # noqa: PLR2004 - some give up
        subscription.source.tell(
            ended_at + chance.random() * HOUR,
            SubscriptionTrialExpired(subscription_id=subscription.subscription_id, effective_at=ended_at),
        )
    return False


def _convert(subscription: Subscription, trial_end: datetime) -> None:
    """Where the trial ends, or sooner; one in three takes another plan than it tried."""
    chance = subscription.life.chance
    is_sooner = chance.random() < 0.4  # noqa: PLR2004 - two in five
    paid_from = between(chance, subscription.start, trial_end, (0.6, 0.95)) if is_sooner else trial_end
    names_items = chance.random() < 0.5  # noqa: PLR2004 - a half
    if names_items and chance.random() < 0.6:  # noqa: PLR2004 - of a half, so that it is one in three
        subscription.set_plan(chance.choice(subscription.plans), subscription.plan.quantity)
    subscription.start, subscription.end = paid_from, paid_from + subscription.length
    subscription.source.tell(
        paid_from + chance.random() * _MINUTE,
        SubscriptionTrialConverted(
            subscription_id=subscription.subscription_id,
            period_start=paid_from,
            period_end=subscription.end,
            items=tuple(subscription.items.values()) if names_items else (),
        ),
    )
