"""The contract holds: every field is explained, every fingerprint is its own, every version reads those it must."""

import json
from collections.abc import Iterator, Sequence
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import avro.schema
import msgspec
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from fastavro.schema import fingerprint

from ledger_worker.domain.access import AccessReason
from ledger_worker.domain.catalogue import EntitlementType
from ledger_worker.domain.events import Event
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import ConfigurationError
from ledger_worker.wire import codec, schemas
from ledger_worker.wire.schema_reference import schema_reference
from ledger_worker.wire.schemas import (
    CHANGE,
    CUSTOMER_STATE,
    DEAD_LETTER_REFERENCE,
    EVENTS,
    NAMESPACE,
    OUTPUTS,
    RECORD_TYPES,
    fingerprint_of,
    newest,
    schemas_directory,
    shipped,
)
from tests.wire.values import FACT_TYPES

ALL_VERSIONS = [version for record_type in RECORD_TYPES for version in shipped()[record_type]]
NAMES = [f"{version.record_type} v{version.version}" for version in ALL_VERSIONS]


class Mode(Enum):
    """What must be able to read what; the names are those of a schema registry."""

    BACKWARD_TRANSITIVE = "each version reads all older ones"
    FULL_TRANSITIVE = "each version reads every other"


def mode_of(record_type: str) -> Mode:
    return Mode.FULL_TRANSITIVE if record_type in OUTPUTS else Mode.BACKWARD_TRANSITIVE


def unreadable(versions: Sequence[str], mode: Mode) -> list[str]:
    """Which version cannot read which; versions are schema texts, oldest first."""
    parsed = [avro.schema.parse(text) for text in versions]
    found = []
    for reader_place, reader in enumerate(parsed):
        writers = parsed if mode is Mode.FULL_TRANSITIVE else parsed[:reader_place]
        for writer_place, writer in enumerate(writers):
            checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call] # the library annotates methods only
            result = checker.get_compatibility(reader=reader, writer=writer)
            if result.compatibility is not SchemaCompatibilityType.compatible:
                found.append(f"v{reader_place + 1} cannot read v{writer_place + 1}")
    return found


def records_of(schema: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any JSON of a schema
    if isinstance(schema, list):
        for branch in schema:
            yield from records_of(branch)
    elif isinstance(schema, dict):
        if schema["type"] == "record":
            yield schema
        for inner in (*schema.get("fields", ()), {"type": schema.get("items", "null")}):
            yield from records_of(inner["type"])


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=NAMES)
def test_every_record_and_every_field_says_what_it_means(version: schemas.SchemaVersion) -> None:
    silent = [record["name"] for record in records_of(version.schema) if not record.get("doc")]
    silent += [
        f"{record['name']}.{field['name']}"
        for record in records_of(version.schema)
        for field in record["fields"]
        if len(field.get("doc", "")) < 10
    ]
    assert silent == []


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=NAMES)
def test_a_schema_is_named_as_its_folder_in_a_namespace_without_a_version(version: schemas.SchemaVersion) -> None:
    assert (version.schema["namespace"], version.schema["name"]) == (NAMESPACE, version.record_type)
    assert not any(character.isdigit() for character in NAMESPACE)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=NAMES)
def test_no_union_is_but_of_null_and_one_type_and_null_is_the_default(version: schemas.SchemaVersion) -> None:
    for record in records_of(version.schema):
        for field in record["fields"]:
            if isinstance(field["type"], list):
                assert (len(field["type"]), field["type"][0], field["default"]) == (2, "null", None)


def test_every_fact_has_a_record_but_those_that_the_ledger_tells_itself() -> None:
    assert set(EVENTS) == set(FACT_TYPES)


@pytest.mark.parametrize("record_type", EVENTS)
def test_every_event_has_the_envelope_first_and_the_fields_of_its_fact(record_type: str) -> None:
    names = [field["name"] for field in newest(record_type).schema["fields"]]
    fact = codec._CLASS_OF[record_type].__struct_fields__  # noqa: SLF001 - which value stands for which record
    assert names[:5] == ["event_id", "event_source", "occurred_at", "customer_id", "source_version"]
    assert set(names[:5]) == set(Event.__struct_fields__) - {"fact"}
    assert names[5:] == list(fact)


