"""Requests: a service asks for units and is answered, where a meter only tells what was used.

A request that is granted is usage at the instant it was decided, recorded like any other: later facts may find other
grants for it, or none, and then it is overage, on a hard limit too. One that is refused changes nothing. Decided is by
the picture of the entitlement where its book stands, so a check, a request and what is told never disagree.

Asked with `hold_seconds` the units are not used but reserved, for so long. The hold is named by the key it was taken
under, and ends once: a `Confirm` uses what it says and gives back the rest, a `Release` gives back all, and so does
time.

Of seats it is asked who holds one (`SeatAsked`). What is granted is recorded as a decision, and nothing told later
takes it back but fewer seats, where the entitlement says so.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from uuid import UUID

import msgspec

from ledger_worker.domain.catalogue import Catalogue, EntitlementType, LimitPolicy, OnShrink
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.events import (
    ID_LENGTH_MAX,
    REQUEST_PREFIX,
    UNITS_MAX,
    Event,
    HoldConfirmed,
    HoldReleased,
    HoldTaken,
    SeatAssigned,
    SeatSwapped,
    SeatUnassigned,
    UsageRecorded,
    event_key,
)
from ledger_worker.domain.ledger import Entry, Kind
from ledger_worker.domain.seats import CUSTOMER_HOLDERS_BYTES_MAX, HOLDERS_BYTES_MAX, HOLDERS_MAX

__all__ = [
    "ENTITLEMENT_LENGTH_MAX",
    "HOLD_SECONDS_MAX",
    "ITEMS_MAX",
    "KEY_LENGTH_MAX",
    "Answer",
    "Asked",
    "AssignSeat",
    "Confirm",
    "Covered",
    "Granted",
    "Item",
    "Release",
    "Request",
    "RequestId",
    "RequestReason",
    "SeatAsked",
    "SwapSeat",
    "UnassignSeat",
    "end_event",
    "end_id",
    "grantable",
    "granted_event",
    "granted_of",
    "held_of",
    "hold_key_of",
    "judge",
    "refused_answer",
    "refused_of",
    "request_hash",
    "request_id_of",
    "seat_answered",
    "seat_event",
    "seat_refusal",
    "seat_sentence",
    "sentence_of",
]

ITEMS_MAX = 20
"""Most entitlements of one request."""
KEY_LENGTH_MAX = 90
"""Longest caller and longest key in characters: with the key of an entitlement they make an event id."""
HOLD_SECONDS_MAX = 30 * 86_400
"""Longest time that units can be held, in seconds."""

ENTITLEMENT_LENGTH_MAX = 100
"""Longest key that an entitlement can have in characters."""

_SAID_BITS_MAX = 64


class RequestReason(StrEnum):
    """Why a request was not granted, in the order in which the checks are made: the first that is true is the answer.

    Behind `wrong_type` comes why the picture says no, as `EntitlementChanged` says it: `in_debt`, `suspended`,
    `revoked`, `exhausted`, `not_yet_active`, `expired`, `not_entitled`. Of several items the first that is refused
    gives the reason.
    """

    IMPOSSIBLE_VALUE = "impossible_value"
    """Units of zero, an id of no characters, the same entitlement twice."""
    KEY_REUSED = "key_reused"
    """The caller asked something else under this key before: that answer stands."""
    PARKED = "parked"
    """An operator holds the customer, or one it is tied to: ask again later. Nothing of it is kept."""
    NOT_ENTITLED = "not_entitled"
    """Nobody has told the ledger anything of the customer."""
    UNKNOWN_HOLD = "unknown_hold"
    """The caller holds nothing of this customer under that key."""
    HOLD_EXPIRED = "hold_expired"
    """The hold was not confirmed or released before it expired."""
    HOLD_ENDED = "hold_ended"
    """The hold was confirmed or released before, under another key."""
    MORE_THAN_HELD = "more_than_held"
    """More units are to be confirmed than the hold has."""
    UNKNOWN_ENTITLEMENT = "unknown_entitlement"
    """The entitlement is not in the catalogue."""
    WRONG_TYPE = "wrong_type"
    """The entitlement has no units to use up; or, where a seat is asked for, no seats."""
    SEAT_TAKEN = "seat_taken"
    """Who is to have a seat has one."""
    UNKNOWN_HOLDER = "unknown_holder"
    """Who is to give a seat back, or to pass it on, has none."""
    OVER_ALLOCATED = "over_allocated"
    """More seats are held than there are, and the entitlement lets nobody new in then (`block_new`)."""
    EXHAUSTED = "exhausted"
    """Fewer units are left than were asked for, and the limit is hard; or no seat is left."""
    TOO_MANY_HOLDS = "too_many_holds"
    """As many holds of the entitlement are open as one customer may have: 1,000."""
    TOO_MANY_HOLDERS = "too_many_holders"
    """As many hold a seat of the entitlement as can be told of one customer: 10,000, or 400,000 bytes of names; or the
    names of all holders of the customer have 1,000,000 bytes."""
    OUT_OF_RANGE = "out_of_range"
    """Counted with what was used before, the units pass what 64 bits hold. Nothing of it is kept."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """So many units of one entitlement, 1 to `UNITS_MAX`."""

    entitlement: str
    units: int


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """A service asks for units of one or more entitlements of a customer: all of them, or, with `up_to`, what is left.

    `caller` and `key` name the request for good: asked again, it is answered as it was the first time. With
    `hold_seconds`, 1 to `HOLD_SECONDS_MAX`, the units are held.
    """

    caller: str
    key: str
    customer_id: str
    items: tuple[Item, ...]
    up_to: bool = False
    hold_seconds: int | None = None


class Confirm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """What the caller held under the key `hold` is used: as many units as `items` say, all of it without any.

    The rest of it, also of entitlements that are not named, is released: the hold is over.
    """

    caller: str
    key: str
    customer_id: str
    hold: str
    items: tuple[Item, ...] = ()


class Release(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """What the caller held under the key `hold` is given back: the hold is over."""

    caller: str
    key: str
    customer_id: str
    hold: str


class AssignSeat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """The holder is to have a seat of the customer's entitlement."""

    caller: str
    key: str
    customer_id: str
    entitlement: str
    holder: str


