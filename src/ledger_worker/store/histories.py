"""What settling again needs: the history of accounts, all of it or what is later than a day state, and the states."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.domain.decided import BookedAccount
from ledger_worker.domain.events import HoldFact, UsageReversed, fact_of
from ledger_worker.domain.history import History, granted_ahead
from ledger_worker.domain.holds import HoldsTold, pieces
from ledger_worker.domain.ledger import DayState, Grant, Hold, Kind, Line, Reversal, UsageFact
from ledger_worker.domain.owners import Merges, goes_on_as, same_persons
from ledger_worker.domain.sources import NO_MERGES
from ledger_worker.domain.usage import reversal_of, usage_of
from ledger_worker.store.accounts import Pair, grant_of
from ledger_worker.store.arrays import of_bytes, of_instants, of_integers, of_texts, of_uuids

__all__ = ["earliest_counted", "read_histories", "write_states"]

_READ_STATES = text("""
SELECT asked.customer_id, asked.entitlement, newest.state
FROM unnest(CAST(:ids AS text[]), CAST(:entitlements AS text[]), CAST(:before AS timestamptz[]))
    AS asked (customer_id, entitlement, before)
CROSS JOIN LATERAL (
    SELECT day_state.state
    FROM day_state
    WHERE day_state.customer_id = asked.customer_id
      AND day_state.entitlement = asked.entitlement
      AND day_state.at < asked.before
    ORDER BY day_state.at DESC
    LIMIT 1
) AS newest
""")

_DROP_STATES = text("""
DELETE FROM day_state
USING unnest(CAST(:ids AS text[]), CAST(:entitlements AS text[]), CAST(:stale_from AS timestamptz[]))
    AS stale (customer_id, entitlement, stale_from)
WHERE day_state.customer_id = stale.customer_id
  AND day_state.entitlement = stale.entitlement
  AND day_state.at >= stale.stale_from
""")

_WRITE_STATES = text("""
INSERT INTO day_state (customer_id, entitlement, at, posting, state)
SELECT *
FROM unnest(
    CAST(:ids AS text[]), CAST(:entitlements AS text[]), CAST(:at AS timestamptz[]), CAST(:postings AS bigint[]),
    CAST(:states AS bytea[])
)
""")

_EARLIEST_COUNTED = text("""
SELECT min(event.counted_at)
FROM event
WHERE event.customer_id = :customer_id AND event.event_key = ANY(CAST(:keys AS uuid[]))
""")

_READ_ALL_GRANTS = text("""
SELECT "grant".customer_id, "grant".phase, "grant".set_by, "grant".granted, "grant".available, "grant".held,
       "grant".used,
       "grant".expired, "grant".revoked, "grant".moved, "grant".short, "grant".terms
FROM unnest(CAST(:ids AS text[]), CAST(:entitlements AS text[])) AS asked (customer_id, entitlement)
JOIN "grant" ON "grant".customer_id = asked.customer_id AND "grant".entitlement = asked.entitlement
""")

_READ_USAGE = text("""
SELECT event.customer_id, event.entitlement, event.event_key, event.counted_at, event.units, event.event_source,
       event.event_id, event.outcome
FROM unnest(CAST(:ids AS text[]), CAST(:entitlements AS text[]), CAST(:after AS timestamptz[]))
    AS asked (customer_id, entitlement, after)
JOIN event ON event.customer_id = asked.customer_id AND event.entitlement = asked.entitlement
WHERE event.type = 'UsageRecorded'
  AND event.counted_at > coalesce(asked.after, '-infinity')
""")

_READ_REVERSALS = text("""
SELECT event.customer_id, event.entitlement, event.counted_at, event.payload, event.event_source, event.event_id
FROM unnest(CAST(:ids AS text[]), CAST(:entitlements AS text[])) AS asked (customer_id, entitlement)
JOIN event ON event.customer_id = asked.customer_id AND event.entitlement = asked.entitlement
WHERE event.type = 'UsageReversed'
""")

_READ_HOLDS = text("""
SELECT event.customer_id, event.entitlement, event.counted_at, event.payload, event.event_source, event.event_id
FROM unnest(CAST(:ids AS text[]), CAST(:entitlements AS text[]), CAST(:after AS timestamptz[]))
    AS asked (customer_id, entitlement, after)
