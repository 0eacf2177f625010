"""The clock's loop: what falls due is told while nobody touches its customer, through outages, until it is stopped."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from psycopg.errors import AdminShutdown, UndefinedTable
from sqlalchemy.exc import OperationalError, ProgrammingError

from ledger_worker.apply.due import BookedDue, book_due_now
from ledger_worker.config import Settings
from ledger_worker.worker.clock import run_clock
from ledger_worker.worker.shared import Shared
from tests.apply.ledger import Ledger
from tests.domain.telling import bought, catalogue, day, gives, offer, quota, told
from tests.worker.running import shared_of

SECONDS_MAX = 30.0


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """One customer's pack has ended, and nobody has told it."""
    made = Ledger(database_url)
    made.publish(catalogue(quota(), offer("pack", gives(5, lasts="P3D"))))
    made.tell((told("b", day(4), bought()), day(4)))
    yield made
    made.close()


@pytest.fixture
def shared(ledger: Ledger) -> Shared:
    return shared_of(Settings(database_url=ledger.url, kafka_bootstrap="nowhere:9092"), ledger.engine)


@contextmanager
def running(shared: Shared, book: Callable[[], BookedDue]) -> Iterator[Future[None]]:
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(run_clock, shared, book)
        try:
            yield future
        finally:
            shared.stop.set()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sample(shared: Shared, name: str) -> float:
    return shared.metrics.registry.get_sample_value(name) or 0.0


def test_what_is_due_is_booked_and_the_relay_is_woken(ledger: Ledger, shared: Shared) -> None:
    with running(shared, lambda: book_due_now(ledger.engine, ledger.catalogues, ledger.stages())):
        assert shared.wake.wait(SECONDS_MAX)
        wait_until(lambda: sample(shared, "ledger_clock_transitions_total") == 1)

    assert ledger.rows("SELECT type FROM event ORDER BY recorded_at") == [("PurchaseCompleted",), ("TransitionsDue",)]
    assert sample(shared, "ledger_clock_behind_seconds") == 0
    assert shared.health.why_dead() == []


def test_how_far_it_is_behind_is_measured(shared: Shared) -> None:
    with running(shared, lambda: BookedDue(behind_seconds=90_000)):
        wait_until(lambda: sample(shared, "ledger_clock_behind_seconds") == 90_000)


def test_an_outage_is_waited_out(ledger: Ledger, shared: Shared) -> None:
    left = [OperationalError("look", None, AdminShutdown())] * 2

    def book() -> BookedDue:
        if left:
            raise left.pop()
        return book_due_now(ledger.engine, ledger.catalogues, ledger.stages())

    with running(shared, book):
        wait_until(lambda: sample(shared, "ledger_clock_transitions_total") == 1)

    assert left == []


def test_a_bug_ends_the_loop(shared: Shared) -> None:
    def book() -> BookedDue:
        raise ProgrammingError("look", None, UndefinedTable())

    with running(shared, book) as ended, pytest.raises(ProgrammingError):
        ended.result(SECONDS_MAX)
