"""The statuses a script can rely on, the same for every command."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ledger_worker.local.cluster import Cluster
from tests.cli.conftest import Command, run_with

ON_THE_DATABASE = [
    ("database", "status"),
    ("database", "migrate"),
    ("topics", "check"),
    ("catalog", "apply", "docs/examples/catalogue.toml"),
    ("customer", "show", "ada"),
    ("ledger", "verify"),
]
NOWHERE = "postgresql://somebody:a-secret@127.0.0.1:1/nowhere"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("arguments", ON_THE_DATABASE, ids=" ".join)
def test_a_database_that_is_away_is_one_sentence_and_status_4(arguments: tuple[str, ...]) -> None:
    ran = run_with({"LEDGER_DATABASE_URL": NOWHERE})(*arguments)

    assert ran.status == 4
    assert ran.errors.startswith("error: the database 127.0.0.1:1/nowhere cannot be")
    assert ran.errors.count("\n") == 1
    assert "a-secret" not in ran.errors


def test_brokers_that_are_away_are_one_sentence_and_status_4(database_url: str) -> None:
    nobody = run_with({"LEDGER_DATABASE_URL": database_url, "LEDGER_KAFKA_BOOTSTRAP": "127.0.0.1:1"})

    ran = nobody("events", "send", "docs/examples/purchase.jsonl")

    assert ran.status == 4
    assert ran.errors.startswith("error: topic commerce.purchases")
    assert ran.errors.count("\n") == 1


def test_a_misspelt_setting_is_status_3_and_the_right_name_is_shown() -> None:
    ran = run_with({"LEDGER_DATABSE_URL": NOWHERE, "LEDGER_KAFKA_BOOTSTRAP": "127.0.0.1:1"})("database", "status")

    assert ran.status == 3
    assert "LEDGER_DATABSE_URL is no setting" in ran.errors
    assert "LEDGER_DATABASE_URL" in ran.errors
    assert "a-secret" not in ran.errors


@pytest.mark.usefixtures("elsewhere")
def test_no_setting_and_no_local_cluster_is_status_3_and_says_both_ways_out() -> None:
    ran = run_with({})("database", "status")

    assert ran.status == 3
    assert "LEDGER_DATABASE_URL is not set" in ran.errors
    assert "ledger-worker dev up" in ran.errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("events", "send"),
        ("events", "send", "not-there.jsonl"),
        ("catalog", "apply", "tests"),
        ("topics", "create", "--input-partitions", "0"),
    ],
    ids=" ".join,
)
def test_a_wrong_use_is_status_2(arguments: tuple[str, ...]) -> None:
    assert run_with({})(*arguments).status == 2


def test_a_schema_that_was_never_migrated_is_status_3_and_names_the_command(empty_database_url: str) -> None:
    ran = run_with({"LEDGER_DATABASE_URL": empty_database_url})("customer", "show", "ada")

    assert ran.status == 3
    assert "ledger-worker database migrate" in ran.errors


def test_without_settings_a_command_works_on_the_cluster_of_this_folder(
    private_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger_worker.local.cluster.DEFAULT_FOLDER", private_cluster.folder)

    migrated = run_with({})("database", "migrate", "--json")
    of_settings = run_with({"LEDGER_DATABASE_URL": NOWHERE})("database", "status")

    assert migrated.status == 0
    assert migrated.json["from_revision"] is None
    assert of_settings.status == 4, "a setting wins over the cluster of the folder"


def test_help_is_there_before_anyone_loads_a_driver() -> None:
    program = "import sys; from ledger_worker.cli import app; print(sorted(sys.modules))"
    drivers = ("sqlalchemy", "alembic", "psycopg", "confluent_kafka", "fastavro", "prometheus_client", "structlog")

    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout

    assert [name for name in drivers if f"'{name}'" in loaded] == []


def test_the_installed_program_prints_its_version_quickly() -> None:
    program = Path(sys.executable).with_name("ledger-worker")
    started = time.monotonic()

    printed = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout

    assert printed == "0.1.0\n"
    assert time.monotonic() - started < 5


def test_every_command_that_prints_takes_json(command: Command) -> None:
    assert command("database", "status", "--json").json["pending"] == []
