"""What verify asks of an event beside its content: what became of it, and where it came from."""

from datetime import timedelta
from typing import get_args

import pytest
from sqlalchemy import Engine

from ledger_worker.apply.batch import Batch, Delivery
from ledger_worker.domain import events
from ledger_worker.domain.events import CustomersMerged, Event, OfferReached, OfSource, PurchaseRefunded, UsageReversed
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.operations.proof.outcomes import outcomes_of
from ledger_worker.operations.verify import Check
from tests.operations.test_verify import (
    BOUGHT,
    NOON,
    OFFERS,
    TIED_OFFERS,
    apply,
    event,
    on,
    prepare,
    tamper,
    tell,
    tell_each,
    usage,
    used,
    verdict,
)


def reversed_usage(
    event_id: str, minute: int, reversal_id: str, usage_event_id: str, units: int | None = None
) -> Event:
    return event(
        "ada",
        event_id,
        minute,
        UsageReversed(entitlement="api", reversal_id=reversal_id, usage_event_id=usage_event_id, units=units),
    )


ALONE_TOLD = (
    event("ada", "bought", 0, BOUGHT),
    event("ada", "bought-again", 0, BOUGHT),
    usage("ada", "used", 1, 4),
    reversed_usage("too-soon", 2, "v1", "used-later"),
    reversed_usage("back", 3, "v2", "used", 1),
    reversed_usage("back-again", 3, "v2", "used", 1),
    reversed_usage("all-back", 4, "v3", "used", 3),
    reversed_usage("nothing-left", 5, "v4", "used", 3),
    usage("ada", "used-later", 1, 2),
    event("ada", "refunded", 20, PurchaseRefunded(order_id="o1", refund_id="r1")),
)


@pytest.fixture
def alone(engine: Engine) -> Engine:
    """The facts of ALONE_TOLD, applied at once."""
    prepare(engine, TIED_OFFERS)
    tell(engine, ALONE_TOLD, 0, [NOON + timedelta(hours=1, seconds=place) for place in range(len(ALONE_TOLD))])
    return engine


MERGED_TOLD = (
    on(1, "kay", "bought", BOUGHT),
    used(2, "kay", "kay-used", 14),
    on(5, "kay", "first", CustomersMerged(merge_id="m1", into_customer_id="lou")),
    on(6, "kay", "once-more", CustomersMerged(merge_id="m2", into_customer_id="lou")),
    on(7, "kay", "elsewhere", CustomersMerged(merge_id="m3", into_customer_id="max")),
)


@pytest.fixture
def merged(engine: Engine) -> Engine:
    """The facts of MERGED_TOLD, each applied by itself."""
    prepare(engine, TIED_OFFERS)
    tell_each(engine, MERGED_TOLD)
    return engine


def test_the_ledgers_of_these_tests_have_no_findings(alone: Engine) -> None:
    assert verdict(alone).is_clean
    with alone.connect() as connection:
        outcomes = connection.exec_driver_sql("SELECT event_id, outcome FROM event ORDER BY recorded_at").all()
    assert [tuple(row) for row in outcomes] == [
        ("bought", "applied"),
        ("bought-again", "duplicate_fact"),
        ("used", "applied"),
        ("too-soon", "waiting"),
        ("back", "applied"),
        ("back-again", "duplicate_fact"),
        ("all-back", "applied"),
        ("nothing-left", "no_effect"),
        ("used-later", "applied"),
        ("refunded", "applied"),
    ]


def test_the_ledger_of_merges_has_no_findings(merged: Engine) -> None:
    assert verdict(merged).is_clean
    with merged.connect() as connection:
        outcomes = connection.exec_driver_sql("""
            SELECT outcome FROM event WHERE type = 'CustomersMerged' ORDER BY recorded_at
        """)
        assert list(outcomes.scalars()) == ["applied", "already_merged", "contradicted"]


