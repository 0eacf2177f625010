"""The table of routes: the router, the OpenAPI document and the tests of roles read nothing else."""

from http import HTTPStatus

import msgspec

from ledger_worker.api import access, customers, keys, requests
from ledger_worker.api.calls import Handler, Route
from ledger_worker.domain.requests import Answer
from ledger_worker.operations.keys import NewKey, Role
from ledger_worker.reports.access import Decision
from ledger_worker.reports.customer import Explanation
from ledger_worker.reports.history import CustomerHistory
from ledger_worker.reports.seats import Seats
from ledger_worker.store.keys import StoredKey

__all__ = ["ROUTES"]

_SERVICES = frozenset({Role.CHECKER, Role.OPERATOR, Role.ADMIN})
_CHECKERS = _SERVICES | {Role.READER, Role.AUDITOR}
_READERS = frozenset({Role.READER, Role.OPERATOR, Role.ADMIN, Role.AUDITOR})
_ADMINS = frozenset({Role.ADMIN})
_AUDITORS = frozenset({Role.AUDITOR})


def _asks(path: str, name: str, summary: str, handler: Handler, body: type[msgspec.Struct]) -> Route:
    """A request to the ledger, answered once under its key."""
    return Route(
        method="POST",
        path=f"/v1/{path}",
        name=name,
        tag="requests",
        summary=summary,
        roles=_SERVICES,
        handler=handler,
        body=body,
        answer=Answer,
        needs_key=True,
    )


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/v1/customers/{customer_id}/access/{entitlement}",
        name="check",
        tag="access",
        summary="May this customer use it now, and what is left?",
        roles=_CHECKERS,
        handler=access.check_one,
        query=access.CheckOneQuery,
        answer=Decision,
    ),
    Route(
        method="GET",
        path="/v1/customers/{customer_id}/access",
        name="check_all",
        tag="access",
        summary="Every entitlement that the customer has or had.",
        roles=_CHECKERS,
        handler=access.check_all,
        query=access.CheckQuery,
        answer=access.Decided,
    ),
    Route(
        method="POST",
        path="/v1/check",
        name="check_many",
        tag="access",
        summary="Many entitlements of many customers, as of one instant.",
        roles=_CHECKERS,
        handler=access.check_many,
        body=access.CheckMany,
        answer=access.Decided,
    ),
    _asks("consume", "consume", "Use units now.", requests.consume, requests.ConsumeBody),
    _asks("hold", "hold", "Reserve units for a time.", requests.hold, requests.HoldBody),
    _asks("confirm", "confirm", "Use what is held.", requests.confirm, requests.ConfirmBody),
    _asks("release", "release", "Give back what is held.", requests.release, requests.ReleaseBody),
    _asks("seats/assign", "assign_seat", "Give somebody a seat.", requests.assign_seat, requests.SeatBody),
    _asks("seats/unassign", "unassign_seat", "Take somebody's seat back.", requests.unassign_seat, requests.SeatBody),
    _asks("seats/swap", "swap_seat", "Pass a seat on to somebody else.", requests.swap_seat, requests.SwapBody),
    Route(
        method="GET",
        path="/v1/customers/{customer_id}",
        name="customer",
        tag="customers",
        summary="What the customer has, now or as of an instant and as it was known at another.",
        roles=_READERS,
        handler=customers.picture,
        query=customers.PictureQuery,
        answer=customers.Picture,
    ),
    Route(
        method="GET",
        path="/v1/customers/{customer_id}/history",
        name="history",
        tag="customers",
        summary="What was booked of the customer, when, because of what and of whom.",
        roles=_READERS,
        handler=customers.history,
        query=customers.HistoryQuery,
        answer=CustomerHistory,
    ),
    Route(
        method="GET",
        path="/v1/customers/{customer_id}/explanation",
        name="explain",
        tag="customers",
        summary="Why the customer may or may not, and what would allow it.",
        roles=_READERS,
        handler=customers.explain,
        query=customers.ExplainQuery,
        answer=Explanation,
    ),
    Route(
        method="GET",
        path="/v1/customers/{customer_id}/seats/{entitlement}",
        name="seats",
        tag="customers",
        summary="Who has a seat, in the order of taking.",
        roles=_CHECKERS,
        handler=customers.seats,
        answer=Seats,
    ),
    Route(
        method="GET",
        path="/v1/keys",
        name="list_keys",
        tag="keys",
        summary="Every key, without its secret.",
        roles=_ADMINS | _AUDITORS,
        handler=keys.list_keys,
        answer=keys.Keys,
    ),
    Route(
        method="POST",
        path="/v1/keys",
        name="create_key",
        tag="keys",
        summary="Make a key: its secret is in this answer and in no other.",
        roles=_ADMINS,
        handler=keys.create,
        body=keys.CreateBody,
        answer=NewKey,
        status=HTTPStatus.CREATED,
    ),
    Route(
        method="POST",
        path="/v1/keys/{key_id}/rotate",
        name="rotate_key",
        tag="keys",
        summary="Make another key like it, and let it go on for a while.",
        roles=_ADMINS,
        handler=keys.rotate,
        body=keys.RotateBody,
        answer=NewKey,
        status=HTTPStatus.CREATED,
    ),
    Route(
        method="POST",
        path="/v1/keys/{key_id}/revoke",
        name="revoke_key",
        tag="keys",
        summary="Let a key open nothing any more.",
        roles=_ADMINS,
        handler=keys.revoke,
        body=keys.RevokeBody,
        answer=StoredKey,
    ),
    Route(
        method="GET",
        path="/v1/audit",
        name="audit",
        tag="keys",
        summary="Who changed what beside the events of the ledger, the newest first.",
        roles=_ADMINS | _AUDITORS,
        handler=keys.audit,
        query=keys.AuditQuery,
        answer=keys.AuditPage,
    ),
)
"""Every path that is let in by a key, under `/v1`."""
