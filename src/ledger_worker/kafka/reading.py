"""Reading a topic for people: from where one likes, outside any group, without leaving a trace in the cluster.

Nothing is committed and nobody is rebalanced, so that looking never disturbs a worker. Only what was committed is read.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from operator import methodcaller

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, Message, TopicPartition

from ledger_worker.kafka.client import admin_client, explained
from ledger_worker.kafka.positions import find_topics, watermarks
from ledger_worker.wire.record import Record

__all__ = ["Reading", "headers_of", "read_topic"]

_POLL_SECONDS = 0.5
_SILENCE_SECONDS_MAX = 30.0
_RECORDS_MAX = 500
_ask_headers = methodcaller("headers")
"""The client sets an exception for a name that is not UTF-8, and answers all the same, with a name that is no object.

A call in bytecode, once the interpreter has specialized it, goes on with both. This one checks, and raises SystemError.
"""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What to read: these partitions (None: all) of a topic, from the first record or from the last `tail` of each."""

    topic: str
    partitions: Sequence[int] | None = None
    tail: int | None = None
    follow: bool = False


def read_topic(broker: Mapping[str, str], reading: Reading) -> Iterator[Sequence[Record]]:
    """Yields the records in groups; within a partition in their order.

    Without `follow` it ends at what was the end when it got there. With it, it never ends. The first empty group says
    that all that was there has been read; others come twice a second while nothing more does. `tail` may yield fewer
    records than asked, for the ends of transactions take offsets too. Raises ConfigurationError when the topic does
    not exist, UnavailableError when the brokers cannot be reached.
    """
    admin = admin_client(broker)
    found = find_topics(admin, [reading.topic])[reading.topic]
    numbers = range(found.partitions) if reading.partitions is None else reading.partitions
    marks = watermarks(admin, [(reading.topic, number) for number in numbers])
    starts = [
        TopicPartition(topic, number, mark.low if reading.tail is None else max(mark.low, mark.high - reading.tail))
        for (topic, number), mark in marks.items()
    ]
    consumer = Consumer(
        {
            "client.id": "ledger-worker",
            **broker,
            # librdkafka wants a name for the group it never joins.
            "group.id": "ledger-worker-reading",
            "enable.auto.commit": "false",
            "enable.auto.offset.store": "false",
            "auto.offset.reset": "earliest",  # retention may delete between the question and the fetch
            "enable.partition.eof": "true",
            "isolation.level": "read_committed",
        }
    )
    try:
        consumer.assign(starts)
        yield from _read(consumer, {start.partition for start in starts}, follow=reading.follow)
    finally:
        consumer.close()


def _read(consumer: Consumer, unfinished: set[int], *, follow: bool) -> Iterator[Sequence[Record]]:
    silent_seconds = 0.0
    while unfinished or follow:
        was_unfinished = bool(unfinished)
        messages = consumer.consume(_RECORDS_MAX, _POLL_SECONDS)
        silent_seconds = 0.0 if messages or not unfinished else silent_seconds + _POLL_SECONDS
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(_record(message))
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's name for it
                unfinished.discard(message.partition() or 0)
            elif not error.retriable():
                raise explained(error, "reading")
        if records:
            yield records
        if not unfinished and (was_unfinished or not messages):
            yield ()
        if silent_seconds >= _SILENCE_SECONDS_MAX:
            raise explained(KafkaError(KafkaError._TIMED_OUT), "reading")  # noqa: SLF001 - as above


def headers_of(message: Message) -> tuple[tuple[str, bytes | None], ...]:
    """The record's headers in their order. To be asked once a message.

    None of them when a name is not UTF-8, which Kafka allows: the client cannot hand them out. Nothing is decided by a
    header, so the record goes on without.
    """
    try:
        headers: list[tuple[str, bytes | None]] | None = _ask_headers(message)
    except (SystemError, UnicodeDecodeError):
        return ()
    return tuple(headers or ())


def _record(message: Message) -> Record:
    kind, milliseconds = message.timestamp()
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        timestamp=None if kind == TIMESTAMP_NOT_AVAILABLE else datetime.fromtimestamp(milliseconds / 1000, UTC),
        key=_bytes(message.key()),
        value=_bytes(message.value()),
        headers=headers_of(message),
    )


def _bytes(found: str | bytes | None) -> bytes | None:
    return found.encode() if isinstance(found, str) else found
