"""What the books know to come by itself: the transitions of an account, those that are due and those ahead."""

from datetime import datetime
from itertools import islice, takewhile

import msgspec

from ledger_worker.domain.booked import BookedGrant
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.ledger import GrantTerms, Hold, Phase
from ledger_worker.domain.occurrences import occurrences
from ledger_worker.domain.places import Place, Transition
from ledger_worker.domain.recurring import next_of

__all__ = ["transitions_ahead", "transitions_due"]


_MADE_MAX = 100
_TRANSITIONS_OF_ONE = 3


def transitions_due(counted: Counted, until: datetime) -> list[Transition]:
    """The transitions after the book's position and not after `until`, in their order."""
    if counted.next_transition_at is None or counted.next_transition_at > until:
        return []
    places = [(place, what) for place, what in counted.ahead() if place[0] <= until]
    places.sort(key=_by_place)
    due = [_transition(counted, place, what) for place, what in places]
    return [
        msgspec.structs.replace(transition, makes_due=_made_due(counted, what.terms, until))
        if transition.kind == "begin" and isinstance(what, BookedGrant) and what.terms.recurs is not None
        else transition
        for transition, (_, what) in zip(due, places, strict=True)
    ]


def transitions_ahead(counted: Counted) -> list[tuple[Transition, GrantTerms]]:
    """What the terms of open grants will make happen behind the book's position, in order."""
    places = sorted(counted.ahead_of_grants(), key=_by_place)
    return [(_transition(counted, place, grant), grant.terms) for place, grant in places]


def _transition(counted: Counted, place: Place, what: BookedGrant | Hold) -> Transition:
    name = counted.entitlement.key
    if isinstance(what, Hold):
        return Transition(place=place, entitlement=name, set_by=0, hold_key=what.hold_key)
    return Transition(place=place, entitlement=name, set_by=what.set_by, grant_id=what.terms.grant_id)


def _made_due(counted: Counted, terms: GrantTerms, until: datetime) -> int:
    """About how many transitions are due at `until` of occurrences that the begin of this one is yet to make."""
    following = next_of(terms)
    known = None if following is None else counted.grants.get(following.grant_id)
    if terms.recurs is None or following is None or (known is not None and known.phase is not Phase.VOID):
        return 0
    later = islice(occurrences(terms.recurs), 1, None)
    begun = takewhile(lambda one: one[1] <= until, later)
    of_each = _TRANSITIONS_OF_ONE + len(counted.lead_times)
    return of_each * sum(1 for _ in islice(begun, _MADE_MAX))


def _by_place(happening: tuple[Place, BookedGrant | Hold]) -> Place:
    return happening[0]
