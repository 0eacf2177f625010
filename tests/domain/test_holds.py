"""Holds, rule by rule: a life of a few facts, what is held and what became of it by hand, and the oracle agrees.

Everything is asked on the sixth at the earliest, so that what is told `late` lies before it.
"""

from datetime import datetime

import pytest

from ledger_worker.domain.catalogue import DebtPolicy, LimitPolicy, OnChange, RefundPolicy, ReturnAfterEnd
from ledger_worker.domain.events import TransitionsDue
from ledger_worker.domain.holds import HOLDS_MAX
from ledger_worker.domain.ledger import Origin
from ledger_worker.domain.requests import HOLD_SECONDS_MAX, Asked, Item, Request, judge
from tests.domain.agreement import assert_all
from tests.domain.checked import Told
from tests.domain.driver import World
from tests.domain.telling import (
    DAY,
    MICROSECOND,
    PACK_OF_TEN,
    activated,
    bought,
    catalogue,
    confirm,
    day,
    dispute_opened,
    gives,
    hold,
    item,
    line,
    merged,
    offer,
    order_transferred,
    plan_changed,
    quantity_changed,
    quota,
    refund_reversed,
    refunded,
    release,
    renewed,
    told,
    usage_reversed,
    used,
)

FULL = catalogue(
    quota(debt=DebtPolicy.CARRY), offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT))
)


@pytest.fixture
def life() -> Told:
    sold = Told(PACK_OF_TEN)
    sold.tell(day(1), bought())
    return sold


# -- taking, confirming, releasing, expiring


def test_what_is_held_is_left_to_nobody_and_comes_back_when_it_is_released(life: Told) -> None:
    answer = life.ask(day(6), hold(7))
    assert (answer.is_granted, answer.expires_at) == (True, day(26))
    assert life.units(day(6, 1)) == (3, 7, 0, 0)
    assert life.ask(day(6, 1), hold(4, "other")).reason == "exhausted"

    assert life.ask(day(7), release()).is_granted

    assert life.units(day(7, 1)) == (10, 0, 0, 0)
    assert life.kinds() == ["hold", "release"]


def test_all_of_it_is_confirmed_without_a_number(life: Told) -> None:
    life.ask(day(6), hold(7))

    answer = life.ask(day(7), confirm())

    assert [(item.granted, [one.units for one in item.covered]) for item in answer.items] == [(7, [7])]
    assert life.units(day(7, 1)) == (3, 0, 7, 0)


def test_part_of_it_is_confirmed_and_the_rest_comes_back(life: Told) -> None:
    life.ask(day(6), hold(7))
    life.ask(day(7), confirm(2))

    assert life.units(day(7, 1)) == (8, 0, 2, 0)
    assert life.ask(day(8), confirm(1, key="c2")).reason == "hold_ended"
    assert life.ask(day(8), release()).reason == "hold_ended"


def test_up_to_holds_what_is_left(life: Told) -> None:
    life.tell(day(2), used(8))

    answer = life.ask(day(6), hold(5, up_to=True))

    assert [item.granted for item in answer.items] == [2]
    assert life.ask(day(7), confirm(3)).reason == "more_than_held"
    assert life.ask(day(7), confirm(2, key="c2")).is_granted
    assert life.units(day(8)) == (0, 0, 10, 0)


@pytest.mark.parametrize("is_booked", [False, True], ids=["read", "booked"])
def test_it_expires_at_its_instant_with_nobody_awake(life: Told, *, is_booked: bool) -> None:
    life.ask(day(6), hold(7, seconds=DAY))
    if is_booked:
        life.pass_to(day(9))

    assert life.units(day(7) - MICROSECOND if not is_booked else day(9))[1] == (7 if not is_booked else 0)
    assert life.units(day(9)) == (10, 0, 0, 0)
    assert life.ask(day(9), confirm()).reason == "hold_expired"
    facts = [one.event.fact for one in life.world.inbox.values()]
    assert [fact.instant for fact in facts if isinstance(fact, TransitionsDue) and fact.kind == "release"] == [day(7)]


def test_it_cannot_be_confirmed_at_the_very_instant_at_which_it_expires(life: Told) -> None:
    life.ask(day(6), hold(7, seconds=DAY))

    assert life.world.ask(confirm(), day(7)).reason == "hold_expired"


def test_a_microsecond_before_it_can(life: Told) -> None:
    life.ask(day(6), hold(7, seconds=DAY))

    assert life.ask(day(7) - MICROSECOND, confirm()).is_granted


