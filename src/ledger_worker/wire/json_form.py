"""Records as flat JSON, one object a line: what a person writes for `events send`, and what `tail` prints.

The object has `type`, the record type, and the fields of the Avro record under their names. Instants are RFC 3339 with
a zone and at most microseconds; bytes are hexadecimal. Fields with a default may be left out; a field that the schema
does not have is refused, for it is most often a misspelt one. The schema drives both directions, so that a new field
needs no line here.

Errors are for the person who wrote the line: they name the field, what was sent and what was expected.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, NoReturn, TypeVar, cast

import fastavro

from ledger_worker.domain.events import Event
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import BadBytesError
from ledger_worker.wire.codec import without_logical_types, writer_for
from ledger_worker.wire.decode import decode_event, decode_record
from ledger_worker.wire.encode import encode_event
from ledger_worker.wire.framing import Registry, frame
from ledger_worker.wire.schemas import RECORD_TYPES, AvroSchema, newest

__all__ = ["event_of_json", "event_to_json", "json_of_record", "record_of_json"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SHOWN_CHARACTERS_MAX = 60
_Parsed = TypeVar("_Parsed")


def event_of_json(line: str | bytes) -> Event:
    """The event that a line of JSON tells, possible in itself.

    Raises BadBytesError, whose message names the field, what was sent and what was expected.
    """
    return decode_event(record_of_json(line))


def event_to_json(event: Event) -> str:
    """The line of JSON, without its end of line, that `event_of_json` reads as an equal event."""
    return json_of_record(encode_event(event))


def record_of_json(line: str | bytes) -> bytes:
    """The single-object bytes of the record that a line of JSON shows, of any type: an event or a published one.

    Raises BadBytesError as `event_of_json`, but does not judge what is possible.
    """
    fields = _object(line)
    record_type = fields.pop("type", None)
    if record_type not in RECORD_TYPES:
        raise BadBytesError(
            DeadLetterReason.UNKNOWN_TYPE,
            f"type is {_shown(record_type)}, expected one of {', '.join(RECORD_TYPES)}",
        )
    schema = newest(record_type).schema
    record = _to_avro(schema, fields, "", {})
    body = BytesIO()
    fastavro.schemaless_writer(body, without_logical_types(schema), record)
    return frame(record_type, body.getvalue())


def json_of_record(value: bytes, registry: Registry | None = None) -> str:
    """One line of JSON that shows the record, with all fields of the newest version. Raises as `decode.decode`."""
    record_type, told = decode_record(value, registry)
    schema = newest(record_type).schema
    body = BytesIO(writer_for(record_type)(told))
    record = fastavro.schemaless_reader(body, without_logical_types(schema), None)
    shown = cast("dict[str, object]", _to_json(schema, record, {}))
    return json.dumps({"type": record_type, **shown}, ensure_ascii=False)


# ----------------------------------------------------------------------------------------------------------------------
# JSON to what Avro holds
# ----------------------------------------------------------------------------------------------------------------------


def _object(line: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(line, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise _refused(f"the line is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise _refused(f"the line is {_shown(found)}, expected a JSON object")
    return found


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a field twice")
    return found


def _to_avro(schema: Any, sent: object, path: str, named: dict[str, AvroSchema]) -> Any:  # noqa: ANN401 - JSON to Avro
    schema = named.get(schema, schema) if isinstance(schema, str) else schema
    if isinstance(schema, list):
        return None if sent is None else _to_avro(schema[1], sent, path, named)
    kind = schema["type"] if isinstance(schema, dict) else schema
    logical = schema.get("logicalType") if isinstance(schema, dict) else None
    match kind:
        case "record":
            return _record_to_avro(schema, sent, path, named)
        case "array":
            elements = sent if isinstance(sent, list) else _refuse(path, sent, "a list")
            return [_to_avro(schema["items"], each, f"{path}[{place}]", named) for place, each in enumerate(elements)]
        case "long" if logical:
            return _micros_of(path, sent)
        case "long":
            is_long = isinstance(sent, int) and not isinstance(sent, bool) and -(2**63) <= sent < 2**63
            return sent if is_long else _refuse(path, sent, "a whole number of at most 64 bits")
        case "boolean":
            return sent if isinstance(sent, bool) else _refuse(path, sent, "true or false")
        case "bytes":
            return _parsed(path, sent, bytes.fromhex, "hexadecimal digits, two a byte")
        case _:
            return _parsed(path, sent, _utf8_text, "a text")


def _record_to_avro(schema: AvroSchema, sent: object, path: str, named: dict[str, AvroSchema]) -> dict[str, object]:
    named[schema["name"]] = schema
    fields = sent if isinstance(sent, dict) else _refuse(path, sent, "an object")
    names = [field["name"] for field in schema["fields"]]
    for name in fields:
        if name not in names:
            raise _refused(f"{_at(path, name)} is no field of {schema['name']}, expected one of {', '.join(names)}")
    record = {}
    for field in schema["fields"]:
        name = field["name"]
        if name in fields:
            record[name] = _to_avro(field["type"], fields[name], _at(path, name), named)
        elif "default" in field:
            record[name] = field["default"]
        else:
            raise _refused(f"{_at(path, name)} is missing, expected it in every {schema['name']}")
    return record


def _micros_of(path: str, sent: object) -> int:
    expected = "an instant with its zone, such as 2026-03-02T09:15:00Z"
    if not isinstance(sent, str) or not _INSTANT.fullmatch(sent):
        return _refuse(path, sent, expected)
    instant = _parsed(path, sent, datetime.fromisoformat, expected)
    return (instant - _EPOCH) // timedelta(microseconds=1)


def _parsed(path: str, sent: object, parse: Callable[[str], _Parsed], expected: str) -> _Parsed:
    if not isinstance(sent, str):
        _refuse(path, sent, expected)
    try:
        return parse(sent)
    except ValueError:
        return _refuse(path, sent, expected)


def _utf8_text(sent: str) -> str:
    sent.encode()
    return sent


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refuse(path: str, sent: object, expected: str) -> NoReturn:
    raise _refused(f"{path} is {_shown(sent)}, expected {expected}")


def _refused(message: str) -> BadBytesError:
    return BadBytesError(DeadLetterReason.UNDECODABLE, message)


def _shown(sent: object) -> str:
    text = json.dumps(sent)
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "..."


# ----------------------------------------------------------------------------------------------------------------------
# What Avro holds to JSON
# ----------------------------------------------------------------------------------------------------------------------


def _to_json(schema: Any, value: Any, named: dict[str, AvroSchema]) -> object:  # noqa: ANN401 - Avro to JSON
    schema = named.get(schema, schema) if isinstance(schema, str) else schema
    if isinstance(schema, list):
        return None if value is None else _to_json(schema[1], value, named)
    kind = schema["type"] if isinstance(schema, dict) else schema
    match kind:
        case "record":
            named[schema["name"]] = schema
            return {field["name"]: _to_json(field["type"], value[field["name"]], named) for field in schema["fields"]}
        case "array":
            return [_to_json(schema["items"], each, named) for each in value]
        case "bytes":
            return value.hex()
        case "long" if isinstance(schema, dict):
            instant = _EPOCH + timedelta(microseconds=value)
            return instant.isoformat().replace("+00:00", "Z")
        case _:
            return value
