"""Time that stands still, and how long things last."""

import re
from calendar import monthrange
from collections.abc import Iterable
from datetime import datetime, timedelta
from fractions import Fraction

Stop = tuple[datetime, datetime | None]
"""A stretch in which time stands still; None is without end."""

MONTHS_OF_YEAR = 12


def united(stops: Iterable[Stop]) -> list[Stop]:
    """The same stretches in order, those that overlap as one."""
    found: list[Stop] = []
    for start, end in sorted((stop for stop in stops if stop[1] is None or stop[0] < stop[1]), key=lambda one: one[0]):
        if found and (found[-1][1] is None or start <= found[-1][1]):
            last = found[-1][1]
            found[-1] = (found[-1][0], None if last is None or end is None else max(last, end))
        else:
            found.append((start, end))
    return found


def moved(end: datetime | None, since: datetime, stops: Iterable[Stop], latest: datetime | None) -> datetime | None:
    """An end, moved by the time stopped since `since`, though no further than to `latest`.

    A stretch counts when it began before the end so far. While one has no end there is none, or it is `latest`.
    """
    if end is None:
        return None
    so_far: datetime | None = end
    for start, stop in united(stops):
        begin = max(start, since)
        if so_far is not None and begin < so_far and (stop is None or begin < stop):
            so_far = None if stop is None else so_far + (stop - begin)
    if latest is None:
        return so_far
    return max(end, latest if so_far is None else min(so_far, latest))


def running(start: datetime, end: datetime, stops: Iterable[Stop]) -> timedelta:
    """The time from start to end in which nothing stood still."""
    stood = timedelta()
    for begin, stop in united(stops):
        until = end if stop is None else min(stop, end)
        stood += max(until - max(begin, start), timedelta())
    return max(end - start, timedelta()) - stood


def share(part: timedelta, whole: timedelta) -> Fraction:
    """An exact fraction of two times; all of a whole that is none."""
    unit = timedelta(microseconds=1)
    return Fraction(part // unit, whole // unit) if whole else Fraction(1)


def end_of(lasts: str, start: datetime) -> datetime | None:
    """When something that begins at `start` and lasts so long is over.

    Months keep the day, or take the month's last.
    """
    if lasts == "forever":
        return None
    date, _, time = lasts.removeprefix("P").partition("T")
    of_date = {letter: int(number) for number, letter in re.findall(r"(\d+)([A-Z])", date)}
    of_time = {letter: int(number) for number, letter in re.findall(r"(\d+)([A-Z])", time)}
    months = of_date.get("Y", 0) * MONTHS_OF_YEAR + of_date.get("M", 0)
    year, month = start.year, start.month + months
    while month > MONTHS_OF_YEAR:
        year, month = year + 1, month - MONTHS_OF_YEAR
    start = start.replace(year=year, month=month, day=min(start.day, monthrange(year, month)[1]))
    return start + timedelta(
        weeks=of_date.get("W", 0),
        days=of_date.get("D", 0),
        hours=of_time.get("H", 0),
        minutes=of_time.get("M", 0),
        seconds=of_time.get("S", 0),
    )
