"""The offsets that a worker commits are right for whoever watches the lag, though nothing of ours reads them."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ledger_worker.kafka.client import transactional_producer
from ledger_worker.wire.encode import encode_event, family_of
from tests.faults.system import System
from tests.system.lives import CUSTOMERS, LANES, POISON, life, send
from tests.system.programs import GroupPlace, JavaTools, Kcat

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

SECONDS_MAX = 30.0


def test_the_lag_of_a_running_worker_becomes_zero_and_stays_so_when_it_ends(
    idle: System, kcat: Kcat, java_tools: JavaTools, tmp_path: Path
) -> None:
    ada, grace = life("ada", datetime.now(UTC)), life("grace", datetime.now(UTC))
    send(kcat, idle.settings, ada, tmp_path / "record")
    with idle.worker() as worker:
        idle.wait_until_applied(len(ada) + len(POISON), worker)
        running = places_without_lag(java_tools, idle.settings.consumer_group)
        send(kcat, idle.settings, grace, tmp_path / "record")
        idle.wait_until_applied(len(ada) + len(grace) + 2 * len(POISON), worker)
        # At once: the next regular commit is up to five seconds away.
        worker.terminate()
        assert worker.wait(timeout=SECONDS_MAX) == 0
    ended = java_tools.places(idle.settings.consumer_group)

    inputs = [(topic, partition) for topic in sorted(idle.settings.input_topics) for partition in range(LANES)]
    assert [(place.topic, place.partition) for place in running] == inputs
    assert {place.client_id for place in running} == {"ledger-worker"}
    assert sum(place.end_offset for place in running) == len(ada) + len(POISON)
    assert [(place.topic, place.partition) for place in ended] == inputs
    assert {place.client_id for place in ended} == {None}
    assert {place.lag for place in ended} == {0}
    assert sum(place.current_offset or 0 for place in ended) == len(ada) + len(grace) + 2 * len(POISON)


def test_the_lag_becomes_zero_on_topics_that_are_written_in_transactions(idle: System, java_tools: JavaTools) -> None:
    events = [event for customer in CUSTOMERS for event in life(customer, datetime.now(UTC))]
    producer = transactional_producer(idle.settings.broker, f"{idle.settings.consumer_group}/told")
    producer.init_transactions(SECONDS_MAX)
    for event in events:
        topic = getattr(idle.settings, f"topic_{family_of(event).value}")
        producer.begin_transaction()
        producer.produce(topic, encode_event(event), key=event.customer_id.encode())
        producer.commit_transaction(SECONDS_MAX)
    with idle.worker() as worker:
        idle.wait_until_applied(len(events), worker)
        running = places_without_lag(java_tools, idle.settings.consumer_group)
        worker.terminate()
        assert worker.wait(timeout=SECONDS_MAX) == 0
    ended = java_tools.places(idle.settings.consumer_group)

    # Each event has the marker of its transaction behind it.
    assert sum(place.end_offset for place in running) == 2 * len(events)
    assert {place.lag for place in ended} == {0}


def places_without_lag(java_tools: JavaTools, group: str) -> list[GroupPlace]:
    """The view of the group once its lag is zero everywhere; a worker commits every five seconds."""
    until = time.monotonic() + SECONDS_MAX
    while True:
        places = java_tools.places(group)
        if all(place.lag == 0 for place in places):
            return places
        assert time.monotonic() < until, places
