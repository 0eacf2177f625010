"""What Commerce, services and admins tell us: facts, and the envelope each comes in.

Shapes, limits and canonical bytes live here; what a fact does to grants is in `sources` and `settlement`. Values are
built by `wire.decode` from Avro records of the same names and fields (`schemas/`). What is impossible in an event alone
is in `impossible`.

Units, quantities and amounts are 64-bit integers; amounts are minor units of the order's currency. Instants are aware
UTC.
"""

from datetime import datetime
from hashlib import blake2b
from uuid import UUID

import msgspec

from ledger_worker.domain.values import JsonText

__all__ = [
    "BY_HAND",
    "ID_LENGTH_MAX",
    "ITEMS_MAX",
    "LEDGER",
    "REQUEST_PREFIX",
    "UNITS_MAX",
    "AssignmentExtended",
    "AssignmentFact",
    "AssignmentRenewed",
    "AssignmentRevoked",
    "ChargebackLost",
    "ChargebackOpened",
    "ChargebackWon",
    "CustomersMerged",
    "EntitlementAssigned",
    "Event",
    "Fact",
    "HoldConfirmed",
    "HoldFact",
    "HoldReleased",
    "HoldTaken",
    "OfSource",
    "OfferReached",
    "OrderFact",
    "OwnFact",
    "PurchaseCompleted",
    "PurchaseLine",
    "PurchaseRefunded",
    "PurchaseTransferred",
    "RefundLine",
    "RefundReversed",
    "SeatAssigned",
    "SeatFact",
    "SeatSwapped",
    "SeatUnassigned",
    "SeatsRevoked",
    "SourceFact",
    "SubscriptionActivated",
    "SubscriptionAddOnAdded",
    "SubscriptionAddOnRemoved",
    "SubscriptionCancellationScheduled",
    "SubscriptionCancellationWithdrawn",
    "SubscriptionCancelled",
    "SubscriptionExpired",
    "SubscriptionExtended",
    "SubscriptionFact",
    "SubscriptionItem",
    "SubscriptionPaused",
    "SubscriptionPaymentFailed",
    "SubscriptionPaymentRecovered",
    "SubscriptionPlanChanged",
    "SubscriptionQuantityChanged",
    "SubscriptionRenewed",
    "SubscriptionResumed",
    "SubscriptionRevoked",
    "SubscriptionTransferred",
    "SubscriptionTrialConverted",
    "SubscriptionTrialExpired",
    "SubscriptionTrialStarted",
    "TransitionsDue",
    "UsageRecorded",
    "UsageReversed",
    "content_hash",
    "customers_of",
    "event_key",
    "fact_bytes",
    "fact_of",
    "source_key",
]

ID_LENGTH_MAX = 200
"""Longest id, key or SKU in characters."""
ITEMS_MAX = 500
"""Most lines of an order or items of a subscription in one event."""
LEDGER, BY_HAND, REQUEST_PREFIX = "ledger", "by-hand", "request/"
"""Event sources that are the ledger's own: what falls due, what people do by hand, and before a caller's name."""
UNITS_MAX = 2**53
"""Largest units, quantity or amount in one event: sums of a thousand of them stay within 64 bits."""


