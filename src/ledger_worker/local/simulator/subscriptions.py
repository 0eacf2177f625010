"""Subscriptions: how one opens, the turns it takes from period to period, and how it ends.

A subscription is told as a shop keeps it: periods follow each other, moved by pauses and extensions; a change acts
within the running period or is scheduled for its end; a renewal names the items or leaves them as they are.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from ledger_worker.domain.events import (
    SubscriptionActivated,
    SubscriptionAddOnAdded,
    SubscriptionAddOnRemoved,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionExtended,
    SubscriptionItem,
    SubscriptionPaused,
    SubscriptionPaymentFailed,
    SubscriptionPaymentRecovered,
    SubscriptionPlanChanged,
    SubscriptionQuantityChanged,
    SubscriptionRenewed,
    SubscriptionResumed,
    SubscriptionRevoked,
    SubscriptionTransferred,
    SubscriptionTrialConverted,
    SubscriptionTrialExpired,
    SubscriptionTrialStarted,
)
from ledger_worker.local.simulator.life import DAY, HOUR, Life, Source, Used, between
from ledger_worker.local.simulator.shop import ADD_ONS, MONTHLY, USED_OF, WEEKLY

__all__ = ["SUBSCRIPTION_PLOTS", "Plot", "subscribe"]


class Plot(msgspec.Struct, frozen=True):
    """How a subscription opens, the turns it takes, two in a period, and how it ends."""

    opening: str = "paid"
    turns: tuple[str, ...] = ()
    ending: str = "goes on"
    weeks: bool = True
    """Whether its periods are weeks, else months."""


SUBSCRIPTION_PLOTS: Sequence[Plot] = (
    Plot(opening="trial that is converted"),
    Plot(opening="trial that is converted", turns=("upgrade",), weeks=False),
    Plot(opening="trial that expires"),
    Plot(opening="trial that is forgotten"),
    Plot(turns=("payment that comes late",)),
    Plot(turns=("payment that comes too late",)),
    Plot(ending="is not paid"),
    Plot(turns=("upgrade", "grow"), weeks=False),
    Plot(turns=("downgrade later",)),
    Plot(turns=("downgrade later", "upgrade", "grow")),
    Plot(turns=("downgrade later", "keep the schedule")),
    Plot(turns=("restart the period",)),
    Plot(turns=("grow", "shrink")),
    Plot(turns=("shrink later", "grow")),
    Plot(turns=("add", "grow", "remove")),
    Plot(turns=("add", "add more"), weeks=False),
    Plot(turns=("pause",)),
    Plot(turns=("pause", "grow", "pause twice"), weeks=False),
    Plot(ending="rests"),
    Plot(turns=("change of mind",)),
    Plot(ending="cancelled at the end"),
    Plot(ending="cancelled sooner"),
    Plot(ending="cancelled"),
    Plot(ending="cancelled", weeks=False),
    Plot(turns=("add",), ending="revoked"),
    Plot(turns=("extend",)),
    Plot(turns=("extend",), ending="expires"),
    Plot(turns=("transfer",)),
    Plot(turns=("grow", "transfer", "upgrade"), weeks=False),
    Plot(ending="comes back"),
)
"""Between them they take every turn."""

_USUAL_TURNS = (
    "payment that comes late",
    "upgrade",
    "downgrade later",
    "grow",
    "shrink",
    "add",
    "remove",
    "pause",
    "change of mind",
    "extend",
)
_USUAL_OPENINGS, _OPENING_WEIGHTS = ("paid", "trial that is converted", "trial that expires"), (65, 25, 10)
_USUAL_ENDINGS, _ENDING_WEIGHTS = ("goes on", "cancelled", "cancelled at the end", "expires"), (80, 10, 5, 5)
_TURNS_SHARE = 0.3
"""The share of ordinary subscriptions that take turns."""
_BEGINS_WITH_MORE_SHARE, _EVENTFUL_TRIAL_SHARE = 0.15, 0.2
_PERIODS_MAX = 20
_MINUTE = timedelta(minutes=1)
_PLAN = "plan"


class _Subscription(msgspec.Struct):
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
        return self.items[_PLAN]

    def set_plan(self, sku: str, quantity: int) -> None:
        """The plan is another, or of another quantity, from now on."""
        self.items[_PLAN] = SubscriptionItem(item_id=_PLAN, sku=sku, quantity=quantity)


def subscribe(life: Life, plot: Plot | None = None) -> None:
    """The customer subscribes, and it goes by the plot, for which there is time; or without one as chance has it."""
    chance = life.chance
    latest = life.now if plot is None else life.now - _days_of(plot) * DAY
    plot = plot or _by_chance(life)
    number = life.next_number()
    length = (7 if plot.weeks else 30) * DAY
    start = between(chance, life.joined_at, max(life.joined_at, latest), (0, 1))
    subscription = _Subscription(
        life=life,
        source=Source(life, f"subscription-{number}"),
        subscription_id=number,
        plans=WEEKLY if plot.weeks else MONTHLY,
        length=length,
        start=start,
        end=start + length,
    )
    rank = 1 if "downgrade later" in plot.turns else chance.choice((0, 0, 1))
    subscription.set_plan(subscription.plans[rank], chance.choice((1, 1, 2, 3)))
    if chance.random() < _BEGINS_WITH_MORE_SHARE:
        sku = chance.choice(ADD_ONS)
        subscription.items[sku] = SubscriptionItem(item_id=sku, sku=sku, quantity=1)
    if _open(subscription, plot.opening):
        _live(subscription, plot)
    until = min(subscription.end, life.now)
    for item in subscription.items.values():
        for entitlement, units in USED_OF[item.sku]:
            life.used.append(Used(entitlement, units, start, until))
    subscription.source.close()


def _days_of(plot: Plot) -> float:
    """How many days the plot takes at most, pauses and extensions among them."""
    periods = 1 + len(plot.turns) // 2 + (plot.ending != "goes on")
    return periods * (7 if plot.weeks else 30) + 12 * len(plot.turns) + 14


def _by_chance(life: Life) -> Plot:
    chance = life.chance
    count = chance.choice((1, 1, 2, 3)) if chance.random() < _TURNS_SHARE else 0
    return Plot(
        opening=chance.choices(_USUAL_OPENINGS, _OPENING_WEIGHTS)[0],
        turns=tuple(chance.choices(_USUAL_TURNS, k=count)),
        ending=chance.choices(_USUAL_ENDINGS, _ENDING_WEIGHTS)[0],
        weeks=chance.random() < 0.5,  # noqa: PLR2004 - a half
    )


def _live(subscription: _Subscription, plot: Plot) -> None:
    """From the first paid period to the ending, or to now."""
    life, chance = subscription.life, subscription.life.chance
    turns = list(plot.turns)
    at = subscription.start
    for _ in range(_PERIODS_MAX):
        for _ in range(2 if len(turns) > 1 else 1):
            if turns:
                at = _TURNS[turns.pop(0)](subscription, between(chance, at, subscription.end, (0.05, 0.4)))
        if not turns and plot.ending != "goes on":
            _ENDINGS[plot.ending](subscription, between(chance, at, subscription.end))
            return
        if subscription.end - DAY > life.now:
            return
        _renew(subscription)
        at = max(at, subscription.start)


# -- openings: each answers whether a paid period follows --


def _open(subscription: _Subscription, opening: str) -> bool:
    if opening == "paid":
        _activate(subscription)
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
        turn = chance.choice((_grow, _upgrade, _extend))
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


def _activate(subscription: _Subscription) -> None:
    subscription.source.tell(
        subscription.start,
        SubscriptionActivated(
            subscription_id=subscription.subscription_id,
            items=tuple(subscription.items.values()),
            period_start=subscription.start,
            period_end=subscription.end,
        ),
    )


def _convert(subscription: _Subscription, trial_end: datetime) -> None:
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


def _renew(subscription: _Subscription, *, start: datetime | None = None, paid_at: datetime | None = None) -> None:
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


# -- turns: each acts at an instant within the running period and answers when it is over --


def _change_plan(subscription: _Subscription, at: datetime, sku: str, *, keep_schedule: bool = False) -> None:
    chance = subscription.life.chance
    quantity = subscription.plan.quantity + 1 if chance.random() < 0.3 else None  # noqa: PLR2004 - some take a seat more
    subscription.source.tell(
        at,
        SubscriptionPlanChanged(
            subscription_id=subscription.subscription_id,
            change_id=subscription.next_id("change"),
            item_id=_PLAN,
            sku=sku,
            effective_at=at,
            quantity=quantity,
            keep_schedule=keep_schedule,
        ),
    )
    subscription.set_plan(sku, quantity or subscription.plan.quantity)


def _other_plan(subscription: _Subscription, steps: int) -> str:
    """The plan so many steps up or down, as far as there are plans."""
    plans = subscription.plans
    return plans[min(max(plans.index(subscription.plan.sku) + steps, 0), len(plans) - 1)]


def _upgrade(subscription: _Subscription, at: datetime) -> datetime:
    """To the next larger plan, at once; what was scheduled is off."""
    _change_plan(subscription, at, _other_plan(subscription, 1))
    subscription.scheduled = None
    return at


def _keep_the_schedule(subscription: _Subscription, at: datetime) -> datetime:
    """To the largest plan for the rest of the period; what is scheduled for its end stays so."""
    _change_plan(subscription, at, subscription.plans[-1], keep_schedule=True)
    return at


def _downgrade_later(subscription: _Subscription, at: datetime) -> datetime:
    sku = _other_plan(subscription, -1)
    subscription.source.tell(
        at,
        SubscriptionPlanChanged(
            subscription_id=subscription.subscription_id,
            change_id=subscription.next_id("change"),
            item_id=_PLAN,
            sku=sku,
            effective_at=subscription.end,
        ),
    )
    subscription.scheduled = SubscriptionItem(item_id=_PLAN, sku=sku, quantity=subscription.plan.quantity)
    return at


def _restart_the_period(subscription: _Subscription, at: datetime) -> datetime:
    """To the next larger plan with a new period from now on; what was scheduled is off."""
    sku = _other_plan(subscription, 1)
    subscription.start, subscription.end = at, at + subscription.length
    subscription.source.tell(
        at,
        SubscriptionPlanChanged(
            subscription_id=subscription.subscription_id,
            change_id=subscription.next_id("change"),
            item_id=_PLAN,
            sku=sku,
            effective_at=at,
            quantity=subscription.plan.quantity,
            period_end=subscription.end,
        ),
    )
    subscription.set_plan(sku, subscription.plan.quantity)
    subscription.scheduled = None
    return at


def _change_quantity(subscription: _Subscription, at: datetime, effective_at: datetime, quantity: int) -> None:
    subscription.source.tell(
        at,
        SubscriptionQuantityChanged(
            subscription_id=subscription.subscription_id,
            change_id=subscription.next_id("change"),
            item_id=_PLAN,
            quantity=quantity,
            effective_at=effective_at,
        ),
    )


def _grow(subscription: _Subscription, at: datetime) -> datetime:
    quantity = subscription.plan.quantity + subscription.life.chance.choice((1, 1, 2))
    _change_quantity(subscription, at, at, quantity)
    subscription.set_plan(subscription.plan.sku, quantity)
    subscription.scheduled = None
    return at


def _shrink(subscription: _Subscription, at: datetime) -> datetime:
    """By a seat, at once; the last one grows first."""
    if subscription.plan.quantity == 1:
        at = between(subscription.life.chance, _grow(subscription, at), subscription.end, (0.05, 0.3))
    quantity = subscription.plan.quantity - 1
    _change_quantity(subscription, at, at, quantity)
    subscription.set_plan(subscription.plan.sku, quantity)
    subscription.scheduled = None
    return at


def _shrink_later(subscription: _Subscription, at: datetime) -> datetime:
    _change_quantity(subscription, at, subscription.end, 1)
    subscription.scheduled = SubscriptionItem(item_id=_PLAN, sku=subscription.plan.sku, quantity=1)
    return at


def _add_item(subscription: _Subscription, at: datetime, item: SubscriptionItem) -> None:
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


def _add(subscription: _Subscription, at: datetime) -> datetime:
    """An item joins, or one that is there becomes more."""
    sku = subscription.life.chance.choice(ADD_ONS)
    known = subscription.items.get(sku)
    _add_item(subscription, at, SubscriptionItem(item_id=sku, sku=sku, quantity=1 + (known.quantity if known else 0)))
    return at


def _add_more(subscription: _Subscription, at: datetime) -> datetime:
    """An item that is there becomes more, by being added again."""
    added = [item for item in subscription.items.values() if item.item_id != _PLAN]
    if not added:
        return _add(subscription, at)
    _add_item(subscription, at, msgspec.structs.replace(added[0], quantity=added[0].quantity + 1))
    return at


def _remove(subscription: _Subscription, at: datetime) -> datetime:
    """An item leaves, where there is one beside the plan."""
    added = [item_id for item_id in subscription.items if item_id != _PLAN]
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


def _pause_from(subscription: _Subscription, at: datetime) -> tuple[str, datetime]:
    """A pause begins at once, or in a while; the answer is its id and its beginning."""
    chance = subscription.life.chance
    pause_id = subscription.next_id("pause")
    begins_at = between(chance, at, subscription.end, (0.05, 0.2)) if chance.random() < 0.3 else at  # noqa: PLR2004 - some plan it
    subscription.source.tell(
        at,
        SubscriptionPaused(subscription_id=subscription.subscription_id, pause_id=pause_id, effective_at=begins_at),
    )
    return pause_id, begins_at


def _resume(subscription: _Subscription, pause_id: str, at: datetime) -> None:
    subscription.source.tell(
        at,
        SubscriptionResumed(subscription_id=subscription.subscription_id, pause_id=pause_id, effective_at=at),
    )


def _pause(subscription: _Subscription, at: datetime) -> datetime:
    """For some days, by which the period's end moves."""
    pause_id, begins_at = _pause_from(subscription, at)
    resumed_at = begins_at + subscription.life.chance.uniform(0.5, 5) * DAY
    _resume(subscription, pause_id, resumed_at)
    subscription.end += resumed_at - begins_at
    return resumed_at


