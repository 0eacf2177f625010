import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from ledger_worker.kafka.sending import OutgoingRecord, send
from ledger_worker.wire.json_form import record_of_json
from tests.cli.conftest import Command
from tests.shared_cluster import Endpoints
from tests.wire.values import example_fields

Tell = Callable[[Sequence[tuple[str, int]]], None]


@pytest.fixture
def tell(cluster: Endpoints, topic_prefix: str) -> Tell:
    """Publishes changes, each a customer and a sequence, in this order."""

    def tell(told: Sequence[tuple[str, int]]) -> None:
        records = [
            OutgoingRecord(topic=f"{topic_prefix}changes", key=customer, value=change(customer, sequence))
            for customer, sequence in told
        ]
        for _ in send({"bootstrap.servers": cluster.kafka_bootstrap}, records):
            pass

    return tell


def change(customer: str, sequence: int) -> bytes:
    fields = example_fields("EntitlementChanged") | {"customer_id": customer, "sequence": sequence}
    return record_of_json(json.dumps({"type": "EntitlementChanged", **fields}))


def shown(output: str) -> list[tuple[str, int]]:
    return [(each["customer_id"], each["sequence"]) for each in map(json.loads, output.splitlines())]


def test_the_last_changes_are_shown_and_the_command_ends(command_with_topics: Command, tell: Tell) -> None:
    tell([("ada", number) for number in range(1, 16)])

    ran = command_with_topics("changes", "tail", "--json")
    three = command_with_topics("changes", "tail", "--max", 3, "--json")

    assert ran.status == 0
    assert shown(ran.output) == [("ada", number) for number in range(6, 16)]
    assert shown(three.output) == [("ada", 13), ("ada", 14), ("ada", 15)]


def test_from_the_beginning_all_are_shown_or_the_first_so_many(command_with_topics: Command, tell: Tell) -> None:
    tell([("ada", number) for number in range(1, 16)])

    everything = command_with_topics("changes", "tail", "--from-beginning", "--json")
    two = command_with_topics("changes", "tail", "--from-beginning", "--max", 2, "--json")

    assert shown(everything.output) == [("ada", number) for number in range(1, 16)]
    assert shown(two.output) == [("ada", 1), ("ada", 2)]


def test_one_customer_is_picked_out_of_all(command_with_topics: Command, tell: Tell) -> None:
    tell([("ada", 1), ("grace", 1), ("ada", 2), *(("joan", number) for number in range(1, 40))])

    ran = command_with_topics("changes", "tail", "--customer", "ada", "--json")

    assert shown(ran.output) == [("ada", 1), ("ada", 2)]


def test_people_read_a_line_for_each_change(command_with_topics: Command, tell: Tell) -> None:
    tell([("ada", 1)])

    ran = command_with_topics("changes", "tail")

    (line,) = ran.output.splitlines()
    assert "  ada #1  " in line
    assert " -> " in line
    assert "  because of " in line


def test_an_empty_topic_shows_nothing(command_with_topics: Command) -> None:
    ran = command_with_topics("changes", "tail")

    assert (ran.status, ran.output) == (0, "")


def test_a_record_that_is_no_change_is_reported_and_the_rest_is_shown(
    command_with_topics: Command, tell: Tell, cluster: Endpoints, topic_prefix: str
) -> None:
    bad = OutgoingRecord(topic=f"{topic_prefix}changes", key="ada", value=b"nonsense")
    for _ in send({"bootstrap.servers": cluster.kafka_bootstrap}, [bad]):
        pass
    tell([("ada", 1)])

    ran = command_with_topics("changes", "tail", "--json")

    assert ran.status == 1
    assert shown(ran.output) == [("ada", 1)]
    assert "at offset 0: " in ran.errors


@pytest.mark.usefixtures("command_with_topics")
def test_following_shows_what_is_told_later_and_ends_well_when_interrupted(
    settings_of: Callable[[str], dict[str, str]], database_url: str, tell: Tell
) -> None:
    tell([("ada", 1)])
    environment = {**os.environ, **settings_of(database_url)}
    arguments = [sys.executable, "-c", "from ledger_worker.cli import main; main()", "changes", "tail", "-f", "--json"]
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        before = following.stdout.readline()
        tell([("ada", 2)])
        after = following.stdout.readline()
        following.send_signal(signal.SIGINT)
        status = following.wait(20)

    assert shown(before + after) == [("ada", 1), ("ada", 2)]
    assert status == 0
