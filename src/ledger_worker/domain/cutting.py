"""Cuts: how much they ask for, what they take, and their claims to what they found held.

A cut goes through the lineage of its grant. What it finds reserved by holds it takes from under them, or claims: then
it takes what comes back when a hold ends.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.booked import BookedGrant, last_burn
from ledger_worker.domain.catalogue import DebtPolicy
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.ledger import Claim, Cut, CutPolicy, Debt, Kind, Line, OpenHold
from ledger_worker.domain.lineages import ancestors_of, lineage_of
from ledger_worker.domain.places import CUT
from ledger_worker.domain.sending import send

__all__ = ["cut_grant", "drop_claims", "take_claimed"]


def cut_grant(counted: Counted, grant: BookedGrant, cut: Cut) -> list[Line]:
    """A cut takes what is available of the grant and then of its children.

    By `full_with_debt` then what expired of them, then what was used, the latest first. What a plan's cut cannot
    take is over-allocation.
    """
    counted.touched.add(grant.terms.grant_id)
    left = _asked(counted, grant, cut)
    lineage = lineage_of(counted, grant)
    lines: list[Line] = []
    for one in lineage:
        taken = min(left, one.available)
        if taken:
            lines.append(counted.move(Kind.REVOKE, cut.at, one, taken, None, cut.cut_id))
            left -= taken
    is_short = cut.policy in {CutPolicy.SHRINK, CutPolicy.OPENING}
    if is_short:
        grant.short += left
    if cut.policy is not CutPolicy.FULL_WITH_DEBT:
        if left and any(one.held for one in lineage):
            counted.claims.append(Claim(grant.terms.grant_id, cut.cut_id, left, is_short))
        return lines
    for one in lineage:
        taken = min(left, one.expired)
        if taken:
            lines.append(counted.move(Kind.REVOKE_EXPIRED, cut.at, one, taken, None, cut.cut_id))
            left -= taken
    if left and any(one.held for one in lineage):
        from_holds = _take_held(counted, lineage, cut, left)
        lines += from_holds
        left -= sum(line.units for line in from_holds)
    if left and any(one.used for one in lineage):
        lines += _uncover(counted, lineage, cut, left)
    return lines


def take_claimed(counted: Counted, grant: BookedGrant, at: datetime) -> list[Line]:
    """Units of a grant that are available again go to the cuts that found them held."""
    lines = []
    lineage = ancestors_of(counted, grant)
    left: list[Claim] = []
    for claim in counted.claims:
        named = lineage.get(claim.grant_id)
        units = 0 if named is None else min(claim.units, grant.available)
        if units and named is not None:
            lines.append(counted.move(Kind.REVOKE, at, grant, units, None, claim.cut_id))
            named.short -= units if claim.is_short else 0
            counted.touched.add(claim.grant_id)
        if claim.units > units:
            left.append(msgspec.structs.replace(claim, units=claim.units - units))
    counted.claims = left
    return lines


def drop_claims(counted: Counted) -> None:
    """A claim of whose grant, and of its children, nothing is held any more is over."""
    if not counted.claims:
        return
    held: set[UUID] = set()
    for grant in counted.grants.values():
        if grant.held:
            held.update(ancestors_of(counted, grant))
    over = [claim for claim in counted.claims if claim.grant_id not in held]
    if over:
        counted.claims = [claim for claim in counted.claims if claim.grant_id in held]
        counted.touched.update(claim.grant_id for claim in over)


def _asked(counted: Counted, grant: BookedGrant, cut: Cut) -> int:
    """How many units a cut asks for: its own, what the grants it names have used, or what is beyond what moved."""
    if cut.policy is CutPolicy.OPENING:
        named = [counted.grants.get(grant_id) for grant_id in cut.of]
        if None in named:
            raise counted.history_needed()
        return sum(one.used for one in named if one is not None)
    if cut.beyond is not None:
        return max(0, cut.beyond + cut.units - grant.moved) - max(0, cut.beyond - grant.moved)
    return cut.units


def _take_held(counted: Counted, lineage: Sequence[BookedGrant], cut: Cut, left: int) -> list[Line]:
    """A cut takes units from under holds, of the latest first."""
    by_id = {one.terms.grant_id: one for one in lineage if one.terms.amount is not None}
    lines = []
    for key, each in reversed(counted.holds.items()):
        parts = list(each.parts)
        for place in range(len(parts) - 1, -1, -1):
            grant_id, units = parts[place]
            taken = min(left, units) if grant_id in by_id else 0
            if taken:
                lines.append(counted.move(Kind.REVOKE_HELD, cut.at, by_id[grant_id], taken, key, cut.cut_id))
                parts[place] = (grant_id, units - taken)
                left -= taken
        counted.holds[key] = OpenHold(each.hold, tuple(part for part in parts if part[1]))
        if not left:
            break
    return lines


def _uncover(counted: Counted, lineage: Sequence[BookedGrant], cut: Cut, left: int) -> list[Line]:
    """A cut takes what was used, the latest first: from then on it is owed, or forgiven."""
    if any(one.burns is None for one in lineage):
        raise counted.history_needed()
    kind = Kind.FORGIVE if counted.entitlement.debt is DebtPolicy.FORGIVE else Kind.DEBT
    taken_of: dict[tuple[UUID, UUID], int] = defaultdict(int)
    by_id = {one.terms.grant_id: one for one in lineage}
    while left:
        last = max((one for one in lineage if one.burns), key=last_burn, default=None)
        if last is None or last.burns is None:
            break
        number, usage_key, units = last.burns.pop()
        taken = min(left, units)
        left -= taken
        taken_of[last.terms.grant_id, usage_key] += taken
        if taken < units:
            last.burns.append((number, usage_key, units - taken))
    lines = []
    owed_of: dict[UUID, int] = defaultdict(int)
    for (grant_id, usage_key), units in taken_of.items():
        lines.append(counted.move(kind, cut.at, by_id[grant_id], units, usage_key, cut.cut_id))
        owed_of[usage_key] += units
    if kind is Kind.DEBT:
        debts = [
            Debt(cut.at, usage_key, cut.cut_id, units, f"{CUT}{lineage[0].terms.grant_id.hex}{place:04}")
            for place, (usage_key, units) in enumerate(owed_of.items())
        ]
        if counted.leaves_at is not None and cut.at >= counted.leaves_at:
            lines += [send(counted, debt, cut.at) for debt in debts]
        else:
            counted.owed += debts
    return lines
