"""Which usage is covered by which grant: precedence, cuts, debt, overage, leeway, and what comes late."""

from datetime import datetime, timedelta

import pytest

from ledger_worker.domain.catalogue import Allowance, Catalogue, DebtPolicy, LimitPolicy, OveragePolicy, RefundPolicy
from ledger_worker.domain.events import Fact
from ledger_worker.domain.ledger import Phase
from tests.domain.agreement import assert_all, coverage
from tests.domain.driver import Life
from tests.domain.telling import (
    MINUTE,
    PACK_OF_TEN,
    activated,
    bought,
    cancelled,
    catalogue,
    day,
    gives,
    item,
    line,
    offer,
    quota,
    refunded,
    renewed,
    told,
    used,
)

Step = tuple[datetime, Fact]
"""What happened when; told at once."""


def lived(offered: Catalogue, *steps: Step, told_at: datetime | None = None) -> Life:
    """A life in which each step is told when it happened, or all of them at `told_at`; every claim holds after each."""
    life = Life(offered)
    for number, (at, fact) in enumerate(steps):
        life.tell((told(f"e{number}", at, fact), told_at or at))
        assert_all(life)
    return life


def counts(life: Life, entitlement: str = "api") -> dict[str, int]:
    """The account's counters that are not zero."""
    account = life.accounts[entitlement]
    names = {"used": account.used_total, "overage": account.overage, "debt": account.debt, "forgiven": account.forgiven}
    return {name: units for name, units in names.items() if units}


def units(
    life: Life, line_or_item: str = "l1", allowance: str = "api", start: datetime | None = None
) -> dict[str, int]:
    """The counters that are not zero of the grant of a line, or of the item's period that begins at `start`."""
    (grant,) = [
        grant
        for grant in life.grants.values()
        if grant.phase is not Phase.VOID
        and (grant.terms.line_id, grant.terms.allowance) == (line_or_item, allowance)
        and start in {None, grant.terms.effective_at}
    ]
    names = ("available", "used", "expired", "revoked")
    return {name: getattr(grant, name) for name in names if getattr(grant, name)}


# -- what comes late


def test_usage_that_comes_late_takes_the_units_that_a_cut_took_before() -> None:
    """G=100; usage 60@1; whole refund `unused_only`@5 revokes 40; usage 30@4 arrives late: now it revokes 10."""
    offered = catalogue(quota(), offer("pack", gives(100, lasts="forever")))
    steps: list[Step] = [(day(1), bought()), (day(1, 1), used(60)), (day(5), refunded())]

    assert units(lived(offered, *steps)) == {"used": 60, "revoked": 40}
    assert units(lived(offered, *steps, (day(4), used(30)), told_at=day(6))) == {"used": 90, "revoked": 10}


def test_each_correction_carries_the_instant_it_corrects() -> None:
    offered = catalogue(quota(), offer("pack", gives(100, lasts="forever")))
    life = lived(offered, (day(1), bought()), (day(1, 1), used(60)), (day(5), refunded()))

    life.tell((told("late", day(4), used(30)), day(6)))

    assert {(entry.line.kind, entry.line.at, entry.line.units) for entry in life.postings[-1].entries} == {
        ("burn", day(4), 30),
        ("revoke", day(5), -30),
    }
    assert life.postings[-1].recorded_at == day(6)


def test_a_late_purchase_covers_what_was_overage() -> None:
    life = lived(PACK_OF_TEN, (day(3), used(4)), (day(5), used(1)))
    assert counts(life) == {"overage": 5}

    life.tell((told("p", day(2), bought()), day(6)))

    assert counts(life) == {"used": 5}
    assert_all(life)


def test_usage_before_the_purchase_stays_overage() -> None:
    life = lived(PACK_OF_TEN, (day(1), used(3)), (day(2), bought()), (day(3), used(4)))

    assert (counts(life), units(life)) == ({"used": 4, "overage": 3}, {"available": 6, "used": 4})


def test_at_one_instant_ends_come_first_then_begins_then_cuts_then_usage() -> None:
    offered = catalogue(quota(), offer("pack", gives(10, lasts="P1D")), offer("more", gives(5, lasts="P1D")))

    life = lived(
        offered,
        (day(1), bought(order="old")),
        (day(2), bought(line("more"), order="new")),
        (day(2), refunded(order="new")),
        (day(2), used(3)),
        told_at=day(3),
    )

    assert {(grant.terms.source_key, grant.used, grant.expired, grant.revoked) for grant in life.grants.values()} == {
        ("order/old", 0, 10, 0),
        ("order/new", 0, 0, 5),
    }
    assert counts(life) == {"overage": 3}


