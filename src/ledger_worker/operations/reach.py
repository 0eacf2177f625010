"""Reach: what a published offer changes for whoever has its SKU already is booked and told; or only listed, beforehand.

A version published with `next_period` or `now` counts for sources that named its SKU before, and any version for items
that are dated ahead of its publication. Each of these sources is folded again by the present catalogue, through
`apply`, as an event of the ledger's own (`OfferReached`): the difference is posted, told and provable like any other.
Which sources that are follows from what is stored: a source keeps the version of the catalogue it was folded with, so
one that names a SKU whose newest reaching version came later was not reached yet. Nothing is remembered beside that. A
run that was cut off is finished by the next one, a run that has nothing to do finds nothing, and a worker that folds a
source first, because a new fact came, has reached it.

The rehearsal runs the same batches behind an uncommitted publishing of the same definitions and rolls them back, some
sources at a time, so that no worker waits longer than for one batch. What is rolled back is not there for the next
chunk: so the sources of one customer, and of customers that transfers tie together, are in one chunk, and what each of
them is told adds up as it will. The clock goes on between rehearsal and run: shares of a period differ by that much.

Reads every source once per run, in pages; keeps, for the answer, some hundred bytes for each customer and entitlement
that is told something.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID, uuid5

import msgspec
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from ledger_worker.apply.batch import Applied, Batch, Delivery, ManyDue
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.transaction import ATTEMPTS_MAX, apply_batch, catch_up, rehearse_on
from ledger_worker.domain.catalogue import Apply, Catalogue, Offer
from ledger_worker.domain.changes import Change, EntitlementPicture
from ledger_worker.domain.events import LEDGER, Event, OfferReached, SeatsRevoked
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.sources import SourceState, skus_of
from ledger_worker.errors import BrokenInvariantError
from ledger_worker.metrics import Stages
from ledger_worker.operations.publish import publish_on
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store.arrays import of_bytes, of_texts
from ledger_worker.wire.catalogue_file import Definitions

__all__ = ["Affected", "Balance", "Progress", "Reach", "Verdict", "reach", "rehearse_reach"]


class Verdict(StrEnum):
    """What a reach means for one customer and entitlement; of several that apply, the first."""

    OWES = "owes"
    """Debt grew, or the allocation shrank below what is used."""
    LOSES = "loses"
    """Access or the value ended, or less of the limit is left."""
    GAINS = "gains"
    """Access or a value began, or more of the limit is left; or as much of a higher one, where use was not covered."""
    CHANGES = "changes"
    """Something else that is told, such as the end, or another value: which of two is more only the product knows."""


class Balance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where an entitlement stood, of what is told: `limit` None when unlimited; no units of a type without.

    `value` is that of a setting, as JSON text.
    """

    allowed: bool
    unlimited: bool
    limit: int | None
    used: int | None
    debt: int | None
    over_allocated: int | None
    value: str | None


class Affected(msgspec.Struct, frozen=True, kw_only=True):
    """A customer who was told of a change of one entitlement: where it stood before the first and after the last."""

    customer_id: str
    entitlement: str
    verdict: Verdict
    before: Balance
    after: Balance


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did, or would do.

    `sources` were folded again, `changed` of them to other terms. `affected` is in the order of customers and then of
    entitlements, `counts` says how many of each verdict there are, each of them named.
    """

    sources: int
    changed: int
    counts: Mapping[Verdict, int]
    affected: tuple[Affected, ...]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is: sources looked at, folded again, and customers' entitlements that were told a change."""

    looked_at: int
    total: int
    sources: int
    affected: int


OnProgress = Callable[[Progress], None]


def reach(engine: Engine, stages: Stages, *, on_progress: OnProgress | None = None) -> Reach:
    """Every source that a published version reaches is folded by it; a second call finds nothing.

    Commits batch by batch, beside running workers. What was done when it is interrupted stays done, and the next call
    does the rest. `on_progress` is called between batches. Raises what `apply_batch` does.
    """
    catalogues = Catalogues()
    with engine.connect() as connection:
        version = catalogue_store.read_ledger(connection).catalogue_version
        catalogue = catalogues.at(connection, version)
    run = _Run(engine, catalogue, on_progress)
    for chunk in run.chunks():
        for batch in _batches(chunk):
            run.note(apply_batch(engine, batch, catalogues, stages))
    return run.result()


