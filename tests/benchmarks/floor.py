"""The floor: the rows that applying wrote, written again by bare set-based SQL with one client, and nothing else.

No Kafka, no decoding, no deciding, no reading but the lock: for each batch the same rows go into the same tables of an
empty database by the same means (COPY for what is appended, one statement with arrays for what is changed). Rows that a
later batch changed again are written with their last values, in every batch that touched them.
"""

# ruff: noqa: S608 - the queries are constants of this file

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from ledger_worker.store.arrays import of_bytes, of_instants, of_integers, of_texts, of_uuids

__all__ = ["FloorBatch", "rows_of", "write"]

_APPENDED = ("event", "posting", "entry", "outbox")
_CHANGED = {
    "account": ("customer_id", "entitlement"),
    "grant": ("customer_id", "grant_id"),
    "source": ("customer_id", "source_key"),
}


class FloorBatch(msgspec.Struct):
    """What one batch wrote: rows by table, and the customers it held."""

    customers: list[str]
    rows: dict[str, list[tuple[object, ...]]]


def rows_of(
    url: str, batches: Sequence[Sequence[tuple[str, int, int]]]
) -> tuple[dict[str, list[str]], list[FloorBatch]]:
    """The rows that were written, by batch: each batch is the (customer, first posting, last posting) it made.

    Returns the columns of each table, and the batches.
    """
    columns: dict[str, list[str]] = {}
    found: list[FloorBatch] = []
    with psycopg.connect(url) as session:
        for table in (*_APPENDED, *_CHANGED):
            described = session.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = CAST(%s AS regclass) AND attnum > 0 "
                "AND NOT attisdropped AND attidentity = '' ORDER BY attnum",
                (f'"{table}"',),
            )
            columns[table] = [row[0] for row in described.fetchall()]
        found += [_batch(session, columns, batch) for batch in batches]
    return columns, found


def write(url: str, columns: dict[str, list[str]], batches: Sequence[FloorBatch]) -> float:
    """Everything is written, a transaction for each batch; returns the seconds that took."""
    with psycopg.connect(url) as session:
        kinds = {table: _kinds(session, table, names) for table, names in columns.items()}
        session.commit()
        started_at = time.perf_counter()
        for batch in batches:
            _write_batch(session, columns, kinds, batch)
        return time.perf_counter() - started_at


def _batch(
    session: psycopg.Connection, columns: dict[str, list[str]], made: Sequence[tuple[str, int, int]]
) -> FloorBatch:
    session.execute('CREATE TEMP TABLE made (customer_id text COLLATE "C", first bigint, last bigint) ON COMMIT DROP')
    with session.cursor() as cursor, cursor.copy("COPY made FROM STDIN") as copy:
        for row in made:
            copy.write_row(row)
    session.execute("ANALYZE made")
    rows = {table: _rows(session, table, columns[table]) for table in (*_APPENDED, *_CHANGED)}
    session.commit()
    return FloorBatch(sorted({row[0] for row in made}), rows)


_POSTED = """
    SELECT posting.customer_id, posting.number, posting.event_key
    FROM made JOIN posting USING (customer_id)
    WHERE posting.number BETWEEN made.first AND made.last
"""
_QUERIES = {
    "event": f"""
        SELECT * FROM event WHERE (customer_id, event_key) IN (SELECT customer_id, event_key FROM ({_POSTED}) AS p)
    """,
    "posting": f"""
        SELECT * FROM posting WHERE (customer_id, number) IN (SELECT customer_id, number FROM ({_POSTED}) AS p)
    """,
    "entry": f"SELECT * FROM entry WHERE (customer_id, posting) IN (SELECT customer_id, number FROM ({_POSTED}) AS p)",
    "outbox": """
        SELECT outbox.* FROM outbox WHERE (customer_id, recorded_at) IN (
            SELECT posting.customer_id, posting.recorded_at FROM made JOIN posting USING (customer_id)
            WHERE posting.number BETWEEN made.first AND made.last)
    """,
    "account": f"""
        SELECT * FROM account WHERE (customer_id, entitlement) IN (
            SELECT entry.customer_id, entry.entitlement FROM entry JOIN ({_POSTED}) AS p
            ON entry.customer_id = p.customer_id AND entry.posting = p.number)
        ORDER BY customer_id, entitlement
    """,
    "grant": f"""
        SELECT * FROM "grant" WHERE (customer_id, grant_id) IN (
            SELECT entry.customer_id, entry.grant_id FROM entry JOIN ({_POSTED}) AS p
            ON entry.customer_id = p.customer_id AND entry.posting = p.number)
        ORDER BY customer_id, grant_id
    """,
    "source": f"""
        SELECT * FROM source WHERE (customer_id, source_key) IN (
            SELECT event.customer_id, event.source_key FROM event JOIN ({_POSTED}) AS p
            ON event.customer_id = p.customer_id AND event.event_key = p.event_key)
        ORDER BY customer_id, source_key
    """,
}


