"""What would allow more seats: they are never burnt, so holders count against all of them, suspended ones too."""

from datetime import datetime

import pytest

from ledger_worker.domain.events import Fact
from ledger_worker.reports.customer import ExplainedEntitlement, explain
from tests.apply.ledger import Ledger
from tests.domain.telling import (
    bought,
    catalogue,
    day,
    dispute_opened,
    gives,
    line,
    offer,
    refunded,
    seat,
    seats,
    told,
)

BOUGHT = "a purchase that gives it: desk-for-one"
LIFTED = "the suspension `dispute/d1` lifted"


@pytest.fixture
def life(ledger: Ledger) -> Ledger:
    """Ada has bought five desks, one each."""
    ledger.publish(catalogue(seats(), offer("desk-for-one", gives(1, "desk", lasts="forever"))))
    ledger.tell((told("five", day(1), bought(line("desk-for-one", 5))), day(1)))
    return ledger


def tell(life: Ledger, at: datetime, fact: Fact) -> None:
    life.tell((told(f"at {at}", at, fact), at))


def take(life: Ledger, *names: str) -> None:
    answers = life.ask(day(2), *(seat(name, name) for name in names))
    assert all(answer.is_granted for answer in answers)


def asked_for(life: Ledger, units: int) -> ExplainedEntitlement:
    """The explanation of a request for so many seats."""
    with life.engine.connect() as connection:
        found = explain(connection, "ada", "desk", units=units)
    assert found is not None
    return found.entitlements[0]


@pytest.mark.parametrize(
    ("units", "would_allow"),
    [(2, (LIFTED, BOUGHT)), (3, (BOUGHT,)), (4, (BOUGHT,)), (5, (BOUGHT,))],
    ids=["as many as would be left", "one too many", "two too many", "all of them"],
)
def test_a_suspension_lifted_leaves_the_seats_that_nobody_holds(
    life: Ledger, units: int, would_allow: tuple[str, ...]
) -> None:
    take(life, "ann", "ben", "cem")
    tell(life, day(3), dispute_opened())

    found = asked_for(life, units)

    assert (found.refused_because, found.would_allow) == ("suspended", would_allow)


@pytest.mark.parametrize(("units", "lifted"), [(1, (LIFTED,)), (3, (LIFTED,)), (4, ())])
def test_holders_beyond_the_seats_in_force_count_against_those_that_are_suspended(
    life: Ledger, units: int, lifted: tuple[str, ...]
) -> None:
    """Three hold one of the five of the first order; with the second there are six, of which one is in force."""
    take(life, "ann", "ben", "cem")
    tell(life, day(3), bought(line("desk-for-one"), order="o2"))
    tell(life, day(4), dispute_opened())

    found = asked_for(life, units)

    assert (found.decision.limit, found.decision.used) == (1, 3)
    assert (found.refused_because, found.would_allow) == ("exhausted", (f"{units + 2} seats more", *lifted, BOUGHT))


@pytest.mark.parametrize(("units", "more"), [(1, "4 seats more"), (2, "5 seats more")])
def test_who_has_more_holders_than_seats_needs_seats_for_them_first(life: Ledger, units: int, more: str) -> None:
    take(life, "ann", "ben", "cem", "dee")
    tell(life, day(3), refunded(quantity=4))

    found = asked_for(life, units)

    assert (found.decision.limit, found.decision.used, found.decision.remaining) == (1, 4, 0)
    assert found.would_allow == (more, BOUGHT)


def test_one_seat_is_missing_where_all_are_taken(life: Ledger) -> None:
    take(life, "ann", "ben", "cem", "dee", "eve")

    assert asked_for(life, 1).would_allow == ("1 seat more", BOUGHT)
