"""Holds of units, in the walk of `units`: each holds its very units until it ends.

Docstrings name the paragraph of `docs/reference/rules.md` that the code beside them follows.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ledger_worker.domain.catalogue import OveragePolicy
from ledger_worker.domain.events import Event, HoldConfirmed, HoldReleased, HoldTaken
from ledger_worker.local.oracle.terms import TakenBack

if TYPE_CHECKING:
    from ledger_worker.local.oracle.units import Held, Reversal, Unit, Walk

HoldKey = tuple[str, str, str]
"""Event source and event id of its taking, and of whom it was taken."""


class Ending(NamedTuple):
    """When a hold is over, and how many of its units are used then."""

    at: datetime
    confirmed: int


class Reserved(msgspec.Struct, eq=False):
    """One unit that is held; of an unlimited grant it is none of its own."""

    grant: "Held"
    unit: "Unit | None"


class OpenCut(msgspec.Struct, eq=False):
    """Cuts: what one has asked for and not taken, while some of it was held."""

    grant: "Held"
    why: str
    left: int


class Holds:
    """All holds of one entitlement, of all customers."""

    def __init__(self, walk: "Walk") -> None:
        self.walk = walk
        self.open: dict[HoldKey, list[Reserved]] = {}
        self.owner: dict[HoldKey, str] = {}
        self.endings: dict[HoldKey, Ending] = {}
        self.units: dict[HoldKey, int] = {}
        self.reversals: dict[HoldKey, Sequence[Reversal]] = {}
        self.cuts: list[OpenCut] = []

    def tell(self, events: Sequence[Event], reversals: "dict[tuple[str, tuple[str, str]], list[Reversal]]") -> None:
        """Holds: each is taken, and ends once, where it was decided or else where it expires."""
        ended = {}
        for one in events:
            if isinstance(one.fact, HoldConfirmed | HoldReleased) and self.walk.is_about(one.fact.entitlement):
                units = one.fact.units if isinstance(one.fact, HoldConfirmed) else 0
                ended[one.event_source, one.fact.hold_event_id, one.customer_id] = Ending(one.occurred_at, units)
        for one in events:
            if isinstance(one.fact, HoldTaken) and self.walk.is_about(one.fact.entitlement):
                key = (one.event_source, one.event_id, one.customer_id)
                self.units[key] = one.fact.units
                self.endings[key] = ending = ended.get(key) or Ending(one.fact.expires_at, 0)
                self.reversals[key] = reversals.get((one.customer_id, key[:2]), [])
                self.owner[key] = self.walk.terms.aliases.of(one.customer_id, one.occurred_at)
                self.walk.at(one.occurred_at, self.walk.USAGE, key, partial(self.take, key, one.occurred_at))
                self.walk.at(ending.at, self.walk.HOLD_ENDS, key, partial(self.end, key, ending))

    def take(self, key: HoldKey, at: datetime) -> None:
        """Holds: units are reserved in the grants that usage would burn; what none of them has is not reserved."""
        order = self.walk.burning_order(self.owner[key], at)
        reserved = self.open[key] = []
        for _ in range(self.units[key]):
            grant = next((one for one in order if one.terms.units is None or one.free), None)
            if grant is None:
                break
            unit = grant.free.pop() if grant.terms.units is not None else None
            if unit is not None:
                grant.held.append(unit)
            reserved.append(Reserved(grant, unit))

    def end(self, key: HoldKey, ending: Ending) -> None:
        """Holds: of what is confirmed the reserved units are used first, and the rest is overage; others come back."""
        reserved = self.open.pop(key)
        units, came_back = ending.confirmed, []
        for reversal in self.reversals[key]:
            for _ in range(units if reversal.units is None else min(reversal.units, units)):
                units -= 1
                if units < len(reserved):
                    came_back.append((reserved[units], reversal))
        used = [self.walk.use_one(key[:2], self.owner[key], ending.at) for _ in range(units)]
        for one, place in zip(used, reserved, strict=False):
            if place.unit is not None:
                place.grant.held.remove(place.unit)
            self.walk.cover_with(one, place.grant, place.unit)
        if self.walk.entitlement.overage is OveragePolicy.CARRY:
            self.walk.owe(used[len(reserved) :], ending.at, self.walk.HOLD_ENDS)
        for place, reversal in came_back:
            if place.unit is not None:
                self.walk.may_be_granted_again(place.grant, reversal)
        back = [(place.grant, place.unit) for place in reserved[units:] if place.unit is not None]
        for grant, unit in back:
            grant.held.remove(unit)
            grant.free.append(unit)
        for grant in dict.fromkeys(grant for grant, _ in back):
            self.come_back(grant, ending.at)

    def come_back(self, grant: "Held", at: datetime) -> None:
        """Holds: what comes back goes to cuts that found it held, then where an ended grant's remainder went."""
        for cut in self.cuts:
            if any(one is grant for one in cut.grant.lineage()):
                taken = grant.revoke(grant.free, cut.left)
                cut.left -= taken
                if cut.why in cut.grant.open:
                    cut.grant.open[cut.why] -= taken
        if grant.has_ended:
            self.walk.follow(grant)
            for child in self.walk.pass_on(grant):
                self.come_back(child, at)
            self.walk.grant_again(grant, at)
            grant.expired += grant.free
            grant.free.clear()

    def found_by(self, grant: "Held", cut: TakenBack, lineage: "Sequence[Held]", left: int) -> None:
        """Cuts: one that found units held stays open for them."""
        if left and any(one.held for one in lineage):
            self.cuts.append(OpenCut(grant, cut.why, left))

    def take_back(self, lineage: "Sequence[Held]", left: int) -> int:
        """Cuts: `full_with_debt` takes what is held of the lineage too, of the latest hold first; returns the rest."""
        for reserved in reversed(self.open.values()):
            for place in reserved[::-1]:
                if left and place.unit is not None and any(one is place.grant for one in lineage):
                    place.grant.held.remove(place.unit)
                    place.grant.revoked.append(place.unit)
                    reserved.remove(place)
                    left -= 1
        return left

    def merge(self, old: str, at: datetime) -> None:
        """Merge: an open hold is over, and taken anew by whom its customer goes on as."""
        for key, ending in self.endings.items():
            if self.owner[key] == old and key in self.open and ending.at > at:
                self.walk.at(at, self.walk.HOLD_ENDS, key, partial(self.end, key, Ending(at, 0)))
                self.walk.at(at, self.walk.HOLD_ENDS, (*key, "next"), partial(self.goes_on, key, at))
                self.walk.at(at, self.walk.USAGE, key, partial(self.take, key, at))

    def goes_on(self, key: HoldKey, at: datetime) -> None:
        """Merge: from now on the hold is of another customer."""
        self.owner[key] = self.walk.terms.aliases.of(self.owner[key], at)
