"""One customer while its life is made up, and one source of it: an order or a subscription.

The chance is the customer's own, so that customers do not depend on each other. A source's facts may be thought of in
any order and reach beyond the present; when the source is closed they get their order, versions and ids, and what would
come after now is left out.
"""

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from datetime import datetime, timedelta
from operator import itemgetter

import msgspec

from ledger_worker.domain.events import (
    ChargebackLost,
    ChargebackWon,
    Event,
    Fact,
    PurchaseCompleted,
    PurchaseTransferred,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionCancelled,
    SubscriptionTransferred,
)

__all__ = ["DAY", "HOUR", "LIFE_DAYS_MAX", "Happening", "Life", "Source", "Used", "between"]

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
LIFE_DAYS_MAX = 88
"""How far back lives begin."""

_SHOP, _PAYMENTS = "shop", "payments"
_BEHIND_SHARE = 0.04
"""The share of versioned facts that a clock which is behind has dated before the fact they follow."""


class Happening(msgspec.Struct, frozen=True):
    """An event of a life.

    `is_plain` when whoever tells it once more under another id, with the same content, certainly tells nothing new: its
    business key is never told otherwise, and nobody but one customer tells of its source.
    """

    event: Event
    is_plain: bool


class Used(msgspec.Struct, frozen=True):
    """Something of which about `units` at a time are used over `[since, until)`."""

    entitlement: str
    units: int
    since: datetime
    until: datetime


class Life(msgspec.Struct):
    """What one customer did. `partner_id` is whoever may get something of it; `merged_at` when it became an alias."""

    customer_id: str
    number: str
    chance: random.Random
    joined_at: datetime
    now: datetime
    partner_id: str
    merged_at: datetime | None = None
    happenings: list[Happening] = []
    used: list[Used] = []
    sources: int = 0

    def next_number(self) -> str:
        """Names one more source of this customer."""
        self.sources += 1
        return f"{self.number}-{self.sources}"


class Source:
    """An order or a subscription while it is made up."""

    def __init__(self, life: Life, name: str) -> None:
        self._life = life
        self._name = name
        self._facts: list[tuple[datetime, Fact]] = []
        self._handed_over_at: datetime | None = None

    def tell(self, at: datetime, fact: Fact) -> None:
        """The shop says this at that instant, if that comes before now."""
        self._facts.append((at, fact))

    def hand_over(self, at: datetime, fact: PurchaseTransferred | SubscriptionTransferred) -> None:
        """The source is the receiver's from then on; one shop in two also tells what follows under the receiver."""
        self.tell(at, fact)
        if self._life.chance.random() < 0.5:  # noqa: PLR2004 - a half
            self._handed_over_at = at

    def close(self) -> None:
        """The facts are events of the life."""
        life, chance = self._life, self._life.chance
        told = sorted((fact for fact in self._facts if fact[0] <= life.now), key=itemgetter(0))
        tellings = Counter(_key(fact) for _, fact in told)
        has_two_tellers = self._handed_over_at is not None and any(at > self._handed_over_at for at, _ in told)
        versioned_share = chance.choices((1, 0, 0.8), (45, 40, 15))[0]
        for number, (at, fact) in enumerate(told, start=1):
            has_version = chance.random() < versioned_share
            is_behind = has_version and number > 1 and chance.random() < _BEHIND_SHARE
            is_handed_over = self._handed_over_at is not None and at > self._handed_over_at
            event = Event(
                event_source=_SHOP if has_version or not versioned_share else _PAYMENTS,
                event_id=f"{self._name}-{number}",
                customer_id=life.partner_id if is_handed_over else life.customer_id,
                occurred_at=at - chance.random() * HOUR if is_behind else at,
                fact=fact,
                source_version=number if has_version else None,
            )
            is_plain = not has_two_tellers and tellings[_key(fact)] == 1
            life.happenings.append(Happening(event, is_plain=is_plain))


def between(chance: random.Random, start: datetime, end: datetime, shares: Sequence[float] = (0.05, 0.6)) -> datetime:
    """An instant between the two, at one of these shares of the time."""
    return start + chance.uniform(*shares) * (end - start)


def _key(fact: Fact) -> Hashable:
    """The business key of a fact whose key can be told otherwise; any other fact is its own."""
    match fact:
        case PurchaseCompleted():
            return ("lines",)
        case ChargebackWon() | ChargebackLost():
            return ("closed", fact.dispute_id)
        case SubscriptionCancellationScheduled() | SubscriptionCancelled() | SubscriptionCancellationWithdrawn():
            return ("cancellation", fact.cancellation_id)
        case _:
            return fact
