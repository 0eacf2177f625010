"""Topics whose beginning was deleted, as retention does to every topic in time."""

import pytest
from confluent_kafka import TopicPartition

from ledger_worker.config import GroupProtocol
from tests.worker.running import SECONDS_MAX, Place, Recorder, eventually, running

PARTITIONS = 6
STARTS = 4


@pytest.mark.parametrize("protocol", [GroupProtocol.CONSUMER, GroupProtocol.CLASSIC])
def test_a_worker_goes_on_where_its_rows_stand_however_much_was_deleted_before(
    place: Place, protocol: GroupProtocol
) -> None:
    place.make_topics(partitions=PARTITIONS)
    recorder = Recorder(place.engine)
    with running(place, recorder, group_protocol=protocol) as run:
        eventually(lambda: run.metric("ledger_consumer_claimed_partitions") == 3 * PARTITIONS)
    _send(place, "deleted later")
    with running(place, recorder, group_protocol=protocol):
        recorder.events(PARTITIONS)
    behind = [TopicPartition(place.settings.topic_usage, partition, 1) for partition in range(PARTITIONS)]
    for deleted in place.admin.delete_records(behind).values():
        deleted.result(SECONDS_MAX)

    # More than once: whether the client fetches before it is paused is a matter of chance.
    for start in range(STARTS):
        sent = _send(place, f"start {start}")
        with running(place, recorder, group_protocol=protocol):
            assert sorted(recorder.events(PARTITIONS)) == sent


def _send(place: Place, name: str) -> list[str]:
    sent = [f"{name} of {partition}" for partition in range(PARTITIONS)]
    for partition, event_id in enumerate(sent):
        place.send(event_id, partition=partition)
    return sent
