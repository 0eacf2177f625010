"""The proof of one group, from its events to what waits to be published."""

from collections.abc import Mapping, Sequence

from ledger_worker.domain.ledger import Account
from ledger_worker.errors import BadBytesError
from ledger_worker.operations.proof.chain import check_postings, check_standing
from ledger_worker.operations.proof.findings import Check, Findings, differing
from ledger_worker.operations.proof.inbox import check_events
from ledger_worker.operations.proof.persons import check_aliases, persons_of
from ledger_worker.operations.proof.rows import CustomerRows, Member, Published
from ledger_worker.operations.proof.settlement import arrivals_of, check_accounts
from ledger_worker.operations.proof.sources import check_sources, check_terms, check_ties, handed_on, told_of
from ledger_worker.operations.proof.units import check_arrivals, check_units, check_usage
from ledger_worker.wire.decode import decode_change

__all__ = ["prove"]


def prove(
    group: Sequence[CustomerRows],
    accounts: Mapping[str, Mapping[str, Account]],
    published: Published,
    findings: Findings,
) -> None:
    """Every check of the customers of a group was made, one check after the other.

    `group` are all customers that are tied to each other, by customer id; `accounts` are theirs, by customer and
    entitlement.
    """
    members = {rows.customer_id: Member(rows, accounts.get(rows.customer_id, {})) for rows in group}
    each = members.values()
    for member in each:
        check_events(member, findings)
    for member in each:
        check_postings(member, members, findings)
    merges = {customer_id: member.merge for customer_id, member in members.items() if member.merge is not None}
    persons = persons_of(members, merges)
    sources = told_of(members, merges)
    for member in each:
        check_standing(member, findings)
    check_aliases(members, merges, findings)
    check_ties(members, sources.values(), merges, findings)
    given = check_sources(members, sources, published, merges, findings)
    moved = handed_on(members)
    for member in each:
        check_terms(member, given[member.customer_id], moved, findings)
    for member in each:
        check_units(member, moved, findings)
    check_arrivals(members, moved, findings)
    for person in persons:
        check_usage(person, findings)
    arrivals = arrivals_of(each, merges)
    for member in each:
        check_accounts(member, published, arrivals, findings)
    for member in each:
        _check_outbox(member, published, findings)


def _check_outbox(member: Member, published: Published, findings: Findings) -> None:
    """What waits to be published is the end of the customer's sequence, each change of the posting it names."""
    rows = member.rows.outbox
    customer = member.rows.customer
    if customer is None:
        return
    hashes = {posting.number: posting.hash for posting in member.rows.postings}
    for row, sequence in zip(rows, range(customer.sequence - len(rows) + 1, customer.sequence + 1), strict=True):
        findings.looked_at[Check.OUTBOX] += 1
        name = f"change {row.sequence}"
        if row.sequence != sequence:
            message = f"sequence is {row.sequence}, expected {sequence}: the customer has told {customer.sequence}"
            findings.add(Check.OUTBOX, member.customer_id, name, message)
            return
        try:
            change = decode_change(row.payload)
        except BadBytesError as error:
            findings.add(Check.OUTBOX, member.customer_id, name, f"its payload cannot be read: {error}")
            continue
        names = ("customer_id", "timeline", "sequence", "change_id", "lane", "posting_hash")
        lane = customer.key_hash % published.lanes
        stored = (row.customer_id, row.timeline, row.sequence, row.change_id, row.lane, change.posting_hash)
        ids = (change.customer_id, change.timeline, change.sequence, change.change_id)
        expected = (*ids, lane, hashes.get(change.posting))
        if stored != expected:
            findings.add(Check.OUTBOX, member.customer_id, name, differing(names, stored, expected))
