"""The lock rows.

Whoever changes anything of a customer holds its row, taken in key order, from before it reads until it commits.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import Connection, text

from ledger_worker.domain.decided import CustomerHead
from ledger_worker.domain.owners import Merge
from ledger_worker.store.arrays import of_bytes, of_instants, of_integers, of_texts

__all__ = ["clock", "held", "known", "lock", "merge_of", "read_heads", "read_merges", "write_heads", "write_ties"]

_LINKED = text("SELECT customer_id, linked FROM customer WHERE customer_id = ANY(CAST(:ids AS text[]))")

_INSERT = text("""
INSERT INTO customer (customer_id, key_hash)
SELECT missing.customer_id, missing.key_hash
FROM unnest(CAST(:ids AS text[]), CAST(:hashes AS integer[])) AS missing (customer_id, key_hash)
ORDER BY missing.customer_id COLLATE "C"
ON CONFLICT (customer_id) DO NOTHING
""")

_LOCK = text("""
SELECT customer_id
FROM customer
WHERE customer_id = ANY(CAST(:ids AS text[]))
ORDER BY customer_id
FOR UPDATE
""")

_LOCK_FREE = text("""
SELECT customer_id
FROM customer
WHERE customer_id = ANY(CAST(:ids AS text[]))
ORDER BY customer_id
FOR UPDATE SKIP LOCKED
""")

_READ = text("""
SELECT customer_id, key_hash, posting_number, sequence, chain_head, recorded_at, is_parked, linked,
       alias_of, alias_at, merge_id
FROM customer
WHERE customer_id = ANY(CAST(:ids AS text[]))
""")

_READ_MERGES = text("""
SELECT customer_id, alias_of, alias_at, merge_id
FROM customer
WHERE alias_of IS NOT NULL
  AND customer_id IN (
      SELECT unnest(asked.linked || asked.customer_id) FROM customer AS asked
      WHERE asked.customer_id = ANY(CAST(:ids AS text[]))
  )
""")

_CLOCK = text("SELECT clock_timestamp()")

_WRITE = text("""
UPDATE customer
SET posting_number = head.posting_number,
    sequence = head.sequence,
    chain_head = head.chain_head,
    recorded_at = head.recorded_at
FROM unnest(
    CAST(:ids AS text[]), CAST(:numbers AS bigint[]), CAST(:sequences AS bigint[]), CAST(:chain_heads AS bytea[]),
    CAST(:instants AS timestamptz[])
) AS head (customer_id, posting_number, sequence, chain_head, recorded_at)
WHERE customer.customer_id = head.customer_id
""")

_WRITE_TIES = text("""
UPDATE customer
SET linked = CAST(:linked AS text[]), alias_of = :alias_of, alias_at = :alias_at, merge_id = :merge_id
WHERE customer_id = :customer_id
""")


def lock(connection: Connection, customer_ids: Sequence[str], key_hash: Callable[[str], int]) -> list[str]:
    """The rows of these customers, and of all they are tied to, exist and are held; returns who they are.

    Who is tied to whom is read before and may be out of date: whoever decides reads it again under the locks.
    `key_hash` is asked only for rows that are missing. A statement of its own on purpose: one that locked and read at
    once would read what was there before it had to wait.
    """
    found = connection.execute(_LINKED, {"ids": of_texts(customer_ids)}).all()
    known = {row.customer_id for row in found}
    tied = {customer_id for row in found for customer_id in row.linked}
    missing = [customer_id for customer_id in customer_ids if customer_id not in known]
    if missing:
        connection.execute(_INSERT, {"ids": of_texts(missing), "hashes": of_integers(map(key_hash, missing))})
    locked = sorted({*customer_ids, *tied}, key=str.encode) if tied else list(customer_ids)
    connection.execute(_LOCK, {"ids": of_texts(locked)})
    return locked


def known(connection: Connection, customer_ids: Sequence[str]) -> set[str]:
    """Those of the customers who have a row."""
    return {row.customer_id for row in connection.execute(_LINKED, {"ids": of_texts(customer_ids)}).all()}


def held(connection: Connection, customer_ids: Sequence[str]) -> set[str]:
    """Those of the customers whose row, or that of one they are tied to, another transaction holds; waits for nobody.

    The others are held by the caller's transaction afterwards, which ends soon.
    """
    found = connection.execute(_LINKED, {"ids": of_texts(customer_ids)}).all()
    asked = {customer_id for row in found for customer_id in (row.customer_id, *row.linked)}
    free = set(connection.execute(_LOCK_FREE, {"ids": of_texts(asked)}).scalars())
    return {row.customer_id for row in found if not free.issuperset((row.customer_id, *row.linked))}


def read_heads(connection: Connection, customer_ids: Sequence[str]) -> tuple[dict[str, CustomerHead], dict[str, int]]:
    """Where each customer stands, and the hash of its key; both by customer id. Who decides holds the locks."""
    heads: dict[str, CustomerHead] = {}
    hashes: dict[str, int] = {}
    for row in connection.execute(_READ, {"ids": of_texts(customer_ids)}).all():
        customer_id, key_hash, number, sequence, chain_head, recorded_at, is_parked, linked, *merge = row
        heads[customer_id] = CustomerHead(
            customer_id=customer_id,
            posting_number=number,
            sequence=sequence,
            chain_head=bytes(chain_head),
            recorded_at=recorded_at,
            is_parked=is_parked,
            linked=tuple(linked),
            merge=merge_of(*merge),
        )
        hashes[customer_id] = key_hash
    return heads, hashes


def clock(connection: Connection) -> datetime:
    """The database's clock now, which is after the locks when they are held."""
    now: datetime = connection.execute(_CLOCK).scalar_one()
    return now


def write_heads(connection: Connection, heads: Sequence[CustomerHead]) -> None:
    """The customers stand where `heads` says."""
    if not heads:
        return
    connection.execute(
        _WRITE,
        {
            "ids": of_texts(head.customer_id for head in heads),
            "numbers": of_integers(head.posting_number for head in heads),
            "sequences": of_integers(head.sequence for head in heads),
            "chain_heads": of_bytes(head.chain_head for head in heads),
            "instants": of_instants(head.recorded_at for head in heads),
        },
    )


def merge_of(alias_of: str | None, alias_at: datetime | None, merge_id: str | None) -> Merge | None:
    """The merge that made a customer an alias, from the columns of its row."""
    if alias_of is None or alias_at is None or merge_id is None:
        return None
    return Merge(merge_id=merge_id, at=alias_at, into=alias_of)


def read_merges(connection: Connection, customer_ids: Sequence[str]) -> dict[str, Merge]:
    """The merges of these customers and of all they are tied to."""
    found = connection.execute(_READ_MERGES, {"ids": of_texts(customer_ids)}).all()
    merges = {customer_id: merge_of(*merge) for customer_id, *merge in found}
    return {customer_id: merge for customer_id, merge in merges.items() if merge is not None}


def write_ties(connection: Connection, heads: Sequence[CustomerHead]) -> None:
    """These customers are tied to, and go on as, whom `heads` says; a statement each: transfers and merges are few."""
    for head in heads:
        merge = head.merge
        connection.execute(
            _WRITE_TIES,
            {
                "customer_id": head.customer_id,
                "linked": of_texts(head.linked),
                "alias_of": None if merge is None else merge.into,
                "alias_at": None if merge is None else merge.at,
                "merge_id": None if merge is None else merge.merge_id,
            },
        )
