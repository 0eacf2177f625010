"""Day states: late facts settle from them to the same bytes, and verify names each one that was changed."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec
import psycopg
import pytest
from sqlalchemy import Engine

from ledger_worker.domain.events import PurchaseCompleted, PurchaseLine, PurchaseRefunded, UsageReversed
from ledger_worker.domain.ledger import DayState
from ledger_worker.operations.verify import Check
from tests.operations.test_verify import NOON, OFFERS, event, prepare, tamper, tell, usage, verdict

_DAY = 24 * 60
_LIFE = (
    event(
        "ada",
        "bought",
        0,
        PurchaseCompleted(order_id="o1", lines=(PurchaseLine(line_id="1", sku="CREDITS", quantity=4),)),
    ),
    *(usage("ada", f"used-{day}-{number}", day * _DAY + number, 3) for day in range(5) for number in (1, 2)),
)
_AFTERWARDS = NOON + timedelta(days=6)
_LATE = {
    "usage of the last day": usage("ada", "late", 4 * _DAY, 2),
    "usage of a day between": usage("ada", "late", 2 * _DAY, 2),
    "usage before all": usage("ada", "late", -1, 2),
    "a purchase of a day between": event(
        "ada",
        "again",
        2 * _DAY,
        PurchaseCompleted(order_id="o2", lines=(PurchaseLine(line_id="1", sku="CREDITS", quantity=1),)),
    ),
    "a refund that un-covers": event("ada", "back", 3 * _DAY, PurchaseRefunded(order_id="o1", refund_id="r1")),
    "usage taken back": event(
        "ada",
        "not-so",
        5 * _DAY,
        UsageReversed(entitlement="api", reversal_id="v1", usage_event_id="used-3-1", units=None),
    ),
}


@pytest.fixture
def stated(engine: Engine) -> Engine:
    """Six units a day for five days, of forty that were bought: a state at the end of each day but the last."""
    prepare(engine, OFFERS)
    for offset, told in enumerate(_LIFE):
        tell(engine, [told], offset, [told.occurred_at + timedelta(seconds=1)])
    return engine


def test_a_state_is_kept_when_a_day_has_ended(stated: Engine) -> None:
    assert _states(stated) == [NOON + timedelta(days=day, minutes=2) for day in range(4)]

    found = verdict(stated)

    assert found.findings == ()
    assert {result.check: result.looked_at for result in found.checks}[Check.DAY_STATE] == 4


@pytest.mark.parametrize("name", _LATE)
def test_late_facts_come_to_the_same_with_states_as_without(database_url: str, stated: Engine, name: str) -> None:
    late = _LATE[name]
    tell(stated, [late], len(_LIFE), [_AFTERWARDS])
    with_states = _booked(stated)
    assert verdict(stated).findings == ()

    with psycopg.connect(database_url) as session:
        session.execute("DELETE FROM day_state")
    again = usage("ada", "again-late", -2, 1)
    tell(stated, [again], len(_LIFE) + 1, [_AFTERWARDS + timedelta(minutes=1)])

    # Usage before everything settles from nothing, and had the states been wrong, would correct more than itself.
    corrected = [line for line in _booked(stated) if line not in with_states]
    assert corrected == [("overage", NOON - timedelta(minutes=2), 1)]
    assert verdict(stated).findings == ()


def test_states_from_what_is_touched_on_are_dropped_and_made_again(stated: Engine) -> None:
    before = _states(stated)

    tell(stated, [usage("ada", "late", 2 * _DAY, 50)], len(_LIFE), [_AFTERWARDS])

    assert _states(stated) == before
    assert _used(stated) == [6, 12, 68, 74]
    assert verdict(stated).findings == ()


def _account(state: DayState, **changed: object) -> DayState:
    return msgspec.structs.replace(state, account=msgspec.structs.replace(state.account, **changed))


def _grant(state: DayState, **changed: object) -> DayState:
    return msgspec.structs.replace(state, grants=(msgspec.structs.replace(state.grants[0], **changed),))


_CHANGES: dict[str, Callable[[DayState], DayState]] = {
    "what was used": lambda state: _account(state, usage=state.account.usage + 1),
    "what was over": lambda state: _account(state, overage=7),
    "how far it was settled": lambda state: _account(state, settled_at=state.at - timedelta(seconds=1)),
    "after which of one instant": lambda state: _account(state, settled_tie="8"),
    "what a grant had": lambda state: _grant(state, available=state.grants[0].available + 1),
    "what was used of a grant": lambda state: _grant(state, used=0),
    "a grant is gone": lambda state: msgspec.structs.replace(state, grants=()),
    "its instant": lambda state: msgspec.structs.replace(state, at=state.at + timedelta(seconds=1)),
    "what was booked by then": lambda state: msgspec.structs.replace(state, posting=state.posting + 1),
}


@pytest.mark.parametrize("name", _CHANGES)
def test_a_state_that_was_changed_is_named(database_url: str, stated: Engine, name: str) -> None:
    at = _states(stated)[2]
    with psycopg.connect(database_url) as session:
        (stored,) = session.execute("SELECT state FROM day_state WHERE at = %s", [at]).fetchone() or (b"",)
        changed = _CHANGES[name](msgspec.msgpack.decode(stored, type=DayState))
        session.execute("UPDATE day_state SET state = %s WHERE at = %s", [msgspec.msgpack.encode(changed), at])

    first = verdict(stated).first

    assert first is not None
    assert (first.check, first.customer_id, first.row) == (Check.DAY_STATE, "ada", f"day state api {at.isoformat()}")


_ROWS = {
    "what was booked by then, row and all": "UPDATE day_state SET posting = posting + 3",
    "its instant": "UPDATE day_state SET at = at + interval '1 second'",
    "of what it is": "UPDATE day_state SET entitlement = 'video'",
    "its bytes": "UPDATE day_state SET state = '\\x00'",
    "until when there are any": "UPDATE account SET stated_until = stated_until - interval '1 second'",
}


@pytest.mark.parametrize("name", _ROWS)
def test_a_row_that_was_changed_is_found(database_url: str, stated: Engine, name: str) -> None:
    tamper(database_url, _ROWS[name])

    first = verdict(stated).first

    assert first is not None
    assert (first.check, first.customer_id) == (Check.DAY_STATE, "ada")


def test_a_posting_that_hides_what_came_after_is_named(database_url: str, stated: Engine) -> None:
    with psycopg.connect(database_url) as session:
        for at, stored in session.execute("SELECT at, state FROM day_state").fetchall():
            state = msgspec.msgpack.decode(stored, type=DayState)
            further = msgspec.structs.replace(state, posting=state.posting + 1)
            session.execute(
                "UPDATE day_state SET posting = posting + 1, state = %s WHERE at = %s",
                [msgspec.msgpack.encode(further), at],
            )

    assert verdict(stated).first is not None
    assert {finding.check for finding in verdict(stated).findings} == {Check.DAY_STATE}


def _states(engine: Engine) -> list[datetime]:
    with engine.connect() as connection:
        return [row[0] for row in connection.exec_driver_sql("SELECT at FROM day_state ORDER BY at")]


def _used(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        states = connection.exec_driver_sql("SELECT state FROM day_state ORDER BY at")
        return [msgspec.msgpack.decode(row[0], type=DayState).account.usage for row in states]


def _booked(engine: Engine) -> Sequence[tuple[str, datetime, int]]:
    """The lines about usage, summed: kind, instant and units."""
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT kind, at, sum(units) FROM entry WHERE kind <> 'granted' "
            "GROUP BY 1, 2 HAVING sum(units) <> 0 ORDER BY 2, 1"
        )
        return [(kind, at, int(units)) for kind, at, units in rows]
