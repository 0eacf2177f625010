"""Clients of the brokers, set as the ledger's promises need them.

What an operator sets for librdkafka is passed through, for security above all. Refused are the options that a promise
rests on: the database says where to go on, so Kafka may neither commit nor reset an offset by itself; and the
partitioner decides which lane a customer is on.

The group protocol of Kafka 4 (KIP-848) is taken where the broker has it. There is no question to ask beforehand that
would not itself join a group: a broker without it answers the first heartbeat with a fatal error, which
`is_without_consumer_protocol` recognizes, and the consumer is opened again with the classic protocol.
"""

import logging
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from ledger_worker.config import GroupProtocol
from ledger_worker.errors import ConfigurationError, LedgerError, UnavailableError

__all__ = [
    "admin_client",
    "explained",
    "group_consumer",
    "idempotent_producer",
    "is_without_consumer_protocol",
    "transactional_producer",
]

_LOGGER = logging.getLogger("librdkafka")
_CLIENT_ID = "ledger-worker"

_OURS = {
    "bootstrap.servers": "LEDGER_KAFKA_BOOTSTRAP",
    "metadata.broker.list": "LEDGER_KAFKA_BOOTSTRAP",
    "group.id": "LEDGER_CONSUMER_GROUP",
    "group.protocol": "LEDGER_GROUP_PROTOCOL",
    "partition.assignment.strategy": "LEDGER_GROUP_PROTOCOL",
    "enable.auto.commit": None,
    "enable.auto.offset.store": None,
    "auto.offset.reset": None,
    "enable.partition.eof": None,
    "isolation.level": None,
    "enable.idempotence": None,
    "message.max.bytes": None,
    "transactional.id": None,
    "partitioner": None,
    "acks": None,
    "request.required.acks": None,
    "max.in.flight": None,
    "max.in.flight.requests.per.connection": None,
}
"""What cannot be set through `kafka`, and the setting that says it, if any."""

_CONSUMER = {
    "client.id": _CLIENT_ID,
    # Enough for ten large batches. The defaults, 100,000 records and 64 MB, are fetched anew after each pause.
    "queued.min.messages": "10000",
    "queued.max.messages.kbytes": "32768",
    # The default, a second, is how long a full local queue stops fetching; batches empty it in milliseconds.
    "fetch.queue.backoff.ms": "5",
    "fetch.wait.max.ms": "500",
    "fetch.min.bytes": "1",
}

_PRODUCER = {
    "client.id": _CLIENT_ID,
    "linger.ms": "5",
    "compression.type": "lz4",
    "queue.buffering.max.messages": "100000",
}

_CONFIGURATION_CODES = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - the library's name for its own error
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.POLICY_VIOLATION,
        KafkaError.MSG_SIZE_TOO_LARGE,
    }
)


def group_consumer(broker: Mapping[str, str], group: str, protocol: GroupProtocol) -> Consumer:
    """A member of the group once it subscribes. It commits nothing by itself, and never chooses an offset.

    `protocol` AUTO begins with the consumer protocol. Raises ConfigurationError for an option that is unknown or
    not the operator's to set.
    """
    options = {
        **_CONSUMER,
        **_allowed(broker),
        "group.id": group,
        "enable.auto.commit": "false",
        "enable.auto.offset.store": "false",
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
    }
    if protocol is GroupProtocol.CLASSIC:
        options |= {"group.protocol": "classic", "partition.assignment.strategy": "cooperative-sticky"}
    else:
        options["group.protocol"] = "consumer"
    try:
        return Consumer(options, logger=_LOGGER)
    except KafkaException as error:
        raise _refused(broker, error) from error


def transactional_producer(broker: Mapping[str, str], transactional_id: str) -> Producer:
    """A producer for transactions under that id; the caller fences the last one by `init_transactions`."""
    return _producer(broker, {"transactional.id": transactional_id})


def idempotent_producer(broker: Mapping[str, str]) -> Producer:
    """A producer without transactions that keeps the order within a partition and writes nothing twice by itself."""
    return _producer(broker, {})


def admin_client(broker: Mapping[str, str]) -> AdminClient:
    """A client for questions about topics. Raises ConfigurationError as `group_consumer`."""
    try:
        return AdminClient({"client.id": _CLIENT_ID, **_allowed(broker)}, logger=_LOGGER)
    except KafkaException as error:
        raise _refused(broker, error) from error


def is_without_consumer_protocol(error: KafkaError) -> bool:
    """Whether the broker says that it does not have the consumer protocol, or has it turned off."""
    # librdkafka hides the broker's code behind _FATAL; the request's name stands in the text.
    return error.code() == KafkaError._FATAL and "ConsumerGroupHeartbeat" in error.str()  # noqa: SLF001


def explained(error: KafkaError, what: str) -> LedgerError:
    """The same as an error of ours: ConfigurationError for what a person must set right, else UnavailableError."""
    message = f"{what}: {error.str()} ({error.name()})"
    return ConfigurationError(message) if error.code() in _CONFIGURATION_CODES else UnavailableError(message)


def _producer(broker: Mapping[str, str], more: Mapping[str, str]) -> Producer:
    options = {
        **_PRODUCER,
        **_allowed(broker),
        **more,
        "enable.idempotence": "true",
        "acks": "all",
        # As large as any topic may be set to take: how large a record may be is the topic's to say.
        "message.max.bytes": "67108864",
        "partitioner": "murmur2_random",
    }
    try:
        return Producer(options, logger=_LOGGER)
    except KafkaException as error:
        raise _refused(broker, error) from error


def _allowed(broker: Mapping[str, str]) -> dict[str, str]:
    for option in broker:
        if option in _OURS and option != "bootstrap.servers":
            instead = _OURS[option]
            raise ConfigurationError(
                f"the Kafka option {option} cannot be set: "
                + (f"use {instead}" if instead else "the ledger rests on it")
            )
    return dict(broker)


def _refused(broker: Mapping[str, str], error: KafkaException) -> ConfigurationError:
    text = error.args[0].str()
    for option, value in broker.items():
        if option != "bootstrap.servers" and len(value) > 1:
            text = text.replace(value, "...")
    return ConfigurationError(f"librdkafka refuses its options (LEDGER_KAFKA__*): {text}")
