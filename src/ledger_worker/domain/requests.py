"""Requests: a service asks for units and is answered, where a meter only tells what was used.

A request that is granted is usage at the instant it was decided, recorded like any other: later facts may find other
grants for it, or none, and then it is overage, on a hard limit too. One that is refused changes nothing. Decided is by
the picture of the entitlement where its book stands, so a check, a request and what is told never disagree.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from uuid import UUID

import msgspec

from ledger_worker.domain.catalogue import Catalogue, EntitlementType, LimitPolicy
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.events import ID_LENGTH_MAX, REQUEST_PREFIX, UNITS_MAX, Event, UsageRecorded
from ledger_worker.domain.ledger import Entry, Kind

__all__ = [
    "ITEMS_MAX",
    "KEY_LENGTH_MAX",
    "Answer",
    "Covered",
    "Granted",
    "Item",
    "Request",
    "RequestReason",
    "grantable",
    "granted_of",
    "judge",
    "refused_answer",
    "request_hash",
    "sentence_of",
    "usage_event",
]

ITEMS_MAX = 20
"""Most entitlements of one request."""
KEY_LENGTH_MAX = 90
"""Longest caller and longest key in characters: with the key of an entitlement they make an event id."""


_SAID_BITS_MAX = 64


class RequestReason(StrEnum):
    """Why a request was not granted, beside what `access.AccessReason` says; the first that is true."""

    IMPOSSIBLE_VALUE = "impossible_value"
    """Units of zero, an id of no characters, the same entitlement twice."""
    KEY_REUSED = "key_reused"
    """The caller asked something else under this key before: that answer stands."""
    UNKNOWN_ENTITLEMENT = "unknown_entitlement"
    """The entitlement is not in the catalogue."""
    WRONG_TYPE = "wrong_type"
    """The entitlement has no units to use up."""
    NOT_ENTITLED = "not_entitled"
    """Nobody has told the ledger anything of the customer."""
    PARKED = "parked"
    """An operator holds the customer, or one it is tied to: ask again later. Nothing of it is kept."""
    OUT_OF_RANGE = "out_of_range"
    """Counted with what was used before, the units pass what 64 bits hold. Nothing of it is kept."""
    EXHAUSTED = "exhausted"
    """Fewer units are left than were asked for, and the limit is hard."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """So many units of one entitlement, 1 to `UNITS_MAX`."""

    entitlement: str
    units: int


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A service asks for units of one or more entitlements of a customer: all of them, or, with `up_to`, what is left.

    `caller` and `key` name the request for good: asked again, it is answered as it was the first time.
    """

    caller: str
    key: str
    customer_id: str
    items: tuple[Item, ...]
    up_to: bool = False


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """So many of the granted units are covered by that grant; None: by none, they are overage."""

    grant_id: UUID | None
    units: int


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one item: units granted, 0 when it was refused, then `reason` says why.

    `decision` is the picture of the entitlement behind it; None for an entitlement that is not in the catalogue.
    """

    entitlement: str
    asked: int
    granted: int
    reason: str | None
    covered: tuple[Covered, ...]
    decision: EntitlementPicture | None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request: granted as a whole or not at all, at `recorded_at`; of each item, in their order.

    `reason` and `message` are set when it was refused; `sequence` is the customer's last change by then.
    """

    caller: str
    key: str
    customer_id: str
    is_granted: bool
    reason: str | None
    message: str | None
    items: tuple[Granted, ...]
    recorded_at: datetime
    sequence: int


def request_hash(request: Request) -> bytes:
    """What two requests under one key have to share to be the same."""
    return sha256(msgspec.msgpack.encode(request, order="sorted")).digest()


