"""What became of an event, as far as it can be told afterwards: the outcome is one that its fact can have.

The outcome is what was true when the event was applied, with the catalogue and the merges of that moment, so most of it
is not judged again. Asked is what holds whatever those were: which outcomes a fact of its type can have at all, which
of them book nothing, which merge of a customer was its first, and, of customers who are tied to nobody, whether the
usage was known when its reversal was told.

Entries of a fact that waits are right: a refund that names one line that is known and one that is not waits and takes
the first back; and any fact books what a newer catalogue gives its source.
"""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from ledger_worker.domain.events import (
    AssignmentRenewed,
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    CustomersMerged,
    EntitlementAssigned,
    Fact,
    HoldConfirmed,
    HoldReleased,
    HoldTaken,
    OfferReached,
    OfSource,
    PurchaseCompleted,
    PurchaseRefunded,
    SeatAssigned,
    SeatsRevoked,
    SeatSwapped,
    SeatUnassigned,
    SubscriptionActivated,
    SubscriptionAddOnAdded,
    SubscriptionPaused,
    SubscriptionPlanChanged,
    SubscriptionRenewed,
    SubscriptionResumed,
    SubscriptionTrialConverted,
    SubscriptionTrialStarted,
    TransitionsDue,
    UsageRecorded,
    UsageReversed,
    event_key,
)
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.requests import end_id
from ledger_worker.domain.usage import LATE_OUTCOMES, reversal_of
from ledger_worker.operations.proof.findings import Check, Findings
from ledger_worker.operations.proof.rows import EventRow, Member, event_name

__all__ = ["check_outcomes", "outcomes_of"]


def outcomes_of(kind: type[Fact]) -> frozenset[str]:
    """The outcomes that a fact of this type can have."""
    return _OUTCOMES.get(kind, _OF_SOURCE) if issubclass(kind, OfSource) else _OUTCOMES[kind]


def check_outcomes(member: Member, members: Mapping[str, Member], findings: Findings) -> None:
    """The outcomes of the customer's events agree with its other events, and with what was booked of them."""

    def is_wrong(row: EventRow, message: str) -> None:
        """There is a finding of the event: its outcome, and why it cannot be."""
        findings.add(Check.EVENT, member.customer_id, event_name(row), f"outcome is {row.outcome}, {message}")

    books_nothing = [row for row in member.rows.events if _books_nothing(row)]
    is_alone = len(members) == 1
    booked = _booked(member, members) if books_nothing or (is_alone and member.reversed) else frozenset()
    for row in books_nothing:
        if row.event_key in booked:
            is_wrong(row, "but there are entries of it")
    merges = sorted((row for row in member.rows.events if row.type == _MERGE), key=_recorded_at)
    for place, row in enumerate(merges):
        if (row.outcome == Outcome.APPLIED) != (place == 0):
            is_wrong(row, f"expected {'that' if place else 'applied'} of the first merge of the customer alone")
    if is_alone:
        for row, fact in member.reversed:
            message = _is_wrong_of_reversal(row, fact, member, is_booked=row.event_key in booked)
            if message:
                is_wrong(row, message)


