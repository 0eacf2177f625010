"""Every metric and every named point of the flow, in one place; prometheus_client is known here and nowhere else.

Names begin with `ledger_`, units are seconds, records or rows, counters end in `_total`, and every label comes from a
closed list or from the topics and partitions of this ledger: never a customer, never an id.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from ledger_worker.errors import ConfigurationError

__all__ = ["CollectorRegistry", "Crash", "Metrics", "Stage", "Stages", "exposition"]

WSGIApplication = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Stage(StrEnum):
    """The named points of the flow, in their order: what is timed, and where a fault test may kill the process.

    A batch reaches the points of the worker once each, what the clock books those of the clock, a round of a relay
    those of the relay.
    """

    POLLED = "polled"
    """Records were taken from Kafka."""
    DECODED = "decoded"
    """They are values."""
    FENCED = "fenced"
    """The partitions were moved: they are still ours."""
    LOCKED = "locked"
    """The rows of the customers are held."""
    INBOX = "inbox"
    """The events that are new are known and stored."""
    LOADED = "loaded"
    """What decide needs was read."""
    DECIDED = "decided"
    """What is to be written is known."""
    WRITTEN = "written"
    """It is written, with the outbox."""
    COMMITTED = "committed"
    """The database answered the commit."""
    OFFSETS_HINTED = "offsets_hinted"
    """Kafka was told the offsets."""
    DUE_LOCKED = "due_locked"
    """The clock holds customers of whom something is due."""
    DUE_WRITTEN = "due_written"
    """It is booked, with the outbox."""
    DUE_COMMITTED = "due_committed"
    """The database answered the commit."""
    RELAY_READ = "relay_read"
    """Rows of the outbox were read."""
    RELAY_SENT = "relay_sent"
    """They are in a Kafka transaction."""
    RELAY_COMMITTED = "relay_committed"
    """Kafka answered its commit."""
    RELAY_DELETED = "relay_deleted"
    """The rows are gone."""


_FAST_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_END_TO_END_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600, 3600, 86400)
_SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)


class Metrics:
    """The metrics of one process, registered in the registry it is given; make it once for each registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._register_outcomes()
        self._register_consumer()
        self._register_batches()
        self._register_requests()
        self._register_relay()
        self._register_clock()
        self._register_dependencies()

    def _register_outcomes(self) -> None:
        self.events = self._counter("events_total", "Events by what became of them.", "outcome")
        self.dead_letters = self._counter("dead_letters_total", "Records that became dead letters.", "reason")
        self.postings = self._counter("postings_total", "Postings written.")
        self.changes = self._counter("changes_total", "Changes written to the outbox.")

    def _register_consumer(self) -> None:
        self.records = self._counter("consumer_records_total", "Records taken from Kafka and applied.", "topic")
        self.dropped = self._counter(
            "consumer_dropped_records_total",
            "Records dropped: applied before, or of a partition that is not ours.",
            "topic",
        )
        self.next_offset = self._gauge("consumer_next_offset", "The offset that is applied next.", "topic", "partition")
        self.lag_records = self._gauge("consumer_lag_records", "Records that wait in the topic.", "topic", "partition")
        self.lag_seconds = self._gauge(
            "consumer_lag_seconds", "Age of the last record applied when records wait, else 0.", "topic", "partition"
        )
        self.claimed = self._gauge("consumer_claimed_partitions", "Partitions that this process has claimed.")
        self.unclaimed = self._gauge(
            "consumer_unclaimed_partitions", "Partitions assigned to this process and not claimed yet."
        )
        self.halted = self._gauge(
            "consumer_halted_partitions", "Partitions of this process that an operator has to release."
        )
        self.is_paused = self._gauge("consumer_is_paused", "1 while a batch waits for the database, else 0.")
        self.rebalances = self._counter("consumer_rebalances_total", "Rebalances by kind.", "kind")
        self.poll_gap_seconds = self._histogram("consumer_poll_gap_seconds", "Time between two polls.", _FAST_SECONDS)

    def _register_batches(self) -> None:
        self.batch_records = self._histogram("batch_records", "Records in a batch.", _SIZES)
        self.batch_seconds = self._histogram("batch_seconds", "Time a batch's transaction took.", _FAST_SECONDS)
        self.batch_records_max = self._gauge("batch_records_max", "How many records a batch may have now: it adapts.")
        self.stage_seconds = self._histogram("stage_seconds", "Time since the point before.", _FAST_SECONDS, "stage")
        self.fenced = self._counter(
            "batch_fenced_total", "Batches given up because another owner took a partition or lane.", "loop"
        )
        self.retries = self._counter("batch_retries_total", "Attempts to apply a batch again.", "sqlstate_class")
        self.rehearsals = self._counter(
            "batch_rehearsals_total", "Attempts, rolled back, to find the event that is at fault."
        )
        self.end_to_end_seconds = self._histogram(
            "end_to_end_seconds",
            "Time from a record's timestamp until it was committed or published.",
            _END_TO_END_SECONDS,
            "until",
        )

    def _register_relay(self) -> None:
        self.published = self._counter("relay_published_records_total", "Records published.", "topic")
        self.publish_failures = self._counter("relay_failures_total", "Rounds that failed and are tried again.")
        self.lanes_held = self._gauge("relay_lanes", "Lanes that this process holds.")
        self.outbox_rows = self._gauge("outbox_rows", "Rows that wait to be published.", "lane")
        self.outbox_oldest_seconds = self._gauge("outbox_oldest_seconds", "Age of the oldest row that waits.", "lane")

    def _register_requests(self) -> None:
        self.request_batch_requests = self._histogram("request_batch_requests", "Requests answered together.", _SIZES)
        self.request_waiting_seconds = self._histogram(
            "request_waiting_seconds", "Time from asking until its transaction began.", _FAST_SECONDS
        )
        self.requests_unanswered = self._gauge("requests_unanswered", "Requests that wait or are being answered.")
        self.requests_overloaded = self._counter(
            "requests_overloaded_total", "Requests turned away because as many waited as may."
        )
        self.requests_set_aside = self._counter(
            "requests_set_aside_total", "Customers whose requests were set aside because somebody else held them."
        )

    def _register_clock(self) -> None:
        self.transitions = self._counter(
            "clock_transitions_total", "Transitions that the clock booked when they fell due."
        )
        self.clock_behind_seconds = self._gauge(
            "clock_behind_seconds", "How long the first of what is due has been due."
        )

    def _register_dependencies(self) -> None:
        self.database_failures = self._counter("database_failures_total", "Errors of the database.", "sqlstate_class")
        self.registry_lookups = self._counter(
            "schema_registry_lookups_total", "Questions put to the schema registry.", "result"
        )

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"ledger_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"ledger_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"ledger_{name}", what, labels, buckets=buckets, registry=self.registry)


