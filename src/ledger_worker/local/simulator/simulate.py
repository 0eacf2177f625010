"""`simulate`: all customers' lives, as they are told, and the truth about them."""

import random
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from ledger_worker.domain.events import CustomersMerged, Event
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.local.simulator.life import DAY, LIFE_DAYS_MAX, Happening, Life, between
from ledger_worker.local.simulator.orders import ORDER_PLOTS, buy
from ledger_worker.local.simulator.subscriptions import SUBSCRIPTION_PLOTS, Plot, subscribe
from ledger_worker.local.simulator.telling import SimulatedRecord, Teller
from ledger_worker.local.simulator.using import use

__all__ = ["CATALOGUE_FILE", "CUSTOMERS_MAX", "SimulatedRecord", "Simulation", "Truth", "simulate"]

CATALOGUE_FILE = Path(__file__).parents[1] / "demo-catalogue.toml"
"""What the customers buy: it has to be published before their records are read."""
CUSTOMERS_MAX = 1_000_000
"""Most customers of one simulation; all its records are kept in memory, about two kilobytes for each event."""


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What a ledger that has read every record must hold.

    `events` are well-formed and distinct: each takes one row of the inbox; `types` counts them by type of fact.
    `outcomes` are counts that no race can change, `outcomes_min` what is certain of others. `history` are the events
    that the ledger must keep, told again under other ids or not; those of customers who claim one order are left out.
    `example` is a customer with a life worth explaining.
    """

    records: int
    events: int
    duplicates: int
    types: Mapping[str, int]
    outcomes: Mapping[str, int]
    outcomes_min: Mapping[str, int]
    dead_letters: Mapping[str, int]
    history: tuple[Event, ...]
    example: str


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """What was made up: the records in the order of sending, and the truth about them."""

    records: tuple[SimulatedRecord, ...]
    truth: Truth


def simulate(*, customers: int, seed: int, now: datetime) -> Simulation:
    """The lives of `customers` customers over the last ninety days before `now`, about 16 records each.

    Of few customers the lives are fuller, so that every plot is told all the same.
    """
    chance = random.Random(f"{seed}/telling")  # noqa: S311 - made-up customers keep no secrets
    teller = Teller(chance, now)
    richest = (0, _customer_id(0))
    for number, parts in enumerate(_cast(customers)):
        life = _make_life(seed, number, now, parts)
        teller.tell(life.happenings)
        types = {type(happening.event.fact) for happening in life.happenings}
        is_alone = all(happening.event.customer_id == life.customer_id for happening in life.happenings)
        if is_alone and life.merged_at is None:
            richest = max(richest, (100 * len(types) + len(life.happenings), life.customer_id))
    for number in range(max(1, customers * _POISON_PER_THOUSAND_CUSTOMERS // 1000)):
        teller.tell_poison(_customer_id(chance.randrange(customers)), number)
    for number in range(max(1, customers * _CLAIMED_PER_THOUSAND_CUSTOMERS // 1000)):
        teller.tell_claimed_order(number)
    records = teller.records()
    return Simulation(
        records=records,
        truth=Truth(
            records=len(records),
            events=teller.types.total(),
            duplicates=teller.duplicates,
            types=dict(teller.types),
            outcomes=dict(teller.outcomes),
            outcomes_min={Outcome.AWAITING_TRANSFER.value: teller.claimed},
            dead_letters=dict(teller.dead_letters),
            history=tuple(teller.history),
            example=richest[1],
        ),
    )


_POISON_PER_THOUSAND_CUSTOMERS = 3
"""Records of each kind that cannot be applied, for each thousand customers and at least one."""
_CLAIMED_PER_THOUSAND_CUSTOMERS = 2
"""Orders that are told for two customers: one of them waits for a transfer that nobody tells."""
_CASTS = 3
"""How often each plot is told for certain."""
_PLOT_SHARE = 0.3
"""The share of the other customers that have a plot."""
_RECENT_SHARE, _RECENT_DAYS = 0.45, 5
"""The share of the others that came within the last days: they have hardly seen the end of a period."""
_MERGED_SHARE = 0.004
_MERGE = "merge"

_Part = Plot | tuple[str, ...] | str
"""A plot of a subscription, of an order, or of the customer."""
_PARTS: Sequence[_Part] = (*SUBSCRIPTION_PLOTS, *ORDER_PLOTS, _MERGE)


def _customer_id(number: int) -> str:
    return f"customer-{number:06}"


def _cast(customers: int) -> list[list[_Part]]:
    """Who certainly plays which parts: every part is given out a few times, one customer after the other."""
    cast: list[list[_Part]] = [[] for _ in range(customers)]
    for turn in range(_CASTS * len(_PARTS)):
        cast[turn % customers].append(_PARTS[turn % len(_PARTS)])
    return cast


def _make_life(seed: int, number: int, now: datetime, parts: list[_Part]) -> Life:
    """What one customer did, in no order yet but that of making it up."""
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - as above
    is_recent = not parts and chance.random() < _RECENT_SHARE
    if not is_recent and not parts and chance.random() < _PLOT_SHARE:
        parts = [chance.choice(_PARTS)]
    days = chance.uniform(0.1, _RECENT_DAYS) if is_recent else chance.uniform(0.5, 1) * LIFE_DAYS_MAX
    life = Life(
        customer_id=_customer_id(number),
        number=f"{number:06}",
        chance=chance,
        joined_at=now - (LIFE_DAYS_MAX if parts else days) * DAY,
        now=now,
        partner_id=_customer_id(number + 1),
    )
    for part in parts:
        if isinstance(part, Plot):
            subscribe(life, part)
        elif isinstance(part, tuple):
            buy(life, part)
    if not parts and chance.random() < 0.6:  # noqa: PLR2004 - three in five subscribe
        subscribe(life)
    for _ in range(max(chance.choices((0, 1, 2), (40, 40, 20))[0], 1 - life.sources)):
        buy(life)
    if _MERGE in parts or chance.random() < _MERGED_SHARE:
        _merge(life)
    use(life)
    return life


def _merge(life: Life) -> None:
    """The customer turns out to be the next one."""
    life.merged_at = between(life.chance, life.joined_at, life.now, (0.3, 0.95))
    event = Event(
        event_source="shop",
        event_id=f"merge-{life.number}",
        customer_id=life.customer_id,
        occurred_at=life.merged_at,
        fact=CustomersMerged(merge_id=f"merge-{life.number}", into_customer_id=life.partner_id),
    )
    life.happenings.append(Happening(event, is_plain=False))
