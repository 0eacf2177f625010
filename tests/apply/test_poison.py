"""Nothing that a sender can tell, however large or however often, stops the ledger for good."""

from datetime import UTC, datetime, timedelta

from ledger_worker.apply.batch import Batch, Rejected
from ledger_worker.domain.events import UNITS_MAX
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.operations.verify import verify
from tests.apply.ledger import TOPIC_ID, Ledger, move, record, unproven
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
    quantity_changed,
    quota,
    told,
    used,
)

NOW = day(20)
INT64_MAX = 2**63 - 1
_PACK_OF_ONE = catalogue(quota(), offer("pack", gives(1, lasts="forever")))


def test_more_than_64_bits_count_is_as_much_as_they_do_and_stops_nobody(ledger: Ledger) -> None:
    ledger.publish(_PACK_OF_ONE)
    ledger.tell(
        *(
            (told(f"p{number}", day(2) + number * MINUTE, bought(line(quantity=UNITS_MAX), order=f"o{number}")), NOW)
            for number in range(1025)
        )
    )

    assert ledger.tell((told("u", day(5), used(7)), NOW)).outcomes == {"applied": 1}

    (shown,) = ledger.pictures(["ada"], NOW)[0].entitlements
    assert (shown.allocated, shown.limit, shown.remaining) == (INT64_MAX, INT64_MAX, INT64_MAX)
    assert shown.used == 7
    assert ledger.rows("SELECT allowance, used FROM account") == [(INT64_MAX, 7)]
    assert unproven(ledger) == []


def test_a_quantity_that_is_told_later_stops_nobody_when_it_falls_due(ledger: Ledger) -> None:
    ledger.publish(catalogue(quota(), quota("other"), offer("plan", gives(1000)), offer("pack", gives(1, "other"))))
    ledger.tell(
        (told("a", day(1), activated(day(1), day(31), item(), item(item_id="i2"))), day(1)),
        (told("q1", day(2), quantity_changed(UNITS_MAX, day(10), "c1")), day(2)),
        (told("q2", day(3), quantity_changed(UNITS_MAX, day(10), "c2", item_id="i2")), day(3)),
    )

    told_later = (
        (told("u", day(11), used(1)), day(11)),
        (told("b", day(12), bought()), day(12)),
        (told("q3", day(13), quantity_changed(1, day(10), "c1")), day(13)),
        (told("c", day(14), cancelled(day(14))), day(14)),
    )

    assert [ledger.tell(one).dead_letters for one in told_later] == [{}, {}, {}, {}]
    assert unproven(ledger) == []


def test_a_late_order_is_settled_whatever_the_number_of_accounts_it_reaches(ledger: Ledger) -> None:
    keys = [f"q{number}" for number in range(110)]
    halves = (keys[:55], keys[55:])
    offers = [
        offer(f"half{place}", *(gives(10, key, lasts="forever") for key in of)) for place, of in enumerate(halves)
    ]
    ledger.publish(catalogue(*map(quota, keys), *offers))
    ledger.tell(*((told(f"u-{key}", day(5), used(1, key)), NOW) for key in keys))

    ledger.tell((told("late", day(3), bought(line("half0"), line("half1", line_id="l2"))), NOW))

    assert ledger.rows("SELECT count(*), sum(used_total), sum(overage) FROM account") == [(110, 110, 0)]


def test_a_dead_letter_fails_now_and_not_when_the_customer_beside_it_was_last_told_of(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    long_ago = told("a", day(1), used(1))
    ledger.tell((long_ago, day(2)))
    before = datetime.now(UTC) - timedelta(minutes=1)

    ledger.apply(Batch(deliveries=(ledger.delivery(long_ago),), rejected=(_rejected(7),)))

    assert ledger.rows("SELECT failed_at > :before FROM dead_letter", before=before) == [(True,)]


def test_a_dead_letter_delivered_again_is_a_duplicate(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.introduce()
    ledger.claim()
    ledger.apply(Batch(moves=(move(0, 2),), rejected=(_rejected(0), _rejected(1))))
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE input_partition SET next_offset = 1")

    again = ledger.apply(Batch(moves=(move(1, 3),), rejected=(_rejected(1), _rejected(2))))

    assert (again.outcomes, again.dead_letters) == ({"duplicate": 1}, {"undecodable": 1})
    assert ledger.rows("SELECT records, duplicates, dead_letters FROM input_partition") == [(4, 1, 3)]
    with ledger.engine.connect() as connection:
        assert verify(connection).is_clean


def test_an_id_whose_first_telling_was_refused_claims_the_source_that_it_then_speaks_of(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)

    ledger.tell((told("e1", day(2), used(1, "nothing such")), NOW), (told("e1", day(2), bought()), NOW))

    assert ledger.rows("SELECT source_key, customer_id FROM source_owner") == [("order/o1", "ada")]


def _rejected(offset: int) -> Rejected:
    return Rejected(
        record=record(offset, b"\xff"),
        topic_id=TOPIC_ID,
        reason=DeadLetterReason.UNDECODABLE,
        message="the bytes are no record",
    )
