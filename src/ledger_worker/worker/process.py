"""One process: its loops, its signals, and how it ends.

The consuming loop runs in the thread that calls `run`, every other loop in one of its own. A loop that fails takes the
process with it, because what is left would look alive and do half of the work. Whoever started the process starts it
again, and the database says where to go on.

Signals are waited for by a thread and blocked in all others. A handler would run in the middle of whatever the main
thread does, and could wait for a lock that the main thread itself holds.
"""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import structlog
from sqlalchemy import Engine

from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.due import book_due_now
from ledger_worker.apply.transaction import apply_batch, rehearse_batch
from ledger_worker.config import Settings
from ledger_worker.errors import UnavailableError
from ledger_worker.health import Health, serve
from ledger_worker.kafka.client import admin_client
from ledger_worker.kafka.registry import SchemaRegistry
from ledger_worker.kafka.topics import plan, require
from ledger_worker.logs import configure_logs
from ledger_worker.metrics import CollectorRegistry, Crash, Metrics, exposition
from ledger_worker.store import database
from ledger_worker.store.catalogue import read_ledger
from ledger_worker.wire.framing import Registry
from ledger_worker.worker.clock import run_clock
from ledger_worker.worker.consume import Transactions, run_consume
from ledger_worker.worker.shared import Shared

__all__ = ["CONSUME", "Loop", "calm_collector", "clock", "consume", "run"]

Loop = Callable[[Shared], None]
"""Works until `Shared.stop` is set; what it raises ends the process."""

CONSUME = "consume"
"""The name of the loop that runs in the thread of `run`."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_JOIN_SECONDS = 0.2
_EXIT_OVERDUE = 70
_COLLECT_AFTER_ALLOCATIONS = 100_000
_CONNECTIONS_MAX = 6
_JOIN_SHARE = 0.8
"""How much of the grace time the other loops may take; the rest is for closing what they share."""


def run(settings: Settings, loops: Mapping[str, Loop]) -> None:
    """The loops have worked until SIGTERM or SIGINT, and have stopped in good order.

    Raises ConfigurationError or UnavailableError when the process cannot start, and what a
    loop raised when one failed. A process that does not stop within the grace time is ended with status 70: nothing is
    lost by that, only left for the next owner.
    """
    configure_logs(settings.log_level)
    log = structlog.get_logger()
    stop, wake, has_ended = threading.Event(), threading.Event(), threading.Event()
    with ExitStack() as stack:
        stack.callback(has_ended.set)
        stack.enter_context(_signals(stop, wake))  # first: threads inherit which signals are blocked
        shared = _start(settings, stop, wake, stack)
        watch = threading.Thread(target=_end_when_overdue, args=(settings, stop, has_ended), name="grace", daemon=True)
        watch.start()
        calm_collector()
        log.info("process_started", loops=sorted(loops), pid=os.getpid())
        failures = _run_loops(shared, loops)
        if failures:
            name, error = failures[0]
            log.error("loop_failed", loop=name, error=str(error), exc_info=error)
            raise error
        log.info("process_stopped")


def calm_collector() -> None:
    """Python's collector runs after more allocations, and never walks what was there before the first batch.

    A batch makes some hundred thousand values that hold no cycles and are dropped together; walking them as they grow
    took a third of the CPU of applying (measured over 20,000 events in batches of 1,000).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_ALLOCATIONS, 20, 50)


def consume(shared: Shared) -> None:
    """The consuming loop, applying to the ledger of `Shared.engine`."""
    stages = shared.stages()
    catalogues = Catalogues()
    transactions = Transactions(
        apply=lambda batch: apply_batch(shared.engine, batch, catalogues, stages),
        rehearse=lambda batch: rehearse_batch(shared.engine, batch, catalogues, stages),
    )
    run_consume(shared, stages, transactions)


def clock(shared: Shared) -> None:
    """The clock, booking what falls due in the ledger of `Shared.engine`."""
    stages = shared.stages()
    catalogues = Catalogues()
    run_clock(shared, lambda: book_due_now(shared.engine, catalogues, stages))


