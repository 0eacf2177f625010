"""The words in which tests tell a customer's life: instants by day, offers and facts in a line each.

`day(5)` is the start of the fifth of a January; `day(5, 3)` is three hours later. The keys of what a fact speaks of
have defaults, so a life with two of a kind names the second: `refunded()` twice is one refund told again.
"""

from datetime import UTC, datetime, timedelta

from ledger_worker.domain.catalogue import (
    Allowance,
    Apply,
    Catalogue,
    Clock,
    DebtPolicy,
    Entitlement,
    EntitlementType,
    LateUsage,
    LimitPolicy,
    Offer,
    OnCancel,
    OnChange,
    OnShrink,
    OveragePolicy,
    RefundPolicy,
    ReturnAfterEnd,
)
from ledger_worker.domain.events import (
    AssignmentExtended,
    AssignmentRenewed,
    AssignmentRevoked,
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    CustomersMerged,
    EntitlementAssigned,
    Event,
    Fact,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    PurchaseTransferred,
    RefundLine,
    RefundReversed,
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
    UsageRecorded,
    UsageReversed,
)
from ledger_worker.domain.requests import AssignSeat, Confirm, Item, Release, Request, SwapSeat, UnassignSeat
from ledger_worker.domain.values import MergePolicy, value_of

DAY = 86_400
"""Seconds."""
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
    late_usage: LateUsage = LateUsage.COUNT_NOW,
    thresholds: tuple[int, ...] = (80, 100),
    expiring_soon: tuple[str, ...] = (),
) -> Entitlement:
    """Hard, forgiving and told at 80 and 100 percent, as a catalogue file has it that says no more."""
    return Entitlement(
        key=key,
        name=key,
        type=EntitlementType.QUOTA,
        unit="unit",
        limit=limit,
        debt=debt,
        overage=overage,
        late_usage=late_usage,
        thresholds=thresholds,
        expiring_soon=expiring_soon,
        version=1,
    )


def access(key: str = "video") -> Entitlement:
    return Entitlement(key=key, name=key, type=EntitlementType.ACCESS, version=1)


def setting(key: str = "size", *, merge: MergePolicy | None = None) -> Entitlement:
    return Entitlement(key=key, name=key, type=EntitlementType.SETTING, merge=merge, version=1)


def seats(key: str = "desk", *, on_shrink: OnShrink = OnShrink.KEEP) -> Entitlement:
    return Entitlement(key=key, name=key, type=EntitlementType.SEATS, on_shrink=on_shrink, version=1)


def gives(
    units: int | None,
    entitlement: str = "api",
    *,
    value: object = None,
    key: str | None = None,
    lasts: str = "period",
    priority: int = 100,
    refund: RefundPolicy = RefundPolicy.UNUSED_ONLY,
    on_cancel: OnCancel = OnCancel.FORFEIT,
    leeway_seconds: int = 86_400,
    grace_seconds: int = 604_800,
    on_change: OnChange = OnChange.CARRY_USED,
    pause: Clock = Clock.STOPS,
    rollover_units: int = 0,
    rollover_times: int = 1,
    extend_on_won: bool = False,
    return_after_end: ReturnAfterEnd = ReturnAfterEnd.EXPIRE,
    every: str | None = None,
    time_zone: str | None = None,
    times: int | None = None,
) -> Allowance:
    """Of `units` per quantity, None for no limit, and else as a catalogue file has it that says no more."""
    return Allowance(
        key=key or entitlement,
        entitlement=entitlement,
        units=units,
        value=None if value is None else value_of(value),
        lasts=lasts,
        priority=priority,
        refund=refund,
        on_cancel=on_cancel,
        leeway_seconds=leeway_seconds,
        grace_seconds=grace_seconds,
        on_change=on_change,
        pause=pause,
        rollover_units=rollover_units,
        rollover_times=rollover_times,
        extend_on_won=extend_on_won,
        return_after_end=return_after_end,
        every=every,
        time_zone=time_zone,
        times=times,
    )


