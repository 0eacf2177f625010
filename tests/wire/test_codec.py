"""What is encoded decodes to an equal value, others read it too, and bad bytes are never anything but bad bytes."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any, cast
from uuid import UUID

import avro.io
import avro.schema
import fastavro
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_worker.domain.changes import Change, CustomerPicture
from ledger_worker.domain.events import Event, Fact, UsageRecorded, content_hash, fact_bytes
from ledger_worker.domain.impossible import problem
from ledger_worker.errors import BadBytesError, UnavailableError
from ledger_worker.wire.codec import without_logical_types
from ledger_worker.wire.decode import (
    decode,
    decode_change,
    decode_customer_state,
    decode_dead_letter_reference,
    decode_event,
    decode_record,
)
from ledger_worker.wire.encode import (
    DeadLetterReference,
    encode_change,
    encode_customer_state,
    encode_dead_letter_reference,
    encode_event,
    family_of,
)
from ledger_worker.wire.framing import Registry, with_registry_id
from ledger_worker.wire.json_form import event_of_json, record_of_json
from ledger_worker.wire.schemas import (
    BY_HAND,
    CHANGE,
    CUSTOMER_STATE,
    DEAD_LETTER_REFERENCE,
    EVENTS,
    FAMILY_OF,
    OUTPUTS,
    RECORD_TYPES,
    SchemaVersion,
    TopicFamily,
    full_name,
    newest,
    shipped,
)
from tests.wire.values import (
    EXAMPLES,
    FACT_TYPES,
    changes,
    customer_pictures,
    dead_letter_references,
    events,
    events_of,
    example,
    facts_of,
    texts,
)

GOLDEN_CONTENT_HASHES = {
    "PurchaseCompleted": "d85dcbc2a02530b35c2f2b40bf687759",
    "PurchaseRefunded": "e210586d2d4db47c5af73329780de6ae",
    "RefundReversed": "5f2fa180e85f45136aee52270bea1ae8",
    "ChargebackOpened": "049c953b80861ca63980f117501ca536",
    "ChargebackWon": "87797fdb3cf1acda11ef2c908801c6e5",
    "ChargebackLost": "8307b01769091b52ff8da6c5b495ccd3",
    "PurchaseTransferred": "0c50d97f5266527c4434c9b0825b49c2",
    "CustomersMerged": "a0dca458c4f018e05c5719817770829e",
    "SubscriptionTrialStarted": "9771ebd1ea7bb9af9da49bb1018a5926",
    "SubscriptionTrialConverted": "a53f5addf25e7d9bfef614cf9c09c594",
    "SubscriptionTrialExpired": "7b4f4c5111eb425d00b731cba138c529",
    "SubscriptionActivated": "8fc416b8558acbc78a64587035c4309d",
    "SubscriptionRenewed": "3fb7d109f23da7fe5fe8ca33ab92c74c",
    "SubscriptionPaymentFailed": "4ded38ea4f349b3761b91476e12c7ff3",
    "SubscriptionPaymentRecovered": "9938280985b670d7b605d77102358a9e",
    "SubscriptionPlanChanged": "11172c2d5046eee7bd765a713344f3c7",
    "SubscriptionQuantityChanged": "840b5d7d5ead2ce66649d13e11099748",
    "SubscriptionAddOnAdded": "d610bbc2fae91e2103a8cbd5984d904d",
    "SubscriptionAddOnRemoved": "aa33341746d3716fb83aa3c2bab4563d",
    "SubscriptionPaused": "dbad7322ac66b18d5cc266266f29b499",
    "SubscriptionResumed": "b8db4b160b71646983fcdfb4bee8fe55",
    "SubscriptionCancellationScheduled": "9618d61ae573570b18093a037b5a2295",
    "SubscriptionCancellationWithdrawn": "48ac98a08bc6d14098a4d1dc6a734735",
    "SubscriptionCancelled": "8db47e7d5bd6a42ad9d00c0273fac87f",
    "SubscriptionExpired": "4c343d58e9b0f84fdff318ca0539aaf3",
    "SubscriptionRevoked": "d7d83cd8c07a05d44efbba0fc8f21db7",
    "SubscriptionExtended": "7408a8032fa25c00493ca1b38a668b40",
    "SubscriptionTransferred": "e502254e5e25cd49099ad828892c708d",
    "UsageRecorded": "cb66adb9a9700631728209cd1fc1405d",
    "UsageReversed": "46b5580801156add6bcf3de829f87444",
    "EntitlementAssigned": "3ffc4ca932466d012b197dd34bc8a0e9",
    "AssignmentRenewed": "9f75d9ba3ccbeab1be2be5e730384b02",
    "AssignmentExtended": "a8466d016c412d7628ae69afb5a2bf1b",
    "AssignmentRevoked": "5ef292cf63ce478356c36075d926f9d9",
}
"""If one of these changes, every resend of an event stored by an earlier release becomes a false conflict."""

ENCODERS: dict[str, Callable[..., bytes]] = {
    CHANGE: encode_change,
    CUSTOMER_STATE: encode_customer_state,
    DEAD_LETTER_REFERENCE: encode_dead_letter_reference,
}


class RegisteredSchemas:
    """What a schema registry holds, and how often it was asked."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.asked = 0
        self.is_away = False

    def schema_by_id(self, schema_id: int) -> str:
        self.asked += 1
        if self.is_away:
            raise UnavailableError("the schema registry does not answer")
        return self.texts[schema_id - 1]

    def id_of_schema(self, subject: str, text: str) -> int:
        self.asked += 1
        assert subject == full_name(json.loads(text)["name"])
        self.texts.append(text)
        return len(self.texts)

    def registry(self) -> Registry:
        return Registry(self.schema_by_id, self.id_of_schema)


