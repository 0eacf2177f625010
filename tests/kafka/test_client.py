import pytest

from ledger_worker.config import GroupProtocol
from ledger_worker.errors import ConfigurationError
from ledger_worker.kafka.client import group_consumer, idempotent_producer

BROKER = {"bootstrap.servers": "127.0.0.1:1"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("auto.offset.reset", "the Kafka option auto.offset.reset cannot be set: the ledger rests on it"),
        ("message.max.bytes", "the Kafka option message.max.bytes cannot be set: the ledger rests on it"),
        ("partitioner", "the Kafka option partitioner cannot be set: the ledger rests on it"),
        ("group.id", "the Kafka option group.id cannot be set: use LEDGER_CONSUMER_GROUP"),
    ],
)
def test_options_that_a_promise_rests_on_cannot_be_set(option: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        group_consumer({**BROKER, option: "x"}, "group", GroupProtocol.AUTO)

    assert str(raised.value) == message


def test_an_unknown_option_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r'No such configuration property: "linger\.seconds"'):
        idempotent_producer({**BROKER, "linger.seconds": "1"})


def test_a_refused_option_does_not_show_its_value() -> None:
    with pytest.raises(ConfigurationError) as raised:
        idempotent_producer({**BROKER, "security.protocol": "hunter2"})

    assert "security.protocol" in str(raised.value)
    assert "hunter2" not in str(raised.value)
