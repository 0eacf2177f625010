"""The inbox of one customer: each event's key, hash and columns follow from its id and its payload."""

from collections import defaultdict
from datetime import datetime
from typing import assert_never

from ledger_worker.domain.events import (
    REQUEST_PREFIX,
    CustomersMerged,
    Event,
    Fact,
    HoldConfirmed,
    HoldFact,
    OfferReached,
    OfSource,
    OwnFact,
    SeatFact,
    TransitionsDue,
    UsageRecorded,
    UsageReversed,
    content_hash,
    event_key,
    fact_bytes,
    fact_of,
    source_key,
)
from ledger_worker.domain.holds import HoldsTold
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.owners import Merge
from ledger_worker.domain.usage import counts_at, reversal_of, usage_of
from ledger_worker.operations.proof.findings import Check, Findings, differing, shown
from ledger_worker.operations.proof.outcomes import outcomes_of
from ledger_worker.operations.proof.reading import UNREADABLE, unreadable
from ledger_worker.operations.proof.rows import EventRow, Member, event_name
from ledger_worker.store.customers import merge_of

__all__ = ["check_events"]


def check_events(member: Member, findings: Findings) -> None:
    """Every event of the inbox was looked at; what can be read and is settled or folded again is with the member.

    So is the first that the customer was merged by: what is told after that changes nothing.
    """
    merged_since: datetime | None = None
    unread_merge: datetime | None = None
    instants: set[datetime] = set()
    holds: dict[str, HoldsTold] = defaultdict(HoldsTold)
    for row in member.rows.events:
        findings.looked_at[Check.EVENT] += 1
        member.events[row.event_key] = row
        if row.recorded_at in instants:
            _is_wrong(findings, row, f"recorded_at is {row.recorded_at.isoformat()}, expected an instant of its own")
        instants.add(row.recorded_at)
        try:
            fact = fact_of(row.payload)
        except UNREADABLE as error:
            _is_wrong(findings, row, unreadable(error))
            if row.type == CustomersMerged.__name__:
                unread_merge = min(row.recorded_at, unread_merge or row.recorded_at)
            _leave_out(member, row)
            continue
        event = Event(
            event_source=row.event_source,
            event_id=row.event_id,
            customer_id=row.customer_id,
            occurred_at=row.occurred_at,
            fact=fact,
            source_version=row.source_version,
        )
        _check_content(row, event, findings)
        if isinstance(fact, OfSource):
            member.facts.append((row, event))
        elif isinstance(fact, UsageRecorded | UsageReversed):
            _count(member, row, fact)
        elif isinstance(fact, HoldFact):
            holds[fact.entitlement].tell(row.customer_id, fact, row.event_source, row.event_id, row.occurred_at)
        elif isinstance(fact, SeatFact):
            member.seats.append((row, fact))
        elif isinstance(fact, CustomersMerged) and (merged_since is None or row.recorded_at < merged_since):
            merged_since = member.merged_since = row.recorded_at
            member.merge = Merge(merge_id=fact.merge_id, at=_counted_at(row), into=fact.into_customer_id)
    for entitlement, told in holds.items():
        member.holds[entitlement] = [hold for _, hold in told.all()]
    customer = member.rows.customer
    if unread_merge is not None and customer is not None and (merged_since is None or unread_merge < merged_since):
        # By what the customer's row says of it, everything else of those it ties can be proven.
        member.merge = merge_of(customer.alias_of, customer.alias_at, customer.merge_id)
        member.merged_since = unread_merge


_OUTCOMES = frozenset(outcome.value for outcome in Outcome)
_OF_LATE_USAGE = frozenset({Outcome.COUNTED_LATE, Outcome.OVERAGE_LATE, Outcome.IGNORED_LATE})


def _check_content(row: EventRow, event: Event, findings: Findings) -> None:
    key = event_key(row.event_source, row.event_id)
    if row.event_key != key:
        _is_wrong(findings, row, f"event_key is {row.event_key}, expected {key} by its source and id")
    hashed = content_hash(event, row.payload)
    if row.content_hash != hashed:
        _is_wrong(findings, row, f"content_hash is {row.content_hash.hex()}, but its content gives {hashed.hex()}")
    if fact_bytes(event.fact) != row.payload:
        _is_wrong(findings, row, "the payload is not in its canonical form")
    places = (row.topic, row.partition, row.offset)
    is_own = isinstance(event.fact, OwnFact | HoldFact)
    if places != (None, None, None) and (is_own or None in places):
        expected_places = "none of them" if is_own else "all of them or none"
        _is_wrong(findings, row, f"topic, partition and offset are {shown(places)}, expected {expected_places}")
    expected = (type(event.fact).__name__, *_columns_of(event.fact, _counted_at(row)))
    stored = (row.type, row.source_key, row.entitlement, row.units, row.counted_at)
    if stored != expected:
        names = ("type", "source_key", "entitlement", "units", "counted_at")
        _is_wrong(findings, row, f"{differing(names, stored, expected)} by its payload")
    if row.outcome not in _OUTCOMES:
        _is_wrong(findings, row, f"outcome is {row.outcome}, expected one of the closed list")
    elif row.outcome not in outcomes_of(type(event.fact)):
        _is_wrong(findings, row, f"outcome is {row.outcome}, which {row.type} never has")
    is_reported = isinstance(event.fact, UsageRecorded) and not row.event_source.startswith(REQUEST_PREFIX)
    if row.outcome in _OF_LATE_USAGE and not (is_reported and row.occurred_at < row.recorded_at):
        message = f"outcome is {row.outcome}, expected it of usage alone that was told after it occurred, by no request"
        _is_wrong(findings, row, message)


def _columns_of(fact: Fact, counted_at: datetime) -> tuple[str | None, str | None, int | None, datetime | None]:
    """What the columns source_key, entitlement, units and counted_at hold of a fact."""
    if isinstance(fact, UsageRecorded | UsageReversed | HoldConfirmed):
        return None, fact.entitlement, fact.units, counted_at
    if isinstance(fact, HoldFact | SeatFact):
        return None, fact.entitlement, None, counted_at
    if isinstance(fact, TransitionsDue):
        return None, fact.entitlement, None, None
    if isinstance(fact, OfferReached):
        return fact.source_key, None, None, None
    if isinstance(fact, CustomersMerged):
        return None, None, None, counted_at
    if isinstance(fact, OfSource):
        return source_key(fact), None, None, None
    assert_never(fact)


def _counted_at(row: EventRow) -> datetime:
    """When usage, a reversal or a merge counts, by what was decided of it."""
    return counts_at(row.occurred_at, row.recorded_at, row.outcome)


def _leave_out(member: Member, row: EventRow) -> None:
    """What an event that cannot be read is about, by its columns, is not proven."""
    if row.entitlement is not None and row.type != TransitionsDue.__name__:
        member.unread.usage.add(row.entitlement)
    if row.source_key is not None and row.type != OfferReached.__name__:
        member.unread.sources.add(row.source_key)


def _count(member: Member, row: EventRow, fact: UsageRecorded | UsageReversed) -> None:
    at = _counted_at(row) if row.counted_at is None else row.counted_at
    if isinstance(fact, UsageRecorded):
        usage = usage_of(row.event_key, row.outcome, at, fact.units, row.event_source, row.event_id)
        member.usage[fact.entitlement].append(usage)
        return
    member.reversed.append((row, fact))
    member.reversals[fact.entitlement].append(reversal_of(fact, row.event_source, row.event_id, at))


def _is_wrong(findings: Findings, row: EventRow, message: str) -> None:
    findings.add(Check.EVENT, row.customer_id, event_name(row), message)
