"""Two workers on the same customers: nothing is lost, nothing is doubled, nobody waits in a circle."""

from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Barrier, Lock

import pytest
from psycopg import Error as DriverError
from psycopg.errors import DeadlockDetected
from sqlalchemy import event as engine_events
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError

from ledger_worker.apply import ATTEMPTS_MAX, Batch, apply_batch
from ledger_worker.domain.events import Event
from ledger_worker.metrics import CollectorRegistry, Metrics, Stage, Stages
from tests.apply.ledger import Ledger
from tests.domain.telling import bought, catalogue, day, gives, line, offer, quota, refunded, told, used

CUSTOMERS = [f"customer-{number}" for number in range(12)]
BATCHES, BATCHES_LONG = 150, 1_000
"""Of each of two workers; every batch meets the other one's at several customers."""
OFFERED = catalogue(quota(), quota("sms"), offer("pack", gives(5, lasts="forever"), gives(5, "sms", lasts="forever")))


class Deadlocks:
    """Counts what the database refused: the retry hides it, and there should be little to hide."""

    def __init__(self, ledger: Ledger) -> None:
        self.states: list[str] = []
        self._lock = Lock()
        engine_events.listen(ledger.engine, "handle_error", self._note)

    def _note(self, context: ExceptionContext) -> None:
        with self._lock:
            self.states.append(getattr(context.original_exception, "sqlstate", None) or "none")


def batches(worker: int, count: int) -> list[list[Event]]:
    """One unit used by many customers in no order, now and then an order and its refund, which both workers tell."""
    random = Random(worker)
    made = []
    for number in range(count):
        events = [
            told(f"{worker}-{number}-{place}", day(2), used(1, random.choice(["api", "sms"])), customer=customer)
            for place, customer in enumerate(random.choices(CUSTOMERS, k=8))
        ]
        if number % 10 == 0:
            customer = random.choice(CUSTOMERS)
            order = f"{customer}/{number % 40}"
            events.append(told(f"order {order}", day(1), bought(line(line_id="l1"), order=order), customer=customer))
            events.append(told(f"refund {order}", day(3), refunded(order=order), customer=customer))
        random.shuffle(events)
        made.append(events)
    return made


@pytest.mark.parametrize(
    "count", [BATCHES, pytest.param(BATCHES_LONG, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
)
def test_two_workers_on_the_same_customers_lose_nothing_and_never_wait_in_a_circle(ledger: Ledger, count: int) -> None:
    ledger.publish(OFFERED)
    refusals = Deadlocks(ledger)
    work = [batches(worker, count) for worker in range(2)]
    start = Barrier(2)

    def run(own: list[list[Event]]) -> int:
        start.wait()
        return sum(ledger.tell_now(*events).outcomes.get("applied", 0) for events in own)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, work))

    assert refusals.states == []
    expected = sum(1 for own in work for events in own for event in events if hasattr(event.fact, "units"))
    assert ledger.rows("SELECT CAST(sum(usage) AS bigint) FROM account") == [(expected,)]
    assert ledger.rows("SELECT CAST(sum(units) AS bigint) FROM event WHERE counted_at IS NOT NULL") == [(expected,)]
    assert gaps(ledger) == []
    assert unlike_their_entries(ledger) == []


def test_a_customer_whom_both_tell_of_first_is_made_once(ledger: Ledger) -> None:
    """New customers and new sources, each told by both workers at the same moment, in opposite orders."""
    ledger.publish(OFFERED)
    refusals = Deadlocks(ledger)
    start = Barrier(2)

    def run(worker: int) -> None:
        for number in range(60):
            names = [f"new-{number}-{place}" for place in range(5)]
            events = [told(f"{worker} {name}", day(1), used(1), customer=name) for name in names]
            events += [
                told(f"p {name}", day(1), bought(order=f"of {number}/{name[-1]}"), customer=name) for name in names
            ]
            start.wait()
            ledger.tell_now(*(events if worker else reversed(events)))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))

    assert refusals.states == []
    assert ledger.rows("SELECT DISTINCT usage FROM account WHERE entitlement = 'api'") == [(2,)]
    assert ledger.rows("SELECT count(*) FROM source_owner") == [(300,)]
    assert gaps(ledger) == []