class UnassignSeat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """The holder gives the seat back: always possible."""

    caller: str
    key: str
    customer_id: str
    entitlement: str
    holder: str


class SwapSeat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """The seat of `holder` is to be that of `to`, in the same place of their order."""

    caller: str
    key: str
    customer_id: str
    entitlement: str
    holder: str
    to: str


SeatAsked = AssignSeat | UnassignSeat | SwapSeat
"""What can be asked of who holds a seat."""
Asked = Request | Confirm | Release | SeatAsked
"""What can be asked, and is answered once under the key of its caller."""


class RequestId(msgspec.Struct, frozen=True, kw_only=True):
    """The ids under which something of a request is recorded, which nothing else has: of whom, of which entitlement.

    `what` is "" for units that are used or held under the key, "seat" for a seat, and "ended" for the end of the hold
    that was taken under the key.
    """

    caller: str
    key: str
    entitlement: str
    what: str = ""

    @property
    def event_source(self) -> str:
        """The source of the event."""
        return f"{REQUEST_PREFIX}{self.caller}"

    @property
    def event_id(self) -> str:
        """The id of the event: no key of an entitlement has an @ or an ! in it."""
        what = f"{self.what}!" if self.what else ""
        return f"{what}{self.entitlement}@{self.key}"

    @property
    def event_key(self) -> UUID:
        """The key of the event in the inbox."""
        return event_key(self.event_source, self.event_id)