def test_usage_of_one_instant_burns_by_source_then_id() -> None:
    life = Life(PACK_OF_TEN)
    life.tell((told("p", day(1), bought()), day(1)))
    for source, event_id in (("b", "1"), ("a", "2"), ("a", "1")):
        life.tell((told(event_id, day(2), used(4), source=source), day(3)))

    of_each = {
        (decided.event.event_source, decided.event.event_id): coverage(life, "api").get(decided.key)
        for decided in life.inbox.values()
    }
    (grant,) = life.grants
    assert of_each["a", "1"] == {grant: 4}
    assert of_each["a", "2"] == {grant: 4}
    assert of_each["b", "1"] == {grant: 2, "overage": 2}


@pytest.mark.parametrize("ahead", [MINUTE, 5 * MINUTE])
def test_usage_dated_up_to_five_minutes_ahead_counts_when_it_was_recorded(ahead: timedelta) -> None:
    life = Life(PACK_OF_TEN)
    life.tell((told("p", day(1), bought()), day(1)))

    decided = life.tell((told("u", day(2) + ahead, used(4)), day(2)))

    assert [event.counted_at for event in decided.events] == [day(2)]
    assert units(life) == {"available": 6, "used": 4}


# -- precedence


@pytest.mark.parametrize(
    ("allowances", "first"),
    [
        ((gives(10, key="a", lasts="P9D", priority=2), gives(10, key="b", lasts="P9D", priority=1)), "b"),
        ((gives(10, key="a", lasts="P9D"), gives(10, key="b", lasts="P8D")), "b"),
        ((gives(10, key="a", lasts="forever"), gives(10, key="b", lasts="P900D")), "b"),
        ((gives(None, key="a", lasts="P9D", priority=1), gives(10, key="b", lasts="forever", priority=9)), "b"),
    ],
)
def test_priority_then_the_sooner_end_burns_first_and_the_unlimited_last(
    allowances: tuple[Allowance, ...], first: str
) -> None:
    life = lived(catalogue(quota(), offer("pack", *allowances)), (day(1), bought()), (day(2), used(4)))

    assert units(life, allowance=first)["used"] == 4


def test_of_like_grants_the_earlier_start_burns_first() -> None:
    life = lived(
        PACK_OF_TEN,
        (day(1), bought(line(line_id="z"))),
        (day(2), bought(line(line_id="a"), order="o2")),
        (day(3), used(4)),
    )

    assert units(life, "z") == {"available": 6, "used": 4}


def test_usage_spills_over_to_the_next_grant_and_what_none_covers_is_overage() -> None:
    life = lived(
        PACK_OF_TEN,
        (day(1), bought(line(line_id="a"))),
        (day(2), bought(line(line_id="b"), order="o2")),
        (day(3), used(23)),
    )

    assert counts(life) == {"used": 20, "overage": 3}


def test_an_unlimited_grant_covers_everything() -> None:
    offered = catalogue(quota(), offer("pack", gives(None, lasts="forever")))

    assert counts(lived(offered, (day(1), bought()), (day(2), used(500)))) == {"used": 500}


# -- cuts, debt


FULL = RefundPolicy.FULL_WITH_DEBT


def full_with(debt: DebtPolicy, lasts: str = "forever") -> Catalogue:
    return catalogue(quota(debt=debt), offer("pack", gives(10, lasts=lasts, refund=FULL)))


@pytest.mark.parametrize(
    ("policy", "owes"), [(DebtPolicy.FORGIVE, "forgiven"), (DebtPolicy.CARRY, "debt"), (DebtPolicy.BLOCK, "debt")]
)
def test_full_with_debt_takes_what_is_free_and_then_what_was_used(policy: DebtPolicy, owes: str) -> None:
    life = lived(full_with(policy), (day(1), bought()), (day(2), used(6)), (day(3), refunded()))

    assert (units(life), counts(life)) == ({"revoked": 10}, {owes: 6})


