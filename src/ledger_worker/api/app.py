"""The WSGI application: reads a call, lets it in or not, and answers what the handler of its route says.

In this order, and the first that is wrong is answered: the path and its method, the key, the roles, the
Idempotency-Key, the query, the body. Nothing of a request is looked at before the key but its size.
"""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import falcon
import msgspec
import structlog
from falcon import App, Request, Response
from sqlalchemy.exc import DBAPIError

from ledger_worker.api.calls import Call, Caller, Route, Services
from ledger_worker.api.limits import PATH_TYPES, Key
from ledger_worker.api.openapi import document
from ledger_worker.api.problems import ProblemError, ProblemType
from ledger_worker.api.table import ROUTES
from ledger_worker.errors import UnavailableError
from ledger_worker.operations.keys import Role, whose
from ledger_worker.store import customers
from ledger_worker.store.database import is_away

__all__ = ["BODY_BYTES_MAX", "make_app"]

BODY_BYTES_MAX = 1_048_576
"""Largest body in bytes: a hundred customers with a hundred entitlements each are well below."""
_TEXT_SENT_MAX = 200
_JSON = "application/json"
_PROBLEM = "application/problem+json"
_REQUEST_ID_MAX = 100
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_ENCODER = msgspec.json.Encoder(decimal_format="number")