def _pause_twice(subscription: _Subscription, at: datetime) -> datetime:
    """Two pauses, of which the second begins before the first is over: the time of both counts once."""
    chance = subscription.life.chance
    first_id, first_at = _pause_from(subscription, at)
    second_id, second_at = _pause_from(subscription, first_at + chance.random() * DAY)
    resumed_at = second_at + chance.uniform(0.5, 2) * DAY
    over_at = resumed_at + chance.random() * DAY
    _resume(subscription, first_id, resumed_at)
    _resume(subscription, second_id, over_at)
    subscription.end += over_at - first_at
    return over_at


def _fail_at_the_end(subscription: _Subscription, recovered_after: timedelta) -> datetime:
    """The renewal is not paid; it is tried again, and is paid in the end; the answer is when."""
    chance = subscription.life.chance
    failed_at = subscription.end + chance.random() * HOUR
    recovered_at = failed_at + recovered_after
    for at in (failed_at, between(chance, failed_at, recovered_at)):
        subscription.source.tell(
            at,
            SubscriptionPaymentFailed(
                subscription_id=subscription.subscription_id, failure_id=subscription.next_id("failure")
            ),
        )
    subscription.source.tell(
        recovered_at,
        SubscriptionPaymentRecovered(
            subscription_id=subscription.subscription_id, recovery_id=subscription.next_id("recovery")
        ),
    )
    return recovered_at


