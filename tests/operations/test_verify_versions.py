"""A new version of an entitlement hides nothing: what is proven by any version of its policies is still proven."""

import re
from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine

from ledger_worker.apply.due import book_due_now
from ledger_worker.domain.catalogue import Catalogue, DebtPolicy, Entitlement, OveragePolicy
from ledger_worker.operations.verify import Check
from tests.apply.ledger import Ledger
from tests.domain.histories import world_of
from tests.domain.telling import bought, catalogue, day, gives, offer, seat, seats, told
from tests.operations.test_verify import (
    ENTITLEMENTS,
    OFFERS,
    TAMPERINGS,
    TOLD,
    prepare,
    publish,
    tamper,
    tell,
    usage,
    verdict,
)

WARNED = tuple(replace(each, expiring_soon=("P3D",)) for each in ENTITLEMENTS)
CARRYING = (replace(ENTITLEMENTS[0], overage=OveragePolicy.CARRY), ENTITLEMENTS[1])
FORGIVING = (replace(ENTITLEMENTS[0], debt=DebtPolicy.FORGIVE), ENTITLEMENTS[1])
LEAD_TIMES = ("P2D", "PT12H")
SETTLEMENT_TAMPERINGS = {name: one for name, one in TAMPERINGS.items() if one[1] is Check.SETTLEMENT}


@pytest.fixture
def ledger(engine: Engine) -> Engine:
    """The facts of TOLD, in one batch: Ada owes what was refunded after she had used it."""
    prepare(engine, OFFERS)
    tell(engine, TOLD, 0)
    return engine


@pytest.mark.parametrize("version", [WARNED, FORGIVING], ids=["lead times", "debt"])
def test_what_one_version_explains_is_proven(ledger: Engine, version: Sequence[Entitlement]) -> None:
    publish(ledger, entitlements=version)

    found = verdict(ledger)

    assert found.findings == ()
    assert found.unproven == 0


@pytest.mark.parametrize("versions", [[], [WARNED], [WARNED, ENTITLEMENTS]], ids=["before", "after", "and back"])
@pytest.mark.parametrize(
    ("statement", "check", "customer_id", "row"), SETTLEMENT_TAMPERINGS.values(), ids=SETTLEMENT_TAMPERINGS
)
def test_other_lead_times_hide_no_row_that_was_changed(
    database_url: str,
    ledger: Engine,
    versions: Sequence[Sequence[Entitlement]],
    statement: str,
    check: Check,
    customer_id: str | None,
    row: str,
) -> None:
    for version in versions:
        publish(ledger, entitlements=version)

    tamper(database_url, statement)

    first = verdict(ledger).first
    assert first is not None
    assert (first.check, first.customer_id) == (check, customer_id)
    assert re.fullmatch(row, first.row), first


def test_an_instant_that_no_version_gives_is_named(database_url: str, ledger: Engine) -> None:
    publish(ledger, entitlements=WARNED)

    tamper(
        database_url,
        "UPDATE account SET next_transition_at = next_transition_at - interval '2 days' WHERE entitlement = 'video'",
    )

    [found] = verdict(ledger).findings
    assert (found.check, found.customer_id, found.row) == (Check.SETTLEMENT, "bob", "account video")
    assert "next_transition_at" in found.message


def test_an_account_that_was_settled_under_two_policies_is_not_called_wrong(engine: Engine) -> None:
    """Ada owes what she used of nothing since a version says that overage is carried, and not what she used before."""
    prepare(engine, OFFERS)
    tell(engine, [usage("ada", "before", 1, 4)], 0)
    publish(engine, entitlements=CARRYING)
    tell(engine, [usage("ada", "after", 2, 3)], 1)

    found = verdict(engine)

    assert found.is_clean
    assert found.unproven == 1


@pytest.mark.parametrize(
    "changed", [{"expiring_soon": ("P3D",)}, {"debt": DebtPolicy.CARRY}], ids=["lead times", "debt"]
)
def test_who_holds_a_seat_is_proven_by_any_version(
    database_url: str, engine: Engine, changed: dict[str, object]
) -> None:
    ledger = Ledger(database_url)
    ledger.publish(catalogue(seats(), offer("pack", gives(3, "desk", lasts="forever"))))
    ledger.tell((told("b", day(1), bought()), day(1)))
    ledger.ask(day(2), seat("ann"))
    ledger.publish(catalogue(replace(seats(), version=2, **changed), version=2))
    ledger.close()
    assert settlement_findings(engine) == []

    tamper(database_url, "UPDATE account SET carried = NULL WHERE entitlement = 'desk'")

    assert "0 hold a seat, and 1 by what was decided: missing ann" in settlement_findings(engine)


def settlement_findings(engine: Engine) -> list[str]:
    return [one.message for one in verdict(engine).findings if one.check is Check.SETTLEMENT]


@pytest.mark.parametrize("number", range(10))
def test_a_random_world_whose_lead_times_change_has_no_findings(database_url: str, engine: Engine, number: int) -> None:
    history = world_of(730_000 + number, with_merges=bool(number % 2))
    ledger = Ledger(database_url)
    ledger.publish(history.catalogue)
    third = len(history.told) // 3
    for place, one_told in enumerate(history.told):
        if place in {third, 2 * third}:
            ledger.publish(with_other_lead_times(history.catalogue, place // third))
        ledger.tell(one_told)
    assert_all_is_proven(engine)
    while book_due_now(ledger.engine, ledger.catalogues, ledger.stages()).customers:
        pass
    ledger.close()

    assert_all_is_proven(engine)


def assert_all_is_proven(engine: Engine) -> None:
    """But for partitions: the records of this ledger came without one that moves."""
    found = verdict(engine)
    assert [one for one in found.findings if one.check is not Check.INPUT_PARTITION] == []
    assert found.unproven == 0


def with_other_lead_times(published: Catalogue, number: int) -> Catalogue:
    """Every entitlement in a new version: told of what nothing was told of beforehand, or the other way round."""
    entitlements = [
        replace(each, version=1 + number, expiring_soon=() if bool(each.expiring_soon) == (number == 1) else LEAD_TIMES)
        for each in published.entitlements.values()
    ]
    return catalogue(*entitlements, version=published.version + number)
