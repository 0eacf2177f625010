"""Services that ask for units and seats while the shop's facts are applied, and all at once for somebody's last ones.

They use units or hold them first, and confirm or release what they hold, or forget it; they give seats, pass them on,
and take them back. What they were granted becomes part of the true history, so the oracle is asked about it like about
everything else.
"""

import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
from sqlalchemy import Engine

from ledger_worker.apply.gathering import Gatherer
from ledger_worker.domain.catalogue import Catalogue, EntitlementType, LimitPolicy
from ledger_worker.domain.events import Event, HoldTaken, UsageRecorded
from ledger_worker.domain.requests import (
    Answer,
    Asked,
    AssignSeat,
    Confirm,
    Granted,
    Item,
    Release,
    Request,
    SeatAsked,
    SwapSeat,
    UnassignSeat,
    end_event,
    granted_event,
    seat_event,
)
from ledger_worker.errors import UnansweredError
from ledger_worker.metrics import CollectorRegistry, Metrics
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import pictures

__all__ = ["Answered", "LastUnits", "ask_until", "fight_for_the_last", "history_of", "hold_for"]

_CALLER = "demo"
_UNITS_MAX = 4
_PAUSE_SECONDS = 0.05
_HOLD_SECONDS_MAX = 20
_THREADS = 8
_ANSWER_SECONDS_MAX = 60.0
_ASKED_AGAIN_MAX = 5
_EVERY_OTHER_TIME = 0.5
_FOUGHT_FOR = {EntitlementType.QUOTA: range(8, 200), EntitlementType.SEATS: range(2, 200)}
"""How many are left where everybody asks for one: some rounds for each, and over within a second or two."""
_PEOPLE = ("ann", "ben", "cleo", "dan", "eve", "finn", "gus")
_LASTS_FOR = timedelta(hours=1)
_LOOKED_AT_MAX = 500
_HELD_MAX = 20


class Answered(msgspec.Struct, frozen=True):
    """What was asked, and the answer."""

    asked: Asked
    answer: Answer


