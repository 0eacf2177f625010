"""Answering requests: the same transaction as a batch, with a row of first answers in the place of Kafka's offset.

Requests that are waiting together go through one transaction, of any number of customers. Nothing is granted but at its
commit. A request that was answered before is answered the same again, whatever has happened since; what is refused is
answered and kept as such, and told to nobody.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError

from ledger_worker.apply.batch import Batch, ManyDue
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.due import ManyDueError, book_due_apart
from ledger_worker.apply.load import group_customers, load
from ledger_worker.apply.locks import MoreCustomersError, require_all_locked
from ledger_worker.apply.rounds import answer_groups
from ledger_worker.apply.write import write
from ledger_worker.domain.answers import ToAnswer
from ledger_worker.domain.decided import CustomerHead, Told, told_of
from ledger_worker.domain.events import UsageRecorded
from ledger_worker.domain.requests import (
    Answer,
    Asked,
    Confirm,
    Release,
    Request,
    RequestReason,
    SeatAsked,
    end_event,
    granted_event,
    judge,
    refused_answer,
    refused_of,
    request_hash,
    seat_event,
)
from ledger_worker.errors import BrokenInvariantError
from ledger_worker.kafka.murmur2 import murmur2
from ledger_worker.metrics import Stage, Stages
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store
from ledger_worker.store import idempotency as idempotency_store
from ledger_worker.store.idempotency import Key

__all__ = ["answer_requests"]

_ATTEMPTS_MAX = 10
_AGAIN_SQLSTATES = frozenset({"40001", "40P01"})


def answer_requests(
    engine: Engine,
    requests: Sequence[Asked],
    catalogues: Catalogues,
    stages: Stages,
    clock: Callable[[Connection], datetime] = customers_store.clock,
) -> tuple[Answer, ...]:
    """The answer to each request, in their order; what was granted is committed.

    `clock` is asked behind the locks for the instant at which they are decided.

    Of one customer they are decided in their order. One that is impossible in itself, reuses a key for something else,
    is of a parked customer or would pass what can be counted is answered, not kept, and keeps back no other. Raises
    what `apply_batch` does but for events at fault; of what was not answered nothing is granted then, except that a
    lost answer to COMMIT leaves that open: asking again tells.
    """
    try:
        return _answer_together(engine, requests, catalogues, stages, clock)
    except DataError as error:
        if len(requests) > 1:
            middle = len(requests) // 2
            halves = (requests[:middle], requests[middle:])
            return tuple(one for half in halves for one in answer_requests(engine, half, catalogues, stages, clock))
        with engine.connect() as connection:
            now = clock(connection)
        message = f"with what was used before it is more than can be counted: {error.orig}"
        return (refused_answer(requests[0], RequestReason.OUT_OF_RANGE, message, now),)


def _answer_together(
    engine: Engine,
    requests: Sequence[Asked],
    catalogues: Catalogues,
    stages: Stages,
    clock: Callable[[Connection], datetime],
) -> tuple[Answer, ...]:
    """All in one transaction. Raises DataError when one of them is at fault."""
    attempts = 0
    named: frozenset[str] = frozenset()
    due_at: Mapping[str, datetime] = {}
    while True:
        try:
            book_due_apart(engine, due_at, catalogues)
            due_at = {}
            with engine.connect() as connection, connection.begin():
                answers = _transact(connection, requests, catalogues, stages, named, clock)
                stages.reached(Stage.WRITTEN)
            stages.reached(Stage.COMMITTED)
        except ManyDueError as error:
            due_at = error.many.due_at
        except MoreCustomersError as more:
            named |= more.customer_ids
        except _AnsweredMeanwhileError:
            attempts += 1
        except DBAPIError as error:
            attempts += 1
            if attempts == _ATTEMPTS_MAX or getattr(error.orig, "sqlstate", None) not in _AGAIN_SQLSTATES:
                raise
        else:
            return answers
        if attempts == _ATTEMPTS_MAX:
            msg = f"requests were answered by somebody else {_ATTEMPTS_MAX} times and cannot be found"
            raise BrokenInvariantError(msg)


class _AnsweredMeanwhileError(Exception):
    """One of the keys was used by somebody else since it was looked for, for another customer: look again."""


def _transact(
    connection: Connection,
    requests: Sequence[Asked],
    catalogues: Catalogues,
    stages: Stages,
    named: frozenset[str],
    clock: Callable[[Connection], datetime],
) -> tuple[Answer, ...]:
    """Everything but the commit: lock, first answers, load, decide, write."""
    catalogue_store.lock_shared(connection)
    ledger = catalogue_store.read_ledger(connection)
    catalogue = catalogues.at(connection, ledger.catalogue_version)
    possible = [request for request in requests if judge(request) is None]
    known_customers = customers_store.known(connection, [request.customer_id for request in possible])
    wanted = sorted({*named, *known_customers}, key=str.encode)
    heads, key_hashes = customers_store.read_heads(connection, customers_store.lock(connection, wanted, murmur2))
    require_all_locked(heads, {})
    parked = {
        one.customer_id
        for one in heads.values()
        if any(heads[each].is_parked for each in (one.customer_id, *one.linked))
    }
    stages.reached(Stage.LOCKED)

    # Behind the locks: who asked the same at once for this customer has committed by now.
    first = idempotency_store.find(connection, [*map(_key, possible), *map(_hold, possible)])
    now = clock(connection)
    hashes = {key: request_hash for key, (request_hash, _) in first.items()}
    answered = {key: answer for key, (_, answer) in first.items()}
    new: list[Asked] = []
    for request in possible:
        if _key(request) in hashes:
            continue
        hashes[_key(request)] = request_hash(request)
        if request.customer_id in parked:
            message = "the customer is held by an operator, expected the request again later"
            answered[_key(request)] = refused_answer(request, RequestReason.PARKED, message, now)
            continue
        new.append(request)
        if request.customer_id not in heads:
            message = f"customer {request.customer_id} is not known to the ledger"
            answered[_key(request)] = refused_answer(request, RequestReason.NOT_ENTITLED, message, now)
    known = [request for request in new if request.customer_id in heads]
    to_decide = _to_decide(known, {key: answer for key, (_, answer) in first.items()}, heads, now)
    decidable = {_key(one.asked) for one, _ in to_decide}
    for request in known:
        if _key(request) not in decidable:
            message = f"{request.caller} holds nothing of {request.customer_id} under that key"
            answered[_key(request)] = refused_answer(request, RequestReason.UNKNOWN_HOLD, message, now)
    stages.reached(Stage.INBOX)

    groups = group_customers([told for _, told in to_decide], heads, {})
    asked = [list({_key(to_decide[at][0].asked): to_decide[at][0] for at in group.places}.values()) for group in groups]
    loaded = load(connection, groups, heads, {}, catalogue)
    stages.reached(Stage.LOADED)

    found = answer_groups(connection, groups, asked, loaded, catalogue, ledger)
    if isinstance(found, ManyDue):
        raise ManyDueError(found)
    stages.reached(Stage.DECIDED)

    write(connection, Batch(), groups, [decided for decided, _ in found], ledger, key_hashes)
    answered |= {(answer.caller, answer.key): answer for _, answers in found for answer in answers}
    if new and not idempotency_store.keep(connection, [(hashes[_key(one)], answered[_key(one)]) for one in new]):
        raise _AnsweredMeanwhileError
    return tuple(_answer_to(request, hashes, answered, now) for request in requests)


def _answer_to(request: Asked, hashes: Mapping[Key, bytes], answered: Mapping[Key, Answer], now: datetime) -> Answer:
    impossible = judge(request)
    if impossible is not None:
        return refused_answer(request, RequestReason.IMPOSSIBLE_VALUE, impossible, now)
    if hashes[_key(request)] != request_hash(request):
        message = "something else was asked under this key before, expected a new key or the same request"
        return refused_answer(request, RequestReason.KEY_REUSED, message, now)
    return answered[_key(request)]


def _key(request: Asked) -> Key:
    return request.caller, request.key


def _hold(request: Asked) -> Key:
    """The key under which the request says that something is held; its own where it is no such request."""
    return request.caller, request.hold if isinstance(request, Confirm | Release) else request.key


def _to_decide(
    requests: Sequence[Asked], first: Mapping[Key, Answer], heads: Mapping[str, CustomerHead], now: datetime
) -> list[tuple[ToAnswer, Told]]:
    """What is to be decided, once for each event that may come of it; without what says a hold that nobody knows."""
    holds = {_key(request): _as_if_granted(request, now) for request in requests if isinstance(request, Request)}
    holds |= first
    return [
        (ToAnswer(request, now, first.get(_hold(request))), told)
        for request in requests
        for told in _may_be_told(request, holds, heads, now)
    ]


def _may_be_told(
    request: Asked, holds: Mapping[Key, Answer], heads: Mapping[str, CustomerHead], now: datetime
) -> list[Told]:
    """What may have to be recorded, so that it is loaded; nothing where the hold is not known, or of somebody else."""
    if isinstance(request, Request):
        items = [UsageRecorded(entitlement=item.entitlement, units=item.units) for item in request.items]
        return [told_of(granted_event(request, item, now), now) for item in items]
    if isinstance(request, SeatAsked):
        return [told_of(seat_event(request, now), now)]
    held = holds.get(_hold(request))
    if held is None or held.customer_id not in (request.customer_id, *heads[request.customer_id].linked):
        return []
    return [told_of(end_event(held, item.entitlement, 0, now), now) for item in held.items]


def _as_if_granted(request: Request, now: datetime) -> Answer:
    """What a request of the same batch comes to at most: it names what an end of its hold is about."""
    items = tuple(msgspec.structs.replace(refused_of(item, None, None), granted=item.units) for item in request.items)
    return msgspec.structs.replace(refused_answer(request, RequestReason.EXHAUSTED, "", now), items=items)