class _Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Fields that equal their default are not in the canonical bytes: a new optional field changes no hash."""


class OfSource(_Value, frozen=True, kw_only=True):
    """The base of every `SourceFact`, by which one is told from other facts: a union is slow to ask for."""


class _OfOrder(OfSource, frozen=True, kw_only=True):
    pass


class _OfSubscription(OfSource, frozen=True, kw_only=True):
    pass


class _OfAssignment(OfSource, frozen=True, kw_only=True):
    pass


class PurchaseLine(_Value, frozen=True, kw_only=True):
    """One line of an order: `quantity` of one SKU.

    `amount` is the line's net total in minor units, for refunds by amount.
    """

    line_id: str
    sku: str
    quantity: int
    amount: int | None = None


class RefundLine(_Value, frozen=True, kw_only=True):
    """What one refund takes of one line: a quantity, or an amount in minor units, or (neither given) the whole line."""

    line_id: str
    quantity: int | None = None
    amount: int | None = None


class SubscriptionItem(_Value, frozen=True, kw_only=True):
    """One item of a subscription: `quantity` of one SKU under a stable id."""

    item_id: str
    sku: str
    quantity: int


class PurchaseCompleted(_OfOrder, frozen=True, kw_only=True, tag_field="type", tag="PurchaseCompleted"):
    """An order was paid. Business key: order + line."""

    order_id: str
    lines: tuple[PurchaseLine, ...]
    currency: str | None = None


class PurchaseRefunded(_OfOrder, frozen=True, kw_only=True, tag_field="type", tag="PurchaseRefunded"):
    """Money went back. Business key: refund id; absolute for that id.

    `lines` says what of which line; else `amount` is spread over what is not refunded yet; else the whole order.
    """

    order_id: str
    refund_id: str
    lines: tuple[RefundLine, ...] = ()
    amount: int | None = None


class RefundReversed(_OfOrder, frozen=True, kw_only=True, tag_field="type", tag="RefundReversed"):
    """A refund did not happen after all: all that it took comes back. Business key: reversal id."""

    order_id: str
    reversal_id: str
    refund_id: str


class ChargebackOpened(_OfOrder, frozen=True, kw_only=True, tag_field="type", tag="ChargebackOpened"):
    """The payment of an order is disputed: what it gave is suspended. Business key: dispute id."""

    order_id: str
    dispute_id: str


class ChargebackWon(_OfOrder, frozen=True, kw_only=True, tag_field="type", tag="ChargebackWon"):
    """The dispute ended for the shop, or was withdrawn: the suspension is lifted. Business key: dispute id."""

    order_id: str
    dispute_id: str


class ChargebackLost(_OfOrder, frozen=True, kw_only=True, tag_field="type", tag="ChargebackLost"):
    """The dispute ended for the customer: the money is gone, like by a refund. Business key: dispute id.

    `amount` in minor units when only a part of the order was disputed; else the whole.
    """

    order_id: str
    dispute_id: str
    amount: int | None = None


class PurchaseTransferred(_OfOrder, frozen=True, kw_only=True, tag_field="type", tag="PurchaseTransferred"):
    """The order belongs to another customer from the instant this stands at. Business key: transfer id."""

    order_id: str
    transfer_id: str
    to_customer_id: str


class SubscriptionTrialStarted(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionTrialStarted"
):
    """A trial began. Business key: item + trial start."""

    subscription_id: str
    items: tuple[SubscriptionItem, ...]
    trial_start: datetime
    trial_end: datetime


class SubscriptionTrialConverted(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionTrialConverted"
):
    """A trial became a paid subscription: its trial ends where the period starts. Business key: item + period start.

    `items`, when given, are all items of that period; when empty, those of the trial.
    """

    subscription_id: str
    period_start: datetime
    period_end: datetime
    items: tuple[SubscriptionItem, ...] = ()


class SubscriptionTrialExpired(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionTrialExpired"
):
    """The trial ended at `effective_at` and nothing follows. Business key: the trial of this subscription."""

    subscription_id: str
    effective_at: datetime


class SubscriptionActivated(_OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionActivated"):
    """A subscription began its first paid period (or a new life after an end). Business key: item + period start."""

    subscription_id: str
    items: tuple[SubscriptionItem, ...]
    period_start: datetime
    period_end: datetime


class SubscriptionRenewed(_OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionRenewed"):
    """A further period was paid. Business key: item + period start.

    `items`, when given, are all items of that period; when empty, those of the period before it as they then are.
    """

    subscription_id: str
    period_start: datetime
    period_end: datetime
    items: tuple[SubscriptionItem, ...] = ()


class SubscriptionPaymentFailed(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionPaymentFailed"
):
    """A payment that was due did not come. Business key: failure id; a retry that fails is a failure of its own."""

    subscription_id: str
    failure_id: str


class SubscriptionPaymentRecovered(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionPaymentRecovered"
):
    """What was due is paid: every failure that stands before this is resolved. Business key: recovery id."""

    subscription_id: str
    recovery_id: str


class SubscriptionPlanChanged(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionPlanChanged"
):
    """One item has another SKU from `effective_at`, now or at an instant to come. Business key: change id.

    `quantity` None keeps the quantity. `period_end` is given exactly when the billing anchor restarts: then a new
    period `[effective_at, period_end)` of that item begins. `keep_schedule` leaves changes scheduled before it as they
    are.
    """

    subscription_id: str
    change_id: str
    item_id: str
    sku: str
    effective_at: datetime
    quantity: int | None = None
    period_end: datetime | None = None
    keep_schedule: bool = False


class SubscriptionQuantityChanged(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionQuantityChanged"
):
    """One item has another quantity (the whole of it, no difference) from `effective_at`. Business key: change id."""

    subscription_id: str
    change_id: str
    item_id: str
    quantity: int
    effective_at: datetime
    keep_schedule: bool = False


class SubscriptionAddOnAdded(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionAddOnAdded"
):
    """An item joins the subscription at `effective_at`, within a running period. Business key: change id."""

    subscription_id: str
    change_id: str
    item: SubscriptionItem
    effective_at: datetime


class SubscriptionAddOnRemoved(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionAddOnRemoved"
):
    """An item leaves the subscription at `effective_at`. Business key: change id."""

    subscription_id: str
    change_id: str
    item_id: str
    effective_at: datetime


class SubscriptionPaused(_OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionPaused"):
    """The subscription rests from `effective_at`. Business key: pause id."""

    subscription_id: str
    pause_id: str
    effective_at: datetime


class SubscriptionResumed(_OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionResumed"):
    """The pause of that id is over at `effective_at`. Business key: pause id."""

    subscription_id: str
    pause_id: str
    effective_at: datetime


class SubscriptionCancellationScheduled(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionCancellationScheduled"
):
    """The subscription will end at `effective_at`. Business key: cancellation id."""

    subscription_id: str
    cancellation_id: str
    effective_at: datetime


class SubscriptionCancellationWithdrawn(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionCancellationWithdrawn"
):
    """The cancellation of that id does not happen. Business key: cancellation id."""

    subscription_id: str
    cancellation_id: str


class SubscriptionCancelled(_OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionCancelled"):
    """The subscription ends at `effective_at`. Business key: cancellation id."""

    subscription_id: str
    cancellation_id: str
    effective_at: datetime


class SubscriptionExpired(_OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionExpired"):
    """The subscription ended at `effective_at` because nobody renewed it. Business key: expiry id."""

    subscription_id: str
    expiry_id: str
    effective_at: datetime


class SubscriptionRevoked(_OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionRevoked"):
    """The store took the subscription back at `effective_at`, with everything it gave. Business key: revocation id."""

    subscription_id: str
    revocation_id: str
    effective_at: datetime


class SubscriptionExtended(_OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionExtended"):
    """The period that starts last before `new_period_end` ends no sooner than then. Business key: extension id."""

    subscription_id: str
    extension_id: str
    new_period_end: datetime


class SubscriptionTransferred(
    _OfSubscription, frozen=True, kw_only=True, tag_field="type", tag="SubscriptionTransferred"
):
    """The subscription belongs to another customer from the instant this stands at. Business key: transfer id."""

    subscription_id: str
    transfer_id: str
    to_customer_id: str


class EntitlementAssigned(_OfAssignment, frozen=True, kw_only=True, tag_field="type", tag="EntitlementAssigned"):
    """A person gave an entitlement by hand. Business key: assignment id.

    `units` None is access, a setting or an unlimited quota; `expires_at` None is for ever. `value` is what a setting
    is given, JSON text in canonical form (`values`).
    """

    assignment_id: str
    entitlement: str
    effective_at: datetime
    actor: str
    note: str
    units: int | None = None
    expires_at: datetime | None = None
    priority: int = 100
    value: JsonText | None = None


class AssignmentRenewed(_OfAssignment, frozen=True, kw_only=True, tag_field="type", tag="AssignmentRenewed"):
    """A person gave it once more, for a further time. Business key: assignment + effective_at.

    `units` None gives as many as the assignment did, `value` None the same value.
    """

    assignment_id: str
    effective_at: datetime
    actor: str
    note: str
    expires_at: datetime | None = None
    units: int | None = None
    value: JsonText | None = None


class AssignmentExtended(_OfAssignment, frozen=True, kw_only=True, tag_field="type", tag="AssignmentExtended"):
    """What begins last before `new_expires_at` ends no sooner than then. Business key: extension id."""

    assignment_id: str
    extension_id: str
    new_expires_at: datetime
    actor: str
    note: str


class AssignmentRevoked(_OfAssignment, frozen=True, kw_only=True, tag_field="type", tag="AssignmentRevoked"):
    """A person took it back at `effective_at`, with every renewal. Business key: revocation id."""

    assignment_id: str
    revocation_id: str
    effective_at: datetime
    actor: str
    note: str


class CustomersMerged(_Value, frozen=True, kw_only=True, tag_field="type", tag="CustomersMerged"):
    """The customer of the event is the same person as another and goes on under that id from the event's instant."""

    merge_id: str
    into_customer_id: str


