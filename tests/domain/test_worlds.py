"""Worlds of several customers, whose sources go from hand to hand and who are merged.

After every event all that `assert_all` claims holds, and no split of the same events into batches shows in a byte.
"""

from collections.abc import Sequence

import pytest

from tests.domain.agreement import assert_all
from tests.domain.campaign import hold
from tests.domain.driver import World, without_states
from tests.domain.histories import AFTER_ALL, History, world_of

LIVED, SPLIT = 60, 60
"""Worlds of each kind."""
CAMPAIGN, PARTS = 20_000, 2


@pytest.mark.parametrize("with_merges", [False, True], ids=["transfers", "merges"])
@pytest.mark.parametrize("number", range(LIVED))
def test_after_every_event_units_are_conserved_and_the_oracle_agrees(number: int, *, with_merges: bool) -> None:
    live(world_of(730_000 + number, with_merges=with_merges))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_twenty_thousand_worlds_hold_every_claim(part: int) -> None:
    hold(hold_every_claim, part, PARTS, CAMPAIGN)


def hold_every_claim(number: int) -> None:
    """The world of that number, every other one with merges, holds what the properties here claim."""
    history = world_of(number, with_merges=number % 2 == 0)
    live(history)
    events_max = 2 + number % 5
    assert bytes_of(told_in_batches(history, events_max)) == bytes_of(told_in_batches(history, 1))


def live(history: History) -> None:
    """The history told one by one, every claim checked after each event, up to its last end."""
    world = World(history.catalogue)
    for one_told in history.told:
        world.tell(one_told)
        assert_all(world)
    for customer_id in tuple(world.customers):
        world.catch_up(AFTER_ALL, customer_id)
    assert_all(world)


@pytest.mark.parametrize("with_merges", [False, True], ids=["transfers", "merges"])
@pytest.mark.parametrize("number", range(SPLIT))
def test_no_split_into_batches_shows(number: int, *, with_merges: bool) -> None:
    history = world_of(740_000 + number, with_merges=with_merges)
    one_by_one = bytes_of(told_in_batches(history, 1))

    for events_max in (2, 3, 4, len(history.told)):
        assert bytes_of(told_in_batches(history, events_max)) == one_by_one, f"batches of {events_max}"


def told_in_batches(history: History, events_max: int) -> World:
    """The world when it was told in batches of so many events."""
    world = World(history.catalogue)
    for first in range(0, len(history.told), events_max):
        world.tell(*history.told[first : first + events_max])
    return world


def bytes_of(world: World) -> Sequence[object]:
    """All that is stored: of each customer, of the sources, of the inbox."""
    return (
        {
            customer_id: (
                one.head,
                {key: without_states(account) for key, account in one.accounts.items()},
                one.grants,
                one.postings,
                one.changes,
            )
            for customer_id, one in world.customers.items()
        },
        world.sources,
        world.claimants,
        [(place, one.outcome, one.recorded_at, one.counted_at) for place, one in world.inbox.items()],
    )
