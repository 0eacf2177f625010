"""Usage from beyond the settlement window goes by its policy, once and for good; everything else stays as it was.

Lives and worlds of random facts are told with windows so narrow that much of their usage is late, by all policies, and
hold what other lives hold: the second opinion agrees after every event, and no split into batches shows.
"""

from datetime import datetime, timedelta
from random import Random

import msgspec
import pytest

from ledger_worker.domain.catalogue import Catalogue, LateUsage
from ledger_worker.domain.ledger import Kind
from ledger_worker.domain.outcomes import Outcome
from tests.domain.agreement import assert_all
from tests.domain.campaign import hold
from tests.domain.driver import Life, World
from tests.domain.histories import AFTER_ALL, TICK, History, history_of, world_of
from tests.domain.telling import (
    MICROSECOND,
    bought,
    catalogue,
    day,
    gives,
    offer,
    quota,
    told,
    usage_reversed,
    used,
)
from tests.domain.test_worlds import bytes_of

LIVED = 150
CAMPAIGN, PARTS = 20_000, 2
WINDOWS = (TICK / 2, TICK, 4 * TICK, 5 * TICK, 12 * TICK)
LATE = {
    LateUsage.COUNT_NOW: Outcome.COUNTED_LATE,
    LateUsage.OVERAGE: Outcome.OVERAGE_LATE,
    LateUsage.IGNORE_AND_TELL: Outcome.IGNORED_LATE,
}


@pytest.mark.parametrize("with_others", [False, True], ids=["lives", "worlds"])
@pytest.mark.parametrize("number", range(LIVED))
def test_whatever_is_late_the_oracle_agrees_and_no_split_shows(number: int, *, with_others: bool) -> None:
    hold_every_claim(2 * (750_000 + number) + with_others)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_twenty_thousand_lives_of_late_usage_hold_every_claim(part: int) -> None:
    hold(hold_every_claim, part, PARTS, CAMPAIGN)


def hold_every_claim(number: int) -> None:
    """The life (even) or world (odd) of that number, told with a narrow window, holds what is claimed here."""
    chance = Random(number)
    history = with_policies(world_of(number) if number % 2 else history_of(number), chance)
    window = chance.choice(WINDOWS)
    one_by_one = World(history.catalogue, window)
    for one_told in history.told:
        one_by_one.tell(one_told)
        assert_all(one_by_one)
    for events_max in (2 + number % 5, len(history.told)):
        in_batches = World(history.catalogue, window)
        for first in range(0, len(history.told), events_max):
            in_batches.tell(*history.told[first : first + events_max])
        assert bytes_of(in_batches) == bytes_of(one_by_one), f"batches of {events_max}"
    for customer_id in tuple(one_by_one.customers):
        one_by_one.catch_up(AFTER_ALL, customer_id)
    assert_all(one_by_one)


def with_policies(history: History, chance: Random) -> History:
    """The same history where each entitlement has one of the policies."""
    entitlements = {
        key: msgspec.structs.replace(one, late_usage=chance.choice(tuple(LateUsage)))
        for key, one in history.catalogue.entitlements.items()
    }
    return History(msgspec.structs.replace(history.catalogue, entitlements=entitlements), history.told)


def test_random_lives_have_late_usage_of_every_policy_and_reversals_of_it() -> None:
    found = set()
    for number in range(2 * 750_000, 2 * 750_000 + 60, 2):
        chance = Random(number)
        history = with_policies(history_of(number), chance)
        life = World(history.catalogue, chance.choice(WINDOWS))
        life.tell(*history.told)
        found |= {one.outcome for one in life.inbox.values()}

    assert set(LATE.values()) <= found


@pytest.mark.parametrize("policy", LateUsage)
@pytest.mark.parametrize(("older_by", "is_late"), [(timedelta(), False), (MICROSECOND, True)])
def test_the_window_includes_its_border(policy: LateUsage, older_by: timedelta, *, is_late: bool) -> None:
    life = Life(packs(policy))
    event = told("u", day(5) - older_by, used(4))

    assert life.outcome_of(event, day(40)) is (LATE[policy] if is_late else Outcome.APPLIED)


