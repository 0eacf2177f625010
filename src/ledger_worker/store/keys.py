"""Keys of the HTTP API as they are stored: of each secret only its hash."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Connection, Row, text

__all__ = ["StoredKey", "all_keys", "end", "find", "insert", "used"]


class StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key: in force from `created_at` until it expires or is revoked, whichever comes first."""

    key_id: str
    name: str
    roles: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def is_in_force(self, at: datetime) -> bool:
        """Whether it opens anything at that instant."""
        return all(end is None or at < end for end in (self.expires_at, self.revoked_at))


_FIND = text("""
SELECT key_id, name, roles, created_at, expires_at, revoked_at, last_used_at, secret_hash
FROM api_key
WHERE key_id = :key_id
""")
_ALL = text("""
SELECT key_id, name, roles, created_at, expires_at, revoked_at, last_used_at
FROM api_key
ORDER BY name, created_at, key_id
""")
_INSERT = text("""
INSERT INTO api_key (key_id, name, roles, secret_hash, created_at, expires_at)
VALUES (:key_id, :name, :roles, :secret_hash, :created_at, :expires_at)
""")
_END = text("""
UPDATE api_key
SET expires_at = coalesce(:expires_at, expires_at), revoked_at = coalesce(:revoked_at, revoked_at)
WHERE key_id = :key_id
""")
_USED = text("""
UPDATE api_key SET last_used_at = :at
WHERE key_id = :key_id AND (last_used_at IS NULL OR last_used_at < CAST(:at AS timestamptz) - CAST(:apart AS interval))
""")


def find(connection: Connection, key_id: str) -> tuple[StoredKey, bytes] | None:
    """The key and the hash of its secret; None where there is none."""
    row = connection.execute(_FIND, {"key_id": key_id}).one_or_none()
    return None if row is None else (_key(row), bytes(row.secret_hash))


def all_keys(connection: Connection) -> list[StoredKey]:
    """Every key that there ever was, by name and then by age."""
    return [_key(row) for row in connection.execute(_ALL)]


def insert(connection: Connection, key: StoredKey, secret_hash: bytes) -> None:
    """The key is there. Raises IntegrityError where one of its id is."""
    connection.execute(
        _INSERT,
        {
            "key_id": key.key_id,
            "name": key.name,
            "roles": list(key.roles),
            "secret_hash": secret_hash,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
        },
    )


def end(
    connection: Connection, key_id: str, *, expires_at: datetime | None = None, revoked_at: datetime | None = None
) -> None:
    """The key ends then; what is None stays as it is."""
    connection.execute(_END, {"key_id": key_id, "expires_at": expires_at, "revoked_at": revoked_at})


def used(connection: Connection, key_id: str, at: datetime, apart: timedelta) -> None:
    """The key was used at that instant; not written where that is known to within `apart`."""
    connection.execute(_USED, {"key_id": key_id, "at": at, "apart": apart})


def _key(row: Row[Sequence[object]]) -> StoredKey:
    return StoredKey(
        key_id=row.key_id,
        name=row.name,
        roles=tuple(row.roles),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
