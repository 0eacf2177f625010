"""The facts of a source in their true order, and what of them stands once the same thing was told more than once."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from ledger_worker.domain.events import (
    AssignmentExtended,
    AssignmentFact,
    AssignmentRenewed,
    AssignmentRevoked,
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    EntitlementAssigned,
    Event,
    Fact,
    OrderFact,
    PurchaseCompleted,
    PurchaseRefunded,
    PurchaseTransferred,
    RefundReversed,
    SubscriptionActivated,
    SubscriptionAddOnAdded,
    SubscriptionAddOnRemoved,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionExtended,
    SubscriptionFact,
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

K = TypeVar("K")
T = TypeVar("T")


class Standing(NamedTuple):
    """An event and the instant at which it stands in its source."""

    at: datetime
    event: Event


class Kept(NamedTuple, Generic[K, T]):
    """What was last told of one thing, and where that was first told so."""

    key: K
    content: T
    place: int
    at: datetime


def source_of(fact: Fact) -> str | None:
    """The source that a fact is about; None for usage, merges and what the ledger tells itself."""
    if isinstance(fact, OrderFact):
        return f"order/{fact.order_id}"
    if isinstance(fact, SubscriptionFact):
        return f"subscription/{fact.subscription_id}"
    return f"assignment/{fact.assignment_id}" if isinstance(fact, AssignmentFact) else None


def in_true_order(events: Iterable[Event]) -> list[Standing]:
    """Order of facts 1 and 2: by version, at the latest instant so far; the others in between, after versioned ones."""
    own = sorted(events, key=lambda event: (event.occurred_at, kind(event.fact), event.event_source, event.event_id))
    versioned = sorted(
        (event for event in own if event.source_version is not None), key=lambda event: event.source_version or 0
    )
    standing = [
        (max(earlier.occurred_at for earlier in versioned[: place + 1]), 0, place, event)
        for place, event in enumerate(versioned)
    ]
    rest = [event for event in own if event.source_version is None]
    standing += [(event.occurred_at, 1, place, event) for place, event in enumerate(rest)]
    return [Standing(at, event) for at, _, _, event in sorted(standing, key=lambda one: one[:3])]


KINDS: tuple[tuple[type[Fact], ...], ...] = (
    (  # begin
        PurchaseCompleted,
        SubscriptionTrialStarted,
        SubscriptionTrialConverted,
        SubscriptionActivated,
        SubscriptionRenewed,
        EntitlementAssigned,
        AssignmentRenewed,
    ),
    (  # change
        SubscriptionPlanChanged,
        SubscriptionQuantityChanged,
        SubscriptionAddOnAdded,
        SubscriptionAddOnRemoved,
        SubscriptionCancellationScheduled,
        SubscriptionExtended,
        AssignmentExtended,
        PurchaseTransferred,
        SubscriptionTransferred,
    ),
    (ChargebackOpened, SubscriptionPaymentFailed, SubscriptionPaused),  # suspend
    (  # lift
        ChargebackWon,
        SubscriptionPaymentRecovered,
        SubscriptionResumed,
        RefundReversed,
        SubscriptionCancellationWithdrawn,
    ),
    (PurchaseRefunded, ChargebackLost),  # cut
    (  # end
        SubscriptionTrialExpired,
        SubscriptionCancelled,
        SubscriptionExpired,
        SubscriptionRevoked,
        AssignmentRevoked,
    ),
)


def kind(fact: Fact) -> int:
    """Order of facts 3: begin, change, suspend, lift, cut, end."""
    return next(number for number, kinds in enumerate(KINDS) if isinstance(fact, kinds))


def kept(told: Sequence[Standing], read: Callable[[Fact], Iterable[tuple[K, T]]]) -> list[Kept[K, T]]:
    """Business keys: of each key what was told last, where it was first told as it last is. In order of place.

    `read` gives the keys that a fact speaks of, each with what it says.
    """
    last: dict[K, Kept[K, T]] = {}
    for place, (at, event) in enumerate(told):
        for key, content in read(event.fact):
            if key not in last or last[key].content != content:
                last[key] = Kept(key, content, place, at)
    return sorted(last.values(), key=lambda one: one.place)
