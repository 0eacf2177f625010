"""What was known then of any instant, by the rules alone: a second opinion that is told no more says the same.

The same is asked of PostgreSQL, by fewer questions, in `tests/reports/test_past.py`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random

import msgspec
import pytest

from ledger_worker.domain.access import picture
from ledger_worker.domain.catalogue import Apply, Catalogue, LateUsage, OnShrink
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.events import TransitionsDue
from ledger_worker.domain.past import KnownEvent, books_at
from tests.domain import test_requests as requests
from tests.domain import test_seats as seats
from tests.domain.agreement import shown_units
from tests.domain.campaign import hold
from tests.domain.driver import SETTLEMENT_WINDOW, World
from tests.domain.histories import History, world_of
from tests.domain.known import any_instants, expected_at, nothing_of, with_late_usage
from tests.domain.telling import (
    bought,
    catalogue,
    day,
    gives,
    line,
    merged,
    offer,
    quota,
    refunded,
    seat,
    told,
)
from tests.domain.telling import seats as seats_of

WORLDS, ASKED = 120, 6
"""How many worlds are lived, and how many pairs of instants are asked of each."""
CAMPAIGN, PARTS = 20_000, 2


@pytest.mark.parametrize("number", range(910_000, 910_000 + WORLDS))
def test_a_past_is_what_the_oracle_says_who_is_told_no_more(number: int) -> None:
    hold_every_claim(number)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_pasts_of_twenty_thousand_worlds_are_what_the_oracle_says(part: int) -> None:
    hold(hold_every_claim, part, PARTS, CAMPAIGN)


@pytest.mark.parametrize("number", range(930_000, 930_000 + WORLDS))
def test_a_past_knows_what_was_held_then(number: int) -> None:
    world, _ = requests.lived(number)

    asked_of(world, number, requests.WIDE)


@pytest.mark.parametrize("number", range(950_000, 950_000 + WORLDS))
def test_a_past_knows_who_had_a_seat_then(number: int) -> None:
    world = seats.lived(number, is_clock_running=False)

    asked_of(world, number, requests.WIDE)


@pytest.mark.parametrize("number", range(920_000, 920_000 + WORLDS))
def test_what_is_known_now_of_now_is_the_present_picture(number: int) -> None:
    world = lived(world_of(number, with_merges=number % 2 == 0), SETTLEMENT_WINDOW)
    now = max(one.head.recorded_at for one in world.customers.values() if one.head.recorded_at is not None)

    shown = pictures_of(known_of(world), world.catalogue, now)

    for customer_id in world.customers:
        for entitlement in world.catalogue.entitlements:
            found = shown.get((customer_id, entitlement)) or nothing_of(world.catalogue, entitlement)
            assert found == world.picture_of(customer_id, entitlement, now), (customer_id, entitlement)


def hold_every_claim(number: int) -> None:
    """The world of that number, every other one with merges and every third with usage that is told too late."""
    history = world_of(number, with_merges=number % 2 == 0)
    window = SETTLEMENT_WINDOW
    if number % 3 == 0:
        history, window = with_late_usage(history, tuple(LateUsage)[number // 3 % 3]), timedelta(days=2)
    asked_of(lived(history, window), number, window)


def asked_of(world: World, number: int, window: timedelta) -> None:
    """Of any instants of that world the pasts are what the oracle says."""
    all_known = known_of(world)
    chance = Random(number)
    for _ in range(ASKED):
        at, known_at = any_instants(chance, [one.recorded_at for one in all_known])
        known = [one for one in all_known if one.recorded_at <= known_at]
        shown = pictures_of(known, world.catalogue, at)
        recorded = [(one.event, one.recorded_at) for one in known]
        for pair, units in expected_at(recorded, world.catalogue, at, window).items():
            found = shown.get(pair) or nothing_of(world.catalogue, pair[1])
            assert shown_units(found) == units, (pair, at, known_at)


def lived(history: History, window: timedelta) -> World:
    world = World(history.catalogue, window)
    for one_told in history.told:
        world.tell(one_told)
    return world


def known_of(world: World) -> list[KnownEvent]:
    """Everything that is recorded, but for what the ledger told itself."""
    return [
        KnownEvent(
            event=one.event,
            key=one.key,
            recorded_at=one.recorded_at,
            outcome=one.outcome,
            catalogue_version=world.catalogue.version,
            counted_at=one.counted_at,
        )
        for one in world.inbox.values()
        if not isinstance(one.event.fact, TransitionsDue)
    ]


def pictures_of(
    known: Sequence[KnownEvent], published: Catalogue, at: datetime
) -> dict[tuple[str, str], EntitlementPicture]:
    books = books_at(known, published, at)
    return {(customer_id, key): picture(book) for customer_id, own in books.items() for key, book in own.items()}


@pytest.mark.parametrize(("at_version", "limit"), [(1, 10), (2, 20)])
def test_a_source_stands_by_the_catalogue_it_was_folded_with_last_a_merge_included(at_version: int, limit: int) -> None:
    """A version that gives twenty for ten was published and did not reach Ada's order before she went on as Bob."""
    first = offer("pack", gives(10, lasts="forever"))
    second = offer(
        "pack", gives(20, lasts="forever"), version=2, published_at=day(5), apply=Apply.NOW, catalogue_version=2
    )
    world = World(catalogue(quota(), first))
    world.tell((told("purchase", day(3), bought()), day(3)))
    world.catalogue = catalogue(quota(), first, second, version=2) if at_version == 2 else world.catalogue
    world.tell((told("merge", day(8), merged("bob")), day(8)))
    later = catalogue(quota(), first, second, version=2)
    by_version = {"purchase": 1, "merge": at_version}
    known = [msgspec.structs.replace(one, catalogue_version=by_version[one.event.event_id]) for one in known_of(world)]

    shown = pictures_of(known, later, day(9))["bob", "api"]

    assert (shown.limit, shown.remaining) == (limit, limit)
    assert shown == world.picture_of("bob", "api", day(9))


@pytest.mark.parametrize(("ends", "holders"), [(None, "a b c d"), (10, "a")], ids=["nothing ends", "seats end"])
def test_a_policy_published_later_takes_seats_only_where_something_has_fallen_due_since(
    ends: int | None, holders: str
) -> None:
    """Four hold the one seat that a refund left, and keep it, until something ends that nobody has booked."""
    keeps = catalogue(
        seats_of(),
        offer("pack", gives(1, "desk", lasts="forever")),
        offer("short", gives(1, "desk", lasts=f"P{(ends or 100) - 1}D")),
    )
    world = World(keeps)
    world.tell((told("four", day(1), bought(line(quantity=4))), day(1)))
    world.tell((told("short", day(1), bought(line("short"), order="o2")), day(1, 1)))
    for name in "abcd":
        assert world.ask(seat(name, name), day(2)).is_granted
    world.tell((told("three", day(3), refunded(quantity=3 if ends else 4)), day(3)))
    world.catalogue = msgspec.structs.replace(
        keeps, version=2, entitlements={"desk": seats_of(on_shrink=OnShrink.REVOKE_NEWEST)}
    )

    shown = pictures_of(known_of(world), world.catalogue, day(12))["ada", "desk"]

    assert (shown.limit, " ".join(shown.holders or ())) == (1, holders)
    assert shown == world.picture_of("ada", "desk", day(12))