def encode(told: object, registry: Registry | None = None) -> bytes:
    match told:
        case Event():
            return encode_event(told, registry)
        case Change():
            return encode_change(told, registry)
        case CustomerPicture():
            return encode_customer_state(told, registry)
        case DeadLetterReference():
            return encode_dead_letter_reference(told, registry)
        case _:
            raise AssertionError(told)


anything = st.one_of(events, changes, customer_pictures, dead_letter_references)


def usage(**changed: object) -> Event:
    return msgspec.structs.replace(event_of_json(example("UsageRecorded")), **changed)


def reason_of(value: bytes | None, family: TopicFamily = TopicFamily.USAGE, registry: Registry | None = None) -> str:
    with pytest.raises(BadBytesError) as found:
        decode(family, value, registry)
    return found.value.reason


# --- round trips ---


@pytest.mark.parametrize(("record_type", "version"), EXAMPLES)
def test_every_example_round_trips_in_both_framings(record_type: str, version: int) -> None:
    registry = RegisteredSchemas().registry()
    value = record_of_json(example(record_type, version))
    decoded_type, told = decode_record(value)
    assert decoded_type == record_type
    assert encode(told) == value
    assert decode_record(encode(told, registry), registry) == (record_type, told)


@pytest.mark.parametrize("record_type", FAMILY_OF)
def test_every_incoming_example_is_a_possible_event(record_type: str) -> None:
    event = event_of_json(example(record_type))
    assert problem(event) is None
    assert decode(FAMILY_OF[record_type], encode_event(event)) == event
    assert family_of(event) is FAMILY_OF[record_type]


@pytest.mark.parametrize("record_type", BY_HAND)
def test_every_act_by_hand_is_a_possible_event_of_no_topic(record_type: str) -> None:
    event = event_of_json(example(record_type))
    assert problem(event) is None
    assert decode_event(encode_event(event)) == event
    with pytest.raises(BadBytesError, match=f"{record_type} is done by hand") as found:
        family_of(event)
    assert found.value.reason == "unknown_type"


