"""What writes a decision's rows: inbox, postings, sources, accounts, grants, heads, outbox and dead letters.

Set by set, each in key order, inside the caller's transaction. A dead letter that is kept already is not written again:
its record counts as a duplicate.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID, uuid5

from sqlalchemy import Connection

from ledger_worker.apply.batch import Applied, Batch, Delivery, Refused, Rejected
from ledger_worker.apply.load import Group
from ledger_worker.apply.out_of_range import out_of_range
from ledger_worker.domain.changes import Change
from ledger_worker.domain.decided import Decided, DecidedCustomer, DecidedEvent
from ledger_worker.domain.ledger import Posting
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.sources import SourceState
from ledger_worker.store import accounts as accounts_store
from ledger_worker.store import customers as customers_store
from ledger_worker.store import fence as fence_store
from ledger_worker.store import histories as histories_store
from ledger_worker.store import inbox as inbox_store
from ledger_worker.store import outgoing as outgoing_store
from ledger_worker.store import postings as postings_store
from ledger_worker.store import sources as sources_store
from ledger_worker.store.catalogue import LedgerState
from ledger_worker.store.outgoing import DeadLetterRow, OutgoingChange
from ledger_worker.wire.encode import encode_change
from ledger_worker.wire.record import Record

__all__ = ["write"]


def write(
    connection: Connection,
    batch: Batch,
    groups: Sequence[Group],
    decided: Sequence[Decided],
    ledger: LedgerState,
    key_hashes: Mapping[str, int],
) -> Applied:
    """Everything decided is written, set by set, each in key order; what is a dead letter already goes along.

    `decided` is of each group, in the same order; `key_hashes` say by customer which lane its messages take. Raises
    DataError for a sum that 64 bits do not hold.
    """
    failed_at = max((told.now for group in groups for told in group.told), default=None)
    if failed_at is None and batch.rejected:
        failed_at = customers_store.clock(connection)
    outcomes = Counter(event.outcome.value for one in decided for event in one.events if event.told is not None)
    duplicates = [group.places[told] for group, one in zip(groups, decided, strict=True) for told in one.duplicates]
    dead_letters = [] if failed_at is None else _dead_letters(batch, groups, decided, failed_at)
    kept = outgoing_store.find_dead_letters(connection, [row.dead_letter_id for row in dead_letters])
    repeated = [row.record for row in dead_letters if row.dead_letter_id in kept]
    repeated += [record for record in (batch.deliveries[place].record for place in duplicates) if record is not None]
    dead_letters = [row for row in dead_letters if row.dead_letter_id not in kept]
    if duplicates or kept:
        outcomes[Outcome.DUPLICATE.value] += len(duplicates) + len(kept)

    changes = _outgoing(batch, groups, decided, ledger, key_hashes)
    customers = {key: customer for one in decided for key, customer in one.customers.items()}
    postings: list[tuple[str, Posting]] = [(key, posting) for key, one in customers.items() for posting in one.postings]
    inbox_store.insert(connection, _inbox_rows(batch, groups, decided))
    postings_store.append(connection, postings)
    sources_store.write_states(connection, _states(decided))
    accounts = [(key, account) for key, one in customers.items() for account in one.accounts]
    accounts_store.write_accounts(connection, accounts)
    histories_store.write_states(connection, accounts)
    accounts_store.write_grants(connection, [(key, grant) for key, one in customers.items() for grant in one.grants])
    told_of = {event.event.customer_id for one in decided for event in one.events}
    changed = [one.head for key, one in customers.items() if key in told_of or one.postings or one.accounts]
    customers_store.write_heads(connection, changed)
    customers_store.write_ties(connection, [one.head for one in customers.values() if one.is_tied_anew])
    outgoing_store.append_changes(connection, changes)
    outgoing_store.append_dead_letters(connection, dead_letters)
    fence_store.count(connection, _counts(batch, repeated, dead_letters))
    return Applied(
        outcomes=outcomes,
        dead_letters=Counter(row.reason for row in dead_letters),
        changes=len(changes),
        postings=len(postings),
        recorded_at=failed_at,
        told=tuple(change for one in customers.values() for change in one.changes),
        refused=_refused(batch, groups, decided),
    )


_DEAD_LETTER_NAMESPACE = UUID("5f0c7f3e-1f44-5d1b-a7b7-1a7b5be25d03")


def _inbox_rows(batch: Batch, groups: Sequence[Group], decided: Sequence[Decided]) -> list[inbox_store.InboxRow]:
    return [
        _inbox_row(event, None if event.told is None else batch.deliveries[group.places[event.told]])
        for group, one in zip(groups, decided, strict=True)
        for event in one.events
    ]


def _inbox_row(event: DecidedEvent, delivery: Delivery | None) -> inbox_store.InboxRow:
    record = None if delivery is None else delivery.record
    traceparent = None if delivery is None else delivery.traceparent
    if record is None:
        return (event, None, None, None, traceparent)
    return (event, record.topic, record.partition, record.offset, traceparent)


def _dead_letters(
    batch: Batch, groups: Sequence[Group], decided: Sequence[Decided], failed_at: datetime
) -> list[DeadLetterRow]:
    """Those of refused events that came by a topic, then what was rejected before."""
    rows = []
    for group, one in zip(groups, decided, strict=True):
        for refused in one.refused:
            delivery = batch.deliveries[group.places[refused.told]]
            if delivery.record is None:
                continue  # answered, see `_refused`
            rejected = Rejected(
                record=delivery.record,
                topic_id=_topic_id(batch, delivery.record),
                reason=refused.reason,
                message=refused.message,
                event=delivery.event,
            )
            rows.append(_dead_letter_row(rejected, failed_at))
    return rows + [_dead_letter_row(rejected, failed_at) for rejected in batch.rejected]


def _refused(batch: Batch, groups: Sequence[Group], decided: Sequence[Decided]) -> tuple[Refused, ...]:
    """The refused events that came by no topic: their sender is there to be answered."""
    found = []
    for group, one in zip(groups, decided, strict=True):
        for refused in one.refused:
            delivery = batch.deliveries[group.places[refused.told]]
            if delivery.record is None:
                found.append(Refused(event=delivery.event, reason=refused.reason, message=refused.message))
    return tuple(found)


def _dead_letter_row(rejected: Rejected, failed_at: datetime) -> DeadLetterRow:
    record, event = rejected.record, rejected.event
    name = f"{rejected.topic_id}\0{record.topic}\0{record.partition}\0{record.offset}"
    return DeadLetterRow(
        dead_letter_id=uuid5(_DEAD_LETTER_NAMESPACE, name),
        record=record,
        topic_id=rejected.topic_id,
        reason=rejected.reason.value,
        message=rejected.message,
        customer_id=None if event is None else event.customer_id,
        event_source=None if event is None else event.event_source,
        event_id=None if event is None else event.event_id,
        failed_at=failed_at,
    )


def _topic_id(batch: Batch, record: Record) -> str:
    for move in batch.moves:
        if move.topic == record.topic and move.partition == record.partition:
            return move.topic_id
    return ""


def _outgoing(
    batch: Batch,
    groups: Sequence[Group],
    decided: Sequence[Decided],
    ledger: LedgerState,
    key_hashes: Mapping[str, int],
) -> list[OutgoingChange]:
    outgoing = []
    for group, one in zip(groups, decided, strict=True):
        if not any(customer.changes for customer in one.customers.values()):
            continue
        traces = {
            event.key: batch.deliveries[group.places[event.told]].traceparent
            for event in one.events
            if event.told is not None
        }
        for customer_id, customer in one.customers.items():
            lane = key_hashes[customer_id] % ledger.lanes
            outgoing += _changes_of(customer_id, customer, lane, traces)
    return outgoing


def _changes_of(
    customer_id: str, customer: DecidedCustomer, lane: int, traces: Mapping[UUID, str | None]
) -> list[OutgoingChange]:
    causes = {posting.number: traces.get(posting.event_key) for posting in customer.postings}
    return [
        OutgoingChange(
            lane=lane,
            customer_id=customer_id,
            timeline=change.timeline,
            sequence=change.sequence,
            change_id=change.change_id,
            payload=_payload(change),
            traceparent=causes.get(change.posting),
            recorded_at=change.recorded_at,
        )
        for change in customer.changes
    ]


def _payload(change: Change) -> bytes:
    """Raises what PostgreSQL would for a sum that 64 bits do not hold: the event at fault is then found as always."""
    try:
        return encode_change(change)
    except ValueError as error:
        raise out_of_range("EntitlementChanged", error) from error


def _states(decided: Sequence[Decided]) -> list[tuple[str, str, SourceState]]:
    """The folded sources, each with the customer who keeps its state, in key order."""
    states = [(state.claimant, key, state) for one in decided for key, state in one.sources.items()]
    return sorted(states, key=lambda one: (one[0].encode(), one[1].encode()))


def _counts(
    batch: Batch, duplicates: Iterable[Record], dead_letters: Iterable[DeadLetterRow]
) -> list[tuple[str, int, int, int, int]]:
    """How many records, duplicates and dead letters each moved partition had."""
    records: Counter[tuple[str, int]] = Counter()
    for record in (
        *(delivery.record for delivery in batch.deliveries),
        *(rejected.record for rejected in batch.rejected),
    ):
        if record is not None:
            records[record.topic, record.partition] += 1
    repeated = Counter((record.topic, record.partition) for record in duplicates)
    dead = Counter((row.record.topic, row.record.partition) for row in dead_letters)
    return [
        (move.topic, move.partition, records[place], repeated[place], dead[place])
        for move in batch.moves
        for place in [(move.topic, move.partition)]
    ]
