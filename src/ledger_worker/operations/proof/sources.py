"""Sources: whose they are by the facts, the state that folding them gives, and the terms of each holder's grants.

What is told of a source is in the inboxes of all who told of it, and a source ties these and its owners to each other.
So a group has every fact of its sources; which of them count, and who owns the source, follows from the facts alone,
whatever their order.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.events import Event, OfSource, PurchaseTransferred, SubscriptionTransferred, source_key
from ledger_worker.domain.ledger import Grant, GrantTerms, Kind, Origin, Phase
from ledger_worker.domain.owners import Merges, accepted
from ledger_worker.domain.places import BEGINNING
from ledger_worker.domain.sources import RecordedFact, SourceState, recorded, refold
from ledger_worker.operations.proof.findings import Check, Findings, differing
from ledger_worker.operations.proof.reading import UNREADABLE, msgpack_holds_more, unreadable
from ledger_worker.operations.proof.rows import EventRow, GrantRow, Member, Published, SourceRow, grant_name

__all__ = ["HandedOn", "ToldSource", "check_sources", "check_terms", "check_ties", "handed_on", "to_child", "told_of"]

Given = dict[UUID, GrantTerms]
"""What the sources give one customer, by grant id."""


class ToldSource(msgspec.Struct, frozen=True):
    """One source by all that was told of it: of whom first, every fact, and the customers whom these tie.

    Tied are those of whom it was told, those whom the facts name, and its owners.
    """

    claimant: str
    facts: tuple[RecordedFact, ...]
    tied: frozenset[str]


class HandedOn(msgspec.Struct):
    """By the entries: how many units a grant handed on to a child, and whose grant that is."""

    customer_id: str
    giver: UUID
    units: int


def told_of(members: Mapping[str, Member], merges: Merges) -> dict[str, ToldSource]:
    """Every source of which the group's inboxes hold a fact, by its key."""
    told: dict[str, list[tuple[EventRow, Event]]] = {}
    for member in members.values():
        for row, event in member.facts:
            if isinstance(event.fact, OfSource):
                told.setdefault(source_key(event.fact), []).append((row, event))
    return {key: _source(facts, merges) for key, facts in told.items()}


def check_ties(
    members: Mapping[str, Member], sources: Iterable[ToldSource], merges: Merges, findings: Findings
) -> None:
    """Each customer is tied to exactly those whom sources and merges tie it to, directly or through others.

    Where a fact about a source cannot be read, whom it ties is not known, and nothing is asked.
    """
    if any(member.unread.sources for member in members.values()):
        return
    tied: dict[str, set[str]] = {customer_id: {customer_id} for customer_id in members}
    ties = [source.tied for source in sources]
    ties += [frozenset((customer_id, merge.into)) for customer_id, merge in merges.items()]
    for tie in ties:
        together = set(tie).union(*(tied.get(customer_id, ()) for customer_id in tie))
        tied.update(dict.fromkeys(together, together))
    for customer_id, member in members.items():
        row = member.rows.customer
        expected = sorted(tied[customer_id] - {customer_id}, key=str.encode)
        if row is not None and row.linked != expected:
            message = f"{differing(('linked',), (row.linked,), (expected,))} by what was told of sources and merges"
            findings.add(Check.CUSTOMER, customer_id, "customer", message)


def check_sources(
    members: Mapping[str, Member],
    sources: Mapping[str, ToldSource],
    published: Published,
    merges: Merges,
    findings: Findings,
) -> dict[str, Given]:
    """Every source was folded again; returns the grants that they give each customer, by its id."""
    given: dict[str, Given] = {customer_id: {} for customer_id in members}
    begun = _begun(members)
    left = dict(sources)
    for member in members.values():
        for stored in member.rows.sources:
            source = left.pop(stored.source_key, None)
            if published.catalogue is None or member.unread.leaves_out_source(stored.source_key):
                continue
            findings.looked_at[Check.SOURCE] += 1
            until = begun.get(stored.source_key, BEGINNING)
            if not _check_source(stored, source, published.catalogue, merges, until, given, findings):
                member.unread.sources.add(stored.source_key)
    for key, source in left.items():
        if not any(member.unread.leaves_out_source(key) for member in members.values()):
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
            member.unread.accounts.add((member.customer_id, row.entitlement))
            continue
        member.grants[row.entitlement].append(grant)
        if row.grant_id not in member.unread.said:
            _check_said(row, grant, member, findings)
        if grant.terms.origin is Origin.REGRANT or member.unread.leaves_out_source(grant.terms.source_key):
            continue
        message = _is_given(grant, given.get(row.grant_id), moved)
        if message:
            findings.add(Check.TERMS, member.customer_id, grant_name(row.grant_id), message)
    for grant_id in given.keys() - booked:
        if _is_yet_to_be_made(given[grant_id], member):
            continue
        message = f"source {given[grant_id].source_key} gives it, but it is not booked"
        findings.add(Check.TERMS, member.customer_id, grant_name(grant_id), message)


