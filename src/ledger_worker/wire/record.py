"""A record as it stood on a topic, byte for byte: what is decoded, and what a dead letter keeps."""

from datetime import datetime

import msgspec

__all__ = ["Record"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One Kafka record: its position, its own timestamp (aware UTC, None when the broker gave none) and its bytes."""

    topic: str
    partition: int
    offset: int
    timestamp: datetime | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
