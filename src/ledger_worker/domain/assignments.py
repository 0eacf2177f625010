"""From what a person did by hand to its grants: assigned, renewed, extended, revoked."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from ledger_worker.domain.catalogue import Catalogue, value_problem
from ledger_worker.domain.events import AssignmentExtended, AssignmentRenewed, AssignmentRevoked, EntitlementAssigned
from ledger_worker.domain.ledger import GrantTerms
from ledger_worker.domain.stretches import grant_id
from ledger_worker.domain.told import Latest, PlacedFact, Told
from ledger_worker.domain.values import JsonText

__all__ = ["AssignmentTelling", "assignment_grants", "is_ruled_out", "tell_assignment"]


class AssignmentTelling(msgspec.Struct):
    """What the acts about one assignment say taken together; `assigned` is None while only others were told."""

    assigned: Told[EntitlementAssigned] | None
    renewed: Latest[datetime, AssignmentRenewed]
    extended: Latest[str, datetime]
    revoked: Latest[str, datetime]


def tell_assignment(facts: Sequence[PlacedFact]) -> AssignmentTelling:
    """What the acts about an assignment, in their true order, say taken together."""
    assigned: Latest[None, EntitlementAssigned] = Latest()
    telling = AssignmentTelling(None, Latest(), Latest(), Latest())
    for place, (at, recorded) in enumerate(facts):
        match recorded.fact:
            case EntitlementAssigned() as fact:
                assigned.tell(None, place, at, fact)
            case AssignmentRenewed() as fact:
                telling.renewed.tell(fact.effective_at, place, at, fact)
            case AssignmentExtended() as fact:
                telling.extended.tell(fact.extension_id, place, at, fact.new_expires_at)
            case AssignmentRevoked() as fact:
                telling.revoked.tell(fact.revocation_id, place, at, fact.effective_at)
            case _:
                pass  # no other fact has an assignment for its source
    telling.assigned = assigned.get(None)
    return telling


def is_ruled_out(telling: AssignmentTelling, renewal: AssignmentRenewed, catalogue: Catalogue) -> bool:
    """Whether the renewal gives units, or a value, that what was assigned cannot have."""
    if telling.assigned is None:
        return False
    entitlement = catalogue.entitlements[telling.assigned.content.entitlement]
    if renewal.units is not None and not entitlement.type.has_units:
        return True
    return renewal.value is not None and value_problem(renewal.value, entitlement) is not None


def assignment_grants(telling: AssignmentTelling, source_key: str, catalogue: Catalogue) -> list[GrantTerms]:
    """The grant of the assignment, and one for each renewal that is not ruled out."""
    if telling.assigned is None:
        return []
    first = telling.assigned.content
    times: list[tuple[datetime, datetime | None, int | None, JsonText | None, datetime | None]] = [
        (first.effective_at, first.expires_at, first.units, first.value, None)
    ]
    for renewal in (told.content for told in telling.renewed.values()):
        if is_ruled_out(telling, renewal, catalogue):
            continue
        units = first.units if renewal.units is None else renewal.units
        value = first.value if renewal.value is None else renewal.value
        times.append((renewal.effective_at, renewal.expires_at, units, value, renewal.effective_at))
    revoked_at = min((told.content for told in telling.revoked.values()), default=None)
    ends: dict[int, datetime] = {}
    for new_end in (told.content for told in telling.extended.values()):
        begun = [(start, place) for place, (start, *_) in enumerate(times) if start < new_end]
        if begun:
            _, place = max(begun)
            ends[place] = max(new_end, ends.get(place, new_end))
    given = []
    for place, (start, end, units, value, period_start) in enumerate(times):
        expires_at = end if end is None or place not in ends else max(end, ends[place])
        period_end = expires_at
        if revoked_at is not None and (expires_at is None or revoked_at < expires_at):
            expires_at = revoked_at
        if expires_at is not None and expires_at <= start:
            continue
        given.append(
            GrantTerms(
                grant_id=grant_id(source_key, "", "", first.entitlement, period_start, ""),
                entitlement=first.entitlement,
                source_key=source_key,
                line_id="",
                sku="",
                allowance=first.entitlement,
                offer_version=0,
                amount=units,
                priority=first.priority,
                effective_at=start,
                expires_at=expires_at,
                period_start=period_start,
                period_end=period_end,
                value=value,
            )
        )
    return given
