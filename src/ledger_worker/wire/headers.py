"""The headers beside a record: CloudEvents for whoever routes without reading, the trace, the fate of a dead letter.

CloudEvents 1.0, Kafka binding, binary mode: attributes are headers `ce_*` in UTF-8, the value is the Avro record
alone. `ce_sequence` is the Sequence extension, which is compared as text: timeline and sequence, both padded with
zeros, so that it sorts as the pair does. `traceparent` (W3C Trace Context) is carried from the event that caused a
change to the change. `dlq.error.*` are added to a dead letter's own headers, which stay byte for byte. (Of a record
that has a header whose name is not UTF-8 the Kafka client gives no headers at all, and it cuts a name off at a NUL.)

Headers are pairs, in order; a name may come twice. Nothing the ledger decides depends on a header.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import UUID

import msgspec

from ledger_worker.domain.changes import CustomerPicture
from ledger_worker.domain.events import Event
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.wire.schemas import CHANGE, CUSTOMER_STATE, full_name

__all__ = [
    "CONTENT_TYPE",
    "DEAD_LETTER_PREFIX",
    "Failure",
    "Header",
    "change_headers",
    "customer_state_headers",
    "dead_letter_headers",
    "event_headers",
    "traceparent_of",
    "without_dead_letter_headers",
]

Header = tuple[str, bytes]

CONTENT_TYPE = "application/avro"
DEAD_LETTER_PREFIX = "dlq.error."
_MESSAGE_CHARACTERS_MAX = 1000
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?", re.ASCII
)
_TRACEPARENT_BYTES_MAX = 256


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why and where a record became a dead letter; `timestamp` is the record's own, None when it has none."""

    topic: str
    partition: int
    offset: int
    timestamp: datetime | None
    reason: DeadLetterReason
    message: str
    first_failed_at: datetime


def event_headers(event: Event, traceparent: str | None = None) -> list[Header]:
    """The headers of an event on its way in."""
    return _cloud_event(
        id_=event.event_id,
        source=event.event_source,
        type_=full_name(type(event.fact).__name__),
        time=event.occurred_at,
        subject=event.customer_id,
        traceparent=traceparent,
    )


def change_headers(
    *,
    change_id: UUID,
    customer_id: str,
    timeline: int,
    sequence: int,
    recorded_at: datetime,
    source: str,
    traceparent: str | None = None,
) -> list[Header]:
    """The headers of a change, from what is known of it without decoding it.

    `source` names this ledger; `traceparent` is that of the event which caused the change.
    """
    return [
        *_cloud_event(
            id_=str(change_id),
            source=source,
            type_=full_name(CHANGE),
            time=recorded_at,
            subject=customer_id,
            traceparent=traceparent,
        ),
        ("ce_sequence", _sequence(timeline, sequence)),
    ]


def customer_state_headers(picture: CustomerPicture, source: str) -> list[Header]:
    """The headers of a customer's picture. Its id names timeline and sequence: newer units alone do not change it."""
    sequence = _sequence(picture.timeline, picture.sequence)
    return [
        *_cloud_event(
            id_=f"{picture.customer_id}/{sequence.decode()}",
            source=source,
            type_=full_name(CUSTOMER_STATE),
            time=picture.recorded_at,
            subject=picture.customer_id,
            traceparent=None,
        ),
        ("ce_sequence", sequence),
    ]


def dead_letter_headers(
    original: Sequence[tuple[str, bytes | None]], failure: Failure
) -> list[tuple[str, bytes | None]]:
    """The record's own headers as they came, and after them why and where it failed.

    A record that failed before and was sent again carries the older ones too: of one name the last counts.
    """
    added = {
        "topic": failure.topic,
        "partition": str(failure.partition),
        "offset": str(failure.offset),
        "timestamp": _rfc3339(failure.timestamp) if failure.timestamp else "",
        "reason": failure.reason.value,
        "message": failure.message[:_MESSAGE_CHARACTERS_MAX],
        "first-failed-at": _rfc3339(failure.first_failed_at),
    }
    return [*original, *((DEAD_LETTER_PREFIX + name, _bytes(text)) for name, text in added.items())]


def without_dead_letter_headers(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """The headers as they were before the record became a dead letter: what a replay sends."""
    return [(name, value) for name, value in headers if not name.startswith(DEAD_LETTER_PREFIX)]


def traceparent_of(headers: Sequence[tuple[str, bytes | None]] | None) -> str | None:
    """The trace that the record belongs to, when a well-formed `traceparent` says so; anything else is no trace."""
    for name, value in reversed(headers or ()):
        if name == "traceparent":
            if value is None or len(value) > _TRACEPARENT_BYTES_MAX or not _TRACEPARENT.fullmatch(value):
                return None
            return value.decode()
    return None


def _cloud_event(
    *, id_: str, source: str, type_: str, time: datetime, subject: str, traceparent: str | None
) -> list[Header]:
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", _bytes(id_)),
        # A URI reference, while our sources are free text: what may not stand in one is percent-encoded.
        ("ce_source", quote(source, safe="/:@!$&'()*+,;=?-._~").encode()),
        ("ce_type", _bytes(type_)),
        ("ce_time", _bytes(_rfc3339(time))),
        ("ce_subject", _bytes(subject)),
        ("content-type", CONTENT_TYPE.encode()),
    ]
    if traceparent is not None:
        headers.append(("traceparent", _bytes(traceparent)))
    return headers


def _sequence(timeline: int, sequence: int) -> bytes:
    return f"{timeline:010d}.{sequence:019d}".encode()


def _rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
