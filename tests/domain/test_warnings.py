"""`expiring_soon`: falls due like any transition, once for each end and lead time, under an id of its own."""

from collections.abc import Callable
from datetime import datetime

import pytest
from msgspec.structs import replace

from ledger_worker.domain.changes import Change
from ledger_worker.domain.requests import Item, Request
from tests.domain.agreement import assert_all
from tests.domain.driver import Life
from tests.domain.telling import (
    activated,
    bought,
    cancellation_scheduled,
    cancellation_withdrawn,
    catalogue,
    day,
    gives,
    line,
    offer,
    quota,
    told,
    used,
)

OFFERED = catalogue(
    quota(expiring_soon=("P7D", "P1D")), offer("pack", gives(10, lasts="P30D")), offer("plan", gives(10))
)


def packed() -> Life:
    life = Life(OFFERED)
    life.tell((told("p", day(1), bought()), day(1)))
    return life


def warnings(life: Life) -> list[Change]:
    return [change for change in life.changes if "expiring_soon" in change.kinds]


def test_a_warning_is_due_at_its_instant_and_moves_nothing() -> None:
    life = packed()
    before = life.accounts["api"]
    assert before.next_transition_at == day(24)

    decided = life.catch_up(day(24))

    (posting,) = decided.customers["ada"].postings
    (change,) = decided.customers["ada"].changes
    assert posting.entries == ()
    assert (change.kinds, change.effective_at, change.before) == (("expiring_soon",), day(24), change.after)
    assert life.accounts["api"].settled_at == before.settled_at
    assert life.accounts["api"].next_transition_at == day(30)
    assert_all(life)


def test_whoever_comes_first_tells_it_and_nobody_again() -> None:
    by_clock, by_usage = packed(), packed()
    for at in (day(24), day(24), day(30, 1), day(30, 2)):
        by_clock.catch_up(at)
    by_usage.tell((told("u", day(30, 1), used(1)), day(30, 1)))

    told_by = [[change.cause.event_id for change in warnings(life)] for life in (by_clock, by_usage)]

    assert told_by[0] == told_by[1]
    assert len(set(told_by[0])) == 2


def scheduled(*steps: tuple[datetime, str | None]) -> Life:
    """A plan up to the 31st whose cancellation is scheduled, or (None) withdrawn, at those instants."""
    life = Life(OFFERED)
    life.tell((told("a", day(1), activated(day(1), day(31))), day(1)))
    for number, (at, cancellation) in enumerate(steps):
        fact = cancellation_scheduled(day(31), cancellation) if cancellation else cancellation_withdrawn("c1")
        life.tell((told(f"s{number}", at, fact), at))
    return life


def test_an_end_that_moves_away_and_back_after_its_warning_is_told_again() -> None:
    life = scheduled((day(2), "c1"), (day(25), None), (day(26), "c2"))

    assert [change.recorded_at for change in warnings(life)] == [warnings(life)[0].recorded_at, day(26)]
    assert warnings(life)[0].effective_at == day(24)
    assert_all(life)


def test_an_end_that_moved_away_and_back_before_has_a_warning_of_another_id() -> None:
    once, again = scheduled((day(2), "c1")), scheduled((day(2), "c1"), (day(3), None), (day(4), "c2"))
    once.catch_up(day(24))
    again.catch_up(day(24))

    ids = [warnings(life)[0].cause.event_id for life in (once, again)]

    assert ids[0] != ids[1]


def test_of_two_grants_that_end_together_one_warns() -> None:
    life = Life(OFFERED)
    life.tell((told("p", day(1), bought(line(), line(line_id="l2"))), day(1)))
    life.catch_up(day(40))

    assert [change.effective_at for change in warnings(life)] == [day(24), day(30)]


def test_nothing_is_recorded_of_a_warning_that_is_not_told() -> None:
    life = Life(
        catalogue(quota(expiring_soon=("P7D",)), offer("pack", gives(10, lasts="P30D")), offer("plan", gives(10)))
    )
    life.tell((told("p", day(1), bought()), day(1)))
    life.tell((told("a", day(2), activated(day(1), day(41))), day(2)))
    head = life.head

    life.catch_up(day(26))

    assert life.accounts["api"].warned_at == day(24)
    assert life.head == head
    assert_all(life)


def test_a_lead_time_that_is_as_long_as_the_grant_gives_no_warning() -> None:
    life = Life(catalogue(quota(expiring_soon=("P7D",)), offer("pack", gives(10, lasts="P7D"))))
    life.tell((told("p", day(1), bought()), day(1)))
    life.catch_up(day(40))

    assert warnings(life) == []


WARNED_NO_MORE = catalogue(
    replace(quota(), version=2), offer("pack", gives(10, lasts="P30D")), offer("plan", gives(10)), version=2
)
TOO_MANY = Request(caller="web", key="k1", customer_id="ada", items=(Item(entitlement="api", units=11),))
TOUCHES: dict[str, Callable[[Life], object]] = {
    "clock": lambda life: life.catch_up(day(24)),
    "event": lambda life: life.tell((told("u", day(24), used(1)), day(24))),
    "refused request": lambda life: life.ask(TOO_MANY, day(24)),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_who_meets_a_warning_that_is_none_any_more_stores_what_comes_instead(touch: Callable[[Life], object]) -> None:
    life = packed()
    life.catalogue = WARNED_NO_MORE

    touch(life)

    assert life.accounts["api"].next_transition_at == day(31)
    assert warnings(life) == []
    assert_all(life)


def test_looking_ahead_again_records_nothing() -> None:
    life = packed()
    life.catalogue = WARNED_NO_MORE
    head = life.head

    decided = life.catch_up(day(24))

    assert decided.events == ()
    assert life.head == head
    assert [booked.account.next_transition_at for booked in decided.customers["ada"].accounts] == [day(31)]


def packed_before_a_longer_time(*before: str) -> Life:
    """A pack up to the 31st, of whose end it is told a week before since a version that came after it."""
    packs = (offer("pack", gives(10, lasts="P30D")), offer("two-days", gives(1, lasts="P2D")))
    life = Life(catalogue(quota(expiring_soon=before), *packs))
    life.tell((told("p", day(1), bought()), day(1)))
    life.catalogue = catalogue(replace(quota(expiring_soon=("P7D", *before)), version=2), *packs, version=2)
    return life


def test_a_longer_time_is_told_of_when_the_account_is_next_due() -> None:
    life = packed_before_a_longer_time("P1D")
    life.catch_up(day(25))
    assert warnings(life) == []

    life.catch_up(day(30))

    assert [change.effective_at for change in warnings(life)] == [day(24), day(30)]


def test_a_longer_time_counts_from_the_next_event_that_changes_grants() -> None:
    life = packed_before_a_longer_time()

    life.tell((told("two", day(10), bought(line("two-days"), order="o2")), day(10)))

    life.catch_up(day(24))
    assert [change.effective_at for change in warnings(life)] == [day(24)]


def test_a_longer_time_that_has_begun_is_told_of_with_the_next_event_that_changes_grants() -> None:
    life = packed_before_a_longer_time()
    life.tell((told("u", day(25), used(1)), day(25)))
    assert warnings(life) == []

    for number, at in enumerate((day(26), day(27)), start=2):
        life.tell((told(f"b{number}", at, bought(line("two-days"), order=f"o{number}")), at))

    assert [(change.recorded_at, change.kinds[-1]) for change in warnings(life)] == [(day(26), "expiring_soon")]