@pytest.mark.parametrize(
    "asked",
    [confirm(of="never"), release("never"), confirm(of="used"), confirm(of="refused"), confirm(customer="bob")],
    ids=["confirm", "release", "of no hold", "of what was refused", "of another customer"],
)
def test_what_was_never_held_is_not_known(life: Told, asked: Asked) -> None:
    life.tell(day(2), bought(order="o2"), customer="bob")
    life.ask(day(6), hold(4))
    life.ask(day(6), hold(40, "refused"))
    life.ask(day(6), Request(caller="shop", key="used", customer_id="ada", items=(Item(entitlement="api", units=1),)))

    answer = life.ask(day(7), asked)

    assert (answer.is_granted, answer.reason) == (False, "unknown_hold")


def test_of_several_entitlements_what_is_not_named_is_released() -> None:
    life = Told(
        catalogue(
            quota(), quota("exports"), offer("pack", gives(10, lasts="forever"), gives(5, "exports", lasts="forever"))
        )
    )
    life.tell(day(1), bought())
    items = (Item(entitlement="api", units=4), Item(entitlement="exports", units=3))
    life.ask(day(6), Request(caller="shop", key="h", customer_id="ada", items=items, hold_seconds=DAY))

    answer = life.ask(day(6, 1), confirm(2))

    assert [(item.entitlement, item.granted) for item in answer.items] == [("api", 2), ("exports", 0)]
    assert life.units(day(6, 2)) == (8, 0, 2, 0)
    assert life.world.picture_of("ada", "exports", day(6, 2)).remaining == 5


def test_only_so_many_are_open_at_once() -> None:
    life = World(catalogue(quota(), offer("pack", gives(HOLDS_MAX + 5, lasts="forever"))))
    life.tell((told("b", day(1), bought()), day(1)))
    for number in range(HOLDS_MAX):
        assert life.ask(hold(1, f"h{number}"), day(6)).is_granted

    assert life.ask(hold(1, "more"), day(6)).reason == "too_many_holds"
    assert life.ask(release("h3"), day(6)).is_granted
    assert life.ask(hold(1, "again"), day(6)).is_granted


# -- what happens under it


def test_it_survives_the_end_of_its_grant_and_what_is_released_then_expires() -> None:
    life = Told(catalogue(quota(), offer("pack", gives(10, lasts="P10D"))))
    life.tell(day(1), bought())
    life.ask(day(6), hold(7))
    life.ask(day(6), hold(2, "kept"))
    life.pass_to(day(12))
    assert life.kinds() == ["hold", "hold", "expire"]

    life.ask(day(12), confirm(5))
    life.ask(day(13), release("kept"))

    assert life.kinds() == ["hold", "hold", "expire", "confirm", "expire", "release", "expire", "release"]
    (grant,) = life.world.customers["ada"].grants.values()
    assert (grant.used, grant.expired, grant.held) == (5, 5, 0)


def test_what_is_released_after_a_renewal_rolls_over_as_the_rest_did() -> None:
    life = Told(catalogue(quota(), offer("plan", gives(10, rollover_units=6))))
    life.tell(day(1), activated(day(1), day(11)))
    life.ask(day(6), hold(5))
    life.ask(day(6), hold(3, "other"))
    life.tell(day(10), renewed(day(11), day(21)))
    life.pass_to(day(11, 1))
    assert life.units(day(11, 1)) == (12, 0, 0, 0)  # ten of the new period, two that nobody held

    life.ask(day(12), confirm(1))
    assert life.units(day(12, 1)) == (16, 0, 0, 0)  # four came back and rolled over

    life.ask(day(12, 2), release("other"))
    assert life.units(day(12, 3)) == (16, 0, 0, 0)  # no more than six


def test_what_a_dispute_suspends_can_be_confirmed_and_nothing_more_held(life: Told) -> None:
    life.ask(day(6), hold(7))
    life.tell(day(7), dispute_opened())

    assert life.ask(day(8), hold(1, "more")).reason == "suspended"
    assert life.ask(day(8), confirm(6)).items[0].covered[0].units == 6


def test_a_whole_refund_takes_what_is_held_and_what_is_confirmed_then_is_overage() -> None:
    life = Told(FULL)
    life.tell(day(1), bought())
    life.ask(day(6), hold(4))
    life.ask(day(6), hold(3, "later"))
    life.tell(day(7), refunded(quantity=1))

    assert life.kinds() == ["hold", "hold", "revoke", "revoke_held", "revoke_held"]
    assert life.ask(day(8), confirm(2)).items[0].covered[0].grant_id is None
    assert life.world.customers["ada"].accounts["api"].overage == 2


