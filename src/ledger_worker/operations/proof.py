"""The proof of one customer: everything that is stored of it, recomputed, and what does not agree, named.

Pure: rows in, findings out; where the rows come from is `verify`'s matter. Nothing is taken from the rows that can be
worked out from others. What an event says is hashed again, what a posting did is hashed again, the entries are added
up to the counters of grants and accounts, the facts are folded again to the terms of the grants, and each account is
settled again from nothing. So a row that was changed, lost or swapped disagrees with at least one other, and the
finding names it.

The checks of one customer are made in the order of `Check`, which is from cause to effect: the first finding is the
nearest to what went wrong, those after it often follow from it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain
from uuid import UUID

import msgspec

from ledger_worker.domain.access import level_of, shown_units
from ledger_worker.domain.catalogue import Catalogue, Entitlement, EntitlementType
from ledger_worker.domain.events import Event, SourceFact, UsageRecorded, content_hash, event_key, fact_bytes, fact_of
from ledger_worker.domain.events import source_key as source_key_of
from ledger_worker.domain.ledger import (
    EFFECTS,
    NEVER,
    Account,
    Entry,
    Grant,
    GrantTerms,
    Kind,
    Line,
    Phase,
    UsageFact,
    posting_hash,
)
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.settlement import Book, BookedGrant, History, usage_tie
from ledger_worker.domain.sources import RecordedFact, SourceState, fold
from ledger_worker.errors import BadBytesError
from ledger_worker.kafka.murmur2 import murmur2
from ledger_worker.wire.decode import decode_change

__all__ = [
    "AccountRow",
    "Check",
    "CustomerRow",
    "CustomerRows",
    "EntryRow",
    "EventRow",
    "Finding",
    "GrantRow",
    "OutboxRow",
    "PostingRow",
    "Published",
    "SourceRow",
    "prove",
]


class Check(StrEnum):
    """What is recomputed, in the order in which it is done for one customer; the last two are of the whole ledger."""

    EVENT = "event"
    """The key, the content hash and the columns of each event follow from its id and its payload."""
    POSTING = "posting"
    """Postings are numbered from 1 without a gap, their instants rise, and each is of an event with its content."""
    HASH_CHAIN = "hash_chain"
    """Each posting's hash is that of the hash before it and of its own content."""
    ENTRY = "entry"
    """Each entry is a numbered line of a posting that exists."""
    CUSTOMER = "customer"
    """The customer stands at its last posting, and its lane follows from its id."""
    SOURCE = "source"
    """The recorded facts, folded again, give the stored state; the source belongs to the customer."""
    TERMS = "terms"
    """The grants are those that the sources give, and stand as their entries last said."""
    UNITS = "units"
    """The entries add up to the counters of each grant and account, and no unit came from nowhere or is gone."""
    USAGE = "usage"
    """The lines about each usage add up to the units that were used."""
    SETTLEMENT = "settlement"
    """Each account, settled again from nothing, is covered as it is booked."""
    CHECK_PATH = "check_path"
    """What an access check reads of an account is what the settled account shows."""
    OUTBOX = "outbox"
    """What waits to be published is the end of the customer's sequence, without a gap."""
    SOURCE_OWNER = "source_owner"
    """Each owner of a source has that source."""
    INPUT_PARTITION = "input_partition"
    """The records counted of each input partition are its events, duplicates and dead letters."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One row that does not agree with the others: `row` names it within its customer, `message` says why.

    `customer_id` is None where the row belongs to no customer.
    """

    check: Check
    customer_id: str | None
    row: str
    message: str


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What everything was decided by: the catalogue, and each version of each entitlement's policies."""

    catalogue: Catalogue
    versions: Mapping[str, tuple[Entitlement, ...]]
    lanes: int
    timeline: int


class CustomerRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `customer`."""

    customer_id: str
    key_hash: int
    posting_number: int
    sequence: int
    chain_head: bytes
    recorded_at: datetime | None


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
    terms: bytes


class AccountRow(msgspec.Struct, frozen=True, gc=False):
    """What a check reads of a row of `account`; the rest comes as `ledger.Account`."""

    customer_id: str
    entitlement: str
    allowance: int | None
    used: int
    held: int


class SourceRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `source` with the owner that `source_owner` names."""

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


