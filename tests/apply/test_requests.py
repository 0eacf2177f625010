"""Requests: refused at the very unit, answered once, whoever asks and however many at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import msgspec
import pytest

from ledger_worker.apply.due import book_due_apart
from ledger_worker.apply.requests import answer_requests
from ledger_worker.domain.catalogue import DebtPolicy, LateUsage, LimitPolicy
from ledger_worker.domain.requests import Answer, Asked, Confirm, Item, Release, Request
from tests.apply.ledger import Ledger, unproven
from tests.domain.telling import (
    DAY,
    MICROSECOND,
    access,
    bought,
    catalogue,
    consume,
    day,
    gives,
    hold,
    line,
    merged,
    offer,
    order_transferred,
    quota,
    refunded,
    told,
    usage_reversed,
    used,
)

OFFERED = catalogue(
    quota(),
    quota("sms", limit=LimitPolicy.SOFT),
    quota("gpu", debt=DebtPolicy.BLOCK),
    access(),
    offer("pack", gives(10, lasts="forever"), gives(5, "sms", lasts="forever"), gives(None, "video", lasts="forever")),
    offer("endless", gives(None, lasts="forever")),
    offer("short", gives(10, lasts="P1D")),
)
KEYS = count(1)


@pytest.fixture
def sold(ledger: Ledger) -> Ledger:
    """Ada has bought ten of api and five of sms."""
    ledger.publish(OFFERED)
    ledger.tell((told("b", day(1), bought()), day(1)))
    return ledger


def request(
    *items: tuple[str, int],
    customer: str = "ada",
    key: str | None = None,
    caller: str = "shop",
    up_to: bool = False,
    seconds: int | None = None,
) -> Request:
    return Request(
        caller=caller,
        key=key or f"k{next(KEYS)}",
        customer_id=customer,
        items=tuple(Item(entitlement=name, units=units) for name, units in items),
        up_to=up_to,
        hold_seconds=seconds,
    )


def confirm(hold: str, *items: tuple[str, int], customer: str = "ada", key: str | None = None) -> Confirm:
    held = tuple(Item(entitlement=name, units=units) for name, units in items)
    return Confirm(caller="shop", key=key or f"k{next(KEYS)}", customer_id=customer, hold=hold, items=held)


def release(hold: str, customer: str = "ada") -> Release:
    return Release(caller="shop", key=f"k{next(KEYS)}", customer_id=customer, hold=hold)


def ask(ledger: Ledger, *requests: Asked) -> tuple[Answer, ...]:
    return answer_requests(ledger.engine, requests, ledger.catalogues, ledger.stages())


def granted(answers: Sequence[Answer]) -> list[int]:
    return [sum(item.granted for item in answer.items) for answer in answers]


def test_units_are_granted_to_the_last_and_not_one_more(sold: Ledger) -> None:
    answers = ask(sold, request(("api", 4)), request(("api", 6)), request(("api", 1)))

    assert [answer.is_granted for answer in answers] == [True, True, False]
    assert (answers[2].reason, answers[2].message) == ("exhausted", "1 of api were asked for and 0 are left")
    assert [answer.items[0].decision.remaining for answer in answers if answer.items[0].decision] == [6, 0, 0]
    assert sold.rows("SELECT usage, used_total, overage FROM account WHERE entitlement = 'api'") == [(10, 10, 0)]
    assert unproven(sold) == []


def test_a_grant_of_units_is_usage_at_the_instant_it_was_decided(sold: Ledger) -> None:
    (answer,) = ask(sold, request(("api", 4), key="k"))

    rows = sold.rows(
        "SELECT event_source, event_id, type, occurred_at, recorded_at, outcome FROM event ORDER BY 5 DESC"
    )
    assert rows[0] == ("request/shop", "api@k", "UsageRecorded", answer.recorded_at, answer.recorded_at, "applied")
    ((grant_id,),) = sold.rows("SELECT grant_id FROM \"grant\" WHERE entitlement = 'api'")
    assert [(one.grant_id, one.units) for one in answer.items[0].covered] == [(grant_id, 4)]


def test_with_up_to_what_is_left_is_granted(sold: Ledger) -> None:
    answers = ask(
        sold, request(("api", 7), up_to=True), request(("api", 7), up_to=True), request(("api", 7), up_to=True)
    )

    assert granted(answers) == [7, 3, 0]
    assert [answer.is_granted for answer in answers] == [True, True, False]


def test_several_entitlements_are_granted_together_or_not_at_all(sold: Ledger) -> None:
    both, too_much, none = ask(
        sold,
        request(("api", 4), ("sms", 2)),
        request(("sms", 1), ("api", 7)),
        request(("api", 1), ("unheard-of", 1)),
    )

    assert [both.is_granted, too_much.is_granted, none.is_granted] == [True, False, False]
    assert (too_much.reason, none.reason) == ("exhausted", "unknown_entitlement")
    assert sold.rows("SELECT entitlement, usage FROM account WHERE usage > 0 ORDER BY 1") == [("api", 4), ("sms", 2)]


def test_a_soft_limit_books_overage_and_says_so(sold: Ledger) -> None:
    (answer,) = ask(sold, request(("sms", 8)))

    assert answer.is_granted
    assert [one.units for one in answer.items[0].covered] == [5, 3]
    assert answer.items[0].covered[1].grant_id is None
    assert sold.rows("SELECT used_total, overage FROM account WHERE entitlement = 'sms'") == [(5, 3)]


def test_an_unlimited_quota_grants_any_number(ledger: Ledger) -> None:
    ledger.publish(OFFERED)
    ledger.tell((told("b", day(1), bought(line("endless"))), day(1)))

    assert granted(ask(ledger, request(("api", 2**53)))) == [2**53]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (request(("api", 0)), "impossible_value"),
        (request(("api", 2**53 + 1)), "impossible_value"),
        (request(), "impossible_value"),
        (request(("api", 1), ("api", 1)), "impossible_value"),
        (request(("api", 1), key="k" * 91), "impossible_value"),
        (request(("api\x00", 1)), "impossible_value"),
        (request(("\ud800", 1)), "impossible_value"),
        (request(("", 1)), "impossible_value"),
        (request(("api", 10**5000)), "impossible_value"),
        (request(("api", 1), customer="\udcff"), "impossible_value"),
        (request(("api", 1), customer="a\nb"), "impossible_value"),
        (request(("unheard-of", 1)), "unknown_entitlement"),
        (request(("video", 1)), "wrong_type"),
        (request(("gpu", 1)), "not_entitled"),
        (request(("api", 1), customer="nobody"), "not_entitled"),
    ],
)
def test_what_cannot_be_granted_is_answered_with_its_reason_and_changes_nothing(
    sold: Ledger, asked: Request, reason: str
) -> None:
    before = sold.dump()

    (answer,) = ask(sold, asked)

    assert (answer.is_granted, answer.reason) == (False, reason)
    assert answer.message
    assert sold.dump() == before


def test_a_request_is_answered_as_it_was_the_first_time(sold: Ledger) -> None:
    kept, refused = request(("api", 8)), request(("api", 8))
    first = ask(sold, kept, refused)

    sold.tell((told("b2", day(2), bought(order="o2")), day(2)))

    assert ask(sold, refused, kept) == (first[1], first[0])
    assert sold.rows("SELECT usage FROM account WHERE entitlement = 'api'") == [(8,)]


def test_a_key_that_is_used_for_something_else_is_refused_and_the_first_answer_stands(sold: Ledger) -> None:
    (first,) = ask(sold, request(("api", 3), key="k"))

    (other,) = ask(sold, request(("api", 4), key="k"))
    together = ask(sold, request(("api", 1), key="j"), request(("api", 2), key="j"), request(("api", 1), key="j"))

    assert (other.is_granted, other.reason) == (False, "key_reused")
    assert ask(sold, request(("api", 3), key="k")) == (first,)
    assert [answer.reason for answer in together] == [None, "key_reused", None]
    assert together[0] == together[2]
    assert sold.rows("SELECT usage FROM account WHERE entitlement = 'api'") == [(4,)]


def test_what_was_due_is_booked_first(ledger: Ledger) -> None:
    ledger.publish(OFFERED)
    ledger.tell((told("b", day(1), bought(line("short"))), day(1)))

    (answer,) = ask(ledger, request(("api", 1)))

    assert (answer.is_granted, answer.reason) == (False, "expired")
    assert ledger.rows("SELECT type FROM event ORDER BY recorded_at") == [("PurchaseCompleted",), ("TransitionsDue",)]


def test_whoever_has_too_much_due_is_caught_up_with_first(ledger: Ledger) -> None:
    ledger.publish(OFFERED)
    lines = [line("short", line_id=f"l{number}") for number in range(150)]
    for number, one in enumerate(lines):
        ledger.tell((told(f"b{number}", day(1), bought(one, order=f"o{number}")), day(1)))
    ledger.tell((told("b", day(1), bought(order="later")), day(1)))

    assert granted(ask(ledger, request(("api", 10)))) == [10]
    assert unproven(ledger) == []


def test_facts_told_later_cover_a_granted_request_otherwise_or_not_at_all(sold: Ledger) -> None:
    ask(sold, request(("api", 8), key="k"))

    sold.tell((told("r", day(2), refunded()), day(2)))
    assert sold.rows("SELECT used_total, overage FROM account WHERE entitlement = 'api'") == [(0, 8)]
    back = msgspec.structs.replace(usage_reversed("api@k"), usage_event_source="request/shop")
    sold.tell_now(told("back", day(3), back))

    assert sold.rows("SELECT usage, used_total FROM account WHERE entitlement = 'api'") == [(0, 0)]
    assert unproven(sold) == []


def test_after_a_transfer_and_a_merge_the_units_are_asked_of_whoever_has_them(sold: Ledger) -> None:
    sold.tell(
        (told("t", day(2), order_transferred("bob")), day(2)),
        (told("m", day(3), merged("eve"), customer="bob"), day(3)),
    )

    answers = ask(
        sold, *(request(("api", units), customer=customer) for customer, units in (("ada", 1), ("bob", 4), ("eve", 6)))
    )

    assert [answer.is_granted for answer in answers] == [False, True, True]
    assert sold.rows("SELECT customer_id, usage FROM account WHERE usage > 0") == [("eve", 10)]
    assert unproven(sold) == []


def test_what_cannot_be_counted_is_answered_and_keeps_back_nobody(ledger: Ledger) -> None:
    ledger.publish(OFFERED)
    for owner in ("ada", "bob"):
        ledger.tell((told(f"b-{owner}", day(1), bought(line("endless"), order=owner), customer=owner), day(1)))
    ledger.tell(*((told(f"u{number}", day(1), used(2**53)), day(1)) for number in range(1023)))

    answers = ask(
        ledger, *(request(("api", units), customer=owner) for owner, units in (("bob", 1), ("ada", 2**53), ("bob", 2)))
    )

    assert [(answer.is_granted, answer.reason) for answer in answers] == [
        (True, None),
        (False, "out_of_range"),
        (True, None),
    ]
    assert ledger.rows("SELECT count(*) FROM idempotency") == [(2,)]
    assert unproven(ledger) == []


def test_the_first_reason_that_is_true_is_given(sold: Ledger) -> None:
    """Those that are found before the books are opened; the others are in `tests/domain/test_reasons.py`."""
    (first,) = ask(sold, request(("api", 1), key="k"))
    assert first.is_granted

    impossible_and_reused = ask(sold, request(("api", 0), key="k"))
    with sold.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE customer SET is_parked = true")
    reused_and_parked = ask(sold, request(("api", 2), key="k"))
    parked_and_unknown = ask(sold, confirm("nothing"), request(("nothing", 1)))
    nobody_and_unknown = ask(sold, confirm("nothing", customer="nobody"), request(("nothing", 1), customer="nobody"))

    assert [answer.reason for answer in impossible_and_reused] == ["impossible_value"]
    assert [answer.reason for answer in reused_and_parked] == ["key_reused"]
    assert [answer.reason for answer in parked_and_unknown] == ["parked", "parked"]
    assert [answer.reason for answer in nobody_and_unknown] == ["not_entitled", "not_entitled"]


def test_a_parked_customer_is_answered_so_and_asked_again_later(sold: Ledger) -> None:
    sold.tell((told("b", day(1), bought(order="o2"), customer="bob"), day(1)))
    parked, other = request(("api", 1)), request(("api", 1), customer="bob")
    with sold.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE customer SET is_parked = true WHERE customer_id = 'ada'")

    answers = ask(sold, parked, other)
    with sold.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE customer SET is_parked = false")

    assert [(answer.is_granted, answer.reason) for answer in answers] == [(False, "parked"), (True, None)]
    assert granted(ask(sold, parked)) == [1]


@pytest.mark.parametrize("late_usage", LateUsage)
def test_what_is_granted_is_never_late(ledger: Ledger, late_usage: LateUsage) -> None:
    """Each item of a request is recorded a microsecond behind the one before it, and all of them count at once."""
    ledger.publish(
        catalogue(
            quota(),
            quota("sms", late_usage=late_usage),
            offer("pack", gives(100, lasts="forever"), gives(10, "sms", lasts="forever")),
        )
    )
    ledger.tell((told("b", day(1), bought()), day(1)))
    requests = [request(("api", 1), ("sms", 10)), request(("api", 1), ("sms", 1))]

    first, second = (ledger.ask(day(2, number), asked)[0] for number, asked in enumerate(requests))

    assert [item.granted for item in first.items] == [1, 10]
    assert all(one.grant_id is not None for item in first.items for one in item.covered)
    assert (second.is_granted, second.reason) == (False, "exhausted")
    outcomes = ledger.rows("SELECT DISTINCT outcome FROM event WHERE event_source = 'request/shop'")
    assert outcomes == [("applied",)]
    assert unproven(ledger) == []


@pytest.mark.parametrize("limit", [1, 37, 200])
def test_many_at_once_get_the_limit_to_the_last_unit(ledger: Ledger, limit: int) -> None:
    """Eight threads, each with transactions of several requests, some of them asked by two threads at once."""
    ledger.publish(OFFERED)
    ledger.tell((told("b", day(1), bought(line(quantity=20))), day(1)))
    ledger.tell((told("u", day(1), used(200 - limit)), day(1)))
    shared = [request(("api", 1), key=f"shared-{number}") for number in range(40)]

    def run(worker: int) -> list[Answer]:
        answers: list[Answer] = []
        for number in range(10):
            own = [request(("api", 1 + (worker + number) % 3), key=f"{worker}-{number}-{one}") for one in range(3)]
            answers += ask(ledger, *own, *shared[number * 4 : number * 4 + 4])
        return answers

    with ThreadPoolExecutor(8) as threads:
        found = [answer for answers in threads.map(run, range(8)) for answer in answers]

    by_key = {answer.key: answer for answer in found}
    assert all(by_key[answer.key] == answer for answer in found)
    assert sum(granted(list(by_key.values()))) == limit
    assert ledger.rows("SELECT usage, used_total, overage FROM account WHERE entitlement = 'api'") == [(200, 200, 0)]
    assert unproven(ledger) == []


# -- holds


def test_what_is_held_is_kept_from_everybody_else_until_it_is_confirmed(sold: Ledger) -> None:
    held, refused = ask(sold, request(("api", 7), key="h", seconds=60), request(("api", 4)))
    (confirmed,) = ask(sold, confirm("h", ("api", 5)))

    assert (held.is_granted, refused.reason, granted([confirmed])) == (True, "exhausted", [5])
    assert sold.rows("SELECT used, held, usage FROM account WHERE entitlement = 'api'") == [(5, 0, 5)]
    assert sold.rows("SELECT type, units FROM event WHERE event_source = 'request/shop' ORDER BY recorded_at") == [
        ("HoldTaken", None),
        ("HoldConfirmed", 5),
    ]
    assert unproven(sold) == []


def test_a_hold_and_its_end_may_be_asked_together(sold: Ledger) -> None:
    answers = ask(
        sold,
        request(("api", 7), ("sms", 6), key="h", seconds=60),
        confirm("h", ("sms", 6)),
        release("h"),
        request(("api", 10)),
    )

    assert [(answer.is_granted, answer.reason) for answer in answers] == [
        (True, None),
        (True, None),
        (False, "hold_ended"),
        (True, None),
    ]
    assert sold.rows("SELECT entitlement, usage, overage FROM account ORDER BY entitlement") == [
        ("api", 10, 0),
        ("sms", 6, 1),
        ("video", 0, 0),
    ]
    assert unproven(sold) == []


def test_an_end_is_answered_once_under_its_key_and_a_hold_ends_once(sold: Ledger) -> None:
    ask(sold, request(("api", 7), key="h", seconds=60))
    first, again = (ask(sold, confirm("h", key="c"))[0] for _ in range(2))
    other, reused = ask(sold, confirm("h"), confirm("h", ("api", 1), key="c"))

    assert again == first
    assert (first.is_granted, other.reason, reused.reason) == (True, "hold_ended", "key_reused")
    assert sold.rows("SELECT usage FROM account WHERE entitlement = 'api'") == [(7,)]


def test_of_what_nobody_holds_nothing_is_decided(sold: Ledger) -> None:
    sold.tell((told("b-bob", day(1), bought(order="o-bob"), customer="bob"), day(1)))
    ask(sold, request(("api", 7), key="h", seconds=60), request(("api", 1), key="used"))

    answers = ask(sold, confirm("never"), release("used"), confirm("h", customer="bob"), confirm("h", customer="eve"))

    assert [answer.reason for answer in answers] == ["unknown_hold", "unknown_hold", "unknown_hold", "not_entitled"]
    assert unproven(sold) == []


def test_what_was_held_goes_on_with_its_customer_and_late_facts_take_from_it(sold: Ledger) -> None:
    ask(sold, request(("api", 7), key="h", seconds=60), request(("sms", 5), key="s", seconds=60))
    now = sold.rows("SELECT clock_timestamp()")[0][0]
    sold.tell((told("u", day(2), used(5)), now), (told("m", now, merged()), now))

    confirmed, released = ask(sold, confirm("h", customer="bob"), release("s"))

    assert sorted((one.grant_id is None, one.units) for one in confirmed.items[0].covered) == [(False, 5), (True, 2)]
    assert released.is_granted
    shown = sold.rows(
        "SELECT customer_id, entitlement, usage, used_total, overage FROM account WHERE usage > 0 ORDER BY customer_id"
    )
    assert shown == [("ada", "api", 5, 5, 0), ("bob", "api", 7, 5, 2)]
    assert unproven(sold) == []


def test_a_clock_books_what_nobody_confirmed(sold: Ledger) -> None:
    ask(sold, request(("api", 7), key="h", seconds=1))
    assert sold.rows("SELECT held FROM account WHERE entitlement = 'api'") == [(7,)]
    expires_at = sold.rows("SELECT next_transition_at FROM account WHERE entitlement = 'api'")[0][0]
    book_due_apart(sold.engine, {"ada": expires_at}, sold.catalogues)

    assert sold.rows("SELECT held, next_transition_at FROM account WHERE entitlement = 'api'") == [(0, None)]
    assert unproven(sold) == []


def test_a_read_shows_what_a_hold_that_is_over_elsewhere_gives_back(sold: Ledger) -> None:
    """Ada's hold expires, nobody has booked it, and the order has gone to Bob meanwhile."""
    held = hold(10, seconds=2 * DAY)
    assert sold.ask(day(2), held)[0].is_granted
    sold.tell((told("t", day(3), order_transferred()), day(3)))

    (before,) = sold.pictures(["bob"], day(4) - MICROSECOND)
    (after,) = sold.pictures(["bob"], day(4))

    assert [one.remaining for one in before.entitlements if one.entitlement == "api"] == [0]
    assert [one.remaining for one in after.entitlements if one.entitlement == "api"] == [10]
    assert sold.ask(day(4), consume(10, customer="bob"))[0].is_granted
