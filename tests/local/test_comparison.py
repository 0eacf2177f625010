"""A ledger that read what the simulator told, in any race, holds of every customer what the oracle says."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from sqlalchemy import Engine

from ledger_worker.apply.batch import Batch, Delivery, Move, Rejected
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.transaction import apply_batch
from ledger_worker.domain.events import (
    CustomersMerged,
    Event,
    Fact,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    PurchaseTransferred,
    UsageRecorded,
)
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import BadBytesError
from ledger_worker.local.comparison import compare, linked
from ledger_worker.local.simulator.simulate import CATALOGUE_FILE, SimulatedRecord, Simulation, simulate
from ledger_worker.metrics import CollectorRegistry, Metrics, Stages
from ledger_worker.operations.publish import publish
from ledger_worker.operations.verify import verify
from ledger_worker.reports.arrivals import arrivals, consumed
from ledger_worker.store import partitions
from ledger_worker.store.database import engine as new_engine
from ledger_worker.wire.catalogue_file import definitions_of_toml
from ledger_worker.wire.decode import decode
from ledger_worker.wire.record import Record
from ledger_worker.wire.schemas import TopicFamily

LANES = 3


def told(customer_id: str, fact: Fact) -> Event:
    return Event(
        event_source="shop",
        event_id=f"{customer_id}-{type(fact).__name__}",
        customer_id=customer_id,
        occurred_at=datetime(2026, 8, 1, tzinfo=UTC),
        fact=fact,
    )


def test_customers_are_linked_by_transfers_merges_and_sources_that_both_are_told_of() -> None:
    usage = {name: told(name, UsageRecorded(entitlement="api-calls", units=1)) for name in "abcdefg"}
    transfer = told("a", PurchaseTransferred(order_id="1", transfer_id="t", to_customer_id="b"))
    merge = told("c", CustomersMerged(merge_id="m", into_customer_id="d"))
    of_e = told("e", PurchaseRefunded(order_id="2", refund_id="r"))
    of_f = told("f", PurchaseRefunded(order_id="2", refund_id="r"))

    groups = linked([*usage.values(), transfer, merge, of_e, of_f])

    assert [sorted({event.customer_id for event in group}) for group in groups] == [
        ["a", "b"],
        ["c", "d"],
        ["e", "f"],
        ["g"],
    ]
    assert sum(len(group) for group in groups) == 11


# -- a whole ledger --


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = new_engine(database_url)
    compared = publish(made, definitions_of_toml(CATALOGUE_FILE.read_text(encoding="utf-8")))
    assert compared.problems == ()
    yield made
    made.dispose()


class _Lane:
    """One partition of a topic, read by whoever asks for the next records."""

    def __init__(self, engine: Engine, family: TopicFamily, number: int, records: Sequence[SimulatedRecord]) -> None:
        self.family = family
        self.number = number
        self.records = [
            record for record in records if record.family is family and sum(record.key.encode()) % LANES == number
        ]
        self.offset = 0
        with engine.begin() as connection:
            partitions.claim(connection, family.value, number, "id", "test")

    def next_batch(self, size: int) -> Batch:
        deliveries: list[Delivery] = []
        rejected: list[Rejected] = []
        start = self.offset
        for simulated in self.records[start : start + size]:
            record = Record(
                topic=self.family.value,
                partition=self.number,
                offset=self.offset,
                timestamp=None,
                key=simulated.key.encode(),
                value=simulated.value,
            )
            self.offset += 1
            try:
                deliveries.append(Delivery(event=decode(self.family, record.value), record=record))
            except BadBytesError as error:
                reason = DeadLetterReason(error.reason)
                rejected.append(Rejected(record=record, topic_id="id", reason=reason, message=str(error)))
        move = Move(
            topic=self.family.value,
            partition=self.number,
            topic_id="id",
            owner_epoch=1,
            from_offset=start,
            to_offset=self.offset,
        )
        return Batch(moves=(move,), deliveries=tuple(deliveries), rejected=tuple(rejected))


def read_in_a_race(engine: Engine, simulation: Simulation, seed: int) -> None:
    """Every record is applied: in its place on its partition, and otherwise as chance has it."""
    for family in TopicFamily:
        with engine.begin() as connection:
            starts = dict.fromkeys(range(LANES), 0)
            partitions.introduce(connection, family.value, "id", starts=starts, lows=starts)
    lanes = [_Lane(engine, family, number, simulation.records) for family in TopicFamily for number in range(LANES)]
    race = random.Random(seed)
    catalogues, stages = Catalogues(), Stages(Metrics(CollectorRegistry()))
    while unread := [lane for lane in lanes if lane.offset < len(lane.records)]:
        apply_batch(engine, race.choice(unread).next_batch(race.randint(1, 150)), catalogues, stages)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_ledger_that_read_the_topics_in_any_race_holds_the_truth(engine: Engine, seed: int) -> None:
    simulation = simulate(customers=60, seed=seed, now=datetime.now(UTC))
    truth = simulation.truth

    read_in_a_race(engine, simulation, seed)

    with engine.connect() as connection:
        found, types = arrivals(connection), consumed(connection)
        compared = compare(connection, truth.history)
        without_one, customer_id = _without_a_usage(truth.history)
        differing = compare(connection, without_one, compared.at).differing
        connection.rollback()
        verdict = verify(connection)
    assert verdict.findings == ()
    assert (found.records, found.events, found.duplicates) == (truth.records, truth.events, truth.duplicates)
    assert found.unaccounted == 0
    assert found.dead_letters == truth.dead_letters
    assert types == truth.types
    assert {outcome: found.outcomes.get(outcome, 0) for outcome in truth.outcomes} == truth.outcomes
    assert all(found.outcomes.get(outcome, 0) >= least for outcome, least in truth.outcomes_min.items())
    assert compared.differing == ()
    assert compared.customers >= 60
    assert {(one.customer_id, one.field) for one in differing} >= {(customer_id, "usage")}


def test_a_value_that_the_ledger_has_otherwise_differs(engine: Engine) -> None:
    pass_bought, taster_bought = (
        PurchaseCompleted(order_id="o", lines=(PurchaseLine(line_id="l", sku=sku, quantity=1),))
        for sku in ("video-pass", "team-taster")
    )
    sold = msgspec.structs.replace(told("a", pass_bought), occurred_at=datetime.now(UTC) - timedelta(hours=1))
    should_have_been = msgspec.structs.replace(sold, fact=taster_bought)
    batch = Batch(deliveries=(Delivery(event=sold),))
    apply_batch(engine, batch, Catalogues(), Stages(Metrics(CollectorRegistry())))

    with engine.connect() as connection:
        equal, compared = (compare(connection, (event,)) for event in (sold, should_have_been))

    assert equal.differing == ()
    values = [(one.entitlement, one.booked, one.expected) for one in compared.differing if one.field == "value"]
    assert values == [("player-beta", "true", "false")]


def _without_a_usage(history: Sequence[Event]) -> tuple[list[Event], str]:
    """The history as if one usage that nobody took back had not been, and whose it was, who never was another."""
    merged = {event.customer_id for event in history if isinstance(event.fact, CustomersMerged)}
    reversed_ids = {getattr(event.fact, "usage_event_id", None) for event in history}
    usage = next(
        event
        for event in history
        if isinstance(event.fact, UsageRecorded)
        and event.event_id not in reversed_ids
        and event.customer_id not in merged
    )
    return [event for event in history if event is not usage], usage.customer_id


def test_nothing_is_compared_of_an_empty_ledger(engine: Engine) -> None:
    with engine.connect() as connection:
        compared = compare(connection, ())

    assert (compared.customers, compared.accounts, compared.differing) == (0, 0, ())
