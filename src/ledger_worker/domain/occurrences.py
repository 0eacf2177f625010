"""When what recurs begins: daily to yearly, counted from its anchor on the calendar and the clock of one place.

Occurrence `n` begins `n` times `every` after the anchor, never one `every` after the occurrence before it: so what
began on a 31st is on the 31st again after a shorter month, and on the hour of its anchor after the clocks have changed.
Without a time zone the clock is UTC's and no table of time zones is read. The instant of a local time is the first at
which the clock on the wall shows it or, where the clock is put forward over it, the first thereafter.
"""

import re
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

__all__ = ["EVERY_EXPECTED", "OCCURRENCES_MAX", "Recurrence", "following", "is_every", "is_time_zone", "occurrences"]

OCCURRENCES_MAX = 5_000
"""Most occurrences of all that recurs of one source together: 13 years of days, if only one thing does."""
EVERY_EXPECTED = "P1D to P366D, P1W to P52W, P1M to P12M, or P1Y"
_EVERY = re.compile(r"P([1-9]\d{0,2})([DWMY])")
_MOST = {"D": 366, "W": 52, "M": 12, "Y": 1}
_MICROSECOND = timedelta(microseconds=1)
_ZONES_MAX = 1_000


class Recurrence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Occurrence `number` (0: the first) of what recurs `every` from `anchor`, `times` in all.

    By the clock of `time_zone`; None is UTC.
    """

    anchor: datetime
    every: str
    time_zone: str | None = None
    times: int = OCCURRENCES_MAX
    number: int = 0


def is_every(every: str) -> bool:
    """Whether it says how often something can recur: `EVERY_EXPECTED`."""
    match = _EVERY.fullmatch(every)
    return match is not None and int(match[1]) <= _MOST[match[2]]


def is_time_zone(name: str) -> bool:
    """Whether the platform knows the time zone."""
    try:
        _zone(name)
    except (KeyError, OSError, ValueError):  # unknown, a directory, or no name at all
        return False
    return True


def occurrences(recurrence: Recurrence) -> Iterator[tuple[Recurrence, datetime, datetime]]:
    """The occurrences from this one on, each with its begin and with its end, where the next one begins.

    One that would have no time, because a place skipped a whole day, is left out. They end with the calendar.
    """
    zone = UTC if recurrence.time_zone is None else _zone(recurrence.time_zone)
    begin = _begins_at(recurrence, recurrence.number, zone)
    for number in range(recurrence.number, recurrence.times):
        end = _begins_at(recurrence, number + 1, zone)
        if begin is None or end is None:
            return
        if begin < end:
            yield msgspec.structs.replace(recurrence, number=number), begin, end
        begin = end


def following(recurrence: Recurrence) -> tuple[Recurrence, datetime, datetime] | None:
    """The next occurrence with its begin and end, or None where this is the last."""
    return next(occurrences(msgspec.structs.replace(recurrence, number=recurrence.number + 1)), None)


@lru_cache(maxsize=_ZONES_MAX)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _begins_at(recurrence: Recurrence, number: int, zone: tzinfo) -> datetime | None:
    """When the occurrence begins, in UTC; None where the calendar has ended."""
    match = _EVERY.fullmatch(recurrence.every)
    if match is None:
        msg = f"every is {recurrence.every!r}, expected {EVERY_EXPECTED}"
        raise ValueError(msg)
    count, unit = number * int(match[1]), match[2]
    if number == 0:
        return recurrence.anchor
    try:
        local = recurrence.anchor.astimezone(zone).replace(tzinfo=None, fold=0)
        if unit in "DW":
            local += timedelta(days=count if unit == "D" else 7 * count)
        else:
            local = _months_later(local, count if unit == "M" else 12 * count)
        return _first_instant(local, zone)
    except (OverflowError, ValueError):
        return None


def _months_later(local: datetime, months: int) -> datetime:
    """The same day of a later month, or the last day of a shorter one."""
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    return local.replace(year=year, month=month + 1, day=min(local.day, monthrange(year, month + 1)[1]))


def _first_instant(local: datetime, zone: tzinfo) -> datetime:
    """The first instant at which the zone's clock shows the local time, or has gone past it."""
    if zone is UTC:
        return local.replace(tzinfo=UTC)
    first = local.replace(tzinfo=zone).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == local:
        return first
    # Skipped: by the offset from before the clocks change it is after the change, by the one from after it before.
    before = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    changed = first.astimezone(zone).utcoffset()
    while first - before > _MICROSECOND:
        between = before + (first - before) // 2
        if between.astimezone(zone).utcoffset() == changed:
            first = between
        else:
            before = between
    return first
