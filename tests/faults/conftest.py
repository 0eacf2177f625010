"""A whole ledger for each fault test."""

from collections.abc import Iterator

import pytest

from tests.faults.system import System
from tests.shared_cluster import Endpoints


@pytest.fixture
def system(cluster: Endpoints, database_url: str, topic_prefix: str) -> Iterator[System]:
    """Topics, a database and a catalogue of this test's own; start workers on them."""
    made = System(cluster, database_url, topic_prefix)
    yield made
    made.ledger.dispose()
