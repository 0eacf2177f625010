from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from sqlalchemy import Engine

from ledger_worker.errors import ConfigurationError, FencedError
from ledger_worker.store import fence, partitions
from ledger_worker.store.database import engine as new_engine

TOPIC = "commerce.purchases"
ID = "topic-id-1"
WAIT_SECONDS_MAX = 10.0


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = new_engine(database_url)
    yield made
    made.dispose()


def introduce(engine: Engine, *, starts: dict[int, int], lows: dict[int, int], topic_id: str = ID) -> None:
    with engine.begin() as conn:
        partitions.introduce(conn, TOPIC, topic_id, starts=starts, lows=lows)


def claim(engine: Engine, owner: str, partition: int = 0, topic_id: str = ID) -> partitions.Position:
    with engine.begin() as conn:
        return partitions.claim(conn, TOPIC, partition, topic_id, owner)


def offsets(engine: Engine) -> dict[int, int]:
    with engine.connect() as conn:
        return {place[1]: found.next_offset for place, found in partitions.read(conn, [TOPIC]).items()}


def test_a_topic_that_is_new_to_us_begins_at_the_start_that_was_set(engine: Engine) -> None:
    introduce(engine, starts={0: 70, 1: 80}, lows={0: 7, 1: 8})

    assert offsets(engine) == {0: 70, 1: 80}


def test_a_partition_that_was_added_to_a_known_topic_begins_at_its_first_record(engine: Engine) -> None:
    introduce(engine, starts={0: 70}, lows={0: 7})

    introduce(engine, starts={0: 99, 1: 99}, lows={0: 8, 1: 3})

    assert offsets(engine) == {0: 70, 1: 3}


def test_two_workers_that_meet_a_new_topic_at_once_begin_it_at_the_same_place(engine: Engine) -> None:
    held = Event()

    def second() -> None:
        held.wait(WAIT_SECONDS_MAX)
        introduce(engine, starts={0: 100, 1: 100}, lows={0: 0, 1: 0})

    with ThreadPoolExecutor() as pool, engine.connect() as first, first.begin():
        waiting = pool.submit(second)
        partitions.introduce(first, TOPIC, ID, starts={0: 70, 1: 80}, lows={0: 0, 1: 0})
        held.set()
        first.commit()
        waiting.result(WAIT_SECONDS_MAX)

    assert offsets(engine) == {0: 70, 1: 80}


def test_a_claim_raises_the_epoch_and_says_where_to_go_on(engine: Engine) -> None:
    introduce(engine, starts={0: 70}, lows={0: 0})

    first, second = claim(engine, "one"), claim(engine, "two")

    assert (first.next_offset, second.next_offset) == (70, 70)
    assert second.owner_epoch == first.owner_epoch + 1
    assert second.owner == "two"


def test_a_zombie_moves_nothing_after_another_claim(engine: Engine) -> None:
    introduce(engine, starts={0: 70}, lows={0: 0})
    zombie = claim(engine, "zombie")
    claim(engine, "successor")

    with pytest.raises(FencedError), engine.begin() as conn:
        fence.move(conn, [(TOPIC, 0, zombie.owner_epoch, 70, 75)])

    assert offsets(engine) == {0: 70}


def test_a_claim_waits_for_a_batch_that_commits_and_goes_on_behind_it(engine: Engine) -> None:
    introduce(engine, starts={0: 70}, lows={0: 0})
    old = claim(engine, "old")

    with ThreadPoolExecutor() as pool:
        with engine.begin() as conn:
            fence.move(conn, [(TOPIC, 0, old.owner_epoch, 70, 75)])
            waiting = pool.submit(claim, engine, "new")
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
        found = waiting.result(WAIT_SECONDS_MAX)

    assert found.next_offset == 75


def test_a_topic_that_was_made_again_is_refused_with_what_to_do(engine: Engine) -> None:
    introduce(engine, starts={0: 70}, lows={0: 0})

    with pytest.raises(ConfigurationError, match="deleted and made again"):
        claim(engine, "one", topic_id="topic-id-2")
    with pytest.raises(ConfigurationError, match="removes the rows of this topic from the table input_partition"):
        introduce(engine, starts={0: 0, 1: 0}, lows={0: 0, 1: 0}, topic_id="topic-id-2")

    assert offsets(engine) == {0: 70}


def test_a_partition_that_nobody_introduced_cannot_be_claimed(engine: Engine) -> None:
    with pytest.raises(LookupError, match=r"commerce\.purchases/0 has no row"):
        claim(engine, "one")
