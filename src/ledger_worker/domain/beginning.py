"""How a grant begins: it burns from now on, makes the occurrence after it, and pays what is owed."""

from bisect import insort
from datetime import datetime

import msgspec

from ledger_worker.domain.booked import BookedGrant, burning_order
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.ledger import Debt, Kind, Line, Phase, precedence
from ledger_worker.domain.recurring import next_of

__all__ = ["begin_grant", "pay_owed"]


def begin_grant(counted: Counted, grant: BookedGrant, at: datetime) -> list[Line]:
    """The grant is active; a recurring one has the grant after it made. Returns the lines of that one's units."""
    grant.phase = Phase.ACTIVE
    grant.order = precedence(grant.terms)
    insort(counted.active, grant, key=burning_order)
    counted.touched.add(grant.terms.grant_id)
    if not grant.is_empty_child:
        counted.overage_since.begin(at, counted.starts(), counted.last_end)
    return [] if grant.terms.recurs is None else _make_next(counted, grant)


def pay_owed(counted: Counted, grant: BookedGrant, at: datetime) -> list[Line]:
    """What is owed is paid by the grant that begins, the oldest first; by a child as by its root."""
    lines: list[Line] = []
    root_at = grant.terms.root_at
    left: list[Debt] = []
    for owed in counted.owed:
        units = owed.units if grant.terms.amount is None else min(owed.units, grant.available)
        if not units or (root_at is not None and not owed.is_before(root_at)):
            left.append(owed)
            continue
        kind = Kind.PAY_OVERAGE if owed.cut_id is None else Kind.PAY_DEBT
        lines.append(counted.move(kind, at, grant, units, owed.usage_key, owed.cut_id))
        counted.covers(grant, owed.usage_key, units)
        rest = msgspec.structs.replace(owed, units=owed.units - units)
        if owed.cut_id is None:
            counted.overage_since.shrink(counted.used_at.get(owed.usage_key, owed.at), units)
            counted.overage_of[owed.usage_key] = rest
        if rest.units:
            left.append(rest)
    counted.owed = left
    return lines


def _make_next(counted: Counted, grant: BookedGrant) -> list[Line]:
    """The occurrence after one that begins is there, with its units, unless it was before."""
    terms = next_of(grant.terms)
    known = None if terms is None else counted.grants.get(terms.grant_id)
    if terms is None or (known is not None and known.phase is not Phase.VOID):
        return []
    made = BookedGrant(terms, Phase.PENDING, counted.posting, burns=[])
    counted.grants[terms.grant_id] = made
    counted.made[terms.grant_id] = terms
    counted.touched.add(terms.grant_id)
    if counted.is_run:
        counted.expect(made)
    return counted.grant_units(made, terms, terms.amount or 0)
