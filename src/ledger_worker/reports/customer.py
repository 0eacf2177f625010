"""One customer for people: what it may do now, and why: because of which grants, events, rules and versions.

Read in one snapshot, with what is due passed whether or not it is booked, so an answer is right while no clock runs.
Shapes and words live here; how they are printed does not.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.domain.access import AccessReason, picture
from ledger_worker.domain.catalogue import Catalogue, Entitlement, EntitlementType
from ledger_worker.domain.changes import CustomerPicture, EntitlementPicture
from ledger_worker.domain.ledger import RULES_VERSION, Account, Grant, GrantTerms, Kind, Phase
from ledger_worker.domain.settlement import Book, is_suspended
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


class GrantVerdict(StrEnum):
    """What one grant does for the customer now; the first that is true."""

    VOID = "void"
    """A correction undid it: it never was."""
    NOT_YET_BEGUN = "not_yet_begun"
    ENDED = "ended"
    SUSPENDED = "suspended"
    IN_FORCE = "in_force"
    """It gives access, or units without a limit."""
    REVOKED = "revoked"
    """It runs, but all its units were taken back."""
    USED_UP = "used_up"
    BURNING_NEXT = "burning_next"
    """The next unit is taken from it."""
    BURNING_LATER = "burning_later"
    """It has units, which others are burnt before."""


class EventTold(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded event and what became of it."""

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
    """One grant: what it is by its terms, where its units are, and what it does now; `words` says that last part."""

    grant_id: UUID
    verdict: GrantVerdict
    words: str
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
    cuts: tuple[str, ...]


class ExplainedEntitlement(msgspec.Struct, frozen=True, kw_only=True):
    """The decision about one entitlement and its grants in the order of burning, those that burn no more behind.

    `would_allow` says what has to happen where the answer is no.
    """

    decision: EntitlementPicture
    name: str
    unit: str | None
    grants: tuple[ExplainedGrant, ...]
    would_allow: str | None


class ExplainedSource(msgspec.Struct, frozen=True, kw_only=True):
    """An order or subscription and everything told of it, in the order of recording."""

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
    """Why a customer may or may not, as of `as_of`; `sequence` and `recorded_at` are of its last change and event."""

    customer_id: str
    as_of: datetime
    timeline: int
    sequence: int
    recorded_at: datetime | None
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
        opened = {
            book.entitlement.key: book
            for book in pictures.books(connection, [customer_id], catalogue, as_of)[customer_id]
        }
        keys = sorted(opened) if entitlement is None else [entitlement] if entitlement in catalogue.entitlements else []
        explained = [_entitlement(connection, customer_id, key, opened.get(key), catalogue, as_of) for key in keys]
        names = {grant.grant_id: f"{grant.sku} of {grant.source_key}" for each in explained for grant in each.grants}
        source_keys = sorted({grant.source_key for each in explained for grant in each.grants})
        return Explanation(
            customer_id=customer_id,
            as_of=as_of,
            timeline=ledger.timeline,
            sequence=head.sequence,
            recorded_at=head.recorded_at,
            catalogue_version=ledger.catalogue_version,
            rules_version=RULES_VERSION,
            entitlements=tuple(explained),
            sources=_sources(connection, customer_id, source_keys),
            postings=_postings(connection, customer_id, keys, postings_max, names, catalogue),
        )


def _snapshot(connection: Connection) -> Connection:
    return connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


# -- grants --

_GRANTS = text("""
SELECT phase, set_by, granted, available, held, used, expired, revoked, moved, terms
FROM "grant"
WHERE customer_id = :customer_id
  AND entitlement = :entitlement
ORDER BY phase IN ('pending', 'active', 'ending') DESC, effective_at DESC, grant_id
LIMIT :grants_max
""")
_TERMS = msgspec.msgpack.Decoder(GrantTerms)
_SKUS_NAMED_MAX = 5


def _entitlement(
    connection: Connection,
    customer_id: str,
    key: str,
    book: Book | None,
    catalogue: Catalogue,
    as_of: datetime,
) -> ExplainedEntitlement:
    entitlement = catalogue.entitlements[key]
    if book is None:
        book = Book(entitlement, Account(entitlement=key), ())
    rows = connection.execute(_GRANTS, {"customer_id": customer_id, "entitlement": key, "grants_max": GRANTS_MAX}).all()
    stored = [
        Grant(
            terms=_TERMS.decode(row[9]),
            phase=Phase(row[0]),
            set_by=row[1],
            granted=row[2],
            available=row[3],
            held=row[4],
            used=row[5],
            expired=row[6],
            revoked=row[7],
            moved=row[8],
        )
        for row in rows
    ]
    # What is due was passed in the book and is perhaps not booked: of open grants the book knows better.
    present = {grant_id: grant.value() for grant_id, grant in book.grants.items()}
    grants = {grant.terms.grant_id: present.get(grant.terms.grant_id, grant) for grant in stored}
    decision = picture(book, as_of)
    return ExplainedEntitlement(
        decision=decision,
        name=entitlement.name,
        unit=entitlement.unit,
        grants=tuple(_explained_grants(book, grants, as_of)),
        would_allow=_would_allow(decision, entitlement, catalogue),
    )