class CustomerRows(msgspec.Struct, kw_only=True):
    """Everything stored of one customer, each list in key order. `customer` is None when only other rows name it."""

    customer_id: str
    customer: CustomerRow | None
    postings: list[PostingRow]
    entries: list[EntryRow]
    events: list[EventRow]
    grants: list[GrantRow]
    accounts: list[AccountRow]
    sources: list[SourceRow]
    outbox: list[OutboxRow]


Report = Callable[[Check, str, str], None]
"""Takes a finding of the customer at hand: the check, the row, and the message."""


def prove(
    rows: CustomerRows, accounts: Mapping[str, Account], published: Published, report: Report
) -> tuple[Counter[Check], int]:
    """Every check of one customer was made; how many things each looked at, and how many accounts cannot be proven.

    `accounts` are the customer's accounts by entitlement. An account cannot be proven when its entitlement's policies
    for debt or overage changed under it: it is settled by a mixture of them.
    """
    proof = _Proof(rows, accounts, published, report)
    proof.run()
    return proof.looked_at, proof.unproven


_GRANT_COUNTERS = ("granted", "available", "held", "used", "expired", "revoked", "moved")
_ACCOUNT_COUNTERS = ("usage", "used_total", "overage", "debt", "forgiven")
_GRANT_EFFECTS = {
    kind: tuple((place, getattr(effect, name)) for place, name in enumerate(_GRANT_COUNTERS) if getattr(effect, name))
    for kind, effect in EFFECTS.items()
}
_ACCOUNT_EFFECTS = {
    kind: tuple((place, getattr(effect, name)) for place, name in enumerate(_ACCOUNT_COUNTERS) if getattr(effect, name))
    for kind, effect in EFFECTS.items()
}
_KINDS = {kind.value: kind for kind in Kind}
_TERMS_JSON = msgspec.json.Decoder(GrantTerms)
_TERMS = msgspec.msgpack.Decoder(GrantTerms)
_STATE = msgspec.msgpack.Decoder(SourceState)
_OUTCOMES = frozenset(outcome.value for outcome in Outcome)
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_SHOWN_LINES_MAX = 3
_USED = _GRANT_COUNTERS.index("used")


