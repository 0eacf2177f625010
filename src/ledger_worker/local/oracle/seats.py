"""Who holds a seat, by "Seats" of `docs/reference/rules.md`: every decision, in the order in which it was recorded."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from ledger_worker.domain.events import (
    CustomersMerged,
    Event,
    SeatAssigned,
    SeatsRevoked,
    SeatSwapped,
    SeatUnassigned,
)
from ledger_worker.local.oracle.terms import Given, Terms

Recorded = Mapping[tuple[str, str, str], datetime]
"""When an event was recorded, by (customer, event source, event id)."""

SEAT_FACTS = (SeatAssigned, SeatUnassigned, SeatSwapped, SeatsRevoked)


def recorded_at(event: Event, recorded: Recorded) -> datetime:
    """When it was recorded; one that is not in `recorded` was recorded as it occurred."""
    return recorded.get((event.customer_id, event.event_source, event.event_id), event.occurred_at)


def holders_of(
    entitlement: str, events: Sequence[Event], terms: Terms, recorded: Recorded, until: datetime
) -> dict[str, list[str]]:
    """Of each customer the names, in the order of taking: a list of seats, each with its name and since when."""

    def when(one: Event) -> datetime:
        """Its instant in the order of recording."""
        return recorded_at(one, recorded)

    seats: dict[str, list[tuple[datetime, str]]] = {}
    went_on_as: dict[str, str] = {}
    for event in sorted(events, key=lambda one: (when(one), not isinstance(one.fact, CustomersMerged))):
        fact, at = event.fact, when(event)
        whose = event.customer_id
        while whose in went_on_as:
            whose = went_on_as[whose]
        if min(at, event.occurred_at) > until:
            continue
        if isinstance(fact, CustomersMerged):
            # Merges: the first that is told counts, and `terms` knows which those were.
            if whose == event.customer_id and any(old == whose for old, _ in terms.aliases.merges):
                went_on_as[whose] = fact.into_customer_id
                new = fact.into_customer_id
                while new in went_on_as:
                    new = went_on_as[new]
                both = seats.setdefault(new, []) + seats.pop(whose, [])
                both.sort(key=lambda seat: (seat[0], seat[1].encode()))
                seats[new] = [
                    seat for place, seat in enumerate(both) if seat[1] not in {one for _, one in both[:place]}
                ]
            continue
        if not isinstance(fact, SEAT_FACTS) or fact.entitlement != entitlement:
            continue
        held = seats.setdefault(whose, [])
        place = {name: number for number, (_, name) in enumerate(held)}
        if isinstance(fact, SeatAssigned):
            held.append((at, fact.holder))
        elif isinstance(fact, SeatSwapped):
            held[place[fact.holder]] = (held[place[fact.holder]][0], fact.to)
        elif isinstance(fact, SeatUnassigned):
            del held[place[fact.holder]]
        else:
            for name in fact.holders:
                held.remove(next(seat for seat in held if seat[1] == name))
    return {customer: [name for _, name in held] for customer, held in seats.items()}


def evicted_later(entitlement: str, events: Sequence[Event], until: datetime) -> set[str]:
    """The past: of whom seats were revoked only after `until`. What had ended by then was booked later."""
    return {
        event.customer_id
        for event in events
        if isinstance(event.fact, SeatsRevoked) and event.fact.entitlement == entitlement and event.occurred_at > until
    }


def booked_until(events: Sequence[Event], terms: Terms, recorded: Recorded) -> dict[str, datetime]:
    """The past: when something was recorded last of each person. What was due by then was booked before it."""
    last: dict[str, datetime] = {}
    for event in events:
        whose, at = terms.aliases.of(event.customer_id), recorded_at(event, recorded)
        last[whose] = max(at, last.get(whose, at))
    return last


def is_due(grants: Iterable[Given], booked: datetime | None, until: datetime) -> bool:
    """The past: whether something of these grants fell due by `until` and was not booked."""
    turns: list[datetime | None] = []
    for grant in grants:
        turns += [grant.start, grant.end, *(cut.at for cut in grant.taken_back)]
        turns += [turn for one in grant.suspensions for turn in (one.starts, one.ends)]
    return any(turn is not None and turn <= until and (booked is None or turn > booked) for turn in turns)
