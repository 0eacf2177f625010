"""Servers that are killed under a running loop, in a cluster of these tests' own."""

from collections.abc import Iterator
from uuid import uuid4

import msgspec
import pytest

from ledger_worker.local import cluster as local_cluster
from ledger_worker.local.cluster import Cluster
from ledger_worker.store.database import migrate
from tests.shared_cluster import make_database
from tests.worker.running import Place, Recorder, eventually, running


@pytest.fixture
def own_place(private_cluster: Cluster, place: Place) -> Iterator[Place]:
    """The settings of `place`, on servers that may be killed."""
    url = make_database(private_cluster, f"test_{uuid4().hex[:12]}")
    migrate(url)
    own = Place(
        msgspec.structs.replace(
            place.settings, database_url=url, kafka_bootstrap=private_cluster.kafka_bootstrap, lock_timeout_seconds=5.0
        )
    )
    yield own
    own.close()


def test_a_killed_database_loses_and_repeats_nothing(own_place: Place, private_cluster: Cluster) -> None:
    own_place.make_topics()
    own_place.send("a")
    recorder = Recorder(own_place.engine)
    with running(own_place, recorder) as run:
        applied = recorder.events(1)
        local_cluster.kill_postgres(private_cluster.folder)
        own_place.send("b", "c")
        eventually(lambda: run.metric("ledger_consumer_is_paused") == 1)
        assert run.shared.health.why_dead() == []
        local_cluster.start_postgres(private_cluster.folder)
        applied += recorder.events(2)

    assert applied == ["a", "b", "c"]
    assert own_place.position().next_offset == 3
    assert run.metric("ledger_consumer_rebalances_total", kind="assign") == 1


def test_a_killed_broker_loses_and_repeats_nothing(own_place: Place, private_cluster: Cluster) -> None:
    own_place.make_topics()
    own_place.send("a")
    recorder = Recorder(own_place.engine)
    with running(own_place, recorder) as run:
        applied = recorder.events(1)
        local_cluster.kill_kafka(private_cluster.folder)
        local_cluster.start_kafka(private_cluster.folder)
        own_place.send("b", "c")
        applied += recorder.events(2)

        assert run.shared.health.why_dead() == []

    assert applied == ["a", "b", "c"]
    assert own_place.position().next_offset == 3


def test_a_worker_that_starts_while_the_database_is_down_begins_when_it_is_back(
    own_place: Place, private_cluster: Cluster
) -> None:
    own_place.make_topics()
    own_place.send("a")
    recorder = Recorder(own_place.engine)
    local_cluster.kill_postgres(private_cluster.folder)

    with running(own_place, recorder) as run:
        eventually(lambda: run.metric("ledger_database_failures_total", sqlstate_class="none") >= 1)
        assert run.metric("ledger_consumer_unclaimed_partitions") == 3
        local_cluster.start_postgres(private_cluster.folder)
        applied = recorder.events(1)

    assert applied == ["a"]
