"""What a proof reads: the rows of one customer as they are stored, and what else everything was decided by.

Here too is what the checks of one customer leave for those after them, as far as rows can be read at all.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.catalogue import Catalogue, Entitlement
from ledger_worker.domain.events import Event, SeatFact, UsageReversed
from ledger_worker.domain.ledger import Account, Grant, GrantTerms, Hold, Holder, Line, Reversal, UsageFact
from ledger_worker.domain.owners import Merge

__all__ = [
    "AccountRow",
    "CustomerRow",
    "CustomerRows",
    "DayStateRow",
    "EntryRow",
    "EventRow",
    "GrantRow",
    "Member",
    "OutboxRow",
    "PostingRow",
    "Published",
    "SourceRow",
    "Unread",
    "event_name",
    "grant_name",
]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What everything was decided by: the catalogue, and each version of each entitlement's policies.

    `catalogue` is None where any of it cannot be read, `lanes` where nothing says how many there are.
    """

    catalogue: Catalogue | None
    versions: Mapping[str, tuple[Entitlement, ...]]
    lanes: int | None


class CustomerRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `customer`."""

    customer_id: str
    key_hash: int
    posting_number: int
    sequence: int
    chain_head: bytes
    recorded_at: datetime | None
    linked: list[str]
    alias_of: str | None
    alias_at: datetime | None
    merge_id: str | None


class PostingRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `posting`."""

    customer_id: str
    number: int
    event_key: UUID
    told_to: str | None
    content_hash: bytes
    recorded_at: datetime
    catalogue_version: int
    rules_version: int
    hash: bytes


class EntryRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `entry`; `terms` is JSON text."""

    customer_id: str
    posting: int
    line: int
    recorded_at: datetime
    entitlement: str
    kind: str
    units: int
    at: datetime
    grant_id: UUID | None
    usage_key: UUID | None
    cut_id: str | None
    terms: str | None


class EventRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `event`."""

    customer_id: str
    event_key: UUID
    content_hash: bytes
    event_source: str
    event_id: str
    type: str
    source_key: str | None
    entitlement: str | None
    units: int | None
    counted_at: datetime | None
    source_version: int | None
    occurred_at: datetime
    recorded_at: datetime
    outcome: str
    payload: bytes
    topic: str | None
    partition: int | None
    offset: int | None


class GrantRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `grant`; `terms` is msgpack."""

    customer_id: str
    grant_id: UUID
    entitlement: str
    source_key: str
    amount: int | None
    effective_at: datetime
    expires_at: datetime | None
    phase: str
    set_by: int
    granted: int
    available: int
    held: int
    used: int
    expired: int
    revoked: int
    moved: int
    short: int
    parent_id: UUID | None
    terms: bytes


class AccountRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `account`; `carried` is msgpack."""

    customer_id: str
    entitlement: str
    usage: int
    used_total: int
    overage: int
    debt: int
    forgiven: int
    settled_at: datetime | None
    settled_tie: str
    carried: bytes | None
    last_end: datetime | None
    level: int | None
    next_transition_at: datetime | None
    stated_until: datetime | None
    since_state: int
    allowance: int | None
    used: int
    held: int


class DayStateRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `day_state`; `state` is msgpack."""

    customer_id: str
    entitlement: str
    at: datetime
    posting: int
    state: bytes


class SourceRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `source` with the customer that `source_owner` names."""

    customer_id: str
    source_key: str
    state: bytes
    owner: str | None


class OutboxRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `outbox` that holds a change."""

    customer_id: str
    sequence: int
    timeline: int
    lane: int
    change_id: UUID
    payload: bytes
    ce_type: str
    recorded_at: datetime


class CustomerRows(msgspec.Struct, kw_only=True):
    """Everything stored of one customer, each list in key order. `customer` is None when only other rows name it."""

    customer_id: str
    customer: CustomerRow | None
    postings: list[PostingRow]
    entries: list[EntryRow]
    events: list[EventRow]
    grants: list[GrantRow]
    accounts: list[AccountRow]
    states: list[DayStateRow]
    sources: list[SourceRow]
    outbox: list[OutboxRow]


class Unread:
    """What of a group's rows cannot be read, each named by a finding: what follows from it is left out of the proof.

    `sources` are the keys of those whose state, or any fact, is unknown; `usage` the entitlements of which a usage or
    a reversal is; `accounts` those of a customer and an entitlement of which a grant, or what they carry, is; `said`
    the grants of which the terms of an entry are.
    """

    def __init__(self, *, is_catalogue_known: bool) -> None:
        self.sources: set[str] = set()
        self.usage: set[str] = set()
        self.accounts: set[tuple[str, str]] = set()
        self.said: set[UUID] = set()
        self._is_catalogue_known = is_catalogue_known

    def leaves_out_source(self, source_key: str) -> bool:
        """Whether what the source gives cannot be known."""
        return not self._is_catalogue_known or source_key in self.sources

    def leaves_out_account(self, customer_id: str, entitlement: str) -> bool:
        """Whether the account cannot be settled again."""
        is_unread = entitlement in self.usage or (customer_id, entitlement) in self.accounts
        return is_unread or not self._is_catalogue_known


class Member:
    """One customer of a group under proof, its accounts by entitlement, and what the checks have read of its rows.

    `events` are those of its inbox by key, `facts` those about sources, `reversed` those of reversals; `usage`,
    `holds`, `reversals`, `lines` and `grants` are by entitlement. `said` is the posting that last set the terms of each
    grant, and the terms. `merge` is the one that made the customer an alias, by its inbox, recorded at `merged_since`;
    `has_aliases` that the person has other ids. `seats` are its events about seats, `holders` by entitlement what all
    of the group come to. `settled` are the entitlements whose account settled again is as booked. `unread` is of
    the whole group.
    """

    def __init__(self, rows: CustomerRows, unread: Unread) -> None:
        self.customer_id = rows.customer_id
        self.rows = rows
        self.unread = unread
        self.accounts: dict[str, Account] = {}
        self.events: dict[UUID, EventRow] = {}
        self.facts: list[tuple[EventRow, Event]] = []
        self.merge: Merge | None = None
        self.merged_since: datetime | None = None
        self.seats: list[tuple[EventRow, SeatFact]] = []
        self.holders: dict[str, tuple[Holder, ...]] = {}
        self.has_aliases = False
        self.usage: dict[str, list[UsageFact]] = defaultdict(list)
        self.reversals: dict[str, list[Reversal]] = defaultdict(list)
        self.holds: dict[str, list[Hold]] = defaultdict(list)
        self.reversed: list[tuple[EventRow, UsageReversed]] = []
        self.lines: dict[str, list[Line]] = defaultdict(list)
        self.said: dict[UUID, tuple[int, GrantTerms]] = {}
        self.grants: dict[str, list[Grant]] = defaultdict(list)
        self.settled: set[str] = set()


def event_name(row: EventRow) -> str:
    """How a finding names an event."""
    return f"event {row.event_id} of {row.event_source}"


def grant_name(grant_id: UUID) -> str:
    """How a finding names a grant."""
    return f"grant {grant_id}"
