"""Persons: the customers of a group that merges made one, and whose usage is whose."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ledger_worker.domain.holds import pieces
from ledger_worker.domain.ledger import Hold, Reversal, UsageFact
from ledger_worker.domain.owners import Merges, goes_on_as
from ledger_worker.operations.proof.findings import Check, Findings, differing
from ledger_worker.operations.proof.rows import Member

__all__ = ["check_aliases", "persons_of"]


def persons_of(members: Mapping[str, Member], merges: Merges) -> list[Sequence[Member]]:
    """The members by person, most often each alone.

    Usage is then with whoever its customer was at its instant, holds with whoever it was at their time, and reversals
    with all ids of the person.
    """
    persons: dict[str, list[Member]] = {}
    for customer_id, member in members.items():
        persons.setdefault(goes_on_as(customer_id, merges), []).append(member)
    for same in persons.values():
        if len(same) > 1:
            _hand_over(same, merges)
    return list(persons.values())


def check_aliases(members: Mapping[str, Member], merges: Merges, findings: Findings) -> None:
    """Each customer goes on as whom the first merge in its inbox says, and as nobody without one."""
    names = ("alias_of", "alias_at", "merge_id")
    for customer_id, member in members.items():
        row = member.rows.customer
        merge = merges.get(customer_id)
        expected = (None, None, None) if merge is None else (merge.into, merge.at, merge.merge_id)
        if row is not None and (row.alias_of, row.alias_at, row.merge_id) != expected:
            stored = (row.alias_of, row.alias_at, row.merge_id)
            message = f"{differing(names, stored, expected)} by the merges in its inbox"
            findings.add(Check.CUSTOMER, customer_id, "customer", message)


def _hand_over(same: Sequence[Member], merges: Merges) -> None:
    usage: dict[tuple[str, str], list[UsageFact]] = defaultdict(list)
    holds: dict[tuple[str, str], list[Hold]] = defaultdict(list)
    reversals: dict[str, list[Reversal]] = defaultdict(list)
    for member in same:
        for entitlement, facts in member.usage.items():
            for fact in facts:
                usage[goes_on_as(member.customer_id, merges, fact.at), entitlement].append(fact)
        for entitlement, own in member.holds.items():
            for hold in own:
                for user, piece in pieces(hold, member.customer_id, merges):
                    holds[user, entitlement].append(piece)
        for entitlement, told in member.reversals.items():
            reversals[entitlement] += told
    for member in same:
        member.has_aliases = True
        member.usage.clear()
        member.holds.clear()
        member.reversals.clear()
        member.reversals.update(reversals)
        for (user, entitlement), facts in usage.items():
            if user == member.customer_id:
                member.usage[entitlement] = facts
        for (user, entitlement), theirs in holds.items():
            if user == member.customer_id:
                member.holds[entitlement] = theirs
