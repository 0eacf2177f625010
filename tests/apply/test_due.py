"""What falls due is booked by the clock: at its instant, once and in order, whoever and however many look for it."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise

import psycopg
import pytest
from msgspec.structs import replace

from ledger_worker.apply.due import BookedDue, book_due_now
from ledger_worker.domain.changes import Change
from ledger_worker.domain.events import Event, Fact
from ledger_worker.metrics import Stage
from ledger_worker.wire.decode import decode_change
from tests.apply.ledger import Ledger, changes_in, unproven
from tests.domain.telling import (
    activated,
    bought,
    cancellation_scheduled,
    catalogue,
    day,
    gives,
    line,
    offer,
    order_transferred,
    paused,
    quota,
    told,
    transferred,
    used,
)

PLANS = catalogue(
    quota(),
    offer("plan", gives(10, rollover_units=5)),
    offer("pack", gives(5, lasts="P3D")),
)
NOTHING = BookedDue()
CLOCK_CUSTOMERS = 7
CLOCK = f"""
import sys
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.due import book_due_now
from ledger_worker.metrics import CollectorRegistry, Crash, Metrics, Stages
from ledger_worker.store.database import engine

ledger, catalogues = engine(sys.argv[1]), Catalogues()
stages = Stages(Metrics(CollectorRegistry()), Crash.parse(sys.argv[2]))
while book_due_now(ledger, catalogues, stages, customers_max={CLOCK_CUSTOMERS}).customers:
    pass
