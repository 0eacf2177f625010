from time import monotonic, sleep

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]  # public, but not marked so
from sqlalchemy import Connection, text

from ledger_worker.apply.batch import Batch, Rejected
from ledger_worker.config import GroupProtocol, Start
from ledger_worker.domain.outcomes import DeadLetterReason
from ledger_worker.errors import BrokenInvariantError, ConfigurationError, FencedError
from ledger_worker.store.database import engine as new_engine
from tests.worker.running import SECONDS_MAX, Place, Recorder, Running, committed, eventually, planned, running

PROTOCOLS = (GroupProtocol.CONSUMER, GroupProtocol.CLASSIC)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_records_are_applied_in_their_order_and_the_row_stands_behind_the_last(
    place: Place, protocol: GroupProtocol
) -> None:
    place.make_topics()
    place.send("a", "b", "c")
    recorder = Recorder(place.engine)

    with running(place, recorder, group_protocol=protocol):
        applied = recorder.events(3)

    assert applied == ["a", "b", "c"]
    assert place.position().next_offset == 3


def test_one_record_alone_is_applied_at_once(place: Place) -> None:
    place.make_topics()
    place.send("first")
    recorder = Recorder(place.engine)
    with running(place, recorder, linger_seconds=10.0):
        recorder.events(1)
        sent_at = monotonic()
        place.send("second")
        recorder.events(1)
        took_seconds = monotonic() - sent_at

    assert took_seconds < 0.5


def test_a_backlog_is_applied_in_batches_of_the_set_size_at_most(place: Place) -> None:
    place.make_topics()
    place.send(*(f"event-{number}" for number in range(25)))
    recorder = Recorder(place.engine)

    with running(place, recorder, batch_events_max=10):
        sizes: list[int] = []
        while sum(sizes) < 25:
            sizes.append(len(recorder.batch().deliveries))

    assert max(sizes) == 10


def test_a_worker_goes_on_where_the_database_says_and_not_where_kafka_says(place: Place) -> None:
    place.make_topics()
    place.send("a", "b", "c", "d", "e")
    recorder = Recorder(place.engine)
    with running(place, recorder):
        recorder.events(5)
    place.execute("UPDATE input_partition SET next_offset = 2 WHERE next_offset = 5")
    commit(place, 4)

    with running(place, recorder):
        applied = recorder.events(3)

    assert applied == ["c", "d", "e"]


def test_kafka_is_told_the_offsets_for_the_tools_that_watch_them(place: Place) -> None:
    place.make_topics()
    place.send("a", "b")
    recorder = Recorder(place.engine)

    with running(place, recorder):
        recorder.events(2)
        eventually(lambda: committed(place) == 2)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_marker_behind_a_transaction_is_no_lag(place: Place, protocol: GroupProtocol) -> None:
    place.make_topics()
    place.send_in_transaction("a", "b", "c")
    recorder = Recorder(place.engine)

    with running(place, recorder, group_protocol=protocol) as run:
        applied = recorder.events(3)
        eventually(lambda: lag(run) == (0, 0))
        eventually(lambda: committed(place) == 4)

    assert applied == ["a", "b", "c"]
    assert place.position().next_offset == 3


def test_a_transaction_that_was_aborted_is_no_lag(place: Place) -> None:
    place.make_topics()
    place.send("a")
    place.send_in_transaction("b", "c", commits=False)
    recorder = Recorder(place.engine)

    with running(place, recorder) as run:
        applied = recorder.events(1)
        eventually(lambda: lag(run) == (0, 0))

    assert applied == ["a"]
    assert committed(place) == 4
    assert place.position().next_offset == 1


def test_a_worker_that_finds_nothing_but_a_marker_has_no_lag(place: Place) -> None:
    place.make_topics()
    place.send_in_transaction("a")
    recorder = Recorder(place.engine)
    with running(place, recorder):
        recorder.events(1)

    with running(place, recorder) as run:
        eventually(lambda: lag(run) == (0, 0))
        place.send("b")
        applied = recorder.events(1)

    assert applied == ["b"]
    assert committed(place) == 3


def test_kafka_is_not_told_of_records_that_wait_to_be_applied(place: Place) -> None:
    place.make_topics()
    place.send_in_transaction("a")
    recorder = Recorder(place.engine)
    with running(place, recorder) as run:
        recorder.events(1)
        eventually(lambda: lag(run) == (0, 0))
        with place.engine.begin() as conn:
            conn.execute(text("SELECT FROM input_partition FOR UPDATE"))
            place.send_in_transaction("b", "c")
            eventually(lambda: run.metric("ledger_consumer_is_paused") == 1)
            eventually(lambda: lag(run)[0] == 3)
            run.stop()

    assert committed(place) == 2


