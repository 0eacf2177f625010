"""Nothing that a sender can tell, however large or however often, stops the ledger for good."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import DataError

from ledger_worker.apply.batch import Batch, Rejected
from ledger_worker.domain.catalogue import Apply
from ledger_worker.domain.events import UNITS_MAX, Event, OfferReached
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.operations.verify import verify
from ledger_worker.worker.faults import Fault, fault_of
from tests.apply.ledger import TOPIC_ID, Ledger, move, record
from tests.domain.telling import MINUTE, PACK_OF_TEN, bought, catalogue, day, gives, line, offer, quota, told, used

NOW = day(20)
_PACK_OF_ONE = catalogue(quota(), offer("pack", gives(1, lasts="forever")))


def test_a_grant_beyond_what_64_bits_count_is_its_events_fault(ledger: Ledger) -> None:
    ledger.publish(_PACK_OF_ONE)
    most = [
        told(f"p{number}", day(2) + number * MINUTE, bought(line(quantity=UNITS_MAX), order=f"o{number}"))
        for number in range(1024)
    ]
    ledger.tell(*((event, NOW) for event in most[:1023]))

    with pytest.raises(DataError) as refused:
        ledger.tell((most[1023], NOW))

    assert fault_of(refused.value) is Fault.EVENT
    assert ledger.rows("SELECT count(*) FROM event") == [(1023,)]


def test_an_order_that_a_later_version_would_make_too_large_is_its_events_fault(ledger: Ledger) -> None:
    ledger.publish(_PACK_OF_ONE)
    ledger.tell((told("p", day(2), bought(line(quantity=UNITS_MAX))), NOW))
    many = gives(2**20, lasts="forever")
    of_many = offer("pack", many, version=2, apply=Apply.NOW, published_at=day(3), catalogue_version=2)
    ledger.publish(catalogue(of_many, version=2))
    reached = Event(
        event_source="ledger",
        event_id="reach",
        customer_id="ada",
        occurred_at=NOW,
        fact=OfferReached(source_key="order/o1", catalogue_version=2),
    )

    with pytest.raises(DataError) as refused:
        ledger.tell((reached, NOW))

    assert fault_of(refused.value) is Fault.EVENT
    assert ledger.rows('SELECT granted FROM "grant"') == [(UNITS_MAX,)]


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
