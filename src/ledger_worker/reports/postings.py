"""Postings for people: what each event did to one customer, by which versions, and because of whom.

Read here for an explanation (the last about some entitlements) and for a history (page by page, from either end).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.domain.catalogue import Catalogue, EntitlementType
from ledger_worker.domain.decided import CustomerHead
from ledger_worker.domain.ledger import GrantTerms, Kind, Line
from ledger_worker.reports.events import EventTold, event_of
from ledger_worker.reports.words import entry_words, name_of, usage_words

__all__ = [
    "ExplainedEntry",
    "ExplainedPosting",
    "causes_of",
    "last_postings",
    "postings_numbered",
]


class ExplainedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a posting; `words` says it as a sentence."""

    entitlement: str
    kind: str
    units: int
    at: datetime
    grant_id: UUID | None
    words: str


class ExplainedPosting(msgspec.Struct, frozen=True, kw_only=True):
    """What one event did: its entries, the event, and the versions it was decided by.

    `effective_at` and `effective_until` are the first and the last instant at which it moved units, or corrects what
    was moved; where it moved none, both are the event's own.
    """

    number: int
    recorded_at: datetime
    effective_at: datetime | None
    effective_until: datetime | None
    cause: EventTold | None
    catalogue_version: int
    rules_version: int
    hash: bytes
    entries: tuple[ExplainedEntry, ...]


_NEAR_PER_POSTING = 10
"""The newest postings are looked through first: so many for each that is asked for."""

_WITH_ENTRIES = text("""
SELECT posting
FROM entry
WHERE customer_id = :customer_id
  AND posting > :behind
  AND entitlement = ANY(:entitlements)
GROUP BY posting
ORDER BY posting DESC
LIMIT :postings_max
""")
# What is decided of a seat has no entries. OFFSET 0: the inbox is asked for each posting, by its key.
_OF_SEATS = text("""
SELECT posting.number
FROM posting
CROSS JOIN LATERAL (
    SELECT type, entitlement
    FROM event
    WHERE event.customer_id = COALESCE(posting.told_to, posting.customer_id)
      AND event.event_key = posting.event_key
    OFFSET 0
) AS event
WHERE posting.customer_id = :customer_id
  AND posting.number > :behind
  AND event.type LIKE 'Seat%'
  AND event.entitlement = ANY(:seats)
ORDER BY posting.number DESC
LIMIT :postings_max
""")


def last_postings(
    connection: Connection,
    head: CustomerHead,
    entitlements: Sequence[str],
    catalogue: Catalogue,
    *,
    postings_max: int,
) -> tuple[ExplainedPosting, ...]:
    """The last postings about these entitlements, the newest first, and of each the entries about them.

    What is read does not grow with the postings where as many are found among the newest. No index knows the
    entitlement of an entry: where little was booked of it lately, all of the customer's postings are looked through.
    """
    known = (catalogue.entitlements[key] for key in entitlements if key in catalogue.entitlements)
    asked = {
        "customer_id": head.customer_id,
        "entitlements": list(entitlements),
        "seats": [entitlement.key for entitlement in known if entitlement.type is EntitlementType.SEATS],
        "postings_max": postings_max,
    }
    near = head.posting_number - _NEAR_PER_POSTING * postings_max
    numbers = _last_numbers(connection, asked | {"behind": near})
    if len(numbers) < postings_max and near > 0:
        numbers = _last_numbers(connection, asked | {"behind": 0})
    return postings_numbered(connection, head, numbers[:postings_max], catalogue, entitlements)


def _last_numbers(connection: Connection, asked: Mapping[str, Any]) -> Sequence[int]:
    """The numbers of the last postings behind one, the newest first; up to twice as many as are asked for."""
    numbers = set(connection.execute(_WITH_ENTRIES, asked).scalars())
    if asked["seats"]:
        numbers |= set(connection.execute(_OF_SEATS, asked).scalars())
    return sorted(numbers, reverse=True)


def postings_numbered(
    connection: Connection,
    head: CustomerHead,
    numbers: Sequence[int],
    catalogue: Catalogue,
    entitlements: Sequence[str] | None = None,
) -> tuple[ExplainedPosting, ...]:
    """The postings with these numbers, in the order of the numbers, with their entries: all, or those about some."""
    postings = _read(connection, head.customer_id, numbers)
    entries = _entries(connection, head, list(postings.values()), catalogue, entitlements)
    return tuple(_posting(postings[number], entries[number]) for number in numbers if number in postings)


def causes_of(connection: Connection, customer_id: str, numbers: Sequence[int]) -> dict[int, tuple[int, EventTold]]:
    """The catalogue's version and the event behind each of these postings, by number."""
    postings = _read(connection, customer_id, numbers)
    return {number: (row[2], cause) for number, row in postings.items() for cause in [_cause(row)] if cause is not None}


