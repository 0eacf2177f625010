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
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import msgspec
from psycopg.errors import NumericValueOutOfRange
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import Change
from ledger_worker.domain.decide import DUE_MAX, book_due, decide
from ledger_worker.domain.decided import (
    CustomerHead,
    Decided,
    DecidedCustomer,
    DecidedEvent,
    Loaded,
    LoadedCustomer,
    NeedsHistory,
    Told,
    TooManyDue,
)
from ledger_worker.domain.events import (
    CustomersMerged,
    EntitlementAssigned,
    Event,
    OfferReached,
    OfSource,
    UsageRecorded,
    UsageReversed,
    content_hash,
    customers_of,
    event_key,
    fact_bytes,
    source_key,
)
from ledger_worker.domain.ledger import Account, Grant, Posting
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from ledger_worker.domain.owners import Merge, Merges, goes_on_as
from ledger_worker.domain.refusal import refusal
from ledger_worker.domain.settlement import History
from ledger_worker.domain.sources import SourceState, facts_of, skus_of
from ledger_worker.errors import BrokenInvariantError
from ledger_worker.kafka.murmur2 import murmur2
from ledger_worker.metrics import Stage, Stages
from ledger_worker.store import accounts as accounts_store
from ledger_worker.store import catalogue as catalogue_store
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

