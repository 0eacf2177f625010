"""One customer for people: what it may do now, and why: because of which grants, events, rules and versions.

Read in one snapshot, with what is due passed whether or not it is booked, so an answer is right while no clock runs.
Shapes and statements live here, the words in `words`; how they are printed is in neither. What is told of a source may
have been told to another customer, whom a transfer ties to this one: then it is said to whom.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.domain.access import picture
from ledger_worker.domain.catalogue import Catalogue, Entitlement
from ledger_worker.domain.changes import CustomerPicture, EntitlementPicture
from ledger_worker.domain.decided import CustomerHead
from ledger_worker.domain.ledger import RULES_VERSION, Account, Grant, GrantTerms, Kind, Line, Origin, Phase
from ledger_worker.domain.settlement import Book
from ledger_worker.reports.words import (
    GrantVerdict,
    cut_words,
    entry_words,
    grant_words,
    name_of,
    origin_words,
    upcoming_words,
    usage_words,
    verdict_of,
    would_allow,
)
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store
from ledger_worker.store import pictures

__all__ = [
    "EVENTS_MAX",
    "GRANTS_MAX",
    "POSTINGS_MAX",
    "EventTold",
    "ExplainedEntitlement",
    "ExplainedEntry",
    "ExplainedGrant",
    "ExplainedPosting",
    "ExplainedSource",
    "ExplainedUpcoming",
    "Explanation",
    "GrantVerdict",
    "explain",
    "show",
]

GRANTS_MAX = 200
"""Most grants explained of one entitlement: those in force and to come, then the newest of the rest."""
EVENTS_MAX = 500
"""Most events told of the sources of one explanation, the newest."""
POSTINGS_MAX = 20
"""How many postings are explained when the caller says nothing else, the newest."""


class EventTold(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded event and what became of it; `told_to` is the customer as sent where that is another one."""

    told_to: str | None
    event_source: str
    event_id: str
    type: str
    occurred_at: datetime
    recorded_at: datetime
    outcome: str
    topic: str | None
    partition: int | None
    offset: int | None


class ExplainedGrant(msgspec.Struct, frozen=True, kw_only=True):
    """One grant: what it is by its terms, where its units are, and what it does now; `words` says that last part.

    A child has a `parent`, and `comes_from` says where its units come from. `sku` is empty where a person gave it.
    `short` is over-allocation: what was taken back and could not be, because it was used.
    """

    grant_id: UUID
    parent: UUID | None
    verdict: GrantVerdict
    words: str
    comes_from: str | None
    source_key: str
    line_id: str
    sku: str
    allowance: str
    offer_version: int
    priority: int
    amount: int | None
    effective_at: datetime
    expires_at: datetime | None
    period_end: datetime | None
    granted: int
    available: int
    held: int
    used: int
    expired: int
    revoked: int
    moved: int
    short: int
    cuts: tuple[str, ...]


