"""Published definitions as they are stored: what uses nothing new is read by the releases before, too."""

from sqlalchemy import text

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.store.catalogue import publish
from ledger_worker.store.database import engine
from tests.domain.telling import gives, offer, quota

ENTITLEMENT = {
    "key", "name", "type", "description", "resources", "unit", "limit", "debt", "overage", "late_usage", "thresholds",
}  # fmt: skip
OFFER = {"sku", "allowances", "apply"}
ALLOWANCE = {
    "key", "entitlement", "units", "lasts", "priority", "refund", "on_cancel", "leeway_seconds", "grace_seconds",
    "on_change", "pause", "rollover_units", "rollover_times", "extend_on_won", "return_after_end",
}  # fmt: skip
"""The fields that every release knows."""


def test_what_uses_nothing_new_has_the_fields_that_every_release_knows(database_url: str) -> None:
    made = engine(database_url, role=None)
    with made.begin() as connection:
        publish(connection, [quota()], [offer("pack", gives(1))], Catalogue(version=0, entitlements={}, offers={}))
        entitlement = connection.execute(text("SELECT definition FROM entitlement")).scalar_one()
        sold = connection.execute(text("SELECT definition FROM offer")).scalar_one()
    made.dispose()

    assert set(entitlement) == ENTITLEMENT
    assert set(sold) == OFFER
    assert [set(allowance) for allowance in sold["allowances"]] == [ALLOWANCE]
