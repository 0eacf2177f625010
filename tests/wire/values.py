"""Any event and any published value, for properties; and the examples that lie beside the schemas."""

import json
from datetime import UTC, datetime
from typing import Any, cast

from hypothesis import strategies as st

from ledger_worker.domain.changes import Cause, Change, CustomerPicture, EntitlementPicture
from ledger_worker.domain.events import (
    UNITS_MAX,
    Event,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    RefundLine,
    SubscriptionActivated,
    SubscriptionCancelled,
    SubscriptionItem,
    SubscriptionRenewed,
    UsageRecorded,
)
from ledger_worker.wire.encode import DeadLetterReference
from ledger_worker.wire.schemas import FAMILY_OF, OUTPUTS, schemas_directory, shipped

RECORD_TYPES = (*FAMILY_OF, *OUTPUTS)
EXAMPLES = [(record_type, version.version) for record_type in RECORD_TYPES for version in shipped()[record_type]]


def example(record_type: str, version: int = 1) -> str:
    return (schemas_directory() / record_type / f"v{version}.example.json").read_text(encoding="utf-8")


def example_fields(record_type: str) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(example(record_type)))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
ids = st.text(st.characters(categories=["L", "M", "N", "P", "S"]), min_size=1, max_size=80)
longs = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(1, 300) | st.integers(1, UNITS_MAX)
instants = st.datetimes(datetime(1971, 1, 1), datetime(2999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - zone given
optional_counts = st.none() | counts


def _lists(values: st.SearchStrategy[Any], key: str, least: int = 1) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, min_size=least, max_size=5, unique_by=lambda value: getattr(value, key)).map(tuple)


_items = st.builds(SubscriptionItem, item_id=ids, sku=ids, quantity=counts)
_periods = st.lists(instants, min_size=2, max_size=2, unique=True).map(sorted)
_refund_lines = st.builds(RefundLine, line_id=ids, quantity=optional_counts, amount=st.none()) | st.builds(
    RefundLine, line_id=ids, quantity=st.none(), amount=counts
)


def _with_period(fact: type[Any], least: int) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda subscription_id, items, period: fact(
            subscription_id=subscription_id, items=items, period_start=period[0], period_end=period[1]
        ),
        ids,
        _lists(_items, "item_id", least),
        _periods,
    )


facts = st.one_of(
    st.builds(UsageRecorded, entitlement=ids, units=counts, resource=st.none() | texts),
    st.builds(
        PurchaseCompleted,
        order_id=ids,
        lines=_lists(st.builds(PurchaseLine, line_id=ids, sku=ids, quantity=counts, amount=optional_counts), "line_id"),
        currency=st.none() | texts,
    ),
    st.builds(PurchaseRefunded, order_id=ids, refund_id=ids, lines=_lists(_refund_lines, "line_id", 0)),
    st.builds(PurchaseRefunded, order_id=ids, refund_id=ids, amount=optional_counts),
    _with_period(SubscriptionActivated, 1),
    _with_period(SubscriptionRenewed, 0),
    st.builds(SubscriptionCancelled, subscription_id=ids, cancellation_id=ids, effective_at=instants),
)
events = st.builds(
    Event,
    event_source=ids,
    event_id=ids,
    customer_id=ids,
    occurred_at=instants,
    fact=facts,
    source_version=st.none() | st.integers(0, UNITS_MAX),
)
"""Events that are possible."""

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
