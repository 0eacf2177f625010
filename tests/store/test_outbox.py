"""What waits is read whole: no row is passed over, and of each customer the first ones come first."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import pytest
from sqlalchemy import Connection, Engine, text

from ledger_worker.store import database, outbox
from ledger_worker.store.outgoing import (
    DEAD_LETTER_LANE,
    DeadLetterRow,
    OutgoingChange,
    append_changes,
    append_dead_letters,
)
from ledger_worker.wire.record import Record

_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Engine]:
    engine = database.engine(database_url)
    yield engine
    engine.dispose()


def _change(customer_id: str, sequence: int, *, lane: int = 0, timeline: int = 1) -> OutgoingChange:
    return OutgoingChange(
        lane=lane,
        customer_id=customer_id,
        timeline=timeline,
        sequence=sequence,
        change_id=uuid4(),
        payload=b"payload",
        traceparent=None,
        recorded_at=_AT,
    )


def _dead_letter(value: bytes | None) -> DeadLetterRow:
    return DeadLetterRow(
        dead_letter_id=uuid4(),
        record=Record(
            topic="t",
            partition=3,
            offset=9,
            timestamp=None,
            key=None,
            value=value,
            headers=(("a", b"\xff"), ("a", None)),
        ),
        topic_id="id",
        reason="undecodable",
        message="expected a record",
        customer_id=None,
        event_source=None,
        event_id=None,
        failed_at=_AT,
    )


def _read(conn: Connection, *, rows_max: int = 100) -> list[tuple[str, int]]:
    return [(row.customer_id, row.sequence) for row in outbox.read_changes(conn, 0, rows_max=rows_max)]


def test_changes_come_by_customer_and_sequence(ledger: Engine) -> None:
    with ledger.begin() as conn:
        append_changes(conn, [_change("b", 1), _change("a", 7), _change("b", 2), _change("a", 8), _change("é", 1)])
        append_changes(conn, [_change("other lane", 1, lane=1)])
        assert _read(conn) == [("a", 7), ("a", 8), ("b", 1), ("b", 2), ("é", 1)]


def test_wherever_the_limit_cuts_each_customer_has_its_first_ones(ledger: Engine) -> None:
    with ledger.begin() as conn:
        append_changes(conn, [_change("z", 1), _change("z", 2), _change("a", 1), _change("z", 3), _change("a", 2)])
        assert _read(conn, rows_max=4) == [("a", 1), ("z", 1), ("z", 2), ("z", 3)]


def test_a_later_timeline_comes_after_an_earlier_one(ledger: Engine) -> None:
    with ledger.begin() as conn:
        append_changes(conn, [_change("a", 9), _change("a", 8, timeline=2)])
        assert _read(conn) == [("a", 9), ("a", 8)]


def test_a_row_that_becomes_visible_late_is_not_passed_over(ledger: Engine) -> None:
    with ledger.connect() as slow, slow.begin():
        append_changes(slow, [_change("slow", 1)])
        with ledger.begin() as conn:
            append_changes(conn, [_change("quick", 1)])
        with ledger.begin() as conn:
            rows = outbox.read_changes(conn, 0, rows_max=100)
            outbox.delete(conn, [row.outbox_id for row in rows])
    with ledger.begin() as conn:
        assert [row.customer_id for row in rows] == ["quick"]
        assert _read(conn) == [("slow", 1)]


def test_deleting_rows_that_are_gone_is_no_error(ledger: Engine) -> None:
    with ledger.begin() as conn:
        append_changes(conn, [_change("a", 1), _change("a", 2)])
        first, _ = outbox.read_changes(conn, 0, rows_max=100)
        outbox.delete(conn, [first.outbox_id])
        outbox.delete(conn, [first.outbox_id, 4711])
        assert _read(conn) == [("a", 2)]


def test_dead_letters_come_with_their_own_bytes(ledger: Engine) -> None:
    row = _dead_letter(b"\x00\xff")
    with ledger.begin() as conn:
        append_dead_letters(conn, [row])
        (waits,) = outbox.read_dead_letters(conn, DEAD_LETTER_LANE, rows_max=10, bytes_max=1000)
    assert (waits.dead_letter_id, waits.value, waits.key) == (row.dead_letter_id, b"\x00\xff", None)
    assert waits.headers == (("a", b"\xff"), ("a", None))
    assert (waits.topic, waits.partition, waits.offset, waits.record_timestamp) == ("t", 3, 9, None)


def test_a_round_of_dead_letters_is_bounded_in_bytes_and_never_empty(ledger: Engine) -> None:
    with ledger.begin() as conn:
        append_dead_letters(conn, [_dead_letter(b"x" * 1000), _dead_letter(b"y" * 1000), _dead_letter(b"z" * 1000)])

        def read(bytes_max: int) -> list[bytes]:
            rows = outbox.read_dead_letters(conn, DEAD_LETTER_LANE, rows_max=10, bytes_max=bytes_max)
            return [(row.value or b"")[:1] for row in rows]

        assert (read(10), read(1500), read(10_000)) == ([b"x"], [b"x", b"y"], [b"x", b"y", b"z"])


def test_the_backlog_tells_rows_and_age_of_every_lane(ledger: Engine) -> None:
    with ledger.begin() as conn:
        old = msgspec.structs.replace(_change("a", 1, lane=2), recorded_at=datetime(2020, 1, 1, tzinfo=UTC))
        append_changes(conn, [old, _change("a", 2, lane=2)])
        found = {waits.lane: waits for waits in outbox.backlog(conn)}
    assert {lane: waits.rows for lane, waits in found.items()} == {-1: 0, 0: 0, 1: 0, 2: 2, 3: 0}
    assert found[2].oldest_seconds > 365 * 86_400
    assert found[0].oldest_seconds == 0


def test_a_round_reads_by_the_index_of_its_lane_however_long_the_outbox_is(ledger: Engine, database_url: str) -> None:
    with ledger.begin() as conn:
        append_changes(conn, [_change(f"c-{number}", 1, lane=number % 4) for number in range(20_000)])
    owner = database.engine(database_url, role=None)
    with owner.connect() as conn:
        conn.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE outbox"))
    owner.dispose()
    with ledger.begin() as conn:
        explained = conn.execute(
            text(f"EXPLAIN (FORMAT JSON) {outbox._READ_CHANGES.text}"),  # noqa: SLF001 - the statement itself is the subject
            {"lane": 0, "rows_max": 1000},
        ).scalar_one()
    plan = json.dumps(explained)
    assert '"outbox_lane"' in plan
    assert '"Seq Scan"' not in plan
