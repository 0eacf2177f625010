"""A storm: so much falls due at one instant, and clocks book and tell it.

Every customer's credits end at the same instant, which is past when the clocks begin: how long they take is how late
the last change is told. A clock is a process of its own, as `run clock` is; it books until nothing is due. The floor
is bare SQL that writes the same rows, one client. Every ledger is verified before its figure counts.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.apply.batch import Delivery
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.due import CUSTOMERS_MAX
from ledger_worker.apply.transaction import apply_batch
from ledger_worker.domain.events import Event, PurchaseCompleted, PurchaseLine
from ledger_worker.local.cluster import Cluster
from ledger_worker.store.database import engine, migrate
from tests.benchmarks import floor
from tests.benchmarks.end_to_end import check_ledger
from tests.benchmarks.ledger import at_rest, checkpoint, in_batches, publish, require_all_applied, unseen_stages
from tests.shared_cluster import drop_database, make_database

__all__ = ["TRANSITIONS", "Storm", "measure", "report"]

TRANSITIONS = 10_000
"""How many fall due at once when nothing else is said."""
_CLOCKS = (1, 2)
_LASTS = timedelta(days=365)
_FILLED, _COPY, _FLOOR = "bench_due_filled", "bench_due_copy", "bench_due_floor"
_CLOCK = """
import sys
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.due import book_due_now
from ledger_worker.metrics import CollectorRegistry, Metrics, Stages
from ledger_worker.store.database import engine
from ledger_worker.worker.process import calm_collector

ledger, catalogues, stages = engine(sys.argv[1]), Catalogues(), Stages(Metrics(CollectorRegistry()))
ledger.connect().close()
calm_collector()
print("ready", flush=True)
sys.stdin.readline()
while book_due_now(ledger, catalogues, stages).customers:
    pass
"""


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """How many fell due, and transitions a second: of the floor, and by how many clocks there were; for each round."""

    transitions: int
    floor_rates: list[float]
    rates: dict[int, list[float]]


def measure(cluster: Cluster, rounds: int, transitions: int) -> Storm:
    """The storm is booked by one clock and by two, on copies of one ledger."""
    url = make_database(cluster, _FILLED)
    migrate(url)
    publish(url)
    customer_ids = _fill(url, transitions)
    at_rest(cluster, url)
    booked_url = url
    found = Storm(transitions=transitions, floor_rates=[], rates={clocks: [] for clocks in _CLOCKS})
    for number in range(1, rounds + 1):
        for clocks in _CLOCKS:
            booked_url = make_database(cluster, _COPY, template=_FILLED)
            checkpoint(cluster)
            found.rates[clocks].append(transitions / _booked_by(booked_url, clocks))
            _require_all_told(booked_url, transitions)
            check_ledger(booked_url)
        found.floor_rates.append(_floor(cluster, booked_url, customer_ids))
        listed = ", ".join(f"{clocks} clocks {rates[-1]:,.0f}/s" for clocks, rates in found.rates.items())
        print(f"due, round {number}: floor {found.floor_rates[-1]:,.0f}/s, {listed}", flush=True)
    for name in (_FILLED, _COPY, _FLOOR):
        drop_database(cluster, name)
    return found


def report(storm: Storm) -> str:
    """The table, as Markdown."""
    lines = [
        f"{storm.transitions:,} transitions due at one instant, one of each customer, at most {CUSTOMERS_MAX} in a",
        f"transaction; medians of {len(storm.floor_rates)} rounds.",
        "",
        "| booked by | transitions/s | of the floor | the last is told after | a million would take |",
        "|---|---:|---:|---:|---:|",
    ]
    floor_rate = median(storm.floor_rates)
    named = {"floor: the same rows by bare SQL, one client": floor_rate}
    named |= {f"clocks: {clocks}": median(rates) for clocks, rates in storm.rates.items()}
    for name, rate in named.items():
        late, million = f"{storm.transitions / rate:,.1f} s", f"{1_000_000 / rate / 60:,.0f} min"
        lines.append(f"| {name} | {rate:,.0f} | {rate / floor_rate:.2f} | {late} | {million} |")
    return "\n".join(lines) + "\n"


def _fill(url: str, count: int) -> list[str]:
    """Everybody bought credits at one instant, recorded then, and they have ended since; returns who, in key order."""
    bought_at = datetime.now(UTC) - _LASTS - timedelta(hours=1)
    ledger, catalogues, stages = engine(url), Catalogues(), unseen_stages()

    def recorded_then(_connection: Connection, deliveries: Sequence[Delivery]) -> list[datetime]:
        return [bought_at] * len(deliveries)

    customer_ids = [f"customer-{number:08}" for number in range(count)]
    for batch in in_batches(_purchases(customer_ids, bought_at)):
        applied = apply_batch(ledger, batch, catalogues, stages, recorded_then)
        require_all_applied(applied, len(batch.deliveries))
    ledger.dispose()
    return customer_ids


def _purchases(customer_ids: Sequence[str], at: datetime) -> Iterator[Event]:
    line = PurchaseLine(line_id="1", sku="CREDITS", quantity=1, amount=900)
    for customer_id in customer_ids:
        fact = PurchaseCompleted(order_id=f"order-{customer_id}", lines=(line,))
        yield Event(event_source="benchmark", event_id="bought", customer_id=customer_id, occurred_at=at, fact=fact)


def _booked_by(url: str, clocks: int) -> float:
    """Seconds from the word until no clock finds anything due."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _CLOCK, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        for _ in range(clocks)
    ]
    for clock in running:
        if clock.stdout is None or clock.stdout.readline() != "ready\n":
            raise RuntimeError("a clock did not begin")
    began_at = time.perf_counter()
    for clock in running:
        if clock.stdin is not None:
            clock.stdin.write("go\n")
    ended = [clock.wait() for clock in running]
    seconds = time.perf_counter() - began_at
    for clock in running:
        clock.communicate()
    if any(ended):
        raise RuntimeError(f"clocks ended with status {ended}")
    return seconds


def _require_all_told(url: str, transitions: int) -> None:
    """Raises RuntimeError when not everything that was due is booked and waits to be published."""
    ledger = engine(url)
    with ledger.connect() as connection:
        booked = connection.execute(text("SELECT count(*) FROM event WHERE type = 'TransitionsDue'")).scalar_one()
        told = connection.execute(text("SELECT count(*) FROM outbox WHERE sequence = 2")).scalar_one()
    ledger.dispose()
    if (booked, told) != (transitions, transitions):
        raise RuntimeError(f"of {transitions} transitions {booked} were booked and {told} told")


def _floor(cluster: Cluster, booked_url: str, customer_ids: Sequence[str]) -> float:
    """Transitions a second, written by bare SQL in transactions as large as a clock's."""
    url = make_database(cluster, _FLOOR)
    migrate(url)
    parts = [customer_ids[first : first + CUSTOMERS_MAX] for first in range(0, len(customer_ids), CUSTOMERS_MAX)]
    columns, batches = floor.rows_of(booked_url, [[(customer_id, 2, 2) for customer_id in part] for part in parts])
    checkpoint(cluster)
    return len(customer_ids) / floor.write(url, columns, batches)