@pytest.mark.parametrize("record_type", EVENTS)
def test_the_content_hash_of_every_example_is_the_one_that_was_stored(record_type: str) -> None:
    event = event_of_json(example(record_type, 1))
    assert content_hash(event, fact_bytes(event.fact)).hex() == GOLDEN_CONTENT_HASHES[record_type]


@pytest.mark.parametrize("kind", FACT_TYPES.values(), ids=FACT_TYPES)
@given(st.data())
@settings(max_examples=25)
def test_any_event_of_any_type_decodes_to_itself(kind: type[Fact], data: st.DataObject) -> None:
    event = data.draw(events_of(facts_of(kind)))
    registry = RegisteredSchemas().registry()
    assert problem(event) is None
    assert decode_event(encode_event(event)) == event
    assert decode_event(encode_event(event, registry), registry) == event


@given(events)
def test_any_event_of_a_topic_is_decoded_there_and_nowhere_else(event: Event) -> None:
    record_type = type(event.fact).__name__
    for family in TopicFamily:
        if FAMILY_OF.get(record_type) is family:
            assert decode(family, encode_event(event)) == event
        else:
            assert reason_of(encode_event(event), family) == "unknown_type"


@given(changes)
def test_any_change_decodes_to_itself(change: Change) -> None:
    assert decode_change(encode_change(change)) == change


@given(customer_pictures)
def test_any_picture_of_a_customer_decodes_to_itself(picture: CustomerPicture) -> None:
    assert decode_customer_state(encode_customer_state(picture)) == picture


@given(dead_letter_references)
def test_any_dead_letter_reference_decodes_to_itself(reference: DeadLetterReference) -> None:
    assert decode_dead_letter_reference(encode_dead_letter_reference(reference)) == reference


# --- other readers and writers of Avro ---


def with_lists(plain: object) -> object:
    """Tuples become lists: to fastavro a tuple in a union names the branch."""
    if isinstance(plain, dict):
        return {name: with_lists(value) for name, value in plain.items()}
    return [with_lists(value) for value in plain] if isinstance(plain, tuple | list) else plain


def avro_record(told: object) -> dict[str, object]:
    """The record as fastavro takes it, made without our codec; fields left out stand for their default."""
    plain = cast("dict[str, Any]", with_lists(msgspec.to_builtins(told, builtin_types=(bytes, datetime, UUID))))
    return {**plain, **plain["fact"]} if isinstance(told, Event) else plain


@given(anything)
def test_fastavro_writes_the_same_bytes(told: object) -> None:
    value = encode(told)
    record_type, _ = decode_record(value)
    schema = newest(record_type).schema
    expected = BytesIO()
    fastavro.schemaless_writer(expected, schema, avro_record(told))
    assert value[10:] == expected.getvalue()


@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_the_avro_project_reads_every_example_as_fastavro_does(record_type: str) -> None:
    value = record_of_json(example(record_type))
    text = json.dumps(without_logical_types(json.loads(newest(record_type).text)))
    reader = avro.io.DatumReader(avro.schema.parse(text))
    theirs = reader.read(avro.io.BinaryDecoder(BytesIO(value[10:])))
    assert theirs == fastavro.schemaless_reader(BytesIO(value[10:]), json.loads(text), None)


def test_arrays_may_come_in_several_blocks_with_or_without_sizes() -> None:
    event = event_of_json(example("SubscriptionActivated"))
    body = encode_event(event)
    first, second = b"\x0esi_base\x22video-pro-monthly\x02", b"\x10si_seats\x14video-seat\x0a"
    assert b"\x04" + first + second + b"\x00" in body
    sized = b"\x01" + bytes([len(first) * 2]) + first + b"\x02" + second + b"\x00"
    other = body.replace(b"\x04" + first + second + b"\x00", sized)
    assert decode(TopicFamily.SUBSCRIPTIONS, other) == event


# --- bad bytes ---


@given(anything)
def test_a_record_cut_anywhere_is_undecodable(told: object) -> None:
    value = encode(told)
    for length in range(len(value)):
        with pytest.raises(BadBytesError) as found:
            decode_record(value[:length])
        assert found.value.reason == "undecodable"


