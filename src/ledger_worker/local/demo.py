"""`make demo`: the whole ledger at work on this machine, with all that goes wrong in a day, and the proof after it.

A cluster in a temporary folder; the simulator's shop tells its records while two workers apply them and publish what
changed, and services ask for units and seats; in the middle one worker is killed without warning and another takes its
place. When all is read, eight threads at once ask for the last units of one customer, and for the last seats of one.
Then what the ledger holds of every customer is compared with what the oracle makes of the simulator's true history and
of what was granted, the ledger is verified, and the topics are read back.

Nothing is left behind, whatever ends the demo: the workers and the cluster are ended and the folder is removed. Where
something was not as it has to be, the folder stays for its logs.
"""

import logging
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text
from sqlalchemy import Engine

from ledger_worker.config import Settings, load
from ledger_worker.domain.catalogue import EntitlementType
from ledger_worker.domain.events import Event
from ledger_worker.domain.requests import Answer, AssignSeat, Confirm, Release, SwapSeat, UnassignSeat
from ledger_worker.errors import LedgerError
from ledger_worker.kafka.client import admin_client
from ledger_worker.kafka.topics import create, plan
from ledger_worker.local import cluster, daemon
from ledger_worker.local.asking import Answered, ask_until, fight_for_the_last, history_of, hold_for
from ledger_worker.local.judging import judge
from ledger_worker.local.progress import Shown, progress
from ledger_worker.local.sender import Sender
from ledger_worker.local.simulator.simulate import CATALOGUE_FILE, Simulation, simulate
from ledger_worker.local.tuning import FAST
from ledger_worker.local.workers import WorkerEndedError, Workers
from ledger_worker.operations.publish import publish
from ledger_worker.reports.arrivals import fallen_due, records_read
from ledger_worker.store import database, outbox
from ledger_worker.store.catalogue import lock_exclusive, read_ledger, set_settlement_window
from ledger_worker.wire.catalogue_file import definitions_of_toml

__all__ = ["CUSTOMERS", "run"]

CUSTOMERS = 3000
"""How many customers the demo has unless told otherwise: about 47,000 records."""

_SETTLEMENT_WINDOW_DAYS = 120
"""Wider than the history that is told within minutes."""
_WORKERS = 2
_KILLED_AT_SHARE = 0.4
_LOOK_SECONDS = 0.1
_HELD_SECONDS = 1
_STANDS_STILL_SECONDS = 2
_STALL_SECONDS_MAX = 90.0
_COLUMNS_UNLESS_TERMINAL = 120


class _DemoFailedError(LedgerError):
    """The demo cannot go on; the message says why."""


def run(*, customers: int = CUSTOMERS, seed: int, console: Console | None = None) -> bool:
    """The demo has run and everything it started is gone; True when all was as it has to be.

    Raises ConfigurationError or UnavailableError when the cluster cannot be started, KeyboardInterrupt when it was
    interrupted, also by SIGTERM or SIGHUP.
    """
    console = console or Console(width=None if sys.stdout.isatty() else _COLUMNS_UNLESS_TERMINAL)
    console.print(Text(f"seed {seed}: the same customers come again with --seed {seed} --customers {customers}"))
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="ledger-demo-"))
    workers = Workers(folder)
    is_clean, keeps_logs = False, True
    try:
        with _interrupted_by_signals(), _client_log(folder / "clients.log"):
            is_clean = _Demo(console, workers, customers, seed).run(folder / "cluster")
        keeps_logs = not is_clean
    except (_DemoFailedError, WorkerEndedError) as error:
        console.print(Text(str(error), style="red"))
    except KeyboardInterrupt:
        keeps_logs = False
        console.print("Interrupted: what was started is ended.")
        raise
    finally:
        _clean_up(folder, workers, keeps_logs=keeps_logs)
    spent = time.monotonic() - began
    if is_clean:
        console.print(Text(f"All clean after {spent:.0f} s. Nothing is left running.", style="green"))
    else:
        console.print(
            Text(f"Not clean, after {spent:.0f} s. Nothing is left running; logs are in {folder}", style="red")
        )
    return is_clean


