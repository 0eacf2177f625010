"""One call over HTTP, as a handler sees it, and a row of the table of routes."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from sqlalchemy import Engine

from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.gathering import Gatherer
from ledger_worker.operations.keys import Role

__all__ = ["Call", "Caller", "Handler", "Nothing", "Route", "Services"]


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who came in, and what it may do."""

    name: str
    roles: frozenset[str]


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """What handlers work with; shared by all threads. A request waits for its answer `answer_seconds` at most."""

    engine: Engine
    gatherer: Gatherer
    catalogues: Catalogues
    answer_seconds: float


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query, or no body."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was read and let in: `path` by the names of the route, `query` and `body` of the route's types.

    `idempotency_key` is None only where the route needs none.
    """

    services: Services
    caller: Caller
    request_id: str
    path: Mapping[str, str]
    query: Any
    body: Any
    idempotency_key: str | None = None


Handler = Callable[[Call], msgspec.Struct]
"""Answers a call; raises ProblemError where it cannot."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path.

    `name` is its operation id, `roles` who may (any of them is enough), `query`, `body` and `answer` are the types of
    what is sent and answered. `needs_key` asks for an Idempotency-Key. `problems` are those beside the ones that every
    route can have.
    """

    method: str
    path: str
    name: str
    tag: str
    summary: str
    roles: frozenset[Role]
    handler: Handler
    answer: type[msgspec.Struct]
    query: type[msgspec.Struct] = Nothing
    body: type[msgspec.Struct] | None = None
    needs_key: bool = False
    status: HTTPStatus = HTTPStatus.OK
