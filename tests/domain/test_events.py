"""The bytes, hashes and keys by which events are known again."""

from datetime import timedelta, timezone

import msgspec
import pytest
from hypothesis import given

from ledger_worker.domain.events import Event, content_hash, event_key, fact_bytes, fact_of, source_key
from tests.domain.histories import History, histories
from tests.domain.telling import activated, bought, cancelled, day, line, refunded, renewed, told, used


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
