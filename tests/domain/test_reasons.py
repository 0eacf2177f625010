"""Which reason is given where more than one is true: the checks have an order, and callers may rely on it.

Each case here makes two neighbours of that order true at once. Those that are found before the books are opened
(`impossible_value`, `key_reused`, `parked`) are in `tests/apply/test_requests.py`. No case has `unknown_entitlement`
beside `wrong_type`, or `out_of_range` beside anything before it: they rule each other out.
"""

from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest

from ledger_worker.domain.access import AccessReason
from ledger_worker.domain.catalogue import OnShrink
from ledger_worker.domain.holds import HOLDS_MAX
from ledger_worker.domain.requests import Answer, Confirm, Item, Request, RequestReason
from ledger_worker.domain.seats import HOLDERS_BYTES_MAX, HOLDERS_MAX
from tests.domain.driver import World
from tests.domain.telling import (
    DAY,
    access,
    bought,
    catalogue,
    confirm,
    consume,
    day,
    gives,
    hold,
    offer,
    quota,
    refunded,
    release,
    seat,
    seats,
    swap,
    told,
)

OFFERED = catalogue(
    quota(),
    access("video"),
    seats(on_shrink=OnShrink.BLOCK_NEW),
    offer("pack", gives(HOLDS_MAX, lasts="P20D"), gives(2, "desk", lasts="P20D")),
)
LONG = "n" * 200
HOLDERS_OF_LONG_NAMES = HOLDERS_BYTES_MAX // len(LONG)
ENDED = day(1) + timedelta(days=20)


def sold() -> World:
    """Ada bought on the first for twenty days: as many of api as holds can be open, and two desks."""
    world = World(OFFERED)
    world.tell((told("b", day(1), bought()), day(1)))
    return world


def of(asked: Request | Confirm, entitlement: str) -> Request | Confirm:
    """The same, asked of another entitlement."""
    return msgspec.structs.replace(asked, items=(Item(entitlement=entitlement, units=asked.items[0].units),))


def held_by_another() -> Answer:
    world = sold()
    world.tell((told("c", day(1), bought(order="o2"), customer="bob"), day(1)))
    world.ask(hold(1, seconds=DAY), day(2))
    return world.ask(confirm(customer="bob"), day(9))


def expired_and_ended() -> Answer:
    world = sold()
    world.ask(hold(1, seconds=DAY), day(2))
    world.ask(release(), day(2, 1))
    return world.ask(confirm(), day(9))


def ended_and_more() -> Answer:
    world = sold()
    world.ask(hold(1), day(2))
    world.ask(release(), day(3))
    return world.ask(confirm(2), day(4))


def more_and_unknown() -> Answer:
    world = sold()
    world.ask(hold(1), day(2))
    return world.ask(of(confirm(1), "nothing"), day(4))


def wrong_and_never_had() -> Answer:
    return sold().ask(of(consume(1), "video"), day(2))


def over_and_seated() -> Answer:
    world = sold()
    world.ask(seat("ann"), day(2))
    return world.ask(seat("ann", "again"), ENDED)


def over_and_too_many() -> Answer:
    return sold().ask(consume(HOLDS_MAX + 1), ENDED)


def seated_and_nobody() -> Answer:
    world = sold()
    world.ask(seat("ann"), day(2))
    return world.ask(swap("nobody", "ann"), day(3))


def nobody_and_shrunk() -> Answer:
    return shrunk().ask(swap("nobody", "cleo"), day(4))


def shrunk_and_none_left() -> Answer:
    return shrunk().ask(seat("cleo"), day(4))


def shrunk() -> World:
    """Ada has one desk more than was refunded, and three who hold one."""
    world = sold()
    world.tell((told("c", day(1, 1), bought(order="o2")), day(1, 1)))
    for name in ("ann", "ben", "eve"):
        assert world.ask(seat(name), day(2)).is_granted
    world.tell((told("r", day(3), refunded(order="o2")), day(3)))
    return world


def none_left_and_too_many_holds() -> Answer:
    world = sold()
    for number in range(HOLDS_MAX):
        world.ask(hold(1, f"h{number}"), day(2))
    return world.ask(hold(1, "more"), day(3))


def none_left_and_too_many_holders() -> Answer:
    world = World(catalogue(seats(), offer("pack", gives(HOLDERS_OF_LONG_NAMES, "desk", lasts="forever"))))
    world.tell((told("b", day(1), bought()), day(1)))
    for number in range(HOLDERS_OF_LONG_NAMES):
        name = f"{number:04}{LONG[4:]}"
        assert world.ask(seat(name, f"k{number}"), day(2)).is_granted
    return world.ask(seat("more"), day(3))


CASES: list[tuple[Callable[[], Answer], str, str]] = [
    (held_by_another, "unknown_hold", "hold_expired"),
    (expired_and_ended, "hold_expired", "hold_ended"),
    (ended_and_more, "hold_ended", "more_than_held"),
    (more_and_unknown, "more_than_held", "unknown_entitlement"),
    (wrong_and_never_had, "wrong_type", "not_entitled"),
    (over_and_seated, "expired", "seat_taken"),
    (over_and_too_many, "expired", "exhausted"),
    (seated_and_nobody, "seat_taken", "unknown_holder"),
    (nobody_and_shrunk, "unknown_holder", "over_allocated"),
    (shrunk_and_none_left, "over_allocated", "exhausted"),
    (none_left_and_too_many_holds, "exhausted", "too_many_holds"),
    (none_left_and_too_many_holders, "exhausted", "too_many_holders"),
]
ORDER = [*list(RequestReason)[: list(RequestReason).index(RequestReason.WRONG_TYPE) + 1], *AccessReason]
ORDER += [reason for reason in RequestReason if reason not in ORDER or reason == RequestReason.EXHAUSTED]


@pytest.mark.parametrize(("ask", "first", "second"), [pytest.param(*case, id=case[0].__name__) for case in CASES])
def test_the_first_reason_that_is_true_is_given(ask: Callable[[], Answer], first: str, second: str) -> None:
    answer = ask()

    assert (answer.is_granted, answer.reason) == (False, first)
    assert ORDER.index(first) < len(ORDER) - 1 - ORDER[::-1].index(second)


def test_so_many_names_are_less_than_holders_may_be() -> None:
    """Else the case above would be about their number, and take minutes."""
    assert HOLDERS_OF_LONG_NAMES < HOLDERS_MAX