@given(anything, st.binary(min_size=1, max_size=20))
def test_bytes_left_over_are_undecodable(told: object, more: bytes) -> None:
    with pytest.raises(BadBytesError) as found:
        decode_record(encode(told) + more)
    assert found.value.reason == "undecodable"


@given(st.binary(max_size=300))
def test_random_bytes_are_bad_bytes_and_nothing_else(value: bytes) -> None:
    with pytest.raises(BadBytesError):
        decode_record(value)


@given(st.sampled_from(RECORD_TYPES), st.binary(max_size=300))
def test_a_random_body_is_a_value_or_bad_bytes_and_nothing_else(record_type: str, body: bytes) -> None:
    value = record_of_json(example(record_type))[:10] + body
    try:
        _, told = decode_record(value)
    except BadBytesError:
        return
    assert decode_record(encode(told)) == (record_type, told)


@given(anything, st.data())
def test_a_flipped_byte_is_a_value_or_bad_bytes_and_nothing_else(told: object, data: st.DataObject) -> None:
    value = bytearray(encode(told))
    value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode_record(bytes(value))
    except BadBytesError:
        return


@pytest.mark.parametrize("family", TopicFamily)
@pytest.mark.parametrize("record_type", BY_HAND)
def test_what_is_done_by_hand_is_of_an_unknown_type_on_every_topic(record_type: str, family: TopicFamily) -> None:
    registry = RegisteredSchemas().registry()
    event = event_of_json(example(record_type))
    assert reason_of(encode_event(event), family) == "unknown_type"
    assert reason_of(encode_event(event, registry), family, registry) == "unknown_type"


def test_each_defect_has_its_reason_and_the_first_one_found_counts() -> None:
    good = encode_event(usage())
    registry = RegisteredSchemas().registry()
    assert reason_of(None) == "undecodable"
    assert reason_of(b"") == "undecodable"
    assert reason_of(b'{"type": "UsageRecorded"}') == "undecodable"
    assert reason_of(b"\x00\x00\x00") == "undecodable"
    assert reason_of(b"\xc3\x01" + bytes(8) + good[10:]) == "unknown_schema"
    assert reason_of(b"\x00\x00\x00\x00\x07" + good[10:], registry=registry) == "unknown_schema"
    assert reason_of(b"\x00\x00\x00\x00\x07" + good[10:], registry=None) == "unknown_schema"
    assert reason_of(good, TopicFamily.PURCHASES) == "unknown_type"
    assert reason_of(good[:10], TopicFamily.PURCHASES) == "unknown_type"
    assert reason_of(record_of_json(example(CHANGE))) == "unknown_type"
    assert reason_of(good[:10]) == "undecodable"
    assert (
        reason_of(encode_event(usage(fact=UsageRecorded(entitlement="render-credits", units=0)))) == "impossible_value"
    )
    assert reason_of(encode_event(usage(event_id=""))) == "impossible_value"


@pytest.mark.parametrize("micros", [2**63 - 1, -(2**63), 253_402_300_800_000_000])
def test_an_instant_that_no_calendar_has_is_an_impossible_value_that_names_its_field(micros: int) -> None:
    schema = without_logical_types(newest("UsageRecorded").schema)
    record = avro_record(usage()) | {"occurred_at": micros}
    body = BytesIO()
    fastavro.schemaless_writer(body, schema, record)
    with pytest.raises(BadBytesError, match=f"occurred_at is {micros}") as found:
        decode(TopicFamily.USAGE, encode_event(usage())[:10] + body.getvalue())
    assert found.value.reason == "impossible_value"


def test_an_integer_of_more_than_64_bits_is_undecodable_and_cannot_be_encoded() -> None:
    good = encode_event(usage(source_version=None))
    assert b"\xbc\x05" in good  # 350 units
    assert reason_of(good.replace(b"\xbc\x05", b"\xff" * 9 + b"\x02")) == "undecodable"
    assert reason_of(good.replace(b"\xbc\x05", b"\x80" * 11 + b"\x01")) == "undecodable"
    with pytest.raises(ValueError, match="longer than 64 bits"):
        encode_event(usage(fact=UsageRecorded(entitlement="render-credits", units=2**63)))


