"""Who holds the grants of a source: one customer for good, or a chain by transfers and merges.

Facts that somebody tells who is not in the chain are kept and not folded, until a transfer brings him in.

A grant belongs to whoever owns the source when it begins. Where the source moves within a grant's time, the grant ends
there for its giver and goes on as a child at the receiver, who gets what was available. What a later cut by
`full_with_debt` asks for beyond the units that moved is still the giver's matter: the giver used them.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.events import PurchaseTransferred, SubscriptionTransferred
from ledger_worker.domain.ledger import NEVER, Cut, CutPolicy, GrantTerms, Origin
from ledger_worker.domain.stretches import child_id, clipped
from ledger_worker.domain.told import Latest, PlacedFact, RecordedFact, in_order

__all__ = ["Held", "Holding", "Merge", "Merges", "accepted", "goes_on_as", "holdings", "holds", "same_persons"]


class Merge(msgspec.Struct, frozen=True):
    """A customer goes on as `into` from `at`."""

    merge_id: str
    at: datetime
    into: str


Merges = Mapping[str, Merge]
"""Of each customer that became an alias, the merge that made it one."""


class Holding(msgspec.Struct, frozen=True):
    """Who owns a source from `since` on (None: from the beginning), by the transfer or merge `cause`."""

    customer_id: str
    since: datetime | None
    cause: str


class Held(msgspec.Struct, frozen=True):
    """A grant and the customer who holds it."""

    customer_id: str
    terms: GrantTerms


def accepted(
    facts: Sequence[RecordedFact], claimant: str, merges: Merges
) -> tuple[tuple[PlacedFact, ...], tuple[RecordedFact, ...], tuple[Holding, ...]]:
    """The facts of the source's owners in their true order, the facts of others, and the owners one after the other.

    A fact counts when its customer owns or owned the source, or when it transfers the source to one who does. Who that
    is follows from the facts that count: they are collected until no more are found.
    """
    if not merges and not any(fact.customer_id for fact in facts) and not any(map(_is_transfer, facts)):
        return in_order(facts), (), (Holding(claimant, None, ""),)
    members = {claimant}
    while True:
        own = [fact for fact in facts if _is_of(fact, members, claimant, merges)]
        placed = in_order(own)
        chain = _chain(placed, claimant, merges)
        found = {holding.customer_id for holding in chain}
        if found <= members:
            return placed, tuple(fact for fact in facts if fact not in own), _without_detours(chain)
        members |= found


def holdings(facts: Sequence[PlacedFact], claimant: str, merges: Merges) -> tuple[Holding, ...]:
    """The owners of a source by its accepted facts, one after the other.

    The first is the giver of the first transfer told of it; where none was told, the customer it was first told of.
    A transfer counts where its giver is the owner then.
    """
    return _without_detours(_chain(facts, claimant, merges))


def holds(grants: Sequence[GrantTerms], chain: Sequence[Holding]) -> tuple[Held, ...]:
    """Each grant with its holder, in parts where its source moves within its time; ordered by grant id."""
    is_of_one = len(chain) == 1
    held = [Held(chain[0].customer_id, grant) for grant in grants] if is_of_one else _Parting(chain).part(grants)
    return tuple(sorted(held, key=_id_bytes))


def _chain(facts: Sequence[PlacedFact], claimant: str, merges: Merges) -> list[Holding]:
    """The owners, also those who passed the source on in the instant in which they got it."""
    transfers: Latest[str, tuple[str, str]] = Latest()
    for place, (at, recorded) in enumerate(facts):
        fact = recorded.fact
        if isinstance(fact, PurchaseTransferred | SubscriptionTransferred):
            giver = recorded.customer_id or claimant
            transfers.tell(fact.transfer_id, place, at, (giver, fact.to_customer_id))
    told = [(transfer.at, transfer_id, *transfer.content) for transfer_id, transfer in transfers.items()]
    # From one id of a person to another nothing moves.
    told = [one for one in told if goes_on_as(one[2], merges, one[0]) != goes_on_as(one[3], merges, one[0])]
    home = claimant
    if told and goes_on_as(claimant, merges, told[0][0]) != goes_on_as(told[0][2], merges, told[0][0]):
        home = told[0][2]
    chain = [Holding(home, None, "")]
    for at, transfer_id, giver, receiver in told:
        _merge(chain, merges, at)
        owner = chain[-1].customer_id
        to = goes_on_as(receiver, merges, at)
        if owner == goes_on_as(giver, merges, at) and owner != to:
            chain.append(Holding(to, at, transfer_id))
    _merge(chain, merges, None)
    return chain


def _is_transfer(fact: RecordedFact) -> bool:
    return isinstance(fact.fact, PurchaseTransferred | SubscriptionTransferred)


def _is_of(recorded: RecordedFact, members: set[str], claimant: str, merges: Merges) -> bool:
    teller = recorded.customer_id or claimant
    if teller in members or goes_on_as(teller, merges, recorded.occurred_at) in members:
        return True
    fact = recorded.fact
    return isinstance(fact, PurchaseTransferred | SubscriptionTransferred) and fact.to_customer_id in members


def _without_detours(chain: Sequence[Holding]) -> tuple[Holding, ...]:
    """Of the owners since one instant the last, if that is somebody else than the one before at all."""
    kept: list[Holding] = []
    for holding in chain:
        if len(kept) > 1 and kept[-1].since == holding.since:
            kept.pop()
        if not kept or kept[-1].customer_id != holding.customer_id:
            kept.append(holding)
    return tuple(kept)


def _merge(chain: list[Holding], merges: Merges, until: datetime | None) -> None:
    """The last owner, where it became an alias by then, is followed by whom it goes on as."""
    while True:
        merge = merges.get(chain[-1].customer_id)
        if merge is None or (until is not None and merge.at > until):
            return
        since = max(merge.at, chain[-1].since or merge.at)
        chain.append(Holding(goes_on_as(merge.into, merges, since), since, merge.merge_id))


def goes_on_as(customer_id: str, merges: Merges, at: datetime = NEVER) -> str:
    """Who the customer is at that instant: itself, or whom it went on as."""
    merge = merges.get(customer_id)
    while merge is not None and merge.at <= at:
        customer_id = merge.into
        merge = merges.get(customer_id)
    return customer_id


def same_persons(merges: Merges) -> dict[str, tuple[str, ...]]:
    """Of each customer that a merge names, all ids of the same person, in key order."""
    by_root: dict[str, set[str]] = {}
    for customer_id, merge in merges.items():
        by_root.setdefault(goes_on_as(customer_id, merges), set()).update((customer_id, merge.into))
    return {
        customer_id: tuple(sorted(same, key=str.encode)) for same in by_root.values() for customer_id in sorted(same)
    }


class _Parting:
    """Grants while they are parted; a child gets its id from the last part of its parent."""

    def __init__(self, chain: Sequence[Holding]) -> None:
        self._chain = chain
        self._renamed: dict[UUID, tuple[UUID, UUID]] = {}
        self._parts: dict[UUID, list[Held]] = {}

    def part(self, grants: Sequence[GrantTerms]) -> list[Held]:
        """The parts of all grants."""
        held: list[Held] = []
        for grant in sorted(grants, key=_parents_first):
            new_id, parent = self._renamed.get(grant.grant_id, (grant.grant_id, grant.parent))
            parts = self._parts_of(msgspec.structs.replace(grant, grant_id=new_id, parent=parent))
            self._parts[grant.grant_id] = parts
            held += parts
        return held

    def _parts_of(self, grant: GrantTerms) -> list[Held]:
        start, end = grant.effective_at, grant.expires_at
        first = self._place_at(start)
        later = [one for one in self._chain[first + 1 :] if one.since is not None and (end is None or one.since < end)]
        borders = [start, *(one.since for one in later if one.since is not None)]
        holders = [self._chain[first].customer_id, *(one.customer_id for one in later)]
        ids = [grant.grant_id]
        for one in later:
            ids.append(child_id(ids[-1], Origin.TRANSFER, one.cause))
        root_at = grant.root_at or start
        parts = []
        child = self._rolls_into(grant, ids[-1])
        # Where the source moves at the very end, the next period is another's: nothing rolls over between customers.
        rolls = child is not None and end is not None and self._holder_at(end) == holders[-1]
        # Of an occurrence that is another's, or was parted, the source gives the next one.
        goes_on = len(holders) == 1 and end is not None and self._holder_at(end) == holders[-1]
        for place, holder in enumerate(holders):
            until = borders[place + 1] if place + 1 < len(borders) else end
            is_last = place + 1 == len(holders)
            is_child = place > 0
            amount = 0 if is_child and grant.amount is not None else grant.amount
            parts.append(
                Held(
                    holder,
                    msgspec.structs.replace(
                        grant,
                        grant_id=ids[place],
                        amount=amount,
                        effective_at=borders[place],
                        expires_at=until,
                        cuts=self._cuts_of(grant, holder, borders, place),
                        suspensions=clipped(
                            ((one.cause, one.starts_at, one.ends_at) for one in grant.suspensions),
                            borders[place],
                            until,
                        ),
                        parent=ids[place - 1] if is_child else grant.parent,
                        origin=Origin.TRANSFER if is_child else grant.origin,
                        root_at=root_at if is_child else grant.root_at,
                        rolls_into=ids[place + 1] if not is_last else child if rolls else None,
                        rollover_max=grant.rollover_max if is_last and rolls else None,
                        moves_to=None if is_last else holders[place + 1],
                        recurs=grant.recurs if goes_on else None,
                    ),
                )
            )
        return parts

    def _place_at(self, instant: datetime) -> int:
        return max(place for place, one in enumerate(self._chain) if one.since is None or one.since <= instant)

    def _holder_at(self, instant: datetime) -> str:
        return self._chain[self._place_at(instant)].customer_id

    def _rolls_into(self, grant: GrantTerms, last_id: UUID) -> UUID | None:
        """The child that the last part rolls into; it is named after that part."""
        if grant.rolls_into is None or grant.expires_at is None:
            return None
        cause = grant.expires_at.isoformat(timespec="microseconds")
        renamed = child_id(last_id, Origin.ROLLOVER, cause)
        self._renamed[grant.rolls_into] = (renamed, last_id)
        return renamed

    def _cuts_of(self, grant: GrantTerms, holder: str, borders: Sequence[datetime], place: int) -> tuple[Cut, ...]:
        """The cuts that act while this part is held, and what later ones ask for beyond what moved on."""
        start = borders[place] if place else None
        until = borders[place + 1] if place + 1 < len(borders) else None
        cuts = []
        asked = 0
        for cut in grant.cuts:
            if (start is not None and cut.at < start) or (until is not None and cut.at >= until):
                if until is not None and cut.at >= until and cut.policy is CutPolicy.FULL_WITH_DEBT:
                    cuts.append(msgspec.structs.replace(cut, beyond=asked))
                    asked += cut.units
                continue
            cuts.append(self._named_parts(cut, holder) if cut.of else cut)
        return tuple(cuts)

    def _named_parts(self, cut: Cut, holder: str) -> Cut:
        """An opening cut counts what its own customer used."""
        of = tuple(
            part.terms.grant_id for named in cut.of for part in self._parts.get(named, ()) if part.customer_id == holder
        )
        return msgspec.structs.replace(cut, of=of)


def _id_bytes(held: Held) -> bytes:
    return held.terms.grant_id.bytes


def _parents_first(grant: GrantTerms) -> tuple[datetime, int, bytes]:
    return (grant.effective_at, grant.generation, grant.grant_id.bytes)
