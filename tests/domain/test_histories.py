"""Properties of any history.

Order, repetition and batches do not show, units are conserved, and a second opinion agrees.

The same claims are checked on some thousand histories from Hypothesis, which shrinks what fails, and in `make test-
long` on a hundred thousand from a printed seed, where a failure names the seed of the one history that shows it.
"""

from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger_worker.domain.ledger import Phase
from tests.domain.agreement import assert_all, assert_as_the_oracle_says, coverage, told_fields
from tests.domain.campaign import hold
from tests.domain.driver import Life, without_states
from tests.domain.histories import AFTER_ALL, START, TICK, History, histories, history_of

EXAMPLES = settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
CAMPAIGN, PARTS = 100_000, 8
FOUND = {
    2026112516728: "a grant that begins at the very instant of a day state, told later",
    2026112521459: "of grants without an end, what rolled over burns before its elders",
    2026112521713: "units that came back, were used again and came back once more",
    2026112524030: "of grants without an end, what rolled over burns before its elders",
    2026112587088: "an item that joined a period which is extended, and has a later one of its own",
    2026112604659: "a share of a time of which a dispute stopped all",
    2026112549487: "only the version of an offer differs, of which a child by regrant is too",
}
"""Histories that broke a claim once, and what they have that others do not."""


@EXAMPLES
@given(histories())
def test_after_every_step_units_are_conserved_and_the_oracle_agrees(history: History) -> None:
    live(history)


@EXAMPLES
@given(histories(), st.integers(0, 60))
def test_a_read_ahead_of_the_books_shows_what_will_be(history: History, ticks: int) -> None:
    life = Life(history.catalogue)
    life.tell(*history.told)
    at = (life.head.recorded_at or START) + ticks * TICK

    assert_as_the_oracle_says(life, at)
    ahead = life.pictures(at)
    life.catch_up(at)

    assert life.pictures(at) == ahead


@EXAMPLES
@given(histories(), st.data())
def test_any_order_and_repetition_ends_in_the_same(history: History, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(history.told))))
    again = data.draw(st.lists(st.sampled_from(order), max_size=3))

    assert ends_alike(history, [*order, *again], lived_out(history))


@EXAMPLES
@given(histories(), st.sets(st.integers(1, 20)))
def test_a_batch_may_be_split_anywhere(history: History, cuts: set[int]) -> None:
    assert splits_alike(history, sorted(cuts))


@EXAMPLES
@given(histories(), st.lists(st.integers(0, 60), max_size=5))
def test_what_is_due_may_be_booked_at_any_time_by_anyone(history: History, wakings: list[int]) -> None:
    """A clock that wakes up now and then changes when things are booked, never what they come to."""
    asleep, awake = Life(history.catalogue), Life(history.catalogue)
    asleep.tell(*history.told)
    wakings_at = sorted(START + waking * TICK for waking in wakings)
    for event, now in history.told:
        while wakings_at and wakings_at[0] <= now:
            awake.catch_up(wakings_at.pop(0), at_most=2)
        awake.tell((event, now))

    # One instant for both, and behind what is due: a transition is recorded in the microseconds before its instant, and
    # a clock that books two at a time may stand between two of one instant.
    at = max(life.head.recorded_at or START for life in (asleep, awake)) + timedelta(milliseconds=1)
    assert comes_to(asleep, at) == comes_to(awake, at)


@pytest.mark.parametrize("number", FOUND)
def test_a_history_that_broke_a_claim_once_holds_them_all(number: int) -> None:
    hold_every_claim(number)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_hundred_thousand_histories_hold_every_claim(part: int) -> None:
    hold(hold_every_claim, part, PARTS, CAMPAIGN)


def hold_every_claim(number: int) -> None:
    """The history of that number holds what the properties above claim."""
    history = history_of(number)
    lived = live(history)
    assert ends_alike(history, list(reversed(range(len(history.told)))), lived)
    assert splits_alike(history, [3, 4, 9])


def live(history: History) -> Life:
    """The history told one by one, every claim checked after each step, up to its last end."""
    life = Life(history.catalogue)
    for event, now in history.told:
        life.tell((event, now))
        assert_all(life)
    life.catch_up(AFTER_ALL)
    assert_all(life)
    return life


def lived_out(history: History) -> Life:
    """The history told one by one, up to its last end."""
    life = Life(history.catalogue)
    for one_told in history.told:
        life.tell(one_told)
    life.catch_up(AFTER_ALL)
    return life


def ends_alike(history: History, order: list[int], first: Life) -> bool:
    """Whether another order of arrival ends as the one of `first` did, once all is told and all is over."""
    other = Life(history.catalogue)
    late = history.told[-1][1] + timedelta(days=1)
    for event, _ in history.in_order(order, late):
        other.tell((event, late))
    other.catch_up(AFTER_ALL)
    return comes_to(first, AFTER_ALL) == comes_to(other, AFTER_ALL)


def splits_alike(history: History, cuts: list[int]) -> bool:
    """Whether batches between `cuts` give the same bytes as one batch for the same instants."""
    whole, split = Life(history.catalogue), Life(history.catalogue)
    whole.tell(*history.told)
    edges = [0, *(cut for cut in cuts if cut < len(history.told)), len(history.told)]
    for begin, end in pairwise(edges):
        split.tell(*history.told[begin:end])
    assert whole.postings == split.postings
    assert whole.changes == split.changes
    assert whole.inbox.keys() == split.inbox.keys()
    assert [(one.key, one.outcome, one.recorded_at) for one in whole.inbox.values()] == [
        (one.key, one.outcome, one.recorded_at) for one in split.inbox.values()
    ]
    return _stored(whole) == _stored(split)


def _stored(life: Life) -> tuple[object, ...]:
    accounts = {key: without_states(account) for key, account in life.accounts.items()}
    return life.head, accounts, life.grants


def comes_to(life: Life, at: datetime) -> tuple[object, ...]:
    """What a life comes to: its terms and counts, who covers what, and what is shown at `at`."""
    life.catch_up(at)
    return (
        {
            key: (grant.terms, grant.available, grant.used, grant.expired, grant.revoked)
            for key, grant in life.grants.items()
            if grant.phase is not Phase.VOID
        },
        {
            key: (account.usage, account.used_total, account.overage, account.debt, account.forgiven, account.owed)
            for key, account in life.accounts.items()
            if account.usage or account.last_end
        },
        {key: coverage(life, key) for key in sorted(life.accounts) if life.accounts[key].usage},
        {key: told_fields(shown) for key, shown in life.pictures(at).items()},
    )
