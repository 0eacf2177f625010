"""One transaction per batch: fence, lock, inbox, load, decide, write, outbox. The only way to change the ledger.

Nothing happens but at the commit. What a later statement reads was locked by an earlier one, never by itself: a lock
and a read in one statement would read what was there before the wait. Customers are locked in key order, then sources
are claimed in key order, so that two workers wait for each other but never in a circle.

Deciding is pure, so it may be done twice: where it turns out to need the history of an account, the history is loaded
and the customer is decided again. The number of statements does not grow with the batch.

An event's `recorded_at` is read from the database's clock after the locks and may then only be raised, so that it
strictly increases within a customer. Tests and rebuilds pass the instants instead (`instants`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid5

import msgspec
from psycopg.errors import NumericValueOutOfRange
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import Change
from ledger_worker.domain.decide import (
    DUE_MAX,
    CustomerHead,
    Decided,
    DecidedEvent,
    Loaded,
    NeedsHistory,
    Told,
    TooManyDue,
    book_due,
    decide,
    refusal,
)
from ledger_worker.domain.events import (
    Event,
    PurchaseCompleted,
    SourceFact,
    SubscriptionActivated,
    SubscriptionRenewed,
    UsageRecorded,
    content_hash,
    event_key,
    fact_bytes,
    source_key,
)
from ledger_worker.domain.ledger import Account, Grant, Posting
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from ledger_worker.domain.settlement import History
from ledger_worker.domain.sources import SourceState
from ledger_worker.errors import BrokenInvariantError
from ledger_worker.kafka.murmur2 import murmur2
from ledger_worker.metrics import Stage, Stages
from ledger_worker.store import accounts as accounts_store
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store
from ledger_worker.store import fence as fence_store
from ledger_worker.store import inbox as inbox_store
from ledger_worker.store import outgoing as outgoing_store
from ledger_worker.store import postings as postings_store
from ledger_worker.store import sources as sources_store
from ledger_worker.store.catalogue import LedgerState
from ledger_worker.store.outgoing import DeadLetterRow, OutgoingChange
from ledger_worker.wire.encode import encode_change
from ledger_worker.wire.record import Record

__all__ = [
    "Applied",
    "Batch",
    "Catalogues",
    "Delivery",
    "Instants",
    "Move",
    "Rejected",
    "apply_batch",
    "by_database_clock",
    "rehearse_batch",
]

ATTEMPTS_MAX = 5
"""How often a batch is tried when the database chose it as the victim of a deadlock or a serialization failure."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch moves one input partition, which is also its fence.

    The row must still stand at `from_offset` under `owner_epoch`; it is then set to `to_offset` (the offset after the
    last record consumed, which need not be contiguous).
    """

    topic: str
    partition: int
    topic_id: str
    owner_epoch: int
    from_offset: int
    to_offset: int


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One decoded event with the record it came in (None when it came by no topic)."""

    event: Event
    record: Record | None = None
    traceparent: str | None = None


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is a dead letter already: it could not be decoded, or its value is impossible."""

    record: Record
    topic_id: str
    reason: DeadLetterReason
    message: str
    event: Event | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction applies: deliveries in the order of their arrival (per partition by offset)."""

    moves: tuple[Move, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    rejected: tuple[Rejected, ...] = ()


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a batch, after its commit.

    Counts by outcome and dead-letter reason, and how many outbox rows it wrote.
    """

    outcomes: Mapping[str, int]
    dead_letters: Mapping[str, int]
    changes: int
    postings: int
    recorded_at: datetime | None = None


Instants = Callable[[Connection, Sequence[Delivery]], Sequence[datetime]]
"""Gives each delivery the instant it is recorded at, before it is raised to follow the customer's last."""


def by_database_clock(connection: Connection, deliveries: Sequence[Delivery]) -> Sequence[datetime]:
    """Every delivery of the batch is recorded at the database's clock, read now: after the locks."""
    return [customers_store.clock(connection)] * len(deliveries)


class Catalogues:
    """The newest published catalogue, read once per version and process."""

    def __init__(self) -> None:
        self._newest: Catalogue | None = None

    def at(self, connection: Connection, version: int) -> Catalogue:
        """The catalogue of `version`; published versions never change, so a version that is known is not read again."""
        if self._newest is None or self._newest.version != version:
            self._newest = catalogue_store.read(connection, version)
        return self._newest


def apply_batch(
    engine: Engine, batch: Batch, catalogues: Catalogues, stages: Stages, instants: Instants = by_database_clock
) -> Applied:
    """The batch is committed: every delivery has changed the ledger, or changed it before, or is a dead letter.

    Raises FencedError when another owner holds a partition of it; SQLAlchemy's DBAPIError for what the database refuses
    (the caller tells the event's fault from ours and from an outage by its SQLSTATE). Nothing is committed when it
    raises, except that a lost answer to COMMIT leaves that open: applying the same batch again then either is fenced or
    does what was not done.
    """
    attempts = 0
    for _ in range(_CATCH_UPS_MAX):
        try:
            with engine.connect() as connection, connection.begin():
                applied = _transact(connection, batch, catalogues, stages, instants)
                stages.reached(Stage.WRITTEN)
            stages.reached(Stage.COMMITTED)
        except _ManyDueError as many:
            _book_due_apart(engine, many.due_at, catalogues)
        except DBAPIError as error:
            attempts += 1
            if attempts == ATTEMPTS_MAX or getattr(error.orig, "sqlstate", None) not in _VICTIM_SQLSTATES:
                raise
        else:
            return applied
    raise _never_caught_up()


def rehearse_batch(
    engine: Engine, batch: Batch, catalogues: Catalogues, stages: Stages, instants: Instants = by_database_clock
) -> Applied:
    """What `apply_batch` would do, by the same code, rolled back.

    What had to be caught up with first stays booked: it was due whatever becomes of the batch.
    """
    for _ in range(_CATCH_UPS_MAX):
        try:
            with engine.connect() as connection, connection.begin() as transaction:
                applied = _transact(connection, batch, catalogues, stages, instants)
                transaction.rollback()
        except _ManyDueError as many:
            _book_due_apart(engine, many.due_at, catalogues)
        else:
            return applied
    raise _never_caught_up()


_VICTIM_SQLSTATES = frozenset({"40001", "40P01"})
_DEAD_LETTER_NAMESPACE = UUID("5f0c7f3e-1f44-5d1b-a7b7-1a7b5be25d03")
_CATCH_UPS_MAX = 10_000
"""Most transactions that catch up with what is due before one batch: a hundred transitions each, so a million."""


class _ManyDueError(Exception):
    """More is due for these customers, each at an instant, than one transaction may book."""

    def __init__(self, due_at: Mapping[str, datetime]) -> None:
        super().__init__(", ".join(due_at))
        self.due_at = due_at


def _never_caught_up() -> BrokenInvariantError:
    return BrokenInvariantError(f"customers still have too much due after {_CATCH_UPS_MAX} transactions of their own")


class _Work(msgspec.Struct):
    """The batch by customer: the places of their deliveries in it, and each delivery as it is to be decided."""

    places: dict[str, list[int]]
    told: dict[str, list[Told]]


def _transact(
    connection: Connection, batch: Batch, catalogues: Catalogues, stages: Stages, instants: Instants
) -> Applied:
    """Everything but the commit, in the order that the module tells."""
    catalogue_store.lock_shared(connection)
    ledger = catalogue_store.read_ledger(connection)
    catalogue = catalogues.at(connection, ledger.catalogue_version)
    fence_store.move(
        connection, [(m.topic, m.partition, m.owner_epoch, m.from_offset, m.to_offset) for m in batch.moves]
    )
    stages.reached(Stage.FENCED)

    customer_ids = sorted({delivery.event.customer_id for delivery in batch.deliveries}, key=str.encode)
    customers_store.lock(connection, customer_ids, murmur2)
    heads, key_hashes = customers_store.read_heads(connection, customer_ids)
    _require_not_parked(heads)
    stages.reached(Stage.LOCKED)

    work = _work(connection, batch.deliveries, instants(connection, batch.deliveries))
    stages.reached(Stage.INBOX)

    usage_kept = timedelta(days=ledger.usage_kept_days)
    loaded = _load(connection, work, heads, catalogue, usage_kept)
    stages.reached(Stage.LOADED)

    decided = _decide(connection, work, loaded, catalogue, ledger)
    stages.reached(Stage.DECIDED)

    return _write(connection, batch, work, decided, ledger, key_hashes)


def _require_not_parked(heads: Mapping[str, CustomerHead]) -> None:
    """No event passes a parked customer: this release does not hold its events back, so it stops."""
    parked = [customer_id for customer_id, head in heads.items() if head.is_parked]
    if parked:
        msg = f"customer {parked[0]} is parked, and its events cannot be held back by this release"
        raise BrokenInvariantError(msg)


# -- load ----------------------------------------------------------------------------------------------------


def _work(connection: Connection, deliveries: Sequence[Delivery], instants: Sequence[datetime]) -> _Work:
    keys = [event_key(delivery.event.event_source, delivery.event.event_id) for delivery in deliveries]
    asked = [(delivery.event.customer_id, key) for delivery, key in zip(deliveries, keys, strict=True)]
    known = inbox_store.find(connection, asked)
    work = _Work({}, {})
    for place, (delivery, key, now) in enumerate(zip(deliveries, keys, instants, strict=True)):
        event = delivery.event
        payload = fact_bytes(event.fact)
        told = Told(
            event=event,
            key=key,
            content_hash=content_hash(event, payload),
            payload=payload,
            now=now,
            known_hash=known.get((event.customer_id, key)),
        )
        work.places.setdefault(event.customer_id, []).append(place)
        work.told.setdefault(event.customer_id, []).append(told)
    return work


def _load(
    connection: Connection,
    work: _Work,
    heads: Mapping[str, CustomerHead],
    catalogue: Catalogue,
    usage_kept: timedelta,
) -> dict[str, Loaded]:
    """What the decision about each customer reads, by customer."""
    if not heads:
        return {}
    owners, states = _load_sources(connection, work, catalogue, usage_kept)
    pairs = _touched(work, owners, states, catalogue)
    accounts = accounts_store.read_accounts(connection, pairs, list(heads), _last_instant(work, heads))
    open_pairs = sorted({*pairs, *accounts})
    grants = accounts_store.read_open_grants(connection, open_pairs)
    accounts_of: dict[str, dict[str, Account]] = {customer_id: {} for customer_id in heads}
    for (customer_id, entitlement), account in accounts.items():
        accounts_of[customer_id][entitlement] = account
    states_of: dict[str, dict[str, SourceState]] = {customer_id: {} for customer_id in heads}
    for (customer_id, key), state in states.items():
        states_of[customer_id][key] = state
    nothing: list[Grant] = []
    return {
        customer_id: Loaded(
            head=head,
            sources=states_of[customer_id],
            owners=owners,
            accounts=accounts_of[customer_id],
            grants=grants.get(customer_id, nothing),
            histories={},
        )
        for customer_id, head in heads.items()
    }


def _last_instant(work: _Work, heads: Mapping[str, CustomerHead]) -> datetime:
    """No event of the batch is recorded later: its instant, raised behind the customer's last and what is booked first.

    What falls due in between has to be loaded, also for an account that no event touches: else a split would show.
    """
    instants = [told.now for all_told in work.told.values() for told in all_told]
    instants += [head.recorded_at for head in heads.values() if head.recorded_at is not None]
    recorded = sum(1 + DUE_MAX for all_told in work.told.values() for _ in all_told)
    return max(instants) + recorded * timedelta(microseconds=1)


def _load_sources(
    connection: Connection, work: _Work, catalogue: Catalogue, usage_kept: timedelta
) -> tuple[dict[str, str], dict[tuple[str, str], SourceState]]:
    """Who owns each source that is spoken of, and its state.

    A source nobody owns belongs to the customer it is first told of, by an event that is not refused.
    """
    first_told: dict[str, tuple[int, str]] = {}
    spoken_of = []
    for customer_id, all_told in work.told.items():
        if not any(isinstance(told.event.fact, SourceFact) for told in all_told):
            continue
        seen: set[UUID] = set()
        for place, told in zip(work.places[customer_id], all_told, strict=True):
            is_known = told.known_hash is not None or told.key in seen
            is_taken = not is_known and refusal(told.event, told.now, catalogue, usage_kept) is None
            if is_taken:
                seen.add(told.key)
            if isinstance(told.event.fact, SourceFact):
                key = source_key(told.event.fact)
                spoken_of.append((customer_id, key))
                if is_taken and (key not in first_told or place < first_told[key][0]):
                    first_told[key] = (place, customer_id)
    keys = sorted({key for _, key in spoken_of}, key=str.encode)
    owners = sources_store.read_owners(connection, keys)
    unowned = {key: customer_id for key, (_, customer_id) in first_told.items() if key not in owners}
    if unowned:
        sources_store.claim(connection, unowned)
        owners = sources_store.read_owners(connection, keys)
    return owners, sources_store.read_states(connection, sorted(set(spoken_of)))


def _touched(
    work: _Work,
    owners: Mapping[str, str],
    states: Mapping[tuple[str, str], SourceState],
    catalogue: Catalogue,
) -> list[tuple[str, str]]:
    """The accounts that the events may touch.

    Those of the usage, and of everything any version of the sources' offers gives.
    """
    touched = set()
    for customer_id, all_told in work.told.items():
        skus: set[str] = set()
        for told in all_told:
            fact = told.event.fact
            if isinstance(fact, UsageRecorded):
                touched.add((customer_id, fact.entitlement))
            elif isinstance(fact, SourceFact):
                skus |= _skus(fact)
                key = source_key(fact)
                if owners.get(key) == customer_id and (customer_id, key) in states:
                    for _, recorded in states[customer_id, key].facts:
                        skus |= _skus(recorded.fact)
        for sku in skus:
            for offer in catalogue.offers.get(sku, ()):
                touched |= {(customer_id, allowance.entitlement) for allowance in offer.allowances}
    return sorted(touched)


def _skus(fact: SourceFact) -> set[str]:
    if isinstance(fact, PurchaseCompleted):
        return {line.sku for line in fact.lines}
    if isinstance(fact, SubscriptionActivated | SubscriptionRenewed):
        return {item.sku for item in fact.items}
    return set()


# -- decide --------------------------------------------------------------------------------------------------


def _decide(
    connection: Connection, work: _Work, loaded: dict[str, Loaded], catalogue: Catalogue, ledger: LedgerState
) -> dict[str, Decided]:
    """Every customer is decided, in key order. Raises _ManyDueError when some must be caught up first.

    Each round loads the history of one account more of each customer that asks, and none twice: it ends with accounts.
    """
    usage_kept = timedelta(days=ledger.usage_kept_days)
    decided: dict[str, Decided] = {}
    undecided = list(loaded)
    many_due: dict[str, datetime] = {}
    while undecided:
        needed = []
        for customer_id in undecided:
            found = decide(
                loaded[customer_id], work.told[customer_id], catalogue, timeline=ledger.timeline, usage_kept=usage_kept
            )
            if isinstance(found, NeedsHistory):
                _require_not_loaded(loaded[customer_id], found)
                needed.append((customer_id, found.entitlement))
            elif isinstance(found, TooManyDue):
                many_due[customer_id] = found.now
            else:
                decided[customer_id] = found
        histories = accounts_store.read_histories(connection, needed) if needed else {}
        for (customer_id, entitlement), history in histories.items():
            loaded[customer_id] = _with_history(loaded[customer_id], entitlement, history)
        undecided = [customer_id for customer_id, _ in needed]
    if many_due:
        raise _ManyDueError(many_due)
    return {customer_id: decided[customer_id] for customer_id in loaded}


def _book_due_apart(engine: Engine, due_at: Mapping[str, datetime], catalogues: Catalogues) -> None:
    """One transaction per customer books the earliest of what is due at its instant, as many as one transaction may."""
    for customer_id, now in due_at.items():
        with engine.connect() as connection, connection.begin():
            catalogue_store.lock_shared(connection)
            ledger = catalogue_store.read_ledger(connection)
            catalogue = catalogues.at(connection, ledger.catalogue_version)
            customers_store.lock(connection, [customer_id], murmur2)
            heads, key_hashes = customers_store.read_heads(connection, [customer_id])
            accounts = accounts_store.read_accounts(connection, [], [customer_id], now)
            grants = accounts_store.read_open_grants(connection, list(accounts))
            loaded = Loaded(
                head=heads[customer_id],
                sources={},
                owners={},
                accounts={entitlement: account for (_, entitlement), account in accounts.items()},
                grants=grants.get(customer_id, []),
                histories={},
            )
            found = book_due(loaded, now, catalogue, timeline=ledger.timeline)
            while isinstance(found, NeedsHistory):
                _require_not_loaded(loaded, found)
                pair = (customer_id, found.entitlement)
                history = accounts_store.read_histories(connection, [pair])[pair]
                loaded = _with_history(loaded, found.entitlement, history)
                found = book_due(loaded, now, catalogue, timeline=ledger.timeline)
            _write(connection, Batch(), _Work({}, {}), {customer_id: found}, ledger, key_hashes)


def _with_history(loaded: Loaded, entitlement: str, history: History) -> Loaded:
    return msgspec.structs.replace(loaded, histories={**loaded.histories, entitlement: history})


def _require_not_loaded(loaded: Loaded, needed: NeedsHistory) -> None:
    if needed.entitlement in loaded.histories:
        msg = f"customer {loaded.head.customer_id}: the whole history of {needed.entitlement} is asked for again"
        raise BrokenInvariantError(msg)


# -- write ---------------------------------------------------------------------------------------------------


def _write(
    connection: Connection,
    batch: Batch,
    work: _Work,
    decided: Mapping[str, Decided],
    ledger: LedgerState,
    key_hashes: Mapping[str, int],
) -> Applied:
    """Everything decided is written, set by set, each in key order."""
    outcomes: Counter[str] = Counter()
    inbox: list[inbox_store.InboxRow] = []
    dead_letters: list[DeadLetterRow] = []
    duplicates: list[int] = []
    failed_at = max((told.now for all_told in work.told.values() for told in all_told), default=None)
    if failed_at is None and batch.rejected:
        failed_at = customers_store.clock(connection)
    for customer_id, one in decided.items():
        places = work.places.get(customer_id, [])
        duplicates += [places[told] for told in one.duplicates]
        for event in one.events:
            outcomes[event.outcome.value] += event.told is not None
            inbox.append(_inbox_row(event, None if event.told is None else batch.deliveries[places[event.told]]))
        for refused in one.refused:
            delivery = batch.deliveries[places[refused.told]]
            if delivery.record is None or failed_at is None:
                msg = f"event {delivery.event.event_id} of {delivery.event.event_source}: {refused.message}"
                raise BrokenInvariantError(msg)
            rejected = Rejected(
                record=delivery.record,
                topic_id=_topic_id(batch, delivery.record),
                reason=refused.reason,
                message=refused.message,
                event=delivery.event,
            )
            dead_letters.append(_dead_letter_row(rejected, failed_at))
    if failed_at is not None:
        dead_letters += [_dead_letter_row(rejected, failed_at) for rejected in batch.rejected]
    kept = outgoing_store.find_dead_letters(connection, [row.dead_letter_id for row in dead_letters])
    repeated = [row.record for row in dead_letters if row.dead_letter_id in kept]
    repeated += [record for record in (batch.deliveries[place].record for place in duplicates) if record is not None]
    dead_letters = [row for row in dead_letters if row.dead_letter_id not in kept]
    if duplicates or kept:
        outcomes[Outcome.DUPLICATE.value] += len(duplicates) + len(kept)

    changes = _outgoing(batch, work, decided, ledger, key_hashes)
    postings: list[tuple[str, Posting]] = [(key, posting) for key, one in decided.items() for posting in one.postings]
    inbox_store.insert(connection, inbox)
    postings_store.append(connection, postings)
    sources_store.write_states(
        connection,
        [(key, source, state) for key, one in decided.items() for source, state in sorted(one.sources.items())],
    )
    accounts_store.write_accounts(
        connection, [(key, account) for key, one in decided.items() for account in one.accounts]
    )
    accounts_store.write_grants(connection, [(key, grant) for key, one in decided.items() for grant in one.grants])
    customers_store.write_heads(connection, [one.head for one in decided.values() if one.events or one.accounts])
    outgoing_store.append_changes(connection, changes)
    outgoing_store.append_dead_letters(connection, dead_letters)
    fence_store.count(connection, _counts(batch, repeated, dead_letters))
    return Applied(
        outcomes=outcomes,
        dead_letters=Counter(row.reason for row in dead_letters),
        changes=len(changes),
        postings=len(postings),
        recorded_at=failed_at,
    )


def _inbox_row(event: DecidedEvent, delivery: Delivery | None) -> inbox_store.InboxRow:
    record = None if delivery is None else delivery.record
    traceparent = None if delivery is None else delivery.traceparent
    if record is None:
        return (event, None, None, None, traceparent)
    return (event, record.topic, record.partition, record.offset, traceparent)


def _outgoing(
    batch: Batch,
    work: _Work,
    decided: Mapping[str, Decided],
    ledger: LedgerState,
    key_hashes: Mapping[str, int],
) -> list[OutgoingChange]:
    outgoing = []
    for customer_id, one in decided.items():
        if not one.changes:
            continue
        places = work.places.get(customer_id, [])
        traces = {
            event.key: batch.deliveries[places[event.told]].traceparent
            for event in one.events
            if event.told is not None
        }
        causes = {posting.number: traces.get(posting.event_key) for posting in one.postings}
        lane = key_hashes[customer_id] % ledger.lanes
        outgoing += [
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
            for change in one.changes
        ]
    return outgoing


def _payload(change: Change) -> bytes:
    """Raises what PostgreSQL would for a sum that 64 bits do not hold: the event at fault is then found as always."""
    try:
        return encode_change(change)
    except ValueError as error:
        raise DataError("EntitlementChanged", None, NumericValueOutOfRange(str(error))) from error


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
