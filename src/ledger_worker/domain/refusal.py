"""Why an event becomes a dead letter, as far as the event itself, the instant and the catalogue show it.

The checks are made in this order, and the first that applies decides: impossible value (more units than can be
counted), too early, too late, unknown entitlement, wrong type. What takes knowing more of the customer is checked in
`decide`: whether the id was applied before, which comes first, and a merge that would close a circle, which comes last.
"""

from datetime import datetime, timedelta

from ledger_worker.domain.catalogue import Catalogue, EntitlementType
from ledger_worker.domain.events import (
    UNITS_MAX,
    EntitlementAssigned,
    Event,
    OfSource,
    PurchaseCompleted,
    SourceFact,
    SubscriptionActivated,
    SubscriptionAddOnAdded,
    SubscriptionPlanChanged,
    SubscriptionRenewed,
    SubscriptionTrialConverted,
    SubscriptionTrialStarted,
    UsageRecorded,
    UsageReversed,
)
from ledger_worker.domain.outcomes import DeadLetterReason

__all__ = ["AHEAD_MAX", "refusal"]

AHEAD_MAX = timedelta(minutes=5)
"""How far ahead of the database's clock an event may be dated."""


def refusal(
    event: Event, now: datetime, catalogue: Catalogue, usage_kept: timedelta
) -> tuple[DeadLetterReason, str] | None:
    """Why an event that is new to its customer is a dead letter when told at `now`, with what was expected; or None."""
    fact = event.fact
    given = _units_given(fact, catalogue) if isinstance(fact, OfSource) else 0
    if given > UNITS_MAX:
        return DeadLetterReason.IMPOSSIBLE_VALUE, f"its offers give {given} units, expected at most {UNITS_MAX}"
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
    counts_units = is_usage or fact.units is not None
    if counts_units and entitlement.type is not EntitlementType.QUOTA:
        return DeadLetterReason.WRONG_TYPE, (
            f"entitlement {fact.entitlement} is of type {entitlement.type}, expected a quota for units"
        )
    return None


def _units_given(fact: SourceFact, catalogue: Catalogue) -> int:
    """The most units that the lines or items of a fact can give, whichever version of each offer is in force."""
    match fact:
        case PurchaseCompleted():
            quantities = [(line.sku, line.quantity) for line in fact.lines]
        case (
            SubscriptionTrialStarted() | SubscriptionTrialConverted() | SubscriptionActivated() | SubscriptionRenewed()
        ):
            quantities = [(item.sku, item.quantity) for item in fact.items]
        case SubscriptionAddOnAdded():
            quantities = [(fact.item.sku, fact.item.quantity)]
        case SubscriptionPlanChanged():
            quantities = [(fact.sku, fact.quantity or 1)]
        case _:
            return 0
    return sum(
        quantity
        * max(
            (sum(allowance.units or 0 for allowance in offer.allowances) for offer in catalogue.offers.get(sku, ())),
            default=0,
        )
        for sku, quantity in quantities
    )
