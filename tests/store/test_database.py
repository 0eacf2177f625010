"""The schema gets there, once, and guards itself; sessions are set up for a service that owns nothing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import errors, sql
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from ledger_worker.errors import ConfigurationError, UnavailableError
from ledger_worker.store import database

_POSTING = """
INSERT INTO posting (customer_id, number, event_key, content_hash, recorded_at, catalogue_version, rules_version, hash)
VALUES ('c-1', 1, gen_random_uuid(), '\\x01', now(), 1, 1, '\\x02');
INSERT INTO entry (customer_id, posting, line, recorded_at, entitlement, kind, units, at)
VALUES ('c-1', 1, 1, now(), 'export', 'granted', 5, now());
INSERT INTO entry (customer_id, posting, line, recorded_at, entitlement, kind, units, at)
VALUES ('c-1', 2, 1, '1999-01-01', 'export', 'granted', 5, now())
"""
_REWRITES = [
    "UPDATE posting SET number = 2",
    "DELETE FROM posting",
    "TRUNCATE posting",
    "UPDATE entry SET units = 6",
    "DELETE FROM entry",
    "TRUNCATE entry",
]


@pytest.fixture
def owner(database_url: str) -> Iterator[Engine]:
    with _engine(database_url, role=None) as made:
        yield made


@pytest.fixture
def service(database_url: str) -> Iterator[Engine]:
    with _engine(database_url) as made:
        yield made


@contextmanager
def _engine(
    url: str, *, role: str | None = database.SERVICE_ROLE, idle_in_transaction_timeout_seconds: float = 30.0
) -> Iterator[Engine]:
    made = database.engine(url, role=role, idle_in_transaction_timeout_seconds=idle_in_transaction_timeout_seconds)
    try:
        yield made
    finally:
        made.dispose()


def _require_current(url: str) -> None:
    with _engine(url) as made:
        database.require_current(made)


def _execute(conn: Connection, statement: str) -> None:
    conn.exec_driver_sql(statement, execution_options={"no_parameters": True})


def test_an_empty_database_is_refused_with_the_command_to_run(empty_database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="ledger-worker database migrate"):
        _require_current(empty_database_url)


def test_migrate_brings_an_empty_database_to_the_head_with_four_lanes(empty_database_url: str) -> None:
    before = database.status(empty_database_url)
    database.migrate(empty_database_url)
    after = database.status(empty_database_url)
    assert (before.current, before.pending[0], before.is_newer) == (None, "0001", False)
    assert (after.current, after.pending, after.is_newer) == (before.head, (), False)
    with _engine(empty_database_url) as made, made.connect() as conn:
        assert conn.execute(text("SELECT lane FROM lane ORDER BY lane")).scalars().all() == [-1, 0, 1, 2, 3]
        assert conn.execute(text("SELECT lanes FROM ledger")).scalar_one() == 4


def test_migrating_twice_changes_nothing(empty_database_url: str) -> None:
    database.migrate(empty_database_url)
    database.migrate(empty_database_url)
    _require_current(empty_database_url)


def test_migrations_at_once_wait_for_each_other(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for migrated in [pool.submit(database.migrate, empty_database_url) for _ in range(4)]:
            migrated.result()
    _require_current(empty_database_url)


def test_a_schema_newer_than_the_release_is_refused(database_url: str, owner: Engine) -> None:
    with owner.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert database.status(database_url).is_newer
    for refusing in (_require_current, database.migrate):
        with pytest.raises(ConfigurationError, match="9999"):
            refusing(database_url)


def test_a_database_that_cannot_be_reached_is_unavailable() -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    with pytest.raises(UnavailableError):
        _require_current(nowhere)
    with pytest.raises(UnavailableError):
        database.migrate(nowhere)


@pytest.mark.parametrize("url", ["mysql://host/name", "no url at all"])
def test_a_url_that_is_not_one_of_postgresql_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected postgresql"):
        database.engine(url)


def test_an_owner_who_is_no_superuser_migrates_and_works_as_the_service(database_url: str) -> None:
    parts = urlsplit(database_url)
    name = parts.path.removeprefix("/")
    role = f"{name}_owner"
    admin = parts._replace(path="/postgres").geturl()
    with psycopg.connect(admin, autocommit=True) as session:
        names = {"role": sql.Identifier(role), "empty": sql.Identifier(f"{name}_owned")}
        session.execute(sql.SQL("CREATE ROLE {role} LOGIN CREATEROLE PASSWORD 'secret'").format(**names))
        session.execute(sql.SQL("GRANT ledger_app TO {role} WITH ADMIN TRUE, SET FALSE").format(**names))
        session.execute(sql.SQL("CREATE DATABASE {empty} OWNER {role}").format(**names))
    try:
        url = f"postgresql://{role}:secret@{parts.hostname}:{parts.port}/{name}_owned"
        database.migrate(url)
        _require_current(url)
    finally:
        with psycopg.connect(admin, autocommit=True) as session:
            session.execute(sql.SQL("DROP DATABASE {empty} WITH (FORCE)").format(**names))
            session.execute(sql.SQL("DROP ROLE {role}").format(**names))


def test_a_session_is_read_committed_bounded_and_works_as_the_service(service: Engine) -> None:
    with service.connect() as conn:
        conn.rollback()
        assert tuple(
            conn.execute(
                text("""
                SELECT current_user, current_setting('transaction_isolation'), current_setting('lock_timeout'),
                    current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),
                    current_setting('application_name'), current_setting('TimeZone')
                """)
            ).one()
        ) == ("ledger_app", "read committed", "5s", "30s", "30s", "ledger-worker", "UTC")


def test_settings_outlive_a_rollback_and_the_return_to_the_pool(service: Engine) -> None:
    for _ in range(2):
        with service.connect() as conn:
            assert conn.execute(text("SELECT current_user")).scalar_one() == "ledger_app"
            conn.rollback()
            assert conn.execute(text("SELECT current_user")).scalar_one() == "ledger_app"


def test_a_hurried_transaction_waits_shortly_and_leaves_its_session_as_it_was(database_url: str) -> None:
    made = database.engine(database_url, connections_max=1)
    hurried = database.hurried(made, 0.2)

    found = []
    for each in (made, hurried, made, hurried):
        with each.connect() as conn:
            found.append(conn.execute(text("SELECT current_setting('lock_timeout')")).scalar_one())
    hurried.dispose()

    assert found == ["5s", "200ms", "5s", "200ms"]


def test_a_frozen_transaction_is_ended_by_the_server(database_url: str) -> None:
    with _engine(database_url, idle_in_transaction_timeout_seconds=0.05) as impatient, impatient.connect() as conn:
        conn.execute(text("SELECT 1"))
        with psycopg.connect(database_url) as witness:
            witness.execute("SELECT pg_sleep(0.3)")
        with pytest.raises(DBAPIError):
            conn.execute(text("SELECT 1"))


@pytest.mark.parametrize("rewrite", _REWRITES)
def test_not_even_the_owner_rewrites_the_ledger(owner: Engine, rewrite: str) -> None:
    with owner.begin() as conn:
        _execute(conn, _POSTING)
    with pytest.raises(DBAPIError) as refused, owner.begin() as conn:
        _execute(conn, rewrite)
    assert isinstance(refused.value.orig, errors.RestrictViolation)


@pytest.mark.parametrize("rewrite", _REWRITES)
def test_the_service_has_no_privilege_to_rewrite_the_ledger(owner: Engine, service: Engine, rewrite: str) -> None:
    with owner.begin() as conn:
        _execute(conn, _POSTING)
    with pytest.raises(DBAPIError) as refused, service.begin() as conn:
        _execute(conn, rewrite)
    assert isinstance(refused.value.orig, errors.InsufficientPrivilege)


@pytest.mark.parametrize("table", ["posting", "entry"])
def test_no_partition_of_the_ledger_can_be_emptied_by_itself(owner: Engine, table: str) -> None:
    with owner.begin() as conn:
        _execute(conn, _POSTING)
        partitions = conn.execute(
            text("SELECT CAST(relid AS text) FROM pg_partition_tree(CAST(:name AS regclass)) WHERE isleaf"),
            {"name": table},
        ).scalars()
        names = list(partitions)
    for name in names:
        with pytest.raises(DBAPIError) as refused, owner.begin() as conn:
            _execute(conn, f"TRUNCATE {name}")
        assert isinstance(refused.value.orig, errors.RestrictViolation), name


def test_lanes_are_set_while_the_outbox_is_empty(owner: Engine) -> None:
    with owner.begin() as conn:
        database.set_lanes(conn, 6)
        database.set_lanes(conn, 2)
    with owner.connect() as conn:
        assert conn.execute(text("SELECT lane FROM lane ORDER BY lane")).scalars().all() == [-1, 0, 1]
        assert conn.execute(text("SELECT lanes FROM ledger")).scalar_one() == 2


def test_lanes_are_not_set_while_rows_wait(owner: Engine) -> None:
    with owner.begin() as conn:
        conn.execute(
            text("""
            INSERT INTO outbox (lane, customer_id, timeline, sequence, change_id, payload, ce_type, recorded_at)
            VALUES (0, 'c-1', 1, 1, gen_random_uuid(), '\\x00', 'EntitlementChanged', now())
            """)
        )
    with pytest.raises(ConfigurationError, match="1 rows wait"), owner.begin() as conn:
        database.set_lanes(conn, 6)


def test_lanes_are_not_set_while_a_relay_holds_one(owner: Engine) -> None:
    with owner.begin() as conn:
        conn.execute(text("UPDATE lane SET owner = 'relay', leased_until = now() + interval '1 minute' WHERE lane = 2"))
    with pytest.raises(ConfigurationError, match="held by relays"), owner.begin() as conn:
        database.set_lanes(conn, 6)
