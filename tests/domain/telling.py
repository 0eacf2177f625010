"""The words in which tests tell a customer's life: instants by day, offers and facts in a line each.

`day(5)` is the start of the fifth of a January; `day(5, 3)` is three hours later.
"""

from datetime import UTC, datetime, timedelta

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
    SubscriptionActivated,
    SubscriptionCancelled,
    SubscriptionItem,
    SubscriptionRenewed,
    UsageRecorded,
)

MICROSECOND = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)


def day(number: int, hours: float = 0) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number - 1, hours=hours)


# -- what can be had


def quota(
    key: str = "api",
    *,
    limit: LimitPolicy = LimitPolicy.HARD,
    debt: DebtPolicy = DebtPolicy.FORGIVE,
    overage: OveragePolicy = OveragePolicy.SEPARATE,
    thresholds: tuple[int, ...] = (80, 100),
) -> Entitlement:
    return Entitlement(
        key=key,
        name=key,
        type=EntitlementType.QUOTA,
        unit="unit",
        limit=limit,
        debt=debt,
        overage=overage,
        thresholds=thresholds,
        version=1,
    )


def access(key: str = "video") -> Entitlement:
    return Entitlement(key=key, name=key, type=EntitlementType.ACCESS, version=1)


def gives(
    units: int | None,
    entitlement: str = "api",
    *,
    key: str | None = None,
    lasts: str = "period",
    priority: int = 100,
    refund: RefundPolicy = RefundPolicy.UNUSED_ONLY,
    on_cancel: OnCancel = OnCancel.FORFEIT,
    leeway_seconds: int = 86_400,
) -> Allowance:
    return Allowance(
        key=key or entitlement,
        entitlement=entitlement,
        units=units,
        lasts=lasts,
        priority=priority,
        refund=refund,
        on_cancel=on_cancel,
        leeway_seconds=leeway_seconds,
    )


def offer(
    sku: str,
    *allowances: Allowance,
    version: int = 1,
    published_at: datetime | None = None,
    apply: Apply | None = None,
    catalogue_version: int = 1,
) -> Offer:
    return Offer(
        sku=sku,
        allowances=allowances,
        version=version,
        published_at=published_at or day(1),
        apply=apply or (Apply.NOW if version == 1 else Apply.NEW_ONLY),
        catalogue_version=catalogue_version,
    )


def catalogue(*entries: Entitlement | Offer, version: int = 1) -> Catalogue:
    offers: dict[str, tuple[Offer, ...]] = {}
    for entry in entries:
        if isinstance(entry, Offer):
            offers[entry.sku] = (*offers.get(entry.sku, ()), entry)
    return Catalogue(
        version=version,
        entitlements={entry.key: entry for entry in entries if isinstance(entry, Entitlement)},
        offers=offers,
    )


PACK_OF_TEN = catalogue(quota(), offer("pack", gives(10, lasts="forever")))
"""One quota, and a SKU `pack` that gives ten units for ever."""


# -- what is told


def told(
    event_id: str,
    at: datetime,
    fact: Fact,
    *,
    version: int | None = None,
    source: str = "commerce",
    customer: str = "ada",
) -> Event:
    return Event(
        event_source=source,
        event_id=event_id,
        customer_id=customer,
        occurred_at=at,
        fact=fact,
        source_version=version,
    )


def line(sku: str = "pack", quantity: int = 1, line_id: str = "l1", amount: int | None = None) -> PurchaseLine:
    return PurchaseLine(line_id=line_id, sku=sku, quantity=quantity, amount=amount)


def bought(*lines: PurchaseLine, order: str = "o1") -> PurchaseCompleted:
    return PurchaseCompleted(order_id=order, lines=lines or (line(),))


def refunded(
    refund: str = "r1",
    *,
    order: str = "o1",
    line_id: str = "l1",
    quantity: int | None = None,
    amount: int | None = None,
    of_line: int | None = None,
) -> PurchaseRefunded:
    """The whole order; or `amount` of it; or a `quantity` or the amount `of_line` of one line."""
    lines = (
        ()
        if quantity is None and of_line is None
        else (RefundLine(line_id=line_id, quantity=quantity, amount=of_line),)
    )
    return PurchaseRefunded(order_id=order, refund_id=refund, lines=lines, amount=amount)


def item(sku: str = "plan", quantity: int = 1, item_id: str = "i1") -> SubscriptionItem:
    return SubscriptionItem(item_id=item_id, sku=sku, quantity=quantity)


def activated(
    start: datetime, end: datetime, *items: SubscriptionItem, subscription: str = "s1"
) -> SubscriptionActivated:
    return SubscriptionActivated(
        subscription_id=subscription, items=items or (item(),), period_start=start, period_end=end
    )


def renewed(start: datetime, end: datetime, *items: SubscriptionItem, subscription: str = "s1") -> SubscriptionRenewed:
    return SubscriptionRenewed(subscription_id=subscription, items=items, period_start=start, period_end=end)


def cancelled(at: datetime, cancellation: str = "c1", *, subscription: str = "s1") -> SubscriptionCancelled:
    return SubscriptionCancelled(subscription_id=subscription, cancellation_id=cancellation, effective_at=at)


def used(units: int, entitlement: str = "api") -> UsageRecorded:
    return UsageRecorded(entitlement=entitlement, units=units)
