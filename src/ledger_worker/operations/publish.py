"""Publishing a catalogue: what a file defines becomes the newest versions, under the lock that every decision shares.

A definition that is already the newest version publishes nothing, so a file may be applied again and again. One that is
published and not in the file stays as it is: nothing is ever withdrawn by leaving it out. Publishing holds the
catalogue's lock exclusively from reading what is published to its commit, so no event is decided by an offer that was
just replaced, and two publishers do not both number a version 2. A rehearsal shares that lock instead: nobody sees what
it publishes and rolls back, so decisions go on beside it.

Whom a version reaches that is published with `next_period` or `now` is the matter of `reach`.
"""

from enum import StrEnum

import msgspec
from sqlalchemy import Connection, Engine

from ledger_worker.domain.catalogue import Apply, Catalogue, Entitlement, Offer, definition_problems
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.wire.catalogue_file import ADDED_BY_PUBLISHING, Definitions

__all__ = [
    "Comparison",
    "Definition",
    "FieldDifference",
    "Standing",
    "compare",
    "count_unoffered",
    "publish",
    "publish_on",
    "rehearse_publish",
]


class Standing(StrEnum):
    """How a definition stands to what is published."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    NOT_IN_FILE = "not_in_file"


class FieldDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One field that differs, both sides as JSON text; `field` of an allowance is `allowance KEY.FIELD`."""

    field: str
    published: str | None
    defined: str | None


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """One entitlement or offer; `version` is the one that is in force after publishing."""

    kind: str
    key: str
    standing: Standing
    version: int
    differences: tuple[FieldDifference, ...] = ()


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What publishing does, or would do: entitlements, then offers, each in the file's order, then what it leaves out.

    `catalogue_version` is the one in force afterwards, the same as before when nothing is new or changed. While there
    are problems, nothing is published.
    """

    catalogue_version: int
    definitions: tuple[Definition, ...]
    problems: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether publishing makes any new version."""
        return any(each.standing in (Standing.NEW, Standing.CHANGED) for each in self.definitions)


def publish(engine: Engine, defined: Definitions) -> Comparison:
    """What differs from the newest versions is published, unless there are problems; a second call does nothing."""
    with engine.connect() as connection, connection.begin():
        catalogue_store.lock_exclusive(connection)
        return publish_on(connection, defined)


def rehearse_publish(engine: Engine, defined: Definitions) -> Comparison:
    """What `publish` would do, by the same code, rolled back; no decision waits for it."""
    with engine.connect() as connection, connection.begin() as transaction:
        catalogue_store.lock_shared(connection)
        compared = publish_on(connection, defined)
        transaction.rollback()
    return compared


def publish_on(connection: Connection, defined: Definitions) -> Comparison:
    """The same inside the caller's transaction.

    The caller holds the catalogue's lock: alone when it commits, shared when it rolls back. Definitions are written in
    the order of their keys, so that two rehearsals wait for each other at most, and never in a circle.
    """
    version = catalogue_store.read_ledger(connection).catalogue_version
    known = catalogue_store.read(connection, version)
    compared = compare(defined, known)
    if compared.differs and not compared.problems:
        entitlements, offers = _differing(defined, compared.definitions)
        catalogue_store.publish(connection, sorted(entitlements, key=_key), sorted(offers, key=_sku), known)
    return compared


def count_unoffered(engine: Engine) -> int:
    """How many events named a SKU that had no offer when they were applied. Reads the whole inbox: outside any lock."""
    with engine.connect() as connection:
        return catalogue_store.unoffered(connection)