def test_a_refund_takes_from_under_the_latest_hold_first() -> None:
    life = Told(catalogue(quota(), offer("pack", gives(1, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT))))
    life.tell(day(1), bought(line(quantity=10)))
    life.ask(day(6), hold(5))
    life.ask(day(6), hold(4, "later"))
    life.tell(day(7), refunded(quantity=4))

    uncovered = {one.hold.units: one.uncovered for one in life.world.customers["ada"].accounts["api"].holds}
    assert uncovered == {5: 0, 4: 3}


def test_a_refund_that_is_reversed_covers_it_again() -> None:
    life = Told(FULL)
    life.tell(day(1), bought())
    life.ask(day(6), hold(4))
    life.tell(day(7), refunded())
    life.tell(day(8), refund_reversed())

    assert life.ask(day(9), confirm()).items[0].covered[0].grant_id is not None
    assert life.units(day(9, 1)) == (6, 0, 4, 0)


def test_a_refund_of_what_is_unused_gets_what_is_released_later() -> None:
    life = Told(catalogue(quota(), offer("pack", gives(1, lasts="forever"))))
    life.tell(day(1), bought(line(quantity=10)))
    life.ask(day(6), hold(9))
    life.tell(day(7), refunded(quantity=6))  # one is there, five are held
    assert life.units(day(7, 1)) == (0, 9, 0, 0)

    life.ask(day(8), confirm(2))

    assert life.units(day(8, 1)) == (2, 0, 2, 0)  # five of seven went to the refund


def test_fewer_of_a_plan_are_over_allocated_until_what_is_held_comes_back() -> None:
    life = Told(catalogue(quota(), offer("plan", gives(5))))
    life.tell(day(1), activated(day(1), day(31)))
    life.tell(day(2), quantity_changed(2, day(2), "up"))
    life.ask(day(6), hold(10))
    life.tell(day(7), quantity_changed(1, day(7), "down"))
    assert life.world.picture_of("ada", "api", day(7, 1)).over_allocated == 5

    life.ask(day(8), confirm(3))

    assert life.world.picture_of("ada", "api", day(8, 1)).over_allocated == 0
    assert life.units(day(8, 1)) == (2, 0, 3, 0)


def test_a_new_plan_counts_what_was_used_and_not_what_is_held() -> None:
    offered = catalogue(quota(), offer("plan", gives(10)), offer("more", gives(20, on_change=OnChange.CARRY_USED)))
    life = Told(offered)
    life.tell(day(1), activated(day(1), day(31)))
    life.tell(day(2), used(3))
    life.ask(day(6), hold(4))
    life.tell(day(7), plan_changed("more", day(7)))

    assert life.units(day(7, 1)) == (17, 0, 0, 0)
    life.ask(day(8), confirm())
    assert life.units(day(8, 1)) == (17, 0, 0, 0)


def test_late_usage_takes_from_under_it_and_the_answer_stands(life: Told) -> None:
    life.ask(day(6), hold(7))
    life.tell(day(5), used(5), now=day(7))

    answer = life.ask(day(8), confirm())

    assert sorted((one.grant_id is None, one.units) for one in answer.items[0].covered) == [(False, 5), (True, 2)]
    assert life.units(day(8, 1)) == (0, 0, 10, 2)


def test_late_usage_from_before_a_release_is_settled_again(life: Told) -> None:
    life.ask(day(6), hold(8))
    life.ask(day(8), release())
    life.tell(day(7), used(5), now=day(9))

    assert life.units(day(9, 1)) == (8, 0, 2, 3)  # two were left beside the hold


def test_what_was_confirmed_can_be_reversed_like_any_usage(life: Told) -> None:
    life.ask(day(6), hold(8))
    life.ask(day(7), confirm(6))
    life.world.tell((told("v", day(8), usage_reversed("api@h", 4), source="request/shop"), day(8)))
    assert_all(life.world)

    assert life.units(day(9)) == (8, 0, 2, 0)


