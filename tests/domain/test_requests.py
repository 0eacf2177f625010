"""Requests among facts of all kinds: granted is what the picture says is left, and the second opinion agrees.

Random lives and worlds are told event by event; now and then somebody asks for units. A granted request is a recorded
decision: whatever is told later, in whatever order, facts and decisions together come to the same.
"""

from datetime import datetime, timedelta
from operator import attrgetter
from random import Random

import msgspec
import pytest

from ledger_worker.domain.catalogue import EntitlementType, LimitPolicy
from ledger_worker.domain.events import Event, HoldFact, UsageReversed
from ledger_worker.domain.owners import goes_on_as
from ledger_worker.domain.requests import Answer, Asked, Confirm, Item, Release, Request, RequestId, request_hash
from tests.domain.agreement import assert_all, kept_events
from tests.domain.campaign import hold as hold_for_all
from tests.domain.driver import Life, World
from tests.domain.histories import AFTER_ALL, TICK, history_of, world_of
from tests.domain.telling import MICROSECOND, confirm, consume, hold, release, seat, swap, unseat
from tests.domain.test_histories import comes_to

LIVED = 200
CAMPAIGN, PARTS = 20_000, 2
HOLDS, ENDS, REVERSED, OFTEN = 0.5, 0.3, 0.2, 0.8
"""How many of those who ask want to hold units, how often a hold is ended instead, and something then reversed."""
LASTING = tuple(int(ticks * TICK.total_seconds()) + 7 for ticks in (0.05, 0.5, 1, 3, 7))
"""For how long, in seconds: never up to an instant at which something is asked."""
WIDE = timedelta(days=365)
"""A settlement window in which nothing is late: what is told in another order would be."""


GOLDEN = {
    "consume": (consume(3), "f3e415e62f1caaec"),
    "hold": (hold(3), "e89b8ab4d97f16d6"),
    "confirm": (confirm(2), "95e815448ca3ff50"),
    "release": (release(), "a93658965d20b70f"),
    "seat": (seat("ann"), "f122675af58cedca"),
    "unseat": (unseat("ann"), "71cafdbef30cf110"),
    "swap": (swap("ann", "ben"), "42267667f4cc4091"),
}
"""If one of these changes, whoever asks again under a key that an earlier release answered is told `key_reused`."""


@pytest.mark.parametrize(("asked", "expected"), GOLDEN.values(), ids=GOLDEN)
def test_a_request_has_the_hash_that_it_always_had(asked: Asked, expected: str) -> None:
    assert request_hash(asked).hex()[:16] == expected


@pytest.mark.parametrize("with_others", [False, True], ids=["lives", "worlds"])
@pytest.mark.parametrize("number", range(LIVED))
def test_what_is_granted_is_what_is_left_and_the_oracle_agrees(number: int, *, with_others: bool) -> None:
    hold_every_claim(2 * (850_000 + number) + with_others)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_twenty_thousand_lives_with_requests_hold_every_claim(part: int) -> None:
    hold_for_all(hold_every_claim, part, PARTS, CAMPAIGN)


def test_random_lives_have_every_kind_of_answer() -> None:
    worlds = [lived(2 * (850_000 + number))[0] for number in range(120)]
    answers = [answer for world in worlds for answer in world.answers.values()]

    reasons = {answer.reason for answer in answers}
    assert {None, "exhausted", "expired", "not_entitled", "wrong_type", "suspended"} <= reasons
    assert {"unknown_hold", "hold_expired", "hold_ended", "more_than_held"} <= reasons
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
        events = kept_events(world)
        # A hold ends after it was taken, and before it expires, in every world; all else may be told in any order.
        for one in tuple(world.inbox.values()):
            if isinstance(one.event.fact, HoldFact):
                again.tell((one.event, one.recorded_at))
        for event in (event for event in reversed(events) if not isinstance(event.fact, HoldFact)):
            # What was dated ahead counted when it was told, perhaps before a request that was decided meanwhile.
            again.tell((msgspec.structs.replace(event, occurred_at=counted_at[event]), late))
        # What recurs without an end goes on after all: both are asked at one instant, behind the last that was told.
        at = max(AFTER_ALL, late + timedelta(days=1))
        assert comes_to(again, at) == comes_to(world, at)


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
            key = f"k{place}-{again}"
            if world.answers and chance.random() < ENDS:
                answers.append(end(world, chance, key, now))
            else:
                answers.append(ask(world, chance, key, now))
            assert_all(world)
            if any(one.items for one in world.answers.values()) and chance.random() < REVERSED:
                world.tell((reversal(world, chance, key, now), now))
                assert_all(world)
    return world, answers


