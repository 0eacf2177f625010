"""What every command prints with: a table for people, one line of JSON for scripts, errors apart from both.

Ids and messages come from outside, so nothing is read as Rich's markup.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = [
    "CONFIGURATION",
    "FINDINGS",
    "UNAVAILABLE",
    "Advance",
    "Json",
    "print_error",
    "print_json",
    "print_note",
    "print_table",
    "progress",
    "shortened",
]

FINDINGS = 1
"""Exit status: something was found, or what was given is refused. 0 is fine; 2, a wrong use, is Typer's."""
CONFIGURATION = 3
"""Exit status: a setting or a missing prerequisite has to be put right first."""
UNAVAILABLE = 4
"""Exit status: the database, the brokers or the registry cannot be reached; the same command may succeed later."""

_COLUMNS_UNLESS_TERMINAL = 160
_SHOWN_CHARACTERS_MAX = 100

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def print_json(value: object) -> None:
    """The value stands on one line of standard output."""
    typer.echo(msgspec.json.encode(value).decode())


def print_table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The rows stand in a table; None is an empty cell."""
    table = Table(title=None if title is None else Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else _COLUMNS_UNLESS_TERMINAL).print(table)


def shortened(text: str | None) -> str | None:
    """The text, cut where it would fill the screen; `--json` prints all of it."""
    return text if text is None or len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "..."


def print_note(sentence: str) -> None:
    """A remark beside the output, on standard error."""
    typer.secho(sentence, err=True, dim=True)


def print_error(message: str) -> None:
    """What went wrong stands as one line on standard error."""
    typer.echo("error: " + " ".join(message.split()), err=True)


class Advance:
    """How a long piece of work tells how far it is; it does nothing unless a person looks on."""

    def __init__(self, bar: Progress, total: float | None, description: str) -> None:
        self._bar = bar
        self._task = bar.add_task(description, total=total)

    def to(self, completed: float, total: float | None = None) -> None:
        """So much is done; `total`, when given, is how much there is."""
        self._bar.update(self._task, completed=completed, total=total)


@contextmanager
def progress(description: str, total: float | None = None) -> Iterator[Advance]:
    """A bar on standard error while the block runs, if that is a terminal; gone afterwards."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        yield Advance(bar, total, description)
