"""Usage told in order and late: how many events a second, and what one of them costs an account that holds many.

Late is usage that occurred before usage that is booked. Where nothing but usage has happened since, one step books it
as if it were the last; where a grant has begun since, the account is settled again. Both are measured, beside usage in
order on the same ledger. No Kafka: events as values through `apply_batch`.
"""

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median

import msgspec
from sqlalchemy import Connection, Engine

from ledger_worker.apply.batch import Batch, Delivery
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.transaction import apply_batch
from ledger_worker.domain.decide import decide
from ledger_worker.domain.decided import Decided, Loaded, LoadedCustomer, NeedsHistory, told_of
from ledger_worker.domain.events import Event, Fact, PurchaseCompleted, PurchaseLine, UsageRecorded
from ledger_worker.domain.history import History
from ledger_worker.local.cluster import Cluster
from ledger_worker.store import accounts as accounts_store
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store
from ledger_worker.store import histories as histories_store
from ledger_worker.store.database import engine, migrate
from tests.benchmarks.end_to_end import check_ledger
from tests.benchmarks.ledger import (
    BATCH_EVENTS,
    at_rest,
    checkpoint,
    in_batches,
    publish,
    require_all_applied,
    unseen_stages,
)
from tests.shared_cluster import drop_database, make_database

__all__ = ["Figures", "measure", "report"]