def reversal(world: World, chance: Random, event_id: str, now: datetime) -> Event:
    """Some or all of what a request used, or may yet use by a hold, was not: told at `now`, of then or of before."""
    answered = sorted((one for one in world.answers.values() if one.items), key=attrgetter("key"))
    chosen = chance.choice([*answered, *answered[-3:]])
    entitlement = chance.choice([item.entitlement for item in chosen.items])
    named = RequestId(caller=chosen.caller, key=chosen.hold or chosen.key, entitlement=entitlement)
    return Event(
        event_source="meter",
        event_id=event_id,
        customer_id=chosen.customer_id,
        # What is granted once more from there ends at no instant at which something is asked.
        occurred_at=now - chance.choice((0, 0, 0, 0.5, 2)) * TICK - 13 * MICROSECOND,
        fact=UsageReversed(
            entitlement=entitlement,
            reversal_id=f"of {named.event_id} {chance.randint(1, 3)}",
            usage_event_id=named.event_id,
            usage_event_source=named.event_source,
            units=chance.choice((None, None, 1, 2)),
        ),
    )


def end(world: World, chance: Random, key: str, now: datetime) -> Answer:
    """Somebody confirms some or all of something that was asked for before, or releases it."""
    answered = sorted(world.answers.values(), key=attrgetter("key"))
    is_open = [one for one in answered if one.expires_at is not None and one.expires_at > now]
    held = chance.choice(is_open if is_open and chance.random() < OFTEN else answered)
    named = {"caller": "shop", "key": key, "customer_id": held.customer_id, "hold": held.key}
    if chance.random() < HOLDS / 2:
        request: Confirm | Release = Release(**named)
    else:
        some = chance.random() < HOLDS
        items = tuple(Item(entitlement=item.entitlement, units=chance.choice((1, 2, 3, 9))) for item in held.items[:1])
        request = Confirm(**named, items=items if some else ())
    given = {item.entitlement: item.granted for item in held.items if item.granted}
    asked = {} if isinstance(request, Release) else {item.entitlement: item.units for item in request.items} or given

    answer = world.ask(request, now)

    if answer.is_granted:
        assert held.expires_at is not None
        assert answer.recorded_at < held.expires_at
        assert {item.entitlement: item.granted for item in answer.items} == {name: asked.get(name, 0) for name in given}
        for item in answer.items:
            # What was reversed before it was confirmed is covered by nothing.
            lacking = item.granted - sum(one.units for one in item.covered)
            assert lacking == 0 or (lacking > 0 and is_reversed(world, f"{item.entitlement}@{held.key}"))
        assert world.ask(msgspec.structs.replace(request, key=f"{key}-again"), now).reason in {
            "hold_ended",
            "hold_expired",
        }
    else:
        assert answer.reason in {"unknown_hold", "hold_expired", "hold_ended", "more_than_held"}
        assert (answer.reason == "unknown_hold") is (held.expires_at is None)
        assert (answer.reason == "hold_expired") is (
            held.expires_at is not None and held.expires_at <= answer.recorded_at
        )
        if answer.reason == "more_than_held":
            assert any(units > given.get(name, 0) for name, units in asked.items())
    return answer


def is_reversed(world: World, usage: str) -> bool:
    """Whether something of what is recorded under that event id was reversed."""
    facts = [one.event.fact for one in world.inbox.values()]
    return any(isinstance(fact, UsageReversed) and fact.usage_event_id == usage for fact in facts)


def ask(world: World, chance: Random, key: str, now: datetime) -> Answer:
    """Somebody asks for units of an entitlement or two; what is granted is what the picture before it said is left."""
    customer_id = chance.choice(sorted(world.customers))
    names = sorted(world.catalogue.entitlements)
    quotas = [name for name in names if world.catalogue.entitlements[name].type is EntitlementType.QUOTA]
    entitlements = chance.sample(names, chance.randint(1, 2)) if chance.random() > OFTEN else [chance.choice(quotas)]
    request = Request(
        caller="shop",
        key=key,
        customer_id=customer_id,
        items=tuple(Item(entitlement=each, units=chance.randint(1, 6)) for each in entitlements),
        up_to=chance.random() < 0.3,
        hold_seconds=chance.choice(LASTING) if chance.random() < HOLDS else None,
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
    assert (answer.expires_at is not None) is (is_granted and request.hold_seconds is not None)
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
