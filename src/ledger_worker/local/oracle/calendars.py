"""Recurring grants: on which days of a calendar, and when by the clock on a wall, something comes again."""

import re
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from ledger_worker.domain.catalogue import Allowance
from ledger_worker.local.oracle.clocks import MONTHS_OF_YEAR

DAYS = {"D": 1, "W": 7}
MONTHS = {"M": 1, "Y": MONTHS_OF_YEAR}
QUARTER = timedelta(minutes=15)
AROUND = timedelta(hours=30)
"""No clock on a wall is further from UTC than that."""


def begins(allowance: Allowance, anchor: datetime) -> Iterator[datetime]:
    """Every instant at which an occurrence begins, were there no last one; those of a day that was skipped are one."""
    zone = ZoneInfo(allowance.time_zone or "UTC")
    wall = anchor.astimezone(zone).replace(tzinfo=None)
    yield anchor
    for number in range(1, 20_000):
        day = day_of(wall.date(), allowance.every or "", number)
        yield first_shown(datetime.combine(day, wall.time()), zone)


def day_of(first: date, every: str, number: int) -> date:
    """The day of an occurrence: by days, or the same day of a later month, or the last one where it has none."""
    ((count, unit),) = re.findall(r"(\d+)([A-Z])", every)
    if unit in DAYS:
        return first + timedelta(days=number * int(count) * DAYS[unit])
    year, month = first.year, first.month + number * int(count) * MONTHS[unit]
    while month > MONTHS_OF_YEAR:
        year, month = year + 1, month - MONTHS_OF_YEAR
    return date(year, month, min(first.day, monthrange(year, month)[1]))


@lru_cache(100_000)
def first_shown(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first instant at which a clock on a wall there shows that time, or a later one.

    It is either when the clocks change, at a quarter of an hour, or the time on the wall less what the clock is ahead.
    """
    middle = wall.replace(tzinfo=UTC)
    start = middle - AROUND
    start -= timedelta(minutes=start.minute % 15, seconds=start.second, microseconds=start.microsecond)
    looked_at = [start + place * QUARTER for place in range(2 * AROUND // QUARTER + 2)]
    ahead = {one.astimezone(zone).utcoffset() or timedelta() for one in looked_at}
    candidates = {middle - offset for offset in ahead} | set(looked_at)
    return min(one for one in candidates if one.astimezone(zone).replace(tzinfo=None) >= wall)
