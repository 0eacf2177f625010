"""One transaction per batch on PostgreSQL: exactly once, in any order, in any split, and nothing by halves."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from ledger_worker.apply.batch import Batch, Rejected
from ledger_worker.apply.transaction import apply_batch, by_database_clock, rehearse_batch
from ledger_worker.domain.catalogue import LateUsage, Offer
from ledger_worker.domain.events import Event, SourceFact, source_key
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import BrokenInvariantError, FencedError
from ledger_worker.metrics import CollectorRegistry, Metrics, Stage, Stages
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store.customers import merge_of
from ledger_worker.wire.encode import encode_event
from tests.apply.ledger import TOPIC, TOPIC_ID, Ledger, move, record, unproven
from tests.domain.driver import Life, World
from tests.domain.histories import History, history_of, world_of
from tests.domain.telling import (
    MICROSECOND,
    MINUTE,
    PACK_OF_TEN,
    activated,
    bought,
    catalogue,
    day,
    gives,
    line,
    merged,
    offer,
    order_transferred,
    quota,
    refunded,
    renewed,
    told,
    usage_reversed,
    used,
)
from tests.domain.test_settlement_window import with_policies
from tests.stories.test_stories import assert_same

HISTORIES = 20
WORLDS = 15
_END_THE_OTHERS = """
SELECT pg_terminate_backend(pid, 5000)
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
PLAN_AND_PACK = catalogue(
    quota(), quota("sms"), offer("plan", gives(10)), offer("pack", gives(5, "sms", lasts="P1D"), gives(3, lasts="P9D"))
)


# -- the same as the rules


@pytest.mark.parametrize("number", range(HISTORIES))
def test_a_history_comes_to_the_same_bytes_in_one_batch_or_several_and_by_the_rules(
    number: int, ledger: Ledger, other_ledger: Ledger
) -> None:
    history = history_of(700_000 + number)
    life = Life(history.catalogue)
    cut = Random(number).randint(1, len(history.told))
    for one in (ledger, other_ledger):
        one.publish(history.catalogue)
    with_versions = msgspec.structs.replace(life.catalogue, offers=ledger_offers(ledger, history))
    life.catalogue = with_versions

    ledger.tell(*history.told)
    other_ledger.tell(*history.told[:cut])
    for one_told in history.told[cut:]:
        other_ledger.tell(one_told)
    life.tell(*history.told)

    assert ledger.dump() == other_ledger.dump()
    assert_same(ledger, life)


@pytest.mark.parametrize("with_merges", [False, True], ids=["transfers", "merges"])
@pytest.mark.parametrize("number", range(WORLDS))
def test_a_world_comes_to_the_same_bytes_in_one_batch_or_several_and_by_the_rules(
    number: int, ledger: Ledger, other_ledger: Ledger, *, with_merges: bool
) -> None:
    history = world_of(710_000 + number, with_merges=with_merges)
    world = World(history.catalogue)
    for one in (ledger, other_ledger):
        one.publish(history.catalogue)
    world.catalogue = msgspec.structs.replace(world.catalogue, offers=ledger_offers(ledger, history))

    ledger.tell(*history.told)
    for part in parts_of(history.told, Random(number)):
        other_ledger.tell(*part)
        world.tell(*part)

    assert ledger.dump() == other_ledger.dump()
    assert_same(ledger, world)
    assert {row[0]: (tuple(row[5]), merge_of(*row[6:])) for row in ledger.dump()["customer"]} == {
        customer_id: (one.head.linked, one.head.merge) for customer_id, one in world.customers.items()
    }
    assert unproven(ledger) == []


@pytest.mark.parametrize("number", range(WORLDS))
def test_a_world_of_late_usage_comes_to_the_same_bytes_in_one_batch_or_several_and_by_the_rules(
    number: int, ledger: Ledger, other_ledger: Ledger
) -> None:
    """The window is one day, so that much of the usage is late, and the entitlements have any of the policies."""
    random = Random(number)
    history = with_policies(world_of(720_000 + number), random)
    world = World(history.catalogue, timedelta(days=1))
    for one in (ledger, other_ledger):
        one.publish(history.catalogue)
        one.set_settlement_window(1)
    world.catalogue = msgspec.structs.replace(world.catalogue, offers=ledger_offers(ledger, history))

    ledger.tell(*history.told)
    for part in parts_of(history.told, random):
        other_ledger.tell(*part)
        world.tell(*part)

    assert ledger.dump() == other_ledger.dump()
    assert_same(ledger, world)
    assert unproven(ledger) == []


