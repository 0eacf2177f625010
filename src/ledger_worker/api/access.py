"""Checks: what customers may do now. A check that says no is an answer like any other: 200, `allowed` is false."""

import time
from typing import Annotated

import msgspec
from msgspec import Meta
from sqlalchemy import Connection

from ledger_worker.api.calls import Call
from ledger_worker.api.limits import CustomerId, EntitlementKey, Units
from ledger_worker.api.problems import ProblemError, ProblemType
from ledger_worker.reports.access import Decision, UnknownEntitlementError, decisions
from ledger_worker.store.catalogue import read_ledger

__all__ = ["CheckMany", "CheckOneQuery", "CheckQuery", "Decided", "check_all", "check_many", "check_one"]

_BEHIND_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_MinSequence = Annotated[
    int,
    Meta(
        ge=0,
        description="Read your own writes: the answer knows at least the customer's change of this sequence, or is a "
        "problem `behind`.",
    ),
]


class CheckOneQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to know of one entitlement."""

    units: Annotated[Units, Meta(description="Whether so many could be used now.")] | None = None
    min_sequence: _MinSequence = 0


class CheckQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to know of all entitlements."""

    min_sequence: _MinSequence = 0


class _Checked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Entitlements of one customer; without any all that it has or had."""

    customer_id: CustomerId
    entitlements: Annotated[list[EntitlementKey], Meta(max_length=100)] = []


class CheckMany(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many customers at once, each named once."""

    checks: Annotated[list[_Checked], Meta(min_length=1, max_length=100)]


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions as of one instant, in the order in which they were asked for."""

    decisions: tuple[Decision, ...]


def check_one(call: Call) -> Decision:
    """One entitlement of one customer."""
    asked = {call.path["customer_id"]: [call.path["entitlement"]]}
    (decision,) = _decided(call, asked, call.query.units, call.query.min_sequence)
    return decision


def check_all(call: Call) -> Decided:
    """Every entitlement that one customer has or had."""
    return Decided(decisions=tuple(_decided(call, {call.path["customer_id"]: []}, None, call.query.min_sequence)))


def check_many(call: Call) -> Decided:
    """Many entitlements of many customers."""
    asked: dict[str, list[str]] = {}
    for one in call.body.checks:
        if one.customer_id in asked:
            raise ProblemError(
                ProblemType.INVALID_REQUEST,
                f"customer {one.customer_id} is named twice, expected each once",
                members={"field": "$.checks", "expected": "each customer once"},
            )
        asked[one.customer_id] = one.entitlements
    return Decided(decisions=tuple(_decided(call, asked)))


def _decided(
    call: Call, asked: dict[str, list[str]], units: int | None = None, min_sequence: int = 0
) -> list[Decision]:
    """Raises ProblemError for an entitlement that nobody defined, or where what the caller knows is not here yet."""
    until = time.monotonic() + _BEHIND_SECONDS
    while True:
        with call.services.engine.connect() as connection:
            found = _read(connection, call, asked, units)
        if all(one.sequence >= min_sequence for one in found):
            return found
        if time.monotonic() > until:
            raise ProblemError(
                ProblemType.BEHIND,
                f"sequence {min_sequence} was not seen within {_BEHIND_SECONDS:g} s, expected one that was told",
                headers={"Retry-After": "1"},
            )
        time.sleep(_LOOK_SECONDS)


def _read(connection: Connection, call: Call, asked: dict[str, list[str]], units: int | None) -> list[Decision]:
    snapshot = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with snapshot.begin():
        catalogue = call.services.catalogues.at(snapshot, read_ledger(snapshot).catalogue_version)
        try:
            return decisions(snapshot, catalogue, asked, units)
        except UnknownEntitlementError as error:
            raise ProblemError(
                ProblemType.NOT_FOUND, f"entitlement {error} is not in the catalogue, expected one that is"
            ) from error
