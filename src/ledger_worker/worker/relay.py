"""What the outbox holds becomes known to Kafka: every change in order, and the newest picture of each customer.

Lane i is partition i of the topics of changes and of state; dead letters have a lane of their own. A relay takes lanes
under a lease (`store.lanes`) and gives each a thread with a producer, whose transactional id is that of the lane. One
round of a lane is:

    read      the first rows that wait, and the pictures of their customers, in one snapshot
    send      rows and pictures, in one Kafka transaction
    commit    and wait for the answer
    delete    the rows, by id

Each step may be the last one of this process, and the lease may run out in the middle of any. What makes this safe is
the order in which a lane is begun: take the lease, *then* `init_transactions`, *then* read. When `init_transactions`
answers, every transaction under that id is committed or aborted for good and every other producer of that id is fenced.
So a relay that froze with rows in hand can wake up whenever it likes: what it sends is refused. And whoever publishes
has read after the last one had its say: rows that the last one published and had not deleted yet are seen, and told a
second time with the same ids (a repeat, in order); pictures are never older than one that was published before.

Hence the one rule of this file: nothing that was read before `init_transactions` is ever sent after it. Whatever goes
wrong, the transaction is aborted, what was read is forgotten together with the producer, the lane is given back, and it
all begins with taking a lane. A transaction is never tried a second time by the same producer: a late request of the
first attempt could fall into it.

A relay that fails steps back: it counts as absent until its back-off is over, so that another one takes the lane.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]  # public, but not marked so
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ledger_worker.domain.changes import CustomerPicture
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import ConfigurationError, FencedError, LedgerError, UnavailableError
from ledger_worker.kafka.client import admin_client, explained, transactional_producer
from ledger_worker.metrics import Stage
from ledger_worker.store import lanes, outbox
from ledger_worker.store.lanes import Lease
from ledger_worker.store.outbox import WaitingChange, WaitingDeadLetter
from ledger_worker.store.outgoing import DEAD_LETTER_LANE
from ledger_worker.wire.encode import DeadLetterReference, encode_customer_state, encode_dead_letter_reference
from ledger_worker.wire.framing import Registry, with_registry_id
from ledger_worker.wire.headers import Failure, change_headers, customer_state_headers, dead_letter_headers
from ledger_worker.worker.faults import Backoff, Fault, fault_of, sqlstate_class
from ledger_worker.worker.shared import Shared

__all__ = ["Pictures", "run_relay", "transactional_id"]

Pictures = Callable[[Connection, Sequence[str]], Sequence[CustomerPicture]]
"""The present pictures of these customers, read in the transaction of the connection."""

LEASE_SECONDS = 10.0
"""How long a relay that has frozen keeps its lanes from the others."""
ROUND_CHANGES_MAX = 1000
ROUND_DEAD_LETTERS_MAX = 100
ROUND_DEAD_LETTER_BYTES_MAX = 8 * 1024 * 1024

_LOOP = "relay"
_BEAT_SECONDS = 1.0
_TURN_SECONDS = 0.2
_RENEWALS_A_LEASE = 3
_IDLE_SECONDS_FIRST = 0.2
_IDLE_SECONDS_LONGEST = 1.0
_IDLE_GROWTH = 1.5
# Below the time after which `/livez` calls a loop dead: an outage of the brokers must not restart us.
_KAFKA_SECONDS_MAX = 20.0
_FLUSH_SECONDS = 0.5
_ABORT_SECONDS_MAX = 3.0
_JOIN_SECONDS_MAX = 10.0
_MESSAGE_CHARACTERS_MAX = 1000
_KEY_BYTES_MAX = 1000
# What a record and its batch take beside key, value and headers, at most; the same for one header.
_RECORD_FRAME_BYTES = 128
_HEADER_FRAME_BYTES = 10
_FENCED_CODES = frozenset(
    {
        KafkaError._FENCED,  # noqa: SLF001 - the library's name for its own error
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
    }
)
_PRODUCER = {
    # How long readers wait for a relay that died in a transaction, where no other relay takes its lane.
    "transaction.timeout.ms": "30000",
    # A record alone may be as large as the topic takes; records together stay far below.
    "batch.size": "262144",
}

_Headers = Sequence[tuple[str, bytes | None]]


class _Record(msgspec.Struct, frozen=True, gc=False):
    """One record to be sent; `partition` -1 leaves the choice to the partitioner."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: _Headers


