"""Growth with grants: usage and requests of customers who hold one grant of an entitlement, ten, and a thousand.

Whoever decides about an account has all of its open grants before it, so this is what a customer costs who buys over
and over and never uses anything up. The ledgers are verified before their figures count.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median

import msgspec
from sqlalchemy import Engine

from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.requests import answer_requests
from ledger_worker.apply.transaction import apply_batch
from ledger_worker.domain.events import ITEMS_MAX, Event, PurchaseCompleted, PurchaseLine, UsageRecorded
from ledger_worker.domain.requests import Item, Request
from ledger_worker.local.cluster import Cluster
from ledger_worker.store.database import engine, migrate
from tests.benchmarks.end_to_end import check_ledger
from tests.benchmarks.ledger import BATCH_EVENTS, at_rest, in_batches, publish, require_all_applied, unseen_stages
from tests.shared_cluster import drop_database, make_database

__all__ = ["Rates", "measure", "report"]

_CUSTOMERS = 100
_REQUESTS_AT_ONCE = 100
_ORDERS_IN_A_BATCH = 10
"""An order has up to 500 lines, each a grant: a thousand of them would take longer than a session may."""
_DATABASE = "bench_grants"


class _Held(msgspec.Struct, frozen=True, kw_only=True):
    """How many grants each customer holds, and how much is measured: more grants, fewer events."""

    grants: int
    usages: int
    requests: int


_HELD = (
    _Held(grants=1, usages=5_000, requests=2_000),
    _Held(grants=10, usages=5_000, requests=2_000),
    _Held(grants=1_000, usages=1_000, requests=200),
)


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Usage events and requests a second."""

    usage: float
    requests: float


def measure(cluster: Cluster, rounds: int) -> dict[int, list[Rates]]:
    """By the number of grants, for each round."""
    found: dict[int, list[Rates]] = {held.grants: [] for held in _HELD}
    for held in _HELD:
        url = make_database(cluster, _DATABASE)
        migrate(url)
        publish(url)
        ledger = engine(url)
        _use(ledger, _bought(held.grants), _ORDERS_IN_A_BATCH)
        at_rest(cluster, url)
        for number in range(1, rounds + 1):
            usage_seconds = _use(ledger, _usages(held, number))
            request_seconds = _ask(ledger, held, number)
            rates = Rates(usage=held.usages / usage_seconds, requests=held.requests / request_seconds)
            found[held.grants].append(rates)
            print(
                f"grants, {held.grants:,} each, round {number}: usage {rates.usage:,.0f}/s, requests"
                f" {rates.requests:,.0f}/s",
                flush=True,
            )
        ledger.dispose()
        check_ledger(url)
        drop_database(cluster, _DATABASE)
    return found


def report(found: dict[int, list[Rates]]) -> str:
    """The table, as Markdown."""
    one = found[_HELD[0].grants]
    lines = [
        f"{_CUSTOMERS} customers; usage in order in batches of {BATCH_EVENTS:,}, requests {_REQUESTS_AT_ONCE} in a",
        f"transaction; medians of {len(one)} rounds.",
        "",
        "| grants of each customer | usage events/s | of one grant | requests/s | of one grant |",
        "|---:|---:|---:|---:|---:|",
    ]
    for grants, rates in found.items():
        cells = (
            f"{grants:,}",
            *_rate_and_ratio([each.usage for each in rates], [each.usage for each in one]),
            *_rate_and_ratio([each.requests for each in rates], [each.requests for each in one]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rate_and_ratio(rates: Sequence[float], of: Sequence[float]) -> tuple[str, str]:
    return f"{median(rates):,.0f}", f"{median(rates) / median(of):.2f}"


def _use(ledger: Engine, told: Iterator[Event], events_max: int = BATCH_EVENTS) -> float:
    """Everything is applied in batches; returns the seconds that took."""
    catalogues, stages = Catalogues(), unseen_stages()
    seconds = 0.0
    for batch in in_batches(told, events_max):
        began_at = time.perf_counter()
        applied = apply_batch(ledger, batch, catalogues, stages)
        seconds += time.perf_counter() - began_at
        require_all_applied(applied, len(batch.deliveries))
    return seconds


def _ask(ledger: Engine, held: _Held, number: int) -> float:
    """All requests are granted, so many in a transaction; returns the seconds that took."""
    catalogues, stages = Catalogues(), unseen_stages()
    requests = [_request(f"{number}-{place}", place) for place in range(held.requests)]
    began_at = time.perf_counter()
    for first in range(0, held.requests, _REQUESTS_AT_ONCE):
        answers = answer_requests(ledger, requests[first : first + _REQUESTS_AT_ONCE], catalogues, stages)
        if not all(answer.is_granted for answer in answers):
            raise RuntimeError(f"a request was refused: {answers[0].message}")
    return time.perf_counter() - began_at


def _bought(grants: int) -> Iterator[Event]:
    """Each customer's grants, a line of an order each, in as few orders as can be."""
    at = datetime.now(UTC) - timedelta(days=2)
    for place in range(_CUSTOMERS):
        for order, lines in enumerate(_orders(grants)):
            fact = PurchaseCompleted(order_id=f"order-{place}-{order}", lines=lines)
            yield _event(f"bought-{order}", place, at, fact)


def _orders(grants: int) -> Sequence[tuple[PurchaseLine, ...]]:
    lines = [PurchaseLine(line_id=f"{number}", sku="CREDITS", quantity=1, amount=900) for number in range(grants)]
    return [tuple(lines[first : first + ITEMS_MAX]) for first in range(0, grants, ITEMS_MAX)]


def _usages(held: _Held, number: int) -> Iterator[Event]:
    """A millisecond apart, each round after the one before and the requests in it."""
    at = datetime.now(UTC)
    for place in range(held.usages):
        fact = UsageRecorded(entitlement="api", units=1)
        yield _event(f"used-{number}-{place}", place % _CUSTOMERS, at + timedelta(milliseconds=place), fact)


def _event(event_id: str, place: int, at: datetime, fact: PurchaseCompleted | UsageRecorded) -> Event:
    return Event(event_source="benchmark", event_id=event_id, customer_id=_customer(place), occurred_at=at, fact=fact)


def _request(key: str, place: int) -> Request:
    items = (Item(entitlement="api", units=1),)
    return Request(caller="benchmark", key=key, customer_id=_customer(place % _CUSTOMERS), items=items)


def _customer(place: int) -> str:
    return f"customer-{place:08}"
