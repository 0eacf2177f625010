"""What becomes of events.

One customer, the events told of it in order, and everything loaded, to what is to be written.

Pure: reads only the events, the loaded state and the versions that the postings record. Whoever touches a customer
first books what has fallen due, each transition as an event of the ledger's own under a deterministic id (RULES 35).

Checks of an event are made in this order, and the first that applies decides: same id before (duplicate or conflicting
content), impossible value (more units than can be counted), too early, too late, unknown entitlement, wrong type; then
the outcomes of `outcomes.Outcome` in their order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid5

import msgspec

from ledger_worker.domain.access import picture, quiet_units, shown_units
from ledger_worker.domain.catalogue import Catalogue, EntitlementType
from ledger_worker.domain.changes import Cause, Change, EntitlementPicture
from ledger_worker.domain.events import (
    UNITS_MAX,
    Event,
    Fact,
    PurchaseCompleted,
    SourceFact,
    SubscriptionActivated,
    SubscriptionRenewed,
    TransitionsDue,
    UsageRecorded,
    content_hash,
    event_key,
    fact_bytes,
    source_key,
)
from ledger_worker.domain.ledger import (
    NEVER,
    RULES_VERSION,
    Account,
    Entry,
    Grant,
    GrantTerms,
    Kind,
    Line,
    Posting,
    UsageFact,
    posting_hash,
)
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from ledger_worker.domain.settlement import Book, History, HistoryNeeded, Transition, usage_tie
from ledger_worker.domain.sources import SourceState, fold

__all__ = [
    "AHEAD_MAX",
    "DUE_MAX",
    "BookedAccount",
    "CustomerHead",
    "Decided",
    "DecidedEvent",
    "Loaded",
    "NeedsHistory",
    "Refused",
    "Told",
    "TooManyDue",
    "book_due",
    "decide",
    "refusal",
]

AHEAD_MAX = timedelta(minutes=5)
"""How far ahead of the database's clock an event may be dated (RULES 18)."""
DUE_MAX = 100
"""Most transitions booked in one transaction for one customer (RULES 35)."""


class CustomerHead(msgspec.Struct, frozen=True, kw_only=True):
    """The lock row: where a customer's postings, changes and hash chain stand."""

    customer_id: str
    posting_number: int = 0
    sequence: int = 0
    chain_head: bytes = bytes(32)
    recorded_at: datetime | None = None
    is_parked: bool = False


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision about one customer reads.

    Sources it owns, accounts and open grants that may be touched, histories asked for.

    `owners` says who owns each source that the events speak of; a source without an owner is missing.
    """

    head: CustomerHead
    sources: Mapping[str, SourceState]
    owners: Mapping[str, str]
    accounts: Mapping[str, Account]
    grants: Sequence[Grant]
    histories: Mapping[str, History]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it is to be decided.

    Its inbox key, content hash and canonical payload, and the instant it is recorded at.

    `now` may be raised so that a customer's instants strictly increase. `known_hash` is the content hash under which
    the same id is in the inbox already.
    """

    event: Event
    key: UUID
    content_hash: bytes
    payload: bytes
    now: datetime
    known_hash: bytes | None = None


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
    """An account to be stored with what the check path reads of it; `limit` is None when unlimited or without units."""

    account: Account
    limit: int | None
    used: int
    held: int


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be written for one customer; `duplicates` are the places of events that were applied before.

    Events, postings and changes are each in the order of the customer's life.
    """

    head: CustomerHead
    events: tuple[DecidedEvent, ...]
    duplicates: tuple[int, ...]
    refused: tuple[Refused, ...]
    postings: tuple[Posting, ...]
    changes: tuple[Change, ...]
    accounts: tuple[BookedAccount, ...]
    grants: tuple[Grant, ...]
    sources: Mapping[str, SourceState]


class NeedsHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The decision reaches behind what was loaded: load the account's history and decide the customer again."""

    entitlement: str


class TooManyDue(msgspec.Struct, frozen=True, kw_only=True):
    """More than `DUE_MAX` transitions are due at `now`: book them first, in transactions of their own."""

    count: int
    now: datetime


def decide(
    loaded: Loaded,
    told: Sequence[Told],
    catalogue: Catalogue,
    *,
    timeline: int,
    usage_kept: timedelta,
) -> Decided | NeedsHistory | TooManyDue:
    """What becomes of `told`, in order, for the customer in `loaded`.

    `usage_kept` is how long the inbox keeps usage keys: older usage that it does not hold cannot be proven new.
    """
    decision = _Decision(loaded, catalogue, timeline, usage_kept)
    try:
        for place, one in enumerate(told):
            due = decision.take(place, one)
            if due > DUE_MAX:
                return TooManyDue(count=due, now=one.now)
    except HistoryNeeded as needed:
        return NeedsHistory(entitlement=needed.entitlement)
    return decision.decided()