class _Round(msgspec.Struct, frozen=True):
    """What one round read: the rows to delete, and the records they become."""

    outbox_ids: Sequence[int]
    records: Sequence[_Record]


def transactional_id(consumer_group: str, lane: int) -> str:
    """The id under which the lane of this ledger is published, whoever does it; its prefix is the group's, for ACLs."""
    return f"{consumer_group}.relay.{'dead-letters' if lane == DEAD_LETTER_LANE else lane}"


def run_relay(shared: Shared, pictures: Pictures, *, lease_seconds: float = LEASE_SECONDS) -> None:
    """This process publishes its share of the lanes until `shared.stop` is set; then every lane is given back.

    Blocks. `shared.wake` says that something may wait; without it a lane looks every 0.2 to 1 s. Takes a connection of
    `shared.engine` for each lane it holds, and one more. Outages of database, brokers and registry are waited out.
    Raises what is a bug.
    """
    _Relay(shared, pictures, lease_seconds).run()


class _Relay:
    """One relay: it holds leases and sees that each has a thread."""

    def __init__(self, shared: Shared, pictures: Pictures, lease_seconds: float) -> None:
        self._shared = shared
        self._engine = shared.engine
        self._pictures = pictures
        self._lease_seconds = lease_seconds
        # The host and process are for people; the rest makes a restarted process another relay than the one before.
        self._owner = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._published: list[_PublishedLane] = []
        self._backoff = Backoff(first_seconds=0.2, longest_seconds=10.0)
        self._steps_back_until = 0.0
        self._log = structlog.get_logger()

    def run(self) -> None:
        """Turns until it is told to stop, then gives everything back."""
        beat_at = 0.0
        try:
            while not self._shared.stop.is_set():
                self._shared.health.turned(_LOOP)
                self._reap()
                if time.monotonic() >= beat_at:
                    self._beat()
                    beat_at = time.monotonic() + min(_BEAT_SECONDS, self._lease_seconds / _RENEWALS_A_LEASE)
                if self._shared.wake.wait(_TURN_SECONDS):
                    self._shared.wake.clear()
                    for published in self._published:
                        published.wake()
        finally:
            self._shared.health.ended(_LOOP)
            self._end()

    def _beat(self) -> None:
        """The table knows that we are alive, and we hold our share or are about to."""
        steps_back = time.monotonic() < self._steps_back_until
        try:
            with self._engine.begin() as conn:
                if steps_back:
                    lanes.withdraw(conn, self._owner)
                    missing = 0
                else:
                    lanes.announce(conn, self._owner, lease_seconds=self._lease_seconds)
                    missing = lanes.fair_share(conn, self._owner) - len(self._published)
                taken = (
                    lanes.take(conn, self._owner, lanes_max=missing, lease_seconds=self._lease_seconds)
                    if missing > 0
                    else ()
                )
                backlog = outbox.backlog(conn)
        except DBAPIError as error:
            self._stand_failure(error)
            return
        self._shared.health.database_answered()
        for waits in backlog:
            self._shared.metrics.outbox_rows.labels(lane=str(waits.lane)).set(waits.rows)
            self._shared.metrics.outbox_oldest_seconds.labels(lane=str(waits.lane)).set(waits.oldest_seconds)
        for lease in taken:
            self._log.info("lane_taken", lane=lease.lane, owner_epoch=lease.owner_epoch)
            self._published.append(_PublishedLane(self._shared, self._pictures, lease, self._lease_seconds))
        if missing < 0:
            for published in self._published[missing:]:
                published.end()
        self._shared.metrics.lanes_held.set(len(self._published))

    def _reap(self) -> None:
        over = [published for published in self._published if published.is_over()]
        for published in over:
            self._published.remove(published)
            self._log.info("lane_given_back", lane=published.lease.lane, owner_epoch=published.lease.owner_epoch)
            if published.error is not None:
                self._stand_failure(published.error)
            elif published.has_published:
                self._backoff.reset()
        if over:
            self._shared.metrics.lanes_held.set(len(self._published))

    def _stand_failure(self, error: BaseException) -> None:
        """What will pass is logged, and we step back for a while; anything else is raised."""
        if isinstance(error, FencedError):
            self._shared.metrics.fenced.labels(loop=_LOOP).inc()
            self._log.warning("lane_lost", error=str(error))
            return
        if isinstance(error, DBAPIError):
            if fault_of(error) is not Fault.OUTAGE:
                raise error
            self._shared.metrics.database_failures.labels(sqlstate_class=sqlstate_class(error)).inc()
        elif not isinstance(error, UnavailableError | ConfigurationError):
            raise error
        self._shared.metrics.publish_failures.inc()
        wait_seconds = self._backoff.next_seconds()
        self._steps_back_until = time.monotonic() + wait_seconds
        self._log.warning("relay_failed", error=_described(error), wait_seconds=round(wait_seconds, 3))

    def _end(self) -> None:
        for published in self._published:
            published.end()
        until = time.monotonic() + _JOIN_SECONDS_MAX
        for published in self._published:
            published.join(max(0.0, until - time.monotonic()))
        try:
            with self._engine.begin() as conn:
                lanes.withdraw(conn, self._owner)
        except DBAPIError as error:
            # The others find out when our announcement runs out.
            self._log.warning("relay_failed", error=_described(error), wait_seconds=0)
        self._shared.metrics.lanes_held.set(0)