def _payment_that_comes_late(subscription: _Subscription, _at: datetime) -> datetime:
    """Within the grace, for the period that began meanwhile."""
    paid_at = _fail_at_the_end(subscription, subscription.life.chance.uniform(0.1, 2.5) * DAY)
    _renew(subscription, paid_at=paid_at)
    return paid_at


def _payment_that_comes_too_late(subscription: _Subscription, _at: datetime) -> datetime:
    """After most of the plan was suspended; the next period begins with the payment, or began without it."""
    paid_at = _fail_at_the_end(subscription, subscription.life.chance.uniform(7.5, 10) * DAY)
    is_made_up_for = subscription.end + subscription.length > paid_at + DAY
    _renew(subscription, start=None if is_made_up_for else paid_at, paid_at=paid_at)
    return paid_at


def _change_of_mind(subscription: _Subscription, at: datetime) -> datetime:
    """Cancelled for the period's end, and that taken back."""
    cancellation_id = subscription.next_id("cancellation")
    withdrawn_at = between(subscription.life.chance, at, subscription.end)
    subscription.source.tell(
        at,
        SubscriptionCancellationScheduled(
            subscription_id=subscription.subscription_id,
            cancellation_id=cancellation_id,
            effective_at=subscription.end,
        ),
    )
    subscription.source.tell(
        withdrawn_at,
        SubscriptionCancellationWithdrawn(
            subscription_id=subscription.subscription_id, cancellation_id=cancellation_id
        ),
    )
    return withdrawn_at