def test_what_was_confirmed_and_reversed_after_the_end_is_granted_once_more() -> None:
    allowance = gives(10, lasts="P10D", return_after_end=ReturnAfterEnd.REGRANT)
    life = Told(catalogue(quota(), offer("pack", allowance)))
    life.tell(day(1), bought())
    life.ask(day(6), hold(8))
    life.ask(day(7), confirm(6))
    life.world.tell((told("v", day(15), usage_reversed("api@h", 4), source="request/shop"), day(15)))
    assert_all(life.world)

    assert life.units(day(16)) == (4, 0, 0, 0)


@pytest.fixture
def ended() -> Told:
    """Of a pack of ten days 8 are held on day 6, the pack ends on day 11, and 6 of them are confirmed on day 13."""
    allowance = gives(10, lasts="P10D", return_after_end=ReturnAfterEnd.REGRANT)
    sold = Told(catalogue(quota(), offer("pack", allowance)))
    sold.tell(day(1), bought())
    sold.ask(day(6), hold(8))
    sold.ask(day(13), confirm(6))
    return sold


def reverse(life: Told, at: datetime, *, now: datetime, units: int = 4) -> None:
    fact = usage_reversed("api@h", units, reversal=f"v{at}")
    life.world.tell((told(f"v{at}", at, fact, source="request/shop"), now))
    assert_all(life.world)


def again(life: Told) -> list[tuple[datetime, datetime | None, int]]:
    """From when to when what was granted once more, and how many units."""
    grants = life.world.customers["ada"].grants.values()
    return [
        (grant.terms.effective_at, grant.terms.expires_at, grant.granted)
        for grant in grants
        if grant.terms.origin is Origin.REGRANT
    ]


def test_what_was_confirmed_after_the_end_is_granted_once_more_where_it_is_reversed(ended: Told) -> None:
    """Two that were released then expire, as the two that nobody had held did on day 11."""
    reverse(ended, day(15), now=day(15))

    assert again(ended) == [(day(15), day(25), 4)]
    assert ended.units(day(16)) == (4, 0, 0, 0)
    (first,) = [one for one in ended.world.customers["ada"].grants.values() if one.terms.origin is None]
    assert (first.used, first.moved, first.expired) == (2, 4, 4)


def test_what_was_reversed_between_the_end_and_its_confirmation_is_granted_once_more_from_there(ended: Told) -> None:
    reverse(ended, day(12), now=day(15))

    assert again(ended) == [(day(13), day(23), 4)]


def test_what_was_reversed_before_the_end_and_confirmed_after_it_is_gone(ended: Told) -> None:
    reverse(ended, day(10), now=day(15))

    assert again(ended) == []
    assert ended.units(day(16)) == (0, 0, 0, 0)


def test_two_reversals_of_what_was_confirmed_after_the_end_give_each_its_own(ended: Told) -> None:
    reverse(ended, day(17), now=day(17), units=1)
    reverse(ended, day(15), now=day(18), units=3)

    assert sorted(again(ended)) == [(day(15), day(25), 3), (day(17), day(27), 1)]


def test_what_came_back_by_the_end_is_granted_once_more_only_once() -> None:
    """A hold that outlasts the end of the grant brings nothing back that usage reversed after it had brought back."""
    allowance = gives(10, lasts="P10D", return_after_end=ReturnAfterEnd.REGRANT)
    life = Told(catalogue(quota(), offer("pack", allowance)))
    life.tell(day(1), bought())
    life.ask(day(6), hold(7))
    life.tell(day(7), used(3))
    life.world.tell((told("v", day(15), usage_reversed("e2", 3)), day(15)))
    life.ask(day(16), release())

    assert [units for _, _, units in again(life)] == [3]
    assert life.units(day(16, 1)) == (3, 0, 0, 0)


def test_on_a_soft_limit_more_is_held_than_there_is_and_is_overage_when_confirmed() -> None:
    life = Told(catalogue(quota(limit=LimitPolicy.SOFT), offer("pack", gives(10, lasts="forever"))))
    life.tell(day(1), bought())
    answer = life.ask(day(6), hold(12))
    assert sorted((one.grant_id is None, one.units) for one in answer.items[0].covered) == [(False, 10), (True, 2)]

    life.ask(day(7), confirm())

    assert life.units(day(7, 1)) == (0, 0, 10, 2)


def test_of_an_unlimited_quota_nothing_is_missing_while_it_is_held() -> None:
    life = Told(catalogue(quota(), offer("pack", gives(None, lasts="forever"))))
    life.tell(day(1), bought())
    life.ask(day(6), hold(12))
    assert life.units(day(6, 1)) == (None, 0, 0, 0)

    life.ask(day(7), confirm(5))

    assert life.units(day(7, 1)) == (None, 0, 5, 0)


