"""What we tell: one `EntitlementChanged` per entitlement that a posting changed, and the whole picture of a customer.

Shapes only. When a change is told is decided in `decide`; how a picture is computed is in `access`. Closed lists are
strings so that they can grow. Fields that no rule fills yet are there with their empty value.
"""

from datetime import datetime
from uuid import UUID

import msgspec

__all__ = ["Cause", "Change", "CustomerPicture", "EntitlementPicture"]


class EntitlementPicture(msgspec.Struct, frozen=True, kw_only=True):
    """One entitlement of one customer at one instant.

    `state` is one of `none, pending, active, exhausted, suspended, expired, revoked`; `reason` is a member of
    `access.AccessReason`. `limit` is None when unlimited or when the type has no units; `allocated` is what was granted
    by the grants in force, `limit` what is left of that after revocations, expiries and moves; `remaining = limit -
    used - held`. `expires_at` is when the present access ends if nothing more is told (None: never, or no access);
    `period_end` the end of the paid period without leeway. `value` is JSON text. `level` is the highest threshold
    reached, in percent. `holders` have seats, in the order of their taking. `over_allocated` is by how many units, or
    seats, the allocation shrank below use.
    """

    entitlement: str
    entitlement_version: int
    type: str
    state: str
    allowed: bool
    reason: str
    unlimited: bool = False
    allocated: int | None = None
    limit: int | None = None
    used: int | None = None
    held: int | None = None
    remaining: int | None = None
    overage: int | None = None
    debt: int | None = None
    forgiven: int | None = None
    value: str | None = None
    level: int | None = None
    starts_at: datetime | None = None
    expires_at: datetime | None = None
    period_end: datetime | None = None
    holders: tuple[str, ...] | None = None
    suspension_causes: tuple[str, ...] | None = None
    upcoming: str | None = None
    over_allocated: int | None = None


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """The event behind a change: `type` is the fact's type; `actor` and `note` are set where a person did it."""

    event_source: str
    event_id: str
    type: str
    occurred_at: datetime
    actor: str | None = None
    note: str | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """`EntitlementChanged`: `sequence` is gap-free per customer and timeline.

    Ignore what is not newer than what you have.

    `kinds` says what differs between `before` and `after` (closed list in `side`); `correction` is true when the
    posting corrects an instant that was booked before. `effective_at` is the earliest instant it speaks of,
    `recorded_at` when it was committed. `posting` and `posting_hash` name the link of the customer's hash chain that
    made it.
    """

    change_id: UUID
    customer_id: str
    timeline: int
    sequence: int
    entitlement: str
    kinds: tuple[str, ...]
    before: EntitlementPicture
    after: EntitlementPicture
    cause: Cause
    effective_at: datetime
    recorded_at: datetime
    posting: int
    posting_hash: bytes
    correction: bool = False


class CustomerPicture(msgspec.Struct, frozen=True, kw_only=True):
    """`CustomerState`: every entitlement the customer ever had, as of `recorded_at`, with the sequence it contains.

    `merged_into` is set when the id has become an alias, to whom it goes on as: then `entitlements` is empty.
    """

    customer_id: str
    timeline: int
    sequence: int
    recorded_at: datetime
    entitlements: tuple[EntitlementPicture, ...]
    merged_into: str | None = None
