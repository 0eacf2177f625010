"""What the facts of one source come to.

Order, business keys, offers, refunds, periods, leeway. Every table in every order.
"""

from datetime import datetime
from fractions import Fraction
from itertools import islice, permutations
from typing import NamedTuple
from uuid import UUID

import pytest

from ledger_worker.domain.catalogue import Apply, Catalogue, OnCancel, RefundPolicy
from ledger_worker.domain.events import UNITS_MAX, Event, SourceFact, source_key
from ledger_worker.domain.ledger import GrantTerms
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.sources import SourceState, fold, grant_id, units_of_share
from tests.domain.agreement import assert_all
from tests.domain.driver import Life
from tests.domain.telling import (
    PACK_OF_TEN,
    access,
    activated,
    assigned,
    assigned_again,
    bought,
    cancelled,
    catalogue,
    day,
    gives,
    item,
    line,
    offer,
    quantity_changed,
    quota,
    refunded,
    renewed,
    told,
)

ORDERS_MAX = 120
HOUR = 3600


class Took(NamedTuple):
    """What one refund takes of a grant."""

    refund: str
    at: datetime
    units: int


def fold_in(order: tuple[Event, ...], offered: Catalogue) -> tuple[tuple[GrantTerms, ...], list[Outcome], SourceState]:
    state = SourceState()
    outcomes = []
    terms: tuple[GrantTerms, ...] = ()
    for event in order:
        assert isinstance(event.fact, SourceFact)
        folded = fold(state, event, source_key(event.fact), offered)
        state, terms = folded.state, tuple(held.terms for held in folded.terms)
        outcomes.append(folded.outcome)
    return terms, outcomes, state


def terms_of(offered: Catalogue, *events: Event) -> tuple[GrantTerms, ...]:
    """The terms that the events come to, which are the same in every order ."""
    first, _, state = fold_in(events, offered)
    for order in islice(permutations(events), ORDERS_MAX):
        terms, _, same = fold_in(order, offered)
        assert terms == first
        assert same == state
    return first


def outcomes_of(offered: Catalogue, *events: Event) -> list[Outcome]:
    return fold_in(events, offered)[1]


def spans(terms: tuple[GrantTerms, ...]) -> list[tuple[datetime, datetime | None]]:
    return sorted((grant.effective_at, grant.expires_at) for grant in terms)  # type: ignore[type-var, unused-ignore]


def took(terms: tuple[GrantTerms, ...]) -> list[Took]:
    (grant,) = terms
    return [Took(cut.cut_id.removeprefix("refund/"), cut.at, cut.units) for cut in grant.cuts]


# -- orders


def test_a_purchase_gives_units_times_quantity_from_the_instant_it_happened() -> None:
    offered = catalogue(quota(), offer("pack", gives(10, lasts="P30D", priority=7)))

    (grant,) = terms_of(offered, told("p", day(2), bought(line(quantity=3))))

    assert grant == GrantTerms(
        grant_id=grant_id("order/o1", "l1", "pack", "api", None, ""),
        entitlement="api",
        source_key="order/o1",
        line_id="l1",
        sku="pack",
        allowance="api",
        offer_version=1,
        amount=30,
        priority=7,
        effective_at=day(2),
        expires_at=day(32),
    )


def test_each_line_gives_a_grant_for_each_allowance_of_its_offer() -> None:
    offered = catalogue(
        quota(),
        access(),
        offer("pack", gives(10, lasts="forever"), gives(None, "video", lasts="P1D")),
        offer("more", gives(5, lasts="forever")),
    )

    terms = terms_of(offered, told("p", day(2), bought(line(), line("more", line_id="l2"))))

    assert sorted((grant.line_id, grant.allowance, grant.amount) for grant in terms if grant.amount) == [
        ("l1", "api", 10),
        ("l2", "api", 5),
    ]
    assert [grant.entitlement for grant in terms if grant.amount is None] == ["video"]


def test_a_correction_of_a_line_wins_by_its_place_and_keeps_the_instant_the_line_entered() -> None:
    terms = terms_of(
        PACK_OF_TEN,
        told("p1", day(2), bought(line(quantity=1))),
        told("p2", day(3), bought(line(quantity=4))),
    )

    assert [(grant.amount, grant.effective_at) for grant in terms] == [(40, day(2))]


