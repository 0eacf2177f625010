"""What is impossible in an event alone: a value that is true in no world, whatever else has been told.

`_ROWS` has a row for each type of fact: which of its fields hold an id, a count, an instant, which instant has to be
later than which, and what cannot be told at once. Usage and orders, which are nearly all that is ever told, are written
out instead, and cost half as much so. A field that is not given is not judged. Two fields are free, for nothing is
decided by them: `currency` and `resource`. What a fact means beside others (a refund of an order that nobody told) is
no matter of this file.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ledger_worker.domain.events import (
    BY_HAND,
    ID_LENGTH_MAX,
    ITEMS_MAX,
    LEDGER,
    REQUEST_PREFIX,
    UNITS_MAX,
    AssignmentExtended,
    AssignmentFact,
    AssignmentRenewed,
    AssignmentRevoked,
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    CustomersMerged,
    EntitlementAssigned,
    Event,
    Fact,
    HoldConfirmed,
    HoldReleased,
    HoldTaken,
    OfferReached,
    OwnFact,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    PurchaseTransferred,
    RefundReversed,
    SeatAssigned,
    SeatsRevoked,
    SeatSwapped,
    SeatUnassigned,
    SubscriptionActivated,
    SubscriptionAddOnAdded,
    SubscriptionAddOnRemoved,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionExtended,
    SubscriptionPaused,
    SubscriptionPaymentFailed,
    SubscriptionPaymentRecovered,
    SubscriptionPlanChanged,
    SubscriptionQuantityChanged,
    SubscriptionRenewed,
    SubscriptionResumed,
    SubscriptionRevoked,
    SubscriptionTransferred,
    SubscriptionTrialConverted,
    SubscriptionTrialExpired,
    SubscriptionTrialStarted,
    TransitionsDue,
    UsageRecorded,
    UsageReversed,
)
from ledger_worker.domain.values import canonical

__all__ = ["NOTE_LENGTH_MAX", "PRIORITY_MAX", "problem"]

NOTE_LENGTH_MAX = 2000
"""Longest note of a person in characters."""
PRIORITY_MAX = 1_000_000
"""Highest number that a grant's priority may be; the lowest is 0."""


def problem(event: Event) -> str | None:
    """What is impossible in the event alone, as a sentence naming the field, what came and what was expected.

    Else None. Of several such things the first that is found. Of what the ledger tells itself only the envelope is
    judged.
    """
    found = (
        _bad_id("event_source", event.event_source)
        or _bad_id("event_id", event.event_id)
        or _bad_id("customer_id", event.customer_id)
        or _reserved(event)
        or _bad_instant("occurred_at", event.occurred_at)
    )
    if found is None and event.source_version is not None:
        found = _out_of_range("source_version", event.source_version, 0)
    if found:
        return found
    fact = event.fact
    if isinstance(fact, UsageRecorded):
        return _bad_id("entitlement", fact.entitlement) or _out_of_range("units", fact.units)
    if isinstance(fact, PurchaseCompleted):
        return _bad_id("order_id", fact.order_id) or _problem_in_lines(fact.lines)
    row = _ROWS[type(fact)]
    if row.other_customer and getattr(fact, row.other_customer) == event.customer_id:
        return f"{row.other_customer} is the customer_id, expected another customer"
    return _problem_in(fact, row)


def _reserved(event: Event) -> str | None:
    """The ledger's own event sources carry its own facts, and what was granted to a request is told by nobody."""
    source, fact = event.event_source, event.fact
    carries = {LEDGER: OwnFact, BY_HAND: AssignmentFact}
    is_foreign = not isinstance(fact, carries[source]) if source in carries else source.startswith(REQUEST_PREFIX)
    own = f"{LEDGER}, {BY_HAND} and all with {REQUEST_PREFIX}"
    return f"event_source is {source}, expected none of the ledger's own: {own}" if is_foreign else None