def rehearse_reach(
    engine: Engine, defined: Definitions, stages: Stages, *, on_progress: OnProgress | None = None
) -> Reach:
    """What publishing `defined` and then `reach` would do, by the same code, rolled back; nobody is told anything.

    Definitions with problems publish nothing; what an earlier publishing left to do is in the answer all the same.
    What customers must be caught up with first stays booked: it was due whatever becomes of the catalogue.
    """
    with engine.connect() as connection, connection.begin() as transaction:
        catalogue_store.lock_shared(connection)
        publish_on(connection, defined)
        catalogue = catalogue_store.read(connection, catalogue_store.read_ledger(connection).catalogue_version)
        transaction.rollback()
    run = _Run(engine, catalogue, on_progress)
    committed = Catalogues()
    for chunk in run.whole_chunks():
        for applied in _rehearsed(engine, defined, chunk, stages, committed):
            run.note(applied)
    return run.result()


_PAGE_SOURCES_MAX = 500
_BATCH_SOURCES_MAX = 100
"""Most sources of one transaction: a worker waits for so many at most. A rehearsal may take more of one customer."""
_FILTERING_SKUS_MAX = 50
"""Most SKUs that a page is searched for. With more, most sources name one, and searching costs more than reading."""
_CATCH_UPS_MAX = 10_000
"""Most times a chunk is rehearsed again because more was due, a hundred transitions of each customer at a time."""
_VICTIM_SQLSTATES = frozenset({"40001", "40P01"})
_NEW_FOR = timedelta(days=1)
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_REACH_NAMESPACE = UUID("a7f0a0a4-6d0e-5a57-9c1e-8f8a5c1b7d11")
_STATE = msgspec.msgpack.Decoder(SourceState)


class _Due(msgspec.Struct, frozen=True):
    """A source that is to be folded again, the customer who keeps it, and the event that does it."""

    customer_id: str
    source_key: str
    delivery: Delivery


def _batches(chunk: Sequence[_Due]) -> Iterator[Batch]:
    for start in range(0, len(chunk), _BATCH_SOURCES_MAX):
        yield Batch(deliveries=tuple(due.delivery for due in chunk[start : start + _BATCH_SOURCES_MAX]))


def _rehearsed(
    engine: Engine, defined: Definitions, chunk: Sequence[_Due], stages: Stages, committed: Catalogues
) -> list[Applied]:
    """What came of the chunk in one transaction that was rolled back. What is due is booked outside of it, first."""
    attempts = 0
    many: ManyDue | None = None
    for _ in range(_CATCH_UPS_MAX):
        try:
            if many is not None:
                catch_up(engine, many, committed)
                many = None
            with engine.connect() as connection, connection.begin() as transaction:
                # Shared, so that decisions go on; and before anything is written, so that a publisher, who waits for
                # it, holds nothing that this transaction will wait for.
                catalogue_store.lock_shared(connection)
                publish_on(connection, defined)
                # Of this transaction alone: the version that others will publish under that number is another one.
                found = _all_on(connection, _batches(chunk), Catalogues(), stages)
                transaction.rollback()
        except DBAPIError as error:
            attempts += 1
            if attempts == ATTEMPTS_MAX or getattr(error.orig, "sqlstate", None) not in _VICTIM_SQLSTATES:
                raise
        else:
            if not isinstance(found, ManyDue):
                return found
            many = found
    msg = f"customer {chunk[0].customer_id} still has too much due after {_CATCH_UPS_MAX} transactions"
    raise BrokenInvariantError(msg)


def _all_on(
    connection: Connection, batches: Iterable[Batch], catalogues: Catalogues, stages: Stages
) -> list[Applied] | ManyDue:
    """What came of all the batches, one behind the other; or what is in the way of the first that cannot be tried."""
    applied = []
    for batch in batches:
        found = rehearse_on(connection, batch, catalogues, stages)
        if isinstance(found, ManyDue):
            return found
        applied.append(found)
    return applied