class _Demo:
    """One run: the servers, the records and the workers, in the order of the story."""

    def __init__(self, console: Console, workers: Workers, customers: int, seed: int) -> None:
        self._console = console
        self._workers = workers
        self._customers = customers
        self._seed = seed
        self._problems: list[str] = []
        self._granted: list[Event] = []

    def run(self, folder: Path) -> bool:
        """From nothing to the verdict."""
        with ThreadPoolExecutor(1) as beside:
            simulated = beside.submit(simulate, customers=self._customers, seed=self._seed, now=datetime.now(UTC))
            with self._console.status("starting PostgreSQL and Kafka; the first time on a machine also fetches Kafka"):
                servers = cluster.start(folder, FAST)
            settings = self._prepare(servers)
            simulation = simulated.result()
        engine = database.engine(servers.database_url, application_name="ledger-worker demo")
        try:
            self._tell(engine, settings, simulation)
            self._problems += judge(self._console, engine, settings, simulation.truth, self._granted)
        finally:
            engine.dispose()
        for problem in self._problems:
            self._console.print(Text(f"not as it has to be: {problem}", style="red"))
        return not self._problems

    def _prepare(self, servers: cluster.Cluster) -> Settings:
        """The servers hold a migrated ledger without events, its topics, and the catalogue of the shop."""
        environment = {
            "LEDGER_DATABASE_URL": servers.database_url,
            "LEDGER_KAFKA_BOOTSTRAP": servers.kafka_bootstrap,
        }
        settings = load(environment)
        self._workers.environment = environment
        with self._console.status("making tables, topics and the catalogue"):
            database.migrate(servers.database_url)
            engine = database.engine(servers.database_url, role=None)
            try:
                with engine.begin() as connection:
                    lock_exclusive(connection)
                    set_settlement_window(connection, _SETTLEMENT_WINDOW_DAYS)
                    lanes = read_ledger(connection).lanes
                create(admin_client(settings.broker), plan(settings, lanes))
                compared = publish(engine, definitions_of_toml(CATALOGUE_FILE.read_text(encoding="utf-8")))
            finally:
                engine.dispose()
        self._console.print(
            f"A cluster runs, with a ledger, {len(plan(settings, lanes))} topics and a catalogue of"
            f" {len(compared.definitions)} definitions."
        )
        return settings

    def _tell(self, engine: Engine, settings: Settings, simulation: Simulation) -> None:
        """Every record was sent and applied, and all that changed was published, through the death of a worker."""
        truth = simulation.truth
        self._console.print(
            f"{truth.records:,} records of {self._customers:,} customers: {truth.events:,} events, of which many come"
            f" late or out of order, {truth.duplicates:,} sent twice, and {sum(truth.dead_letters.values()):,} that"
            " cannot be applied."
        )
        began = time.monotonic()
        for _ in range(_WORKERS):
            self._workers.start()
        sender = Sender(settings, simulation)
        told_enough = threading.Event()
        customer_ids = sorted({event.customer_id for event in truth.history})
        try:
            with progress(self._console, truth.records) as shown, ThreadPoolExecutor(1) as beside:
                asking = beside.submit(ask_until, told_enough, engine, customer_ids, self._seed)
                try:
                    self._watch(engine, sender, truth.records, shown)
                finally:
                    told_enough.set()
        finally:
            sender.stop()
        spent = time.monotonic() - began
        self._ask_for_the_last(engine, asking.result(), customer_ids)
        self._let_holds_expire(engine, customer_ids)
        with self._console.status("stopping the workers"):
            self._problems += self._workers.stop()
        self._console.print(
            f"Applied and published after {spent:.1f} s, {truth.records / spent:,.0f} records a second, with the start"
            f" of {_WORKERS} workers and the death of one."
        )

    def _let_holds_expire(self, engine: Engine, customer_ids: Sequence[str]) -> None:
        """What is held for a second is free again by time: told by a clock that runs, and by one that comes back."""
        held = self._hold(engine, customer_ids, "in-time")
        booked = self._wait_until_due_is_booked(engine, held)
        late = max(((recorded - instant).total_seconds() for instant, recorded in booked), default=0.0)
        self._console.print(
            f"{len(held)} holds of {_HELD_SECONDS} s that nobody confirmed were over by themselves; the clock booked"
            f" the last {max(0.0, late) * 1000:,.0f} ms after its instant."
        )
        with self._console.status("stopping every clock for a while"):
            self._problems += self._workers.stop()
            held = self._hold(engine, customer_ids, "unwatched")
            time.sleep(_HELD_SECONDS + _STANDS_STILL_SECONDS)
            self._workers.start()
        booked = self._wait_until_due_is_booked(engine, held)
        late = max(((recorded - instant).total_seconds() for instant, recorded in booked), default=0.0)
        self._console.print(
            f"With every clock stopped {len(held)} more were over at their instants too; a clock that came back booked"
            f" the last after {late:,.1f} s, as of then."
        )
        self._wait_until_told(engine)

    def _hold(self, engine: Engine, customer_ids: Sequence[str], name: str) -> list[Answer]:
        asked = hold_for(engine, customer_ids, _HELD_SECONDS, name)
        self._granted += history_of(asked)
        return [one.answer for one in asked if one.answer.is_granted]

    def _wait_until_due_is_booked(self, engine: Engine, held: Sequence[Answer]) -> list[tuple[datetime, datetime]]:
        """Each of these holds has expired and that is booked: the instants, and when each was recorded."""
        if not held:
            return []
        since = min(answer.recorded_at for answer in held)
        expected = {answer.expires_at for answer in held}
        until = time.monotonic() + _STALL_SECONDS_MAX
        with self._console.status("waiting for the clock"), engine.connect() as connection:
            while True:
                due = fallen_due(connection, [answer.customer_id for answer in held], since)
                booked = [one for one in due if one[0] in expected]
                if {instant for instant, _ in booked} == expected:
                    return booked
                if time.monotonic() > until:
                    raise _DemoFailedError(f"holds have been over for {_STALL_SECONDS_MAX:.0f} s and are not booked")
                connection.rollback()
                time.sleep(_LOOK_SECONDS)

    def _ask_for_the_last(self, engine: Engine, answers: Sequence[Answered], customer_ids: Sequence[str]) -> None:
        """What was asked meanwhile is told, and the last units of somebody are asked for by all at once."""
        granted = sum(one.answer.is_granted for one in answers)
        held = sum(one.answer.expires_at is not None for one in answers)
        ended = sum(one.answer.is_granted and isinstance(one.asked, Confirm | Release) for one in answers)
        seats = Counter(type(one.asked) for one in answers if one.answer.is_granted)
        self._console.print(
            f"Meanwhile {len(answers):,} requests were answered: {granted:,} granted, the others refused. Of those"
            f" {held:,} were to hold units, and {ended:,} to confirm or release what was held; {seats[AssignSeat]:,}"
            f" gave somebody a seat, {seats[SwapSeat]:,} passed one on, and {seats[UnassignSeat]:,} gave one back."
        )
        self._granted = history_of(answers)
        for kind in (EntitlementType.QUOTA, EntitlementType.SEATS):
            last = fight_for_the_last(engine, customer_ids, kind)
            if last is None:
                self._console.print(f"No customer has a few left to fight for of any {kind}.")
                continue
            self._granted += history_of(last.answers)
            self._console.print(
                f"{last.customer_id} had {last.left} of {last.entitlement} left; eight threads at once asked for one"
                f" each, until they were refused: {last.granted} granted."
            )
            if last.granted != last.left:
                self._problems.append(f"{last.granted} of {last.left} {last.entitlement} that were left were granted")
        self._wait_until_told(engine)

    def _wait_until_told(self, engine: Engine) -> None:
        with self._console.status("waiting for what that told"), engine.connect() as connection:
            until = time.monotonic() + _STALL_SECONDS_MAX
            while sum(lane.rows for lane in outbox.backlog(connection)):
                if time.monotonic() > until:
                    raise _DemoFailedError(f"changes have waited for {_STALL_SECONDS_MAX:.0f} s to be published")
                connection.rollback()
                time.sleep(_LOOK_SECONDS)

    def _watch(self, engine: Engine, sender: Sender, total: int, shown: Shown) -> None:
        has_killed = False
        seen, seen_at = (-1, -1, -1), time.monotonic()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while True:
                self._workers.require_alive()
                sender.require_well()
                sender.applied = records_read(connection)
                waiting = sum(lane.rows for lane in outbox.backlog(connection))
                shown(sender.sent, sender.applied, waiting)
                if sender.applied >= total and not waiting:
                    return
                if not has_killed and sender.applied >= total * _KILLED_AT_SHARE:
                    has_killed = True
                    killed, started = self._workers.replace_one()
                    self._console.print(
                        f"Worker {killed} was killed (SIGKILL) after {sender.applied:,} records; worker {started}"
                        " starts."
                    )
                now = (sender.sent, sender.applied, waiting)
                if now != seen:
                    seen, seen_at = now, time.monotonic()
                elif time.monotonic() - seen_at > _STALL_SECONDS_MAX:
                    raise _DemoFailedError(
                        f"nothing has happened for {_STALL_SECONDS_MAX:.0f} s: {sender.sent} records sent,"
                        f" {sender.applied} applied, {waiting} changes wait"
                    )
                time.sleep(_LOOK_SECONDS)


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that what was started is ended."""

    def interrupt(_number: int, _frame: object) -> None:
        """Raised between two instructions of the main thread, so every `finally` on the way out runs."""
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _client_log(log: Path) -> Iterator[None]:
    """What the Kafka client has to say, such as that a broker is only just starting, goes to a file."""
    logger = logging.getLogger("librdkafka")
    handler = logging.FileHandler(log)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
        handler.close()


def _clean_up(folder: Path, workers: Workers, *, keeps_logs: bool) -> None:
    """Nothing runs any more; the folder is gone, or holds only logs. Not to be interrupted: it takes a second."""
    with daemon.interrupts_wait():
        workers.kill()
        if keeps_logs:
            for log in (folder / "cluster").glob("*.log"):
                shutil.copy(log, folder)
        cluster.delete(folder / "cluster")
        if not keeps_logs:
            daemon.remove_folder(folder)