"""
"""A process that books what is due, some customers at a time."""
OWNERS = [f"customer-{number:02}" for number in range(40)]


def look(ledger: Ledger, customers_max: int = 200) -> BookedDue:
    return book_due_now(ledger.engine, ledger.catalogues, ledger.stages(), customers_max=customers_max)


def look_until_nothing(ledger: Ledger, customers_max: int = 200) -> list[BookedDue]:
    found = []
    while (booked := look(ledger, customers_max)).customers:
        found.append(booked)
    return found


def changes_of(ledger: Ledger, customer_id: str) -> list[Change]:
    return [one for one in changes_in(ledger.dump(), decode_change) if one.customer_id == customer_id]


def life(customer_id: str) -> list[tuple[Event, datetime]]:
    """All told by day 5: two periods of which the second ends at day 31, a pack that ends at day 7, a pause."""
    facts: dict[int, Fact] = {
        1: activated(day(1), day(4), subscription=customer_id),
        2: used(3),
        3: activated(day(4), day(31), subscription=customer_id),
        4: bought(order=customer_id),
        5: paused(day(10), subscription=customer_id),
    }
    return [
        (told(f"e{number}", day(number), fact, customer=customer_id), day(number)) for number, fact in facts.items()
    ]


def test_what_is_due_is_told_though_nobody_touches_its_customer(ledger: Ledger) -> None:
    ledger.publish(PLANS)
    ledger.tell((told("b", day(4), bought()), day(4)))

    booked = look(ledger)

    assert (booked.customers, booked.transitions, booked.changes) == (1, 1, 1)
    assert booked.behind_seconds > 86_400

    (last,) = changes_of(ledger, "ada")[1:]
    assert (last.after.state, last.after.allowed, last.after.expires_at) == ("expired", False, None)
    assert last.cause.type == "TransitionsDue"
    assert last.effective_at == day(7)
    assert look(ledger) == NOTHING
    assert unproven(ledger) == []


def test_nothing_is_booked_before_its_instant(ledger: Ledger) -> None:
    ledger.publish(PLANS)
    (now,) = ledger.rows("SELECT clock_timestamp()")[0]
    ledger.tell_now(told("b", now, bought()))

    assert look(ledger) == NOTHING
    assert len(changes_of(ledger, "ada")) == 1


def test_with_a_clock_the_same_is_told_as_without(ledger: Ledger, other_ledger: Ledger) -> None:
    """Without one, what was due is booked by the next event; recorded at another time, as it has to be."""
    for each in (ledger, other_ledger):
        each.publish(PLANS)
        each.tell(*life("ada"))

    look_until_nothing(ledger)
    for each in (ledger, other_ledger):
        each.tell_now(told("last", day(40), used(1)))

    with_clock, without = (
        [(one.sequence, one.kinds, one.effective_at, one.before, one.after) for one in changes_of(each, "ada")]
        for each in (ledger, other_ledger)
    )
    assert len(with_clock) > len(life("ada"))
    assert with_clock == without


@pytest.mark.parametrize("customers_max", [1, 7, 200])
def test_any_number_of_clocks_book_everything_once(ledger: Ledger, customers_max: int) -> None:
    ledger.publish(PLANS)
    ledger.tell(*(one for owner in OWNERS for one in life(owner)))
    told_before = len(changes_of(ledger, OWNERS[0]))

    def run(_: int) -> list[BookedDue]:
        return look_until_nothing(ledger, customers_max)

    with ThreadPoolExecutor(4) as clocks:
        found = [one for each in clocks.map(run, range(4)) for one in each]
    found += look_until_nothing(ledger, customers_max)

    assert max(one.customers for one in found) <= customers_max
    assert sum(one.transitions for one in found) == 2 * len(OWNERS)
    for owner in OWNERS:
        changes = changes_of(ledger, owner)
        assert len(changes) == told_before + 2
        assert all(later.sequence == earlier.sequence + 1 for earlier, later in pairwise(changes))
    assert unproven(ledger) == []


@pytest.mark.parametrize("stage", [Stage.DUE_LOCKED, Stage.DUE_WRITTEN, Stage.DUE_COMMITTED])
def test_a_clock_that_is_killed_anywhere_books_nothing_by_halves(
    ledger: Ledger, database_url: str, stage: Stage
) -> None:
    ledger.publish(PLANS)
    ledger.tell(*(one for owner in OWNERS for one in life(owner)))
    told_before = len(changes_of(ledger, OWNERS[0]))

    killed = subprocess.run([sys.executable, "-c", CLOCK, database_url, f"{stage}:2"], check=False)
    found = look_until_nothing(ledger)

    assert killed.returncode == -signal.SIGKILL
    committed = 2 if stage is Stage.DUE_COMMITTED else 1
    assert sum(one.transitions for one in found) == 2 * (len(OWNERS) - committed * CLOCK_CUSTOMERS)
    assert {len(changes_of(ledger, owner)) for owner in OWNERS} == {told_before + 2}
    assert unproven(ledger) == []


def test_whoever_is_held_is_passed_over_and_found_later(ledger: Ledger, database_url: str) -> None:
    ledger.publish(PLANS)
    for owner in ("ada", "bob"):
        ledger.tell((told(f"b-{owner}", day(4), bought(order=owner), customer=owner), day(4)))

    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM customer WHERE customer_id = 'ada' FOR UPDATE")
        while_held = look_until_nothing(ledger)
    afterwards = look_until_nothing(ledger)

    assert [one.customers for one in while_held] == [1]
    assert [one.customers for one in afterwards] == [1]
    assert [changes_of(ledger, owner)[-1].after.state for owner in ("ada", "bob")] == ["expired", "expired"]


def test_customers_who_are_tied_are_booked_together(ledger: Ledger) -> None:
    ledger.publish(PLANS)
    ledger.tell(
        (told("a", day(1), activated(day(1), day(20))), day(1)),
        (told("c", day(2), cancellation_scheduled(day(20))), day(2)),
        (told("t", day(3), transferred("bob")), day(3)),
    )

    assert [one.customers for one in look_until_nothing(ledger)] == [1]

    assert changes_of(ledger, "bob")[-1].after.state == "expired"
    assert unproven(ledger) == []


def test_a_tie_that_is_held_keeps_the_clock_from_nobody(ledger: Ledger, database_url: str) -> None:
    ledger.publish(PLANS)
    for giver, receiver in (("ada", "bob"), ("cid", "dan")):
        ledger.tell(
            (told("a", day(1), activated(day(1), day(20), subscription=giver), customer=giver), day(1)),
            (told("t", day(3), transferred(receiver, subscription=giver), customer=giver), day(3)),
        )
    ledger.tell((told("b", day(4), bought(), customer="zoe"), day(4)))

    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM customer WHERE customer_id = 'ada' FOR UPDATE")
        while_held = look_until_nothing(ledger)
    afterwards = look_until_nothing(ledger)

    assert sum(one.customers for one in while_held) == 2
    assert [changes_of(ledger, owner)[-1].after.state for owner in ("dan", "zoe")] == ["expired", "expired"]
    assert sum(one.customers for one in afterwards) == 1
    assert changes_of(ledger, "bob")[-1].after.state == "expired"


def test_a_transaction_ends_with_so_many_transitions_whoever_is_left(ledger: Ledger) -> None:
    ledger.publish(PLANS)
    for owner in OWNERS[:6]:
        for number in range(100):
            at = day(2, number / 1000)
            ledger.tell((told(f"b{number}", at, bought(order=f"{owner}-{number}"), customer=owner), at))

    found = look_until_nothing(ledger)

    assert [one.transitions for one in found] == [400, 200]
    assert unproven(ledger) == []


def test_more_than_one_transaction_may_book_is_booked_in_several(ledger: Ledger) -> None:
    ledger.publish(PLANS)
    lines = [line(line_id=f"l{number}") for number in range(230)]
    for number, one in enumerate(lines):
        bought_at = day(2, number / 1000)
        ledger.tell((told(f"b{number}", bought_at, bought(one, order=f"o{number}")), bought_at))

    found = look_until_nothing(ledger)

    assert [one.transitions for one in found] == [100, 100, 30]
    assert changes_of(ledger, "ada")[-1].after.state == "expired"
    assert unproven(ledger) == []


def days_from_now(ledger: Ledger, days: float) -> datetime:
    """By the database's clock."""
    (now,) = ledger.rows("SELECT clock_timestamp()")[0]
    found: datetime = now + timedelta(days=days)
    return found


