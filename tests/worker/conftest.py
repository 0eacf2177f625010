from collections.abc import Iterator

import msgspec
import pytest

from tests.own_settings import settings_of
from tests.shared_cluster import Endpoints
from tests.worker.running import Place


@pytest.fixture
def place(cluster: Endpoints, topic_prefix: str, database_url: str) -> Iterator[Place]:
    """Nothing is made in Kafka yet, and a lock that is not had is soon given up."""
    settings = settings_of(database_url, cluster.kafka_bootstrap, topic_prefix)
    settings = msgspec.structs.replace(settings, lock_timeout_seconds=0.2)
    made = Place(settings)
    yield made
    made.close()
