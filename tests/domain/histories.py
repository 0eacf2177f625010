"""Random lives of one customer: a catalogue, facts about it, and when each is told.

Everything is chosen through one function that gives an integer between two bounds, so that the same histories come from
Hypothesis, which shrinks them, and from a seeded generator, which makes a hundred thousand of them. Instants are few
and coarse, so that happenings meet at one instant often.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TypeVar

import msgspec
from hypothesis import strategies as st

from ledger_worker.domain.catalogue import (
    Allowance,
    Apply,
    Catalogue,
    DebtPolicy,
    Entitlement,
    EntitlementType,
    LimitPolicy,
    Offer,
    OnCancel,
    OveragePolicy,
    RefundPolicy,
)
from ledger_worker.domain.events import (
    Event,
    Fact,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    RefundLine,
    SourceFact,
    SubscriptionActivated,
    SubscriptionCancelled,
    SubscriptionItem,
    SubscriptionRenewed,
    UsageRecorded,
)

Integer = Callable[[int, int], int]
"""Gives an integer between two bounds, both possible."""

START = datetime(2026, 1, 1, tzinfo=UTC)
TICK = timedelta(hours=6)
LAST_TICK = 40
AFTER_ALL = START + 1000 * TICK
"""Later than anything in a history begins, ends or is told."""

FACTS_MAX = 14

_T = TypeVar("_T")


class History(msgspec.Struct, frozen=True):
    """A catalogue, and events each with the instant at which it arrives, in the order of their arrival."""

    catalogue: Catalogue
    told: tuple[tuple[Event, datetime], ...]

    @property
    def events(self) -> list[Event]:
        return [event for event, _ in self.told]

    def in_order(self, order: Sequence[int], now: datetime) -> list[tuple[Event, datetime]]:
        """The same events by another order of arrival, all of them at `now`."""
        return [(self.told[place][0], now) for place in order]


@st.composite
def histories(draw: st.DrawFn, facts_max: int = FACTS_MAX) -> History:
    return any_history(lambda least, most: draw(st.integers(least, most)), facts_max)


def history_of(seed: int, facts_max: int = FACTS_MAX) -> History:
    return any_history(Random(seed).randint, facts_max)


def any_history(integer: Integer, facts_max: int) -> History:
    catalogue = any_catalogue(integer)
    quotas = [key for key, one in catalogue.entitlements.items() if one.type is EntitlementType.QUOTA]
    facts = [any_event(integer, place, quotas) for place in range(integer(1, facts_max))]
    facts += [resent(integer, facts, place) for place in range(integer(0, 2))]
    arriving = sorted(facts, key=lambda one: (one[1], one[0].event_id))
    return History(catalogue, tuple(arriving))


# -- the catalogue


def any_catalogue(integer: Integer) -> Catalogue:
    api = Entitlement(
        key="api",
        name="API calls",
        type=EntitlementType.QUOTA,
        unit="call",
        limit=pick(integer, LimitPolicy.HARD, LimitPolicy.SOFT),
        debt=pick(integer, DebtPolicy.FORGIVE, DebtPolicy.CARRY, DebtPolicy.BLOCK),
        overage=pick(integer, OveragePolicy.SEPARATE, OveragePolicy.CARRY),
        thresholds=pick(integer, (80, 100), (), (50,), (1, 100, 150)),
        version=1,
    )
    other = pick(
        integer,
        Entitlement(key="video", name="Video", type=EntitlementType.ACCESS, version=1),
        msgspec.structs.replace(api, key="video", limit=LimitPolicy.HARD, debt=DebtPolicy.CARRY),
    )
    kinds = {"api": api.type, "video": other.type}
    offers = {}
    for sku in ("basic", "plus"):
        versions = [any_offer(integer, sku, 1, kinds)]
        if integer(0, 4) == 0:
            versions.append(any_offer(integer, sku, 2, kinds))
        offers[sku] = tuple(versions)
    return Catalogue(version=1, entitlements={"api": api, "video": other}, offers=offers)


def any_offer(integer: Integer, sku: str, version: int, kinds: dict[str, EntitlementType]) -> Offer:
    allowances = []
    for place in range(integer(1, 3)):
        entitlement = "video" if place == 1 else "api"
        is_quota = kinds[entitlement] is EntitlementType.QUOTA
        allowances.append(
            Allowance(
                key=f"{entitlement}-{place}",
                entitlement=entitlement,
                units=pick(integer, 10, 3, 1, 0, 7, None) if is_quota else None,
                lasts=pick(integer, "period", "forever", "P1D", "PT12H", "P3D", "P1M"),
                priority=pick(integer, 100, 50),
                refund=pick(integer, RefundPolicy.UNUSED_ONLY, RefundPolicy.FULL_WITH_DEBT, RefundPolicy.PRORATE),
                on_cancel=pick(integer, OnCancel.FORFEIT, OnCancel.KEEP),
                leeway_seconds=pick(integer, 86_400, 0, 21_600),
            )
        )
    published_at = START if version == 1 else START + integer(0, LAST_TICK) * TICK
    apply = pick(integer, Apply.NOW, Apply.NEW_ONLY) if version == 1 else Apply.NEW_ONLY
    if version == 1 and apply is Apply.NEW_ONLY:
        published_at = START + integer(0, 10) * TICK
    return Offer(sku=sku, allowances=tuple(allowances), apply=apply, version=version, published_at=published_at)


# -- facts


def any_event(integer: Integer, place: int, quotas: Sequence[str]) -> tuple[Event, datetime]:
    """Something happened at a tick and is told at once, or later; facts about sources also two minutes ahead."""
    tick = integer(0, LAST_TICK)
    fact = any_fact(integer, tick, quotas)
    event = Event(
        event_source=pick(integer, "commerce", "meter"),
        event_id=f"e{place}",
        customer_id="ada",
        occurred_at=START + tick * TICK,
        fact=fact,
        source_version=integer(1, 4) if isinstance(fact, SourceFact) and integer(0, 3) == 0 else None,
    )
    lag = pick(integer, timedelta(), timedelta(), TICK, 5 * TICK, 60 * TICK, timedelta(minutes=-2))
    if isinstance(fact, UsageRecorded):
        lag = max(lag, timedelta())
    return event, event.occurred_at + lag


def resent(integer: Integer, facts: Sequence[tuple[Event, datetime]], place: int) -> tuple[Event, datetime]:
    """One of the facts is told again.

    As it was, or (about a source) under a new id, with or without a later instant.
    """
    event, arrived_at = facts[integer(0, len(facts) - 1)]
    if isinstance(event.fact, SourceFact) and integer(0, 2):
        later = event.occurred_at + integer(0, 6) * TICK
        event = msgspec.structs.replace(event, event_id=f"again-{place}", occurred_at=later)
        arrived_at = max(arrived_at, later)
    return event, arrived_at + integer(0, 3) * TICK


def any_fact(integer: Integer, tick: int, quotas: Sequence[str]) -> Fact:
    which = integer(0, 9)
    if which <= 3:
        return UsageRecorded(entitlement=pick(integer, "api", "api", *quotas), units=pick(integer, 1, 2, 4, 12))
    if which <= 5:
        return PurchaseCompleted(order_id=pick(integer, "o1", "o2"), lines=_lines(integer))
    if which == 6:
        return _refund(integer)
    if which == 7:
        return SubscriptionActivated(subscription_id="s1", items=_items(integer), **_period(integer, tick))
    if which == 8:
        items = _items(integer) if integer(0, 1) else ()
        return SubscriptionRenewed(subscription_id="s1", items=items, **_period(integer, tick))
    return SubscriptionCancelled(
        subscription_id="s1",
        cancellation_id=pick(integer, "c1", "c2"),
        effective_at=START + (tick + integer(-4, 12)) * TICK,
    )


def _lines(integer: Integer) -> tuple[PurchaseLine, ...]:
    return tuple(
        PurchaseLine(
            line_id=f"l{number}",
            sku=pick(integer, "basic", "plus", "unheard-of"),
            quantity=integer(1, 3),
            amount=pick(integer, 300, 100, None, 0),
        )
        for number in range(1, integer(1, 2) + 1)
    )


def _refund(integer: Integer) -> PurchaseRefunded:
    order_id, refund_id = pick(integer, "o1", "o2"), pick(integer, "r1", "r2", "r3")
    how = integer(0, 3)
    if how == 0:
        return PurchaseRefunded(order_id=order_id, refund_id=refund_id)
    if how == 1:
        return PurchaseRefunded(order_id=order_id, refund_id=refund_id, amount=pick(integer, 100, 50, 1000))
    if how == 2:
        line = RefundLine(line_id=pick(integer, "l1", "l2"), quantity=integer(1, 3))
        return PurchaseRefunded(order_id=order_id, refund_id=refund_id, lines=(line,))
    line = RefundLine(line_id=pick(integer, "l1", "l2"), amount=pick(integer, 100, 33, None))
    return PurchaseRefunded(order_id=order_id, refund_id=refund_id, lines=(line,))


def _items(integer: Integer) -> tuple[SubscriptionItem, ...]:
    return tuple(
        SubscriptionItem(item_id=f"i{number}", sku=pick(integer, "basic", "plus"), quantity=integer(1, 2))
        for number in range(1, integer(1, 2) + 1)
    )


def _period(integer: Integer, tick: int) -> dict[str, datetime]:
    """Periods of the grid meet each other; others do not."""
    start = pick(integer, tick - tick % 8, tick, tick + 8 - tick % 8)
    return {"period_start": START + start * TICK, "period_end": START + (start + pick(integer, 8, 8, 5)) * TICK}


def pick(integer: Integer, *values: _T) -> _T:
    return values[integer(0, len(values) - 1)]
