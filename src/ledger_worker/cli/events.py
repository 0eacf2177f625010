"""`ledger-worker events`: facts from a file to their topics."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import msgspec
import typer

from ledger_worker.cli.connections import broker_options, open_registry, read_settings
from ledger_worker.cli.input_file import checked_file, opened_file
from ledger_worker.cli.output import FINDINGS, Json, print_json, print_table, progress

if TYPE_CHECKING:
    from ledger_worker.config import Settings
    from ledger_worker.domain.events import Event
    from ledger_worker.kafka.sending import OutgoingRecord
    from ledger_worker.wire.framing import Registry

app = typer.Typer(name="events", help="Facts about customers, told to the ledger.", no_args_is_help=True)

_LINE_BYTES_MAX = 1024 * 1024
_PROBLEMS_SHOWN_MAX = 20
_PROGRESS_EVERY_LINES = 500


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a line, which is counted from 1."""

    line: int
    problem: str


class _Validated(msgspec.Struct, frozen=True, kw_only=True):
    """How many events each family of topics gets, and the first problems of all there are."""

    families: dict[str, int]
    problems: tuple[_Problem, ...]
    problem_count: int


class _Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What `send --json` prints: `sent` counts by topic what the brokers acknowledged."""

    file: str
    events: int
    sent: dict[str, int]
    problems: tuple[_Problem, ...]
    problem_count: int


@app.callback()
def _events() -> None:
    # Keeps `send` a verb of its own while it is the only one.
    pass


@app.command()
def send(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Events as JSON, one a line; - is standard input.", callback=checked_file),
    ],
    *,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Read every line, and send nothing.")] = False,
    json: Json = False,
) -> None:
    """Send events to the topic of their kind, each keyed by its customer; the same events may be sent again.

    Every line is validated before the first is sent: with one bad line nothing is sent, and the exit status is 1. An
    error on the way leaves an unknown number sent; send the file again, each event counts once.
    """
    with opened_file(file) as (lines, size):
        validated = _validate(lines, size)
        sent: dict[str, int] = {}
        if not validated.problem_count and not validate_only:
            lines.seek(0)
            sent = _send(lines, validated)
    events = sum(validated.families.values())
    if json:
        print_json(
            _Sent(
                file=str(file),
                events=events,
                sent=sent,
                problems=validated.problems,
                problem_count=validated.problem_count,
            )
        )
    elif sent:
        print_table(None, ("topic", "sent"), sorted(sent.items()))
    elif not validated.problem_count:
        typer.echo(f"{file} is fine: {events} events.")
    for problem in validated.problems:
        typer.echo(f"{file}:{problem.line}: {problem.problem}", err=True)
    if validated.problem_count:
        more = validated.problem_count - len(validated.problems)
        if more:
            typer.echo(f"{file}: {more} more lines are refused", err=True)
        typer.echo("Nothing is sent.", err=True)
        raise typer.Exit(FINDINGS)


def _validate(lines: IO[bytes], size: int) -> _Validated:
    from ledger_worker.errors import BadBytesError
    from ledger_worker.wire.encode import family_of
    from ledger_worker.wire.json_form import event_of_json

    families: Counter[str] = Counter()
    problems: list[_Problem] = []
    problem_count = 0
    with progress("validating", size) as advance:
        for number, line in _numbered(lines):
            if number % _PROGRESS_EVERY_LINES == 0:
                advance.to(lines.tell())
            try:
                if len(line) > _LINE_BYTES_MAX:
                    found = f"the line has more than {_LINE_BYTES_MAX} bytes, expected one event"
                else:
                    families[family_of(event_of_json(line)).value] += 1
                    continue
            except BadBytesError as error:
                found = str(error)
            problem_count += 1
            if len(problems) < _PROBLEMS_SHOWN_MAX:
                problems.append(_Problem(line=number, problem=found))
    return _Validated(families=families, problems=tuple(problems), problem_count=problem_count)


def _send(lines: IO[bytes], validated: _Validated) -> dict[str, int]:
    from ledger_worker.kafka.client import admin_client
    from ledger_worker.kafka.positions import find_topics
    from ledger_worker.kafka.sending import send as send_records

    settings = read_settings()
    broker = broker_options(settings)
    registry = open_registry(settings)
    topic_of = _topics(settings)
    # A missing topic or an absent broker is said now, and not after the timeout of a first record.
    find_topics(admin_client(broker), [topic_of[family] for family in validated.families])
    events = sum(validated.families.values())
    acknowledged: dict[str, int] = {}
    with progress("sending", events) as advance:
        for counts in send_records(broker, _records(lines, topic_of, registry)):
            acknowledged = dict(counts)
            advance.to(sum(acknowledged.values()))
    return acknowledged


def _records(lines: IO[bytes], topic_of: dict[str, str], registry: "Registry | None") -> "Iterator[OutgoingRecord]":
    from ledger_worker.wire.encode import family_of
    from ledger_worker.wire.json_form import event_of_json

    for _, line in _numbered(lines):
        event = event_of_json(line)
        yield _record(event, topic_of[family_of(event)], registry)


def _record(event: "Event", topic: str, registry: "Registry | None") -> "OutgoingRecord":
    from ledger_worker.kafka.sending import OutgoingRecord
    from ledger_worker.wire.encode import encode_event
    from ledger_worker.wire.headers import event_headers

    return OutgoingRecord(
        topic=topic, key=event.customer_id, value=encode_event(event, registry), headers=event_headers(event)
    )


def _numbered(lines: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Each line that is not empty, with its number; of one that is too long, no more than shows that it is."""
    number = 0
    while line := lines.readline(_LINE_BYTES_MAX + 1):
        number += 1
        yielded = line
        while not line.endswith(b"\n") and (line := lines.readline(_LINE_BYTES_MAX)):
            pass
        if yielded.strip():
            yield number, yielded


def _topics(settings: "Settings") -> dict[str, str]:
    from ledger_worker.wire.schemas import TopicFamily

    return {
        TopicFamily.PURCHASES: settings.topic_purchases,
        TopicFamily.SUBSCRIPTIONS: settings.topic_subscriptions,
        TopicFamily.USAGE: settings.topic_usage,
    }
