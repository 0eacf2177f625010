from collections.abc import Iterator

import pytest

from ledger_worker.config import Settings
from tests.shared_cluster import Endpoints
from tests.worker.running import Place


@pytest.fixture
def place(cluster: Endpoints, topic_prefix: str, database_url: str) -> Iterator[Place]:
    settings = Settings(
        database_url=database_url,
        kafka_bootstrap=cluster.kafka_bootstrap,
        consumer_group=f"{topic_prefix}group",
        lock_timeout_seconds=0.2,
        topic_purchases=f"{topic_prefix}purchases",
        topic_subscriptions=f"{topic_prefix}subscriptions",
        topic_usage=f"{topic_prefix}usage",
        topic_changes=f"{topic_prefix}changes",
        topic_state=f"{topic_prefix}state",
        topic_dead_letters=f"{topic_prefix}dead-letters",
    )
    made = Place(settings)
    yield made
    made.close()