def test_kafka_is_not_told_of_a_batch_that_was_fenced_and_dropped(place: Place) -> None:
    place.make_topics()
    place.send_in_transaction("a")

    def fence_all_but_a(_conn: Connection, batch: Batch) -> None:
        if batch.deliveries[0].event.event_id != "a":
            raise FencedError("the test lets nothing more through")

    recorder = Recorder(place.engine, before_commit=fence_all_but_a)
    with running(place, recorder) as run:
        recorder.events(1)
        place.send_in_transaction("b", "c")
        eventually(lambda: run.metric("ledger_batch_fenced_total", loop="consume") >= 3)

    # The first record that was not applied has offset 2, behind the marker of the first transaction.
    assert committed(place) in {1, 2}


def test_a_topic_that_is_new_to_us_is_begun_at_its_end_when_so_set(place: Place) -> None:
    place.make_topics(partitions=2)
    place.send("old", partition=0)
    place.send("old", partition=1)
    recorder = Recorder(place.engine)

    with running(place, recorder, start=Start.LATEST) as run:
        eventually(lambda: run.metric("ledger_consumer_claimed_partitions") == 6)
        place.send("new", partition=1)
        applied = recorder.events(1)

    assert applied == ["new"]


def test_partitions_that_are_added_later_are_read_from_their_first_record(place: Place) -> None:
    place.make_topics()
    recorder = Recorder(place.engine)
    with running(place, recorder, start=Start.LATEST) as run:
        eventually(lambda: run.metric("ledger_consumer_claimed_partitions") == 3)
    for future in place.admin.create_partitions([NewPartitions(place.settings.topic_usage, 2)]).values():
        future.result(SECONDS_MAX)
    place.send("of the added partition", partition=1)

    with running(place, recorder, start=Start.LATEST):
        applied = recorder.events(1)

    assert applied == ["of the added partition"]


def test_a_topic_that_was_made_again_is_refused_when_a_worker_starts(place: Place) -> None:
    place.make_topics()
    recorder = Recorder(place.engine)
    with running(place, recorder) as run:
        eventually(lambda: run.metric("ledger_consumer_claimed_partitions") == 3)
    make_again(place)

    with running(place, recorder) as run:
        failure = run.failure()

    assert isinstance(failure, ConfigurationError)
    assert "deleted and made again" in str(failure)


def test_a_topic_that_is_made_again_stops_a_worker_that_runs(place: Place) -> None:
    place.make_topics()
    place.send("a")
    recorder = Recorder(place.engine)

    with running(place, recorder) as run:
        recorder.events(1)
        make_again(place)
        failure = run.failure()

    assert isinstance(failure, ConfigurationError)


def test_records_that_were_deleted_before_they_were_applied_stop_the_worker(place: Place) -> None:
    place.make_topics()
    place.send("a", "b", "c")
    recorder = Recorder(place.engine)
    with running(place, recorder):
        recorder.events(3)
    place.execute("UPDATE input_partition SET next_offset = 0 WHERE next_offset = 3")
    deleted = place.admin.delete_records([TopicPartition(place.settings.topic_usage, 0, 2)])
    for future in deleted.values():
        future.result(SECONDS_MAX)

    with running(place, recorder) as run:
        failure = run.failure()

    assert isinstance(failure, ConfigurationError)
    assert "goes on at offset 0, but the topic has offsets from 2 to 3" in str(failure)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_partition_that_was_assigned_at_a_deleted_offset_goes_on_where_its_row_was_set(
    place: Place, protocol: GroupProtocol
) -> None:
    place.make_topics()
    place.send("a", "b", "c")
    recorder = Recorder(place.engine)
    with running(place, recorder):
        recorder.events(3)
    place.execute("UPDATE input_partition SET next_offset = 0 WHERE next_offset = 3")
    for future in place.admin.delete_records([TopicPartition(place.settings.topic_usage, 0, 2)]).values():
        future.result(SECONDS_MAX)

    owner = new_engine(place.settings.database_url, role=None)
    with owner.connect() as conn:
        mended = text("UPDATE input_partition SET next_offset = 2 WHERE topic = :topic")
        conn.execute(mended, {"topic": place.settings.topic_usage})
        # Assigned by the row that all see, whose offset is gone; the claim waits for the row that is being mended.
        with running(place, recorder, group_protocol=protocol) as run:
            eventually(lambda: run.metric("ledger_consumer_unclaimed_partitions") >= 1)
            sleep(0.5)
            conn.commit()
            applied = recorder.events(1)
    owner.dispose()

    assert applied == ["c"]
    assert recorder.is_idle()
    assert place.position().next_offset == 3


