"""Which postings an explanation lists: the last about what is explained, of seats too, which move no units."""

import pytest

from ledger_worker.domain.events import Event
from ledger_worker.domain.requests import Asked
from ledger_worker.reports.customer import explain
from tests.apply.ledger import Ledger
from tests.domain.telling import (
    bought,
    catalogue,
    consume,
    day,
    gives,
    line,
    merged,
    offer,
    quota,
    refunded,
    seat,
    seats,
    told,
    unseat,
    used,
)

OFFERED = catalogue(
    quota(),
    quota("calls"),
    seats(),
    seats("room"),
    offer("pack", gives(40, lasts="forever"), gives(9, "desk", lasts="forever"), gives(9, "room", lasts="forever")),
    offer("calls", gives(9, "calls", lasts="forever")),
)
STEPS: tuple[tuple[Event | Asked, str], ...] = (
    (told("1", day(1), bought(line(quantity=2))), "api desk room"),
    (seat("ann", "2"), "desk"),
    (told("3", day(1), used(1)), "api"),
    (seat("ann", "4", entitlement="room"), "room"),
    (seat("ben", "5"), "desk"),
    (consume(1, "6"), "api"),
    (told("7", day(1), bought(line("calls"), order="o2")), "calls"),
    (unseat("ann", "8"), "desk"),
    (told("9", day(1), used(1, "calls")), "calls"),
    (told("10", day(1), used(1)), "api"),
    (seat("cem", "11", customer="bob"), "desk"),
    (seat("ben", "12", entitlement="room"), "room"),
    (told("13", day(1), refunded(quantity=1)), "api desk room"),
    (told("14", day(1), used(1, "calls")), "calls"),
    (seat("dee", "15"), "desk"),
    (told("16", day(1), used(1, "calls"), customer="bob"), "calls"),
    (seat("eve", "17", customer="bob"), "desk"),
    *((consume(1, f"then {number}"), "api") for number in range(12)),
)
"""What Ada's postings are of, in order, and which entitlements each is about. Bob has gone on as her before."""


@pytest.fixture
def life(ledger: Ledger) -> Ledger:
    ledger.publish(OFFERED)
    ledger.tell((told("merge", day(1), merged("ada"), customer="bob"), day(1)))
    # At the end nothing but one entitlement is used: the last about another is not among the newest.
    for hour, (step, _) in enumerate(STEPS, start=1):
        if isinstance(step, Event):
            ledger.tell((step, day(2, hour)))
        else:
            (answer,) = ledger.ask(day(2, hour), step)
            assert answer.is_granted
    return ledger


@pytest.mark.parametrize("entitlement", ["api", "calls", "desk", "room", None])
def test_the_last_postings_about_it_are_listed_the_newest_first(life: Ledger, entitlement: str | None) -> None:
    about = [number for number, (_, of) in enumerate(STEPS, start=1) if entitlement in {None, *of.split()}]

    for postings_max in (1, 2, 3, 5, 8, 40):
        with life.engine.connect() as connection:
            found = explain(connection, "ada", entitlement, postings_max=postings_max)

        assert found is not None
        assert [posting.number for posting in found.postings] == about[::-1][:postings_max], postings_max
        assert all(entry.entitlement == entitlement for one in found.postings for entry in one.entries if entitlement)
