"""Each story, on the pure rules and on PostgreSQL: both must tell it as it stands, and agree to the byte."""

from collections.abc import Iterator
from datetime import datetime
from typing import get_args

import msgspec
import pytest

from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.events import Fact, HoldFact, OwnFact, SeatFact
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from ledger_worker.domain.requests import Answer, Asked
from ledger_worker.wire.decode import decode_change
from tests.apply.ledger import Ledger
from tests.domain.agreement import assert_all
from tests.domain.driver import World
from tests.domain.telling import told, used
from tests.stories.lives import STORIES
from tests.stories.story import Ask, Look, Publication, Step, Story, in_words, mismatches

AFTERWARDS = datetime.fromisoformat("2040-01-01T00:00:00+00:00")


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    made = Ledger(database_url)
    yield made
    made.close()


def lived(story: Story) -> World:
    """The story by the pure rules, each step and look checked on the way."""
    world = World(story.catalogue)
    events = story.events()
    for one in story.life:
        match one:
            case Look():
                shown = pictures_of(world, one.customer, one.at).get(one.entitlement)
                assert not mismatches(shown, one), one
            case Publication():
                _, world.catalogue = one.onto(world.catalogue)
                for event in one.reached(world.catalogue, world.sources):
                    world.tell((event, one.at))
            case Ask():
                assert answered(world.ask(one.asked, one.at)) == one.becomes, one
                assert_all(world)
            case Step():
                decided = world.tell((next(events), one.arrives_at))
                refused = [each.reason.value for each in decided.refused]
                outcomes = ["duplicate"] * len(decided.duplicates) + [each.outcome.value for each in decided.events]
                # What fell due before the event has outcomes of its own.
                assert [*outcomes, *refused][-1] == one.becomes, one
                assert_all(world)
    return world


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_the_rules_tell_the_story(story: Story) -> None:
    world = lived(story)
    for customer_id in story.customers():
        world.catch_up(max(story.last_instant(), AFTERWARDS), customer_id)

    changes = [change for customer_id in story.customers() for change in world.customer(customer_id).changes]
    assert tuple(in_words(change) for change in changes) == story.told
    assert_all(world)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_postgresql_tells_the_same_story(story: Story, ledger: Ledger) -> None:
    ledger.publish(story.catalogue)
    world = World(story.catalogue)
    events = story.events()
    for one in story.life:
        match one:
            case Look():
                shown = pictures(ledger, one.customer, one.at)
                assert not mismatches(shown.get(one.entitlement), one), one
                assert shown == pictures_of(world, one.customer, one.at)
            case Publication():
                version, world.catalogue = one.onto(world.catalogue)
                ledger.publish(msgspec.structs.replace(world.catalogue, entitlements={}, offers={one.sku: (version,)}))
                for event in one.reached(world.catalogue, world.sources):
                    ledger.tell((event, one.at))
                    world.tell((event, one.at))
            case Ask():
                (answer,) = ledger.ask(one.at, one.asked)
                assert answer == world.ask(one.asked, one.at)
                assert answered(answer) == one.becomes, one
            case Step():
                event = next(events)
                applied = ledger.tell((event, one.arrives_at))
                assert [*applied.outcomes, *applied.dead_letters] == [one.becomes], one
                world.tell((event, one.arrives_at))
    for customer_id in story.customers():
        final = told("afterwards", AFTERWARDS, used(1), customer=customer_id)
        ledger.tell((final, AFTERWARDS))
        world.tell((final, AFTERWARDS))
    assert_same(ledger, world)


@pytest.mark.parametrize("one", ["name", "life"])
def test_no_story_is_told_twice(one: str) -> None:
    told_so_far = [str(getattr(story, one)) for story in STORIES]

    assert len(set(told_so_far)) == len(told_so_far)


def test_every_fact_and_every_outcome_is_in_a_story() -> None:
    steps = [one for story in STORIES for one in story.life if isinstance(one, Step)]
    becomes = {step.becomes for step in steps}

    assert {type(step.fact) for step in steps} == set(get_args(Fact)) - set(get_args(OwnFact | HoldFact | SeatFact))
    assert set(Outcome) <= becomes
    assert becomes <= {*Outcome, *DeadLetterReason}


def test_everything_that_can_be_asked_is_in_a_story() -> None:
    asked = {type(one.asked) for story in STORIES for one in story.life if isinstance(one, Ask)}

    assert asked == set(get_args(Asked))


def answered(answer: Answer) -> str:
    return "granted" if answer.is_granted else str(answer.reason)


def pictures_of(world: World, customer_id: str, at: datetime) -> dict[str, EntitlementPicture]:
    if world.customer(customer_id).head.merge is not None:
        return {}  # whom it goes on as has everything
    accounts = sorted(world.customer(customer_id).accounts)
    return {entitlement: world.picture_of(customer_id, entitlement, at) for entitlement in accounts}


def pictures(ledger: Ledger, customer_id: str, at: datetime) -> dict[str, EntitlementPicture]:
    return {shown.entitlement: shown for one in ledger.pictures([customer_id], at) for shown in one.entitlements}


def assert_same(ledger: Ledger, world: World) -> None:
    """What is stored is what was decided: the chains, the changes, the counters."""
    dump = ledger.dump()
    customers = sorted(world.customers.items())
    assert [(row[0], row[1], bytes(row[8])) for row in dump["posting"]] == [
        (customer_id, posting.number, posting.hash) for customer_id, one in customers for posting in one.postings
    ]
    assert [decode_change(bytes(row[4])) for row in dump["outbox"]] == [
        change for _, one in customers for change in one.changes
    ]
    assert {(row[0], row[1]): tuple(row[9:16]) for row in dump["grant"]} == {
        (customer_id, key): (one.granted, one.available, one.held, one.used, one.expired, one.revoked, one.moved)
        for customer_id, customer in customers
        for key, one in customer.grants.items()
    }
    assert {(row[0], row[1]): tuple(row[2:9]) for row in dump["account"]} == {
        (customer_id, key): (
            one.usage,
            one.used_total,
            one.overage,
            one.debt,
            one.forgiven,
            one.settled_at,
            one.settled_tie,
        )
        for customer_id, customer in customers
        for key, one in customer.accounts.items()
    }
