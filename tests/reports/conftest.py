from collections.abc import Iterator

import pytest

from tests.apply.ledger import Ledger


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """A ledger of this test's own, with nothing published and the settlement window as migrated."""
    made = Ledger(database_url)
    yield made
    made.close()