def _problem_in_lines(lines: Sequence[PurchaseLine]) -> str | None:
    if not 1 <= len(lines) <= ITEMS_MAX:
        return _bad_count("lines", lines, 1)
    for place, line in enumerate(lines):
        found = (
            _bad_id("line_id", line.line_id)
            or _bad_id("sku", line.sku)
            or _out_of_range("quantity", line.quantity)
            or (None if line.amount is None else _out_of_range("amount", line.amount, 0))
        )
        if found:
            return f"lines[{place}].{found}"
    return _repeated("lines", "line_id", [line.line_id for line in lines])


# ----------------------------------------------------------------------------------------------------------------------
# The rows
# ----------------------------------------------------------------------------------------------------------------------


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """What the fields of one type of value must be, by their names.

    `ids` are 1 to `ID_LENGTH_MAX` printable characters, `notes` 1 to `NOTE_LENGTH_MAX` of them or newlines, `counts`
    are 1 to `UNITS_MAX`, `ranges` from the first to the second number, `instants` of a year that a business has. Of
    each pair of `later` the first instant comes after the second; of each pair of `exclusive` one at most is given.
    `other_customer` names a customer who is not the one of the event, `values` are those of settings. `parts` and
    `lists` are judged by rows of their own.
    """

    ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    ranges: tuple[tuple[str, int, int], ...] = ()
    instants: tuple[str, ...] = ()
    later: tuple[tuple[str, str], ...] = ()
    exclusive: tuple[tuple[str, str], ...] = ()
    other_customer: str | None = None
    values: tuple[str, ...] = ()
    parts: tuple[tuple[str, "_Row"], ...] = ()
    lists: tuple["_List", ...] = ()


class _List(msgspec.Struct, frozen=True, kw_only=True):
    """A field with `least` to `ITEMS_MAX` elements, of which no two have the same `key`."""

    name: str
    least: int
    key: str
    row: _Row


_REFUND_LINE = _Row(ids=("line_id",), counts=("quantity", "amount"), exclusive=(("quantity", "amount"),))
_ITEM = _Row(ids=("item_id", "sku"), counts=("quantity",))
_ITEMS = _List(name="items", least=1, key="item_id", row=_ITEM)
_ITEMS_OR_NONE = _List(name="items", least=0, key="item_id", row=_ITEM)

_DISPUTE = _Row(ids=("order_id", "dispute_id"))
_CANCELLATION = _Row(ids=("subscription_id", "cancellation_id"), instants=("effective_at",))
_PAUSE = _Row(ids=("subscription_id", "pause_id"), instants=("effective_at",))

