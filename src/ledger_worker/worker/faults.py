"""Whose fault an error of the database is: what happens to the batch follows from that, and from nothing else.

the event's      a value that PostgreSQL cannot take                 the event becomes a dead letter
an outage's      away, overloaded, too slow, deadlock, no partition  the batch waits and is tried again
an invariant's   a constraint that guards the books                  a bug of ours: the worker stops, nothing is lost
ours             a statement that cannot work                        the same
"""

import random
from enum import StrEnum

from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError

__all__ = ["TIMED_OUT_STATES", "Backoff", "Fault", "fault_of", "sqlstate_class", "sqlstate_of"]

TIMED_OUT_STATES = frozenset({"57014", "25P03"})
"""An outage of our own making: a statement, or what we did between two of them, took longer than the session may."""


class Fault(StrEnum):
    """Whose fault an error is."""

    EVENT = "event"
    OUTAGE = "outage"
    INVARIANT = "invariant"
    OURS = "ours"


_CHECK_VIOLATION = "23514"
# Beyond what psycopg calls operational: a primary that became a standby, and a transaction that waited for us too long.
_OUTAGE_STATES = frozenset({"25006", "25P03"})


def fault_of(error: DBAPIError) -> Fault:
    """Whose fault the error is, by its SQLSTATE."""
    state = sqlstate_of(error)
    if error.connection_invalidated:
        return Fault.OUTAGE
    if state is None:
        if isinstance(error, DataError):  # refused by the driver, before it was sent
            return Fault.EVENT
        return Fault.OUTAGE if isinstance(error, OperationalError | InterfaceError) else Fault.OURS
    if state.startswith("22"):
        return Fault.EVENT
    if state.startswith("23"):
        return Fault.OUTAGE if _is_missing_partition(error, state) else Fault.INVARIANT
    if state in _OUTAGE_STATES or isinstance(error, OperationalError):
        return Fault.OUTAGE
    return Fault.OURS


def sqlstate_of(error: DBAPIError) -> str | None:
    """The SQLSTATE, None when the server sent none."""
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state


def sqlstate_class(error: DBAPIError) -> str:
    """The first two letters of the SQLSTATE, `none` without one: a label of metrics."""
    return (sqlstate_of(error) or "none")[:2] if sqlstate_of(error) else "none"


class Backoff:
    """How long to wait before the next attempt: twice as long each time up to a bound, with jitter."""

    def __init__(self, first_seconds: float = 0.1, longest_seconds: float = 30.0) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._seconds = first_seconds

    def next_seconds(self) -> float:
        """Between half of the present wait and all of it."""
        seconds = self._seconds
        self._seconds = min(seconds * 2, self._longest_seconds)
        return random.uniform(seconds / 2, seconds)  # noqa: S311 - spreads attempts, keeps no secret

    def reset(self) -> None:
        """It worked: the next failure waits shortly again."""
        self._seconds = self._first_seconds


def _is_missing_partition(error: DBAPIError, state: str) -> bool:
    # The same SQLSTATE as a CHECK that fails; only a constraint has a name.
    diagnostics = getattr(error.orig, "diag", None)
    return state == _CHECK_VIOLATION and getattr(diagnostics, "constraint_name", None) is None
