"""Every statement is known to the schema, and the hot ones find their rows by an index."""

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Connection, TextClause, text
from sqlalchemy import event as engine_events
from sqlalchemy.dialects.postgresql.base import PGDialect

import ledger_worker
from ledger_worker.apply.batch import Batch
from ledger_worker.store import database
from tests.apply.ledger import Ledger, move
from tests.domain.telling import (
    activated,
    bought,
    catalogue,
    day,
    gives,
    offer,
    quota,
    refunded,
    renewed,
    told,
    used,
)
from tests.shared_cluster import Endpoints, drop_database, make_database

_STARTS = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_COST_OF_AN_EMPTY_PARTITION = 1.0
GROWING = {"customer", "source_owner", "source", "event", "grant", "account", "posting", "entry", "outbox"}
OFFERED = catalogue(quota(), offer("plan", gives(10)), offer("pack", gives(10, lasts="P1D")))


def constants() -> Iterator[tuple[str, TextClause]]:
    """Every constant of the package that is a statement: a `text()`, or a string that becomes one."""
    for module in pkgutil.walk_packages(ledger_worker.__path__, "ledger_worker."):
        room = module.name.split(".")[1]
        if room not in {"store", "reports", "operations"} or ".migrations" in module.name:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, TextClause):
                yield f"{module.name}.{name}", value
            elif isinstance(value, str) and name.startswith("_") and name.isupper() and _STARTS.match(value):
                yield f"{module.name}.{name}", text(value)


STATEMENTS = dict(constants())


def test_the_statements_were_found() -> None:
    assert len(STATEMENTS) > 40
    assert "ledger_worker.store.inbox._FIND" in STATEMENTS


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_statement_is_prepared_by_the_schema(name: str, prepared: Connection) -> None:
    compiled = STATEMENTS[name].compile(dialect=PGDialect(paramstyle="numeric_dollar"))  # type: ignore[no-untyped-call]

    prepared.exec_driver_sql(f"PREPARE checked AS {compiled}", execution_options={"no_parameters": True})
    prepared.exec_driver_sql("DEALLOCATE checked")


@pytest.fixture(scope="module")
def prepared(migrated_template: str, cluster: Endpoints) -> Iterator[Connection]:
    """One session for all of them; preparing reads the schema and changes nothing."""
    name = f"test_{uuid4().hex[:12]}"
    engine = database.engine(make_database(cluster, name, template=migrated_template))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection
    engine.dispose()
    drop_database(cluster, name)


_FILL = """
INSERT INTO customer (customer_id, key_hash, posting_number, recorded_at)
SELECT 'filler-' || n, n, 3, '2026-01-01' FROM generate_series(1, 20000) AS n;
INSERT INTO source_owner SELECT 'order/' || n, 'filler-' || n FROM generate_series(1, 20000) AS n;
INSERT INTO source SELECT 'filler-' || n, 'order/' || n, ''::bytea FROM generate_series(1, 20000) AS n;
INSERT INTO event (customer_id, event_key, content_hash, event_source, event_id, type, entitlement, units, counted_at,
                   occurred_at, recorded_at, outcome, payload)
SELECT 'filler-' || n % 20000, gen_random_uuid(), '', 'meter', n, 'UsageRecorded', 'api', 1, '2026-01-01', '2026-01-01',
       '2026-01-01', 'applied', ''
FROM generate_series(1, 60000) AS n;
INSERT INTO "grant" (customer_id, grant_id, entitlement, source_key, effective_at, phase, set_by, granted, available,
                     held, used, expired, revoked, moved, terms)
SELECT 'filler-' || n % 20000, gen_random_uuid(), 'api', 'order/' || n, '2026-01-01', 'active', 1, 0, 0,
       0, 0, 0, 0, 0, ''
FROM generate_series(1, 40000) AS n;
INSERT INTO account (customer_id, entitlement, usage, used_total, overage, debt, forgiven, used, held,
                     next_transition_at)
SELECT 'filler-' || n, 'api', 0, 0, 0, 0, 0, 0, 0, '2026-06-01' FROM generate_series(1, 20000) AS n;
INSERT INTO posting (customer_id, number, event_key, content_hash, recorded_at, catalogue_version, rules_version, hash)
SELECT 'filler-' || n % 20000, n, gen_random_uuid(), '', '2026-01-01', 1, 1, '' FROM generate_series(1, 60000) AS n;
INSERT INTO entry (customer_id, posting, line, recorded_at, entitlement, kind, units, at)
SELECT 'filler-' || n % 20000, n, 0, '2026-01-01'::timestamptz + n * interval '10 minutes', 'api', 'burn', 1,
       '2026-01-01'
FROM generate_series(1, 60000) AS n;
"""


def test_the_statements_of_a_batch_find_their_rows_by_an_index(ledger: Ledger) -> None:
    """With twenty thousand other customers in the tables, no statement of a batch reads any of them as a whole."""
    ledger.publish(OFFERED)
    ledger.introduce()
    fill(ledger)
    ran: dict[str, Any] = {}
    engine_events.listen(ledger.engine, "before_cursor_execute", lambda *seen: ran.setdefault(seen[2], seen[3]))

    ledger.tell((told("a", day(1), activated(day(1), day(11))), day(1)), (told("p", day(1), bought()), day(1)))
    batch = [told("u", day(13), used(3)), told("r", day(11), renewed(day(11), day(21))), told("x", day(2), refunded())]
    late = told("late", day(3), used(1))
    epoch = ledger.claim()
    ledger.apply(Batch(moves=(move(0, 3, epoch=epoch),), deliveries=tuple(map(ledger.delivery, batch))))
    ledger.tell((late, day(20)))
    ledger.pictures(["ada"], day(20))

    read_whole = {
        (table, statement)
        for statement, values in dict(ran).items()
        for table in tables_read_whole(ledger, statement, values)
    }
    assert read_whole == set()
    assert len(ran) > 15


def test_a_statement_that_reads_a_table_as_a_whole_is_noticed(ledger: Ledger) -> None:
    fill(ledger)

    assert tables_read_whole(ledger, "SELECT units FROM event WHERE event_id = '7'", None) == {"event"}


def fill(ledger: Ledger) -> None:
    with psycopg.connect(ledger.url, autocommit=True) as session:
        session.execute(_FILL)
        session.execute("ANALYZE")


def tables_read_whole(ledger: Ledger, statement: str, values: Any) -> set[str]:  # noqa: ANN401 -- the driver's binds
    """The growing tables that the plan of the statement reads from one end to the other."""
    if not _STARTS.match(statement):
        return set()
    with ledger.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", values).scalar_one()
    found = plan if isinstance(plan, list) else json.loads(plan)
    return {
        table
        for node in nodes(found[0]["Plan"])
        if node["Node Type"] == "Seq Scan" and node["Total Cost"] > _COST_OF_AN_EMPTY_PARTITION
        for table in [re.sub(r"_(\d+|default|\d{4}_\d\d)$", "", node["Relation Name"])]
        if table in GROWING
    }


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)
