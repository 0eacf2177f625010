import pytest
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient
from hypothesis import given
from hypothesis import strategies as st

from ledger_worker.kafka.client import admin_client, idempotent_producer
from ledger_worker.kafka.murmur2 import murmur2, partition_of
from ledger_worker.kafka.topics import PlannedTopic, create
from tests.shared_cluster import Endpoints

PARTITIONS = 7
FLUSH_SECONDS_MAX = 30.0


# From UtilsTest.testMurmur2 of Apache Kafka, made positive.
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_the_hash_is_the_one_that_kafka_tests(key: str, expected: int) -> None:
    assert murmur2(key) == expected & 0x7FFFFFFF


@given(st.text(max_size=50))
def test_the_hash_is_a_positive_integer_of_31_bits(key: str) -> None:
    assert 0 <= murmur2(key) < 2**31


def test_the_producer_puts_each_key_in_the_partition_that_we_compute(cluster: Endpoints, topic_prefix: str) -> None:
    topic = f"{topic_prefix}keys"
    broker = {"bootstrap.servers": cluster.kafka_bootstrap}
    make_topic(admin_client(broker), topic)
    producer = idempotent_producer(broker)
    keys = [f"customer-{number}" for number in range(500)] + ["ü", "日本語", "a", "ab", "abc", "abcd", "abcde"]

    put = produce(producer, topic, keys)

    assert put == {key: partition_of(key, PARTITIONS) for key in keys}
    assert set(put.values()) == set(range(PARTITIONS))


def make_topic(admin: AdminClient, topic: str) -> None:
    planned = PlannedTopic(
        name=topic, partitions=PARTITIONS, partitions_must_match=False, cleanup_policy="delete", config={}
    )
    create(admin, [planned])


def produce(producer: Producer, topic: str, keys: list[str]) -> dict[str, int | None]:
    put: dict[str, int | None] = {}

    def delivered(error: object, message: Message) -> None:
        assert error is None
        key = message.key()
        assert isinstance(key, bytes)
        put[key.decode()] = message.partition()

    for key in keys:
        producer.produce(topic, b"value", key=key, on_delivery=delivered)
    assert producer.flush(FLUSH_SECONDS_MAX) == 0
    return put