_READ = text("""
SELECT posting.number, posting.recorded_at, posting.catalogue_version, posting.rules_version, posting.hash,
       posting.told_to, event.event_source, event.event_id, event.type, event.occurred_at, event.recorded_at,
       event.outcome, event.topic, event.partition, event."offset",
       CASE WHEN event.source_key LIKE 'assignment/%' OR event.type LIKE 'Seat%' THEN event.payload END
FROM posting
LEFT JOIN event
    ON event.customer_id = COALESCE(posting.told_to, posting.customer_id)
    AND event.event_key = posting.event_key
WHERE posting.customer_id = :customer_id
  AND posting.number = ANY(:numbers)
""")


def _read(connection: Connection, customer_id: str, numbers: Sequence[int]) -> dict[int, Sequence[Any]]:
    rows = connection.execute(_READ, {"customer_id": customer_id, "numbers": list(numbers)})
    return {row[0]: row for row in rows}


# -- entries, and what names them --

_ENTRIES = text("""
SELECT posting, entitlement, kind, units, at, grant_id, usage_key, cut_id, terms IS NOT NULL
FROM entry
WHERE customer_id = :customer_id
  AND posting = ANY(:numbers)
  AND recorded_at = ANY(:instants)
  AND (CAST(:entitlements AS text[]) IS NULL OR entitlement = ANY(CAST(:entitlements AS text[])))
ORDER BY posting, line
""")
_USED = text("""
SELECT event_key, event_id, outcome
FROM event
WHERE customer_id = ANY(:customer_ids)
  AND event_key = ANY(:keys)
""")
_GRANTS = text("""
SELECT customer_id, grant_id, terms
FROM "grant"
WHERE customer_id = ANY(:customer_ids)
  AND grant_id = ANY(:grant_ids)
""")
_TERMS = msgspec.msgpack.Decoder(GrantTerms)


def _entries(
    connection: Connection,
    head: CustomerHead,
    postings: Sequence[Sequence[Any]],
    catalogue: Catalogue,
    entitlements: Sequence[str] | None,
) -> Mapping[int, Sequence[ExplainedEntry]]:
    """The entries of each posting by its number, in order."""
    rows = connection.execute(
        _ENTRIES,
        {
            "customer_id": head.customer_id,
            "numbers": [row[0] for row in postings],
            "instants": [row[1] for row in postings],
            "entitlements": None if entitlements is None else list(entitlements),
        },
    ).all()
    lines = [Line(Kind(row[2]), row[4], row[5], row[6], row[7], row[3]) for row in rows]
    names, usages = _names(connection, head, lines), _usages(connection, head, lines)
    entries: dict[int, list[ExplainedEntry]] = {row[0]: [] for row in postings}
    for row, line in zip(rows, lines, strict=True):
        entitlement = catalogue.entitlements[row[1]]
        words = entry_words(line, entitlement, sets_terms=row[8], names=names, usages=usages)
        entries[row[0]].append(
            ExplainedEntry(
                entitlement=row[1], kind=line.kind, units=line.units, at=line.at, grant_id=line.grant_id, words=words
            )
        )
    return entries


def _cause(row: Sequence[Any]) -> EventTold | None:
    return None if row[6] is None else event_of(row[5:])


def _posting(row: Sequence[Any], entries: Sequence[ExplainedEntry]) -> ExplainedPosting:
    cause = _cause(row)
    instants = [entry.at for entry in entries if entry.units]
    otherwise = None if cause is None else cause.occurred_at
    return ExplainedPosting(
        number=row[0],
        recorded_at=row[1],
        effective_at=min(instants, default=otherwise),
        effective_until=max(instants, default=otherwise),
        cause=cause,
        catalogue_version=row[2],
        rules_version=row[3],
        hash=row[4],
        entries=tuple(entries),
    )


def _usages(connection: Connection, head: CustomerHead, lines: Sequence[Line]) -> Mapping[UUID, str]:
    """How each usage is called that the lines speak of; it may have been told of an alias."""
    keys = sorted({line.usage_key for line in lines if line.usage_key is not None})
    asked = {"customer_ids": [head.customer_id, *head.linked], "keys": keys}
    return {row[0]: usage_words(row[1], row[2]) for row in connection.execute(_USED, asked)} if keys else {}


def _names(connection: Connection, head: CustomerHead, lines: Sequence[Line]) -> Mapping[UUID, str]:
    """How each grant is called that the lines speak of; one at another customer by that customer."""
    grant_ids = {line.grant_id for line in lines if line.grant_id is not None}
    grant_ids |= {UUID((line.cut_id or "").removeprefix("to/")) for line in lines if line.kind is Kind.MOVE}
    asked = {"customer_ids": [head.customer_id, *head.linked], "grant_ids": sorted(grant_ids)}
    return {
        grant_id: name_of(_TERMS.decode(terms)) if customer_id == head.customer_id else f"customer {customer_id}"
        for customer_id, grant_id, terms in (connection.execute(_GRANTS, asked).all() if grant_ids else ())
    }
