"""The shapes in which the second opinion says what a source gives."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from ledger_worker.domain.catalogue import Allowance


class NameOfGrant(Protocol):
    """Names grants; which name is whose matters only where rules break ties by id."""

    def root(
        self, source: str, line: str, sku: str, allowance: str, period_start: datetime | None, segment: str
    ) -> UUID:
        """The name of what a source gives by itself."""
        ...

    def child(self, parent: UUID, kind: str, cause: str) -> UUID:
        """The name of what goes on from `parent`."""
        ...


class TakenBack(NamedTuple):
    """Up to `units` go back at `at` because of `why`. An opening cut (`carry/...`) asks for what was used by then."""

    why: str
    at: datetime
    units: int
    policy: str


class Suspended(NamedTuple):
    """The cause for which a grant does not burn, and how long."""

    cause: str
    starts: datetime
    ends: datetime | None


class Given(NamedTuple):
    """One grant by its source alone; `units` None is access or unlimited, and 0 for a child that will receive some.

    `value` is that of a setting, as JSON text.
    """

    name: UUID
    holder: str
    source: str
    line: str
    sku: str
    allowance: str
    entitlement: str
    units: int | None
    priority: int
    start: datetime
    end: datetime | None
    period_start: datetime | None
    generation: int = 0
    parent: UUID | None = None
    origin: str = ""
    taken_back: tuple[TakenBack, ...] = ()
    suspensions: tuple[Suspended, ...] = ()
    rolls_into: UUID | None = None
    rollover_max: int | None = None
    value: str | None = None


class Made(NamedTuple):
    """A grant, the allowance it came by (None: by hand), and where the run that gave it was closed by another."""

    grant: Given
    allowance: Allowance | None
    closes: datetime | None = None


def clipped(
    suspensions: list[tuple[str, datetime, datetime | None]], start: datetime, end: datetime | None
) -> tuple[Suspended, ...]:
    """Suspensions, clipped to a grant: from the later of both starts, without an end where they last as long."""
    found = []
    for cause, starts, ends in suspensions:
        begins = max(starts, start)
        if (ends is None or begins < ends) and (end is None or begins < end):
            found.append(Suspended(cause, begins, None if ends is None or (end is not None and ends >= end) else ends))
    return tuple(sorted(found, key=lambda one: (one.starts, one.cause)))


def is_after(earlier: Sequence[Made], allowance: Allowance, at: datetime) -> bool:
    """Whether runs that closed by then gave anything of the same entitlement, for an opening cut to carry."""
    return any(
        one.grant.entitlement == allowance.entitlement and one.closes is not None and one.closes <= at
        for one in earlier
    )
