"""The clock: what falls due is booked and told although nobody touches its customer.

Access ends at its instant whether or not this loop runs, and whoever touches a customer books what is due of it first.
So the clock decides nothing: it makes sure that a change is told at its instant and not a week later. Any number of
clocks may run, none holds anything beyond a transaction, and one that comes back after a week goes on where it finds
something due: by the books, not by what it remembers.
"""

from collections.abc import Callable

import structlog
from sqlalchemy.exc import DBAPIError

from ledger_worker.apply.due import BookedDue
from ledger_worker.worker.faults import Backoff, Fault, fault_of, sqlstate_class
from ledger_worker.worker.shared import Shared

__all__ = ["run_clock"]

_LOOP = "clock"
_LOOK_SECONDS = 0.25
"""How often it looks while nothing is due: half of what a change may be late, with the relay's half."""


def run_clock(shared: Shared, book: Callable[[], BookedDue]) -> None:
    """Until `shared.stop` is set, `book` is called: over and over while it books something, else four times a second.

    Outages of the database are waited out. Raises what is a bug.
    """
    backoff = Backoff(first_seconds=_LOOK_SECONDS, longest_seconds=10.0)
    log = structlog.get_logger()
    while not shared.stop.is_set():
        shared.health.turned(_LOOP)
        try:
            booked = book()
        except DBAPIError as error:
            if fault_of(error) is not Fault.OUTAGE:
                raise
            shared.metrics.database_failures.labels(sqlstate_class=sqlstate_class(error)).inc()
            wait_seconds = backoff.next_seconds()
            log.warning("clock_failed", error=str(error.orig), wait_seconds=round(wait_seconds, 3))
            shared.stop.wait(wait_seconds)
            continue
        backoff.reset()
        shared.health.database_answered()
        shared.metrics.transitions.inc(booked.transitions)
        shared.metrics.changes.inc(booked.changes)
        shared.metrics.clock_behind_seconds.set(booked.behind_seconds)
        if booked.changes:
            shared.wake.set()
        if not booked.customers:
            shared.stop.wait(_LOOK_SECONDS)
    shared.health.ended(_LOOP)