def test_a_batch_that_another_owner_fenced_is_dropped_and_applied_once_after_a_new_claim(place: Place) -> None:
    place.make_topics()
    place.send("a")
    recorder = Recorder(place.engine)
    with running(place, recorder) as run:
        recorder.events(1)
        another = place.claim()
        place.send("b", "c")
        applied = recorder.events(2)

        assert applied == ["b", "c"]
        assert run.metric("ledger_batch_fenced_total", loop="consume") >= 1
    assert place.position().owner_epoch > another.owner_epoch
    assert recorder.is_idle()


def test_partitions_move_between_workers_and_every_record_is_applied_once(place: Place) -> None:
    place.make_topics(partitions=4)
    one, two = Recorder(place.engine), Recorder(place.engine)
    with running(place, one) as first:
        eventually(lambda: first.metric("ledger_consumer_claimed_partitions") == 12)
        for partition in range(4):
            place.send(f"{partition}/alone", partition=partition)
        applied = one.events(4)
        with running(place, two) as second:
            eventually(lambda: second.metric("ledger_consumer_claimed_partitions") >= 4)
            eventually(lambda: first.metric("ledger_consumer_claimed_partitions") <= 8)
            for partition in range(4):
                place.send(f"{partition}/shared", partition=partition)
            eventually(lambda: sum(place.position(partition).next_offset for partition in range(4)) == 8)
        for partition in range(4):
            place.send(f"{partition}/alone again", partition=partition)
        eventually(lambda: sum(place.position(partition).next_offset for partition in range(4)) == 12)
    for recorder in (one, two):
        while not recorder.is_idle():
            applied += [delivery.event.event_id for delivery in recorder.batch().deliveries]

    assert len(applied) == 12
    assert len(set(applied)) == 12


def test_an_outage_keeps_the_batch_and_the_membership_and_it_is_applied_once(place: Place) -> None:
    place.make_topics()
    place.send("a")
    recorder = Recorder(place.engine)
    with running(place, recorder) as run:
        recorder.events(1)
        with place.engine.begin() as conn:
            conn.execute(text("SELECT FROM input_partition FOR UPDATE"))
            place.send("b", "c")
            eventually(lambda: run.metric("ledger_batch_retries_total", sqlstate_class="55") >= 2)
            assert run.metric("ledger_consumer_is_paused") == 1
            assert run.shared.health.why_dead() == []
            assert run.shared.health.why_not_ready() != []
        applied = recorder.events(2)
        place.send("d")
        applied += recorder.events(1)

        assert run.metric("ledger_consumer_is_paused") == 0
        assert run.metric("ledger_consumer_rebalances_total", kind="assign") == 1

    assert applied == ["b", "c", "d"]
    assert recorder.is_idle()


def test_a_worker_that_stops_during_an_outage_leaves_its_batch_to_the_next_owner(place: Place) -> None:
    place.make_topics()
    place.send("a")
    first, second = Recorder(place.engine), Recorder(place.engine)
    with running(place, first) as run:
        first.events(1)
        with place.engine.begin() as conn:
            conn.execute(text("SELECT FROM input_partition FOR UPDATE"))
            place.send("b", "c")
            eventually(lambda: run.metric("ledger_consumer_is_paused") == 1)
            run.stop()
            assert run.metric("ledger_consumer_is_paused") == 0
    with running(place, second):
        applied = second.events(2)

    assert applied == ["b", "c"]
    assert first.is_idle()


def test_a_batch_whose_commit_was_not_answered_is_not_applied_again(place: Place) -> None:
    place.make_topics()
    place.send("a")

    def lose_the_answer(conn: Connection, batch: Batch) -> None:
        if batch.deliveries[0].event.event_id == "b":
            conn.execute(text("RESET ROLE"))
            conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    recorder = Recorder(place.engine, after_commit=lose_the_answer)
    with running(place, recorder):
        recorder.events(1)
        place.send("b")
        applied = recorder.events(1)
        eventually(lambda: place.position().next_offset == 2)
        place.send("c")
        applied += recorder.events(1)

    assert applied == ["b", "c"]
    assert recorder.is_idle()


