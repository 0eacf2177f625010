"""A change that waits to be published says what its posting told."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import msgspec
import psycopg
import pytest
from sqlalchemy import Engine

from ledger_worker.domain.changes import Change
from ledger_worker.operations.verify import Check
from ledger_worker.wire.decode import decode_change
from ledger_worker.wire.encode import encode_change
from tests.operations.test_verify import (
    NOON,
    OFFERS,
    PERIOD,
    TOLD,
    prepare,
    tamper,
    tell,
    usage,
    verdict,
)


@pytest.fixture
def ledger(engine: Engine) -> Engine:
    """The facts of TOLD, applied at once: ada was last told of at her last posting, bob before his last usage."""
    prepare(engine, OFFERS)
    tell(engine, TOLD, 0)
    return engine


def rewrite(database_url: str, customer_id: str, sequence: int, change: Callable[[Change], Change]) -> None:
    """The payload of a change that waits says something else."""
    key = (customer_id, sequence)
    with psycopg.connect(database_url) as session:
        row = session.execute("SELECT payload FROM outbox WHERE customer_id = %s AND sequence = %s", key).fetchone()
        assert row is not None
        before = decode_change(row[0])
        after = change(before)
        assert after != before, "nothing is changed"
        session.execute(
            "UPDATE outbox SET payload = %s WHERE customer_id = %s AND sequence = %s", (encode_change(after), *key)
        )


def require_found(engine: Engine, customer_id: str, sequence: int, message: str) -> None:
    [found] = verdict(engine).findings
    assert (found.check, found.customer_id, found.row) == (Check.OUTBOX, customer_id, f"change {sequence}"), found
    assert message in found.message


REWRITTEN: dict[str, tuple[Callable[[Change], Change], str]] = {
    "its entitlement": (lambda told: msgspec.structs.replace(told, entitlement="video"), "its pictures are of"),
    "its kinds": (lambda told: msgspec.structs.replace(told, kinds=("level",)), "kinds is level, expected"),
    "no kinds": (lambda told: msgspec.structs.replace(told, kinds=()), "kinds is none, expected"),
    "a kind more": (
        lambda told: msgspec.structs.replace(told, kinds=(*told.kinds, "merged")),
        "merged, expected",
    ),
    "its posting": (lambda told: msgspec.structs.replace(told, posting=told.posting + 1), "posting_hash is"),
    "the hash of its posting": (
        lambda told: msgspec.structs.replace(told, posting_hash=bytes(32)),
        "posting_hash is 0000",
    ),
    "its id": (lambda told: msgspec.structs.replace(told, change_id=UUID(int=1)), "change_id is"),
    "when it was recorded": (
        lambda told: msgspec.structs.replace(told, recorded_at=told.recorded_at + timedelta(seconds=1)),
        "recorded_at is",
    ),
    "since when it counts": (
        lambda told: msgspec.structs.replace(told, effective_at=told.effective_at - timedelta(days=1)),
        "effective_at is",
    ),
    "whether it corrects": (
        lambda told: msgspec.structs.replace(told, correction=not told.correction),
        "correction is",
    ),
    "the id of its cause": (
        lambda told: msgspec.structs.replace(told, cause=msgspec.structs.replace(told.cause, event_id="other")),
        "cause's event_id is other, expected bought",
    ),
    "the type of its cause": (
        lambda told: msgspec.structs.replace(told, cause=msgspec.structs.replace(told.cause, type="UsageRecorded")),
        "cause's type is UsageRecorded, expected PurchaseCompleted",
    ),
    "the instant of its cause": (
        lambda told: msgspec.structs.replace(
            told, cause=msgspec.structs.replace(told.cause, occurred_at=NOON - PERIOD)
        ),
        "cause's occurred_at is",
    ),
    "what it shows": (
        lambda told: msgspec.structs.replace(told, after=msgspec.structs.replace(told.after, allowed=False)),
        "kinds is",
    ),
}


@pytest.mark.parametrize(("change", "message"), REWRITTEN.values(), ids=REWRITTEN)
def test_a_change_that_says_something_else_is_named(
    database_url: str, ledger: Engine, change: Callable[[Change], Change], message: str
) -> None:
    rewrite(database_url, "ada", 1, change)

    [*found] = verdict(ledger).findings
    assert {(one.check, one.customer_id, one.row) for one in found} == {(Check.OUTBOX, "ada", "change 1")}, found
    assert any(message in one.message for one in found), found


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE outbox SET ce_type = 'CustomerState' WHERE customer_id = 'ada' AND sequence = 1", "ce_type is"),
        ("UPDATE outbox SET recorded_at = now() WHERE customer_id = 'ada' AND sequence = 1", "recorded_at is"),
        ("UPDATE outbox SET payload = '\\x00' WHERE customer_id = 'ada' AND sequence = 1", "cannot be read"),
    ],
    ids=["type", "instant", "payload"],
)
def test_a_row_that_is_not_as_its_change_says_is_named(
    database_url: str, ledger: Engine, statement: str, message: str
) -> None:
    tamper(database_url, statement)

    require_found(ledger, "ada", 1, message)


def test_what_the_last_change_shows_is_proven_where_the_customer_still_stands_there(
    database_url: str, ledger: Engine
) -> None:
    with ledger.connect() as connection:
        last = connection.exec_driver_sql("SELECT sequence FROM customer WHERE customer_id = 'ada'").scalar_one()
    rewrite(
        database_url,
        "ada",
        last,
        lambda told: msgspec.structs.replace(told, after=msgspec.structs.replace(told.after, forgiven=5)),
    )

    require_found(ledger, "ada", last, "it shows after: forgiven is 5, expected 0")


def test_what_a_change_shows_is_not_asked_once_the_customer_has_gone_on(ledger: Engine) -> None:
    """Usage that nothing is told of leaves less than the last change shows."""
    tell(ledger, [usage("bob", "used-on", 31, 1)], len(TOLD), [NOON + timedelta(hours=2)])

    assert verdict(ledger).is_clean


def test_of_whom_a_merge_is_told_is_proven(database_url: str, merged: Engine) -> None:
    with merged.connect() as connection:
        rows = connection.exec_driver_sql("SELECT customer_id, sequence, payload FROM outbox ORDER BY 1, 2").all()
    [customer_id, sequence] = next((row[0], row[1]) for row in rows if "merged" in decode_change(row[2]).kinds)

    rewrite(
        database_url,
        customer_id,
        sequence,
        lambda told: msgspec.structs.replace(told, kinds=tuple(kind for kind in told.kinds if kind != "merged")),
    )

    require_found(merged, customer_id, sequence, "merged")
