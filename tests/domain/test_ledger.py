"""What each kind of line does to the books, and the bytes of the chain."""

from uuid import UUID

import msgspec
import pytest

from ledger_worker.domain.ledger import (
    EFFECTS,
    Cut,
    CutPolicy,
    Effect,
    Entry,
    GrantTerms,
    Kind,
    Line,
    posting_hash,
    precedence,
)
from ledger_worker.domain.values import JsonText
from tests.domain.telling import day

GRANT = UUID(int=1)
TERMS = GrantTerms(
    grant_id=GRANT,
    entitlement="api",
    source_key="order/o1",
    line_id="l1",
    sku="pack",
    allowance="api",
    offer_version=1,
    amount=10,
    priority=100,
    effective_at=day(1),
    expires_at=day(31),
    cuts=(Cut(cut_id="refund/r1", at=day(5), units=4, policy=CutPolicy.UNUSED_ONLY),),
)
VALUED = msgspec.structs.replace(TERMS, value=JsonText("5"))
ENTRIES = (
    Entry(entitlement="api", line=Line(Kind.GRANTED, day(1), GRANT, None, None, 10), terms=TERMS),
    Entry(entitlement="api", line=Line(Kind.BURN, day(2), GRANT, UUID(int=7), None, 3)),
)


@pytest.mark.parametrize("kind", Kind)
def test_no_line_makes_or_loses_a_unit(kind: Kind) -> None:
    effect = EFFECTS[kind]

    of_grant = effect.available + effect.held + effect.used + effect.expired + effect.revoked + effect.moved
    assert effect.granted == of_grant
    assert effect.usage == effect.used_total + effect.overage + effect.debt + effect.forgiven
    assert effect.used == effect.used_total


def test_every_kind_of_line_has_an_effect() -> None:
    assert set(EFFECTS) == set(Kind)
    assert all(effect != Effect() for effect in EFFECTS.values())


def chained(**changed: object) -> str:
    values: dict[str, object] = {
        "previous": bytes(32),
        "customer_id": "ada",
        "number": 1,
        "event_key": UUID(int=5),
        "content_hash": b"0123456789abcdef",
        "recorded_at": day(2),
        "catalogue_version": 3,
        "rules_version": 1,
        "entries": ENTRIES,
    }
    return posting_hash(**{**values, **changed}).hex()  # type: ignore[arg-type] # each value stands for a field


def test_a_posting_is_known_by_these_bytes() -> None:
    """A golden value: a change here breaks every chain that was ever written."""
    assert chained() == "b8a30ca1bdcd56f76a3792d441a179176df43daa2153c0290721e56a745be90b"


@pytest.mark.parametrize(
    "changed",
    [
        {"previous": bytes([1] * 32)},
        {"customer_id": "bob"},
        {"number": 2},
        {"event_key": UUID(int=6)},
        {"content_hash": b"0123456789abcdeF"},
        {"recorded_at": day(3)},
        {"catalogue_version": 4},
        {"rules_version": 2},
        {"entries": ENTRIES[:1]},
        {"entries": ENTRIES[::-1]},
        {"entries": (msgspec.structs.replace(ENTRIES[0], terms=None), ENTRIES[1])},
        {"entries": (msgspec.structs.replace(ENTRIES[0], terms=VALUED), ENTRIES[1])},
        {"entries": (ENTRIES[0], msgspec.structs.replace(ENTRIES[1], entitlement="sms"))},
    ],
)
def test_whatever_a_posting_says_is_in_its_hash(changed: dict[str, object]) -> None:
    assert chained(**changed) != chained()


def test_grants_burn_in_the_order_of_precedence() -> None:
    """Priority, sooner end (never last), higher generation, earlier start, id; the unlimited last of all."""
    ordered: list[dict[str, object]] = [
        {"priority": 1, "expires_at": None},
        {"expires_at": day(20), "generation": 2},
        {"expires_at": day(20), "generation": 1},
        {"expires_at": day(20), "effective_at": day(1)},
        {"expires_at": day(20), "effective_at": day(2)},
        {"expires_at": day(20), "effective_at": day(2), "grant_id": UUID(int=2)},
        {"expires_at": day(21)},
        {"expires_at": None},
        {"priority": 101, "expires_at": day(2)},
        {"priority": 1, "expires_at": day(2), "amount": None},
    ]
    places = [precedence(msgspec.structs.replace(TERMS, **terms)) for terms in ordered]

    assert places == sorted(places)
    assert len(set(places)) == len(places)
