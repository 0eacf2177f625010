"""A customer's history lists every posting once, from either end, with when, of which instants, why and who."""

from collections.abc import Callable

import pytest

from ledger_worker.reports.history import PAGE_MAX, CustomerHistory, newest_first, oldest_first
from tests.apply.ledger import Ledger
from tests.domain.histories import world_of
from tests.domain.telling import (
    assigned,
    assignment_revoked,
    bought,
    catalogue,
    day,
    gives,
    merged,
    offer,
    order_transferred,
    quota,
    refunded,
    told,
    used,
)

Read = Callable[..., CustomerHistory | None]


@pytest.fixture
def life(ledger: Ledger) -> Ledger:
    """Ada buys ten units for ten days and uses four; Eve gives and takes by hand; a refund is told late."""
    ledger.publish(catalogue(quota(), offer("pack", gives(10, lasts="P10D"))))
    for event_id, at, recorded_at, fact in (
        ("purchase", day(3), day(3), bought()),
        ("usage", day(4), day(4), used(4)),
        ("gift", day(5), day(5), assigned(7, day(5), day(6))),
        ("sorry", day(5, 12), day(5, 12), assignment_revoked(day(5, 12))),
        ("refund", day(5), day(9), refunded()),
    ):
        ledger.tell((told(event_id, at, fact), recorded_at))
    return ledger


def page(
    ledger: Ledger, read: Read, customer_id: str = "ada", cursor: str | None = None, size: int = 20
) -> CustomerHistory:
    with ledger.engine.connect() as connection:
        found = read(connection, customer_id, cursor, postings_max=size)
    assert found is not None
    return found


def test_each_posting_says_when_it_was_recorded_of_which_instants_why_and_by_whom(life: Ledger) -> None:
    found = page(life, oldest_first)

    told_of = [
        (
            posting.number,
            posting.recorded_at,
            posting.effective_at,
            posting.cause.event_id if posting.cause is not None else None,
            posting.cause.actor if posting.cause is not None else None,
            posting.cause.note if posting.cause is not None else None,
        )
        for posting in found.postings
    ]
    assert told_of == [
        (1, day(3), day(3), "purchase", None, None),
        (2, day(4), day(4), "usage", None, None),
        (3, day(5), day(5), "gift", "eve", "goodwill"),
        (4, day(5, 12), day(5, 12), "sorry", "eve", "it was a mistake"),
        (5, day(9), day(5), "refund", None, None),
    ]
    assert found.recorded_at == day(9)
    assert found.next_cursor is None


def test_entries_are_said_in_words(life: Ledger) -> None:
    refund = page(life, newest_first, size=1).postings[0]

    assert [entry.words for entry in refund.entries] == [
        "6 units of pack of order/o1 taken back at 2026-01-05 00:00:00Z by refund/r1",
        "the terms of pack of order/o1 are set",
    ]
    assert (refund.effective_at, refund.effective_until) == (day(5), day(5))


def test_a_correction_speaks_of_every_instant_that_it_corrects(life: Ledger) -> None:
    """Five units told late, of before the first four: what the refund took of them is taken back."""
    life.tell((told("late", day(3, 6), used(5)), day(11)))

    late = page(life, newest_first, size=1).postings[0]

    assert (late.effective_at, late.effective_until) == (day(3, 6), day(5))
    assert [entry.words for entry in late.entries if entry.units < 0] == [
        "corrected, no longer so: 5 units of pack of order/o1 taken back at 2026-01-05 00:00:00Z by refund/r1"
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
@pytest.mark.parametrize(("read", "numbers"), [(newest_first, [5, 4, 3, 2, 1]), (oldest_first, [1, 2, 3, 4, 5])])
def test_pages_of_any_size_list_every_posting_once(life: Ledger, read: Read, numbers: list[int], size: int) -> None:
    pages = [page(life, read, size=size)]
    while pages[-1].next_cursor is not None:
        pages.append(page(life, read, cursor=pages[-1].next_cursor, size=size))

    assert [posting.number for each in pages for posting in each.postings] == numbers
    assert all(len(each.postings) <= size for each in pages)
    assert len(pages) == -(-5 // size)


def test_a_page_goes_on_where_it_ended_whatever_was_booked_meanwhile(life: Ledger) -> None:
    first = page(life, newest_first, size=2)
    life.tell((told("late", day(4, 6), used(1)), day(11)))

    second = page(life, newest_first, cursor=first.next_cursor, size=2)

    assert [posting.number for posting in second.postings] == [3, 2]


def test_what_is_told_of_another_says_of_whom_and_names_him(life: Ledger) -> None:
    life.tell((told("more", day(11), bought(order="o2")), day(11)))
    life.tell((told("transfer", day(12), order_transferred("bob", order="o2")), day(12)))

    (received,) = page(life, newest_first, "bob").postings
    given = page(life, newest_first, size=1).postings[0]

    assert received.cause is not None
    assert (received.cause.event_id, received.cause.told_to) == ("transfer", "ada")
    assert any(entry.words.endswith("to customer bob") for entry in given.entries)


def test_a_posting_that_moved_nothing_and_told_something_is_listed(ledger: Ledger) -> None:
    """What Ada had is over: that she goes on as Bob is told of it, and moves nothing."""
    ledger.publish(catalogue(quota(), offer("pack", gives(10, lasts="P1D"))))
    ledger.tell((told("purchase", day(3), bought()), day(3)))
    ledger.tell((told("merge", day(8), merged("bob")), day(8)))

    last = page(ledger, newest_first, size=1).postings[0]

    assert last.cause is not None
    assert (last.cause.type, last.entries) == ("CustomersMerged", ())
    assert (last.effective_at, last.effective_until) == (day(8), day(8))


@pytest.mark.parametrize("number", range(6))
def test_every_posting_of_any_life_can_be_read(ledger: Ledger, number: int) -> None:
    history = world_of(960_000 + number)
    ledger.publish(history.catalogue)
    for one_told in history.told:
        ledger.tell(one_told)

    for customer_id, posting_number in ledger.rows("SELECT customer_id, posting_number FROM customer"):
        found = page(ledger, oldest_first, customer_id, size=PAGE_MAX)
        assert [posting.number for posting in found.postings] == list(range(1, posting_number + 1))
        assert all(posting.cause is not None for posting in found.postings)
        words = [entry.words for posting in found.postings for entry in posting.entries]
        rows = ledger.rows("SELECT count(*) FROM entry WHERE customer_id = :one", one=customer_id)
        assert len(words) == rows[0][0]
        assert not any("grant 0" in each or "None" in each for each in words)


def test_an_unknown_customer_has_no_history(life: Ledger) -> None:
    with life.engine.connect() as connection:
        assert newest_first(connection, "nobody") is None
        assert oldest_first(connection, "nobody") is None


@pytest.mark.parametrize("cursor", ["", "-1", "1.5", "ada", "٣", "9" * 19, "9" * 200])
@pytest.mark.parametrize("read", [newest_first, oldest_first])
def test_a_cursor_that_no_page_had_is_refused(life: Ledger, read: Read, cursor: str) -> None:
    with life.engine.connect() as connection, pytest.raises(ValueError, match="is none that a page had"):
        read(connection, "ada", cursor)


@pytest.mark.parametrize("size", [0, PAGE_MAX + 1])
def test_a_page_has_a_size_that_can_be(life: Ledger, size: int) -> None:
    with life.engine.connect() as connection, pytest.raises(ValueError, match="a page of"):
        newest_first(connection, "ada", postings_max=size)
