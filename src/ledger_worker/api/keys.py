"""Keys and the audit log: who may come in, and who changed what."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

import msgspec
from msgspec import Meta
from sqlalchemy import Connection

from ledger_worker.api.calls import Call
from ledger_worker.api.limits import Cursor, Note, Text
from ledger_worker.api.problems import ProblemError, ProblemType
from ledger_worker.operations import keys
from ledger_worker.operations.keys import NAME_LENGTH_MAX, KeyRefusedError, NewKey, Role
from ledger_worker.store import audit as audit_store
from ledger_worker.store.audit import AuditEntry
from ledger_worker.store.keys import StoredKey, all_keys

__all__ = [
    "AuditPage",
    "AuditQuery",
    "CreateBody",
    "Keys",
    "RevokeBody",
    "RotateBody",
    "audit",
    "create",
    "list_keys",
    "revoke",
    "rotate",
]

_PAGE, _PAGE_MAX = 50, 1_000


class CreateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose key is to be made, and what it may do."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX)]
    roles: Annotated[list[Role], Meta(min_length=1, max_length=len(Role))]
    note: Note
    days: Annotated[int, Meta(ge=1, le=3650, description="How long it lasts; for ever if not said.")] | None = None


class RotateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why, and how long both keys are in force."""

    note: Note
    overlap_hours: Annotated[int, Meta(ge=0, le=24 * 90)] = 24


class RevokeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why."""

    note: Note


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """Every key that there ever was, without its secret."""

    keys: tuple[StoredKey, ...]


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries."""

    subject: Text | None = None
    actor: Text | None = None
    limit: Annotated[int, Meta(ge=1, le=_PAGE_MAX)] = _PAGE
    cursor: Cursor | None = None


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Entries, the newest first; `next_cursor` is None where there are no more."""

    entries: tuple[AuditEntry, ...]
    next_cursor: str | None


def list_keys(call: Call) -> Keys:
    """Every key."""
    with call.services.engine.connect() as connection:
        return Keys(keys=tuple(all_keys(connection)))


def create(call: Call) -> NewKey:
    """A key is made, and shown this once."""
    body: CreateBody = call.body
    lasts = None if body.days is None else timedelta(days=body.days)
    with _changing(call) as connection:
        return keys.create(connection, body.name, body.roles, lasts=lasts, **_by(call))


def rotate(call: Call) -> NewKey:
    """Another key with the same name and roles; the old one goes on for a while."""
    overlap = timedelta(hours=call.body.overlap_hours)
    with _changing(call) as connection:
        return keys.rotate(connection, call.path["key_id"], overlap=overlap, **_by(call))


def revoke(call: Call) -> StoredKey:
    """A key opens nothing any more."""
    with _changing(call) as connection:
        return keys.revoke(connection, call.path["key_id"], **_by(call))


def audit(call: Call) -> AuditPage:
    """Who changed what, the newest first."""
    query: AuditQuery = call.query
    if query.cursor is not None and not (query.cursor.isascii() and query.cursor.isdigit()):
        raise ProblemError(
            ProblemType.INVALID_REQUEST,
            "the cursor is none that a page gave",
            members={"field": "cursor", "sent": query.cursor, "expected": "the next_cursor of the page before"},
        )
    with call.services.engine.connect() as connection:
        found = audit_store.read(
            connection,
            entries_max=query.limit + 1,
            before_id=None if query.cursor is None else min(int(query.cursor), 2**63 - 1),
            subject=query.subject,
            actor=query.actor,
        )
        entries = list(found)
    page = entries[: query.limit]
    is_more = len(entries) > query.limit
    return AuditPage(entries=tuple(page), next_cursor=str(page[-1].audit_id) if is_more else None)


@contextmanager
def _changing(call: Call) -> Iterator[Connection]:
    """One transaction. Raises ProblemError where what is asked of a key is refused."""
    try:
        with call.services.engine.begin() as connection:
            yield connection
    except KeyRefusedError as error:
        raise ProblemError(ProblemType.REFUSED, str(error), members={"reason": "key_refused"}) from error


def _by(call: Call) -> dict[str, str]:
    """What the audit log says of the call: who, why, and under which id."""
    return {"actor": call.caller.name, "note": call.body.note, "request_id": call.request_id}