class LastUnits(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking all at once: how many units or seats were left, and what was answered."""

    customer_id: str
    entitlement: str
    left: int
    answers: tuple[Answered, ...]

    @property
    def granted(self) -> int:
        """How many were granted in all."""
        return sum(item.granted for one in self.answers for item in one.answer.items)


def ask_until(stop: threading.Event, engine: Engine, customer_ids: Sequence[str], seed: int) -> list[Answered]:
    """Until `stop` is set eight threads ask by chance: whom, for what, whether to hold it, and what becomes of that.

    Every third time it is about a seat, and of those every other time about somebody who was given one before.
    """
    catalogue = _catalogue(engine)
    quotas, seats = _of_type(catalogue, EntitlementType.QUOTA), _of_type(catalogue, EntitlementType.SEATS)

    def ask(gatherer: Gatherer, thread: int) -> list[Answered]:
        """What one thread was answered; where it holds something, every other time it ends the hold taken last."""
        chance, answers = random.Random(f"{seed}-{thread}"), list[Answered]()  # noqa: S311 - a seeded demo, no secret
        held: list[Answer] = []
        seated: list[AssignSeat] = []
        while not stop.wait(_PAUSE_SECONDS):
            key = f"at-random-{thread}-{len(answers)}"
            asked: Asked
            if chance.random() < 1 / 3:
                given = chance.choice(seated) if seated and chance.random() < _EVERY_OTHER_TIME else None
                asked = _about_seats(key, chance.choice(customer_ids), chance.choice(seats), given, chance)
            elif held and chance.random() < _EVERY_OTHER_TIME:
                asked = _end(key, held.pop(), chance)
            else:
                seconds = chance.choice([None, chance.randint(1, _HOLD_SECONDS_MAX)])
                units = chance.randint(1, _UNITS_MAX)
                asked = _request(key, chance.choice(customer_ids), chance.choice(quotas), units, seconds)
            answer = _answer(gatherer, asked)
            answers.append(Answered(asked, answer))
            if answer.expires_at is not None:
                held.append(answer)
            if answer.is_granted and isinstance(asked, AssignSeat):
                seated.append(asked)
        return answers

    return _ask_at_once(engine, ask)


def hold_for(engine: Engine, customer_ids: Sequence[str], seconds: int, name: str) -> list[Answered]:
    """Some customers who have units left hold one for so long, and nobody comes back for it."""
    catalogue = _catalogue(engine)
    with engine.connect() as connection:
        found = pictures.load(connection, customer_ids[:_LOOKED_AT_MAX])
    quotas = _of_type(catalogue, EntitlementType.QUOTA)
    hard = {key for key in quotas if catalogue.entitlements[key].limit is LimitPolicy.HARD}
    wanted = [
        (picture.customer_id, shown.entitlement)
        for picture in found
        for shown in picture.entitlements
        if shown.entitlement in hard and shown.allowed and not shown.unlimited
    ][:_HELD_MAX]
    with Gatherer(engine, Metrics(CollectorRegistry())) as gatherer:
        requests = [_request(f"{name}-{number}", *whose, 1, seconds) for number, whose in enumerate(wanted)]
        return [Answered(request, _answer(gatherer, request)) for request in requests]


def fight_for_the_last(engine: Engine, customer_ids: Iterable[str], kind: EntitlementType) -> LastUnits | None:
    """Eight threads ask for units or seats of one customer, one by one and at once, until each was refused.

    None where no customer looked at has a few left of an entitlement of that type, with a hard limit.
    """
    found = _few_left(engine, list(customer_ids)[:_LOOKED_AT_MAX], kind)
    if found is None:
        return None
    customer_id, entitlement, left = found

    def ask(gatherer: Gatherer, thread: int) -> list[Answered]:
        """What one thread was answered: a unit each time, and a refusal at the end."""
        answers = list[Answered]()
        while not answers or answers[-1].answer.is_granted:
            key = f"last-{entitlement}-{thread}-{len(answers)}"
            asked: Asked = _request(key, customer_id, entitlement, 1)
            if kind is EntitlementType.SEATS:
                asked = _seat(key, customer_id, entitlement, f"person {thread}-{len(answers)}")
            answers.append(Answered(asked, _answer(gatherer, asked)))
        return answers

    answers = tuple(_ask_at_once(engine, ask))
    return LastUnits(customer_id=customer_id, entitlement=entitlement, left=left, answers=answers)


def history_of(answers: Sequence[Answered]) -> list[Event]:
    """What was granted, as the events that the ledger recorded; of requests for one entitlement each."""
    first = {one.answer.key: one.answer for one in answers}
    return [
        _event_of(one.asked, one.answer, item, first)
        for one in answers
        if one.answer.is_granted
        for item in one.answer.items
    ]


def _event_of(asked: Asked, answer: Answer, item: Granted, first: Mapping[str, Answer]) -> Event:
    name, units, at = item.entitlement, item.granted, answer.recorded_at
    if isinstance(asked, SeatAsked):
        return seat_event(asked, at)
    if not isinstance(asked, Request):
        return end_event(first[asked.hold], name, units, at)
    if answer.expires_at is None:
        return granted_event(asked, UsageRecorded(entitlement=name, units=units), at)
    return granted_event(asked, HoldTaken(entitlement=name, units=units, expires_at=answer.expires_at), at)


def _end(key: str, held: Answer, chance: random.Random) -> Asked:
    """What becomes of a hold: all of it is confirmed, one unit, or none."""
    names = {"caller": _CALLER, "key": key, "customer_id": held.customer_id, "hold": held.key}
    if chance.random() < 1 / 3:
        return Release(**names)
    some = (Item(entitlement=held.items[0].entitlement, units=1),)
    return Confirm(**names, items=chance.choice([(), some]))


def _about_seats(
    key: str, customer_id: str, entitlement: str, given: AssignSeat | None, chance: random.Random
) -> SeatAsked:
    """Somebody new is to have a seat; or of one that was given before somebody else, or nobody."""
    new = chance.choice(_PEOPLE)
    if given is None:
        return _seat(key, customer_id, entitlement, new)
    names = {
        "caller": _CALLER,
        "key": key,
        "customer_id": given.customer_id,
        "entitlement": given.entitlement,
        "holder": given.holder,
    }
    if new == given.holder:
        return UnassignSeat(**names)
    if chance.random() < _EVERY_OTHER_TIME:
        return SwapSeat(**names, to=new)
    return _seat(key, given.customer_id, given.entitlement, new)


def _seat(key: str, customer_id: str, entitlement: str, holder: str) -> AssignSeat:
    return AssignSeat(caller=_CALLER, key=key, customer_id=customer_id, entitlement=entitlement, holder=holder)


def _answer(gatherer: Gatherer, asked: Asked) -> Answer:
    """The answer, asked for again under the same key while somebody else has the customer for too long."""
    for _ in range(_ASKED_AGAIN_MAX):
        try:
            return gatherer.ask(asked, _ANSWER_SECONDS_MAX)
        except UnansweredError:
            continue
    return gatherer.ask(asked, _ANSWER_SECONDS_MAX)


def _ask_at_once(engine: Engine, ask: Callable[[Gatherer, int], list[Answered]]) -> list[Answered]:
    """What eight threads were answered, who ask one gatherer, each by its number."""
    with Gatherer(engine, Metrics(CollectorRegistry())) as gatherer, ThreadPoolExecutor(_THREADS) as threads:
        asking = [threads.submit(ask, gatherer, thread) for thread in range(_THREADS)]
        return [answered for one in asking for answered in one.result()]


def _request(key: str, customer_id: str, entitlement: str, units: int, seconds: int | None = None) -> Request:
    items = (Item(entitlement=entitlement, units=units),)
    return Request(caller=_CALLER, key=key, customer_id=customer_id, items=items, hold_seconds=seconds)


def _few_left(engine: Engine, customer_ids: Sequence[str], kind: EntitlementType) -> tuple[str, str, int] | None:
    """A customer and what it has a few left of, under a hard limit and for a while yet."""
    catalogue = _catalogue(engine)
    with engine.connect() as connection:
        found = pictures.load(connection, customer_ids)
    for picture in found:
        for shown in picture.entitlements:
            entitlement = catalogue.entitlements[shown.entitlement]
            ends_soon = shown.expires_at is not None and shown.expires_at < picture.recorded_at + _LASTS_FOR
            is_meant = entitlement.type is kind and entitlement.limit is LimitPolicy.HARD
            is_few = not shown.unlimited and shown.remaining in _FOUGHT_FOR[kind]
            if is_meant and is_few and shown.allowed and not shown.over_allocated and not ends_soon:
                return picture.customer_id, shown.entitlement, shown.remaining or 0
    return None


def _of_type(catalogue: Catalogue, kind: EntitlementType) -> list[str]:
    return sorted(key for key, one in catalogue.entitlements.items() if one.type is kind)


def _catalogue(engine: Engine) -> Catalogue:
    with engine.connect() as connection:
        return catalogue_store.read(connection, catalogue_store.read_ledger(connection).catalogue_version)