def _extend(subscription: _Subscription, at: datetime) -> datetime:
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


def _transfer(subscription: _Subscription, at: datetime) -> datetime:
    subscription.source.hand_over(
        at,
        SubscriptionTransferred(
            subscription_id=subscription.subscription_id,
            transfer_id=subscription.next_id("transfer"),
            to_customer_id=subscription.life.partner_id,
        ),
    )
    return at


_TURNS: dict[str, Callable[[_Subscription, datetime], datetime]] = {
    "upgrade": _upgrade,
    "keep the schedule": _keep_the_schedule,
    "downgrade later": _downgrade_later,
    "restart the period": _restart_the_period,
    "grow": _grow,
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
    "extend": _extend,
    "transfer": _transfer,
}


# -- endings: each begins at an instant within the running period --


def _cancelled(subscription: _Subscription, at: datetime) -> None:
    subscription.source.tell(
        at,
        SubscriptionCancelled(
            subscription_id=subscription.subscription_id,
            cancellation_id=subscription.next_id("cancellation"),
            effective_at=at,
        ),
    )
    subscription.end = at


def _cancelled_at_the_end(subscription: _Subscription, at: datetime) -> None:
    subscription.source.tell(
        at,
        SubscriptionCancellationScheduled(
            subscription_id=subscription.subscription_id,
            cancellation_id=subscription.next_id("cancellation"),
            effective_at=subscription.end,
        ),
    )
    if subscription.life.chance.random() < 0.5:  # noqa: PLR2004 - one shop in two says so again when it comes
        _expires(subscription, at)


