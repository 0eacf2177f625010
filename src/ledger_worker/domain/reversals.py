"""Reversals of usage: their order, which of them reverse what, and what they leave of it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from ledger_worker.domain.booked import BookedGrant
from ledger_worker.domain.ledger import Reversal
from ledger_worker.domain.told import Latest

__all__ = ["by_usage", "left_of", "order_of"]


def by_usage(reversals: Iterable[Reversal]) -> dict[UUID, list[Reversal]]:
    """The reversals of each usage in their order; of one reversal id the last telling counts."""
    latest: Latest[str, tuple[UUID, int | None]] = Latest()
    placed = sorted(reversals, key=order_of)
    for place, reversal in enumerate(placed):
        latest.tell(reversal.reversal_id, place, reversal.at, (reversal.usage_key, reversal.units))
    found: dict[UUID, list[Reversal]] = defaultdict(list)
    for told in latest.values():
        reversal = placed[told.place]
        found[reversal.usage_key].append(reversal)
    return found


def order_of(reversal: Reversal) -> tuple[datetime, str]:
    """What orders reversals: the instant at which they count, then event source and event id."""
    return (reversal.at, reversal.tie)


def left_of(left: int, would_cover: Iterable[tuple[BookedGrant, int]], reversals: Sequence[Reversal]) -> int:
    """What reversals leave of a usage; the grants that would have covered the rest remember what came back.

    The reversed units would have burnt last, and of those the overage is the first to go back.
    """
    covering: list[tuple[BookedGrant, int]] = []
    to_cover = left
    for grant, units in would_cover:
        covers = min(to_cover, units)
        if covers:
            covering.append((grant, covers))
            to_cover -= covers
    reversed_of = []
    for reversal in reversals:
        units = left if reversal.units is None else min(left, reversal.units)
        left -= units
        reversed_of.append((reversal, units))
    for reversal, taken_back in reversed_of:
        units = taken_back
        from_overage = min(units, to_cover)
        to_cover -= from_overage
        units -= from_overage
        while units and covering:
            grant, covered = covering.pop()
            returned = min(units, covered)
            units -= returned
            if returned < covered:
                covering.append((grant, covered - returned))
            if grant.terms.regrants and grant.terms.amount is not None:
                grant.returned = [*(grant.returned or ()), (reversal, returned)]
    return left
