"""A database of the test's own, and the ledgers that several files of tests begin with."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from ledger_worker.store.database import engine as new_engine
from tests.operations.test_verify import MERGED_TOLD, TIED_OFFERS, TIED_TOLD, prepare, tell_each


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = new_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def tied(engine: Engine) -> Engine:
    """The facts of TIED_TOLD, each applied by itself."""
    prepare(engine, TIED_OFFERS)
    tell_each(engine, TIED_TOLD)
    return engine


@pytest.fixture
def merged(engine: Engine) -> Engine:
    """The facts of MERGED_TOLD, each applied by itself."""
    prepare(engine, TIED_OFFERS)
    tell_each(engine, MERGED_TOLD)
    return engine