_ROWS: Mapping[type[Fact], _Row] = {
    PurchaseRefunded: _Row(
        ids=("order_id", "refund_id"),
        counts=("amount",),
        exclusive=(("lines", "amount"),),
        lists=(_List(name="lines", least=0, key="line_id", row=_REFUND_LINE),),
    ),
    RefundReversed: _Row(ids=("order_id", "reversal_id", "refund_id")),
    ChargebackOpened: _DISPUTE,
    ChargebackWon: _DISPUTE,
    ChargebackLost: _Row(ids=_DISPUTE.ids, counts=("amount",)),
    PurchaseTransferred: _Row(ids=("order_id", "transfer_id", "to_customer_id"), other_customer="to_customer_id"),
    CustomersMerged: _Row(ids=("merge_id", "into_customer_id"), other_customer="into_customer_id"),
    SubscriptionTrialStarted: _Row(
        ids=("subscription_id",),
        instants=("trial_start", "trial_end"),
        later=(("trial_end", "trial_start"),),
        lists=(_ITEMS,),
    ),
    SubscriptionTrialConverted: _Row(
        ids=("subscription_id",),
        instants=("period_start", "period_end"),
        later=(("period_end", "period_start"),),
        lists=(_ITEMS_OR_NONE,),
    ),
    SubscriptionTrialExpired: _Row(ids=("subscription_id",), instants=("effective_at",)),
    SubscriptionActivated: _Row(
        ids=("subscription_id",),
        instants=("period_start", "period_end"),
        later=(("period_end", "period_start"),),
        lists=(_ITEMS,),
    ),
    SubscriptionRenewed: _Row(
        ids=("subscription_id",),
        instants=("period_start", "period_end"),
        later=(("period_end", "period_start"),),
        lists=(_ITEMS_OR_NONE,),
    ),
    SubscriptionPaymentFailed: _Row(ids=("subscription_id", "failure_id")),
    SubscriptionPaymentRecovered: _Row(ids=("subscription_id", "recovery_id")),
    SubscriptionPlanChanged: _Row(
        ids=("subscription_id", "change_id", "item_id", "sku"),
        counts=("quantity",),
        instants=("effective_at", "period_end"),
        later=(("period_end", "effective_at"),),
    ),
    SubscriptionQuantityChanged: _Row(
        ids=("subscription_id", "change_id", "item_id"), counts=("quantity",), instants=("effective_at",)
    ),
    SubscriptionAddOnAdded: _Row(
        ids=("subscription_id", "change_id"), instants=("effective_at",), parts=(("item", _ITEM),)
    ),
    SubscriptionAddOnRemoved: _Row(ids=("subscription_id", "change_id", "item_id"), instants=("effective_at",)),
    SubscriptionPaused: _PAUSE,
    SubscriptionResumed: _PAUSE,
    SubscriptionCancellationScheduled: _CANCELLATION,
    SubscriptionCancellationWithdrawn: _Row(ids=_CANCELLATION.ids),
    SubscriptionCancelled: _CANCELLATION,
    SubscriptionExpired: _Row(ids=("subscription_id", "expiry_id"), instants=("effective_at",)),
    SubscriptionRevoked: _Row(ids=("subscription_id", "revocation_id"), instants=("effective_at",)),
    SubscriptionExtended: _Row(ids=("subscription_id", "extension_id"), instants=("new_period_end",)),
    SubscriptionTransferred: _Row(
        ids=("subscription_id", "transfer_id", "to_customer_id"), other_customer="to_customer_id"
    ),
    EntitlementAssigned: _Row(
        ids=("assignment_id", "entitlement", "actor"),
        notes=("note",),
        counts=("units",),
        ranges=(("priority", 0, PRIORITY_MAX),),
        instants=("effective_at", "expires_at"),
        later=(("expires_at", "effective_at"),),
        values=("value",),
    ),
    AssignmentRenewed: _Row(
        ids=("assignment_id", "actor"),
        notes=("note",),
        counts=("units",),
        instants=("effective_at", "expires_at"),
        later=(("expires_at", "effective_at"),),
        values=("value",),
    ),
    AssignmentExtended: _Row(
        ids=("assignment_id", "extension_id", "actor"), notes=("note",), instants=("new_expires_at",)
    ),
    AssignmentRevoked: _Row(
        ids=("assignment_id", "revocation_id", "actor"), notes=("note",), instants=("effective_at",)
    ),
    UsageReversed: _Row(ids=("entitlement", "reversal_id", "usage_event_id", "usage_event_source"), counts=("units",)),
    HoldTaken: _Row(),
    HoldConfirmed: _Row(),
    HoldReleased: _Row(),
    SeatAssigned: _Row(),
    SeatUnassigned: _Row(),
    SeatSwapped: _Row(),
    SeatsRevoked: _Row(),
    TransitionsDue: _Row(),
    OfferReached: _Row(),
}
"""Every type of fact but the two that are written out; a test holds each row against the fields of its type."""


# ----------------------------------------------------------------------------------------------------------------------
# What reads them
# ----------------------------------------------------------------------------------------------------------------------


