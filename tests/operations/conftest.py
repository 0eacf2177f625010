from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from ledger_worker.store.database import engine as new_engine


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = new_engine(database_url)
    yield made
    made.dispose()