# -- between customers


def test_what_is_released_after_a_transfer_follows_it(life: Told) -> None:
    life.ask(day(6), hold(7))
    life.tell(day(8), order_transferred())
    assert life.units(day(8, 1), "bob")[0] == 3

    life.ask(day(9), confirm(2))

    assert life.units(day(9, 1), "bob") == (8, 0, 0, 0)
    assert life.world.customers["ada"].accounts["api"].used_total == 2


def test_who_goes_on_as_another_takes_it_along(life: Told) -> None:
    life.ask(day(6), hold(7))
    life.tell(day(8), merged())
    assert life.units(day(8, 1), "bob") == (3, 7, 0, 0)
    assert life.units(day(8, 1)) == (0, 0, 0, 0)

    answer = life.ask(day(9), confirm(2, customer="bob"))

    assert answer.is_granted
    assert life.units(day(9, 1), "bob") == (8, 0, 2, 0)


def test_a_merge_told_late_takes_what_was_confirmed_along(life: Told) -> None:
    life.ask(day(6), hold(7))
    life.ask(day(9), confirm(2))
    life.tell(day(8), merged(), now=day(10))

    assert life.units(day(10, 1), "bob") == (8, 0, 2, 0)
    assert life.world.customers["ada"].accounts["api"].usage == 0


@pytest.mark.parametrize(
    "seconds", [0, -1, HOLD_SECONDS_MAX + 1, 10**5000], ids=["none", "before", "too long", "absurd"]
)
def test_a_time_that_cannot_be_is_impossible(seconds: int) -> None:
    said = judge(hold(1, seconds=seconds))

    assert said is not None
    assert said.endswith(f"expected 1 to {HOLD_SECONDS_MAX}")
    assert judge(hold(1, seconds=HOLD_SECONDS_MAX)) is None


# -- what once went wrong


def test_released_units_roll_over_within_the_cap_that_a_sibling_which_is_over_shares() -> None:
    allowance = gives(10, rollover_units=4, rollover_times=2, leeway_seconds=0)
    life = Told(catalogue(quota(), offer("plan", allowance)))
    life.tell(day(1), activated(day(1), day(9), item()))
    life.tell(day(2), quantity_changed(2, day(2)))
    for key, units in (("h", 8), ("hx", 2), ("h2", 7)):
        life.ask(day(3), hold(units, key, seconds=29 * DAY))
    life.ask(day(8), release("hx", key="rx"))
    life.tell(day(9), renewed(day(9), day(17), item(quantity=2)))
    life.ask(day(10), hold(2, "h3", seconds=29 * DAY))
    life.ask(day(10), hold(2, "h4", seconds=29 * DAY))
    life.ask(day(11), release("h3", key="r3"))
    life.pass_to(day(18))

    life.ask(day(18, 1), release("h2", key="r2"))

    children = [one for one in life.world.customers["ada"].grants.values() if one.terms.parent is not None]
    assert sum(one.granted for one in children) == 8


def test_a_cut_waits_no_longer_than_something_of_its_grant_is_held() -> None:
    life = Told(catalogue(quota(), offer("pack", gives(10, lasts="P9D")), offer("big", gives(10, lasts="forever"))))
    life.tell(day(1), bought())
    life.tell(day(1, 1), bought(line("big"), order="o2"))
    life.tell(day(2), used(5))
    life.ask(day(3), hold(1, "x"))
    life.tell(day(4), refunded())
    life.ask(day(5), hold(8, "y"))
    life.ask(day(6), release("x", key="rx"))

    assert life.world.customers["ada"].accounts["api"].claims == ()
    life.pass_to(day(11))
    life.ask(day(12), release("y", key="ry"))
    assert {one.phase.value for one in life.world.customers["ada"].grants.values()} == {"ended", "active"}


def test_what_was_reversed_before_it_was_confirmed_is_no_overage_in_the_answer(life: Told) -> None:
    life.ask(day(6), hold(5))
    life.world.tell((told("v", day(6, 1), usage_reversed("api@h", 3), source="request/shop"), day(6, 1)))

    answer = life.ask(day(7), confirm())

    assert [(one.grant_id is None, one.units) for one in answer.items[0].covered] == [(False, 2)]
    assert life.units(day(7, 1)) == (8, 0, 2, 0)
