"""`ledger-worker topics`: the topics of the ledger, made and checked."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ledger_worker.cli.connections import broker_options, open_database, read_settings
from ledger_worker.cli.output import FINDINGS, Json, print_json, print_table
from ledger_worker.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from ledger_worker.config import Settings
    from ledger_worker.kafka.topics import Finding, PlannedTopic

app = typer.Typer(name="topics", help="The input and output topics.", no_args_is_help=True)

_PARTITIONS_MAX = 10_000
_REPLICAS_MAX = 100
_ATTEMPTS_MAX = 50
_ATTEMPT_SECONDS = 0.2


class _Topic(msgspec.Struct, frozen=True, kw_only=True):
    """One topic as `create` leaves it."""

    name: str
    created: bool
    problems: tuple[str, ...]


class _Created(msgspec.Struct, frozen=True, kw_only=True):
    """What `create --json` prints."""

    topics: tuple[_Topic, ...]


class _Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What `check --json` prints: the ledger does not start over an error; a warning is for the operator to weigh."""

    topics: tuple[str, ...]
    findings: "tuple[_Finding, ...]"


class _Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something about a topic."""

    topic: str
    problem: str
    is_error: bool


@app.command()
def create(
    *,
    input_partitions: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=_PARTITIONS_MAX, help="Partitions of each input topic that is made; 4 if not said."
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=_REPLICAS_MAX,
            help="Replicas of each topic that is made; as many as the brokers are set to if not said.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make the topics that are missing; those that exist are left as they are, and looked at.

    The outputs get as many partitions as the ledger in the database has lanes, so migrate first. Exit status 1 when a
    topic that exists cannot be worked with.
    """
    from ledger_worker.kafka import client, topics

    settings = read_settings()
    admin = client.admin_client(broker_options(settings))
    planned = topics.plan(settings, _lanes(settings), input_partitions=input_partitions or topics.INPUT_PARTITIONS)
    made = set(topics.create(admin, planned, replicas=replicas))
    _wait_until_led(settings, [topic for topic in planned if topic.name in made])
    findings = topics.check(admin, [topic for topic in planned if topic.name not in made])
    shown = _Created(
        topics=tuple(
            _Topic(
                name=topic.name,
                created=topic.name in made,
                problems=tuple(each.problem for each in findings if each.topic == topic.name and each.is_error),
            )
            for topic in planned
        )
    )
    if json:
        print_json(shown)
    else:
        rows = [(each.name, _state(each)) for each in shown.topics]
        print_table(None, ("topic", "state"), rows)
    if any(each.problems for each in shown.topics):
        raise typer.Exit(FINDINGS)


@app.command()
def check(*, json: Json = False) -> None:
    """Look for what is wrong with the topics; exit status 1 for an error, 0 for warnings alone."""
    from ledger_worker.kafka import client, topics

    settings = read_settings()
    planned = topics.plan(settings, _lanes(settings))
    findings = topics.check(client.admin_client(broker_options(settings)), planned)
    if json:
        print_json(_Checked(topics=tuple(topic.name for topic in planned), findings=_findings(findings)))
    elif findings:
        print_table(
            None, ("", "problem"), [("error" if each.is_error else "warning", each.problem) for each in findings]
        )
    else:
        typer.echo(f"All {len(planned)} topics are as the ledger needs them.")
    if any(each.is_error for each in findings):
        raise typer.Exit(FINDINGS)


def _wait_until_led(settings: "Settings", made: "Sequence[PlannedTopic]") -> None:
    """Every partition of the new topics answers: the brokers say that a topic is made before it can be used."""
    from ledger_worker.kafka.client import admin_client
    from ledger_worker.kafka.positions import watermarks

    admin = admin_client(settings.broker)
    partitions = [(topic.name, number) for topic in made for number in range(topic.partitions)]
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        try:
            watermarks(admin, partitions)
        except (ConfigurationError, UnavailableError):
            if attempt == _ATTEMPTS_MAX:
                raise
            time.sleep(_ATTEMPT_SECONDS)
        else:
            return


def _findings(findings: "Sequence[Finding]") -> tuple[_Finding, ...]:
    return tuple(_Finding(topic=each.topic, problem=each.problem, is_error=each.is_error) for each in findings)


def _state(topic: _Topic) -> str:
    if topic.problems:
        return "; ".join(topic.problems)
    return "created" if topic.created else "exists"


def _lanes(settings: "Settings") -> int:
    from ledger_worker.store.catalogue import read_ledger

    with open_database(settings, "ledger-worker topics") as engine, engine.connect() as connection:
        return read_ledger(connection).lanes
