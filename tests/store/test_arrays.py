"""Array literals: what is written is what the server reads."""

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from ledger_worker.store.arrays import of_bytes, of_instants, of_integers, of_texts, of_uuids
from ledger_worker.store.database import engine
from tests.shared_cluster import Endpoints

_ECHO = text("""
SELECT CAST(:texts AS text[]), CAST(:integers AS bigint[]), CAST(:instants AS timestamptz[]), CAST(:uuids AS uuid[]),
       CAST(:bytes AS bytea[])
""")
_TEXTS = st.lists(st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8")))
_INTEGERS = st.lists(st.none() | st.integers(-(2**63), 2**63 - 1))
_INSTANTS = st.lists(st.none() | st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001


@pytest.fixture(scope="module")
def connection(cluster: Endpoints) -> Iterator[Connection]:
    """Any database will do: nothing is stored."""
    database = engine(cluster.database_url, role=None)
    with database.connect() as session:
        yield session
    database.dispose()


@given(_TEXTS, _INTEGERS, _INSTANTS, st.lists(st.none() | st.uuids()), st.lists(st.none() | st.binary()))
def test_every_value_comes_back_as_it_was(
    connection: Connection,
    texts: list[str | None],
    integers: list[int | None],
    instants: list[datetime | None],
    uuids: list[UUID | None],
    octets: list[bytes | None],
) -> None:
    row = connection.execute(
        _ECHO,
        {
            "texts": of_texts(texts),
            "integers": of_integers(integers),
            "instants": of_instants(instants),
            "uuids": of_uuids(uuids),
            "bytes": of_bytes(octets),
        },
    ).one()
    assert tuple(row) == (texts, integers, instants, uuids, octets)


def test_text_that_looks_like_a_literal_is_only_text(connection: Connection) -> None:
    texts = ["NULL", "{}", '","', "\\", '\\"', "a,b", "", " ", "'); DROP TABLE customer; --", "\N{SNOWMAN}\n\t"]
    row = connection.execute(text("SELECT CAST(:texts AS text[])"), {"texts": of_texts(texts)}).one()
    assert row[0] == texts
