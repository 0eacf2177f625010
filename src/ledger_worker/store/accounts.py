"""Accounts and grants: what is booked now."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, Row, text

from ledger_worker.domain.decided import BookedAccount
from ledger_worker.domain.ledger import Account, Claim, Debt, Grant, GrantTerms, Holder, OpenHold, Phase
from ledger_worker.store.arrays import of_bytes, of_instants, of_integers, of_texts, of_uuids

__all__ = [
    "Carried",
    "Pair",
    "account_keys",
    "carried_of",
    "grant_of",
    "read_accounts",
    "read_open_grants",
    "write_accounts",
    "write_grants",
]


class Carried(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an account carries beside its counters; NULL in the common case that it carries nothing."""

    owed: tuple[Debt, ...] = ()
    overage_since: tuple[tuple[datetime, int], ...] = ()
    waiting: tuple[UUID, ...] = ()
    holds: tuple[OpenHold, ...] = ()
    claims: tuple[Claim, ...] = ()
    released_at: datetime | None = None
    warned_at: datetime | None = None
    warned_tie: str = ""
    holders: tuple[Holder, ...] = ()


_CARRIED = msgspec.msgpack.Decoder(Carried)
_TERMS = msgspec.msgpack.Decoder(GrantTerms)

_READ_ACCOUNTS = text("""
SELECT account.customer_id, account.entitlement, account.usage, account.used_total, account.overage, account.debt,
       account.forgiven, account.settled_at, account.settled_tie, account.carried, account.last_end, account.level,
       account.next_transition_at, account.stated_until, account.since_state
FROM unnest(CAST(:ids AS text[]), CAST(:entitlements AS text[])) AS asked (customer_id, entitlement)
JOIN account ON account.customer_id = asked.customer_id AND account.entitlement = asked.entitlement
UNION ALL
SELECT account.customer_id, account.entitlement, account.usage, account.used_total, account.overage, account.debt,
       account.forgiven, account.settled_at, account.settled_tie, account.carried, account.last_end, account.level,
       account.next_transition_at, account.stated_until, account.since_state
FROM account
WHERE account.next_transition_at <= :until
  AND account.customer_id = ANY(CAST(:customers AS text[]))
""")

_READ_ACCOUNT_KEYS = text("""
SELECT customer_id, entitlement
FROM account
WHERE customer_id = ANY(CAST(:customers AS text[]))
ORDER BY customer_id, entitlement
""")

_READ_OPEN_GRANTS = text("""
SELECT "grant".customer_id, "grant".phase, "grant".set_by, "grant".granted, "grant".available, "grant".held,
       "grant".used,
       "grant".expired, "grant".revoked, "grant".moved, "grant".short, "grant".terms
FROM unnest(CAST(:ids AS text[]), CAST(:entitlements AS text[])) AS asked (customer_id, entitlement)
JOIN "grant" ON "grant".customer_id = asked.customer_id AND "grant".entitlement = asked.entitlement
WHERE "grant".phase IN ('pending', 'active', 'ending')
""")

_WRITE_ACCOUNTS = text("""
INSERT INTO account (
    customer_id, entitlement, usage, used_total, overage, debt, forgiven, settled_at, settled_tie, carried, last_end,
    level,
    allowance, used, held, next_transition_at, stated_until, since_state
)
SELECT booked.*
FROM unnest(
    CAST(:ids AS text[]), CAST(:entitlements AS text[]), CAST(:usage AS bigint[]), CAST(:used_total AS bigint[]),
    CAST(:overage AS bigint[]), CAST(:debt AS bigint[]), CAST(:forgiven AS bigint[]),
    CAST(:settled_at AS timestamptz[]),
    CAST(:settled_tie AS text[]), CAST(:carried AS bytea[]), CAST(:last_end AS timestamptz[]),
    CAST(:level AS integer[]),
    CAST(:allowance AS bigint[]), CAST(:used AS bigint[]), CAST(:held AS bigint[]),
    CAST(:next_transition_at AS timestamptz[]), CAST(:stated_until AS timestamptz[]), CAST(:since_state AS integer[])
) AS booked (
    customer_id, entitlement, usage, used_total, overage, debt, forgiven, settled_at, settled_tie, carried, last_end,
    level,
    allowance, used, held, next_transition_at, stated_until, since_state
)
ORDER BY booked.customer_id COLLATE "C", booked.entitlement COLLATE "C"
ON CONFLICT (customer_id, entitlement) DO UPDATE SET
    usage = EXCLUDED.usage,
    used_total = EXCLUDED.used_total,
    overage = EXCLUDED.overage,
    debt = EXCLUDED.debt,
    forgiven = EXCLUDED.forgiven,
    settled_at = EXCLUDED.settled_at,
    settled_tie = EXCLUDED.settled_tie,
    carried = EXCLUDED.carried,
    last_end = EXCLUDED.last_end,
    level = EXCLUDED.level,
    allowance = EXCLUDED.allowance,
    used = EXCLUDED.used,
    held = EXCLUDED.held,
    next_transition_at = EXCLUDED.next_transition_at,
    stated_until = EXCLUDED.stated_until,
    since_state = EXCLUDED.since_state
""")

