from collections.abc import Mapping

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from ledger_worker.config import Settings
from ledger_worker.errors import ConfigurationError
from ledger_worker.kafka.client import admin_client, idempotent_producer
from ledger_worker.kafka.positions import find_topics, watermarks
from ledger_worker.kafka.topics import RECORD_BYTES, PlannedTopic, check, create, plan, require
from tests.own_settings import settings_of
from tests.shared_cluster import Endpoints

LANES = 3
SIZE = {"max.message.bytes": str(RECORD_BYTES)}


@pytest.fixture
def settings(cluster: Endpoints, topic_prefix: str) -> Settings:
    return settings_of("postgresql://unused", cluster.kafka_bootstrap, topic_prefix)


@pytest.fixture
def admin(settings: Settings) -> AdminClient:
    return admin_client(settings.broker)


def problems(admin: AdminClient, settings: Settings) -> list[str]:
    return [finding.problem for finding in check(admin, plan(settings, LANES)) if finding.is_error]


def make(admin: AdminClient, name: str, partitions: int, config: Mapping[str, str]) -> None:
    create(
        admin,
        [PlannedTopic(name=name, partitions=partitions, partitions_must_match=False, cleanup_policy="", config=config)],
    )


def test_topics_are_made_once_and_then_left_alone(admin: AdminClient, settings: Settings) -> None:
    made = create(admin, plan(settings, LANES))
    made_again = create(admin, plan(settings, LANES))

    found = find_topics(admin, made)
    assert (len(made), made_again) == (6, [])
    assert found[settings.topic_usage].partitions == 4
    assert found[settings.topic_changes].partitions == found[settings.topic_state].partitions == LANES
    assert problems(admin, settings) == []


def test_topics_of_one_replica_are_worth_a_warning_and_no_more(admin: AdminClient, settings: Settings) -> None:
    create(admin, plan(settings, LANES))

    warnings = require(admin, plan(settings, LANES))

    assert {finding.topic for finding in warnings} == {topic.name for topic in plan(settings, LANES)}
    assert "has 1 replicas and min.insync.replicas 1" in warnings[0].problem


def test_a_missing_topic_is_an_error_that_names_it(admin: AdminClient, settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=settings.topic_purchases):
        require(admin, plan(settings, LANES))


def test_the_lanes_must_be_the_partitions_of_changes_and_state(admin: AdminClient, settings: Settings) -> None:
    make(admin, settings.topic_changes, LANES + 1, {"cleanup.policy": "delete", **SIZE})
    create(admin, plan(settings, LANES))

    assert problems(admin, settings) == [
        f"topic {settings.topic_changes} has 4 partitions, expected 3: one for each lane of the ledger"
    ]


def test_the_state_must_be_compacted_and_the_changes_must_not(admin: AdminClient, settings: Settings) -> None:
    make(admin, settings.topic_changes, LANES, {"cleanup.policy": "compact", **SIZE})
    make(admin, settings.topic_state, LANES, {"cleanup.policy": "delete", **SIZE})
    create(admin, plan(settings, LANES))

    assert problems(admin, settings) == [
        f"topic {settings.topic_changes} has cleanup.policy compact, expected delete",
        f"topic {settings.topic_state} has cleanup.policy delete, expected compact",
    ]


def test_the_outputs_must_take_the_largest_picture(admin: AdminClient, settings: Settings) -> None:
    make(admin, settings.topic_changes, LANES, {"cleanup.policy": "delete", "max.message.bytes": "8388607"})
    make(admin, settings.topic_state, LANES, {"cleanup.policy": "compact", "max.message.bytes": "8388608"})
    create(admin, plan(settings, LANES))

    (problem,) = problems(admin, settings)
    assert f"topic {settings.topic_changes} has max.message.bytes 8388607, expected at least 8388608" in problem
    with pytest.raises(ConfigurationError, match=r"max\.message\.bytes 8388607"):
        require(admin, plan(settings, LANES))


def test_watermarks_are_the_first_offset_there_is_and_the_next_one_there_will_be(
    admin: AdminClient, settings: Settings
) -> None:
    create(admin, plan(settings, LANES))
    producer = idempotent_producer(settings.broker)
    for _ in range(3):
        producer.produce(settings.topic_usage, b"value", partition=2)
    assert producer.flush(30.0) == 0
    for future in admin.delete_records([TopicPartition(settings.topic_usage, 2, 1)]).values():
        future.result(30.0)

    found = watermarks(admin, [(settings.topic_usage, 2)])[settings.topic_usage, 2]

    assert (found.low, found.high) == (1, 3)