_LITERAL: dict[str, Callable[[Any], str]] = {
    "text": of_texts,
    "bigint": of_integers,
    "integer": of_integers,
    "timestamp with time zone": of_instants,
    "uuid": of_uuids,
    "bytea": of_bytes,
}


def _rows(session: psycopg.Connection, table: str, names: list[str]) -> list[tuple[object, ...]]:
    listed = ", ".join(f'picked."{name}"' for name in names)
    statement = f"SELECT {listed} FROM ({_QUERIES[table]}) AS picked"
    return [
        tuple(Jsonb(value, dumps=msgspec.json.encode) if isinstance(value, dict) else value for value in row)
        for row in session.execute(statement.encode()).fetchall()
    ]


def _kinds(session: psycopg.Connection, table: str, names: list[str]) -> list[str]:
    described = session.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = CAST(%s AS regclass) AND attnum > 0",
        (f'"{table}"',),
    )
    by_name: dict[str, str] = dict(described.fetchall())
    return [by_name[name] for name in names]


def _write_batch(
    session: psycopg.Connection, columns: dict[str, list[str]], kinds: dict[str, list[str]], batch: FloorBatch
) -> None:
    with session.transaction(), session.cursor() as cursor:
        cursor.execute(
            "INSERT INTO customer (customer_id, key_hash) SELECT id, 0 FROM unnest(CAST(%s AS text[])) AS id "
            'ORDER BY id COLLATE "C" ON CONFLICT (customer_id) DO NOTHING',
            (of_texts(batch.customers),),
        )
        cursor.execute(
            "SELECT customer_id FROM customer WHERE customer_id = ANY(CAST(%s AS text[])) "
            "ORDER BY customer_id FOR UPDATE",
            (of_texts(batch.customers),),
        )
        for table in _APPENDED:
            listed = sql.SQL(", ").join(map(sql.Identifier, columns[table]))
            with cursor.copy(
                sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table), listed)
            ) as copy:
                copy.set_types(kinds[table])
                for row in batch.rows[table]:
                    copy.write_row(row)
        for table, key in _CHANGED.items():
            if batch.rows[table]:
                values = zip(*batch.rows[table], strict=True)
                literals = [_LITERAL[kind](column) for kind, column in zip(kinds[table], values, strict=True)]
                cursor.execute(_upsert(table, columns[table], kinds[table], key), literals)
        cursor.execute(
            "UPDATE customer SET posting_number = posting_number + 1, recorded_at = clock_timestamp(), "
            "chain_head = sha256(chain_head) WHERE customer_id = ANY(CAST(%s AS text[]))",
            (of_texts(batch.customers),),
        )


def _upsert(table: str, names: list[str], kinds: list[str], key: tuple[str, ...]) -> sql.Composed:
    arrays = sql.SQL(", ").join(sql.SQL("CAST(%s AS {}[])").format(sql.SQL(kind)) for kind in kinds)
    changed = [name for name in names if name not in key]
    return sql.SQL("INSERT INTO {} ({}) SELECT * FROM unnest({}) ON CONFLICT ({}) DO UPDATE SET {}").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        arrays,
        sql.SQL(", ").join(map(sql.Identifier, key)),
        sql.SQL(", ").join(
            sql.SQL("{} = EXCLUDED.{}").format(sql.Identifier(name), sql.Identifier(name)) for name in changed
        ),
    )