def test_full_with_debt_takes_expired_units_before_used_ones() -> None:
    life = lived(
        full_with(DebtPolicy.CARRY, "P1D"),
        (day(1), bought(line(quantity=2))),
        (day(1, 1), used(12)),
        (day(3), refunded(quantity=1)),
    )

    assert (units(life), counts(life)) == ({"used": 10, "revoked": 10}, {"used": 10, "debt": 2})


def test_full_with_debt_uncovers_the_latest_use_first() -> None:
    life = lived(
        full_with(DebtPolicy.CARRY),
        (day(1), bought(line(quantity=2))),
        (day(2), used(9)),
        (day(3), used(9)),
        (day(4), refunded(quantity=1)),
    )

    by_day = {
        decided.counted_at: coverage(life, "api")[decided.key] for decided in life.inbox.values() if decided.counted_at
    }
    (grant,) = life.grants
    assert by_day == {day(2): {grant: 9}, day(3): {grant: 1, "debt": 8}}


def test_a_grant_that_begins_after_the_debt_pays_it_first() -> None:
    steps: list[Step] = [(day(1), bought()), (day(2), used(6)), (day(3), refunded())]

    life = lived(full_with(DebtPolicy.CARRY), *steps, (day(4), bought(line(line_id="l2"), order="o2")))

    assert (units(life, "l2"), counts(life)) == ({"available": 4, "used": 6}, {"used": 6})


def test_a_grant_that_begins_at_the_instant_of_the_debt_pays_it() -> None:
    steps: list[Step] = [(day(1), bought()), (day(2), used(6)), (day(3), refunded())]

    life = lived(full_with(DebtPolicy.CARRY), *steps, (day(3), bought(line(line_id="l2"), order="o2")))

    assert counts(life) == {"used": 6}


def test_a_grant_that_was_running_pays_nothing() -> None:
    life = lived(
        full_with(DebtPolicy.CARRY),
        (day(1), bought()),
        (day(1, 1), bought(line(line_id="l2"), order="o2")),
        (day(2), used(6)),
        (day(3), refunded()),
    )

    assert (units(life, "l2"), counts(life)) == ({"available": 10}, {"debt": 6})


def test_a_debt_larger_than_the_next_grant_is_paid_by_several() -> None:
    life = lived(
        full_with(DebtPolicy.CARRY),
        (day(1), bought(line(quantity=3))),
        (day(2), used(25)),
        (day(3), refunded()),
        (day(4), bought(line(line_id="l2"), order="o2")),
        (day(5), bought(line(line_id="l3"), order="o3")),
        (day(6), bought(line(line_id="l4"), order="o4")),
    )

    assert counts(life) == {"used": 25}
    assert units(life, "l4") == {"available": 5, "used": 5}


def test_a_payer_that_is_refunded_owes_again() -> None:
    life = lived(
        full_with(DebtPolicy.CARRY),
        (day(1), bought()),
        (day(2), used(6)),
        (day(3), refunded()),
        (day(4), bought(line(line_id="l2"), order="o2")),
        (day(5), refunded("r2", order="o2")),
    )

    assert (units(life, "l2"), counts(life)) == ({"revoked": 10}, {"debt": 6})


def test_a_late_purchase_that_began_before_the_refund_leaves_the_debt() -> None:
    steps: list[Step] = [(day(1), bought()), (day(2), used(6)), (day(3), refunded())]

    life = lived(
        full_with(DebtPolicy.CARRY), *steps, (day(2, 1), bought(line(line_id="l2"), order="o2")), told_at=day(6)
    )

    assert (units(life, "l2"), counts(life)) == ({"available": 10}, {"debt": 6})


def test_unused_only_takes_what_is_free_and_the_rest_of_the_cut_stays_open() -> None:
    life = lived(PACK_OF_TEN, (day(1), bought()), (day(2), used(6)), (day(3), refunded()))

    assert (units(life), counts(life)) == ({"used": 6, "revoked": 4}, {"used": 6})


def test_a_refund_after_the_end_takes_nothing_of_what_expired_when_only_the_unused_goes_back() -> None:
    offered = catalogue(quota(), offer("pack", gives(10, lasts="P1D")))

    life = lived(offered, (day(1), bought()), (day(3), refunded()))

    assert units(life) == {"expired": 10}


