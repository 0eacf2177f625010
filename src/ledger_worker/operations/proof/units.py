"""Units: the entries add up to every counter, what went on from a grant arrived, and usage is booked as it was told."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from uuid import UUID

from ledger_worker.domain.ledger import EFFECTS, Account, GrantTerms, Origin, Phase, Reversal, UsageFact
from ledger_worker.operations.proof.findings import Check, Findings, differing
from ledger_worker.operations.proof.rows import GrantRow, Member, event_name, grant_name
from ledger_worker.operations.proof.sources import HandedOn, to_child

__all__ = ["check_arrivals", "check_units", "check_usage"]

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
_USED = _GRANT_COUNTERS.index("used")


def check_units(member: Member, moved: Mapping[str, HandedOn], findings: Findings) -> None:
    """The entries add up to the counters of each grant and account; each grant has what it was granted, or received."""

    def is_wrong(name: str, message: str) -> None:
        """There is a finding of the grant or account of that name."""
        findings.add(Check.UNITS, member.customer_id, name, message)

    counted = _counted_of_grants(member)
    terms_of = {grant.terms.grant_id: grant.terms for grant in chain.from_iterable(member.grants.values())}
    used_of: Counter[str] = Counter()
    for row in member.rows.grants:
        findings.looked_at[Check.UNITS] += 1
        expected = counted.pop(row.grant_id, [0] * len(_GRANT_COUNTERS))
        if row.amount is None:
            # Without an amount nothing is counted but what was used of it.
            expected = [units if place == _USED else 0 for place, units in enumerate(expected)]
        stored = [row.granted, row.available, row.held, row.used, row.expired, row.revoked, row.moved]
        used_of[row.entitlement] += row.used
        if stored != expected:
            is_wrong(grant_name(row.grant_id), f"{differing(_GRANT_COUNTERS, stored, expected)} by its entries")
        elif row.amount is not None and row.grant_id in terms_of:
            granted = _granted_of(row, terms_of[row.grant_id], moved)
            if sum(stored[1:]) != row.granted or row.granted != granted:
                is_wrong(grant_name(row.grant_id), f"its units do not add up to the {granted} that it was given")
    for grant_id in counted:
        is_wrong(grant_name(grant_id), "entries speak of it, but it has no row")
    for entitlement, account in member.accounts.items():
        findings.looked_at[Check.UNITS] += 1
        message = _is_counted(member, account, used_of[entitlement])
        if message:
            is_wrong(f"account {entitlement}", message)
    for entitlement in member.lines.keys() - member.accounts.keys():
        is_wrong(f"account {entitlement}", "entries speak of it, but it has no row")


def check_arrivals(members: Mapping[str, Member], moved: Mapping[str, HandedOn], findings: Findings) -> None:
    """Every grant that units went on to is one of the group's."""
    there = {to_child(row.grant_id) for member in members.values() for row in member.rows.grants} if moved else ()
    for child, one in moved.items():
        if child not in there:
            message = f"{one.units} units went on {child}, which nobody holds that it is tied to"
            findings.add(Check.UNITS, one.customer_id, grant_name(one.giver), message)


