"""Lineages: a grant, what its units came from, and what became of them in the same book."""

from collections import defaultdict
from uuid import UUID

from ledger_worker.domain.booked import BookedGrant, lineage_order
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.ledger import Origin, Phase

__all__ = ["ancestors_of", "lineage_of"]


def lineage_of(counted: Counted, grant: BookedGrant) -> list[BookedGrant]:
    """The grant and what became of its units in this book: children by generation, start and id."""
    if not grant.moved:
        return [grant]
    children: dict[UUID | None, list[BookedGrant]] = defaultdict(list)
    for other in counted.grants.values():
        if other.terms.parent is not None and other.phase is not Phase.VOID:
            children[other.terms.parent].append(other)
    found = [grant]
    for one in found:
        found += children[one.terms.grant_id]
    gone_on = sum(one.moved for one in found if one.terms.moves_to is None)
    if not counted.knows_all_grants and gone_on != sum(one.granted for one in found[1:]):
        raise counted.history_needed()
    return [grant, *sorted(found[1:], key=lineage_order)]


def ancestors_of(counted: Counted, grant: BookedGrant) -> dict[UUID, BookedGrant]:
    """The grant and what its units came from, in this book."""
    found = {grant.terms.grant_id: grant}
    while grant.terms.parent is not None and grant.terms.origin is not Origin.TRANSFER:
        parent = counted.grants.get(grant.terms.parent)
        if parent is None:
            raise counted.history_needed()
        grant = found[parent.terms.grant_id] = parent
    return found
