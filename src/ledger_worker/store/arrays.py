"""Columns of a batch as PostgreSQL array literals, to be cast in the statement: `CAST(:ids AS text[])`.

psycopg adapts a list element by element and tries each for quoting by regular expressions, which took a third of the
client's time of a batch; writing the literal at once takes a tenth of that. The server parses both alike.
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

__all__ = ["of_bytes", "of_instants", "of_integers", "of_texts", "of_uuids"]


def of_texts(values: Iterable[str | None]) -> str:
    """A literal of `text[]`."""
    return (
        "{"
        + ",".join(
            [
                "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
                for value in values
            ]
        )
        + "}"
    )


def of_integers(values: Iterable[int | None]) -> str:
    """A literal of `integer[]` or `bigint[]`."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def of_instants(values: Iterable[datetime | None]) -> str:
    """A literal of `timestamptz[]`; the values are aware."""
    return "{" + ",".join(["NULL" if value is None else f'"{value.isoformat()}"' for value in values]) + "}"


def of_uuids(values: Iterable[UUID | None]) -> str:
    """A literal of `uuid[]`."""
    return "{" + ",".join(["NULL" if value is None else value.hex for value in values]) + "}"


def of_bytes(values: Iterable[bytes | None]) -> str:
    """A literal of `bytea[]`."""
    return "{" + ",".join(["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]) + "}"