class _Proof:
    """One customer under proof. Each method is one check and leaves what later ones need."""

    def __init__(
        self, rows: CustomerRows, accounts: Mapping[str, Account], published: Published, report: Report
    ) -> None:
        self._rows = rows
        self._accounts = accounts
        self._published = published
        self._report = report
        self.looked_at: Counter[Check] = Counter()
        self.unproven = 0
        self._events: dict[UUID, EventRow] = {}
        self._facts: dict[str, list[Event]] = defaultdict(list)
        self._usage: dict[str, list[UsageFact]] = defaultdict(list)
        self._lines: dict[str, list[Line]] = defaultdict(list)
        self._said: dict[UUID, tuple[int, GrantTerms]] = {}
        self._grants: dict[str, list[Grant]] = defaultdict(list)

    def run(self) -> None:
        """Every check, from cause to effect."""
        self._check_events()
        entries_of = self._entries_by_posting()
        self._check_postings(entries_of)
        self._check_entries(entries_of)
        self._check_customer()
        given = self._check_sources()
        self._check_terms(given)
        self._check_units()
        self._check_usage()
        for row in self._rows.accounts:
            self._check_account(row)
        self._check_outbox()

    # -- events --

    def _check_events(self) -> None:
        instants: set[datetime] = set()
        for row in self._rows.events:
            self.looked_at[Check.EVENT] += 1
            self._events[row.event_key] = row
            if row.recorded_at in instants:
                self._event_is_wrong(
                    row, f"recorded_at is {row.recorded_at.isoformat()}, expected an instant of its own"
                )
            instants.add(row.recorded_at)
            try:
                fact = fact_of(row.payload)
            except msgspec.MsgspecError as error:
                self._event_is_wrong(row, f"the payload is no fact: {error}")
                continue
            event = Event(
                event_source=row.event_source,
                event_id=row.event_id,
                customer_id=row.customer_id,
                occurred_at=row.occurred_at,
                fact=fact,
                source_version=row.source_version,
            )
            self._check_columns(row, event)
            if isinstance(fact, UsageRecorded):
                at = min(row.occurred_at, row.recorded_at) if row.counted_at is None else row.counted_at
                tie = usage_tie(row.event_source, row.event_id)
                usage = UsageFact(usage_key=row.event_key, at=at, units=fact.units, tie=tie)
                self._usage[fact.entitlement].append(usage)
            elif isinstance(fact, SourceFact) and row.outcome != Outcome.AWAITING_TRANSFER:
                self._facts[source_key_of(fact)].append(event)

    def _check_columns(self, row: EventRow, event: Event) -> None:
        key = event_key(row.event_source, row.event_id)
        if row.event_key != key:
            self._event_is_wrong(row, f"event_key is {row.event_key}, expected {key} by its source and id")
        hashed = content_hash(event, row.payload)
        if row.content_hash != hashed:
            self._event_is_wrong(row, f"content_hash is {row.content_hash.hex()}, but its content gives {hashed.hex()}")
        fact = event.fact
        if fact_bytes(fact) != row.payload:
            self._event_is_wrong(row, "the payload is not in its canonical form")
        source = entitlement = units = counted_at = None
        if isinstance(fact, UsageRecorded):
            entitlement, units, counted_at = fact.entitlement, fact.units, min(row.occurred_at, row.recorded_at)
        elif isinstance(fact, SourceFact):
            source = source_key_of(fact)
        else:
            entitlement = fact.entitlement
        expected = (type(fact).__name__, source, entitlement, units, counted_at)
        stored = (row.type, row.source_key, row.entitlement, row.units, row.counted_at)
        if stored != expected:
            names = ("type", "source_key", "entitlement", "units", "counted_at")
            differing = _differing(names, stored, expected)
            self._event_is_wrong(row, f"{differing} by its payload")
        if row.outcome not in _OUTCOMES:
            self._event_is_wrong(row, f"outcome is {row.outcome}, expected one of the closed list")

    def _event_is_wrong(self, row: EventRow, message: str) -> None:
        self._report(Check.EVENT, f"event {row.event_id} of {row.event_source}", message)

    # -- postings and entries --

    def _entries_by_posting(self) -> dict[int, list[EntryRow]]:
        entries_of: dict[int, list[EntryRow]] = defaultdict(list)
        for row in self._rows.entries:
            entries_of[row.posting].append(row)
        return entries_of

    def _check_postings(self, entries_of: dict[int, list[EntryRow]]) -> None:
        previous: bytes | None = bytes(32)
        expected = 1
        last: datetime | None = None
        posted: set[UUID] = set()
        for row in self._rows.postings:
            self.looked_at[Check.POSTING] += 1
            name = f"posting {row.number}"
            if row.number != expected:
                missing = (
                    f"posting {expected}" if row.number == expected + 1 else f"postings {expected} to {row.number - 1}"
                )
                self._report(Check.POSTING, missing, f"missing before {name}")
                previous = None
            if last is not None and row.recorded_at <= last:
                message = f"recorded_at is {row.recorded_at.isoformat()}, expected after {last.isoformat()}"
                self._report(Check.POSTING, name, message)
            if row.event_key in posted:
                self._report(Check.POSTING, name, f"a second posting of event {row.event_key}, expected one")
            posted.add(row.event_key)
            self._check_cause(row, name)
            self._check_link(row, name, previous, entries_of.pop(row.number, ()))
            previous, expected, last = row.hash, row.number + 1, row.recorded_at

    def _check_cause(self, row: PostingRow, name: str) -> None:
        event = self._events.get(row.event_key)
        if event is None:
            self._report(Check.POSTING, name, f"its event {row.event_key} is not in the inbox")
            return
        names = ("content_hash", "recorded_at", "told_to")
        stored = (row.content_hash, row.recorded_at, row.told_to)
        expected = (event.content_hash, event.recorded_at, None)
        if stored != expected:
            self._report(Check.POSTING, name, f"{_differing(names, stored, expected)} by event {event.event_id}")

    def _check_link(self, row: PostingRow, name: str, previous: bytes | None, rows: Sequence[EntryRow]) -> None:
        self.looked_at[Check.HASH_CHAIN] += 1
        entries = [self._entry(place, entry, row) for place, entry in enumerate(rows)]
        whole = [entry for entry in entries if entry is not None]
        if previous is None or len(whole) != len(entries):
            return
        hashed = posting_hash(
            previous,
            row.customer_id,
            row.number,
            row.event_key,
            row.content_hash,
            row.recorded_at,
            row.catalogue_version,
            row.rules_version,
            whole,
        )
        if hashed != row.hash:
            message = f"hash is {row.hash.hex()}, but it and its entries behind the posting before give {hashed.hex()}"
            self._report(Check.HASH_CHAIN, name, message)

    def _entry(self, place: int, row: EntryRow, posting: PostingRow) -> Entry | None:
        """The entry as the value that was hashed; None when the row is none."""
        self.looked_at[Check.ENTRY] += 1
        name = f"entry {row.posting}/{row.line}"
        if (row.line, row.recorded_at) != (place, posting.recorded_at):
            differing = _differing(("line", "recorded_at"), (row.line, row.recorded_at), (place, posting.recorded_at))
            self._report(Check.ENTRY, name, f"{differing} by its posting")
        kind = _KINDS.get(row.kind)
        terms = None
        try:
            terms = None if row.terms is None else _TERMS_JSON.decode(row.terms)
        except msgspec.MsgspecError as error:
            self._report(Check.ENTRY, name, f"its terms cannot be read: {error}")
            return None
        if kind is None:
            self._report(Check.ENTRY, name, f"kind is {row.kind}, expected one of the closed list")
            return None
        line = Line(kind, row.at, row.grant_id, row.usage_key, row.cut_id, row.units)
        self._lines[row.entitlement].append(line)
        if terms is not None:
            self._said[terms.grant_id] = (row.posting, terms)
        return Entry(entitlement=row.entitlement, line=line, terms=terms)

    def _check_entries(self, left_over: Mapping[int, Sequence[EntryRow]]) -> None:
        for number, rows in left_over.items():
            self.looked_at[Check.ENTRY] += len(rows)
            self._report(Check.ENTRY, f"entry {number}/{rows[0].line}", f"there is no posting {number}")

    # -- the customer --

    def _check_customer(self) -> None:
        self.looked_at[Check.CUSTOMER] += 1
        row = self._rows.customer
        if row is None:
            self._report(Check.CUSTOMER, "customer", "there is no row of the customer that other rows name")
            return
        last = self._rows.postings[-1] if self._rows.postings else None
        names = ("posting_number", "chain_head", "key_hash")
        stored = (row.posting_number, row.chain_head, row.key_hash)
        expected = (last.number if last else 0, last.hash if last else bytes(32), murmur2(row.customer_id))
        if stored != expected:
            self._report(Check.CUSTOMER, "customer", f"{_differing(names, stored, expected)}")
        recorded = max((event.recorded_at for event in self._rows.events), default=None)
        if recorded is not None and (row.recorded_at is None or row.recorded_at < recorded):
            message = (
                f"recorded_at is {_shown(row.recorded_at)}, expected at least {_shown(recorded)} as its last event"
            )
            self._report(Check.CUSTOMER, "customer", message)

    # -- sources and terms --

    def _check_sources(self) -> dict[str, dict[UUID, GrantTerms]]:
        """Returns the grants that each source gives by its facts."""
        given: dict[str, dict[UUID, GrantTerms]] = {}
        for row in self._rows.sources:
            self.looked_at[Check.SOURCE] += 1
            name = f"source {row.source_key}"
            if row.owner != row.customer_id:
                self._report(
                    Check.SOURCE, name, f"source_owner names {row.owner or 'nobody'}, expected {row.customer_id}"
                )
            facts = self._facts.pop(row.source_key, [])
            if not facts:
                self._report(Check.SOURCE, name, "no event in the inbox speaks of it")
                continue
            try:
                stored = _STATE.decode(row.state)
            except msgspec.MsgspecError as error:
                self._report(Check.SOURCE, name, f"its state cannot be read: {error}")
                continue
            state, terms = _refold(facts, row.source_key, self._published.catalogue, stored.catalogue_version)
            if stored.catalogue_version > self._published.catalogue.version:
                message = f"folded with catalogue {stored.catalogue_version}, expected at most the published one"
                self._report(Check.SOURCE, name, message)
            if msgspec.msgpack.encode(state) != row.state:
                message = f"its state holds {len(stored.facts)} facts that are not what the {len(facts)} recorded give"
                self._report(Check.SOURCE, name, message)
            given[row.source_key] = {grant.grant_id: grant for grant in terms}
        for key in self._facts:
            self._report(Check.SOURCE, f"source {key}", "events speak of it, but it has no row")
        return given

    def _check_terms(self, given: Mapping[str, Mapping[UUID, GrantTerms]]) -> None:
        booked: set[UUID] = set()
        for row in self._rows.grants:
            self.looked_at[Check.TERMS] += 1
            name = f"grant {row.grant_id}"
            booked.add(row.grant_id)
            try:
                grant = _grant(row)
            except (msgspec.MsgspecError, ValueError) as error:
                self._report(Check.TERMS, name, f"it cannot be read: {error}")
                continue
            terms = grant.terms
            self._grants[row.entitlement].append(grant)
            names = ("grant_id", "entitlement", "source_key", "amount", "effective_at", "expires_at")
            stored = (row.grant_id, row.entitlement, row.source_key, row.amount, row.effective_at, row.expires_at)
            by_terms = tuple(getattr(terms, field) for field in names)
            if stored != by_terms:
                self._report(Check.TERMS, name, f"{_differing(names, stored, by_terms)} by its terms")
            posting, said = self._said.get(row.grant_id, (0, None))
            if said != terms:
                message = "no entry sets its terms" if said is None else f"its terms are not those of posting {posting}"
                self._report(Check.TERMS, name, message)
            is_void = grant.phase is Phase.VOID
            if row.set_by != posting and not (is_void and row.set_by > posting):
                self._report(Check.TERMS, name, f"set_by is {row.set_by}, expected {posting}")
            expected = given.get(row.source_key, {}).get(row.grant_id)
            if is_void != (expected is None):
                message = "it is void, but its source gives it" if is_void else "its source does not give it"
                self._report(Check.TERMS, name, message)
            elif expected is not None and expected != terms:
                self._report(Check.TERMS, name, "its terms are not those that its source gives")
        for source_key, grants in given.items():
            for grant_id in grants.keys() - booked:
                self._report(Check.TERMS, f"grant {grant_id}", f"source {source_key} gives it, but it is not booked")

    # -- units --

    def _check_units(self) -> None:
        counted: dict[UUID, list[int]] = defaultdict(lambda: [0] * len(_GRANT_COUNTERS))
        for line in chain.from_iterable(self._lines.values()):
            if line.grant_id is not None:
                counters = counted[line.grant_id]
                for place, sign in _GRANT_EFFECTS[line.kind]:
                    counters[place] += sign * line.units
        used_of: Counter[str] = Counter()
        for row in self._rows.grants:
            self.looked_at[Check.UNITS] += 1
            expected = counted.pop(row.grant_id, [0] * len(_GRANT_COUNTERS))
            if row.amount is None:
                # Without an amount nothing is counted but what was used of it.
                expected = [units if place == _USED else 0 for place, units in enumerate(expected)]
            stored = [row.granted, row.available, row.held, row.used, row.expired, row.revoked, row.moved]
            used_of[row.entitlement] += row.used
            name = f"grant {row.grant_id}"
            if stored != expected:
                self._report(Check.UNITS, name, f"{_differing(_GRANT_COUNTERS, stored, expected)} by its entries")
            elif row.amount is not None and (sum(stored[1:]) != row.granted or not self._is_as_granted(row)):
                self._report(Check.UNITS, name, "its units do not add up to what was granted")
        for grant_id in counted:
            self._report(Check.UNITS, f"grant {grant_id}", "entries speak of it, but it has no row")
        for entitlement, account in self._accounts.items():
            self.looked_at[Check.UNITS] += 1
            self._check_account_units(entitlement, account, used_of[entitlement])
        for entitlement in self._lines.keys() - self._accounts.keys():
            self._report(Check.UNITS, f"account {entitlement}", "entries speak of it, but it has no row")

    @staticmethod
    def _is_as_granted(row: GrantRow) -> bool:
        return row.granted == (0 if row.phase == Phase.VOID else row.amount)

    def _check_account_units(self, entitlement: str, account: Account, used: int) -> None:
        name = f"account {entitlement}"
        expected = [0] * len(_ACCOUNT_COUNTERS)
        for line in self._lines.get(entitlement, ()):
            for place, sign in _ACCOUNT_EFFECTS[line.kind]:
                expected[place] += sign * line.units
        stored = [account.usage, account.used_total, account.overage, account.debt, account.forgiven]
        if stored != expected:
            self._report(Check.UNITS, name, f"{_differing(_ACCOUNT_COUNTERS, stored, expected)} by its entries")
        elif account.usage != sum(stored[1:]) or account.used_total != used:
            self._report(
                Check.UNITS, name, f"its usage does not add up, or used_total is not the {used} used of its grants"
            )

    def _check_usage(self) -> None:
        counted: dict[tuple[str, UUID], int] = defaultdict(int)
        for entitlement, lines in self._lines.items():
            for line in lines:
                if line.usage_key is not None:
                    counted[entitlement, line.usage_key] += EFFECTS[line.kind].usage * line.units
        for entitlement, facts in self._usage.items():
            for fact in facts:
                self.looked_at[Check.USAGE] += 1
                booked = counted.pop((entitlement, fact.usage_key), 0)
                if booked != fact.units:
                    event = self._events[fact.usage_key]
                    message = f"{fact.units} units of {entitlement} were used, but {booked} are booked"
                    self._report(Check.USAGE, f"event {event.event_id} of {event.event_source}", message)
        for (entitlement, key), units in counted.items():
            if units:
                message = f"{units} units of {entitlement} are booked for it, but it is not in the inbox"
                self._report(Check.USAGE, f"event {key}", message)

    # -- settlement --

    def _check_account(self, row: AccountRow) -> None:
        account = self._accounts.get(row.entitlement)
        versions = self._published.versions.get(row.entitlement)
        name = f"account {row.entitlement}"
        self.looked_at[Check.SETTLEMENT] += 1
        if account is None or not versions:
            self._report(Check.SETTLEMENT, name, "its entitlement was never published")
            return
        history = History(
            grants=tuple(self._grants.get(row.entitlement, ())),
            usage=tuple(self._usage.get(row.entitlement, ())),
            lines=tuple(self._lines.get(row.entitlement, ())),
        )
        settled = _Settled(versions[-1], account, history)
        wrong = settled.wrong()
        if wrong and len({(version.debt, version.overage) for version in versions}) > 1:
            self.unproven += 1
            return
        for message in wrong:
            self._report(Check.SETTLEMENT, name, message)
        if wrong:
            return
        self.looked_at[Check.CHECK_PATH] += 1
        at = account.settled_at or _BEGINNING
        names: tuple[str, ...] = ("allowance", "used", "held")
        stored: tuple[object, ...] = (row.allowance, row.used, row.held)
        expected: tuple[object, ...] = shown_units(settled.run, at)
        if len({version.thresholds for version in versions}) == 1:
            is_quota = versions[-1].type is EntitlementType.QUOTA
            names = (*names, "level")
            stored = (*stored, account.level)
            expected = (*expected, level_of(settled.run, at) if is_quota else None)
        if stored != expected:
            self._report(Check.CHECK_PATH, name, f"{_differing(names, stored, expected)} by what is settled")

    # -- outbox --

    def _check_outbox(self) -> None:
        rows = self._rows.outbox
        customer = self._rows.customer
        if customer is None:
            return
        hashes = {posting.number: posting.hash for posting in self._rows.postings}
        for row, sequence in zip(rows, range(customer.sequence - len(rows) + 1, customer.sequence + 1), strict=True):
            self.looked_at[Check.OUTBOX] += 1
            name = f"change {row.sequence}"
            if row.sequence != sequence:
                message = f"sequence is {row.sequence}, expected {sequence}: the customer has told {customer.sequence}"
                self._report(Check.OUTBOX, name, message)
                return
            try:
                change = decode_change(row.payload)
            except BadBytesError as error:
                self._report(Check.OUTBOX, name, f"its payload cannot be read: {error}")
                continue
            names = ("customer_id", "timeline", "sequence", "change_id", "lane", "posting_hash")
            lane = customer.key_hash % self._published.lanes
            stored = (row.customer_id, row.timeline, row.sequence, row.change_id, row.lane, change.posting_hash)
            ids = (change.customer_id, change.timeline, change.sequence, change.change_id)
            expected = (*ids, lane, hashes.get(change.posting))
            if stored != expected:
                self._report(Check.OUTBOX, name, f"{_differing(names, stored, expected)}")


