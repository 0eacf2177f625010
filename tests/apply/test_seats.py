"""Seats on PostgreSQL: one seat is never two people's, whoever asks and however many at once, and verify agrees."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import count
from random import Random

import msgspec
import pytest

from ledger_worker.apply.due import book_due_apart
from ledger_worker.apply.gathering import Gatherer
from ledger_worker.apply.requests import answer_requests
from ledger_worker.domain.catalogue import OnShrink
from ledger_worker.domain.requests import Answer, Asked
from ledger_worker.metrics import CollectorRegistry, Metrics
from ledger_worker.reports.past import show_past
from ledger_worker.store.accounts import carried_of
from ledger_worker.wire.decode import decode_change
from tests.apply.ledger import Ledger, changes_in, unproven
from tests.domain import test_seats as domain
from tests.domain.driver import World
from tests.domain.histories import history_of, world_of
from tests.domain.telling import (
    bought,
    catalogue,
    day,
    gives,
    line,
    merged,
    offer,
    quota,
    refunded,
    seat,
    seats,
    swap,
    told,
    unseat,
)

KEYS = count(1)
OFFERED = catalogue(
    quota(),
    seats(),
    seats("room", on_shrink=OnShrink.REVOKE_NEWEST),
    offer("pack", gives(3, "desk", lasts="forever"), gives(3, "room", lasts="forever")),
    offer("short", gives(2, "room", lasts="P1D")),
)


@pytest.fixture
def sold(ledger: Ledger) -> Ledger:
    """Ada has bought three desks, and three rooms of which the newest go first."""
    ledger.publish(OFFERED)
    ledger.tell((told("b", day(1), bought()), day(1)))
    return ledger


def ask(ledger: Ledger, *asked: Asked) -> tuple[Answer, ...]:
    return answer_requests(ledger.engine, asked, ledger.catalogues, ledger.stages())


def assign(name: str, entitlement: str = "desk", key: str | None = None, customer: str = "ada") -> Asked:
    return seat(name, key or f"k{next(KEYS)}", entitlement=entitlement, customer=customer)


def holders(ledger: Ledger, entitlement: str = "desk", customer: str = "ada") -> list[str]:
    """Who holds a seat by what is stored."""
    ((carried,),) = ledger.rows(
        "SELECT carried FROM account WHERE customer_id = :customer AND entitlement = :entitlement",
        customer=customer,
        entitlement=entitlement,
    )
    return [one.name for one in carried_of(carried).holders]


def test_seats_are_given_to_the_last_and_counted_where_a_check_reads(sold: Ledger) -> None:
    answers = ask(sold, *(assign(name) for name in "abcd"), swap("a", "e", "s"), unseat("b", "u"), assign("d"))

    assert [answer.reason for answer in answers] == [None, None, None, "exhausted", None, None, None]
    assert holders(sold) == ["e", "c", "d"]
    assert sold.rows("SELECT allowance, used, held, level FROM account WHERE entitlement = 'desk'") == [(3, 3, 0, 100)]
    assert unproven(sold) == []


def test_what_was_decided_is_in_the_inbox_under_an_id_of_its_own(sold: Ledger) -> None:
    (answer,) = ask(sold, assign("ann", key="k"))

    rows = sold.rows(
        "SELECT event_source, event_id, type, entitlement, units, counted_at, outcome FROM event ORDER BY recorded_at"
    )
    assert rows[-1] == ("request/team", "seat!desk@k", "SeatAssigned", "desk", None, answer.recorded_at, "applied")
    change = changes_in(sold.dump(), decode_change)[-1]
    assert (change.kinds, change.after.holders, change.cause.type) == (("holders",), ("ann",), "SeatAssigned")


def test_it_is_answered_once_under_its_key(sold: Ledger) -> None:
    first = ask(sold, assign("ann", key="k"), *(assign(name) for name in "bc"), assign("d", key="late"))
    ask(sold, unseat("ann", "u"))

    again = ask(sold, assign("ann", key="k"), assign("d", key="late"), assign("e", key="k"))

    assert (again[0], again[1], again[2].reason) == (first[0], first[3], "key_reused")
    assert holders(sold) == ["b", "c"]
    assert unproven(sold) == []


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (assign(""), "impossible_value"),
        (assign("a\x00"), "impossible_value"),
        (assign("\ud800"), "impossible_value"),
        (swap("ann", "ann", "k"), "impossible_value"),
        (assign("ann", customer="nobody"), "not_entitled"),
        (assign("ann", "unheard-of"), "unknown_entitlement"),
        (assign("ann", "api"), "wrong_type"),
        (unseat("ann", "k"), "unknown_holder"),
        (swap("ann", "ben", "k"), "unknown_holder"),
    ],
)
def test_what_cannot_be_granted_is_answered_with_its_reason_and_changes_nothing(
    sold: Ledger, asked: Asked, reason: str
) -> None:
    before = sold.dump()

    (answer,) = ask(sold, asked)

    assert (answer.is_granted, answer.reason) == (False, reason)
    assert answer.message
    assert sold.dump() == before


def test_the_newest_lose_their_seats_in_the_transaction_that_took_them(sold: Ledger) -> None:
    sold.tell((told("b2", day(1), bought(order="o2")), day(1)))
    ask(sold, *(assign(name, "room") for name in "abcde"), *(assign(name) for name in "abcde"))
    now = sold.rows("SELECT clock_timestamp()")[0][0]

    sold.tell((told("r", now, refunded("r1", order="o2")), now))

    assert (holders(sold, "room"), holders(sold)) == (["a", "b", "c"], ["a", "b", "c", "d", "e"])
    assert sold.rows("SELECT event_source, type, entitlement FROM event ORDER BY recorded_at DESC LIMIT 1") == [
        ("ledger", "SeatsRevoked", "room")
    ]
    assert sold.rows("SELECT used FROM account ORDER BY entitlement") == [(5,), (3,)]
    assert unproven(sold) == []


def test_a_clock_takes_the_seats_of_what_ended(sold: Ledger) -> None:
    now = sold.rows("SELECT clock_timestamp()")[0][0]
    sold.tell((told("b2", now, bought(line("short"), order="o2")), now))
    ask(sold, *(assign(name, "room") for name in "abcde"))

    book_due_apart(sold.engine, {"ada": now + timedelta(days=2)}, sold.catalogues)

    assert holders(sold, "room") == ["a", "b", "c"]
    assert unproven(sold) == []


def test_a_merge_brings_the_holders_together(sold: Ledger) -> None:
    sold.tell((told("b-bob", day(1), bought(order="o-bob"), customer="bob"), day(1)))
    ask(sold, assign("a"), assign("b", customer="bob"), assign("c"), assign("a", customer="bob"))
    now = sold.rows("SELECT clock_timestamp()")[0][0]

    sold.tell((told("m", now, merged()), now))
    (answer,) = ask(sold, assign("d"))

    assert answer.is_granted
    assert (holders(sold), holders(sold, customer="bob")) == ([], ["a", "b", "c", "d"])
    assert unproven(sold) == []


@pytest.mark.parametrize("seats_left", [1, 30])
def test_many_at_once_never_get_one_seat_twice(ledger: Ledger, database_url: str, seats_left: int) -> None:
    """Two ledgers on connections of their own, as two processes have them, four threads each."""
    ledger.publish(OFFERED)
    ledger.tell((told("b", day(1), bought(line(quantity=10))), day(1)))
    ask(ledger, *(assign(f"first-{number}") for number in range(30 - seats_left)))
    other = Ledger(database_url)

    def run(worker: int) -> list[Answer]:
        own = ledger if worker % 2 else other
        answers: list[Answer] = []
        for number in range(12):
            name = f"{worker % 4}-{number}"  # two threads ask for each
            answers += ask(own, assign(name, key=f"{worker}-{number}"), assign(f"{worker}-own-{number}"))
        return answers

    with ThreadPoolExecutor(8) as threads:
        found = [answer for answers in threads.map(run, range(8)) for answer in answers]
    other.close()

    names = holders(ledger)
    assert len(names) == len(set(names)) == 30
    assert sum(answer.is_granted for answer in found) == seats_left
    assert {answer.reason for answer in found} <= {None, "exhausted", "seat_taken"}
    assert unproven(ledger) == []


def test_seats_asked_for_by_many_threads_are_gathered(sold: Ledger) -> None:
    with Gatherer(sold.engine, Metrics(CollectorRegistry())) as gatherer, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: gatherer.ask(assign(f"n{number}"), 30), range(40)))

    assert sum(answer.is_granted for answer in answers) == 3
    assert len(holders(sold)) == 3


# -- random lives and worlds, and what verify and the past make of them


@pytest.mark.parametrize("number", range(2 * 880_000, 2 * 880_000 + 24))
def test_postgresql_seats_whom_the_rules_seat(ledger: Ledger, number: int) -> None:
    history, on_shrink = domain.with_seats(number, world_of(number) if number % 2 else history_of(number))
    ledger.publish(history.catalogue)
    ledger.set_settlement_window(365)

    world = domain.lived(number, is_clock_running=False, also=ledger)

    stored = ledger.rows("SELECT customer_id, carried FROM account WHERE entitlement = 'desk'")
    assert {owner: carried_of(carried).holders for owner, carried in stored} == {
        owner: customer.accounts["desk"].holders
        for owner, customer in world.customers.items()
        if "desk" in customer.accounts
    }
    assert unproven(ledger) == []
    chance = Random(number)
    seated = [one for one in world.inbox.values() if one.event.fact.__class__.__name__.startswith("Seat")]
    for one in chance.sample(seated, min(4, len(seated))):
        at = one.recorded_at
        expected = _holders_then(world, at)
        for customer_id in world.customers:
            with ledger.engine.connect() as connection:
                past = show_past(connection, customer_id, at, at)
            assert past is not None
            shown = {each.entitlement: each.holders for each in past.entitlements}
            if past.merged_into is None and on_shrink is not OnShrink.REVOKE_NEWEST:
                assert (shown.get("desk") or ()) == expected.get(customer_id, ())


def _holders_then(world: World, at: datetime) -> dict[str, tuple[str, ...]]:
    """Who held a seat of whom, by the changes told until then."""
    found: dict[str, tuple[str, ...]] = {}
    for customer_id, customer in world.customers.items():
        for change in customer.changes:
            if change.entitlement == "desk" and change.recorded_at <= at:
                found[customer_id] = change.after.holders or ()
    return found


def test_verify_names_an_account_whose_holders_nobody_decided(sold: Ledger) -> None:
    ask(sold, assign("ann"), assign("ben"))
    ((carried,),) = sold.rows("SELECT carried FROM account WHERE entitlement = 'desk'")
    kept = carried_of(carried)
    other = msgspec.structs.replace(
        kept, holders=(kept.holders[0], msgspec.structs.replace(kept.holders[1], name="eve"))
    )
    with sold.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE account SET carried = %(carried)s WHERE entitlement = 'desk'",
            {"carried": msgspec.msgpack.encode(other)},
        )

    found = unproven(sold)

    expected = "2 hold a seat, and 2 by what was decided: too many eve; missing ben"
    assert any(expected in message for message in found), found


def test_the_past_knows_who_held_a_seat_then(sold: Ledger) -> None:
    first, second = ask(sold, assign("ann")) + ask(sold, assign("ben"))
    ask(sold, unseat("ann", "u"))

    def then(at: datetime | None) -> object:
        with sold.engine.connect() as connection:
            past = show_past(connection, "ada", at)
        assert past is not None
        return next(each.holders for each in past.entitlements if each.entitlement == "desk")

    assert then(first.recorded_at) == ("ann",)
    assert then(second.recorded_at) == ("ann", "ben")
    assert then(None) == ("ben",)