def test_a_line_that_a_correction_does_not_name_stays() -> None:
    terms = terms_of(
        PACK_OF_TEN,
        told("p1", day(2), bought(line(), line(line_id="l2"))),
        told("p2", day(3), bought(line(quantity=2))),
    )

    assert sorted((grant.line_id, grant.amount or 0) for grant in terms) == [("l1", 20), ("l2", 10)]


def test_the_same_line_told_again_under_a_new_id_is_a_duplicate_and_changes_nothing() -> None:
    once = terms_of(PACK_OF_TEN, told("p1", day(2), bought()))

    assert terms_of(PACK_OF_TEN, told("p1", day(2), bought()), told("p2", day(5), bought())) == once
    assert outcomes_of(PACK_OF_TEN, told("p1", day(2), bought()), told("p2", day(5), bought())) == [
        Outcome.APPLIED,
        Outcome.DUPLICATE_FACT,
    ]


def test_a_version_orders_facts_whatever_their_instants_say() -> None:
    terms = terms_of(
        PACK_OF_TEN,
        told("p1", day(9), bought(line(quantity=1)), version=1),
        told("p2", day(2), bought(line(quantity=2)), version=2),
    )

    assert [(grant.amount, grant.effective_at) for grant in terms] == [(20, day(9))]


def test_a_fact_with_a_version_stands_at_the_latest_instant_up_to_it() -> None:
    terms = terms_of(
        PACK_OF_TEN,
        told("p1", day(5), bought(), version=1),
        told("r1", day(3), refunded(), version=2),
    )

    assert took(terms) == [Took("r1", day(5), 10)]


def test_a_fact_without_a_version_is_inserted_by_its_instant_after_a_versioned_one() -> None:
    terms = terms_of(
        PACK_OF_TEN,
        told("p1", day(2), bought(line(quantity=1)), version=1),
        told("p3", day(4), bought(line(quantity=3)), version=2),
        told("by hand, between", day(3), bought(line(quantity=8))),
        told("by hand, at the same instant", day(4), bought(line(quantity=5))),
    )

    assert [grant.amount for grant in terms] == [50]


def test_facts_of_one_instant_go_by_kind_then_source_then_id() -> None:
    terms = terms_of(
        PACK_OF_TEN,
        told("z", day(2), bought(line(quantity=1)), source="alpha"),
        told("a", day(2), bought(line(quantity=2)), source="beta"),
        told("b", day(2), bought(line(quantity=3)), source="beta"),
        told("0", day(2), refunded(), source="alpha"),
    )

    assert [grant.amount for grant in terms] == [30]
    assert took(terms) == [Took("r1", day(2), 30)]


def test_an_order_line_has_no_period_so_an_allowance_by_period_gives_nothing() -> None:
    offered = catalogue(quota(), offer("pack", gives(10, lasts="period"), gives(3, key="extra", lasts="forever")))

    terms = terms_of(offered, told("p", day(2), bought()))

    assert [grant.allowance for grant in terms] == ["extra"]
    assert outcomes_of(offered, told("p", day(2), bought())) == [Outcome.NO_PERIOD]


# -- ids


def test_the_id_of_a_grant_names_what_it_is_for_and_not_who_told_it() -> None:
    assert grant_id("order/o1", "l1", "pack", "api", None, "") == UUID("309ec8c5-0a01-5da7-90d0-729e8f4c95b9")
    assert grant_id("subscription/s1", "i1", "plan", "api", day(2), "") == UUID("ee82ccb2-ef39-5f45-b08f-b1ab1cab4d21")


def test_two_tellings_of_one_line_give_one_grant_id() -> None:
    (one,) = terms_of(PACK_OF_TEN, told("p1", day(2), bought()))
    (other,) = terms_of(PACK_OF_TEN, told("p2", day(7), bought(line(quantity=2)), source="shop"))

    assert one.grant_id == other.grant_id


# -- offers


VERSIONS = catalogue(
    quota(),
    offer("pack", gives(10, lasts="forever"), published_at=day(3), apply=Apply.NEW_ONLY),
    offer("pack", gives(20, lasts="forever"), version=2, published_at=day(6)),
)


