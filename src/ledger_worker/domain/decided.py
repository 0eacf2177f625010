"""What a decision reads, and what it leaves to be written: values, and no rule.

Read are the customers that are decided together (`Loaded`) and the events told of them (`Told`). What comes of it is
`Decided`; or, where nothing can be decided yet, what has to be done first: `NeedsHistory`, `TooManyDue`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.changes import Change
from ledger_worker.domain.events import Event, content_hash, event_key, fact_bytes
from ledger_worker.domain.history import History
from ledger_worker.domain.ledger import Account, DayState, Grant, Posting
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from ledger_worker.domain.owners import Merge
from ledger_worker.domain.sources import SourceState

__all__ = [
    "BookedAccount",
    "CustomerHead",
    "Decided",
    "DecidedCustomer",
    "DecidedEvent",
    "Loaded",
    "LoadedCustomer",
    "NeedsHistory",
    "Refused",
    "Told",
    "TooManyDue",
    "told_of",
]


class CustomerHead(msgspec.Struct, frozen=True, kw_only=True):
    """The lock row: where a customer's postings, changes and hash chain stand.

    `linked` are the customers that transfers and merges tie it to, itself left out: whatever reaches back in its books
    may reach theirs. `merge` is set when it goes on as another.
    """

    customer_id: str
    posting_number: int = 0
    sequence: int = 0
    chain_head: bytes = bytes(32)
    recorded_at: datetime | None = None
    is_parked: bool = False
    linked: tuple[str, ...] = ()
    merge: Merge | None = None


class LoadedCustomer(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision reads of one customer: accounts and open grants that may be touched, and histories asked for."""

    head: CustomerHead
    accounts: Mapping[str, Account]
    grants: Sequence[Grant]
    histories: Mapping[str, History]


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision reads: every customer it may touch, and the sources that the events speak of.

    `claimants` says of whom each source was first told; a source nobody was told of is missing.
    """

    customers: Mapping[str, LoadedCustomer]
    sources: Mapping[str, SourceState]
    claimants: Mapping[str, str]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it is to be decided.

    Its inbox key, content hash and canonical payload, and the instant it is recorded at.

    `now` may be raised so that a customer's instants strictly increase. `known` is the content hash under which the
    same id is in the inbox already, by each customer it was sent for: this one, and those tied to it.
    """

    event: Event
    key: UUID
    content_hash: bytes
    payload: bytes
    now: datetime
    known: Mapping[str, bytes] = {}


def told_of(event: Event, now: datetime) -> Told:
    """An event with its key, payload and content hash, to be recorded at `now`."""
    payload = fact_bytes(event.fact)
    return Told(
        event=event,
        key=event_key(event.event_source, event.event_id),
        content_hash=content_hash(event, payload),
        payload=payload,
        now=now,
    )


class DecidedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that takes an inbox row, with what became of it.

    `told` is its place in the input, None for the ledger's own.
    """

    told: int | None
    event: Event
    key: UUID
    content_hash: bytes
    payload: bytes
    recorded_at: datetime
    outcome: Outcome
    counted_at: datetime | None = None


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """An event that becomes a dead letter: its place in the input, why, and what was expected."""

    told: int
    reason: DeadLetterReason
    message: str


class BookedAccount(msgspec.Struct, frozen=True, kw_only=True):
    """An account to be stored with what the check path reads of it; `limit` is None when unlimited or without units.

    Its day states of `stale_from` and later (None: none) are to be dropped, then `states` to be stored.
    """

    account: Account
    limit: int | None
    used: int
    held: int
    stale_from: datetime | None = None
    states: tuple[DayState, ...] = ()


class DecidedCustomer(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be written for one customer; postings and changes are in the order of its life.

    `is_tied_anew` says that the head's ties to others, or its merge, are not as they were loaded.
    """

    head: CustomerHead
    is_tied_anew: bool
    postings: tuple[Posting, ...]
    changes: tuple[Change, ...]
    accounts: tuple[BookedAccount, ...]
    grants: tuple[Grant, ...]


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be written; `duplicates` are the places of events that were applied before.

    `customers` are those of whom anything was decided, `sources` the states that were folded.
    """

    customers: Mapping[str, DecidedCustomer]
    events: tuple[DecidedEvent, ...]
    duplicates: tuple[int, ...]
    refused: tuple[Refused, ...]
    sources: Mapping[str, SourceState]


class NeedsHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The decision reaches behind what was loaded: load the account's history and decide again.

    From the newest day state before the instant `before` on; all of it where that is None or there is no such state.
    """

    customer_id: str
    entitlement: str
    before: datetime | None = None


class TooManyDue(msgspec.Struct, frozen=True, kw_only=True):
    """More than `decide.DUE_MAX` transitions are due at `now`: book them first, in transactions of their own."""

    customer_id: str
    count: int
    now: datetime
