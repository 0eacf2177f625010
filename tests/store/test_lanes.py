"""Lanes are leased by the database's clock, and every relay can tell its own share."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from ledger_worker.store import database, lanes
from ledger_worker.store.lanes import Lease

_MINUTE = 60.0
_OVER = 0.0


@pytest.fixture
def ledger(database_url: str) -> Iterator[Engine]:
    """Five lanes: four and that of dead letters."""
    engine = database.engine(database_url, connections_max=10)
    yield engine
    engine.dispose()


def _take(engine: Engine, owner: str, lanes_max: int, lease_seconds: float = _MINUTE) -> list[Lease]:
    with engine.begin() as conn:
        return list(lanes.take(conn, owner, lanes_max=lanes_max, lease_seconds=lease_seconds))


def _renew(engine: Engine, lease: Lease) -> bool:
    with engine.begin() as conn:
        return lanes.renew(conn, lease, lease_seconds=_MINUTE)


def _announce(engine: Engine, owner: str, lease_seconds: float = _MINUTE) -> None:
    with engine.begin() as conn:
        lanes.announce(conn, owner, lease_seconds=lease_seconds)


def _share(engine: Engine, owner: str) -> int:
    with engine.begin() as conn:
        return lanes.fair_share(conn, owner)


def test_a_lane_is_taken_once(ledger: Engine) -> None:
    assert [lease.lane for lease in _take(ledger, "a", 3)] == [-1, 0, 1]
    assert [lease.lane for lease in _take(ledger, "b", 3)] == [2, 3]
    assert _take(ledger, "b", 3) == []


def test_relays_that_take_at_once_share_no_lane(ledger: Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda number: _take(ledger, f"relay-{number}", 2), range(8)))
    held = [lease.lane for leases in taken for lease in leases]
    assert len(held) == len(set(held))
    assert set(held) | {lease.lane for lease in _take(ledger, "last", 5)} == {-1, 0, 1, 2, 3}


def test_a_lane_whose_lease_ran_out_is_taken_and_the_former_owner_learns_it(ledger: Engine) -> None:
    (frozen,) = _take(ledger, "a", 1, _OVER)
    (taken,) = _take(ledger, "b", 1)
    assert (taken.lane, taken.owner_epoch) == (frozen.lane, frozen.owner_epoch + 1)
    assert not _renew(ledger, frozen)
    assert _renew(ledger, taken)


def test_a_lease_that_ran_out_unnoticed_is_renewed(ledger: Engine) -> None:
    (late,) = _take(ledger, "a", 1, _OVER)
    assert _renew(ledger, late)
    assert late.lane not in [lease.lane for lease in _take(ledger, "b", 5)]


def test_a_lease_of_the_same_owner_is_told_from_its_former_one(ledger: Engine) -> None:
    (former,) = _take(ledger, "a", 1, _OVER)
    (present,) = _take(ledger, "a", 1)
    assert (_renew(ledger, former), _renew(ledger, present)) == (False, True)


def test_a_lane_given_back_is_free_at_once(ledger: Engine) -> None:
    (lease,) = _take(ledger, "a", 1)
    with ledger.begin() as conn:
        lanes.release(conn, lease)
    assert [lease.lane for lease in _take(ledger, "b", 1)] == [lease.lane]


def test_giving_back_what_another_has_taken_changes_nothing(ledger: Engine) -> None:
    (lost,) = _take(ledger, "a", 1, _OVER)
    (taken,) = _take(ledger, "b", 1)
    with ledger.begin() as conn:
        lanes.release(conn, lost)
    assert _renew(ledger, taken)


@pytest.mark.parametrize(
    ("relays", "shares"),
    [(1, [5]), (2, [3, 2]), (3, [2, 2, 1]), (5, [1, 1, 1, 1, 1]), (7, [1, 1, 1, 1, 1, 0, 0])],
)
def test_the_shares_of_all_relays_alive_add_up_to_the_lanes(ledger: Engine, relays: int, shares: list[int]) -> None:
    owners = [f"relay-{number}" for number in range(relays)]
    for owner in owners:
        _announce(ledger, owner)
    assert [_share(ledger, owner) for owner in owners] == shares


def test_a_relay_that_has_gone_silent_counts_no_more(ledger: Engine) -> None:
    _announce(ledger, "frozen", _OVER)
    _announce(ledger, "alive")
    assert (_share(ledger, "alive"), _share(ledger, "frozen")) == (5, 0)
    with ledger.connect() as conn:
        assert conn.execute(text("SELECT owner FROM relay")).scalars().all() == ["alive"]


def test_a_relay_that_withdraws_leaves_its_share_to_the_others(ledger: Engine) -> None:
    _announce(ledger, "a")
    _announce(ledger, "b")
    with ledger.begin() as conn:
        lanes.withdraw(conn, "a")
    assert (_share(ledger, "a"), _share(ledger, "b")) == (0, 5)
