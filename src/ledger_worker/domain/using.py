"""Usage: which grants it burns, what no grant covers, and when its place among other usage is all the same.

Usage that was reversed burns only what is left of it.
"""

from datetime import datetime
from uuid import UUID

from ledger_worker.domain.booked import BookedGrant
from ledger_worker.domain.catalogue import OveragePolicy
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.ledger import Debt, Kind, Line, UsageFact
from ledger_worker.domain.places import Place, is_suspended, place_of_usage
from ledger_worker.domain.reversals import left_of

__all__ = ["burn", "could_be_last", "coverage_of", "over_use"]


def burn(counted: Counted, usage: UsageFact) -> list[Line]:
    """Usage burns the grants that are active and not suspended in their order; what none covers is overage.

    So is all of what does not burn.
    """
    lines: list[Line] = []
    left = usage.units
    returning = counted.reversals_of.get(usage.usage_key)
    if returning:
        covering = coverage_of(counted, left, usage.at) if usage.burns else []
        left = left_of(left, covering, returning)
    if not left:
        return lines
    for grant, units in coverage_of(counted, left, usage.at) if usage.burns else ():
        lines.append(counted.move(Kind.BURN, usage.at, grant, units, usage.usage_key))
        counted.covers(grant, usage.usage_key, units)
        left -= units
    if left:
        lines.append(over_use(counted, usage.usage_key, place_of_usage(usage), left))
    return lines


def could_be_last(counted: Counted, usage: UsageFact) -> bool:
    """Whether late usage is covered by the same grant, and all else as it is, wherever since then it stands.

    So it is when since then nothing happened but usage, and the grant that burns first still has that many units:
    then it has covered everything since, and would have covered this.
    """
    if not counted.active or (counted.last_end is not None and counted.last_end > usage.at):
        return False
    if counted.released_at is not None and counted.released_at > usage.at:
        return False
    for grant in counted.active:
        terms = grant.terms
        if terms.effective_at > usage.at or terms.suspensions or any(cut.at > usage.at for cut in terms.cuts):
            return False
    first = counted.active[0]
    return usage.burns and (first.terms.amount is None or first.available >= usage.units)


def coverage_of(counted: Counted, units: int, at: datetime) -> list[tuple[BookedGrant, int]]:
    """Which of the active grants that are not suspended have how many of these units for use at `at`, in order."""
    found = []
    for grant in counted.active:
        has = units if grant.terms.amount is None else min(units, grant.available)
        if has and not is_suspended(grant.terms, at):
            found.append((grant, has))
            units -= has
            if not units:
                break
    return found


def over_use(counted: Counted, usage_key: UUID, place: Place, units: int) -> Line:
    """Usage of so many units that no grant covers happens at `place`."""
    at, tie = place
    owed = Debt(at, usage_key, None, units, tie)
    if counted.is_run:
        counted.overage_of[usage_key] = owed
    if counted.overage_since.all:
        counted.overage_since.count(units)
    else:
        starts = [grant.terms.effective_at for grant in counted.active if not grant.is_empty_child]
        started_at = max(starts if counted.last_end is None else [*starts, counted.last_end], default=at)
        counted.overage_since.all.append((started_at, units))
    if counted.entitlement.overage is OveragePolicy.CARRY:
        counted.owed.append(owed)
    return counted.move(Kind.OVERAGE, at, None, units, usage_key)
