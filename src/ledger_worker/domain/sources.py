"""From the facts of one source to the terms of its grants. Terms never depend on usage, nor on the order of arrival.

A source is an order, a subscription or an assignment by hand. Its state is its facts in their true order, which is all
a fold needs: the newest fact is appended, a late one is inserted, and `terms` reads them from the first to the last
either way. So a repetition or another order of the same facts gives the same state and the same terms by construction.

What the facts of each kind of source mean is in `orders`, `subscriptions` and `assignments`; who holds the grants in
`owners`. Here they meet: the state, the fold, and what became of each fact.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

import msgspec

from ledger_worker.domain.assignments import (
    AssignmentTelling,
    assignment_grants,
    is_ruled_out,
    tell_assignment,
)
from ledger_worker.domain.catalogue import Catalogue, offer_at, versions_for
from ledger_worker.domain.events import (
    AssignmentExtended,
    AssignmentRenewed,
    AssignmentRevoked,
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    EntitlementAssigned,
    Event,
    OfSource,
    PurchaseCompleted,
    PurchaseRefunded,
    PurchaseTransferred,
    RefundReversed,
    SourceFact,
    SubscriptionActivated,
    SubscriptionAddOnAdded,
    SubscriptionAddOnRemoved,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionExtended,
    SubscriptionPaused,
    SubscriptionPaymentFailed,
    SubscriptionPaymentRecovered,
    SubscriptionPlanChanged,
    SubscriptionQuantityChanged,
    SubscriptionRenewed,
    SubscriptionResumed,
    SubscriptionRevoked,
    SubscriptionTransferred,
    SubscriptionTrialConverted,
    SubscriptionTrialExpired,
    SubscriptionTrialStarted,
)
from ledger_worker.domain.ledger import GrantTerms
from ledger_worker.domain.orders import OrderTelling, order_grants, recurs_less, tell_order
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.owners import Held, Holding, Merges, accepted, holdings, holds
from ledger_worker.domain.places import BEGINNING
from ledger_worker.domain.stretches import child_id, grant_id, units_of_share
from ledger_worker.domain.subscriptions import SubscriptionTelling, subscription_grants, tell_subscription
from ledger_worker.domain.told import PlacedFact, RecordedFact

__all__ = [
    "NO_MERGES",
    "Folded",
    "RecordedFact",
    "SourceState",
    "child_id",
    "facts_of",
    "fold",
    "grant_id",
    "owners_of",
    "recorded",
    "refold",
    "skus_of",
    "terms",
    "units_of_share",
]

NO_MERGES: Merges = {}


class SourceState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The folded state of one source: its facts in their true order, each with the instant at which it stands.

    `catalogue_version` is the catalogue it was last folded with: what is booked of it are its terms by that version.
    `claimant` is the customer it was first told of, in whose keeping its state stays. `others` are facts told of
    customers who neither own nor owned it: they wait for a transfer.
    """

    facts: tuple[PlacedFact, ...] = ()
    catalogue_version: int = 0
    claimant: str = ""
    others: tuple[RecordedFact, ...] = ()


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """A source after a fold: its new state and owners, its terms before and after with their holders, the outcome."""

    state: SourceState
    owners: tuple[Holding, ...]
    before: tuple[Held, ...]
    terms: tuple[Held, ...]
    outcome: Outcome


def recorded(event: Event, claimant: str) -> RecordedFact:
    """The event as its source keeps it."""
    fact = event.fact
    if not isinstance(fact, OfSource):
        msg = f"event {event.event_id} of {event.event_source} is about no source"
        raise TypeError(msg)
    return RecordedFact(
        event_source=event.event_source,
        event_id=event.event_id,
        occurred_at=event.occurred_at,
        fact=fact,
        source_version=event.source_version,
        customer_id="" if event.customer_id == claimant else event.customer_id,
    )


def fold(
    state: SourceState,
    event: Event,
    source_key: str,
    catalogue: Catalogue,
    merges: Merges = NO_MERGES,
    until: datetime = BEGINNING,
) -> Folded:
    """The source after `event`, whose fact is about `source_key`.

    The same events in any order end in the same state. `until` is where the books stand: up to there, and up to the
    last instant that the source was told of, what recurs is unrolled.
    """
    claimant = state.claimant or event.customer_id
    told = recorded(event, claimant)
    known = [placed[1] for placed in state.facts]
    facts, others, owners = accepted([*known, *state.others, told], claimant, merges)
    after = SourceState(
        facts=facts,
        catalogue_version=catalogue.version,
        claimant=claimant,
        others=tuple(sorted(others, key=_identity)),
    )
    before = terms(state, source_key, catalogue, merges, until)
    telling = _telling(after, source_key)
    given = _held(telling, after, source_key, catalogue, owners, until)
    if told in others:
        outcome = Outcome.AWAITING_TRANSFER
    else:
        outcome = _outcome(known, told.fact, telling, owners, catalogue, changes_terms=given != before)
    return Folded(state=after, owners=owners, before=before, terms=given, outcome=outcome)


