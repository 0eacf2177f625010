"""What one customer could use at an instant, as the ledger knew it at another: both times, any answer.

Derived from the inbox alone: the events that were recorded by then, of the customer and of all it is tied to, with what
became of each. Nothing is read that a later event may have changed, so the answer to the same question stays the same.
That holds once nothing can be recorded any more at the instant of knowing or before: up to the customer's last
`recorded_at`, which every answer returns. The cost grows with the customer's history.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.domain.access import picture
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.decided import CustomerHead
from ledger_worker.domain.events import Event, UsageRecorded, fact_of
from ledger_worker.domain.owners import goes_on_as
from ledger_worker.domain.past import KnownEvent, books_at, merges_of
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store

__all__ = ["PastPicture", "show_past"]


class PastPicture(msgspec.Struct, frozen=True, kw_only=True):
    """Every entitlement the customer has or had at `as_of`, as was known at `known_at`.

    The fields are those of the present picture (`changes.CustomerPicture`) and the two instants. `sequence` and
    `recorded_at` are of the last change and the last event that were recorded by `known_at`; how many changes had been
    told by an instant between two events is kept nowhere, so `sequence` is None where anything was recorded since.
    """

    customer_id: str
    as_of: datetime
    known_at: datetime
    timeline: int
    sequence: int | None
    recorded_at: datetime | None
    entitlements: tuple[EntitlementPicture, ...]
    merged_into: str | None = None


def show_past(
    connection: Connection, customer_id: str, as_of: datetime | None = None, known_at: datetime | None = None
) -> PastPicture | None:
    """What the customer could use at `as_of` by what was recorded at `known_at` or before; None for an unknown one.

    Either may be None: now. What will be recorded later than now is not known yet: a later `known_at` means now. Begins
    and ends a transaction of its own. Raises ValueError for an instant without a zone.
    """
    as_of, known_at = _in_utc("as_of", as_of), _in_utc("known_at", known_at)
    snapshot = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with snapshot.begin():
        heads, _ = customers_store.read_heads(connection, [customer_id])
        if customer_id not in heads:
            return None
        head = heads[customer_id]
        now = customers_store.clock(connection)
        if head.recorded_at is not None:
            now = max(now, head.recorded_at)
        return _picture(connection, head, as_of or now, now if known_at is None else min(known_at, now))


def _in_utc(name: str, instant: datetime | None) -> datetime | None:
    if instant is not None and instant.utcoffset() is None:
        msg = f"{name} {instant.isoformat()} is without a zone, expected an instant in UTC or with its distance from it"
        raise ValueError(msg)
    return None if instant is None else instant.astimezone(UTC)


def _picture(connection: Connection, head: CustomerHead, as_of: datetime, known_at: datetime) -> PastPicture:
    customer_id = head.customer_id
    customer_ids = [customer_id, *head.linked]
    versions = _read_versions(connection, customer_ids)
    known = _read_known(connection, customer_ids, as_of, known_at, versions)
    catalogue = catalogue_store.read(connection, versions.at(known_at))
    merged_into = goes_on_as(customer_id, merges_of(known), as_of)
    books = books_at(known, catalogue, as_of).get(customer_id, {})
    is_last = head.recorded_at is None or head.recorded_at <= known_at
    recorded_at = head.recorded_at if is_last else _read_last(connection, customer_id, known_at)
    return PastPicture(
        customer_id=customer_id,
        as_of=as_of,
        known_at=known_at,
        timeline=catalogue_store.read_ledger(connection).timeline,
        sequence=head.sequence if is_last else 0 if recorded_at is None else None,
        recorded_at=recorded_at,
        entitlements=() if merged_into != customer_id else tuple(picture(books[key]) for key in sorted(books)),
        merged_into=None if merged_into == customer_id else merged_into,
    )


# -- what is read --

_VERSIONS = text("""
SELECT in_force.catalogue_version, min(in_force.since)
FROM (
    SELECT catalogue_version, published_at FROM entitlement
    UNION ALL
    SELECT catalogue_version, published_at FROM offer
    UNION ALL
    SELECT catalogue_version, recorded_at FROM posting WHERE customer_id = ANY(:customer_ids)
) AS in_force (catalogue_version, since)
GROUP BY in_force.catalogue_version
ORDER BY min(in_force.since), in_force.catalogue_version
""")
_KNOWN = text("""
SELECT customer_id, event_key, event_source, event_id, type, entitlement, units, counted_at, source_version,
       occurred_at, recorded_at, outcome, CASE WHEN type <> 'UsageRecorded' THEN payload END
FROM event
WHERE customer_id = ANY(:customer_ids)
  AND recorded_at <= :known_at
  AND type <> 'TransitionsDue'
  AND (type <> 'UsageRecorded' OR counted_at <= :as_of)
""")
_LAST = text("""
SELECT greatest(
    (SELECT max(recorded_at) FROM event WHERE customer_id = :customer_id AND recorded_at <= :known_at),
    (SELECT max(recorded_at) FROM posting WHERE customer_id = :customer_id AND recorded_at <= :known_at)
)
""")


class _Versions(msgspec.Struct, frozen=True):
    """The catalogue's versions in the order in which they came into force, each with its instant."""

    since: Sequence[datetime]
    numbers: Sequence[int]

    def at(self, instant: datetime) -> int:
        """The version in force then, 0 before the first."""
        return max(self.numbers[: bisect_right(self.since, instant)], default=0)


def _read_versions(connection: Connection, customer_ids: Sequence[str]) -> _Versions:
    """Since when each version of the catalogue was in force: published, or at the latest what a posting names."""
    rows = connection.execute(_VERSIONS, {"customer_ids": list(customer_ids)}).all()
    return _Versions([row[1] for row in rows], [row[0] for row in rows])


def _read_known(
    connection: Connection, customer_ids: Sequence[str], as_of: datetime, known_at: datetime, versions: _Versions
) -> list[KnownEvent]:
    asked: Mapping[str, object] = {"customer_ids": list(customer_ids), "as_of": as_of, "known_at": known_at}
    return [_known(row, versions) for row in connection.execute(_KNOWN, asked)]


def _known(row: Sequence[Any], versions: _Versions) -> KnownEvent:
    key: UUID
    customer_id, key, event_source, event_id, _, entitlement, units, counted_at, source_version, *rest = row
    occurred_at, recorded_at, outcome, payload = rest
    fact = UsageRecorded(entitlement=entitlement, units=units) if payload is None else fact_of(bytes(payload))
    return KnownEvent(
        event=Event(
            event_source=event_source,
            event_id=event_id,
            customer_id=customer_id,
            occurred_at=occurred_at,
            fact=fact,
            source_version=source_version,
        ),
        key=key,
        recorded_at=recorded_at,
        outcome=outcome,
        catalogue_version=versions.at(recorded_at),
        counted_at=counted_at,
    )


def _read_last(connection: Connection, customer_id: str, known_at: datetime) -> datetime | None:
    """When something of the customer was recorded last, by then."""
    found: datetime | None = connection.execute(_LAST, {"customer_id": customer_id, "known_at": known_at}).scalar_one()
    return found
