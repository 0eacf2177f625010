"""Grants for people: what each is by its terms, what it does now, and which event set it so."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.domain.access import value_in_force
from ledger_worker.domain.booked import BookedGrant
from ledger_worker.domain.catalogue import Entitlement
from ledger_worker.domain.decided import CustomerHead
from ledger_worker.domain.ledger import Grant, GrantTerms, Origin, Phase, value_precedence
from ledger_worker.domain.settlement import Book
from ledger_worker.reports.events import EventTold
from ledger_worker.reports.words import (
    GrantVerdict,
    cut_words,
    grant_words,
    origin_words,
    precedence_words,
    value_precedence_words,
    verdict_of,
)

__all__ = ["GRANTS_MAX", "ExplainedGrant", "explained_grants", "read_givers", "read_grants"]

GRANTS_MAX = 200
"""Most grants explained of one entitlement: those in force and to come, then the newest of the rest."""


class ExplainedGrant(msgspec.Struct, frozen=True, kw_only=True):
    """One grant: what it is by its terms, where its units are, and what it does now; `words` says that last part.

    A child has a `parent`, and `comes_from` says where its units come from. `sku` is empty where a person gave it.
    `short` is over-allocation: what was taken back and could not be, because it was used. `burns_before_next_by` says
    by which rule it burns before the grant that stands next. `set_by` is the posting that last set its terms,
    `catalogue_version` the catalogue by which, and `cause` the event. `value` is that of a setting, as JSON text: it
    counts before the next one's.
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
    value: str | None
    cuts: tuple[str, ...]
    burns_before_next_by: str | None
    set_by: int
    catalogue_version: int | None
    cause: EventTold | None


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


def read_grants(connection: Connection, customer_id: str, entitlement: str) -> list[Grant]:
    """The grants of one entitlement, those in force and to come first, at most `GRANTS_MAX`."""
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


def read_givers(connection: Connection, head: CustomerHead, held: Sequence[Grant]) -> dict[UUID, str]:
    """Whose the grants are that children by transfer come from, by grant id: customers that this one is tied to."""
    parents = sorted(
        grant.terms.parent for grant in held if grant.terms.origin is Origin.TRANSFER and grant.terms.parent is not None
    )
    if not parents:
        return {}
    asked = {"customer_ids": list(head.linked), "grant_ids": parents}
    return {row[0]: row[1] for row in connection.execute(_GIVERS, asked)}


def explained_grants(
    book: Book,
    grants: Mapping[UUID, Grant],
    givers: Mapping[UUID, str],
    causes: Mapping[int, tuple[int, EventTold]],
    as_of: datetime,
) -> Iterable[ExplainedGrant]:
    """The grants in the order of burning, then those to come, those that are over, and those that never were.

    `causes` are the catalogue's version and the event of each posting that set terms.
    """
    of_setting = value_in_force(book)
    active = sorted(book.active, key=_by_value) if of_setting is not None else book.active
    order = [grant.terms.grant_id for grant in active]
    coming = [grant for grant in grants.values() if grant.phase is Phase.PENDING]
    over = [grant for grant in grants.values() if grant.phase in {Phase.ENDED, Phase.ENDING}]
    void = [grant for grant in grants.values() if grant.phase is Phase.VOID]
    coming.sort(key=lambda grant: (grant.terms.effective_at, grant.terms.grant_id.bytes))
    over.sort(key=lambda grant: (_end_of(grant), grant.terms.grant_id.bytes), reverse=True)
    is_next_found = False
    burning = [grants[grant_id] for grant_id in order if grant_id in grants]
    following = [*burning[1:], None]
    for place, grant in enumerate((*burning, *coming, *over, *void)):
        verdict = verdict_of(grant, as_of, of_setting)
        if verdict is GrantVerdict.BURNING_NEXT and is_next_found:
            verdict = GrantVerdict.BURNING_LATER
        is_next_found = is_next_found or verdict is GrantVerdict.BURNING_NEXT
        after = following[place] if place < len(burning) else None
        words = grant_words(grant, verdict, book.entitlement, as_of)
        yield _explained_grant(grant, verdict, words, after, book.entitlement, givers, causes.get(grant.set_by))


def _by_value(grant: BookedGrant) -> tuple[int, timedelta, timedelta, bytes]:
    return value_precedence(grant.terms)


def _before_words(terms: GrantTerms, after: GrantTerms) -> str:
    words = precedence_words if terms.value is None else value_precedence_words
    return words(terms, after)


def _end_of(grant: Grant) -> datetime:
    return grant.terms.expires_at or grant.terms.effective_at


def _explained_grant(
    grant: Grant,
    verdict: GrantVerdict,
    words: str,
    after: Grant | None,
    entitlement: Entitlement,
    givers: Mapping[UUID, str],
    cause: tuple[int, EventTold] | None,
) -> ExplainedGrant:
    terms = grant.terms
    return ExplainedGrant(
        grant_id=terms.grant_id,
        parent=terms.parent,
        verdict=verdict,
        words=words,
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
        value=terms.value,
        cuts=tuple(cut_words(cut, entitlement) for cut in terms.cuts),
        burns_before_next_by=None if after is None else _before_words(terms, after.terms),
        set_by=grant.set_by,
        catalogue_version=None if cause is None else cause[0],
        cause=None if cause is None else cause[1],
    )
