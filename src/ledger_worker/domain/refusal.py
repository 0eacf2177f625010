"""Why an event becomes a dead letter, as far as the event itself, the instant and the catalogue show it.

The checks are made in this order, and the first that applies decides: too early, too late, unknown entitlement, wrong
type. What takes knowing more of the customer is checked in `decide`: whether the id was applied before, which comes
first, and a merge that would close a circle, which comes last.
"""

from datetime import datetime, timedelta

from ledger_worker.domain.catalogue import Catalogue, EntitlementType, value_problem
from ledger_worker.domain.events import EntitlementAssigned, Event, UsageRecorded, UsageReversed
from ledger_worker.domain.outcomes import DeadLetterReason

__all__ = ["AHEAD_MAX", "refusal"]

AHEAD_MAX = timedelta(minutes=5)
"""How far ahead of the database's clock an event may be dated."""


def refusal(
    event: Event, now: datetime, catalogue: Catalogue, usage_kept: timedelta
) -> tuple[DeadLetterReason, str] | None:
    """Why an event that is new to its customer is a dead letter when told at `now`, with what was expected; or None."""
    fact = event.fact
    if event.occurred_at > now + AHEAD_MAX:
        return DeadLetterReason.TOO_EARLY, (
            f"occurred_at is {event.occurred_at.isoformat()}, expected at most five minutes ahead of {now.isoformat()}"
        )
    if not isinstance(fact, UsageRecorded | UsageReversed | EntitlementAssigned):
        return None
    is_usage = not isinstance(fact, EntitlementAssigned)
    if is_usage and event.occurred_at < now - usage_kept:
        return DeadLetterReason.TOO_LATE, (
            f"occurred_at is {event.occurred_at.isoformat()}, expected usage of the last {usage_kept.days} days"
        )
    entitlement = catalogue.entitlements.get(fact.entitlement)
    if entitlement is None:
        return DeadLetterReason.UNKNOWN_ENTITLEMENT, (
            f"entitlement {fact.entitlement} is not in the catalogue, expected one that is published"
        )
    if is_usage and entitlement.type is not EntitlementType.QUOTA:
        return DeadLetterReason.WRONG_TYPE, (
            f"entitlement {fact.entitlement} is of type {entitlement.type}, expected a quota for usage"
        )
    if not is_usage and fact.units is not None and not entitlement.type.has_units:
        return DeadLetterReason.WRONG_TYPE, (
            f"entitlement {fact.entitlement} is of type {entitlement.type}, expected a quota or seats for units"
        )
    problem = value_problem(fact.value, entitlement) if isinstance(fact, EntitlementAssigned) else None
    return None if problem is None else (DeadLetterReason.WRONG_TYPE, f"entitlement {fact.entitlement}: {problem}")
