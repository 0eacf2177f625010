"""`make demo`: the whole ledger at work on this machine, with all that goes wrong in a day, and the proof after it.

A cluster in a temporary folder; the simulator's shop tells its records while two workers apply them and publish what
changed, and services ask for units; in the middle one worker is killed without warning and another takes its place.
When all is read, eight threads at once ask for the last units of one customer. Then what the ledger holds of every
customer is compared with what the oracle makes of the simulator's true history and of what was granted, the ledger is
verified, and the topics are read back.

The records are sent no further ahead than a bounded lead, so the topics race each other as they do in life, and do not
drift apart by everything at once.

Nothing is left behind, whatever ends the demo: the workers and the cluster are ended and the folder is removed. Where
something was not as it has to be, the folder stays for its logs.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, Engine

from ledger_worker.config import Settings, load
from ledger_worker.domain.events import Event
from ledger_worker.domain.requests import Answer
from ledger_worker.errors import LedgerError
from ledger_worker.kafka.client import admin_client
from ledger_worker.kafka.reading import Reading, read_topic
from ledger_worker.kafka.sending import OutgoingRecord, send
from ledger_worker.kafka.topics import create, plan
from ledger_worker.local import cluster, daemon
from ledger_worker.local.asking import ask_until, fight_for_the_last, history_of
from ledger_worker.local.comparison import Comparison, compare
from ledger_worker.local.simulator.simulate import CATALOGUE_FILE, Simulation, Truth, simulate
from ledger_worker.local.tuning import FAST
from ledger_worker.operations.publish import publish
from ledger_worker.operations.verify import verify
from ledger_worker.reports.arrivals import Arrivals, arrivals, consumed, records_read
from ledger_worker.reports.customer import Explanation, explain
from ledger_worker.store import customers, database, outbox
from ledger_worker.store.catalogue import lock_exclusive, read_ledger, set_settlement_window
from ledger_worker.wire.catalogue_file import definitions_of_toml
from ledger_worker.wire.decode import decode_change, decode_customer_state
from ledger_worker.wire.schemas import FAMILY_OF, TopicFamily

__all__ = ["CUSTOMERS", "run"]

CUSTOMERS = 3000
"""How many customers the demo has unless told otherwise: about 47,000 records."""

_SETTLEMENT_WINDOW_DAYS = 120
"""Wider than the history that is told within minutes."""
_LEAD_RECORDS_MAX = 4000
_WORKERS = 2
_KILLED_AT_SHARE = 0.4
_LOOK_SECONDS = 0.1
_PRINT_SECONDS = 3.0
_STALL_SECONDS_MAX = 90.0
_STOP_SECONDS_MAX = 40.0
_LOG_LINES_SHOWN = 15
_COLUMNS_UNLESS_TERMINAL = 120
_POSTINGS_SHOWN = 4
_DIFFERENCES_SHOWN = 5
_CUSTOMERS_AT_ONCE = 1000


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
    workers = _Workers(folder)
    is_clean, keeps_logs = False, True
    try:
        with _interrupted_by_signals(), _client_log(folder / "clients.log"):
            is_clean = _Demo(console, workers, customers, seed).run(folder / "cluster")
        keeps_logs = not is_clean
    except _DemoFailedError as error:
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


# -- the run --


class _Demo:
    """One run: the servers, the records and the workers, in the order of the story."""

    def __init__(self, console: Console, workers: "_Workers", customers: int, seed: int) -> None:
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
            self._judge(engine, settings, simulation.truth)
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
        sender = _Sender(settings, simulation)
        told_enough = threading.Event()
        customer_ids = sorted({event.customer_id for event in truth.history})
        try:
            with _progress(self._console, truth.records) as shown, ThreadPoolExecutor(1) as beside:
                asking = beside.submit(ask_until, told_enough, engine, customer_ids, self._seed)
                try:
                    self._watch(engine, sender, truth.records, shown)
                finally:
                    told_enough.set()
        finally:
            sender.stop()
        spent = time.monotonic() - began
        self._ask_for_the_last(engine, asking.result(), customer_ids)
        with self._console.status("stopping the workers"):
            self._problems += self._workers.stop()
        self._console.print(
            f"Applied and published after {spent:.1f} s, {truth.records / spent:,.0f} records a second, with the start"
            f" of {_WORKERS} workers and the death of one."
        )

    def _ask_for_the_last(self, engine: Engine, answers: Sequence[Answer], customer_ids: Sequence[str]) -> None:
        """What was asked meanwhile is told, and the last units of somebody are asked for by all at once."""
        granted = sum(answer.is_granted for answer in answers)
        self._console.print(
            f"Meanwhile {len(answers):,} requests for units were answered: {granted:,} granted, the others refused."
        )
        self._granted = history_of(answers)
        last = fight_for_the_last(engine, customer_ids)
        if last is None:
            self._console.print("No customer has a few units left to fight for.")
            return
        self._granted += history_of(last.answers)
        self._console.print(
            f"{last.customer_id} had {last.left} of {last.entitlement} left; eight threads at once asked for one each,"
            f" until they were refused: {last.granted} granted."
        )
        if last.granted != last.left:
            self._problems.append(f"{last.granted} of {last.left} units that were left were granted")
        with self._console.status("waiting for what that told"), engine.connect() as connection:
            until = time.monotonic() + _STALL_SECONDS_MAX
            while sum(lane.rows for lane in outbox.backlog(connection)):
                if time.monotonic() > until:
                    raise _DemoFailedError(f"changes have waited for {_STALL_SECONDS_MAX:.0f} s to be published")
                connection.rollback()
                time.sleep(_LOOK_SECONDS)

    def _watch(self, engine: Engine, sender: "_Sender", total: int, shown: "_Shown") -> None:
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

    # -- the proof --

    def _judge(self, engine: Engine, settings: Settings, truth: Truth) -> None:
        """What the ledger and the topics hold was compared with the truth and with each other."""
        with engine.connect() as connection:
            self._judge_arrivals(arrivals(connection), truth)
            self._judge_types(consumed(connection), truth)
            self._judge_customers(connection, truth)
            self._console.print()
            connection.rollback()
            found = explain(connection, truth.example, postings_max=_POSTINGS_SHOWN)
            if found is None:
                self._problems.append(f"customer {truth.example} is not known to the ledger")
            else:
                _print_explanation(self._console, found)
            self._judge_ledger(connection)
            self._judge_topics(connection, settings, truth)

    def _judge_arrivals(self, found: Arrivals, truth: Truth) -> None:
        rows: list[_Row] = []
        for outcome in sorted({*found.outcomes, *truth.outcomes, *truth.outcomes_min}):
            count, expected = found.outcomes.get(outcome, 0), truth.outcomes.get(outcome)
            rows.append(_Row(outcome, count, expected, truth.outcomes_min.get(outcome, 0)))
        rows += [
            _Row("events in all", found.events, truth.events),
            _Row("duplicate", found.duplicates, truth.duplicates),
        ]
        for reason in sorted({*found.dead_letters, *truth.dead_letters}):
            kept = found.dead_letters.get(reason, 0)
            rows.append(_Row(f"dead letter: {reason}", kept, truth.dead_letters.get(reason, 0)))
        rows.append(_Row("records in all", found.records, truth.records))
        self._judge_counts("what came of them", "records", rows)
        if found.unaccounted:
            self._problems.append(f"{found.unaccounted} records are neither event, duplicate nor dead letter")

    def _judge_types(self, found: Mapping[str, int], truth: Truth) -> None:
        """Every type of fact that a topic carries was consumed, as often as it was told."""
        types = [*FAMILY_OF, *sorted({*found, *truth.types} - {*FAMILY_OF})]
        rows = [_Row(name, found.get(name, 0), truth.types.get(name, 0), 1) for name in types]
        self._judge_counts("what they told", "events", rows)

    def _judge_counts(self, title: str, unit: str, rows: Sequence["_Row"]) -> None:
        table = Table(title, unit, "expected", title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(row.name, f"{row.count:,}", row.shown, style=None if row.is_right else "red")
            if not row.is_right:
                self._problems.append(f"{row.name}: {row.count}, expected {row.shown}")
        self._console.print(table)

    def _judge_customers(self, connection: Connection, truth: Truth) -> None:
        began = time.monotonic()
        with self._console.status("asking the oracle about every customer"):
            connection.rollback()
            history = [*truth.history, *self._granted]
            found = compare(connection, history)
            connection.rollback()
        self._problems += _in_words(found)
        verdict = f"{found.customers_differing:,} of them differ" if found.differing else "all are equal"
        self._console.print(
            f"Compared {found.customers:,} customers with what the oracle makes of {len(history):,} events, as of"
            f" {found.at:%Y-%m-%d %H:%M:%S}Z, in {time.monotonic() - began:.1f} s: {verdict}."
        )

    def _judge_ledger(self, connection: Connection) -> None:
        began = time.monotonic()
        with self._console.status("verifying the ledger"):
            connection.rollback()
            verdict = verify(connection)
            connection.rollback()
        for finding in verdict.findings:
            self._problems.append(f"{finding.customer_id or 'ledger'}, {finding.row}: {finding.message}")
        self._console.print(
            f"Verified {verdict.events:,} events, {verdict.postings:,} postings and {verdict.entries:,} entries of"
            f" {verdict.customers:,} customers in {time.monotonic() - began:.1f} s:"
            f" {sum(result.findings for result in verdict.checks) or 'no'} findings."
        )

    def _judge_topics(self, connection: Connection, settings: Settings, truth: Truth) -> None:
        with self._console.status("reading the topics back"):
            told = _Told()
            for records in read_topic(settings.broker, Reading(topic=settings.topic_changes)):
                for record in records:
                    told.take_change(record.value)
            for records in read_topic(settings.broker, Reading(topic=settings.topic_state)):
                for record in records:
                    told.take_state(record.value)
            dead = Counter(
                _header(record.headers, "dlq.error.reason")
                for records in read_topic(settings.broker, Reading(topic=settings.topic_dead_letters))
                for record in records
            )
        expected: dict[str, int] = {}
        ids = sorted(told.sequences)
        for start in range(0, len(ids), _CUSTOMERS_AT_ONCE):
            heads, _ = customers.read_heads(connection, ids[start : start + _CUSTOMERS_AT_ONCE])
            expected |= {customer_id: head.sequence for customer_id, head in heads.items() if head.sequence}
        self._problems += told.problems
        if told.sequences != expected:
            self._problems.append("the changes topic does not end where the ledger's sequences do")
        if told.states != expected:
            self._problems.append("the state topic does not hold the last picture of every customer")
        if dead != truth.dead_letters:
            self._problems.append(f"the dead-letter topic holds {dict(dead)}, expected {dict(truth.dead_letters)}")
        self._console.print(
            f"{told.changes:,} changes were told of {len(told.sequences):,} customers, each customer's from 1 on"
            f" without a gap and in order ({told.repeats:,} repeats); the state topic ends with each one's last"
            f" picture; all {dead.total():,} dead letters are published."
        )


class _Told:
    """What was read back of the output topics, as a consumer takes it: what is not newer is ignored."""

    def __init__(self) -> None:
        self.sequences: dict[str, int] = {}
        self.states: dict[str, int] = {}
        self.changes = 0
        self.repeats = 0
        self.problems: list[str] = []

    def take_change(self, value: bytes | None) -> None:
        """One more record of the changes topic."""
        change = decode_change(value)
        last = self.sequences.get(change.customer_id, 0)
        if change.sequence <= last:
            self.repeats += 1
            return
        if change.sequence != last + 1:
            self.problems.append(f"customer {change.customer_id}: change {change.sequence} follows {last}")
        self.changes += 1
        self.sequences[change.customer_id] = change.sequence

    def take_state(self, value: bytes | None) -> None:
        """One more record of the state topic."""
        picture = decode_customer_state(value)
        if picture.sequence < self.states.get(picture.customer_id, 0):
            self.problems.append(f"customer {picture.customer_id}: an older picture follows a newer one")
        self.states[picture.customer_id] = picture.sequence


def _header(headers: Sequence[tuple[str, bytes | None]], name: str) -> str:
    found = [value for key, value in headers if key == name]
    return (found[-1] or b"").decode() if found else ""


class _Row(msgspec.Struct, frozen=True):
    """A count beside what it has to be: `expected` where that is certain, and at least `least`."""

    name: str
    count: int
    expected: int | None
    least: int = 0

    @property
    def is_right(self) -> bool:
        """Whether the count is as it has to be."""
        return self.count >= self.least and self.expected in {None, self.count}

    @property
    def shown(self) -> str:
        """What it has to be, in words."""
        if self.expected is not None and self.expected >= self.least:
            return f"{self.expected:,}"
        return f"at least {self.least:,}" if self.least else "either way"


def _in_words(found: Comparison) -> list[str]:
    """The first things that differ, a sentence each, and how many more there are."""
    sentences = [
        f"customer {one.customer_id}, {one.entitlement}: {one.field} is {one.booked}, the oracle says {one.expected}"
        for one in found.differing[:_DIFFERENCES_SHOWN]
    ]
    more = len(found.differing) - len(sentences)
    return [*sentences, f"{more} more figures of customers differ"] if more else sentences


# -- printing --

_Shown = Callable[[int, int, int], None]
"""Takes how many records are sent and applied, and how many changes wait to be published."""


@contextmanager
def _progress(console: Console, total: int) -> Iterator[_Shown]:
    """Bars on a terminal; elsewhere a line every few seconds."""
    if not console.is_terminal:
        yield _Lines(console, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        sent = bars.add_task("records sent", total=total)
        applied = bars.add_task("records applied", total=total)
        outgoing = bars.add_task("changes waiting", total=None)
        yield _Bars(bars, sent, applied, outgoing)


class _Bars:
    """Progress on a terminal."""

    def __init__(self, bars: Progress, sent: TaskID, applied: TaskID, outgoing: TaskID) -> None:
        self._bars = bars
        self._sent, self._applied, self._outgoing = sent, applied, outgoing
        self._most = 1

    def __call__(self, sent: int, applied: int, waiting: int) -> None:
        self._most = max(self._most, waiting)
        self._bars.update(self._sent, completed=sent)
        self._bars.update(self._applied, completed=applied)
        self._bars.update(self._outgoing, completed=waiting, total=self._most)


class _Lines:
    """Progress in a file or a pipe."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._next = 0.0

    def __call__(self, sent: int, applied: int, waiting: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PRINT_SECONDS
            self._console.print(f"{sent:,} of {self._total:,} sent, {applied:,} applied, {waiting:,} changes wait")


def _print_explanation(console: Console, found: Explanation) -> None:
    console.print(f"One customer, {found.customer_id}, as of {found.as_of:%Y-%m-%d %H:%M:%S}Z:")
    table = Table(
        "entitlement", "allowed", "limit", "used", "left", "overage", "debt", "grants, in the order of burning"
    )
    for each in found.entitlements:
        decision = each.decision
        counts = (decision.limit, decision.used, decision.remaining, decision.overage or None, decision.debt or None)
        table.add_row(
            each.name,
            "yes" if decision.allowed else f"no, {decision.reason.replace('_', ' ')}",
            *("" if count is None else f"{count:,}" for count in counts),
            "\n".join(f"{grant.sku}: {grant.words}" for grant in each.grants),
        )
    console.print(table)
    for posting in found.postings:
        cause = "" if posting.cause is None else f", {posting.cause.type} {posting.cause.event_id}"
        console.print(Text(f"posting {posting.number}{cause}:"))
        for entry in posting.entries:
            console.print(Text(f"    {entry.words}"))


# -- records and workers --


class _Sender:
    """Sends the records in a thread, no further ahead of `applied` than the lead."""

    def __init__(self, settings: Settings, simulation: Simulation) -> None:
        self.applied = 0
        self.sent = 0
        self._topics = {
            TopicFamily.PURCHASES: settings.topic_purchases,
            TopicFamily.SUBSCRIPTIONS: settings.topic_subscriptions,
            TopicFamily.USAGE: settings.topic_usage,
        }
        self._simulation = simulation
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sender")
        self._sending: Future[None] = self._pool.submit(self._send, settings.broker)

    def require_well(self) -> None:
        """Raises what made the sending fail, if it did."""
        if self._sending.done():
            self._sending.result()

    def stop(self) -> None:
        """Nothing more is sent."""
        self._stop.set()
        self._pool.shutdown()

    def _send(self, broker: Mapping[str, str]) -> None:
        for acknowledged in send(broker, self._paced()):
            self.sent = sum(acknowledged.values())

    def _paced(self) -> Iterator[OutgoingRecord]:
        for number, record in enumerate(self._simulation.records):
            while number - self.applied > _LEAD_RECORDS_MAX:
                if self._stop.wait(_LOOK_SECONDS):
                    return
            yield OutgoingRecord(
                topic=self._topics[record.family], key=record.key, value=record.value, headers=record.headers
            )


class _Worker(msgspec.Struct):
    """One worker process, by the number under which people see it."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path


class _Workers:
    """The worker processes: `ledger-worker run` each, with what they say in a log of their own."""

    def __init__(self, folder: Path) -> None:
        self.environment: Mapping[str, str] = {}
        self._folder = folder
        self._running: list[_Worker] = []
        self._started = 0

    def start(self) -> int:
        """One more runs; the answer is its number."""
        self._started += 1
        log = self._folder / f"worker-{self._started}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ledger_worker.cli", "run"],
                env={**inherited, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C at the terminal is for us: we stop them, in order.
                start_new_session=True,
            )
        self._running.append(_Worker(self._started, process, log))
        return self._started

    def replace_one(self) -> tuple[int, int]:
        """The oldest is killed without warning, and another is started; the answer is their numbers."""
        killed = self._running.pop(0)
        killed.process.kill()
        killed.process.wait()
        return killed.number, self.start()

    def require_alive(self) -> None:
        """Raises when one has ended by itself, with the end of its log."""
        for worker in self._running:
            if worker.process.poll() is not None:
                raise _DemoFailedError(f"worker {worker.number} ended by itself: {_end_of(worker.log)}")

    def stop(self) -> list[str]:
        """All have ended, asked by SIGTERM; the answer is what was wrong with that."""
        problems = []
        for worker in self._running:
            worker.process.terminate()
        for worker in self._running:
            try:
                status = worker.process.wait(_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
                problems.append(f"worker {worker.number} did not stop within {_STOP_SECONDS_MAX:.0f} s")
            else:
                if status:
                    problems.append(f"worker {worker.number} stopped with status {status}: {_end_of(worker.log)}")
        self._running.clear()
        return problems

    def kill(self) -> None:
        """None runs, at once."""
        for worker in self._running:
            worker.process.kill()
            worker.process.wait()
        self._running.clear()


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES_SHOWN:])


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that what was started is ended."""

    def interrupt(_number: int, _frame: object) -> None:
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


def _clean_up(folder: Path, workers: _Workers, *, keeps_logs: bool) -> None:
    """Nothing runs any more; the folder is gone, or holds only logs. Not to be interrupted: it takes a second."""
    with daemon.interrupts_wait():
        workers.kill()
        if keeps_logs:
            for log in (folder / "cluster").glob("*.log"):
                shutil.copy(log, folder)
        cluster.delete(folder / "cluster")
        if not keeps_logs:
            daemon.remove_folder(folder)
