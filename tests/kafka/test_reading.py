"""What the client hands out of a record, and what it cannot."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from ledger_worker.kafka.reading import headers_of
from ledger_worker.kafka.topics import create
from tests.shared_cluster import Endpoints
from tests.worker.running import planned

_FLUSH_MILLISECONDS = 10_000
_READ_SECONDS_MAX = 30.0
_TOPIC, _PARTITION, _VALUE, _MESSAGE_FLAGS, _HEADERS = 1, 3, 4, 7, 10
_COPIES = 2
_ENOUGH_TO_SPECIALIZE = 100


class _Bytes(ctypes.Structure):
    _fields_ = (("pointer", ctypes.c_char_p), ("size", ctypes.c_size_t))


class _Argument(ctypes.Union):
    _fields_ = (
        ("text", ctypes.c_char_p),
        ("number", ctypes.c_int),
        ("bytes", _Bytes),
        ("pointer", ctypes.c_void_p),
        ("padding", ctypes.c_char * 64),
    )


class _Named(ctypes.Structure):
    """`rd_kafka_vu_t`: one argument of `rd_kafka_produceva`."""

    _fields_ = (("kind", ctypes.c_int), ("argument", _Argument))


@pytest.fixture
def librdkafka() -> ctypes.CDLL:
    """The C library inside the client's wheel: the client itself sends no header whose name is not UTF-8."""
    beside = Path(confluent_kafka.__file__).parents[1]
    found = sorted(beside.glob("confluent_kafka.libs/librdkafka*"))
    if not found:
        pytest.skip("this build of the client brings no librdkafka of its own")
    library = ctypes.CDLL(str(found[0]))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new", "rd_kafka_produceva"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


def test_a_header_whose_name_is_not_utf_8_leaves_its_record_readable(
    cluster: Endpoints, topic_prefix: str, librdkafka: ctypes.CDLL
) -> None:
    topic = f"{topic_prefix}headers"
    create(AdminClient({"bootstrap.servers": cluster.kafka_bootstrap}), [planned(topic, 1)])
    names = [*([b"good"] * _ENOUGH_TO_SPECIALIZE), b"\xff\xfe", b"\xe9", b"good"]

    _send(librdkafka, cluster.kafka_bootstrap, topic, names)

    found = list(_headers(cluster.kafka_bootstrap, topic, len(names)))
    assert found == [*([(("good", b"v"),)] * _ENOUGH_TO_SPECIALIZE), (), (), (("good", b"v"),)]


def _send(library: ctypes.CDLL, bootstrap: str, topic: str, names: list[bytes]) -> None:
    reason = ctypes.create_string_buffer(512)
    conf = ctypes.c_void_p(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap.encode(), reason, ctypes.c_size_t(512))
    producer = ctypes.c_void_p(library.rd_kafka_new(0, conf, reason, ctypes.c_size_t(512)))
    for name in names:
        headers = ctypes.c_void_p(library.rd_kafka_headers_new(ctypes.c_size_t(1)))
        library.rd_kafka_header_add(headers, name, ctypes.c_ssize_t(len(name)), b"v", ctypes.c_ssize_t(1))
        arguments = (_Named * 5)()
        for place, (kind, field, value) in enumerate(
            (
                (_TOPIC, "text", topic.encode()),
                (_PARTITION, "number", 0),
                (_MESSAGE_FLAGS, "number", _COPIES),
                (_VALUE, "bytes", _Bytes(b"x", 1)),
                (_HEADERS, "pointer", headers),
            )
        ):
            arguments[place].kind = kind
            setattr(arguments[place].argument, field, value)
        assert library.rd_kafka_produceva(producer, arguments, ctypes.c_size_t(len(arguments))) is None
    assert library.rd_kafka_flush(producer, _FLUSH_MILLISECONDS) == 0
    library.rd_kafka_destroy(producer)


def _headers(bootstrap: str, topic: str, count: int) -> Iterator[tuple[tuple[str, bytes | None], ...]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        for _ in range(count):
            message = consumer.poll(_READ_SECONDS_MAX)
            assert message is not None
            yield headers_of(message)
    finally:
        consumer.close()
