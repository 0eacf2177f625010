"""Postings and their entries: numbered without a gap, each of an event that was told, each a link of the hash chain.

What an event does to another customer, also one of what falls due, is posted there and names the customer it was told
to, whose inbox has it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.events import TransitionsDue
from ledger_worker.domain.ledger import Entry, GrantTerms, Kind, Line, posting_hash
from ledger_worker.kafka.murmur2 import murmur2
from ledger_worker.operations.proof.findings import Check, Findings, differing, shown
from ledger_worker.operations.proof.reading import UNREADABLE, json_holds_more, unreadable
from ledger_worker.operations.proof.rows import EntryRow, EventRow, Member, PostingRow

__all__ = ["check_postings", "check_recorded_at", "check_standing"]


def check_postings(member: Member, members: Mapping[str, Member], findings: Findings) -> None:
    """Every posting and entry was looked at; lines, and the terms that entries set, are with the member.

    `members` are all of the group, by customer id: their events must have been checked.
    """
    _Chain(member, members, findings).check()


def check_standing(member: Member, findings: Findings) -> None:
    """The customer stands at its last posting and not before its last event, and its lane follows from its id."""
    findings.looked_at[Check.CUSTOMER] += 1
    row = member.rows.customer
    if row is None:
        message = "there is no row of the customer that other rows name"
        findings.add(Check.CUSTOMER, member.customer_id, "customer", message)
        return
    last = member.rows.postings[-1] if member.rows.postings else None
    names = ("posting_number", "chain_head", "key_hash")
    stored = (row.posting_number, row.chain_head, row.key_hash)
    expected = (last.number if last else 0, last.hash if last else bytes(32), murmur2(row.customer_id))
    if stored != expected:
        findings.add(Check.CUSTOMER, row.customer_id, "customer", differing(names, stored, expected))
    recorded = _recorded_last(member)
    if recorded is not None and (row.recorded_at is None or row.recorded_at < recorded):
        message = f"recorded_at is {shown(row.recorded_at)}, expected at least {shown(recorded)} by its events"
        findings.add(Check.CUSTOMER, row.customer_id, "customer", message)


def check_recorded_at(member: Member, members: Mapping[str, Member], findings: Findings) -> None:
    """The customer does not stand behind what was recorded of it last, but for what passed without a row.

    A row that is gone is more likely named by another check, so this one is made behind them.

    What falls due and neither moves units nor is told has an instant of its own and no row. It is passed just before
    an event of the customer or, of customers that are tied, of another one; where much is due, also in a transaction
    before that. Then an account has come to what fell due since anything was told of any of them.
    """
    stored = None if member.rows.customer is None else member.rows.customer.recorded_at
    recorded = _recorded_last(member)
    if stored is None or (recorded is not None and stored <= recorded):
        return
    events = [event for each in members.values() for event in each.rows.events]
    if len(members) > 1 and any(stored < event.recorded_at for event in events):
        return
    told = max((event.recorded_at for event in events if event.type != _DUE), default=_BEGINNING)
    if any(row.settled_at is not None and row.settled_at > told for row in member.rows.accounts):
        return
    message = f"recorded_at is {shown(stored)}, expected {shown(recorded)} by its last event or posting"
    findings.add(Check.CUSTOMER, member.customer_id, "customer", message)


def _recorded_last(member: Member) -> datetime | None:
    instants = [event.recorded_at for event in member.rows.events]
    instants += [posting.recorded_at for posting in member.rows.postings]
    return max(instants, default=None)


_BEGINNING = datetime.min.replace(tzinfo=UTC)
_DUE = TransitionsDue.__name__
_KINDS = {kind.value: kind for kind in Kind}
_TERMS = msgspec.json.Decoder(GrantTerms)


class _Chain:
    """The postings of one customer, from the first to the last."""

    def __init__(self, member: Member, members: Mapping[str, Member], findings: Findings) -> None:
        self._member = member
        self._members = members
        self._findings = findings

    def check(self) -> None:
        """Every posting, every entry of it, and every entry without one."""
        entries_of: dict[int, list[EntryRow]] = defaultdict(list)
        for entry in self._member.rows.entries:
            entries_of[entry.posting].append(entry)
        previous: bytes | None = bytes(32)
        expected = 1
        last: datetime | None = None
        posted: set[tuple[str | None, UUID]] = set()
        for row in self._member.rows.postings:
            self._findings.looked_at[Check.POSTING] += 1
            if row.number != expected:
                is_one = row.number == expected + 1
                missing = f"posting {expected}" if is_one else f"postings {expected} to {row.number - 1}"
                self._is_wrong(missing, f"missing before {_name(row)}")
                previous = None
            if last is not None and row.recorded_at <= last:
                message = f"recorded_at is {row.recorded_at.isoformat()}, expected after {last.isoformat()}"
                self._is_wrong(_name(row), message)
            if (row.told_to, row.event_key) in posted:
                self._is_wrong(_name(row), f"a second posting of event {row.event_key}, expected one")
            posted.add((row.told_to, row.event_key))
            self._check_cause(row)
            self._check_link(row, previous, entries_of.pop(row.number, ()))
            previous, expected, last = row.hash, row.number + 1, row.recorded_at
        for number, rows in entries_of.items():
            self._findings.looked_at[Check.ENTRY] += len(rows)
            self._entry_is_wrong(rows[0], f"there is no posting {number}")

    def _is_wrong(self, name: str, message: str) -> None:
        self._findings.add(Check.POSTING, self._member.customer_id, name, message)

    def _entry_is_wrong(self, row: EntryRow, message: str) -> None:
        self._findings.add(Check.ENTRY, self._member.customer_id, f"entry {row.posting}/{row.line}", message)

    def _check_cause(self, row: PostingRow) -> None:
        event, told_to = self._cause_of(row)
        if event is None:
            whose = "" if row.told_to is None else f" of {row.told_to}"
            untied = "" if row.told_to is None or row.told_to in self._members else ", to whom no row ties the customer"
            self._is_wrong(_name(row), f"its event {row.event_key} is not in the inbox{whose}{untied}")
            return
        names = ("content_hash", "recorded_at", "told_to")
        stored = (row.content_hash, row.recorded_at, row.told_to)
        expected = (event.content_hash, event.recorded_at, told_to)
        if stored != expected:
            self._is_wrong(_name(row), f"{differing(names, stored, expected)} by event {event.event_id}")

    def _cause_of(self, row: PostingRow) -> tuple[EventRow | None, str | None]:
        """The event behind a posting, and what `told_to` has to be: None where it is in the customer's own inbox."""
        own = self._member.customer_id
        # Whom the posting names comes first: the same id may have been sent for several customers.
        for customer_id in (row.told_to or own, own, *self._members):
            member = self._members.get(customer_id)
            event = None if member is None else member.events.get(row.event_key)
            if event is not None:
                return event, None if customer_id == own else customer_id
        return None, None

    def _check_link(self, row: PostingRow, previous: bytes | None, rows: Sequence[EntryRow]) -> None:
        self._findings.looked_at[Check.HASH_CHAIN] += 1
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
            self._findings.add(Check.HASH_CHAIN, row.customer_id, _name(row), message)

    def _entry(self, place: int, row: EntryRow, posting: PostingRow) -> Entry | None:
        """The entry as the value that was hashed; None when the row is none."""
        self._findings.looked_at[Check.ENTRY] += 1
        if (row.line, row.recorded_at) != (place, posting.recorded_at):
            stored, expected = (row.line, row.recorded_at), (place, posting.recorded_at)
            self._entry_is_wrong(row, f"{differing(('line', 'recorded_at'), stored, expected)} by its posting")
        kind = _KINDS.get(row.kind)
        if kind is None:
            self._entry_is_wrong(row, f"kind is {row.kind}, expected one of the closed list")
            return None
        line = Line(kind, row.at, row.grant_id, row.usage_key, row.cut_id, row.units)
        self._member.lines[row.entitlement].append(line)
        terms = None
        if row.terms is not None:
            terms = self._terms(row, row.terms)
            if terms is None:
                return None
            self._member.said[terms.grant_id] = (row.posting, terms)
        return Entry(entitlement=row.entitlement, line=line, terms=terms)

    def _terms(self, row: EntryRow, stored: str) -> GrantTerms | None:
        """The terms that an entry sets; None when they cannot be read."""
        try:
            terms = _TERMS.decode(stored)
        except UNREADABLE as error:
            self._entry_is_wrong(row, f"its terms: {unreadable(error)}")
            if row.grant_id is not None:
                self._member.unread.said.add(row.grant_id)
            return None
        if json_holds_more(terms, stored):
            self._entry_is_wrong(row, "its terms hold more than the terms of a grant, which their hash says nothing of")
        return terms


def _name(row: PostingRow) -> str:
    return f"posting {row.number}"