_MERGE = CustomersMerged.__name__
_LATE_OR_APPLIED = frozenset({Outcome.APPLIED.value, *(outcome.value for outcome in LATE_OUTCOMES.values())})
_OF_SOURCE = frozenset(
    {
        Outcome.AWAITING_TRANSFER.value,
        Outcome.DUPLICATE_FACT.value,
        Outcome.WAITING.value,
        Outcome.NO_EFFECT.value,
        Outcome.APPLIED.value,
    }
)
_FIRST_OF_SOURCE = _OF_SOURCE - {Outcome.WAITING}
_ENTERING = frozenset({Outcome.NO_OFFER.value})
_TAKING = _OF_SOURCE | {Outcome.NOTHING_TO_REFUND.value, Outcome.OVER_REFUNDED.value}
_RULED_OUT = _OF_SOURCE | {Outcome.CONTRADICTED.value}
_OUTCOMES: Mapping[type[Fact], frozenset[str]] = {
    UsageRecorded: _LATE_OR_APPLIED,
    UsageReversed: _OF_SOURCE - {Outcome.AWAITING_TRANSFER},
    CustomersMerged: frozenset(
        {Outcome.ALREADY_MERGED.value, Outcome.CONTRADICTED.value, Outcome.APPLIED.value},
    ),
    TransitionsDue: frozenset({Outcome.APPLIED.value}),
    HoldTaken: frozenset({Outcome.APPLIED.value}),
    HoldConfirmed: frozenset({Outcome.APPLIED.value}),
    HoldReleased: frozenset({Outcome.APPLIED.value}),
    SeatAssigned: frozenset({Outcome.APPLIED.value}),
    SeatUnassigned: frozenset({Outcome.APPLIED.value}),
    SeatSwapped: frozenset({Outcome.APPLIED.value}),
    SeatsRevoked: frozenset({Outcome.APPLIED.value}),
    OfferReached: frozenset({Outcome.NO_EFFECT.value, Outcome.APPLIED.value}),
    PurchaseCompleted: _FIRST_OF_SOURCE | _ENTERING | {Outcome.NO_PERIOD.value, Outcome.RECURS_LESS.value},
    PurchaseRefunded: _TAKING,
    ChargebackLost: _TAKING,
    ChargebackOpened: _RULED_OUT,
    ChargebackWon: _RULED_OUT,
    SubscriptionTrialStarted: _FIRST_OF_SOURCE | _ENTERING,
    SubscriptionActivated: _FIRST_OF_SOURCE | _ENTERING,
    SubscriptionTrialConverted: _OF_SOURCE | _ENTERING,
    SubscriptionRenewed: _OF_SOURCE | _ENTERING,
    SubscriptionPlanChanged: _OF_SOURCE | _ENTERING,
    SubscriptionAddOnAdded: _OF_SOURCE | _ENTERING,
    SubscriptionPaused: _RULED_OUT,
    SubscriptionResumed: _RULED_OUT,
    EntitlementAssigned: _FIRST_OF_SOURCE,
    AssignmentRenewed: _RULED_OUT,
}
"""By type of fact; a fact about a source that is not here can have what all of them can."""
_USING = frozenset({UsageRecorded.__name__, HoldConfirmed.__name__})
_TAKES = frozenset({PurchaseRefunded.__name__, ChargebackLost.__name__})


def _books_nothing(row: EventRow) -> bool:
    """Whether the outcome says that nothing was booked: of a refund `no_effect` speaks of its shares alone."""
    if row.outcome == Outcome.NO_EFFECT:
        return row.type not in _TAKES
    return row.outcome == Outcome.DUPLICATE_FACT or (row.type == _MERGE and row.outcome != Outcome.APPLIED)


def _booked(member: Member, members: Mapping[str, Member]) -> frozenset[UUID]:
    """The keys of the customer's events of which anybody in the group has entries."""
    found: set[UUID] = set()
    for each in members.values():
        with_entries = {entry.posting for entry in each.rows.entries}
        for posting in each.rows.postings:
            if posting.number in with_entries and (posting.told_to or each.customer_id) == member.customer_id:
                found.add(posting.event_key)
    return frozenset(found)


def _is_wrong_of_reversal(row: EventRow, fact: UsageReversed, member: Member, *, is_booked: bool) -> str:
    """What is wrong in the outcome of a reversal, of a customer who is alone; empty when nothing is."""
    if fact.entitlement in member.unread.usage:
        return ""
    content = _content(row, fact)
    usage = member.events.get(content[1])
    if usage is not None and usage.type == HoldTaken.__name__:
        usage = member.events.get(event_key(usage.event_source, end_id(usage.event_id)))
    is_known = (
        usage is not None
        and usage.type in _USING
        and usage.entitlement == fact.entitlement
        and usage.recorded_at < row.recorded_at
    )
    if row.outcome == Outcome.DUPLICATE_FACT:
        is_told_again = any(
            earlier.recorded_at < row.recorded_at and _content(earlier, other) == content
            for earlier, other in member.reversed
            if other.entitlement == fact.entitlement
        )
        return "" if is_told_again else "but no reversal of that id and content was told before"
    if (row.outcome == Outcome.WAITING) == is_known:
        return f"but its usage was told {'before' if is_known else 'later or never'}"
    if row.outcome == Outcome.APPLIED and not is_booked:
        return "but there are no entries of it"
    return ""


def _content(row: EventRow, fact: UsageReversed) -> tuple[str, UUID, int | None]:
    reversal = reversal_of(fact, row.event_source, row.event_id, row.recorded_at)
    return reversal.reversal_id, reversal.usage_key, reversal.units


def _recorded_at(row: EventRow) -> datetime:
    return row.recorded_at
