"""Values of settings are proven like all that a grant is by its source: whatever says another one is found."""

import pytest
from sqlalchemy import Engine

from ledger_worker.apply.batch import Batch, Delivery
from ledger_worker.domain.events import BY_HAND
from ledger_worker.operations.verify import Check
from tests.domain.telling import assigned, day, setting, told
from tests.operations.test_verify import apply, prepare, tamper, verdict


@pytest.fixture
def ledger(engine: Engine) -> Engine:
    """Eve has given Ada a size of 500."""
    prepare(engine, (), (setting("size"),))
    given = told("h1", day(1), assigned(None, day(1), entitlement="size", value=500), source=BY_HAND)
    apply(engine, Batch(deliveries=(Delivery(event=given),)), [day(1)])
    return engine


def test_a_ledger_with_a_setting_has_no_findings(ledger: Engine) -> None:
    assert verdict(ledger).findings == ()


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("UPDATE \"grant\" SET terms = overlay(terms PLACING '900' FROM position('500' IN terms))", Check.TERMS),
        ("UPDATE entry SET terms = jsonb_set(terms, '{value}', '\"900\"')", Check.HASH_CHAIN),
        ("UPDATE entry SET terms = terms - 'value'", Check.HASH_CHAIN),
        ("UPDATE event SET payload = overlay(payload PLACING '900' FROM position('500' IN payload))", Check.EVENT),
        ("UPDATE source SET state = overlay(state PLACING '900' FROM position('500' IN state))", Check.SOURCE),
        ("UPDATE outbox SET payload = overlay(payload PLACING '900' FROM position('500' IN payload))", Check.OUTBOX),
    ],
    ids=["grant", "entry", "entry without", "event", "source", "outbox"],
)
def test_a_value_that_was_changed_is_found(database_url: str, ledger: Engine, statement: str, check: Check) -> None:
    tamper(database_url, statement)

    found = verdict(ledger).findings

    assert (check, "ada") in {(finding.check, finding.customer_id) for finding in found}, found
