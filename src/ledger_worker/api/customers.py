"""Customers for people: the picture now or of another instant, what was booked and why, and who has a seat."""

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ledger_worker.api.calls import Call
from ledger_worker.api.limits import Cursor, EntitlementKey, Instant, Units
from ledger_worker.api.problems import ProblemError, ProblemType
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.reports import customer as reports
from ledger_worker.reports.customer import Explanation
from ledger_worker.reports.history import CustomerHistory, newest_first, oldest_first
from ledger_worker.reports.past import show_past
from ledger_worker.reports.seats import Seats, read_seats

__all__ = [
    "ExplainQuery",
    "HistoryQuery",
    "Picture",
    "PictureQuery",
    "explain",
    "history",
    "picture",
    "seats",
]

_PAGE = 20
_PAGE_MAX = 1_000


class PictureQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both times; without either it is the picture now."""

    as_of: Annotated[Instant, Meta(description="What the customer could use then; now if not said.")] | None = None
    known_at: Annotated[Instant, Meta(description="By what was recorded then: `recorded_at` of an answer.")] | None = (
        None
    )


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which page of what was booked."""

    order: Literal["newest_first", "oldest_first"] = "newest_first"
    limit: Annotated[int, Meta(ge=1, le=_PAGE_MAX, description="How many postings a page has at most.")] = _PAGE
    cursor: Cursor | None = None


class ExplainQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be explained."""

    entitlement: EntitlementKey | None = None
    units: Annotated[Units, Meta(description="Say what would allow a request for so many.")] = 1
    postings: Annotated[int, Meta(ge=1, le=_PAGE_MAX, description="How many of the last postings are shown.")] = _PAGE


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """Every entitlement that a customer has or had, as of an instant, as the ledger knew it at another.

    `sequence` is that of the last change, None for a picture of another instant; `recorded_at` is the instant to ask
    with later about what was known.
    """

    customer_id: str
    as_of: datetime | None
    known_at: datetime | None
    timeline: int
    sequence: int | None
    recorded_at: datetime | None
    entitlements: tuple[EntitlementPicture, ...]
    merged_into: str | None


def picture(call: Call) -> Picture:
    """What one customer has, now or at another instant."""
    customer_id, query = call.path["customer_id"], call.query
    with call.services.engine.connect() as connection:
        if query.as_of is None and query.known_at is None:
            now = reports.show(connection, customer_id)
            if now is None:
                raise _unknown(customer_id)
            return Picture(
                customer_id=customer_id,
                as_of=None,
                known_at=None,
                timeline=now.timeline,
                sequence=now.sequence,
                recorded_at=now.recorded_at,
                entitlements=now.entitlements,
                merged_into=now.merged_into,
            )
        past = show_past(connection, customer_id, _utc("as_of", query.as_of), _utc("known_at", query.known_at))
    if past is None:
        raise _unknown(customer_id)
    return Picture(
        customer_id=customer_id,
        as_of=past.as_of,
        known_at=past.known_at,
        timeline=past.timeline,
        sequence=past.sequence,
        recorded_at=past.recorded_at,
        entitlements=past.entitlements,
        merged_into=past.merged_into,
    )


def history(call: Call) -> CustomerHistory:
    """What was booked of one customer, page by page."""
    read = oldest_first if call.query.order == "oldest_first" else newest_first
    with call.services.engine.connect() as connection:
        try:
            found = read(connection, call.path["customer_id"], call.query.cursor, postings_max=call.query.limit)
        except ValueError as error:
            raise ProblemError(
                ProblemType.INVALID_REQUEST, str(error), members={"field": "cursor", "sent": call.query.cursor}
            ) from error
    if found is None:
        raise _unknown(call.path["customer_id"])
    return found


def explain(call: Call) -> Explanation:
    """Why one customer may or may not, and what would allow it."""
    query: ExplainQuery = call.query
    with call.services.engine.connect() as connection:
        found = reports.explain(
            connection,
            call.path["customer_id"],
            query.entitlement,
            units=query.units,
            postings_max=query.postings,
        )
    if found is None:
        raise _unknown(call.path["customer_id"])
    if query.entitlement is not None and not found.entitlements:
        raise ProblemError(
            ProblemType.NOT_FOUND, f"entitlement {query.entitlement} is not in the catalogue, expected one that is"
        )
    return found


def seats(call: Call) -> Seats:
    """Who has a seat, in the order of taking."""
    customer_id, entitlement = call.path["customer_id"], call.path["entitlement"]
    with call.services.engine.connect() as connection:
        found = read_seats(connection, customer_id, entitlement)
    if found is None:
        raise ProblemError(ProblemType.NOT_FOUND, f"customer {customer_id} never had seats of {entitlement}")
    return found


def _utc(name: str, instant: datetime | None) -> datetime | None:
    try:
        return None if instant is None else instant.astimezone(UTC)
    except OverflowError:
        raise ProblemError(
            ProblemType.INVALID_REQUEST,
            f"{name} is outside of the years 1 to 9999 in UTC",
            members={"field": name, "sent": instant.isoformat() if instant else None, "expected": "an instant within"},
        ) from None


def _unknown(customer_id: str) -> ProblemError:
    return ProblemError(ProblemType.NOT_FOUND, f"nothing was ever told of customer {customer_id}")