@pytest.mark.parametrize(
    ("bought_on", "amounts", "outcome"),
    [(2, [], Outcome.NO_OFFER), (3, [10], Outcome.APPLIED), (5, [10], Outcome.APPLIED), (6, [20], Outcome.APPLIED)],
)
def test_an_item_gets_the_version_in_force_when_it_entered(
    bought_on: int, amounts: list[int], outcome: Outcome
) -> None:
    event = told("p", day(bought_on), bought())

    assert [grant.amount for grant in terms_of(VERSIONS, event)] == amounts
    assert outcomes_of(VERSIONS, event) == [outcome]


def test_a_first_version_that_applies_now_was_in_force_from_the_beginning() -> None:
    offered = catalogue(quota(), offer("pack", gives(10, lasts="forever"), published_at=day(9), apply=Apply.NOW))

    assert [grant.amount for grant in terms_of(offered, told("p", day(2), bought()))] == [10]


def test_a_renewal_keeps_the_version_its_item_entered_with() -> None:
    offered = catalogue(quota(), offer("plan", gives(10)), offer("plan", gives(20), version=2, published_at=day(5)))

    terms = terms_of(
        offered,
        told("a", day(1), activated(day(1), day(11))),
        told("r", day(11), renewed(day(11), day(21), item())),
        told("r2", day(21), renewed(day(21), day(31))),
    )

    assert [(grant.amount, grant.offer_version) for grant in terms] == [(10, 1)] * 3


def test_a_correction_of_a_line_keeps_the_version_its_line_entered_with() -> None:
    terms = terms_of(VERSIONS, told("p", day(5), bought()), told("p2", day(7), bought(line(quantity=2))))

    assert [grant.amount for grant in terms] == [20]


# -- refunds


@pytest.mark.parametrize(
    ("granted", "share", "taken"),
    [
        (10, Fraction(0), 0),
        (10, Fraction(1, 3), 3),
        (10, Fraction(2, 3), 6),
        (10, Fraction(1), 10),
        (1, Fraction(1, 2), 0),
        (1, Fraction(1), 1),
        (3, Fraction(999_999, 1_000_000), 2),
        (2**53, Fraction(1, 3), 3002399751580330),
    ],
)
def test_what_stays_of_a_refunded_grant_is_rounded_up(granted: int, share: Fraction, taken: int) -> None:
    assert units_of_share(granted, share) == taken


def test_three_refunds_of_a_third_of_ten_take_ten() -> None:
    events = [told("p", day(1), bought(line(quantity=1, amount=300)))]
    events += [told(f"r{n}", day(1 + n), refunded(f"r{n}", of_line=100)) for n in (1, 2, 3)]

    assert took(terms_of(PACK_OF_TEN, *events)) == [Took("r1", day(2), 3), Took("r2", day(3), 3), Took("r3", day(4), 4)]


@pytest.mark.parametrize(
    ("refund", "taken"),
    [
        (refunded(), 40),
        (refunded(quantity=1), 10),
        (refunded(quantity=4), 40),
        (refunded(quantity=5), 40),
        (refunded(of_line=150), 20),
        (refunded(of_line=1000), 40),
        (refunded(amount=75), 10),
    ],
)
def test_a_refund_takes_the_share_of_its_line(refund: SourceFact, taken: int) -> None:
    terms = terms_of(PACK_OF_TEN, told("p", day(1), bought(line(quantity=4, amount=300))), told("r", day(2), refund))

    assert took(terms) == [Took("r1", day(2), taken)]


def test_an_amount_without_lines_is_spread_over_what_is_not_refunded_yet() -> None:
    """Of 100 and 300, the first line goes back by name; the next 150 are half of what is left: the second line."""
    terms = terms_of(
        PACK_OF_TEN,
        told("p", day(1), bought(line(amount=100), line(line_id="l2", amount=300))),
        told("r1", day(2), refunded("r1", of_line=100)),
        told("r2", day(3), refunded("r2", amount=150)),
    )

    taken = {grant.line_id: [(cut.cut_id, cut.units) for cut in grant.cuts] for grant in terms}
    assert taken == {"l1": [("refund/r1", 10)], "l2": [("refund/r2", 5)]}


