"""Services that ask for units while the shop's facts are being applied, and all at once for somebody's last ones.

What they were granted becomes part of the true history, so the oracle is asked about it like about everything else.
"""

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
from sqlalchemy import Engine

from ledger_worker.apply.gathering import Gatherer
from ledger_worker.domain.catalogue import Catalogue, EntitlementType, LimitPolicy
from ledger_worker.domain.events import Event, UsageRecorded
from ledger_worker.domain.requests import Answer, Item, Request, granted_event
from ledger_worker.metrics import CollectorRegistry, Metrics
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import pictures

__all__ = ["LastUnits", "ask_until", "fight_for_the_last", "history_of"]

_CALLER = "demo"
_UNITS_MAX = 4
_PAUSE_SECONDS = 0.05
_THREADS = 8
_ANSWER_SECONDS_MAX = 60.0
_FOUGHT_FOR = range(8, 200)
"""How many units are left where everybody asks for one: some rounds for each, and over within a second or two."""
_LASTS_FOR = timedelta(hours=1)
_LOOKED_AT_MAX = 500


class LastUnits(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking all at once: how many units were left, and the answers."""

    customer_id: str
    entitlement: str
    left: int
    answers: tuple[Answer, ...]

    @property
    def granted(self) -> int:
        """How many units were granted in all."""
        return sum(item.granted for answer in self.answers for item in answer.items)


def ask_until(stop: threading.Event, engine: Engine, customer_ids: Sequence[str], seed: int) -> list[Answer]:
    """Until `stop` is set eight threads ask for some units, by chance of whom and of what. Returns the answers."""
    entitlements = _quotas(_catalogue(engine))

    def ask(gatherer: Gatherer, thread: int) -> list[Answer]:
        chance, answers = random.Random(f"{seed}-{thread}"), list[Answer]()  # noqa: S311 - a seeded demo, no secret
        while not stop.wait(_PAUSE_SECONDS):
            key, units = f"at-random-{thread}-{len(answers)}", chance.randint(1, _UNITS_MAX)
            request = _request(key, chance.choice(customer_ids), chance.choice(entitlements), units)
            answers.append(gatherer.ask(request, _ANSWER_SECONDS_MAX))
        return answers

    return _ask_at_once(engine, ask)


def fight_for_the_last(engine: Engine, customer_ids: Iterable[str]) -> LastUnits | None:
    """Eight threads ask for units of one customer, one by one and as fast as they can, until each was refused.

    None where no customer looked at has a few left of a hard limit.
    """
    found = _few_left(engine, list(customer_ids)[:_LOOKED_AT_MAX])
    if found is None:
        return None
    customer_id, entitlement, left = found

    def ask(gatherer: Gatherer, thread: int) -> list[Answer]:
        answers = list[Answer]()
        while not answers or answers[-1].is_granted:
            request = _request(f"last-{thread}-{len(answers)}", customer_id, entitlement, 1)
            answers.append(gatherer.ask(request, _ANSWER_SECONDS_MAX))
        return answers

    answers = tuple(_ask_at_once(engine, ask))
    return LastUnits(customer_id=customer_id, entitlement=entitlement, left=left, answers=answers)


def history_of(answers: Iterable[Answer]) -> list[Event]:
    """What was granted, as the events that the ledger recorded; of requests for one entitlement each."""
    return [
        granted_event(
            _request(answer.key, answer.customer_id, item.entitlement, item.asked),
            UsageRecorded(entitlement=item.entitlement, units=item.granted),
            answer.recorded_at,
        )
        for answer in answers
        for item in answer.items
        if item.granted
    ]


def _ask_at_once(engine: Engine, ask: Callable[[Gatherer, int], list[Answer]]) -> list[Answer]:
    """What eight threads were answered, who ask one gatherer, each by its number."""
    with Gatherer(engine, Metrics(CollectorRegistry())) as gatherer, ThreadPoolExecutor(_THREADS) as threads:
        asking = [threads.submit(ask, gatherer, thread) for thread in range(_THREADS)]
        return [answer for one in asking for answer in one.result()]


def _request(key: str, customer_id: str, entitlement: str, units: int) -> Request:
    items = (Item(entitlement=entitlement, units=units),)
    return Request(caller=_CALLER, key=key, customer_id=customer_id, items=items)


def _few_left(engine: Engine, customer_ids: Sequence[str]) -> tuple[str, str, int] | None:
    """A customer and what it has a few units left of, under a hard limit and for a while yet."""
    catalogue = _catalogue(engine)
    with engine.connect() as connection:
        found = pictures.load(connection, customer_ids)
    for picture in found:
        for shown in picture.entitlements:
            entitlement = catalogue.entitlements[shown.entitlement]
            ends_soon = shown.expires_at is not None and shown.expires_at < picture.recorded_at + _LASTS_FOR
            is_hard = entitlement.type is EntitlementType.QUOTA and entitlement.limit is LimitPolicy.HARD
            if is_hard and shown.allowed and not shown.unlimited and not ends_soon and shown.remaining in _FOUGHT_FOR:
                return picture.customer_id, shown.entitlement, shown.remaining or 0
    return None


def _quotas(catalogue: Catalogue) -> list[str]:
    return sorted(key for key, one in catalogue.entitlements.items() if one.type is EntitlementType.QUOTA)


def _catalogue(engine: Engine) -> Catalogue:
    with engine.connect() as connection:
        return catalogue_store.read(connection, catalogue_store.read_ledger(connection).catalogue_version)
