"""What is told of an end to come: whether the present access ends soon, and which warning says so."""

from uuid import UUID

from ledger_worker.domain.booked import BookedGrant
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.ledger import NEVER, Phase
from ledger_worker.domain.places import Place, Transition, is_suspended, warnings_of

__all__ = ["is_expiring", "is_told_to_expire", "warns"]


def warns(counted: Counted, transition: Transition) -> bool:
    """Whether there is something to tell at this warning, which comes next; of grants that end together, by one."""
    instant = transition.place[0]
    near = [
        one.terms.grant_id
        for one in _last_to_end(counted)
        if any(place[0] == instant for place in warnings_of(one.terms, counted.lead_times))
    ]
    return transition.grant_id == min(near, key=_uuid_bytes, default=None)


def is_expiring(counted: Counted, until: Place) -> bool:
    """Whether the present access ends soon: a lead time before its end had begun by then."""
    return any(place <= until for one in _last_to_end(counted) for place in warnings_of(one.terms, counted.lead_times))


def is_told_to_expire(counted: Counted, until: Place) -> bool:
    """Whether the present access ends soon, and that was told by then: not where only a newer lead time says so."""
    return counted.warned is not None and is_expiring(counted, min(until, counted.warned))


def _last_to_end(counted: Counted) -> list[BookedGrant]:
    """The grants with whose end the present access ends; none without one, or where another grant goes on."""
    in_force = [one for one in counted.active if not one.is_empty_child and not counted.open_causes(one)]
    end = max((one.terms.expires_at or NEVER for one in in_force), default=NEVER)
    goes_on = any(
        one.terms.effective_at <= end < (one.terms.expires_at or NEVER) and not is_suspended(one.terms, end)
        for one in counted.grants.values()
        if one.phase in {Phase.PENDING, Phase.ACTIVE} and not one.is_empty_child
    )
    return [] if end is NEVER or goes_on else [one for one in in_force if one.terms.expires_at == end]


def _uuid_bytes(value: UUID) -> bytes:
    return value.bytes
