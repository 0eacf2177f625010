"""Bytes of a topic to one value of the domain: an event on the way in, a change or a picture on the way out.

Whatever is wrong with a record ends as one `BadBytesError` with the reason that its dead letter will carry. The
checks are made in the order of `DeadLetterReason`: framing, schema, type, body, values. Only an unavailable registry
is another matter: that says nothing about the record and passes through.
"""

from typing import Any, cast

from ledger_worker.domain.changes import Change, CustomerPicture
from ledger_worker.domain.events import Event
from ledger_worker.domain.impossible import problem
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import BadBytesError
from ledger_worker.wire.codec import DeadLetterReference, Reader
from ledger_worker.wire.framing import Registry, reader_of
from ledger_worker.wire.schemas import CHANGE, CUSTOMER_STATE, DEAD_LETTER_REFERENCE, EVENTS, TopicFamily

__all__ = [
    "decode",
    "decode_change",
    "decode_customer_state",
    "decode_dead_letter_reference",
    "decode_event",
    "decode_record",
]


def decode(family: TopicFamily, value: bytes | None, registry: Registry | None = None) -> Event:
    """The event that a record's value tells, possible in itself and of a type that belongs on a topic of this family.

    Raises BadBytesError with the reason of the dead letter; UnavailableError when the registry must be asked and is
    away.
    """
    reader, start = reader_of(_present(value), registry)
    if reader.family is not family:
        raise BadBytesError(
            DeadLetterReason.UNKNOWN_TYPE, f"{reader.record_type} came, expected a record of the {family} topic"
        )
    return _possible_event(reader, cast("bytes", value), start)


def decode_event(value: bytes | None, registry: Registry | None = None) -> Event:
    """The event that a record's value tells, whatever topic it belongs to, or none; otherwise as `decode`."""
    reader, start = reader_of(_present(value), registry)
    if reader.record_type not in EVENTS:
        raise BadBytesError(DeadLetterReason.UNKNOWN_TYPE, f"{reader.record_type} came, expected an event")
    return _possible_event(reader, cast("bytes", value), start)


def decode_change(value: bytes | None, registry: Registry | None = None) -> Change:
    """The change that an EntitlementChanged record tells. Raises as `decode`."""
    return cast("Change", _decode_output(CHANGE, value, registry))


def decode_customer_state(value: bytes | None, registry: Registry | None = None) -> CustomerPicture:
    """The picture that a CustomerState record tells; a tombstone is not one. Raises as `decode`."""
    return cast("CustomerPicture", _decode_output(CUSTOMER_STATE, value, registry))


def decode_dead_letter_reference(value: bytes | None, registry: Registry | None = None) -> DeadLetterReference:
    """What a DeadLetterReference record refers to. Raises as `decode`."""
    return cast("DeadLetterReference", _decode_output(DEAD_LETTER_REFERENCE, value, registry))


def decode_record(value: bytes | None, registry: Registry | None = None) -> tuple[str, Any]:
    """The record type and the value of any record, incoming or published, not judged for what is possible.

    Raises as `decode`.
    """
    reader, start = reader_of(_present(value), registry)
    return reader.record_type, _read(reader, cast("bytes", value), start)


def _possible_event(reader: Reader, value: bytes, start: int) -> Event:
    event = cast("Event", _read(reader, value, start))
    found = problem(event)
    if found is not None:
        raise BadBytesError(DeadLetterReason.IMPOSSIBLE_VALUE, found)
    return event


def _decode_output(record_type: str, value: bytes | None, registry: Registry | None) -> object:
    reader, start = reader_of(_present(value), registry)
    if reader.record_type != record_type:
        raise BadBytesError(DeadLetterReason.UNKNOWN_TYPE, f"{reader.record_type} came, expected {record_type}")
    return _read(reader, cast("bytes", value), start)


def _present(value: bytes | None) -> bytes:
    if value is None:
        raise BadBytesError(DeadLetterReason.UNDECODABLE, "the record has no value, expected an Avro record")
    return value


def _read(reader: Reader, value: bytes, start: int) -> Any:  # noqa: ANN401 - the value of whatever record it is
    try:
        return reader.read(value, start)
    except IndexError:
        found = "it ends too soon"
    except UnicodeDecodeError:
        found = "a text is not UTF-8"
    except ValueError as error:
        found = str(error)
    raise BadBytesError(
        DeadLetterReason.UNDECODABLE, f"the body of {len(value) - start} bytes is no {reader.record_type}: {found}"
    )
