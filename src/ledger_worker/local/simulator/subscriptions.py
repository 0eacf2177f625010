"""Subscriptions: how one opens, the turns it takes from period to period, and how it ends.

A subscription is told as a shop keeps it: periods follow each other, moved by pauses and extensions; a change acts
within the running period or is scheduled for its end; a renewal names the items or leaves them as they are.
"""

from collections.abc import Sequence

import msgspec

from ledger_worker.domain.events import SubscriptionItem
from ledger_worker.local.simulator.endings import ENDINGS
from ledger_worker.local.simulator.life import DAY, Life, Source, Used, between
from ledger_worker.local.simulator.openings import open_subscription
from ledger_worker.local.simulator.shop import ADD_ONS, MONTHLY, USED_OF, WEEKLY
from ledger_worker.local.simulator.subscription import Subscription, renew
from ledger_worker.local.simulator.turns import TURNS

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
    Plot(turns=("downgrade",), weeks=False),
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
    "downgrade",
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
_BEGINS_WITH_MORE_SHARE = 0.15
_PERIODS_MAX = 20


def subscribe(life: Life, plot: Plot | None = None) -> None:
    """The customer subscribes, and it goes by the plot, for which there is time; or without one as chance has it."""
    chance = life.chance
    latest = life.now if plot is None else life.now - _days_of(plot) * DAY
    plot = plot or _by_chance(life)
    number = life.next_number()
    length = (7 if plot.weeks else 30) * DAY
    start = between(chance, life.joined_at, max(life.joined_at, latest), (0, 1))
    subscription = Subscription(
        life=life,
        source=Source(life, f"subscription-{number}"),
        subscription_id=number,
        plans=WEEKLY if plot.weeks else MONTHLY,
        length=length,
        start=start,
        end=start + length,
    )
    rank = 1 if any(turn.startswith("downgrade") for turn in plot.turns) else chance.choice((0, 0, 1))
    subscription.set_plan(subscription.plans[rank], chance.choice((1, 1, 2, 3)))
    if chance.random() < _BEGINS_WITH_MORE_SHARE:
        sku = chance.choice(ADD_ONS)
        subscription.items[sku] = SubscriptionItem(item_id=sku, sku=sku, quantity=1)
    if open_subscription(subscription, plot.opening):
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


def _live(subscription: Subscription, plot: Plot) -> None:
    """From the first paid period to the ending, or to now."""
    life, chance = subscription.life, subscription.life.chance
    turns = list(plot.turns)
    at = subscription.start
    for _ in range(_PERIODS_MAX):
        for _ in range(2 if len(turns) > 1 else 1):
            if turns:
                at = TURNS[turns.pop(0)](subscription, between(chance, at, subscription.end, (0.05, 0.4)))
        if not turns and plot.ending != "goes on":
            ENDINGS[plot.ending](subscription, between(chance, at, subscription.end))
            return
        if subscription.end - DAY > life.now:
            return
        renew(subscription)
        at = max(at, subscription.start)
