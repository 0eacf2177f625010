import json
from pathlib import Path

import pytest

from ledger_worker.kafka.murmur2 import partition_of
from ledger_worker.kafka.reading import Reading, read_topic
from ledger_worker.wire.decode import decode_event
from ledger_worker.wire.json_form import event_of_json
from ledger_worker.wire.record import Record
from tests.cli.conftest import Command, run_with
from tests.shared_cluster import Endpoints

PURCHASE = Path("docs/examples/purchase.jsonl").read_text(encoding="utf-8")
REFUND = Path("docs/examples/refund.jsonl").read_text(encoding="utf-8")
USAGE = (
    '{"type": "UsageRecorded", "event_id": "use-1", "event_source": "app", "occurred_at": "2026-03-02T10:00:00Z", '
    '"customer_id": "grace", "entitlement": "exports", "units": 3}\n'
)


def records(cluster: Endpoints, topic: str) -> list[Record]:
    reading = Reading(topic=topic)
    return [each for group in read_topic({"bootstrap.servers": cluster.kafka_bootstrap}, reading) for each in group]


def test_each_event_goes_to_the_topic_of_its_kind_keyed_by_its_customer(
    command_with_topics: Command, cluster: Endpoints, topic_prefix: str
) -> None:
    ran = command_with_topics("events", "send", "-", "--json", stdin=PURCHASE + USAGE + REFUND)

    purchases, usage = records(cluster, f"{topic_prefix}purchases"), records(cluster, f"{topic_prefix}usage")
    assert ran.status == 0
    assert ran.json["sent"] == {f"{topic_prefix}purchases": 2, f"{topic_prefix}usage": 1}
    assert [decode_event(record.value) for record in purchases] == [event_of_json(PURCHASE), event_of_json(REFUND)]
    assert [(record.key, record.partition) for record in purchases] == [(b"ada", partition_of("ada", 2))] * 2
    assert [(record.key, record.partition) for record in usage] == [(b"grace", partition_of("grace", 2))]
    assert dict(usage[0].headers)["ce_type"] == b"entitlements.UsageRecorded"
    assert dict(usage[0].headers)["ce_subject"] == b"grace"


def test_one_bad_line_keeps_every_line_from_being_sent(
    command_with_topics: Command, cluster: Endpoints, topic_prefix: str, tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(PURCHASE + "\n" + USAGE.replace('"units": 3', '"units": 0'), encoding="utf-8")

    ran = command_with_topics("events", "send", file)

    assert ran.status == 1
    assert f"{file}:3: units is 0, expected 1 to" in ran.errors
    assert "Nothing is sent." in ran.errors
    assert records(cluster, f"{topic_prefix}purchases") == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("not json\n", "the line is not JSON"),
        (PURCHASE.replace('"ada"', "17"), "customer_id is 17, expected a text"),
        (PURCHASE.replace('"sku"', '"skew"'), "lines[0].skew is no field of PurchaseLine"),
        (PURCHASE.replace("PurchaseCompleted", "PurchaseMade"), 'type is "PurchaseMade", expected one of'),
        (PURCHASE.replace("ada", "a" * 2_000_000), "the line has more than 1048576 bytes"),
    ],
    ids=["no json", "wrong type", "unknown field", "unknown record", "too long"],
)
def test_a_bad_line_is_named_with_its_field(line: str, problem: str) -> None:
    ran = run_with({})("events", "send", "--validate-only", "-", "--json", stdin=PURCHASE + line)

    assert ran.status == 1
    assert ran.json["problem_count"] == 1
    assert ran.json["problems"][0]["line"] == 2
    assert problem in ran.json["problems"][0]["problem"]


def test_of_many_bad_lines_the_first_are_shown_and_all_are_counted() -> None:
    ran = run_with({})("events", "send", "--validate-only", "-", stdin="{}\n" * 30)

    assert ran.status == 1
    assert len([line for line in ran.errors.splitlines() if line.startswith("-:")]) == 21
    assert "10 more lines are refused" in ran.errors


def test_validating_needs_no_broker_and_sends_nothing() -> None:
    ran = run_with({})("events", "send", "--validate-only", "docs/examples/purchase.jsonl")

    assert ran.status == 0
    assert ran.output == "docs/examples/purchase.jsonl is fine: 1 events.\n"


def test_a_topic_that_is_missing_is_status_3_and_named(command: Command, topic_prefix: str) -> None:
    ran = command("events", "send", "docs/examples/purchase.jsonl")

    assert ran.status == 3
    assert f"topic {topic_prefix}purchases" in ran.errors


def test_a_long_file_arrives_whole_and_in_order_for_each_customer(
    command_with_topics: Command, cluster: Endpoints, topic_prefix: str, tmp_path: Path
) -> None:
    usage = json.loads(USAGE)
    lines = [json.dumps(usage | {"event_id": f"use-{n}", "customer_id": f"customer-{n % 7}"}) for n in range(3000)]
    file = tmp_path / "usage.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")

    ran = command_with_topics("events", "send", file, "--json")

    found = [decode_event(record.value) for record in records(cluster, f"{topic_prefix}usage")]
    of_one = [int(event.event_id.removeprefix("use-")) for event in found if event.customer_id == "customer-3"]
    assert ran.json["sent"] == {f"{topic_prefix}usage": 3000}
    assert len(found) == 3000
    assert of_one == sorted(of_one)
