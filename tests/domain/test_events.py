"""What is impossible in an event alone, and the bytes, hashes and keys by which events are known again."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given

from ledger_worker.domain.events import (
    ID_LENGTH_MAX,
    ITEMS_MAX,
    UNITS_MAX,
    Event,
    Fact,
    PurchaseRefunded,
    RefundLine,
    SubscriptionActivated,
    content_hash,
    event_key,
    fact_bytes,
    fact_of,
    problem,
    source_key,
)
from tests.domain.histories import History, histories
from tests.domain.telling import activated, bought, cancelled, day, item, line, refunded, renewed, told, used


def event_with(fact: Fact) -> Event:
    return told("e", day(1), fact)


@pytest.mark.parametrize(
    "fact",
    [
        bought(),
        bought(line(amount=0)),
        bought(*(line(line_id=f"l{n}") for n in range(ITEMS_MAX))),
        bought(line(quantity=UNITS_MAX, amount=UNITS_MAX)),
        refunded(),
        refunded(quantity=1),
        refunded(of_line=1),
        refunded(amount=1),
        activated(day(1), day(1) + timedelta(microseconds=1)),
        renewed(day(1), day(2)),
        renewed(day(1), day(2), item()),
        cancelled(day(1)),
        used(1),
        used(UNITS_MAX),
        used(1, "x" * ID_LENGTH_MAX),
        used(1, "名前 with a space"),
    ],
)
def test_what_is_possible_has_no_problem(fact: Fact) -> None:
    assert problem(event_with(fact)) is None


@pytest.mark.parametrize(
    ("fact", "says"),
    [
        (used(0), "units is 0, expected 1 to"),
        (used(-1), "units is -1"),
        (used(UNITS_MAX + 1), f"units is {UNITS_MAX + 1}"),
        (used(1, ""), "entitlement has 0 characters"),
        (used(1, "x" * (ID_LENGTH_MAX + 1)), "entitlement has 201 characters, expected 1 to 200"),
        (used(1, "a\0b"), "entitlement has unprintable characters"),
        (used(1, "a\nb"), "entitlement has unprintable characters"),
        (used(1, "\ud800"), "entitlement has unprintable characters"),
        (bought(line(quantity=0)), "lines[0].quantity is 0"),
        (bought(line(), line(line_id="l2", amount=-1)), "lines[1].amount is -1, expected 0"),
        (bought(line(), line()), "lines repeats a line_id"),
        (bought(line("")), "lines[0].sku has 0 characters"),
        (bought(*(line(line_id=f"l{n}") for n in range(ITEMS_MAX + 1))), "lines has 501 elements"),
        (bought(order=""), "order_id has 0 characters"),
        (refunded(""), "refund_id has 0 characters"),
        (refunded(quantity=0), "lines[0].quantity is 0, expected 1"),
        (refunded(of_line=0), "lines[0].amount is 0, expected 1"),
        (refunded(amount=0), "amount is 0, expected 1"),
        (refunded(quantity=1, amount=1), "lines and amount are both set"),
        (refunded(quantity=1, of_line=1), "lines[0].quantity and lines[0].amount are both set"),
        (
            PurchaseRefunded(order_id="o", refund_id="r", lines=(RefundLine(line_id="l"), RefundLine(line_id="l"))),
            "lines repeats a line_id",
        ),
        (activated(day(2), day(2)), "period_end is 2026-01-02"),
        (activated(day(2), day(1)), "expected after period_start"),
        (activated(day(1), day(2), item(), item()), "items repeats a item_id"),
        (activated(day(1), day(2), item(quantity=0)), "items[0].quantity is 0"),
        (
            SubscriptionActivated(subscription_id="s", items=(), period_start=day(1), period_end=day(2)),
            "items has 0 elements",
        ),
        (renewed(day(1), datetime(3000, 1, 1, tzinfo=UTC)), "period_end is 3000-01-01"),
        (cancelled(datetime(1970, 1, 1, tzinfo=UTC)), "effective_at is 1970-01-01"),
        (cancelled(day(1), ""), "cancellation_id has 0 characters"),
    ],
)
def test_what_is_impossible_is_named_with_its_field(fact: Fact, says: str) -> None:
    found = problem(event_with(fact))

    assert found is not None
    assert says in found


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (told("", day(1), used(1)), "event_id has 0 characters"),
        (told("e", day(1), used(1), source=""), "event_source has 0 characters"),
        (told("e", day(1), used(1), customer="c" * 201), "customer_id has 201 characters"),
        (told("e", datetime(1970, 12, 31, tzinfo=UTC), used(1)), "occurred_at is 1970"),
        (told("e", day(1), bought(), version=-1), "source_version is -1, expected 0"),
    ],
)
def test_what_is_impossible_in_the_envelope_is_named(event: Event, says: str) -> None:
    assert says in (problem(event) or "")


@given(histories())
def test_a_fact_comes_back_from_its_bytes(history: History) -> None:
    for event in history.events:
        assert fact_of(fact_bytes(event.fact)) == event.fact


# Golden values: a change here makes a conflict of every event that is sent again.


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (told("e", day(1), used(3)), "17f7033cebe6a25c25f8f936492b1729"),
        (told("e", day(1), bought(line(amount=300))), "09d9ec49071cd167b6c31ae695103e7b"),
        (told("e", day(1), bought(line(amount=300)), version=4), "a8b7de423cda2d82fc02f8c295562988"),
        (told("e", day(1), refunded(quantity=1)), "71032f985c4b2a750707631158646169"),
        (told("e", day(1), activated(day(1), day(11))), "f10795322da444c436f6fcdb5b95cc2a"),
        (told("e", day(1), renewed(day(1), day(11))), "8127cd8694d7565f181c3a3b384c55cc"),
        (told("e", day(1), cancelled(day(5))), "ee5e616014cdf1a24b01b9ae16f62801"),
    ],
)
def test_the_content_of_an_event_is_known_by_these_bytes(event: Event, expected: str) -> None:
    assert content_hash(event, fact_bytes(event.fact)).hex() == expected


def test_the_content_hash_covers_neither_who_it_is_about_nor_who_tells_it() -> None:
    one = told("e", day(1), used(3))
    other = told("f", day(1), used(3), source="meter", customer="bob")

    assert content_hash(one, fact_bytes(one.fact)) == content_hash(other, fact_bytes(other.fact))


def test_an_instant_is_the_same_content_in_every_zone() -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    here, away = told("e", day(1), used(3)), told("e", day(1).astimezone(there), used(3))

    assert content_hash(here, fact_bytes(here.fact)) == content_hash(away, fact_bytes(away.fact))


def test_the_canonical_bytes_leave_out_what_is_not_said() -> None:
    assert msgspec.msgpack.decode(fact_bytes(bought())) == {
        "type": "PurchaseCompleted",
        "order_id": "o1",
        "lines": [{"line_id": "l1", "sku": "pack", "quantity": 1}],
    }


def test_the_inbox_key_is_of_source_system_and_id_and_never_of_their_seam() -> None:
    assert str(event_key("commerce", "e1")) == "e13a1f6d-1669-f0cf-bb8f-f3d716e18f8c"
    assert event_key("a", "bc") != event_key("ab", "c")


def test_a_source_is_named_by_its_kind_and_id() -> None:
    assert source_key(bought(order="7")) == "order/7"
    assert source_key(refunded(order="7")) == "order/7"
    assert source_key(cancelled(day(1), subscription="7")) == "subscription/7"