OTHER_OUTCOMES = [
    ("used", "no_offer"),
    ("used", "waiting"),
    ("used", "no_effect"),
    ("bought", "waiting"),
    ("bought", "contradicted"),
    ("bought", "over_refunded"),
    ("bought", "duplicate_fact"),
    ("bought", "no_effect"),
    ("refunded", "no_period"),
    ("refunded", "duplicate_fact"),
    ("refunded", "duplicate"),
    ("too-soon", "applied"),
    ("too-soon", "no_effect"),
    ("too-soon", "duplicate_fact"),
    ("back", "waiting"),
    ("back", "no_effect"),
    ("back", "duplicate_fact"),
    ("back", "awaiting_transfer"),
    ("back-again", "waiting"),
    ("back-again", "applied"),
    ("all-back", "no_effect"),
    ("nothing-left", "applied"),
    ("nothing-left", "waiting"),
    ("nothing-left", "duplicate_fact"),
]


@pytest.mark.parametrize(("event_id", "outcome"), OTHER_OUTCOMES)
def test_an_outcome_that_cannot_be_is_named(database_url: str, alone: Engine, event_id: str, outcome: str) -> None:
    statement = "UPDATE event SET outcome = 'OTHER' WHERE event_id = 'THIS'"
    tamper(database_url, statement.replace("OTHER", outcome).replace("THIS", event_id))

    first = verdict(alone).first

    assert first is not None
    assert (first.check, first.customer_id, first.row) == (Check.EVENT, "ada", f"event {event_id} of shop"), first
    assert f"outcome is {outcome}" in first.message


@pytest.mark.parametrize(
    ("event_id", "outcome"),
    [("first", "already_merged"), ("first", "no_effect"), ("once-more", "applied"), ("elsewhere", "applied")],
)
def test_what_became_of_a_merge_is_proven(database_url: str, merged: Engine, event_id: str, outcome: str) -> None:
    statement = "UPDATE event SET outcome = 'OTHER' WHERE event_id = 'THIS'"
    tamper(database_url, statement.replace("OTHER", outcome).replace("THIS", event_id))

    found = verdict(merged).findings

    assert {(one.check, one.customer_id, one.row) for one in found} == {
        (Check.EVENT, "kay", f"event {event_id} of shop")
    }, found


def test_every_fact_has_outcomes_and_duplicates_are_never_stored() -> None:
    types = get_args(events.Fact)
    seen: set[str] = set()
    for kind in types:
        found = outcomes_of(kind)
        assert Outcome.APPLIED in found
        assert issubclass(kind, OfSource) or Outcome.AWAITING_TRANSFER not in found
        seen |= found
    assert seen == set(Outcome) - {Outcome.DUPLICATE}


PLACES = {
    "of something told, without an offset": (
        "UPDATE event SET \"offset\" = NULL WHERE event_id = 'used'",
        "event used of shop",
        "told, 0, none, expected all of them or none",
    ),
    "of something told, without a topic": (
        "UPDATE event SET topic = NULL WHERE event_id = 'used'",
        "event used of shop",
        "none, 0, 2, expected all of them or none",
    ),
}


@pytest.mark.parametrize(("statement", "row", "message"), PLACES.values(), ids=PLACES)
def test_a_place_in_a_topic_is_whole(database_url: str, alone: Engine, statement: str, row: str, message: str) -> None:
    tamper(database_url, statement)

    first = verdict(alone).first

    assert first is not None
    assert (first.check, first.customer_id, first.row) == (Check.EVENT, "ada", row)
    assert message in first.message


@pytest.mark.parametrize("columns", ["topic = 'told'", "topic = 'told', partition = 0, \"offset\" = 1"])
def test_what_the_ledger_tells_itself_came_by_no_topic(database_url: str, engine: Engine, columns: str) -> None:
    prepare(engine, OFFERS)
    tell(engine, [event("ada", "bought", 0, BOUGHT)], 0)
    reached = Event(
        event_source="ledger",
        event_id="reached",
        customer_id="ada",
        occurred_at=NOON + timedelta(hours=2),
        fact=OfferReached(source_key="order/o1", catalogue_version=1),
    )
    apply(engine, Batch(deliveries=(Delivery(event=reached),)), [NOON + timedelta(hours=2)])
    assert verdict(engine).is_clean

    tamper(database_url, "UPDATE event SET COLUMNS WHERE type = 'OfferReached'".replace("COLUMNS", columns))

    first = verdict(engine).first
    assert first is not None
    assert (first.check, first.customer_id, first.row) == (Check.EVENT, "ada", "event reached of ledger")
    assert "expected none of them" in first.message