def test_of_two_customers_told_at_once_one_owns_the_source(ledger: Ledger) -> None:
    """Both workers tell of the same orders, each of a customer of its own: whoever claims first owns it."""
    ledger.publish(OFFERED)
    refusals = Deadlocks(ledger)
    start = Barrier(2)

    def run(worker: int) -> None:
        for number in range(60):
            orders = [f"{number}/{place}" for place in range(5)]
            start.wait()
            ledger.tell_now(
                *(told(f"p {order}", day(1), bought(order=order), customer=f"worker-{worker}") for order in orders)
            )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))

    assert refusals.states == []
    assert ledger.rows("SELECT count(*), count(DISTINCT source_key) FROM source_owner") == [(300, 300)]
    assert sorted(ledger.rows("SELECT outcome, count(*) FROM event GROUP BY outcome")) == [
        ("applied", 300),
        ("awaiting_transfer", 300),
    ]
    granted = """
        SELECT count(*) FROM "grant" JOIN source_owner USING (source_key, customer_id)
    """
    assert ledger.rows(granted) == [(600,)]
    assert ledger.rows('SELECT count(*) FROM "grant"') == [(600,)]


class _VictimAtFirst(Stages):
    """The first attempts are refused as the database refuses the victim of a deadlock."""

    def __init__(self, attempts: int) -> None:
        super().__init__(Metrics(CollectorRegistry()))
        self.left = attempts

    def reached(self, stage: Stage) -> None:
        if stage is Stage.WRITTEN and self.left:
            self.left -= 1
            raise DBAPIError.instance("", None, DeadlockDetected(), DriverError)


def test_a_victim_of_a_deadlock_is_tried_again_and_applied_once(ledger: Ledger) -> None:
    ledger.publish(OFFERED)
    batch = Batch(deliveries=(ledger.delivery(told("u", day(1), used(1))),))

    applied = apply_batch(ledger.engine, batch, ledger.catalogues, _VictimAtFirst(ATTEMPTS_MAX - 1))

    assert applied.outcomes == {"applied": 1}
    assert ledger.rows("SELECT usage FROM account") == [(1,)]


def test_a_victim_time_after_time_gives_up_with_nothing_done(ledger: Ledger) -> None:
    ledger.publish(OFFERED)
    batch = Batch(deliveries=(ledger.delivery(told("u", day(1), used(1))),))

    with pytest.raises(OperationalError):
        apply_batch(ledger.engine, batch, ledger.catalogues, _VictimAtFirst(ATTEMPTS_MAX))

    assert ledger.rows("SELECT count(*) FROM event") == [(0,)]


def gaps(ledger: Ledger) -> list[tuple[object, ...]]:
    """Customers whose postings or changes are not numbered 1, 2, 3 up to where their head stands."""
    return ledger.rows("""
        WITH chain AS (
            SELECT customer_id, count(*) AS links, max(number) AS last FROM posting GROUP BY customer_id
        ), told AS (
            SELECT customer_id, count(*) AS changes, max(sequence) AS last
            FROM outbox
            WHERE lane >= 0
            GROUP BY customer_id
        )
        SELECT customer_id
        FROM customer
        LEFT JOIN chain USING (customer_id)
        LEFT JOIN told USING (customer_id)
        WHERE posting_number <> coalesce(chain.links, 0)
           OR posting_number <> coalesce(chain.last, 0)
           OR sequence <> coalesce(told.changes, 0)
           OR sequence <> coalesce(told.last, 0)
    """)


def unlike_their_entries(ledger: Ledger) -> list[tuple[object, ...]]:
    """Accounts whose usage is not the sum of their burnt and uncovered units."""
    return ledger.rows("""
        SELECT account.customer_id, account.entitlement
        FROM account
        JOIN (
            SELECT customer_id, entitlement, sum(units) AS units
            FROM entry
            WHERE kind IN ('burn', 'overage')
            GROUP BY customer_id, entitlement
        ) AS counted USING (customer_id, entitlement)
        WHERE account.usage <> counted.units
    """)