def book_due(
    loaded: Loaded, now: datetime, catalogue: Catalogue, *, timeline: int, at_most: int = DUE_MAX
) -> Decided | NeedsHistory:
    """What is due for the customer at `now` is booked, at most `at_most` transitions, the earliest first."""
    decision = _Decision(loaded, catalogue, timeline, timedelta())
    try:
        decision.book_due(now, at_most)
    except HistoryNeeded as needed:
        return NeedsHistory(entitlement=needed.entitlement)
    return decision.decided()


def refusal(
    event: Event, now: datetime, catalogue: Catalogue, usage_kept: timedelta
) -> tuple[DeadLetterReason, str] | None:
    """Why an event that is new to its customer is a dead letter when told at `now`, with what was expected; or None."""
    given = _units_given(event.fact, catalogue)
    if given > UNITS_MAX:
        return DeadLetterReason.IMPOSSIBLE_VALUE, f"its offers give {given} units, expected at most {UNITS_MAX}"
    if event.occurred_at > now + AHEAD_MAX:
        return DeadLetterReason.TOO_EARLY, (
            f"occurred_at is {event.occurred_at.isoformat()}, expected at most five minutes ahead of {now.isoformat()}"
        )
    if not isinstance(event.fact, UsageRecorded):
        return None
    if event.occurred_at < now - usage_kept:
        return DeadLetterReason.TOO_LATE, (
            f"occurred_at is {event.occurred_at.isoformat()}, expected usage of the last {usage_kept.days} days"
        )
    entitlement = catalogue.entitlements.get(event.fact.entitlement)
    if entitlement is None:
        return DeadLetterReason.UNKNOWN_ENTITLEMENT, (
            f"entitlement {event.fact.entitlement} is not in the catalogue, expected one that is published"
        )
    if entitlement.type is not EntitlementType.QUOTA:
        return DeadLetterReason.WRONG_TYPE, (
            f"entitlement {event.fact.entitlement} is of type {entitlement.type}, expected a quota for usage"
        )
    return None


_LEDGER = "ledger"
_TRANSITION_NAMESPACE = UUID("0b9a7a0c-61ab-5c3d-8f0a-5f9f5a2a7c11")
_CHANGE_NAMESPACE = UUID("d3b1d6de-0a2b-5f60-9a55-0d8f3f3a1c02")
_MICROSECOND = timedelta(microseconds=1)


