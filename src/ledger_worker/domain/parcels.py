"""Parcels: overage and debt on their way from one customer's book to another's."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.ledger import Debt, Kind, Line
from ledger_worker.domain.places import ARRIVE, Place

__all__ = ["ARRIVING", "LEAVING", "Parcel", "left_by", "parcels_of"]

LEAVING = frozenset({Kind.LEAVE_OVERAGE, Kind.LEAVE_DEBT})
ARRIVING = frozenset({Kind.ARRIVE_OVERAGE, Kind.ARRIVE_DEBT})


class Parcel(msgspec.Struct, frozen=True):
    """Overage or debt on its way to another customer: from `at`, of the usage at `used_at`, owed as `debt` says."""

    at: datetime
    used_at: datetime
    debt: Debt

    @property
    def place(self) -> Place:
        """Where it arrives."""
        return (self.at, f"{ARRIVE}{self.debt.at.isoformat()}{self.debt.tie}")

    @property
    def label(self) -> str:
        """What its lines carry beside usage and units."""
        cut_id = self.debt.cut_id
        cut = "" if cut_id is None else cut_id
        told = f"{self.used_at.isoformat()}|{self.debt.at.isoformat()}|{-1 if cut_id is None else len(cut)}"
        return f"{told}|{cut}{self.debt.tie}"

    @classmethod
    def of_line(cls, line: Line) -> "Parcel":
        """The parcel that a line of leaving or arriving tells of."""
        used_at, owed_at, length, rest = (line.cut_id or "").split("|", 3)
        size = int(length)
        cut_id, tie = (None, rest) if size < 0 else (rest[:size], rest[size:])
        debt = Debt(datetime.fromisoformat(owed_at), line.usage_key or UUID(int=0), cut_id, line.units, tie)
        return cls(line.at, datetime.fromisoformat(used_at), debt)


def left_by(lines: Iterable[Line]) -> list[Parcel]:
    """The parcels that the lines say have left a book, in the order of their places."""
    return parcels_of(lines, LEAVING)


def parcels_of(lines: Iterable[Line], kinds: frozenset[Kind]) -> list[Parcel]:
    """The parcels that the lines come to, in the order of their places."""
    units: dict[tuple[Kind, datetime, UUID | None, UUID | None, str | None], int] = defaultdict(int)
    for line in lines:
        if line.kind in kinds:
            units[line.identity()] += line.units
    return sorted((Parcel.of_line(Line(*identity, total)) for identity, total in units.items() if total), key=_place_of)


def _place_of(parcel: Parcel) -> Place:
    return parcel.place