class UsageRecorded(_Value, frozen=True, kw_only=True, tag_field="type", tag="UsageRecorded"):
    """A service used units of an entitlement at `occurred_at`. No key but its event id."""

    entitlement: str
    units: int
    resource: str | None = None


class UsageReversed(_Value, frozen=True, kw_only=True, tag_field="type", tag="UsageReversed"):
    """Of a usage told before, `units` were not used after all (None: all of it). Business key: reversal id.

    The usage is named by its event: `usage_event_source` (None: the source of this event) and `usage_event_id`.
    """

    entitlement: str
    reversal_id: str
    usage_event_id: str
    usage_event_source: str | None = None
    units: int | None = None


class HoldTaken(_Value, frozen=True, kw_only=True, tag_field="type", tag="HoldTaken"):
    """A request was granted: `units` are reserved up to `expires_at`, unless it is confirmed or released before.

    Never on a topic, like what becomes of it: a decision of the ledger.
    """

    entitlement: str
    units: int
    expires_at: datetime


class HoldConfirmed(_Value, frozen=True, kw_only=True, tag_field="type", tag="HoldConfirmed"):
    """Of the hold that was taken under that event id `units` are used; the rest is released. It is over."""

    entitlement: str
    hold_event_id: str
    units: int


class HoldReleased(_Value, frozen=True, kw_only=True, tag_field="type", tag="HoldReleased"):
    """The hold that was taken under that event id was given up before it expired. It is over."""

    entitlement: str
    hold_event_id: str