def offer(
    sku: str,
    *allowances: Allowance,
    version: int = 1,
    published_at: datetime | None = None,
    apply: Apply | None = None,
    catalogue_version: int = 1,
) -> Offer:
    """A first version counts as in force from the beginning, a later one is for new purchases; or as `apply` says."""
    return Offer(
        sku=sku,
        allowances=allowances,
        version=version,
        published_at=published_at or day(1),
        apply=apply or (Apply.NOW if version == 1 else Apply.NEW_ONLY),
        catalogue_version=catalogue_version,
    )


def catalogue(*entries: Entitlement | Offer, version: int = 1) -> Catalogue:
    """Several versions of one SKU's offer are given from the first to the last."""
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
    """An event of Commerce about Ada. Its id is new for each event, also where the fact is an old one."""
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
    """Without lines, one of `pack`."""
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


def line_refunded(line_id: str = "l1", refund: str = "r1", *, order: str = "o1") -> PurchaseRefunded:
    """All that is left of one line."""
    return PurchaseRefunded(order_id=order, refund_id=refund, lines=(RefundLine(line_id=line_id),))


def refund_reversed(refund: str = "r1", reversal: str = "rr1", *, order: str = "o1") -> RefundReversed:
    return RefundReversed(order_id=order, reversal_id=reversal, refund_id=refund)


def dispute_opened(dispute: str = "d1", *, order: str = "o1") -> ChargebackOpened:
    return ChargebackOpened(order_id=order, dispute_id=dispute)


def dispute_won(dispute: str = "d1", *, order: str = "o1") -> ChargebackWon:
    return ChargebackWon(order_id=order, dispute_id=dispute)


def dispute_lost(dispute: str = "d1", *, order: str = "o1", amount: int | None = None) -> ChargebackLost:
    return ChargebackLost(order_id=order, dispute_id=dispute, amount=amount)


def order_transferred(to: str = "bob", transfer: str = "t1", *, order: str = "o1") -> PurchaseTransferred:
    return PurchaseTransferred(order_id=order, transfer_id=transfer, to_customer_id=to)


def merged(into: str = "bob", merge: str = "m1") -> CustomersMerged:
    """The customer it is told of goes on as `into`."""
    return CustomersMerged(merge_id=merge, into_customer_id=into)


def item(sku: str = "plan", quantity: int = 1, item_id: str = "i1") -> SubscriptionItem:
    return SubscriptionItem(item_id=item_id, sku=sku, quantity=quantity)


def activated(
    start: datetime, end: datetime, *items: SubscriptionItem, subscription: str = "s1"
) -> SubscriptionActivated:
    """Without items, one of `plan`."""
    return SubscriptionActivated(
        subscription_id=subscription, items=items or (item(),), period_start=start, period_end=end
    )


def renewed(start: datetime, end: datetime, *items: SubscriptionItem, subscription: str = "s1") -> SubscriptionRenewed:
    """Without items it goes on with those it has."""
    return SubscriptionRenewed(subscription_id=subscription, items=items, period_start=start, period_end=end)


def trial_started(
    start: datetime, end: datetime, *items: SubscriptionItem, subscription: str = "s1"
) -> SubscriptionTrialStarted:
    """Without items, one of `plan`."""
    return SubscriptionTrialStarted(
        subscription_id=subscription, items=items or (item(),), trial_start=start, trial_end=end
    )


def trial_converted(
    start: datetime, end: datetime, *items: SubscriptionItem, subscription: str = "s1"
) -> SubscriptionTrialConverted:
    """Without items it goes on with those of the trial."""
    return SubscriptionTrialConverted(subscription_id=subscription, items=items, period_start=start, period_end=end)


def trial_expired(at: datetime, *, subscription: str = "s1") -> SubscriptionTrialExpired:
    return SubscriptionTrialExpired(subscription_id=subscription, effective_at=at)


def payment_failed(failure: str = "f1", *, subscription: str = "s1") -> SubscriptionPaymentFailed:
    return SubscriptionPaymentFailed(subscription_id=subscription, failure_id=failure)


