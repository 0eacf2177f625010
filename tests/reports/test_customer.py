"""Explain says what each grant does now, and why, in words. What is told is recorded by the database's clock."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from ledger_worker.apply import Batch, Catalogues, Delivery, apply_batch
from ledger_worker.domain.catalogue import (
    Allowance,
    Apply,
    DebtPolicy,
    Entitlement,
    EntitlementType,
    Offer,
    RefundPolicy,
)
from ledger_worker.domain.events import (
    Event,
    Fact,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    SubscriptionActivated,
    SubscriptionCancelled,
    SubscriptionItem,
    SubscriptionRenewed,
    UsageRecorded,
)
from ledger_worker.metrics import CollectorRegistry, Metrics, Stages
from ledger_worker.reports.customer import ExplainedEntitlement, Explanation, GrantVerdict, explain, show
from ledger_worker.store import catalogue
from ledger_worker.store.database import engine as new_engine

DAY = timedelta(days=1)
NOW = datetime.now(UTC)
ENTITLEMENTS = (
    Entitlement(key="calls", name="API calls", type=EntitlementType.QUOTA, unit="call", debt=DebtPolicy.BLOCK),
    Entitlement(key="video", name="Video", type=EntitlementType.ACCESS),
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
)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = new_engine(database_url)
    with made.begin() as connection:
        catalogue.lock_exclusive(connection)
        catalogue.publish(connection, ENTITLEMENTS, OFFERS, catalogue.read(connection, 0))
    yield made
    made.dispose()


def tell(engine: Engine, *told: tuple[str, float, Fact]) -> None:
    """Facts about Ada, each with its id and how many days ago it was."""
    events = [
        Event(event_source="shop", event_id=event_id, customer_id="ada", occurred_at=NOW - days * DAY, fact=fact)
        for event_id, days, fact in told
    ]
    batch = Batch(deliveries=tuple(Delivery(event=event) for event in events))
    apply_batch(engine, batch, Catalogues(), Stages(Metrics(CollectorRegistry())))


def bought(order_id: str, quantity: int = 1, sku: str = "PACK") -> PurchaseCompleted:
    return PurchaseCompleted(order_id=order_id, lines=(PurchaseLine(line_id="1", sku=sku, quantity=quantity),))


def began(days: float) -> SubscriptionActivated:
    start = NOW - days * DAY
    item = SubscriptionItem(item_id="plan", sku="PLAN", quantity=1)
    return SubscriptionActivated(subscription_id="s1", items=(item,), period_start=start, period_end=start + 30 * DAY)


def used(units: int) -> UsageRecorded:
    return UsageRecorded(entitlement="calls", units=units)


def explained(engine: Engine, entitlement: str | None = None, postings_max: int = 20) -> Explanation:
    with engine.connect() as connection:
        found = explain(connection, "ada", entitlement, postings_max=postings_max)
    assert found is not None
    return found


def of_calls(engine: Engine) -> ExplainedEntitlement:
    return explained(engine, "calls").entitlements[0]


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
    assert found.would_allow == "a purchase that gives it: PACK, PLAN"


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
    assert found.would_allow is None


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
    assert video.would_allow == "a purchase that gives it: PLAN"


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