class ExplainedUpcoming(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is known to happen, as a picture names it; `words` says it as a sentence."""

    at: datetime
    what: str
    words: str


class ExplainedEntitlement(msgspec.Struct, frozen=True, kw_only=True):
    """The decision about one entitlement and its grants in the order of burning, those that burn no more behind.

    `would_allow` says what has to happen where the answer is no, `upcoming` what is known to happen anyway.
    """

    decision: EntitlementPicture
    name: str
    unit: str | None
    grants: tuple[ExplainedGrant, ...]
    would_allow: str | None
    upcoming: tuple[ExplainedUpcoming, ...]


class ExplainedSource(msgspec.Struct, frozen=True, kw_only=True):
    """An order, subscription or assignment and everything told of it, in the order of recording."""

    source_key: str
    events: tuple[EventTold, ...]


class ExplainedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a posting; `words` says it as a sentence."""

    entitlement: str
    kind: str
    units: int
    at: datetime
    grant_id: UUID | None
    words: str


class ExplainedPosting(msgspec.Struct, frozen=True, kw_only=True):
    """What one event did: its entries, the event, and the versions it was decided by."""

    number: int
    recorded_at: datetime
    cause: EventTold | None
    catalogue_version: int
    rules_version: int
    hash: bytes
    entries: tuple[ExplainedEntry, ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a customer may or may not, as of `as_of`; `sequence` and `recorded_at` are of its last change and event.

    `tied_to` are the customers that transfers tie it to.
    """

    customer_id: str
    as_of: datetime
    timeline: int
    sequence: int
    recorded_at: datetime | None
    tied_to: tuple[str, ...]
    catalogue_version: int
    rules_version: int
    entitlements: tuple[ExplainedEntitlement, ...]
    sources: tuple[ExplainedSource, ...]
    postings: tuple[ExplainedPosting, ...]


def show(connection: Connection, customer_id: str) -> CustomerPicture | None:
    """Every entitlement the customer has or had, as it stands now; None for an unknown customer.

    Begins and ends a transaction of its own: the connection must not be in one.
    """
    with _snapshot(connection).begin():
        return next(iter(pictures.load(connection, [customer_id])), None)


def explain(
    connection: Connection, customer_id: str, entitlement: str | None = None, *, postings_max: int = POSTINGS_MAX
) -> Explanation | None:
    """Why the customer may or may not use each entitlement, or the one that is named; None for an unknown customer.

    An entitlement that the customer never had is explained too, when it is in the catalogue; one that is not is left
    out. `postings` are the last ones, newest first, with the entries about what is explained. Begins and ends a
    transaction of its own.
    """
    with _snapshot(connection).begin():
        ledger = catalogue_store.read_ledger(connection)
        catalogue = catalogue_store.read(connection, ledger.catalogue_version)
        heads, _ = customers_store.read_heads(connection, [customer_id])
        if customer_id not in heads:
            return None
        head = heads[customer_id]
        as_of = customers_store.clock(connection)
        if head.recorded_at is not None:
            as_of = max(as_of, head.recorded_at)
        merges = customers_store.read_merges(connection, [customer_id])
        opened = {
            book.entitlement.key: book
            for book in pictures.books(connection, [customer_id], catalogue, as_of, merges)[customer_id]
        }
        keys = sorted(opened) if entitlement is None else [entitlement] if entitlement in catalogue.entitlements else []
        held = {key: _grants(connection, customer_id, key) for key in keys}
        givers = _givers(connection, head, held.values())
        explained = [
            _entitlement(catalogue.entitlements[key], opened.get(key), held[key], givers, catalogue, as_of)
            for key in keys
        ]
        source_keys = sorted({grant.source_key for each in explained for grant in each.grants})
        return Explanation(
            customer_id=customer_id,
            as_of=as_of,
            timeline=ledger.timeline,
            sequence=head.sequence,
            recorded_at=head.recorded_at,
            tied_to=head.linked,
            catalogue_version=ledger.catalogue_version,
            rules_version=RULES_VERSION,
            entitlements=tuple(explained),
            sources=_sources(connection, head, source_keys),
            postings=_postings(connection, customer_id, keys, postings_max, _names(held.values()), catalogue),
        )


def _snapshot(connection: Connection) -> Connection:
    return connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


# -- grants --

_GRANTS = text("""
SELECT phase, set_by, granted, available, held, used, expired, revoked, moved, short, terms
FROM "grant"
WHERE customer_id = :customer_id
  AND entitlement = :entitlement
ORDER BY phase IN ('pending', 'active', 'ending') DESC, effective_at DESC, grant_id
LIMIT :grants_max
""")
_GIVERS = text("""
SELECT grant_id, customer_id
FROM "grant"
WHERE customer_id = ANY(:customer_ids)
  AND grant_id = ANY(:grant_ids)
""")
_TERMS = msgspec.msgpack.Decoder(GrantTerms)


def _grants(connection: Connection, customer_id: str, entitlement: str) -> list[Grant]:
    asked = {"customer_id": customer_id, "entitlement": entitlement, "grants_max": GRANTS_MAX}
    return [
        Grant(
            terms=_TERMS.decode(row[10]),
            phase=Phase(row[0]),
            set_by=row[1],
            granted=row[2],
            available=row[3],
            held=row[4],
            used=row[5],
            expired=row[6],
            revoked=row[7],
            moved=row[8],
            short=row[9],
        )
        for row in connection.execute(_GRANTS, asked).all()
    ]


def _givers(connection: Connection, head: CustomerHead, held: Iterable[Sequence[Grant]]) -> dict[UUID, str]:
    """Whose the grants are that children by transfer come from, by grant id: customers that this one is tied to."""
    children = [grant.terms for grants in held for grant in grants if grant.terms.origin is Origin.TRANSFER]
    parents = sorted({terms.parent for terms in children if terms.parent is not None})
    if not parents:
        return {}
    asked = {"customer_ids": list(head.linked), "grant_ids": parents}
    return {row[0]: row[1] for row in connection.execute(_GIVERS, asked)}


def _names(held: Iterable[Sequence[Grant]]) -> dict[UUID, str]:
    """How each grant is called, and each that units went on to at another customer."""
    names: dict[UUID, str] = {}
    for terms in (grant.terms for grants in held for grant in grants):
        names[terms.grant_id] = name_of(terms)
        if terms.moves_to is not None and terms.rolls_into is not None:
            names[terms.rolls_into] = f"customer {terms.moves_to}"
    return names


def _entitlement(
    entitlement: Entitlement,
    book: Book | None,
    held: Sequence[Grant],
    givers: Mapping[UUID, str],
    catalogue: Catalogue,
    as_of: datetime,
) -> ExplainedEntitlement:
    if book is None:
        book = Book(entitlement, Account(entitlement=entitlement.key), ())
    # What is due was passed in the book and is perhaps not booked: of open grants the book knows better.
    present = {grant_id: grant.value() for grant_id, grant in book.grants.items()}
    grants = {grant.terms.grant_id: present.get(grant.terms.grant_id, grant) for grant in held}
    decision = picture(book)
    return ExplainedEntitlement(
        decision=decision,
        name=entitlement.name,
        unit=entitlement.unit,
        grants=tuple(_explained_grants(book, grants, givers, as_of)),
        would_allow=would_allow(decision, entitlement, catalogue),
        upcoming=tuple(_upcoming(decision, entitlement)),
    )


def _explained_grants(
    book: Book, grants: Mapping[UUID, Grant], givers: Mapping[UUID, str], as_of: datetime
) -> Iterable[ExplainedGrant]:
    order = [grant.terms.grant_id for grant in book.active]
    coming = [grant for grant in grants.values() if grant.phase is Phase.PENDING]
    over = [grant for grant in grants.values() if grant.phase in {Phase.ENDED, Phase.ENDING}]
    void = [grant for grant in grants.values() if grant.phase is Phase.VOID]
    coming.sort(key=lambda grant: (grant.terms.effective_at, grant.terms.grant_id.bytes))
    over.sort(key=lambda grant: (_end_of(grant), grant.terms.grant_id.bytes), reverse=True)
    is_next_found = False
    for grant in (*(grants[grant_id] for grant_id in order if grant_id in grants), *coming, *over, *void):
        verdict = verdict_of(grant, as_of)
        if verdict is GrantVerdict.BURNING_NEXT and is_next_found:
            verdict = GrantVerdict.BURNING_LATER
        is_next_found = is_next_found or verdict is GrantVerdict.BURNING_NEXT
        yield _explained_grant(grant, verdict, book.entitlement, givers, as_of)


def _end_of(grant: Grant) -> datetime:
    return grant.terms.expires_at or grant.terms.effective_at


def _explained_grant(
    grant: Grant, verdict: GrantVerdict, entitlement: Entitlement, givers: Mapping[UUID, str], as_of: datetime
) -> ExplainedGrant:
    terms = grant.terms
    return ExplainedGrant(
        grant_id=terms.grant_id,
        parent=terms.parent,
        verdict=verdict,
        words=grant_words(grant, verdict, entitlement, as_of),
        comes_from=origin_words(terms, None if terms.parent is None else givers.get(terms.parent)),
        source_key=terms.source_key,
        line_id=terms.line_id,
        sku=terms.sku,
        allowance=terms.allowance,
        offer_version=terms.offer_version,
        priority=terms.priority,
        amount=terms.amount,
        effective_at=terms.effective_at,
        expires_at=terms.expires_at,
        period_end=terms.period_end,
        granted=grant.granted,
        available=grant.available,
        held=grant.held,
        used=grant.used,
        expired=grant.expired,
        revoked=grant.revoked,
        moved=grant.moved,
        short=grant.short,
        cuts=tuple(cut_words(cut, entitlement) for cut in terms.cuts),
    )


class _Coming(msgspec.Struct, frozen=True):
    """One of what a picture says is to come."""

    at: datetime
    what: str
    units: int | None = None


_COMING = msgspec.json.Decoder(tuple[_Coming, ...])


def _upcoming(decision: EntitlementPicture, entitlement: Entitlement) -> Iterable[ExplainedUpcoming]:
    for one in () if decision.upcoming is None else _COMING.decode(decision.upcoming):
        words = upcoming_words(one.at, one.what, one.units, entitlement)
        yield ExplainedUpcoming(at=one.at, what=one.what, words=words)


# -- events --

_EVENTS_OF_SOURCES = text("""
SELECT source_key, NULLIF(customer_id, :customer_id), event_source, event_id, type, occurred_at, recorded_at, outcome,
       topic, partition, "offset"
FROM event
WHERE customer_id = ANY(:customer_ids)
  AND source_key = ANY(:source_keys)
ORDER BY recorded_at DESC
LIMIT :events_max
""")


def _sources(connection: Connection, head: CustomerHead, source_keys: Sequence[str]) -> tuple[ExplainedSource, ...]:
    rows = connection.execute(
        _EVENTS_OF_SOURCES,
        {
            "customer_id": head.customer_id,
            "customer_ids": [head.customer_id, *head.linked],
            "source_keys": list(source_keys),
            "events_max": EVENTS_MAX,
        },
    ).all()
    told: dict[str, list[EventTold]] = {key: [] for key in source_keys}
    for row in reversed(rows):
        told[row[0]].append(_event(row[1:]))
    return tuple(ExplainedSource(source_key=key, events=tuple(events)) for key, events in told.items())


def _event(row: Sequence[Any]) -> EventTold:
    return EventTold(
        told_to=row[0],
        event_source=row[1],
        event_id=row[2],
        type=row[3],
        occurred_at=row[4],
        recorded_at=row[5],
        outcome=row[6],
        topic=row[7],
        partition=row[8],
        offset=row[9],
    )


# -- postings --

_POSTINGS = text("""
SELECT posting.number, posting.recorded_at, posting.catalogue_version, posting.rules_version, posting.hash,
       posting.told_to, event.event_source, event.event_id, event.type, event.occurred_at, event.recorded_at,
       event.outcome, event.topic, event.partition, event."offset"
FROM posting
LEFT JOIN event
    ON event.customer_id = COALESCE(posting.told_to, posting.customer_id)
    AND event.event_key = posting.event_key
WHERE posting.customer_id = :customer_id
  AND EXISTS (
      SELECT FROM entry
      WHERE entry.customer_id = posting.customer_id
        AND entry.posting = posting.number
        AND entry.recorded_at = posting.recorded_at
        AND entry.entitlement = ANY(:entitlements)
  )
ORDER BY posting.number DESC
LIMIT :postings_max
""")
_ENTRIES = text("""
SELECT posting, entitlement, kind, units, at, grant_id, usage_key, cut_id, terms IS NOT NULL
FROM entry
WHERE customer_id = :customer_id
  AND posting = ANY(:numbers)
  AND recorded_at = ANY(:instants)
  AND entitlement = ANY(:entitlements)
ORDER BY posting, line
""")
_USED = text("""
SELECT event_key, event_id, outcome
FROM event
WHERE customer_id = :customer_id
  AND event_key = ANY(:keys)
""")


def _postings(
    connection: Connection,
    customer_id: str,
    entitlements: Sequence[str],
    postings_max: int,
    names: Mapping[UUID, str],
    catalogue: Catalogue,
) -> tuple[ExplainedPosting, ...]:
    asked = {"customer_id": customer_id, "entitlements": list(entitlements)}
    postings = connection.execute(_POSTINGS, {**asked, "postings_max": postings_max}).all()
    rows = connection.execute(
        _ENTRIES, {**asked, "numbers": [row[0] for row in postings], "instants": [row[1] for row in postings]}
    ).all()
    keys = sorted({row[6] for row in rows if row[6] is not None})
    used = connection.execute(_USED, {"customer_id": customer_id, "keys": keys}).all()
    usages = {row[0]: usage_words(row[1], row[2]) for row in used}
    entries: dict[int, list[ExplainedEntry]] = {row[0]: [] for row in postings}
    for number, entitlement, kind, units, at, grant_id, usage_key, cut_id, sets_terms in rows:
        words = entry_words(
            Line(Kind(kind), at, grant_id, usage_key, cut_id, units),
            catalogue.entitlements[entitlement],
            sets_terms=sets_terms,
            names=names,
            usages=usages,
        )
        entries[number].append(
            ExplainedEntry(entitlement=entitlement, kind=kind, units=units, at=at, grant_id=grant_id, words=words)
        )
    return tuple(
        ExplainedPosting(
            number=row[0],
            recorded_at=row[1],
            cause=None if row[6] is None else _event(row[5:]),
            catalogue_version=row[2],
            rules_version=row[3],
            hash=row[4],
            entries=tuple(entries[row[0]]),
        )
        for row in postings
    )
