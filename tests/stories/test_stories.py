"""Each story, on the pure rules and on PostgreSQL: both must tell it as it stands, and agree to the byte."""

from collections.abc import Iterator
from datetime import datetime

import pytest

from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.wire.decode import decode_change
from tests.apply.ledger import Ledger
from tests.domain.agreement import assert_all
from tests.domain.driver import Life
from tests.domain.telling import told, used
from tests.stories.lives import STORIES
from tests.stories.story import Look, Step, Story, mismatches

AFTERWARDS = "2040-01-01T00:00:00+00:00"


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    made = Ledger(database_url)
    yield made
    made.close()


def lived(story: Story) -> Life:
    """The story by the pure rules, each step and look checked on the way."""
    life = Life(story.catalogue)
    events = iter(story.events())
    for one in story.life:
        if isinstance(one, Look):
            shown = life.picture(one.entitlement, one.at) if one.entitlement in life.accounts else None
            assert not mismatches(shown, one), one
            continue
        step, event = next(events)
        decided = life.tell((event, step.arrives_at))
        assert outcome_of(decided.duplicates, [e.outcome for e in decided.events], decided.refused) == one.becomes, one
        assert_all(life)
    return life


def outcome_of(duplicates: object, outcomes: list[str], refused: object) -> str:
    if duplicates:
        return "duplicate"
    if isinstance(refused, tuple) and refused:
        return str(refused[0].reason)
    return str(outcomes[-1])


def last_instant(story: Story) -> datetime:
    return max(one.at if isinstance(one, Look) else one.arrives_at for one in story.life)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_the_rules_tell_the_story(story: Story) -> None:
    life = lived(story)
    life.catch_up(max(last_instant(story), datetime.fromisoformat(AFTERWARDS)))

    assert tuple(f"{change.entitlement}: {' '.join(change.kinds)}" for change in life.changes) == story.told
    assert_all(life)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_postgresql_tells_the_same_story(story: Story, ledger: Ledger) -> None:
    ledger.publish(story.catalogue)
    life = Life(story.catalogue)
    events = iter(story.events())
    for one in story.life:
        if isinstance(one, Step):
            step, event = next(events)
            applied = ledger.tell((event, step.arrives_at))
            assert [*applied.outcomes, *applied.dead_letters] == [one.becomes], one
            life.tell((event, step.arrives_at))
        else:
            shown = pictures(ledger, one.at)
            assert not mismatches(shown.get(one.entitlement), one), one
            assert list(shown.values()) == [life.picture(key, one.at) for key in sorted(life.accounts)]
    final = told("afterwards", datetime.fromisoformat(AFTERWARDS), used(1))
    ledger.tell((final, final.occurred_at))
    life.tell((final, final.occurred_at))
    assert_same(ledger, life)


def pictures(ledger: Ledger, at: datetime) -> dict[str, EntitlementPicture]:
    return {shown.entitlement: shown for customer in ledger.pictures(["ada"], at) for shown in customer.entitlements}


def assert_same(ledger: Ledger, life: Life) -> None:
    """What is stored is what was decided: the chain, the changes, the counters."""
    dump = ledger.dump()
    assert [(row[1], bytes(row[8])) for row in dump["posting"]] == [
        (posting.number, posting.hash) for posting in life.postings
    ]
    assert [decode_change(bytes(row[4])) for row in dump["outbox"]] == life.changes
    assert {row[1]: tuple(row[9:16]) for row in dump["grant"]} == {
        key: (one.granted, one.available, one.held, one.used, one.expired, one.revoked, one.moved)
        for key, one in life.grants.items()
    }
    assert {row[1]: tuple(row[2:9]) for row in dump["account"]} == {
        key: (one.usage, one.used_total, one.overage, one.debt, one.forgiven, one.settled_at, one.settled_tie)
        for key, one in life.accounts.items()
    }
