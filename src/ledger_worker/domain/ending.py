"""How a grant ends: what is left of it goes on in a child, is granted again, or expires.

Reversed units would have burnt last, so the grants that would have covered them are known; where they have ended and
their offer says so, a run makes a child of what came back and was not needed. Such a child is the one kind of grant
that no source names.
"""

from datetime import datetime

import msgspec

from ledger_worker.domain.booked import BookedGrant, are_siblings
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.cutting import take_claimed
from ledger_worker.domain.ledger import Kind, Line, Origin, Phase, Reversal
from ledger_worker.domain.reversals import order_of
from ledger_worker.domain.stretches import child_id

__all__ = ["come_back", "end_grant"]


def end_grant(counted: Counted, grant: BookedGrant, at: datetime) -> list[Line]:
    """What is available goes on in a child, as far as there is one and room in it, and else expires."""
    grant.phase = Phase.ENDED
    counted.active = [other for other in counted.active if other is not grant]
    counted.touched.add(grant.terms.grant_id)
    if not grant.is_empty_child:
        counted.last_end = at
        counted.overage_since.begin(at, counted.starts(), counted.last_end)
    return _over(counted, grant, at)


def come_back(counted: Counted, grant: BookedGrant, at: datetime) -> list[Line]:
    """Units that are available again go to cuts that found them held; those of an ended grant where others went."""
    lines = take_claimed(counted, grant, at) if counted.claims else []
    if grant.phase in {Phase.ENDED, Phase.ENDING}:
        lines += _over(counted, grant, at)
    return lines


def _over(counted: Counted, grant: BookedGrant, at: datetime) -> list[Line]:
    """What is available of a grant that ends at `at`, or ended before, rolls over, moves, is granted again, or expires.

    What reversals gave back is looked at once: later only what comes back then.
    """
    lines: list[Line] = []
    if grant.available and grant.terms.rolls_into is not None:
        lines += _go_on(counted, grant, at)
    if grant.available and grant.returned:
        lines += _grant_again(counted, grant, at)
    grant.returned = None
    if grant.available:
        lines.append(counted.move(Kind.EXPIRE, at, grant, grant.available))
    return lines


def _go_on(counted: Counted, grant: BookedGrant, at: datetime) -> list[Line]:
    """Roll-over into a child of this book, or a transfer to a child in another customer's."""
    terms = grant.terms
    if terms.rolls_into is None:
        return []
    if terms.rollover_max is None:
        return [counted.move(Kind.MOVE, at, grant, grant.available, None, f"to/{terms.rolls_into}")]
    child = counted.grants.get(terms.rolls_into)
    if child is None or (child.phase in {Phase.ENDED, Phase.ENDING} and not counted.knows_all_grants):
        # Its siblings may be over, and count for the cap.
        raise counted.history_needed()
    siblings = sum(other.granted for other in counted.grants.values() if are_siblings(other.terms, child.terms))
    units = min(grant.available, terms.rollover_max - siblings)
    if units <= 0:
        return []
    lines = _hand_on(counted, grant, child, units, at)
    return lines + come_back(counted, child, at)


def _hand_on(counted: Counted, grant: BookedGrant, child: BookedGrant, units: int, at: datetime) -> list[Line]:
    return [
        counted.move(Kind.MOVE, at, grant, units, None, f"to/{child.terms.grant_id}"),
        counted.move(Kind.RECEIVE, at, child, units),
    ]


def _grant_again(counted: Counted, grant: BookedGrant, at: datetime) -> list[Line]:
    """Units that have come back by `at`, by reversals at or after the end, are granted once more.

    From where the reversal stands; or from `at` on, where they were confirmed only then and reversed before.
    """
    lines: list[Line] = []
    terms = grant.terms
    if terms.expires_at is None:
        return lines
    for reversal, returned in sorted(grant.returned or (), key=_by_reversal):
        units = min(returned, grant.available)
        if not units or reversal.at < terms.expires_at:
            continue
        begins_at = max(reversal.at, at)
        child_terms = msgspec.structs.replace(
            terms,
            grant_id=child_id(terms.grant_id, Origin.REGRANT, reversal.reversal_id),
            amount=0,
            effective_at=begins_at,
            expires_at=begins_at + (terms.expires_at - terms.effective_at),
            period_end=None,
            cuts=(),
            suspensions=(),
            parent=terms.grant_id,
            origin=Origin.REGRANT,
            root_at=terms.root_at or terms.effective_at,
            rolls_into=None,
            rollover_max=None,
            recurs=None,
        )
        child = counted.grants.get(child_terms.grant_id)
        if child is None:
            child = counted.grants[child_terms.grant_id] = BookedGrant(
                child_terms, Phase.PENDING, counted.posting, burns=[]
            )
            counted.expect(child)
        lines += _hand_on(counted, grant, child, units, at)
    return lines


def _by_reversal(returned: tuple[Reversal, int]) -> tuple[datetime, str]:
    return order_of(returned[0])
