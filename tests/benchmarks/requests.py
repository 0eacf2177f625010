"""Requests for units: how many a second are answered, of one customer and of many.

No HTTP and no Kafka. The floor is `answer_requests` in one thread, with as many requests in a transaction as there are;
beside it threads that ask one at a time through one `Gatherer`, which answers together what waits. Each ledger is
verified before its figure counts.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import Engine

from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.gathering import Gatherer
from ledger_worker.apply.requests import answer_requests
from ledger_worker.apply.transaction import apply_batch
from ledger_worker.domain.events import Event, PurchaseCompleted, PurchaseLine
from ledger_worker.domain.requests import Answer, Item, Request
from ledger_worker.local.cluster import Cluster
from ledger_worker.metrics import CollectorRegistry, Metrics
from ledger_worker.store.database import engine, migrate
from tests.benchmarks.end_to_end import check_ledger
from tests.benchmarks.ledger import at_rest, in_batches, publish, require_all_applied, unseen_stages
from tests.shared_cluster import drop_database, make_database

__all__ = ["Measured", "measure", "report"]

_REQUESTS = 5_000
_SECONDS_MAX = 60.0


class Case(msgspec.Struct, frozen=True):
    """How many customers, how many requests, and how many in a transaction or how many threads ask one at a time."""

    customers: int
    requests: int
    at_once: int = 0
    threads: int = 0


_CASES = {
    "one customer, one at a time": Case(1, 500, at_once=1),
    "one customer, 100 at a time": Case(1, _REQUESTS, at_once=100),
    "one customer, 8 threads gathered": Case(1, 2_000, threads=8),
    "one customer, 64 threads gathered": Case(1, _REQUESTS, threads=64),
    "2,000 customers, 100 at a time": Case(2_000, _REQUESTS, at_once=100),
    "2,000 customers, 500 at a time": Case(2_000, _REQUESTS, at_once=500),
    "2,000 customers, 64 threads gathered": Case(2_000, _REQUESTS, threads=64),
    "2,000 customers, 500 threads gathered": Case(2_000, 2 * _REQUESTS, threads=500),
}


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Answers a second, and how long one was waited for in milliseconds; nothing of that where nobody waited."""

    rate: float
    p50: float | None = None
    p99: float | None = None
    batch: float | None = None


def measure(cluster: Cluster, rounds: int) -> dict[str, list[Measured]]:
    """By the name of the case, for each round."""
    found: dict[str, list[Measured]] = {name: [] for name in _CASES}
    for number in range(1, rounds + 1):
        for name, case in _CASES.items():
            found[name].append(_measure(cluster, case))
        listed = ", ".join(f"{name} {measured[-1].rate:,.0f}/s" for name, measured in found.items())
        print(f"requests, round {number}: {listed}", flush=True)
    return found


def report(found: dict[str, list[Measured]]) -> str:
    """The table, as Markdown."""
    rounds = len(next(iter(found.values())))
    lines = [
        f"Three units each, medians of {rounds} rounds. Gathered: threads that ask one at a time; how long each waited",
        "for its answer, and how many were answered in a transaction.",
        "",
        "| requests | answered/s | p50 ms | p99 ms | in a transaction |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, measured in found.items():
        lines.append(f"| {name} | {statistics.median(one.rate for one in measured):,.0f} | {_waits(measured)} |")
    return "\n".join(lines) + "\n"


def _waits(found: Sequence[Measured]) -> str:
    columns = zip(*((one.p50, one.p99, one.batch) for one in found), strict=True)
    medians = (None if None in column else statistics.median(filter(None, column)) for column in columns)
    return " | ".join("" if value is None else f"{value:,.0f}" for value in medians)


def _measure(cluster: Cluster, case: Case) -> Measured:
    url = make_database(cluster, "bench_requests")
    migrate(url)
    publish(url)
    ledger, catalogues, stages = engine(url), Catalogues(), unseen_stages()
    for batch in in_batches(_bought(case.customers)):
        require_all_applied(apply_batch(ledger, batch, catalogues, stages), len(batch.deliveries))
    at_rest(cluster, url)
    measured = _gathered(ledger, case) if case.threads else _together(ledger, case)
    ledger.dispose()
    check_ledger(url)
    drop_database(cluster, "bench_requests")
    return measured


def _together(ledger: Engine, case: Case) -> Measured:
    catalogues, stages = Catalogues(), unseen_stages()
    began_at = time.perf_counter()
    for first in range(0, case.requests, case.at_once):
        requests = [_request(number, case.customers) for number in range(first, first + case.at_once)]
        _require_granted(answer_requests(ledger, requests, catalogues, stages))
    return Measured(rate=case.requests / (time.perf_counter() - began_at))


def _gathered(ledger: Engine, case: Case) -> Measured:
    metrics = Metrics(CollectorRegistry())
    numbers = iter(range(case.requests))  # shared: whoever is free asks the next

    def ask(_thread: int) -> list[float]:
        waited = []
        for number in numbers:
            asked_at = time.perf_counter()
            _require_granted([gatherer.ask(_request(number, case.customers), _SECONDS_MAX)])
            waited.append((time.perf_counter() - asked_at) * 1_000)
        return waited

    with Gatherer(ledger, metrics) as gatherer, ThreadPoolExecutor(case.threads) as threads:
        began_at = time.perf_counter()
        waited = sorted(one for each in threads.map(ask, range(case.threads)) for one in each)
        seconds = time.perf_counter() - began_at
    batches = metrics.registry.get_sample_value("ledger_request_batch_requests_count") or 1
    return Measured(
        rate=case.requests / seconds,
        p50=statistics.median(waited),
        p99=waited[len(waited) * 99 // 100],
        batch=case.requests / batches,
    )


def _require_granted(answers: Sequence[Answer]) -> None:
    refused = next((answer for answer in answers if not answer.is_granted), None)
    if refused is not None:
        raise RuntimeError(f"a request was refused: {refused.message}")


def _bought(customers: int) -> Iterator[Event]:
    at = datetime.now(UTC) - timedelta(days=2)
    for number in range(customers):
        line = PurchaseLine(line_id="1", sku="CREDITS", quantity=100, amount=900)
        fact = PurchaseCompleted(order_id=f"order-{number}", lines=(line,))
        yield Event(
            event_source="benchmark",
            event_id=f"purchase-{number}",
            customer_id=_customer(number),
            occurred_at=at,
            fact=fact,
        )


def _request(number: int, customers: int) -> Request:
    items = (Item(entitlement="api", units=3),)
    return Request(caller="benchmark", key=str(number), customer_id=_customer(number * 7919 % customers), items=items)


def _customer(number: int) -> str:
    return f"customer-{number:08}"