def _explained_grants(book: Book, grants: Mapping[UUID, Grant], as_of: datetime) -> Iterable[ExplainedGrant]:
    order = [grant.terms.grant_id for grant in book.active]
    coming = [grant for grant in grants.values() if grant.phase is Phase.PENDING]
    over = [grant for grant in grants.values() if grant.phase in {Phase.ENDED, Phase.ENDING}]
    void = [grant for grant in grants.values() if grant.phase is Phase.VOID]
    coming.sort(key=lambda grant: (grant.terms.effective_at, grant.terms.grant_id.bytes))
    over.sort(key=lambda grant: (_end_of(grant), grant.terms.grant_id.bytes), reverse=True)
    is_next_found = False
    for grant in (*(grants[grant_id] for grant_id in order if grant_id in grants), *coming, *over, *void):
        verdict = _verdict(grant, as_of)
        if verdict is GrantVerdict.BURNING_NEXT and is_next_found:
            verdict = GrantVerdict.BURNING_LATER
        is_next_found = is_next_found or verdict is GrantVerdict.BURNING_NEXT
        yield _explained_grant(grant, verdict, book.entitlement)


def _end_of(grant: Grant) -> datetime:
    return grant.terms.expires_at or grant.terms.effective_at


def _verdict(grant: Grant, as_of: datetime) -> GrantVerdict:
    if grant.phase is Phase.VOID:
        return GrantVerdict.VOID
    if grant.phase is Phase.PENDING:
        return GrantVerdict.NOT_YET_BEGUN
    if grant.phase is not Phase.ACTIVE:
        return GrantVerdict.ENDED
    if is_suspended(grant.terms, as_of):
        return GrantVerdict.SUSPENDED
    if grant.terms.amount is None:
        return GrantVerdict.IN_FORCE
    if grant.available:
        return GrantVerdict.BURNING_NEXT
    return GrantVerdict.REVOKED if grant.revoked and grant.revoked == grant.granted else GrantVerdict.USED_UP


def _explained_grant(grant: Grant, verdict: GrantVerdict, entitlement: Entitlement) -> ExplainedGrant:
    terms = grant.terms
    return ExplainedGrant(
        grant_id=terms.grant_id,
        verdict=verdict,
        words=_verdict_words(grant, verdict, entitlement),
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
        cuts=tuple(
            f"{cut.cut_id} asks for up to {_units(cut.units, entitlement)} at {_instant(cut.at)} ({cut.policy})"
            for cut in terms.cuts
        ),
    )


def _verdict_words(grant: Grant, verdict: GrantVerdict, entitlement: Entitlement) -> str:
    terms = grant.terms
    until = "without end" if terms.expires_at is None else f"until {_instant(terms.expires_at)}"
    causes = ", ".join(cut.cut_id for cut in terms.cuts)
    words = {
        GrantVerdict.VOID: "undone by a correction",
        GrantVerdict.NOT_YET_BEGUN: f"begins at {_instant(terms.effective_at)}",
        GrantVerdict.ENDED: f"ended at {_instant(_end_of(grant))}",
        GrantVerdict.SUSPENDED: "suspended by " + ", ".join(each.cause for each in terms.suspensions),
        GrantVerdict.IN_FORCE: f"in force {until}",
        GrantVerdict.REVOKED: f"revoked by {causes}" if causes else "revoked",
        GrantVerdict.USED_UP: f"used up, {until}",
        GrantVerdict.BURNING_NEXT: f"burning next, {_units(grant.available, entitlement)} left {until}",
        GrantVerdict.BURNING_LATER: f"burning after those above, {_units(grant.available, entitlement)} left {until}",
    }[verdict]
    if verdict is GrantVerdict.REVOKED:
        return words
    parts = [words]
    if grant.expired:
        parts.append(f"{_units(grant.expired, entitlement)} expired")
    if grant.revoked and verdict is not GrantVerdict.VOID:
        parts.append(f"{_units(grant.revoked, entitlement)} revoked by {causes}" if causes else "units revoked")
    return ", ".join(parts)


def _would_allow(decision: EntitlementPicture, entitlement: Entitlement, catalogue: Catalogue) -> str | None:
    if decision.allowed:
        return None
    skus = sorted(
        sku
        for sku, versions in catalogue.offers.items()
        if any(allowance.entitlement == entitlement.key for allowance in versions[-1].allowances)
    )
    named = ", ".join(skus[:_SKUS_NAMED_MAX]) + (" and others" if len(skus) > _SKUS_NAMED_MAX else "")
    bought = f"a purchase that gives it: {named}" if skus else "an offer that gives it: no product does"
    match AccessReason(decision.reason):
        case AccessReason.NOT_YET_ACTIVE:
            begins = "its begin" if decision.starts_at is None else f"its begin at {_instant(decision.starts_at)}"
            return f"{begins}, or {bought}"
        case AccessReason.IN_DEBT:
            return f"{_units(decision.debt or 0, entitlement)} owed, to be paid by the next grant: {bought}"
        case AccessReason.SUSPENDED:
            return "the end of what suspends it"
        case AccessReason.EXHAUSTED | AccessReason.REVOKED | AccessReason.EXPIRED | AccessReason.NOT_ENTITLED:
            return bought
        case AccessReason.ALLOWED:
            return None


