"""A line of JSON tells an event, and a wrong one says which field, what was sent and what was expected."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_worker.domain.events import Event, PurchaseRefunded
from ledger_worker.errors import BadBytesError
from ledger_worker.wire.encode import encode_event
from ledger_worker.wire.framing import Registry
from ledger_worker.wire.json_form import event_of_json, event_to_json, json_of_record, record_of_json
from ledger_worker.wire.schemas import RECORD_TYPES, newest
from tests.wire.values import events, example, example_fields


@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_every_newest_example_is_shown_as_it_was_written(record_type: str) -> None:
    shown = json_of_record(record_of_json(example(record_type)))
    assert json.loads(shown) == example_fields(record_type)
    assert "\n" not in shown


@given(events)
def test_any_event_is_shown_and_read_as_itself(event: Event) -> None:
    assert event_of_json(event_to_json(event)) == event


def test_a_record_framed_for_a_registry_is_shown_too() -> None:
    registry = Registry(lambda _: newest("UsageRecorded").text, lambda _subject, _text: 1)
    event = event_of_json(example("UsageRecorded"))
    assert json_of_record(encode_event(event, registry), registry) == event_to_json(event)


def test_fields_with_a_default_may_be_left_out() -> None:
    line = {
        "type": "PurchaseRefunded",
        "event_id": "evt_0003",
        "event_source": "commerce",
        "occurred_at": "2026-03-10T09:00:00+01:00",
        "customer_id": "cus_ada",
        "order_id": "ord_7001",
        "refund_id": "ref_31",
    }
    event = event_of_json(json.dumps(line))
    assert event.fact == PurchaseRefunded(order_id="ord_7001", refund_id="ref_31")
    assert event.occurred_at == datetime(2026, 3, 10, 8, tzinfo=UTC)


WRONG = [
    ("UsageRecorded", {"units": "350"}, 'units is "350", expected a whole number'),
    ("UsageRecorded", {"units": 350.0}, "units is 350.0, expected a whole number"),
    ("UsageRecorded", {"units": True}, "units is true, expected a whole number"),
    ("UsageRecorded", {"units": 2**63}, "units is 9223372036854775808, expected a whole number of at most 64 bits"),
    ("UsageRecorded", {"units": None}, "units is null, expected a whole number"),
    ("UsageRecorded", {"unit": 1}, "unit is no field of UsageRecorded, expected one of event_id, "),
    ("UsageRecorded", {"event_id": 7}, "event_id is 7, expected a text"),
    ("UsageRecorded", {"event_id": "\ud800"}, "event_id is .* expected a text"),
    ("UsageRecorded", {"occurred_at": "2026-03-05T14:03:27"}, "occurred_at is .* expected an instant with its zone"),
    ("UsageRecorded", {"occurred_at": "2026-03-05"}, "occurred_at is .* expected an instant with its zone"),
    ("UsageRecorded", {"occurred_at": "2026-02-30T00:00:00Z"}, "occurred_at is .* expected an instant with its zone"),
    ("UsageRecorded", {"occurred_at": "2026-03-05T00:00:00.1234567Z"}, "occurred_at is .* expected an instant"),
    ("UsageRecorded", {"occurred_at": 1772719407}, "occurred_at is 1772719407, expected an instant with its zone"),
    ("PurchaseCompleted", {"lines": {}}, "lines is {}, expected a list"),
    ("PurchaseCompleted", {"lines": [7]}, r"lines\[0\] is 7, expected an object"),
    ("PurchaseCompleted", {"lines": [{"line_id": "1", "sku": "a"}]}, r"lines\[0\].quantity is missing"),
    (
        "PurchaseCompleted",
        {"lines": [{"line_id": "1", "sku": "a", "qty": 1}]},
        r"lines\[0\].qty is no field of PurchaseLine",
    ),
    ("EntitlementChanged", {"posting_hash": "abc"}, 'posting_hash is "abc", expected hexadecimal digits'),
    ("EntitlementChanged", {"correction": 1}, "correction is 1, expected true or false"),
]


@pytest.mark.parametrize(("record_type", "wrong", "message"), WRONG)
def test_a_wrong_field_is_named_with_what_was_sent_and_expected(
    record_type: str, wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(BadBytesError, match=message) as found:
        record_of_json(json.dumps(example_fields(record_type) | wrong))
    assert found.value.reason == "undecodable"


@pytest.mark.parametrize(
    ("wrong", "reason", "message"),
    [
        ({"units": 0}, "impossible_value", "units is 0, expected 1 to"),
        ({"occurred_at": "0001-01-01T00:00:00+14:00"}, "impossible_value", "occurred_at is"),
        ({"type": "UsageForgotten"}, "unknown_type", 'type is "UsageForgotten", expected one of PurchaseCompleted, '),
        ({"type": None}, "unknown_type", "type is null"),
        ({"type": ["UsageRecorded"]}, "unknown_type", "type is"),
    ],
)
def test_what_is_impossible_or_of_no_known_type_is_refused(wrong: dict[str, object], reason: str, message: str) -> None:
    with pytest.raises(BadBytesError, match=message) as found:
        event_of_json(json.dumps(example_fields("UsageRecorded") | wrong))
    assert found.value.reason == reason


def test_a_published_record_is_no_event() -> None:
    with pytest.raises(BadBytesError, match="CustomerState came, expected an event"):
        event_of_json(example("CustomerState"))


@pytest.mark.parametrize("line", ["", "{", "[]", "7", '{"type": 1, "type": 2}', b"\xff", "[" * 100_000])
def test_a_line_that_is_no_object_is_refused(line: str | bytes) -> None:
    with pytest.raises(BadBytesError, match="the line is"):
        event_of_json(line)


def test_what_was_sent_is_shown_cut_short_when_it_is_long() -> None:
    with pytest.raises(BadBytesError) as found:
        event_of_json(json.dumps(example_fields("UsageRecorded") | {"units": "9" * 10_000}))
    assert len(str(found.value)) < 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(RECORD_TYPES), st.data())
def test_any_field_of_any_value_is_read_or_refused_and_nothing_else(record_type: str, data: st.DataObject) -> None:
    fields = example_fields(record_type)
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(json_values)
    try:
        json_of_record(record_of_json(json.dumps(fields)))
    except BadBytesError:
        return