def refold(
    state: SourceState,
    source_key: str,
    catalogue: Catalogue,
    before: Merges = NO_MERGES,
    after: Merges = NO_MERGES,
    until: datetime = BEGINNING,
) -> Folded:
    """The source by the present catalogue and merges, without a new fact."""
    known = [*(placed[1] for placed in state.facts), *state.others]
    facts, others, owners = accepted(known, state.claimant, after)
    folded = SourceState(
        facts=facts,
        catalogue_version=catalogue.version,
        claimant=state.claimant,
        others=tuple(sorted(others, key=_identity)),
    )
    was = terms(state, source_key, catalogue, before, until)
    given = _held(_telling(folded, source_key), folded, source_key, catalogue, owners, until)
    outcome = Outcome.APPLIED if was != given else Outcome.NO_EFFECT
    return Folded(state=folded, owners=owners, before=was, terms=given, outcome=outcome)


def terms(
    state: SourceState,
    source_key: str,
    catalogue: Catalogue,
    merges: Merges = NO_MERGES,
    until: datetime = BEGINNING,
) -> tuple[Held, ...]:
    """The terms of every grant the source gives by the catalogue it was folded with, ordered by grant id.

    Of what recurs, every occurrence that begins up to `until`, and the next one.
    """
    if not state.facts:
        return ()
    return _held(_telling(state, source_key), state, source_key, catalogue, owners_of(state, merges), until)


def owners_of(state: SourceState, merges: Merges = NO_MERGES) -> tuple[Holding, ...]:
    """Who owned the source, one after the other; the last one does."""
    return holdings(state.facts, state.claimant, merges)


def _identity(fact: RecordedFact) -> tuple[str, str, str]:
    return (fact.customer_id, fact.event_source, fact.event_id)


def facts_of(state: SourceState) -> list[SourceFact]:
    """All facts that were told of the source, also those that wait."""
    return [placed[1].fact for placed in state.facts] + [recorded.fact for recorded in state.others]


def skus_of(fact: SourceFact) -> frozenset[str]:
    """The SKUs that a fact names."""
    match fact:
        case PurchaseCompleted():
            return frozenset(line.sku for line in fact.lines)
        case (
            SubscriptionTrialStarted() | SubscriptionTrialConverted() | SubscriptionActivated() | SubscriptionRenewed()
        ):
            return frozenset(item.sku for item in fact.items)
        case SubscriptionPlanChanged():
            return frozenset((fact.sku,))
        case SubscriptionAddOnAdded():
            return frozenset((fact.item.sku,))
        case _:
            return frozenset()


_Telling = OrderTelling | SubscriptionTelling | AssignmentTelling


def _telling(state: SourceState, source_key: str) -> _Telling:
    kind = source_key.partition("/")[0]
    if kind == "order":
        return tell_order(state.facts)
    if kind == "subscription":
        return tell_subscription(state.facts)
    return tell_assignment(state.facts)


def _held(
    telling: _Telling,
    state: SourceState,
    source_key: str,
    catalogue: Catalogue,
    owners: Sequence[Holding],
    until: datetime,
) -> tuple[Held, ...]:
    given: list[GrantTerms]
    if isinstance(telling, OrderTelling):
        told = [at for at, _ in state.facts]
        moved = [holding.since for holding in owners if holding.since is not None]
        given = order_grants(telling, source_key, catalogue, state.catalogue_version, max([until, *told, *moved]))
    elif isinstance(telling, SubscriptionTelling):
        given = subscription_grants(telling, source_key, catalogue, state.catalogue_version)
    else:
        given = assignment_grants(telling, source_key, catalogue)
    return holds(given, owners)


# -- outcome -------------------------------------------------------------------------------------------------