def request_id_of(event_source: str, event_id: str) -> RequestId | None:
    """What the ids of an event say; None where no request makes such ids."""
    named, at, key = event_id.partition("@")
    what, mark, entitlement = named.rpartition("!")
    if not event_source.startswith(REQUEST_PREFIX) or not at or (mark and what not in _RECORDED_OF):
        return None
    caller = event_source.removeprefix(REQUEST_PREFIX)
    return RequestId(caller=caller, key=key, entitlement=entitlement, what=what)


_SEAT, _ENDED = "seat", "ended"
_RECORDED_OF = frozenset({_SEAT, _ENDED})


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """So many of the granted units are covered by that grant; None: by none, they are overage."""

    grant_id: UUID | None
    units: int


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one item: units granted, 0 when it was refused, then `reason` says why.

    `decision` is the picture of the entitlement behind it, never with the holders of seats; None for an entitlement
    that is not in the catalogue.
    """

    entitlement: str
    asked: int
    granted: int
    reason: str | None
    covered: tuple[Covered, ...]
    decision: EntitlementPicture | None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request: granted as a whole or not at all, at `recorded_at`; of each item, in their order.

    `reason` and `message` are set when it was refused; `sequence` is the customer's last change by then. `expires_at`
    is set for a hold that was granted, `hold` is the key of the one that was to end.
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
    expires_at: datetime | None = None
    hold: str | None = None


def request_hash(request: Asked) -> bytes:
    """What two requests under one key have to share to be the same."""
    return sha256(msgspec.msgpack.encode(request, order="sorted")).digest()


def judge(request: Asked) -> str | None:
    """What is impossible in the request alone, as a sentence with what was expected; else None."""
    items = request.items if isinstance(request, Request | Confirm) else ()
    for name, text, most in (
        ("caller", request.caller, KEY_LENGTH_MAX),
        ("key", request.key, KEY_LENGTH_MAX),
        *((("hold", request.hold, KEY_LENGTH_MAX),) if isinstance(request, Confirm | Release) else ()),
        ("customer_id", request.customer_id, ID_LENGTH_MAX),
        *(("entitlement", item.entitlement, ID_LENGTH_MAX) for item in items),
        *(_seat_texts(request) if isinstance(request, SeatAsked) else ()),
    ):
        if not 1 <= len(text) <= most:
            return f"{name} has {len(text)} characters, expected 1 to {most}"
        if not text.isprintable():
            return f"{name} has characters that cannot be printed, expected none"
    if isinstance(request, SwapSeat) and request.to == request.holder:
        return f"to is {request.to} as holder is, expected somebody else"
    least = 1 if isinstance(request, Request) else 0
    if not least <= len(items) <= ITEMS_MAX:
        return f"the request has {len(items)} items, expected {least} to {ITEMS_MAX}"
    return _problem_in(items) or (_problem_in_time(request.hold_seconds) if isinstance(request, Request) else None)


def _seat_texts(request: SeatAsked) -> list[tuple[str, str, int]]:
    texts = [
        ("entitlement", request.entitlement, ENTITLEMENT_LENGTH_MAX),
        ("holder", request.holder, ID_LENGTH_MAX),
    ]
    if isinstance(request, SwapSeat):
        texts.append(("to", request.to, ID_LENGTH_MAX))
    return texts


def _problem_in(items: Sequence[Item]) -> str | None:
    for item in items:
        if not 1 <= item.units <= UNITS_MAX:
            said = str(item.units) if item.units.bit_length() <= _SAID_BITS_MAX else "larger"
            return f"units of {item.entitlement} is {said}, expected 1 to {UNITS_MAX}"
    names = [item.entitlement for item in items]
    twice = next((name for name in names if names.count(name) > 1), None)
    return None if twice is None else f"{twice} is asked for twice, expected one item for each entitlement"


def _problem_in_time(seconds: int | None) -> str | None:
    if seconds is None or 1 <= seconds <= HOLD_SECONDS_MAX:
        return None
    said = str(seconds) if seconds.bit_length() <= _SAID_BITS_MAX else "larger"
    return f"hold_seconds is {said}, expected 1 to {HOLD_SECONDS_MAX}"


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


def seat_refusal(
    asked: SeatAsked, catalogue: Catalogue, shown: EntitlementPicture | None, *, bytes_elsewhere: int = 0
) -> str | None:
    """Why it cannot be granted where the entitlement is as shown; None when it can.

    `bytes_elsewhere` have the names of who holds seats of the customer's other entitlements.
    """
    entitlement = catalogue.entitlements.get(asked.entitlement)
    if entitlement is None or shown is None:
        return RequestReason.UNKNOWN_ENTITLEMENT
    if entitlement.type is not EntitlementType.SEATS:
        return RequestReason.WRONG_TYPE
    holders = shown.holders or ()
    if isinstance(asked, UnassignSeat):
        return None if asked.holder in holders else RequestReason.UNKNOWN_HOLDER
    if not shown.allowed:
        return shown.reason
    if (asked.to if isinstance(asked, SwapSeat) else asked.holder) in holders:
        return RequestReason.SEAT_TAKEN
    if isinstance(asked, SwapSeat) and asked.holder not in holders:
        return RequestReason.UNKNOWN_HOLDER
    if shown.over_allocated and entitlement.on_shrink is OnShrink.BLOCK_NEW:
        return RequestReason.OVER_ALLOCATED
    if isinstance(asked, AssignSeat) and not shown.unlimited and not shown.remaining:
        return RequestReason.EXHAUSTED
    return RequestReason.TOO_MANY_HOLDERS if _is_too_long(asked, holders, bytes_elsewhere) else None


def _is_too_long(asked: AssignSeat | SwapSeat, holders: Sequence[str], bytes_elsewhere: int) -> bool:
    """Whether more would hold a seat than can be told."""
    others = holders if isinstance(asked, AssignSeat) else [name for name in holders if name != asked.holder]
    new = asked.holder if isinstance(asked, AssignSeat) else asked.to
    together = sum(len(name.encode()) for name in (*others, new))
    return (
        len(others) >= HOLDERS_MAX
        or together > HOLDERS_BYTES_MAX
        or together + bytes_elsewhere > CUSTOMER_HOLDERS_BYTES_MAX
    )


def seat_event(asked: SeatAsked, now: datetime) -> Event:
    """What was granted of a seat, as it is recorded at `now`, under an id that only this request has."""
    fact: SeatAssigned | SeatUnassigned | SeatSwapped
    match asked:
        case AssignSeat():
            fact = SeatAssigned(entitlement=asked.entitlement, holder=asked.holder)
        case UnassignSeat():
            fact = SeatUnassigned(entitlement=asked.entitlement, holder=asked.holder)
        case SwapSeat():
            fact = SeatSwapped(entitlement=asked.entitlement, holder=asked.holder, to=asked.to)
    ids = RequestId(caller=asked.caller, key=asked.key, entitlement=asked.entitlement, what=_SEAT)
    return Event(
        event_source=ids.event_source,
        event_id=ids.event_id,
        customer_id=asked.customer_id,
        occurred_at=now,
        fact=fact,
    )


def seat_answered(asked: SeatAsked, reason: str | None, shown: EntitlementPicture | None) -> Granted:
    """What became of what was asked of a seat."""
    return _granted(asked.entitlement, 1, 0 if reason else 1, reason, shown)


def seat_sentence(asked: SeatAsked, reason: str) -> str:
    """Why it was refused, for people."""
    new = asked.to if isinstance(asked, SwapSeat) else asked.holder
    return {
        RequestReason.UNKNOWN_HOLDER.value: f"{asked.holder} has no seat of {asked.entitlement}",
        RequestReason.SEAT_TAKEN.value: f"{new} has a seat of {asked.entitlement}",
        RequestReason.EXHAUSTED.value: f"no seat of {asked.entitlement} is left for {new}",
    }.get(reason, f"a seat of {asked.entitlement} for {new}: {reason.replace('_', ' ')}")


def granted_event(request: Request, fact: UsageRecorded | HoldTaken, now: datetime) -> Event:
    """What a granted item is recorded as: usage or a hold at `now`, under ids that only this request has."""
    ids = RequestId(caller=request.caller, key=request.key, entitlement=fact.entitlement)
    return Event(
        event_source=ids.event_source,
        event_id=ids.event_id,
        customer_id=request.customer_id,
        occurred_at=now,
        fact=fact,
    )


def end_event(held: Answer, entitlement: str, confirmed: int, now: datetime) -> Event:
    """What becomes of one item of a hold at `now`, by its first answer: so many units confirmed, the rest released.

    Under an id that only one end of it can have.
    """
    taken = RequestId(caller=held.caller, key=held.key, entitlement=entitlement)
    fact = (
        HoldConfirmed(entitlement=entitlement, hold_event_id=taken.event_id, units=confirmed)
        if confirmed
        else HoldReleased(entitlement=entitlement, hold_event_id=taken.event_id)
    )
    return Event(
        event_source=taken.event_source,
        event_id=end_id(taken.event_id),
        customer_id=held.customer_id,
        occurred_at=now,
        fact=fact,
    )


def end_id(taken: str) -> str:
    """The event id of the end of the hold that was taken under that one."""
    return f"{_ENDED}!{taken}"


def hold_key_of(held: Answer, entitlement: str) -> UUID:
    """The inbox key of the taking of one item of a hold."""
    return RequestId(caller=held.caller, key=held.key, entitlement=entitlement).event_key


def granted_of(
    item: Item, units: int, entries: Iterable[Entry], usage_key: UUID, decision: EntitlementPicture | None
) -> Granted:
    """What became of an item that was granted, by the entries that it booked under its inbox key.

    What was told to be reversed of it before is covered by nothing, and no overage.
    """
    covered: dict[UUID | None, int] = {}
    for entry in entries:
        line = entry.line
        if line.usage_key == usage_key and line.kind in _GIVING:
            covered[line.grant_id] = covered.get(line.grant_id, 0) + line.units
    parts = tuple(Covered(grant_id=grant_id, units=of_it) for grant_id, of_it in covered.items())
    return _granted(item.entitlement, item.units, units, None, decision, parts)


def held_of(
    item: Item, units: int, entries: Iterable[Entry], usage_key: UUID, decision: EntitlementPicture | None
) -> Granted:
    """What became of an item that is held: what no grant reserves is not booked, and overage once it is confirmed."""
    found = granted_of(item, units, entries, usage_key, decision)
    lacking = units - sum(one.units for one in found.covered)
    if not lacking:
        return found
    return msgspec.structs.replace(found, covered=(*found.covered, Covered(grant_id=None, units=lacking)))


def refused_of(item: Item, reason: str | None, decision: EntitlementPicture | None) -> Granted:
    """What became of an item of which nothing is granted."""
    return _granted(item.entitlement, item.units, 0, reason, decision)


def _granted(
    entitlement: str,
    asked: int,
    granted: int,
    reason: str | None,
    shown: EntitlementPicture | None,
    covered: tuple[Covered, ...] = (),
) -> Granted:
    """What became of one item, by the picture behind it without the holders that it shows, who may be thousands."""
    decision = shown if shown is None or shown.holders is None else msgspec.structs.replace(shown, holders=None)
    return Granted(
        entitlement=entitlement, asked=asked, granted=granted, reason=reason, covered=covered, decision=decision
    )


_GIVING = frozenset({Kind.BURN, Kind.OVERAGE, Kind.HOLD, Kind.CONFIRM})


def refused_answer(request: Asked, reason: RequestReason, message: str, now: datetime) -> Answer:
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
        hold=_sayable(request.hold) if isinstance(request, Confirm | Release) else None,
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
