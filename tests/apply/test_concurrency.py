"""Two workers on the same customers: nothing is lost, nothing is doubled, nobody waits in a circle."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from threading import Barrier, Lock

import psycopg
import pytest
from psycopg import Error as DriverError
from psycopg.errors import DeadlockDetected
from sqlalchemy import event as engine_events
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError

from ledger_worker.apply.batch import Applied, Batch
from ledger_worker.apply.transaction import ATTEMPTS_MAX, apply_batch
from ledger_worker.domain.events import Event
from ledger_worker.metrics import CollectorRegistry, Metrics, Stage, Stages
from tests.apply.ledger import Ledger, unproven
from tests.domain.telling import (
    bought,
    catalogue,
    day,
    gives,
    line,
    merged,
    offer,
    order_transferred,
    quota,
    refunded,
    told,
    used,
)

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


# -- customers who are tied to each other


FAMILIES = [[f"{family}-{number}" for number in range(3)] for family in ("one", "two", "three")]
"""Orders go from hand to hand within a family, so that all of it is tied."""


def family_batches(worker: int, count: int) -> list[list[Event]]:
    """Units used by members of several families, and orders that are bought, given on and refunded within them."""
    random = Random(f"families of {worker}")
    made = []
    for number in range(count):
        events = []
        for place, family in enumerate(random.choices(FAMILIES, k=4)):
            customer, other = random.sample(family, 2)
            name = f"{worker}-{number}-{place}"
            events.append(told(f"u {name}", day(random.randint(2, 9)), used(1), customer=customer))
            order = f"{family[0]}/{number // 4}"
            match random.randint(0, 5):
                case 0 | 1:
                    events.append(told(f"p {name}", day(1), bought(line(line_id="l1"), order=order), customer=customer))
                case 2 | 3:
                    gift = order_transferred(other, f"t {name}", order=order)
                    events.append(told(f"t {name}", day(random.randint(2, 9)), gift, customer=customer))
                case 4:
                    events.append(told(f"r {name}", day(10), refunded(f"r {name}", order=order), customer=customer))
                case _:
                    pass
        made.append(events)
    return made


def test_two_workers_on_customers_who_are_tied_lose_nothing_and_never_wait_in_a_circle(ledger: Ledger) -> None:
    ledger.publish(OFFERED)
    refusals = Deadlocks(ledger)
    work = [family_batches(worker, BATCHES // 3) for worker in range(2)]
    start = Barrier(2)

    def run(own: list[list[Event]]) -> None:
        start.wait()
        for events in own:
            ledger.tell_now(*events)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, work))

    assert refusals.states == []
    expected = sum(1 for own in work for events in own for event in events if hasattr(event.fact, "units"))
    assert ledger.rows("SELECT CAST(sum(usage) AS bigint) FROM account") == [(expected,)]
    assert gaps(ledger) == []
    assert unlike_their_entries(ledger) == []
    assert ledger.rows("SELECT count(*) > 10 FROM posting WHERE told_to IS NOT NULL") == [(True,)]
    assert unproven(ledger) == []


def test_a_receiver_whom_both_tell_of_first_is_made_once(ledger: Ledger) -> None:
    """One worker gives orders to customers that nobody was told of, the other tells of these customers themselves."""
    ledger.publish(OFFERED)
    ledger.tell_now(*(told("p", day(1), bought(order=str(number)), customer=f"giver-{number}") for number in range(40)))
    refusals = Deadlocks(ledger)
    start = Barrier(2)

    def give(number: int) -> Event:
        gift = order_transferred(f"new-{number}", order=str(number))
        return told("t", day(3), gift, customer=f"giver-{number}")

    def use(number: int) -> Event:
        return told(f"u {number}", day(4), used(1), customer=f"new-{number}")

    def run(event_of: Callable[[int], Event]) -> None:
        for number in range(40):
            start.wait()
            ledger.tell_now(event_of(number))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (give, use)))

    assert refusals.states == []
    assert ledger.rows("""
        SELECT granted, used, count(*) FROM "grant"
        WHERE customer_id LIKE 'new-%' AND entitlement = 'api' GROUP BY granted, used
    """) == [(5, 1, 40)]
    assert ledger.rows("SELECT cardinality(linked), count(*) FROM customer GROUP BY 1") == [(1, 80)]
    assert gaps(ledger) == []
    assert unproven(ledger) == []


class _HeldBeforeCommit(Stages):
    """Before the commit another transaction is begun, and comes to wait for this one."""

    def __init__(self, ledger: Ledger, begin: Callable[[], Future[Applied]]) -> None:
        super().__init__(Metrics(CollectorRegistry()))
        self._ledger = ledger
        self._begin = begin
        self.other: Future[Applied] | None = None

    def reached(self, stage: Stage) -> None:
        if stage is Stage.WRITTEN:
            self.other = self._begin()
            with psycopg.connect(self._ledger.url, autocommit=True) as session:
                while not session.execute(_WAITS).fetchall():
                    assert not self.other.done(), "it did not wait"


_WAITS = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


class _Counted(Stages):
    """How often the locks were taken."""

    def __init__(self) -> None:
        super().__init__(Metrics(CollectorRegistry()))
        self.attempts = 0

    def reached(self, stage: Stage) -> None:
        self.attempts += stage is Stage.LOCKED


def told_while_waiting(ledger: Ledger, first: Event, second: Event) -> tuple[Applied, int]:
    """The second event is told while the first is about to be committed; what came of it, and of how many attempts."""
    counted = _Counted()
    with ThreadPoolExecutor(1) as pool:
        batches_of = [Batch(deliveries=(ledger.delivery(each),)) for each in (first, second)]
        held = _HeldBeforeCommit(
            ledger, lambda: pool.submit(apply_batch, ledger.engine, batches_of[1], ledger.catalogues, counted)
        )
        apply_batch(ledger.engine, batches_of[0], ledger.catalogues, held)
        assert held.other is not None
        return held.other.result(), counted.attempts


def test_a_tie_made_while_the_locks_are_waited_for_is_locked_too(ledger: Ledger) -> None:
    """The usage is of the day before the transfer, which is not there yet when it begins: four units less move on."""
    ledger.publish(OFFERED)
    ledger.tell_now(told("p", day(1), bought()))
    refusals = Deadlocks(ledger)

    applied, attempts = told_while_waiting(
        ledger, told("t", day(3), order_transferred("bob")), told("u", day(2), used(4), customer="ada")
    )

    assert (applied.outcomes, attempts, refusals.states) == ({"applied": 1}, 2, [])
    assert ledger.rows("""
        SELECT customer_id, granted, used, moved, available FROM "grant" WHERE entitlement = 'api' ORDER BY customer_id
    """) == [("ada", 5, 4, 1, 0), ("bob", 1, 0, 0, 1)]
    assert gaps(ledger) == []
    assert unproven(ledger) == []


def test_the_keeper_of_a_source_that_was_claimed_meanwhile_is_locked_too(ledger: Ledger) -> None:
    ledger.publish(OFFERED)
    refusals = Deadlocks(ledger)

    applied, attempts = told_while_waiting(
        ledger, told("p", day(1), bought()), told("r", day(2), refunded(), customer="bob")
    )

    assert (applied.outcomes, attempts, refusals.states) == ({"awaiting_transfer": 1}, 2, [])
    assert ledger.rows("SELECT source_key, customer_id FROM source_owner") == [("order/o1", "ada")]
    assert ledger.rows('SELECT DISTINCT customer_id, revoked FROM "grant"') == [("ada", 0)]


# -- customers who are merged


def test_a_merge_made_while_the_locks_are_waited_for_sends_the_usage_to_whom_it_goes_on_as(ledger: Ledger) -> None:
    """Nobody had tied the two when the usage was begun to be told."""
    ledger.publish(OFFERED)
    ledger.tell_now(told("p", day(1), bought(), customer="bob"))
    refusals = Deadlocks(ledger)

    applied, attempts = told_while_waiting(ledger, told("m", day(3), merged()), told("u", day(4), used(4)))

    assert (applied.outcomes, attempts, refusals.states) == ({"applied": 1}, 2, [])
    assert ledger.rows("SELECT customer_id, usage, used_total FROM account WHERE usage > 0") == [("bob", 4, 4)]
    assert gaps(ledger) == []
    assert unproven(ledger) == []


def test_an_event_told_under_both_ids_while_they_are_merged_is_counted_once(ledger: Ledger) -> None:
    """The event waits for the merge, which does not name it: the inbox of the other id has it already."""
    ledger.publish(OFFERED)
    ledger.tell_now(told("u", day(2), used(4)))
    refusals = Deadlocks(ledger)

    applied, attempts = told_while_waiting(
        ledger, told("m", day(3), merged()), told("u", day(2), used(4), customer="bob")
    )

    assert (applied.outcomes, attempts, refusals.states) == ({"duplicate": 1}, 2, [])
    assert ledger.rows("SELECT customer_id, usage FROM account ORDER BY customer_id") == [("ada", 0), ("bob", 4)]
    assert unproven(ledger) == []


@pytest.mark.parametrize(
    ("second", "becomes"),
    [
        (told("back", day(4), merged("ada", "m2"), customer="bob"), ({}, {"circular_merge": 1})),
        (told("again", day(4), merged("bob", "m2")), ({"already_merged": 1}, {})),
        (told("further", day(4), merged("cyd", "m2"), customer="bob"), ({"applied": 1}, {})),
        (told("elsewhere", day(4), merged("cyd", "m2")), ({"contradicted": 1}, {})),
    ],
    ids=["back", "again", "further", "elsewhere"],
)
def test_of_two_merges_told_at_once_the_second_sees_the_first(
    ledger: Ledger, second: Event, becomes: tuple[dict[str, int], dict[str, int]]
) -> None:
    ledger.publish(OFFERED)
    ledger.tell_now(told("p", day(1), bought()), told("u", day(2), used(2)))
    refusals = Deadlocks(ledger)

    applied, _ = told_while_waiting(ledger, told("m", day(3), merged()), second)

    assert ((applied.outcomes, applied.dead_letters), refusals.states) == (becomes, [])
    last = "cyd" if second.event_id == "further" else "bob"
    assert ledger.rows("""
        SELECT customer_id, available FROM "grant" WHERE entitlement = 'api' AND phase = 'active'
    """) == [(last, 3)]
    assert gaps(ledger) == []
    assert unproven(ledger) == []


def test_two_workers_who_merge_and_use_lose_nothing_and_never_wait_in_a_circle(ledger: Ledger) -> None:
    """One merges pairs that the other tells of, in the opposite order; each pair is one person in the end."""
    ledger.publish(OFFERED)
    count = 40
    ledger.tell_now(*(told("p", day(1), bought(order=f"o{n}"), customer=f"old-{n}") for n in range(count)))
    refusals = Deadlocks(ledger)
    start = Barrier(2)

    def merge(number: int) -> list[Event]:
        of_both = [told(f"{age} {number}", day(2), used(1), customer=f"{age}-{number}") for age in ("old", "new")]
        return [*of_both, told("m", day(3), merged(f"new-{number}", f"m{number}"), customer=f"old-{number}")]

    def use(number: int) -> list[Event]:
        return [
            told(f"b {number}", day(2), used(1), customer=f"old-{number}"),
            told(f"c {number}", day(4), used(1), customer=f"old-{number}"),
            told(f"d {number}", day(4), used(1), customer=f"new-{number}"),
        ]

    def run(events_of: Callable[[int], list[Event]]) -> None:
        for number in range(0, count, 2):
            start.wait()
            ledger.tell_now(*events_of(number), *events_of(number + 1))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (merge, use)))

    assert refusals.states == []
    told_of = ledger.rows("SELECT CAST(sum(units) AS bigint) FROM event WHERE counted_at IS NOT NULL")
    assert ledger.rows("SELECT CAST(sum(usage) AS bigint) FROM account") == told_of
    assert ledger.rows("SELECT count(*) FROM customer WHERE alias_of IS NOT NULL") == [(count,)]
    assert gaps(ledger) == []
    assert unproven(ledger) == []


# -- victims


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