class SeatAssigned(_Value, frozen=True, kw_only=True, tag_field="type", tag="SeatAssigned"):
    """A request was granted: the holder has a seat. Never on a topic, like the other facts about seats."""

    entitlement: str
    holder: str


class SeatUnassigned(_Value, frozen=True, kw_only=True, tag_field="type", tag="SeatUnassigned"):
    """A request was granted: the holder has given the seat back."""

    entitlement: str
    holder: str


class SeatSwapped(_Value, frozen=True, kw_only=True, tag_field="type", tag="SeatSwapped"):
    """A request was granted: the seat of `holder`, with its place in their order, is that of `to`."""

    entitlement: str
    holder: str
    to: str


class SeatsRevoked(_Value, frozen=True, kw_only=True, tag_field="type", tag="SeatsRevoked"):
    """The ledger's own event: fewer seats are there than holders, and the newest of these have none any more.

    Built under the customer's lock, right behind what took the seats. `holders` are in the order of their taking.
    """

    entitlement: str
    holders: tuple[str, ...]


class TransitionsDue(_Value, frozen=True, kw_only=True, tag_field="type", tag="TransitionsDue"):
    """The ledger's own event: an instant that the books already knew of has come, of a grant or of a hold.

    Never on a topic: built under the customer's lock by whoever finds it due. `instant` is the true one. `hold_key` is
    the inbox key of the hold's taking.
    """

    entitlement: str
    instant: datetime
    kind: str
    grant_id: UUID | None = None
    hold_key: UUID | None = None


class OfferReached(_Value, frozen=True, kw_only=True, tag_field="type", tag="OfferReached"):
    """The ledger's own event: a published version of an offer reaches a source that named its SKU before.

    Never on a topic: built by publishing, one for each source, so that the difference is booked without a new fact.
    """

    source_key: str
    catalogue_version: int


