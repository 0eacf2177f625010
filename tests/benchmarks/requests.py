"""Requests for units: how many a second are answered, of one customer and of many.

`python -m tests.benchmarks.requests`. No HTTP and no Kafka: `answer_requests` in one process, with as many requests in
a transaction as would wait together. Each ledger is verified before its figure counts.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.requests import answer_requests
from ledger_worker.apply.transaction import apply_batch
from ledger_worker.domain.events import Event, PurchaseCompleted, PurchaseLine
from ledger_worker.domain.requests import Item, Request
from ledger_worker.local import cluster as local_cluster
from ledger_worker.local.cluster import Cluster
from ledger_worker.local.tuning import DURABLE
from ledger_worker.store.database import engine, migrate
from ledger_worker.worker.process import calm_collector
from tests.benchmarks.end_to_end import check_ledger
from tests.benchmarks.ledger import at_rest, in_batches, publish, require_all_applied, unseen_stages
from tests.shared_cluster import drop_database, make_database

__all__ = ["main"]

_ROUNDS = 3
_REQUESTS = 5_000
_CASES = {
    "one customer, one at a time": (1, 1, 500),
    "one customer, 100 at a time": (1, 100, _REQUESTS),
    "2,000 customers, 100 at a time": (2_000, 100, _REQUESTS),
    "2,000 customers, 500 at a time": (2_000, 500, _REQUESTS),
}
"""By name: how many customers, how many requests in a transaction, how many in all."""


def main() -> int:
    """Prints the table; 0 when every ledger was right."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-bench-"))
    calm_collector()
    try:
        cluster = local_cluster.start(folder / "cluster", DURABLE)
        rates: dict[str, list[float]] = {name: [] for name in _CASES}
        for number in range(_ROUNDS):
            for name, (customers, at_once, count) in _CASES.items():
                rates[name].append(_rate(cluster, customers, at_once, count))
            print(f"round {number + 1}: " + ", ".join(f"{name} {found[-1]:,.0f}/s" for name, found in rates.items()))
    finally:
        local_cluster.delete(folder / "cluster")
        shutil.rmtree(folder, ignore_errors=True)
    print("\n| requests | answered/s |\n|---|---:|")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):,.0f} |")
    return 0


def _rate(cluster: Cluster, customers: int, at_once: int, count: int) -> float:
    url = make_database(cluster, "bench_requests")
    migrate(url)
    publish(url)
    ledger, catalogues, stages = engine(url), Catalogues(), unseen_stages()
    for batch in in_batches(_bought(customers)):
        require_all_applied(apply_batch(ledger, batch, catalogues, stages), len(batch.deliveries))
    at_rest(cluster, url)
    began_at = time.perf_counter()
    for first in range(0, count, at_once):
        requests = [_request(number, customers) for number in range(first, first + at_once)]
        answers = answer_requests(ledger, requests, catalogues, stages)
        if not all(answer.is_granted for answer in answers):
            raise RuntimeError(f"a request was refused: {answers[0].message}")
    rate = count / (time.perf_counter() - began_at)
    ledger.dispose()
    check_ledger(url)
    drop_database(cluster, "bench_requests")
    return rate


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


if __name__ == "__main__":
    sys.exit(main())
