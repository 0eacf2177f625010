"""The catalogue: immutable versions, published under an exclusive lock that every decision shares."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.domain.catalogue import Catalogue, Entitlement, EntitlementType, Offer

__all__ = [
    "LedgerState",
    "lock_exclusive",
    "lock_shared",
    "publish",
    "read",
    "read_ledger",
    "set_settlement_window",
    "unoffered",
]

_LOCK = 0x1EDCA7
"""The advisory lock of the catalogue: shared by decisions, exclusive for publishing."""

_LOCK_SHARED = text("SELECT pg_advisory_xact_lock_shared(:key)")
_LOCK_EXCLUSIVE = text("SELECT pg_advisory_xact_lock(:key)")
_LEDGER = text("SELECT timeline, catalogue_version, lanes, usage_kept_days, settlement_window_days FROM ledger")
_ENTITLEMENTS = text(
    "SELECT definition, version FROM entitlement WHERE catalogue_version <= :version ORDER BY key, version"
)
_OFFERS = text(
    "SELECT definition, version, published_at, catalogue_version FROM offer "
    "WHERE catalogue_version <= :version ORDER BY sku, version"
)
_INSERT_ENTITLEMENT = text("""
INSERT INTO entitlement (key, version, definition, published_at, catalogue_version)
SELECT :key, :version, CAST(:definition AS jsonb), clock_timestamp(), :catalogue_version
""")
_INSERT_OFFER = text("""
INSERT INTO offer (sku, version, definition, published_at, catalogue_version)
SELECT :sku, :version, CAST(:definition AS jsonb), clock_timestamp(), :catalogue_version
""")
_SET_SETTLEMENT_WINDOW = text("UPDATE ledger SET settlement_window_days = :days")
_SET_VERSION = text("UPDATE ledger SET catalogue_version = :version")
_UNOFFERED = text("""
SELECT count(*)
FROM event
WHERE event.outcome = 'no_offer'
""")


class LedgerState(msgspec.Struct, frozen=True, kw_only=True):
    """The one row of `ledger`: what every transaction reads first."""

    timeline: int
    catalogue_version: int
    lanes: int
    usage_kept_days: int
    settlement_window_days: int


def lock_shared(connection: Connection) -> None:
    """No catalogue is published until this transaction ends."""
    connection.execute(_LOCK_SHARED, {"key": _LOCK})


def lock_exclusive(connection: Connection) -> None:
    """No event is decided until this transaction ends."""
    connection.execute(_LOCK_EXCLUSIVE, {"key": _LOCK})


def read_ledger(connection: Connection) -> LedgerState:
    """The timeline of sequences, the version of the catalogue, how many lanes there are, and how late usage may be."""
    timeline, catalogue_version, lanes, usage_kept_days, settlement_window_days = connection.execute(_LEDGER).one()
    return LedgerState(
        timeline=timeline,
        catalogue_version=catalogue_version,
        lanes=lanes,
        usage_kept_days=usage_kept_days,
        settlement_window_days=settlement_window_days,
    )


def read(connection: Connection, version: int) -> Catalogue:
    """The catalogue as it was published at `version`, which never changes afterwards."""
    entitlements: dict[str, Entitlement] = {}
    for definition, number in connection.execute(_ENTITLEMENTS, {"version": version}):
        entitlement = msgspec.convert(definition, Entitlement)
        entitlements[entitlement.key] = msgspec.structs.replace(entitlement, version=number)
    offers: dict[str, tuple[Offer, ...]] = {}
    for definition, number, published_at, published_in in connection.execute(_OFFERS, {"version": version}):
        offer = msgspec.convert(definition, Offer)
        offer = msgspec.structs.replace(
            offer, version=number, published_at=published_at, catalogue_version=published_in
        )
        offers[offer.sku] = (*offers.get(offer.sku, ()), offer)
    return Catalogue(version=version, entitlements=entitlements, offers=offers)


def publish(
    connection: Connection, entitlements: Sequence[Entitlement], offers: Sequence[Offer], known: Catalogue
) -> int:
    """These are the newest versions; returns the catalogue's new version.

    The caller holds the exclusive lock and has checked them.
    """
    version = known.version + 1
    for entitlement in entitlements:
        before = known.entitlements.get(entitlement.key)
        connection.execute(
            _INSERT_ENTITLEMENT,
            {
                "key": entitlement.key,
                "version": 1 if before is None else before.version + 1,
                "definition": _definition(entitlement),
                "catalogue_version": version,
            },
        )
    for offer in offers:
        connection.execute(
            _INSERT_OFFER,
            {
                "sku": offer.sku,
                "version": len(known.offers.get(offer.sku, ())) + 1,
                "definition": _definition(offer),
                "catalogue_version": version,
            },
        )
    connection.execute(_SET_VERSION, {"version": version})
    return version


def set_settlement_window(connection: Connection, days: int) -> None:
    """Usage that is recorded from now on may lie so many days back; what was decided before stays as it was.

    The caller holds the exclusive lock and is the owner of the schema.
    """
    connection.execute(_SET_SETTLEMENT_WINDOW, {"days": days})


def unoffered(connection: Connection) -> int:
    """How many events named a SKU without an offer."""
    found: int = connection.execute(_UNOFFERED).scalar_one()
    return found


_CAME_LATER = ("merge", "expiring_soon", "value", "every", "time_zone", "times")
"""Fields that are empty where they are not used."""


def _definition(version: Entitlement | Offer) -> str:
    """What a person wrote, without what publishing adds, and without what came later and is not used.

    An earlier release, which refuses fields that it does not know, reads what uses none of them.
    """
    plain = msgspec.to_builtins(version)
    for added in ("version", "published_at", "catalogue_version"):
        plain.pop(added, None)
    for table in (plain, *plain.get("allowances", ())):
        for field in _CAME_LATER:
            if not table.get(field) and field in table:
                del table[field]
    if plain.get("type") != EntitlementType.SEATS:
        plain.pop("on_shrink", None)
    return msgspec.json.encode(plain).decode()
