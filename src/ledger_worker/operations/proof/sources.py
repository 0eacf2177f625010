"""Sources: whose they are by the facts, the state that folding them gives, and the terms of each holder's grants.

What is told of a source may be in the inbox of whoever owned it at some time. The inboxes of the group are therefore
read again in the order in which their events were recorded: who owned the source then says whether a fact was folded
or awaited its transfer, a transfer takes in those that waited for it, and ties its owners to each other for good.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.events import Event, PurchaseTransferred, SourceFact, SubscriptionTransferred, source_key
from ledger_worker.domain.ledger import Grant, GrantTerms, Kind, Origin, Phase
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.sources import RecordedFact, SourceState, owners_of, recorded, terms
from ledger_worker.domain.told import in_order
from ledger_worker.operations.proof.findings import Check, Findings, differing
from ledger_worker.operations.proof.rows import (
    EventRow,
    GrantRow,
    Member,
    Published,
    SourceRow,
    event_name,
    grant_name,
)

__all__ = ["HandedOn", "Replayed", "check_sources", "check_terms", "check_ties", "handed_on", "replay", "to_child"]

Told = tuple[EventRow, Event]
"""An event about a source: as it is stored, and as it was told."""
Given = dict[UUID, GrantTerms]
"""What the sources give one customer, by grant id."""


class Replayed(msgspec.Struct):
    """One source, told again: of whom it was told first, its facts as they were folded, and who was tied by them.

    A transfer ties to each other: the owners after it, who told it and what it took in, and who keeps the state.
    `misjudged` are the events whose outcome says otherwise about who owned the source, with what is wrong.
    """

    claimant: str
    facts: list[RecordedFact]
    ties: list[frozenset[str]]
    misjudged: list[tuple[EventRow, str]]


class HandedOn(msgspec.Struct):
    """By the entries: how many units a grant handed on to a child, and whose grant that is."""

    customer_id: str
    giver: UUID
    units: int


def replay(members: Mapping[str, Member]) -> dict[str, Replayed]:
    """Every source of which the group's inboxes hold more than facts that wait, told again."""
    told_of: dict[str, list[Told]] = {}
    for member in members.values():
        for row, event in member.facts:
            if isinstance(event.fact, SourceFact):
                told_of.setdefault(source_key(event.fact), []).append((row, event))
    replayed = {}
    for key, told in told_of.items():
        told.sort(key=_recorded_order)
        # Whoever is told first of a source owns it; who tells more of a stranger's source waits.
        first = next((event for row, event in told if row.outcome != Outcome.AWAITING_TRANSFER), None)
        if first is not None:
            replayed[key] = _Replay(first.customer_id).of(told)
    return replayed


def check_ties(members: Mapping[str, Member], sources: Iterable[Replayed], findings: Findings) -> None:
    """Each customer is tied to exactly those whom transfers tie it to, directly or through others."""
    tied: dict[str, set[str]] = {customer_id: {customer_id} for customer_id in members}
    for owners in (owners for source in sources for owners in source.ties):
        together = set(owners).union(*(tied.get(owner, ()) for owner in owners))
        tied.update(dict.fromkeys(together, together))
    for customer_id, member in members.items():
        row = member.rows.customer
        expected = sorted(tied[customer_id] - {customer_id}, key=str.encode)
        if row is not None and row.linked != expected:
            message = f"{differing(('linked',), (row.linked,), (expected,))} by the transfers told"
            findings.add(Check.CUSTOMER, customer_id, "customer", message)


def check_sources(
    members: Mapping[str, Member], sources: Mapping[str, Replayed], published: Published, findings: Findings
) -> dict[str, Given]:
    """Every source was folded again; returns the grants that they give each customer, by its id."""
    for source in sources.values():
        for row, message in source.misjudged:
            findings.add(Check.SOURCE, row.customer_id, event_name(row), message)
    given: dict[str, Given] = {customer_id: {} for customer_id in members}
    left = dict(sources)
    for stored in (row for member in members.values() for row in member.rows.sources):
        findings.looked_at[Check.SOURCE] += 1
        _check_source(stored, left.pop(stored.source_key, None), published, given, findings)
    for key, source in left.items():
        findings.add(Check.SOURCE, source.claimant, _name(key), "events speak of it, but it has no row")
    return given