@given(texts)
def test_text_that_is_not_utf_8_is_undecodable(text: str) -> None:
    value = encode_event(usage(customer_id="MARK" + text))
    assert reason_of(value.replace(b"MARK", b"\xff\xfe\xfd\xfc")) == "undecodable"


# --- the registry ---


def test_a_registry_is_asked_once_for_each_schema() -> None:
    registered = RegisteredSchemas()
    registry = registered.registry()
    values = [encode_event(usage(event_id=f"evt_{number}"), registry) for number in range(3)]
    for value in values:
        decode(TopicFamily.USAGE, value, registry)
    assert registered.asked == 2


def test_a_registry_that_is_away_is_not_the_fault_of_the_record() -> None:
    registered = RegisteredSchemas()
    value = encode_event(usage(), registered.registry())
    registered.is_away = True
    fresh = registered.registry()
    with pytest.raises(UnavailableError):
        decode(TopicFamily.USAGE, value, fresh)
    registered.is_away = False
    assert decode(TopicFamily.USAGE, value, fresh) == usage()


def test_single_objects_are_read_without_asking_the_registry() -> None:
    registered = RegisteredSchemas()
    registered.is_away = True
    assert decode(TopicFamily.USAGE, encode_event(usage()), registered.registry()) == usage()


@pytest.mark.parametrize("record_type", OUTPUTS)
def test_a_stored_single_object_is_published_with_a_registry_id_without_being_read(record_type: str) -> None:
    registry = RegisteredSchemas().registry()
    value = record_of_json(example(record_type))
    _, told = decode_record(value)
    assert with_registry_id(value, registry) == ENCODERS[record_type](told, registry)
    with pytest.raises(BadBytesError):
        with_registry_id(b"\xc3\x01" + bytes(20), registry)


# --- versions ---

OLDER = [version for record_type in RECORD_TYPES for version in shipped()[record_type][:-1]]


def example_under(version: SchemaVersion) -> bytes:
    """The example of that version as a release wrote it whose newest version it was."""
    _, told = decode_record(record_of_json(example(version.record_type, version.version)))
    body = BytesIO()
    fastavro.schemaless_writer(body, json.loads(version.text), avro_record(told))
    return b"\xc3\x01" + version.fingerprint + body.getvalue()


@pytest.mark.parametrize("version", OLDER, ids=lambda version: f"{version.record_type} v{version.version}")
def test_an_older_record_is_read_into_the_newest_version(version: SchemaVersion) -> None:
    expected = decode_record(record_of_json(example(version.record_type, version.version)))
    assert decode_record(example_under(version)) == expected


@pytest.mark.parametrize("record_type", OUTPUTS)
def test_the_avro_project_reads_every_version_of_what_is_published_by_every_other(record_type: str) -> None:
    parsed = [avro.schema.parse(json.dumps(without_logical_types(each.schema))) for each in shipped()[record_type]]
    for version, writer in zip(shipped()[record_type], parsed, strict=True):
        for reader in parsed:
            decoder = avro.io.BinaryDecoder(BytesIO(example_under(version)[10:]))
            read = cast("dict[str, Any]", avro.io.DatumReader(writer, reader).read(decoder))
            assert set(read) == {field.name for field in cast("avro.schema.RecordSchema", reader).fields}


def test_a_change_of_the_first_version_is_of_an_allocation_that_did_not_shrink_below_use() -> None:
    change = decode_change(example_under(shipped()[CHANGE][0]))
    assert (change.before.over_allocated, change.after.over_allocated) == (None, None)
    assert change.after.limit == 1000


def registered_as(schema: object) -> Registry:
    registered = RegisteredSchemas()
    registered.texts.append(json.dumps(schema))
    return registered.registry()


