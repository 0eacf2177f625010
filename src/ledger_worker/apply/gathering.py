"""Gathering: many threads ask one at a time, and requests that wait together are answered in one transaction.

A request waits until a connection is free and no other transaction has its customer; whatever else waits by then goes
with it (`turns` says which). So nobody waits for a batch to fill up, and batches grow as more is asked: one customer
whom everybody asks about is answered a batch at a time, and others beside it on the other connections.

The race is with whoever else holds a customer: a worker, the clock, another process that gathers. A transaction waits
for a lock only shortly. When it was not had, those who are held are set aside, the others go on without them, and each
of those set aside is asked for again alone and patiently. Where the books stand is the database's alone: two processes
that gather for one customer wait for each other's commit like any two transactions.
"""

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.requests import answer_requests
from ledger_worker.apply.turns import Taken, Turns, Waiting
from ledger_worker.domain.requests import Answer, Asked, judge
from ledger_worker.errors import BrokenInvariantError, OverloadedError, UnansweredError, UnavailableError
from ledger_worker.metrics import Metrics, Stages
from ledger_worker.store import customers as customers_store
from ledger_worker.store import database

__all__ = ["BATCH_REQUESTS_MAX", "CONNECTIONS", "UNANSWERED_MAX", "Gatherer"]

CONNECTIONS = 3
"""How many transactions a gatherer has under way at most, each on a connection of the engine's pool."""
BATCH_REQUESTS_MAX = 500
"""Most requests of one transaction: it holds their customers for about a tenth of a second."""
UNANSWERED_MAX = 2_000
"""Most requests that wait or are being answered; whoever comes then is turned away."""

_HURRIED_SECONDS = 0.1
"""How long a transaction for everybody waits for a customer: about as long as a worker's batch holds one."""
_LOCK_NOT_AVAILABLE = "55P03"