class _Decision:
    """One customer while its events are being decided. Books are opened as they are touched."""

    def __init__(self, loaded: Loaded, catalogue: Catalogue, timeline: int, usage_kept: timedelta) -> None:
        self._loaded = loaded
        self._catalogue = catalogue
        self._timeline = timeline
        self._usage_kept = usage_kept
        head = loaded.head
        self._customer_id = head.customer_id
        self._number = head.posting_number
        self._sequence = head.sequence
        self._chain_head = head.chain_head
        self._last = head.recorded_at
        self._grants: dict[str, list[Grant]] = {}
        for grant in loaded.grants:
            self._grants.setdefault(grant.terms.entitlement, []).append(grant)
        self._books: dict[str, Book] = {}
        self._pictures: dict[str, EntitlementPicture] = {}
        self._quiet: dict[str, int | None] = {}
        for entitlement in sorted(loaded.accounts):
            self._open(entitlement)
        self._dirty: set[str] = set()
        self._sources: dict[str, SourceState] = {}
        self._seen: dict[UUID, bytes] = {}
        self._events: list[DecidedEvent] = []
        self._duplicates: list[int] = []
        self._refused: list[Refused] = []
        self._postings: list[Posting] = []
        self._changes: list[Change] = []

    def take(self, place: int, told: Told) -> int:
        """One event is decided. Returns how many transitions were due; above `DUE_MAX` nothing was done."""
        known = told.known_hash or self._seen.get(told.key)
        if known is not None:
            if known == told.content_hash:
                self._duplicates.append(place)
            else:
                self._refuse(
                    place, DeadLetterReason.CONFLICTING_CONTENT, "this id was applied before with other content"
                )
            return 0
        refused = refusal(told.event, told.now, self._catalogue, self._usage_kept)
        if refused is not None:
            self._refuse(place, *refused)
            return 0
        now = told.now if self._last is None else max(told.now, self._last + _MICROSECOND)
        count = self._count_due(now)
        if count > DUE_MAX:
            return count
        if count:
            now = max(now, self.book_due(now, count) + _MICROSECOND)
        self._seen[told.key] = told.content_hash
        self._last = now
        if isinstance(told.event.fact, UsageRecorded):
            self._use(place, told, told.event.fact, now)
        else:
            self._fold(place, told, now)
        return count

    def book_due(self, now: datetime, at_most: int) -> datetime:
        """Up to `at_most` due transitions are booked, a microsecond apart, just before `now` where there is room.

        What happens to one entitlement at one instant is told once, with the last of it: a period that ends where the
        next one begins is no loss of access. Returns the last instant used.
        """
        due = sorted(
            (transition for book in self._books.values() for transition in book.due(now)),
            key=_transition_order,
        )[:at_most]
        instant = now - len(due) * _MICROSECOND
        if self._last is not None:
            instant = max(instant, self._last + _MICROSECOND)
        tells = {_moment(transition): place for place, transition in enumerate(due) if not transition.is_payment}
        before: dict[tuple[str, datetime], EntitlementPicture] = {}
        for place, transition in enumerate(due):
            moment = _moment(transition)
            was = before.setdefault(moment, self._picture(transition.entitlement, instant))
            if transition.is_payment:
                was = self._picture(transition.entitlement, instant)
            self._pass(transition, instant, was if transition.is_payment or tells[moment] == place else None)
            self._last = instant
            instant += _MICROSECOND
        return self._last or now

    def decided(self) -> Decided:
        """Everything that is to be written."""
        accounts = []
        grants: list[Grant] = []
        for entitlement in sorted(self._dirty):
            book = self._books[entitlement]
            limit, used, held = shown_units(book, self._last or NEVER)
            accounts.append(BookedAccount(account=book.account, limit=limit, used=used, held=held))
            grants += book.touched_grants()
        return Decided(
            head=CustomerHead(
                customer_id=self._customer_id,
                posting_number=self._number,
                sequence=self._sequence,
                chain_head=self._chain_head,
                recorded_at=self._last,
            ),
            events=tuple(self._events),
            duplicates=tuple(self._duplicates),
            refused=tuple(self._refused),
            postings=tuple(self._postings),
            changes=tuple(self._changes),
            accounts=tuple(accounts),
            grants=tuple(grants),
            sources=self._sources,
        )

    # -- checks --

    def _refuse(self, place: int, reason: DeadLetterReason, message: str) -> None:
        self._refused.append(Refused(told=place, reason=reason, message=message))

    # -- events --

    def _use(self, place: int, told: Told, fact: UsageRecorded, now: datetime) -> None:
        entitlement = fact.entitlement
        book = self._open(entitlement)
        counted_at = min(told.event.occurred_at, now)
        usage = UsageFact(
            usage_key=told.key,
            at=counted_at,
            units=fact.units,
            tie=usage_tie(told.event.event_source, told.event.event_id),
        )
        before = {} if self._is_quiet(book, usage, now) else {entitlement: self._picture(entitlement, now)}
        lines = book.use(usage, now)
        self._changed(entitlement)
        self._keep(place, told, now, Outcome.APPLIED, counted_at)
        entries = [Entry(entitlement=entitlement, line=line) for line in lines]
        self._post(told.event, told.key, told.content_hash, now, entries, before)

    def _fold(self, place: int, told: Told, now: datetime) -> None:
        fact = told.event.fact
        if not isinstance(fact, SourceFact):
            msg = f"{type(fact).__name__} cannot be told from outside"
            raise TypeError(msg)
        key = source_key(fact)
        if self._loaded.owners.get(key, self._customer_id) != self._customer_id:
            self._keep(place, told, now, Outcome.AWAITING_TRANSFER)
            return
        state = self._sources.get(key) or self._loaded.sources.get(key) or SourceState()
        folded = fold(state, told.event, key, self._catalogue)
        self._sources[key] = folded.state
        self._keep(place, told, now, folded.outcome)
        before = {terms.grant_id: terms for terms in folded.before}
        after = {terms.grant_id: terms for terms in folded.terms}
        changed = [grant_id for grant_id in before.keys() | after.keys() if before.get(grant_id) != after.get(grant_id)]
        if not changed:
            return
        entitlements = sorted(
            {terms[grant_id].entitlement for terms in (before, after) for grant_id in changed if grant_id in terms}
        )
        pictures = {}
        entries: list[Entry] = []
        for entitlement in entitlements:
            book = self._open(entitlement)
            pictures[entitlement] = self._picture(entitlement, now)
            old = _of(entitlement, before, changed)
            new = _of(entitlement, after, changed)
            self._quiet.pop(entitlement, None)
            lines = book.set_terms(old, new, self._number + 1, now)
            entries += _entries(entitlement, lines, new)
            self._changed(entitlement)
        self._post(told.event, told.key, told.content_hash, now, entries, pictures)

    def _pass(self, transition: Transition, now: datetime, before: EntitlementPicture | None) -> None:
        """The transition is booked, and told when `before`, the picture to compare with, is given."""
        entitlement = transition.entitlement
        book = self._books[entitlement]
        self._quiet.pop(transition.entitlement, None)
        lines = book.pass_transition(transition)
        self._changed(entitlement)
        event = self._transition_event(transition)
        payload = fact_bytes(event.fact)
        told = Told(
            event=event,
            key=event_key(event.event_source, event.event_id),
            content_hash=content_hash(event, payload),
            payload=payload,
            now=now,
        )
        entries = [Entry(entitlement=entitlement, line=line) for line in lines]
        pictures = {} if before is None else {entitlement: before}
        if self._post(event, told.key, told.content_hash, now, entries, pictures):
            self._keep(None, told, now, Outcome.APPLIED)

    def _transition_event(self, transition: Transition) -> Event:
        """The ledger's own event.

        Its id names the customer, what happens to which grant when, and the posting that set that.
        """
        name = (
            self._customer_id,
            transition.kind,
            str(transition.grant_id),
            transition.place[0].isoformat(timespec="microseconds"),
            transition.place[1],
            str(transition.set_by),
        )
        return Event(
            event_source=_LEDGER,
            event_id=str(uuid5(_TRANSITION_NAMESPACE, "\0".join(name))),
            customer_id=self._customer_id,
            occurred_at=transition.place[0],
            fact=TransitionsDue(
                entitlement=transition.entitlement,
                instant=transition.place[0],
                kind=transition.kind,
                grant_id=transition.grant_id,
            ),
        )

    # -- postings and changes --

    def _keep(
        self, place: int | None, told: Told, now: datetime, outcome: Outcome, counted_at: datetime | None = None
    ) -> None:
        self._events.append(
            DecidedEvent(
                told=place,
                event=told.event,
                key=told.key,
                content_hash=told.content_hash,
                payload=told.payload,
                recorded_at=now,
                outcome=outcome,
                counted_at=counted_at,
            )
        )

    def _post(
        self,
        event: Event,
        key: UUID,
        hashed: bytes,
        now: datetime,
        entries: Sequence[Entry],
        before: Mapping[str, EntitlementPicture],
    ) -> bool:
        """A posting is made of the entries, and every entitlement that differs is told. False when there is neither."""
        differing = []
        for entitlement, was in before.items():
            shown = self._picture(entitlement, now)
            kinds = _kinds(was, shown)
            self._books[entitlement].level = shown.level
            if kinds:
                differing.append((entitlement, was, shown, kinds))
        if not entries and not differing:
            return False
        self._number += 1
        self._chain_head = posting_hash(
            self._chain_head,
            self._customer_id,
            self._number,
            key,
            hashed,
            now,
            self._catalogue.version,
            RULES_VERSION,
            entries,
        )
        self._postings.append(
            Posting(
                number=self._number,
                event_key=key,
                content_hash=hashed,
                recorded_at=now,
                catalogue_version=self._catalogue.version,
                rules_version=RULES_VERSION,
                entries=tuple(entries),
                hash=self._chain_head,
            )
        )
        for entitlement, was, shown, kinds in differing:
            self._tell(event, now, entitlement, was, shown, kinds, entries)
        return True

    def _tell(
        self,
        event: Event,
        now: datetime,
        entitlement: str,
        was: EntitlementPicture,
        shown: EntitlementPicture,
        kinds: tuple[str, ...],
        entries: Iterable[Entry],
    ) -> None:
        self._sequence += 1
        lines = [entry.line for entry in entries if entry.entitlement == entitlement]
        name = f"{self._customer_id}\0{self._timeline}\0{self._sequence}"
        self._changes.append(
            Change(
                change_id=uuid5(_CHANGE_NAMESPACE, name),
                customer_id=self._customer_id,
                timeline=self._timeline,
                sequence=self._sequence,
                entitlement=entitlement,
                kinds=kinds,
                before=was,
                after=shown,
                cause=Cause(
                    event_source=event.event_source,
                    event_id=event.event_id,
                    type=type(event.fact).__name__,
                    occurred_at=event.occurred_at,
                ),
                effective_at=min((line.at for line in lines if line.units), default=event.occurred_at),
                recorded_at=now,
                posting=self._number,
                posting_hash=self._chain_head,
                correction=any(line.units < 0 for line in lines),
            )
        )

    # -- books --

    def _open(self, entitlement: str) -> Book:
        book = self._books.get(entitlement)
        if book is None:
            account = self._loaded.accounts.get(entitlement) or Account(entitlement=entitlement)
            book = Book(
                self._catalogue.entitlements[entitlement],
                account,
                self._grants.get(entitlement, ()),
                self._loaded.histories.get(entitlement),
            )
            self._books[entitlement] = book
        return book

    def _picture(self, entitlement: str, at: datetime) -> EntitlementPicture:
        found = self._pictures.get(entitlement)
        if found is None:
            book = self._books[entitlement]
            found = self._pictures[entitlement] = picture(book, at)
        return found

    def _changed(self, entitlement: str) -> None:
        self._dirty.add(entitlement)
        self._pictures.pop(entitlement, None)

    def _is_quiet(self, book: Book, usage: UsageFact, now: datetime) -> bool:
        """Whether the usage is known to leave nothing to tell; the room for that is kept between steps."""
        entitlement = book.entitlement.key
        if not book.follows(usage):
            self._quiet.pop(entitlement, None)
            return False
        if entitlement not in self._quiet:
            self._quiet[entitlement] = quiet_units(book, now)
        room = self._quiet[entitlement]
        if room is None:
            return True
        if usage.units > room:
            del self._quiet[entitlement]
            return False
        self._quiet[entitlement] = room - usage.units
        return True

    def _count_due(self, now: datetime) -> int:
        return sum(len(book.due(now)) for book in self._books.values())