class _PublishedLane:
    """One lane from its taking to its giving back, with a thread and a producer of its own."""

    def __init__(self, shared: Shared, pictures: Pictures, lease: Lease, lease_seconds: float) -> None:
        self.lease = lease
        self.error: BaseException | None = None
        self.has_published = False
        self._shared = shared
        self._engine = shared.engine
        self._snapshots = shared.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._pictures = pictures
        self._lease_seconds = lease_seconds
        self._loop = f"{_LOOP} of lane {lease.lane}"
        self._stages = shared.stages()
        self._undelivered: LedgerError | None = None
        self._renew_at = 0.0
        self._over = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self._loop, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something may wait."""
        self._wake.set()

    def end(self) -> None:
        """The lane is given back after the present round."""
        self._over.set()
        self._wake.set()

    def is_over(self) -> bool:
        """Whether the lane has been given back; `error` says why when it failed."""
        return not self._thread.is_alive()

    def join(self, timeout_seconds: float) -> None:
        """Waits for the giving back."""
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        try:
            self._publish()
        except KafkaException as error:
            self.error = self._explained(error)
        except BaseException as error:  # noqa: BLE001 - raised again by the relay's own thread
            self.error = error
        finally:
            self._shared.health.ended(self._loop)
            self._give_back()
            # Reaped at once, not at the next turn.
            self._shared.wake.set()

    def _publish(self) -> None:
        """Rounds, until it is over. The order of the first three lines is what the module is about."""
        producer = self._producer()
        producer.init_transactions(_KAFKA_SECONDS_MAX)
        read = self._dead_letters() if self.lease.lane == DEAD_LETTER_LANE else self._changes
        idle_seconds = _IDLE_SECONDS_FIRST
        while not self._over.is_set():
            self._shared.health.turned(self._loop)
            self._renew()
            self._wake.clear()
            if self._round(producer, read):
                self.has_published = True
                idle_seconds = _IDLE_SECONDS_FIRST
            else:
                self._wake.wait(idle_seconds)
                idle_seconds = min(idle_seconds * _IDLE_GROWTH, _IDLE_SECONDS_LONGEST)

    def _round(self, producer: Producer, read: Callable[[], _Round]) -> bool:
        """What waits is published and deleted; False when nothing waited."""
        self._stages.begin()
        found = read()
        if not found.outbox_ids:
            return False
        self._stages.reached(Stage.RELAY_READ)
        producer.begin_transaction()
        try:
            for record in found.records:
                producer.produce(
                    record.topic,
                    partition=record.partition,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                    on_delivery=self._on_undelivered,
                )
            self._stages.reached(Stage.RELAY_SENT)
            self._deliver(producer)
            producer.commit_transaction(_KAFKA_SECONDS_MAX)
        except BaseException:
            _abort(producer)
            raise
        self._stages.reached(Stage.RELAY_COMMITTED)
        with self._engine.begin() as conn:
            outbox.delete(conn, found.outbox_ids)
        self._stages.reached(Stage.RELAY_DELETED)
        self._count(found.records)
        return True

    def _changes(self) -> _Round:
        settings, registry = self._shared.settings, self._shared.registry
        with self._snapshots.begin() as conn:
            rows = outbox.read_changes(conn, self.lease.lane, rows_max=ROUND_CHANGES_MAX)
            customer_ids = list(dict.fromkeys(row.customer_id for row in rows))
            pictures = self._pictures(conn, customer_ids) if rows else ()
        lane, source = self.lease.lane, settings.consumer_group
        return _Round(
            outbox_ids=[row.outbox_id for row in rows],
            records=[
                *(_change_record(row, settings.topic_changes, lane, source, registry) for row in rows),
                *(_picture_record(picture, settings.topic_state, lane, source, registry) for picture in pictures),
            ],
        )

    def _dead_letters(self) -> Callable[[], _Round]:
        settings, registry = self._shared.settings, self._shared.registry
        topic = settings.topic_dead_letters
        record_bytes_max = _record_bytes_max(settings.broker, topic)

        def read() -> _Round:
            """The dead letters that wait, as many as one round publishes."""
            with self._snapshots.begin() as conn:
                rows = outbox.read_dead_letters(
                    conn,
                    self.lease.lane,
                    rows_max=ROUND_DEAD_LETTERS_MAX,
                    bytes_max=ROUND_DEAD_LETTER_BYTES_MAX,
                )
            return _Round(
                outbox_ids=[row.outbox_id for row in rows],
                records=[_dead_letter_record(row, topic, record_bytes_max, registry) for row in rows],
            )

        return read

    def _producer(self) -> Producer:
        settings = self._shared.settings
        return transactional_producer(
            {**_PRODUCER, **settings.broker}, transactional_id(settings.consumer_group, self.lease.lane)
        )

    def _renew(self) -> None:
        now = time.monotonic()
        if now < self._renew_at:
            return
        with self._engine.begin() as conn:
            is_held = lanes.renew(conn, self.lease, lease_seconds=self._lease_seconds)
        if not is_held:
            raise FencedError(f"lane {self.lease.lane} was taken by another relay: its lease had run out")
        self._shared.health.database_answered()
        self._renew_at = now + self._lease_seconds / _RENEWALS_A_LEASE

    def _give_back(self) -> None:
        try:
            with self._engine.begin() as conn:
                lanes.release(conn, self.lease)
        except DBAPIError as error:
            # It becomes free when the lease runs out.
            if self.error is None:
                self.error = error

    def _deliver(self, producer: Producer) -> None:
        """The brokers have every record. Without this, a commit after one that was refused waits until it times out."""
        until = time.monotonic() + _KAFKA_SECONDS_MAX
        while producer.flush(_FLUSH_SECONDS) and self._undelivered is None:
            if time.monotonic() > until:
                raise UnavailableError(f"lane {self.lease.lane}: the brokers do not take its records")
        if self._undelivered is not None:
            raise self._undelivered

    def _on_undelivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._undelivered is None:
            self._undelivered = explained(error, f"record of key {message.key()!r} for topic {message.topic()}")

    def _explained(self, error: KafkaException) -> Exception:
        found: KafkaError = error.args[0]
        if found.code() in _FENCED_CODES:
            return FencedError(f"lane {self.lease.lane} is published by another relay now ({found.name()})")
        return explained(found, f"lane {self.lease.lane} cannot be published")

    def _count(self, records: Iterable[_Record]) -> None:
        counts: dict[str, int] = {}
        for record in records:
            counts[record.topic] = counts.get(record.topic, 0) + 1
        for topic, count in counts.items():
            self._shared.metrics.published.labels(topic=topic).inc(count)


def _change_record(row: WaitingChange, topic: str, lane: int, source: str, registry: Registry | None) -> _Record:
    return _Record(
        topic,
        lane,
        row.customer_id.encode(),
        row.payload if registry is None else with_registry_id(row.payload, registry),
        change_headers(
            change_id=row.change_id,
            customer_id=row.customer_id,
            timeline=row.timeline,
            sequence=row.sequence,
            recorded_at=row.recorded_at,
            source=source,
            traceparent=row.traceparent,
        ),
    )


def _picture_record(picture: CustomerPicture, topic: str, lane: int, source: str, registry: Registry | None) -> _Record:
    return _Record(
        topic,
        lane,
        picture.customer_id.encode(),
        encode_customer_state(picture, registry),
        customer_state_headers(picture, source),
    )


def _dead_letter_record(
    row: WaitingDeadLetter, topic: str, record_bytes_max: int, registry: Registry | None
) -> _Record:
    failure = Failure(
        topic=row.topic,
        partition=row.partition,
        offset=row.offset,
        timestamp=row.record_timestamp,
        reason=DeadLetterReason(row.reason),
        message=row.message,
        first_failed_at=row.failed_at,
    )
    whole = _Record(topic, -1, row.key, row.value, dead_letter_headers(row.headers, failure))
    if _size_bytes(whole) <= record_bytes_max:
        return whole
    value = row.value or b""
    reference = DeadLetterReference(
        dead_letter_id=row.dead_letter_id,
        reason=row.reason,
        message=row.message[:_MESSAGE_CHARACTERS_MAX],
        source_topic=row.topic,
        source_partition=row.partition,
        source_offset=row.offset,
        first_failed_at=row.failed_at,
        size_bytes=len(value),
        sha256=sha256(value).digest(),
    )
    # The key or the headers may be what is too large: a short key is kept, since it groups the letters of a customer.
    key = row.key if row.key is not None and len(row.key) <= _KEY_BYTES_MAX else None
    return _Record(topic, -1, key, encode_dead_letter_reference(reference, registry), dead_letter_headers((), failure))


def _size_bytes(record: _Record) -> int:
    """What the record takes in a batch of its own, uncompressed and at most."""
    headers = sum(len(name.encode()) + len(value or b"") + _HEADER_FRAME_BYTES for name, value in record.headers)
    return _RECORD_FRAME_BYTES + len(record.key or b"") + len(record.value or b"") + headers


def _record_bytes_max(broker: dict[str, str], topic: str) -> int:
    """How large a batch the topic takes: `max.message.bytes`, its own or the brokers'."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = admin_client(broker)  # held until the answer: the question ends with its client
    (asked,) = admin.describe_configs([resource], request_timeout=_KAFKA_SECONDS_MAX).values()
    return int(asked.result(_KAFKA_SECONDS_MAX)["max.message.bytes"].value)


def _abort(producer: Producer) -> None:
    """Readers need not wait for what will not come. Where this fails, the lane's next `init_transactions` does it.

    Raises KafkaException when we are fenced: whatever went wrong before went wrong for that.
    """
    try:
        producer.abort_transaction(_ABORT_SECONDS_MAX)
    except KafkaException as error:
        producer.purge(blocking=False)
        if error.args[0].code() in _FENCED_CODES:
            raise


def _described(error: BaseException) -> str:
    # Without the statement and its parameters: they hold what customers are called.
    return f"{type(error).__name__}: {error.orig if isinstance(error, DBAPIError) else error}"
