"""One ledger that was told a few customers' lives from outside, and the programs that read what it tells.

Events and poison reach the input topics by kcat, and a worker as in service applies and publishes them. Nothing changes
afterwards, so that all tests read the same topics. Before anything else, each partition of the output topics got a
record in a transaction that was aborted, as a relay that was killed leaves them: no reader may take it for true.
"""

import re
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from ledger_worker.config import Settings
from ledger_worker.kafka import topics
from ledger_worker.kafka.topics import PlannedTopic
from tests.faults.system import Load, System
from tests.shared_cluster import Endpoints, drop_database, make_database
from tests.system import programs
from tests.system.lives import CUSTOMERS, KEYS, LANES, POISON, life, send
from tests.system.programs import JavaTools, Kcat, Seen

_DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "read-the-topics.md"
_SECONDS_MAX = 30.0


@pytest.fixture(scope="session")
def kcat(cluster: Endpoints) -> Kcat:
    """kcat; fails where it is not installed."""
    return programs.kcat(cluster.kafka_bootstrap)


@pytest.fixture(scope="session")
def java_tools(cluster: Endpoints) -> JavaTools:
    """Kafka's console tools; fails where they cannot be had."""
    return programs.java_tools(cluster.kafka_bootstrap)


@pytest.fixture(scope="session")
def decode(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], tuple[str, Mapping[str, Any]]]:
    """The function that the document gives to readers, made by running its script as it stands there."""
    (script,) = re.findall(r"^```python\n(.*?)^```$", _DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    file = tmp_path_factory.mktemp("documented") / "decode.py"
    file.write_text(script, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(_DOCUMENT.parents[2])  # the script looks for the folder `schemas`
        made: Callable[[bytes], tuple[str, Mapping[str, Any]]] = runpy.run_path(str(file))["decode"]
    return made


@pytest.fixture(scope="session")
def told(
    cluster: Endpoints, migrated_template: str, kcat: Kcat, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Everything that follows from the lives and the poison is published, and the worker has ended well."""
    with _ledger(cluster, migrated_template) as system:
        _abort(cluster, _output_topics(system.settings))
        events = [event for customer in CUSTOMERS for event in life(customer, datetime.now(UTC))]
        send(kcat, system.settings, events, tmp_path_factory.mktemp("sent") / "record")
        with system.worker() as worker:
            load = Load(events=tuple(events), repeated=(), poison=tuple(letter.value or b"" for letter in POISON))
            system.wait_until_finished(load, worker)
            worker.terminate()
            assert worker.wait(timeout=_SECONDS_MAX) == 0
        yield system.settings


@pytest.fixture(scope="session")
def seen_by_kcat(told: Settings, kcat: Kcat) -> Mapping[str, Sequence[Seen]]:
    """What kcat reads of each output topic when only committed records count."""
    return {topic: kcat.read(topic, "read_committed") for topic in _output_topics(told)}


@pytest.fixture(scope="session")
def java_partitions(cluster: Endpoints, java_tools: JavaTools, kcat: Kcat) -> Mapping[str, int]:
    """Where Java's producer puts each customer and some other keys, on a topic with as many partitions as lanes."""
    with _prefix(cluster) as prefix:
        keys = PlannedTopic(
            name=f"{prefix}keys", partitions=LANES, partitions_must_match=False, cleanup_policy="delete", config={}
        )
        topics.create(_admin(cluster), [keys])
        java_tools.send(keys.name, KEYS)
        seen = kcat.read(keys.name, "read_committed")
    return {record.key.decode(): record.partition for record in seen if record.key is not None}


@pytest.fixture
def idle(cluster: Endpoints, migrated_template: str) -> Iterator[System]:
    """A ledger of this test's own that was told nothing yet."""
    with _ledger(cluster, migrated_template) as system:
        yield system


@contextmanager
def _ledger(cluster: Endpoints, migrated_template: str) -> Iterator[System]:
    database = f"test_{uuid4().hex[:12]}"
    with _prefix(cluster) as prefix:
        system = System(cluster, make_database(cluster, database, template=migrated_template), prefix)
        try:
            yield system
        finally:
            system.ledger.dispose()
            drop_database(cluster, database)


@contextmanager
def _prefix(cluster: Endpoints) -> Iterator[str]:
    """What the names of topics begin with that are deleted after the block."""
    prefix = f"test-{uuid4().hex[:12]}."
    admin = _admin(cluster)
    try:
        yield prefix
    finally:
        made = [name for name in admin.list_topics(timeout=_SECONDS_MAX).topics if name.startswith(prefix)]
        if made:
            for deleted in admin.delete_topics(made).values():
                deleted.result(_SECONDS_MAX)


def _admin(cluster: Endpoints) -> AdminClient:
    return AdminClient({"bootstrap.servers": cluster.kafka_bootstrap})


def _output_topics(settings: Settings) -> tuple[str, str, str]:
    return settings.topic_changes, settings.topic_state, settings.topic_dead_letters


def _abort(cluster: Endpoints, names: Sequence[str]) -> None:
    """Each partition has a record that the brokers hold and that was never true."""
    producer = Producer({"bootstrap.servers": cluster.kafka_bootstrap, "transactional.id": f"aborts.{names[0]}"})
    producer.init_transactions(_SECONDS_MAX)
    producer.begin_transaction()
    for name in names:
        for partition in range(LANES):
            producer.produce(name, key=b"aborted", value=b"never true", partition=partition)
    assert producer.flush(_SECONDS_MAX) == 0
    producer.abort_transaction(_SECONDS_MAX)
