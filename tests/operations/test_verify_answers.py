"""First answers are proven both ways: what they granted is recorded, and nothing else is recorded of requests."""

from collections.abc import Callable, Iterator

import msgspec
import psycopg
import pytest

from ledger_worker.domain.requests import Answer, RequestId, request_id_of
from ledger_worker.operations.verify import Check
from tests.apply.ledger import Ledger, unproven
from tests.domain.telling import (
    bought,
    catalogue,
    confirm,
    consume,
    day,
    gives,
    hold,
    offer,
    quota,
    release,
    seat,
    seats,
    swap,
    told,
    unseat,
)
from tests.operations.test_verify import tamper, verdict

OFFERED = catalogue(quota(), seats(), offer("pack", gives(20, lasts="forever"), gives(2, "desk", lasts="forever")))


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """Ada uses, is refused, gets what is left, holds, confirms a part, releases, holds again, and gives seats."""
    made = Ledger(database_url)
    made.publish(OFFERED)
    made.tell((told("b", day(1), bought()), day(1)))
    made.ask(day(2), consume(3, "used"), consume(30, "refused"), hold(5, "partly"), hold(4, "wholly"))
    made.ask(day(3), confirm(2, "partly", key="confirmed"), release("wholly", key="released"))
    made.ask(day(4), hold(1, "open"), consume(99, "what is left", up_to=True), confirm(1, "nothing", key="no hold"))
    made.ask(day(5), seat("ann", "given"), swap("ann", "ben", "passed on"), unseat("ben", "given back"))
    yield made
    made.close()


def test_what_was_answered_and_done_has_no_findings(ledger: Ledger) -> None:
    found = verdict(ledger.engine)

    assert unproven(ledger) == []
    assert {one.check: one.looked_at for one in found.checks}[Check.ANSWER] == 12
    assert verdict(ledger.engine, customer_id="ada").findings == ()


def grants(units: int) -> Callable[[Answer], Answer]:
    """The answer says that so many units of each item were granted."""

    def changed(answer: Answer) -> Answer:
        items = tuple(msgspec.structs.replace(item, granted=units) for item in answer.items)
        return msgspec.structs.replace(answer, is_granted=True, items=items)

    return changed


def of_another(entitlement: str) -> Callable[[Answer], Answer]:
    """The answer says that it is of another entitlement."""

    def changed(answer: Answer) -> Answer:
        items = tuple(msgspec.structs.replace(item, entitlement=entitlement) for item in answer.items)
        return msgspec.structs.replace(answer, items=items)

    return changed


def refused(answer: Answer) -> Answer:
    return msgspec.structs.replace(answer, is_granted=False, reason="exhausted")


CHANGES: dict[str, tuple[str, Callable[[Answer], Answer]]] = {
    "more were granted": ("used", grants(4)),
    "it was refused": ("used", refused),
    "it was of something else": ("used", of_another("desk")),
    "it was granted": ("refused", grants(30)),
    "more were held": ("partly", grants(6)),
    "it was held for longer": ("partly", lambda answer: msgspec.structs.replace(answer, expires_at=day(9))),
    "it was not held": ("open", lambda answer: msgspec.structs.replace(answer, expires_at=None)),
    "more were confirmed": ("confirmed", grants(3)),
    "nothing was confirmed": ("confirmed", grants(0)),
    "another hold ended": ("confirmed", lambda answer: msgspec.structs.replace(answer, hold="nothing")),
    "what was released was used": ("released", grants(4)),
    "less was left": ("what is left", grants(9)),
    "nobody got a seat": ("given", refused),
    "a seat was given back later": ("given back", lambda answer: msgspec.structs.replace(answer, recorded_at=day(6))),
    "it was somebody else's": ("passed on", lambda answer: msgspec.structs.replace(answer, customer_id="bob")),
}


@pytest.mark.parametrize(("key", "change"), CHANGES.values(), ids=CHANGES)
def test_an_answer_that_was_changed_is_named(
    database_url: str, ledger: Ledger, key: str, change: Callable[[Answer], Answer]
) -> None:
    rewrite(database_url, key, change)

    assert Check.ANSWER in {one.check for one in verdict(ledger.engine).findings}


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("DELETE FROM idempotency WHERE key = 'used'", "event api@used of request/shop"),
        ("DELETE FROM idempotency WHERE key = 'open'", "event api@open of request/shop"),
        ("DELETE FROM idempotency WHERE key = 'given'", "event seat!desk@given of request/team"),
        ("DELETE FROM idempotency WHERE key = 'confirmed'", "ends of holds"),
        ("UPDATE idempotency SET key = 'other' WHERE key = 'refused'", "answer to shop under other"),
        ("UPDATE idempotency SET customer_id = 'bob' WHERE key = 'used'", "answer to shop under used"),
        ("UPDATE idempotency SET answer = 'nothing' WHERE key = 'refused'", "answer to shop under refused"),
        ("UPDATE idempotency SET recorded_at = now() WHERE key = 'refused'", "answer to shop under refused"),
        ("DELETE FROM event WHERE event_id = 'api@used'", "answer to shop under used"),
        ("DELETE FROM event WHERE event_id = 'seat!desk@given'", "answer to team under given"),
        ("DELETE FROM event WHERE event_id = 'ended!api@wholly'", "answer to shop under released"),
        ("UPDATE event SET event_id = 'used' WHERE event_id = 'api@used'", "event used of request/shop"),
    ],
)
def test_a_row_that_was_changed_is_named(database_url: str, ledger: Ledger, statement: str, row: str) -> None:
    tamper(database_url, statement)

    found = verdict(ledger.engine, findings_max=100).findings

    assert row in {one.row for one in found if one.check is Check.ANSWER}, found


def test_one_customer_is_proven_by_the_answers_to_its_requests(database_url: str, ledger: Ledger) -> None:
    tamper(database_url, "DELETE FROM idempotency WHERE key = 'used'")

    found = verdict(ledger.engine, customer_id="ada").findings

    assert [(one.check, one.customer_id) for one in found] == [(Check.ANSWER, "ada")]


@pytest.mark.parametrize("what", ["", "seat", "ended"])
def test_ids_say_what_they_were_made_of(what: str) -> None:
    made = RequestId(caller="shop", key="a@b!c", entitlement="api", what=what)

    assert request_id_of(made.event_source, made.event_id) == made


@pytest.mark.parametrize(
    ("event_source", "event_id"), [("shop", "api@k"), ("request/shop", "api"), ("request/shop", "other!api@k")]
)
def test_other_ids_are_of_no_request(event_source: str, event_id: str) -> None:
    assert request_id_of(event_source, event_id) is None


def rewrite(database_url: str, key: str, change: Callable[[Answer], Answer]) -> None:
    """The stored answer is another one."""
    with psycopg.connect(database_url) as session:
        row = session.execute("SELECT answer FROM idempotency WHERE key = %s", [key]).fetchone()
        assert row is not None
        before = msgspec.msgpack.decode(row[0], type=Answer)
        after = change(before)
        assert after != before
        session.execute("SET session_replication_role = replica")
        session.execute("UPDATE idempotency SET answer = %s WHERE key = %s", [msgspec.msgpack.encode(after), key])