def _problem_in(value: Any, row: _Row) -> str | None:  # noqa: ANN401 - whatever the row is about
    for name in row.ids:
        text = getattr(value, name)
        if text is not None and (found := _bad_id(name, text)):
            return found
    for name in row.counts:
        number = getattr(value, name)
        if number is not None and (found := _out_of_range(name, number)):
            return found
    for name, least, most in row.ranges:
        if found := _out_of_range(name, getattr(value, name), least, most):
            return found
    for name in row.instants:
        instant = getattr(value, name)
        if instant is not None and (found := _bad_instant(name, instant)):
            return found
    for name in row.notes:
        if found := _bad_note(name, getattr(value, name)):
            return found
    for name in row.values:
        text = getattr(value, name)
        if text is not None and (found := _bad_value(name, text)):
            return found
    return _problem_between(value, row)


def _problem_between(value: Any, row: _Row) -> str | None:  # noqa: ANN401 - as above
    """What does not fit together in the value, or is impossible in its parts."""
    for name, earlier in row.later:
        instant, before = getattr(value, name), getattr(value, earlier)
        if instant is not None and instant <= before:
            return f"{name} is {instant.isoformat()}, expected after {earlier} {before.isoformat()}"
    for one, other in row.exclusive:
        if getattr(value, one) not in _NOT_GIVEN and getattr(value, other) not in _NOT_GIVEN:
            return f"{one} and {other} are both set, expected at most one of them"
    for name, part in row.parts:
        if found := _problem_in(getattr(value, name), part):
            return f"{name}.{found}"
    for each in row.lists:
        if found := _problem_in_list(getattr(value, each.name), each):
            return found
    return None


def _problem_in_list(values: Sequence[object], expected: _List) -> str | None:
    if not expected.least <= len(values) <= ITEMS_MAX:
        return _bad_count(expected.name, values, expected.least)
    for place, value in enumerate(values):
        if found := _problem_in(value, expected.row):
            return f"{expected.name}[{place}].{found}"
    return _repeated(expected.name, expected.key, [getattr(value, expected.key) for value in values])


_NOT_GIVEN = (None, ())
_YEAR_MIN, _YEAR_MAX = 1971, 2999


def _bad_id(name: str, text: str) -> str | None:
    if not 0 < len(text) <= ID_LENGTH_MAX:
        return f"{name} has {len(text)} characters, expected 1 to {ID_LENGTH_MAX}"
    if not text.isprintable():
        return f"{name} has unprintable characters, expected printable ones only"
    return None


def _bad_note(name: str, text: str) -> str | None:
    if not 0 < len(text) <= NOTE_LENGTH_MAX:
        return f"{name} has {len(text)} characters, expected 1 to {NOTE_LENGTH_MAX}"
    if not text.replace("\n", "").isprintable():
        return f"{name} has unprintable characters, expected printable ones and newlines only"
    return None


def _bad_value(name: str, text: str) -> str | None:
    try:
        is_canonical = canonical(text) == text
    except ValueError as error:
        return f"{name} is no value of a setting: {error}"
    return None if is_canonical else f"{name} is not in canonical form, expected its members by name and no space"


def _out_of_range(name: str, number: int, least: int = 1, most: int = UNITS_MAX) -> str | None:
    if not least <= number <= most:
        return f"{name} is {number}, expected {least} to {most}"
    return None


def _bad_instant(name: str, instant: datetime) -> str | None:
    if not _YEAR_MIN <= instant.year <= _YEAR_MAX:
        return f"{name} is {instant.isoformat()}, expected a year from {_YEAR_MIN} to {_YEAR_MAX}"
    if instant.utcoffset():
        # Grants are named by instants as they are written: the same one in another zone would name another grant.
        return f"{name} is {instant.isoformat()}, expected it in UTC"
    return None


def _bad_count(name: str, values: Sequence[object], least: int) -> str:
    return f"{name} has {len(values)} elements, expected {least} to {ITEMS_MAX}"


def _repeated(name: str, key: str, ids: Sequence[str]) -> str | None:
    if len(set(ids)) != len(ids):
        return f"{name} repeats a {key}, expected each once"
    return None