def another_usage_schema() -> dict[str, Any]:
    """A version that this release does not ship: two optional fields less, units as int, and a field we do not know."""
    schema = json.loads(newest("UsageRecorded").text)
    kept = [field for field in schema["fields"] if field["name"] not in ("resource", "source_version")]
    for field in kept:
        if field["name"] == "units":
            field["type"] = "int"
    return {**schema, "fields": [{"name": "region", "type": "string"}, *kept]}


def body_under(schema: dict[str, Any], **changed: object) -> bytes:
    body = BytesIO()
    fastavro.schemaless_writer(body, schema, avro_record(usage()) | {"region": "eu"} | changed)
    return b"\x00\x00\x00\x00\x01" + body.getvalue()


def test_a_record_of_another_version_is_read_into_the_newest() -> None:
    schema = another_usage_schema()
    expected = usage(fact=UsageRecorded(entitlement="render-credits", units=350))
    assert decode(TopicFamily.USAGE, body_under(schema), registered_as(schema)) == expected


@given(st.data())
def test_a_damaged_record_of_another_version_is_bad_bytes_and_nothing_else(data: st.DataObject) -> None:
    schema = another_usage_schema()
    value = body_under(schema)
    registry = registered_as(schema)
    for length in range(5, len(value)):
        assert reason_of(value[:length], registry=registry) == "undecodable"
    assert reason_of(value + b"\x00", registry=registry) == "undecodable"
    assert reason_of(value[:5] + data.draw(st.binary(max_size=100)), registry=registry) != "unknown_schema"


def test_a_schema_that_counts_instants_in_another_unit_is_refused() -> None:
    schema = json.loads(newest("UsageRecorded").text)
    schema["fields"][2]["type"]["logicalType"] = "timestamp-millis"
    with pytest.raises(BadBytesError, match="occurred_at as timestamp-millis, expected timestamp-micros") as found:
        decode(TopicFamily.USAGE, body_under(schema), registered_as(schema))
    assert found.value.reason == "unknown_schema"


def test_a_schema_that_lacks_a_field_we_need_is_refused() -> None:
    schema = json.loads(newest("UsageRecorded").text)
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "units"]
    assert reason_of(body_under(schema), registry=registered_as(schema)) == "unknown_schema"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "record", "name": "UsageRecorded", "fields": []}, "unknown_type"),
        ({"type": "record", "name": "entitlements.UsageForgotten", "fields": []}, "unknown_type"),
        ({"type": "record", "name": "entitlements.UsageRecorded"}, "unknown_schema"),
        (
            {"type": "record", "name": "entitlements.UsageRecorded", "fields": [{"name": "a", "type": "b"}]},
            "unknown_schema",
        ),
        (
            # Avro allows attributes that it does not define; the parser does not look at them.
            {
                "type": "record",
                "name": "entitlements.UsageRecorded",
                "fields": [{"name": "a", "type": {"type": "long", "fields": "b"}}],
            },
            "unknown_schema",
        ),
        (["null", "string"], "unknown_type"),
        ("string", "unknown_type"),
        (7, "unknown_type"),
    ],
)
def test_a_registered_schema_that_is_none_of_ours_is_refused(schema: object, reason: str) -> None:
    assert reason_of(b"\x00\x00\x00\x00\x01\x00", registry=registered_as(schema)) == reason


def test_a_registered_text_that_is_too_deep_to_read_is_refused() -> None:
    registry = Registry(lambda _id: "[" * 100_000, lambda _subject, _text: 1)
    assert reason_of(b"\x00\x00\x00\x00\x01\x00", registry=registry) == "unknown_schema"


def test_instants_of_every_length_of_varint_round_trip() -> None:
    start = usage().occurred_at
    for days in range(-19_000, 300_000, 997):
        event = usage(occurred_at=start + timedelta(days=days, microseconds=days))
        assert decode_record(encode_event(event)) == ("UsageRecorded", event)
