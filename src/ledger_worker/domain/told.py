"""The facts of one source in their true order, and what they say last of each thing they speak of.

Of an order, a subscription or an assignment alike. What the facts mean for grants is in the files named after these.
"""

from collections.abc import Hashable, Iterable
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from ledger_worker.domain.events import (
    AssignmentExtended,
    AssignmentRenewed,
    AssignmentRevoked,
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    EntitlementAssigned,
    PurchaseCompleted,
    PurchaseRefunded,
    PurchaseTransferred,
    RefundReversed,
    SourceFact,
    SubscriptionActivated,
    SubscriptionAddOnAdded,
    SubscriptionAddOnRemoved,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionExtended,
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

__all__ = ["Latest", "PlacedFact", "RecordedFact", "Told", "in_order"]


class RecordedFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fact of a source as it was told, with what orders it.

    `customer_id` is whom it was told of, empty where that is the customer of whom the source was first told.
    """

    event_source: str
    event_id: str
    occurred_at: datetime
    fact: SourceFact
    source_version: int | None = None
    customer_id: str = ""


PlacedFact = tuple[datetime, RecordedFact]
"""A fact and the instant it stands at; its place is its index among the facts of its source."""


def in_order(facts: Iterable[RecordedFact]) -> tuple[PlacedFact, ...]:
    """Facts in their true order, each with the instant it stands at.

    Facts with a version go by version and stand at the running maximum of `occurred_at`; facts without are inserted by
    `occurred_at`, after a versioned one of the same instant. The same for any order of `facts`.
    """
    placed: list[tuple[tuple[datetime, bool, int, datetime, int, str, str], RecordedFact]] = []
    running: datetime | None = None
    for fact in sorted(facts, key=_version_order):
        if fact.source_version is None:
            stands_at = fact.occurred_at
        else:
            running = fact.occurred_at if running is None else max(running, fact.occurred_at)
            stands_at = running
        unversioned = fact.source_version is None
        order = (stands_at, unversioned, fact.source_version or 0, fact.occurred_at, _RANK[type(fact.fact)])
        placed.append(((*order, fact.event_source, fact.event_id), fact))
    placed.sort(key=lambda pair: pair[0])
    return tuple((order[0], fact) for order, fact in placed)


_Key = TypeVar("_Key", bound=Hashable)
_Content = TypeVar("_Content")


class Told(msgspec.Struct, Generic[_Content], frozen=True):
    """What is said last of one thing: the place and the instant where that was first told as it last is."""

    place: int
    at: datetime
    content: _Content


class Latest(dict[_Key, Told[_Content]]):
    """Business keys, each with what is said last of it, in the order of their places."""

    def tell(self, key: _Key, place: int, at: datetime, content: _Content) -> None:
        """The key has this content; saying the same again moves nothing, saying otherwise moves it here."""
        known = self.get(key)
        if known is None or known.content != content:
            self.pop(key, None)
            self[key] = Told(place, at, content)


_BEGIN, _CHANGE, _SUSPEND, _LIFT, _CUT, _END = range(6)
_RANK: dict[type[SourceFact], int] = {
    PurchaseCompleted: _BEGIN,
    SubscriptionTrialStarted: _BEGIN,
    SubscriptionTrialConverted: _BEGIN,
    SubscriptionActivated: _BEGIN,
    SubscriptionRenewed: _BEGIN,
    EntitlementAssigned: _BEGIN,
    AssignmentRenewed: _BEGIN,
    SubscriptionPlanChanged: _CHANGE,
    SubscriptionQuantityChanged: _CHANGE,
    SubscriptionAddOnAdded: _CHANGE,
    SubscriptionAddOnRemoved: _CHANGE,
    SubscriptionCancellationScheduled: _CHANGE,
    SubscriptionExtended: _CHANGE,
    AssignmentExtended: _CHANGE,
    PurchaseTransferred: _CHANGE,
    SubscriptionTransferred: _CHANGE,
    ChargebackOpened: _SUSPEND,
    SubscriptionPaymentFailed: _SUSPEND,
    SubscriptionPaused: _SUSPEND,
    ChargebackWon: _LIFT,
    SubscriptionPaymentRecovered: _LIFT,
    SubscriptionResumed: _LIFT,
    RefundReversed: _LIFT,
    SubscriptionCancellationWithdrawn: _LIFT,
    PurchaseRefunded: _CUT,
    ChargebackLost: _CUT,
    SubscriptionTrialExpired: _END,
    SubscriptionCancelled: _END,
    SubscriptionExpired: _END,
    SubscriptionRevoked: _END,
    AssignmentRevoked: _END,
}
"""The kind's place among facts of one instant."""


def _version_order(fact: RecordedFact) -> tuple[bool, int, datetime, int, str, str]:
    return (
        fact.source_version is None,
        fact.source_version or 0,
        fact.occurred_at,
        _RANK[type(fact.fact)],
        fact.event_source,
        fact.event_id,
    )