_COUNT = text("SELECT count(*) FROM source")
_PAGE = text("""
WITH page AS (
    SELECT customer_id, source_key, state
    FROM source
    WHERE (customer_id, source_key) > (CAST(:customer_id AS text), CAST(:source_key AS text))
    ORDER BY customer_id, source_key
    LIMIT CAST(:page_max AS bigint)
)
SELECT page.customer_id, page.source_key, CASE WHEN names_one.sku IS NOT NULL THEN page.state END AS state
FROM page
LEFT JOIN LATERAL (
    SELECT wanted.sku
    FROM unnest(CAST(:skus AS bytea[])) AS wanted (sku)
    WHERE position(wanted.sku IN page.state) > 0
    LIMIT 1
) AS names_one ON true
ORDER BY page.customer_id, page.source_key
""")
_TIED = text("""
SELECT DISTINCT unnest(linked) AS customer_id
FROM customer
WHERE customer_id = ANY(CAST(:ids AS text[]))
ORDER BY customer_id
""")
_SOURCES_OF = text("""
SELECT customer_id, source_key, state
FROM source
WHERE customer_id = ANY(CAST(:ids AS text[]))
ORDER BY customer_id, source_key
""")


class _Run:
    """One run: which sources are due by the catalogue it began with, and what came of them so far."""

    def __init__(self, engine: Engine, catalogue: Catalogue, on_progress: OnProgress | None) -> None:
        self._engine = engine
        self._reaching = _reaching(catalogue)
        self._on_progress = on_progress
        self._looked_at = 0
        self._total = 0
        self._outcomes: Counter[str] = Counter()
        self._told: dict[tuple[str, str], tuple[Balance, Balance]] = {}

    # -- which sources --

    def chunks(self) -> Iterator[list[_Due]]:
        """The sources that are due, in the order of the customers who keep them; a chunk ends with a customer."""
        waiting: list[_Due] = []
        for due in self._due():
            if len(waiting) >= _BATCH_SOURCES_MAX and due.customer_id != waiting[-1].customer_id:
                yield waiting
                waiting = []
            waiting.append(due)
        if waiting:
            yield waiting

    def whole_chunks(self) -> Iterator[list[_Due]]:
        """The same, with the sources of customers who are tied to those of a chunk beside theirs, and none twice."""
        taken: set[str] = set()
        for chunk in self.chunks():
            left = [due for due in chunk if due.customer_id not in taken]
            ids = {due.customer_id for due in left}
            with self._engine.connect() as connection:
                tied = set(connection.execute(_TIED, {"ids": of_texts(ids)}).scalars()) - ids - taken
                rows = connection.execute(_SOURCES_OF, {"ids": of_texts(tied)}).all() if tied else ()
            taken |= tied
            left += [due for row in rows if (due := self._due_of(row.source_key, row.state)) is not None]
            left.sort(key=_place)
            if left:
                yield left

    def _due(self) -> Iterator[_Due]:
        """Page by page of the whole table: each is read by itself, so nothing is held while its sources are folded."""
        if not self._reaching:
            return
        with self._engine.connect() as connection:
            self._total = connection.execute(_COUNT).scalar_one()
        # The empty text is in every state.
        skus = [sku.encode() for sku in self._reaching] if len(self._reaching) <= _FILTERING_SKUS_MAX else [b""]
        binds = {"skus": of_bytes(skus), "customer_id": "", "source_key": "", "page_max": _PAGE_SOURCES_MAX}
        while True:
            with self._engine.connect() as connection:
                rows = connection.execute(_PAGE, binds).all()
            for row in rows:
                due = None if row.state is None else self._due_of(row.source_key, row.state)
                if due is not None:
                    yield due
            self._looked_at += len(rows)
            self._progress()
            if len(rows) < _PAGE_SOURCES_MAX:
                return
            binds |= {"customer_id": rows[-1].customer_id, "source_key": rows[-1].source_key}

    def _due_of(self, source_key: str, stored: bytes) -> _Due | None:
        """The source, when a version reaches it that is newer than the catalogue it was folded with."""
        state = _STATE.decode(stored)
        skus = {sku for _, placed in state.facts for sku in skus_of(placed.fact)}
        later = [
            (offer.catalogue_version, published_at)
            for sku in skus
            for offer, published_at in self._reaching.get(sku, ())
            if _reaches(offer, published_at, state)
        ]
        if not later:
            return None
        version, published_at = max(later)
        event = Event(
            event_source=LEDGER,
            event_id=str(uuid5(_REACH_NAMESPACE, f"{source_key}\0{version}")),
            customer_id=state.claimant,
            occurred_at=published_at,
            fact=OfferReached(source_key=source_key, catalogue_version=version),
        )
        return _Due(state.claimant, source_key, Delivery(event=event))

    # -- what came of them --

    def note(self, applied: Applied) -> None:
        """These sources were folded again. Raises BrokenInvariantError when the ledger's own event was refused."""
        for refused in applied.refused:
            raise BrokenInvariantError(f"event {refused.event.event_id} of the ledger: {refused.message}")
        self._outcomes.update(applied.outcomes)
        for change in applied.told:
            self._note_change(change)
        self._progress()

    def _note_change(self, change: Change) -> None:
        place = (change.customer_id, change.entitlement)
        evicts = change.cause.type == SeatsRevoked.__name__ and place in self._told
        if change.cause.type != OfferReached.__name__ and not evicts:
            return  # it was due and would have been told in any case
        before = self._told[place][0] if place in self._told else _balance(change.before)
        self._told[place] = (before, _balance(change.after))

    def _progress(self) -> None:
        if self._on_progress is not None:
            total = max(self._total, self._looked_at)
            sources = self._outcomes[Outcome.APPLIED] + self._outcomes[Outcome.NO_EFFECT]
            self._on_progress(
                Progress(looked_at=self._looked_at, total=total, sources=sources, affected=len(self._told))
            )

    def result(self) -> Reach:
        """What the run did."""
        affected = tuple(
            Affected(
                customer_id=customer_id,
                entitlement=entitlement,
                verdict=_verdict(before, after),
                before=before,
                after=after,
            )
            for (customer_id, entitlement), (before, after) in sorted(self._told.items(), key=_told_place)
        )
        counted = Counter(each.verdict for each in affected)
        return Reach(
            sources=self._outcomes[Outcome.APPLIED] + self._outcomes[Outcome.NO_EFFECT],
            changed=self._outcomes[Outcome.APPLIED],
            counts={verdict: counted[verdict] for verdict in Verdict},
            affected=affected,
        )


