"""Any event and any published value, for properties; and the examples that lie beside the schemas."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args, get_type_hints

import msgspec
from hypothesis import strategies as st

from ledger_worker.domain.changes import Cause, Change, CustomerPicture, EntitlementPicture
from ledger_worker.domain.events import (
    UNITS_MAX,
    Event,
    Fact,
    HoldFact,
    OwnFact,
    PurchaseLine,
    PurchaseRefunded,
    RefundLine,
    SeatFact,
    SubscriptionItem,
)
from ledger_worker.domain.values import JsonText, value_of
from ledger_worker.wire.encode import DeadLetterReference
from ledger_worker.wire.schemas import RECORD_TYPES, newest, schemas_directory, shipped

EXAMPLES = [(record_type, version.version) for record_type in RECORD_TYPES for version in shipped()[record_type]]
FACT_TYPES: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in get_args(Fact) if kind not in get_args(OwnFact | HoldFact | SeatFact)
}
"""Every type of fact that somebody tells the ledger, by its name."""


def example(record_type: str, version: int | None = None) -> str:
    """The example of that version, or of the newest."""
    number = version or newest(record_type).version
    return (schemas_directory() / record_type / f"v{number}.example.json").read_text(encoding="utf-8")


def example_fields(record_type: str, version: int | None = None) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(example(record_type, version)))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
ids = st.text(st.characters(categories=["L", "M", "N", "P", "S"]), min_size=1, max_size=80)
longs = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(1, 300) | st.integers(1, UNITS_MAX)
instants = st.datetimes(datetime(1971, 1, 1), datetime(2999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - zone given
optional_counts = st.none() | counts
_whole = st.integers(-(2**53), 2**53)
setting_values = st.recursive(
    st.none() | st.booleans() | _whole | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(ids, parts, max_size=3),
    max_leaves=8,
).map(value_of)
"""Values that a setting can have."""

_notes = st.text(st.characters(categories=["L", "M", "N", "P", "S"], include_characters="\n "), min_size=1, max_size=80)


def _lists(values: st.SearchStrategy[Any], key: str, least: int = 1) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, min_size=least, max_size=5, unique_by=lambda value: getattr(value, key)).map(tuple)


_items = st.builds(SubscriptionItem, item_id=ids, sku=ids, quantity=counts)
_purchase_lines = st.builds(PurchaseLine, line_id=ids, sku=ids, quantity=counts, amount=optional_counts)
_refund_lines = st.builds(RefundLine, line_id=ids, quantity=optional_counts, amount=st.none()) | st.builds(
    RefundLine, line_id=ids, quantity=st.none(), amount=counts
)
_OF_TYPE: Mapping[object, st.SearchStrategy[Any]] = {
    str: ids,
    str | None: st.none() | ids,
    int: counts,
    int | None: optional_counts,
    bool: st.booleans(),
    datetime: instants,
    datetime | None: st.none() | instants,
    JsonText | None: st.none() | setting_values,
    SubscriptionItem: _items,
    tuple[SubscriptionItem, ...]: _lists(_items, "item_id"),
    tuple[PurchaseLine, ...]: _lists(_purchase_lines, "line_id"),
    tuple[RefundLine, ...]: _lists(_refund_lines, "line_id"),
}
_OF_NAME: Mapping[str, st.SearchStrategy[Any]] = {
    "note": _notes,
    "priority": st.integers(0, 1_000_000),
    "currency": st.none() | texts,
    "resource": st.none() | texts,
}
_LATER_THAN = (
    ("trial_end", "trial_start"),
    ("period_end", "period_start"),
    ("period_end", "effective_at"),
    ("expires_at", "effective_at"),
)


def facts_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Facts of one type that are possible, each field of it with and without its default."""
    required = {field.name for field in msgspec.structs.fields(kind) if field.required}
    strategies = {name: _OF_NAME.get(name, _OF_TYPE[hint]) for name, hint in get_type_hints(kind).items()}
    return st.fixed_dictionaries(
        {name: values for name, values in strategies.items() if name in required},
        optional={name: values for name, values in strategies.items() if name not in required},
    ).map(lambda fields: kind(**_possible(kind, fields)))


def _possible(kind: type[Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The same fields, in the order that instants must have, and without the second of two that exclude each other."""
    found = dict(fields)
    for later, earlier in _LATER_THAN:
        if found.get(later) is not None and found.get(earlier) is not None:
            found[earlier], found[later] = sorted([found[earlier], found[later]])
            found[later] += timedelta(microseconds=1)
    if kind is PurchaseRefunded and found.get("lines"):
        found.pop("amount", None)
    return found


facts = st.one_of([facts_of(kind) for kind in FACT_TYPES.values()])


def events_of(facts_told: st.SearchStrategy[Any]) -> st.SearchStrategy[Event]:
    """Events that are possible and tell these facts."""
    return st.builds(
        Event,
        event_source=ids.filter(_is_anybodys),
        event_id=ids,
        customer_id=ids,
        occurred_at=instants,
        fact=facts_told,
        source_version=st.none() | st.integers(0, UNITS_MAX),
    ).filter(_is_about_two_customers_or_none)


def _is_anybodys(event_source: str) -> bool:
    """The others are the ledger's own."""
    return event_source not in {"ledger", "by-hand"} and not event_source.startswith("request/")


def _is_about_two_customers_or_none(event: Event) -> bool:
    others = [getattr(event.fact, name, None) for name in ("to_customer_id", "into_customer_id")]
    return event.customer_id not in others


events = events_of(facts)
"""Events that are possible, of every type."""


_word_lists = st.lists(texts, max_size=3).map(tuple)
_optional_longs = st.none() | longs
pictures = st.builds(
    EntitlementPicture,
    entitlement=texts,
    entitlement_version=longs,
    type=texts,
    state=texts,
    allowed=st.booleans(),
    reason=texts,
    unlimited=st.booleans(),
    allocated=_optional_longs,
    limit=_optional_longs,
    used=_optional_longs,
    held=_optional_longs,
    remaining=_optional_longs,
    overage=_optional_longs,
    debt=_optional_longs,
    forgiven=_optional_longs,
    value=st.none() | texts,
    level=_optional_longs,
    starts_at=st.none() | instants,
    expires_at=st.none() | instants,
    period_end=st.none() | instants,
    holders=st.none() | _word_lists,
    suspension_causes=st.none() | _word_lists,
    upcoming=st.none() | texts,
    over_allocated=_optional_longs,
)
changes = st.builds(
    Change,
    change_id=st.uuids(),
    customer_id=texts,
    timeline=longs,
    sequence=longs,
    entitlement=texts,
    kinds=_word_lists,
    before=pictures,
    after=pictures,
    cause=st.builds(
        Cause,
        event_source=texts,
        event_id=texts,
        type=texts,
        occurred_at=instants,
        actor=st.none() | texts,
        note=st.none() | texts,
    ),
    effective_at=instants,
    recorded_at=instants,
    posting=longs,
    posting_hash=st.binary(max_size=64),
    correction=st.booleans(),
)
customer_pictures = st.builds(
    CustomerPicture,
    customer_id=texts,
    timeline=longs,
    sequence=longs,
    recorded_at=instants,
    entitlements=st.lists(pictures, max_size=3).map(tuple),
    merged_into=st.none() | texts,
)
dead_letter_references = st.builds(
    DeadLetterReference,
    dead_letter_id=st.uuids(),
    reason=texts,
    message=texts,
    source_topic=texts,
    source_partition=longs,
    source_offset=longs,
    first_failed_at=instants,
    size_bytes=longs,
    sha256=st.binary(max_size=64),
)
