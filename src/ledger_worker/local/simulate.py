"""A shop's customers, made up from a seed: what they do, and how badly it is told.

Pure: the same seed and instant give the same records, byte for byte. First each customer's life is made (plans,
renewals, packs, refunds, cancellations, usage). Then it is told as Commerce and services tell things: late, in another
order, twice under one id, again under a new id, once with other content, for a product nobody has defined; and among it
records that nobody can apply. What a ledger must make of all that follows from how it was made, and is returned beside
the records: `Truth`.

What cannot be known beforehand is what arrives first where two topics race; nothing in `Truth` depends on it.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

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
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from ledger_worker.wire.encode import encode_event, family_of
from ledger_worker.wire.headers import Header, event_headers
from ledger_worker.wire.schemas import TopicFamily

__all__ = ["CATALOGUE_FILE", "CUSTOMERS_MAX", "SimulatedRecord", "Simulation", "Truth", "simulate"]

CATALOGUE_FILE = Path(__file__).with_name("demo-catalogue.toml")
"""What the customers buy: it has to be published before their records are read."""
CUSTOMERS_MAX = 1_000_000
"""Most customers of one simulation; all its records are kept in memory, about a kilobyte for each event."""


class SimulatedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record as it is to be sent, to the topic of its family."""

    family: TopicFamily
    key: str
    value: bytes
    headers: tuple[Header, ...] = ()


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What a ledger that has read every record must hold.

    `events` are well-formed and distinct: each takes one row of the inbox. `outcomes` are the counts that no race can
    change. `usage` are units by customer and entitlement. `example` is a customer with a life worth explaining.
    """

    records: int
    events: int
    duplicates: int
    outcomes: Mapping[str, int]
    dead_letters: Mapping[str, int]
    usage: Mapping[tuple[str, str], int]
    example: str


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """What was made up: the records in the order of sending, and the truth about them."""

    records: tuple[SimulatedRecord, ...]
    truth: Truth


def simulate(*, customers: int, seed: int, now: datetime) -> Simulation:
    """The lives of `customers` customers over the last ninety days before `now`, about 12 records each."""
    teller = _Teller(seed, now)
    for number in range(customers):
        teller.tell_life(f"customer-{number:06}", number)
    teller.tell_what_cannot_be_applied(customers)
    return teller.told()


_SHOP, _METERS = "shop", "meters"
_DAY, _HOUR, _SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)
_PERIOD = 30 * _DAY
_LIFE_DAYS_MAX = 88
_NEW_CUSTOMERS, _NEW_DAYS = 0.7, 3
"""The share of customers that came within the last days: they have not seen the end of a period."""
_USED_BY_PLAN = {
    "starter-monthly": (("api-calls", 160),),
    "team-monthly": (("api-calls", 700), ("exports", 9), ("render-minutes", 24)),
}
_USED_BY_PACK = {
    "api-calls-500": ("api-calls", 90),
    "exports-20": ("exports", 6),
    "render-100": ("render-minutes", 30),
    "video-pass": None,
}
"""What is used of each product, and about how many units at a time."""
_PRICES = {"api-calls-500": 1900, "exports-20": 990, "render-100": 2900, "video-pass": 490}
_UNKNOWN_SKU = "gift-box-2019"

_SHARES = {
    "sent_twice": 0.02,
    "told_again": 0.008,
    "contradicted": 0.002,
}
_POISON_PER_THOUSAND_CUSTOMERS = 3
"""Records of each kind that cannot be applied, for each thousand customers and at least one."""
_STOLEN_PER_THOUSAND_CUSTOMERS = 2
"""Orders that are told for two customers: one of them waits for a transfer that nobody tells."""


class _Life(msgspec.Struct):
    """One customer while its life is made up: the chance is its own, so that customers do not depend on each other."""

    customer_id: str
    number: str
    chance: random.Random
    joined_at: datetime
    now: datetime
    has_versions: bool
    events: list[Event] = []
    used: list[tuple[str, int]] = []


class _Teller:
    """Everything told so far, each record with the instant at which it is sent."""

    def __init__(self, seed: int, now: datetime) -> None:
        self._seed = seed
        self._now = now
        self._chance = random.Random(f"{seed}/telling")  # noqa: S311 - made-up customers keep no secrets
        self._sent: list[tuple[datetime, int, SimulatedRecord]] = []
        self._events = 0
        self._duplicates = 0
        self._outcomes: Counter[str] = Counter()
        self._dead_letters: Counter[str] = Counter()
        self._usage: Counter[tuple[str, str]] = Counter()
        self._richest: tuple[int, str] = (0, "")

    def tell_life(self, customer_id: str, number: int) -> None:
        """A customer's life is told, with all that goes wrong in telling."""
        life = _make_life(customer_id, self._seed, number, self._now)
        for event in life.events:
            self._tell_event(event)
        kinds = {type(event.fact).__name__ for event in life.events}
        richness = 100 * len(kinds) + len(life.events)
        if richness > self._richest[0]:
            self._richest = (richness, customer_id)

    def tell_what_cannot_be_applied(self, customers: int) -> None:
        """Records that must become dead letters, each for its own reason, and orders that two customers claim."""
        for number in range(max(1, customers * _POISON_PER_THOUSAND_CUSTOMERS // 1000)):
            customer_id = f"customer-{self._chance.randrange(customers):06}"
            for reason, record in _poison(self._chance, customer_id, number, self._now):
                self._dead_letters[reason.value] += 1
                self._send(self._now - self._chance.random() * _LIFE_DAYS_MAX * _DAY, record)
        for number in range(max(1, customers * _STOLEN_PER_THOUSAND_CUSTOMERS // 1000)):
            self._tell_claimed_order(number)

    def told(self) -> Simulation:
        """The records in the order of sending, and the truth about them."""
        self._sent.sort(key=lambda sent: sent[:2])
        return Simulation(
            records=tuple(record for _, _, record in self._sent),
            truth=Truth(
                records=len(self._sent),
                events=self._events,
                duplicates=self._duplicates,
                outcomes=dict(self._outcomes),
                dead_letters=dict(self._dead_letters),
                usage=dict(self._usage),
                example=self._richest[1],
            ),
        )

    def _tell_event(self, event: Event) -> None:
        sent_at = event.occurred_at + _delay(self._chance)
        self._send(sent_at, _record(event))
        self._count(event)
        drawn = self._chance.random()
        if drawn < _SHARES["sent_twice"]:
            self._duplicates += 1
            self._send(event.occurred_at + _delay(self._chance), _record(event))
        elif drawn < _SHARES["sent_twice"] + _SHARES["told_again"] and _is_retold(event):
            again = msgspec.structs.replace(event, event_id=f"{event.event_id}-again")
            self._outcomes[Outcome.DUPLICATE_FACT.value] += 1
            self._events += 1
            self._send(event.occurred_at + _delay(self._chance), _record(again))
        elif isinstance(event.fact, UsageRecorded) and drawn > 1 - _SHARES["contradicted"]:
            other = msgspec.structs.replace(event.fact, units=event.fact.units + 1)
            self._dead_letters[DeadLetterReason.CONFLICTING_CONTENT.value] += 1
            self._send(sent_at + _SECOND, _record(msgspec.structs.replace(event, fact=other)))

    def _tell_claimed_order(self, number: int) -> None:
        """One order told for two customers of its own: the one whose telling is applied first has it."""
        at = self._now - self._chance.random() * _LIFE_DAYS_MAX * _DAY
        lines = (PurchaseLine(line_id="1", sku="video-pass", quantity=1, amount=_PRICES["video-pass"]),)
        for claimant in ("first", "second"):
            event = Event(
                event_source=_SHOP,
                event_id=f"claimed-{number}-{claimant}",
                customer_id=f"claimant-{number:04}-{claimant}",
                occurred_at=at,
                fact=PurchaseCompleted(order_id=f"claimed-{number}", lines=lines, currency="EUR"),
            )
            self._events += 1
            self._send(at + _delay(self._chance), _record(event))
        self._outcomes[Outcome.AWAITING_TRANSFER.value] += 1

    def _count(self, event: Event) -> None:
        self._events += 1
        fact = event.fact
        if isinstance(fact, UsageRecorded):
            self._usage[event.customer_id, fact.entitlement] += fact.units
        elif isinstance(fact, PurchaseCompleted) and any(line.sku == _UNKNOWN_SKU for line in fact.lines):
            self._outcomes[Outcome.NO_OFFER.value] += 1

    def _send(self, at: datetime, record: SimulatedRecord) -> None:
        self._sent.append((at, len(self._sent), record))


def _is_retold(event: Event) -> bool:
    """Whether Commerce may tell it again under a new id; a product without an offer has an outcome of its own."""
    fact = event.fact
    if isinstance(fact, PurchaseCompleted):
        return all(line.sku != _UNKNOWN_SKU for line in fact.lines)
    return isinstance(fact, SourceFact)


def _delay(chance: random.Random) -> timedelta:
    """How late a record is sent: most at once, some by minutes or hours, few by weeks."""
    return chance.random() * chance.choices((_SECOND, _HOUR, _DAY, 20 * _DAY), (75, 15, 8, 2))[0]


def _record(event: Event) -> SimulatedRecord:
    return SimulatedRecord(
        family=family_of(event),
        key=event.customer_id,
        value=encode_event(event),
        headers=tuple(event_headers(event)),
    )


# -- lives --


def _make_life(customer_id: str, seed: int, number: int, now: datetime) -> _Life:
    """What one customer did, in no order yet but that of making it up."""
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - as above
    days = _NEW_DAYS if chance.random() < _NEW_CUSTOMERS else _LIFE_DAYS_MAX
    life = _Life(
        customer_id=customer_id,
        number=f"{number:06}",
        chance=chance,
        joined_at=now - chance.uniform(0.1, 1) * days * _DAY,
        now=now,
        has_versions=chance.random() < 0.5,  # noqa: PLR2004 - a half
    )
    if chance.random() < 0.65:  # noqa: PLR2004 - two in three subscribe
        _subscribe(life)
    for place in range(chance.choices((0, 1, 2, 3), (25, 35, 25, 15))[0]):
        _buy(life, place)
    _use(life)
    return life


def _subscribe(life: _Life) -> None:
    chance = life.chance
    sku = chance.choice(tuple(_USED_BY_PLAN))
    subscription_id = life.number
    item = SubscriptionItem(item_id="plan", sku=sku, quantity=chance.choice((1, 1, 1, 2, 3)))
    life.used += _USED_BY_PLAN[sku]
    start = life.joined_at
    cancelled_at = None
    if chance.random() < 0.1:  # noqa: PLR2004 - one in ten gives up
        cancelled_at = start + chance.random() * (life.now - start)
    version = 0
    while start < life.now and (cancelled_at is None or start < cancelled_at):
        version += 1
        end = start + _PERIOD
        fact: Fact = SubscriptionRenewed(subscription_id=subscription_id, period_start=start, period_end=end)
        if version == 1:
            fact = SubscriptionActivated(
                subscription_id=subscription_id, items=(item,), period_start=start, period_end=end
            )
        _tell(life, _SHOP, f"subscription-{subscription_id}-{version}", start, fact, version)
        start = end
    if cancelled_at is not None:
        fact = SubscriptionCancelled(
            subscription_id=subscription_id, cancellation_id=f"end-{subscription_id}", effective_at=cancelled_at
        )
        _tell(life, _SHOP, f"subscription-{subscription_id}-{version + 1}", cancelled_at, fact, version + 1)


def _buy(life: _Life, place: int) -> None:
    chance = life.chance
    order_id = f"{life.number}-{place}"
    skus = chance.sample(tuple(_USED_BY_PACK), chance.choice((1, 1, 1, 2)))
    lines = []
    for number, sku in enumerate(skus, start=1):
        quantity = chance.choice((1, 1, 2, 3))
        amount = quantity * _PRICES[sku]
        lines.append(PurchaseLine(line_id=str(number), sku=sku, quantity=quantity, amount=amount))
        used = _USED_BY_PACK[sku]
        if used is not None:
            life.used.append(used)
    if chance.random() < 0.02:  # noqa: PLR2004 - one order in fifty
        lines.append(PurchaseLine(line_id="gift", sku=_UNKNOWN_SKU, quantity=1, amount=500))
    bought_at = life.joined_at + chance.random() * (life.now - life.joined_at)
    bought = PurchaseCompleted(order_id=order_id, lines=tuple(lines), currency="EUR")
    _tell(life, _SHOP, f"order-{order_id}", bought_at, bought, 1)
    if chance.random() < 0.12:  # noqa: PLR2004 - one order in eight comes back
        refunded_at = bought_at + chance.random() * (life.now - bought_at)
        refund = _refund(chance, order_id, lines)
        _tell(life, _SHOP, f"refund-{order_id}", refunded_at, refund, 2)


def _refund(chance: random.Random, order_id: str, lines: Sequence[PurchaseLine]) -> PurchaseRefunded:
    refund_id = f"{order_id}-back"
    drawn = chance.random()
    if drawn < 0.5:  # noqa: PLR2004 - half of the refunds are of the whole order
        return PurchaseRefunded(order_id=order_id, refund_id=refund_id)
    if drawn < 0.8:  # noqa: PLR2004 - some are of a line
        line = chance.choice(lines)
        quantity = chance.randint(1, line.quantity)
        return PurchaseRefunded(
            order_id=order_id, refund_id=refund_id, lines=(RefundLine(line_id=line.line_id, quantity=quantity),)
        )
    total = sum(line.amount or 0 for line in lines)
    return PurchaseRefunded(order_id=order_id, refund_id=refund_id, amount=chance.randint(1, total))


def _use(life: _Life) -> None:
    chance = life.chance
    for place in range(chance.randint(6, 15) if life.used else 0):
        entitlement, usual = chance.choice(life.used)
        at = life.joined_at + chance.random() * (life.now - life.joined_at)
        units = max(1, round(usual * chance.uniform(0.2, 1.8)))
        fact = UsageRecorded(entitlement=entitlement, units=units)
        _tell(life, _METERS, f"use-{life.number}-{place}", at, fact, None)


def _tell(life: _Life, source: str, event_id: str, at: datetime, fact: Fact, version: int | None) -> None:
    event = Event(
        event_source=source,
        event_id=event_id,
        customer_id=life.customer_id,
        occurred_at=at,
        fact=fact,
        source_version=version if life.has_versions else None,
    )
    life.events.append(event)


# -- what cannot be applied --


def _poison(
    chance: random.Random, customer_id: str, number: int, now: datetime
) -> Iterator[tuple[DeadLetterReason, SimulatedRecord]]:
    """One record for each reason for which a record becomes a dead letter by itself."""

    def record(family: TopicFamily, value: bytes) -> SimulatedRecord:
        return SimulatedRecord(family=family, key=customer_id, value=value)

    def told(name: str, fact: Fact, at: datetime) -> Event:
        return Event(
            event_source=_METERS, event_id=f"{name}-{number}", customer_id=customer_id, occurred_at=at, fact=fact
        )

    at = now - chance.random() * _LIFE_DAYS_MAX * _DAY
    usage = UsageRecorded(entitlement="api-calls", units=1)
    whole = encode_event(told("whole", usage, at))
    order = PurchaseCompleted(
        order_id=f"none-{number}", lines=(PurchaseLine(line_id="1", sku="video-pass", quantity=0),)
    )
    yield DeadLetterReason.UNDECODABLE, record(TopicFamily.PURCHASES, b'{"order": "in JSON"}')
    yield DeadLetterReason.UNDECODABLE, record(TopicFamily.USAGE, whole[: chance.randrange(11, len(whole))])
    yield DeadLetterReason.UNKNOWN_SCHEMA, record(TopicFamily.USAGE, whole[:2] + bytes(8) + whole[10:])
    yield DeadLetterReason.UNKNOWN_TYPE, record(TopicFamily.PURCHASES, whole)
    yield DeadLetterReason.IMPOSSIBLE_VALUE, record(TopicFamily.PURCHASES, encode_event(told("free", order, at)))
    for reason, fact, occurred_at in (
        (DeadLetterReason.IMPOSSIBLE_VALUE, UsageRecorded(entitlement="api-calls", units=-5), at),
        (DeadLetterReason.UNKNOWN_ENTITLEMENT, UsageRecorded(entitlement="teleports", units=1), at),
        (DeadLetterReason.WRONG_TYPE, UsageRecorded(entitlement="video", units=1), at),
        (DeadLetterReason.TOO_EARLY, usage, now + 2 * _DAY),
        (DeadLetterReason.TOO_LATE, usage, now - 500 * _DAY),
    ):
        name = f"{reason.value}-{fact.entitlement}-{fact.units}"
        yield reason, record(TopicFamily.USAGE, encode_event(told(name, fact, occurred_at)))
