"""A batch that takes longer than a session may would do so again and again: it gets smaller until it does not."""

from collections.abc import Callable
from time import sleep

import pytest
from sqlalchemy import Connection, text

from ledger_worker.apply.batch import Batch
from tests.worker.running import Place, Recorder, running


def _too_long_for_a_statement(conn: Connection, batch: Batch) -> None:
    conn.execute(text("SET LOCAL statement_timeout = 200"))
    conn.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": 0.08 * len(batch.deliveries)})


def _too_long_between_statements(conn: Connection, batch: Batch) -> None:
    conn.execute(text("SET LOCAL idle_in_transaction_session_timeout = 200"))
    sleep(0.08 * len(batch.deliveries))
    conn.execute(text("SELECT"))


@pytest.mark.parametrize("too_long", [_too_long_for_a_statement, _too_long_between_statements])
def test_a_batch_that_is_too_long_for_a_timeout_is_applied_in_shorter_ones(
    place: Place, too_long: Callable[[Connection, Batch], None]
) -> None:
    sent = [f"e{number}" for number in range(9)]
    place.make_topics()
    place.send(*sent)
    recorder = Recorder(place.engine, before_commit=too_long)

    with running(place, recorder) as run:
        applied = recorder.events(9)

        assert run.metric("ledger_consumer_is_paused") == 0

    assert applied == sent
    assert recorder.is_idle()
    assert place.position().next_offset == 9
