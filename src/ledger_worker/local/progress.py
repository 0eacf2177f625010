"""How far the telling of records is, for whoever looks on: bars on a terminal, lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Shown", "progress"]

_PRINT_SECONDS = 3.0

Shown = Callable[[int, int, int], None]
"""Takes how many records are sent and applied, and how many changes wait to be published."""


@contextmanager
def progress(console: Console, total: int) -> Iterator[Shown]:
    """Bars on a terminal; elsewhere a line every few seconds."""
    if not console.is_terminal:
        yield _Lines(console, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        sent = bars.add_task("records sent", total=total)
        applied = bars.add_task("records applied", total=total)
        outgoing = bars.add_task("changes waiting", total=None)
        yield _Bars(bars, sent, applied, outgoing)


class _Bars:
    """Progress on a terminal."""

    def __init__(self, bars: Progress, sent: TaskID, applied: TaskID, outgoing: TaskID) -> None:
        self._bars = bars
        self._sent, self._applied, self._outgoing = sent, applied, outgoing
        self._most = 1

    def __call__(self, sent: int, applied: int, waiting: int) -> None:
        self._most = max(self._most, waiting)
        self._bars.update(self._sent, completed=sent)
        self._bars.update(self._applied, completed=applied)
        self._bars.update(self._outgoing, completed=waiting, total=self._most)


class _Lines:
    """Progress in a file or a pipe."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._next = 0.0

    def __call__(self, sent: int, applied: int, waiting: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PRINT_SECONDS
            self._console.print(f"{sent:,} of {self._total:,} sent, {applied:,} applied, {waiting:,} changes wait")
