"""One customer's side of a decision: its books while they change, its postings and changes in their order.

Which event does what is `decide`'s matter. Here an entitlement's book is opened when it is touched, what is due is
passed, entries become a posting that is a link of the customer's hash chain, and what differs is told.
Pure: values in, values out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from uuid import UUID, uuid5

from ledger_worker.domain.access import picture, quiet_units, shown_units
from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import Cause, Change, EntitlementPicture
from ledger_worker.domain.decided import BookedAccount, CustomerHead, LoadedCustomer, Told
from ledger_worker.domain.due import transitions_due
from ledger_worker.domain.events import LEDGER, Event, SeatsRevoked, TransitionsDue
from ledger_worker.domain.expiring import is_expiring
from ledger_worker.domain.ledger import (
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
from ledger_worker.domain.places import Place, Transition, all_of
from ledger_worker.domain.settlement import Book

__all__ = ["Side", "entries_of", "kinds_between"]

_NOTHING: Mapping[str, bool] = {}


class Side:
    """One customer while events are being decided. Books are opened as they are touched."""

    def __init__(self, loaded: LoadedCustomer, catalogue: Catalogue, timeline: int) -> None:
        head = loaded.head
        self.customer_id = head.customer_id
        self.linked = head.linked
        self.merge = head.merge
        self.last = head.recorded_at
        self.postings: list[Posting] = []
        self.changes: list[Change] = []
        self._is_parked = head.is_parked
        self._loaded = loaded
        self._catalogue = catalogue
        self._timeline = timeline
        self._number = head.posting_number
        self._sequence = head.sequence
        self._chain_head = head.chain_head
        self._grants: dict[str, list[Grant]] = {}
        for grant in loaded.grants:
            self._grants.setdefault(grant.terms.entitlement, []).append(grant)
        self.books: dict[str, Book] = {}
        self._pictures: dict[str, EntitlementPicture] = {}
        self._quiet: dict[str, int | None] = {}
        self._dirty: set[str] = set()
        for entitlement in sorted(loaded.accounts):
            self.open(entitlement)

    # -- books --

    def open(self, entitlement: str) -> Book:
        """The book of the entitlement, as it stands now; the next posting is the one its steps will be in."""
        book = self.books.get(entitlement)
        if book is None:
            account = self._loaded.accounts.get(entitlement) or Account(entitlement=entitlement)
            book = Book(
                self._catalogue.entitlements[entitlement],
                account,
                self._grants.get(entitlement, ()),
                self._loaded.histories.get(entitlement),
            )
            self.books[entitlement] = book
            book.customer_id = self.customer_id
            book.leaves_at = None if self.merge is None else self.merge.at
        book.posting = self._number + 1
        return book

    @property
    def entitlements(self) -> list[str]:
        """Of which the customer has accounts, stored or changed: not of books that were only looked into."""
        return sorted({*self._loaded.accounts, *self._dirty})

    def shown(self, entitlement: str) -> EntitlementPicture:
        """The picture of an open book where it stands, drawn once until the book changes."""
        found = self._pictures.get(entitlement)
        if found is None:
            found = self._pictures[entitlement] = picture(self.books[entitlement])
        return found

    def is_changed(self, entitlement: str, *, keeps_quiet: bool = False) -> None:
        """The book has changed: it will be stored, and its picture drawn again."""
        self._dirty.add(entitlement)
        self._pictures.pop(entitlement, None)
        if not keeps_quiet:
            self._quiet.pop(entitlement, None)

    def is_quiet(self, book: Book, usage: UsageFact) -> bool:
        """Whether the usage is known to leave nothing to tell; the room for that is kept between steps."""
        entitlement = book.entitlement.key
        if not usage.burns or not book.follows(usage):
            self._quiet.pop(entitlement, None)
            return False
        if entitlement not in self._quiet:
            self._quiet[entitlement] = quiet_units(book)
        room = self._quiet[entitlement]
        if room is None:
            return True
        if usage.units > room:
            self._quiet.pop(entitlement)
            return False
        self._quiet[entitlement] = room - usage.units
        return True

    # -- what is due --

    def transitions(self, now: datetime) -> list[Transition]:
        """What is due at `now`, in no order."""
        return [transition for book in self.books.values() for transition in transitions_due(book, now)]

    def look_ahead_again(self, now: datetime) -> None:
        """An account of whose stored instant nothing comes by `now` is stored with the next of which something does.

        It was stored by lead times that its entitlement has not any more. Nothing is recorded of that.
        """
        for entitlement, book in self.books.items():
            stored = book.next_transition_at
            if stored is not None and stored <= now and not transitions_due(book, now):
                book.look_ahead_again()
                self._dirty.add(entitlement)

    def pass_transition(self, transition: Transition) -> list[Entry]:
        """The transition has happened in its book; the entries that are to be posted for it."""
        book = self.open(transition.entitlement)
        lines = book.pass_transition(transition)
        self.is_changed(transition.entitlement)
        return entries_of(book, lines, {})

    def transition_event(self, transition: Transition) -> Event:
        """The ledger's own event.

        Its id names the customer, what happens to which grant when, and the posting that set that.
        """
        name = (
            self.customer_id,
            transition.kind,
            str(transition.hold_key or transition.grant_id),
            transition.place[0].isoformat(timespec="microseconds"),
            transition.place[1],
            str(transition.set_by),
        )
        return Event(
            event_source=LEDGER,
            event_id=str(uuid5(_TRANSITION_NAMESPACE, "\0".join(name))),
            customer_id=self.customer_id,
            occurred_at=transition.place[0],
            fact=TransitionsDue(
                entitlement=transition.entitlement,
                instant=transition.place[0],
                kind=transition.kind,
                grant_id=transition.grant_id,
                hold_key=transition.hold_key,
            ),
        )

    def eviction_event(self, entitlement: str, holders: tuple[str, ...], now: datetime) -> Event:
        """The ledger's own event that these have no seat any more; its id names the posting that it will be in."""
        name = (self.customer_id, "seats", entitlement, str(self._number + 1))
        return Event(
            event_source=LEDGER,
            event_id=str(uuid5(_EVICTION_NAMESPACE, "\0".join(name))),
            customer_id=self.customer_id,
            occurred_at=now,
            fact=SeatsRevoked(entitlement=entitlement, holders=holders),
        )

    # -- postings and changes --

    def post(
        self,
        told: Told,
        now: datetime,
        entries: Sequence[Entry],
        before: Mapping[str, EntitlementPicture],
        is_near: Mapping[str, bool] = _NOTHING,
        *,
        until: Place | None = None,
        also: tuple[str, ...] = (),
    ) -> bool:
        """A posting is made of the entries, and every entitlement that differs is told. False when there is neither.

        `also` are kinds of change that no picture shows. Books stand at `until` (None: at `now`): an end that is nearer
        than a lead time by then, and was not (`is_near`) or is told to be another, is told to come soon with it.
        """
        differing = []
        for entitlement, was in before.items():
            shown = self.shown(entitlement)
            kinds = (*kinds_between(was, shown), *also)
            book = self.books[entitlement]
            is_new = "end" in kinds or not is_near.get(entitlement, True)
            if is_new and is_expiring(book, until or all_of(now)):
                kinds = (*kinds, "expiring_soon")
            book.level = shown.level
            if kinds:
                differing.append((entitlement, was, shown, kinds))
        if not entries and not differing:
            return False
        self._number += 1
        self._chain_head = posting_hash(
            self._chain_head,
            self.customer_id,
            self._number,
            told.key,
            told.content_hash,
            now,
            self._catalogue.version,
            RULES_VERSION,
            entries,
        )
        sent_to = told.event.customer_id
        self.postings.append(
            Posting(
                number=self._number,
                event_key=told.key,
                content_hash=told.content_hash,
                recorded_at=now,
                catalogue_version=self._catalogue.version,
                rules_version=RULES_VERSION,
                entries=tuple(entries),
                hash=self._chain_head,
                told_to=None if sent_to == self.customer_id else sent_to,
            )
        )
        for entitlement, was, shown, kinds in differing:
            self._tell(told.event, now, entitlement, was, shown, kinds, entries)
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
        name = f"{self.customer_id}\0{self._timeline}\0{self._sequence}"
        self.changes.append(
            Change(
                change_id=uuid5(_CHANGE_NAMESPACE, name),
                customer_id=self.customer_id,
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
                    actor=getattr(event.fact, "actor", None),
                    note=getattr(event.fact, "note", None),
                ),
                effective_at=min((line.at for line in lines if line.units), default=event.occurred_at),
                recorded_at=now,
                posting=self._number,
                posting_hash=self._chain_head,
                correction=any(line.units < 0 for line in lines),
            )
        )

    # -- the result --

    def head(self) -> CustomerHead:
        """Where the customer stands now."""
        return CustomerHead(
            customer_id=self.customer_id,
            posting_number=self._number,
            sequence=self._sequence,
            chain_head=self._chain_head,
            recorded_at=self.last,
            is_parked=self._is_parked,
            linked=self.linked,
            merge=self.merge,
        )

    @property
    def is_tied_anew(self) -> bool:
        """Whether the ties to others, or the merge, are not as they were loaded."""
        return self.linked != self._loaded.head.linked or self.merge != self._loaded.head.merge

    def booked(self) -> tuple[tuple[BookedAccount, ...], tuple[Grant, ...]]:
        """The accounts and grants that changed, to be stored."""
        accounts = []
        grants: list[Grant] = []
        for entitlement in sorted(self._dirty):
            book = self.books[entitlement]
            limit, used, held = shown_units(book)
            accounts.append(
                BookedAccount(
                    account=book.account,
                    limit=limit,
                    used=used,
                    held=held,
                    stale_from=book.stale_from,
                    states=tuple(book.new_states),
                )
            )
            grants += book.touched_grants()
        return tuple(accounts), tuple(grants)


