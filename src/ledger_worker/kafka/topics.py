"""The topics that a ledger needs: how they are made, and what is wrong with those that exist.

A topic that exists is never changed here: what somebody decided about its size and retention is reported, not undone.
"""

import time
from collections.abc import Mapping, Sequence

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]  # public, but not marked so

from ledger_worker.config import Settings
from ledger_worker.errors import ConfigurationError
from ledger_worker.kafka.client import explained
from ledger_worker.kafka.positions import FoundTopic, answer, find_topics

__all__ = ["INPUT_PARTITIONS", "RECORD_BYTES", "Finding", "PlannedTopic", "check", "create", "plan", "require"]

INPUT_PARTITIONS = 4
"""How many partitions an input topic is made with. Any number works: it bounds how many workers share the topic."""

RECORD_BYTES = 8 * 1024 * 1024
"""How large a record the topics of changes and of state must take: what one customer's picture may come to."""

_DAY_MILLISECONDS = 86_400_000
_TIMEOUT_SECONDS = 30.0
_WAIT_SECONDS = 0.05
_REPLICAS_SAFE = 2
_SIZE = "max.message.bytes"


class PlannedTopic(msgspec.Struct, frozen=True, kw_only=True):
    """How a topic is made, and what must hold when it exists: `partitions_must_match` is true for the lanes' topics.

    It must take records of `record_bytes`; 0 where whatever the brokers are set to will do.
    """

    name: str
    partitions: int
    partitions_must_match: bool
    cleanup_policy: str
    config: Mapping[str, str]
    record_bytes: int = 0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something about a topic that an operator should know; the ledger does not start over an error."""

    topic: str
    problem: str
    is_error: bool


def plan(settings: Settings, lanes: int, *, input_partitions: int = INPUT_PARTITIONS) -> tuple[PlannedTopic, ...]:
    """The topics of these settings; `lanes` is the number that the database holds."""
    inputs = tuple(_planned(name, input_partitions, "delete", days=30) for name in settings.input_topics)
    return (
        *inputs,
        _planned(settings.topic_changes, lanes, "delete", days=30, is_of_lanes=True),
        _planned(settings.topic_state, lanes, "compact", days=None, is_of_lanes=True),
        _planned(settings.topic_dead_letters, lanes, "delete", days=90),
    )


def create(admin: AdminClient, planned: Sequence[PlannedTopic], *, replicas: int | None = None) -> list[str]:
    """All planned topics exist; the answer is the names of those that were missing. A second call makes nothing.

    `replicas` None takes the brokers' default. Raises ConfigurationError or UnavailableError when one cannot be made.
    """
    asked = admin.create_topics(
        [
            NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=-1 if replicas is None else replicas,
                config=dict(topic.config),
            )
            for topic in planned
        ],
        operation_timeout=_TIMEOUT_SECONDS,
    )
    made = []
    for name, future in asked.items():
        try:
            future.result(_TIMEOUT_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise explained(error.args[0], f"topic {name} cannot be made") from error
        else:
            made.append(name)
    _wait_until_known(admin, made)
    return made


def _wait_until_known(admin: AdminClient, names: Sequence[str]) -> None:
    """A broker answers that a topic is made, and may know of it only a moment later."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while names:
        try:
            find_topics(admin, names)
        except ConfigurationError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_WAIT_SECONDS)
        else:
            return


def check(admin: AdminClient, planned: Sequence[PlannedTopic]) -> tuple[Finding, ...]:
    """What is wrong with the topics, in their order. Raises UnavailableError when nobody answers."""
    findings: list[Finding] = []
    for topic in planned:
        try:
            found = find_topics(admin, [topic.name])[topic.name]
        except ConfigurationError as error:
            findings.append(Finding(topic=topic.name, problem=str(error), is_error=True))
            continue
        findings += _compare(topic, found, _config(admin, topic.name))
    return tuple(findings)


def require(admin: AdminClient, planned: Sequence[PlannedTopic]) -> tuple[Finding, ...]:
    """The topics can be worked with; the answer is what to warn about. Raises ConfigurationError for an error."""
    findings = check(admin, planned)
    for finding in findings:
        if finding.is_error:
            raise ConfigurationError(finding.problem)
    return findings


def _planned(
    name: str, partitions: int, cleanup_policy: str, *, days: int | None, is_of_lanes: bool = False
) -> PlannedTopic:
    config = {"cleanup.policy": cleanup_policy}
    if days is not None:
        config["retention.ms"] = str(days * _DAY_MILLISECONDS)
    record_bytes = RECORD_BYTES if is_of_lanes else 0
    if record_bytes:
        config[_SIZE] = str(record_bytes)
    return PlannedTopic(
        name=name,
        partitions=partitions,
        partitions_must_match=is_of_lanes,
        cleanup_policy=cleanup_policy,
        config=config,
        record_bytes=record_bytes,
    )


def _config(admin: AdminClient, name: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, name)
    (future,) = admin.describe_configs([resource], request_timeout=_TIMEOUT_SECONDS).values()
    entries = answer(future, f"configuration of topic {name}")
    return {entry: found.value for entry, found in entries.items()}


def _compare(topic: PlannedTopic, found: FoundTopic, config: Mapping[str, str]) -> list[Finding]:
    findings = []
    if topic.partitions_must_match and found.partitions != topic.partitions:
        findings.append(
            Finding(
                topic=topic.name,
                problem=f"topic {topic.name} has {found.partitions} partitions, expected {topic.partitions}: one for "
                "each lane of the ledger",
                is_error=True,
            )
        )
    policy = config.get("cleanup.policy", "")
    if policy != topic.cleanup_policy:
        findings.append(
            Finding(
                topic=topic.name,
                problem=f"topic {topic.name} has cleanup.policy {policy}, expected {topic.cleanup_policy}",
                # Compaction loses facts and changes; deletion by age loses the picture of a customer who is quiet.
                is_error=True,
            )
        )
    record_bytes = int(config.get(_SIZE, "0"))
    if record_bytes < topic.record_bytes:
        findings.append(
            Finding(
                topic=topic.name,
                problem=f"topic {topic.name} has {_SIZE} {record_bytes}, expected at least {topic.record_bytes}: one "
                "record that it refuses stops all customers of its lane",
                is_error=True,
            )
        )
    in_sync = int(config.get("min.insync.replicas", "1"))
    if found.replicas < _REPLICAS_SAFE or in_sync < _REPLICAS_SAFE:
        findings.append(
            Finding(
                topic=topic.name,
                problem=f"topic {topic.name} has {found.replicas} replicas and min.insync.replicas {in_sync}: one "
                "broker's disk can lose what was acknowledged, expected 3 and 2",
                is_error=False,
            )
        )
    return findings
