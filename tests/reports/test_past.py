"""What a customer could use at an instant, as it was known at another, on PostgreSQL.

Random lives are asked at random pairs of instants and compared with the oracle, which is told what was recorded by then
and no more. The edges stand in a table below. Every instant is given.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from random import Random

import pytest

from ledger_worker.domain.catalogue import Apply, LateUsage, Offer
from ledger_worker.domain.events import CustomersMerged, Event
from ledger_worker.operations.publish import publish
from ledger_worker.operations.reach import reach
from ledger_worker.reports.customer import show
from ledger_worker.reports.past import PastPicture, show_past
from ledger_worker.wire.catalogue_file import Definitions
from tests.apply.ledger import Ledger
from tests.domain.agreement import shown_units
from tests.domain.histories import world_of
from tests.domain.known import any_instants, expected_at, nothing_of, with_late_usage
from tests.domain.telling import (
    MICROSECOND,
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
    usage_reversed,
    used,
)

WORLDS, ASKED = 24, 10
"""How many worlds are lived, and how many pairs of instants are asked of each: 240."""
WINDOW_DAYS = 35


# -- random pairs of instants


@pytest.mark.parametrize("number", range(WORLDS))
def test_any_past_as_it_was_known_is_what_the_oracle_says_who_is_told_no_more(ledger: Ledger, number: int) -> None:
    history = world_of(930_000 + number, with_merges=number % 2 == 0)
    window_days = WINDOW_DAYS
    if number % 3 == 0:
        history, window_days = with_late_usage(history, tuple(LateUsage)[number // 3 % 3]), 2
    ledger.publish(history.catalogue)
    ledger.set_settlement_window(window_days)
    for one_told in history.told:
        ledger.tell(one_told)
    recorded = _recorded(ledger, [event for event, _ in history.told])
    chance = Random(number)

    for _ in range(ASKED):
        at, known_at = any_instants(chance, [instant for _, instant in recorded])
        known = [one for one in recorded if one[1] <= known_at]
        expected = expected_at(known, history.catalogue, at, timedelta(days=window_days))
        for customer_id in sorted({event.customer_id for event, _ in recorded}):
            past = past_of(ledger, customer_id, at, known_at)
            assert (past.merged_into is not None) == _is_alias(customer_id, known, at)
            shown = {one.entitlement: one for one in past.entitlements}
            for entitlement in history.catalogue.entitlements:
                found = shown.get(entitlement) or nothing_of(history.catalogue, entitlement)
                units = expected.get((customer_id, entitlement))
                if units is None:
                    # Nothing that was known by then names the customer.
                    assert found.reason == "not_entitled"
                elif past.merged_into is None:
                    assert shown_units(found) == units, (customer_id, entitlement, at, known_at)


def _is_alias(customer_id: str, known: Sequence[tuple[Event, datetime]], at: datetime) -> bool:
    """Whether the customer had gone on as another by then, as far as was known."""
    return any(
        event.customer_id == customer_id
        and isinstance(event.fact, CustomersMerged)
        and min(event.occurred_at, recorded_at) <= at
        for event, recorded_at in known
    )


def _recorded(ledger: Ledger, events: list[Event]) -> list[tuple[Event, datetime]]:
    """The events that the ledger keeps, each with the instant at which it was recorded, in that order."""
    rows = ledger.rows("SELECT customer_id, event_source, event_id, recorded_at FROM event ORDER BY recorded_at")
    by_id = {(event.customer_id, event.event_source, event.event_id): event for event in events}
    return [(by_id[row[:3]], row[3]) for row in rows if row[:3] in by_id]


@pytest.mark.parametrize("number", range(8))
def test_a_past_does_not_change_by_what_is_told_later(ledger: Ledger, number: int) -> None:
    history = world_of(940_000 + number, with_merges=number % 2 == 0)
    ledger.publish(history.catalogue)
    half = len(history.told) // 2
    for one_told in history.told[:half]:
        ledger.tell(one_told)
    recorded = _recorded(ledger, [event for event, _ in history.told])
    if not recorded:
        return
    chance = Random(number)
    instants = [instant for _, instant in recorded]
    # Behind the last of them more may be recorded at the instant of knowing: that answer is not the last one yet.
    any_pairs = [any_instants(chance, instants) for _ in range(8)]
    asked = [(at, min(known_at, max(instants))) for at, known_at in any_pairs]
    customer_ids = sorted({event.customer_id for event, _ in recorded})
    before = [past_of(ledger, each, at, known_at) for each in customer_ids for at, known_at in asked]

    for one_told in history.told[half:]:
        ledger.tell(one_told)

    after = [past_of(ledger, each, at, known_at) for each in customer_ids for at, known_at in asked]
    assert [one.entitlements for one in after] == [one.entitlements for one in before]
    assert [one.merged_into for one in after] == [one.merged_into for one in before]


@pytest.mark.parametrize("number", range(8))
def test_now_as_known_now_is_what_is_shown_without_instants(ledger: Ledger, number: int) -> None:
    history = world_of(950_000 + number, with_merges=number % 2 == 0)
    ledger.publish(history.catalogue)
    for one_told in history.told:
        ledger.tell(one_told)

    for (customer_id,) in ledger.rows("SELECT customer_id FROM customer"):
        with ledger.engine.connect() as connection:
            now = show(connection, customer_id)
        past = past_of(ledger, customer_id, None, None)
        assert now is not None
        assert (past.sequence, past.merged_into) == (now.sequence, now.merged_into)
        had = {one.entitlement: one for one in now.entitlements}
        for one in past.entitlements:
            assert had.pop(one.entitlement) == one
        # An account that was opened and never held anything has no past.
        assert {one.reason for one in had.values()} <= {"not_entitled"}


# -- edges

LIFE = (
    ("purchase", day(3), day(3, 12), bought()),
    ("usage", day(4), day(4), used(4)),
    ("refund", day(5), day(10), refunded()),
)
"""Ada buys ten units for ten days, told half a day late, and uses four; that it was refunded is told five days late."""


@pytest.fixture
def life(ledger: Ledger) -> Ledger:
    ledger.publish(catalogue(quota(), offer("pack", gives(10, lasts="P10D"))))
    for event_id, at, recorded_at, fact in LIFE:
        ledger.tell((told(event_id, at, fact), recorded_at))
    return ledger


@pytest.mark.parametrize(
    ("at", "known_at", "reason", "remaining", "used_units"),
    [
        pytest.param(day(1), day(20), "not_yet_active", 0, 0, id="before anything, known now: it is to begin"),
        pytest.param(day(1), day(1), None, None, None, id="before anything, known then: nothing"),
        pytest.param(day(20), day(3), None, None, None, id="known before the first posting: nothing"),
        pytest.param(day(3), day(3, 12), "allowed", 10, 0, id="at its begin, as soon as it is known"),
        pytest.param(day(3) - MICROSECOND, day(3, 12), "not_yet_active", 0, 0, id="just before its begin"),
        pytest.param(day(3), day(3, 12) - MICROSECOND, None, None, None, id="at its begin, just before it is known"),
        pytest.param(day(4) - MICROSECOND, day(20), "allowed", 10, 0, id="just before the usage, known now"),
        pytest.param(day(4), day(4), "allowed", 6, 4, id="at the usage, known at once"),
        pytest.param(day(6), day(6), "allowed", 6, 4, id="between the purchase and its late refund, known then"),
        pytest.param(day(6), day(10) - MICROSECOND, "allowed", 6, 4, id="just before the refund is known"),
        pytest.param(day(6), day(10), "exhausted", 0, 4, id="the same instant, once the refund is known"),
        pytest.param(day(5) - MICROSECOND, day(10), "allowed", 6, 4, id="before the refund, known with it"),
        pytest.param(day(12), day(6), "allowed", 6, 4, id="later than what is known, before the end"),
        pytest.param(day(13) - MICROSECOND, day(6), "allowed", 6, 4, id="just before an end that is to come"),
        pytest.param(day(13), day(6), "expired", 0, 0, id="at an end that nobody has booked"),
        pytest.param(day(900), day(6), "expired", 0, 0, id="far past an end that nobody has booked"),
    ],
)
def test_what_was_so_then_as_it_was_known_then(
    life: Ledger, at: datetime, known_at: datetime, reason: str | None, remaining: int | None, used_units: int | None
) -> None:
    past = past_of(life, "ada", at, known_at)

    found = [(one.reason, one.remaining, one.used) for one in past.entitlements]
    assert found == ([] if reason is None else [(reason, remaining, used_units)])
    assert (past.as_of, past.known_at) == (at, known_at)


@pytest.mark.parametrize(
    ("known_at", "recorded_at", "sequence"),
    [
        (day(3), None, 0),
        (day(3, 12), day(3, 12), None),
        (day(9), day(4), None),
        (day(10), day(10), 2),
        (day(20), day(10), 2),
    ],
    ids=["nothing yet", "the first event", "between two events", "the last event", "since then"],
)
def test_an_answer_says_what_was_recorded_last_and_the_last_change_where_that_is_known(
    life: Ledger, known_at: datetime, recorded_at: datetime | None, sequence: int | None
) -> None:
    past = past_of(life, "ada", day(6), known_at)

    assert (past.recorded_at, past.sequence) == (recorded_at, sequence)


def test_an_event_that_moved_nothing_is_one_that_was_recorded_last(life: Ledger) -> None:
    """A reversal waits for usage that nobody told: it has no posting."""
    life.tell((told("reversal", day(11), usage_reversed("unheard-of")), day(11)))
    life.tell((told("more", day(12), used(1)), day(12)))

    assert past_of(life, "ada", day(6), day(11, 5)).recorded_at == day(11)


def test_what_is_left_out_is_now(life: Ledger) -> None:
    now = past_of(life, "ada", None, None)

    assert [one.reason for one in now.entitlements] == ["expired"]
    assert past_of(life, "ada", None, day(6)).as_of > day(20)
    assert [one.reason for one in past_of(life, "ada", day(6), None).entitlements] == ["exhausted"]


def test_what_will_be_recorded_is_not_known_yet(life: Ledger) -> None:
    """Asked by what is known in a hundred years, the answer says by when it is known, which is now."""
    past = past_of(life, "ada", day(6), day(36_525))

    assert past.known_at < day(36_525)
    assert [one.reason for one in past.entitlements] == ["exhausted"]


def test_an_instant_may_be_given_in_any_zone(life: Ledger) -> None:
    zone = timezone(timedelta(hours=2))

    past = past_of(life, "ada", day(4).astimezone(zone), day(4).astimezone(zone))

    assert past == past_of(life, "ada", day(4), day(4))
    assert past.as_of.utcoffset() == timedelta()


def test_an_unknown_customer_has_no_past(life: Ledger) -> None:
    with life.engine.connect() as connection:
        assert show_past(connection, "nobody", day(6), day(6)) is None


@pytest.mark.parametrize("name", ["as_of", "known_at"])
def test_an_instant_without_a_zone_is_refused(life: Ledger, name: str) -> None:
    instants: dict[str, datetime] = {name: day(6).replace(tzinfo=None)}
    with life.engine.connect() as connection, pytest.raises(ValueError, match=f"{name} .* is without a zone"):
        show_past(connection, "ada", **instants)


def test_a_late_reversal_is_of_the_instant_of_its_usage_as_soon_as_it_is_known(life: Ledger) -> None:
    life.tell((told("reversal", day(9), usage_reversed("usage", 3)), day(11)))

    assert [one.used for one in past_of(life, "ada", day(4), day(10)).entitlements] == [4]
    assert [one.used for one in past_of(life, "ada", day(4), day(11)).entitlements] == [1]


@pytest.mark.parametrize(
    ("customer_id", "at", "known_at", "merged_into", "remaining"),
    [
        pytest.param("ada", day(7), day(8), None, [6], id="the old one, before it is known"),
        pytest.param("ada", day(9), day(8, 12), None, [6], id="the old one, later, before it is known"),
        pytest.param("ada", day(8), day(9), "bob", [], id="the old one from then on, once it is known"),
        pytest.param("ada", day(8) - MICROSECOND, day(9), None, [6], id="the old one before then, once it is known"),
        pytest.param("bob", day(8), day(9), None, [6], id="the new one from then on, once it is known"),
        pytest.param("bob", day(8), day(8, 12), None, [], id="the new one, before it is known"),
    ],
)
def test_who_went_on_as_another_did_so_from_that_instant_once_it_was_known(
    ledger: Ledger,
    customer_id: str,
    at: datetime,
    known_at: datetime,
    merged_into: str | None,
    remaining: list[int],
) -> None:
    ledger.publish(catalogue(quota(), offer("pack", gives(10, lasts="P10D"))))
    ledger.tell((told("purchase", day(3), bought()), day(3)))
    ledger.tell((told("usage", day(4), used(4)), day(4)))
    ledger.tell((told("merge", day(8), merged("bob")), day(9)))

    past = past_of(ledger, customer_id, at, known_at)

    assert (past.merged_into, [one.remaining for one in past.entitlements if one.remaining]) == (
        merged_into,
        remaining,
    )


@pytest.mark.parametrize(
    ("at", "known_at", "of_ada", "of_bob"),
    [
        (day(6), day(7), [6], []),
        (day(6), day(9), [], [6]),
        (day(6), day(11), [], [5]),
        (day(4, 12), day(11), [5], []),
    ],
    ids=["not known yet", "known", "with late usage of the giver", "before it, known"],
)
def test_what_was_transferred_is_the_receivers_from_then_on_once_it_was_known(
    ledger: Ledger, at: datetime, known_at: datetime, of_ada: list[int], of_bob: list[int]
) -> None:
    ledger.publish(catalogue(quota(), offer("pack", gives(10, lasts="forever"))))
    ledger.tell((told("purchase", day(3), bought()), day(3)))
    ledger.tell((told("usage", day(4), used(4)), day(4)))
    ledger.tell((told("transfer", day(5), order_transferred("bob")), day(8)))
    ledger.tell((told("late usage", day(4, 6), used(1)), day(10)))

    left = {
        each: [one.remaining for one in past_of(ledger, each, at, known_at).entitlements if one.remaining]
        for each in ("ada", "bob")
    }

    assert left == {"ada": of_ada, "bob": of_bob}


def test_a_version_that_was_published_later_is_not_known_before_it_reached_the_customer(ledger: Ledger) -> None:
    """Ten units become twenty with the second version, and the first threshold is told sooner."""
    first, second = quota(), quota(thresholds=(10, 100))
    pack = Offer(sku="pack", allowances=(gives(10, lasts="forever"),), apply=Apply.NOW)
    more = Offer(sku="pack", allowances=(gives(20, lasts="forever"),), apply=Apply.NOW)
    assert publish(ledger.engine, Definitions(entitlements=(first,), offers=(pack,))).problems == ()
    ledger.tell_now(told("purchase", datetime.now(UTC) - timedelta(hours=1), bought()))
    (before,) = past_of(ledger, "ada", None, None).entitlements
    bought_at = past_of(ledger, "ada", None, None).recorded_at
    assert publish(ledger.engine, Definitions(entitlements=(second,), offers=(more,))).problems == ()
    published_at = ledger.rows("SELECT max(published_at) FROM offer")[0][0]
    reach(ledger.engine, ledger.stages())

    now = past_of(ledger, "ada", None, None)
    assert now.recorded_at is not None
    at = now.recorded_at
    (as_bought,) = past_of(ledger, "ada", at, bought_at).entitlements
    (as_published,) = past_of(ledger, "ada", at, published_at).entitlements
    (as_reached,) = now.entitlements

    assert as_bought == before
    assert (as_bought.limit, as_bought.entitlement_version) == (10, 1)
    assert (as_published.limit, as_published.entitlement_version) == (10, 2)
    assert (as_reached.limit, as_reached.entitlement_version) == (20, 2)


def test_a_past_is_read_without_writing(life: Ledger) -> None:
    before = life.dump()

    past_of(life, "ada", day(900), None)

    assert life.dump() == before


def past_of(ledger: Ledger, customer_id: str, as_of: datetime | None, known_at: datetime | None) -> PastPicture:
    with ledger.engine.connect() as connection:
        found = show_past(connection, customer_id, as_of, known_at)
    assert found is not None
    return found
