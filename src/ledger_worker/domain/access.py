"""From a settled book to the answer: what the customer may do now, and the picture that is told and read.

A picture is computed from a book that stands at the instant asked for: a read first passes what is due (`settle_due`),
booked or not, so access ends at its instant whether or not any process is alive.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from ledger_worker.domain.catalogue import DebtPolicy, Entitlement, EntitlementType, LimitPolicy
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.due import transitions_ahead, transitions_due
from ledger_worker.domain.ledger import NEVER, GrantTerms, Phase, value_precedence
from ledger_worker.domain.places import up_to_made
from ledger_worker.domain.seats import evicted, seats_of
from ledger_worker.domain.settlement import Book
from ledger_worker.domain.values import JsonText, MergePolicy, merged

__all__ = [
    "AccessReason",
    "Resolved",
    "level_of",
    "picture",
    "quiet_units",
    "resolved",
    "settle_due",
    "shown_units",
    "value_in_force",
]


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


class Resolved(msgspec.Struct, frozen=True):
    """The one value that grants of a setting come to, and which of them decide it.

    `grants` are all of them, by precedence; `deciding` are the ids of those whose value it is, or of all in a union.
    """

    value: JsonText
    grants: tuple[GrantTerms, ...]
    deciding: frozenset[UUID]


def settle_due(book: Book, at: datetime) -> None:
    """The book has passed everything that is due at `at`. For reads: nothing of it is stored."""
    while due := up_to_made(transitions_due(book, at)):
        for transition in due:
            book.pass_transition(transition)
            gone = evicted(book, transition.place[0])
            book.holders = book.holders[: len(book.holders) - len(gone)]


def picture(book: Book) -> EntitlementPicture:
    """The entitlement where `book` stands: a read passes what is due first, a decision stands where it is."""
    entitlement = book.entitlement
    force = _in_force(book)
    reason = _reason(book, force)
    is_quota = entitlement.type is EntitlementType.QUOTA
    has_units = entitlement.type.has_units
    has_limit = has_units and not force.is_unlimited
    of_setting = resolved(entitlement, force.valued) if force.valued else None
    return EntitlementPicture(
        entitlement=entitlement.key,
        entitlement_version=entitlement.version,
        type=entitlement.type.value,
        state=_STATE[reason],
        allowed=reason is AccessReason.ALLOWED,
        reason=reason.value,
        unlimited=has_units and force.is_unlimited,
        allocated=_counted(force.granted) if has_limit else None,
        limit=_counted(force.limit) if has_limit else None,
        used=force.used if has_units else None,
        held=force.held if is_quota else None,
        remaining=_counted(_remaining(entitlement, force)) if has_limit else None,
        overage=force.overage if is_quota else None,
        debt=book.debt if is_quota else None,
        forgiven=book.forgiven if is_quota else None,
        value=None if of_setting is None else of_setting.value,
        level=_level(book, force) if has_units else None,
        starts_at=_starts_at(book, force),
        expires_at=None if force.ends_at is NEVER else force.ends_at,
        period_end=force.period_end,
        holders=None if is_quota or not has_units else tuple(one.name for one in book.holders),
        suspension_causes=tuple(sorted(set(force.causes))) or None,
        upcoming=_upcoming(book),
        over_allocated=_counted(force.short) if has_units else None,
    )


def resolved(entitlement: Entitlement, grants: Sequence[GrantTerms]) -> Resolved | None:
    """What these grants of a setting, all of them in force, come to; None without any."""
    in_order = tuple(sorted(grants, key=value_precedence))
    values = [terms.value for terms in in_order if terms.value is not None]
    if not values:
        return None
    merge = entitlement.merge
    if merge is None:
        return Resolved(values[0], in_order, frozenset((in_order[0].grant_id,)))
    value = merged(values, merge)
    deciding = (terms.grant_id for terms in in_order if merge is MergePolicy.UNION or terms.value == value)
    return Resolved(value, in_order, frozenset(deciding))


def value_in_force(book: Book) -> Resolved | None:
    """The value of a setting where `book` stands, with its reason; None of another type, or with nothing in force."""
    if book.entitlement.type is not EntitlementType.SETTING:
        return None
    return resolved(book.entitlement, _in_force(book).valued)


def level_of(book: Book) -> int | None:
    """The highest threshold that used and overage reach: 0 below the first, None for an unlimited quota."""
    return _level(book, _in_force(book))


def shown_units(book: Book) -> tuple[int | None, int, int]:
    """Limit (None: unlimited, or no units), used and held of what is in force.

    What the check path reads of an account.
    """
    force = _in_force(book)
    has_limit = book.entitlement.type.has_units and not force.is_unlimited
    return _counted(force.limit) if has_limit else None, force.used, force.held


def quiet_units(book: Book) -> int | None:
    """How many units can be used in order without anything to tell; None when it is any number.

    Most usage flips nothing and crosses no threshold: it is booked without drawing a picture before and after.
    """
    force = _in_force(book)
    if force.is_unlimited:
        return None
    counted = force.used + force.overage
    bounds = [
        -(-percent * force.limit // 100) - counted - 1
        for percent in book.entitlement.thresholds
        if 100 * counted < percent * force.limit
    ]
    if force.available:
        bounds.append(force.available - (book.entitlement.limit is LimitPolicy.HARD))
    elif not force.overage:
        return 0
    return min(bounds, default=None)


_COUNT_MAX = 2**63 - 1
_UPCOMING_MAX = 10
_UPCOMING_VALUE_BYTES_MAX = 256
_UPCOMING = {"begin": "begins", "suspend": "suspended", "lift": "lifted", "cut": "cut"}
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


class _Force(msgspec.Struct):
    """What is active and not suspended, taken together; `ends_at` is None without any, `NEVER` when one never ends.

    `overage` is what counts: since the earliest start of it, or else since the last end. `causes` are what suspends
    the others; `short` is over-allocation of both. Of seats `used` are the holders, and `short` those beyond all seats.
    `valued` are the terms of what has a value.
    """

    grants: int = 0
    is_unlimited: bool = False
    granted: int = 0
    is_revoked: bool = True
    limit: int = 0
    used: int = 0
    held: int = 0
    available: int = 0
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    period_end: datetime | None = None
    overage: int = 0
    causes: tuple[str, ...] = ()
    short: int = 0
    valued: list[GrantTerms] = []


def _remaining(entitlement: Entitlement, force: _Force) -> int:
    """What is left; never less than no seat, for who has one may keep it when there are fewer."""
    left = force.limit - force.used - force.held
    return max(0, left) if entitlement.type is EntitlementType.SEATS else left


def _counted(units: int) -> int:
    """A sum over grants as it is told: as much as 64 bits can say stands for all that is more."""
    return min(units, _COUNT_MAX)


def _in_force(book: Book) -> _Force:
    force = _Force()
    for grant in book.active:
        terms = grant.terms
        if grant.is_empty_child:
            continue
        force.short += grant.short
        if terms.suspensions and (causes := book.open_causes(grant)):
            force.causes += tuple(causes)
            continue
        force.grants += 1
        if terms.value is not None:
            force.valued.append(terms)
        force.is_unlimited = force.is_unlimited or terms.amount is None
        force.is_revoked = force.is_revoked and 0 < grant.granted == grant.revoked
        force.granted += grant.granted
        force.limit += grant.granted - grant.revoked - grant.moved - grant.expired
        force.used += grant.used
        force.held += grant.held
        force.available += grant.available
        if force.starts_at is None or terms.effective_at < force.starts_at:
            force.starts_at = terms.effective_at
        ends_at = terms.expires_at or NEVER
        if force.ends_at is None or ends_at > force.ends_at:
            force.ends_at = ends_at
        if terms.period_end is not None and (force.period_end is None or terms.period_end > force.period_end):
            force.period_end = terms.period_end
    if book.overage:
        since = force.starts_at if force.grants else book.last_end
        force.overage = sum(
            units for started_at, units in book.overage_since.all if since is None or started_at >= since
        )
    if book.entitlement.type is EntitlementType.SEATS:
        seats = seats_of(book)
        force.used = len(book.holders)
        force.short = 0 if seats is None else max(0, force.used - seats)
    return force


def _upcoming(book: Book) -> str | None:
    """What is known to happen beside the end that `expires_at` shows, as JSON: the first of it, in order.

    Grants that will begin (a change of plan that is scheduled), suspensions that will begin or be lifted, and cuts.
    """
    if all(
        grant.phase is Phase.ACTIVE and not grant.terms.cuts and not grant.terms.suspensions
        for grant in book.grants.values()
    ):
        return None
    shown: list[dict[str, object]] = []
    for transition, terms in transitions_ahead(book):
        what = _UPCOMING.get(transition.kind)
        if what is None or (transition.kind == "begin" and terms.parent is not None):
            continue
        one: dict[str, object] = {"at": transition.place[0], "what": what}
        if transition.kind == "begin" and terms.amount is not None:
            one["units"] = terms.amount
        if (
            transition.kind == "begin"
            and terms.value is not None
            and len(terms.value.encode()) <= _UPCOMING_VALUE_BYTES_MAX
        ):
            one["value"] = msgspec.Raw(terms.value.encode())
        shown.append(one)
    return msgspec.json.encode(shown[:_UPCOMING_MAX]).decode() if shown else None


def _starts_at(book: Book, force: _Force) -> datetime | None:
    """Since when it is in force, or else when the first pending grant begins."""
    if force.grants:
        return force.starts_at
    pending = [
        grant.terms.effective_at
        for grant in book.grants.values()
        if grant.phase is Phase.PENDING and not grant.is_empty_child
    ]
    return min(pending, default=None)


def _level(book: Book, force: _Force) -> int | None:
    if force.is_unlimited:
        return None
    counted = force.used + force.overage
    if force.limit == 0 and counted == 0:
        return 0
    level = 0
    for percent in book.entitlement.thresholds:
        if 100 * counted >= percent * force.limit:
            level = percent
    return level


def _reason(book: Book, force: _Force) -> AccessReason:
    if not force.grants:
        if force.causes:
            return AccessReason.SUSPENDED
        if any(grant.phase is Phase.PENDING and not grant.is_empty_child for grant in book.grants.values()):
            return AccessReason.NOT_YET_ACTIVE
        return AccessReason.NOT_ENTITLED if book.last_end is None else AccessReason.EXPIRED
    if book.debt > 0 and book.entitlement.debt is DebtPolicy.BLOCK:
        return AccessReason.IN_DEBT
    if not book.entitlement.type.has_units or force.is_unlimited:
        return AccessReason.ALLOWED
    if book.entitlement.type is EntitlementType.SEATS:
        if force.limit:
            return AccessReason.ALLOWED
        return AccessReason.REVOKED if force.granted else AccessReason.EXHAUSTED
    if force.available or (book.entitlement.limit is LimitPolicy.SOFT and not force.is_revoked):
        return AccessReason.ALLOWED
    return AccessReason.REVOKED if force.granted > 0 and not force.used + force.held else AccessReason.EXHAUSTED