def handed_on(members: Mapping[str, Member]) -> dict[str, HandedOn]:
    """The units that went on from parents to children by the parents' entries, by what `to_child` says of the child."""
    found: dict[str, HandedOn] = {}
    for member in members.values():
        for lines in member.lines.values():
            for line in lines:
                if line.kind is Kind.MOVE and line.grant_id is not None:
                    known = found.setdefault(line.cut_id or "", HandedOn(member.customer_id, line.grant_id, 0))
                    known.units += line.units
    return {child: one for child, one in found.items() if one.units}


def to_child(grant_id: UUID) -> str:
    """How the lines that hand units on name the grant they go to."""
    return f"to/{grant_id}"


def check_terms(member: Member, given: Given, moved: Mapping[str, HandedOn], findings: Findings) -> None:
    """The customer's grants are those that the sources give it, and stand as its entries last said.

    A child by transfer has as many units as `moved` says that its giver's grant handed on. Grants that only settlement
    makes are of no source: whether they are right is asked there.
    """
    booked: set[UUID] = set()
    for row in member.rows.grants:
        findings.looked_at[Check.TERMS] += 1
        booked.add(row.grant_id)
        grant = _read(row, findings)
        if grant is None:
            continue
        member.grants[row.entitlement].append(grant)
        _check_said(row, grant, member, findings)
        if grant.terms.origin is Origin.REGRANT:
            continue
        message = _is_given(grant, given.get(row.grant_id), moved)
        if message:
            findings.add(Check.TERMS, member.customer_id, grant_name(row.grant_id), message)
    for grant_id in given.keys() - booked:
        message = f"source {given[grant_id].source_key} gives it, but it is not booked"
        findings.add(Check.TERMS, member.customer_id, grant_name(grant_id), message)


_STATE = msgspec.msgpack.Decoder(SourceState)
_TERMS = msgspec.msgpack.Decoder(GrantTerms)


class _Replay:
    """One source while it is told again."""

    def __init__(self, claimant: str) -> None:
        self._source = Replayed(claimant, [], [], [])
        self._owners = frozenset((claimant,))
        self._waiting: list[Told] = []

    def of(self, told: Sequence[Told]) -> Replayed:
        """Everything told of it, in the order of recording."""
        for row, event in told:
            is_awaiting = row.outcome == Outcome.AWAITING_TRANSFER
            if is_awaiting == self._is_owners(event):
                whose = "owned" if is_awaiting else "did not own"
                message = f"outcome is {row.outcome}, but {event.customer_id} {whose} the source when it was told"
                self._source.misjudged.append((row, message))
            if is_awaiting:
                self._waiting.append((row, event))
                continue
            self._fold(event)
            if _is_transfer(event):
                tellers = {event.customer_id, *self._take_in()}
                self._source.ties.append(self._owners | tellers | {self._source.claimant})
        return self._source

    def _is_owners(self, event: Event) -> bool:
        """Whether its customer owns the source, past or present; or it transfers it to one who does."""
        if event.customer_id in self._owners:
            return True
        fact = event.fact
        return isinstance(fact, PurchaseTransferred | SubscriptionTransferred) and fact.to_customer_id in self._owners

    def _fold(self, event: Event) -> None:
        self._source.facts.append(recorded(event))
        if _is_transfer(event):
            state = SourceState(facts=in_order(self._source.facts), claimant=self._source.claimant)
            self._owners = frozenset(holding.customer_id for holding in owners_of(state))

    def _take_in(self) -> set[str]:
        """What waited is folded as soon as its customer is among the owners; returns who told it."""
        tellers: set[str] = set()
        while True:
            accepted = [one for one in self._waiting if self._is_owners(one[1])]
            if not accepted:
                return tellers
            self._waiting = [one for one in self._waiting if one not in accepted]
            for _, event in accepted:
                self._fold(event)
                tellers.add(event.customer_id)