class One(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds that one event takes, a figure for each time it was measured.

    `applied` by `apply_batch`, all in; `loaded` is reading what deciding asks for of the history, empty where it
    asks for none; `decided` is deciding with everything loaded.
    """

    applied: list[float]
    loaded: list[float]
    decided: list[float]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Events a second by stream, for each round, and single events by how many usages the account held."""

    streams: list[dict[str, float]]
    single: dict[int, dict[str, One]]


def measure(cluster: Cluster, rounds: int) -> Figures:
    """Every figure is taken; each ledger was verified before it counted."""
    return Figures(streams=_streams(cluster, rounds), single=_single_events(cluster))


def report(figures: Figures) -> str:
    """The tables, as Markdown."""
    lines = [
        f"Usage in order and late, {_STREAM_EVENTS:,} events over {_STREAM_CUSTOMERS:,} customers,",
        f"batches of {BATCH_EVENTS:,}: medians of {len(figures.streams)} rounds, in which the streams took turns on",
        "copies of one ledger.",
        "",
        "| usage | events/s | of in order |",
        "|---|---:|---:|",
    ]
    for name in _STREAMS:
        rate = median([rates[name] for rates in figures.streams])
        ratio = median([rates[name] / rates[_IN_ORDER] for rates in figures.streams])
        lines.append(f"| {name} | {rate:,.0f} | {ratio:.2f} |")
    lines += [
        "",
        "One usage for an account that holds many, median milliseconds: applied, a transaction of its own and all in;",
        "loaded, what deciding asks for of the account's history; decided, the decision alone with all loaded.",
        "",
        "| held | usage | times | applied | of in order | loaded | decided |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for held, by_kind in figures.single.items():
        lines += [_row(held, kind, one, by_kind[_IN_ORDER]) for kind, one in by_kind.items()]
    return "\n".join(lines) + "\n"


def _row(held: int, kind: str, one: One, in_order: One) -> str:
    loaded = f"{median(one.loaded):,.2f}" if one.loaded else ""
    cells = (
        f"{held:,}",
        kind,
        f"{len(one.applied)}",
        f"{median(one.applied):,.2f}",
        f"{median(one.applied) / median(in_order.applied):,.1f}",
        loaded,
        f"{median(one.decided):,.2f}",
    )
    return f"| {' | '.join(cells)} |"


# -- streams over many customers -----------------------------------------------------------------------------

_IN_ORDER = "in order"
_STREAM_EVENTS = 5_000
_STREAM_CUSTOMERS = 1_000
_USED_EACH_TIME = 3
"""Usages that each customer of a stream holds already for each of its two purchases."""
_BOUGHT_BEFORE = timedelta(days=20)
_BOUGHT_AGAIN_BEFORE = timedelta(days=2)


class _Late(msgspec.Struct, frozen=True):
    """One usage in `one_in` is late, and occurred soon after the purchase that was so long ago."""

    one_in: int
    bought_before: timedelta


_STREAMS = {
    _IN_ORDER: None,
    "one in 10 late, booked by one step": _Late(10, _BOUGHT_AGAIN_BEFORE),
    "one in 100 late, settled again": _Late(100, _BOUGHT_BEFORE),
    "one in 10 late, settled again": _Late(10, _BOUGHT_BEFORE),
}
_FILLED = "bench_late_filled"


def _streams(cluster: Cluster, rounds: int) -> list[dict[str, float]]:
    """Each round makes a ledger, and applies every stream to a copy of it."""
    found = []
    for number in range(1, rounds + 1):
        now = datetime.now(UTC)
        url = _new_ledger(cluster, _FILLED)
        _fill(url, _before_stream(now))
        at_rest(cluster, url)
        rates = _round(cluster, now, number)
        drop_database(cluster, _FILLED)
        found.append(rates)
        listed = (f"{name} {rate:,.0f}/s" for name, rate in rates.items())
        print(f"late, round {number}: " + ", ".join(listed), flush=True)
    return found


def _round(cluster: Cluster, now: datetime, seed: int) -> dict[str, float]:
    """Events a second of each stream; they take turns by batches, so that whatever else the machine does meets all."""
    copies = {name: f"bench_late_copy_{number}" for number, name in enumerate(_STREAMS)}
    urls = {name: make_database(cluster, copy, template=_FILLED) for name, copy in copies.items()}
    checkpoint(cluster)
    ledgers = {name: engine(url) for name, url in urls.items()}
    catalogues, stages = Catalogues(), unseen_stages()
    seconds = dict.fromkeys(_STREAMS, 0.0)
    for turn in zip(*(in_batches(_in_stream(now, seed, late)) for late in _STREAMS.values()), strict=True):
        for name, batch in zip(_STREAMS, turn, strict=True):
            began_at = time.perf_counter()
            applied = apply_batch(ledgers[name], batch, catalogues, stages)
            seconds[name] += time.perf_counter() - began_at
            require_all_applied(applied, len(batch.deliveries))
    for name, ledger in ledgers.items():
        ledger.dispose()
        check_ledger(urls[name])
        drop_database(cluster, copies[name])
    return {name: _STREAM_EVENTS / taken for name, taken in seconds.items()}


def _before_stream(now: datetime) -> Iterator[Event]:
    """Each customer bought twice, and used a little each time."""
    customer_ids = [_customer_of_stream(number) for number in range(_STREAM_CUSTOMERS)]
    for bought_at in (now - _BOUGHT_BEFORE, now - _BOUGHT_AGAIN_BEFORE):
        for customer_id in customer_ids:
            yield _purchase(customer_id, bought_at, 1)
        for hours in range(1, _USED_EACH_TIME + 1):
            for customer_id in customer_ids:
                yield _usage(customer_id, bought_at + timedelta(hours=hours), 3)


def _in_stream(now: datetime, seed: int, late: _Late | None) -> Iterator[Event]:
    """Usage a millisecond apart, of customers by chance: the same with and without what is late."""
    chance = random.Random(seed)
    for place in range(_STREAM_EVENTS):
        customer_id = _customer_of_stream(chance.randrange(_STREAM_CUSTOMERS))
        at = now + timedelta(milliseconds=place)
        if late is not None and place % late.one_in == 0:
            at += timedelta(minutes=90) - late.bought_before
        yield _usage(customer_id, at, chance.randint(1, 5))


def _customer_of_stream(number: int) -> str:
    return f"customer-{number:08}"


# -- one event for accounts that hold many -------------------------------------------------------------------

_SINGLE = {
    _IN_ORDER: timedelta(0),
    "late by two hours": timedelta(hours=2),
    "late by 19 days": timedelta(days=19),
}
"""How long before the account's last usage each occurred, or right after it."""
_LIFE = timedelta(days=20)
_PURCHASES = 5
_LAST_PURCHASE_BEFORE = timedelta(hours=1)
"""How long before the last usage credits were bought once more: no late usage could stand behind that."""


class _Size(msgspec.Struct, frozen=True, kw_only=True):
    """How many usages an account holds, how many such accounts there are, how often each event is measured there."""

    usages: int
    accounts: int
    repetitions: int

    @property
    def customer_ids(self) -> list[str]:
        """Whose accounts they are."""
        return [f"holder-of-{self.usages}-{number}" for number in range(self.accounts)]


_SIZES = (
    _Size(usages=10, accounts=10, repetitions=5),
    _Size(usages=1_000, accounts=5, repetitions=5),
    _Size(usages=100_000, accounts=2, repetitions=2),
)
_HOLDERS = "bench_late_holders"


def _single_events(cluster: Cluster) -> dict[int, dict[str, One]]:
    """One ledger holds all accounts; each event is measured on every account of its size.

    The customers of the streams are there too: in a ledger of a few customers, all large, the planner would read whole
    tables for the history of one.
    """
    ended_at = datetime.now(UTC) - timedelta(minutes=10)
    url = _new_ledger(cluster, _HOLDERS)
    _fill(url, _before_stream(ended_at))
    for size in _SIZES:
        for customer_id in size.customer_ids:
            _fill(url, _life(customer_id, size.usages, ended_at))
    at_rest(cluster, url)
    ledger = engine(url)
    found = {}
    for size in _SIZES:
        found[size.usages] = _single(ledger, size, ended_at)
        medians = (f"{kind} {median(one.applied):,.2f} ms" for kind, one in found[size.usages].items())
        print(f"one usage, {size.usages:,} held: " + ", ".join(medians), flush=True)
    ledger.dispose()
    check_ledger(url)
    drop_database(cluster, _HOLDERS)
    return found


def _life(customer_id: str, usages: int, ended_at: datetime) -> Iterator[Event]:
    """Usages evenly over the account's life, and credits for each part of it, bought before the last have run out."""
    chance = random.Random(customer_id)
    between = _LIFE / usages
    credits_each = usages * 3 // _PURCHASES // 1_000 + 1
    last_purchase_at = ended_at - _LAST_PURCHASE_BEFORE
    for place in range(usages):
        at = ended_at - between * (usages - 1 - place)
        if place % (usages // _PURCHASES) == 0:
            yield _purchase(customer_id, at - timedelta(milliseconds=1), credits_each)
        if at - between <= last_purchase_at < at:
            yield _purchase(customer_id, last_purchase_at, credits_each)
        yield _usage(customer_id, at, chance.randint(1, 5))


def _single(ledger: Engine, size: _Size, ended_at: datetime) -> dict[str, One]:
    """Each usage is decided alone and then applied, in turn with the others, over and over."""
    catalogues, stages = Catalogues(), unseen_stages()
    found = {kind: One(applied=[], loaded=[], decided=[]) for kind in _SINGLE}
    for repetition in range(1, size.repetitions + 1):
        for customer_id in size.customer_ids:
            for kind, before in _SINGLE.items():
                event = _usage(customer_id, ended_at - before + timedelta(milliseconds=repetition), 3)
                with ledger.connect() as connection:
                    _decide_alone(connection, event, catalogues, found[kind])
                batch = Batch(deliveries=(Delivery(event=event),))
                began_at = time.perf_counter()
                applied = apply_batch(ledger, batch, catalogues, stages)
                found[kind].applied.append(_milliseconds_since(began_at))
                require_all_applied(applied, 1)
    return found


def _decide_alone(connection: Connection, event: Event, catalogues: Catalogues, found: One) -> None:
    """What reading the history takes, if any is asked for, and deciding with it, are added to `found`."""
    state = catalogue_store.read_ledger(connection)
    catalogue = catalogues.at(connection, state.catalogue_version)
    told = [told_of(event, customers_store.clock(connection))]
    pair = (event.customer_id, _ENTITLEMENT)
    histories: dict[str, History] = {}
    loaded = LoadedCustomer(
        head=customers_store.read_heads(connection, [event.customer_id])[0][event.customer_id],
        accounts={_ENTITLEMENT: accounts_store.read_accounts(connection, [pair], [], event.occurred_at)[pair]},
        grants=accounts_store.read_open_grants(connection, [pair])[event.customer_id],
        histories=histories,
    )
    world = Loaded(customers={event.customer_id: loaded}, sources={}, claimants={})
    decide_it = partial(
        decide,
        timeline=state.timeline,
        usage_kept=timedelta(days=state.usage_kept_days),
        settlement_window=timedelta(days=state.settlement_window_days),
    )
    began_at = time.perf_counter()
    decided = decide_it(world, told, catalogue)
    if isinstance(decided, NeedsHistory):
        began_at = time.perf_counter()
        before = {} if decided.before is None else {pair: decided.before}
        histories[_ENTITLEMENT] = histories_store.read_histories(connection, [pair], before=before)[pair]
        found.loaded.append(_milliseconds_since(began_at))
        began_at = time.perf_counter()
        decided = decide_it(world, told, catalogue)
    found.decided.append(_milliseconds_since(began_at))
    if not isinstance(decided, Decided):
        raise TypeError(f"one usage of {event.customer_id} became {type(decided).__name__}, expected Decided")


def _milliseconds_since(began_at: float) -> float:
    return (time.perf_counter() - began_at) * 1_000


# -- both ----------------------------------------------------------------------------------------------------

_ENTITLEMENT = "api"


def _new_ledger(cluster: Cluster, name: str) -> str:
    url = make_database(cluster, name)
    migrate(url)
    publish(url)
    return url


def _fill(url: str, told: Iterator[Event]) -> None:
    """The events are applied, in batches, and nobody is connected afterwards."""
    ledger, catalogues, stages = engine(url), Catalogues(), unseen_stages()
    for batch in in_batches(told):
        require_all_applied(apply_batch(ledger, batch, catalogues, stages), len(batch.deliveries))
    ledger.dispose()


def _purchase(customer_id: str, at: datetime, quantity: int) -> Event:
    name = f"{customer_id}-{at.isoformat()}"
    line = PurchaseLine(line_id="1", sku="CREDITS", quantity=quantity, amount=900 * quantity)
    return _event(f"purchase-{name}", customer_id, at, PurchaseCompleted(order_id=f"order-{name}", lines=(line,)))


def _usage(customer_id: str, at: datetime, units: int) -> Event:
    return _event(
        f"usage-{customer_id}-{at.isoformat()}", customer_id, at, UsageRecorded(entitlement=_ENTITLEMENT, units=units)
    )


def _event(event_id: str, customer_id: str, at: datetime, fact: Fact) -> Event:
    return Event(event_source="benchmark", event_id=event_id, customer_id=customer_id, occurred_at=at, fact=fact)