def test_a_refund_without_lines_and_amount_takes_what_earlier_ones_left() -> None:
    terms = terms_of(
        PACK_OF_TEN,
        told("p", day(1), bought(line(quantity=4))),
        told("r1", day(2), refunded("r1", quantity=1)),
        told("r2", day(3), refunded("r2")),
    )

    assert took(terms) == [Took("r1", day(2), 10), Took("r2", day(3), 30)]


def test_refunds_take_no_more_than_the_whole() -> None:
    events = [
        told("p", day(1), bought(line(quantity=4))),
        told("r1", day(2), refunded("r1", quantity=3)),
        told("r2", day(3), refunded("r2", quantity=3)),
    ]

    assert took(terms_of(PACK_OF_TEN, *events)) == [Took("r1", day(2), 30), Took("r2", day(3), 10)]
    assert outcomes_of(PACK_OF_TEN, *events) == [Outcome.APPLIED, Outcome.APPLIED, Outcome.OVER_REFUNDED]


@pytest.mark.parametrize("paid", [None, 0])
def test_an_amount_over_a_total_of_zero_is_nothing_to_refund(paid: int | None) -> None:
    events = [told("p", day(1), bought(line(amount=paid))), told("r", day(2), refunded(amount=50))]

    assert took(terms_of(PACK_OF_TEN, *events)) == []
    assert outcomes_of(PACK_OF_TEN, *events)[-1] is Outcome.NOTHING_TO_REFUND


def test_a_refund_corrected_under_its_id_takes_what_was_told_last() -> None:
    events = [
        told("p", day(1), bought(line(quantity=4))),
        told("r", day(2), refunded("r1", quantity=3)),
        told("r, corrected", day(4), refunded("r1", quantity=1)),
    ]

    assert took(terms_of(PACK_OF_TEN, *events)) == [Took("r1", day(4), 10)]
    assert outcomes_of(PACK_OF_TEN, *events)[-1] is Outcome.APPLIED


def test_a_refund_told_again_later_under_a_new_event_id_stays_where_it_was() -> None:
    events = [
        told("p", day(1), bought()),
        told("r", day(2), refunded("r1")),
        told("r again", day(8), refunded("r1")),
    ]

    assert took(terms_of(PACK_OF_TEN, *events)) == [Took("r1", day(2), 10)]
    assert outcomes_of(PACK_OF_TEN, *events)[-1] is Outcome.DUPLICATE_FACT


def test_a_fact_told_again_that_was_told_earlier_elsewhere_moves_what_it_says_and_is_applied() -> None:
    """The earlier telling was not known: with it the line entered sooner, so this is no mere duplicate."""
    events = [told("p", day(5), bought()), told("p of old", day(2), bought())]

    assert [grant.effective_at for grant in terms_of(PACK_OF_TEN, *events)] == [day(2)]
    assert outcomes_of(PACK_OF_TEN, *events) == [Outcome.APPLIED, Outcome.APPLIED]


def test_a_refund_of_an_order_nobody_told_waits_and_is_folded_with_it() -> None:
    events = [told("r", day(2), refunded()), told("p", day(1), bought())]

    assert outcomes_of(PACK_OF_TEN, *events) == [Outcome.WAITING, Outcome.APPLIED]
    assert took(terms_of(PACK_OF_TEN, *events)) == [Took("r1", day(2), 10)]


def test_a_refund_dated_before_its_purchase_acts_when_the_grant_begins() -> None:
    assert took(terms_of(PACK_OF_TEN, told("p", day(5), bought()), told("r", day(2), refunded()))) == [
        Took("r1", day(5), 10)
    ]


@pytest.mark.parametrize(
    ("lasts", "refunded_on", "taken"),
    [
        ("P10D", 1, 10),
        ("P10D", 6, 5),
        ("P10D", 10, 1),
        ("P10D", 11, 0),
        ("P10D", 12, 0),
        ("P30D", 2, 9),  # 29/30 of 10 is 9.67
        ("forever", 200, 10),
    ],
)
def test_prorate_takes_the_unused_times_share_rounded_down(lasts: str, refunded_on: int, taken: int) -> None:
    offered = catalogue(quota(), offer("pack", gives(10, lasts=lasts, refund=RefundPolicy.PRORATE)))

    terms = terms_of(offered, told("p", day(1), bought()), told("r", day(refunded_on), refunded()))

    assert sum(cut.units for cut in terms[0].cuts) == taken