_STATE = msgspec.msgpack.Decoder(SourceState)
_TERMS = msgspec.msgpack.Decoder(GrantTerms)


def _source(told: list[tuple[EventRow, Event]], merges: Merges) -> ToldSource:
    # Whoever tells more of a source is recorded behind all whom it ties: its first teller is recorded first.
    claimant = min(told, key=_recorded_at)[1].customer_id
    facts = tuple(recorded(event, claimant) for _, event in told)
    _, _, owners = accepted(facts, claimant, merges)
    tied = {event.customer_id for _, event in told} | {owner.customer_id for owner in owners}
    for recorded_fact in facts:
        fact = recorded_fact.fact
        if isinstance(fact, PurchaseTransferred | SubscriptionTransferred):
            tied.add(fact.to_customer_id)
    return ToldSource(claimant, facts, frozenset(tied))


def _begun(members: Mapping[str, Member]) -> dict[str, datetime]:
    """Of each source the last begin that is booked: up to there what recurs of it is unrolled in the books."""
    found: dict[str, datetime] = {}
    for member in members.values():
        for row in member.rows.grants:
            if row.parent_id is None and row.phase not in {Phase.PENDING.value, Phase.VOID.value}:
                found[row.source_key] = max(row.effective_at, found.get(row.source_key, BEGINNING))
    return found


def _is_yet_to_be_made(terms: GrantTerms, member: Member) -> bool:
    """Whether it is the occurrence after one that has not begun in the books, as others of its instant have."""
    return terms.period_start is not None and any(
        row.phase == Phase.PENDING.value
        and (row.source_key, row.entitlement, row.expires_at)
        == (terms.source_key, terms.entitlement, terms.period_start)
        for row in member.rows.grants
    )


def _check_source(
    row: SourceRow,
    source: ToldSource | None,
    catalogue: Catalogue,
    merges: Merges,
    until: datetime,
    given: Mapping[str, Given],
    findings: Findings,
) -> bool:
    """Whether the state could be read: only then is it known what the source gives, unrolled up to `until`."""

    def is_wrong(message: str) -> None:
        """There is a finding of the row of this source."""
        findings.add(Check.SOURCE, row.customer_id, _name(row.source_key), message)

    if source is None:
        is_wrong("no event in the inbox speaks of it")
        return True
    names = ("its keeper", "source_owner")
    stored = (row.customer_id, row.owner)
    expected = (source.claimant, source.claimant)
    if stored != expected:
        is_wrong(f"{differing(names, stored, expected)} as of whom it was first told")
    try:
        state = _STATE.decode(row.state)
    except UNREADABLE as error:
        is_wrong(f"its state: {unreadable(error)}")
        return False
    if state.catalogue_version > catalogue.version:
        is_wrong(f"folded with catalogue {state.catalogue_version}, expected at most the published one")
    # Versions never change, so the catalogue it was folded with is the published one up to there.
    folded_with = msgspec.structs.replace(catalogue, version=state.catalogue_version)
    unfolded = SourceState(claimant=source.claimant, others=source.facts)
    folded = refold(unfolded, row.source_key, folded_with, merges, merges, until)
    if msgspec.msgpack.encode(folded.state) != row.state:
        kept = len(state.facts) + len(state.others)
        is_wrong(f"its state holds {kept} facts that are not what the {len(source.facts)} recorded give")
    for held in folded.terms:
        # Whoever holds it outside of the group is tied to nobody in it, which was found before.
        given.get(held.customer_id, {})[held.terms.grant_id] = held.terms
    return True


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
    except UNREADABLE as error:
        findings.add(Check.TERMS, row.customer_id, name, unreadable(error))
        return None
    if msgpack_holds_more(grant.terms, row.terms):
        findings.add(Check.TERMS, row.customer_id, name, "its terms hold more than the terms of a grant")
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


def _recorded_at(told: tuple[EventRow, Event]) -> datetime:
    return told[0].recorded_at


def _name(key: str) -> str:
    return f"source {key}"
