"""The loop that takes records from Kafka and applies them, a transaction a batch.

One thread, and nobody else touches the consumer. What the database says is the truth: where a partition goes on comes
from its row, and Kafka is told offsets only as a hint for tools that watch the lag.

**A fence** in the transaction tells whether the partitions are still ours (`worker.assignment` tells how they become
so). If not, nothing was written and the batch is dropped.

**A lost answer to COMMIT** leaves open whether the batch was applied. It is tried again like after any outage. If it
was applied, the compare-and-set fails, and the rows show our epoch at exactly the batch's end: then it is done.

**An outage** keeps the batch in memory and pauses every partition; polling goes on, so that the group does not think us
dead, and the batch is tried again with back-off. Nothing becomes a dead letter because something was away. A batch that
took too long for a timeout would do so again: its first half is tried alone, and the rest is fetched again behind it.

**A rebalance** happens inside a poll, never inside a transaction. A batch that waits loses the records of partitions
that are revoked or lost; whoever gets these reads them again from where the row stands.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, Message
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ledger_worker.apply.batch import Applied, Batch, Delivery, Move, Rejected
from ledger_worker.config import GroupProtocol
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import BadBytesError, BrokenInvariantError, ConfigurationError, FencedError, UnavailableError
from ledger_worker.kafka.client import admin_client, explained, group_consumer, is_without_consumer_protocol
from ledger_worker.kafka.reading import headers_of
from ledger_worker.metrics import Stage, Stages
from ledger_worker.wire.decode import decode
from ledger_worker.wire.headers import traceparent_of
from ledger_worker.wire.record import Record
from ledger_worker.wire.schemas import TopicFamily
from ledger_worker.worker.assignment import Assignment, Place
from ledger_worker.worker.culprit import shortest_failing
from ledger_worker.worker.faults import TIMED_OUT_STATES, Backoff, Fault, fault_of, sqlstate_class, sqlstate_of
from ledger_worker.worker.shared import Shared

__all__ = ["Transactions", "run_consume"]

_LOOP = "consume"
_BATCH = "a batch"
_POLL_SECONDS = 0.1
"""How long a poll waits when nothing comes: how late a stop or a new claim is noticed at most."""
_BATCH_RECORDS_MIN = 500
_HINT_SECONDS = 5.0
_WATCH_SECONDS = 5.0
_GAUGE_SECONDS = 1.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Transactions(msgspec.Struct, frozen=True, kw_only=True):
    """How a batch is applied: `apply` commits it, `rehearse` does the same and rolls it back."""

    apply: Callable[[Batch], Applied]
    rehearse: Callable[[Batch], Applied]


def run_consume(shared: Shared, stages: Stages, transactions: Transactions) -> None:
    """Everything that comes is applied until `shared.stop` is set; then the group is left.

    Raises ConfigurationError, BrokenInvariantError, or whatever is a bug: the process stops then, nothing half done.
    """
    try:
        _Loop(shared, stages, transactions, shared.settings.group_protocol).run()
    except _WithoutConsumerProtocolError:
        structlog.get_logger().info("group_protocol_chosen", protocol=GroupProtocol.CLASSIC)
        _Loop(shared, stages, transactions, GroupProtocol.CLASSIC).run()


class _WithoutConsumerProtocolError(Exception):
    """The brokers do not have the consumer protocol, and the settings leave the choice to us."""


class _Pending:
    """A batch on its way: the records as they came, and what they were decoded to once that was possible."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        self.batch: Batch | None = None
        self.attempts = 0
        self.retry_at = 0.0

    def halve(self) -> None:
        """Only the first half is left, or the only record. What comes behind has to be fetched again."""
        self.records = self.records[: max(len(self.records) // 2, 1)]
        self.batch = None

    def without(self, places: set[Place]) -> "_Pending | None":
        """What is left when these partitions are gone; None when nothing is."""
        kept = [record for record in self.records if (record.topic, record.partition) not in places]
        if not kept:
            return None
        left = _Pending(kept)
        left.attempts, left.retry_at = self.attempts, self.retry_at
        return left


class _Loop:
    """One membership of the group, from subscribing to leaving."""

    def __init__(self, shared: Shared, stages: Stages, transactions: Transactions, protocol: GroupProtocol) -> None:
        settings = shared.settings
        self._shared = shared
        self._settings = settings
        self._metrics = shared.metrics
        self._stages = stages
        self._transactions = transactions
        self._protocol = protocol
        self._log = structlog.get_logger()
        self._families = {
            settings.topic_purchases: TopicFamily.PURCHASES,
            settings.topic_subscriptions: TopicFamily.SUBSCRIPTIONS,
            settings.topic_usage: TopicFamily.USAGE,
        }
        self._consumer = group_consumer(settings.broker, settings.consumer_group, protocol)
        self._assignment = Assignment(
            shared, stages, self._consumer, admin_client(settings.broker), on_gone=self._on_gone
        )
        self._pending: _Pending | None = None
        self._batch_max = settings.batch_events_max
        self._batch_min = min(_BATCH_RECORDS_MIN, settings.batch_events_max)
        self._batch_backoff = Backoff()
        self._next_hint = self._next_watch = self._next_gauges = 0.0
        self._polled_at = time.monotonic()

    def run(self) -> None:
        """Turns until it is told to stop, then leaves the group."""
        self._assignment.subscribe(self._settings.input_topics)
        try:
            while not self._shared.stop.is_set():
                self._turn()
        finally:
            self._shared.health.ended(_LOOP)
            self._assignment.hint()
            self._consumer.close()

    def _turn(self) -> None:
        self._shared.health.turned(_LOOP)
        self._assignment.claim()
        if self._pending is None:
            self._assignment.fetch()
            records = self._take()
            if records:
                self._pending = _Pending(records)
        else:
            self._poll_while_waiting(self._pending)
        if self._pending is not None and time.monotonic() >= self._pending.retry_at:
            self._try(self._pending)
        if self._pending is None:
            self._assignment.note_passed()
        self._now_and_then()

    # -- taking records ------------------------------------------------------------------------------------------------

    def _take(self) -> list[Record]:
        """What has come, at most one batch: one record alone is taken at once, a stream for the linger time."""
        first = self._poll(_POLL_SECONDS)
        if first is None:
            return []
        self._stages.begin()
        messages = [first]
        until = time.monotonic() + self._settings.linger_seconds
        while len(messages) < self._batch_max:
            # Not with a timeout: that would wait for the whole number, and make the first record as late.
            more = self._consumer.consume(self._batch_max - len(messages), 0)
            messages += more
            if not more or time.monotonic() >= until:
                break
        records = self._ours(messages)
        self._stages.reached(Stage.POLLED)
        return records

    def _poll_while_waiting(self, pending: _Pending) -> None:
        """The membership is kept up. Every partition is paused, so what still comes is fetched again later."""
        left = pending.retry_at - time.monotonic()
        message = self._poll(min(max(left, 0.0), _POLL_SECONDS))
        if message is not None and message.error() is not None:
            self._on_error(message)

    def _poll(self, seconds: float) -> Message | None:
        now = time.monotonic()
        self._metrics.poll_gap_seconds.observe(now - self._polled_at)
        self._polled_at = now
        return self._consumer.poll(seconds)

    def _ours(self, messages: Iterable[Message]) -> list[Record]:
        """The records that come next in partitions that we have claimed; everything else is dropped."""
        reached: dict[Place, int] = {}
        records = []
        for message in messages:
            if message.error() is not None:
                self._on_error(message)
                continue
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            if topic is None or partition is None or offset is None:
                continue
            place = (topic, partition)
            position = self._assignment.fetched(place)
            if position is None or offset < reached.get(place, position.next_offset):
                self._metrics.dropped.labels(topic=topic).inc()
                continue
            reached[place] = offset + 1
            records.append(_record(message, topic, partition, offset))
        return records

    def _on_error(self, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        is_first = not self._assignment.was_made and self._settings.group_protocol is GroupProtocol.AUTO
        if is_first and self._protocol is GroupProtocol.AUTO and is_without_consumer_protocol(error):
            raise _WithoutConsumerProtocolError
        partition = message.partition()
        place = (message.topic() or "", -1 if partition is None else partition)
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - the library's name for its own error
            self._assignment.on_missing_offset(place)
            return
        ours = explained(error, f"the consumer of group {self._settings.consumer_group}")
        if isinstance(ours, ConfigurationError) or error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
            raise ours
        self._log.warning("kafka_error", error=error.str(), code=error.name(), topic=place[0], partition=place[1])

    # -- applying ------------------------------------------------------------------------------------------------------

    def _try(self, pending: _Pending) -> None:
        """The batch is applied or dropped, or waits for its next attempt."""
        pending.attempts += 1
        started = time.perf_counter()
        try:
            if pending.batch is None:
                pending.batch = self._decoded(pending.records)
                self._stages.reached(Stage.DECODED)
            applied = self._apply(pending, pending.batch)
            seconds = time.perf_counter() - started
            self._on_applied(pending, pending.batch, applied, seconds)
        except FencedError as error:
            self._try_after_fence(pending, error)
        except (UnavailableError, PoolTimeoutError) as error:
            self._wait(pending, str(error))
        except DBAPIError as error:
            self._wait_or_raise(pending, error)

    def _decoded(self, records: Sequence[Record]) -> Batch:
        """Raises UnavailableError when the schema registry is needed and away."""
        moves: dict[Place, Move] = {}
        deliveries, rejected = [], []
        for record in records:
            place = (record.topic, record.partition)
            position = self._assignment.claimed(place)
            if position is None:
                continue  # cannot be: when a partition goes, its records go too
            begun = moves.get(place)
            moves[place] = Move(
                topic=record.topic,
                partition=record.partition,
                topic_id=position.topic_id,
                owner_epoch=position.owner_epoch,
                from_offset=position.next_offset if begun is None else begun.from_offset,
                to_offset=record.offset + 1,
            )
            try:
                event = decode(self._families[record.topic], record.value, self._shared.registry)
            except BadBytesError as bad:
                rejected.append(
                    Rejected(
                        record=record,
                        topic_id=position.topic_id,
                        reason=DeadLetterReason(bad.reason),
                        message=str(bad),
                    )
                )
                continue
            deliveries.append(Delivery(event=event, record=record, traceparent=traceparent_of(record.headers)))
        return Batch(moves=tuple(moves.values()), deliveries=tuple(deliveries), rejected=tuple(rejected))

    def _apply(self, pending: _Pending, batch: Batch) -> Applied:
        """Applies the batch, with what PostgreSQL cannot take turned into dead letters. Raises what else goes wrong."""
        passes = 0
        while True:
            try:
                return self._transactions.apply(batch)
            except DBAPIError as error:
                match fault_of(error):
                    case Fault.EVENT:
                        passes = self._culprit(batch, Fault.EVENT, error, passes)
                        batch = pending.batch = _without(batch, passes, error)
                    case Fault.INVARIANT:
                        raise self._named(batch, error) from error
                    case Fault.OUTAGE | Fault.OURS:
                        raise

    def _culprit(self, batch: Batch, fault: Fault, error: DBAPIError, passes: int = 0) -> int:
        """The place of the event whose fault it is. Raises BrokenInvariantError when no event is to blame."""

        def fails(length: int) -> bool:
            """Whether the first so many events fail by the same kind of fault."""
            self._metrics.rehearsals.inc()
            self._shared.health.turned(_LOOP)
            try:
                self._transactions.rehearse(msgspec.structs.replace(batch, deliveries=batch.deliveries[:length]))
            except DBAPIError as again:
                if fault_of(again) is fault:
                    return True
                raise
            return False

        found = shortest_failing(len(batch.deliveries), fails, passes=passes) if batch.deliveries else None
        if found is None:
            raise BrokenInvariantError(
                f"the batch of {_span(batch)} fails with SQLSTATE {sqlstate_of(error)}, whichever events it holds"
            ) from error
        return found - 1

    def _named(self, batch: Batch, error: DBAPIError) -> BrokenInvariantError:
        """The same error with the customer and the event that it is about."""
        delivery = batch.deliveries[self._culprit(batch, Fault.INVARIANT, error)]
        constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        event, record = delivery.event, delivery.record
        where = f" ({record.topic}/{record.partition} at offset {record.offset})" if record else ""
        return BrokenInvariantError(
            f"event {event.event_id} of {event.event_source} for customer {event.customer_id}{where} would break "
            f"{constraint or 'the books'} (SQLSTATE {sqlstate_of(error)}); nothing of its batch was committed"
        )

    def _on_applied(self, pending: _Pending, batch: Batch, applied: Applied, seconds: float) -> None:
        self._advance(pending, batch)
        if applied.changes or applied.dead_letters:
            self._shared.wake.set()
        self._shared.health.database_answered()
        self._measure(pending.records, applied, seconds)
        self._adapt(len(pending.records), seconds)
        self._log.info(
            "batch_applied",
            partitions=_spans(batch),
            records=len(pending.records),
            outcomes=dict(applied.outcomes),
            dead_letters=dict(applied.dead_letters),
            postings=applied.postings,
            changes=applied.changes,
            milliseconds=round(seconds * 1000, 1),
            attempts=pending.attempts,
        )

    def _advance(self, pending: _Pending, batch: Batch) -> None:
        """The batch is committed: its partitions go on behind it, and the next batch may come."""
        newest = {
            (record.topic, record.partition): record.timestamp
            for record in pending.records
            if record.timestamp is not None
        }
        self._assignment.advance(batch.moves, newest)
        self._drop_pending()

    def _drop_pending(self) -> None:
        """No batch waits any more."""
        self._pending = None
        self._batch_backoff.reset()
        self._metrics.is_paused.set(0)
        self._shared.health.waits(_BATCH, None)

    def _on_gone(self, places: set[Place]) -> None:
        """Partitions went to another worker, who reads what was not applied: nothing of them is kept."""
        if self._pending is None:
            return
        self._pending = self._pending.without(places)
        if self._pending is None:
            self._drop_pending()

    def _measure(self, records: Sequence[Record], applied: Applied, seconds: float) -> None:
        metrics = self._metrics
        for outcome, count in applied.outcomes.items():
            metrics.events.labels(outcome=outcome).inc(count)
        for reason, count in applied.dead_letters.items():
            metrics.dead_letters.labels(reason=reason).inc(count)
        metrics.postings.inc(applied.postings)
        metrics.changes.inc(applied.changes)
        metrics.batch_records.observe(len(records))
        metrics.batch_seconds.observe(seconds)
        for topic, count in Counter(record.topic for record in records).items():
            metrics.records.labels(topic=topic).inc(count)
        # One observation a partition, of its oldest record: one a record would cost more than it tells.
        now, oldest = datetime.now(UTC), {}
        for record in reversed(records):
            oldest[record.topic, record.partition] = record.timestamp
        for timestamp in oldest.values():
            if timestamp is not None:
                waited = (now - timestamp).total_seconds()
                metrics.end_to_end_seconds.labels(until="committed").observe(max(waited, 0.0))

    def _adapt(self, records: int, seconds: float) -> None:
        """The next batch is of a size that should hold its locks for the target time."""
        target = self._settings.batch_target_seconds
        if seconds > target * 1.25:
            self._batch_max = max(self._batch_min, int(records * max(target / seconds, 0.5)))
        elif seconds < target * 0.8 and records >= self._batch_max:
            self._batch_max = min(self._settings.batch_events_max, self._batch_max * 5 // 4 + 1)
            self._batch_min = max(self._batch_min, min(_BATCH_RECORDS_MIN, self._batch_max))
        self._metrics.batch_records_max.set(self._batch_max)

    # -- when it cannot be applied -------------------------------------------------------------------------------------

    def _wait_or_raise(self, pending: _Pending, error: DBAPIError) -> None:
        self._metrics.database_failures.labels(sqlstate_class=sqlstate_class(error)).inc()
        if fault_of(error) is not Fault.OUTAGE:
            raise error
        if sqlstate_of(error) == "25006":
            self._shared.engine.dispose()  # these sessions lead to a server that is no primary any more
        self._metrics.retries.labels(sqlstate_class=sqlstate_class(error)).inc()
        if sqlstate_of(error) in TIMED_OUT_STATES:
            pending.halve()
            self._batch_min = self._batch_max = min(self._batch_max, len(pending.records))
        self._wait(pending, f"{type(error.orig).__name__} (SQLSTATE {sqlstate_of(error)})")

    def _wait(self, pending: _Pending, why: str) -> None:
        """The batch stays in memory, the partitions are paused, and it is tried again later."""
        seconds = self._batch_backoff.next_seconds()
        pending.retry_at = time.monotonic() + seconds
        self._assignment.hold()
        self._metrics.is_paused.set(1)
        self._shared.health.waits(_BATCH, why)
        self._log.warning(
            "batch_waits", records=len(pending.records), attempts=pending.attempts, seconds=round(seconds, 2), error=why
        )

    def _try_after_fence(self, pending: _Pending, error: FencedError) -> None:
        try:
            self._after_fence(pending, error)
        except PoolTimeoutError as away:
            self._wait(pending, str(away))
        except DBAPIError as away:
            self._wait_or_raise(pending, away)

    def _after_fence(self, pending: _Pending, error: FencedError) -> None:
        """The batch was applied already (its answer was lost), or it is dropped and what we lost is claimed again."""
        batch = pending.batch
        if batch is not None and self._assignment.were_ours(batch.moves):
            self._advance(pending, batch)
            self._shared.wake.set()
            self._log.warning("batch_was_applied", partitions=_spans(batch), attempts=pending.attempts)
            return
        self._drop_pending()
        self._metrics.fenced.labels(loop=_LOOP).inc()
        self._log.warning("batch_fenced", records=len(pending.records), error=str(error))

    def _now_and_then(self) -> None:
        now = time.monotonic()
        if now >= self._next_gauges:
            self._next_gauges = now + _GAUGE_SECONDS
            self._assignment.set_gauges()
        if now >= self._next_hint:
            self._next_hint = now + _HINT_SECONDS
            self._assignment.hint()
        if now >= self._next_watch:
            self._next_watch = now + _WATCH_SECONDS
            self._assignment.watch()


def _record(message: Message, topic: str, partition: int, offset: int) -> Record:
    kind, milliseconds = message.timestamp()
    timestamp = None
    if kind != TIMESTAMP_NOT_AVAILABLE and milliseconds >= 0:
        with contextlib.suppress(OverflowError):
            timestamp = _EPOCH + timedelta(milliseconds=milliseconds)
    return Record(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp=timestamp,
        key=_bytes(message.key()),
        value=_bytes(message.value()),
        headers=headers_of(message),
    )


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _without(batch: Batch, place: int, error: DBAPIError) -> Batch:
    """The batch with one of its events as a dead letter. Its message names the error and not the value."""
    delivery = batch.deliveries[place]
    if delivery.record is None:
        raise BrokenInvariantError(f"event {delivery.event.event_id} of {delivery.event.event_source} came by no topic")
    topic_id = next(move.topic_id for move in batch.moves if move.topic == delivery.record.topic)
    refused = Rejected(
        record=delivery.record,
        topic_id=topic_id,
        reason=DeadLetterReason.REJECTED_BY_DATABASE,
        message=f"PostgreSQL refuses a value: {type(error.orig).__name__} (SQLSTATE {sqlstate_of(error)})",
        event=delivery.event,
    )
    return msgspec.structs.replace(
        batch,
        deliveries=batch.deliveries[:place] + batch.deliveries[place + 1 :],
        rejected=(*batch.rejected, refused),
    )


def _spans(batch: Batch) -> dict[str, tuple[int, int]]:
    return {f"{move.topic}/{move.partition}": (move.from_offset, move.to_offset) for move in batch.moves}


def _span(batch: Batch) -> str:
    return ", ".join(f"{place} from offset {first} to {end - 1}" for place, (first, end) in _spans(batch).items())
