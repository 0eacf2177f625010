"""The second opinion by itself: every rule on the smallest example that shows it, with the numbers written out."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import msgspec
import pytest

from ledger_worker.domain.catalogue import (
    Allowance,
    Apply,
    Catalogue,
    Clock,
    DebtPolicy,
    Entitlement,
    EntitlementType,
    LimitPolicy,
    Offer,
    OnCancel,
    OnChange,
    OveragePolicy,
    RefundPolicy,
    ReturnAfterEnd,
)
from ledger_worker.domain.events import (
    AssignmentExtended,
    AssignmentRenewed,
    AssignmentRevoked,
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    CustomersMerged,
    EntitlementAssigned,
    Event,
    Fact,
    PurchaseTransferred,
    RefundReversed,
    SubscriptionAddOnAdded,
    SubscriptionAddOnRemoved,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionExpired,
    SubscriptionExtended,
    SubscriptionPaused,
    SubscriptionPaymentFailed,
    SubscriptionPaymentRecovered,
    SubscriptionPlanChanged,
    SubscriptionQuantityChanged,
    SubscriptionResumed,
    SubscriptionRevoked,
    SubscriptionTransferred,
    SubscriptionTrialConverted,
    SubscriptionTrialExpired,
    SubscriptionTrialStarted,
    UsageReversed,
)
from ledger_worker.domain.values import JsonText, MergePolicy
from ledger_worker.local.oracle.terms import Given, given
from ledger_worker.local.oracle.units import Outcome, outcomes
from tests.domain.histories import START, TICK, history_of, world_of
from tests.domain.telling import activated, assigned, bought, cancelled, day, item, line, refunded, renewed, told, used

NAMES = UUID("6a1f2e2c-8e0b-4b8e-9a53-0c6d1f1f7a11")
S1 = "s1"
DAY = timedelta(days=1)


class Named:
    """Names that are the same for the same parts."""

    def root(
        self, source: str, line: str, sku: str, allowance: str, period_start: datetime | None, segment: str
    ) -> UUID:
        return uuid5(NAMES, repr((source, line, sku, allowance, period_start, segment)))

    def child(self, parent: UUID, kind: str, cause: str) -> UUID:
        return uuid5(NAMES, repr((parent, kind, cause)))


def quota(**more: object) -> Entitlement:
    return msgspec.structs.replace(
        Entitlement(key="api", name="api", type=EntitlementType.QUOTA, unit="call", version=1), **more
    )


def gives(units: int | None, **more: object) -> Allowance:
    """An allowance for a period without leeway and grace, but for what is said."""
    plain = Allowance(key="api", entitlement="api", units=units, leeway_seconds=0, grace_seconds=0)
    return msgspec.structs.replace(plain, **more)


def offer(
    sku: str, *allowances: Allowance, version: int = 1, at: datetime | None = None, apply: Apply = Apply.NOW
) -> Offer:
    return Offer(sku=sku, allowances=allowances, apply=apply, version=version, published_at=at or day(1))


def catalogue(*entries: Entitlement | Offer) -> Catalogue:
    offers: dict[str, tuple[Offer, ...]] = {}
    for entry in entries:
        if isinstance(entry, Offer):
            offers[entry.sku] = (*offers.get(entry.sku, ()), entry)
    entitlements = {entry.key: entry for entry in entries if isinstance(entry, Entitlement)}
    return Catalogue(version=1, entitlements=entitlements or {"api": quota()}, offers=offers)


def facts(*steps: tuple[datetime, Fact]) -> list[Event]:
    """Facts about ada, each told where it occurred, under an id of its own."""
    return [told(f"e{place}", at, fact) for place, (at, fact) in enumerate(steps)]


def come_to(offered: Catalogue, events: Sequence[Event], at: datetime, customer: str = "ada") -> Outcome:
    return outcomes(events, offered, Named(), at)[customer, "api"]


def terms(offered: Catalogue, *steps: tuple[datetime, Fact]) -> list[Given]:
    return sorted(given(facts(*steps), offered, Named()), key=lambda one: (one.start, one.generation, one.units or 0))


def spans(offered: Catalogue, *steps: tuple[datetime, Fact]) -> list[tuple[int | None, datetime, datetime | None]]:
    return [(one.units, one.start, one.end) for one in terms(offered, *steps)]


def piles(outcome: Outcome) -> list[dict[str, int | None]]:
    """The piles of each grant that are not empty."""
    return [{name: units for name, units in piles.items() if units} for piles in outcome.grants.values()]


PACK = catalogue(offer("pack", gives(10, lasts="forever")))
PLAN = catalogue(offer("plan", gives(10)), offer("big", gives(20)))


# -- order and keys


def test_a_late_usage_leaves_less_for_a_refund_to_take() -> None:
    hundred = catalogue(offer("pack", gives(100, lasts="forever")))
    lived = facts((day(0), bought()), (day(1), used(60)), (day(5), refunded()))

    assert piles(come_to(hundred, lived, day(9))) == [{"granted": 100, "used": 60, "revoked": 40}]
    late = [*lived, told("late", day(4), used(30))]
    assert piles(come_to(hundred, late, day(9))) == [{"granted": 100, "used": 90, "revoked": 10}]


def test_what_is_told_again_moves_nothing_and_what_is_told_otherwise_moves() -> None:
    again = ((day(1), bought()), (day(2), refunded(quantity=1)), (day(4), refunded(quantity=1)))
    otherwise = ((day(1), bought(line(quantity=2))), (day(2), refunded(quantity=1)), (day(4), refunded(quantity=2)))

    assert [(one.at, one.units) for one in terms(PACK, *again)[0].taken_back] == [(day(2), 10)]
    assert [(one.at, one.units) for one in terms(PACK, *otherwise)[0].taken_back] == [(day(4), 20)]


def test_versions_order_facts_and_lift_their_instants() -> None:
    events = [
        told("a", day(5), activated(day(1), day(11)), version=1),
        told("b", day(2), cancelled(day(8)), version=2),
        told("c", day(3), SubscriptionCancellationWithdrawn(subscription_id=S1, cancellation_id="c1")),
    ]

    assert [one.end for one in given(events, PLAN, Named())] == [day(8)]


# -- orders


def test_three_refunds_of_a_third_take_everything() -> None:
    ten = catalogue(offer("pack", gives(10, lasts="forever")))
    thirds = [(day(1 + third), refunded(f"r{third}", of_line=100)) for third in (1, 2, 3)]

    (pack,) = terms(ten, (day(1), bought(line(amount=300))), *thirds)

    assert [one.units for one in pack.taken_back] == [3, 3, 4]
    assert [one.why for one in pack.taken_back] == ["refund/r1", "refund/r2", "refund/r3"]


def test_an_amount_is_spread_over_what_is_left_of_each_line() -> None:
    lines = (line(line_id="l1", amount=300), line(line_id="l2", amount=100))
    steps = ((day(1), bought(*lines)), (day(2), refunded("r1", of_line=300)), (day(3), refunded("r2", amount=50)))

    by_line = {one.line: [cut.units for cut in one.taken_back] for one in terms(PACK, *steps)}

    assert by_line == {"l1": [10], "l2": [5]}


def test_a_refund_that_is_reversed_never_was() -> None:
    undone = RefundReversed(order_id="o1", reversal_id="v1", refund_id="r1")

    assert terms(PACK, (day(1), bought()), (day(2), refunded()), (day(3), undone)) == terms(PACK, (day(1), bought()))


def test_prorate_takes_the_share_of_the_time_that_remains() -> None:
    offered = catalogue(offer("pack", gives(10, lasts="P10D", refund=RefundPolicy.PRORATE)))

    (pack,) = terms(offered, (day(1), bought()), (day(4, 12), refunded()))

    assert [(one.units, one.policy) for one in pack.taken_back] == [(6, "prorate")]


@pytest.mark.parametrize(
    ("debt", "units", "owed"),
    [
        (DebtPolicy.FORGIVE, (0, 6), []),
        (DebtPolicy.CARRY, (6, 0), [6]),
        (DebtPolicy.BLOCK, (6, 0), [6]),
    ],
)
def test_a_whole_refund_makes_debt_of_what_was_used(debt: DebtPolicy, units: tuple[int, int], owed: list[int]) -> None:
    full = catalogue(quota(debt=debt), offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT)))
    lived = facts((day(1), bought()), (day(2), used(6)), (day(3), refunded()), (day(4), bought(order="o2")))

    after = come_to(full, lived[:3], day(9))

    assert (after.debt, after.forgiven, after.used, after.limit) == (*units, 0, 0)
    paid = come_to(full, lived, day(9))
    assert [piles["used"] for piles in paid.grants.values() if piles["used"]] == owed
    assert paid.debt == 0


def test_a_full_cut_takes_what_expired_before_it_takes_what_was_used() -> None:
    full = gives(10, lasts="P1D", refund=RefundPolicy.FULL_WITH_DEBT)
    lived = facts((day(1), bought(line(quantity=2))), (day(1, 1), used(6)), (day(5), refunded(quantity=1)))

    after = come_to(catalogue(quota(debt=DebtPolicy.CARRY), offer("pack", full)), lived, day(9))

    assert piles(after) == [{"granted": 20, "used": 6, "expired": 4, "revoked": 10}]


def test_an_open_dispute_suspends_and_one_that_is_won_does_no_longer() -> None:
    opened, won = ChargebackOpened(order_id="o1", dispute_id="d1"), ChargebackWon(order_id="o1", dispute_id="d1")
    lived = facts((day(1), bought()), (day(3), opened), (day(4), used(2)), (day(5), won))

    during, after = come_to(PACK, lived, day(4)), come_to(PACK, lived, day(5))

    assert (during.allowed, during.reason, during.suspended) == (False, "suspended", ("dispute/d1",))
    assert (during.limit, during.overage_counted) == (0, 2)
    assert (after.allowed, after.limit, after.used, after.overage_counted) == (True, 10, 0, 2)


def test_a_lost_dispute_is_a_refund() -> None:
    lost = ChargebackLost(order_id="o1", dispute_id="d1", amount=50)

    (pack,) = terms(PACK, (day(1), bought(line(amount=100))), (day(2), lost))

    assert [(one.why, one.units) for one in pack.taken_back] == [("dispute/d1", 5)]


def test_a_won_dispute_moves_the_end_where_the_offer_says_so() -> None:
    opened, won = ChargebackOpened(order_id="o1", dispute_id="d1"), ChargebackWon(order_id="o1", dispute_id="d1")
    steps = ((day(1), bought()), (day(3), opened), (day(5), won))

    for extend, end in ((True, day(13)), (False, day(11))):
        assert spans(catalogue(offer("pack", gives(10, lasts="P10D", extend_on_won=extend))), *steps) == [
            (10, day(1), end)
        ]


# -- subscriptions


def test_a_renewal_told_late_takes_over_from_the_leeway() -> None:
    offered = catalogue(offer("plan", gives(10, leeway_seconds=86_400)))
    lived = facts((day(1), activated(day(1), day(11))), (day(11, 6), used(4)))

    assert [piles["used"] for piles in come_to(offered, lived, day(11, 6)).grants.values()] == [4]
    late = [*lived, told("late", day(11, 12), renewed(day(11), day(21)))]
    assert [piles["used"] for piles in come_to(offered, late, day(12)).grants.values()] == [0, 4]


def test_a_scheduled_end_has_no_leeway_and_withdrawing_it_gives_the_leeway_back() -> None:
    offered = catalogue(offer("plan", gives(10, leeway_seconds=86_400)))
    began = (day(1), activated(day(1), day(11)))
    ends = (
        day(2),
        SubscriptionCancellationScheduled(subscription_id=S1, cancellation_id="c1", effective_at=day(11)),
    )
    withdrawn = (day(3), SubscriptionCancellationWithdrawn(subscription_id=S1, cancellation_id="c1"))

    assert spans(offered, began, ends) == [(10, day(1), day(11))]
    assert spans(offered, began, ends, withdrawn) == [(10, day(1), day(12))]


@pytest.mark.parametrize(
    ("on_cancel", "fact", "end"),
    [
        (OnCancel.FORFEIT, cancelled(day(5)), day(5)),
        (OnCancel.KEEP, cancelled(day(5)), day(11)),
        (OnCancel.KEEP, SubscriptionExpired(subscription_id=S1, expiry_id="x1", effective_at=day(5)), day(11)),
        (OnCancel.KEEP, SubscriptionRevoked(subscription_id=S1, revocation_id="k1", effective_at=day(5)), day(5)),
    ],
)
def test_an_end_ends_what_cannot_be_kept(on_cancel: OnCancel, fact: Fact, end: datetime) -> None:
    offered = catalogue(offer("plan", gives(10, on_cancel=on_cancel, leeway_seconds=86_400)))

    assert spans(offered, (day(1), activated(day(1), day(11))), (day(4), fact)) == [(10, day(1), end)]


def test_a_trial_ends_where_it_is_converted() -> None:
    trial = SubscriptionTrialStarted(subscription_id=S1, items=(item(),), trial_start=day(1), trial_end=day(8))
    converted = SubscriptionTrialConverted(subscription_id=S1, period_start=day(5), period_end=day(15))
    over = SubscriptionTrialExpired(subscription_id=S1, effective_at=day(6))

    assert spans(PLAN, (day(1), trial), (day(5), converted)) == [(10, day(1), day(5)), (10, day(5), day(15))]
    assert spans(PLAN, (day(1), trial), (day(6), over)) == [(10, day(1), day(6))]


def test_an_extension_moves_the_end_of_the_latest_period_before_it() -> None:
    longer = SubscriptionExtended(subscription_id=S1, extension_id="n1", new_period_end=day(14))

    assert spans(PLAN, (day(1), activated(day(1), day(11))), (day(3), longer)) == [(10, day(1), day(14))]


def test_a_failed_payment_keeps_access_through_its_grace_and_then_suspends() -> None:
    offered = catalogue(offer("plan", gives(10, grace_seconds=2 * 86_400)))
    began, failed = (day(1), activated(day(1), day(11))), SubscriptionPaymentFailed(subscription_id=S1, failure_id="f1")
    again = SubscriptionPaymentFailed(subscription_id=S1, failure_id="f2")
    recovered = SubscriptionPaymentRecovered(subscription_id=S1, recovery_id="y1")

    (open_,) = terms(offered, began, (day(5), failed), (day(6), again))
    assert open_.suspensions == (("payment", day(7), None),)
    (late,) = terms(offered, began, (day(5), failed), (day(6), recovered))
    assert late.suspensions == ()
    (at_the_end,) = terms(offered, began, (day(11), failed))
    assert (at_the_end.end, at_the_end.suspensions) == (day(13), ())


def test_suspended_units_do_not_burn_and_the_use_stays_overage() -> None:
    paused = SubscriptionPaused(subscription_id=S1, pause_id="p1", effective_at=day(3))
    resumed = SubscriptionResumed(subscription_id=S1, pause_id="p1", effective_at=day(5))
    lived = facts(
        (day(1), activated(day(1), day(11))), (day(3), paused), (day(4), used(2)), (day(5), resumed), (day(6), used(1))
    )

    after = come_to(PLAN, lived, day(7))

    assert (after.used, after.overage, after.limit, after.suspended) == (1, 2, 10, ())
    assert come_to(PLAN, lived, day(4)).suspended == ("pause/p1",)


def test_a_pause_that_stops_the_clock_moves_the_end_up_to_the_next_period() -> None:
    began = (day(1), activated(day(1), day(11)))
    paused = (day(3), SubscriptionPaused(subscription_id=S1, pause_id="p1", effective_at=day(3)))
    other = (day(4), SubscriptionPaused(subscription_id=S1, pause_id="p2", effective_at=day(4)))
    resumed = (day(5), SubscriptionResumed(subscription_id=S1, pause_id="p1", effective_at=day(5)))
    resumed_too = (day(6), SubscriptionResumed(subscription_id=S1, pause_id="p2", effective_at=day(6)))
    runs = catalogue(offer("plan", gives(10, pause=Clock.RUNS)))

    assert spans(PLAN, began, paused) == [(10, day(1), None)]
    assert spans(PLAN, began, paused, resumed) == [(10, day(1), day(13))]
    assert spans(PLAN, began, paused, other, resumed, resumed_too) == [(10, day(1), day(14))]
    assert spans(PLAN, began, paused, resumed, (day(12), renewed(day(12), day(22))))[0] == (10, day(1), day(12))
    assert spans(runs, began, paused, resumed) == [(10, day(1), day(11))]


def plan(sku: str, at: datetime, change: str = "ch1", **more: object) -> SubscriptionPlanChanged:
    fact = SubscriptionPlanChanged(subscription_id=S1, change_id=change, item_id="i1", sku=sku, effective_at=at)
    return msgspec.structs.replace(fact, **more)


def quantity(units: int, at: datetime, change: str = "ch1") -> SubscriptionQuantityChanged:
    return SubscriptionQuantityChanged(
        subscription_id=S1, change_id=change, item_id="i1", quantity=units, effective_at=at
    )


@pytest.mark.parametrize(
    ("on_change", "granted", "left", "over"),
    [(OnChange.FRESH, 20, 20, 0), (OnChange.CARRY_USED, 20, 14, 0), (OnChange.PRORATE, 10, 10, 0)],
)
def test_a_new_plan_gives_by_its_own_policy(on_change: OnChange, granted: int, left: int, over: int) -> None:
    offered = catalogue(offer("plan", gives(10)), offer("big", gives(20, on_change=on_change)))
    lived = facts((day(1), activated(day(1), day(11))), (day(2), used(6)), (day(6), plan("big", day(6))))

    after = come_to(offered, lived, day(7))

    old, new = after.grants.values()
    assert (old["used"], old["expired"]) == (6, 4)
    assert (new["granted"], new["available"], after.over_allocated) == (granted, left, over)


def test_what_a_smaller_plan_cannot_carry_is_over_allocation() -> None:
    lived = facts((day(1), activated(day(1), day(11), item("big"))), (day(2), used(14)), (day(6), plan("plan", day(6))))

    after = come_to(PLAN, lived, day(7))

    assert (after.limit, after.used, after.over_allocated, after.debt) == (0, 14, 4, 0)


def test_two_changes_at_one_instant_leave_the_last() -> None:
    lived = (
        (day(1), activated(day(1), day(11))),
        (day(6), plan("big", day(6), "a")),
        (day(6), plan("plan", day(6), "b")),
    )

    assert spans(PLAN, *lived) == [(10, day(1), day(6)), (10, day(6), day(11))]


def test_a_plan_change_that_restarts_the_anchor_opens_a_period_of_its_own() -> None:
    changed = plan("big", day(6), period_end=day(16))

    found = terms(PLAN, (day(1), activated(day(1), day(11))), (day(6), changed))

    assert [(one.units, one.start, one.end, one.period_start) for one in found] == [
        (10, day(1), day(6), day(1)),
        (20, day(6), day(16), day(6)),
    ]
    assert found[1].taken_back == ()


def test_quantity_up_adds_and_quantity_down_cuts_the_newest_first() -> None:
    began = (day(1), activated(day(1), day(11), item(quantity=2)))
    found = terms(PLAN, began, (day(3), quantity(3, day(3), "up")), (day(5), quantity(1, day(5), "down")))

    assert [(one.units, one.start) for one in found] == [(20, day(1)), (10, day(3))]
    assert [[(cut.why, cut.units, cut.policy) for cut in one.taken_back] for one in found] == [
        [("change/down", 10, "shrink")],
        [("change/down", 10, "shrink")],
    ]
    lived = facts(began, (day(2), used(14)), (day(5), quantity(1, day(5), "down")))
    assert come_to(PLAN, lived, day(6)).over_allocated == 4


def test_a_later_change_drops_a_schedule_unless_it_keeps_it() -> None:
    began, scheduled = (day(1), activated(day(1), day(11))), (day(2), plan("big", day(8), "later"))
    drops = (day(3), quantity(2, day(3), "now"))
    keeps = (day(3), msgspec.structs.replace(quantity(2, day(3), "now"), keep_schedule=True))

    assert [one[0] for one in spans(PLAN, began, scheduled, drops)] == [10, 10]
    assert [one[0] for one in spans(PLAN, began, scheduled, keeps)] == [10, 10, 40]


def test_a_renewal_follows_the_schedule_unless_it_names_its_items() -> None:
    began, scheduled = (day(1), activated(day(1), day(11))), (day(2), plan("big", day(11)))

    assert spans(PLAN, began, scheduled, (day(11), renewed(day(11), day(21))))[1] == (20, day(11), day(21))
    assert spans(PLAN, began, scheduled, (day(11), renewed(day(11), day(21), item())))[1] == (10, day(11), day(21))


def test_an_add_on_lasts_to_the_end_of_the_period_and_is_renewed_with_it() -> None:
    added = SubscriptionAddOnAdded(
        subscription_id=S1, change_id="ch1", item=item("big", item_id="i2"), effective_at=day(6)
    )
    removed = SubscriptionAddOnRemoved(subscription_id=S1, change_id="ch2", item_id="i2", effective_at=day(8))
    began, renewal = (day(1), activated(day(1), day(11))), (day(11), renewed(day(11), day(21)))

    assert spans(PLAN, began, (day(6), added), renewal) == [
        (10, day(1), day(11)),
        (20, day(6), day(11)),
        (10, day(11), day(21)),
        (20, day(11), day(21)),
    ]
    assert spans(PLAN, began, (day(6), added), (day(8), removed), renewal)[1:] == [
        (20, day(6), day(8)),
        (10, day(11), day(21)),
    ]


ROLLS = catalogue(offer("plan", gives(10, rollover_units=5, rollover_times=2)))
YEAR = facts(
    (day(1), activated(day(1), day(11))),
    (day(11), renewed(day(11), day(21))),
    (day(21), renewed(day(21), day(31))),
    (day(31), renewed(day(31), day(41))),
)


def test_what_is_left_rolls_over_up_to_the_limit_so_many_times() -> None:
    at_each = [come_to(ROLLS, YEAR, day(number)) for number in (1, 11, 21, 31)]

    assert [one.limit for one in at_each] == [10, 15, 15, 15]
    last = [piles for piles in piles(at_each[-1]) if piles.get("available")]
    assert sorted(piles["available"] or 0 for piles in last) == [5, 10]


def test_a_higher_generation_burns_first_and_a_lower_one_goes_on_first() -> None:
    lived = [*YEAR, told("u", day(12), used(3))]
    generations = {one.name: (one.generation, one.start) for one in given(lived, ROLLS, Named())}

    after = come_to(ROLLS, lived, day(21))

    assert {generations[name]: piles["granted"] for name, piles in after.grants.items() if generations[name][0]} == {
        (1, day(11)): 5,
        (1, day(21)): 5,
        (1, day(31)): 0,
        (2, day(21)): 0,
        (2, day(31)): 0,
    }
    assert [piles["used"] for name, piles in after.grants.items() if generations[name] == (1, day(11))] == [3]


def test_what_a_change_closed_does_not_roll_over() -> None:
    changed = told("ch", day(6), plan("plan", day(6), quantity=3))
    closed = [*YEAR[:2], told("ch", day(6), plan("big", day(6)))]

    assert come_to(ROLLS, [*YEAR[:2], changed], day(11)).limit == 30 + 15
    assert come_to(catalogue(*ROLLS.offers["plan"], offer("big", gives(20))), closed, day(11)).limit == 20


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (Apply.NEW_ONLY, [(10, 1, 11), (10, 11, 21)]),
        (Apply.NEXT_PERIOD, [(10, 1, 11), (30, 11, 21)]),
        (Apply.NOW, [(10, 1, 5), (30, 5, 11), (30, 11, 21)]),
    ],
)
def test_a_published_version_reaches_what_exists_as_it_says(apply: Apply, expected: list[tuple[int, int, int]]) -> None:
    offered = catalogue(offer("plan", gives(10)), offer("plan", gives(30), version=2, at=day(5), apply=apply))
    steps = ((day(1), activated(day(1), day(11))), (day(11), renewed(day(11), day(21))))

    assert spans(offered, *steps) == [(units, day(start), day(end)) for units, start, end in expected]


def test_an_allowance_that_is_the_same_in_a_new_version_goes_on_untouched() -> None:
    same = gives(None, key="other")
    offered = catalogue(
        offer("plan", gives(10), same),
        offer("plan", gives(30, on_change=OnChange.FRESH), same, version=2, at=day(5), apply=Apply.NOW),
    )

    found = terms(offered, (day(1), activated(day(1), day(11))))

    assert [(one.allowance, one.start, one.end) for one in found] == [
        ("other", day(1), day(11)),
        ("api", day(1), day(5)),
        ("api", day(5), day(11)),
    ]


# -- assignments by hand


def test_assignments_are_renewed_extended_and_revoked() -> None:
    given_by_hand = EntitlementAssigned(
        assignment_id="a1",
        entitlement="api",
        units=5,
        effective_at=day(1),
        expires_at=day(5),
        actor="eve",
        note="goodwill",
    )
    again = AssignmentRenewed(assignment_id="a1", effective_at=day(7), expires_at=day(9), actor="eve", note="as before")
    longer = AssignmentExtended(
        assignment_id="a1", extension_id="x1", new_expires_at=day(6), actor="eve", note="a day more"
    )
    no_more = AssignmentRevoked(
        assignment_id="a1", revocation_id="k1", effective_at=day(8), actor="eve", note="left us"
    )

    assert spans(PACK, (day(1), given_by_hand), (day(2), longer), (day(7), again), (day(8), no_more)) == [
        (5, day(1), day(6)),
        (5, day(7), day(8)),
    ]


# -- usage


def test_a_reversal_settles_the_usage_again_at_its_own_instant() -> None:
    undone = UsageReversed(entitlement="api", reversal_id="v1", usage_event_id="e1")
    lived = facts((day(0), bought()), (day(1), used(6)), (day(2), used(6)), (day(3), undone))

    before, after = come_to(PACK, lived[:3], day(9)), come_to(PACK, lived, day(9))

    assert (before.used, before.overage) == (10, 2)
    assert (after.used, after.overage, piles(after)) == (6, 0, [{"granted": 10, "used": 6, "available": 4}])


def test_reversals_of_one_usage_take_at_most_what_is_left_of_it() -> None:
    reversals = [
        (day(3 + number), UsageReversed(entitlement="api", reversal_id=f"v{number}", usage_event_id="e1", units=4))
        for number in (1, 2)
    ]

    after = come_to(PACK, facts((day(0), bought()), (day(1), used(6)), *reversals), day(9))

    assert (after.usage, after.used, after.coverage) == (0, 0, {})


def test_what_comes_back_after_the_end_is_granted_once_more() -> None:
    offered = catalogue(offer("pack", gives(10, lasts="P2D", return_after_end=ReturnAfterEnd.REGRANT)))
    undone = UsageReversed(entitlement="api", reversal_id="v1", usage_event_id="e1", units=4)
    lived = facts((day(1), bought()), (day(2), used(7)), (day(5), undone))

    assert piles(come_to(offered, lived, day(4))) == [
        {"granted": 10, "used": 3, "expired": 3, "moved": 4},
        {"granted": 4, "available": 4},
    ]
    assert [come_to(offered, lived, at).limit for at in (day(4), day(5), day(7))] == [0, 4, 0]


def test_carried_overage_is_paid_by_what_begins_later_and_not_by_its_children() -> None:
    offered = catalogue(quota(overage=OveragePolicy.CARRY), *ROLLS.offers["plan"])
    lived = [*YEAR, told("u", day(2), used(13))]

    assert [come_to(offered, lived, at).overage for at in (day(2), day(11))] == [3, 0]
    after = come_to(offered, lived, day(11))
    assert (after.limit, after.used_in_force) == (10, 3)


def test_burning_goes_by_priority_then_sooner_end_and_unlimited_last() -> None:
    offered = catalogue(
        offer(
            "plan",
            gives(None, key="all", priority=1),
            gives(1, key="late", lasts="P9D"),
            gives(1, key="soon", lasts="P1D"),
            gives(1, key="first", priority=1, lasts="forever"),
        )
    )
    events = facts((day(1), activated(day(1), day(11))), (day(1), used(4)))
    names = {one.name: one.allowance for one in given(events, offered, Named())}

    after = come_to(offered, events, day(1))

    covered = {names[by]: units for by, units in after.coverage["commerce", "e1"].items() if isinstance(by, UUID)}
    assert list(covered) == ["first", "soon", "late", "all"]


@pytest.mark.parametrize(("used_units", "level"), [(0, 0), (7, 0), (8, 80), (10, 100), (12, 100)])
def test_the_level_is_the_highest_percent_reached(used_units: int, level: int) -> None:
    usage = [(day(2), used(used_units))] if used_units else []

    assert come_to(PACK, facts((day(1), bought()), *usage), day(3)).level == level


@pytest.mark.parametrize(
    ("limit", "events", "expected"),
    [
        (LimitPolicy.HARD, facts((day(1), bought(line("unheard-of")))), ("none", "not_entitled")),
        (LimitPolicy.HARD, facts((day(1), activated(day(5), day(9)))), ("pending", "not_yet_active")),
        (LimitPolicy.HARD, facts((day(1), activated(day(1), day(9)))), ("active", "allowed")),
        (LimitPolicy.HARD, facts((day(1), activated(day(1), day(9))), (day(2), used(10))), ("exhausted", "exhausted")),
        (LimitPolicy.SOFT, facts((day(1), activated(day(1), day(9))), (day(2), used(10))), ("exhausted", "allowed")),
        (LimitPolicy.HARD, facts((day(1), activated(day(1), day(2)))), ("expired", "expired")),
    ],
)
def test_the_reason_is_the_first_that_is_true(
    limit: LimitPolicy, events: list[Event], expected: tuple[str, str]
) -> None:
    after = come_to(catalogue(quota(limit=limit), *PLAN.offers["plan"]), events, day(3))

    assert (after.state, after.reason) == expected


# -- between customers


def between(*steps: tuple[str, datetime, Fact]) -> list[Event]:
    """Facts about several customers, each told where it occurred."""
    return [told(f"e{place}", at, fact, customer=customer) for place, (customer, at, fact) in enumerate(steps)]


def moved(to: str, transfer: str = "t1") -> PurchaseTransferred:
    return PurchaseTransferred(order_id="o1", transfer_id=transfer, to_customer_id=to)


def test_a_transfer_moves_what_is_available_and_a_full_cut_follows_it() -> None:
    full = gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT)
    offered = catalogue(quota(debt=DebtPolicy.CARRY), offer("pack", full))
    lived = between(
        ("ada", day(1), bought()),
        ("ada", day(2), used(6)),
        ("ada", day(3), moved("bob")),
        ("bob", day(4), used(3)),
        ("bob", day(5), refunded()),
    )

    ada, bob = (come_to(offered, lived, day(4), customer) for customer in ("ada", "bob"))
    assert (piles(ada), piles(bob)) == (
        [{"granted": 10, "used": 6, "moved": 4}],
        [{"granted": 4, "used": 3, "available": 1}],
    )
    ada, bob = (come_to(offered, lived, day(5), customer) for customer in ("ada", "bob"))
    assert (piles(ada), ada.debt) == ([{"granted": 10, "revoked": 6, "moved": 4}], 6)
    assert (piles(bob), bob.debt) == ([{"granted": 4, "revoked": 4}], 3)


def test_a_cut_of_what_moved_takes_nothing_from_the_giver() -> None:
    full = gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT)
    lived = between(
        ("ada", day(1), bought(line(quantity=2))),
        ("ada", day(2), used(6)),
        ("ada", day(3), moved("bob")),
        ("bob", day(5), refunded(quantity=1)),
    )

    ada, bob = (come_to(catalogue(offer("pack", full)), lived, day(5), customer) for customer in ("ada", "bob"))

    assert piles(ada) == [{"granted": 20, "used": 6, "moved": 14}]
    assert piles(bob) == [{"granted": 14, "available": 4, "revoked": 10}]


def test_a_cut_of_the_instant_of_a_transfer_acts_at_the_receiver() -> None:
    lived = between(("ada", day(1), bought()), ("ada", day(3), moved("bob")), ("ada", day(3), refunded()))

    found = {one.holder: one for one in given(lived, PACK, Named())}

    assert (found["ada"].end, found["ada"].taken_back) == (day(3), ())
    assert (found["bob"].units, found["bob"].parent, found["bob"].origin) == (0, found["ada"].name, "transfer")
    assert [(one.at, one.units) for one in found["bob"].taken_back] == [(day(3), 10)]


def test_a_transferred_subscription_goes_on_and_rolls_over_at_the_receiver() -> None:
    transferred = SubscriptionTransferred(subscription_id=S1, transfer_id="t1", to_customer_id="bob")
    lived = between(
        ("ada", day(1), activated(day(1), day(11))),
        ("ada", day(2), used(7)),
        ("ada", day(6), transferred),
        ("bob", day(11), renewed(day(11), day(21))),
    )

    assert [come_to(ROLLS, lived, at, "ada").limit for at in (day(5), day(6))] == [10, 0]
    assert [come_to(ROLLS, lived, at, "bob").limit for at in (day(5), day(6), day(11))] == [0, 3, 13]


def test_what_is_told_for_a_stranger_awaits_a_transfer() -> None:
    lived = between(("ada", day(1), bought()), ("bob", day(2), refunded()))
    transfer = told("t", day(3), moved("bob"), customer="ada")

    assert come_to(PACK, lived, day(4)).limit == 10
    assert [come_to(PACK, [*lived, transfer], day(4), customer).limit for customer in ("ada", "bob")] == [0, 0]
    assert piles(come_to(PACK, [*lived, transfer], day(4))) == [{"granted": 10, "revoked": 10}]


def test_a_source_is_of_whose_fact_came_first_until_it_is_transferred() -> None:
    lived = between(("ada", day(1), bought()), ("bob", day(2), refunded()))

    assert [one.holder for one in given(lived, PACK, Named())] == ["ada"]
    assert given(lived, PACK, Named(), {"order/o1": "bob"}) == []
    back_and_forth = between(
        ("ada", day(1), bought()), ("ada", day(3), moved("bob")), ("ada", day(4), moved("cyd", "t2"))
    )
    assert [one.holder for one in given(back_and_forth, PACK, Named())] == ["ada", "bob"]


def test_a_merge_moves_overage_with_its_part_of_the_usage() -> None:
    sixty = catalogue(offer("pack", gives(60, lasts="forever")))
    lived = between(
        ("ada", day(1), bought()),
        ("ada", day(2), used(80)),
        ("ada", day(3), CustomersMerged(merge_id="m1", into_customer_id="bob")),
    )

    ada, bob = (come_to(sixty, lived, day(3), customer) for customer in ("ada", "bob"))

    assert (ada.usage, ada.used, ada.overage) == (60, 60, 0)
    assert (bob.usage, bob.used, bob.overage) == (20, 0, 20)


def test_after_a_merge_everything_is_of_the_new_customer() -> None:
    offered = catalogue(
        quota(debt=DebtPolicy.CARRY, overage=OveragePolicy.CARRY),
        offer("pack", gives(10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT)),
    )
    lived = between(
        ("ada", day(1), bought()),
        ("ada", day(2), used(4)),
        ("ada", day(3), CustomersMerged(merge_id="m1", into_customer_id="bob")),
        ("ada", day(4), used(1)),
        ("bob", day(5), refunded()),
    )

    before = come_to(offered, lived[:4], day(4), "bob")
    assert (before.usage, before.limit, before.used_in_force) == (1, 6, 1)
    ada, bob = (come_to(offered, lived, day(5), customer) for customer in ("ada", "bob"))
    assert (ada.usage, ada.debt) == (0, 0)
    assert (bob.usage, bob.debt, bob.limit) == (5, 5, 0)


# -- settings


SIZE = Entitlement(key="api", name="size", type=EntitlementType.SETTING, version=1)


@pytest.mark.parametrize(
    ("merge", "given_by_hand", "value"),
    [
        (None, ({"value": "a"}, {"value": "b", "priority": 99}), '"b"'),
        (None, ({"value": "a", "at": day(2)}, {"value": "b", "at": day(1)}), '"a"'),
        (None, ({"value": "a", "until": day(9)}, {"value": "b", "until": day(8)}), '"a"'),
        (None, ({"value": "a", "until": day(9)}, {"value": {"b": 1, "a": []}}), '{"a":[],"b":1}'),
        (MergePolicy.MAX, ({"value": 9, "priority": 1}, {"value": 10}), "10"),
        (MergePolicy.MIN, ({"value": 9}, {"value": 10}), "9"),
        (MergePolicy.ANY, ({"value": True}, {"value": False, "priority": 1}), "true"),
        (MergePolicy.UNION, ({"value": ["b", 1, True]}, {"value": [10, 9, "b"]}), '[1,9,10,"b",true]'),
    ],
)
def test_of_several_values_one_counts_or_they_are_merged(
    merge: MergePolicy | None, given_by_hand: Sequence[dict[str, Any]], value: str
) -> None:
    offered = catalogue(msgspec.structs.replace(SIZE, merge=merge))
    acts = [
        told(f"e{place}", day(2), assigned(None, one.pop("at", day(1)), assignment=f"a{place}", **one))
        for place, one in enumerate(map(dict, given_by_hand))
    ]

    assert come_to(offered, acts, day(5)).value == value
    assert come_to(offered, acts[::-1], day(5)).value == value


def test_a_value_is_there_while_its_grant_is_in_force_and_ends_with_all_of_the_money() -> None:
    offered = catalogue(SIZE, offer("pack", gives(None, value=JsonText("5"), lasts="P9D")))
    lived = facts((day(1), bought(line(amount=100))), (day(3), refunded("r1", amount=99)), (day(5), refunded("r2")))

    values = [come_to(offered, lived[:count], at).value for count, at in ((1, day(9)), (1, day(10)), (2, day(4)))]

    assert values == ["5", None, "5"]
    assert come_to(offered, lived, day(5)).value is None


# -- any life


@pytest.mark.parametrize("ticks", [12, 24, 40, 400])
def test_no_unit_is_made_or_lost_in_any_life(ticks: int) -> None:
    at = START + ticks * TICK
    for seed in range(150):
        for history in (history_of(seed), world_of(seed)):
            all_given = given(history.events, history.catalogue, Named(), until=lambda _: at)
            roots = {one.name: one.units for one in all_given if not one.parent}
            moved_on = received = 0
            for of in outcomes(history.events, history.catalogue, Named(), at).values():
                assert of.usage == of.used + of.overage + of.debt + of.forgiven, seed
                assert of.used == sum(piles["used"] or 0 for piles in of.grants.values()), seed
                for name, piles in of.grants.items():
                    if name in roots:
                        assert piles["granted"] == roots[name], seed
                    received += 0 if name in roots else piles["granted"] or 0
                    moved_on += piles.get("moved") or 0
            assert moved_on == received, seed