def check_usage(person: Sequence[Member], findings: Findings) -> None:
    """The lines about each usage add up to what was used and not reversed, in the books of all ids of the person."""
    counted: dict[tuple[str, UUID], int] = defaultdict(int)
    unread = person[0].unread.usage
    for member in person:
        for entitlement, lines in member.lines.items():
            for line in lines if entitlement not in unread else ():
                if line.usage_key is not None:
                    counted[entitlement, line.usage_key] += EFFECTS[line.kind].usage * line.units
    told: dict[tuple[str, UUID], list[int]] = defaultdict(lambda: [0, 0])
    for entitlement, facts, reversals in _facts_of(person):
        if entitlement in unread:
            continue
        reversed_of = _reversed(facts, reversals)
        for fact in facts:
            findings.looked_at[Check.USAGE] += 1
            # Both ids of a person may have been told of a usage under one id before they were merged: both count.
            of_usage = told[entitlement, fact.usage_key]
            of_usage[0] += fact.units
            of_usage[1] += reversed_of.get(fact.usage_key, 0)
    names = {key: (member.customer_id, row) for member in person for key, row in member.events.items()}
    for (entitlement, key), (units, gone_back) in told.items():
        booked = counted.pop((entitlement, key), 0)
        if booked != units - gone_back:
            less = f", {gone_back} of them reversed" if gone_back else ""
            message = f"{units} units of {entitlement} were used{less}, but {booked} are booked"
            customer_id, row = names[key]
            findings.add(Check.USAGE, customer_id, event_name(row), message)
    for (entitlement, key), units in counted.items():
        if units:
            message = f"{units} units of {entitlement} are booked for it, but it is not in the inbox"
            findings.add(Check.USAGE, person[0].customer_id, f"event {key}", message)


def _facts_of(person: Sequence[Member]) -> Iterator[tuple[str, Sequence[UsageFact], Sequence[Reversal]]]:
    """The usage of each entitlement that each id has, confirmed holds too, with what was told to reverse it."""
    for member in person:
        for entitlement in member.usage.keys() | member.holds.keys():
            confirmed = [
                UsageFact(usage_key=hold.hold_key, at=hold.ends_at, units=hold.confirmed, tie=hold.tie)
                for hold in member.holds.get(entitlement, ())
                if hold.confirmed
            ]
            facts = [*member.usage.get(entitlement, ()), *confirmed]
            yield entitlement, facts, member.reversals.get(entitlement, ())


def _counted_of_grants(member: Member) -> dict[UUID, list[int]]:
    counted: dict[UUID, list[int]] = defaultdict(lambda: [0] * len(_GRANT_COUNTERS))
    for line in chain.from_iterable(member.lines.values()):
        if line.grant_id is not None:
            counters = counted[line.grant_id]
            for place, sign in _GRANT_EFFECTS[line.kind]:
                counters[place] += sign * line.units
    return counted


def _granted_of(row: GrantRow, terms: GrantTerms, moved: Mapping[str, HandedOn]) -> int | None:
    """How many units the grant was given: by its terms, or as a child in the same book what its parent handed on."""
    if row.phase == Phase.VOID:
        return 0
    if terms.origin not in {Origin.ROLLOVER, Origin.REGRANT}:
        return row.amount
    handed = moved.get(to_child(row.grant_id))
    return 0 if handed is None else handed.units


def _is_counted(member: Member, account: Account, used: int) -> str:
    """What is wrong in an account's counters by its entries and grants; empty when nothing is."""
    expected = [0] * len(_ACCOUNT_COUNTERS)
    for line in member.lines.get(account.entitlement, ()):
        for place, sign in _ACCOUNT_EFFECTS[line.kind]:
            expected[place] += sign * line.units
    stored = [account.usage, account.used_total, account.overage, account.debt, account.forgiven]
    if stored != expected:
        return f"{differing(_ACCOUNT_COUNTERS, stored, expected)} by its entries"
    if account.usage != sum(stored[1:]) or account.used_total != used:
        return f"its usage does not add up, or used_total is not the {used} used of its grants"
    return ""


def _reversed(usage: Sequence[UsageFact], reversals: Sequence[Reversal]) -> dict[UUID, int]:
    """How much of each usage was reversed: of one id the last told counts, and at most what was used is back."""
    if not reversals:
        return {}
    used = {fact.usage_key: fact.units for fact in usage}
    last = {reversal.reversal_id: reversal for reversal in sorted(reversals, key=_reversal_order)}
    asked: Counter[UUID] = Counter()
    for reversal in last.values():
        units = used.get(reversal.usage_key, 0)
        asked[reversal.usage_key] += units if reversal.units is None else reversal.units
    return {key: min(units, used.get(key, 0)) for key, units in asked.items()}


def _reversal_order(reversal: Reversal) -> tuple[datetime, str]:
    return (reversal.at, reversal.tie)