def _start(settings: Settings, stop: threading.Event, wake: threading.Event, stack: ExitStack) -> Shared:
    """What the loops need is there, and what they rest on was checked."""
    crash = Crash.parse(settings.crash_at)
    engine = _engine(settings)
    stack.callback(engine.dispose)
    database.require_current(engine)
    with engine.connect() as conn:
        lanes = read_ledger(conn).lanes
    for finding in require(admin_client(settings.broker), plan(settings, lanes)):
        structlog.get_logger().warning("topic_finding", topic=finding.topic, problem=finding.problem)
    metrics = Metrics(CollectorRegistry())
    health = Health(stall_seconds=settings.stall_seconds)
    if settings.metrics_port:
        server = serve(health, exposition(metrics.registry), settings.metrics_host, settings.metrics_port)
        stack.callback(server.stop)
    return Shared(
        settings=settings,
        engine=engine,
        registry=_registry(settings, metrics),
        metrics=metrics,
        crash=crash,
        health=health,
        stop=stop,
        wake=wake,
    )


def _engine(settings: Settings) -> Engine:
    return database.engine(
        settings.database_url,
        role=settings.application_role or None,
        connections_max=_CONNECTIONS_MAX,
        lock_timeout_seconds=settings.lock_timeout_seconds,
        statement_timeout_seconds=settings.statement_timeout_seconds,
        idle_in_transaction_timeout_seconds=settings.idle_in_transaction_session_timeout_seconds,
    )


def _registry(settings: Settings, metrics: Metrics) -> Registry | None:
    if not settings.schema_registry_url:
        return None
    schemas = SchemaRegistry(
        settings.schema_registry_url, lambda result: metrics.registry_lookups.labels(result=result.value).inc()
    )
    return Registry(schemas.schema_by_id, schemas.id_of_schema)


@contextmanager
def _signals(stop: threading.Event, wake: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`, and wake whoever waits for work."""

    def wait_for_one() -> None:
        """One signal came, of somebody who ends the process or of ours who ends this thread."""
        number = signal.sigwait(_SIGNALS)
        if not has_ended.is_set():
            structlog.get_logger().info("stop_told", signal=signal.Signals(number).name)
        stop.set()
        wake.set()

    has_ended = threading.Event()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    thread = threading.Thread(target=wait_for_one, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        if thread.is_alive() and thread.ident is not None:
            signal.pthread_kill(thread.ident, signal.SIGTERM)
            thread.join(_JOIN_SECONDS)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_loops(shared: Shared, loops: Mapping[str, Loop]) -> list[tuple[str, Exception]]:
    """What failed, in order of time; every loop has ended, or is given up after the grace time."""
    failures: list[tuple[str, Exception]] = []

    def run_one(name: str, loop: Loop) -> None:
        """The loop has ended, well or not, and all others are told to."""
        try:
            loop(shared)
            if not shared.stop.is_set():
                failures.append((name, RuntimeError(f"the loop {name} ended although nobody told it to stop")))
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            failures.append((name, error))
        finally:
            shared.health.ended(name)
            shared.stop.set()
            shared.wake.set()

    threads = [
        threading.Thread(target=run_one, args=(name, loop), name=name, daemon=True)
        for name, loop in loops.items()
        if name != CONSUME
    ]
    for thread in threads:
        thread.start()
    if CONSUME in loops:
        run_one(CONSUME, loops[CONSUME])
    shared.stop.wait()
    until = time.monotonic() + shared.settings.grace_seconds * _JOIN_SHARE
    for thread in threads:
        while thread.is_alive() and time.monotonic() < until:
            thread.join(_JOIN_SECONDS)
        if thread.is_alive():
            failures.append((thread.name, UnavailableError(f"the loop {thread.name} did not stop in time")))
    return failures


def _end_when_overdue(settings: Settings, stop: threading.Event, has_ended: threading.Event) -> None:
    """The process ends even when a client of Kafka or of the database does not let go."""
    stop.wait()
    if not has_ended.wait(settings.grace_seconds):
        structlog.get_logger().error("grace_time_over", seconds=settings.grace_seconds)
        os._exit(_EXIT_OVERDUE)