def test_prorate_takes_of_what_each_refund_adds_at_its_own_instant() -> None:
    offered = catalogue(quota(), offer("pack", gives(10, lasts="P10D", refund=RefundPolicy.PRORATE)))

    terms = terms_of(
        offered,
        told("p", day(1), bought(line(quantity=2))),
        told("r1", day(3), refunded("r1", quantity=1)),
        told("r2", day(6), refunded("r2", quantity=1)),
    )

    assert took(terms) == [Took("r1", day(3), 8), Took("r2", day(6), 5)]


@pytest.mark.parametrize(
    ("quantities", "end"),
    [([1], None), ([1, 1], day(4)), ([2], day(3)), ([1, 2], day(4))],
)
def test_access_ends_only_when_the_whole_line_is_refunded(quantities: list[int], end: datetime | None) -> None:
    offered = catalogue(access(), offer("pack", gives(None, "video", lasts="forever")))
    events = [told("p", day(1), bought(line(quantity=2)))]
    events += [
        told(f"r{place}", day(3 + place), refunded(f"r{place}", quantity=quantity))
        for place, quantity in enumerate(quantities)
    ]

    assert spans(terms_of(offered, *events)) == [(day(1), end)]


def test_access_refunded_at_the_instant_it_began_never_was() -> None:
    offered = catalogue(access(), offer("pack", gives(None, "video", lasts="forever")))

    assert terms_of(offered, told("p", day(1), bought()), told("r", day(1), refunded())) == ()


# -- subscriptions


PLAN = catalogue(quota(), offer("plan", gives(10, leeway_seconds=24 * HOUR)))


def test_a_period_outlives_its_end_by_the_leeway_until_a_renewal_is_told() -> None:
    activation = told("a", day(1), activated(day(1), day(11)))

    assert spans(terms_of(PLAN, activation)) == [(day(1), day(12))]
    assert spans(terms_of(PLAN, activation, told("r", day(11, 6), renewed(day(11), day(21))))) == [
        (day(1), day(11)),
        (day(11), day(22)),
    ]


def test_both_the_paid_end_and_the_end_with_leeway_are_known() -> None:
    (grant,) = terms_of(PLAN, told("a", day(1), activated(day(1), day(11))))

    assert (grant.period_start, grant.period_end, grant.expires_at) == (day(1), day(11), day(12))


def test_a_leeway_of_nothing_leaves_the_end_where_it_is() -> None:
    offered = catalogue(quota(), offer("plan", gives(10, leeway_seconds=0)))

    assert spans(terms_of(offered, told("a", day(1), activated(day(1), day(11))))) == [(day(1), day(11))]


def test_an_end_that_is_set_has_no_leeway() -> None:
    events = [told("a", day(1), activated(day(1), day(11))), told("c", day(5), cancelled(day(11)))]

    assert spans(terms_of(PLAN, *events)) == [(day(1), day(11))]


@pytest.mark.parametrize(
    ("cancelled_on", "on_cancel", "end"),
    [
        (day(5), OnCancel.FORFEIT, day(5)),
        (day(5), OnCancel.KEEP, day(11)),
        (day(11, 6), OnCancel.FORFEIT, day(11, 6)),
        (day(11, 6), OnCancel.KEEP, day(11)),
        (day(30), OnCancel.FORFEIT, day(12)),
    ],
)
def test_a_cancellation_ends_the_period_as_the_offer_says(
    cancelled_on: datetime, on_cancel: OnCancel, end: datetime
) -> None:
    offered = catalogue(quota(), offer("plan", gives(10, on_cancel=on_cancel)))
    events = [told("a", day(1), activated(day(1), day(11))), told("c", day(4), cancelled(cancelled_on))]

    assert spans(terms_of(offered, *events)) == [(day(1), end)]


def test_a_cancellation_at_or_before_the_start_leaves_nothing() -> None:
    events = [told("a", day(1), activated(day(3), day(13))), told("c", day(2), cancelled(day(3)))]

    assert terms_of(PLAN, *events) == ()


