"""Sources: who owns an order or subscription, and its folded state."""

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.domain.sources import SourceState
from ledger_worker.store.arrays import of_bytes, of_texts

__all__ = ["claim", "read_owners", "read_states", "read_states_kept_by", "write_states"]

_STATE = msgspec.msgpack.Decoder(SourceState)

_OWNERS = text("SELECT source_key, customer_id FROM source_owner WHERE source_key = ANY(CAST(:keys AS text[]))")

_CLAIM = text("""
INSERT INTO source_owner (source_key, customer_id)
SELECT claimed.source_key, claimed.customer_id
FROM unnest(CAST(:keys AS text[]), CAST(:ids AS text[])) AS claimed (source_key, customer_id)
ORDER BY claimed.source_key COLLATE "C"
ON CONFLICT (source_key) DO NOTHING
""")

_STATES = text("""
SELECT source.customer_id, source.source_key, source.state
FROM unnest(CAST(:ids AS text[]), CAST(:keys AS text[])) AS asked (customer_id, source_key)
JOIN source ON source.customer_id = asked.customer_id AND source.source_key = asked.source_key
""")

_STATES_KEPT_BY = text("""
SELECT source_key, state
FROM source
WHERE customer_id = ANY(CAST(:ids AS text[]))
""")

_WRITE = text("""
INSERT INTO source (customer_id, source_key, state)
SELECT folded.customer_id, folded.source_key, folded.state
FROM unnest(CAST(:ids AS text[]), CAST(:keys AS text[]), CAST(:states AS bytea[])) AS folded (customer_id,
    source_key, state)
ORDER BY folded.customer_id COLLATE "C", folded.source_key COLLATE "C"
ON CONFLICT (customer_id, source_key) DO UPDATE SET state = EXCLUDED.state
""")


def read_owners(connection: Connection, source_keys: Sequence[str]) -> dict[str, str]:
    """The owner of each of these sources that has one."""
    if not source_keys:
        return {}
    found = connection.execute(_OWNERS, {"keys": of_texts(source_keys)}).all()
    return {row.source_key: row.customer_id for row in found}


def claim(connection: Connection, first_told: Mapping[str, str]) -> None:
    """Each source without an owner belongs to the customer it was first told of.

    A claim that comes second changes nothing.

    Waits for a concurrent claim of the same source; customers are locked before, sources in key order, so nobody waits
    in a circle.
    """
    if first_told:
        connection.execute(_CLAIM, {"keys": of_texts(first_told), "ids": of_texts(first_told.values())})


def read_states(connection: Connection, asked: Sequence[tuple[str, str]]) -> dict[tuple[str, str], SourceState]:
    """The folded state of each asked (customer, source key) that is known."""
    if not asked:
        return {}
    found = connection.execute(
        _STATES, {"ids": of_texts(one[0] for one in asked), "keys": of_texts(one[1] for one in asked)}
    ).all()
    return {(customer_id, key): _STATE.decode(state) for customer_id, key, state in found}


def read_states_kept_by(connection: Connection, customer_ids: Sequence[str]) -> dict[str, SourceState]:
    """The folded state of every source that was first told of one of these customers."""
    found = connection.execute(_STATES_KEPT_BY, {"ids": of_texts(customer_ids)}).all()
    return {row.source_key: _STATE.decode(row.state) for row in found}


def write_states(connection: Connection, states: Sequence[tuple[str, str, SourceState]]) -> None:
    """The sources of (customer, source key, state) are stored as folded."""
    if not states:
        return
    connection.execute(
        _WRITE,
        {
            "ids": of_texts(one[0] for one in states),
            "keys": of_texts(one[1] for one in states),
            "states": of_bytes(msgspec.msgpack.encode(one[2]) for one in states),
        },
    )
