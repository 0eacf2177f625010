"""The OpenAPI 3.1 document, made from the table of routes and the types that it names."""

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, get_type_hints

import msgspec

from ledger_worker.api.calls import Route
from ledger_worker.api.limits import PATH_TYPES, Key
from ledger_worker.api.problems import TYPE_PREFIX, Problem, ProblemType

__all__ = ["document"]

_REF = "#/components/schemas/{name}"
_ALWAYS = (
    ProblemType.INVALID_REQUEST,
    ProblemType.NOT_AUTHENTICATED,
    ProblemType.NOT_ALLOWED,
    ProblemType.UNAVAILABLE,
    ProblemType.OURS,
)
_WITH_BODY = (ProblemType.TOO_LARGE, ProblemType.UNSUPPORTED_MEDIA_TYPE)
_OF_REQUESTS = (ProblemType.REFUSED, ProblemType.KEY_REUSED)


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document, in the order of the routes."""
    kinds: list[Any] = [Problem]
    for route in routes:
        kinds += [route.answer, *([] if route.body is None else [route.body])]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    of_kind = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, of_kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Entitlement Ledger",
            "version": version("ledger-worker"),
            "summary": "What each customer may do: asked, used up, and explained.",
        },
        "jsonSchemaDialect": "https://spec.openapis.org/oas/3.1/dialect/base",
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
            "schemas": components,
        },
    }


def _operation(route: Route, of_kind: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "description": f"For keys with one of the roles {', '.join(sorted(role.value for role in route.roles))}.",
        "parameters": list(_parameters(route)),
        "responses": {
            str(route.status.value): {
                "description": route.status.phrase,
                "content": {"application/json": {"schema": of_kind[route.answer]}},
            },
            **_problems(route, of_kind),
        },
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": of_kind[route.body]}}}
    return operation


def _parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": msgspec.json.schema(PATH_TYPES[name])}
    hints = get_type_hints(route.query, include_extras=True)
    for field in msgspec.structs.fields(route.query):
        schema = msgspec.json.schema(hints[field.name])
        yield {"name": field.encode_name, "in": "query", "required": field.required, "schema": schema}
    if route.needs_key:
        yield {"name": "Idempotency-Key", "in": "header", "required": True, "schema": msgspec.json.schema(Key)}


def _problems(route: Route, of_kind: dict[Any, Any]) -> dict[str, Any]:
    kinds = [*_ALWAYS]
    if "{" in route.path or route.name == "check_many":
        kinds.append(ProblemType.NOT_FOUND)
    if route.body is not None:
        kinds += _WITH_BODY
    if route.needs_key:
        kinds += [*_OF_REQUESTS, ProblemType.IMPOSSIBLE_VALUE]
    elif route.tag == "keys" and route.method == "POST":
        kinds.append(ProblemType.REFUSED)
    by_status: dict[str, list[ProblemType]] = {}
    for kind in kinds:
        by_status.setdefault(str(kind.status.value), []).append(kind)
    return {
        status: {
            "description": " ".join(f"`{TYPE_PREFIX}{kind.slug}`: {kind.title}" for kind in of_status),
            "content": {"application/problem+json": {"schema": of_kind[Problem]}},
        }
        for status, of_status in sorted(by_status.items())
    }
