"""Where a customer stands in time is at what was recorded of it last, or at what passed since without leaving a row."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from ledger_worker.apply.batch import ManyDue
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.transaction import catch_up
from ledger_worker.domain.catalogue import Allowance, Apply, Offer
from ledger_worker.domain.events import SubscriptionActivated, SubscriptionItem
from ledger_worker.operations.verify import Check
from tests.domain.telling import bought, gives, line, offer, quota
from tests.operations.test_verify import (
    NOON,
    OFFERS,
    PERIOD,
    TOLD,
    event,
    prepare,
    tamper,
    tell,
    usage,
    verdict,
)


@pytest.mark.parametrize("customer_id", ["ada", "bob"])
def test_an_instant_after_the_last_event_is_named(database_url: str, engine: Engine, customer_id: str) -> None:
    prepare(engine, OFFERS)
    tell(engine, TOLD, 0)
    statement = "UPDATE customer SET recorded_at = recorded_at + interval '1 second' WHERE customer_id = 'THIS'"

    tamper(database_url, statement.replace("THIS", customer_id))

    [found] = verdict(engine).findings
    assert (found.check, found.customer_id, found.row) == (Check.CUSTOMER, customer_id, "customer")
    assert "by its last event or posting" in found.message


@pytest.mark.parametrize("customer_id", ["cy", "dee", "eve", "fay", "gil", "hal", "ida"])
def test_an_instant_after_all_that_was_told_of_tied_customers_is_named(
    database_url: str, tied: Engine, customer_id: str
) -> None:
    statement = "UPDATE customer SET recorded_at = recorded_at + interval '99 days' WHERE customer_id = 'THIS'"

    tamper(database_url, statement.replace("THIS", customer_id))

    [found] = verdict(tied).findings
    assert (found.check, found.customer_id, found.row) == (Check.CUSTOMER, customer_id, "customer")


def test_what_fell_due_and_left_no_row_is_no_finding(engine: Engine) -> None:
    """A second grant of the same access begins: nothing moves and nothing is told, but it has an instant."""
    video = Offer(sku="VIDEO", apply=Apply.NOW, allowances=(Allowance(key="video", entitlement="video"),))
    item = SubscriptionItem(item_id="plan", sku="VIDEO", quantity=1)
    begun = [
        event(
            "bob",
            subscription_id,
            0,
            SubscriptionActivated(
                subscription_id=subscription_id, items=(item,), period_start=starts_at, period_end=NOON + PERIOD
            ),
        )
        for subscription_id, starts_at in (("s1", NOON), ("s2", NOON + timedelta(days=1)))
    ]
    prepare(engine, [*OFFERS, video])
    tell(engine, begun, 0)

    catch_up(engine, ManyDue(due_at={"bob": NOON + timedelta(days=2)}), Catalogues())

    with engine.connect() as connection:
        recorded = connection.exec_driver_sql("""
            SELECT customer.recorded_at > max(event.recorded_at), count(*)
            FROM customer JOIN event USING (customer_id) GROUP BY customer.recorded_at
        """).one()
    assert tuple(recorded) == (True, 2), "nothing passed without a row"
    assert verdict(engine).is_clean

    tell(engine, [usage("bob", "used", 3 * 24 * 60, 1)], 2, [NOON + timedelta(days=3)])

    assert verdict(engine).is_clean


@pytest.mark.parametrize("beside", ["P10D", "P20D", "forever"])
def test_a_warning_that_is_not_told_has_no_instant(database_url: str, engine: Engine, beside: str) -> None:
    """Another grant ends at the same time, and its warning is told, or it goes on."""
    entitlements = (quota(expiring_soon=("P2D",)),)
    prepare(engine, (offer("ten", gives(1, lasts="P10D")), offer("beside", gives(1, lasts=beside))), entitlements)
    bought_both = bought(line("ten"), line("beside", line_id="l2"))
    tell(engine, [event("bob", "bought", 0, bought_both)], 0, [NOON])

    catch_up(engine, ManyDue(due_at={"bob": NOON + timedelta(days=9)}), Catalogues())

    assert verdict(engine).findings == ()
    with engine.connect() as connection:
        ahead, stands, last = connection.exec_driver_sql("""
            SELECT next_transition_at, customer.recorded_at, max(posting.recorded_at)
            FROM customer JOIN account USING (customer_id) JOIN posting USING (customer_id)
            GROUP BY 1, 2
        """).one()
    assert ahead == NOON + timedelta(days=10), "no warning has passed"
    assert stands == last

    tamper(database_url, "UPDATE customer SET recorded_at = recorded_at + interval '1 microsecond'")

    [found] = verdict(engine).findings
    assert "by its last event or posting" in found.message
