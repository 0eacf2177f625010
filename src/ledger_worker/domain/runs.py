"""Runs by which a book settles again: courses with its terms of now, from nothing or from the state of a day."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.booked import BookedGrant, not_begun
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.course import Course
from ledger_worker.domain.ledger import Account, DayState, Hold, Line, Origin, Phase, Reversal, UsageFact
from ledger_worker.domain.parcels import ARRIVING, LEAVING
from ledger_worker.domain.places import places_of

__all__ = ["fresh_run", "run_from"]


def fresh_run(counted: Counted) -> Course:
    """A book in which nothing has happened yet, with the same terms; children by regrant are made by the run."""
    run = _empty(counted, Account(entitlement=counted.entitlement.key, waiting=counted.waiting))
    for grant_id, grant in counted.grants.items():
        if grant.terms.origin is not Origin.REGRANT:
            run.grants[grant_id] = not_begun(grant)
    return run


def run_from(
    counted: Counted,
    since: DayState,
    booked: Iterable[Line],
    usage: Iterable[UsageFact],
    holds: Iterable[Hold],
    reversals: Iterable[Reversal],
) -> Course:
    """A book as it stood at `since`, with the terms of now, which differ by nothing that happened up to then.

    Raises HistoryNeeded where the state does not tell enough of what may happen: what reversals gave back before
    it, or how a grant stood that was over and changes none the less. `booked` and `usage` are later than
    `since`; `holds` and `reversals` are all that are loaded.
    """
    run = _empty(counted, msgspec.structs.replace(since.account, waiting=counted.waiting))
    stood = {one.grant_id: one for one in since.grants}
    over: set[UUID] = set()
    run.stand([grant for grant_id, grant in counted.grants.items() if grant_id in stood], stood)
    for grant_id, grant in counted.grants.items():
        if grant_id in stood:
            continue
        if grant.terms.effective_at <= since.at:
            over.add(grant_id)
            run.grants[grant_id] = msgspec.structs.replace(grant, burns=None if grant.used else [])
        elif grant.terms.origin is not Origin.REGRANT:
            run.grants[grant_id] = not_begun(grant)
    known = {fact.usage_key for fact in usage}.union(counted.waiting)
    known |= {hold.hold_key for hold in holds if hold.confirmed and hold.ends_at > since.at}
    is_enough = (
        len(stood.keys() - run.grants.keys()) == 0
        and not any(line.grant_id in over or line.kind in LEAVING | ARRIVING for line in booked)
        and not any(_changes_when_over(run.grants[grant_id], since.at) for grant_id in over)
        and (
            not any(run.grants[grant_id].terms.regrants for grant_id in stood)
            or all(reversal.usage_key in known for reversal in reversals)
        )
    )
    if not is_enough:
        raise counted.history_needed()
    return run


def _empty(counted: Counted, account: Account) -> Course:
    run = Course(counted.entitlement, account)
    run.posting = counted.posting
    run.customer_id = counted.customer_id
    run.leaves_at = counted.leaves_at
    run.holders = counted.holders
    return run


def _changes_when_over(grant: BookedGrant, since: datetime) -> bool:
    if grant.phase is Phase.VOID:
        return False
    return bool(grant.short) or any(place[0] > since for place in places_of(grant.terms))
