"""Requests among facts of all kinds: granted is what the picture says is left, and the second opinion agrees.

Random lives and worlds are told event by event; now and then somebody asks for units. A granted request is a recorded
decision: whatever is told later, in whatever order, facts and decisions together come to the same.
"""

from datetime import datetime, timedelta
from random import Random

import msgspec
import pytest

from ledger_worker.domain.catalogue import EntitlementType, LimitPolicy
from ledger_worker.domain.owners import goes_on_as
from ledger_worker.domain.requests import Answer, Item, Request
from tests.domain.agreement import assert_all, kept_events
from tests.domain.campaign import hold
from tests.domain.driver import Life, World
from tests.domain.histories import AFTER_ALL, TICK, history_of, world_of
from tests.domain.telling import MICROSECOND
from tests.domain.test_histories import comes_to

LIVED = 200
CAMPAIGN, PARTS = 20_000, 2
WIDE = timedelta(days=365)
"""A settlement window in which nothing is late: what is told in another order would be."""


@pytest.mark.parametrize("with_others", [False, True], ids=["lives", "worlds"])
@pytest.mark.parametrize("number", range(LIVED))
def test_what_is_granted_is_what_is_left_and_the_oracle_agrees(number: int, *, with_others: bool) -> None:
    hold_every_claim(2 * (850_000 + number) + with_others)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_twenty_thousand_lives_with_requests_hold_every_claim(part: int) -> None:
    hold(hold_every_claim, part, PARTS, CAMPAIGN)


def test_random_lives_have_every_kind_of_answer() -> None:
    answers = [answer for number in range(60) for answer in lived(2 * (850_000 + number))[1]]

    reasons = {answer.reason for answer in answers}
    assert {None, "exhausted", "expired", "not_entitled", "wrong_type", "suspended"} <= reasons
    assert any(item.granted < item.asked for answer in answers if answer.is_granted for item in answer.items)
    assert any(one.grant_id is None for answer in answers for item in answer.items for one in item.covered)
    assert any(len(answer.items) == 2 for answer in answers if answer.is_granted)


def hold_every_claim(number: int) -> None:
    """The life (even) or world (odd) of that number, with requests in between, holds what is claimed here."""
    world, answers = lived(number)
    for customer_id in tuple(world.customers):
        world.catch_up(AFTER_ALL, customer_id)
    assert_all(world)
    if isinstance(world, Life) and any(answer.is_granted for answer in answers):
        again = Life(world.catalogue, settlement_window=WIDE)
        late = max(one.recorded_at for one in world.inbox.values()) + timedelta(days=1)
        counted_at = {one.event: one.counted_at or one.event.occurred_at for one in world.inbox.values()}
        for event in reversed(kept_events(world)):
            # What was dated ahead counted when it was told, perhaps before a request that was decided meanwhile.
            again.tell((msgspec.structs.replace(event, occurred_at=counted_at[event]), late))
        assert comes_to(again, AFTER_ALL) == comes_to(world, AFTER_ALL)


def lived(number: int) -> tuple[World, list[Answer]]:
    """The life or world of that number, told event by event with requests in between, and their answers."""
    chance = Random(number)
    history = world_of(number) if number % 2 else history_of(number)
    world = World(history.catalogue, WIDE) if number % 2 else Life(history.catalogue, settlement_window=WIDE)
    answers = []
    now = history.told[0][1]
    for place, (event, told_at) in enumerate(history.told):
        world.tell((event, told_at))
        assert_all(world)
        now = max(now, told_at)
        for again in range(chance.randint(0, 2)):
            # Never at the very instant at which something falls due: that is recorded just before it.
            now += chance.choice([timedelta(milliseconds=1), TICK / 10, TICK + timedelta(milliseconds=1)])
            answers.append(ask(world, chance, f"k{place}-{again}", now))
            assert_all(world)
    return world, answers


def ask(world: World, chance: Random, key: str, now: datetime) -> Answer:
    """Somebody asks for units of an entitlement or two; what is granted is what the picture before it said is left."""
    customer_id = chance.choice(sorted(world.customers))
    entitlements = chance.sample(sorted(world.catalogue.entitlements), chance.randint(1, 2))
    request = Request(
        caller="shop",
        key=key,
        customer_id=customer_id,
        items=tuple(Item(entitlement=each, units=chance.randint(1, 6)) for each in entitlements),
        up_to=chance.random() < 0.3,
    )
    tied = (customer_id, *world.customers[customer_id].head.linked)
    last = max((head.recorded_at for each in tied if (head := world.customers[each].head).recorded_at), default=now)
    at = max(now, last + MICROSECOND)
    user = goes_on_as(customer_id, world.merges(), at)
    can_be = [most_of(world, user, item, at, up_to=request.up_to) for item in request.items]

    answer = world.ask(request, now)

    is_granted = any(can_be) if request.up_to else all(can_be)
    assert answer.is_granted is is_granted
    assert [item.granted for item in answer.items] == (can_be if is_granted else [0] * len(can_be))
    for item in answer.items:
        assert sum(one.units for one in item.covered) == item.granted
        if item.granted and world.catalogue.entitlements[item.entitlement].limit is LimitPolicy.HARD:
            assert all(one.grant_id is not None for one in item.covered)
    return answer


def most_of(world: World, user: str, item: Item, at: datetime, *, up_to: bool) -> int:
    """How many of the units asked for can be granted, by the picture of a read at that instant."""
    entitlement = world.catalogue.entitlements[item.entitlement]
    shown = world.picture_of(user, item.entitlement, at)
    if entitlement.type is not EntitlementType.QUOTA or not shown.allowed:
        return 0
    if entitlement.limit is LimitPolicy.SOFT or shown.unlimited or shown.remaining is None:
        return item.units
    if item.units <= shown.remaining:
        return item.units
    return shown.remaining if up_to else 0
