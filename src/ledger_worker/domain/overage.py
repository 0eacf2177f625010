"""Overage by stretch: a new one at each begin or end of a grant, so that a picture counts what is asked for still."""

from collections.abc import Iterable
from datetime import datetime

__all__ = ["Stretch", "Stretches"]

Stretch = tuple[datetime, int]
"""When a stretch began, and the units of overage in it."""


class Stretches:
    """The stretches of one account on its way through time, in order."""

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self.all = list(stretches)
        self._borders: list[datetime] = []

    def kept(self) -> tuple[Stretch, ...]:
        """The stretches that have overage, and the present one while any has.

        Where none has, nothing is kept: the present one began with the last begin or end of a grant.
        """
        last = len(self.all) - 1
        kept = tuple(stretch for place, stretch in enumerate(self.all) if stretch[1] or place == last)
        return kept if any(units for _, units in kept) else ()

    def begin(self, at: datetime, starts: Iterable[datetime], last_end: datetime | None) -> None:
        """A begin or an end of a grant starts a new stretch; `starts` are those of the active grants.

        Those before every active grant and before the last end are dropped: whatever is suspended, none asks for them.
        """
        self._borders.append(at)
        if self.all and self.all[-1][0] == at:
            return
        if self.all and self.all[-1][1] == 0:
            self.all.pop()
        self.all.append((at, 0))
        if len(self.all) > 1 and last_end is not None:
            since = min(min(starts, default=last_end), last_end)
            # By its own start: the one after it may have had no overage, and is then not kept.
            while len(self.all) > 1 and self.all[0][0] < since:
                self.all.pop(0)

    def count(self, units: int) -> None:
        """Overage of the present stretch, of which there must be one."""
        started_at, counted = self.all[-1]
        self.all[-1] = (started_at, counted + units)

    def add(self, at: datetime, units: int, starts: Iterable[datetime], last_end: datetime | None) -> None:
        """Overage that happened at `at` counts with that of its stretch, if any asks for that one still."""
        # Before the first begin of a grant all overage is of one stretch, from the first of it on.
        first = [start for start, _ in self.all if not self._borders or start < self._borders[0]]
        started_at = max((border for border in self._borders if border <= at), default=min((at, *first)))
        if last_end is not None and started_at < min(min(starts, default=started_at), last_end):
            return
        if first and started_at < first[0]:
            self.all[0] = (started_at, self.all[0][1])
        counted = dict(self.all)
        counted[started_at] = counted.get(started_at, 0) + units
        self.all = sorted(counted.items())

    def shrink(self, at: datetime, units: int) -> None:
        """So much of the overage that happened at `at` is paid."""
        for place in range(len(self.all) - 1, -1, -1):
            started_at, counted = self.all[place]
            if started_at <= at:
                self.all[place] = (started_at, max(0, counted - units))
                return

    def forget(self) -> None:
        """All overage has left."""
        self.all = [(started_at, 0) for started_at, _ in self.all]