def kinds_between(was: EntitlementPicture, shown: EntitlementPicture) -> tuple[str, ...]:
    """What is told to differ between two pictures of one entitlement, as the `kinds` of a change."""
    return tuple(name for name, compared in _DIFFERENCES if compared(was) != compared(shown))


def entries_of(book: Book, lines: Sequence[Line], new: Mapping[UUID, GrantTerms]) -> list[Entry]:
    """Lines as entries.

    Each grant's new terms go with a line of its `granted`, added with no units where there is none; so do the terms of
    children that settling made.
    """
    left = {**new, **book.made}
    book.made.clear()
    entitlement = book.entitlement.key
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


_TRANSITION_NAMESPACE = UUID("0b9a7a0c-61ab-5c3d-8f0a-5f9f5a2a7c11")
_EVICTION_NAMESPACE = UUID("6f0b4c7a-57d5-5c0e-9d2b-3f1f0c8a7e03")
_CHANGE_NAMESPACE = UUID("d3b1d6de-0a2b-5f60-9a55-0d8f3f3a1c02")


def _uuid_bytes(value: UUID) -> bytes:
    return value.bytes


_DIFFERENCES: Sequence[tuple[str, Callable[[EntitlementPicture], object]]] = (
    ("access", attrgetter("allowed")),
    ("allocation", attrgetter("allocated")),
    ("limit", attrgetter("limit", "unlimited")),
    ("value", attrgetter("value")),
    ("end", attrgetter("expires_at")),
    ("state", attrgetter("state")),
    ("holders", attrgetter("holders")),
    ("level", lambda shown: shown.level or 0),
    ("overage", lambda shown: not shown.overage),
    ("debt", lambda shown: not shown.debt),
    ("over_allocated", lambda shown: not shown.over_allocated),
)
"""What is told when it differs, each with what is compared; the names are the `kinds` of a change.

Two more are `merged`, told of every entitlement of a customer who has gone on as another, and `expiring_soon`, told a
lead time before an end.
"""
