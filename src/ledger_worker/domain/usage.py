"""What became of usage and its reversal, and what settlement sees of a recorded event by that.

What becomes of usage is decided once, when it is recorded, and kept with the event. Whoever settles again reads the
event with its outcome and never a clock, a window or a policy.
"""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from ledger_worker.domain.catalogue import LateUsage
from ledger_worker.domain.events import UsageReversed, event_key
from ledger_worker.domain.ledger import Reversal, UsageFact
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.places import usage_tie

__all__ = ["LATE_OUTCOMES", "counts_at", "reversal_of", "usage_of"]

LATE_OUTCOMES: Mapping[LateUsage, Outcome] = {
    LateUsage.COUNT_NOW: Outcome.COUNTED_LATE,
    LateUsage.OVERAGE: Outcome.OVERAGE_LATE,
    LateUsage.IGNORE_AND_TELL: Outcome.IGNORED_LATE,
}
"""What becomes of usage from beyond the settlement window, by its entitlement's policy."""


def counts_at(occurred_at: datetime, recorded_at: datetime, outcome: str) -> datetime:
    """The instant at which usage, a reversal or a merge of that outcome counts: never later than it was recorded."""
    return recorded_at if outcome == Outcome.COUNTED_LATE else min(occurred_at, recorded_at)


def usage_of(
    usage_key: UUID, outcome: str, counted_at: datetime, units: int, event_source: str, event_id: str
) -> UsageFact:
    """The usage that settlement sees of a recorded event, by what was decided of it: of ignored usage no units."""
    return UsageFact(
        usage_key=usage_key,
        at=counted_at,
        units=0 if outcome == Outcome.IGNORED_LATE else units,
        tie=usage_tie(event_source, event_id),
        burns=outcome != Outcome.OVERAGE_LATE,
    )


def reversal_of(fact: UsageReversed, event_source: str, event_id: str, counted_at: datetime) -> Reversal:
    """The reversal that settlement sees of a recorded event; whose usage it reverses may not be told yet."""
    return Reversal(
        reversal_id=fact.reversal_id,
        usage_key=event_key(fact.usage_event_source or event_source, fact.usage_event_id),
        at=counted_at,
        units=fact.units,
        tie=usage_tie(event_source, event_id),
    )
