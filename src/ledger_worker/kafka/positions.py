"""Where topics begin and end, and which topics they are: a topic that was deleted and made again has another id."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

import msgspec
from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec, TopicDescription  # type: ignore[attr-defined]  # public, but not marked so

from ledger_worker.errors import ConfigurationError, UnavailableError
from ledger_worker.kafka.client import explained

__all__ = ["FoundTopic", "Watermarks", "ask_topics", "find_topics", "found_topics", "watermarks"]

_TIMEOUT_SECONDS = 10.0

_Answer = TypeVar("_Answer")


class FoundTopic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as the brokers describe it; `replicas` is the smallest number over its partitions."""

    name: str
    topic_id: str
    partitions: int
    replicas: int


class Watermarks(msgspec.Struct, frozen=True, kw_only=True):
    """The first offset that a partition still has, and the one that its next record will get."""

    low: int
    high: int


def ask_topics(admin: AdminClient, names: Iterable[str]) -> Mapping[str, Future[TopicDescription]]:
    """The question which topics these are, on its way: `found_topics` takes the answers."""
    asked: Mapping[str, Future[TopicDescription]] = admin.describe_topics(
        TopicCollection(list(names)), request_timeout=_TIMEOUT_SECONDS
    )
    return asked


def found_topics(asked: Mapping[str, Future[TopicDescription]]) -> dict[str, FoundTopic]:
    """The topics asked for. Raises ConfigurationError when one does not exist, UnavailableError when nobody answers."""
    found = {}
    for name, future in asked.items():
        description = answer(future, f"topic {name}")
        found[name] = FoundTopic(
            name=name,
            topic_id=str(description.topic_id),
            partitions=len(description.partitions),
            replicas=min(len(partition.replicas) for partition in description.partitions),
        )
    return found


def find_topics(admin: AdminClient, names: Iterable[str]) -> dict[str, FoundTopic]:
    """The topics of these names, asked and answered. Raises as `found_topics`."""
    return found_topics(ask_topics(admin, names))


def watermarks(admin: AdminClient, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Watermarks]:
    """Where each partition (topic, number) begins and ends now. Raises as `found_topics`."""
    low = _offsets(admin, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    high = _offsets(admin, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    return {partition: Watermarks(low=low[partition], high=high[partition]) for partition in partitions}


def answer(future: Future[_Answer], what: str) -> _Answer:
    """What the brokers answered; their error as one of ours."""
    try:
        return future.result(_TIMEOUT_SECONDS)
    except KafkaException as error:
        raise explained(error.args[0], what) from error
    except TimeoutError as error:
        raise UnavailableError(f"{what}: no answer within {_TIMEOUT_SECONDS:g} s") from error


def _offsets(admin: AdminClient, partitions: Sequence[tuple[str, int]], spec: OffsetSpec) -> dict[tuple[str, int], int]:
    if not partitions:
        return {}
    asked = admin.list_offsets(
        {TopicPartition(topic, partition): spec for topic, partition in partitions}, request_timeout=_TIMEOUT_SECONDS
    )
    found = {}
    for place, future in asked.items():
        offset = answer(future, f"partition {place.topic}/{place.partition}").offset
        if offset < 0:
            raise ConfigurationError(f"partition {place.topic}/{place.partition} has no offsets")
        found[place.topic, place.partition] = offset
    return found
