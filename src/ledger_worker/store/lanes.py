"""Who publishes which lane: leases by the database's clock, shared fairly among the relays that are alive.

A relay announces itself and holds its lanes under a lease; each call gives both for as long again. A relay that freezes
or dies stops calling: its lease runs out, it drops out of the count, and the others take what it held. All relays are
put in one order by name, so each can tell from the table alone how many lanes are its own share, to the lane: whoever
holds more gives up, whoever holds less takes what is free. Shares change only when the set of relays does.

A lease keeps two relays from doing the same work. It does not keep them from publishing side by side: no lease can,
because a relay may freeze after it looked. That is what the transactional id of the lane is for (`worker.relay`).
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, text

__all__ = ["Lease", "announce", "fair_share", "release", "renew", "take", "withdraw"]


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """One lane held by one owner.

    `owner_epoch` rises whenever a lane is taken, and tells this lease from every other.
    """

    lane: int
    owner: str
    owner_epoch: int


_ANNOUNCE = text("""
INSERT INTO relay (owner, alive_until)
VALUES (:owner, clock_timestamp() + make_interval(secs => :lease_seconds))
ON CONFLICT (owner) DO UPDATE SET alive_until = EXCLUDED.alive_until
""")
_FORGET_THE_DEAD = text("""
WITH dead AS (
    SELECT owner
    FROM relay
    WHERE alive_until <= clock_timestamp()
    ORDER BY owner
    FOR UPDATE SKIP LOCKED
)
DELETE FROM relay
USING dead
WHERE relay.owner = dead.owner
""")


def announce(conn: Connection, owner: str, *, lease_seconds: float) -> None:
    """The relay counts for `lease_seconds` from now; those that have gone silent are forgotten. The caller commits."""
    conn.execute(_ANNOUNCE, {"owner": owner, "lease_seconds": lease_seconds})
    conn.execute(_FORGET_THE_DEAD)


_WITHDRAW = text("DELETE FROM relay WHERE owner = :owner")


def withdraw(conn: Connection, owner: str) -> None:
    """The relay counts no more, so its share falls to the others. The lanes it holds stay its own.

    The caller commits.
    """
    conn.execute(_WITHDRAW, {"owner": owner})


_FAIR_SHARE = text("""
WITH alive AS (
    SELECT owner, row_number() OVER (ORDER BY owner) - 1 AS place, count(*) OVER () AS relays
    FROM relay
    WHERE alive_until > clock_timestamp()
),
lanes AS (
    SELECT count(*) AS lanes FROM lane
)
SELECT lanes.lanes / alive.relays + CASE WHEN alive.place < lanes.lanes % alive.relays THEN 1 ELSE 0 END
FROM alive
CROSS JOIN lanes
WHERE alive.owner = :owner
""")


def fair_share(conn: Connection, owner: str) -> int:
    """How many lanes this relay should hold: the shares of all relays alive add up to the lanes.

    0 when it is not announced.
    """
    return int(conn.execute(_FAIR_SHARE, {"owner": owner}).scalar_one_or_none() or 0)


_TAKE = text("""
WITH free AS (
    SELECT lane
    FROM lane
    WHERE owner IS NULL
       OR leased_until <= clock_timestamp()
    ORDER BY lane
    LIMIT :lanes_max
    FOR UPDATE SKIP LOCKED
)
UPDATE lane
SET owner = :owner,
    owner_epoch = lane.owner_epoch + 1,
    leased_until = clock_timestamp() + make_interval(secs => :lease_seconds)
FROM free
WHERE lane.lane = free.lane
RETURNING lane.lane, lane.owner, lane.owner_epoch
""")


def take(conn: Connection, owner: str, *, lanes_max: int, lease_seconds: float) -> Sequence[Lease]:
    """Up to `lanes_max` lanes that nobody holds, or whose lease ran out, are held by `owner`. The caller commits.

    Lanes that another relay is taking at this moment are passed over, not waited for.
    """
    rows = conn.execute(_TAKE, {"owner": owner, "lanes_max": lanes_max, "lease_seconds": lease_seconds})
    return sorted(
        (Lease(lane=row.lane, owner=row.owner, owner_epoch=row.owner_epoch) for row in rows),
        key=lambda lease: lease.lane,
    )


_RENEW = text("""
UPDATE lane
SET leased_until = clock_timestamp() + make_interval(secs => :lease_seconds)
WHERE lane = :lane
  AND owner = :owner
  AND owner_epoch = :owner_epoch
RETURNING lane
""")


def renew(conn: Connection, lease: Lease, *, lease_seconds: float) -> bool:
    """The lane is held for as long again; False when another relay has taken it. The caller commits.

    A lease that ran out and that nobody has taken is renewed as well.
    """
    held = conn.execute(_RENEW, {**msgspec.structs.asdict(lease), "lease_seconds": lease_seconds})
    return held.one_or_none() is not None


_RELEASE = text("""
UPDATE lane
SET owner = NULL,
    leased_until = NULL
WHERE lane = :lane
  AND owner = :owner
  AND owner_epoch = :owner_epoch
""")


def release(conn: Connection, lease: Lease) -> None:
    """The lane is free, unless another relay has taken it: then nothing happens. The caller commits."""
    conn.execute(_RELEASE, msgspec.structs.asdict(lease))