WARNED = catalogue(
    quota(expiring_soon=("P3D",)),
    quota("storage"),
    offer("ten-days", gives(10, lasts="P10D")),
    offer("three-days", gives(5, "storage", lasts="P3D")),
)
WARNED_NO_MORE = catalogue(replace(quota(), version=2), version=2)
"""Of the end of `api` nobody is told beforehand any more."""


def test_warnings_that_are_none_any_more_do_not_stop_the_clock(ledger: Ledger) -> None:
    ledger.publish(WARNED)
    at = days_from_now(ledger, -9)
    owners = [f"customer-{number:03}" for number in range(201)]
    ledger.tell(*((told("b", at, bought(line("ten-days"), order=each), customer=each), at) for each in owners))
    at = days_from_now(ledger, -4)
    ledger.tell((told("b", at, bought(line("three-days"), order="zoe"), customer="zoe"), at))
    ledger.publish(WARNED_NO_MORE)

    found = look_until_nothing(ledger)

    assert [(one.customers, one.transitions, one.changes) for one in found] == [(200, 0, 0), (2, 1, 1)]
    assert changes_of(ledger, "zoe")[-1].after.state == "expired"
    ends = 'SELECT count(*) FROM account JOIN "grant" USING (customer_id) WHERE next_transition_at = expires_at'
    assert ledger.rows(ends) == [(201,)]
    assert look(ledger) == NOTHING
    assert unproven(ledger) == []


def test_warnings_of_tied_customers_that_are_none_any_more_do_not_stop_the_clock(ledger: Ledger) -> None:
    ledger.publish(WARNED)
    at = days_from_now(ledger, -9)
    for number in range(21):
        giver, order = f"giver-{number:02}", f"o{number}"
        ledger.tell((told("b", at, bought(line("ten-days"), order=order), customer=giver), at))
        fact = order_transferred(f"receiver-{number:02}", order=order)
        ledger.tell((told("t", at, fact, customer=giver), at))
    at = days_from_now(ledger, -4)
    ledger.tell((told("b", at, bought(line("three-days"), order="zoe"), customer="zoe"), at))
    ledger.tell((told("t", at, order_transferred("zora", order="zoe"), customer="zoe"), at))
    ledger.publish(WARNED_NO_MORE)

    look_until_nothing(ledger)

    assert changes_of(ledger, "zora")[-1].after.state == "expired"
    assert ledger.rows("SELECT count(*) FROM account WHERE next_transition_at <= clock_timestamp()") == [(0,)]
    assert look(ledger) == NOTHING
    assert unproven(ledger) == []


def test_a_parked_customer_is_left_alone(ledger: Ledger) -> None:
    ledger.publish(PLANS)
    ledger.tell((told("b", day(4), bought()), day(4)))
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE customer SET is_parked = true")

    left = look(ledger)

    assert (left.customers, left.changes) == (0, 0)
    assert left.behind_seconds > 86_400