_WRITE_GRANTS = text("""
INSERT INTO "grant" (
    customer_id, grant_id, entitlement, source_key, amount, effective_at, expires_at, phase, set_by, granted,
    available, held,
    used, expired, revoked, moved, short, parent_id, terms
)
SELECT booked.*
FROM unnest(
    CAST(:ids AS text[]), CAST(:grant_ids AS uuid[]), CAST(:entitlements AS text[]), CAST(:source_keys AS text[]),
    CAST(:amounts AS bigint[]), CAST(:effective_at AS timestamptz[]), CAST(:expires_at AS timestamptz[]),
    CAST(:phases AS text[]), CAST(:set_by AS bigint[]), CAST(:granted AS bigint[]), CAST(:available AS bigint[]),
    CAST(:held AS bigint[]), CAST(:used AS bigint[]), CAST(:expired AS bigint[]), CAST(:revoked AS bigint[]),
    CAST(:moved AS bigint[]), CAST(:short AS bigint[]), CAST(:parent_ids AS uuid[]), CAST(:terms AS bytea[])
) AS booked (
    customer_id, grant_id, entitlement, source_key, amount, effective_at, expires_at, phase, set_by, granted,
    available, held,
    used, expired, revoked, moved, short, parent_id, terms
)
ORDER BY booked.customer_id COLLATE "C", booked.grant_id
ON CONFLICT (customer_id, grant_id) DO UPDATE SET
    amount = EXCLUDED.amount,
    effective_at = EXCLUDED.effective_at,
    expires_at = EXCLUDED.expires_at,
    phase = EXCLUDED.phase,
    set_by = EXCLUDED.set_by,
    granted = EXCLUDED.granted,
    available = EXCLUDED.available,
    held = EXCLUDED.held,
    used = EXCLUDED.used,
    expired = EXCLUDED.expired,
    revoked = EXCLUDED.revoked,
    moved = EXCLUDED.moved,
    short = EXCLUDED.short,
    parent_id = EXCLUDED.parent_id,
    terms = EXCLUDED.terms
""")

Pair = tuple[str, str]
"""A customer and an entitlement: the key of an account."""


def read_accounts(
    connection: Connection, pairs: Sequence[Pair], customer_ids: Sequence[str], until: datetime
) -> dict[Pair, Account]:
    """The asked accounts that exist, and every account of these customers on which something is due by `until`."""
    found = connection.execute(
        _READ_ACCOUNTS,
        {
            "ids": of_texts(pair[0] for pair in pairs),
            "entitlements": of_texts(pair[1] for pair in pairs),
            "customers": of_texts(customer_ids),
            "until": until,
        },
    ).all()
    accounts = {}
    for (
        customer_id,
        entitlement,
        usage,
        used_total,
        overage,
        debt,
        forgiven,
        settled_at,
        settled_tie,
        carried,
        last_end,
        level,
        next_transition_at,
        stated_until,
        since_state,
    ) in found:
        held_over = carried_of(carried)
        accounts[customer_id, entitlement] = Account(
            entitlement=entitlement,
            usage=usage,
            used_total=used_total,
            overage=overage,
            debt=debt,
            forgiven=forgiven,
            settled_at=settled_at,
            settled_tie=settled_tie,
            owed=held_over.owed,
            overage_since=held_over.overage_since,
            last_end=last_end,
            level=level,
            next_transition_at=next_transition_at,
            waiting=held_over.waiting,
            holds=held_over.holds,
            claims=held_over.claims,
            released_at=held_over.released_at,
            warned_at=held_over.warned_at,
            warned_tie=held_over.warned_tie,
            holders=held_over.holders,
            stated_until=stated_until,
            since_state=since_state,
        )
    return accounts


def carried_of(stored: bytes | None) -> Carried:
    """What an account carries, of the column `carried`."""
    return _NOTHING_CARRIED if stored is None else _CARRIED.decode(stored)


