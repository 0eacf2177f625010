"""The proof of one group, from its events to what waits to be published."""

from collections.abc import Sequence

from ledger_worker.operations.proof.chain import check_postings, check_recorded_at, check_standing
from ledger_worker.operations.proof.findings import Findings
from ledger_worker.operations.proof.inbox import check_events
from ledger_worker.operations.proof.outbox import check_outbox
from ledger_worker.operations.proof.outcomes import check_outcomes
from ledger_worker.operations.proof.persons import check_aliases, persons_of
from ledger_worker.operations.proof.reading import read_accounts
from ledger_worker.operations.proof.rows import CustomerRows, Member, Published, Unread
from ledger_worker.operations.proof.seats import tell_holders
from ledger_worker.operations.proof.settlement import arrivals_of, check_accounts
from ledger_worker.operations.proof.sources import check_sources, check_terms, check_ties, handed_on, told_of
from ledger_worker.operations.proof.units import check_arrivals, check_units, check_usage

__all__ = ["prove"]


def prove(group: Sequence[CustomerRows], published: Published, findings: Findings) -> None:
    """Every check of the customers of a group was made, one check after the other.

    `group` are all customers that are tied to each other, by customer id. What follows from a row that cannot be read
    is left out; the finding that names the row says so.
    """
    unread = Unread(is_catalogue_known=published.catalogue is not None)
    members = {rows.customer_id: Member(rows, unread) for rows in group}
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
        read_accounts(member, findings)
        check_units(member, moved, findings)
    check_arrivals(members, moved, findings)
    for person in persons:
        check_usage(person, findings)
    arrivals = arrivals_of(each, merges)
    tell_holders(members)
    for member in each:
        check_accounts(member, published, arrivals, findings)
    for member in each:
        check_outcomes(member, members, findings)
        check_recorded_at(member, members, findings)
        check_outbox(member, members, published, findings)
