"""What stands before an Avro body and names its writer schema: two framings, both always readable.

    single object    C3 01, then the fingerprint of the schema, eight bytes little-endian      no registry needed
    Confluent        00, then the schema's id in the registry, four bytes big-endian           a registry needed

A writer takes the Confluent one when it is given a `Registry`, the other when not. No connection is opened here: a
registry is two functions that whoever speaks HTTP supplies. What they answer is kept for good, because a registry
never gives an id to another schema; what they do not know is asked again each time, because it may be registered in
the meantime.
"""

import json
from collections.abc import Callable
from functools import cache

from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import BadBytesError
from ledger_worker.wire.codec import Reader, reader_for
from ledger_worker.wire.schemas import SchemaVersion, by_fingerprint, full_name, newest

__all__ = ["CONFLUENT_HEAD_BYTES", "SINGLE_OBJECT_HEAD_BYTES", "Registry", "frame", "reader_of", "with_registry_id"]

_SINGLE_OBJECT_MARK = b"\xc3\x01"
_CONFLUENT_MARK = b"\x00"
SINGLE_OBJECT_HEAD_BYTES = 10
CONFLUENT_HEAD_BYTES = 5
_SCHEMAS_KEPT_MAX = 1000


class Registry:
    """The schema registry as this room needs it: ids to readers, our schemas to ids, each asked once.

    `schema_by_id(id)` answers the schema's text; it raises LookupError when the registry says that it has no such id,
    and UnavailableError when it cannot be asked. `id_of_schema(subject, text)` answers the id under which the text is
    registered; it raises ConfigurationError when it is not and may not be registered, and UnavailableError as above.
    Both errors pass through. One registry may be shared by threads: at worst two of them ask for the same id.
    """

    def __init__(self, schema_by_id: Callable[[int], str], id_of_schema: Callable[[str, str], int]) -> None:
        self._schema_by_id = schema_by_id
        self._id_of_schema = id_of_schema
        self._readers: dict[bytes, Reader] = {}
        self._heads: dict[bytes, bytes] = {}

    def reader(self, head: bytes) -> Reader:
        """The reader for a Confluent head of five bytes. Raises BadBytesError, or what the lookup raises."""
        known = self._readers.get(head)
        if known is not None:
            return known
        schema_id = int.from_bytes(head[1:], "big")
        try:
            schema = json.loads(self._schema_by_id(schema_id))
        except LookupError:
            raise BadBytesError(
                DeadLetterReason.UNKNOWN_SCHEMA, f"schema id {schema_id} is not known to the registry"
            ) from None
        except (ValueError, RecursionError) as error:
            raise BadBytesError(DeadLetterReason.UNKNOWN_SCHEMA, f"schema id {schema_id} is not JSON") from error
        reader = reader_for(schema)
        if len(self._readers) >= _SCHEMAS_KEPT_MAX:
            self._readers.clear()
        self._readers[head] = reader
        return reader

    def head(self, version: SchemaVersion) -> bytes:
        """The Confluent head for one of our schemas; its subject is the full name. Raises what the lookup raises."""
        known = self._heads.get(version.fingerprint)
        if known is None:
            schema_id = self._id_of_schema(full_name(version.record_type), version.text)
            known = self._heads[version.fingerprint] = _CONFLUENT_MARK + schema_id.to_bytes(4, "big")
        return known


def frame(record_type: str, body: bytes, registry: Registry | None = None) -> bytes:
    """The body behind the head of the record type's newest schema."""
    if registry is None:
        return _single_object_head(record_type) + body
    return registry.head(newest(record_type)) + body


def with_registry_id(value: bytes, registry: Registry) -> bytes:
    """The same record in Confluent framing, from one that this release framed as a single object; the body is not read.

    What was stored without a registry can so be published with one. Raises BadBytesError for any other bytes.
    """
    version = by_fingerprint().get(value[2:SINGLE_OBJECT_HEAD_BYTES]) if value.startswith(_SINGLE_OBJECT_MARK) else None
    if version is None:
        raise BadBytesError(DeadLetterReason.UNKNOWN_SCHEMA, "expected a single object of a schema of this release")
    return registry.head(version) + value[SINGLE_OBJECT_HEAD_BYTES:]


def reader_of(value: bytes, registry: Registry | None) -> tuple[Reader, int]:
    """What reads this record, and where its body starts.

    Raises BadBytesError: `undecodable` for other framings, `unknown_schema` and `unknown_type` for schemas that
    cannot be read. UnavailableError passes through when the registry has to be asked and cannot.
    """
    reader = _shipped_readers().get(value[:SINGLE_OBJECT_HEAD_BYTES])
    if reader is not None:
        return reader, SINGLE_OBJECT_HEAD_BYTES
    if value.startswith(_CONFLUENT_MARK) and len(value) >= CONFLUENT_HEAD_BYTES:
        if registry is None:
            schema_id = int.from_bytes(value[1:CONFLUENT_HEAD_BYTES], "big")
            raise BadBytesError(
                DeadLetterReason.UNKNOWN_SCHEMA, f"schema id {schema_id} came, but no schema registry is configured"
            )
        return registry.reader(value[:CONFLUENT_HEAD_BYTES]), CONFLUENT_HEAD_BYTES
    if value.startswith(_SINGLE_OBJECT_MARK) and len(value) >= SINGLE_OBJECT_HEAD_BYTES:
        raise BadBytesError(
            DeadLetterReason.UNKNOWN_SCHEMA,
            f"fingerprint {value[2:SINGLE_OBJECT_HEAD_BYTES].hex()} is of no schema of this release",
        )
    raise BadBytesError(
        DeadLetterReason.UNDECODABLE,
        f"{len(value)} bytes beginning {value[:2].hex() or 'with nothing'}, expected a record framed with c301 or 00",
    )


def _single_object_head(record_type: str) -> bytes:
    return _SINGLE_OBJECT_MARK + newest(record_type).fingerprint


@cache
def _shipped_readers() -> dict[bytes, Reader]:
    return {_SINGLE_OBJECT_MARK + mark: reader_for(version.schema) for mark, version in by_fingerprint().items()}
