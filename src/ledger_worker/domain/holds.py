"""Holds: what was decided of them, read back from the recorded decisions, and whose they are at which time.

A hold is taken, and ends once: confirmed, released, or expired where neither was decided. It is its customer's; where
that one goes on as another meanwhile, it ends there with nothing confirmed and is taken anew by the other at once.
"""

from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.events import HoldConfirmed, HoldFact, HoldReleased, HoldTaken, event_key
from ledger_worker.domain.ledger import Hold
from ledger_worker.domain.owners import Merges, goes_on_as
from ledger_worker.domain.places import usage_tie

__all__ = ["HOLDS_MAX", "HoldEnd", "HoldsTold", "end_of", "hold_of", "pieces"]

HOLDS_MAX = 1_000
"""Most holds of one customer and entitlement that are open at once."""


class HoldEnd(msgspec.Struct, frozen=True):
    """At `at` the hold was confirmed, `confirmed` units of it, or released (none)."""

    hold_key: UUID
    at: datetime
    confirmed: int


def hold_of(fact: HoldTaken, event_source: str, event_id: str, at: datetime) -> Hold:
    """The hold that settlement sees of its recorded taking at `at`: open up to where it expires."""
    return Hold(
        hold_key=event_key(event_source, event_id),
        at=at,
        expires_at=fact.expires_at,
        units=fact.units,
        tie=usage_tie(event_source, event_id),
    )


def end_of(fact: HoldConfirmed | HoldReleased, event_source: str, at: datetime) -> HoldEnd:
    """How a hold ended by a recorded decision at `at`."""
    confirmed = fact.units if isinstance(fact, HoldConfirmed) else 0
    return HoldEnd(event_key(event_source, fact.hold_event_id), at, confirmed)


class HoldsTold:
    """Holds of one entitlement from recorded decisions, told in any order."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, UUID], Hold] = {}
        self._ends: dict[tuple[str, UUID], HoldEnd] = {}

    def tell(self, teller: str, fact: HoldFact, event_source: str, event_id: str, at: datetime) -> None:
        """A decision was recorded of the customer `teller` at `at`."""
        if isinstance(fact, HoldTaken):
            hold = hold_of(fact, event_source, event_id, at)
            self._taken[teller, hold.hold_key] = hold
        else:
            end = end_of(fact, event_source, at)
            self._ends[teller, end.hold_key] = end

    def know(self, teller: str, hold: Hold) -> None:
        """The hold was taken before the decisions that are told."""
        self._taken[teller, hold.hold_key] = hold

    def all(self) -> list[tuple[str, Hold]]:
        """Every hold, with the customer it was told of: ended where that was decided."""
        return [(key[0], _ended(hold, self._ends.get(key))) for key, hold in self._taken.items()]


def _ended(hold: Hold, end: HoldEnd | None) -> Hold:
    return hold if end is None else msgspec.structs.replace(hold, ended_at=end.at, confirmed=end.confirmed)


def pieces(hold: Hold, teller: str, merges: Merges) -> list[tuple[str, Hold]]:
    """The hold as it was of each customer, in order: where one goes on as another before it ends, it goes along."""
    found = []
    owner = goes_on_as(teller, merges, hold.at)
    while (merge := merges.get(owner)) is not None and merge.at < hold.ends_at:
        found.append((owner, msgspec.structs.replace(hold, ended_at=merge.at, confirmed=0)))
        hold = msgspec.structs.replace(hold, at=merge.at)
        owner = goes_on_as(merge.into, merges, merge.at)
    return [*found, (owner, hold)]