def test_an_event_that_postgresql_cannot_take_becomes_a_dead_letter_and_the_rest_is_applied(place: Place) -> None:
    place.make_topics()
    place.send(*(f"event-{number:03}" for number in range(40)), "poison-1", "good", "poison-2")

    def refuse_poison(conn: Connection, batch: Batch) -> None:
        if any(delivery.event.event_id.startswith("poison") for delivery in batch.deliveries):
            conn.execute(text("SELECT 1 / 0"))

    recorder = Recorder(place.engine, before_commit=refuse_poison)
    with running(place, recorder):
        batch = recorder.batch()

    assert [delivery.event.event_id for delivery in batch.deliveries][-2:] == ["event-039", "good"]
    assert [(each.record.offset, each.reason) for each in batch.rejected] == [
        (40, DeadLetterReason.REJECTED_BY_DATABASE),
        (42, DeadLetterReason.REJECTED_BY_DATABASE),
    ]
    assert batch.rejected[0].message == "PostgreSQL refuses a value: DivisionByZero (SQLSTATE 22012)"
    assert place.position().next_offset == 43
    assert recorder.rehearsed < 20


def test_a_broken_invariant_stops_the_worker_and_names_the_event_and_its_customer(place: Place) -> None:
    place.make_topics()
    place.send("a", "b", "c", "d")

    def break_at_c(conn: Connection, batch: Batch) -> None:
        if any(delivery.event.event_id == "c" for delivery in batch.deliveries):
            conn.execute(
                text(
                    "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'check_violation', "
                    "CONSTRAINT = 'units_of_a_grant_are_conserved'; END $$"
                )
            )

    with running(place, Recorder(place.engine, before_commit=break_at_c)) as run:
        failure = run.failure()

    assert isinstance(failure, BrokenInvariantError)
    assert "event c of tests for customer customer" in str(failure)
    assert "units_of_a_grant_are_conserved" in str(failure)
    assert place.position().next_offset == 0


def test_a_missing_table_partition_is_an_outage_and_no_dead_letter(place: Place) -> None:
    place.make_topics()
    place.send("a")
    place.execute("CREATE TABLE months (month date) PARTITION BY RANGE (month); GRANT INSERT ON months TO ledger_app")

    def insert(conn: Connection, _batch: Batch) -> None:
        conn.execute(text("INSERT INTO months VALUES ('2026-03-01')"))

    recorder = Recorder(place.engine, before_commit=insert)
    with running(place, recorder) as run:
        eventually(lambda: run.metric("ledger_batch_retries_total", sqlstate_class="23") >= 1)
        place.execute("CREATE TABLE months_default PARTITION OF months DEFAULT")
        applied = recorder.events(1)

    assert applied == ["a"]


def test_bytes_that_are_no_event_are_rejected_with_their_reason_between_the_others(place: Place) -> None:
    place.make_topics()
    place.send("a")
    place.send_bytes(b"nonsense")
    place.send("b")
    recorder = Recorder(place.engine)

    rejected: list[Rejected] = []
    applied: list[str] = []
    with running(place, recorder):
        while len(applied) + len(rejected) < 3:
            batch = recorder.batch()
            rejected += batch.rejected
            applied += [delivery.event.event_id for delivery in batch.deliveries]

    assert applied == ["a", "b"]
    assert [(each.record.offset, each.record.value, each.reason) for each in rejected] == [
        (1, b"nonsense", DeadLetterReason.UNDECODABLE)
    ]


def test_a_halted_partition_is_not_consumed_until_it_is_released(place: Place) -> None:
    place.make_topics(partitions=2)
    recorder = Recorder(place.engine)
    with running(place, recorder) as run:
        eventually(lambda: run.metric("ledger_consumer_claimed_partitions") == 6)
    place.execute("UPDATE input_partition SET is_halted = true WHERE partition = 0")
    place.send("halted", partition=0)
    place.send("free", partition=1)

    with running(place, recorder):
        before = recorder.events(1)
        place.execute("UPDATE input_partition SET is_halted = false")
        after = recorder.events(1)

    assert (before, after) == (["free"], ["halted"])


def make_again(place: Place) -> None:
    for future in place.admin.delete_topics([place.settings.topic_usage]).values():
        future.result(SECONDS_MAX)
    from ledger_worker.kafka.topics import create

    eventually(lambda: create(place.admin, [planned(place.settings.topic_usage, 1)]) != [])


def commit(place: Place, offset: int) -> None:
    consumer = Consumer(
        {"bootstrap.servers": place.settings.kafka_bootstrap, "group.id": place.settings.consumer_group}
    )
    consumer.commit(offsets=[TopicPartition(place.settings.topic_usage, 0, offset)], asynchronous=False)
    consumer.close()


def lag(run: Running) -> tuple[float | None, float | None]:
    """Records and seconds of the partition that these tests send to; None before they were measured."""
    of_usage = {"topic": run.shared.settings.topic_usage, "partition": "0"}
    records, seconds = (
        run.shared.metrics.registry.get_sample_value(f"ledger_consumer_lag_{unit}", of_usage)
        for unit in ("records", "seconds")
    )
    return records, seconds