class Gatherer:
    """Answers requests until it is closed; any number of threads may ask at once. Close it, or use it in a `with`."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        connections: int = CONNECTIONS,
        batch_requests_max: int = BATCH_REQUESTS_MAX,
        unanswered_max: int = UNANSWERED_MAX,
    ) -> None:
        """The engine's pool has as many `connections`, at least 2: one is kept from customers whom somebody holds."""
        if connections < 2:  # noqa: PLR2004 - the sentence above
            raise ValueError(f"connections is {connections}, expected at least 2")
        self._engine = engine
        self._hurried = database.hurried(engine, _HURRIED_SECONDS)
        self._metrics = metrics
        self._turns = Turns(connections=connections, batch_max=batch_requests_max, unanswered_max=unanswered_max)
        self._changed = threading.Condition()
        self._is_closed = False
        names = [f"gatherer-{number}" for number in range(connections)]
        self._threads = [threading.Thread(target=self._answer_all, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        """Itself, as it is."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closed."""
        self.close()

    @property
    def unanswered(self) -> int:
        """How many requests wait or are being answered now."""
        return self._turns.unanswered

    def ask(self, request: Asked, timeout_seconds: float) -> Answer:
        """The answer, as `answer_requests` gives it, once it is committed; waits for it at most so long.

        Raises OverloadedError when too many wait, UnavailableError when the gatherer is closed (of neither anything was
        done), UnansweredError when the time is over or the transaction failed, BrokenInvariantError when it failed by a
        fault of ours. A request whose time is over while it waits is withdrawn; one that was taken by then is answered
        all the same and kept under its key, so asking again tells.
        """
        asked = Waiting(request, time.monotonic())
        with self._changed:
            if self._is_closed:
                raise UnavailableError(_closed(request))
            if not self._turns.add(asked):
                self._metrics.requests_overloaded.inc()
                raise OverloadedError(
                    f"request {_name(request)}: {self._turns.unanswered} wait for an answer already, nothing was done, "
                    "ask again later"
                )
            self._count()
            if self._turns.is_free(request.customer_id):
                self._changed.notify()
        try:
            return asked.found.result(timeout_seconds)
        except TimeoutError:
            with self._changed:
                self._turns.withdraw(asked)
                self._count()
        if asked.found.done():
            return asked.found.result()
        raise UnansweredError(
            f"request {_name(request)} was not answered within {timeout_seconds:g} s, ask again under the same key"
        )

    def close(self) -> None:
        """What was taken is answered, what waited is refused: nothing was done of it. A second call does nothing."""
        with self._changed:
            self._is_closed = True
            left = self._turns.drain()
            self._count()
            self._changed.notify_all()
        for one in left:
            one.found.set_exception(UnavailableError(_closed(one.request)))
        for thread in self._threads:
            thread.join()

    # -- in the threads of the gatherer ----------------------------------------------------------------------

    def _answer_all(self) -> None:
        catalogues, stages = Catalogues(), Stages(self._metrics)
        while (taken := self._next()) is not None:
            self._answer(taken, catalogues, stages)

    def _next(self) -> Taken | None:
        """Waits for what is to be answered next; None once closed."""
        with self._changed:
            while not self._is_closed:
                taken = self._turns.take()
                if taken is not None:
                    if self._turns.may_be_more(taken):
                        self._changed.notify()
                    return taken
                self._changed.wait()
            return None

    def _answer(self, taken: Taken, catalogues: Catalogues, stages: Stages) -> None:
        """Who asked is answered, or told what came in the way; or they wait again, without those who are held."""
        began_at = time.monotonic()
        found = None
        if not taken.is_alone:
            found = _answer_each(self._hurried, taken.requests, catalogues, stages)
            if any(map(_is_held_up, found)):
                held = self._held(taken)
                if held and self._put_back(taken, held):
                    return
                found = None  # who was in the way has gone, or is in everybody's, as whoever publishes a catalogue
        if found is None:
            found = _answer_each(self._engine, taken.requests, catalogues, stages)
        with self._changed:
            self._turns.done(taken)
            self._count()
        self._metrics.request_batch_requests.observe(len(taken.asked))
        for asked, answer in zip(taken.asked, found, strict=True):
            self._metrics.request_waiting_seconds.observe(began_at - asked.asked_at)
            if isinstance(answer, Answer):
                asked.found.set_result(answer)
            else:
                asked.found.set_exception(_told(asked, answer))

    def _held(self, taken: Taken) -> set[str]:
        """Whose requests cannot be decided now because somebody else holds them."""
        customer_ids = {one.customer_id for one in taken.requests if judge(one) is None}
        try:
            with self._engine.connect() as connection:
                return customers_store.held(connection, sorted(customer_ids))
        except SQLAlchemyError:
            return set()  # who tries them next meets the same, and tells them

    def _put_back(self, taken: Taken, held: set[str]) -> bool:
        """They wait again; not once closed, when nobody would take them."""
        with self._changed:
            if self._is_closed:
                return False
            self._turns.put_back(taken, held)
        self._metrics.requests_set_aside.inc(len(held))
        return True

    def _count(self) -> None:
        self._metrics.requests_unanswered.set(self._turns.unanswered)


def _answer_each(
    engine: Engine, requests: Sequence[Asked], catalogues: Catalogues, stages: Stages
) -> list[Answer | Exception]:
    """The answer to each, or what came in its way; where an invariant would break, the others go without that one."""
    stages.begin()
    try:
        return [*answer_requests(engine, requests, catalogues, stages)]
    except Exception as error:  # noqa: BLE001 - handed to who asked
        if _is_ours(error) and len(requests) > 1:
            middle = len(requests) // 2
            halves = (requests[:middle], requests[middle:])
            return [one for half in halves for one in _answer_each(engine, half, catalogues, stages)]
        return [error] * len(requests)


def _is_held_up(found: Answer | Exception) -> bool:
    return isinstance(found, DBAPIError) and getattr(found.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE


def _is_ours(error: Exception) -> bool:
    return isinstance(error, IntegrityError | BrokenInvariantError)


def _told(asked: Waiting, error: Exception) -> Exception:
    """What who asked is told; an exception of its own for each, because each is raised in another thread."""
    reason, *_ = str(error.orig if isinstance(error, DBAPIError) else error).splitlines() or [type(error).__name__]
    said: Exception
    if _is_ours(error):
        said = BrokenInvariantError(f"request {_name(asked.request)}: {reason}")
    else:
        said = UnansweredError(f"request {_name(asked.request)}: {reason}; ask again under the same key")
    said.__cause__ = error
    return said


def _closed(request: Asked) -> str:
    return f"request {_name(request)} came when no more are answered here: nothing was done, ask another process"


def _name(request: Asked) -> str:
    return f"{request.key} of {request.caller}"
