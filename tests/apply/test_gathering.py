"""Many threads ask one at a time: they are answered together, in their order, once, and never one unit too many."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from time import monotonic, sleep

import pytest
from sqlalchemy import Connection, Engine, text

from ledger_worker.apply.gathering import Gatherer
from ledger_worker.domain.requests import Answer, Item, Request
from ledger_worker.errors import BrokenInvariantError, OverloadedError, UnansweredError, UnavailableError
from ledger_worker.metrics import CollectorRegistry, Metrics
from ledger_worker.store.database import engine
from tests.apply.ledger import Ledger, unproven
from tests.domain.telling import bought, catalogue, day, gives, line, offer, order_transferred, quota, told

SECONDS_MAX = 60.0
"""For what happens soon: reached only when something is wrong."""
KEYS = count(1)
CUSTOMERS = ("ada", "bob", "eve", "dan")
THREADS = 24
WAITS = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'ShareLock')")
DROP_THE_OTHERS = text("""
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname = current_database()
""")


class Asking:
    """A gatherer, threads that ask it, and its metrics."""

    def __init__(self, gatherer: Gatherer, metrics: Metrics, threads: ThreadPoolExecutor) -> None:
        self.gatherer = gatherer
        self._metrics = metrics
        self._threads = threads

    def ask(self, one: Request, timeout_seconds: float = SECONDS_MAX) -> Future[Answer]:
        """Asked by a thread of its own, once all that were asked before wait."""
        before = self._asked
        found = self._threads.submit(self.gatherer.ask, one, timeout_seconds)
        until(lambda: self._asked > before)
        return found

    def metric(self, name: str) -> float:
        value = self._metrics.registry.get_sample_value(f"ledger_{name}")
        assert value is not None
        return value

    @property
    def _asked(self) -> float:
        # In this order: what is answered between the two is counted once or not at all, never twice.
        return self.metric("request_batch_requests_sum") + self.gatherer.unanswered


def until(is_so: Callable[[], bool]) -> None:
    """It is so, soon."""
    give_up_at = monotonic() + SECONDS_MAX
    while not is_so():
        assert monotonic() < give_up_at
        sleep(0.002)


@pytest.fixture
def sold(ledger: Ledger) -> Ledger:
    """Each of four customers has bought a hundred of api."""
    ledger.publish(catalogue(quota(), offer("pack", gives(10, lasts="forever"))))
    events = [told(f"b-{one}", day(1), bought(line(quantity=10), order=one), customer=one) for one in CUSTOMERS]
    ledger.tell(*((event, day(1)) for event in events))
    return ledger


@contextmanager
def gathering(
    ledger: Engine, *, connections: int = 3, batch_requests_max: int = 500, unanswered_max: int = 2_000
) -> Iterator[Asking]:
    metrics = Metrics(CollectorRegistry())
    own = Gatherer(
        ledger,
        metrics,
        connections=connections,
        batch_requests_max=batch_requests_max,
        unanswered_max=unanswered_max,
    )
    with ThreadPoolExecutor(THREADS) as threads, own:
        yield Asking(own, metrics, threads)


@contextmanager
def holding(ledger: Ledger, *customers: str) -> Iterator[Connection]:
    """Somebody else holds these customers."""
    statement = text("SELECT FROM customer WHERE customer_id = ANY(:ids) ORDER BY customer_id FOR UPDATE")
    with ledger.engine.connect() as connection, connection.begin():
        connection.execute(statement, {"ids": list(customers)})
        yield connection


def request(customer: str = "ada", units: int = 1, *, key: str | None = None) -> Request:
    items = (Item(entitlement="api", units=units),)
    return Request(caller="shop", key=key or f"k{next(KEYS)}", customer_id=customer, items=items)


def remaining(found: Sequence[Future[Answer]]) -> list[int | None]:
    decisions = [one.result(SECONDS_MAX).items[0].decision for one in found]
    return [None if decision is None else decision.remaining for decision in decisions]


def used(ledger: Ledger) -> dict[str, int]:
    return dict(ledger.rows("SELECT customer_id, usage FROM account WHERE usage > 0"))


def test_requests_that_wait_together_are_one_transaction_in_their_order(sold: Ledger) -> None:
    with gathering(sold.engine, connections=2) as asking:
        with holding(sold, "ada"):
            found = [asking.ask(request()) for _ in range(THREADS)]

        assert remaining(found) == list(range(99, 99 - THREADS, -1))
        assert asking.metric("request_batch_requests_count") in {1, 2}
        assert asking.metric("request_batch_requests_sum") == THREADS
        assert asking.metric("requests_unanswered") == 0
    assert unproven(sold) == []


def test_no_transaction_has_more_requests_than_stated(sold: Ledger) -> None:
    with gathering(sold.engine, connections=2, batch_requests_max=5) as asking:
        with holding(sold, "ada"):
            found = [asking.ask(request()) for _ in range(20)]

        assert remaining(found) == list(range(99, 79, -1))
        assert asking.metric("request_batch_requests_count") >= 4


@pytest.mark.parametrize("connections", [2, 3])
def test_customers_whom_somebody_holds_keep_back_nobody_else(sold: Ledger, connections: int) -> None:
    with gathering(sold.engine, connections=connections) as asking:
        with holding(sold, "ada", "bob", "eve"):
            held = [asking.ask(request(customer)) for customer in ("ada", "bob", "eve") * 2]
            until(lambda: asking.metric("requests_set_aside_total") >= 2)
            free = [asking.ask(request("dan")) for _ in range(10)]

            assert remaining(free) == list(range(99, 89, -1))
            assert [one.done() for one in held] == [False] * 6

        assert all(one.result(SECONDS_MAX).is_granted for one in held)
    assert used(sold) == {"ada": 2, "bob": 2, "eve": 2, "dan": 10}
    assert unproven(sold) == []


def test_a_customer_is_held_with_whom_it_is_tied_to(sold: Ledger) -> None:
    sold.tell((told("t", day(2), order_transferred("bob", order="ada"), customer="ada"), day(2)))

    with gathering(sold.engine, connections=2) as asking:
        with holding(sold, "ada"):
            tied, free = asking.ask(request("bob")), asking.ask(request("dan"))

            assert free.result(SECONDS_MAX).is_granted
            assert not tied.done()

        assert tied.result(SECONDS_MAX).is_granted


def test_beyond_the_bound_a_request_is_turned_away_and_nothing_is_done(sold: Ledger) -> None:
    with gathering(sold.engine, unanswered_max=3) as asking:
        with holding(sold, "ada"):
            found = [asking.ask(request()) for _ in range(3)]

            with pytest.raises(OverloadedError, match="3 wait for an answer already, nothing was done"):
                asking.gatherer.ask(request("dan", key="too-many"), SECONDS_MAX)

        assert [one.result(SECONDS_MAX).is_granted for one in found] == [True] * 3
        assert asking.gatherer.ask(request("dan", key="too-many"), SECONDS_MAX).is_granted
        assert asking.metric("requests_overloaded_total") == 1


def test_who_gives_up_waiting_withdraws_and_can_ask_again(sold: Ledger) -> None:
    asked = request(units=7)
    with gathering(sold.engine, connections=2) as asking:
        with holding(sold, "ada"):
            first = asking.ask(request())
            until(lambda: asking.metric("requests_set_aside_total") == 1)
            with pytest.raises(UnansweredError, match=r"not answered within 0\.01 s, ask again under the same key"):
                asking.gatherer.ask(asked, 0.01)
            assert asking.gatherer.unanswered == 1
        first.result(SECONDS_MAX)
        assert used(sold) == {"ada": 1}

        assert asking.gatherer.ask(asked, SECONDS_MAX).is_granted
    assert used(sold) == {"ada": 8}


def test_what_was_taken_when_its_caller_gave_up_is_answered_and_kept_under_its_key(sold: Ledger) -> None:
    asked = request(units=7)
    with gathering(sold.engine, connections=2) as asking:
        with holding(sold, "ada"), pytest.raises(UnansweredError):
            asking.gatherer.ask(asked, 0.3)
        kept = asking.gatherer.ask(asked, SECONDS_MAX)

    assert kept.is_granted
    assert used(sold) == {"ada": 7}
    assert sold.rows("SELECT count(*) FROM idempotency") == [(1,)]


def test_one_request_asked_by_many_at_once_is_granted_once(sold: Ledger) -> None:
    asked = request(units=7)
    with gathering(sold.engine) as asking:
        found = [asking.ask(asked) for _ in range(THREADS)]

        assert len({one.result(SECONDS_MAX).recorded_at for one in found}) == 1
    assert used(sold) == {"ada": 7}


def test_closed_it_finishes_what_was_taken_and_refuses_the_rest(sold: Ledger) -> None:
    with gathering(sold.engine, connections=2, batch_requests_max=1) as asking, ThreadPoolExecutor(1) as beside:
        with holding(sold, "ada"):
            taken = asking.ask(request())
            until(lambda: asking.metric("requests_set_aside_total") == 1)
            waits = asking.ask(request())
            closing = beside.submit(asking.gatherer.close)
            with pytest.raises(UnavailableError, match="nothing was done, ask another process"):
                waits.result(SECONDS_MAX)
            assert not closing.done()
        closing.result(SECONDS_MAX)

        assert taken.result(SECONDS_MAX).is_granted
        with pytest.raises(UnavailableError, match="nothing was done"):
            asking.gatherer.ask(request(), SECONDS_MAX)
    assert used(sold) == {"ada": 1}


def test_a_lock_that_is_not_had_in_time_is_told_to_each_who_waits_for_it(database_url: str, sold: Ledger) -> None:
    impatient = engine(database_url, lock_timeout_seconds=0.2)
    with gathering(impatient, connections=2) as asking:
        with holding(sold, "ada"):
            found = [asking.ask(request()) for _ in range(3)]
            for one in found:
                with pytest.raises(UnansweredError, match="lock timeout; ask again under the same key"):
                    one.result(SECONDS_MAX)

        assert asking.gatherer.ask(request(), SECONDS_MAX).is_granted
    impatient.dispose()
    assert used(sold) == {"ada": 1}


def test_when_the_database_drops_the_sessions_who_waits_is_told_and_later_ones_are_answered(sold: Ledger) -> None:
    with gathering(sold.engine, connections=3) as asking:
        with holding(sold, "bob", "eve"):
            asked = [asking.ask(request(customer)) for customer in ("bob", "eve", "dan")]
        assert [one.result(SECONDS_MAX).is_granted for one in asked] == [True] * 3
        set_aside = asking.metric("requests_set_aside_total")
        with holding(sold, "ada") as connection:
            found = [asking.ask(request()) for _ in range(3)]
            until(lambda: asking.metric("requests_set_aside_total") > set_aside)
            until(lambda: bool(connection.execute(WAITS).scalar_one()))
            connection.execute(text("RESET ROLE"))
            connection.execute(DROP_THE_OTHERS)

            for one in found:
                with pytest.raises(UnansweredError, match="ask again under the same key"):
                    one.result(SECONDS_MAX)

        later = [asking.ask(request(customer)) for customer in CUSTOMERS]
        assert [one.result(SECONDS_MAX).is_granted for one in later] == [True] * 4
    assert used(sold) == {"ada": 1, "bob": 2, "eve": 2, "dan": 2}


def test_whose_books_would_break_is_told_and_the_others_are_answered(sold: Ledger) -> None:
    with sold.engine.begin() as connection:
        connection.execute(text("UPDATE customer SET posting_number = 0 WHERE customer_id = 'bob'"))
    with gathering(sold.engine, connections=2) as asking:
        with holding(sold, *CUSTOMERS):
            found = {customer: asking.ask(request(customer)) for customer in CUSTOMERS}

        with pytest.raises(BrokenInvariantError, match="posting"):
            found.pop("bob").result(SECONDS_MAX)
        assert all(one.result(SECONDS_MAX).is_granted for one in found.values())
    assert used(sold) == {"ada": 1, "eve": 1, "dan": 1}


@pytest.mark.parametrize("limit", [100])
def test_threads_get_the_limit_to_the_last_unit(sold: Ledger, limit: int) -> None:
    def run(own: Gatherer, worker: int) -> int:
        granted = 0
        for number in range(20):
            answer = own.ask(request(units=1 + (worker + number) % 2), SECONDS_MAX)
            granted += sum(item.granted for item in answer.items)
        return granted

    with gathering(sold.engine) as asking, ThreadPoolExecutor(8) as threads:
        granted = sum(threads.map(lambda worker: run(asking.gatherer, worker), range(8)))

    assert granted == limit
    assert unproven(sold) == []
