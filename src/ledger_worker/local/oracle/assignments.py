"""What people give by hand."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime

from ledger_worker.domain.catalogue import Catalogue, Entitlement, EntitlementType
from ledger_worker.domain.events import (
    AssignmentExtended,
    AssignmentRenewed,
    AssignmentRevoked,
    EntitlementAssigned,
    Fact,
)
from ledger_worker.local.oracle.facts import Standing, kept
from ledger_worker.local.oracle.given import Given, Made, NameOfGrant
from ledger_worker.local.oracle.owners import Owners, held_by


def assignment_grants(
    source: str, told: Sequence[Standing], catalogue: Catalogue, name: NameOfGrant, owners: Owners
) -> list[Made]:
    """Assignments by hand: one grant, and a further one for each renewal."""
    assigned = [one.content for one in kept(told, assignment)]
    if not assigned:
        return []
    first = assigned[0]
    grants = [
        Given(
            name=name.root(source, "", "", first.entitlement, None, ""),
            holder="",
            source=source,
            line="",
            sku="",
            allowance=first.entitlement,
            entitlement=first.entitlement,
            units=first.units,
            priority=first.priority,
            start=first.effective_at,
            end=first.expires_at,
            period_start=None,
            value=first.value,
        )
    ]
    grants += [
        grants[0]._replace(
            name=name.root(source, "", "", first.entitlement, one.effective_at, ""),
            units=first.units if one.units is None else one.units,
            value=first.value if one.value is None else one.value,
            start=one.effective_at,
            end=one.expires_at,
            period_start=one.effective_at,
        )
        for one in sorted((one.content for one in kept(told, renewal)), key=lambda one: one.effective_at)
        if can_have(catalogue.entitlements[first.entitlement], one)
    ]
    for new_end in (one.content for one in kept(told, extension)):
        before = [place for place, grant in enumerate(grants) if grant.start < new_end]
        if before:
            last = max(before, key=lambda place: (grants[place].start, place))
            end = grants[last].end
            grants[last] = grants[last]._replace(end=None if end is None else max(end, new_end))
    for at in (one.content for one in kept(told, revocation)):
        grants = [one._replace(end=at if one.end is None else min(at, one.end)) for one in grants]
    made = [Made(one, None) for one in grants if one.end is None or one.start < one.end]
    return [held for one in made for held in held_by(owners, one, name)]


def can_have(entitlement: Entitlement, renewed: AssignmentRenewed) -> bool:
    """Whether a renewal asks for nothing that the entitlement has not: units, or a value that its merge can take."""
    if renewed.units is not None and entitlement.type not in {EntitlementType.QUOTA, EntitlementType.SEATS}:
        return False
    if renewed.value is None:
        return True
    expected = {None: object, "max": int, "min": int, "union": list, "any": bool}[entitlement.merge]
    found = type(json.loads(renewed.value))
    return entitlement.type is EntitlementType.SETTING and (expected is object or found is expected)


# -- business keys


def assignment(fact: Fact) -> Iterable[tuple[None, EntitlementAssigned]]:
    """Assignment id: one for the source."""
    return [(None, fact)] if isinstance(fact, EntitlementAssigned) else []


def renewal(fact: Fact) -> Iterable[tuple[datetime, AssignmentRenewed]]:
    """Assignment + instant of renewal."""
    return [(fact.effective_at, fact)] if isinstance(fact, AssignmentRenewed) else []


def extension(fact: Fact) -> Iterable[tuple[str, datetime]]:
    """Extension id."""
    return [(fact.extension_id, fact.new_expires_at)] if isinstance(fact, AssignmentExtended) else []


def revocation(fact: Fact) -> Iterable[tuple[str, datetime]]:
    """Revocation id."""
    return [(fact.revocation_id, fact.effective_at)] if isinstance(fact, AssignmentRevoked) else []