def test_how_late_usage_is_goes_by_the_instant_it_is_recorded_at() -> None:
    """Events of one customer are recorded a microsecond apart; the second of one instant is late by that."""
    life = Life(packs(LateUsage.OVERAGE))
    life.tell((told("u1", day(5), used(4)), day(40)), (told("u2", day(5), used(4)), day(40)))

    assert [one.outcome for one in life.inbox.values()] == [Outcome.APPLIED, Outcome.OVERAGE_LATE]


@pytest.mark.parametrize("policy", LateUsage)
def test_what_was_decided_of_usage_stays_whatever_the_window_and_the_policy_are_later(policy: LateUsage) -> None:
    life = Life(packs(policy))
    life.tell((told("bought", day(1), bought()), day(1)))
    life.tell((told("u", day(5), used(4)), day(50)))
    shown = life.picture("api", day(60))

    life.settlement_window = timedelta(days=300)
    life.catalogue = packs(next(each for each in LateUsage if each is not policy))
    life.tell((told("none", day(60), used(1)), day(60)), (told("back", day(61), usage_reversed("none")), day(61)))

    after = life.picture("api", day(61))
    assert (after.used, after.overage) == (shown.used, shown.overage)
    assert [one.outcome for one in life.inbox.values()][1] is LATE[policy]


def test_ignored_usage_happens_nowhere_also_at_the_instant_of_a_day_state() -> None:
    life = Life(packs(LateUsage.IGNORE_AND_TELL))
    life.tell((told("bought", day(1), bought()), day(1)), (told("u1", day(2), used(2)), day(2)))
    life.tell((told("u3", day(3), used(2)), day(3)))
    kept = life.customers["ada"].states["api"]
    assert [state.at for state in kept] == [day(2)]

    life.tell((told("u2", day(2), used(4)), day(60)))

    assert life.customers["ada"].states["api"] == kept
    assert_all(life)


def test_ignored_usage_books_nothing_and_asks_for_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(packs(LateUsage.IGNORE_AND_TELL))
    life.tell((told("bought", day(1), bought()), day(1)), (told("u1", day(49), used(2)), day(49)))
    postings = list(life.postings)
    monkeypatch.setattr(Life, "history", lambda *_: pytest.fail("the history was asked for"))

    life.tell((told("u2", day(5), used(4)), day(50)))

    assert life.postings == postings
    assert life.inbox.popitem()[1].counted_at == day(5)


def test_late_overage_is_a_line_of_its_own_instant_though_units_are_left() -> None:
    life = Life(packs(LateUsage.OVERAGE))
    life.tell((told("bought", day(1), bought()), day(1)), (told("u1", day(49), used(2)), day(49)))

    life.tell((told("u2", day(5), used(4)), day(50)))

    (line,) = [entry.line for entry in life.postings[-1].entries]
    assert (line.kind, line.at, line.units) == (Kind.OVERAGE, day(5), 4)


def test_late_usage_that_counts_now_takes_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(packs(LateUsage.COUNT_NOW))
    life.tell((told("bought", day(1), bought()), day(1)), (told("u1", day(49), used(2)), day(49)))
    monkeypatch.setattr(Life, "history", lambda *_: pytest.fail("the history was asked for"))

    life.tell((told("u2", day(5), used(4)), day(50)))

    assert lines_of(life) == [(Kind.GRANTED, day(1), 10), (Kind.BURN, day(49), 2), (Kind.BURN, day(50), 4)]


def lines_of(life: Life) -> list[tuple[Kind, datetime, int]]:
    lines = [entry.line for posting in life.postings for entry in posting.entries]
    return [(line.kind, line.at, line.units) for line in lines]


def packs(policy: LateUsage) -> Catalogue:
    return catalogue(quota(late_usage=policy), offer("pack", gives(10, lasts="forever")))