def compare(defined: Definitions, known: Catalogue) -> Comparison:
    """How the definitions stand to what is known, with everything that forbids publishing them."""
    entitlements = [_compare_entitlement(each, known.entitlements.get(each.key)) for each in defined.entitlements]
    offers = [_compare_offer(each, known.offers.get(each.sku, ())) for each in defined.offers]
    in_file = {(each.kind, each.key) for each in (*entitlements, *offers)}
    published = [("entitlement", key, found.version) for key, found in known.entitlements.items()]
    published += [("offer", sku, versions[-1].version) for sku, versions in known.offers.items()]
    left_out = [
        Definition(kind=kind, key=key, standing=Standing.NOT_IN_FILE, version=version)
        for kind, key, version in published
        if (kind, key) not in in_file
    ]
    differing_entitlements, differing_offers = _differing(defined, (*entitlements, *offers))
    compared = Comparison(
        catalogue_version=known.version,
        definitions=(*entitlements, *offers, *left_out),
        # What could not be read makes further problems where it is spoken of: these would only hide their cause.
        problems=defined.problems or tuple(definition_problems(differing_entitlements, differing_offers, known)),
    )
    if compared.differs and not compared.problems:
        return msgspec.structs.replace(compared, catalogue_version=known.version + 1)
    return compared


def _key(entitlement: Entitlement) -> str:
    return entitlement.key


def _sku(offer: Offer) -> str:
    return offer.sku


_REACHES_MORE = (Apply.NEW_ONLY, Apply.NEXT_PERIOD, Apply.NOW)
"""From what reaches nothing that exists to what reaches all of it."""


def _differing(
    defined: Definitions, definitions: tuple[Definition, ...]
) -> tuple[tuple[Entitlement, ...], tuple[Offer, ...]]:
    differing = {(each.kind, each.key) for each in definitions if each.standing in (Standing.NEW, Standing.CHANGED)}
    return (
        tuple(each for each in defined.entitlements if ("entitlement", each.key) in differing),
        tuple(each for each in defined.offers if ("offer", each.sku) in differing),
    )


def _compare_entitlement(defined: Entitlement, published: Entitlement | None) -> Definition:
    if published is None:
        return Definition(kind="entitlement", key=defined.key, standing=Standing.NEW, version=1)
    return _compared("entitlement", defined.key, published.version, _fields(published), _fields(defined))


def _compare_offer(defined: Offer, versions: tuple[Offer, ...]) -> Definition:
    if not versions:
        return Definition(kind="offer", key=defined.sku, standing=Standing.NEW, version=1)
    published = versions[-1]
    before, after = _offer_fields(published), _offer_fields(defined)
    if _REACHES_MORE.index(defined.apply) <= _REACHES_MORE.index(published.apply):
        # `apply` says how a version reached what existed. Once it is published it has had its effect and may be taken
        # out of the file again. A wish to reach more than was reached is a difference: it needs a version of its own.
        before["apply"] = after["apply"]
    return _compared("offer", defined.sku, published.version, before, after)


def _compared(kind: str, key: str, version: int, before: dict[str, str], after: dict[str, str]) -> Definition:
    differences = tuple(
        FieldDifference(field=field, published=before.get(field), defined=after.get(field))
        for field in dict.fromkeys((*before, *after))
        if before.get(field) != after.get(field)
    )
    if not differences:
        return Definition(kind=kind, key=key, standing=Standing.UNCHANGED, version=version)
    return Definition(kind=kind, key=key, standing=Standing.CHANGED, version=version + 1, differences=differences)


def _offer_fields(offer: Offer) -> dict[str, str]:
    fields = _fields(msgspec.structs.replace(offer, allowances=()))
    del fields["allowances"]
    for allowance in offer.allowances:
        fields |= {f"allowance {allowance.key}.{name}": value for name, value in _fields(allowance).items()}
    # The order of allowances gives nothing and takes nothing; it is no difference.
    return fields


def _fields(value: msgspec.Struct) -> dict[str, str]:
    plain = {name: found for name, found in msgspec.structs.asdict(value).items() if name not in ADDED_BY_PUBLISHING}
    # What a setting is given is JSON text already; without one there is nothing to compare, for null would be a value.
    given = plain.pop("value", None)
    fields = {name: msgspec.json.encode(found).decode() for name, found in plain.items()}
    return fields if given is None else {**fields, "value": given}