# -- events --

_EVENTS_OF_SOURCES = text("""
SELECT source_key, event_source, event_id, type, occurred_at, recorded_at, outcome, topic, partition, "offset"
FROM event
WHERE customer_id = :customer_id
  AND source_key = ANY(:source_keys)
ORDER BY recorded_at DESC
LIMIT :events_max
""")


def _sources(connection: Connection, customer_id: str, source_keys: Sequence[str]) -> tuple[ExplainedSource, ...]:
    rows = connection.execute(
        _EVENTS_OF_SOURCES,
        {"customer_id": customer_id, "source_keys": list(source_keys), "events_max": EVENTS_MAX},
    ).all()
    told: dict[str, list[EventTold]] = {key: [] for key in source_keys}
    for row in reversed(rows):
        told[row[0]].append(_event(row[1:]))
    return tuple(ExplainedSource(source_key=key, events=tuple(events)) for key, events in told.items())


def _event(row: Sequence[Any]) -> EventTold:
    return EventTold(
        event_source=row[0],
        event_id=row[1],
        type=row[2],
        occurred_at=row[3],
        recorded_at=row[4],
        outcome=row[5],
        topic=row[6],
        partition=row[7],
        offset=row[8],
    )


# -- postings --

_POSTINGS = text("""
SELECT posting.number, posting.recorded_at, posting.catalogue_version, posting.rules_version, posting.hash,
       event.event_source, event.event_id, event.type, event.occurred_at, event.recorded_at, event.outcome, event.topic,
       event.partition, event."offset"
FROM posting
LEFT JOIN event ON event.customer_id = posting.customer_id AND event.event_key = posting.event_key
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
_USED = text("SELECT event_key, event_id FROM event WHERE customer_id = :customer_id AND event_key = ANY(:keys)")


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
    event_ids = {row[0]: row[1] for row in used}
    entries: dict[int, list[ExplainedEntry]] = {row[0]: [] for row in postings}
    for number, entitlement, kind, units, at, grant_id, usage_key, cut_id, sets_terms in rows:
        words = _entry_words(
            Kind(kind),
            units,
            catalogue.entitlements[entitlement],
            at=_instant(at),
            grant=names.get(grant_id, f"grant {grant_id}"),
            usage=event_ids.get(usage_key, str(usage_key)),
            cut=cut_id or "",
            sets_terms=sets_terms,
        )
        entries[number].append(
            ExplainedEntry(entitlement=entitlement, kind=kind, units=units, at=at, grant_id=grant_id, words=words)
        )
    return tuple(
        ExplainedPosting(
            number=row[0],
            recorded_at=row[1],
            cause=None if row[5] is None else _event(row[5:]),
            catalogue_version=row[2],
            rules_version=row[3],
            hash=row[4],
            entries=tuple(entries[row[0]]),
        )
        for row in postings
    )


def _entry_words(
    kind: Kind,
    units: int,
    entitlement: Entitlement,
    *,
    at: str,
    grant: str,
    usage: str,
    cut: str,
    sets_terms: bool,
) -> str:
    """A line as a sentence; what a correction takes back is said as such."""
    if kind is Kind.GRANTED and not units:
        return f"the terms of {grant} are set" if sets_terms else f"nothing changes of {grant}"
    amount = _units(abs(units), entitlement)
    words = {
        Kind.GRANTED: f"{amount} granted from {at} by {grant}",
        Kind.BURN: f"{amount} used at {at} ({usage}), covered by {grant}",
        Kind.OVERAGE: f"{amount} used at {at} ({usage}), covered by nothing",
        Kind.REVOKE: f"{amount} of {grant} taken back at {at} by {cut}",
        Kind.EXPIRE: f"{amount} of {grant} expired at {at}",
        Kind.REVOKE_EXPIRED: f"{amount} of {grant} that had expired taken back at {at} by {cut}",
        Kind.DEBT: f"{amount} of {grant} that were used ({usage}) taken back at {at} by {cut}, and owed",
        Kind.FORGIVE: f"{amount} of {grant} that were used ({usage}) taken back at {at} by {cut}, and forgiven",
        Kind.PAY_DEBT: f"{amount} owed since {cut} ({usage}) paid at {at} by {grant}",
        Kind.PAY_OVERAGE: f"{amount} of overage ({usage}) paid at {at} by {grant}",
    }[kind]
    return words if units > 0 else f"corrected, no longer so: {words}"


def _units(units: int, entitlement: Entitlement) -> str:
    if entitlement.type is not EntitlementType.QUOTA or not entitlement.unit:
        return str(units)
    return f"{units:,} {entitlement.unit}{'' if units == 1 else 's'}"


def _instant(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S}Z"
