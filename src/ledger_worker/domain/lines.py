"""Lines by identity: what is still to be booked of a run, and in which order the lines of one step are booked."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from ledger_worker.domain.ledger import Kind, Line

__all__ = ["difference", "line_order"]


def difference(booked: Iterable[Line], target: Iterable[Line]) -> list[Line]:
    """For each identity, what has to be added to the booked units to get the target's."""
    units: dict[tuple[Kind, datetime, UUID | None, UUID | None, str | None], int] = defaultdict(int)
    for line in target:
        units[line.identity()] += line.units
    for line in booked:
        units[line.identity()] -= line.units
    return [Line(*identity, delta) for identity, delta in units.items() if delta]


def line_order(line: Line) -> tuple[datetime, Kind, bytes, bytes, str]:
    """By instant, kind, grant, usage and cut: the order of the lines of one step."""
    return (
        line.at,
        line.kind,
        b"" if line.grant_id is None else line.grant_id.bytes,
        b"" if line.usage_key is None else line.usage_key.bytes,
        line.cut_id or "",
    )
