"""How a process reaches the database, and how the schema gets there.

Sessions of the service are READ COMMITTED, said by us and not left to the server; they wait a bounded time for locks,
statements and for their own process, so that a frozen worker does not hold customers; and they work as `SERVICE_ROLE`,
which owns nothing and so cannot rewrite the ledger.

The schema is made by `migrate`, as the owner. Two migrations at once wait for each other on an advisory lock. A process
asks `require_current` before it starts: code and schema must be of the same revision. A process that runs already goes
on working while the schema is moved forward, because a revision only adds what the release before it can ignore.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from psycopg import Connection as Session
from psycopg import sql
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from ledger_worker.errors import ConfigurationError, UnavailableError
from ledger_worker.store import catalogue

__all__ = [
    "MIGRATE_COMMAND",
    "SERVICE_ROLE",
    "Status",
    "engine",
    "hurried",
    "is_away",
    "migrate",
    "require_current",
    "set_lanes",
    "status",
]

SERVICE_ROLE = "ledger_app"
"""The role that the service works as: it may read everything, and rewrite neither posting nor entry."""
MIGRATE_COMMAND = "ledger-worker database migrate"
"""What messages tell the operator to run."""
LANES_MAX = 1000
"""Most lanes: each is a partition of two topics, a connection and a producer."""

_MIGRATIONS = "ledger_worker.store:migrations"
_MIGRATION_LOCK = 0x1ED6E7
"""The key of the advisory lock; such locks are per database, and nothing else of ours takes one by a constant key."""
_MIGRATION_LOCK_TIMEOUT_SECONDS = 10.0
"""A statement that waits for a table makes everyone else wait behind it: give up, and let the operator try again."""
_DRIVERS = ("postgresql", "postgres", "postgresql+psycopg")
# What libpq is told, so that a peer that went away without a word is noticed after about 25 s.
_CONNECTION = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_NO_SUCH_ROLE = ("22023", "42704")
_INSUFFICIENT_PRIVILEGE = "42501"


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Where the schema stands.

    `current` is None before the first migration; `pending` are the revisions still to run, in order; `is_newer` is true
    when `current` is a revision that this release does not know.
    """

    current: str | None
    head: str
    pending: tuple[str, ...]
    is_newer: bool


def engine(
    url: str,
    *,
    application_name: str = "ledger-worker",
    role: str | None = SERVICE_ROLE,
    connections_max: int = 5,
    lock_timeout_seconds: float = 5.0,
    statement_timeout_seconds: float = 30.0,
    idle_in_transaction_timeout_seconds: float = 30.0,
    prepare_after_executions: int | None = 5,
) -> Engine:
    """A pool of sessions that are set up as the module says; none is opened yet.

    `role` None works as the login role itself. Statements are prepared on the server after `prepare_after_executions`
    runs; None never prepares, for poolers that cannot. Raises ConfigurationError when `url` is not one of PostgreSQL.
    """
    made = create_engine(
        _psycopg_url(url),
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # errors are logged, payloads are not
        pool_size=connections_max,
        max_overflow=0,
        use_native_hstore=False,
        connect_args={
            **_CONNECTION,
            "application_name": application_name,
            "prepare_threshold": prepare_after_executions,
        },
    )
    settings = _settings(
        role,
        {
            "lock_timeout": lock_timeout_seconds,
            "statement_timeout": statement_timeout_seconds,
            "idle_in_transaction_session_timeout": idle_in_transaction_timeout_seconds,
        },
    )

    def set_up(session: Session, _record: object) -> None:
        """The new session has the role and the limits, whatever is rolled back in it."""
        try:
            session.autocommit = True  # else the first rollback would take the settings back
            session.execute(settings)
            session.autocommit = False
        except BaseException:
            session.close()
            raise

    event.listen(made, "connect", set_up)
    return made


_WAIT_SHORTLY = "SELECT set_config('lock_timeout', :milliseconds, true)"