def _outcome(
    known: Sequence[RecordedFact],
    fact: SourceFact,
    telling: _Telling,
    owners: Sequence[Holding],
    catalogue: Catalogue,
    *,
    changes_terms: bool,
) -> Outcome:
    """What became of the fact, by `Outcome`'s order of precedence."""
    keyed = {key: content for earlier in known for key, content in _keyed(earlier.fact)}
    if not changes_terms and all(key in keyed and keyed[key] == content for key, content in _keyed(fact)):
        return Outcome.DUPLICATE_FACT
    if _waits(fact, telling, owners):
        return Outcome.WAITING
    if _is_contradicted(fact, telling, catalogue):
        return Outcome.CONTRADICTED
    if isinstance(telling, OrderTelling) and isinstance(fact, PurchaseRefunded | ChargebackLost):
        return _taking_outcome(fact, telling)
    offered = [
        (offer_at(catalogue, sku, entered_at), bool(versions_for(catalogue, sku, entered_at, catalogue.version)[1]))
        for sku, entered_at in _entered(fact, telling)
    ]
    if any(offer is None and not is_reached for offer, is_reached in offered):
        return Outcome.NO_OFFER
    if isinstance(fact, PurchaseCompleted) and any(
        allowance.lasts == "period" and allowance.every is None
        for offer, _ in offered
        if offer is not None
        for allowance in offer.allowances
    ):
        return Outcome.NO_PERIOD
    if (
        isinstance(telling, OrderTelling)
        and isinstance(fact, PurchaseCompleted)
        and recurs_less(telling, catalogue, catalogue.version)
    ):
        return Outcome.RECURS_LESS
    return Outcome.APPLIED if changes_terms else Outcome.NO_EFFECT


def _entered(fact: SourceFact, telling: _Telling) -> list[tuple[str, datetime]]:
    """The SKUs a fact names, or goes on with, each with the instant its item entered the source."""
    if isinstance(telling, OrderTelling):
        lines = fact.lines if isinstance(fact, PurchaseCompleted) else ()
        return [(line.sku, telling.lines[line.line_id].entered_at) for line in lines]
    if not isinstance(telling, SubscriptionTelling):
        return []
    named: list[tuple[str, str]]
    match fact:
        case SubscriptionTrialStarted() | SubscriptionActivated():
            named = [(item.item_id, item.sku) for item in fact.items]
        case SubscriptionTrialConverted() | SubscriptionRenewed():
            named = [(item.item_id, item.sku) for item in fact.items] or [
                (period.item_id, period.steps[0].sku or "")
                for period in telling.periods.all()
                if period.start == fact.period_start
            ]
        case SubscriptionPlanChanged():
            named = [(fact.item_id, fact.sku)]
        case SubscriptionAddOnAdded():
            named = [(fact.item.item_id, fact.item.sku)]
        case _:
            named = []
    return [(sku, telling.periods.entered_at[item_id, sku]) for item_id, sku in named]


def _keyed(fact: SourceFact) -> list[tuple[tuple[object, ...], object]]:
    """The things a fact speaks of, each with what it says of it."""
    match fact:
        case PurchaseCompleted():
            return [(("line", line.line_id), line) for line in fact.lines]
        case PurchaseRefunded():
            return [(("refund", fact.refund_id), fact)]
        case RefundReversed():
            return [(("reversal", fact.reversal_id), fact.refund_id)]
        case ChargebackOpened():
            return [(("opened", fact.dispute_id), True)]
        case ChargebackWon() | ChargebackLost():
            return [(("closed", fact.dispute_id), fact)]
        case PurchaseTransferred() | SubscriptionTransferred():
            return [(("transfer", fact.transfer_id), fact.to_customer_id)]
        case SubscriptionTrialStarted():
            return [(("item", item.item_id, fact.trial_start), (item, fact.trial_end, True)) for item in fact.items]
        case SubscriptionTrialConverted() | SubscriptionActivated() | SubscriptionRenewed():
            if not fact.items:
                return [(("period", fact.period_start), fact.period_end)]
            return [(("item", item.item_id, fact.period_start), (item, fact.period_end, False)) for item in fact.items]
        case SubscriptionTrialExpired():
            return [(("trial end",), fact.effective_at)]
        case SubscriptionPaymentFailed():
            return [(("failure", fact.failure_id), True)]
        case SubscriptionPaymentRecovered():
            return [(("recovery", fact.recovery_id), True)]
        case (
            SubscriptionPlanChanged()
            | SubscriptionQuantityChanged()
            | SubscriptionAddOnAdded()
            | SubscriptionAddOnRemoved()
        ):
            return [(("change", fact.change_id), fact)]
        case SubscriptionPaused():
            return [(("paused", fact.pause_id), fact.effective_at)]
        case SubscriptionResumed():
            return [(("resumed", fact.pause_id), fact.effective_at)]
        case SubscriptionCancellationScheduled() | SubscriptionCancelled():
            return [(("cancellation", fact.cancellation_id), fact.effective_at)]
        case SubscriptionCancellationWithdrawn():
            return [(("cancellation", fact.cancellation_id), None)]
        case SubscriptionExpired():
            return [(("expiry", fact.expiry_id), fact.effective_at)]
        case SubscriptionRevoked():
            return [(("revocation", fact.revocation_id), fact.effective_at)]
        case SubscriptionExtended():
            return [(("extension", fact.extension_id), fact.new_period_end)]
        case EntitlementAssigned():
            return [(("assigned",), fact)]
        case AssignmentRenewed():
            return [(("assigned again", fact.effective_at), fact)]
        case AssignmentExtended():
            return [(("extension", fact.extension_id), fact.new_expires_at)]
        case AssignmentRevoked():
            return [(("revocation", fact.revocation_id), fact.effective_at)]
        case _:
            assert_never(fact)