def test_a_new_life_after_an_end_is_not_ended_by_the_old_one() -> None:
    events = [
        told("a", day(1), activated(day(1), day(11))),
        told("c", day(5), cancelled(day(5))),
        told("a2", day(7), activated(day(7), day(17))),
    ]

    assert spans(terms_of(PLAN, *events)) == [(day(1), day(5)), (day(7), day(18))]


def test_an_activation_told_again_after_the_end_does_not_bring_the_subscription_back() -> None:
    events = [
        told("a", day(3), activated(day(3), day(13))),
        told("c", day(5), cancelled(day(2))),
        told("a again", day(9), activated(day(3), day(13))),
    ]

    assert terms_of(PLAN, *events) == ()
    assert outcomes_of(PLAN, *events)[-1] is Outcome.DUPLICATE_FACT


def test_a_cancellation_corrected_under_its_id_ends_where_it_was_told_last() -> None:
    events = [
        told("a", day(1), activated(day(1), day(11))),
        told("c", day(4), cancelled(day(5))),
        told("c2", day(5), cancelled(day(8))),
    ]

    assert spans(terms_of(PLAN, *events)) == [(day(1), day(8))]


def test_of_two_cancellations_the_sooner_ends_it() -> None:
    events = [
        told("a", day(1), activated(day(1), day(11))),
        told("c", day(4), cancelled(day(8), "c1")),
        told("d", day(5), cancelled(day(6), "c2")),
    ]

    assert spans(terms_of(PLAN, *events)) == [(day(1), day(6))]


def test_a_renewal_without_items_goes_on_with_those_before_it() -> None:
    terms = terms_of(
        PLAN,
        told("a", day(1), activated(day(1), day(11), item(quantity=2), item(item_id="i2"))),
        told("r", day(11), renewed(day(11), day(21))),
        told("r2", day(21), renewed(day(21), day(31))),
    )

    assert sorted((grant.period_start or day(0), grant.line_id, grant.amount) for grant in terms) == [
        (day(start), item_id, amount) for start in (1, 11, 21) for item_id, amount in (("i1", 20), ("i2", 10))
    ]


def test_a_renewal_with_items_names_all_items_of_its_period() -> None:
    terms = terms_of(
        PLAN,
        told("a", day(1), activated(day(1), day(11), item(), item(item_id="i2"))),
        told("r", day(11), renewed(day(11), day(21), item(quantity=3))),
    )

    assert sorted((grant.line_id, grant.amount, grant.expires_at) for grant in terms) == [  # type: ignore[type-var, unused-ignore]
        ("i1", 10, day(11)),
        ("i1", 30, day(22)),
        ("i2", 10, day(11)),
    ]


def test_a_renewal_that_begins_sooner_ends_the_period_before_it() -> None:
    events = [told("a", day(1), activated(day(1), day(11))), told("r", day(9), renewed(day(9), day(19)))]

    assert spans(terms_of(PLAN, *events)) == [(day(1), day(9)), (day(9), day(20))]


def test_a_renewal_that_begins_later_leaves_the_gap_that_was_told() -> None:
    events = [told("a", day(1), activated(day(1), day(11))), told("r", day(14), renewed(day(14), day(24)))]

    assert spans(terms_of(PLAN, *events)) == [(day(1), day(11)), (day(14), day(25))]


def test_a_renewal_before_anything_else_waits() -> None:
    events = [told("r", day(11), renewed(day(11), day(21))), told("a", day(1), activated(day(1), day(11)))]

    assert outcomes_of(PLAN, *events) == [Outcome.WAITING, Outcome.APPLIED]
    assert spans(terms_of(PLAN, *events)) == [(day(1), day(11)), (day(11), day(22))]


def test_a_period_told_again_with_another_end_is_corrected() -> None:
    events = [
        told("a", day(1), activated(day(1), day(11))),
        told("a2", day(2), activated(day(1), day(16))),
    ]

    assert spans(terms_of(PLAN, *events)) == [(day(1), day(17))]


