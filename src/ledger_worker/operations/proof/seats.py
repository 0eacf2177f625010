"""Seats: who holds one follows from what was decided, in the order in which it was recorded, and from merges."""

from collections.abc import Mapping
from datetime import datetime

from ledger_worker.domain.ledger import Holder
from ledger_worker.domain.seats import HoldersTold
from ledger_worker.operations.proof.rows import Member

__all__ = ["tell_holders", "wrong_holders"]

_SHOWN_MAX = 5


def tell_holders(members: Mapping[str, Member]) -> None:
    """Each member has the holders that all decisions of its group come to."""
    entitlements = {fact.entitlement for member in members.values() for _, fact in member.seats}
    if not entitlements:
        return
    merges = [member for member in members.values() if member.merge is not None]
    for entitlement in sorted(entitlements):
        told = HoldersTold()
        happened: list[tuple[datetime, int, Member, int]] = [
            (row.recorded_at, 1, member, place)
            for member in members.values()
            for place, (row, fact) in enumerate(member.seats)
            if fact.entitlement == entitlement
        ]
        happened += [(member.merged_since, 0, member, 0) for member in merges if member.merged_since is not None]
        for _, is_seat, member, place in sorted(happened, key=_when):
            if is_seat:
                row, fact = member.seats[place]
                told.tell(member.customer_id, fact, row.occurred_at)
            elif member.merge is not None:
                told.merge(member.customer_id, member.merge.into)
        for customer_id, member in members.items():
            member.holders[entitlement] = told.of(customer_id)


def wrong_holders(stored: tuple[Holder, ...], expected: tuple[Holder, ...]) -> str:
    """How the stored holders differ from those that were decided, with the first that do; empty when they do not."""
    if stored == expected:
        return ""
    only = {"too many": set(stored) - set(expected), "missing": set(expected) - set(stored)}
    named = [
        f"{what} {', '.join(sorted(one.name for one in found)[:_SHOWN_MAX])}" for what, found in only.items() if found
    ]
    counted = f"{len(stored)} hold a seat, and {len(expected)} by what was decided"
    return f"{counted}: {'; '.join(named) or 'in another order'}"


def _when(happened: tuple[datetime, int, Member, int]) -> tuple[datetime, int]:
    return happened[0], happened[1]