class _Settled:
    """An account beside a run from nothing over the same terms and usage, up to the place where the account stands."""

    def __init__(self, entitlement: Entitlement, account: Account, history: History) -> None:
        self._account = account
        self._history = history
        self.run = Book(entitlement, Account(entitlement=entitlement.key), ())
        for grant in history.grants:
            phase = Phase.VOID if grant.phase is Phase.VOID else Phase.PENDING
            self.run.grants[grant.terms.grant_id] = BookedGrant(grant.terms, phase, grant.set_by, burns=[])
        self._lines = self.run.run_all(history.usage, (account.settled_at or _BEGINNING, account.settled_tie))

    def wrong(self) -> list[str]:
        """What does not agree, a sentence each."""
        difference = _line_difference(self._history.lines, self._lines)
        if difference:
            shown = "; ".join(_line_text(line) for line in difference[:_SHOWN_LINES_MAX])
            more = len(difference) - _SHOWN_LINES_MAX
            return [f"settled again, there is to be booked: {shown}{f' and {more} lines more' if more > 0 else ''}"]
        self.run.touched.update(self.run.grants)
        grants = {grant.terms.grant_id: grant for grant in self.run.touched_grants()}
        messages = [
            f"grant {grant.terms.grant_id}: {_differing_fields(grant, grants[grant.terms.grant_id])}"
            for grant in self._history.grants
            if grant != grants[grant.terms.grant_id]
        ]
        expected = msgspec.structs.replace(self.run.account, level=self._account.level, next_transition_at=_BEGINNING)
        ahead = Book(self.run.entitlement, expected, grants.values()).due(NEVER)
        expected = msgspec.structs.replace(expected, next_transition_at=ahead[0].place[0] if ahead else None)
        if self._account != expected:
            messages.insert(0, _differing_fields(self._account, expected))
        return messages


