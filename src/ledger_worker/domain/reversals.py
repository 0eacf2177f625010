"""Reversals of usage: their order, and which of them reverse what."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from ledger_worker.domain.ledger import Reversal
from ledger_worker.domain.told import Latest

__all__ = ["by_usage", "order_of"]


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