@pytest.mark.parametrize("record_type", EVENTS)
def test_every_field_of_a_fact_has_the_default_that_its_record_has(record_type: str) -> None:
    for record in records_of(newest(record_type).schema):
        value = codec._CLASS_OF[record["name"]]  # noqa: SLF001 - which value stands for which record
        shipped_defaults = {field["name"]: field["default"] for field in record["fields"] if "default" in field}
        for field in msgspec.structs.fields(value):
            shown = [] if field.default == () else field.default
            assert shipped_defaults.get(field.name, msgspec.NODEFAULT) == shown


@pytest.mark.parametrize(
    ("record_type", "record", "field", "words"),
    [
        (CHANGE, "EntitlementPicture", "reason", AccessReason),
        (CHANGE, "EntitlementPicture", "type", EntitlementType),
        (CUSTOMER_STATE, "EntitlementPicture", "reason", AccessReason),
        (CUSTOMER_STATE, "EntitlementPicture", "type", EntitlementType),
        (DEAD_LETTER_REFERENCE, DEAD_LETTER_REFERENCE, "reason", DeadLetterReason),
    ],
)
def test_a_closed_list_is_documented_beside_its_field(
    record_type: str, record: str, field: str, words: type[StrEnum]
) -> None:
    schema = next(each for each in records_of(newest(record_type).schema) if each["name"] == record)
    doc = next(each["doc"] for each in schema["fields"] if each["name"] == field)
    assert [word for word in words if f"`{word.value}`" not in doc] == []


def test_no_two_versions_share_a_fingerprint() -> None:
    assert len({version.fingerprint for version in ALL_VERSIONS}) == len(ALL_VERSIONS)


def test_no_two_versions_of_a_record_differ_in_logical_types_or_defaults_alone() -> None:
    for record_type in RECORD_TYPES:
        forms = [fingerprint_of(version.schema) for version in shipped()[record_type]]
        assert len(set(forms)) == len(forms)


@pytest.mark.parametrize(
    ("canonical", "expected"),
    [('"null"', "8a8f25cce724dd63"), ('"int"', "8f5c393f1ad57572"), ('"string"', "c70345637248018f")],
)
def test_fingerprints_are_those_of_the_avro_specification_little_endian(canonical: str, expected: str) -> None:
    """The numbers are 63dd24e7cc258f8a, 7275d51a3f395c8f and 8f014872634503c7 in the specification's own tests."""
    assert fingerprint(canonical, "CRC-64-AVRO") == expected


@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_every_version_reads_the_versions_it_must(record_type: str) -> None:
    assert unreadable([version.text for version in shipped()[record_type]], mode_of(record_type)) == []


def with_field(text: str, **field: object) -> str:
    schema = json.loads(text)
    return json.dumps({**schema, "fields": [*schema["fields"], field]})


def test_a_field_without_default_is_found_unreadable_in_both_modes() -> None:
    text = newest("UsageRecorded").text
    versions = [text, with_field(text, name="region", type="string")]
    assert unreadable(versions, Mode.BACKWARD_TRANSITIVE) == ["v2 cannot read v1"]
    assert unreadable(versions, Mode.FULL_TRANSITIVE) == ["v2 cannot read v1"]


def test_a_dropped_field_without_default_is_found_unreadable_by_old_readers_alone() -> None:
    schema = json.loads(newest("CustomerState").text)
    fewer = [field for field in schema["fields"] if field["name"] != "sequence"]
    versions = [json.dumps(schema), json.dumps({**schema, "fields": fewer})]
    assert unreadable(versions, Mode.BACKWARD_TRANSITIVE) == []
    assert unreadable(versions, Mode.FULL_TRANSITIVE) == ["v1 cannot read v2"]


def test_an_incompatible_change_is_found_across_a_version_that_hides_it() -> None:
    first = newest("UsageRecorded").text
    second = with_field(first, name="region", type="string", default="")
    third = with_field(first, name="region", type="string")
    assert unreadable([first, second, third], Mode.BACKWARD_TRANSITIVE) == ["v3 cannot read v1"]


def test_a_missing_version_stops_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "UsageRecorded"
    folder.mkdir()
    (folder / "v2.avsc").write_text(newest("UsageRecorded").text)
    with pytest.raises(ConfigurationError, match="UsageRecorded has versions"):
        schemas._versions(tmp_path, "UsageRecorded")  # noqa: SLF001 - the files of the package cannot be taken away


def test_every_folder_of_schemas_is_of_a_known_record_type() -> None:
    assert {entry.name for entry in schemas_directory().iterdir() if entry.is_dir()} == set(RECORD_TYPES)


def test_the_reference_page_says_what_the_schemas_say() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "schemas.md"
    assert page.read_text(encoding="utf-8") == schema_reference()