def _check_source(
    row: SourceRow,
    source: Replayed | None,
    published: Published,
    given: Mapping[str, Given],
    findings: Findings,
) -> None:
    def is_wrong(message: str) -> None:
        findings.add(Check.SOURCE, row.customer_id, _name(row.source_key), message)

    if source is None:
        is_wrong("no event in the inbox speaks of it")
        return
    names = ("its keeper", "source_owner")
    stored = (row.customer_id, row.owner)
    expected = (source.claimant, source.claimant)
    if stored != expected:
        is_wrong(f"{differing(names, stored, expected)} as of whom it was first told")
    try:
        state = _STATE.decode(row.state)
    except msgspec.MsgspecError as error:
        is_wrong(f"its state cannot be read: {error}")
        return
    if state.catalogue_version > published.catalogue.version:
        is_wrong(f"folded with catalogue {state.catalogue_version}, expected at most the published one")
    folded = SourceState(
        facts=in_order(source.facts), catalogue_version=state.catalogue_version, claimant=source.claimant
    )
    if msgspec.msgpack.encode(folded) != row.state:
        is_wrong(f"its state holds {len(state.facts)} facts that are not what the {len(source.facts)} recorded give")
    for held in terms(folded, row.source_key, published.catalogue):
        # Whoever holds it outside of the group is tied to nobody in it, which was found before.
        given.get(held.customer_id, {})[held.terms.grant_id] = held.terms


def _read(row: GrantRow, findings: Findings) -> Grant | None:
    """The grant of a row whose columns agree with its terms; None when it cannot be read."""
    name = grant_name(row.grant_id)
    try:
        grant = Grant(
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
    except (msgspec.MsgspecError, ValueError) as error:
        findings.add(Check.TERMS, row.customer_id, name, f"it cannot be read: {error}")
        return None
    of = grant.terms
    names = ("grant_id", "entitlement", "source_key", "amount", "effective_at", "expires_at", "parent_id")
    stored = tuple(getattr(row, field) for field in names)
    expected = (of.grant_id, of.entitlement, of.source_key, of.amount, of.effective_at, of.expires_at, of.parent)
    if stored != expected:
        message = f"{differing(names, stored, expected)} by its terms"
        findings.add(Check.TERMS, row.customer_id, name, message)
    return grant


def _check_said(row: GrantRow, grant: Grant, member: Member, findings: Findings) -> None:
    """The terms are those that the entries set last, by the posting that the row names."""
    name = grant_name(row.grant_id)
    posting, said = member.said.get(row.grant_id, (0, None))
    if said != grant.terms:
        message = "no entry sets its terms" if said is None else f"its terms are not those of posting {posting}"
        findings.add(Check.TERMS, row.customer_id, name, message)
    if row.set_by != posting and not (grant.phase is Phase.VOID and row.set_by > posting):
        findings.add(Check.TERMS, row.customer_id, name, f"set_by is {row.set_by}, expected {posting}")


def _is_given(grant: Grant, expected: GrantTerms | None, moved: Mapping[str, HandedOn]) -> str:
    """What is wrong in a grant beside what its source gives; empty when nothing is."""
    is_void = grant.phase is Phase.VOID
    if is_void != (expected is None):
        return "it is void, but its source gives it" if is_void else "its source does not give it"
    if expected is None:
        return ""
    if expected.receives_from_another:
        handed = moved.get(to_child(expected.grant_id))
        expected = msgspec.structs.replace(expected, amount=0 if handed is None else handed.units)
        if grant.terms.amount != expected.amount:
            giver = (
                f"grant {expected.parent}" if handed is None else f"{grant_name(handed.giver)} of {handed.customer_id}"
            )
            return f"amount is {grant.terms.amount}, expected the {expected.amount} that {giver} handed on"
    return "" if grant.terms == expected else "its terms are not those that its source gives"


def _is_transfer(event: Event) -> bool:
    return isinstance(event.fact, PurchaseTransferred | SubscriptionTransferred)


def _recorded_order(told: Told) -> tuple[datetime, bool]:
    """By the instant of recording; of one instant what waits comes first, for the transfer it waits for came later."""
    return (told[0].recorded_at, told[0].outcome != Outcome.AWAITING_TRANSFER)


def _name(key: str) -> str:
    return f"source {key}"
