"""The audit log: what people and keys changed beside the events of the ledger, and why. Append-only."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

__all__ = ["AuditEntry", "read", "write"]


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what to which subject, why, and how it was before and is after; None where it was not, or is no more."""

    recorded_at: datetime
    actor: str
    action: str
    subject: str
    note: str
    request_id: str | None = None
    before: Any = None
    after: Any = None
    audit_id: int | None = None


_WRITE = text("""
INSERT INTO audit (recorded_at, actor, action, subject, note, request_id, before, after)
VALUES (
    :recorded_at, :actor, :action, :subject, :note, :request_id, CAST(:before AS jsonb), CAST(:after AS jsonb)
)
""")
_READ = text("""
SELECT audit_id, recorded_at, actor, action, subject, note, request_id, before, after
FROM audit
WHERE audit_id < :before_id
  AND (CAST(:subject AS text) IS NULL OR subject = :subject)
  AND (CAST(:actor AS text) IS NULL OR actor = :actor)
ORDER BY audit_id DESC
LIMIT :entries_max
""")
_FIRST_ID = 2**63 - 1


def write(connection: Connection, entry: AuditEntry) -> None:
    """The entry is in the log, with the transaction."""
    connection.execute(
        _WRITE,
        {
            "recorded_at": entry.recorded_at,
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "note": entry.note,
            "request_id": entry.request_id,
            "before": _json(entry.before),
            "after": _json(entry.after),
        },
    )


def read(
    connection: Connection,
    *,
    entries_max: int,
    before_id: int | None = None,
    subject: str | None = None,
    actor: str | None = None,
) -> Iterator[AuditEntry]:
    """The newest entries first, those behind `before_id`: of a subject or an actor, where one is named."""
    asked = {
        "before_id": _FIRST_ID if before_id is None else before_id,
        "subject": subject,
        "actor": actor,
        "entries_max": entries_max,
    }
    for row in connection.execute(_READ, asked):
        yield AuditEntry(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for a row as a mapping


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
