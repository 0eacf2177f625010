"""The contract: every Avro schema of every record type, found, parsed and named by its fingerprint.

The files live in `schemas/` of the checkout and travel in the wheel as `ledger_worker/schemas`. A version once
released is never edited: a reader must know the fingerprint of every record that may still lie in a topic. Nothing
here reads a record.

Fingerprints are CRC-64-AVRO of the Parsing Canonical Form (Avro 1.12, "Single-object encoding"). That form keeps
neither documentation, defaults nor logical types, so two versions that differ in those alone would collide: a test
refuses that.
"""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from ledger_worker.errors import ConfigurationError

__all__ = [
    "BY_HAND",
    "CHANGE",
    "CUSTOMER_STATE",
    "DEAD_LETTER_REFERENCE",
    "EVENTS",
    "FAMILY_OF",
    "NAMESPACE",
    "OUTPUTS",
    "RECORD_TYPES",
    "AvroSchema",
    "SchemaVersion",
    "TopicFamily",
    "by_fingerprint",
    "fingerprint_of",
    "full_name",
    "newest",
    "schemas_directory",
    "shipped",
]

AvroSchema = dict[str, Any]
"""A record schema as JSON says it."""

NAMESPACE = "entitlements"
"""Namespace of every record; it never carries a version."""


class TopicFamily(StrEnum):
    """What kind of input topic it is: it says which record types belong there. Topic names are settings."""

    PURCHASES = "purchases"
    SUBSCRIPTIONS = "subscriptions"
    USAGE = "usage"


FAMILY_OF: Mapping[str, TopicFamily] = MappingProxyType(
    {
        "PurchaseCompleted": TopicFamily.PURCHASES,
        "PurchaseRefunded": TopicFamily.PURCHASES,
        "RefundReversed": TopicFamily.PURCHASES,
        "ChargebackOpened": TopicFamily.PURCHASES,
        "ChargebackWon": TopicFamily.PURCHASES,
        "ChargebackLost": TopicFamily.PURCHASES,
        "PurchaseTransferred": TopicFamily.PURCHASES,
        "CustomersMerged": TopicFamily.PURCHASES,
        "SubscriptionTrialStarted": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionTrialConverted": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionTrialExpired": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionActivated": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionRenewed": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionPaymentFailed": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionPaymentRecovered": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionPlanChanged": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionQuantityChanged": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionAddOnAdded": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionAddOnRemoved": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionPaused": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionResumed": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionCancellationScheduled": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionCancellationWithdrawn": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionCancelled": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionExpired": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionRevoked": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionExtended": TopicFamily.SUBSCRIPTIONS,
        "SubscriptionTransferred": TopicFamily.SUBSCRIPTIONS,
        "UsageRecorded": TopicFamily.USAGE,
        "UsageReversed": TopicFamily.USAGE,
    }
)
"""Every incoming record type and the one topic family it belongs to."""

BY_HAND = ("EntitlementAssigned", "AssignmentRenewed", "AssignmentExtended", "AssignmentRevoked")
"""The record types of what a person does by hand. On no topic: a right to write to one is none to give."""
EVENTS = (*FAMILY_OF, *BY_HAND)
"""Every record type that tells an event. What the ledger tells itself has none."""

CHANGE = "EntitlementChanged"
CUSTOMER_STATE = "CustomerState"
DEAD_LETTER_REFERENCE = "DeadLetterReference"
OUTPUTS = (CHANGE, CUSTOMER_STATE, DEAD_LETTER_REFERENCE)
"""Every record type the ledger publishes."""
RECORD_TYPES = (*EVENTS, *OUTPUTS)
"""Every record type there is."""

_VERSION_FILE = re.compile(r"v([1-9][0-9]*)\.avsc")


class SchemaVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one record type; `fingerprint` is the eight bytes that stand in a single-object frame."""

    record_type: str
    version: int
    text: str
    schema: AvroSchema
    fingerprint: bytes


def full_name(record_type: str) -> str:
    """The record type with its namespace: the Avro full name, the registry's subject and the CloudEvents type."""
    return f"{NAMESPACE}.{record_type}"


@cache
def shipped() -> Mapping[str, tuple[SchemaVersion, ...]]:
    """Every version of every record type of this release, oldest first; read once from the files.

    Raises ConfigurationError when a record type has no schema or its versions have a gap.
    """
    directory = schemas_directory()
    return MappingProxyType({record_type: _versions(directory, record_type) for record_type in RECORD_TYPES})


@cache
def by_fingerprint() -> Mapping[bytes, SchemaVersion]:
    """Every shipped version under the fingerprint that its single-object frames carry."""
    return MappingProxyType({version.fingerprint: version for versions in shipped().values() for version in versions})


def newest(record_type: str) -> SchemaVersion:
    """The version this release writes and reads into."""
    return shipped()[record_type][-1]


def fingerprint_of(schema: AvroSchema) -> bytes:
    """The CRC-64-AVRO fingerprint of a schema, in the byte order of a single-object frame (little-endian)."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


def schemas_directory() -> Traversable:
    """Where the schemas are: inside the installed package, or else at the root of the checkout."""
    packaged = files("ledger_worker") / "schemas"
    if packaged.is_dir():
        return packaged
    checkout = Path(__file__).parents[3] / "schemas"
    if checkout.is_dir():
        return checkout
    raise ConfigurationError(
        "The Avro schemas are missing: expected ledger_worker/schemas in the package or schemas/ in the checkout."
    )


def _versions(directory: Traversable, record_type: str) -> tuple[SchemaVersion, ...]:
    folder = directory / record_type
    found = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        match = _VERSION_FILE.fullmatch(file.name)
        if match:
            found[int(match[1])] = file.read_text(encoding="utf-8")
    if not found or sorted(found) != list(range(1, len(found) + 1)):
        raise ConfigurationError(
            f"schemas/{record_type} has versions {sorted(found)}, expected v1.avsc and so on, no gap."
        )
    return tuple(_parsed(record_type, version, found[version]) for version in sorted(found))


def _parsed(record_type: str, version: int, text: str) -> SchemaVersion:
    schema: AvroSchema = json.loads(text)
    parse_schema(schema)
    return SchemaVersion(
        record_type=record_type,
        version=version,
        text=text,
        schema=schema,
        fingerprint=fingerprint_of(schema),
    )
