"""kcat and Java's console consumer read what the document for readers promises: keys, partitions, headers, values."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest

from ledger_worker.config import Settings
from ledger_worker.kafka.murmur2 import partition_of
from tests.system.lives import CUSTOMERS, KEYS, LANES, POISON, TRACEPARENT
from tests.system.programs import JavaTools, Kcat, Seen

# The first Java tool of a machine waits for its jars.
pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

Decode = Callable[[bytes], tuple[str, Mapping[str, Any]]]
SeenByTopic = Mapping[str, Sequence[Seen]]


def test_every_change_and_picture_is_keyed_by_its_customer(
    told: Settings, seen_by_kcat: SeenByTopic, decode: Decode
) -> None:
    for topic, name in (
        (told.topic_changes, "entitlements.EntitlementChanged"),
        (told.topic_state, "entitlements.CustomerState"),
    ):
        decoded = [(record.key, decode(record.value or b"")) for record in seen_by_kcat[topic]]
        assert {found for _, (found, _) in decoded} == {name}
        assert [key for key, _ in decoded] == [str(fields["customer_id"]).encode() for _, (_, fields) in decoded]
        assert {fields["customer_id"] for _, (_, fields) in decoded} == set(CUSTOMERS)


def test_the_documented_script_decodes_what_a_customer_may_do(
    told: Settings, seen_by_kcat: SeenByTopic, decode: Decode
) -> None:
    changes = [fields for _, fields in (decode(record.value or b"") for record in seen_by_kcat[told.topic_changes])]
    pictures = [fields for _, fields in (decode(record.value or b"") for record in seen_by_kcat[told.topic_state])]
    for customer in CUSTOMERS:
        own = [change for change in changes if change["customer_id"] == customer]
        newest = [picture for picture in pictures if picture["customer_id"] == customer][-1]
        assert [change["sequence"] for change in own] == list(range(1, len(own) + 1))
        assert (newest["timeline"], newest["sequence"]) == (own[-1]["timeline"], own[-1]["sequence"])
        # Mere use of units is no change, so `used` and `remaining` of a picture may be ahead of what was told last.
        after = {change["entitlement"]: decisive(change["after"]) for change in own}
        assert {picture["entitlement"]: decisive(picture) for picture in newest["entitlements"]} == after
        assert {key: (allowed, limit) for key, (allowed, _, limit, _) in after.items()} == {
            "api": (True, 500),
            "storage": (True, 10_000),
            "video": (True, None),
        }


def test_headers_say_what_the_record_is_without_decoding_it(
    told: Settings, seen_by_kcat: SeenByTopic, decode: Decode
) -> None:
    for topic in (told.topic_changes, told.topic_state):
        for record in seen_by_kcat[topic]:
            name, fields = decode(record.value or b"")
            headers = dict(record.headers)
            assert len(headers) == len(record.headers)
            assert headers.pop("traceparent", None) in {None, TRACEPARENT.encode()}
            identity = str(fields["change_id"]).encode() if "change_id" in fields else headers["ce_id"]
            assert headers == {
                "ce_specversion": b"1.0",
                "ce_id": identity,
                "ce_source": told.consumer_group.encode(),
                "ce_type": name.encode(),
                "ce_time": fields["recorded_at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode(),
                "ce_subject": str(fields["customer_id"]).encode(),
                "content-type": b"application/avro",
                "ce_sequence": f"{fields['timeline']:010}.{fields['sequence']:019}".encode(),
            }


def test_the_header_of_the_sequence_sorts_as_text_within_each_customer(
    told: Settings, seen_by_kcat: SeenByTopic
) -> None:
    for customer in CUSTOMERS:
        own = [record for record in seen_by_kcat[told.topic_changes] if record.key == customer.encode()]
        sequences = [dict(record.headers)["ce_sequence"] or b"" for record in own]
        assert len(sequences) > 1
        assert all(earlier < later for earlier, later in pairwise(sequences))


def test_a_change_carries_the_trace_of_the_event_that_caused_it(
    told: Settings, seen_by_kcat: SeenByTopic, decode: Decode
) -> None:
    causes = set()
    for record in seen_by_kcat[told.topic_changes]:
        _, change = decode(record.value or b"")
        causes.add((change["cause"]["type"], dict(record.headers).get("traceparent")))
    assert ("SubscriptionActivated", TRACEPARENT.encode()) in causes
    assert ("PurchaseRefunded", None) in causes
    assert {type_ for type_, trace in causes if trace is not None} == {"SubscriptionActivated"}


def test_dead_letters_are_the_bytes_that_came_or_a_reference(
    told: Settings, seen_by_kcat: SeenByTopic, decode: Decode
) -> None:
    letters = seen_by_kcat[told.topic_dead_letters]
    seen = {record.key: record for record in letters}
    undecodable, tombstone, too_large = POISON
    assert len(letters) == len(POISON)
    for letter in (undecodable, tombstone):
        record = seen[letter.key.encode()]
        headers = dict(record.headers)
        assert record.value == letter.value
        assert {name: headers[name] for name in letter.headers} == {
            name: value.encode() for name, value in letter.headers.items()
        }
        assert headers["dlq.error.topic"] == told.topic_usage.encode()
        assert headers["dlq.error.reason"] == b"undecodable"
    name, reference = decode(seen[too_large.key.encode()].value or b"")
    value = too_large.value or b""
    assert name == "entitlements.DeadLetterReference"
    assert (reference["size_bytes"], reference["sha256"]) == (len(value), sha256(value).digest())


def test_records_of_an_aborted_transaction_are_there_and_count_for_no_reader_of_committed_ones(
    seen_by_kcat: SeenByTopic, kcat: Kcat
) -> None:
    for topic, committed in seen_by_kcat.items():
        uncommitted = kcat.read(topic, "read_uncommitted")
        aborted = [record for record in uncommitted if record.key == b"aborted"]
        assert [record.partition for record in aborted] == list(range(LANES))
        assert [record for record in uncommitted if record not in aborted] == committed


def test_java_reads_the_same_records_as_kcat(seen_by_kcat: SeenByTopic, java_tools: JavaTools) -> None:
    for topic, seen in seen_by_kcat.items():
        assert java_tools.read(topic, len(seen)) == seen


def test_each_customer_is_in_the_partition_that_a_java_producer_chooses(
    seen_by_kcat: SeenByTopic, java_partitions: Mapping[str, int]
) -> None:
    for seen in seen_by_kcat.values():
        keys = [(record.key or b"").decode() for record in seen]
        assert [record.partition for record in seen] == [java_partitions[key] for key in keys]


def test_java_chooses_the_partition_that_we_compute(java_partitions: Mapping[str, int]) -> None:
    assert java_partitions == {key: partition_of(key, LANES) for key in KEYS}
    assert set(java_partitions.values()) == set(range(LANES))


def decisive(picture: Mapping[str, Any]) -> tuple[bool, str, int | None, datetime]:
    return picture["allowed"], picture["state"], picture["limit"], picture["expires_at"]
