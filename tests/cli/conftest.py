"""The command line, run in this process against a database and topics of the test's own."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from typer.testing import CliRunner

from ledger_worker.apply.batch import Batch, Delivery
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.transaction import apply_batch
from ledger_worker.cli import app
from ledger_worker.metrics import CollectorRegistry, Metrics, Stages
from ledger_worker.store.database import engine
from ledger_worker.wire.json_form import event_of_json
from tests.shared_cluster import Endpoints


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a command left behind."""

    status: int
    output: str
    errors: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the command prints
        """Standard output is one line of JSON, and this is its value."""
        (line,) = self.output.splitlines()
        return msgspec.json.decode(line)


class Command(Protocol):
    """Runs `ledger-worker` with these arguments."""

    def __call__(self, *arguments: object, stdin: str | bytes | None = None) -> Ran: ...


def run_with(environment: dict[str, str]) -> Command:
    """`ledger-worker` where these are the only settings."""
    # What the tests themselves are set with is not read by commands; whatever else there is would be.
    ours = [name for name in os.environ if name.startswith("LEDGER_") and not name.startswith("LEDGER_TEST_")]
    hidden = dict.fromkeys(ours)

    def run(*arguments: object, stdin: str | bytes | None = None) -> Ran:
        result = CliRunner().invoke(app, [str(each) for each in arguments], input=stdin, env={**hidden, **environment})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(status=result.exit_code, output=result.stdout, errors=result.stderr)

    return run


def apply_examples(url: str, *names: str) -> None:
    """The example events of these names are applied, each in a transaction of its own, as a worker would."""
    made = engine(url)
    stages, catalogues = Stages(Metrics(CollectorRegistry())), Catalogues()
    for name in names:
        event = event_of_json(Path(f"docs/examples/{name}.jsonl").read_text(encoding="utf-8"))
        apply_batch(made, Batch(deliveries=(Delivery(event=event),)), catalogues, stages)
    made.dispose()


@pytest.fixture
def settings_of(cluster: Endpoints, topic_prefix: str) -> Callable[[str], dict[str, str]]:
    """The settings for a database of the shared cluster, with topics of this test's own."""

    def settings(url: str) -> dict[str, str]:
        names = ("purchases", "subscriptions", "usage", "changes", "state", "dead_letters")
        topics = {f"LEDGER_TOPIC_{name.upper()}": f"{topic_prefix}{name}" for name in names}
        group = f"{topic_prefix}group"
        servers = {"LEDGER_DATABASE_URL": url, "LEDGER_KAFKA_BOOTSTRAP": cluster.kafka_bootstrap}
        return {**servers, **topics, "LEDGER_CONSUMER_GROUP": group}

    return settings


@pytest.fixture
def command(settings_of: Callable[[str], dict[str, str]], database_url: str) -> Command:
    """`ledger-worker` on a migrated database without rows; its topics are not made yet."""
    return run_with(settings_of(database_url))


@pytest.fixture
def command_with_topics(command: Command) -> Command:
    """The same, with its topics."""
    assert command("topics", "create", "--input-partitions", 2).status == 0
    return command
