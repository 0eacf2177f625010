"""Avro bodies to values and back, by functions compiled from the schema itself.

Why not a library's reader: fastavro hands out a dict, and the values of the domain have still to be built from it.
Source text made from the schema reads straight into those values, checked, in about the time that the dict with logical
types alone takes, and writes them in half that (`tests/benchmarks/decode.py` prints it). Every line of that text is the
Avro specification for one field, and tests hold it against fastavro for every record type.

Only what our schemas use is compiled: record, array, string, bytes, boolean, long, timestamp-micros, uuid, and a
union of null with one of them. A body written under another version of a schema is first resolved by fastavro into
the newest version's bytes, then read like all others: slower, correct, and no second way to build a value.

A compiled reader raises IndexError or ValueError for bytes that are no such record, and BadBytesError for an instant
that no calendar has; `decode` turns all of them into one kind of error. It never reads past the end: a slice that is
cut short leaves the position beyond the length, which the final comparison finds before a value is built.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from types import MappingProxyType
from typing import Any, cast, get_args
from uuid import UUID

import fastavro
import msgspec
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, parse_schema, to_parsing_canonical_form

from ledger_worker.domain.changes import Cause, Change, CustomerPicture, EntitlementPicture
from ledger_worker.domain.events import Event, Fact, PurchaseLine, RefundLine, SubscriptionItem
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import BadBytesError
from ledger_worker.wire.schemas import (
    CHANGE,
    CUSTOMER_STATE,
    DEAD_LETTER_REFERENCE,
    EVENTS,
    FAMILY_OF,
    RECORD_TYPES,
    AvroSchema,
    TopicFamily,
    full_name,
    newest,
)

__all__ = ["DeadLetterReference", "Reader", "reader_for", "without_logical_types", "writer_for"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DeadLetterReference(msgspec.Struct, frozen=True, kw_only=True):
    """What is published for a dead letter that is too large; `size_bytes` and `sha256` are of the record's value."""

    dead_letter_id: UUID
    reason: str
    message: str
    source_topic: str
    source_partition: int
    source_offset: int
    first_failed_at: datetime
    size_bytes: int
    sha256: bytes


_CLASS_OF: Mapping[str, type[msgspec.Struct]] = MappingProxyType(
    {
        **{kind.__name__: kind for kind in get_args(Fact) if kind.__name__ in EVENTS},
        "PurchaseLine": PurchaseLine,
        "RefundLine": RefundLine,
        "SubscriptionItem": SubscriptionItem,
        CHANGE: Change,
        "Cause": Cause,
        CUSTOMER_STATE: CustomerPicture,
        "EntitlementPicture": EntitlementPicture,
        DEAD_LETTER_REFERENCE: DeadLetterReference,
    }
)
_ENVELOPE = frozenset(Event.__struct_fields__) - {"fact"}


class Reader(msgspec.Struct, frozen=True):
    """What reads the bodies of one writer schema: `read(value, start)` takes the body from `start` to the end.

    `family` is None for the records that no input topic carries: acts by hand, and what the ledger publishes itself.
    """

    record_type: str
    family: TopicFamily | None
    read: Callable[[bytes, int], Any]