def _waits(fact: SourceFact, telling: _Telling, owners: Sequence[Holding]) -> bool:
    """Whether the fact speaks of something nobody has told yet."""
    if isinstance(fact, PurchaseTransferred | SubscriptionTransferred):
        return all(fact.transfer_id != holding.cause for holding in owners)
    if isinstance(telling, OrderTelling):
        return _waits_in_order(fact, telling)
    if isinstance(telling, SubscriptionTelling):
        return _waits_in_subscription(fact, telling)
    return telling.assigned is None


def _waits_in_order(fact: SourceFact, telling: OrderTelling) -> bool:
    match fact:
        case PurchaseRefunded():
            return not telling.lines or any(line.line_id not in telling.lines for line in fact.lines)
        case RefundReversed():
            return fact.refund_id not in telling.refunds
        case ChargebackWon():
            return telling.disputes[fact.dispute_id].opened_at is None
        case _:
            return not telling.lines


def _waits_in_subscription(fact: SourceFact, telling: SubscriptionTelling) -> bool:
    periods = telling.periods
    match fact:
        case SubscriptionTrialStarted() | SubscriptionActivated():
            return False
        case SubscriptionTrialConverted() | SubscriptionRenewed():
            return not fact.items and all(period.start != fact.period_start for period in periods.all())
        case (
            SubscriptionPlanChanged()
            | SubscriptionQuantityChanged()
            | SubscriptionAddOnAdded()
            | SubscriptionAddOnRemoved()
        ):
            return fact.change_id in periods.without_effect
        case SubscriptionResumed():
            return fact.pause_id not in telling.paused
        case SubscriptionCancellationWithdrawn():
            return fact.cancellation_id not in telling.cancellations
        case SubscriptionExtended():
            return all(period.start >= fact.new_period_end for period in periods.all())
        case SubscriptionTrialExpired():
            return not any(period.is_trial for period in periods.all())
        case _:
            return not periods.of_item


def _is_contradicted(fact: SourceFact, telling: _Telling, catalogue: Catalogue) -> bool:
    """Whether what is told beside the fact rules it out: an end before its beginning, units of what has none."""
    if isinstance(fact, SubscriptionPaused | SubscriptionResumed) and isinstance(telling, SubscriptionTelling):
        resumed = telling.resumed.get(fact.pause_id)
        return resumed is not None and fact.pause_id not in telling.pauses()
    if isinstance(fact, ChargebackOpened | ChargebackWon) and isinstance(telling, OrderTelling):
        dispute = telling.disputes[fact.dispute_id]
        opened_at, closed_at = dispute.opened_at, dispute.closed_at
        return opened_at is not None and closed_at is not None and closed_at <= opened_at
    if isinstance(fact, AssignmentRenewed) and isinstance(telling, AssignmentTelling):
        return is_ruled_out(telling, fact, catalogue)
    return False


def _taking_outcome(fact: PurchaseRefunded | ChargebackLost, telling: OrderTelling) -> Outcome:
    cut_id = f"refund/{fact.refund_id}" if isinstance(fact, PurchaseRefunded) else f"dispute/{fact.dispute_id}"
    taking = next((taking for taking in telling.takings if taking.cut_id == cut_id), None)
    if taking is None:
        return Outcome.NO_EFFECT
    if taking.takes_nothing:
        return Outcome.NOTHING_TO_REFUND
    if taking.exceeds:
        return Outcome.OVER_REFUNDED
    return Outcome.APPLIED if any(before != then for before, then in taking.shares.values()) else Outcome.NO_EFFECT