__all__ = [
    "Applied",
    "Batch",
    "Catalogues",
    "Delivery",
    "Instants",
    "ManyDue",
    "Move",
    "Rejected",
    "apply_batch",
    "by_database_clock",
    "catch_up",
    "rehearse_batch",
    "rehearse_on",
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

    Counts by outcome and dead-letter reason, and how many outbox rows it wrote. `told` are the changes in them, those
    of one customer in their order.
    """

    outcomes: Mapping[str, int]
    dead_letters: Mapping[str, int]
    changes: int
    postings: int
    recorded_at: datetime | None = None
    told: tuple[Change, ...] = ()


class ManyDue(msgspec.Struct, frozen=True, kw_only=True):
    """A batch was not tried: for these customers more is due, each at an instant, than one transaction may book."""

    due_at: Mapping[str, datetime]


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
    named: frozenset[str] = frozenset()
    due_at: Mapping[str, datetime] = {}
    for _ in range(_CATCH_UPS_MAX):
        try:
            _book_due_apart(engine, due_at, catalogues)
            due_at = {}
            with engine.connect() as connection, connection.begin():
                applied = _transact(connection, batch, catalogues, stages, instants, named)
                stages.reached(Stage.WRITTEN)
            stages.reached(Stage.COMMITTED)
        except _ManyDueError as many:
            due_at = many.due_at
        except _MoreCustomersError as more:
            named |= more.customer_ids
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
        with engine.connect() as connection, connection.begin() as transaction:
            found = rehearse_on(connection, batch, catalogues, stages, instants)
            transaction.rollback()
        if isinstance(found, Applied):
            return found
        catch_up(engine, found, catalogues)
    raise _never_caught_up()


def rehearse_on(
    connection: Connection,
    batch: Batch,
    catalogues: Catalogues,
    stages: Stages,
    instants: Instants = by_database_clock,
) -> Applied | ManyDue:
    """What `apply_batch` would do, by the same code, inside the caller's transaction, which the caller rolls back.

    What that transaction published decides, though it is not committed: `catalogues` must then not outlive it. Where
    too much is due or the batch fails, the transaction is as if nothing had been tried. `catch_up` needs the customers
    that the transaction holds, so it comes after the rollback.
    """
    named: frozenset[str] = frozenset()
    for _ in range(_CATCH_UPS_MAX):
        try:
            with connection.begin_nested():
                applied = _transact(connection, batch, catalogues, stages, instants, named)
        except _ManyDueError as many:
            return ManyDue(due_at=many.due_at)
        except _MoreCustomersError as more:
            named |= more.customer_ids
        else:
            return applied
    raise _never_caught_up()


def catch_up(engine: Engine, many: ManyDue, catalogues: Catalogues) -> None:
    """The earliest of what is due for these customers is booked and committed: it is due whatever is decided next."""
    for _ in range(_CATCH_UPS_MAX):
        try:
            _book_due_apart(engine, many.due_at, catalogues)
        except _MoreCustomersError:
            continue
        return
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


class _MoreCustomersError(Exception):
    """Under the locks it shows that more customers are tied to those that were locked: lock them all from the start."""

    def __init__(self, customer_ids: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(customer_ids)))
        self.customer_ids = customer_ids


def _never_caught_up() -> BrokenInvariantError:
    return BrokenInvariantError(f"customers still have too much due after {_CATCH_UPS_MAX} transactions of their own")


class _Group(msgspec.Struct):
    """Customers that are decided together: most often one alone.

    `places` are those of their deliveries in the batch, `told` each delivery as it is to be decided, `keys` the sources
    that are spoken of.
    """

    customer_ids: list[str]
    places: list[int]
    told: list[Told]
    keys: list[str]


def _transact(
    connection: Connection,
    batch: Batch,
    catalogues: Catalogues,
    stages: Stages,
    instants: Instants,
    named: frozenset[str],
) -> Applied:
    """Everything but the commit, in the order that the module tells; `named` customers are locked beside all others."""
    catalogue_store.lock_shared(connection)
    ledger = catalogue_store.read_ledger(connection)
    catalogue = catalogues.at(connection, ledger.catalogue_version)
    fence_store.move(
        connection, [(m.topic, m.partition, m.owner_epoch, m.from_offset, m.to_offset) for m in batch.moves]
    )
    stages.reached(Stage.FENCED)

    spoken_of = {source for source in map(_source_of, batch.deliveries) if source is not None}
    claimants = sources_store.read_owners(connection, sorted(spoken_of, key=str.encode))
    wanted = {*named, *claimants.values(), *(each for one in batch.deliveries for each in customers_of(one.event))}
    customer_ids = customers_store.lock(connection, sorted(wanted, key=str.encode), murmur2)
    heads, key_hashes = customers_store.read_heads(connection, customer_ids)
    _require_not_parked(heads)
    stages.reached(Stage.LOCKED)

    told = _told(connection, batch.deliveries, instants(connection, batch.deliveries), heads)
    stages.reached(Stage.INBOX)

    usage_kept = timedelta(days=ledger.usage_kept_days)
    claimants = _claimed(connection, told, catalogue, usage_kept, _merges(heads))
    _require_all_locked(heads, claimants)
    groups = _groups(told, heads, claimants)
    loaded = _load(connection, groups, heads, claimants, catalogue)
    stages.reached(Stage.LOADED)

    decided = _decide(connection, groups, loaded, catalogue, ledger)
    stages.reached(Stage.DECIDED)

    return _write(connection, batch, groups, decided, ledger, key_hashes)


def _require_not_parked(heads: Mapping[str, CustomerHead]) -> None:
    """No event passes a parked customer: this release does not hold its events back, so it stops."""
    parked = [customer_id for customer_id, head in heads.items() if head.is_parked]
    if parked:
        msg = f"customer {parked[0]} is parked, and its events cannot be held back by this release"
        raise BrokenInvariantError(msg)


def _require_all_locked(heads: Mapping[str, CustomerHead], claimants: Mapping[str, str]) -> None:
    """Ties are read before the locks; where they have grown meanwhile, the transaction begins again with all locked."""
    needed = {*claimants.values(), *(other for head in heads.values() for other in head.linked)}
    if not needed <= heads.keys():
        raise _MoreCustomersError(frozenset(needed | heads.keys()))


def _source_of(delivery: Delivery) -> str | None:
    """The source that a delivery speaks of."""
    fact = delivery.event.fact
    if isinstance(fact, OfSource):
        return source_key(fact)
    return fact.source_key if isinstance(fact, OfferReached) else None


# -- load ----------------------------------------------------------------------------------------------------


def _merges(heads: Mapping[str, CustomerHead]) -> dict[str, Merge]:
    return {customer_id: head.merge for customer_id, head in heads.items() if head.merge is not None}


def _told(
    connection: Connection,
    deliveries: Sequence[Delivery],
    instants: Sequence[datetime],
    heads: Mapping[str, CustomerHead],
) -> list[Told]:
    """Each delivery as it is to be decided, with what the inbox knows of it."""
    keys = [event_key(delivery.event.event_source, delivery.event.event_id) for delivery in deliveries]
    tied = _tied(deliveries, heads)
    asked = [
        (customer_id, key)
        for delivery, key in zip(deliveries, keys, strict=True)
        for customer_id in tied.get(delivery.event.customer_id, (delivery.event.customer_id,))
    ]
    known: dict[UUID, dict[str, bytes]] = {}
    for (customer_id, key), known_hash in inbox_store.find(connection, asked).items():
        known.setdefault(key, {})[customer_id] = known_hash
    nothing: dict[str, bytes] = {}
    all_told = []
    for delivery, key, now in zip(deliveries, keys, instants, strict=True):
        event = delivery.event
        payload = fact_bytes(event.fact)
        all_told.append(
            Told(
                event=event,
                key=key,
                content_hash=content_hash(event, payload),
                payload=payload,
                now=now,
                known=known.get(key, nothing),
            )
        )
    return all_told


def _tied(deliveries: Sequence[Delivery], heads: Mapping[str, CustomerHead]) -> dict[str, set[str]]:
    """Under which ids a customer's events may be in the inbox: of all who are tied, where any merge is or comes."""
    merging = [delivery.event for delivery in deliveries if isinstance(delivery.event.fact, CustomersMerged)]
    if not merging and not any(head.merge for head in heads.values()):
        return {}
    tied = {customer_id: {customer_id, *head.linked} for customer_id, head in heads.items()}
    for event in merging:
        together = set[str]().union(*(tied[customer_id] for customer_id in customers_of(event)))
        for customer_id in together:
            tied[customer_id] = together
    return tied


def _claimed(
    connection: Connection,
    all_told: Sequence[Told],
    catalogue: Catalogue,
    usage_kept: timedelta,
    merges: Merges,
) -> dict[str, str]:
    """Of whom each source that is spoken of was first told.

    A source nobody was told of is claimed for the customer of the first event that is not refused.
    """
    first_told: dict[str, str] = {}
    spoken_of: set[str] = set()
    seen: set[tuple[str, UUID]] = set()
    speaking = {told.event.customer_id for told in all_told if isinstance(told.event.fact, OfSource)}
    for told in all_told:
        event = told.event
        fact = event.fact
        if isinstance(fact, OfferReached):
            spoken_of.add(fact.source_key)
        if event.customer_id not in speaking:
            continue
        person = goes_on_as(event.customer_id, merges)
        is_known = (event.customer_id, told.key) in seen or any(
            goes_on_as(each, merges) == person for each in told.known
        )
        is_taken = not is_known and refusal(event, told.now, catalogue, usage_kept) is None
        if is_taken:
            seen.add((event.customer_id, told.key))
        if isinstance(fact, OfSource):
            key = source_key(fact)
            spoken_of.add(key)
            if is_taken:
                first_told.setdefault(key, event.customer_id)
    keys = sorted(spoken_of, key=str.encode)
    claimants = sources_store.read_owners(connection, keys)
    unclaimed = {key: customer_id for key, customer_id in first_told.items() if key not in claimants}
    if unclaimed:
        sources_store.claim(connection, unclaimed)
        claimants = sources_store.read_owners(connection, keys)
    return claimants


def _groups(all_told: Sequence[Told], heads: Mapping[str, CustomerHead], claimants: Mapping[str, str]) -> list[_Group]:
    """The customers of the batch, those that an event or a tie connects together, in key order of their first."""
    group_of = {customer_id: _Group([customer_id], [], [], []) for customer_id in heads}

    def unite(one_id: str, other_id: str) -> None:
        one, other = group_of[one_id], group_of[other_id]
        if one is not other:
            one.customer_ids += other.customer_ids
            for customer_id in other.customer_ids:
                group_of[customer_id] = one

    for customer_id, head in heads.items():
        for other in head.linked:
            unite(customer_id, other)
    for told in all_told:
        fact = told.event.fact
        for other in customers_of(told.event)[1:]:
            unite(told.event.customer_id, other)
        if isinstance(fact, OfSource):
            unite(told.event.customer_id, claimants.get(source_key(fact), told.event.customer_id))
    for place, told in enumerate(all_told):
        group = group_of[told.event.customer_id]
        group.places.append(place)
        group.told.append(told)
        fact = told.event.fact
        if isinstance(fact, OfSource):
            group.keys.append(source_key(fact))
        elif isinstance(fact, OfferReached):
            group.keys.append(fact.source_key)
    groups = {id(group): group for group in group_of.values() if group.told}
    for group in groups.values():
        group.customer_ids.sort(key=str.encode)
    return sorted(groups.values(), key=_first_customer)


def _first_customer(group: _Group) -> bytes:
    return group.customer_ids[0].encode()


def _load(
    connection: Connection,
    groups: Sequence[_Group],
    heads: Mapping[str, CustomerHead],
    claimants: Mapping[str, str],
    catalogue: Catalogue,
) -> list[Loaded]:
    """What the decision about each group reads, in the order of the groups."""
    asked = sorted({(claimants[key], key) for group in groups for key in group.keys if key in claimants})
    states = {key: state for (_, key), state in sources_store.read_states(connection, asked).items()}
    pairs = _touched(groups, states, catalogue)
    merging = [group for group in groups if any(isinstance(told.event.fact, CustomersMerged) for told in group.told)]
    for group in merging:
        kept = sources_store.read_states_kept_by(connection, group.customer_ids)
        group.keys = sorted({*group.keys, *kept}, key=str.encode)
        states |= kept
    if merging:
        pairs = sorted({*pairs, *_touched(merging, states, catalogue), *_all_accounts(connection, merging)})
    accounts = accounts_store.read_accounts(connection, pairs, list(heads), _last_instant(groups, heads))
    grants = accounts_store.read_open_grants(connection, sorted({*pairs, *accounts}))
    accounts_of: dict[str, dict[str, Account]] = {customer_id: {} for customer_id in heads}
    for (customer_id, entitlement), account in accounts.items():
        accounts_of[customer_id][entitlement] = account
    nothing: list[Grant] = []
    return [
        Loaded(
            customers={
                customer_id: LoadedCustomer(
                    head=heads[customer_id],
                    accounts=accounts_of[customer_id],
                    grants=grants.get(customer_id, nothing),
                    histories={},
                )
                for customer_id in group.customer_ids
            },
            sources={key: states[key] for key in group.keys if key in states},
            claimants=claimants,
        )
        for group in groups
    ]


def _all_accounts(connection: Connection, merging: Sequence[_Group]) -> set[tuple[str, str]]:
    """What a merge may touch: of all customers of the group, every account that any of them has."""
    pairs = set()
    for group in merging:
        entitlements = {name for _, name in accounts_store.account_keys(connection, group.customer_ids)}
        pairs |= {(customer_id, name) for customer_id in group.customer_ids for name in entitlements}
    return pairs


def _last_instant(groups: Sequence[_Group], heads: Mapping[str, CustomerHead]) -> datetime:
    """No event of the batch is recorded later: its instant, raised behind the customer's last and what is booked first.

    What falls due in between has to be loaded, also for an account that no event touches: else a split would show.
    """
    instants = [told.now for group in groups for told in group.told]
    instants += [head.recorded_at for head in heads.values() if head.recorded_at is not None]
    recorded = sum((1 + DUE_MAX) * len(group.customer_ids) * len(group.told) for group in groups)
    return max(instants, default=_BEGINNING) + recorded * timedelta(microseconds=1)


def _touched(
    groups: Sequence[_Group], states: Mapping[str, SourceState], catalogue: Catalogue
) -> list[tuple[str, str]]:
    """The accounts that the events may touch.

    Those of the usage, and of everything any version of the sources' offers gives; of all customers of a group.
    """
    touched = set()
    for group in groups:
        skus: set[str] = set()
        entitlements: set[str] = set()
        facts = [told.event.fact for told in group.told]
        facts += [fact for key in group.keys if key in states for fact in facts_of(states[key])]
        for fact in facts:
            if isinstance(fact, UsageRecorded | UsageReversed | EntitlementAssigned):
                entitlements.add(fact.entitlement)
            elif isinstance(fact, OfSource):
                skus |= skus_of(fact)
        for sku in skus:
            for offer in catalogue.offers.get(sku, ()):
                entitlements |= {allowance.entitlement for allowance in offer.allowances}
        touched |= {(customer_id, entitlement) for customer_id in group.customer_ids for entitlement in entitlements}
    return sorted(touched)


_BEGINNING = datetime.min.replace(tzinfo=UTC)


# -- decide --------------------------------------------------------------------------------------------------


def _decide(
    connection: Connection,
    groups: Sequence[_Group],
    loaded: list[Loaded],
    catalogue: Catalogue,
    ledger: LedgerState,
) -> list[Decided]:
    """Every group is decided, in order. Raises _ManyDueError when some customers must be caught up first.

    Each round loads the history of one account more of each group that asks: since a day state, and the second time all
    of it. So it ends.
    """
    usage_kept = timedelta(days=ledger.usage_kept_days)
    settlement_window = timedelta(days=ledger.settlement_window_days)
    decided: dict[int, Decided] = {}
    undecided = list(range(len(groups)))
    many_due: dict[str, datetime] = {}
    while undecided:
        needed: dict[tuple[str, str], int] = {}
        before: dict[tuple[str, str], datetime] = {}
        for place in undecided:
            try:
                found = decide(
                    loaded[place],
                    groups[place].told,
                    catalogue,
                    timeline=ledger.timeline,
                    usage_kept=usage_kept,
                    settlement_window=settlement_window,
                )
            except OverflowError as error:
                raise _out_of_range("posting", error) from error
            if isinstance(found, NeedsHistory):
                pair = (found.customer_id, found.entitlement)
                needed[pair] = place
                if found.before is not None and not _is_loaded(loaded[place], found):
                    before[pair] = min([found.before, *_reached(connection, groups[place].told, *pair)])
            elif isinstance(found, TooManyDue):
                many_due[found.customer_id] = found.now
            else:
                decided[place] = found
        merges = {key: merge for place in needed.values() for key, merge in _merges_of(loaded[place]).items()}
        histories = histories_store.read_histories(connection, sorted(needed), merges, before) if needed else {}
        for (customer_id, entitlement), history in histories.items():
            place = needed[customer_id, entitlement]
            loaded[place] = _with_history(loaded[place], customer_id, entitlement, history)
        undecided = sorted(needed.values())
    if many_due:
        raise _ManyDueError(many_due)
    return [decided[place] for place in range(len(groups))]


def _book_due_apart(engine: Engine, due_at: Mapping[str, datetime], catalogues: Catalogues) -> None:
    """One transaction per customer books the earliest of what is due at its instant, as many as one transaction may.

    Raises _MoreCustomersError when a tie was made just then: a second call finds it.
    """
    for customer_id, now in due_at.items():
        with engine.connect() as connection, connection.begin():
            catalogue_store.lock_shared(connection)
            ledger = catalogue_store.read_ledger(connection)
            catalogue = catalogues.at(connection, ledger.catalogue_version)
            locked = customers_store.lock(connection, [customer_id], murmur2)
            heads, key_hashes = customers_store.read_heads(connection, locked)
            _require_all_locked(heads, {})
            group = _Group(list(heads), [], [], [])
            accounts = accounts_store.read_accounts(connection, [], [customer_id], now)
            pairs = [(each, entitlement) for each in heads for _, entitlement in accounts]
            accounts |= accounts_store.read_accounts(connection, pairs, [], _BEGINNING)
            grants = accounts_store.read_open_grants(connection, list(accounts))
            loaded = Loaded(
                customers={
                    each: LoadedCustomer(
                        head=head,
                        accounts={name: account for (owner, name), account in accounts.items() if owner == each},
                        grants=grants.get(each, []),
                        histories={},
                    )
                    for each, head in heads.items()
                },
                sources={},
                claimants={},
            )
            found = book_due(loaded, customer_id, now, catalogue, timeline=ledger.timeline)
            while isinstance(found, NeedsHistory):
                pair = (found.customer_id, found.entitlement)
                before = {} if found.before is None or _is_loaded(loaded, found) else {pair: found.before}
                history = histories_store.read_histories(connection, [pair], _merges(heads), before)[pair]
                loaded = _with_history(loaded, *pair, history)
                found = book_due(loaded, customer_id, now, catalogue, timeline=ledger.timeline)
            _write(connection, Batch(), [group], [found], ledger, key_hashes)


def _merges_of(loaded: Loaded) -> dict[str, Merge]:
    return _merges({customer_id: one.head for customer_id, one in loaded.customers.items()})


def _with_history(loaded: Loaded, customer_id: str, entitlement: str, history: History) -> Loaded:
    customer = loaded.customers[customer_id]
    with_it = msgspec.structs.replace(customer, histories={**customer.histories, entitlement: history})
    return msgspec.structs.replace(loaded, customers={**loaded.customers, customer_id: with_it})


def _is_loaded(loaded: Loaded, needed: NeedsHistory) -> bool:
    """Whether a history that begins at a day state is there. Raises BrokenInvariantError when all of it is there."""
    history = loaded.customers[needed.customer_id].histories.get(needed.entitlement)
    if history is not None and history.since is None:
        msg = f"customer {needed.customer_id}: the whole history of {needed.entitlement} is asked for again"
        raise BrokenInvariantError(msg)
    return history is not None


def _reached(connection: Connection, all_told: Sequence[Told], customer_id: str, entitlement: str) -> list[datetime]:
    """The instants that usage of the account reaches back to, and reversals of it: one history then serves them all."""
    reached = []
    reversed_keys = []
    for told in all_told:
        event, fact = told.event, told.event.fact
        if event.customer_id != customer_id:
            continue
        if isinstance(fact, UsageRecorded) and fact.entitlement == entitlement:
            reached.append(event.occurred_at)
        elif isinstance(fact, UsageReversed) and fact.entitlement == entitlement:
            reversed_keys.append(event_key(fact.usage_event_source or event.event_source, fact.usage_event_id))
    counted_at = histories_store.earliest_counted(connection, customer_id, reversed_keys) if reversed_keys else None
    return reached if counted_at is None else [*reached, counted_at]


# -- write ---------------------------------------------------------------------------------------------------


def _write(
    connection: Connection,
    batch: Batch,
    groups: Sequence[_Group],
    decided: Sequence[Decided],
    ledger: LedgerState,
    key_hashes: Mapping[str, int],
) -> Applied:
    """Everything decided is written, set by set, each in key order."""
    outcomes: Counter[str] = Counter()
    inbox: list[inbox_store.InboxRow] = []
    dead_letters: list[DeadLetterRow] = []
    duplicates: list[int] = []
    failed_at = max((told.now for group in groups for told in group.told), default=None)
    if failed_at is None and batch.rejected:
        failed_at = customers_store.clock(connection)
    for group, one in zip(groups, decided, strict=True):
        places = group.places
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

    changes = _outgoing(batch, groups, decided, ledger, key_hashes)
    customers = {key: customer for one in decided for key, customer in one.customers.items()}
    postings: list[tuple[str, Posting]] = [(key, posting) for key, one in customers.items() for posting in one.postings]
    inbox_store.insert(connection, inbox)
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
    )


def _states(decided: Sequence[Decided]) -> list[tuple[str, str, SourceState]]:
    """The folded sources, each with the customer who keeps its state, in key order."""
    states = [(state.claimant, key, state) for one in decided for key, state in one.sources.items()]
    return sorted(states, key=lambda one: (one[0].encode(), one[1].encode()))


def _inbox_row(event: DecidedEvent, delivery: Delivery | None) -> inbox_store.InboxRow:
    record = None if delivery is None else delivery.record
    traceparent = None if delivery is None else delivery.traceparent
    if record is None:
        return (event, None, None, None, traceparent)
    return (event, record.topic, record.partition, record.offset, traceparent)


def _outgoing(
    batch: Batch,
    groups: Sequence[_Group],
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
        raise _out_of_range("EntitlementChanged", error) from error


def _out_of_range(what: str, error: Exception) -> DataError:
    return DataError(what, None, NumericValueOutOfRange(str(error)))


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
