from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # public, but not marked so

from tests.cli.conftest import Command
from tests.shared_cluster import Endpoints


def test_create_makes_what_is_missing_and_the_second_time_nothing(command: Command, topic_prefix: str) -> None:
    first = command("topics", "create", "--input-partitions", 3, "--json")
    second = command("topics", "create", "--json")

    names = [topic["name"].removeprefix(topic_prefix) for topic in first.json["topics"]]
    assert names == ["purchases", "subscriptions", "usage", "changes", "state", "dead_letters"]
    assert (first.status, [topic["created"] for topic in first.json["topics"]]) == (0, [True] * 6)
    assert (second.status, [topic["created"] for topic in second.json["topics"]]) == (0, [False] * 6)


def test_inputs_get_the_partitions_asked_for_and_outputs_one_for_each_lane(
    command: Command, cluster: Endpoints, topic_prefix: str
) -> None:
    command("topics", "create", "--input-partitions", 3)

    topics = AdminClient({"bootstrap.servers": cluster.kafka_bootstrap}).list_topics(timeout=10).topics
    assert len(topics[f"{topic_prefix}purchases"].partitions) == 3
    assert len(topics[f"{topic_prefix}changes"].partitions) == 4
    assert len(topics[f"{topic_prefix}state"].partitions) == 4


def test_check_finds_topics_that_are_missing(command: Command) -> None:
    ran = command("topics", "check", "--json")

    assert ran.status == 1
    assert [finding["is_error"] for finding in ran.json["findings"]] == [True] * 6
    assert "error" in command("topics", "check").output


def test_check_is_content_with_what_create_made_but_warns_of_a_single_replica(command_with_topics: Command) -> None:
    ran = command_with_topics("topics", "check", "--json")

    assert ran.status == 0
    assert not any(finding["is_error"] for finding in ran.json["findings"])
    assert {"topic", "problem", "is_error"} == set(ran.json["findings"][0])


def test_an_output_topic_with_another_number_of_partitions_is_refused(
    command: Command, cluster: Endpoints, topic_prefix: str
) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.kafka_bootstrap})
    name = f"{topic_prefix}changes"
    admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])[name].result(10)

    ran = command("topics", "create", "--json")

    (changes,) = [topic for topic in ran.json["topics"] if topic["name"] == name]
    assert ran.status == 1
    assert changes["created"] is False
    assert "has 2 partitions, expected 4" in changes["problems"][0]
