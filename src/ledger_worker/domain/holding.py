"""Holds in a book: units are reserved while one is open, then used or given back."""

import msgspec

from ledger_worker.domain.counted import Counted
from ledger_worker.domain.cutting import drop_claims
from ledger_worker.domain.ending import come_back
from ledger_worker.domain.ledger import Hold, Kind, Line, OpenHold
from ledger_worker.domain.places import place_of_hold_end
from ledger_worker.domain.reversals import left_of
from ledger_worker.domain.using import coverage_of, over_use

__all__ = ["end_open_hold", "take_hold"]


def take_hold(counted: Counted, hold: Hold) -> list[Line]:
    """Units are reserved in the grants that usage would burn now; of what none of them has nothing is reserved."""
    counted.since_state += 1
    parts = []
    lines = []
    for grant, units in coverage_of(counted, hold.units, hold.at):
        lines.append(counted.move(Kind.HOLD, hold.at, grant, units, hold.hold_key))
        parts.append((grant.terms.grant_id, units))
    open_hold = msgspec.structs.replace(hold, ended_at=None, confirmed=0)
    counted.holds[hold.hold_key] = OpenHold(open_hold, tuple(parts))
    return lines


def end_open_hold(counted: Counted, hold: Hold) -> list[Line]:
    """What is confirmed is used, of the reserved units first, and else overage; the rest comes back."""
    counted.since_state += 1
    parts = counted.holds.pop(hold.hold_key).parts
    place = place_of_hold_end(hold)
    at = place[0]
    left = hold.confirmed
    reserved = []
    for grant_id, units in parts:
        grant = counted.grants.get(grant_id)
        if grant is None:
            raise counted.history_needed()
        reserved.append((grant, units))
    returning = counted.reversals_of.get(hold.hold_key)
    if returning and left:
        left = left_of(left, reserved, returning)
    lines = []
    for grant, units in reserved:
        used = min(left, units)
        left -= used
        if used:
            lines.append(counted.move(Kind.CONFIRM, at, grant, used, hold.hold_key))
            counted.covers(grant, hold.hold_key, used)
        if units > used:
            lines.append(counted.move(Kind.RELEASE, at, grant, units - used, hold.hold_key))
    if left:
        lines.append(over_use(counted, hold.hold_key, place, left))
    for grant, _ in reserved:
        lines += come_back(counted, grant, at)
    counted.released_at = at
    drop_claims(counted)
    return lines
