"""Explain says what each grant does now, and why, in words. What is told is recorded by the database's clock."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from sqlalchemy import Engine

from ledger_worker.apply.batch import Batch, Delivery
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.transaction import apply_batch
from ledger_worker.domain.catalogue import (
    Allowance,
    Apply,
    DebtPolicy,
    Entitlement,
    EntitlementType,
    LateUsage,
    Offer,
    RefundPolicy,
    ReturnAfterEnd,
)
from ledger_worker.domain.events import (
    ChargebackOpened,
    CustomersMerged,
    EntitlementAssigned,
    Event,
    Fact,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    PurchaseTransferred,
    SubscriptionActivated,
    SubscriptionCancelled,
    SubscriptionItem,
    SubscriptionPaused,
    SubscriptionPaymentFailed,
    SubscriptionPlanChanged,
    SubscriptionQuantityChanged,
    SubscriptionRenewed,
    SubscriptionResumed,
    UsageRecorded,
    UsageReversed,
)
from ledger_worker.domain.values import MergePolicy, value_of
from ledger_worker.metrics import CollectorRegistry, Metrics, Stages
from ledger_worker.reports.customer import ExplainedEntitlement, Explanation, explain, show
from ledger_worker.reports.words import GrantVerdict
from ledger_worker.store import catalogue
from ledger_worker.store.database import engine as new_engine

DAY = timedelta(days=1)
NOW = datetime.now(UTC)
ENTITLEMENTS = (
    Entitlement(key="calls", name="API calls", type=EntitlementType.QUOTA, unit="call", debt=DebtPolicy.BLOCK),
    Entitlement(key="video", name="Video", type=EntitlementType.ACCESS),
    Entitlement(key="theme", name="Theme", type=EntitlementType.SETTING),
    Entitlement(key="size", name="Largest upload", type=EntitlementType.SETTING, merge=MergePolicy.MAX),
    Entitlement(key="least", name="Least wait", type=EntitlementType.SETTING, merge=MergePolicy.MIN),
    Entitlement(key="regions", name="Regions", type=EntitlementType.SETTING, merge=MergePolicy.UNION),
    Entitlement(key="beta", name="Beta", type=EntitlementType.SETTING, merge=MergePolicy.ANY),
)
OFFERS = (
    Offer(
        sku="PACK",
        apply=Apply.NOW,
        allowances=(
            Allowance(key="calls", entitlement="calls", units=10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT),
        ),
    ),
    Offer(
        sku="PLAN",
        apply=Apply.NOW,
        allowances=(
            Allowance(key="calls", entitlement="calls", units=100, priority=50, leeway_seconds=0),
            Allowance(key="video", entitlement="video", leeway_seconds=0),
        ),
    ),
    Offer(
        sku="KEEPING",
        apply=Apply.NOW,
        allowances=(
            Allowance(
                key="calls",
                entitlement="calls",
                units=100,
                leeway_seconds=0,
                grace_seconds=0,
                rollover_units=20,
                return_after_end=ReturnAfterEnd.REGRANT,
            ),
        ),
    ),
)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = new_engine(database_url)
    with made.begin() as connection:
        catalogue.lock_exclusive(connection)
        catalogue.publish(connection, ENTITLEMENTS, OFFERS, catalogue.read(connection, 0))
    yield made
    made.dispose()


def tell(engine: Engine, *told: tuple[str, float, Fact], customer_id: str = "ada") -> None:
    """Facts about a customer, most often Ada, each with its id and how many days ago it was."""
    events = [
        Event(event_source="shop", event_id=event_id, customer_id=customer_id, occurred_at=NOW - days * DAY, fact=fact)
        for event_id, days, fact in told
    ]
    batch = Batch(deliveries=tuple(Delivery(event=event) for event in events))
    apply_batch(engine, batch, Catalogues(), Stages(Metrics(CollectorRegistry())))


def bought(order_id: str, quantity: int = 1, sku: str = "PACK") -> PurchaseCompleted:
    return PurchaseCompleted(order_id=order_id, lines=(PurchaseLine(line_id="1", sku=sku, quantity=quantity),))


def began(days: float, sku: str = "PLAN", quantity: int = 1) -> SubscriptionActivated:
    start = NOW - days * DAY
    item = SubscriptionItem(item_id="plan", sku=sku, quantity=quantity)
    return SubscriptionActivated(subscription_id="s1", items=(item,), period_start=start, period_end=start + 30 * DAY)


def used(units: int) -> UsageRecorded:
    return UsageRecorded(entitlement="calls", units=units)


def explained(
    engine: Engine, entitlement: str | None = None, postings_max: int = 20, customer_id: str = "ada"
) -> Explanation:
    with engine.connect() as connection:
        found = explain(connection, customer_id, entitlement, postings_max=postings_max)
    assert found is not None
    return found


def of_calls(engine: Engine, customer_id: str = "ada") -> ExplainedEntitlement:
    return explained(engine, "calls", customer_id=customer_id).entitlements[0]


def booked(engine: Engine, customer_id: str = "ada") -> list[str]:
    """Every line that was ever booked, the newest posting first, without its instants."""
    found = explained(engine, customer_id=customer_id)
    words = [entry.words for posting in found.postings for entry in posting.entries]
    return [re.sub(r" at \d\S+ \S+", "", each) for each in words]


def test_grants_stand_in_the_order_of_burning_and_the_first_with_units_burns_next(engine: Engine) -> None:
    tell(engine, ("o1", 9, bought("o1")), ("o2", 8, bought("o2", 2)), ("s1", 3, began(3)), ("u1", 2, used(30)))

    grants = of_calls(engine).grants

    assert [(grant.sku, grant.source_key, grant.verdict) for grant in grants] == [
        ("PLAN", "subscription/s1", GrantVerdict.BURNING_NEXT),
        ("PACK", "order/o1", GrantVerdict.BURNING_LATER),
        ("PACK", "order/o2", GrantVerdict.BURNING_LATER),
    ]
    assert grants[0].words.startswith("burning next, 70 calls left until ")
    assert grants[2].words == "burning after those above, 20 calls left without end"


def test_a_grant_that_is_used_up_is_passed_over(engine: Engine) -> None:
    tell(engine, ("o1", 9, bought("o1")), ("o2", 8, bought("o2")), ("u1", 2, used(10)))

    assert [grant.verdict for grant in of_calls(engine).grants] == [GrantVerdict.USED_UP, GrantVerdict.BURNING_NEXT]


def test_a_refunded_grant_names_the_refund(engine: Engine) -> None:
    tell(engine, ("o1", 9, bought("o1")), ("r1", 1, PurchaseRefunded(order_id="o1", refund_id="r1")))

    found = of_calls(engine)

    assert [(grant.verdict, grant.words) for grant in found.grants] == [
        (GrantVerdict.REVOKED, "revoked by refund/r1"),
    ]
    assert found.decision.reason == "revoked"
    assert found.would_allow == ("1 call more", "a purchase that gives it: KEEPING, PACK, PLAN")


def test_late_usage_says_why_it_counts_as_it_does(engine: Engine) -> None:
    tell(engine, ("o1", 90, bought("o1")), ("u1", 50, used(4)))
    late_usage_is(engine, LateUsage.OVERAGE)
    tell(engine, ("u2", 49, used(3)))

    assert booked(engine)[:2] == [
        "3 calls used (u2, told too late to be covered), covered by nothing",
        "4 calls used (u1, told late and counted then), covered by PACK of order/o1",
    ]


def late_usage_is(engine: Engine, policy: LateUsage) -> None:
    """That is the policy for calls from now on."""
    (calls,) = [one for one in ENTITLEMENTS if one.key == "calls"]
    with engine.begin() as connection:
        catalogue.lock_exclusive(connection)
        known = catalogue.read(connection, catalogue.read_ledger(connection).catalogue_version)
        catalogue.publish(connection, (msgspec.structs.replace(calls, late_usage=policy),), (), known)


def test_who_owes_is_told_what_has_to_be_paid(engine: Engine) -> None:
    tell(
        engine,
        ("o1", 9, bought("o1")),
        ("u1", 8, used(4)),
        ("r1", 7, PurchaseRefunded(order_id="o1", refund_id="r1")),
        ("s1", 0.5, began(-1)),
    )

    found = of_calls(engine)

    assert found.decision.debt == 4
    assert [grant.verdict for grant in found.grants] == [GrantVerdict.REVOKED, GrantVerdict.NOT_YET_BEGUN]
    words = [entry.words for posting in explained(engine).postings for entry in posting.entries]
    assert any(
        text.startswith("4 calls of PACK of order/o1 that were used (u1)") and text.endswith("by refund/r1, and owed")
        for text in words
    )


def test_an_end_that_nobody_has_booked_is_an_end(engine: Engine) -> None:
    """The first period is over since the last event was applied; no clock runs."""
    tell(engine, ("s1", 40, began(40)))

    found = explained(engine)

    assert [(each.decision.entitlement, each.decision.state) for each in found.entitlements] == [
        ("calls", "expired"),
        ("video", "expired"),
    ]
    assert [grant.verdict for each in found.entitlements for grant in each.grants] == [GrantVerdict.ENDED] * 2
    assert found.entitlements[0].grants[0].words.endswith(", 100 calls expired")


def test_access_is_in_force_and_a_cancelled_period_that_was_renewed_ahead_never_was(engine: Engine) -> None:
    renewed = SubscriptionRenewed(subscription_id="s1", period_start=NOW + 20 * DAY, period_end=NOW + 50 * DAY)
    cancelled = SubscriptionCancelled(subscription_id="s1", cancellation_id="c1", effective_at=NOW + 10 * DAY)
    tell(engine, ("s1", 10, began(10)), ("s2", 2, renewed), ("c1", 1, cancelled))

    found = explained(engine, "video").entitlements[0]

    assert [grant.verdict for grant in found.grants] == [GrantVerdict.IN_FORCE, GrantVerdict.VOID]
    assert found.would_allow == ()


def given(
    entitlement: str,
    value: object,
    key: str = "a1",
    *,
    days: float = 9,
    until: float | None = None,
    priority: int = 100,
) -> tuple[str, float, Fact]:
    """That value by hand, so many days ago."""
    fact = EntitlementAssigned(
        assignment_id=key,
        entitlement=entitlement,
        effective_at=NOW - days * DAY,
        expires_at=None if until is None else NOW + until * DAY,
        actor="eve",
        note="goodwill",
        priority=priority,
        value=value_of(value),
    )
    return key, days, fact


def test_the_value_of_a_setting_names_the_grant_it_is_of_and_those_that_yield(engine: Engine) -> None:
    tell(engine, given("theme", "dark"), given("theme", "light", "a2", days=3, priority=10))

    found = explained(engine, "theme").entitlements[0]

    assert found.decision.value == '"light"'
    assert found.value_because == "of assignment/a2, by priority 10 before 100"
    assert [(grant.source_key, grant.value, grant.verdict, grant.words) for grant in found.grants] == [
        ("assignment/a2", '"light"', GrantVerdict.DECIDES, "in force without end, its value counts"),
        ("assignment/a1", '"dark"', GrantVerdict.YIELDS, "in force without end, its value does not count now"),
    ]


@pytest.mark.parametrize(
    ("told", "because"),
    [
        ((given("theme", 1),), "of assignment/a1, the only one in force"),
        ((given("theme", 1), given("theme", 2, "a2", days=5)), "of assignment/a2, which began later, at "),
        (
            (given("theme", 1, until=5), given("theme", 2, "a2", until=6)),
            "of assignment/a2, which ends later",
        ),
        ((given("theme", 1, until=5), given("theme", 2, "a2")), "of assignment/a2, which never ends"),
        ((given("theme", 1), given("theme", 2, "a2")), ", by the order of their ids"),
        ((given("size", 1),), "of assignment/a1, the only one in force"),
        ((given("size", 1), given("size", 5, "a2")), "the largest of 2 in force"),
        ((given("least", 1), given("least", 5, "a2")), "the smallest of 2 in force"),
        ((given("regions", ["eu"]), given("regions", ["us"], "a2")), "the elements of all 2 in force"),
        ((given("beta", value=False), given("beta", key="a2", value=True)), "true where any of 2 in force is"),
    ],
)
def test_why_a_setting_has_its_value_is_a_sentence(
    engine: Engine, told: tuple[tuple[str, float, Fact], ...], because: str
) -> None:
    tell(engine, *told)

    (found,) = explained(engine).entitlements

    assert found.value_because is not None
    assert because in found.value_because


def test_what_a_merge_leaves_out_yields_and_all_of_a_union_decides(engine: Engine) -> None:
    tell(
        engine,
        given("size", 1),
        given("size", 5, "a2"),
        given("regions", ["eu"], "a3"),
        given("regions", ["us"], "a4"),
    )

    regions, size = explained(engine).entitlements

    assert {grant.value: grant.verdict for grant in size.grants} == {
        "1": GrantVerdict.YIELDS,
        "5": GrantVerdict.DECIDES,
    }
    assert regions.decision.value == '["eu","us"]'
    assert {grant.verdict for grant in regions.grants} == {GrantVerdict.DECIDES}


@pytest.mark.parametrize(
    ("value", "words"), [("dark", 'a grant with the value "dark" begins at '), ("d" * 300, "a grant begins at ")]
)
def test_a_value_that_is_to_come_is_named_unless_it_is_long(engine: Engine, value: str, words: str) -> None:
    _, _, ahead = given("theme", value, days=-3)
    tell(engine, ("a1", 0, ahead))

    (found,) = explained(engine).entitlements

    assert (found.decision.value, found.value_because) == (None, None)
    assert found.upcoming[0].words.startswith(words)


def test_each_source_lists_what_was_told_of_it_with_the_outcome(engine: Engine) -> None:
    tell(engine, ("o1", 9, bought("o1")), ("o1-again", 9, bought("o1")), ("u1", 8, used(4)))

    (source,) = explained(engine).sources

    assert source.source_key == "order/o1"
    assert [(event.event_id, event.outcome) for event in source.events] == [
        ("o1", "applied"),
        ("o1-again", "duplicate_fact"),
    ]


def test_postings_come_newest_first_with_their_cause_and_words(engine: Engine) -> None:
    tell(engine, ("o1", 9, bought("o1")), ("u1", 3, used(8)), ("u2", 5, used(7)))

    newest, *_ = explained(engine, postings_max=1).postings

    assert newest.number == 3
    assert newest.cause is not None
    assert newest.cause.event_id == "u2"
    words = [entry.words.partition(" used at ") for entry in newest.entries]
    assert [(units, rest.partition(" (")[2]) for units, _, rest in words] == [
        ("7 calls", "u2), covered by PACK of order/o1"),
        ("corrected, no longer so: 5 calls", "u1), covered by PACK of order/o1"),
        ("5 calls", "u1), covered by nothing"),
    ]


def test_an_entitlement_that_the_customer_never_had_is_explained(engine: Engine) -> None:
    tell(engine, ("o1", 9, bought("o1")))

    (video,) = explained(engine, "video").entitlements

    assert (video.decision.reason, video.grants) == ("not_entitled", ())
    assert video.would_allow == ("a purchase that gives it: PLAN",)


def test_an_entitlement_that_is_not_in_the_catalogue_is_left_out(engine: Engine) -> None:
    tell(engine, ("o1", 9, bought("o1")))

    assert explained(engine, "teleports").entitlements == ()


def test_an_unknown_customer_is_none(engine: Engine) -> None:
    with engine.connect() as connection:
        assert explain(connection, "nobody") is None
        assert show(connection, "nobody") is None


def test_show_is_the_whole_picture_now(engine: Engine) -> None:
    tell(engine, ("o1", 9, bought("o1")), ("u1", 8, used(4)))

    with engine.connect() as connection:
        found = show(connection, "ada")

    assert found is not None
    assert [(each.entitlement, each.used, each.remaining) for each in found.entitlements] == [("calls", 4, 6)]


# -- grants that come from others, and what keeps them from being used


def test_what_rolled_over_says_from_where_and_what_was_left_says_where_it_went(engine: Engine) -> None:
    renewed = SubscriptionRenewed(subscription_id="s1", period_start=NOW - 10 * DAY, period_end=NOW + 20 * DAY)
    tell(engine, ("s1", 40, began(40, "KEEPING")), ("u1", 20, used(70)), ("s2", 10, renewed))

    child, whole, ended = of_calls(engine).grants

    assert (child.comes_from or "").startswith("rolled over from what ended at ")
    assert (child.parent, child.granted, child.amount, child.available) == (ended.grant_id, 20, 0, 20)
    assert (whole.parent, whole.comes_from) == (None, None)
    assert ended.words.endswith("Z, 20 calls went on to the grants that follow it, 10 calls expired")
    keeping = "KEEPING of subscription/s1"
    assert f"20 calls of {keeping} went on to {keeping} (rolled over)" in booked(engine)
    assert f"20 calls received by {keeping} (rolled over)" in booked(engine)


def test_a_child_that_nothing_was_left_for_is_no_grant_that_was_used_up(engine: Engine) -> None:
    renewed = SubscriptionRenewed(subscription_id="s1", period_start=NOW - 10 * DAY, period_end=NOW + 20 * DAY)
    tell(engine, ("s1", 40, began(40, "KEEPING")), ("u1", 20, used(100)), ("s2", 10, renewed))

    assert [(grant.verdict, grant.words) for grant in of_calls(engine).grants if grant.parent is not None] == [
        (GrantVerdict.NOTHING_RECEIVED, "nothing was left for it")
    ]


def test_usage_reversed_after_the_end_is_granted_once_more_and_says_so(engine: Engine) -> None:
    reversed_ = UsageReversed(entitlement="calls", reversal_id="v1", usage_event_id="u1", units=5)
    tell(engine, ("s1", 40, began(40, "KEEPING")), ("u1", 20, used(70)), ("v1", 3, reversed_))

    (again,) = (grant for grant in of_calls(engine).grants if grant.parent is not None)

    assert again.comes_from == "granted once more, for usage that was reversed after its grant had ended"
    assert again.words.startswith("burning next, 5 calls left until ")


def test_what_was_transferred_names_the_giver_and_the_receiver(engine: Engine) -> None:
    transfer = PurchaseTransferred(order_id="o1", transfer_id="t1", to_customer_id="bob")
    tell(engine, ("o1", 9, bought("o1")), ("u1", 8, used(4)), ("t1", 7, transfer))

    (given,) = of_calls(engine).grants
    (received,) = of_calls(engine, "bob").grants

    assert given.words.endswith("Z, 6 calls went on to customer bob")
    assert (received.comes_from, received.granted) == ("transferred from customer ada", 6)
    assert (explained(engine).tied_to, explained(engine, customer_id="bob").tied_to) == (("bob",), ("ada",))
    assert "6 calls of PACK of order/o1 went on to customer bob" in booked(engine)


def test_what_was_told_of_another_customer_says_of_whom(engine: Engine) -> None:
    transfer = PurchaseTransferred(order_id="o1", transfer_id="t1", to_customer_id="bob")
    tell(engine, ("o1", 9, bought("o1")), ("t1", 7, transfer))
    tell(engine, ("o1-again", 6, bought("o1")), customer_id="bob")

    found = explained(engine, customer_id="bob")

    (source,) = found.sources
    assert [(event.event_id, event.told_to) for event in source.events] == [
        ("o1", "ada"),
        ("t1", "ada"),
        ("o1-again", None),
    ]
    (cause,) = (posting.cause for posting in found.postings)
    assert cause is not None
    assert (cause.event_id, cause.told_to) == ("t1", "ada")


@pytest.mark.parametrize(
    ("fact", "words", "cause"),
    [
        (
            SubscriptionPaused(subscription_id="s1", pause_id="p1", effective_at=NOW - DAY),
            rf"suspended by pause p1 since {NOW - DAY:%Y-%m-%d %H:%M:%S}Z, 100 calls left without end",
            "pause/p1",
        ),
        (
            SubscriptionPaymentFailed(subscription_id="s1", failure_id="f1"),
            rf"suspended by a payment that failed since {NOW - DAY:%Y-%m-%d %H:%M:%S}Z, 100 calls left until .*",
            "payment",
        ),
    ],
    ids=["pause", "payment"],
)
def test_what_suspends_a_grant_is_said_in_words(engine: Engine, fact: Fact, words: str, cause: str) -> None:
    tell(engine, ("s1", 3, began(3, "KEEPING")), ("x1", 1, fact))

    found = of_calls(engine)

    assert re.fullmatch(words, found.grants[0].words), found.grants[0].words
    assert found.would_allow[0] == f"the suspension `{cause}` lifted"


def test_a_dispute_that_suspends_is_named(engine: Engine) -> None:
    tell(engine, ("o1", 3, bought("o1")), ("d1", 1, ChargebackOpened(order_id="o1", dispute_id="d1")))

    found = of_calls(engine)

    assert found.would_allow == (
        "the suspension `dispute/d1` lifted",
        "a purchase that gives it: KEEPING, PACK, PLAN",
    )
    assert found.grants[0].words.startswith("suspended by dispute d1 since ")


def test_over_allocation_is_said_of_the_grant_that_was_used_beyond_what_is_left_of_it(engine: Engine) -> None:
    halved = SubscriptionQuantityChanged(
        subscription_id="s1", change_id="c1", item_id="plan", quantity=1, effective_at=NOW - DAY
    )
    tell(engine, ("s1", 3, began(3, quantity=2)), ("u1", 2, used(150)), ("c1", 1, halved))

    found = of_calls(engine)

    assert (found.decision.over_allocated, found.grants[0].short) == (50, 50)
    assert found.grants[0].words.endswith("over-allocated by 50 calls, which were used before they were taken back")


def test_what_a_change_of_plan_carries_over_is_said_of_its_cut(engine: Engine) -> None:
    changed = SubscriptionPlanChanged(
        subscription_id="s1", change_id="c1", item_id="plan", sku="KEEPING", effective_at=NOW - DAY
    )
    tell(engine, ("s1", 3, began(3)), ("u1", 2, used(30)), ("c1", 1, changed))

    (cut,) = of_calls(engine).grants[0].cuts

    assert cut.startswith("carry/c1 takes as many as were used of the plan before it, at ")


def test_what_is_to_come_is_said_in_its_order(engine: Engine) -> None:
    renewed = SubscriptionRenewed(subscription_id="s1", period_start=NOW + 20 * DAY, period_end=NOW + 50 * DAY)
    paused = SubscriptionPaused(subscription_id="s1", pause_id="p1", effective_at=NOW + 5 * DAY)
    tell(engine, ("s1", 10, began(10)), ("s2", 2, renewed), ("p1", 1, paused))

    coming = of_calls(engine).upcoming

    assert [(each.what, each.at) for each in coming][:2] == [
        ("suspended", NOW + 5 * DAY),
        ("begins", NOW + 20 * DAY),
    ]
    assert coming[0].words == f"a grant is suspended at {NOW + 5 * DAY:%Y-%m-%d %H:%M:%S}Z"
    assert coming[1].words == f"a grant of 100 calls begins at {NOW + 20 * DAY:%Y-%m-%d %H:%M:%S}Z"


def test_what_a_person_gave_has_no_product_and_names_the_assignment(engine: Engine) -> None:
    assigned = EntitlementAssigned(
        assignment_id="a1", entitlement="calls", units=7, effective_at=NOW - DAY, actor="eve", note="for the outage"
    )
    tell(engine, ("a1", 1, assigned))

    (grant,) = of_calls(engine).grants

    assert (grant.sku, grant.source_key, grant.granted) == ("", "assignment/a1", 7)
    assert booked(engine) == [f"7 calls granted from {NOW - DAY:%Y-%m-%d %H:%M:%S}Z by assignment/a1"]
    assert [event.type for event in explained(engine).sources[0].events] == ["EntitlementAssigned"]
    (event,) = explained(engine).sources[0].events
    assert (event.actor, event.note) == ("eve", "for the outage")
    assert grant.cause == event
    assert (grant.set_by, grant.catalogue_version) == (1, 1)


# -- what would allow a request


def renewed_ahead(units_of: str = "PLAN") -> SubscriptionRenewed:
    """The next period, from ten days from now on."""
    item = SubscriptionItem(item_id="plan", sku=units_of, quantity=1)
    return SubscriptionRenewed(
        subscription_id="s1", items=(item,), period_start=NOW + 10 * DAY, period_end=NOW + 40 * DAY
    )


BOUGHT = "a purchase that gives it: KEEPING, PACK, PLAN"
IN_TEN_DAYS = f"{NOW + 10 * DAY:%Y-%m-%d %H:%M:%S}Z"


@pytest.mark.parametrize(
    ("facts", "units", "refused_because", "would_allow"),
    [
        pytest.param((("o1", 9, bought("o1")),), 10, None, (), id="as many as are left"),
        pytest.param((("o1", 9, bought("o1")),), 13, "exhausted", ("3 calls more", BOUGHT), id="three too few"),
        pytest.param(
            (("s1", 20, began(20)), ("u1", 2, used(97)), ("s2", 1, renewed_ahead())),
            5,
            "exhausted",
            ("2 calls more", f"waiting until {IN_TEN_DAYS}, when a grant of 100 calls begins", BOUGHT),
            id="the next period brings enough",
        ),
        pytest.param(
            (("s1", 20, began(20)), ("u1", 2, used(97)), ("s2", 1, renewed_ahead())),
            101,
            "exhausted",
            ("98 calls more", BOUGHT),
            id="the next period does not bring enough",
        ),
        pytest.param(
            (("s1", 1, began(-10)),),
            1,
            "not_yet_active",
            (f"waiting until {IN_TEN_DAYS}, when a grant of 100 calls begins", BOUGHT),
            id="it is to begin",
        ),
        pytest.param(
            (("o1", 3, bought("o1")), ("d1", 1, ChargebackOpened(order_id="o1", dispute_id="d1"))),
            11,
            "suspended",
            (BOUGHT,),
            id="what is suspended would not be enough",
        ),
        pytest.param(
            (
                ("o1", 3, bought("o1")),
                ("o2", 3, bought("o2")),
                ("d1", 1, ChargebackOpened(order_id="o1", dispute_id="d1")),
            ),
            15,
            "exhausted",
            ("5 calls more", "the suspension `dispute/d1` lifted", BOUGHT),
            id="with what is suspended there would be enough",
        ),
        pytest.param(
            (
                ("s1", 20, began(20)),
                ("p1", 2, SubscriptionPaused(subscription_id="s1", pause_id="p1", effective_at=NOW - 2 * DAY)),
                ("p2", 1, SubscriptionResumed(subscription_id="s1", pause_id="p1", effective_at=NOW + 10 * DAY)),
            ),
            1,
            "suspended",
            (
                "the suspension `pause/p1` lifted",
                f"waiting until {IN_TEN_DAYS}, when a suspension is lifted",
                BOUGHT,
            ),
            id="a suspension whose end is known",
        ),
        pytest.param(
            (
                ("o2", 9, bought("o2")),
                ("o1", 8, bought("o1")),
                ("u1", 7, used(14)),
                ("r1", 6, PurchaseRefunded(order_id="o2", refund_id="r1")),
                ("s2", 1, renewed_ahead()),
            ),
            1,
            "in_debt",
            (
                "the 10 calls owed paid by the next grant",
                f"waiting until {IN_TEN_DAYS}, when a grant of 100 calls begins",
                BOUGHT,
            ),
            id="what is owed is paid by the next period",
        ),
        pytest.param((("v1", 1, used(3)),), 1, "not_entitled", (BOUGHT,), id="nothing was ever given"),
    ],
)
def test_what_would_allow_a_request_is_said_the_nearest_first(
    engine: Engine,
    facts: tuple[tuple[str, float, Fact], ...],
    units: int,
    refused_because: str | None,
    would_allow: tuple[str, ...],
) -> None:
    tell(engine, *facts)

    with engine.connect() as connection:
        found = explain(connection, "ada", "calls", units=units)

    assert found is not None
    (calls,) = found.entitlements
    assert (calls.request_units, calls.refused_because, calls.would_allow) == (units, refused_because, would_allow)


def test_a_rule_says_why_each_grant_burns_before_the_next(engine: Engine) -> None:
    tell(engine, ("o1", 9, bought("o1")), ("o2", 8, bought("o2", 2)), ("s1", 3, began(3)))

    found = of_calls(engine)

    assert [grant.burns_before_next_by for grant in found.grants] == [
        "priority 50 before 100",
        "the earlier start first",
        None,
    ]
    assert found.rule == "as many units are left of what is in force"
    assert [grant.cause.event_id for grant in found.grants if grant.cause is not None] == ["s1", "o1", "o2"]


def test_a_grant_names_the_event_that_set_its_terms_last(engine: Engine) -> None:
    tell(engine, ("o1", 9, bought("o1")), ("r1", 1, PurchaseRefunded(order_id="o1", refund_id="r1")))

    (grant,) = of_calls(engine).grants

    assert grant.cause is not None
    assert (grant.set_by, grant.cause.event_id, grant.cause.type) == (2, "r1", "PurchaseRefunded")


def test_overage_that_went_along_with_a_merge_is_said_at_both(engine: Engine) -> None:
    merge = CustomersMerged(merge_id="m1", into_customer_id="bob")
    tell(engine, ("o1", 9, bought("o1")), ("u1", 8, used(13)), ("m1", 7, merge))

    assert "3 calls of overage (u1) left with the customer, who goes on as another" in booked(engine)
    assert "3 calls of overage (u1) arrived with one who goes on as this customer" in booked(engine, "bob")
