from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.apply.ledger import Ledger
from tests.shared_cluster import Endpoints, drop_database, make_database

_WIDE_DAYS = 36_500


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """A ledger of this test's own, with nothing published; what is told of long ago by today's clock is not late."""
    made = Ledger(database_url)
    made.set_settlement_window(_WIDE_DAYS)
    yield made
    made.close()


@pytest.fixture
def other_database_url(migrated_template: str, cluster: Endpoints) -> Iterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    yield make_database(cluster, name, template=migrated_template)
    drop_database(cluster, name)


@pytest.fixture
def other_ledger(other_database_url: str) -> Iterator[Ledger]:
    """A second one, to compare with."""
    made = Ledger(other_database_url)
    made.set_settlement_window(_WIDE_DAYS)
    yield made
    made.close()
