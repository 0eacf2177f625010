"""What recurs: when occurrences begin, who makes them, and that nobody has to be awake for it."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from random import Random
from zoneinfo import ZoneInfo

import pytest

from ledger_worker.domain.catalogue import Catalogue, Offer
from ledger_worker.domain.decide import DUE_MAX
from ledger_worker.domain.events import ITEMS_MAX, PurchaseLine, TransitionsDue
from ledger_worker.domain.ledger import Grant, Phase
from ledger_worker.domain.occurrences import OCCURRENCES_MAX, Recurrence, is_time_zone, occurrences
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.recurring import next_of
from ledger_worker.domain.sources import terms
from ledger_worker.local.oracle.calendars import begins
from tests.domain.agreement import assert_all, assert_as_the_oracle_says
from tests.domain.driver import Life
from tests.domain.telling import (
    bought,
    catalogue,
    day,
    dispute_opened,
    gives,
    line,
    offer,
    order_transferred,
    quota,
    refunded,
    told,
    used,
)

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo")
EVERY = ("P1D", "P1W", "P1M", "P3M", "P1Y")
DAILY = catalogue(quota(), offer("pack", gives(10, every="P1D")))
MONTHLY = catalogue(quota(), offer("pack", gives(10, every="P1M", time_zone="Europe/Berlin")))


def bought_at(offered: Catalogue, at: datetime) -> Life:
    life = Life(offered)
    life.tell((told("p", at, bought()), at))
    return life


def in_order(life: Life) -> list[Grant]:
    return sorted(life.grants.values(), key=lambda grant: grant.terms.effective_at)


# -- when


@pytest.mark.parametrize("seed", range(150))
def test_occurrences_begin_when_another_reading_of_the_calendar_says(seed: int) -> None:
    chosen = Random(seed)
    zone, every = chosen.choice(ZONES), chosen.choice(EVERY)
    anchor = datetime(2010, 1, 1, tzinfo=UTC) + chosen.randrange(15 * 365 * 48) * timedelta(minutes=30)
    recurrence = Recurrence(anchor=anchor, every=every, time_zone=zone)

    begun = [begin for _, begin, _ in islice(occurrences(recurrence), 40)]

    read = sorted(set(islice(begins(gives(1, every=every, time_zone=zone), anchor), 42)))
    assert begun == read[:40]


def test_one_occurrence_ends_where_the_next_one_begins() -> None:
    recurrence = Recurrence(anchor=day(31), every="P1M", time_zone="Europe/Berlin")
    found = [(begin, end) for _, begin, end in islice(occurrences(recurrence), 500)]

    assert all(end == begin for (_, end), (begin, _) in pairwise(found))
    assert all(begin < end for begin, end in found)


def test_a_day_that_a_place_skipped_has_no_occurrence() -> None:
    """Samoa went from the 29th of December 2011 to the 31st."""
    apia = ZoneInfo("Pacific/Apia")
    recurrence = Recurrence(anchor=datetime(2011, 12, 29, tzinfo=apia).astimezone(UTC), every="P1D", time_zone=apia.key)

    found = [(each.number, begin.astimezone(apia).day) for each, begin, _ in islice(occurrences(recurrence), 3)]

    assert found == [(0, 29), (2, 31), (3, 1)]


def test_occurrences_end_with_the_calendar() -> None:
    recurrence = Recurrence(anchor=datetime(9990, 2, 28, tzinfo=UTC), every="P1Y")

    assert len(list(occurrences(recurrence))) == 9


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "Europe", "../zoneinfo/UTC", "/etc/localtime", "a\0b"])
def test_what_is_no_time_zone_is_found(name: str) -> None:
    assert not is_time_zone(name)


# -- who makes them


def test_the_occurrence_after_the_present_one_is_there_and_no_other() -> None:
    life = bought_at(DAILY, day(1))

    assert [(grant.phase, grant.terms.effective_at, grant.granted) for grant in in_order(life)] == [
        (Phase.ACTIVE, day(1), 10),
        (Phase.PENDING, day(2), 10),
    ]
    assert life.accounts["api"].next_transition_at == day(2)


@pytest.mark.parametrize(
    "facts",
    [
        (),
        ((day(2), refunded(quantity=1)),),
        ((day(2), dispute_opened()),),
        ((day(2), order_transferred("bob")), (day(3), refunded(quantity=1))),
    ],
)
def test_what_settlement_makes_is_what_the_source_gives(facts: tuple[tuple[datetime, object], ...]) -> None:
    life = Life(DAILY)
    life.tell((told("p", day(1), bought(line(quantity=3))), day(1)))
    for number, (at, fact) in enumerate(facts):
        life.tell((told(f"f{number}", at, fact), at))  # type: ignore[arg-type]
    (state,) = life.sources.values()
    last = max(terms(state, "order/o1", DAILY, {}, day(9)), key=lambda held: held.terms.effective_at)

    following = next_of(last.terms)

    unrolled = {held.terms.grant_id: held for held in terms(state, "order/o1", DAILY, {}, last.terms.effective_at)}
    assert following is not None
    assert unrolled[following.grant_id].terms == following
    assert unrolled[following.grant_id].customer_id == last.customer_id


def test_all_that_was_missed_is_granted_the_oldest_first() -> None:
    life = bought_at(MONTHLY, day(31))

    decided = life.catch_up(day(31) + timedelta(seconds=100_000_000))

    instants = [event.event.fact.instant for event in decided.events if isinstance(event.event.fact, TransitionsDue)]
    assert instants == sorted(instants)
    assert [grant.granted for grant in in_order(life)] == [10] * 40
    assert [grant.phase for grant in in_order(life)[-2:]] == [Phase.ACTIVE, Phase.PENDING]
    assert_all(life)


def test_the_same_is_booked_under_the_same_ids_whoever_wakes_when() -> None:
    asleep, awake = bought_at(DAILY, day(1)), bought_at(DAILY, day(1))
    for number in range(2, 60):
        awake.catch_up(day(number, 1))
    asleep.tell((told("u", day(59, 2), used(1)), day(59, 2)))
    awake.tell((told("u", day(59, 2), used(1)), day(59, 2)))

    def booked(life: Life) -> list[tuple[str, object]]:
        return [(one.event.event_id, one.event.fact) for one in life.inbox.values()]

    assert booked(asleep) == booked(awake)
    assert [posting.entries for posting in asleep.postings] == [posting.entries for posting in awake.postings]
    assert asleep.grants == awake.grants


def test_what_was_booked_once_is_not_booked_again() -> None:
    life = bought_at(DAILY, day(1))
    life.catch_up(day(40))

    again = life.catch_up(day(40))

    assert (again.events, again.customers["ada"].postings) == ((), ())


@pytest.mark.parametrize("at_most", [1, 2, 7, DUE_MAX])
def test_however_few_are_booked_at_a_time_it_comes_to_the_same(at_most: int) -> None:
    whole, parts = bought_at(DAILY, day(1)), bought_at(DAILY, day(1))
    whole.catch_up(day(90))

    rounds = 0
    while (ahead := parts.accounts["api"].next_transition_at) is not None and ahead <= day(90):
        parts.catch_up(day(90), at_most=at_most)
        rounds += 1

    assert rounds == -(-89 * 3 // at_most)
    assert whole.grants == parts.grants
    assert_all(parts)


def test_three_years_of_days_that_nobody_booked_are_booked_before_the_event_at_hand() -> None:
    life = bought_at(DAILY, day(1))

    life.tell((told("u", day(1097), used(3)), day(1097)))

    assert len(life.grants) == 1098
    assert [grant.used for grant in in_order(life)][-2:] == [3, 0]


def test_a_read_shows_what_is_due_whether_booked_or_not() -> None:
    life = bought_at(DAILY, day(1))

    ahead = life.pictures(day(500, 6))
    life.catch_up(day(500, 6))

    assert ahead["api"].starts_at == day(500)
    assert life.pictures(day(500, 6)) == ahead


def test_times_bound_the_occurrences() -> None:
    limited: Offer = offer("pack", gives(10, every="P1W", times=3))
    life = bought_at(catalogue(quota(), limited), day(1))

    life.catch_up(day(500))

    assert [grant.terms.effective_at for grant in in_order(life)] == [day(1), day(8), day(15)]
    assert life.accounts["api"].next_transition_at is None


def test_a_purchase_told_late_gives_all_that_it_should_have_given_by_then() -> None:
    life = Life(DAILY)

    life.tell((told("p", day(1), bought()), day(20, 12)))

    assert [grant.phase for grant in in_order(life)] == [Phase.ENDED] * 19 + [Phase.ACTIVE, Phase.PENDING]
    assert_all(life)


# -- how many


def lines(count: int, *, first: int = 0) -> tuple[PurchaseLine, ...]:
    return tuple(line(line_id=f"l{number}") for number in range(first, count))


@pytest.mark.parametrize(("of_order", "of_each"), [(1, 5_000), (3, 1_666), (ITEMS_MAX, 10)])
def test_all_lines_of_one_order_have_five_thousand_occurrences_together(of_order: int, of_each: int) -> None:
    life = Life(DAILY)
    life.tell((told("p", day(1), bought(*lines(of_order))), day(1)))
    (state,) = life.sources.values()

    given = terms(state, "order/o1", DAILY, {}, day(12_000))

    assert len(given) == of_order * of_each <= OCCURRENCES_MAX
    assert max(held.terms.effective_at for held in given) == day(of_each)


def test_a_purchase_dated_fifty_years_back_gives_five_thousand_grants_at_most() -> None:
    life = Life(DAILY)

    life.tell((told("p", day(1), bought(*lines(ITEMS_MAX))), day(50 * 365)))

    assert len(life.grants) == OCCURRENCES_MAX
    assert life.accounts["api"].next_transition_at is None


def test_whoever_begins_the_last_of_its_share_makes_none_after_it() -> None:
    life = Life(DAILY)
    life.tell((told("p", day(1), bought(*lines(ITEMS_MAX))), day(1)))
    (state,) = life.sources.values()
    of_line = [held.terms for held in terms(state, "order/o1", DAILY, {}, day(8)) if held.terms.line_id == "l0"]

    last = next_of(max(of_line, key=lambda one: one.effective_at))

    assert last is not None
    assert (last.effective_at, next_of(last)) == (day(10), None)


def test_allowances_that_do_not_recur_share_nothing() -> None:
    offered = catalogue(quota(), offer("pack", gives(10, key="a", every="P1D"), gives(1, key="b", lasts="forever")))
    life = bought_at(offered, day(1))
    (state,) = life.sources.values()

    given = terms(state, "order/o1", offered, {}, day(12_000))

    assert len(given) == OCCURRENCES_MAX + 1


@pytest.mark.parametrize("is_late", [True, False])
def test_lines_told_later_leave_less_to_those_before_them(is_late: bool) -> None:  # noqa: FBT001 - which one is told last
    life = Life(DAILY)
    one, rest = told("p", day(1), bought(*lines(1))), told("q", day(1), bought(*lines(ITEMS_MAX, first=1)))
    first, last = (one, rest) if is_late else (rest, one)
    life.tell((first, day(40)))

    life.tell((last, day(40)))

    there = [grant.terms for grant in life.grants.values() if grant.phase is not Phase.VOID]
    assert len(there) == OCCURRENCES_MAX
    assert len([grant for grant in there if grant.line_id == "l0"]) == 10


@pytest.mark.parametrize(
    ("every", "count", "outcome"),
    [
        ("P1D", 1, Outcome.APPLIED),
        ("P1D", 2, Outcome.RECURS_LESS),
        ("P1M", 41, Outcome.APPLIED),
        ("P1M", 42, Outcome.RECURS_LESS),
        ("P1Y", 400, Outcome.APPLIED),
    ],
)
def test_what_ends_within_ten_years_because_so_much_recurs_is_told(every: str, count: int, outcome: Outcome) -> None:
    life = Life(catalogue(quota(), offer("pack", gives(10, every=every))))

    assert life.outcome_of(told("p", day(1), bought(*lines(count))), day(1)) == outcome


def test_what_ends_by_its_own_number_is_no_less() -> None:
    life = Life(catalogue(quota(), offer("pack", gives(10, every="P1D", times=10))))

    assert life.outcome_of(told("p", day(1), bought(*lines(ITEMS_MAX))), day(1)) == Outcome.APPLIED


def test_the_oracle_gives_as_many() -> None:
    life = Life(DAILY)
    life.tell((told("p", day(1), bought(*lines(100))), day(60)))

    life.tell((told("r", day(30), refunded(line_id="l3", quantity=1)), day(61)))

    assert len(life.grants) == OCCURRENCES_MAX
    assert_as_the_oracle_says(life, day(61))


def test_more_than_may_be_booked_at_once_falls_due_within_a_batch() -> None:
    bought_and_used = ((told("b", day(1), bought()), day(1)), (told("u", day(150), used(3)), day(150)))
    together, apart = Life(DAILY), Life(DAILY)

    together.tell(*bought_and_used)
    for one in bought_and_used:
        apart.tell(one)

    assert DUE_MAX < 149
    assert together.postings == apart.postings
    assert_all(together)
