"""`make bench`: the figures, medians of several rounds, each round checked before it counts.

`flow`: three figures per round, on databases of their own: applying alone (no Kafka, events as values), the floor under
it (`floor`), and end to end (records in Kafka to committed ledger to published changes, with the worker process as it
runs in service). Beside them what late usage costs (`late`), requests (`requests`), checks (`checks`), what falls due
(`due`) and many grants of a customer (`grants`); `--only` takes some of them.
"""

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from sqlalchemy import text

from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.transaction import apply_batch
from ledger_worker.domain.events import Event
from ledger_worker.local import cluster as local_cluster
from ledger_worker.local.cluster import Cluster
from ledger_worker.local.tuning import DURABLE
from ledger_worker.metrics import CollectorRegistry, Metrics, Stage, Stages
from ledger_worker.store.database import engine, migrate
from ledger_worker.worker.process import calm_collector
from tests.benchmarks import checks, due, end_to_end, floor, grants, late, requests
from tests.benchmarks.ledger import BATCH_EVENTS, checkpoint, in_batches, publish, require_all_applied
from tests.benchmarks.processes import CpuMeter
from tests.benchmarks.workload import Workload, events
from tests.shared_cluster import drop_database, make_database

_NAMES = ("flow", "late", "requests", "checks", "due", "grants")
_ARRANGEMENTS = {
    "end to end, `run` in one process": end_to_end.ONE_PROCESS,
    "end to end, two `run consume` and one `run relay`": end_to_end.APART,
}


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round's figures.

    Events per second, CPU seconds per 100,000 events by process, seconds per 100,000 events by stage.
    """

    apply_rate: float
    floor_rate: float
    end_to_end: dict[str, tuple[float, dict[str, float]]]
    apply_cpu: dict[str, float]
    stages: dict[str, float]
    rows_per_event: float


def main() -> int:
    """Runs the rounds and prints the table; 0 when every round's ledger was right."""
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="ledger-bench-"))
    print(f"# {_machine()}", flush=True)
    calm_collector()
    try:
        started = local_cluster.start(folder / "cluster", DURABLE)
        figures = _figures(started, arguments)
        report = "\n".join(figures[name]() for name in figures if name in arguments.only)
        print(report)
        if arguments.write:
            Path(arguments.write).write_text(report, encoding="utf-8")
    finally:
        local_cluster.delete(folder / "cluster")
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--without-kafka", action="store_true", help="leave out the end-to-end figure")
    parser.add_argument("--only", nargs="+", choices=_NAMES, default=_NAMES, help="take no figures but these")
    parser.add_argument("--entries", type=int, default=checks.ENTRIES_MAX, help="how far the ledger of checks grows")
    parser.add_argument("--due", type=int, default=due.TRANSITIONS, help="how many transitions fall due at once")
    parser.add_argument("--write", help="write the report to this file too")
    return parser.parse_args()


def _figures(cluster: Cluster, arguments: argparse.Namespace) -> dict[str, Callable[[], str]]:
    """By the name of the figures, how to take them; each returns its report."""
    rounds: int = arguments.rounds
    taken = (
        lambda: _flow(cluster, arguments),
        lambda: late.report(late.measure(cluster, rounds)),
        lambda: requests.report(requests.measure(cluster, rounds)),
        lambda: checks.report(checks.measure(cluster, arguments.entries)),
        lambda: due.report(due.measure(cluster, rounds, arguments.due)),
        lambda: grants.report(grants.measure(cluster, rounds)),
    )
    return dict(zip(_NAMES, taken, strict=True))


def _flow(cluster: Cluster, arguments: argparse.Namespace) -> str:
    rounds = []
    for number in range(1, arguments.rounds + 1):
        measured = _round(cluster, number, arguments.events, with_kafka=not arguments.without_kafka)
        print(f"round {number}: {_line(measured)}", flush=True)
        rounds.append(measured)
    return _report(rounds, arguments.events)


