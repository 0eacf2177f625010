"""What customers may do now: decisions, as a service asks for them on its hot path.

Read in one snapshot, with what is due passed whether or not it is booked. Whoever is not known has nothing, and is
answered as anybody who has nothing is. Of a customer that went on as another the decision is that other one's, as for
a request.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from ledger_worker.domain.access import picture
from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import CustomerPicture, EntitlementPicture
from ledger_worker.domain.ledger import Account
from ledger_worker.domain.requests import Item, grantable
from ledger_worker.domain.settlement import Book
from ledger_worker.store import customers, pictures

__all__ = ["Decision", "UnknownEntitlementError", "decisions"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a customer may use an entitlement as of an instant, why, and what is left.

    `reason` is `allowed`, or the first that is true of: `in_debt`, `suspended`, `revoked`, `exhausted`,
    `not_yet_active`, `expired`, `not_entitled`, `wrong_type` where units are asked for of what has none. Numbers are
    units, or seats; None where there are none to count. `value` is that of a setting. `sequence` is that of the
    customer's last change, `recorded_at` the instant to ask with later about what was known now. `merged_into` is whose
    decision it is where the customer went on as another.
    """

    customer_id: str
    entitlement: str
    type: str
    allowed: bool
    reason: str
    state: str
    unlimited: bool
    limit: int | None
    used: int | None
    held: int | None
    remaining: int | None
    overage: int | None
    debt: int | None
    level: int | None
    value: msgspec.Raw | None
    expires_at: datetime | None
    as_of: datetime
    timeline: int
    sequence: int
    recorded_at: datetime | None
    merged_into: str | None = None


class UnknownEntitlementError(Exception):
    """The catalogue has no entitlement of that key."""


def decisions(
    connection: Connection, catalogue: Catalogue, asked: Mapping[str, Sequence[str]], units: int | None = None
) -> list[Decision]:
    """The decisions about the entitlements asked for of each customer, in the order in which they are asked for.

    No entitlement means all that the customer has or had. With `units` whether so many could be used now. `catalogue`
    has to be the one in force. Raises UnknownEntitlementError naming the first that the catalogue does not have.
    """
    unknown = next((key for keys in asked.values() for key in keys if key not in catalogue.entitlements), None)
    if unknown is not None:
        raise UnknownEntitlementError(unknown)
    at = customers.clock(connection)
    found = {one.customer_id: one for one in pictures.load(connection, list(asked), at, catalogue)}
    others = [one.merged_into for one in found.values() if one.merged_into is not None]
    found |= {one.customer_id: one for one in pictures.load(connection, others, at, catalogue)} if others else {}
    decided = []
    for customer_id, keys in asked.items():
        own = found.get(customer_id)
        user = own if own is None or own.merged_into is None else found.get(own.merged_into)
        shown = {one.entitlement: one for one in (user.entitlements if user else ())}
        for key in keys or sorted(shown):
            of_it = shown.get(key) or picture(Book(catalogue.entitlements[key], Account(entitlement=key), ()))
            decided.append(_decision(customer_id, of_it, user, own, at, catalogue, units))
    return decided


def _decision(
    customer_id: str,
    shown: EntitlementPicture,
    user: CustomerPicture | None,
    own: CustomerPicture | None,
    at: datetime,
    catalogue: Catalogue,
    units: int | None,
) -> Decision:
    allowed, reason = shown.allowed, shown.reason
    if units is not None:
        item = Item(entitlement=shown.entitlement, units=units)
        could, why_not = grantable(item, catalogue, shown, up_to=False)
        allowed, reason = could == units, why_not or reason
    return Decision(
        customer_id=customer_id,
        entitlement=shown.entitlement,
        type=shown.type,
        allowed=allowed,
        reason=reason,
        state=shown.state,
        unlimited=shown.unlimited,
        limit=shown.limit,
        used=shown.used,
        held=shown.held,
        remaining=shown.remaining,
        overage=shown.overage,
        debt=shown.debt,
        level=shown.level,
        value=None if shown.value is None else msgspec.Raw(shown.value.encode()),
        expires_at=shown.expires_at,
        as_of=at,
        timeline=user.timeline if user else 0,
        sequence=user.sequence if user else 0,
        recorded_at=user.recorded_at if user else None,
        merged_into=own.merged_into if own else None,
    )
