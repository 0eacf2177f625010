"""The ledger itself: postings and their entries, appended and never rewritten."""

from collections.abc import Sequence

import msgspec
from psycopg.types.json import Jsonb
from sqlalchemy import Connection

from ledger_worker.domain.ledger import Posting
from ledger_worker.store.binary_copy import copy_rows

__all__ = ["append"]

_POSTING_COLUMNS = (
    ("customer_id", "text"),
    ("number", "int8"),
    ("event_key", "uuid"),
    ("told_to", "text"),
    ("content_hash", "bytea"),
    ("recorded_at", "timestamptz"),
    ("catalogue_version", "int4"),
    ("rules_version", "int4"),
    ("hash", "bytea"),
)
_ENTRY_COLUMNS = (
    ("customer_id", "text"),
    ("posting", "int8"),
    ("line", "int4"),
    ("recorded_at", "timestamptz"),
    ("entitlement", "text"),
    ("kind", "text"),
    ("units", "int8"),
    ("at", "timestamptz"),
    ("grant_id", "uuid"),
    ("usage_key", "uuid"),
    ("cut_id", "text"),
    ("terms", "jsonb"),
)


def append(connection: Connection, postings: Sequence[tuple[str, Posting]]) -> None:
    """The postings of (customer, posting) are in the ledger with their entries."""
    if not postings:
        return
    copy_rows(
        connection,
        "posting",
        _POSTING_COLUMNS,
        (
            (
                customer_id,
                posting.number,
                posting.event_key,
                posting.told_to,
                posting.content_hash,
                posting.recorded_at,
                posting.catalogue_version,
                posting.rules_version,
                posting.hash,
            )
            for customer_id, posting in postings
        ),
    )
    copy_rows(
        connection,
        "entry",
        _ENTRY_COLUMNS,
        (
            (
                customer_id,
                posting.number,
                place,
                posting.recorded_at,
                entry.entitlement,
                entry.line.kind.value,
                entry.line.units,
                entry.line.at,
                entry.line.grant_id,
                entry.line.usage_key,
                entry.line.cut_id,
                None if entry.terms is None else Jsonb(entry.terms, dumps=msgspec.json.encode),
            )
            for customer_id, posting in postings
            for place, entry in enumerate(posting.entries)
        ),
    )
