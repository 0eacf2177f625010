"""What is impossible in an event alone is named with its field, in every type of fact; nothing else is refused."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest

from ledger_worker.domain.events import (
    ID_LENGTH_MAX,
    ITEMS_MAX,
    UNITS_MAX,
    AssignmentExtended,
    AssignmentRenewed,
    AssignmentRevoked,
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    CustomersMerged,
    EntitlementAssigned,
    Event,
    Fact,
    HoldConfirmed,
    HoldFact,
    HoldReleased,
    HoldTaken,
    OfferReached,
    OwnFact,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    PurchaseTransferred,
    RefundLine,
    RefundReversed,
    SeatAssigned,
    SeatFact,
    SeatsRevoked,
    SeatSwapped,
    SeatUnassigned,
    SubscriptionActivated,
    SubscriptionAddOnAdded,
    SubscriptionAddOnRemoved,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionExtended,
    SubscriptionItem,
    SubscriptionPaused,
    SubscriptionPaymentFailed,
    SubscriptionPaymentRecovered,
    SubscriptionPlanChanged,
    SubscriptionQuantityChanged,
    SubscriptionRenewed,
    SubscriptionResumed,
    SubscriptionRevoked,
    SubscriptionTransferred,
    SubscriptionTrialConverted,
    SubscriptionTrialExpired,
    SubscriptionTrialStarted,
    TransitionsDue,
    UsageRecorded,
    UsageReversed,
)
from ledger_worker.domain.impossible import problem
from ledger_worker.domain.values import JsonText

START = datetime(2026, 3, 1, tzinfo=UTC)
END = datetime(2026, 4, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

LINE = PurchaseLine(line_id="l1", sku="pack", quantity=1, amount=300)
REFUND_LINE = RefundLine(line_id="l1", quantity=1)
ITEM = SubscriptionItem(item_id="i1", sku="plan", quantity=1)

POSSIBLE: tuple[Fact, ...] = (
    PurchaseCompleted(order_id="o1", lines=(LINE,), currency="EUR"),
    PurchaseRefunded(order_id="o1", refund_id="r1", lines=(REFUND_LINE,)),
    RefundReversed(order_id="o1", reversal_id="v1", refund_id="r1"),
    ChargebackOpened(order_id="o1", dispute_id="d1"),
    ChargebackWon(order_id="o1", dispute_id="d1"),
    ChargebackLost(order_id="o1", dispute_id="d1", amount=100),
    PurchaseTransferred(order_id="o1", transfer_id="t1", to_customer_id="grace"),
    SubscriptionTrialStarted(subscription_id="s1", items=(ITEM,), trial_start=START, trial_end=END),
    SubscriptionTrialConverted(subscription_id="s1", period_start=START, period_end=END, items=(ITEM,)),
    SubscriptionTrialExpired(subscription_id="s1", effective_at=START),
    SubscriptionActivated(subscription_id="s1", items=(ITEM,), period_start=START, period_end=END),
    SubscriptionRenewed(subscription_id="s1", period_start=START, period_end=END, items=(ITEM,)),
    SubscriptionPaymentFailed(subscription_id="s1", failure_id="f1"),
    SubscriptionPaymentRecovered(subscription_id="s1", recovery_id="y1"),
    SubscriptionPlanChanged(
        subscription_id="s1",
        change_id="c1",
        item_id="i1",
        sku="pro",
        effective_at=START,
        quantity=2,
        period_end=END,
        keep_schedule=True,
    ),
    SubscriptionQuantityChanged(
        subscription_id="s1", change_id="c1", item_id="i1", quantity=2, effective_at=START, keep_schedule=True
    ),
    SubscriptionAddOnAdded(subscription_id="s1", change_id="c1", item=ITEM, effective_at=START),
    SubscriptionAddOnRemoved(subscription_id="s1", change_id="c1", item_id="i1", effective_at=START),
    SubscriptionPaused(subscription_id="s1", pause_id="p1", effective_at=START),
    SubscriptionResumed(subscription_id="s1", pause_id="p1", effective_at=START),
    SubscriptionCancellationScheduled(subscription_id="s1", cancellation_id="c1", effective_at=START),
    SubscriptionCancellationWithdrawn(subscription_id="s1", cancellation_id="c1"),
    SubscriptionCancelled(subscription_id="s1", cancellation_id="c1", effective_at=START),
    SubscriptionExpired(subscription_id="s1", expiry_id="x1", effective_at=START),
    SubscriptionRevoked(subscription_id="s1", revocation_id="k1", effective_at=START),
    SubscriptionExtended(subscription_id="s1", extension_id="e1", new_period_end=END),
    SubscriptionTransferred(subscription_id="s1", transfer_id="t1", to_customer_id="grace"),
    EntitlementAssigned(
        assignment_id="a1",
        entitlement="api",
        effective_at=START,
        actor="lena@support",
        note="For the outage.\nTicket 5120.",
        units=500,
        expires_at=END,
        priority=50,
        value=JsonText('{"region":"eu"}'),
    ),
    AssignmentRenewed(
        assignment_id="a1",
        effective_at=START,
        actor="lena@support",
        note="Again.",
        expires_at=END,
        units=500,
        value=JsonText("25"),
    ),
    AssignmentExtended(
        assignment_id="a1", extension_id="e1", new_expires_at=END, actor="lena@support", note="A week more."
    ),
    AssignmentRevoked(
        assignment_id="a1", revocation_id="k1", effective_at=START, actor="lena@support", note="Wrong account."
    ),
    CustomersMerged(merge_id="m1", into_customer_id="grace"),
    UsageRecorded(entitlement="api", units=3, resource="service:video"),
    UsageReversed(entitlement="api", reversal_id="v1", usage_event_id="u1", usage_event_source="meter", units=2),
)
"""A fact of every type that is told, with every field given that can be."""
ITS_OWN: tuple[Fact, ...] = (
    TransitionsDue(entitlement="api", instant=START, kind="end", grant_id=UUID(int=7)),
    OfferReached(source_key="order/" + "o" * ID_LENGTH_MAX, catalogue_version=3),
    HoldTaken(entitlement="api", units=1, expires_at=START),
    HoldConfirmed(entitlement="api", hold_event_id="api@h", units=1),
    HoldReleased(entitlement="api", hold_event_id="api@h"),
    SeatAssigned(entitlement="desk", holder="ann"),
    SeatUnassigned(entitlement="desk", holder="ann"),
    SeatSwapped(entitlement="desk", holder="ann", to="ben"),
    SeatsRevoked(entitlement="desk", holders=("ann",)),
)
FREE = {"currency", "resource", "keep_schedule"}
"""Nothing is impossible in these fields."""


def event_with(fact: Fact, **envelope: object) -> Event:
    event = Event(event_source="commerce", event_id="e1", customer_id="ada", occurred_at=START, fact=fact)
    return msgspec.structs.replace(event, **envelope)


def of(kind: type[Any], **changed: object) -> Any:  # noqa: ANN401 - a fact of that type
    """The fact of that type in `POSSIBLE`, with these fields changed."""
    (fact,) = (fact for fact in POSSIBLE if type(fact) is kind)
    return msgspec.structs.replace(fact, **changed)


def fields_holding(held: type[Any]) -> list[Any]:
    """Every field of every fact that holds such a value, or none, as parameters of a test."""
    return [
        pytest.param(type(fact), field.name, id=f"{type(fact).__name__}.{field.name}")
        for fact in POSSIBLE
        for field in msgspec.structs.fields(fact)
        if held in (field.type, *get_args(field.type)) and field.name not in FREE
    ]


def test_every_type_of_fact_is_among_these() -> None:
    assert {type(fact) for fact in POSSIBLE} == set(get_args(Fact)) - set(get_args(OwnFact | HoldFact | SeatFact))
    assert {type(fact) for fact in ITS_OWN} == set(get_args(OwnFact | HoldFact | SeatFact))


@pytest.mark.parametrize("fact", [*POSSIBLE, *ITS_OWN], ids=lambda fact: type(fact).__name__)
def test_what_is_possible_has_no_problem(fact: Fact) -> None:
    assert problem(event_with(fact)) is None
    assert problem(event_with(fact, source_version=0)) is None


@pytest.mark.parametrize("fact", POSSIBLE, ids=lambda fact: type(fact).__name__)
def test_what_is_not_given_is_not_judged(fact: Fact) -> None:
    required = {field.name: getattr(fact, field.name) for field in msgspec.structs.fields(fact) if field.required}
    kind: type[Any] = type(fact)

    assert problem(event_with(kind(**required))) is None


@pytest.mark.parametrize(
    "fact",
    [
        of(UsageRecorded, units=UNITS_MAX),
        of(UsageRecorded, entitlement="x" * ID_LENGTH_MAX, resource="any\0thing"),
        of(UsageRecorded, entitlement="名前 with a space"),
        of(PurchaseCompleted, lines=(msgspec.structs.replace(LINE, amount=0),)),
        of(PurchaseCompleted, lines=(msgspec.structs.replace(LINE, quantity=UNITS_MAX, amount=UNITS_MAX),)),
        of(PurchaseCompleted, lines=tuple(msgspec.structs.replace(LINE, line_id=f"l{n}") for n in range(ITEMS_MAX))),
        of(PurchaseRefunded, lines=(), amount=1),
        of(PurchaseRefunded, lines=(RefundLine(line_id="l1", amount=1), RefundLine(line_id="l2"))),
        of(SubscriptionActivated, period_end=START + MICROSECOND),
        of(SubscriptionPlanChanged, period_end=START + MICROSECOND),
        of(EntitlementAssigned, priority=0),
        of(EntitlementAssigned, priority=1_000_000),
        of(EntitlementAssigned, note="\n" * 2000),
    ],
)
def test_the_utmost_that_is_possible_has_no_problem(fact: Fact) -> None:
    assert problem(event_with(fact)) is None


# -- every field by what it holds


@pytest.mark.parametrize(("kind", "name"), fields_holding(str))
def test_an_empty_a_long_or_an_unprintable_text_is_impossible(kind: type[Any], name: str) -> None:
    most = 2000 if name == "note" else ID_LENGTH_MAX
    printable = "printable ones and newlines only" if name == "note" else "printable ones only"
    for text, says in [
        ("", f"{name} has 0 characters, expected 1 to {most}"),
        ("x" * (most + 1), f"{name} has {most + 1} characters, expected 1 to {most}"),
        ("a\0b", f"{name} has unprintable characters, expected {printable}"),
        ("\ud800", f"{name} has unprintable characters, expected {printable}"),
    ]:
        assert problem(event_with(of(kind, **{name: text}))) == says


@pytest.mark.parametrize(("kind", "name"), fields_holding(int))
def test_a_number_below_one_or_beyond_the_largest_is_impossible(kind: type[Any], name: str) -> None:
    least, most = (0, 1_000_000) if name == "priority" else (1, UNITS_MAX)
    without_lines = {"lines": ()} if kind is PurchaseRefunded else {}
    for number in (least - 1, most + 1):
        says = f"{name} is {number}, expected {least} to {most}"
        assert problem(event_with(of(kind, **without_lines, **{name: number}))) == says


@pytest.mark.parametrize(("kind", "name"), fields_holding(datetime))
def test_an_instant_of_a_year_that_no_business_has_is_impossible(kind: type[Any], name: str) -> None:
    for instant in (datetime(1970, 12, 31, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)):
        says = f"{name} is {instant.isoformat()}, expected a year from 1971 to 2999"
        assert problem(event_with(of(kind, **{name: instant}))) == says


@pytest.mark.parametrize("kind", [EntitlementAssigned, AssignmentRenewed])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "value is no value of a setting: it is not JSON"),
        ("2.5", "value is no value of a setting: it has the number 2.5, expected whole numbers only"),
        ('["b", "a"]', "value is not in canonical form, expected its members by name and no space"),
    ],
)
def test_a_value_that_no_setting_can_have_is_impossible(kind: type[Any], text: str, says: str) -> None:
    found = problem(event_with(of(kind, value=text)))

    assert found is not None
    assert found.startswith(says)


# -- what does not fit together


@pytest.mark.parametrize(
    ("kind", "later", "earlier"),
    [
        (SubscriptionTrialStarted, "trial_end", "trial_start"),
        (SubscriptionTrialConverted, "period_end", "period_start"),
        (SubscriptionActivated, "period_end", "period_start"),
        (SubscriptionRenewed, "period_end", "period_start"),
        (SubscriptionPlanChanged, "period_end", "effective_at"),
        (EntitlementAssigned, "expires_at", "effective_at"),
        (AssignmentRenewed, "expires_at", "effective_at"),
    ],
)
def test_what_ends_ends_after_it_began(kind: type[Any], later: str, earlier: str) -> None:
    assert problem(event_with(of(kind, **{later: START + MICROSECOND}))) is None
    for instant in (START, START - MICROSECOND):
        says = f"{later} is {instant.isoformat()}, expected after {earlier} {START.isoformat()}"
        assert problem(event_with(of(kind, **{later: instant}))) == says


@pytest.mark.parametrize("kind", [PurchaseTransferred, SubscriptionTransferred, CustomersMerged])
def test_nothing_goes_to_the_customer_who_has_it(kind: type[Any]) -> None:
    assert problem(event_with(of(kind), customer_id="ada")) is None
    assert problem(event_with(of(kind), customer_id="grace")) == (
        f"{'into' if kind is CustomersMerged else 'to'}_customer_id is the customer_id, expected another customer"
    )


@pytest.mark.parametrize(
    ("fact", "says"),
    [
        (of(PurchaseCompleted, lines=()), "lines has 0 elements, expected 1 to 500"),
        (
            of(PurchaseCompleted, lines=tuple(msgspec.structs.replace(LINE, line_id=f"{n}") for n in range(501))),
            "lines has 501 elements, expected 1 to 500",
        ),
        (of(PurchaseCompleted, lines=(LINE, LINE)), "lines repeats a line_id, expected each once"),
        (
            of(PurchaseCompleted, lines=(PurchaseLine(line_id="", sku="pack", quantity=1),)),
            "lines[0].line_id has 0 characters, expected 1 to 200",
        ),
        (
            of(PurchaseCompleted, lines=(PurchaseLine(line_id="l1", sku="a\tb", quantity=1),)),
            "lines[0].sku has unprintable characters, expected printable ones only",
        ),
        (
            of(PurchaseCompleted, lines=(LINE, PurchaseLine(line_id="l2", sku="pack", quantity=0))),
            f"lines[1].quantity is 0, expected 1 to {UNITS_MAX}",
        ),
        (
            of(PurchaseCompleted, lines=(PurchaseLine(line_id="l1", sku="pack", quantity=1, amount=-1),)),
            f"lines[0].amount is -1, expected 0 to {UNITS_MAX}",
        ),
        (of(PurchaseRefunded, amount=1), "lines and amount are both set, expected at most one of them"),
        (
            of(PurchaseRefunded, lines=tuple(RefundLine(line_id=f"{n}") for n in range(501))),
            "lines has 501 elements, expected 0 to 500",
        ),
        (of(PurchaseRefunded, lines=(REFUND_LINE, REFUND_LINE)), "lines repeats a line_id, expected each once"),
        (
            of(PurchaseRefunded, lines=(RefundLine(line_id="l1", quantity=1, amount=1),)),
            "lines[0].quantity and amount are both set, expected at most one of them",
        ),
        (
            of(PurchaseRefunded, lines=(RefundLine(line_id="l1", quantity=0),)),
            f"lines[0].quantity is 0, expected 1 to {UNITS_MAX}",
        ),
        (
            of(PurchaseRefunded, lines=(RefundLine(line_id="l1", amount=0),)),
            f"lines[0].amount is 0, expected 1 to {UNITS_MAX}",
        ),
        (
            of(PurchaseRefunded, lines=(RefundLine(line_id=""),)),
            "lines[0].line_id has 0 characters, expected 1 to 200",
        ),
        (of(SubscriptionTrialStarted, items=()), "items has 0 elements, expected 1 to 500"),
        (of(SubscriptionActivated, items=()), "items has 0 elements, expected 1 to 500"),
        *(
            (of(kind, items=broken), says)
            for kind in (
                SubscriptionTrialStarted,
                SubscriptionTrialConverted,
                SubscriptionActivated,
                SubscriptionRenewed,
            )
            for broken, says in [
                ((ITEM, ITEM), "items repeats a item_id, expected each once"),
                (
                    (ITEM, SubscriptionItem(item_id="i2", sku="plan", quantity=0)),
                    f"items[1].quantity is 0, expected 1 to {UNITS_MAX}",
                ),
                (
                    (SubscriptionItem(item_id="i1", sku="", quantity=1),),
                    "items[0].sku has 0 characters, expected 1 to 200",
                ),
            ]
        ),
        (
            of(SubscriptionRenewed, items=tuple(msgspec.structs.replace(ITEM, item_id=f"{n}") for n in range(501))),
            "items has 501 elements, expected 0 to 500",
        ),
        (
            of(SubscriptionAddOnAdded, item=SubscriptionItem(item_id="", sku="plan", quantity=1)),
            "item.item_id has 0 characters, expected 1 to 200",
        ),
        (
            of(SubscriptionAddOnAdded, item=SubscriptionItem(item_id="i1", sku="plan", quantity=UNITS_MAX + 1)),
            f"item.quantity is {UNITS_MAX + 1}, expected 1 to {UNITS_MAX}",
        ),
        (
            of(AssignmentRevoked, note="a\tb"),
            "note has unprintable characters, expected printable ones and newlines only",
        ),
    ],
)
def test_what_is_impossible_is_named_with_its_field(fact: Fact, says: str) -> None:
    assert problem(event_with(fact)) == says


# -- the envelope


@pytest.mark.parametrize("fact", [*POSSIBLE, *ITS_OWN], ids=lambda fact: type(fact).__name__)
@pytest.mark.parametrize(
    ("envelope", "says"),
    [
        ({"event_source": ""}, "event_source has 0 characters, expected 1 to 200"),
        ({"event_id": "\x7f"}, "event_id has unprintable characters, expected printable ones only"),
        ({"customer_id": "c" * 201}, "customer_id has 201 characters, expected 1 to 200"),
        (
            {"occurred_at": datetime(1970, 12, 31, tzinfo=UTC)},
            "occurred_at is 1970-12-31T00:00:00+00:00, expected a year from 1971 to 2999",
        ),
        (
            {"occurred_at": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
            "occurred_at is 2026-01-01T00:00:00+01:00, expected it in UTC",
        ),
        ({"source_version": -1}, f"source_version is -1, expected 0 to {UNITS_MAX}"),
        ({"source_version": UNITS_MAX + 1}, f"source_version is {UNITS_MAX + 1}, expected 0 to {UNITS_MAX}"),
    ],
)
def test_what_is_impossible_in_the_envelope_is_named(fact: Fact, envelope: dict[str, object], says: str) -> None:
    assert problem(event_with(fact, **envelope)) == says


@pytest.mark.parametrize("source", ["ledger", "by-hand", "request/shop"])
def test_the_ledgers_own_event_sources_carry_nothing_that_is_told(source: str) -> None:
    assert problem(event_with(of(UsageRecorded), event_source=source)) == (
        f"event_source is {source}, expected none of the ledger's own: ledger, by-hand and all with request/"
    )