def reader_for(writer: object) -> Reader:
    """A reader of bodies written under `writer`, into the values of the newest version of the same record type.

    Raises BadBytesError: `unknown_type` when this release knows no such record, `unknown_schema` when the schema is
    none or counts an instant in another unit than ours (resolution would not notice: the underlying type is the
    same).
    """
    if not isinstance(writer, dict) or writer.get("type") != "record":
        raise BadBytesError(DeadLetterReason.UNKNOWN_TYPE, "the writer schema is no record, expected one record type")
    try:
        parsed = cast("AvroSchema", parse_schema(writer))
    except (SchemaParseException, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise BadBytesError(DeadLetterReason.UNKNOWN_SCHEMA, f"the writer schema is not valid Avro: {error}") from error
    name = parsed.get("name")
    record_type = next((known for known in RECORD_TYPES if full_name(known) == name), None)
    if record_type is None:
        raise BadBytesError(
            DeadLetterReason.UNKNOWN_TYPE, f"the record type is {name}, expected one that this release knows"
        )
    ours = newest(record_type).schema
    read = _compiled_reader(record_type)
    try:
        _refuse_other_units(writer, ours)
        if to_parsing_canonical_form(writer) != to_parsing_canonical_form(ours):
            read = _resolving_reader(writer, ours, read)
    except (AttributeError, LookupError, RecursionError, TypeError) as error:
        # The parser lets shapes pass that are none of the specification: a type in a type, a default that is no text.
        raise BadBytesError(
            DeadLetterReason.UNKNOWN_SCHEMA, f"the writer schema cannot be walked: {type(error).__name__}"
        ) from error
    return Reader(record_type, FAMILY_OF.get(record_type), read)


@cache
def writer_for(record_type: str) -> Callable[[Any], bytes]:
    """A writer of bodies under the newest version: takes the Event, or the value of a published record.

    It raises ValueError for an integer beyond 64 bits or text that UTF-8 cannot hold.
    """
    return _compiled("write", _writer_lines(record_type))


def without_logical_types(schema: Any) -> Any:  # noqa: ANN401 - any JSON in, the same JSON out
    """The same schema with its plain types only, so that fastavro takes and gives integers and strings."""
    if isinstance(schema, dict):
        return {key: without_logical_types(value) for key, value in schema.items() if key != "logicalType"}
    if isinstance(schema, list):
        return [without_logical_types(part) for part in schema]
    return schema


# ----------------------------------------------------------------------------------------------------------------------
# Versions
# ----------------------------------------------------------------------------------------------------------------------


def _resolving_reader(
    writer: AvroSchema, ours: AvroSchema, read: Callable[[bytes, int], Any]
) -> Callable[[bytes, int], Any]:
    plain_writer, plain_ours = parse_schema(without_logical_types(writer)), parse_schema(without_logical_types(ours))

    def resolve_and_read(value: bytes, start: int) -> Any:  # noqa: ANN401 - the value of whatever record it is
        """What `read` makes of the value, written anew by our schema. Raises ValueError for bytes of no such record."""
        stream = BytesIO(value)
        stream.seek(start)
        resolved = BytesIO()
        try:
            record = fastavro.schemaless_reader(stream, plain_writer, plain_ours)
            fastavro.schemaless_writer(resolved, plain_ours, cast("dict[str, object]", record))
        except SchemaResolutionError as error:
            raise BadBytesError(
                DeadLetterReason.UNKNOWN_SCHEMA, f"the writer schema cannot be resolved to ours: {error}"
            ) from error
        except Exception as error:
            # The library promises no closed list of what it raises for bytes that are no record of the schema.
            raise ValueError(f"cannot be resolved to the newest version: {type(error).__name__}") from error
        if stream.tell() != len(value):
            raise ValueError("bytes are left over")
        return read(resolved.getvalue(), 0)

    return resolve_and_read


def _refuse_other_units(writer: AvroSchema, ours: AvroSchema) -> None:
    theirs = dict(_logical_types(writer, ""))
    for path, expected in _logical_types(ours, ""):
        found = theirs.get(path, expected)
        if found != expected:
            raise BadBytesError(
                DeadLetterReason.UNKNOWN_SCHEMA, f"the writer schema has {path} as {found}, expected {expected}"
            )


def _logical_types(schema: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON of a schema
    if isinstance(schema, list):
        for branch in schema:
            yield from _logical_types(branch, path)
    elif isinstance(schema, dict):
        if "logicalType" in schema:
            yield path, str(schema["logicalType"])
        elif schema["type"] == "array":
            yield from _logical_types(schema["items"], path)
        for field in schema.get("fields", ()):
            yield from _logical_types(field["type"], f"{path}.{field['name']}".lstrip("."))


# ----------------------------------------------------------------------------------------------------------------------
# Compilation
# ----------------------------------------------------------------------------------------------------------------------


class _Lines:
    """Source text in the making; names of variables are numbered, so that nested loops cannot meet."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._count = 0

    def add(self, indent: int, *lines: str) -> None:
        """The lines follow, each `indent` levels of four spaces deeper than it is written."""
        self._lines += ["    " * indent + line for line in lines]

    def name(self) -> str:
        """A variable that no line uses yet."""
        self._count += 1
        return f"v{self._count}"

    def text(self) -> str:
        """All lines so far, to be compiled."""
        return "\n".join(self._lines) + "\n"


@cache
def _compiled_reader(record_type: str) -> Callable[[bytes, int], Any]:
    return _compiled("read", _reader_lines(record_type))


def _compiled(name: str, source: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {
        "Event": Event,
        "UUID": UUID,
        "_eight_byte_long": _eight_byte_long,
        "_instant": _instant,
        "_length": _length,
        "_long": _long,
        "_micros": _micros,
        "_VARINTS": _VARINTS,
        "_NULLABLE_VARINTS": _NULLABLE_VARINTS,
        **_CLASS_OF,
    }
    # The text is made of the schemas that are part of this package, never of what a registry or a record says.
    exec(compile(source, f"<{name} compiled from schemas/>", "exec"), scope)  # noqa: S102
    return cast("Callable[..., Any]", scope[name])


def _reader_lines(record_type: str) -> str:
    lines, named = _Lines(), dict[str, AvroSchema]()
    lines.add(0, "def read(b, p):")
    fields = newest(record_type).schema["fields"]
    values = {field["name"]: _read(lines, 1, field["type"], field["name"], named) for field in fields}
    lines.add(1, "if p != len(b):", "    raise ValueError('the length does not fit the schema')")
    if record_type in EVENTS:
        fact = _call(record_type, {name: value for name, value in values.items() if name not in _ENVELOPE})
        envelope = {name: value for name, value in values.items() if name in _ENVELOPE}
        lines.add(1, "return " + _call("Event", {**envelope, "fact": fact}))
    else:
        lines.add(1, "return " + _call(record_type, values))
    return lines.text()


def _call(name: str, values: Mapping[str, str]) -> str:
    return f"{name}({', '.join(f'{field}={value}' for field, value in values.items())})"


def _read(lines: _Lines, indent: int, schema: Any, path: str, named: dict[str, AvroSchema]) -> str:  # noqa: ANN401
    """Adds what reads one value; answers the expression of the value."""
    schema = named.get(schema, schema) if isinstance(schema, str) else schema
    name = lines.name()
    if isinstance(schema, list):
        lines.add(indent, "n = b[p]", "p += 1", "if n == 0:", f"    {name} = None", "elif n == 2:")
        value = _read(lines, indent + 1, _not_null(schema), path, named)
        lines.add(indent + 1, f"{name} = {value}")
        lines.add(indent, "else:", f"    raise ValueError('{path} has no such branch')")
        return name
    kind = schema["type"] if isinstance(schema, dict) else schema
    logical = schema.get("logicalType") if isinstance(schema, dict) else None
    match kind, logical:
        case "string" | "bytes", None | "uuid":
            lines.add(indent, "n = b[p]", "p += 1")
            lines.add(indent, "if n & 129:", "    n, p = _length(b, p - 1)", "else:", "    n >>= 1")
            lines.add(indent, "q = p + n", f"{name} = b[p:q]" + (".decode()" if kind == "string" else ""), "p = q")
            return f"UUID({name})" if logical else name
        case "long", None:
            lines.add(indent, "n = b[p]", "if n > 127:", f"    {name}, p = _long(b, p)")
            lines.add(indent, "else:", f"    {name} = (n >> 1) ^ -(n & 1)", "    p += 1")
            return name
        case "long", "timestamp-micros":
            lines.add(indent, f"{name}, p = _eight_byte_long(b, p)")
            return f"_instant({name}, '{path}')"
        case "boolean", None:
            lines.add(
                indent, f"{name} = b[p]", "p += 1", f"if {name} > 1:", f"    raise ValueError('{path} is no boolean')"
            )
            return f"{name} == 1"
        case "array", None:
            left = lines.name()
            lines.add(indent, f"{name} = []", f"{left}, p = _long(b, p)", f"while {left}:")
            lines.add(indent + 1, f"if {left} < 0:", f"    {left} = -{left}", "    n, p = _length(b, p)")
            lines.add(indent + 1, f"for _ in range({left}):")
            value = _read(lines, indent + 2, schema["items"], f"{path}[]", named)
            lines.add(indent + 2, f"{name}.append({value})")
            lines.add(indent + 1, f"{left}, p = _long(b, p)")
            return f"tuple({name})"
        case "record", None:
            named[schema["name"]] = schema
            fields = [(field["name"], field["type"]) for field in schema["fields"]]
            values = {field: _read(lines, indent, type_, f"{path}.{field}", named) for field, type_ in fields}
            return _call(schema["name"], values)
        case _:
            raise TypeError(f"{path} is {kind} ({logical}), which the codec does not compile")


def _writer_lines(record_type: str) -> str:
    lines, named = _Lines(), dict[str, AvroSchema]()
    lines.add(0, "def write(v):", "    parts = []", "    add = parts.append")
    if record_type in EVENTS:
        lines.add(1, "fact = v.fact")
    for field in newest(record_type).schema["fields"]:
        owner = "fact" if record_type in EVENTS and field["name"] not in _ENVELOPE else "v"
        _write(lines, 1, field["type"], f"{owner}.{field['name']}", named)
    lines.add(1, "return b''.join(parts)")
    return lines.text()


def _write(lines: _Lines, indent: int, schema: Any, value: str, named: dict[str, AvroSchema]) -> None:  # noqa: ANN401
    """Adds what writes the value of an expression."""
    schema = named.get(schema, schema) if isinstance(schema, str) else schema
    name = lines.name()
    if schema == ["null", "long"]:
        lines.add(indent, f"add(_NULLABLE_VARINTS[{value}])")
        return
    if isinstance(schema, list):
        lines.add(indent, f"{name} = {value}", f"if {name} is None:", "    add(b'\\x00')", "else:", "    add(b'\\x02')")
        _write(lines, indent + 1, _not_null(schema), name, named)
        return
    kind = schema["type"] if isinstance(schema, dict) else schema
    logical = schema.get("logicalType") if isinstance(schema, dict) else None
    match kind, logical:
        case "string", None | "uuid":
            text = f"str({value})" if logical else value
            lines.add(indent, f"{name} = {text}.encode()", f"add(_VARINTS[len({name})])", f"add({name})")
        case "bytes", None:
            lines.add(indent, f"add(_VARINTS[len({value})])", f"add({value})")
        case "long", None:
            lines.add(indent, f"add(_VARINTS[{value}])")
        case "long", "timestamp-micros":
            lines.add(indent, f"add(_VARINTS[_micros({value})])")
        case "boolean", None:
            lines.add(indent, f"add(b'\\x01' if {value} else b'\\x00')")
        case "array", None:
            lines.add(indent, f"{name} = {value}", f"if {name}:", f"    add(_VARINTS[len({name})])")
            item = lines.name()
            lines.add(indent + 1, f"for {item} in {name}:")
            _write(lines, indent + 2, schema["items"], item, named)
            lines.add(indent, "add(b'\\x00')")
        case "record", None:
            named[schema["name"]] = schema
            lines.add(indent, f"{name} = {value}")
            for field in schema["fields"]:
                _write(lines, indent, field["type"], f"{name}.{field['name']}", named)
        case _:
            raise TypeError(f"{value} is {kind} ({logical}), which the codec does not compile")


def _not_null(union: list[Any]) -> Any:  # noqa: ANN401 - a branch is any schema
    if len(union) != len(("null", "other")) or union[0] != "null":
        raise TypeError(f"the union {union} is not of null with one other type")
    return union[1]


# ----------------------------------------------------------------------------------------------------------------------
# What the compiled text calls
# ----------------------------------------------------------------------------------------------------------------------

_VARINT_BITS_MAX = 64
_CONTINUED = 128
_CONTINUATION_BITS = 0x8080808080808080
_EIGHT_BYTES = 0x0080808080808080
"""The continuation bits of a varint of exactly eight bytes, read as a little-endian word."""


def _eight_byte_long(b: bytes, p: int) -> tuple[int, int]:
    """The long at `p` and the position after it: what `_long` answers, sooner where it takes eight bytes."""
    word = int.from_bytes(b[p : p + 8], "little")
    if word & _CONTINUATION_BITS != _EIGHT_BYTES:
        return _long(b, p)
    # As every instant from 1979 to 3110 takes: the groups of seven bits are pushed together at once.
    word = (word & 0x007F007F007F007F) | ((word & 0x7F007F007F007F00) >> 1)
    word = (word & 0x00003FFF00003FFF) | ((word & 0x3FFF00003FFF0000) >> 2)
    word = (word & 0x000000000FFFFFFF) | ((word & 0x0FFFFFFF00000000) >> 4)
    return (word >> 1) ^ -(word & 1), p + 8


def _long(b: bytes, p: int) -> tuple[int, int]:
    """The long at `p` and the position after it."""
    byte = b[p]
    word, shift = byte & 127, 7
    p += 1
    while byte >= _CONTINUED:
        byte = b[p]
        word |= (byte & 127) << shift
        shift += 7
        p += 1
        if shift > _VARINT_BITS_MAX and (word >> _VARINT_BITS_MAX or shift > _VARINT_BITS_MAX + 6):
            raise ValueError("an integer is longer than 64 bits")
    return (word >> 1) ^ -(word & 1), p


def _length(b: bytes, p: int) -> tuple[int, int]:
    """The length at `p` and the position after it."""
    length, p = _long(b, p)
    if length < 0:
        raise ValueError("a length is negative")
    return length, p


def _instant(micros: int, path: str) -> datetime:
    """The aware instant of microseconds since 1970."""
    try:
        return _EPOCH + timedelta(0, 0, micros)
    except OverflowError:
        raise BadBytesError(
            DeadLetterReason.IMPOSSIBLE_VALUE, f"{path} is {micros} microseconds since 1970, which no calendar has"
        ) from None


def _micros(instant: datetime) -> int:
    """The microseconds since 1970 of an aware instant."""
    return (instant - _EPOCH) // _MICROSECOND


_MICROSECOND = timedelta(microseconds=1)


def _varint(value: int) -> bytes:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{value} is longer than 64 bits")
    word = (value << 1) ^ (value >> 63)
    if 1 << 49 <= word < 1 << 56:
        # Eight bytes, as instants take: the inverse of what `_eight_byte_long` does.
        word = (word & 0x000000000FFFFFFF) | ((word & 0x00FFFFFFF0000000) << 4)
        word = (word & 0x00003FFF00003FFF) | ((word & 0x0FFFC0000FFFC000) << 2)
        word = (word & 0x007F007F007F007F) | ((word & 0x3F803F803F803F80) << 1)
        return (word | _EIGHT_BYTES).to_bytes(8, "little")
    out = bytearray()
    while word > 127:  # noqa: PLR2004 - seven bits a byte
        out.append((word & 127) | 128)
        word >>= 7
    out.append(word)
    return bytes(out)


class _Varints(dict[int, bytes]):
    """Encoded longs: the common ones from a table, the others computed and not kept."""

    def __missing__(self, value: int) -> bytes:
        return _varint(value)


class _NullableVarints(dict[int | None, bytes]):
    """Encoded unions of null and long: the branch and what follows it."""

    def __missing__(self, value: int) -> bytes:
        return b"\x02" + _varint(value)


_VARINTS = _Varints({value: _varint(value) for value in range(4096)})
_NULLABLE_VARINTS = _NullableVarints({None: b"\x00"} | {value: b"\x02" + _varint(value) for value in range(4096)})