def account_keys(connection: Connection, customer_ids: Sequence[str]) -> list[Pair]:
    """The keys of all accounts of these customers, in key order."""
    return [(row[0], row[1]) for row in connection.execute(_READ_ACCOUNT_KEYS, {"customers": of_texts(customer_ids)})]


def read_open_grants(connection: Connection, pairs: Sequence[Pair]) -> dict[str, list[Grant]]:
    """The grants of these accounts that burn or will begin or be cut, by customer."""
    grants: dict[str, list[Grant]] = {}
    for row in connection.execute(_READ_OPEN_GRANTS, _asked(pairs)).all() if pairs else ():
        grants.setdefault(row[0], []).append(grant_of(row))
    return grants


def write_accounts(connection: Connection, booked: Sequence[tuple[str, BookedAccount]]) -> None:
    """The accounts of (customer, account) are stored as booked."""
    if not booked:
        return
    accounts = [one[1].account for one in booked]
    connection.execute(
        _WRITE_ACCOUNTS,
        {
            "ids": of_texts(one[0] for one in booked),
            "entitlements": of_texts(account.entitlement for account in accounts),
            "usage": of_integers(account.usage for account in accounts),
            "used_total": of_integers(account.used_total for account in accounts),
            "overage": of_integers(account.overage for account in accounts),
            "debt": of_integers(account.debt for account in accounts),
            "forgiven": of_integers(account.forgiven for account in accounts),
            "settled_at": of_instants(account.settled_at for account in accounts),
            "settled_tie": of_texts(account.settled_tie for account in accounts),
            "carried": of_bytes(_carried(account) for account in accounts),
            "last_end": of_instants(account.last_end for account in accounts),
            "level": of_integers(account.level for account in accounts),
            "allowance": of_integers(one[1].limit for one in booked),
            "used": of_integers(one[1].used for one in booked),
            "held": of_integers(one[1].held for one in booked),
            "next_transition_at": of_instants(account.next_transition_at for account in accounts),
            "stated_until": of_instants(account.stated_until for account in accounts),
            "since_state": of_integers(account.since_state for account in accounts),
        },
    )


def write_grants(connection: Connection, booked: Sequence[tuple[str, Grant]]) -> None:
    """The grants of (customer, grant) are stored as booked."""
    if not booked:
        return
    grants = [one[1] for one in booked]
    connection.execute(
        _WRITE_GRANTS,
        {
            "ids": of_texts(one[0] for one in booked),
            "grant_ids": of_uuids(grant.terms.grant_id for grant in grants),
            "entitlements": of_texts(grant.terms.entitlement for grant in grants),
            "source_keys": of_texts(grant.terms.source_key for grant in grants),
            "amounts": of_integers(grant.terms.amount for grant in grants),
            "effective_at": of_instants(grant.terms.effective_at for grant in grants),
            "expires_at": of_instants(grant.terms.expires_at for grant in grants),
            "phases": of_texts(grant.phase.value for grant in grants),
            "set_by": of_integers(grant.set_by for grant in grants),
            "granted": of_integers(grant.granted for grant in grants),
            "available": of_integers(grant.available for grant in grants),
            "held": of_integers(grant.held for grant in grants),
            "used": of_integers(grant.used for grant in grants),
            "expired": of_integers(grant.expired for grant in grants),
            "revoked": of_integers(grant.revoked for grant in grants),
            "moved": of_integers(grant.moved for grant in grants),
            "short": of_integers(grant.short for grant in grants),
            "parent_ids": of_uuids(grant.terms.parent for grant in grants),
            "terms": of_bytes(msgspec.msgpack.encode(grant.terms) for grant in grants),
        },
    )


_NOTHING_CARRIED = Carried()


def _carried(account: Account) -> bytes | None:
    carried = Carried(
        account.owed,
        account.overage_since,
        account.waiting,
        account.holds,
        account.claims,
        account.released_at,
        account.warned_at,
        account.warned_tie,
        account.holders,
    )
    return None if carried == _NOTHING_CARRIED else msgspec.msgpack.encode(carried)


def _asked(pairs: Sequence[Pair]) -> Mapping[str, str]:
    return {"ids": of_texts(pair[0] for pair in pairs), "entitlements": of_texts(pair[1] for pair in pairs)}


def grant_of(row: Row[Any]) -> Grant:
    """The grant of a row, which has its columns by name."""
    return Grant(
        terms=_TERMS.decode(row.terms),
        phase=Phase(row.phase),
        set_by=row.set_by,
        granted=row.granted,
        available=row.available,
        held=row.held,
        used=row.used,
        expired=row.expired,
        revoked=row.revoked,
        moved=row.moved,
        short=row.short,
    )