def hurried(engine: Engine, lock_timeout_seconds: float) -> Engine:
    """The same pool of sessions, in whose transactions a lock is waited for no longer than this: then SQLSTATE 55P03.

    Disposing of either disposes of both.
    """
    made = engine.execution_options()

    def begin(conn: Connection) -> None:
        """For this transaction alone: the pool hands the session to others, who wait as long as the session says."""
        conn.execute(text(_WAIT_SHORTLY), {"milliseconds": str(int(lock_timeout_seconds * 1000))})

    event.listen(made, "begin", begin)
    return made


def migrate(url: str) -> None:
    """The schema is the one of this release.

    Run as the owner; a second call finds nothing to do, a call beside it waits.
    Raises ConfigurationError when the schema is newer than this release, UnavailableError when the database cannot be
    reached or a lock on a table was not had in time; nothing has changed then.
    """
    with _owner(url, "ledger-worker migrate") as conn:
        conn.execute(text(_LOCK_MIGRATIONS), {"key": _MIGRATION_LOCK})
        conn.execute(text(_SET_LOCK_TIMEOUT), {"milliseconds": str(int(_MIGRATION_LOCK_TIMEOUT_SECONDS * 1000))})
        conn.commit()
        scripts = _scripts()
        found = _status(conn, scripts)
        if found.is_newer:
            raise ConfigurationError(_newer(found))
        conn.rollback()
        if found.pending:
            config = Config()
            config.set_main_option("script_location", _MIGRATIONS)
            config.attributes["connection"] = conn
            command.upgrade(config, "head")
            conn.commit()


def status(url: str) -> Status:
    """Where the schema stands. Raises UnavailableError when the database cannot be reached."""
    with _owner(url, "ledger-worker status") as conn:
        return _status(conn, _scripts())


def require_current(engine: Engine) -> None:
    """The schema is the one of this release and the service's role can be taken.

    Raises ConfigurationError, naming the command to run, when it is not, and UnavailableError when the database cannot
    be reached.
    """
    try:
        with engine.connect() as conn:
            found = _status(conn, _scripts())
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state in _NO_SUCH_ROLE:
            raise ConfigurationError(f"the role {SERVICE_ROLE} is missing: run `{MIGRATE_COMMAND}` first") from error
        if state == _INSUFFICIENT_PRIVILEGE:
            raise ConfigurationError(
                f"the login role may not work as {SERVICE_ROLE}: as the owner, run "
                f"`GRANT {SERVICE_ROLE} TO {engine.url.username}`, and `{MIGRATE_COMMAND}` if that was not done"
            ) from error
        raise UnavailableError(f"the database {_place(engine.url)} cannot be reached: {error.orig}") from error
    if found.is_newer:
        raise ConfigurationError(_newer(found))
    if found.pending:
        stands = "is empty" if found.current is None else f"is at revision {found.current}"
        raise ConfigurationError(
            f"the schema of {_place(engine.url)} {stands}, this release needs {found.head}: run `{MIGRATE_COMMAND}`"
        )


_LOCK_OUTBOX = "LOCK TABLE outbox, lane IN SHARE ROW EXCLUSIVE MODE"
_WHAT_FORBIDS_OTHER_LANES = """
SELECT
    (SELECT count(*) FROM outbox) AS waiting,
    (SELECT count(*) FROM lane WHERE leased_until > clock_timestamp()) AS held
"""
_SET_LANES = "UPDATE ledger SET lanes = :lanes"
_DROP_LANES = "DELETE FROM lane WHERE lane >= :lanes"
_MAKE_LANES = """
INSERT INTO lane (lane)
SELECT generate_series(0, :lanes - 1)
ON CONFLICT (lane) DO NOTHING
"""


def is_away(error: DBAPIError) -> bool:
    """Whether the same work may succeed later: the database is away, or something of it was not to be had in time."""
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _AWAY_STATES


