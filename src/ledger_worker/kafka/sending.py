"""Sending records from a tool: all are acknowledged by all replicas in sync, or an error says that not all are.

The service itself publishes in transactions instead (`worker.relay`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message

from ledger_worker.errors import UnavailableError
from ledger_worker.kafka.client import explained, idempotent_producer

__all__ = ["OutgoingRecord", "send"]

_POLL_EVERY_RECORDS = 500
_QUEUE_FULL_SECONDS = 0.5
_FLUSH_SECONDS = 1.0
_FLUSHES_MAX = 60


class OutgoingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record to be sent; its key chooses the partition as Java producers choose it (`murmur2_random`)."""

    topic: str
    key: str
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


def send(broker: Mapping[str, str], records: Iterable[OutgoingRecord]) -> Iterator[Mapping[str, int]]:
    """Sends while it is iterated over; yields, now and then and at the end, how many of each topic are acknowledged.

    Within a partition the order is kept. Raises ConfigurationError or UnavailableError when a record is not accepted:
    an unknown number of the others are, so whoever reads the topic has to stand the same records once more.
    """
    producer = idempotent_producer(broker)
    acknowledged: Counter[str] = Counter()
    failed: list[tuple[KafkaError, str]] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        """The broker's answer to one record is counted or kept."""
        topic = message.topic() or ""
        if error is None:
            acknowledged[topic] += 1
        else:
            failed.append((error, topic))

    try:
        for number, record in enumerate(records, start=1):
            while True:
                try:
                    producer.produce(
                        record.topic,
                        key=record.key.encode(),
                        value=record.value,
                        headers=list(record.headers),
                        on_delivery=delivered,
                    )
                except BufferError:
                    producer.poll(_QUEUE_FULL_SECONDS)
                    _raise_first(failed)
                else:
                    break
            if number % _POLL_EVERY_RECORDS == 0:
                producer.poll(0)
                _raise_first(failed)
                yield acknowledged
        for _ in range(_FLUSHES_MAX):
            unanswered = producer.flush(_FLUSH_SECONDS)
            _raise_first(failed)
            yield acknowledged
            if not unanswered:
                return
    except KafkaException as error:
        raise explained(error.args[0], "sending") from error
    finally:
        producer.purge()
    raise UnavailableError(f"sending: not all records are acknowledged after {_FLUSHES_MAX * _FLUSH_SECONDS:g} s")


def _raise_first(failed: Sequence[tuple[KafkaError, str]]) -> None:
    if failed:
        error, topic = failed[0]
        raise explained(error, f"sending to topic {topic}")
