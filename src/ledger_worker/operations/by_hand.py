"""What a person does by hand: an assignment is given, renewed, extended, revoked, by an event like any other.

It takes the way of everything that changes the ledger, so it is told, explained and proven like a purchase, and a
rehearsal is the same code rolled back. Each act has a business key of its own (`domain.events`): done again with the
same content it changes nothing, done again with other content it corrects what was done.

A fact on a topic may wait for what it speaks of. What a person does may not: it is refused, and nothing is kept.
"""

from datetime import UTC, datetime
from uuid import uuid4

import msgspec
from sqlalchemy import Engine

from ledger_worker.apply.batch import Applied, Batch, Delivery
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.transaction import apply_batch, rehearse_batch
from ledger_worker.domain.changes import Change
from ledger_worker.domain.events import BY_HAND, AssignmentFact, Event
from ledger_worker.domain.impossible import problem
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.metrics import Stages
from ledger_worker.store import customers as customers_store

__all__ = ["Acted", "RefusedAct", "act", "database_clock"]


class Acted(msgspec.Struct, frozen=True, kw_only=True):
    """What one act did, or would do: its event and outcome, and what is told, with what was due before it."""

    event_source: str
    event_id: str
    assignment_id: str
    outcome: Outcome
    changes: tuple[Change, ...]


class RefusedAct(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing was done: why, in a word, and what was expected."""

    reason: str
    message: str


def act(
    engine: Engine, customer_id: str, fact: AssignmentFact, stages: Stages, *, is_rehearsal: bool = False
) -> Acted | RefusedAct:
    """The act is done and committed; with `is_rehearsal` it is what that would do, rolled back.

    Its instants may have any zone: the ledger's, and what is named by them, are in UTC.
    """
    fact = _in_utc(fact)
    event = Event(
        event_source=BY_HAND,
        event_id=str(uuid4()),
        customer_id=customer_id,
        occurred_at=database_clock(engine),
        fact=fact,
    )
    impossible = problem(event)
    if impossible is not None:
        return RefusedAct(reason="impossible_value", message=impossible)
    batch, catalogues = Batch(deliveries=(Delivery(event=event),)), Catalogues()
    found = _judged(event, fact, rehearse_batch(engine, batch, catalogues, stages))
    if is_rehearsal or isinstance(found, RefusedAct):
        return found
    # What was decided otherwise meanwhile is kept, so it is told as its outcome and not as refused.
    return _judged(event, fact, apply_batch(engine, batch, catalogues, stages), is_kept=True)


def _in_utc(fact: AssignmentFact) -> AssignmentFact:
    instants = {
        name: value.astimezone(UTC)
        for name in fact.__struct_fields__
        if isinstance(value := getattr(fact, name), datetime)
    }
    return msgspec.structs.replace(fact, **instants)


def database_clock(engine: Engine) -> datetime:
    """The clock by which the ledger goes."""
    with engine.connect() as connection:
        return customers_store.clock(connection)


def _judged(event: Event, fact: AssignmentFact, applied: Applied, *, is_kept: bool = False) -> Acted | RefusedAct:
    if applied.refused:
        (refused,) = applied.refused
        return RefusedAct(reason=refused.reason.value, message=refused.message)
    (outcome,) = map(Outcome, applied.outcomes)
    if outcome in _REFUSED and not is_kept:
        message = f"assignment {fact.assignment_id} of {event.customer_id} {_REFUSED[outcome]}"
        return RefusedAct(reason=outcome.value, message=message)
    return Acted(
        event_source=event.event_source,
        event_id=event.event_id,
        assignment_id=fact.assignment_id,
        outcome=outcome,
        changes=applied.told,
    )


_REFUSED = {
    Outcome.WAITING: "is not known, expected one that was given; `customer explain` names those of a customer",
    Outcome.AWAITING_TRANSFER: "is of another customer, expected the one it was given to",
    Outcome.CONTRADICTED: "cannot have such units or such a value, expected a renewal without",
}
"""What a topic may tell and a person may not."""