def _cancelled_sooner(subscription: _Subscription, at: datetime) -> None:
    """Cancelled for the period's end, and then at once: the same cancellation at another instant."""
    cancellation_id = subscription.next_id("cancellation")
    subscription.source.tell(
        at,
        SubscriptionCancellationScheduled(
            subscription_id=subscription.subscription_id,
            cancellation_id=cancellation_id,
            effective_at=subscription.end,
        ),
    )
    subscription.end = between(subscription.life.chance, at, subscription.end)
    subscription.source.tell(
        subscription.end,
        SubscriptionCancelled(
            subscription_id=subscription.subscription_id,
            cancellation_id=cancellation_id,
            effective_at=subscription.end,
        ),
    )


def _expires(subscription: _Subscription, _at: datetime) -> None:
    """Nobody renews it."""
    subscription.source.tell(
        subscription.end + subscription.life.chance.random() * 6 * HOUR,
        SubscriptionExpired(
            subscription_id=subscription.subscription_id,
            expiry_id=subscription.next_id("expiry"),
            effective_at=subscription.end,
        ),
    )


def _is_not_paid(subscription: _Subscription, _at: datetime) -> None:
    """The renewal is tried and tried again, and given up."""
    chance = subscription.life.chance
    at = subscription.end
    for _ in range(chance.choice((1, 2, 3))):
        at += chance.uniform(0.1, 2) * DAY
        subscription.source.tell(
            at,
            SubscriptionPaymentFailed(
                subscription_id=subscription.subscription_id, failure_id=subscription.next_id("failure")
            ),
        )
    given_up_at = at + chance.uniform(1, 10) * DAY
    subscription.source.tell(
        given_up_at,
        SubscriptionExpired(
            subscription_id=subscription.subscription_id,
            expiry_id=subscription.next_id("expiry"),
            effective_at=given_up_at,
        ),
    )
    subscription.end = given_up_at


def _revoked(subscription: _Subscription, at: datetime) -> None:
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


def _rests(subscription: _Subscription, at: datetime) -> None:
    """A pause that is not over."""
    _pause_from(subscription, at)


def _comes_back(subscription: _Subscription, at: datetime) -> None:
    """Cancelled, and after a while a new life begins under the same id."""
    chance = subscription.life.chance
    _cancelled(subscription, at)
    subscription.start = at + chance.uniform(0.5, 6) * DAY
    subscription.end = subscription.start + subscription.length
    subscription.set_plan(chance.choice(subscription.plans), 1)
    _activate(subscription)


_ENDINGS: dict[str, Callable[[_Subscription, datetime], None]] = {
    "cancelled": _cancelled,
    "cancelled at the end": _cancelled_at_the_end,
    "cancelled sooner": _cancelled_sooner,
    "expires": _expires,
    "is not paid": _is_not_paid,
    "revoked": _revoked,
    "rests": _rests,
    "comes back": _comes_back,
}