def judge(request: Request) -> str | None:
    """What is impossible in the request alone, as a sentence with what was expected; else None."""
    for name, text, most in (
        ("caller", request.caller, KEY_LENGTH_MAX),
        ("key", request.key, KEY_LENGTH_MAX),
        ("customer_id", request.customer_id, ID_LENGTH_MAX),
        *(("entitlement", item.entitlement, ID_LENGTH_MAX) for item in request.items),
    ):
        if not 1 <= len(text) <= most:
            return f"{name} has {len(text)} characters, expected 1 to {most}"
        if not text.isprintable():
            return f"{name} has characters that cannot be printed, expected none"
    if not 1 <= len(request.items) <= ITEMS_MAX:
        return f"the request has {len(request.items)} items, expected 1 to {ITEMS_MAX}"
    for item in request.items:
        if not 1 <= item.units <= UNITS_MAX:
            said = str(item.units) if item.units.bit_length() <= _SAID_BITS_MAX else "larger"
            return f"units of {item.entitlement} is {said}, expected 1 to {UNITS_MAX}"
    names = [item.entitlement for item in request.items]
    twice = next((name for name in names if names.count(name) > 1), None)
    return None if twice is None else f"{twice} is asked for twice, expected one item for each entitlement"


def grantable(
    item: Item, catalogue: Catalogue, shown: EntitlementPicture | None, *, up_to: bool
) -> tuple[int, str | None]:
    """How many units of the item can be granted where the entitlement is as shown, and why none or too few can be."""
    entitlement = catalogue.entitlements.get(item.entitlement)
    if entitlement is None or shown is None:
        return 0, RequestReason.UNKNOWN_ENTITLEMENT
    if entitlement.type is not EntitlementType.QUOTA:
        return 0, RequestReason.WRONG_TYPE
    if not shown.allowed:
        return 0, shown.reason
    if shown.unlimited or entitlement.limit is LimitPolicy.SOFT:
        return item.units, None
    left = max(0, shown.remaining or 0)
    if item.units <= left:
        return item.units, None
    return (left, None) if up_to and left else (0, RequestReason.EXHAUSTED)


def usage_event(request: Request, fact: UsageRecorded, now: datetime) -> Event:
    """What a granted item is recorded as: usage at `now`, under ids that only this request has."""
    return Event(
        event_source=f"{REQUEST_PREFIX}{request.caller}",
        event_id=f"{fact.entitlement}@{request.key}",  # no key of an entitlement has an @ in it
        customer_id=request.customer_id,
        occurred_at=now,
        fact=fact,
    )


def granted_of(
    item: Item, units: int, reason: str | None, entries: Iterable[Entry], decision: EntitlementPicture | None
) -> Granted:
    """What became of an item, by the entries that its usage booked."""
    covered: dict[UUID | None, int] = {}
    for entry in entries:
        if entry.line.kind in {Kind.BURN, Kind.OVERAGE}:
            covered[entry.line.grant_id] = covered.get(entry.line.grant_id, 0) + entry.line.units
    return Granted(
        entitlement=item.entitlement,
        asked=item.units,
        granted=units,
        reason=reason,
        covered=tuple(Covered(grant_id=grant_id, units=of_it) for grant_id, of_it in covered.items()),
        decision=decision,
    )


def refused_answer(request: Request, reason: RequestReason, message: str, now: datetime) -> Answer:
    """The answer to a request that no book was opened for; letters that no text can hold are answered as `?`."""
    return Answer(
        caller=_sayable(request.caller),
        key=_sayable(request.key),
        customer_id=_sayable(request.customer_id),
        is_granted=False,
        reason=reason,
        message=message,
        items=(),
        recorded_at=now,
        sequence=0,
    )


def _sayable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def sentence_of(refused: Sequence[Granted]) -> str:
    """Why items were refused, for people."""
    return "; ".join(_why(one) for one in refused)


def _why(one: Granted) -> str:
    left = None if one.decision is None else one.decision.remaining
    of = f"{one.asked} of {one.entitlement} were asked for"
    if one.reason == RequestReason.EXHAUSTED:
        return f"{of} and {left} are left"
    return f"{of}: {(one.reason or '').replace('_', ' ')}"
