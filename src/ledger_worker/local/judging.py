"""Whether all is as it has to be: what the ledger and the topics hold beside what was told, and beside each other.

Whatever is not becomes a sentence. Nothing is changed, and no rule may live here: what customers have to have is the
oracle's to say.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, Engine

from ledger_worker.config import Settings
from ledger_worker.domain.events import Event
from ledger_worker.kafka.reading import Reading, read_topic
from ledger_worker.local.comparison import Comparison, compare
from ledger_worker.local.simulator.simulate import Truth
from ledger_worker.operations.verify import verify
from ledger_worker.reports.arrivals import Arrivals, arrivals, consumed
from ledger_worker.reports.customer import Explanation, explain
from ledger_worker.store import customers
from ledger_worker.wire.decode import decode_change, decode_customer_state
from ledger_worker.wire.schemas import FAMILY_OF

__all__ = ["judge"]

_POSTINGS_SHOWN = 4
_DIFFERENCES_SHOWN = 5
_CUSTOMERS_AT_ONCE = 1000


def judge(console: Console, engine: Engine, settings: Settings, truth: Truth, granted: Sequence[Event]) -> list[str]:
    """What is not as it has to be, a sentence each; `granted` is what services were granted beside the true history.

    What was compared, and one customer's life, are printed.
    """
    found = _Judge(console)
    with engine.connect() as connection:
        found.judge_arrivals(arrivals(connection), truth)
        found.judge_types(consumed(connection), truth)
        found.judge_customers(connection, truth, granted)
        console.print()
        connection.rollback()
        explained = explain(connection, truth.example, postings_max=_POSTINGS_SHOWN)
        if explained is None:
            found.problems.append(f"customer {truth.example} is not known to the ledger")
        else:
            _print_explanation(console, explained)
        found.judge_ledger(connection)
        found.judge_topics(connection, settings, truth)
    return found.problems


class _Judge:
    """Compares one thing after the other, and gathers what is wrong."""

    def __init__(self, console: Console) -> None:
        self.problems: list[str] = []
        self._console = console

    def judge_arrivals(self, found: Arrivals, truth: Truth) -> None:
        """As many records as were told became events of each outcome, duplicates and dead letters of each reason."""
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
            self.problems.append(f"{found.unaccounted} records are neither event, duplicate nor dead letter")

    def judge_types(self, found: Mapping[str, int], truth: Truth) -> None:
        """Every type of fact that a topic carries was consumed, as often as it was told."""
        types = [*FAMILY_OF, *sorted({*found, *truth.types} - {*FAMILY_OF})]
        rows = [_Row(name, found.get(name, 0), truth.types.get(name, 0), 1) for name in types]
        self._judge_counts("what they told", "events", rows)

    def judge_customers(self, connection: Connection, truth: Truth, granted: Sequence[Event]) -> None:
        """What each customer has is what the oracle makes of all that happened."""
        began = time.monotonic()
        with self._console.status("asking the oracle about every customer"):
            connection.rollback()
            history = [*truth.history, *granted]
            found = compare(connection, history)
            connection.rollback()
        self.problems += _in_words(found)
        verdict = f"{found.customers_differing:,} of them differ" if found.differing else "all are equal"
        self._console.print(
            f"Compared {found.customers:,} customers with what the oracle makes of {len(history):,} events, as of"
            f" {found.at:%Y-%m-%d %H:%M:%S}Z, in {time.monotonic() - began:.1f} s: {verdict}."
        )

    def judge_ledger(self, connection: Connection) -> None:
        """Verify has no findings."""
        began = time.monotonic()
        with self._console.status("verifying the ledger"):
            connection.rollback()
            verdict = verify(connection)
            connection.rollback()
        for finding in verdict.findings:
            self.problems.append(f"{finding.customer_id or 'ledger'}, {finding.row}: {finding.message}")
        self._console.print(
            f"Verified {verdict.events:,} events, {verdict.postings:,} postings and {verdict.entries:,} entries of"
            f" {verdict.customers:,} customers in {time.monotonic() - began:.1f} s:"
            f" {sum(result.findings for result in verdict.checks) or 'no'} findings."
        )

    def judge_topics(self, connection: Connection, settings: Settings, truth: Truth) -> None:
        """The output topics, read as a consumer reads them, end where the ledger stands."""
        with self._console.status("reading the topics back"):
            told = _Told()
            for records in read_topic(settings.broker, Reading(topic=settings.topic_changes)):
                for record in records:
                    told.take_change(record.value)
            for records in read_topic(settings.broker, Reading(topic=settings.topic_state)):
                for record in records:
                    told.take_state(record.value)
            # By where the record stood: of a relay that died between its two commits the next one repeats some.
            dead_letters = {
                tuple(
                    _header(record.headers, f"dlq.error.{part}") for part in ("topic", "partition", "offset")
                ): _header(record.headers, "dlq.error.reason")
                for records in read_topic(settings.broker, Reading(topic=settings.topic_dead_letters))
                for record in records
            }
            dead = Counter(dead_letters.values())
        expected: dict[str, int] = {}
        ids = sorted(told.sequences)
        for start in range(0, len(ids), _CUSTOMERS_AT_ONCE):
            heads, _ = customers.read_heads(connection, ids[start : start + _CUSTOMERS_AT_ONCE])
            expected |= {customer_id: head.sequence for customer_id, head in heads.items() if head.sequence}
        self.problems += told.problems
        if told.sequences != expected:
            self.problems.append("the changes topic does not end where the ledger's sequences do")
        if told.states != expected:
            self.problems.append("the state topic does not hold the last picture of every customer")
        if dead != truth.dead_letters:
            self.problems.append(f"the dead-letter topic holds {dict(dead)}, expected {dict(truth.dead_letters)}")
        self._console.print(
            f"{told.changes:,} changes were told of {len(told.sequences):,} customers, each customer's from 1 on"
            f" without a gap and in order ({told.repeats:,} repeats); the state topic ends with each one's last"
            f" picture; all {dead.total():,} dead letters are published."
        )

    def _judge_counts(self, title: str, unit: str, rows: Sequence["_Row"]) -> None:
        table = Table(title, unit, "expected", title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(row.name, f"{row.count:,}", row.shown, style=None if row.is_right else "red")
            if not row.is_right:
                self.problems.append(f"{row.name}: {row.count}, expected {row.shown}")
        self._console.print(table)


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


def _print_explanation(console: Console, found: Explanation) -> None:
    console.print(f"One customer, {found.customer_id}, as of {found.as_of:%Y-%m-%d %H:%M:%S}Z:")
    table = Table(
        "entitlement", "allowed", "value", "limit", "used", "left", "overage", "debt", "grants, in the order of burning"
    )
    for each in found.entitlements:
        decision = each.decision
        counts = (decision.limit, decision.used, decision.remaining, decision.overage or None, decision.debt or None)
        table.add_row(
            each.name,
            "yes" if decision.allowed else f"no, {decision.reason.replace('_', ' ')}",
            decision.value or "",
            *("" if count is None else f"{count:,}" for count in counts),
            "\n".join(f"{grant.sku}: {grant.words}" for grant in each.grants),
        )
    console.print(table)
    for posting in found.postings:
        cause = "" if posting.cause is None else f", {posting.cause.type} {posting.cause.event_id}"
        console.print(Text(f"posting {posting.number}{cause}:"))
        for entry in posting.entries:
            console.print(Text(f"    {entry.words}"))
