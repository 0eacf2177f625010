"""New terms in a book: the first place that they touch in its past, and how they are set before anything follows.

`before` and `after` hold only grants whose terms differ; a grant missing in `after` is undone.
"""

from bisect import bisect_left
from collections.abc import Mapping
from uuid import UUID

from ledger_worker.domain.booked import BookedGrant, burning_order, receives
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.ledger import CutPolicy, GrantTerms, Line, Phase, precedence
from ledger_worker.domain.places import BEGIN, NOWHERE, Place, cut_place, first_difference

__all__ = ["first_touched", "put_terms", "uncovers"]


def first_touched(
    counted: Counted, before: Mapping[UUID, GrantTerms], after: Mapping[UUID, GrantTerms]
) -> Place | None:
    """The first place at or before the book's position at which the new terms change anything; None: none."""
    if counted.leaves_at is not None:
        return NOWHERE
    if counted.place is None:
        return None
    touched = []
    for grant_id in before.keys() | after.keys():
        old, new = before.get(grant_id), after.get(grant_id)
        if new is not None and uncovers(counted, new):
            return NOWHERE
        touched.append(first_difference(old, new))
    touched += _changes_of_order(counted, before, after)
    first = min(touched, default=counted.place)
    return first if touched and first <= counted.place else None


def uncovers(counted: Counted, terms: GrantTerms) -> bool:
    """Whether a cut yet to come takes units back that were used or went on: that needs the whole lineage."""
    grant = counted.grants.get(terms.grant_id)
    return (
        grant is not None
        and grant.used + grant.moved > 0
        and any(
            cut.policy is CutPolicy.FULL_WITH_DEBT and (counted.place is None or cut_place(terms, cut) > counted.place)
            for cut in terms.cuts
        )
    )


def put_terms(
    counted: Counted, before: Mapping[UUID, GrantTerms], after: Mapping[UUID, GrantTerms], posting: int
) -> list[Line]:
    """Terms and `granted` are set; nothing has happened by them yet. Returns the lines of `granted`."""
    lines: list[Line] = []
    for grant_id in sorted(before.keys() - after.keys(), key=_uuid_bytes):
        grant = counted.grants[grant_id]
        lines += counted.grant_units(grant, grant.terms, -grant.granted)
        grant.phase = Phase.VOID
        grant.set_by = posting
        counted.touched.add(grant_id)
    for grant_id in sorted(after, key=_uuid_bytes):
        terms = after[grant_id]
        grant = counted.grants.get(grant_id) or BookedGrant(terms, Phase.PENDING, posting, burns=[])
        counted.grants[grant_id] = grant
        if grant.phase is Phase.VOID:
            grant.phase = Phase.PENDING
        if receives(terms):
            grant.terms = terms
            _is_set(counted, grant, posting)
            continue
        counts_alike = (grant.terms.amount is None) == (terms.amount is None)
        if grant.terms.effective_at == terms.effective_at and counts_alike:
            lines += counted.grant_units(grant, terms, (terms.amount or 0) - grant.granted)
            grant.terms = terms
        else:
            # Units are counted by the terms that are set: the old ones while they go, the new ones when they come.
            lines += counted.grant_units(grant, grant.terms, -grant.granted)
            grant.terms = terms
            lines += counted.grant_units(grant, terms, terms.amount or 0)
        _is_set(counted, grant, posting)
    return lines


def _changes_of_order(
    counted: Counted, before: Mapping[UUID, GrantTerms], after: Mapping[UUID, GrantTerms]
) -> list[Place]:
    """Where grants that begin before and after begin to burn before or after others as they did not before.

    For each of them the first of these places. One that moves in the order passes those that stand between where it was
    and where it will be, and no others: they are found in the order, not by asking everyone.
    """
    moved = [
        (was, will, before[grant_id].effective_at, grant_id)
        for grant_id in before.keys() & after.keys()
        if (was := precedence(before[grant_id])) != (will := precedence(after[grant_id]))
    ]
    if not moved:
        return []
    moving = {grant_id for *_, grant_id in moved}
    staying = sorted(
        (precedence(before.get(grant_id, grant.terms)), grant.terms.effective_at)
        for grant_id, grant in counted.grants.items()
        if grant_id not in moving and grant.phase is not Phase.VOID
    )
    order, begins = [one for one, _ in staying], [at for _, at in staying]
    places = []
    for was, will, begin, _ in moved:
        passed = begins[bisect_left(order, min(was, will)) : bisect_left(order, max(was, will))]
        passed += [at for other_was, other_will, at, _ in moved if (was < other_was) != (will < other_will)]
        if passed:
            places.append((max(begin, min(passed)), BEGIN))
    return places


def _is_set(counted: Counted, grant: BookedGrant, posting: int) -> None:
    grant.set_by = posting
    if grant.phase is Phase.ACTIVE:
        grant.order = precedence(grant.terms)
        counted.active.sort(key=burning_order)
    counted.touched.add(grant.terms.grant_id)


def _uuid_bytes(value: UUID) -> bytes:
    return value.bytes
