"""Who owns a source when, and which customer holds a grant in which part of its life."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from ledger_worker.domain.events import CustomersMerged, Event, PurchaseTransferred, SubscriptionTransferred
from ledger_worker.local.oracle.facts import Standing, in_true_order
from ledger_worker.local.oracle.given import Made, NameOfGrant, clipped


class Move(NamedTuple):
    """From `at` the source belongs to `to`, because of the transfer or merge `why`."""

    at: datetime
    to: str
    why: str


class Owners(NamedTuple):
    """The first owner, and those after, each from an instant of its own."""

    home: str
    moves: tuple[Move, ...] = ()

    def at(self, instant: datetime) -> str:
        """Who owns the source then."""
        return [self.home, *(move.to for move in self.moves if move.at <= instant)][-1]


def held_by(owners: Owners, made: Made, name: NameOfGrant) -> list[Made]:
    """A grant, held by who owns its source where it begins, and a child at each receiver while it lasts.

    Cuts of the instant of a move act at the receiver.
    """
    whole = made.grant
    held = [whole._replace(holder=owners.at(whole.start))]
    for move in owners.moves:
        if whole.start < move.at and (whole.end is None or move.at < whole.end):
            giver = held[-1]
            child = giver._replace(
                name=name.child(giver.name, "transfer", move.why),
                holder=move.to,
                units=None if giver.units is None else 0,
                start=move.at,
                parent=giver.name,
                origin="transfer",
                taken_back=tuple(one for one in giver.taken_back if one.at >= move.at),
                suspensions=clipped(list(whole.suspensions), move.at, whole.end),
            )
            held[-1] = giver._replace(
                end=move.at,
                taken_back=tuple(one for one in giver.taken_back if one.at < move.at),
                suspensions=clipped(list(giver.suspensions), giver.start, move.at),
            )
            held.append(child)
    return [made._replace(grant=one) for one in held]


class Aliases(NamedTuple):
    """Which customer went on as which other one, from when on: at most once each, and never in a circle."""

    merges: tuple[tuple[str, Move], ...] = ()

    def of(self, customer: str, at: datetime | None = None) -> str:
        """Who the customer is at that instant (None: in the end)."""
        for old, merge in self.merges:
            if old == customer and (at is None or merge.at <= at):
                return self.of(merge.to, at)
        return customer


def aliases_of(events: Iterable[Event]) -> Aliases:
    """Merge: the first of each customer counts, and none that would close a circle."""
    found = Aliases()
    for event in sorted(events, key=lambda one: (one.occurred_at, one.event_source, one.event_id)):
        fact, old = event.fact, event.customer_id
        if (
            isinstance(fact, CustomersMerged)
            and old not in dict(found.merges)
            and found.of(fact.into_customer_id) != old
        ):
            merge = Move(event.occurred_at, fact.into_customer_id, fact.merge_id)
            found = Aliases((*found.merges, (old, merge)))
    return found


def folded(events: Sequence[Event], aliases: Aliases, first: str | None) -> tuple[list[Standing], Owners]:
    """The facts of a source that somebody told who owns or owned it, in their order, and its owners.

    What others told awaits a transfer from or to an owner. `first` is whose fact came first, where that is not who told
    the first in order.
    """
    told = in_true_order(events)
    members = {first or told[0].event.customer_id}
    while True:
        left = in_true_order([event for _, event in told if is_of(event, members, aliases)])
        if not left:
            return [], Owners(next(iter(members)))
        owners, found = chain(left, aliases, first)
        if found <= members:
            return left, owners
        members |= found


def is_of(event: Event, members: set[str], aliases: Aliases) -> bool:
    """Whether the fact is told for one of them, or transfers the source to one."""
    fact, at = event.fact, event.occurred_at
    if isinstance(fact, PurchaseTransferred | SubscriptionTransferred) and fact.to_customer_id in members:
        return True
    return event.customer_id in members or aliases.of(event.customer_id, at) in members


def chain(told: Sequence[Standing], aliases: Aliases, first: str | None) -> tuple[Owners, set[str]]:
    """Transfer: the home, then for each transfer by place whose giver is the owner then, the receiver.

    Also everyone who ever owned the source. A merge is like a transfer, and comes before those of its instant.
    """
    transfers = transfers_of(told, aliases)
    begun = told[0].event
    home = first or aliases.of(begun.customer_id, begun.occurred_at)
    if transfers:
        at, giver, _ = transfers[0]
        home = home if aliases.of(home, at) == aliases.of(giver, at) else giver
    happenings = [(merge.at, 0, old, merge) for old, merge in aliases.merges]
    happenings += [(at, 1, aliases.of(giver, at), move) for at, giver, move in transfers]
    owner, members = home, {home}
    moves: list[Move] = []
    for at, _, giver, move in sorted(happenings, key=lambda one: one[:2]):
        receiver = aliases.of(move.to, at)
        if giver == owner and receiver != owner:
            owner = receiver
            members.add(owner)
            moves.append(Move(at, owner, move.why))
    return Owners(home, without_detours(home, moves)), members


def without_detours(home: str, moves: Sequence[Move]) -> tuple[Move, ...]:
    """Of the moves of one instant the last counts, if it leads to somebody else at all."""
    found: list[Move] = []
    for move in moves:
        if found and found[-1].at == move.at:
            found.pop()
        if move.to != (found[-1].to if found else home):
            found.append(move)
    return tuple(found)


def transfers_of(told: Sequence[Standing], aliases: Aliases) -> list[tuple[datetime, str, Move]]:
    """Transfers in order of place, each with its giver: of one transfer id the last, where it was first told so."""
    last: dict[str, tuple[int, datetime, str, Move]] = {}
    for place, (at, event) in enumerate(told):
        fact = event.fact
        if isinstance(fact, PurchaseTransferred | SubscriptionTransferred):
            giver = event.customer_id
            known = last.get(fact.transfer_id)
            if known is None or (known[2], known[3].to) != (giver, fact.to_customer_id):
                last[fact.transfer_id] = (place, at, giver, Move(at, fact.to_customer_id, fact.transfer_id))
    in_place = sorted(last.values(), key=lambda one: one[0])
    return [(at, giver, move) for _, at, giver, move in in_place if aliases.of(move.to, at) != aliases.of(giver, at)]
