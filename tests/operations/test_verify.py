"""Verify finds nothing in a ledger that was only applied to, and names the row wherever somebody changed one."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import pytest
from sqlalchemy import Engine

from ledger_worker.apply.batch import Batch, Delivery, Move
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
    CustomersMerged,
    Event,
    Fact,
    OfferReached,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    PurchaseTransferred,
    SubscriptionActivated,
    SubscriptionItem,
    SubscriptionPaused,
    SubscriptionPlanChanged,
    SubscriptionQuantityChanged,
    SubscriptionRenewed,
    SubscriptionResumed,
    SubscriptionTransferred,
    UsageRecorded,
    UsageReversed,
)
from ledger_worker.metrics import CollectorRegistry, Metrics, Stages
from ledger_worker.operations.verify import Check, Progress, Verdict, verify
from ledger_worker.reports.arrivals import arrivals
from ledger_worker.store import catalogue, partitions
from ledger_worker.wire.encode import encode_event
from ledger_worker.wire.record import Record
from tests.apply.ledger import Ledger
from tests.domain.histories import world_of

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
TOPIC = "told"
ENTITLEMENTS = (
    Entitlement(key="api", name="API calls", type=EntitlementType.QUOTA, unit="call", debt=DebtPolicy.CARRY),
    Entitlement(key="video", name="Video", type=EntitlementType.ACCESS),
)
OFFERS = (
    Offer(
        sku="CREDITS",
        apply=Apply.NOW,
        allowances=(
            Allowance(key="calls", entitlement="api", units=10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT),
        ),
    ),
    Offer(
        sku="PLAN",
        apply=Apply.NOW,
        allowances=(Allowance(key="calls", entitlement="api", units=100), Allowance(key="video", entitlement="video")),
    ),
)
PERIOD = timedelta(days=30)


def event(customer_id: str, event_id: str, minute: int, fact: Fact) -> Event:
    return Event(
        event_source="shop",
        event_id=event_id,
        customer_id=customer_id,
        occurred_at=NOON + timedelta(minutes=minute),
        fact=fact,
    )


def usage(customer_id: str, event_id: str, minute: int, units: int, entitlement: str = "api") -> Event:
    return event(customer_id, event_id, minute, UsageRecorded(entitlement=entitlement, units=units))


ITEM = SubscriptionItem(item_id="plan", sku="PLAN", quantity=1)
TOLD = (
    event(
        "ada",
        "bought",
        0,
        PurchaseCompleted(order_id="o1", lines=(PurchaseLine(line_id="1", sku="CREDITS", quantity=1),)),
    ),
    usage("ada", "first", 1, 4),
    usage("ada", "last", 10, 3),
    usage("ada", "late", 5, 8),
    event("ada", "refunded", 20, PurchaseRefunded(order_id="o1", refund_id="r1")),
    event(
        "bob",
        "began",
        0,
        SubscriptionActivated(subscription_id="s1", items=(ITEM,), period_start=NOON, period_end=NOON + PERIOD),
    ),
    usage("bob", "used", 2, 7),
    usage("bob", "used", 2, 7),
    usage("bob", "unknown", 3, 1, entitlement="storage"),
    event(
        "bob",
        "went-on",
        30,
        SubscriptionRenewed(subscription_id="s1", period_start=NOON + PERIOD, period_end=NOON + 2 * PERIOD),
    ),
)
RECORDED = tuple(NOON + timedelta(hours=1, seconds=place) for place in range(len(TOLD) + 1))


@pytest.fixture
def ledger(engine: Engine) -> Engine:
    """The facts of TOLD, applied in three batches."""
    prepare(engine, OFFERS)
    for start in (0, 4, 7):
        tell(engine, TOLD[start : start + (4 if start == 0 else 3)], start)
    return engine


def prepare(engine: Engine, offers: Sequence[Offer], entitlements: Sequence[Entitlement] = ENTITLEMENTS) -> None:
    """The offers are published, and the topic is ours from its beginning."""
    publish(engine, *offers, entitlements=entitlements)
    with engine.begin() as connection:
        partitions.introduce(connection, TOPIC, "id", starts={0: 0}, lows={0: 0})
    with engine.begin() as connection:
        partitions.claim(connection, TOPIC, 0, "id", "test")


def publish(engine: Engine, *offers: Offer, entitlements: Sequence[Entitlement] = ENTITLEMENTS) -> None:
    with engine.begin() as connection:
        catalogue.lock_exclusive(connection)
        version = catalogue.read_ledger(connection).catalogue_version
        catalogue.publish(connection, tuple(entitlements), tuple(offers), catalogue.read(connection, version))


def tell(engine: Engine, events: Sequence[Event], offset: int, recorded: Sequence[datetime] | None = None) -> None:
    """The events are one batch from that offset on, recorded at these instants, or at those of RECORDED."""
    deliveries = tuple(
        Delivery(
            event=each,
            record=Record(topic=TOPIC, partition=0, offset=place, timestamp=None, key=None, value=encode_event(each)),
        )
        for place, each in enumerate(events, start=offset)
    )
    move = Move(
        topic=TOPIC, partition=0, topic_id="id", owner_epoch=1, from_offset=offset, to_offset=offset + len(events)
    )
    apply(engine, Batch(moves=(move,), deliveries=deliveries), recorded or RECORDED[offset : offset + len(events)])


def tell_each(engine: Engine, told: Sequence[tuple[Event, datetime]]) -> None:
    """Each event is a batch of its own, recorded at its instant."""
    for offset, (each, recorded_at) in enumerate(told):
        tell(engine, [each], offset, [recorded_at])


def apply(engine: Engine, batch: Batch, recorded: Sequence[datetime]) -> None:
    apply_batch(engine, batch, Catalogues(), Stages(Metrics(CollectorRegistry())), lambda *_: recorded)


def verdict(engine: Engine, customer_id: str | None = None, findings_max: int = 20) -> Verdict:
    with engine.connect() as connection:
        return verify(connection, customer_id=customer_id, findings_max=findings_max)


def tamper(database_url: str, statement: str) -> None:
    """What an owner can do who turns the guards off."""
    with psycopg.connect(database_url) as session:
        session.execute("SET session_replication_role = replica")
        session.execute("ALTER TABLE account DROP CONSTRAINT IF EXISTS usage_of_an_account_is_conserved")
        session.execute(
            'ALTER TABLE "grant" DROP CONSTRAINT IF EXISTS units_of_a_grant_are_conserved,'
            " DROP CONSTRAINT IF EXISTS granted_is_the_amount"
        )
        changed = session.execute(statement.encode())
        assert changed.rowcount > 0, "the statement changes nothing"


def test_a_ledger_that_was_only_applied_to_has_no_findings(ledger: Engine) -> None:
    found = verdict(ledger)

    assert found.findings == ()
    assert found.is_clean
    assert (found.customers, found.events, found.postings) == (2, 8, 8)
    assert {result.check for result in found.checks if not result.looked_at} == {Check.DAY_STATE, Check.ANSWER}


def test_an_empty_ledger_has_no_findings(engine: Engine) -> None:
    assert verdict(engine).is_clean


TAMPERINGS = {
    "an entry's units": (
        "UPDATE entry SET units = 5 WHERE customer_id = 'ada' AND posting = 2 AND kind = 'burn'",
        Check.HASH_CHAIN,
        "ada",
        "posting 2",
    ),
    "an entry's instant": (
        "UPDATE entry SET at = at - interval '1 day' WHERE customer_id = 'ada' AND posting = 3",
        Check.HASH_CHAIN,
        "ada",
        "posting 3",
    ),
    "an entry's terms": (
        "UPDATE entry SET terms = jsonb_set(terms, '{priority}', '1') WHERE customer_id = 'ada' AND posting = 1",
        Check.HASH_CHAIN,
        "ada",
        "posting 1",
    ),
    "an entry is gone": (
        "DELETE FROM entry WHERE customer_id = 'bob' AND posting = 2",
        Check.HASH_CHAIN,
        "bob",
        "posting 2",
    ),
    "an entry more": (
        """
        INSERT INTO entry
        SELECT customer_id, posting, line + 1, recorded_at, entitlement, kind, units, at, grant_id, usage_key
        FROM entry WHERE customer_id = 'bob' AND posting = 2
        """,
        Check.HASH_CHAIN,
        "bob",
        "posting 2",
    ),
    "an entry without a posting": (
        """
        INSERT INTO entry
        SELECT customer_id, 99, line, recorded_at, entitlement, kind, units, at
        FROM entry WHERE customer_id = 'bob' AND posting = 2
        """,
        Check.ENTRY,
        "bob",
        "entry 99/0",
    ),
    "a posting is gone": (
        "DELETE FROM posting WHERE customer_id = 'ada' AND number = 3",
        Check.POSTING,
        "ada",
        "posting 3",
    ),
    "the last posting is gone": (
        "DELETE FROM posting WHERE customer_id = 'ada' AND number = 5",
        Check.ENTRY,
        "ada",
        "entry 5/0",
    ),
    "a posting's instant": (
        "UPDATE posting SET recorded_at = recorded_at + interval '1 second' WHERE customer_id = 'ada' AND number = 5",
        Check.POSTING,
        "ada",
        "posting 5",
    ),
    "a posting's version of the catalogue": (
        "UPDATE posting SET catalogue_version = 7 WHERE customer_id = 'bob' AND number = 1",
        Check.HASH_CHAIN,
        "bob",
        "posting 1",
    ),
    "two hashes are swapped": (
        """
        UPDATE posting SET hash = other.hash FROM posting AS other
        WHERE posting.customer_id = 'ada' AND other.customer_id = 'ada'
          AND posting.number + other.number = 5 AND posting.number IN (2, 3)
        """,
        Check.HASH_CHAIN,
        "ada",
        "posting 2",
    ),
    "the chain's head": (
        "UPDATE customer SET chain_head = sha256('') WHERE customer_id = 'bob'",
        Check.CUSTOMER,
        "bob",
        "customer",
    ),
    "the posting number": (
        "UPDATE customer SET posting_number = posting_number + 1 WHERE customer_id = 'bob'",
        Check.CUSTOMER,
        "bob",
        "customer",
    ),
    "the customer's last instant": (
        "UPDATE customer SET recorded_at = recorded_at - interval '1 day' WHERE customer_id = 'bob'",
        Check.CUSTOMER,
        "bob",
        "customer",
    ),
    "the customer is gone": ("DELETE FROM customer WHERE customer_id = 'ada'", Check.CUSTOMER, "ada", "customer"),
    "an event's payload": (
        "UPDATE event SET payload = (SELECT payload FROM event WHERE event_id = 'last') WHERE event_id = 'first'",
        Check.EVENT,
        "ada",
        "event first of shop",
    ),
    "an event's units": (
        "UPDATE event SET units = 40 WHERE event_id = 'first'",
        Check.EVENT,
        "ada",
        "event first of shop",
    ),
    "an event's instant": (
        "UPDATE event SET occurred_at = occurred_at - interval '1 second' WHERE event_id = 'began'",
        Check.EVENT,
        "bob",
        "event began of shop",
    ),
    "an event's id": (
        "UPDATE event SET event_id = 'f1rst' WHERE event_id = 'first'",
        Check.EVENT,
        "ada",
        "event f1rst of shop",
    ),
    "what became of an event": (
        "UPDATE event SET outcome = 'lost' WHERE event_id = 'first'",
        Check.EVENT,
        "ada",
        "event first of shop",
    ),
    "an event of usage is gone": ("DELETE FROM event WHERE event_id = 'first'", Check.POSTING, "ada", "posting 2"),
    "an event about a source is gone": (
        "DELETE FROM event WHERE event_id = 'refunded'",
        Check.POSTING,
        "ada",
        "posting 5",
    ),
    "a source's state": (
        "UPDATE source SET state = (SELECT state FROM source WHERE customer_id = 'bob') WHERE customer_id = 'ada'",
        Check.SOURCE,
        "ada",
        "source order/o1",
    ),
    "a source is gone": ("DELETE FROM source WHERE customer_id = 'ada'", Check.SOURCE, "ada", "source order/o1"),
    "a source's owner": (
        "UPDATE source_owner SET customer_id = 'bob' WHERE source_key = 'order/o1'",
        Check.SOURCE,
        "ada",
        "source order/o1",
    ),
    "an owner without a source": (
        "INSERT INTO source_owner VALUES ('order/none', 'ada')",
        Check.SOURCE_OWNER,
        "ada",
        "source_owner order/none",
    ),
    "a grant's end": (
        "UPDATE \"grant\" SET expires_at = expires_at + interval '1 day' WHERE phase = 'active' AND amount = 100",
        Check.TERMS,
        "bob",
        "grant .*",
    ),
    "a grant's counters": (
        "UPDATE \"grant\" SET available = available + 1, granted = granted + 1 WHERE customer_id = 'ada'",
        Check.UNITS,
        "ada",
        "grant .*",
    ),
    "a grant's phase": (
        "UPDATE \"grant\" SET phase = 'void' WHERE customer_id = 'ada'",
        Check.TERMS,
        "ada",
        "grant .*",
    ),
    "a grant is gone": ("DELETE FROM \"grant\" WHERE customer_id = 'ada'", Check.TERMS, "ada", "grant .*"),
    "an account's usage": (
        "UPDATE account SET usage = usage + 1, overage = overage + 1 WHERE customer_id = 'ada'",
        Check.UNITS,
        "ada",
        "account api",
    ),
    "an account's debt is forgiven": (
        "UPDATE account SET debt = 0, forgiven = debt WHERE customer_id = 'ada'",
        Check.UNITS,
        "ada",
        "account api",
    ),
    "what an account owes": (
        "UPDATE account SET carried = NULL WHERE customer_id = 'ada'",
        Check.SETTLEMENT,
        "ada",
        "account api",
    ),
    "when an account is looked at again": (
        "UPDATE account SET next_transition_at = NULL WHERE customer_id = 'bob' AND entitlement = 'video'",
        Check.SETTLEMENT,
        "bob",
        "account video",
    ),
    "how far an account is settled": (
        "UPDATE account SET settled_at = settled_at + interval '1 second' WHERE customer_id = 'ada'",
        Check.SETTLEMENT,
        "ada",
        "account api",
    ),
    "the limit that checks read": (
        "UPDATE account SET allowance = 1000000 WHERE customer_id = 'bob' AND entitlement = 'api'",
        Check.CHECK_PATH,
        "bob",
        "account api",
    ),
    "an account's level": (
        "UPDATE account SET level = 42 WHERE customer_id = 'bob' AND entitlement = 'api'",
        Check.CHECK_PATH,
        "bob",
        "account api",
    ),
    "an account is gone": ("DELETE FROM account WHERE customer_id = 'ada'", Check.UNITS, "ada", "account api"),
    "a change that was never published": (
        "DELETE FROM outbox WHERE customer_id = 'ada' AND sequence = 2",
        Check.OUTBOX,
        "ada",
        "change 1",
    ),
    "the sequence": (
        "UPDATE customer SET sequence = sequence + 1 WHERE customer_id = 'ada'",
        Check.OUTBOX,
        "ada",
        "change 1",
    ),
    "a change's lane": (
        "UPDATE outbox SET lane = lane + 1 WHERE customer_id = 'ada' AND sequence = 1",
        Check.OUTBOX,
        "ada",
        "change 1",
    ),
    "a dead letter is gone": ("DELETE FROM dead_letter", Check.OUTBOX, None, "dead letter .*"),
    "the records of a partition": (
        "UPDATE input_partition SET records = records + 1",
        Check.INPUT_PARTITION,
        None,
        "partition told/0",
    ),
    "the offset of a partition": (
        "UPDATE input_partition SET next_offset = 5",
        Check.INPUT_PARTITION,
        None,
        "partition told/0",
    ),
}


@pytest.mark.parametrize(("statement", "check", "customer_id", "row"), TAMPERINGS.values(), ids=TAMPERINGS)
def test_the_row_that_was_changed_is_named(
    database_url: str, ledger: Engine, statement: str, check: Check, customer_id: str | None, row: str
) -> None:
    tamper(database_url, statement)

    first = verdict(ledger).first

    assert first is not None
    assert (first.check, first.customer_id) == (check, customer_id)
    assert re.fullmatch(row, first.row), first


# -- usage from beyond the settlement window

LATE_ENTITLEMENTS = tuple(
    Entitlement(key=policy.value, name=policy.value, type=EntitlementType.QUOTA, unit="call", late_usage=policy)
    for policy in LateUsage
)
LATE_OFFERS = (
    Offer(
        sku="CREDITS",
        apply=Apply.NOW,
        allowances=tuple(
            Allowance(key=policy.value, entitlement=policy.value, units=10, lasts="forever") for policy in LateUsage
        ),
    ),
)
MINUTES_OF_A_DAY = 24 * 60
LATE_TOLD = (
    (event("ada", "bought", 0, TOLD[0].fact), NOON),
    *(
        (usage("ada", f"{policy}-{days}", days * MINUTES_OF_A_DAY, 4, policy), NOON + timedelta(days=41, hours=days))
        for policy in LateUsage
        for days in (5, 7)
    ),
    *(
        (
            event(
                "ada",
                f"{policy}-back",
                50 * MINUTES_OF_A_DAY,
                UsageReversed(entitlement=policy, reversal_id=policy, usage_event_id=f"{policy}-5", units=3),
            ),
            NOON + timedelta(days=50, hours=hours),
        )
        for hours, policy in enumerate(LateUsage)
    ),
)
"""Of each policy: four units a day too late, four just not, and a reversal of three of those that are too late."""
TAMPERINGS_OF_LATE_USAGE = {
    "what counted now is said to have counted in time": (
        "UPDATE event SET outcome = 'applied' WHERE event_id = 'count_now-5'",
        Check.EVENT,
        "event count_now-5 of shop",
    ),
    "what counted now is moved to when it occurred": (
        "UPDATE event SET outcome = 'applied', counted_at = occurred_at WHERE event_id = 'count_now-5'",
        Check.SETTLEMENT,
        "account count_now",
    ),
    "what counted in time is said to have counted now": (
        "UPDATE event SET outcome = 'counted_late' WHERE event_id = 'count_now-7'",
        Check.EVENT,
        "event count_now-7 of shop",
    ),
    "an instant at which usage counts": (
        "UPDATE event SET counted_at = counted_at + interval '1 second' WHERE event_id = 'overage-5'",
        Check.EVENT,
        "event overage-5 of shop",
    ),
    "what was overage is said to have burnt": (
        "UPDATE event SET outcome = 'applied' WHERE event_id = 'overage-5'",
        Check.SETTLEMENT,
        "account overage",
    ),
    "what burnt is said to have been overage": (
        "UPDATE event SET outcome = 'overage_late' WHERE event_id = 'overage-7'",
        Check.SETTLEMENT,
        "account overage",
    ),
    "what was ignored is said to count": (
        "UPDATE event SET outcome = 'applied' WHERE event_id = 'ignore_and_tell-5'",
        Check.USAGE,
        "event ignore_and_tell-5 of shop",
    ),
    "what counts is said to have been ignored": (
        "UPDATE event SET outcome = 'ignored_late' WHERE event_id = 'ignore_and_tell-7'",
        Check.USAGE,
        "event ignore_and_tell-7 of shop",
    ),
    "a purchase is said to be late usage": (
        "UPDATE event SET outcome = 'ignored_late' WHERE event_id = 'bought'",
        Check.EVENT,
        "event bought of shop",
    ),
}


@pytest.fixture
def late(engine: Engine) -> Engine:
    """The facts of LATE_TOLD, each applied by itself."""
    prepare(engine, LATE_OFFERS, LATE_ENTITLEMENTS)
    tell_each(engine, LATE_TOLD)
    return engine


def test_a_ledger_with_late_usage_of_every_policy_has_no_findings(late: Engine) -> None:
    found = verdict(late)

    assert found.findings == ()
    with late.connect() as connection:
        assert arrivals(connection).outcomes == {
            "applied": 6,
            "counted_late": 1,
            "ignored_late": 1,
            "no_effect": 1,
            "overage_late": 1,
        }


def test_a_window_that_was_changed_since_proves_as_well(late: Engine) -> None:
    with late.begin() as connection:
        connection.exec_driver_sql("UPDATE ledger SET settlement_window_days = 1")

    assert verdict(late).is_clean


@pytest.mark.parametrize(("statement", "check", "row"), TAMPERINGS_OF_LATE_USAGE.values(), ids=TAMPERINGS_OF_LATE_USAGE)
def test_what_was_decided_of_late_usage_cannot_be_changed_unseen(
    database_url: str, late: Engine, statement: str, check: Check, row: str
) -> None:
    tamper(database_url, statement)

    first = verdict(late).first

    assert first is not None
    assert (first.check, first.customer_id, first.row) == (check, "ada", row)


def test_a_chain_that_was_forged_to_its_head_still_disagrees_with_the_events(database_url: str, ledger: Engine) -> None:
    """Whoever can compute hashes can mend the chain; usage, settlement and counters then tell."""
    tamper(
        database_url,
        "UPDATE entry SET units = units + 1 WHERE customer_id = 'bob' AND posting = 2 AND kind = 'burn'",
    )
    with psycopg.connect(database_url) as session:
        session.execute(
            "UPDATE account SET usage = usage + 1, used_total = used_total + 1 WHERE customer_id = 'bob' AND usage > 0"
        )
        session.execute(
            "UPDATE \"grant\" SET available = available - 1, used = used + 1 WHERE customer_id = 'bob' AND used > 0"
        )

    checks = {finding.check for finding in verdict(ledger).findings}

    assert {Check.HASH_CHAIN, Check.USAGE, Check.SETTLEMENT} <= checks
    assert Check.UNITS not in checks


def test_all_findings_are_counted_and_as_many_named_as_asked_for(database_url: str, ledger: Engine) -> None:
    tamper(database_url, "UPDATE posting SET hash = sha256(hash)")

    found = verdict(ledger, findings_max=2)

    assert [finding.row for finding in found.findings] == ["posting 1", "posting 2"]
    chain = next(result for result in found.checks if result.check is Check.HASH_CHAIN)
    assert chain.findings == 8


def test_one_customer_is_verified_alone(database_url: str, ledger: Engine) -> None:
    tamper(database_url, "UPDATE customer SET chain_head = sha256('') WHERE customer_id = 'bob'")

    assert verdict(ledger, "ada").is_clean
    assert verdict(ledger, "ada").customers == 1
    assert not verdict(ledger, "bob").is_clean


def test_progress_ends_with_every_customer(ledger: Engine) -> None:
    seen: list[Progress] = []
    with ledger.connect() as connection:
        verify(connection, on_progress=seen.append)

    assert seen[-1] == Progress(customers=2, customers_total=2, events=8, findings=0)


def test_what_workers_commit_meanwhile_is_not_seen_half(ledger: Engine) -> None:
    def tell_more(_: Progress) -> None:
        tell(ledger, [usage("ada", "meanwhile", 3, 1)], len(TOLD))

    with ledger.connect() as connection:
        found = verify(connection, on_progress=tell_more)

    assert found.is_clean
    assert found.events == 8
    assert verdict(ledger).events == 9


def test_the_login_of_the_service_is_enough_and_nothing_is_written(ledger: Engine) -> None:
    with ledger.connect() as connection:
        connection.exec_driver_sql("SET SESSION default_transaction_read_only = on")
        connection.commit()

        found = verify(connection)

        connection.exec_driver_sql("RESET default_transaction_read_only")
        connection.commit()
    assert found.is_clean


# -- customers with all that can happen to a grant

TIED_OFFERS = (
    Offer(
        sku="PACK",
        apply=Apply.NOW,
        allowances=(
            Allowance(key="calls", entitlement="api", units=10, lasts="forever", refund=RefundPolicy.FULL_WITH_DEBT),
        ),
    ),
    Offer(
        sku="MONTHLY",
        apply=Apply.NOW,
        allowances=(
            Allowance(
                key="calls",
                entitlement="api",
                units=100,
                leeway_seconds=0,
                rollover_units=20,
                return_after_end=ReturnAfterEnd.REGRANT,
            ),
            Allowance(key="video", entitlement="video", leeway_seconds=0),
        ),
    ),
    Offer(
        sku="SMALL",
        apply=Apply.NOW,
        allowances=(Allowance(key="calls", entitlement="api", units=40, leeway_seconds=0),),
    ),
)


def day(number: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number - 1)


def on(number: int, customer_id: str, event_id: str, fact: Fact, *, told: int | None = None) -> tuple[Event, datetime]:
    """What happened on a day, and when it was told: at the noon of that day or of a later one."""
    happened = Event(
        event_source="shop", event_id=event_id, customer_id=customer_id, occurred_at=day(number), fact=fact
    )
    return happened, day(told or number) + timedelta(hours=12)


def used(number: int, customer_id: str, event_id: str, units: int) -> tuple[Event, datetime]:
    return on(number, customer_id, event_id, UsageRecorded(entitlement="api", units=units))


def began(subscription_id: str, quantity: int = 1) -> SubscriptionActivated:
    item = SubscriptionItem(item_id="plan", sku="MONTHLY", quantity=quantity)
    return SubscriptionActivated(
        subscription_id=subscription_id, items=(item,), period_start=day(1), period_end=day(31)
    )


def went_on(subscription_id: str) -> SubscriptionRenewed:
    return SubscriptionRenewed(subscription_id=subscription_id, period_start=day(31), period_end=day(61))


def order(order_id: str) -> PurchaseCompleted:
    return PurchaseCompleted(order_id=order_id, lines=(PurchaseLine(line_id="1", sku="PACK", quantity=1),))


BOUGHT = order("o1")
TAKEN_BACK = UsageReversed(entitlement="api", reversal_id="v1", usage_event_id="eve-used", units=5)
TIED_TOLD = (
    # Cy gives Dee an order of which four units are used: six move. Refunded as a whole, both owe what they have used.
    on(1, "cy", "bought", BOUGHT),
    used(2, "cy", "cy-used", 4),
    on(3, "cy", "given", PurchaseTransferred(order_id="o1", transfer_id="t1", to_customer_id="dee")),
    used(4, "dee", "dee-used", 2),
    on(6, "dee", "dee-refunded", PurchaseRefunded(order_id="o1", refund_id="r1")),
    # Of Eve's hundred units, twenty go on, and five that come back after the end are granted once more.
    on(1, "eve", "eve-began", began("s1")),
    used(5, "eve", "eve-used", 50),
    on(31, "eve", "eve-went-on", went_on("s1")),
    on(40, "eve", "taken-back", TAKEN_BACK),
    # Fay halves her quantity when she has used more than half, rests for three days, and changes her plan.
    on(1, "fay", "fay-began", began("s2", quantity=2)),
    used(5, "fay", "fay-used", 150),
    on(
        8,
        "fay",
        "halved",
        SubscriptionQuantityChanged(
            subscription_id="s2", change_id="c1", item_id="plan", quantity=1, effective_at=day(8)
        ),
    ),
    on(12, "fay", "rests", SubscriptionPaused(subscription_id="s2", pause_id="p1", effective_at=day(12))),
    on(15, "fay", "resumes", SubscriptionResumed(subscription_id="s2", pause_id="p1", effective_at=day(15))),
    on(
        20,
        "fay",
        "changed",
        SubscriptionPlanChanged(
            subscription_id="s2", change_id="c2", item_id="plan", sku="SMALL", effective_at=day(20)
        ),
    ),
    # Of Gil only the reversal of a usage is known.
    on(6, "gil", "too-soon", UsageReversed(entitlement="api", reversal_id="v2", usage_event_id="gil-used")),
    # Ida's pause is told before the subscription is hers; what is left of it goes on into her next period.
    on(1, "hal", "hal-began", began("s3")),
    used(5, "hal", "hal-used", 30),
    on(12, "ida", "ida-rests", SubscriptionPaused(subscription_id="s3", pause_id="p2", effective_at=day(12))),
    on(14, "ida", "ida-resumes", SubscriptionResumed(subscription_id="s3", pause_id="p2", effective_at=day(14))),
    on(
        10,
        "hal",
        "hal-gave",
        SubscriptionTransferred(subscription_id="s3", transfer_id="t2", to_customer_id="ida"),
        told=16,
    ),
    used(20, "ida", "ida-used", 10),
    on(31, "ida", "ida-went-on", went_on("s3")),
    used(32, "ida", "ida-used-on", 5),
    # And everyone's last ends are booked.
    used(70, "eve", "eve-used-last", 1),
    used(70, "ida", "ida-used-last", 1),
)


def test_a_ledger_with_all_that_can_happen_to_a_grant_has_no_findings(tied: Engine) -> None:
    found = verdict(tied)

    assert found.findings == ()
    assert (found.customers, found.events) == (7, 35)
    assert {result.check for result in found.checks if not result.looked_at} == {Check.ANSWER}


def test_what_is_proven_of_tied_customers_is_all_there(tied: Engine) -> None:
    """The ledger of the tests below has one of each: else they would change what is not there."""
    with tied.connect() as connection:
        children = connection.exec_driver_sql("""
            SELECT customer_id, granted, amount FROM "grant"
            WHERE parent_id IS NOT NULL AND amount IS NOT NULL ORDER BY customer_id, effective_at
        """).all()
        short = connection.exec_driver_sql('SELECT customer_id, short FROM "grant" WHERE short > 0 ORDER BY 1, 2').all()
        told_to = connection.exec_driver_sql("""
            SELECT customer_id, told_to FROM posting WHERE told_to IS NOT NULL ORDER BY customer_id
        """).all()

    assert [tuple(row) for row in children] == [
        ("dee", 6, 6),
        ("eve", 20, 0),
        ("eve", 5, 0),
        ("ida", 70, 70),
        ("ida", 20, 0),
    ]
    assert [tuple(row) for row in short] == [("fay", 50), ("fay", 110)]
    assert [tuple(row) for row in told_to] == [
        ("cy", "dee"),
        ("dee", "cy"),
        ("hal", "ida"),
        ("ida", "hal"),
    ]


TIED_TAMPERINGS = {
    "a tie is gone": (
        "UPDATE customer SET linked = '{}' WHERE customer_id = 'dee'",
        Check.CUSTOMER,
        "dee",
        "customer",
    ),
    "a tie that nothing made": (
        "UPDATE customer SET linked = '{eve}' WHERE customer_id = 'fay'",
        Check.CUSTOMER,
        "fay",
        "customer",
    ),
    "a tie to nobody": (
        "UPDATE customer SET linked = '{dee,nobody}' WHERE customer_id = 'cy'",
        Check.CUSTOMER,
        "nobody",
        "customer",
    ),
    "both ties are gone": (
        "UPDATE customer SET linked = '{}' WHERE customer_id IN ('cy', 'dee')",
        Check.POSTING,
        "cy",
        "posting 4",
    ),
    "a receiver is gone": ("DELETE FROM customer WHERE customer_id = 'dee'", Check.CUSTOMER, "dee", "customer"),
    "whose event a posting is of": (
        "UPDATE posting SET told_to = NULL WHERE customer_id = 'dee'",
        Check.POSTING,
        "dee",
        "posting 1",
    ),
    "whose event a posting is not of": (
        "UPDATE posting SET told_to = 'dee' WHERE customer_id = 'cy' AND number = 2",
        Check.POSTING,
        "cy",
        "posting 2",
    ),
    "the instant of a posting at the receiver": (
        "UPDATE posting SET recorded_at = recorded_at - interval '1 second' WHERE customer_id = 'dee' AND number = 1",
        Check.POSTING,
        "dee",
        "posting 1",
    ),
    "a transfer is gone": ("DELETE FROM event WHERE event_id = 'given'", Check.POSTING, "cy", "posting 3"),
    "a fact that waited for its transfer is gone": (
        "DELETE FROM event WHERE event_id = 'ida-rests'",
        Check.SOURCE,
        "hal",
        "source subscription/s3",
    ),
    "who keeps a source": (
        "UPDATE source SET customer_id = 'dee' WHERE source_key = 'order/o1'",
        Check.SOURCE,
        "dee",
        "source order/o1",
    ),
    "of whom a source was first told": (
        "UPDATE source_owner SET customer_id = 'ida' WHERE source_key = 'subscription/s3'",
        Check.SOURCE,
        "hal",
        "source subscription/s3",
    ),
    "a reversal's payload": (
        """
        UPDATE event SET payload = (SELECT payload FROM event WHERE event_id = 'too-soon')
        WHERE event_id = 'taken-back'
        """,
        Check.EVENT,
        "eve",
        "event taken-back of shop",
    ),
    "a reversal's units": (
        "UPDATE event SET units = NULL WHERE event_id = 'taken-back'",
        Check.EVENT,
        "eve",
        "event taken-back of shop",
    ),
    "when a reversal counts": (
        "UPDATE event SET counted_at = counted_at - interval '1 day' WHERE event_id = 'taken-back'",
        Check.EVENT,
        "eve",
        "event taken-back of shop",
    ),
    "a reversal is gone": ("DELETE FROM event WHERE event_id = 'taken-back'", Check.POSTING, "eve", r"posting \d+"),
    "a reversal that waits is gone": (
        "DELETE FROM event WHERE event_id = 'too-soon'",
        Check.SETTLEMENT,
        "gil",
        "account api",
    ),
    "what an account waits for": (
        "UPDATE account SET carried = NULL WHERE customer_id = 'gil'",
        Check.SETTLEMENT,
        "gil",
        "account api",
    ),
    "the parent of a child": (
        "UPDATE \"grant\" SET parent_id = grant_id WHERE customer_id = 'dee'",
        Check.TERMS,
        "dee",
        "grant .*",
    ),
    "a child's terms": (
        "UPDATE \"grant\" SET terms = (SELECT terms FROM \"grant\" WHERE customer_id = 'cy') WHERE customer_id = 'dee'",
        Check.TERMS,
        "dee",
        "grant .*",
    ),
    "a child's amount": (
        "UPDATE \"grant\" SET amount = 7, granted = 7, available = available + 1 WHERE customer_id = 'dee'",
        Check.TERMS,
        "dee",
        "grant .*",
    ),
    "the units that moved": (
        "UPDATE \"grant\" SET moved = moved - 1, expired = expired + 1 WHERE customer_id = 'cy'",
        Check.UNITS,
        "cy",
        "grant .*",
    ),
    "the units that rolled over": (
        "UPDATE \"grant\" SET granted = 21, expired = expired + 1 WHERE customer_id = 'eve' AND granted = 20",
        Check.UNITS,
        "eve",
        "grant .*",
    ),
    "a child by transfer is gone": ("DELETE FROM \"grant\" WHERE customer_id = 'dee'", Check.TERMS, "dee", "grant .*"),
    "a child by roll-over is gone": (
        "DELETE FROM \"grant\" WHERE customer_id = 'ida' AND amount = 0",
        Check.TERMS,
        "ida",
        "grant .*",
    ),
    "a grant that settlement made is gone": (
        "DELETE FROM \"grant\" WHERE customer_id = 'eve' AND granted = 5",
        Check.UNITS,
        "eve",
        "grant .*",
    ),
    "a grant that settlement made is void": (
        "UPDATE \"grant\" SET phase = 'void' WHERE customer_id = 'eve' AND granted = 5",
        Check.UNITS,
        "eve",
        "grant .*",
    ),
    "over-allocation": (
        "UPDATE \"grant\" SET short = 0 WHERE customer_id = 'fay' AND short = 50",
        Check.SETTLEMENT,
        "fay",
        "account api",
    ),
}


@pytest.mark.parametrize(("statement", "check", "customer_id", "row"), TIED_TAMPERINGS.values(), ids=TIED_TAMPERINGS)
def test_the_row_that_was_changed_of_tied_customers_is_named(
    database_url: str, tied: Engine, statement: str, check: Check, customer_id: str, row: str
) -> None:
    tamper(database_url, statement)

    first = verdict(tied).first

    assert first is not None
    assert (first.check, first.customer_id) == (check, customer_id), first
    assert re.fullmatch(row, first.row), first


# Jo tells of an order that never was his: his fact waits, and he is tied to those whose it was.
NOT_HIS = on(71, "jo", "not-his", PurchaseRefunded(order_id="o1", refund_id="r2"))


@pytest.fixture
def awaiting(tied: Engine) -> Engine:
    """The facts of TIED_TOLD, and one that waits."""
    tell(tied, [NOT_HIS[0]], len(TIED_TOLD), [NOT_HIS[1]])
    return tied


def test_a_fact_that_waits_is_proven_with_those_whose_source_it_is_about(awaiting: Engine) -> None:
    found = verdict(awaiting)

    assert found.findings == ()
    assert (verdict(awaiting, "jo").customers, verdict(awaiting, "dee").customers) == (3, 3)


AWAITING_TAMPERINGS = {
    "the fact is gone": ("DELETE FROM event WHERE event_id = 'not-his'", Check.CUSTOMER, "cy", "customer"),
    "of whom the fact was told": (
        "UPDATE event SET customer_id = 'dee' WHERE event_id = 'not-his'",
        Check.CUSTOMER,
        "dee",
        "customer",
    ),
    "the tie is gone": ("UPDATE customer SET linked = '{}' WHERE customer_id = 'jo'", Check.CUSTOMER, "jo", "customer"),
    "which fact was recorded first": (
        "UPDATE event SET recorded_at = '2026-01-01T00:00:00Z' WHERE event_id = 'not-his'",
        Check.SOURCE,
        "cy",
        "source order/o1",
    ),
    "the state does not have it": (
        """
        UPDATE source SET state = (SELECT state FROM source WHERE source_key = 'subscription/s3')
        WHERE source_key = 'order/o1'
        """,
        Check.SOURCE,
        "cy",
        "source order/o1",
    ),
}


@pytest.mark.parametrize(
    ("statement", "check", "customer_id", "row"), AWAITING_TAMPERINGS.values(), ids=AWAITING_TAMPERINGS
)
def test_the_row_that_was_changed_of_a_fact_that_waits_is_named(
    database_url: str, awaiting: Engine, statement: str, check: Check, customer_id: str, row: str
) -> None:
    assert verdict(awaiting).is_clean
    tamper(database_url, statement)

    first = verdict(awaiting).first

    assert first is not None
    assert (first.check, first.customer_id, first.row) == (check, customer_id, row), first


# Kay goes on as Lou, and Lou as Max: what Kay could not pay goes on twice.
MERGED_TOLD = (
    on(1, "kay", "bought", BOUGHT),
    used(2, "kay", "kay-used", 14),
    on(2, "lou", "lou-bought", order("o2")),
    used(3, "lou", "lou-used", 4),
    on(5, "kay", "kay-became-lou", CustomersMerged(merge_id="m1", into_customer_id="lou")),
    on(6, "kay", "once-more", CustomersMerged(merge_id="m2", into_customer_id="lou")),
    used(6, "kay", "kay-used-on", 3),
    on(8, "lou", "lou-became-max", CustomersMerged(merge_id="m3", into_customer_id="max")),
    used(9, "kay", "kay-used-last", 2),
    used(4, "kay", "kay-used-late", 1),
)


def test_a_ledger_of_customers_who_were_merged_has_no_findings(merged: Engine) -> None:
    found = verdict(merged)

    assert found.findings == ()
    assert (found.customers, found.events) == (3, 10)
    with merged.connect() as connection:
        accounts = connection.exec_driver_sql("SELECT customer_id, usage, overage FROM account ORDER BY 1").all()
    assert [tuple(row) for row in accounts] == [("kay", 10, 0), ("lou", 7, 0), ("max", 7, 5)]


MERGED_TAMPERINGS = {
    "whom an alias goes on as": (
        "UPDATE customer SET alias_of = 'max' WHERE customer_id = 'kay'",
        Check.CUSTOMER,
        "kay",
        "customer",
    ),
    "since when": (
        "UPDATE customer SET alias_at = alias_at - interval '1 second' WHERE customer_id = 'kay'",
        Check.CUSTOMER,
        "kay",
        "customer",
    ),
    "by which merge": (
        "UPDATE customer SET merge_id = 'm2' WHERE customer_id = 'kay'",
        Check.CUSTOMER,
        "kay",
        "customer",
    ),
    "an alias is none": (
        "UPDATE customer SET alias_of = NULL, alias_at = NULL, merge_id = NULL WHERE customer_id = 'lou'",
        Check.CUSTOMER,
        "lou",
        "customer",
    ),
    "an alias that no merge made": (
        "UPDATE customer SET alias_of = 'kay', alias_at = recorded_at, merge_id = 'm9' WHERE customer_id = 'max'",
        Check.CUSTOMER,
        "max",
        "customer",
    ),
    "a tie by merge is gone": (
        "UPDATE customer SET linked = '{kay}' WHERE customer_id = 'lou'",
        Check.CUSTOMER,
        "lou",
        "customer",
    ),
    "all ties of an alias are gone": (
        "UPDATE customer SET linked = '{}' WHERE customer_id = 'kay'",
        Check.CUSTOMER,
        "kay",
        "customer",
    ),
    "all ties are gone": ("UPDATE customer SET linked = '{}'", Check.CUSTOMER, "kay", "customer"),
    "the merge is gone": ("DELETE FROM event WHERE event_id = 'kay-became-lou'", Check.POSTING, "kay", "posting 3"),
    "whom the merge names": (
        """
        UPDATE event SET payload = (SELECT payload FROM event WHERE event_id = 'lou-became-max')
        WHERE event_id = 'kay-became-lou'
        """,
        Check.EVENT,
        "kay",
        "event kay-became-lou of shop",
    ),
    "when the merge counts": (
        "UPDATE event SET counted_at = counted_at + interval '1 hour' WHERE event_id = 'kay-became-lou'",
        Check.EVENT,
        "kay",
        "event kay-became-lou of shop",
    ),
    "which merge was recorded first": (
        """
        UPDATE event SET recorded_at = '2026-01-05T00:00:00Z', counted_at = '2026-01-05T00:00:00Z'
        WHERE event_id = 'once-more'
        """,
        Check.CUSTOMER,
        "kay",
        "customer",
    ),
    "the units of what left": (
        "UPDATE entry SET units = units - 1 WHERE customer_id = 'kay' AND kind = 'leave_overage'",
        Check.HASH_CHAIN,
        "kay",
        r"posting \d+",
    ),
    "the instant of what left": (
        "UPDATE entry SET at = at - interval '1 hour' WHERE customer_id = 'kay' AND kind = 'leave_overage'",
        Check.HASH_CHAIN,
        "kay",
        r"posting \d+",
    ),
    "what left is gone": (
        "DELETE FROM entry WHERE customer_id = 'kay' AND kind = 'leave_overage'",
        Check.HASH_CHAIN,
        "kay",
        r"posting \d+",
    ),
    "what arrived is gone": (
        "DELETE FROM entry WHERE customer_id = 'lou' AND kind = 'arrive_overage'",
        Check.HASH_CHAIN,
        "lou",
        r"posting \d+",
    ),
    "overage that left is back": (
        "UPDATE account SET overage = overage + 4, usage = usage + 4 WHERE customer_id = 'kay'",
        Check.UNITS,
        "kay",
        "account api",
    ),
    "whose usage of an alias is": (
        "UPDATE event SET customer_id = 'lou' WHERE event_id = 'kay-used-last'",
        Check.POSTING,
        "max",
        r"posting \d+",
    ),
    "usage of an alias is gone": (
        "DELETE FROM event WHERE event_id = 'kay-used-on'",
        Check.POSTING,
        "lou",
        r"posting \d+",
    ),
}


@pytest.mark.parametrize(
    ("statement", "check", "customer_id", "row"), MERGED_TAMPERINGS.values(), ids=MERGED_TAMPERINGS
)
def test_the_row_that_was_changed_of_merged_customers_is_named(
    database_url: str, merged: Engine, statement: str, check: Check, customer_id: str, row: str
) -> None:
    tamper(database_url, statement)

    first = verdict(merged).first

    assert first is not None
    assert (first.check, first.customer_id) == (check, customer_id), first
    assert re.fullmatch(row, first.row), first


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "UPDATE entry SET units = units - 1 WHERE kind = 'leave_overage'",
            {(Check.USAGE, "kay"), (Check.SETTLEMENT, "kay"), (Check.SETTLEMENT, "lou")},
        ),
        (
            "UPDATE entry SET units = units - 1 WHERE kind = 'arrive_overage'",
            {(Check.USAGE, "kay"), (Check.SETTLEMENT, "lou")},
        ),
        (
            "UPDATE entry SET units = units - 1 WHERE kind IN ('leave_overage', 'arrive_overage')",
            {(Check.SETTLEMENT, "kay")},
        ),
    ],
    ids=["left", "arrived", "both"],
)
def test_units_that_left_are_found_by_settling_again_whatever_the_hashes_say(
    database_url: str, merged: Engine, statement: str, expected: set[tuple[Check, str]]
) -> None:
    """Whoever can compute hashes can mend both chains."""
    tamper(database_url, statement)

    found = {(finding.check, finding.customer_id) for finding in verdict(merged, findings_max=100).findings}

    assert expected <= found


def test_one_customer_is_verified_with_those_it_is_tied_to(database_url: str, tied: Engine) -> None:
    assert (verdict(tied, "dee").customers, verdict(tied, "eve").customers) == (2, 1)

    tamper(database_url, "UPDATE customer SET chain_head = sha256('') WHERE customer_id = 'cy'")

    assert not verdict(tied, "dee").is_clean
    assert verdict(tied, "eve").is_clean


def test_progress_counts_each_tied_customer_once(tied: Engine) -> None:
    seen: list[Progress] = []
    with tied.connect() as connection:
        verify(connection, on_progress=seen.append)

    assert seen[-1] == Progress(customers=7, customers_total=7, events=35, findings=0)


def test_more_customers_than_are_proven_together_are_named(tied: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger_worker.operations.verify.TIED_MAX", 1)

    found = verdict(tied)

    assert [(finding.check, finding.customer_id) for finding in found.findings[:2]] == [
        (Check.CUSTOMER, "cy"),
        (Check.CUSTOMER, "hal"),
    ]


@pytest.mark.parametrize("with_merges", [False, True], ids=["transfers", "merges"])
@pytest.mark.parametrize("number", range(15))
def test_a_random_world_has_no_findings(database_url: str, engine: Engine, number: int, *, with_merges: bool) -> None:
    history = world_of(720_000 + number, with_merges=with_merges)
    ledger = Ledger(database_url)
    ledger.publish(history.catalogue)
    for one_told in history.told:
        ledger.tell(one_told)
    ledger.close()

    # Its records came without a partition that moves.
    assert [one for one in verdict(engine).findings if one.check is not Check.INPUT_PARTITION] == []


def test_an_offer_that_reaches_what_was_bought_is_proven_like_a_fact(ledger: Engine) -> None:
    published = datetime.now(UTC)
    richer = msgspec.structs.replace(
        OFFERS[0], allowances=(msgspec.structs.replace(OFFERS[0].allowances[0], units=12),)
    )
    publish(ledger, richer, entitlements=())
    reached = Event(
        event_source="ledger",
        event_id="reached",
        customer_id="ada",
        occurred_at=published,
        fact=OfferReached(source_key="order/o1", catalogue_version=2),
    )
    apply(ledger, Batch(deliveries=(Delivery(event=reached),)), [published + timedelta(minutes=1)])

    found = verdict(ledger)

    assert found.is_clean
    assert found.events == 9