JOIN event ON event.customer_id = asked.customer_id AND event.entitlement = asked.entitlement
WHERE event.type IN ('HoldTaken', 'HoldConfirmed', 'HoldReleased')
  AND event.counted_at > coalesce(asked.after, '-infinity')
""")

_READ_LINES = text("""
SELECT entry.customer_id, entry.entitlement, entry.kind, entry.at, entry.grant_id, entry.usage_key, entry.cut_id,
       CAST(sum(entry.units) AS bigint)
FROM unnest(
    CAST(:ids AS text[]), CAST(:entitlements AS text[]), CAST(:after AS timestamptz[]), CAST(:postings AS bigint[])
) AS asked (customer_id, entitlement, after, posting)
JOIN entry ON entry.customer_id = asked.customer_id AND entry.entitlement = asked.entitlement
WHERE asked.after IS NULL
   OR (entry.at > asked.after AND entry.posting > asked.posting AND entry.kind <> 'granted')
GROUP BY entry.customer_id, entry.entitlement, entry.kind, entry.at, entry.grant_id, entry.usage_key, entry.cut_id
HAVING sum(entry.units) <> 0
""")

Before = Mapping[Pair, datetime]
"""Of which accounts the history may begin at a day state, which must be of an earlier instant than this."""


def read_histories(
    connection: Connection, pairs: Sequence[Pair], merges: Merges = NO_MERGES, before: Before | None = None
) -> dict[Pair, History]:
    """What each of these accounts ever saw, or saw since its newest day state before the instant named in `before`.

    Usage counts for whoever its customer was at its instant by `merges`; a reversal is told to all ids of a person,
    who settle from nothing.
    """
    same = same_persons(merges)
    since = _read_states(connection, {pair: at for pair, at in (before or {}).items() if pair[0] not in same})
    grants: dict[Pair, list[Grant]] = {pair: [] for pair in pairs}
    usage: dict[Pair, list[UsageFact]] = {pair: [] for pair in pairs}
    lines: dict[Pair, list[Line]] = {pair: [] for pair in pairs}
    reversals: dict[Pair, list[Reversal]] = {pair: [] for pair in pairs}
    asked = _asked(pairs, since)
    for row in connection.execute(_READ_ALL_GRANTS, asked).all():
        grant = grant_of(row)
        grants[row[0], grant.terms.entitlement].append(grant)
    tellers = sorted({(each, name) for customer_id, name in pairs for each in same.get(customer_id, (customer_id,))})
    told = _asked(tellers, since)
    for teller, entitlement, key, counted_at, units, event_source, event_id, outcome in connection.execute(
        _READ_USAGE, told
    ).all():
        user = goes_on_as(teller, merges, counted_at)
        if (user, entitlement) in usage:
            fact = usage_of(key, outcome, counted_at, units, event_source, event_id)
            usage[user, entitlement].append(fact)
    for teller, entitlement, counted_at, payload, event_source, event_id in connection.execute(
        _READ_REVERSALS, told
    ).all():
        reversed_usage = fact_of(bytes(payload))
        if isinstance(reversed_usage, UsageReversed):
            reversal = reversal_of(reversed_usage, event_source, event_id, counted_at)
            for each in same.get(teller, (teller,)):
                if (each, entitlement) in reversals:
                    reversals[each, entitlement].append(reversal)
    holds = _holds(connection, told, since, merges)
    for customer_id, entitlement, kind, at, grant_id, usage_key, cut_id, units in connection.execute(
        _READ_LINES, asked
    ).all():
        lines[customer_id, entitlement].append(Line(Kind(kind), at, grant_id, usage_key, cut_id, units))
    for pair, state in since.items():
        lines[pair] += granted_ahead(grants[pair], state.at)
    return {
        pair: History(
            grants=tuple(grants[pair]),
            usage=tuple(usage[pair]),
            lines=tuple(lines[pair]),
            reversals=tuple(reversals[pair]),
            holds=tuple(holds.get(pair, ())),
            since=since.get(pair),
        )
        for pair in pairs
    }


def _holds(
    connection: Connection, told: Mapping[str, str], since: Mapping[Pair, DayState], merges: Merges
) -> dict[Pair, list[Hold]]:
    """The holds that were open since the states, or ever, of whoever had them at their time."""
    told_of: dict[str, HoldsTold] = {}
    for (customer_id, entitlement), state in since.items():
        known = told_of.setdefault(entitlement, HoldsTold())
        for open_hold in state.account.holds:
            known.know(customer_id, open_hold.hold)
    for teller, entitlement, counted_at, payload, event_source, event_id in connection.execute(_READ_HOLDS, told).all():
        fact = fact_of(bytes(payload))
        if isinstance(fact, HoldFact):
            told_of.setdefault(entitlement, HoldsTold()).tell(teller, fact, event_source, event_id, counted_at)
    found: dict[Pair, list[Hold]] = {}
    for entitlement, known in told_of.items():
        for teller, hold in known.all():
            for owner, piece in pieces(hold, teller, merges):
                found.setdefault((owner, entitlement), []).append(piece)
    return found


def earliest_counted(connection: Connection, customer_id: str, usage_keys: Sequence[UUID]) -> datetime | None:
    """The earliest instant at which usage of these inbox keys counts; None where none of it was told."""
    found: datetime | None = connection.execute(
        _EARLIEST_COUNTED, {"customer_id": customer_id, "keys": of_uuids(usage_keys)}
    ).scalar_one()
    return found


def write_states(connection: Connection, booked: Sequence[tuple[str, BookedAccount]]) -> None:
    """The day states of (customer, account) that are stale are dropped, and the new ones stored."""
    stale = [(customer_id, one) for customer_id, one in booked if one.stale_from is not None]
    if stale:
        connection.execute(
            _DROP_STATES,
            {
                "ids": of_texts(customer_id for customer_id, _ in stale),
                "entitlements": of_texts(one.account.entitlement for _, one in stale),
                "stale_from": of_instants(one.stale_from for _, one in stale),
            },
        )
    new = [(customer_id, state) for customer_id, one in booked for state in one.states]
    if new:
        connection.execute(
            _WRITE_STATES,
            {
                "ids": of_texts(customer_id for customer_id, _ in new),
                "entitlements": of_texts(state.account.entitlement for _, state in new),
                "at": of_instants(state.at for _, state in new),
                "postings": of_integers(state.posting for _, state in new),
                "states": of_bytes(_ENCODER.encode(state) for _, state in new),
            },
        )


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(DayState)


def _read_states(connection: Connection, before: Before) -> dict[Pair, DayState]:
    if not before:
        return {}
    pairs = sorted(before)
    asked = {
        "ids": of_texts(pair[0] for pair in pairs),
        "entitlements": of_texts(pair[1] for pair in pairs),
        "before": of_instants(before[pair] for pair in pairs),
    }
    return {
        (customer_id, entitlement): _DECODER.decode(state)
        for customer_id, entitlement, state in connection.execute(_READ_STATES, asked).all()
    }


def _asked(pairs: Sequence[Pair], since: Mapping[Pair, DayState]) -> Mapping[str, str]:
    states = [since.get(pair) for pair in pairs]
    return {
        "ids": of_texts(pair[0] for pair in pairs),
        "entitlements": of_texts(pair[1] for pair in pairs),
        "after": of_instants(None if state is None else state.at for state in states),
        "postings": of_integers(0 if state is None else state.posting for state in states),
    }