def set_lanes(conn: Connection, lanes: int) -> None:
    """The outbox has `lanes` lanes, and so must the topics of changes and of state have partitions. The caller commits.

    Run as the owner, with every relay stopped. Whoever writes to the outbox reads `lanes` under the shared lock of the
    catalogue, and this takes it alone, so nobody writes by the old number after the new one is committed.
    Raises ConfigurationError while rows wait in the outbox or a relay holds a lane: a customer's rows would lie on two.
    """
    if not 1 <= lanes <= LANES_MAX:
        raise ConfigurationError(f"lanes is {lanes}, expected 1 to {LANES_MAX}")
    catalogue.lock_exclusive(conn)
    conn.execute(text(_LOCK_OUTBOX))
    row = conn.execute(text(_WHAT_FORBIDS_OTHER_LANES)).one()
    if row.waiting:
        raise ConfigurationError(
            f"{row.waiting} rows wait in the outbox: let the relays publish them before lanes change"
        )
    if row.held:
        raise ConfigurationError(f"{row.held} lanes are held by relays: stop every worker before lanes change")
    conn.execute(text(_SET_LANES), {"lanes": lanes})
    conn.execute(text(_DROP_LANES), {"lanes": lanes})
    conn.execute(text(_MAKE_LANES), {"lanes": lanes})


def _psycopg_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            "the database URL cannot be read, expected postgresql://USER@HOST:PORT/DATABASE"
        ) from error
    if parsed.drivername not in _DRIVERS:
        raise ConfigurationError(f"the database URL begins with {parsed.drivername}, expected postgresql")
    return parsed.set(drivername="postgresql+psycopg")


def _settings(role: str | None, timeouts_seconds: dict[str, float]) -> sql.Composed:
    statements: list[sql.Composable] = [
        sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(int(seconds * 1000)))
        for name, seconds in timeouts_seconds.items()
    ]
    statements.append(sql.SQL("SET timezone = 'UTC'"))
    # The other end notices a dead peer as well, else a lost host would hold its locks for the server's two hours.
    statements.append(
        sql.SQL("SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3")
    )
    if role is not None:
        statements.append(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
    return sql.SQL("; ").join(statements)


@contextmanager
def _owner(url: str, application_name: str) -> Iterator[Connection]:
    made = create_engine(
        _psycopg_url(url),
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # errors are logged, payloads are not
        poolclass=NullPool,
        use_native_hstore=False,
        connect_args={**_CONNECTION, "application_name": application_name},
    )
    try:
        with made.connect() as conn:
            yield conn
    except DBAPIError as error:
        if error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _TRANSIENT_STATES:
            raise UnavailableError(f"the database {_place(made.url)} cannot be used now: {error.orig}") from error
        raise
    finally:
        made.dispose()


_LOCK_MIGRATIONS = "SELECT pg_advisory_lock(:key)"
_SET_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', :milliseconds, false)"
_AWAY_STATES = (None, "55P03", "57014", "57P01", "57P02", "57P03")
"""No session was made; a lock or a statement took too long; the server goes down or comes up."""
# None: no session was made; 55P03: a lock was not had in time; 57P0x: the server goes down or comes up.
_TRANSIENT_STATES = (None, "55P03", "57P01", "57P02", "57P03")


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS)
    return ScriptDirectory.from_config(config)


def _status(conn: Connection, scripts: ScriptDirectory) -> Status:
    head = scripts.get_current_head()
    if head is None:
        raise ConfigurationError("this installation has no migrations: install ledger-worker again")
    current = MigrationContext.configure(conn).get_current_revision()
    try:
        pending = [script.revision for script in scripts.iterate_revisions(head, current or "base")]
    except ResolutionError:
        return Status(current=current, head=head, pending=(), is_newer=True)
    return Status(current=current, head=head, pending=tuple(reversed(pending)), is_newer=False)


def _newer(found: Status) -> str:
    return (
        f"the schema is at revision {found.current}, which this release (up to {found.head}) does not know: "
        f"start the newer release, or run `{MIGRATE_COMMAND}` with it"
    )


def _place(url: URL) -> str:
    return f"{url.host}:{url.port or 5432}/{url.database}"