def _round(cluster: Cluster, number: int, count: int, *, with_kafka: bool) -> Round:
    told = list(
        events(
            Workload(
                events=count,
                customers=max(count // 5, 1),
                starts_at=datetime.now(UTC) - timedelta(days=2),
                seed=number,
            )
        )
    )
    apply_url = make_database(cluster, f"bench_apply_{number}")
    floor_url = make_database(cluster, f"bench_floor_{number}")
    for url in (apply_url, floor_url):
        migrate(url)
    apply_rate, apply_cpu, stages, made = _apply_alone(cluster, apply_url, told)
    end_to_end.check_ledger(apply_url)
    columns, batches = floor.rows_of(apply_url, made)
    rows = sum(len(found) for batch in batches for found in batch.rows.values()) + sum(
        len(b.customers) for b in batches
    )
    checkpoint(cluster)
    floor_rate = sum(len(batch.rows["event"]) for batch in batches) / floor.write(floor_url, columns, batches)
    ends: dict[str, tuple[float, dict[str, float]]] = {}
    for name, commands in _ARRANGEMENTS.items() if with_kafka else ():
        end_url = make_database(cluster, f"bench_end_{number}")
        migrate(end_url)
        publish(end_url)
        checkpoint(cluster)
        prefix = f"bench{number}-{len(ends)}"
        ends[name] = end_to_end.measure(cluster, end_url, told, prefix, commands)
        end_to_end.check_ledger(end_url)
        drop_database(cluster, f"bench_end_{number}")
    drop_database(cluster, f"bench_apply_{number}")
    drop_database(cluster, f"bench_floor_{number}")
    return Round(
        apply_rate=apply_rate,
        floor_rate=floor_rate,
        end_to_end=ends,
        apply_cpu=apply_cpu,
        stages=stages,
        rows_per_event=rows / count,
    )


def _apply_alone(
    cluster: Cluster, url: str, told: Sequence[Event]
) -> tuple[float, dict[str, float], dict[str, float], list[list[tuple[str, int, int]]]]:
    """Events as values through `apply_batch`; what each batch posted is noted between batches, outside the time."""
    publish(url)
    checkpoint(cluster)
    ledger = engine(url)
    registry = CollectorRegistry()
    stages = Stages(Metrics(registry))
    catalogues = Catalogues()
    meter = CpuMeter({"worker": os.getpid()}, {"postgres": cluster.postgres_pid})
    seconds = 0.0
    made = []
    before: dict[str, int] = {}
    for batch in in_batches(told):
        meter.resume()
        stages.begin()
        began_at = time.perf_counter()
        applied = apply_batch(ledger, batch, catalogues, stages)
        seconds += time.perf_counter() - began_at
        meter.pause()
        require_all_applied(applied, len(batch.deliveries))
        with ledger.connect() as connection:
            ids = sorted({delivery.event.customer_id for delivery in batch.deliveries})
            heads = connection.execute(
                text("SELECT customer_id, posting_number FROM customer WHERE customer_id = ANY(:ids)"), {"ids": ids}
            ).all()
        made.append([(one, before.get(one, 0) + 1, number) for one, number in heads if number > before.get(one, 0)])
        before.update((one, number) for one, number in heads)
    ledger.dispose()
    per_100k = 100_000 / len(told)
    by_stage = {
        sample.labels["stage"]: sample.value * per_100k
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "ledger_stage_seconds_sum" and sample.value
    }
    return len(told) / seconds, meter.seconds(per_100k), {s: by_stage[s] for s in Stage if s in by_stage}, made


def _line(measured: Round) -> str:
    end = "".join(f", {name} {rate:,.0f}/s" for name, (rate, _) in measured.end_to_end.items())
    return (
        f"apply {measured.apply_rate:,.0f}/s, floor {measured.floor_rate:,.0f}/s "
        f"(ratio {measured.apply_rate / measured.floor_rate:.2f}){end}"
    )


def _report(rounds: Sequence[Round], count: int) -> str:
    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    lines = [
        "# First figures",
        "",
        f"Machine: {_machine()}. Medians of {len(rounds)} rounds of {count:,} events, batches of {BATCH_EVENTS:,},",
        f"{median([r.rows_per_event for r in rounds]):.1f} rows written an event, fsync on. Made by `make bench`; each",
        "round's ledger was verified before it counted.",
        "",
        "| figure | events/s |",
        "|---|---:|",
        f"| floor: the same rows by bare SQL, one client | {median([r.floor_rate for r in rounds]):,.0f} |",
        f"| apply alone, one process | {median([r.apply_rate for r in rounds]):,.0f} |",
        f"| apply / floor | {median([r.apply_rate / r.floor_rate for r in rounds]):.2f} |",
    ]
    lines += [f"| {name} | {median([r.end_to_end[name][0] for r in rounds]):,.0f} |" for name in rounds[0].end_to_end]
    lines += ["", "CPU seconds per 100,000 events, by process:", "", "| run | process | seconds |", "|---|---|---:|"]
    runs = {"apply alone": [r.apply_cpu for r in rounds]}
    runs |= {name: [r.end_to_end[name][1] for r in rounds] for name in rounds[0].end_to_end}
    for name, cpus in runs.items():
        lines += [f"| {name} | {who} | {median([cpu[who] for cpu in cpus]):.2f} |" for who in cpus[0]]
    lines += ["", "Seconds per 100,000 events by stage, apply alone:", "", "| until | seconds |", "|---|---:|"]
    lines += [f"| {stage} | {median([r.stages[stage] for r in rounds]):.2f} |" for stage in rounds[0].stages]
    return "\n".join(lines) + "\n"


def _machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return f"{os.cpu_count()} x {model}, Python {platform.python_version()}, {platform.system()} {platform.release()}"


if __name__ == "__main__":
    sys.exit(main())