def test_an_allowance_of_its_own_duration_begins_with_the_period_and_has_no_leeway() -> None:
    offered = catalogue(quota(), offer("plan", gives(10, lasts="P3D")))

    terms = terms_of(
        offered, told("a", day(1), activated(day(1), day(11))), told("r", day(11), renewed(day(11), day(21)))
    )

    assert spans(terms) == [(day(1), day(4)), (day(11), day(14))]


def test_an_allowance_that_lasts_for_ever_ends_with_a_cancellation_unless_it_is_kept() -> None:
    offered = catalogue(
        quota(),
        offer(
            "plan",
            gives(10, lasts="forever"),
            gives(5, key="kept", lasts="forever", on_cancel=OnCancel.KEEP),
        ),
    )

    terms = terms_of(offered, told("a", day(1), activated(day(1), day(11))), told("c", day(3), cancelled(day(6))))

    assert {grant.allowance: grant.expires_at for grant in terms} == {"api": day(6), "kept": None}


def test_a_change_of_sku_within_a_period_told_replaces_its_grant() -> None:
    offered = catalogue(quota(), offer("plan", gives(10)), offer("large", gives(50)))

    terms = terms_of(
        offered,
        told("a", day(1), activated(day(1), day(11))),
        told("a2", day(2), activated(day(1), day(11), item("large"))),
    )

    assert [(grant.sku, grant.amount) for grant in terms] == [("large", 50)]


# -- outcomes


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([told("c", day(2), cancelled(day(2)))], Outcome.WAITING),
        ([told("p", day(2), bought(line("unheard-of")))], Outcome.NO_OFFER),
        ([told("a", day(2), activated(day(2), day(3), item("unheard-of")))], Outcome.NO_OFFER),
        ([told("p", day(2), bought()), told("r", day(3), refunded(line_id="l9", quantity=1))], Outcome.WAITING),
        (
            [
                told("a", day(1), activated(day(1), day(11))),
                told("c", day(3), cancelled(day(5))),
                told("d", day(4), cancelled(day(9), "c2")),
            ],
            Outcome.NO_EFFECT,
        ),
        (
            [
                told("p", day(2), bought()),
                told("r", day(3), refunded("r1")),
                told("r2", day(4), refunded("r2")),
            ],
            Outcome.NO_EFFECT,
        ),
    ],
)
def test_the_first_outcome_that_is_true_is_given(events: list[Event], outcome: Outcome) -> None:
    offered = catalogue(quota(), offer("plan", gives(10)), offer("pack", gives(10, lasts="forever")))

    assert outcomes_of(offered, *events)[-1] is outcome


def test_the_other_lines_of_an_order_with_an_unknown_sku_are_granted() -> None:
    terms = terms_of(PACK_OF_TEN, told("p", day(2), bought(line("unheard-of"), line(line_id="l2"))))

    assert [grant.line_id for grant in terms] == ["l2"]


@pytest.mark.parametrize(("units", "outcome"), [(None, Outcome.APPLIED), (5, Outcome.CONTRADICTED)])
def test_a_renewal_gives_no_units_of_what_has_none(units: int | None, outcome: Outcome) -> None:
    life = Life(catalogue(quota(), access()))
    life.tell((told("a", day(1), assigned(None, day(1), day(5), entitlement="video")), day(1)))

    assert life.outcome_of(told("r", day(2), assigned_again(day(5), day(9), units=units)), day(2)) is outcome

    assert life.picture("video", day(6)).allowed is (outcome is Outcome.APPLIED)
    assert_all(life)


def test_no_grant_has_more_units_than_can_be_counted_in_any_order() -> None:
    offered = catalogue(quota(), offer("plan", gives(1000, rollover_units=1000)))
    told_of = (
        told("a", day(1), activated(day(1), day(31), item(quantity=UNITS_MAX // 2))),
        told("q", day(3), quantity_changed(UNITS_MAX, day(3))),
        told("f", day(5), quantity_changed(1, day(5), "c2")),
        told("r", day(30), renewed(day(31), day(61), item(quantity=UNITS_MAX))),
    )

    terms = terms_of(offered, *told_of)

    assert {one.amount for one in terms} == {UNITS_MAX, 0}
    assert {cut.units for one in terms for cut in one.cuts} == {UNITS_MAX - 1000}
    assert {one.rollover_max for one in terms} == {UNITS_MAX, None}