def parts_of(told_at: Sequence[tuple[Event, datetime]], random: Random) -> list[Sequence[tuple[Event, datetime]]]:
    """The same in several batches of one to four events."""
    parts = []
    rest = told_at
    while rest:
        size = random.randint(1, 4)
        parts.append(rest[:size])
        rest = rest[size:]
    return parts


def ledger_offers(ledger: Ledger, history: History) -> dict[str, tuple[Offer, ...]]:
    """The offers as the database gives them back."""
    with ledger.engine.connect() as connection:
        return catalogue_store.read(connection, history.catalogue.version).offers


def test_many_customers_in_one_batch_end_as_each_by_itself(ledger: Ledger, other_ledger: Ledger) -> None:
    offered = history_of(4711).catalogue
    for one in (ledger, other_ledger):
        one.publish(offered)
    everyone = [of_customer(history_of(800_000 + number), f"customer-{number}") for number in range(20)]
    mixed = [one_told for told_of_one in everyone for one_told in told_of_one]
    mixed.sort(key=lambda one_told: one_told[1])

    ledger.tell(*mixed)
    for told_of_one in everyone:
        other_ledger.tell(*told_of_one)

    assert ledger.dump() == other_ledger.dump()


def test_who_owns_a_source_does_not_depend_on_where_a_batch_is_split(ledger: Ledger, other_ledger: Ledger) -> None:
    """Six customers are told of the same few orders: each belongs to the first, the others' facts await a transfer."""
    offered = history_of(4712).catalogue
    for one in (ledger, other_ledger):
        one.publish(offered)
    mixed = [
        (msgspec.structs.replace(event, customer_id=f"customer-{number}"), now)
        for number in range(6)
        for event, now in history_of(900_000 + number).told
    ]
    mixed.sort(key=lambda one_told: one_told[1])

    ledger.tell(*mixed)
    for first in range(0, len(mixed), 5):
        other_ledger.tell(*mixed[first : first + 5])

    assert ledger.dump() == other_ledger.dump()
    outcomes = {outcome for (outcome,) in ledger.rows("SELECT DISTINCT outcome FROM event")}
    assert "awaiting_transfer" in outcomes


def of_customer(history: History, customer_id: str) -> list[tuple[Event, datetime]]:
    """The history told of another customer, with sources of its own."""

    def renamed(event: Event) -> Event:
        fact = event.fact
        if isinstance(fact, SourceFact):
            field = f"{source_key(fact).partition('/')[0]}_id"
            fact = msgspec.structs.replace(fact, **{field: f"{customer_id}/{getattr(fact, field)}"})
        return msgspec.structs.replace(event, customer_id=customer_id, fact=fact)

    return [(renamed(event), now) for event, now in history.told]