def _refold(
    facts: Sequence[Event], source_key: str, catalogue: Catalogue, version: int
) -> tuple[SourceState, tuple[GrantTerms, ...]]:
    """State and terms of a source by its facts, told in any order, with the catalogue of `version`."""
    *others, last = facts
    known = tuple(
        (
            event.occurred_at,
            RecordedFact(
                event_source=event.event_source,
                event_id=event.event_id,
                occurred_at=event.occurred_at,
                fact=event.fact,
                source_version=event.source_version,
            ),
        )
        for event in others
        if isinstance(event.fact, SourceFact)
    )
    then = msgspec.structs.replace(catalogue, version=version)
    folded = fold(SourceState(facts=known, catalogue_version=version), last, source_key, then)
    return folded.state, folded.terms


def _grant(row: GrantRow) -> Grant:
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
    )


def _line_difference(booked: Iterable[Line], settled: Iterable[Line]) -> list[Line]:
    units: dict[tuple[Kind, datetime, UUID | None, UUID | None, str | None], int] = defaultdict(int)
    for line in settled:
        units[line.identity()] += line.units
    for line in booked:
        units[line.identity()] -= line.units
    return [Line(*identity, missing) for identity, missing in units.items() if missing]


def _line_text(line: Line) -> str:
    of = f" of grant {line.grant_id}" if line.grant_id else ""
    by = f" for usage {line.usage_key}" if line.usage_key else ""
    cut = f" by {line.cut_id}" if line.cut_id else ""
    return f"{line.kind} {line.units:+}{of}{by}{cut} at {line.at.isoformat()}"


def _differing(names: Sequence[str], stored: Sequence[object], expected: Sequence[object]) -> str:
    return ", ".join(
        f"{name} is {_shown(is_now)}, expected {_shown(should_be)}"
        for name, is_now, should_be in zip(names, stored, expected, strict=True)
        if is_now != should_be
    )


def _differing_fields(stored: msgspec.Struct, expected: msgspec.Struct) -> str:
    return _differing(stored.__struct_fields__, msgspec.structs.astuple(stored), msgspec.structs.astuple(expected))


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, datetime) else "none" if value is None else str(value)
