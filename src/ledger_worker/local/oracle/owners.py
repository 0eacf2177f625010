"""Who owns a source when, and which customer holds a grant in which part of its life."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

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
                rolls_into=child.name,
            )
            held.append(child)
    return [made._replace(grant=one) for one in held]


def owners_of(customers: Sequence[str]) -> Owners:
    """The owners of a source."""
    return Owners(customers[0])