def _units_given(fact: Fact, catalogue: Catalogue) -> int:
    """The most units that the lines or items of a fact can give, whichever version of each offer is in force."""
    match fact:
        case PurchaseCompleted():
            quantities = [(line.sku, line.quantity) for line in fact.lines]
        case SubscriptionActivated() | SubscriptionRenewed():
            quantities = [(item.sku, item.quantity) for item in fact.items]
        case _:
            return 0
    return sum(
        quantity
        * max(
            (sum(allowance.units or 0 for allowance in offer.allowances) for offer in catalogue.offers.get(sku, ())),
            default=0,
        )
        for sku, quantity in quantities
    )


def _moment(transition: Transition) -> tuple[str, datetime]:
    return transition.entitlement, transition.place[0]


def _transition_order(transition: Transition) -> tuple[datetime, str, str]:
    return (*transition.place, transition.entitlement)


def _of(entitlement: str, terms: Mapping[UUID, GrantTerms], changed: Iterable[UUID]) -> dict[UUID, GrantTerms]:
    return {
        grant_id: terms[grant_id]
        for grant_id in changed
        if grant_id in terms and terms[grant_id].entitlement == entitlement
    }


def _entries(entitlement: str, lines: Sequence[Line], new: Mapping[UUID, GrantTerms]) -> list[Entry]:
    """Lines as entries.

    Each grant's new terms go with a line of its `granted`, added with no units where there is none.
    """
    left = dict(new)
    entries = []
    for line in lines:
        terms = None
        if line.kind is Kind.GRANTED and line.units > 0 and line.grant_id is not None:
            terms = left.pop(line.grant_id, None)
        entries.append(Entry(entitlement=entitlement, line=line, terms=terms))
    for grant_id in sorted(left, key=_uuid_bytes):
        terms = left[grant_id]
        line = Line(Kind.GRANTED, terms.effective_at, grant_id, None, None, 0)
        entries.append(Entry(entitlement=entitlement, line=line, terms=terms))
    return entries


def _uuid_bytes(value: UUID) -> bytes:
    return value.bytes


_DIFFERENCES: Sequence[tuple[str, Callable[[EntitlementPicture], object]]] = (
    ("access", lambda shown: shown.allowed),
    ("allocation", lambda shown: shown.allocated),
    ("limit", lambda shown: (shown.limit, shown.unlimited)),
    ("value", lambda shown: shown.value),
    ("end", lambda shown: shown.expires_at),
    ("state", lambda shown: shown.state),
    ("holders", lambda shown: shown.holders),
    ("level", lambda shown: shown.level or 0),
    ("overage", lambda shown: not shown.overage),
    ("debt", lambda shown: not shown.debt),
)
"""What is told when it differs (RULES 32), each with what is compared; the names are the `kinds` of a change."""


def _kinds(was: EntitlementPicture, shown: EntitlementPicture) -> tuple[str, ...]:
    return tuple(name for name, compared in _DIFFERENCES if compared(was) != compared(shown))