def test_a_refund_dated_ahead_acts_at_its_instant_and_once_for_each_grant() -> None:
    """Two grants of one account are cut at the same instant, which lies ahead when it is told."""
    offered = catalogue(
        quota(debt=DebtPolicy.CARRY),
        offer("pack", gives(10, lasts="forever", refund=FULL), gives(10, key="extra", lasts="forever", refund=FULL)),
    )
    life = lived(offered, (day(1), bought(line(quantity=2))), (day(2), used(25)))

    life.tell((told("r", day(3), refunded(quantity=1)), day(3) - 2 * MINUTE))
    assert counts(life) == {"used": 25}
    life.catch_up(day(4))

    assert sorted(grant.revoked for grant in life.grants.values()) == [10, 10]
    assert counts(life) == {"used": 15, "debt": 10}
    assert_all(life)


def test_a_grant_told_late_that_paid_a_debt_and_was_refunded_owes_again() -> None:
    """Begin, payment and cut are booked in one step, so the cut has to know what the payment covered."""
    life = lived(full_with(DebtPolicy.CARRY), (day(1), bought()), (day(2), used(6)), (day(3), refunded()))

    life.tell((told("r2", day(6), refunded("r2", order="o2")), day(7)))
    life.tell((told("p2", day(5), bought(line(line_id="l2"), order="o2")), day(7)))

    assert (units(life, "l2"), counts(life)) == ({"revoked": 10}, {"debt": 6})
    assert_all(life)


def test_a_grant_that_ended_with_a_cut_yet_to_come_is_closed_once_it_came() -> None:
    offered = catalogue(quota(), offer("pack", gives(10, lasts="PT1H")))
    life = lived(offered, (day(1), bought()))

    life.tell((told("r", day(1, 2), refunded()), day(1, 2) - MINUTE))
    assert [grant.phase for grant in life.grants.values()] == [Phase.ENDING]
    life.catch_up(day(2))

    assert [grant.phase for grant in life.grants.values()] == [Phase.ENDED]


# -- overage


def test_overage_is_kept_apart_or_carried_to_grants_that_begin_later() -> None:
    def after(policy: OveragePolicy) -> Life:
        offered = catalogue(quota(overage=policy), offer("pack", gives(10, lasts="P1D")))
        return lived(
            offered, (day(1), bought()), (day(1, 1), used(14)), (day(5), bought(line(line_id="l2"), order="o2"))
        )

    assert counts(after(OveragePolicy.SEPARATE)) == {"used": 10, "overage": 4}
    assert counts(after(OveragePolicy.CARRY)) == {"used": 14}
    assert units(after(OveragePolicy.CARRY), "l2") == {"available": 6, "used": 4}


def test_overage_counts_against_what_is_in_force_since_its_start() -> None:
    """The picture shows overage of the present grants; the account keeps that of its whole life."""
    offered = catalogue(quota(limit=LimitPolicy.SOFT), offer("pack", gives(10, lasts="P1D")))
    steps: list[Step] = [(day(1), bought()), (day(1, 1), used(14))]

    life = lived(offered, *steps, (day(5), bought(line(line_id="l2"), order="o2")), (day(5, 1), used(11)))

    assert (life.picture("api", day(5, 2)).overage, counts(life)) == (1, {"used": 20, "overage": 5})


def test_a_stretch_of_overage_is_stored_alike_by_one_step_and_by_the_whole_run() -> None:
    offered = catalogue(quota(), offer("pack", gives(10, lasts="P1D")))

    life = lived(offered, (day(1), bought()), (day(5), used(1)), (day(6), used(1)))

    assert life.accounts["api"].overage_since == ((day(2), 2),)


# -- subscriptions


PLAN = catalogue(quota(), offer("plan", gives(10)))


def test_a_renewal_told_late_leaves_no_gap_and_takes_the_use_within_the_leeway_to_the_new_period() -> None:
    steps: list[Step] = [(day(1), activated(day(1), day(11))), (day(10), used(3)), (day(11, 3), used(4))]
    life = lived(PLAN, *steps)
    assert units(life, "i1") == {"available": 3, "used": 7}
    assert life.picture("api", day(11, 5)).allowed

    life.tell((told("r", day(11, 6), renewed(day(11), day(21))), day(11, 6)))

    assert units(life, "i1", start=day(1)) == {"used": 3, "expired": 7}
    assert units(life, "i1", start=day(11)) == {"available": 6, "used": 4}
    assert_all(life)


