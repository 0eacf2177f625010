"""The simulator knows the truth about what it makes up: a ledger that has read it all holds just that."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, Engine

from ledger_worker.apply import Batch, Catalogues, Delivery, Move, Rejected, apply_batch
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import BadBytesError
from ledger_worker.local.simulate import CATALOGUE_FILE, SimulatedRecord, simulate
from ledger_worker.metrics import CollectorRegistry, Metrics, Stages
from ledger_worker.operations.publish import publish
from ledger_worker.operations.verify import verify
from ledger_worker.reports.arrivals import arrivals
from ledger_worker.store import accounts, partitions
from ledger_worker.store.database import engine as new_engine
from ledger_worker.wire.catalogue_file import definitions_of_toml
from ledger_worker.wire.decode import decode
from ledger_worker.wire.record import Record
from ledger_worker.wire.schemas import TopicFamily

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = new_engine(database_url)
    compared = publish(made, definitions_of_toml(CATALOGUE_FILE.read_text(encoding="utf-8")))
    assert compared.problems == ()
    yield made
    made.dispose()


class _Topic:
    """One partition a family, read by whoever asks for the next records."""

    def __init__(self, engine: Engine, family: TopicFamily, records: Sequence[SimulatedRecord]) -> None:
        self.family = family
        self.records = [record for record in records if record.family is family]
        self.offset = 0
        with engine.begin() as connection:
            partitions.introduce(connection, family.value, "id", starts={0: 0}, lows={0: 0})
        with engine.begin() as connection:
            partitions.claim(connection, family.value, 0, "id", "test")

    def next_batch(self, size: int) -> Batch:
        deliveries: list[Delivery] = []
        rejected: list[Rejected] = []
        start = self.offset
        for simulated in self.records[start : start + size]:
            record = Record(
                topic=self.family.value,
                partition=0,
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
            topic=self.family.value, partition=0, topic_id="id", owner_epoch=1, from_offset=start, to_offset=self.offset
        )
        return Batch(moves=(move,), deliveries=tuple(deliveries), rejected=tuple(rejected))


def test_the_same_seed_and_instant_give_the_same_bytes() -> None:
    assert simulate(customers=20, seed=7, now=NOW) == simulate(customers=20, seed=7, now=NOW)


def test_another_seed_gives_other_customers() -> None:
    assert simulate(customers=20, seed=7, now=NOW).records != simulate(customers=20, seed=8, now=NOW).records


def test_every_record_is_one_event_or_one_duplicate_or_one_dead_letter() -> None:
    simulation = simulate(customers=200, seed=7, now=NOW)
    truth = simulation.truth

    assert truth.records == len(simulation.records)
    assert truth.records == truth.events + truth.duplicates + sum(truth.dead_letters.values())
    assert truth.duplicates > 0
    # All reasons but the one for values that only PostgreSQL refuses: there is none that is known.
    assert set(truth.dead_letters) == set(DeadLetterReason) - {DeadLetterReason.REJECTED_BY_DATABASE}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_ledger_that_read_the_topics_in_any_race_holds_the_truth(engine: Engine, seed: int) -> None:
    simulation = simulate(customers=60, seed=seed, now=datetime.now(UTC))
    truth = simulation.truth
    topics = [_Topic(engine, family, simulation.records) for family in TopicFamily]
    race = random.Random(seed)
    catalogues, stages = Catalogues(), Stages(Metrics(CollectorRegistry()))

    while unread := [topic for topic in topics if topic.offset < len(topic.records)]:
        apply_batch(engine, race.choice(unread).next_batch(race.randint(1, 150)), catalogues, stages)

    with engine.connect() as connection:
        found = arrivals(connection)
        booked = _booked_usage(connection, [customer_id for customer_id, _ in truth.usage])
        connection.rollback()
        verdict = verify(connection)
    assert verdict.findings == ()
    assert (found.records, found.events, found.duplicates) == (truth.records, truth.events, truth.duplicates)
    assert found.unaccounted == 0
    assert found.dead_letters == truth.dead_letters
    assert {outcome: found.outcomes.get(outcome, 0) for outcome in truth.outcomes} == truth.outcomes
    assert booked == truth.usage


def _booked_usage(connection: Connection, customer_ids: Sequence[str]) -> dict[tuple[str, str], int]:
    pairs = accounts.account_keys(connection, customer_ids)
    found = accounts.read_accounts(connection, pairs, [], NOW)
    return {pair: account.usage for pair, account in found.items() if account.usage}