def payment_recovered(recovery: str = "y1", *, subscription: str = "s1") -> SubscriptionPaymentRecovered:
    return SubscriptionPaymentRecovered(subscription_id=subscription, recovery_id=recovery)


def plan_changed(
    sku: str,
    at: datetime,
    change: str = "ch1",
    *,
    item_id: str = "i1",
    quantity: int | None = None,
    period_end: datetime | None = None,
    keep_schedule: bool = False,
    subscription: str = "s1",
) -> SubscriptionPlanChanged:
    """With a `period_end` the anchor restarts: a period of its own begins."""
    return SubscriptionPlanChanged(
        subscription_id=subscription,
        change_id=change,
        item_id=item_id,
        sku=sku,
        effective_at=at,
        quantity=quantity,
        period_end=period_end,
        keep_schedule=keep_schedule,
    )


def quantity_changed(
    quantity: int,
    at: datetime,
    change: str = "ch1",
    *,
    item_id: str = "i1",
    keep_schedule: bool = False,
    subscription: str = "s1",
) -> SubscriptionQuantityChanged:
    return SubscriptionQuantityChanged(
        subscription_id=subscription,
        change_id=change,
        item_id=item_id,
        quantity=quantity,
        effective_at=at,
        keep_schedule=keep_schedule,
    )


def add_on_added(
    added: SubscriptionItem, at: datetime, change: str = "ch1", *, subscription: str = "s1"
) -> SubscriptionAddOnAdded:
    return SubscriptionAddOnAdded(subscription_id=subscription, change_id=change, item=added, effective_at=at)


def add_on_removed(
    at: datetime, change: str = "ch2", *, item_id: str = "i2", subscription: str = "s1"
) -> SubscriptionAddOnRemoved:
    return SubscriptionAddOnRemoved(subscription_id=subscription, change_id=change, item_id=item_id, effective_at=at)


def paused(at: datetime, pause: str = "p1", *, subscription: str = "s1") -> SubscriptionPaused:
    return SubscriptionPaused(subscription_id=subscription, pause_id=pause, effective_at=at)


def resumed(at: datetime, pause: str = "p1", *, subscription: str = "s1") -> SubscriptionResumed:
    return SubscriptionResumed(subscription_id=subscription, pause_id=pause, effective_at=at)


def cancellation_scheduled(
    at: datetime, cancellation: str = "c1", *, subscription: str = "s1"
) -> SubscriptionCancellationScheduled:
    return SubscriptionCancellationScheduled(
        subscription_id=subscription, cancellation_id=cancellation, effective_at=at
    )


def cancellation_withdrawn(cancellation: str = "c1", *, subscription: str = "s1") -> SubscriptionCancellationWithdrawn:
    return SubscriptionCancellationWithdrawn(subscription_id=subscription, cancellation_id=cancellation)


def cancelled(at: datetime, cancellation: str = "c1", *, subscription: str = "s1") -> SubscriptionCancelled:
    return SubscriptionCancelled(subscription_id=subscription, cancellation_id=cancellation, effective_at=at)


def expired(at: datetime, expiry: str = "x1", *, subscription: str = "s1") -> SubscriptionExpired:
    return SubscriptionExpired(subscription_id=subscription, expiry_id=expiry, effective_at=at)


def revoked(at: datetime, revocation: str = "k1", *, subscription: str = "s1") -> SubscriptionRevoked:
    """The store took it back."""
    return SubscriptionRevoked(subscription_id=subscription, revocation_id=revocation, effective_at=at)


def extended(new_period_end: datetime, extension: str = "n1", *, subscription: str = "s1") -> SubscriptionExtended:
    return SubscriptionExtended(subscription_id=subscription, extension_id=extension, new_period_end=new_period_end)


def transferred(to: str = "bob", transfer: str = "t1", *, subscription: str = "s1") -> SubscriptionTransferred:
    return SubscriptionTransferred(subscription_id=subscription, transfer_id=transfer, to_customer_id=to)


