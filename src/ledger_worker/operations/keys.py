"""Keys of the HTTP API: made, shown once, rotated with an overlap, revoked; each of it with an entry in the audit log.

A key is `ledger_ID_SECRET`. The id finds its row, the secret has 256 random bits, so its hash needs no salt and no slow
function. The log says that a key was made and by whom, never its secret.
"""

import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256

import msgspec
from sqlalchemy import Connection

from ledger_worker.errors import LedgerError
from ledger_worker.store import audit, customers
from ledger_worker.store import keys as keys_store
from ledger_worker.store.audit import AuditEntry
from ledger_worker.store.keys import StoredKey

__all__ = ["KeyRefusedError", "NewKey", "Role", "create", "revoke", "rotate", "whose"]

_PREFIX = "ledger_"
_ID_BYTES, _SECRET_BYTES = 8, 32
_NOBODYS_HASH = bytes(32)
_USED_APART = timedelta(minutes=1)
NAME_LENGTH_MAX = 90
"""Longest name of a key in characters: it is the caller of what is asked with it."""


class Role(StrEnum):
    """What whoever comes in may do; several add up."""

    CHECKER = "checker"
    """A service: check, consume, hold, confirm, release, and seats."""
    READER = "reader"
    """Read customers, the catalogue and reports."""
    OPERATOR = "operator"
    """Assign, renew, extend and revoke by hand, beside what a reader and a checker may."""
    ADMIN = "admin"
    """Publish the catalogue and manage keys, beside what an operator may."""
    AUDITOR = "auditor"
    """Read the audit log, beside what a reader may."""


class KeyRefusedError(LedgerError):
    """What is asked of a key cannot be; the message says what was expected."""


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was just made: `secret` is the whole text to send, shown this once."""

    key: StoredKey
    secret: str


def create(
    connection: Connection,
    name: str,
    roles: Sequence[Role],
    *,
    actor: str,
    note: str,
    lasts: timedelta | None = None,
    request_id: str | None = None,
) -> NewKey:
    """A key of that name is in force from now on, for so long or until it is revoked.

    Raises KeyRefusedError where the name is taken by a key in force, or is none.
    """
    now = customers.clock(connection)
    if not name.isprintable() or not len(name.strip()) >= 1 or len(name) > NAME_LENGTH_MAX:
        raise KeyRefusedError(
            f"the name has {len(name)} characters, expected 1 to {NAME_LENGTH_MAX} that can be printed"
        )
    if not roles:
        raise KeyRefusedError(f"no role is given, expected at least one of {', '.join(Role)}")
    if any(each.name == name and each.is_in_force(now) for each in keys_store.all_keys(connection)):
        raise KeyRefusedError(f"a key named {name} is in force, expected another name, or to rotate that key")
    made = _make(connection, name, tuple(sorted(set(roles))), now, None if lasts is None else now + lasts)
    _log(connection, now, actor, "key.create", made.key, note, request_id)
    return made


def rotate(
    connection: Connection,
    key_id: str,
    *,
    actor: str,
    note: str,
    overlap: timedelta,
    request_id: str | None = None,
) -> NewKey:
    """Another key with the same name and roles is in force; the old one is for `overlap` longer.

    Raises KeyRefusedError where the old one is not known, or not in force.
    """
    now = customers.clock(connection)
    old = _in_force(connection, key_id, now)
    ends_at = now + overlap
    if old.expires_at is None or old.expires_at > ends_at:
        keys_store.end(connection, key_id, expires_at=ends_at)
    lasts = None if old.expires_at is None else old.expires_at - old.created_at
    made = _make(connection, old.name, old.roles, now, None if lasts is None else now + lasts)
    _log(connection, now, actor, "key.rotate", made.key, note, request_id, before=old)
    return made


def revoke(connection: Connection, key_id: str, *, actor: str, note: str, request_id: str | None = None) -> StoredKey:
    """The key opens nothing any more. Raises KeyRefusedError where it is not known, or not in force."""
    now = customers.clock(connection)
    old = _in_force(connection, key_id, now)
    keys_store.end(connection, key_id, revoked_at=now)
    revoked = msgspec.structs.replace(old, revoked_at=now)
    _log(connection, now, actor, "key.revoke", revoked, note, request_id, before=old)
    return revoked


def whose(connection: Connection, secret: str) -> StoredKey | None:
    """The key that this text is, in force now; None where it is none.

    Takes as long for a wrong secret as for a right one, and for an id that nobody has.
    """
    key_id, _, given = secret.removeprefix(_PREFIX).partition("_")
    found = keys_store.find(connection, key_id)
    stored_hash = _NOBODYS_HASH if found is None else found[1]
    is_right = hmac.compare_digest(stored_hash, _hash(given)) and secret.startswith(_PREFIX)
    now = customers.clock(connection)
    if found is None or not is_right or not found[0].is_in_force(now):
        return None
    keys_store.used(connection, key_id, now, _USED_APART)
    return found[0]


def _make(
    connection: Connection, name: str, roles: tuple[str, ...], now: datetime, expires_at: datetime | None
) -> NewKey:
    key_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
    key = StoredKey(key_id=key_id, name=name, roles=roles, created_at=now, expires_at=expires_at)
    keys_store.insert(connection, key, _hash(secret))
    return NewKey(key=key, secret=f"{_PREFIX}{key_id}_{secret}")


def _hash(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _in_force(connection: Connection, key_id: str, now: datetime) -> StoredKey:
    found = keys_store.find(connection, key_id)
    if found is None:
        raise KeyRefusedError(f"key {key_id} is not known, expected an id that `keys list` shows")
    if not found[0].is_in_force(now):
        raise KeyRefusedError(f"key {key_id} is over already, nothing was changed")
    return found[0]


def _log(
    connection: Connection,
    now: datetime,
    actor: str,
    action: str,
    after: StoredKey,
    note: str,
    request_id: str | None,
    before: StoredKey | None = None,
) -> None:
    entry = AuditEntry(
        recorded_at=now,
        actor=actor,
        action=action,
        subject=f"key/{after.key_id}",
        note=note,
        request_id=request_id,
        before=before,
        after=after,
    )
    audit.write(connection, entry)