def _reaching(catalogue: Catalogue) -> dict[str, list[tuple[Offer, datetime]]]:
    """By SKU, the versions that may reach what is told already, each with the instant it was published.

    A version that is `new_only` is for items that enter after it: of what is told, for those that are dated ahead. That
    is only looked for while it is new.
    """
    published = [
        (offer, offer.published_at)
        for versions in catalogue.offers.values()
        for offer in versions
        if offer.published_at is not None
    ]
    newest = max((published_at for _, published_at in published), default=_BEGINNING)
    found: dict[str, list[tuple[Offer, datetime]]] = {}
    for offer, published_at in published:
        if offer.apply is not Apply.NEW_ONLY or published_at > newest - _NEW_FOR:
            found.setdefault(offer.sku, []).append((offer, published_at))
    return found


def _reaches(offer: Offer, published_at: datetime, state: SourceState) -> bool:
    """Whether the version is newer than the catalogue that the source was folded with, and changes what it gives."""
    if offer.catalogue_version <= state.catalogue_version:
        return False
    return offer.apply is not Apply.NEW_ONLY or any(at > published_at for at, _ in state.facts)


def _place(due: _Due) -> tuple[bytes, bytes]:
    return due.customer_id.encode(), due.source_key.encode()


def _told_place(told: tuple[tuple[str, str], object]) -> tuple[bytes, bytes]:
    return told[0][0].encode(), told[0][1].encode()


def _balance(shown: EntitlementPicture) -> Balance:
    return Balance(
        allowed=shown.allowed,
        unlimited=shown.unlimited,
        limit=shown.limit,
        used=shown.used,
        debt=shown.debt,
        over_allocated=shown.over_allocated,
        value=shown.value,
    )


def _verdict(before: Balance, after: Balance) -> Verdict:
    if (after.debt or 0) > (before.debt or 0) or (after.over_allocated or 0) > (before.over_allocated or 0):
        return Verdict.OWES
    # A new allowance counts what was used of the one before by a lower limit: only together with use they compare.
    was, will = _left(before), _left(after)
    if (before.allowed and not after.allowed) or will < was or _are_evicted(before, after):
        return Verdict.LOSES
    if (after.allowed and not before.allowed) or will > was or (after.limit or 0) > (before.limit or 0):
        return Verdict.GAINS
    return Verdict.CHANGES


def _are_evicted(before: Balance, after: Balance) -> bool:
    """Whether holders lost their seats: what is used without that debts are counted are seats."""
    return after.debt is None and (after.used or 0) < (before.used or 0)


def _left(balance: Balance) -> tuple[bool, int]:
    return balance.unlimited, 0 if balance.unlimited else (balance.limit or 0) - (balance.used or 0)