def assigned(
    units: int | None,
    at: datetime,
    until: datetime | None = None,
    *,
    value: object = None,
    entitlement: str = "api",
    assignment: str = "a1",
    priority: int = 100,
) -> EntitlementAssigned:
    """Eve gave it by hand."""
    return EntitlementAssigned(
        assignment_id=assignment,
        entitlement=entitlement,
        effective_at=at,
        actor="eve",
        note="goodwill",
        units=units,
        expires_at=until,
        priority=priority,
        value=None if value is None else value_of(value),
    )


def assigned_again(
    at: datetime,
    until: datetime | None = None,
    *,
    units: int | None = None,
    value: object = None,
    assignment: str = "a1",
) -> AssignmentRenewed:
    """Eve gave it once more, as much as at first unless said; the instant `at` is its key."""
    return AssignmentRenewed(
        assignment_id=assignment,
        effective_at=at,
        expires_at=until,
        units=units,
        value=None if value is None else value_of(value),
        actor="eve",
        note="once more",
    )


def assignment_extended(until: datetime, extension: str = "n1", *, assignment: str = "a1") -> AssignmentExtended:
    return AssignmentExtended(
        assignment_id=assignment, extension_id=extension, new_expires_at=until, actor="eve", note="a while longer"
    )


def assignment_revoked(at: datetime, revocation: str = "k1", *, assignment: str = "a1") -> AssignmentRevoked:
    return AssignmentRevoked(
        assignment_id=assignment, revocation_id=revocation, effective_at=at, actor="eve", note="it was a mistake"
    )


def used(units: int, entitlement: str = "api") -> UsageRecorded:
    return UsageRecorded(entitlement=entitlement, units=units)


def usage_reversed(
    usage: str, units: int | None = None, reversal: str = "v1", *, entitlement: str = "api"
) -> UsageReversed:
    """Of the usage told under that event id, `units` or all."""
    return UsageReversed(entitlement=entitlement, reversal_id=reversal, usage_event_id=usage, units=units)


# -- what is asked


def consume(units: int, key: str = "u", *, customer: str = "ada", up_to: bool = False) -> Request:
    """Of `api`, all of them or, with `up_to`, what is left. The same `key` is the same request."""
    items = (Item(entitlement="api", units=units),)
    return Request(caller="shop", key=key, customer_id=customer, items=items, up_to=up_to)


def hold(units: int, key: str = "h", *, seconds: int = 20 * DAY, customer: str = "ada", up_to: bool = False) -> Request:
    """Of `api`, by default for so long that nothing a test does meanwhile ends it."""
    items = (Item(entitlement="api", units=units),)
    return Request(caller="shop", key=key, customer_id=customer, items=items, hold_seconds=seconds, up_to=up_to)


def confirm(units: int | None = None, of: str = "h", *, key: str = "c", customer: str = "ada") -> Confirm:
    """Without `units`, all that the request of key `of` holds."""
    items = () if units is None else (Item(entitlement="api", units=units),)
    return Confirm(caller="shop", key=key, customer_id=customer, hold=of, items=items)


def release(of: str = "h", *, key: str = "r", customer: str = "ada") -> Release:
    """All that the request of key `of` holds."""
    return Release(caller="shop", key=key, customer_id=customer, hold=of)


def seat(holder: str, key: str | None = None, *, customer: str = "ada", entitlement: str = "desk") -> AssignSeat:
    """Asked under a key that follows from the name: a second time it is the same request, and not a new one."""
    return AssignSeat(
        caller="team", key=key or f"seat {holder}", customer_id=customer, entitlement=entitlement, holder=holder
    )


def unseat(holder: str, key: str | None = None, *, customer: str = "ada", entitlement: str = "desk") -> UnassignSeat:
    return UnassignSeat(
        caller="team", key=key or f"unseat {holder}", customer_id=customer, entitlement=entitlement, holder=holder
    )


def swap(holder: str, to: str, key: str | None = None, *, customer: str = "ada", entitlement: str = "desk") -> SwapSeat:
    return SwapSeat(
        caller="team",
        key=key or f"swap {holder} {to}",
        customer_id=customer,
        entitlement=entitlement,
        holder=holder,
        to=to,
    )
