"""Requests: units are used, held, confirmed and released, and seats taken; refused at the very unit, answered once.

Granted is 200 with the answer. What the ledger refuses is a problem `refused` with the reason and the answer as its
members, kept under its key like one that was granted.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from ledger_worker.api.calls import Call
from ledger_worker.api.limits import CustomerId, EntitlementKey, Holder, Key, Units
from ledger_worker.api.problems import ProblemError, ProblemType
from ledger_worker.domain.requests import (
    HOLD_SECONDS_MAX,
    ITEMS_MAX,
    Answer,
    Asked,
    AssignSeat,
    Confirm,
    Item,
    Release,
    Request,
    RequestReason,
    SwapSeat,
    UnassignSeat,
)

__all__ = [
    "ConfirmBody",
    "ConsumeBody",
    "HoldBody",
    "ReleaseBody",
    "SeatBody",
    "SwapBody",
    "assign_seat",
    "confirm",
    "consume",
    "hold",
    "release",
    "swap_seat",
    "unassign_seat",
]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    customer_id: CustomerId


class AskedItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many units of one entitlement."""

    entitlement: EntitlementKey
    units: Units


_Items = Annotated[list[AskedItem], Meta(min_length=1, max_length=ITEMS_MAX, description="Each entitlement once.")]
_UpTo = Annotated[bool, Meta(description="Grant of each what is left, where that is less; else all or nothing.")]


class ConsumeBody(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Units to use now."""

    items: _Items
    up_to: _UpTo = False


class HoldBody(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Units to reserve, for so many seconds: then they come back by themselves."""

    items: _Items
    up_to: _UpTo = False
    seconds: Annotated[int, Meta(ge=1, le=HOLD_SECONDS_MAX)]


class ConfirmBody(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is used of a hold: as many units as `items` say, all of it without any. The rest is released."""

    hold: Annotated[Key, Meta(description="The Idempotency-Key under which it was held.")]
    items: Annotated[list[AskedItem], Meta(max_length=ITEMS_MAX)] = []


class ReleaseBody(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hold that is given back."""

    hold: Annotated[Key, Meta(description="The Idempotency-Key under which it was held.")]


class SeatBody(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody, and what has seats."""

    entitlement: EntitlementKey
    holder: Holder


class SwapBody(SeatBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody whose seat goes to somebody else."""

    to: Holder


def consume(call: Call) -> Answer:
    """Units are used now: all of them or none, or what is left."""
    body: ConsumeBody = call.body
    return _answer(call, _request(call, body, None))


def hold(call: Call) -> Answer:
    """Units are reserved for a time."""
    body: HoldBody = call.body
    return _answer(call, _request(call, body, body.seconds))


def confirm(call: Call) -> Answer:
    """What was held is used."""
    body: ConfirmBody = call.body
    return _answer(call, Confirm(**_names(call), hold=body.hold, items=_items(body.items)))


def release(call: Call) -> Answer:
    """What was held comes back."""
    return _answer(call, Release(**_names(call), hold=call.body.hold))


def assign_seat(call: Call) -> Answer:
    """Somebody has a seat."""
    return _answer(call, AssignSeat(**_names(call), **_seat(call.body)))


def unassign_seat(call: Call) -> Answer:
    """Somebody has no seat any more."""
    return _answer(call, UnassignSeat(**_names(call), **_seat(call.body)))


def swap_seat(call: Call) -> Answer:
    """Somebody has the seat of somebody else."""
    return _answer(call, SwapSeat(**_names(call), **_seat(call.body), to=call.body.to))


def _request(call: Call, body: ConsumeBody | HoldBody, seconds: int | None) -> Request:
    return Request(**_names(call), items=_items(body.items), up_to=body.up_to, hold_seconds=seconds)


def _names(call: Call) -> dict[str, str]:
    return {
        "caller": call.caller.name,
        "key": call.idempotency_key or "",
        "customer_id": call.body.customer_id,
    }


def _seat(body: SeatBody) -> dict[str, str]:
    return {"entitlement": body.entitlement, "holder": body.holder}


def _items(items: list[AskedItem]) -> tuple[Item, ...]:
    return tuple(Item(entitlement=one.entitlement, units=one.units) for one in items)


_OF_REASON: Mapping[str, ProblemType] = {
    RequestReason.IMPOSSIBLE_VALUE: ProblemType.IMPOSSIBLE_VALUE,
    RequestReason.OUT_OF_RANGE: ProblemType.IMPOSSIBLE_VALUE,
    RequestReason.KEY_REUSED: ProblemType.KEY_REUSED,
    RequestReason.PARKED: ProblemType.UNAVAILABLE,
}


def _answer(call: Call, asked: Asked) -> Answer:
    """What was granted. Raises ProblemError for what was refused."""
    answer = call.services.gatherer.ask(asked, call.services.answer_seconds)
    if answer.is_granted:
        return answer
    kind = _OF_REASON.get(answer.reason or "", ProblemType.REFUSED)
    members = {"reason": answer.reason, "answer": answer if kind is ProblemType.REFUSED else None}
    headers = {"Retry-After": "5"} if kind is ProblemType.UNAVAILABLE else {}
    raise ProblemError(kind, answer.message or "it was refused", members=members, headers=headers)