def test_a_batch_delivered_again_changes_nothing(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    events = [told("p", day(1), bought()), *(told(f"u{n}", day(2), used(1)) for n in range(5))]
    ledger.tell_now(*events)
    before = ledger.dump()

    applied = ledger.tell_now(*events)

    assert (applied.outcomes, applied.postings, applied.changes) == ({"duplicate": 6}, 0, 0)
    assert ledger.dump() == before


def test_what_falls_due_a_microsecond_later_is_booked_alike_in_one_batch_and_in_several(
    ledger: Ledger, other_ledger: Ledger
) -> None:
    """Instants are raised within a customer: the third event is recorded when another account's pack has just ended."""
    events = [told("p", day(1) + 2 * MICROSECOND, bought())]
    events += [told(f"u{n}", day(2) - MINUTE, used(1)) for n in range(5)]
    events += [told("s", day(2) - MINUTE, used(1, "sms"))]
    told_at_once = [(event, day(2)) for event in events[1:]]
    for one in (ledger, other_ledger):
        one.publish(PLAN_AND_PACK)
        one.tell((events[0], day(1) + 2 * MICROSECOND))

    ledger.tell(*told_at_once)
    for one_told in told_at_once:
        other_ledger.tell(one_told)

    assert ledger.dump() == other_ledger.dump()


# -- instants


def test_events_are_recorded_by_the_databases_clock_and_strictly_increase_within_a_customer(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    before = ledger.rows("SELECT clock_timestamp()")[0][0]

    ledger.tell_now(*(told(f"u{n}", before - MINUTE, used(1)) for n in range(5)))
    ledger.tell_now(*(told(f"v{n}", before - MINUTE, used(1)) for n in range(5)))

    after = ledger.rows("SELECT clock_timestamp()")[0][0]
    instants = [row[0] for row in ledger.rows("SELECT recorded_at FROM posting ORDER BY number")]
    assert instants == sorted(set(instants))
    assert before < instants[0] < instants[-1] < after


# -- dead letters


def test_an_event_that_cannot_be_applied_is_kept_byte_for_byte_and_the_rest_is_applied(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    bad = told("bad", day(2), used(1, "unheard-of"))

    applied = ledger.tell((told("u", day(2), used(1)), day(2)), (bad, day(2)), (told("v", day(2), used(1)), day(2)))

    assert (applied.outcomes, applied.dead_letters) == ({"applied": 2}, {"unknown_entitlement": 1})
    ((reason, topic, offset, key, value, headers, customer, source, event_id),) = ledger.rows(
        'SELECT reason, topic, "offset", key, value, headers, customer_id, event_source, event_id FROM dead_letter'
    )
    assert (reason, topic, offset, customer, source, event_id) == (
        "unknown_entitlement",
        TOPIC,
        2,
        "ada",
        "commerce",
        "bad",
    )
    assert (bytes(key), bytes(value)) == (b"ada", encode_event(bad))
    assert msgspec.msgpack.decode(bytes(headers)) == [["ce_id", b"1"], ["ce_id", None]]
    assert ledger.rows("SELECT count(*) FROM event WHERE event_id = 'bad'")[0][0] == 0
    assert ledger.rows("SELECT count(*) FROM outbox WHERE lane = -1 AND dead_letter_id IS NOT NULL")[0][0] == 1


def test_other_content_under_a_known_id_is_a_dead_letter_and_the_first_telling_stands(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.tell((told("u", day(2), used(1)), day(2)))
    before = ledger.dump()

    applied = ledger.tell((told("u", day(2), used(2)), day(3)))

    assert applied.dead_letters == {"conflicting_content": 1}
    assert ledger.dump() == before


def test_the_same_id_of_another_customer_is_another_event(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)

    applied = ledger.tell((told("u", day(2), used(1)), day(2)), (told("u", day(2), used(2), customer="bob"), day(2)))

    assert applied.outcomes == {"applied": 2}


def test_a_dead_letter_leaves_the_id_free_for_a_corrected_one(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.tell((told("u", day(2), used(1, "unheard-of")), day(2)))

    assert ledger.tell((told("u", day(2), used(1)), day(3))).outcomes == {"applied": 1}


def test_a_refused_event_claims_no_source(ledger: Ledger) -> None:
    """What was refused did not happen: the order is still free for the customer it is told of rightly."""
    ledger.publish(PACK_OF_TEN)
    ledger.tell(
        (told("p", day(2) + timedelta(minutes=6), bought(), customer="bob"), day(2)),
        (told("early", day(3), bought(order="o2"), customer="bob"), day(2)),
        (told("u", day(2), used(1), customer="bob"), day(2)),
        (told("u", day(2), bought(order="o3"), customer="bob"), day(2)),
    )

    assert ledger.rows("SELECT * FROM source_owner") == []
    applied = ledger.tell(
        (told("p", day(2), bought()), day(2)),
        (told("p2", day(3), bought(order="o2")), day(3)),
        (told("p3", day(3), bought(order="o3")), day(3)),
    )
    assert applied.outcomes == {"applied": 3}


def test_a_record_that_was_rejected_before_is_kept_with_its_reason(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    rejected = Rejected(
        record=record(7, b"no avro"), topic_id=TOPIC_ID, reason=DeadLetterReason.UNDECODABLE, message="expected Avro"
    )

    applied = ledger.apply(Batch(rejected=(rejected,)))

    assert applied.dead_letters == {"undecodable": 1}
    assert ledger.rows("SELECT reason, message, customer_id FROM dead_letter") == [
        ("undecodable", "expected Avro", None)
    ]


def test_a_value_that_postgresql_refuses_leaves_nothing_of_the_batch(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    before = ledger.dump()

    with pytest.raises(DataError):
        ledger.tell((told("u", day(2), used(1)), day(2)), (told("a\0b", day(2), used(1)), day(2)))

    assert ledger.dump() == before
    assert ledger.tell((told("u", day(2), used(1)), day(2))).outcomes == {"applied": 1}


class _LosesItsConnection(Stages):
    """A session that the server ends when a stage is reached: what comes next is the first COPY."""

    def __init__(self, ledger: Ledger, stage: Stage) -> None:
        super().__init__(Metrics(CollectorRegistry()))
        self._ledger = ledger
        self._stage = stage

    def reached(self, stage: Stage) -> None:
        if stage is self._stage:
            with psycopg.connect(self._ledger.url) as session:
                session.execute(_END_THE_OTHERS)


@pytest.mark.parametrize("stage", [Stage.LOCKED, Stage.DECIDED, Stage.WRITTEN])
def test_a_connection_lost_at_any_stage_is_an_outage_and_leaves_nothing(ledger: Ledger, stage: Stage) -> None:
    ledger.publish(PACK_OF_TEN)
    before = ledger.dump()
    batch = Batch(deliveries=(ledger.delivery(told("u", day(2), used(1))),))

    with pytest.raises(OperationalError) as raised:
        apply_batch(ledger.engine, batch, ledger.catalogues, _LosesItsConnection(ledger, stage))

    assert raised.value.connection_invalidated
    assert ledger.dump() == before
    assert ledger.apply(batch).outcomes == {"applied": 1}


# -- whose source it is


def test_a_fact_about_a_source_of_another_customer_awaits_its_transfer(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.tell((told("p", day(1), bought()), day(1)))

    applied = ledger.tell((told("r", day(2), refunded(), customer="bob"), day(2)))

    assert applied.outcomes == {"awaiting_transfer": 1}
    assert ledger.rows("SELECT source_key, customer_id FROM source_owner") == [("order/o1", "ada")]
    assert ledger.rows("SELECT customer_id, outcome FROM event WHERE event_id = 'r'") == [("bob", "awaiting_transfer")]
    assert ledger.rows('SELECT revoked FROM "grant"') == [(0,)]


@pytest.mark.parametrize(("first", "second"), [("ada", "bob"), ("bob", "ada")])
def test_of_two_customers_in_one_batch_the_first_told_owns_the_source(ledger: Ledger, first: str, second: str) -> None:
    ledger.publish(PACK_OF_TEN)

    ledger.tell(
        (told("p", day(1), bought(), customer=first), day(1)), (told("p", day(1), bought(), customer=second), day(1))
    )

    assert ledger.rows("SELECT customer_id FROM source_owner") == [(first,)]
    assert ledger.rows('SELECT customer_id FROM "grant"') == [(first,)]


def test_a_receiver_of_whom_nothing_was_told_has_what_is_transferred_to_it(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.tell((told("p", day(1), bought()), day(1)), (told("u", day(2), used(4)), day(2)))

    applied = ledger.tell((told("t", day(3), order_transferred("bob")), day(3)))

    assert (applied.outcomes, applied.postings, applied.changes) == ({"applied": 1}, 2, 2)
    assert ledger.rows('SELECT customer_id, granted, used, moved, available FROM "grant" ORDER BY customer_id') == [
        ("ada", 10, 4, 6, 0),
        ("bob", 6, 0, 0, 6),
    ]
    assert ledger.rows("SELECT customer_id, linked, recorded_at FROM customer ORDER BY customer_id") == [
        ("ada", ["bob"], day(3)),
        ("bob", ["ada"], day(3)),
    ]
    assert ledger.rows("SELECT customer_id, number, told_to FROM posting WHERE told_to IS NOT NULL") == [
        ("bob", 1, "ada")
    ]
    assert ledger.rows("SELECT customer_id FROM event WHERE event_id = 't'") == [("ada",)]


# -- customers who go on as others


def test_a_merge_leaves_what_was_covered_and_moves_overage_with_its_usage(ledger: Ledger) -> None:
    ledger.publish(catalogue(quota(), offer("pack", gives(60, lasts="forever"))))
    ledger.tell((told("p", day(1), bought()), day(1)), (told("u", day(2), used(80)), day(2)))

    ledger.tell((told("m", day(3), merged()), day(3)))

    counters = "SELECT customer_id, usage, used_total, overage, debt, forgiven FROM account ORDER BY customer_id"
    assert ledger.rows(counters) == [("ada", 60, 60, 0, 0, 0), ("bob", 20, 0, 20, 0, 0)]
    assert unproven(ledger) == []


def test_an_event_told_again_under_the_other_id_of_a_person_is_a_duplicate(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.tell((told("p", day(1), bought()), day(1)), (told("u", day(2), used(4)), day(2)))
    ledger.tell((told("v", day(2), used(1), customer="bob"), day(2)), (told("m", day(3), merged()), day(3)))
    before = ledger.dump()

    applied = ledger.tell(
        (told("u", day(2), used(4), customer="bob"), day(4)),
        (told("v", day(2), used(1)), day(4)),
        (told("p", day(1), bought(), customer="bob"), day(4)),
    )

    assert (applied.outcomes, applied.postings) == ({"duplicate": 3}, 0)
    assert ledger.dump() == before


def test_the_batch_that_merges_knows_the_events_of_both_ids(ledger: Ledger, other_ledger: Ledger) -> None:
    """What is told before the merge counts for each of the two, what is told after it was told before."""
    told_at = [
        (told("u", day(2), used(4)), day(4)),
        (told("w", day(2), used(2)), day(4)),
        (told("u", day(2), used(4), customer="bob"), day(4)),
        (told("m", day(3), merged()), day(4)),
        (told("w", day(2), used(2), customer="bob"), day(4)),
        (told("v", day(2), used(1)), day(4)),
        (told("x", day(2), used(3)), day(4)),
        (told("x", day(2), used(3), customer="bob"), day(4)),
    ]
    for one in (ledger, other_ledger):
        one.publish(PACK_OF_TEN)
        one.tell((told("v", day(2), used(1), customer="bob"), day(2)))

    applied = ledger.tell(*told_at)
    for one_told in told_at:
        other_ledger.tell(one_told)

    assert applied.outcomes == {"applied": 5, "duplicate": 3}
    assert unproven(ledger) == []
    assert ledger.rows("SELECT customer_id, usage FROM account ORDER BY customer_id") == [("ada", 0), ("bob", 14)]
    assert ledger.dump() == other_ledger.dump()


def test_the_batch_that_merges_knows_what_either_id_had_reversed(ledger: Ledger, other_ledger: Ledger) -> None:
    """Also where the other id had nothing of the entitlement when they were merged."""
    told_at = [
        (told("r", day(2), usage_reversed("u")), day(2)),
        (told("u", day(1), used(1)), day(2)),
        (told("m", day(4), merged("ada"), customer="bob"), day(4)),
        (told("v", day(3), used(12), customer="bob"), day(5)),
        (told("s", day(5), usage_reversed("v", reversal="v2"), customer="bob"), day(5)),
        (told("t", day(5), usage_reversed("u"), customer="bob"), day(6)),
    ]
    for one in (ledger, other_ledger):
        one.publish(PACK_OF_TEN)

    applied = ledger.tell(*told_at)
    for one_told in told_at:
        other_ledger.tell(one_told)

    assert applied.outcomes == {"waiting": 1, "applied": 4, "duplicate_fact": 1}
    assert ledger.rows("SELECT DISTINCT usage, overage FROM account") == [(0, 0)]
    assert ledger.dump() == other_ledger.dump()
    assert unproven(ledger) == []


def test_other_content_under_an_id_of_the_person_is_a_dead_letter(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.tell((told("u", day(2), used(4)), day(2)), (told("m", day(3), merged()), day(3)))
    before = ledger.dump()

    applied = ledger.tell((told("u", day(2), used(5), customer="bob"), day(4)))

    assert applied.dead_letters == {"conflicting_content": 1}
    assert ledger.dump() == before


def test_usage_told_of_an_id_that_was_left_counts_for_whom_it_goes_on_as(ledger: Ledger) -> None:
    """Since the merge it burns what there is under the new id; before it only what the old one had."""
    ledger.publish(PACK_OF_TEN)
    ledger.tell((told("p", day(1), bought(), customer="bob"), day(1)), (told("m", day(3), merged()), day(3)))

    ledger.tell((told("since", day(4), used(4)), day(5)), (told("before", day(2), used(2)), day(5)))

    assert ledger.rows("SELECT customer_id, usage, used_total, overage FROM account ORDER BY customer_id") == [
        ("ada", 0, 0, 0),
        ("bob", 6, 4, 2),
    ]
    assert ledger.rows("SELECT customer_id, event_id FROM event WHERE type = 'UsageRecorded' ORDER BY 2") == [
        ("ada", "before"),
        ("ada", "since"),
    ]
    assert unproven(ledger) == []


@pytest.mark.parametrize(
    ("policy", "becomes", "usage", "used_total", "overage"),
    [
        (LateUsage.COUNT_NOW, "counted_late", 6, 6, 0),
        (LateUsage.OVERAGE, "overage_late", 6, 2, 4),
        (LateUsage.IGNORE_AND_TELL, "ignored_late", 2, 2, 0),
    ],
)
def test_usage_from_beyond_the_window_of_the_ledger_goes_by_its_policy(
    ledger: Ledger, policy: LateUsage, becomes: str, usage: int, used_total: int, overage: int
) -> None:
    """The window is that of the row of `ledger` when the usage is recorded; what was decided is read ever after."""
    ledger.publish(catalogue(quota(late_usage=policy), offer("pack", gives(10, lasts="forever"))))
    ledger.set_settlement_window(2)
    ledger.tell((told("p", day(1), bought()), day(1)), (told("u1", day(2), used(2)), day(4)))

    applied = ledger.tell((told("u2", day(2), used(4)), day(5)))
    ledger.set_settlement_window(300)
    ledger.tell((told("back", day(6), usage_reversed("u1", 1)), day(6)))  # settles everything again

    assert applied.outcomes == {becomes: 1}
    assert ledger.rows("SELECT usage, used_total, overage FROM account") == [(usage - 1, used_total - 1, overage)]
    assert unproven(ledger) == []


def test_usage_is_late_after_35_days_unless_the_row_of_the_ledger_says_otherwise(database_url: str) -> None:
    made = Ledger(database_url)

    assert made.rows("SELECT settlement_window_days FROM ledger") == [(35,)]
    with pytest.raises(IntegrityError):
        made.set_settlement_window(0)
    made.close()


def test_the_picture_of_an_id_that_was_left_says_whom_it_goes_on_as_and_nothing_else(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.tell((told("p", day(1), bought()), day(1)), (told("u", day(2), used(4)), day(2)))

    ledger.tell((told("m", day(3), merged()), day(3)))
    ledger.tell((told("n", day(4), merged("cyd", "m2"), customer="bob"), day(4)))

    ada, bob, cyd = ledger.pictures(["ada", "bob", "cyd"], day(5))
    assert [(one.merged_into, one.entitlements) for one in (ada, bob)] == [("cyd", ()), ("cyd", ())]
    assert cyd.merged_into is None
    assert [(one.entitlement, one.limit, one.remaining) for one in cyd.entitlements] == [("api", 6, 6)]
    assert unproven(ledger) == []


def test_a_merge_that_would_close_a_circle_is_a_dead_letter_and_nothing_else(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.tell((told("p", day(1), bought()), day(1)), (told("m", day(3), merged()), day(3)))
    ledger.tell((told("n", day(4), merged("cyd", "m2"), customer="bob"), day(4)))
    before = ledger.dump()

    applied = ledger.tell(
        (told("back", day(5), merged("ada", "m3"), customer="cyd"), day(5)),
        (told("back", day(5), merged("bob", "m4"), customer="cyd"), day(5)),
        (told("itself", day(5), merged("cyd", "m5"), customer="cyd"), day(5)),
    )

    assert (applied.outcomes, applied.dead_letters) == ({}, {"circular_merge": 3})
    assert ledger.dump() == before


def test_a_merge_that_is_true_already_is_kept_and_changes_nothing(ledger: Ledger) -> None:
    """Told again under a new id, or that the old id goes on as whom the new one does."""
    ledger.publish(PACK_OF_TEN)
    ledger.tell((told("p", day(1), bought()), day(1)), (told("m", day(3), merged()), day(3)))
    ledger.tell((told("n", day(4), merged("cyd", "m2"), customer="bob"), day(4)))
    before = ledger.dump()

    applied = ledger.tell(
        (told("again", day(3), merged()), day(5)),
        (told("further", day(3), merged("cyd", "m3")), day(5)),
        (told("elsewhere", day(5), merged("dee", "m4")), day(5)),
    )

    assert (applied.outcomes, applied.postings) == ({"already_merged": 2, "contradicted": 1}, 0)
    after = ledger.dump()
    assert [row[6:] for row in after["customer"]][:3] == [row[6:] for row in before["customer"]]
    for table in before.keys() - {"customer", "event"}:
        assert after[table] == before[table], table
    assert unproven(ledger) == []


# -- the fence


def test_a_batch_moves_its_partition_and_counts_what_came_of_it(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.introduce()
    epoch = ledger.claim()
    events = [told("u", day(1), used(1)), told("u", day(1), used(1)), told("bad", day(1), used(1, "unheard-of"))]

    ledger.apply(Batch(moves=(move(0, 3, epoch=epoch),), deliveries=tuple(map(ledger.delivery, events))))

    assert ledger.rows("SELECT next_offset, records, duplicates, dead_letters FROM input_partition") == [(3, 3, 1, 1)]


@pytest.mark.parametrize(
    ("from_offset", "epoch_behind", "halted"),
    [(0, 1, False), (1, 0, False), (0, 0, True)],
    ids=["owner", "place", "halt"],
)
def test_a_fenced_batch_changes_nothing(
    ledger: Ledger,
    from_offset: int,
    epoch_behind: int,
    halted: bool,  # noqa: FBT001 -- a column of the table
) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.introduce()
    ledger.claim()
    epoch = ledger.claim()
    if halted:
        with ledger.engine.begin() as connection:
            connection.execute(text("UPDATE input_partition SET is_halted = true"))
    before = ledger.dump(), ledger.rows("SELECT * FROM input_partition")
    batch = Batch(
        moves=(move(from_offset, 9, epoch=epoch - epoch_behind),),
        deliveries=(ledger.delivery(told("p", day(1), bought())), ledger.delivery(told("u", day(1), used(1)))),
    )

    with pytest.raises(FencedError):
        ledger.apply(batch)

    assert (ledger.dump(), ledger.rows("SELECT * FROM input_partition")) == before


def test_a_batch_whose_answer_was_lost_is_fenced_when_it_comes_again(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.introduce()
    batch = Batch(moves=(move(0, 1, epoch=ledger.claim()),), deliveries=(ledger.delivery(told("u", day(1), used(1))),))
    ledger.apply(batch)
    before = ledger.dump()

    with pytest.raises(FencedError):
        ledger.apply(batch)

    assert ledger.dump() == before


def test_if_one_of_several_partitions_is_fenced_none_moves(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.introduce(partitions_of_topic=2)
    epochs = [ledger.claim(partition) for partition in (0, 1)]

    with pytest.raises(FencedError):
        ledger.apply(Batch(moves=(move(0, 5, epoch=epochs[0]), move(0, 5, epoch=epochs[1] + 1, partition=1))))

    assert ledger.rows("SELECT next_offset FROM input_partition") == [(0,), (0,)]


# -- rehearsal, parked customers


def test_a_rehearsal_says_what_would_come_of_it_and_leaves_nothing(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    before = ledger.dump()
    batch = Batch(deliveries=(ledger.delivery(told("p", day(1), bought())),))

    applied = rehearse_batch(ledger.engine, batch, ledger.catalogues, ledger.stages())

    assert (applied.outcomes, applied.postings, applied.changes) == ({"applied": 1}, 1, 1)
    assert ledger.dump() == before


def test_no_event_passes_a_parked_customer(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    ledger.tell((told("p", day(1), bought()), day(1)))
    with ledger.engine.begin() as connection:
        connection.execute(text("UPDATE customer SET is_parked = true, parked_reason = 'broken invariant'"))
    before = ledger.dump()

    with pytest.raises(BrokenInvariantError, match="ada is parked"):
        ledger.tell((told("u", day(2), used(1), customer="bob"), day(2)), (told("u", day(2), used(1)), day(2)))

    assert ledger.dump() == before


# -- what is due


@pytest.mark.parametrize("packs", [100, 101, 350, 620])
def test_however_much_is_due_it_is_booked_before_the_event_at_hand(ledger: Ledger, packs: int) -> None:
    ledger.publish(catalogue(quota(), offer("pack", gives(10, lasts="P1D"))))
    for number, first in enumerate(range(0, packs, 100)):
        lines = (line(line_id=f"l{place}") for place in range(first, min(first + 100, packs)))
        ledger.tell((told(f"p{number}", day(1), bought(*lines, order=f"o{number}")), day(1)))

    ledger.tell((told("u", day(3), used(1)), day(3)))

    assert ledger.rows('SELECT phase, count(*) FROM "grant" GROUP BY phase') == [("ended", packs)]
    assert ledger.rows("SELECT overage, next_transition_at FROM account") == [(1, None)]
    events = ledger.rows("SELECT type, recorded_at FROM event ORDER BY recorded_at")
    assert events[-1][0] == "UsageRecorded"
    assert [kind for kind, _ in events].count("TransitionsDue") == packs
    assert events[-1][1] - day(3) < timedelta(milliseconds=1)
    assert_chained(ledger)


def assert_chained(ledger: Ledger) -> None:
    """Postings and sequences of every customer have no gap, and the head is the last link."""
    gaps = ledger.rows("""
        SELECT customer.customer_id
        FROM customer
        LEFT JOIN (
            SELECT customer_id, count(*) AS links, max(number) AS last FROM posting GROUP BY customer_id
        ) AS chain USING (customer_id)
        LEFT JOIN (
            SELECT customer_id, count(*) AS told, max(sequence) AS last FROM outbox WHERE lane >= 0 GROUP BY customer_id
        ) AS changes USING (customer_id)
        WHERE (customer.posting_number, customer.posting_number)
              IS DISTINCT FROM (coalesce(chain.links, 0), coalesce(chain.last, 0))
           OR (customer.sequence, customer.sequence)
              IS DISTINCT FROM (coalesce(changes.told, 0), coalesce(changes.last, 0))
    """)
    assert gaps == []


def test_what_is_due_is_recorded_at_the_given_instants_and_not_by_the_clock(ledger: Ledger) -> None:
    """Else a rebuild would not come to the same bytes."""
    ledger.publish(catalogue(quota(), offer("pack", gives(10, lasts="P1D"))))
    for number in range(2):
        ledger.tell(
            (told(f"p{number}", day(1), bought(*(line(line_id=f"l{n}") for n in range(80)), order=str(number))), day(1))
        )

    ledger.tell((told("u", day(3), used(1)), day(3)))

    (last,) = ledger.rows("SELECT max(recorded_at) FROM posting")[0]
    assert last - day(3) < timedelta(milliseconds=1)


# -- late facts


def test_a_late_renewal_is_settled_from_the_history_that_is_stored(ledger: Ledger) -> None:
    ledger.publish(catalogue(quota(), offer("plan", gives(10))))
    ledger.tell((told("a", day(1), activated(day(1), day(11))), day(1)))
    for number in range(5):
        ledger.tell((told(f"u{number}", day(13 + number), used(1)), day(13 + number)))

    ledger.tell((told("r", day(11), renewed(day(11), day(21))), day(18)))

    assert ledger.rows("SELECT used_total, overage FROM account") == [(5, 0)]
    assert ledger.rows('SELECT used FROM "grant" ORDER BY effective_at') == [(0,), (5,)]


def test_the_clock_of_the_database_is_the_one_that_says_what_is_too_early(ledger: Ledger) -> None:
    ledger.publish(PACK_OF_TEN)
    now = datetime.now(UTC)

    applied = ledger.tell_now(
        told("soon", now + 4 * MINUTE, used(1)), told("too soon", now + 6 * MINUTE, used(1)), told("then", now, used(1))
    )

    assert (applied.outcomes, applied.dead_letters) == ({"applied": 2}, {"too_early": 1})


def test_a_batch_of_nothing_is_applied(ledger: Ledger) -> None:
    applied = apply_batch(ledger.engine, Batch(), ledger.catalogues, ledger.stages(), by_database_clock)

    assert (applied.outcomes, applied.dead_letters, applied.postings) == ({}, {}, 0)