def test_access_within_the_leeway_ends_with_it() -> None:
    life = lived(PLAN, (day(1), activated(day(1), day(11))))

    assert life.picture("api", day(12) - MINUTE).allowed
    assert not life.picture("api", day(12)).allowed


def test_a_renewal_told_after_the_leeway_covers_what_was_overage_meanwhile() -> None:
    life = lived(PLAN, (day(1), activated(day(1), day(11))), (day(13), used(4)))
    assert counts(life) == {"overage": 4}

    life.tell((told("r", day(11), renewed(day(11), day(21))), day(14)))

    assert counts(life) == {"used": 4}
    assert_all(life)


def test_a_renewal_told_ahead_begins_where_the_period_before_it_ends() -> None:
    life = lived(PLAN, (day(1), activated(day(1), day(11))), (day(10), renewed(day(11), day(21))), (day(11), used(10)))

    assert units(life, "i1", start=day(1)) == {"expired": 10}
    assert units(life, "i1", start=day(11)) == {"used": 10}


def test_a_cancellation_told_late_takes_back_the_use_after_it() -> None:
    life = lived(PLAN, (day(1), activated(day(1), day(11))), (day(4), used(3)), (day(6), used(4)))

    life.tell((told("c", day(5), cancelled(day(5))), day(7)))

    assert (units(life, "i1"), counts(life)) == ({"used": 3, "expired": 7}, {"used": 3, "overage": 4})
    assert_all(life)


def test_an_end_that_moves_changes_which_of_two_grants_burnt_first() -> None:
    """With leeway the plan ends after the pack, and burns second; renewed, it ends before it."""
    offered = catalogue(quota(), offer("plan", gives(10)), offer("pack", gives(10, lasts="P10D")))
    life = lived(offered, (day(1), activated(day(1), day(11))), (day(1, 12), bought()), (day(5), used(4)))
    assert units(life, "l1") == {"available": 6, "used": 4}

    life.tell((told("r", day(6), renewed(day(11), day(21))), day(6)))

    assert units(life, "l1") == {"available": 10}
    assert units(life, "i1", start=day(1)) == {"available": 6, "used": 4}
    assert_all(life)


def test_a_corrected_sku_undoes_its_grant_and_what_it_covered_moves_on() -> None:
    offered = catalogue(quota(), offer("plan", gives(10)), offer("large", gives(50)))
    life = lived(offered, (day(1), activated(day(1), day(11))), (day(2), used(14)))

    life.tell((told("a2", day(3), activated(day(1), day(11), item("large"))), day(3)))

    assert (units(life, "i1"), counts(life)) == ({"available": 36, "used": 14}, {"used": 14})
    assert {grant.phase for grant in life.grants.values()} == {Phase.VOID, Phase.ACTIVE}
    assert_all(life)


def test_a_correction_that_is_taken_back_brings_the_first_grant_back() -> None:
    offered = catalogue(quota(), offer("plan", gives(10)), offer("large", gives(50)))
    life = lived(
        offered,
        (day(1), activated(day(1), day(11))),
        (day(2), used(4)),
        (day(3), activated(day(1), day(11), item("large"))),
        (day(4), activated(day(1), day(11))),
    )

    assert [(grant.terms.sku, grant.used) for grant in life.grants.values() if grant.phase is Phase.ACTIVE] == [
        ("plan", 4)
    ]


@pytest.mark.parametrize(("first", "then"), [(None, 7), (7, None)], ids=["it gets a limit", "it loses its limit"])
def test_a_period_to_come_that_a_late_fact_moves_to_another_version_holds_the_units_of_that_one(
    first: int | None, then: int | None
) -> None:
    """The item entered the source earlier than was known, when the older version of its offer was in force."""
    offered = catalogue(
        quota(), offer("plan", gives(then)), offer("plan", gives(first), version=2, published_at=day(3))
    )
    ahead = activated(day(20), day(50))
    life = lived(offered, (day(4), ahead))

    life.tell((told("late", day(2), ahead), day(5)))

    (grant,) = life.grants.values()
    assert grant.terms.amount == then
    assert (grant.granted, grant.available) == (then or 0, then or 0)
    assert_all(life)
