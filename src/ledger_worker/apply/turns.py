"""Whose turn it is: requests that wait, in the order in which they came, and which of them one transaction takes.

No threads, no database, no time: `gathering` moves it, under a lock of its own. The oldest are taken first, as many as
a transaction may have, of customers that no other transaction of this process has: so the requests of one customer
gather while one is under way, and are answered in their order. A customer whom somebody else holds is set aside and
answered alone, and never by all connections at once: so nobody else waits for whoever holds it.

How long that can take: whatever is taken in place of a request, while the customer of the request is free, came before
it. With at most W unanswered and B in a transaction, that is true of at most (W - 1) // B transactions. Before them may
come the end of one that was under way when the request came, because it had the customer or the last connection. So a
request waits for as many transactions as `batches_before_max` says, and no more.
"""

from collections.abc import Collection
from concurrent.futures import Future

import msgspec

from ledger_worker.domain.requests import Answer, Asked

__all__ = ["Taken", "Turns", "Waiting"]


class Waiting:
    """A request that waits for its answer; who asked waits for `found`."""

    def __init__(self, request: Asked, asked_at: float) -> None:
        self.request = request
        self.asked_at = asked_at
        """Seconds of a clock that only goes forward."""
        self.found: Future[Answer] = Future()
        self.number = 0
        """Its place in the order of coming, once it waits."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction answers; `is_alone` when it is one customer who was set aside."""

    asked: tuple[Waiting, ...]
    is_alone: bool

    @property
    def requests(self) -> tuple[Asked, ...]:
        """What was asked, in its order."""
        return tuple(one.request for one in self.asked)

    @property
    def customer_ids(self) -> set[str]:
        """Whose requests they are."""
        return {one.request.customer_id for one in self.asked}


class Turns:
    """The order of what is unanswered. Not to be touched by two threads at once."""

    def __init__(self, *, connections: int, batch_max: int, unanswered_max: int) -> None:
        self._connections = connections
        self._batch_max = batch_max
        self._unanswered_max = unanswered_max
        self._waiting: list[Waiting] = []
        self._busy: set[str] = set()
        self._aside: dict[str, None] = {}
        self._alone = 0
        self._numbered = 0
        self.unanswered = 0
        """How many wait or are taken."""

    @property
    def batches_before_max(self) -> int:
        """For how many transactions a request waits at most, while nobody else holds its customer."""
        return 1 + (self._unanswered_max - 1) // self._batch_max

    def add(self, asked: Waiting) -> bool:
        """It waits, behind all others; False and nothing done when as many are unanswered as may be."""
        if self.unanswered == self._unanswered_max:
            return False
        self.unanswered += 1
        self._numbered += 1
        asked.number = self._numbered
        self._waiting.append(asked)
        return True

    def withdraw(self, asked: Waiting) -> bool:
        """It waits no more; False when it is taken already."""
        if asked not in self._waiting:
            return False
        self._waiting.remove(asked)
        self.unanswered -= 1
        return True

    def is_free(self, customer_id: str) -> bool:
        """Whether a request of the customer could be taken now."""
        return customer_id not in self._busy and customer_id not in self._aside

    def take(self) -> Taken | None:
        """Those whose turn it is, for one transaction; None when nobody's is."""
        asked = self._set_aside()
        is_alone = bool(asked)
        if not asked:
            asked = [one for one in self._waiting if self.is_free(one.request.customer_id)][: self._batch_max]
        if not asked:
            return None
        taken = Taken(asked=tuple(asked), is_alone=is_alone)
        left = set(asked)
        self._waiting = [one for one in self._waiting if one not in left]
        self._busy |= taken.customer_ids
        self._alone += is_alone
        return taken

    def may_be_more(self, taken: Taken) -> bool:
        """Whether another transaction could take something too, right after this one."""
        return taken.is_alone or len(taken.asked) == self._batch_max

    def put_back(self, taken: Taken, held: Collection[str]) -> None:
        """They wait again where they did; these customers among them are set aside."""
        self._busy -= taken.customer_ids
        self._waiting = sorted((*taken.asked, *self._waiting), key=lambda one: one.number)
        self._aside |= dict.fromkeys(one.request.customer_id for one in taken.asked if one.request.customer_id in held)

    def done(self, taken: Taken) -> None:
        """They are answered, or never will be. After one who was set aside, the others are tried with everybody."""
        self._busy -= taken.customer_ids
        self.unanswered -= len(taken.asked)
        if taken.is_alone:
            self._alone -= 1
            self._aside.clear()

    def drain(self) -> list[Waiting]:
        """Nobody waits any more; returns who did."""
        left, self._waiting = self._waiting, []
        self.unanswered -= len(left)
        return left

    def _set_aside(self) -> list[Waiting]:
        """The requests of whoever was set aside first, while a connection is left for everybody else."""
        while self._aside and self._alone < self._connections - 1:
            customer_id = next(iter(self._aside))
            del self._aside[customer_id]
            asked = [one for one in self._waiting if one.request.customer_id == customer_id]
            if asked:
                return asked[: self._batch_max]
        return []