def make_app(services: Services, routes: tuple[Route, ...] = ROUTES) -> App[Request, Response]:
    """The application over these services."""
    app: App[Request, Response] = App(middleware=[_Frame()])
    app.req_options.strip_url_path_trailing_slash = False
    by_path: dict[str, list[Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, []).append(route)
    for path, of_path in by_path.items():
        app.add_route(path, _resource(services, of_path))
    openapi = _ENCODER.encode(document(routes))
    app.add_route("/openapi.json", _Document(openapi))
    app.add_route("/livez", _Alive())
    app.add_route("/readyz", _Ready(services))
    app.add_error_handler(Exception, _on_error)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    return app


class _Frame:
    """What every response has: a request id, and headers that keep a browser from doing what nobody meant."""

    def process_request(self, request: Request, _response: Response) -> None:
        """The call has an id: the one that was sent, where it can be printed, else a new one."""
        sent = request.get_header("X-Request-Id") or ""
        is_fit = sent.isascii() and sent.isprintable() and 0 < len(sent) <= _REQUEST_ID_MAX
        request.context.request_id = sent if is_fit else uuid4().hex

    def process_response(self, request: Request, response: Response, _resource: object, _succeeded: bool) -> None:  # noqa: FBT001 - as Falcon calls it
        """The headers are set."""
        response.set_header("X-Request-Id", request.context.request_id)
        for name, value in _HEADERS.items():
            if response.get_header(name) is None:
                response.set_header(name, value)


class _Document:
    """The OpenAPI document, for everybody: it says what a key would open, and opens nothing."""

    def __init__(self, openapi: bytes) -> None:
        self._openapi = openapi

    def on_get(self, _request: Request, response: Response) -> None:
        """The document."""
        response.content_type = _JSON
        response.data = self._openapi


class _Alive:
    """Whether the process answers at all: a restart would help if not."""

    def on_get(self, _request: Request, response: Response) -> None:
        """It does."""
        response.content_type = _JSON
        response.data = b'{"ok":true}'


class _Ready:
    """Whether the database answers: a restart would not help if not."""

    def __init__(self, services: Services) -> None:
        self._engine = services.engine

    def on_get(self, _request: Request, response: Response) -> None:
        """It was asked just now. Raises what the database raises."""
        with self._engine.connect() as connection:
            customers.clock(connection)
        response.content_type = _JSON
        response.data = b'{"ok":true}'


def _resource(services: Services, routes: list[Route]) -> object:
    """A Falcon resource that answers each method of one path."""
    resource = type("Resource", (), {})()
    for route in routes:
        setattr(resource, f"on_{route.method.lower()}", _responder(services, route))
    return resource


def _responder(services: Services, route: Route) -> Callable[..., None]:
    body_of = None if route.body is None else msgspec.json.Decoder(route.body)

    def respond(request: Request, response: Response, **path: str) -> None:
        """One call of the route is answered."""
        caller = _let_in(services, route, request)
        call = Call(
            services=services,
            caller=caller,
            request_id=request.context.request_id,
            path={name: _part(name, value) for name, value in path.items()},
            idempotency_key=_key(request) if route.needs_key else None,
            query=_query(route, request),
            body=None if body_of is None else _body(body_of, request),
        )
        answer = route.handler(call)
        response.status = route.status
        response.content_type = _JSON
        response.data = _ENCODER.encode(answer)

    return respond


# -- reading a call --


def _let_in(services: Services, route: Route, request: Request) -> Caller:
    """Who comes. Raises ProblemError for a key that is none, and for one that may not."""
    kind, _, secret = (request.get_header("Authorization") or "").partition(" ")
    if kind.lower() != "bearer" or not secret:
        raise ProblemError(
            ProblemType.NOT_AUTHENTICATED,
            "no key was sent, expected the header Authorization: Bearer KEY",
            headers={"WWW-Authenticate": "Bearer"},
        )
    with services.engine.begin() as connection:
        key = whose(connection, secret.strip())
    if key is None:
        raise ProblemError(
            ProblemType.NOT_AUTHENTICATED,
            "the key is none that is in force, expected one that `ledger-worker keys create` made",
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )
    if not route.roles.intersection(key.roles):
        wanted = ", ".join(sorted(role.value for role in route.roles))
        raise ProblemError(ProblemType.NOT_ALLOWED, f"the key has none of the roles that may do this: {wanted}")
    return Caller(name=key.name, roles=frozenset(role.value for role in Role if role in key.roles))


def _key(request: Request) -> str:
    sent = request.get_header("Idempotency-Key")
    if sent is None:
        raise ProblemError(
            ProblemType.INVALID_REQUEST,
            "no Idempotency-Key was sent: without one nobody could ask again",
            members={"field": "Idempotency-Key", "expected": "1 to 90 characters that can be printed"},
        )
    header: _KeyHeader = _converted({"Idempotency-Key": sent}, _KeyHeader)
    return header.key


class _KeyHeader(msgspec.Struct, frozen=True):
    key: Key = msgspec.field(name="Idempotency-Key")


def _part(name: str, value: str) -> str:
    try:
        part: str = msgspec.convert(value, PATH_TYPES[name])
    except msgspec.ValidationError as error:
        raise ProblemError(
            ProblemType.INVALID_REQUEST,
            f"{name}: {error}",
            members={"field": name, "sent": value[:_TEXT_SENT_MAX], "expected": str(error)},
        ) from error
    return part


def _query(route: Route, request: Request) -> Any:  # noqa: ANN401 - of the route's own type
    sent: dict[str, object] = {}
    for name, value in request.params.items():
        if isinstance(value, list):
            raise ProblemError(
                ProblemType.INVALID_REQUEST,
                f"{name} is sent {len(value)} times, expected once",
                members={"field": name, "expected": "one value"},
            )
        sent[name] = value
    return _converted(sent, route.query)


def _converted(sent: Mapping[str, object], kind: Any) -> Any:  # noqa: ANN401 - of that type
    try:
        return msgspec.convert(sent, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(error, sent) from error


def _body(decoder: msgspec.json.Decoder[Any], request: Request) -> Any:  # noqa: ANN401 - of the route's own type
    if (request.content_type or "").partition(";")[0].strip().lower() != _JSON:
        raise ProblemError(ProblemType.UNSUPPORTED_MEDIA_TYPE, f"expected a body with the Content-Type {_JSON}")
    length = request.content_length
    if length is None or length > BODY_BYTES_MAX:
        message = f"the body has {'an unknown number of' if length is None else length} bytes"
        raise ProblemError(ProblemType.TOO_LARGE, f"{message}, expected a Content-Length of at most {BODY_BYTES_MAX}")
    raw = request.bounded_stream.read()
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(error, _as_sent(raw)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(ProblemType.INVALID_REQUEST, f"the body is no JSON: {error}") from error


def _as_sent(raw: bytes) -> object:
    """The body as far as it can be read at all."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _invalid(error: msgspec.ValidationError, sent: object) -> ProblemError:
    """Which value it was, what was sent and what is expected, by msgspec's own sentence."""
    said, _, place = str(error).partition(" - at `")
    field = place.rstrip("`") or "$"
    found = _at(sent, field)
    shown = found if isinstance(found, int | float | bool) or found is None else str(found)[:_TEXT_SENT_MAX]
    return ProblemError(
        ProblemType.INVALID_REQUEST,
        f"{field}: {said}",
        members={"field": field, "sent": shown, "expected": said},
    )


def _at(sent: object, field: str) -> object:
    """The value at a place that msgspec names, such as `$.items[0].units`; what is not there is None."""
    for part in field.replace("[", ".").replace("]", "").split(".")[1:]:
        if isinstance(sent, Mapping):
            sent = sent.get(part)
        elif isinstance(sent, list) and part.isdigit() and int(part) < len(sent):
            sent = sent[int(part)]
        else:
            return None
    return sent


# -- what goes wrong --


def _on_error(request: Request, response: Response, error: Exception, _params: object) -> None:
    """Whatever a call raised is a problem; what is no problem of the caller is logged."""
    _answer(request, response, _problem_of(error))


def _problem_of(error: Exception) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, UnavailableError) or (isinstance(error, DBAPIError) and is_away(error)):
        structlog.get_logger().warning("api_unavailable", error=str(error))
        return ProblemError(
            ProblemType.UNAVAILABLE,
            "the ledger cannot answer now; ask again under the same Idempotency-Key",
            headers={"Retry-After": "1"},
        )
    structlog.get_logger().error("api_failed", exc_info=error)
    return ProblemError(ProblemType.OURS, "it was logged under this request_id")


def _on_http_error(request: Request, response: Response, error: falcon.HTTPError, _params: object) -> None:
    """What Falcon itself refuses: a path that is none, a method that a path has not, a line that is no HTTP."""
    kinds = {404: ProblemType.NOT_FOUND, 405: ProblemType.METHOD_NOT_ALLOWED, 413: ProblemType.TOO_LARGE}
    kind = kinds.get(error.status_code, ProblemType.INVALID_REQUEST)
    allowed = {name: value for name, value in dict(error.headers or {}).items() if name.lower() == "allow"}
    _answer(request, response, ProblemError(kind, error.description or error.title or kind.title, headers=allowed))


def _answer(request: Request, response: Response, error: ProblemError) -> None:
    response.status = error.kind.status
    response.content_type = _PROBLEM
    for name, value in error.headers.items():
        response.set_header(name, value)
    response.data = _ENCODER.encode(error.problem(request.context.request_id))
