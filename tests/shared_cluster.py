"""Where the tests get PostgreSQL and Kafka from: one cluster for a whole run, however many processes share it.

In this order:

1. `LEDGER_TEST_DATABASE_URL` and `LEDGER_TEST_KAFKA_BOOTSTRAP`: a cluster of your own. The URL's user must be allowed
   to create databases and roles. Databases and topics of a run have names of their own and are dropped.
2. `LEDGER_TEST_DOCKER=1`: two containers. Never run where this was written, which has no Docker: written from the
   documentation of testcontainers, so expect to adjust image names or settings at the first use.
3. Otherwise `ledger_worker.local`, in a temporary folder, from the packages of the virtual environment.

Nothing may be left running, also when pytest is killed. So the first process that needs a local cluster starts a
keeper: this file, run as a program. It waits for the end of the pytest that was called (not of an xdist worker), by
whatever cause, and then deletes what runs in the folder of the run. An orderly end deletes at once, and leaves it
nothing to do.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psutil
import psycopg
from psycopg import sql

from ledger_worker.local import cluster, daemon
from ledger_worker.local.cluster import Cluster
from ledger_worker.local.tuning import FAST

_DATABASE_URL = "LEDGER_TEST_DATABASE_URL"
_KAFKA_BOOTSTRAP = "LEDGER_TEST_KAFKA_BOOTSTRAP"
_DOCKER = "LEDGER_TEST_DOCKER"
# Set by pytest for its xdist workers, never by a person.
_RUN_FOLDER = "LEDGER_TEST_RUN_FOLDER"
_RUN_PID = "LEDGER_TEST_RUN_PID"

_POSTGRES_IMAGE = "postgres:18"
_KAFKA_IMAGE = "confluentinc/cp-kafka:8.1.0"
_KAFKA_SETTINGS = {
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    "KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS": "1000",
    "KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS": "100",
    "KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS": "6000",
    "KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS": "666",
}
_LOCK_SECONDS_MAX = 900.0
_MEMORY_BYTES_MIN = 4 * 1024**3


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the two servers are reached; the URL is one of a user who may create databases."""

    database_url: str
    kafka_bootstrap: str


@contextmanager
def run() -> Iterator[None]:
    """For the pytest that was called: what its processes start inside the block is gone after it."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-test-", dir=_fastest_folder()))
    os.environ[_RUN_FOLDER] = str(folder)
    os.environ[_RUN_PID] = str(os.getpid())
    with ExitStack() as stack:
        stack.callback(_delete_run, folder)
        if os.environ.get(_DOCKER) == "1" and _endpoints_of_the_user() is None:
            stack.enter_context(_containers())
        yield


def shared() -> Endpoints:
    """The cluster of this run, started if this is the first process that needs it."""
    if (own := _endpoints_of_the_user()) is not None:
        return own
    started = start_private("shared")
    return Endpoints(database_url=started.database_url, kafka_bootstrap=started.kafka_bootstrap)


def start_private(name: str) -> Cluster:
    """The local cluster of that name runs, and ends with this run at the latest."""
    folder = Path(os.environ[_RUN_FOLDER])
    with daemon.locked(folder / "keeper.lock", _LOCK_SECONDS_MAX):
        if not (folder / "keeper.log").exists():
            keeper = [sys.executable, __file__, str(folder), os.environ[_RUN_PID]]
            daemon.start_detached(keeper, log=folder / "keeper.log")
    return cluster.start(folder / name, FAST)


def make_database(servers: Endpoints | Cluster, name: str, *, template: str = "template0") -> str:
    """The database is there, a copy of the template; the answer is its URL. An older one of that name is dropped."""
    drop_database(servers, name)
    _execute(servers, sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    return urlsplit(servers.database_url)._replace(path=f"/{name}").geturl()


def drop_database(servers: Endpoints | Cluster, name: str) -> None:
    """The database is gone, and whoever was connected to it was thrown out."""
    _execute(servers, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def keep(folder: Path, pid: int) -> None:
    """Waits for the end of that process, then deletes every cluster in the folder, and the folder."""
    try:
        psutil.Process(pid).wait()
    except psutil.NoSuchProcess:
        pass
    finally:
        _delete_run(folder)


def _fastest_folder() -> Path | None:
    # A database is some 700 files. Copying one took 250 ms on a disk and 16 ms in memory, once for each test.
    in_memory = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a folder of our own in it
    if in_memory.is_dir() and shutil.disk_usage(in_memory).free > _MEMORY_BYTES_MIN:
        return in_memory
    return None


def _endpoints_of_the_user() -> Endpoints | None:
    database_url, kafka_bootstrap = os.environ.get(_DATABASE_URL), os.environ.get(_KAFKA_BOOTSTRAP)
    if database_url and kafka_bootstrap:
        return Endpoints(database_url=database_url, kafka_bootstrap=kafka_bootstrap)
    if database_url or kafka_bootstrap:
        raise ValueError(f"set both {_DATABASE_URL} and {_KAFKA_BOOTSTRAP}, or neither")
    return None


@contextmanager
def _containers() -> Iterator[None]:
    # Started by the pytest that was called, so that all its xdist workers inherit the settings.
    from testcontainers.community.kafka import KafkaContainer
    from testcontainers.community.postgres import PostgresContainer

    postgres = PostgresContainer(_POSTGRES_IMAGE, username="ledger_owner", dbname="postgres", driver=None)
    postgres.with_command("postgres -c max_connections=200 -c fsync=off -c full_page_writes=off")
    kafka = KafkaContainer(_KAFKA_IMAGE).with_kraft()
    for name, value in _KAFKA_SETTINGS.items():
        kafka.with_env(name, value)
    with postgres, kafka:
        os.environ[_DATABASE_URL] = postgres.get_connection_url()
        os.environ[_KAFKA_BOOTSTRAP] = kafka.get_bootstrap_server()
        try:
            yield
        finally:
            del os.environ[_DATABASE_URL], os.environ[_KAFKA_BOOTSTRAP]


def _delete_run(folder: Path) -> None:
    for state in folder.glob("*/cluster.json"):
        cluster.delete(state.parent)
    shutil.rmtree(folder, ignore_errors=True)


def _execute(servers: Endpoints | Cluster, statement: sql.Composed) -> None:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(statement)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), int(sys.argv[2]))
