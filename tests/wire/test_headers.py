"""Headers say what a router needs to know, carry the trace, and leave a dead letter's own ones as they were."""

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.wire.decode import decode_customer_state
from ledger_worker.wire.headers import (
    Failure,
    change_headers,
    customer_state_headers,
    dead_letter_headers,
    event_headers,
    traceparent_of,
    without_dead_letter_headers,
)
from ledger_worker.wire.json_form import event_of_json, record_of_json
from tests.wire.values import example

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FAILURE = Failure(
    topic="commerce.purchases",
    partition=3,
    offset=118_204,
    timestamp=datetime(2026, 3, 11, 22, 40, tzinfo=UTC),
    reason=DeadLetterReason.IMPOSSIBLE_VALUE,
    message="lines[0].quantity is 0, expected 1 to 9007199254740992",
    first_failed_at=datetime(2026, 3, 11, 22, 40, 13, 512, tzinfo=UTC),
)


def test_an_event_is_a_cloud_event_in_binary_mode() -> None:
    event = event_of_json(example("UsageRecorded"))
    assert event_headers(event, TRACE) == [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"render-88412"),
        ("ce_source", b"renderer"),
        ("ce_type", b"entitlements.UsageRecorded"),
        ("ce_time", b"2026-03-05T14:03:27.250000Z"),
        ("ce_subject", b"cus_ada"),
        ("content-type", b"application/avro"),
        ("traceparent", TRACE.encode()),
    ]


def headers_of_change(timeline: int, sequence: int, traceparent: str | None = None) -> list[tuple[str, bytes]]:
    return change_headers(
        change_id=UUID("0c7f6a52-3d0e-5b7c-9a51-4f1f2b7d9e10"),
        customer_id="cus_ada",
        timeline=timeline,
        sequence=sequence,
        recorded_at=datetime(2026, 3, 10, 8, 0, 0, 412_907, tzinfo=UTC),
        source="entitlement-ledger",
        traceparent=traceparent,
    )


def test_a_change_is_a_cloud_event_with_its_place_among_the_customers_changes() -> None:
    assert headers_of_change(1, 7, TRACE) == [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"0c7f6a52-3d0e-5b7c-9a51-4f1f2b7d9e10"),
        ("ce_source", b"entitlement-ledger"),
        ("ce_type", b"entitlements.EntitlementChanged"),
        ("ce_time", b"2026-03-10T08:00:00.412907Z"),
        ("ce_subject", b"cus_ada"),
        ("content-type", b"application/avro"),
        ("traceparent", TRACE.encode()),
        ("ce_sequence", b"0000000001.0000000000000000007"),
    ]


def test_the_sequence_sorts_as_text_the_way_timeline_and_sequence_do() -> None:
    places = [(1, 1), (1, 9), (1, 10), (1, 2**63 - 1), (2, 1), (10, 1)]
    sequences = [dict(headers_of_change(timeline, sequence))["ce_sequence"] for timeline, sequence in places]
    assert sorted(sequences) == sequences


def test_the_same_picture_has_the_same_id_however_often_it_is_published() -> None:
    picture = decode_customer_state(record_of_json(example("CustomerState", 1)))
    headers = dict(customer_state_headers(picture, "entitlement-ledger"))
    assert headers["ce_id"] == b"cus_ada/0000000001.0000000000000000007"
    assert headers["ce_type"] == b"entitlements.CustomerState"


def test_a_source_that_is_no_uri_reference_is_percent_encoded() -> None:
    event = msgspec.structs.replace(event_of_json(example("UsageRecorded")), event_source="shop in Köln")
    assert dict(event_headers(event))["ce_source"] == b"shop%20in%20K%C3%B6ln"


def test_a_dead_letter_keeps_its_headers_and_says_where_and_why_it_failed() -> None:
    original = [("traceparent", TRACE.encode()), ("binary", b"\xff\x00"), ("empty", None), ("binary", b"")]
    headers = dead_letter_headers(original, FAILURE)
    assert headers[: len(original)] == original
    assert headers[len(original) :] == [
        ("dlq.error.topic", b"commerce.purchases"),
        ("dlq.error.partition", b"3"),
        ("dlq.error.offset", b"118204"),
        ("dlq.error.timestamp", b"2026-03-11T22:40:00.000000Z"),
        ("dlq.error.reason", b"impossible_value"),
        ("dlq.error.message", b"lines[0].quantity is 0, expected 1 to 9007199254740992"),
        ("dlq.error.first-failed-at", b"2026-03-11T22:40:13.000512Z"),
    ]
    assert without_dead_letter_headers(headers) == original


def test_a_dead_letters_message_is_cut_to_a_thousand_letters() -> None:
    failure = msgspec.structs.replace(FAILURE, message="x" * 5000, timestamp=None)
    headers = dict(dead_letter_headers([], failure))
    assert len(headers["dlq.error.message"] or b"") == 1000
    assert headers["dlq.error.timestamp"] == b""


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        TRACE.encode() + b"-" + b"x" * 300,
        TRACE.encode() + b"-\xff",
    ],
)
def test_a_malformed_trace_is_no_trace(value: bytes | None) -> None:
    assert traceparent_of([("traceparent", value)]) is None


def test_the_trace_is_the_last_header_of_its_name() -> None:
    assert traceparent_of([("traceparent", b"older"), ("traceparent", TRACE.encode()), ("other", b"x")]) == TRACE
    assert traceparent_of([("other", b"x")]) is None
    assert traceparent_of(None) is None