OrderFact = (
    PurchaseCompleted
    | PurchaseRefunded
    | RefundReversed
    | ChargebackOpened
    | ChargebackWon
    | ChargebackLost
    | PurchaseTransferred
)
SubscriptionFact = (
    SubscriptionTrialStarted
    | SubscriptionTrialConverted
    | SubscriptionTrialExpired
    | SubscriptionActivated
    | SubscriptionRenewed
    | SubscriptionPaymentFailed
    | SubscriptionPaymentRecovered
    | SubscriptionPlanChanged
    | SubscriptionQuantityChanged
    | SubscriptionAddOnAdded
    | SubscriptionAddOnRemoved
    | SubscriptionPaused
    | SubscriptionResumed
    | SubscriptionCancellationScheduled
    | SubscriptionCancellationWithdrawn
    | SubscriptionCancelled
    | SubscriptionExpired
    | SubscriptionRevoked
    | SubscriptionExtended
    | SubscriptionTransferred
)
AssignmentFact = EntitlementAssigned | AssignmentRenewed | AssignmentExtended | AssignmentRevoked
"""What a person does by hand; told through `apply`, never on a topic."""
SourceFact = OrderFact | SubscriptionFact | AssignmentFact
OwnFact = TransitionsDue | OfferReached | SeatsRevoked
"""What the ledger tells itself."""
HoldFact = HoldTaken | HoldConfirmed | HoldReleased
"""What was decided of requests to reserve units; what was granted to be used at once is usage."""
SeatFact = SeatAssigned | SeatUnassigned | SeatSwapped | SeatsRevoked
"""What was decided of who holds a seat."""
Fact = SourceFact | CustomersMerged | UsageRecorded | UsageReversed | HoldFact | SeatFact | OwnFact


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A fact and who tells it: the id is unique within `event_source`; `customer_id` is the customer as sent.

    `source_version`, where Commerce has one, orders the facts of one order or subscription.
    """

    event_source: str
    event_id: str
    customer_id: str
    occurred_at: datetime
    fact: Fact
    source_version: int | None = None


_FACT_ENCODER = msgspec.msgpack.Encoder(order="sorted")
_FACT_DECODER: msgspec.msgpack.Decoder[Fact] = msgspec.msgpack.Decoder(Fact)


def fact_bytes(fact: Fact) -> bytes:
    """The canonical bytes of a fact: fields by name, sorted, defaults left out. They are what the inbox stores."""
    return _FACT_ENCODER.encode(fact)


def fact_of(payload: bytes) -> Fact:
    """The fact that `fact_bytes` wrote. Raises msgspec.DecodeError for anything else."""
    return _FACT_DECODER.decode(payload)


def content_hash(event: Event, fact_payload: bytes) -> bytes:
    """Sixteen bytes that differ when the content does; `fact_payload` is `fact_bytes(event.fact)`.

    Covers the fact, `occurred_at` and `source_version`; never the customer id, headers, framing or schema version.
    """
    return blake2b(
        _FACT_ENCODER.encode((event.occurred_at, event.source_version, fact_payload)), digest_size=16
    ).digest()


def customers_of(event: Event) -> tuple[str, ...]:
    """The customers that an event names, the one it is told of first."""
    fact = event.fact
    if isinstance(fact, PurchaseTransferred | SubscriptionTransferred):
        return (event.customer_id, fact.to_customer_id)
    if isinstance(fact, CustomersMerged):
        return (event.customer_id, fact.into_customer_id)
    return (event.customer_id,)


def event_key(event_source: str, event_id: str) -> UUID:
    """The inbox key of an event within its customer: 16 bytes of source system and event id, nothing else."""
    return UUID(bytes=blake2b(f"{event_source}\0{event_id}".encode(), digest_size=16).digest())


def source_key(fact: SourceFact) -> str:
    """The name of the source a fact speaks of: `order/ID`, `subscription/ID` or `assignment/ID`."""
    if isinstance(fact, _OfOrder):
        return f"order/{fact.order_id}"
    if isinstance(fact, _OfSubscription):
        return f"subscription/{fact.subscription_id}"
    return f"assignment/{fact.assignment_id}"