class Crash:
    """Kills this process without warning when it reaches one stage for the nth time; shared by all its threads."""

    def __init__(self, stage: Stage, nth: int) -> None:
        self.stage = stage
        self._nth = nth
        self._counted = itertools.count(1)

    @classmethod
    def parse(cls, crash_at: str) -> "Crash | None":
        """What `STAGE:N` says; None for an empty text. Raises ConfigurationError when there is no such stage."""
        if not crash_at:
            return None
        stage, _, nth = crash_at.partition(":")
        if stage not in set(Stage):
            raise ConfigurationError(f"LEDGER_CRASH_AT names {stage!r}, expected one of {', '.join(Stage)}")
        return cls(Stage(stage), int(nth))

    def reached(self) -> None:
        """Its stage was reached once more."""
        if next(self._counted) == self._nth:
            os.kill(os.getpid(), signal.SIGKILL)


class Stages:
    """Times one loop from point to point; each thread has one of its own, and passes it down."""

    def __init__(self, metrics: Metrics, crash: Crash | None = None) -> None:
        self._histograms = {stage: metrics.stage_seconds.labels(stage=stage.value) for stage in Stage}
        self._crash = crash
        self._last = time.perf_counter()

    def begin(self) -> None:
        """A new batch or round starts now: the next stage is timed from here."""
        self._last = time.perf_counter()

    def reached(self, stage: Stage) -> None:
        """That point was reached; what went by since the point before is its time."""
        now = time.perf_counter()
        self._histograms[stage].observe(now - self._last)
        self._last = now
        if self._crash is not None and self._crash.stage is stage:
            self._crash.reached()


def exposition(registry: CollectorRegistry) -> WSGIApplication:
    """A WSGI application that answers with the metrics, in the format that the caller asks for."""
    return make_wsgi_app(registry)
