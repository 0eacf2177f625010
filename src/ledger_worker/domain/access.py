"""From a settled book to the answer: what the customer may do now, and the picture that is told and read.

A picture is computed from a book that stands at the instant asked for: a read first passes what is due (`settle_due`),
booked or not, so access ends at its instant whether or not any process is alive.
"""

from datetime import datetime
from enum import StrEnum

from ledger_worker.domain.catalogue import DebtPolicy, EntitlementType, LimitPolicy
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.ledger import Phase
from ledger_worker.domain.settlement import Book, BookedGrant, is_suspended

__all__ = ["AccessReason", "is_allowed", "level_of", "picture", "quiet_units", "settle_due", "shown_units"]


class AccessReason(StrEnum):
    """Why a customer may or may not use an entitlement; the first that is true is given."""

    ALLOWED = "allowed"
    IN_DEBT = "in_debt"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    EXHAUSTED = "exhausted"
    NOT_YET_ACTIVE = "not_yet_active"
    EXPIRED = "expired"
    NOT_ENTITLED = "not_entitled"


def settle_due(book: Book, at: datetime) -> None:
    """The book has passed everything that is due at `at`. For reads: nothing of it is stored."""
    for transition in book.due(at):
        book.pass_transition(transition)


def picture(book: Book, at: datetime) -> EntitlementPicture:
    """The entitlement as it stands in `book`, which must have passed everything due at `at`."""
    entitlement = book.entitlement
    in_force = [grant for grant in book.active if not is_suspended(grant.terms, at)]
    reason = _reason(book, in_force)
    is_quota = entitlement.type is EntitlementType.QUOTA
    unlimited = is_quota and any(grant.terms.amount is None for grant in in_force)
    limit = sum(_limit(grant) for grant in in_force)
    used = sum(grant.used for grant in in_force)
    held = sum(grant.held for grant in in_force)
    ends = [grant.terms.expires_at for grant in in_force]
    period_ends = [grant.terms.period_end for grant in in_force if grant.terms.period_end is not None]
    pending = [grant.terms.effective_at for grant in book.grants.values() if grant.phase is Phase.PENDING]
    starts = [grant.terms.effective_at for grant in in_force] or pending
    counts = is_quota or None
    return EntitlementPicture(
        entitlement=entitlement.key,
        entitlement_version=entitlement.version,
        type=entitlement.type.value,
        state=_STATE[reason],
        allowed=reason is AccessReason.ALLOWED,
        reason=reason.value,
        unlimited=unlimited,
        allocated=counts and (None if unlimited else sum(grant.granted for grant in in_force)),
        limit=counts and (None if unlimited else limit),
        used=counts and used,
        held=counts and held,
        remaining=counts and (None if unlimited else limit - used - held),
        overage=counts and _overage_counted(book),
        debt=counts and book.debt,
        forgiven=counts and book.forgiven,
        level=level_of(book, at) if is_quota else None,
        starts_at=min(starts, default=None),
        expires_at=None if None in ends else max((end for end in ends if end is not None), default=None),
        period_end=max(period_ends, default=None),
    )


def level_of(book: Book, at: datetime) -> int | None:
    """The highest threshold that used and overage reach (RULES 31): 0 below the first, None for an unlimited quota."""
    limit = used = 0
    for grant in book.active:
        if is_suspended(grant.terms, at):
            continue
        if grant.terms.amount is None:
            return None
        limit += _limit(grant)
        used += grant.used
    counted = used + _overage_counted(book)
    if limit == 0 and counted == 0:
        return 0
    level = 0
    for percent in book.entitlement.thresholds:
        if 100 * counted >= percent * limit:
            level = percent
    return level


def shown_units(book: Book, at: datetime) -> tuple[int | None, int, int]:
    """Limit (None: unlimited, or no units), used and held of what is in force.

    What the check path reads of an account.
    """
    limit = used = held = 0
    unlimited = book.entitlement.type is not EntitlementType.QUOTA
    for grant in book.active:
        if not is_suspended(grant.terms, at):
            unlimited = unlimited or grant.terms.amount is None
            limit += _limit(grant)
            used += grant.used
            held += grant.held
    return None if unlimited else limit, used, held


def quiet_units(book: Book, at: datetime) -> int | None:
    """How many units can be used in order without anything to tell (RULES 32); None when it is any number.

    Most usage flips nothing and crosses no threshold: it is booked without drawing a picture before and after.
    """
    limit, used, available = 0, 0, 0
    for grant in book.active:
        if is_suspended(grant.terms, at):
            continue
        if grant.terms.amount is None:
            return None
        limit += _limit(grant)
        used += grant.used
        available += grant.available
    overage = _overage_counted(book)
    counted = used + overage
    bounds = [
        -(-percent * limit // 100) - counted - 1
        for percent in book.entitlement.thresholds
        if 100 * counted < percent * limit
    ]
    if available:
        bounds.append(available - (book.entitlement.limit is LimitPolicy.HARD))
    elif not overage:
        return 0
    return min(bounds, default=None)


def is_allowed(book: Book, at: datetime) -> bool:
    """Whether the customer may use the entitlement now; the same as `picture(...).allowed`, and cheaper."""
    return _reason(book, [grant for grant in book.active if not is_suspended(grant.terms, at)]) is AccessReason.ALLOWED


_STATE = {
    AccessReason.ALLOWED: "active",
    AccessReason.IN_DEBT: "active",
    AccessReason.SUSPENDED: "suspended",
    AccessReason.REVOKED: "revoked",
    AccessReason.EXHAUSTED: "exhausted",
    AccessReason.NOT_YET_ACTIVE: "pending",
    AccessReason.EXPIRED: "expired",
    AccessReason.NOT_ENTITLED: "none",
}


def _reason(book: Book, in_force: list[BookedGrant]) -> AccessReason:
    if not in_force:
        if book.active:
            return AccessReason.SUSPENDED
        if any(grant.phase is Phase.PENDING for grant in book.grants.values()):
            return AccessReason.NOT_YET_ACTIVE
        return AccessReason.NOT_ENTITLED if book.last_end is None else AccessReason.EXPIRED
    if book.entitlement.type is not EntitlementType.QUOTA or any(grant.terms.amount is None for grant in in_force):
        return _unless_in_debt(book)
    if all(grant.revoked == grant.granted and grant.granted for grant in in_force):
        return AccessReason.REVOKED
    if book.entitlement.limit is LimitPolicy.SOFT or any(grant.available for grant in in_force):
        return _unless_in_debt(book)
    return AccessReason.EXHAUSTED


def _unless_in_debt(book: Book) -> AccessReason:
    in_debt = book.debt > 0 and book.entitlement.debt is DebtPolicy.BLOCK
    return AccessReason.IN_DEBT if in_debt else AccessReason.ALLOWED


def _limit(grant: BookedGrant) -> int:
    return grant.granted - grant.revoked - grant.moved - grant.expired


def _overage_counted(book: Book) -> int:
    since = book.counted_since()
    return sum(units for started_at, units in book.overage_since if since is None or started_at >= since)
