import json

import msgspec
import pytest

from ledger_worker.domain.catalogue import (
    Allowance,
    Apply,
    Clock,
    DebtPolicy,
    Entitlement,
    EntitlementType,
    LateUsage,
    LimitPolicy,
    Offer,
    OnCancel,
    OnChange,
    OnShrink,
    OveragePolicy,
    RefundPolicy,
    ReturnAfterEnd,
)
from ledger_worker.domain.values import JsonText, MergePolicy
from ledger_worker.wire.catalogue_file import DEFINITIONS_MAX, definitions_of, definitions_of_toml, fields_of

ENTITLEMENT = Entitlement(key="exports", name="Exports", type=EntitlementType.QUOTA, unit="export", thresholds=(50, 90))
OFFER = Offer(
    sku="pack",
    allowances=(Allowance(key="a", entitlement="exports", units=5, lasts="P1M", refund=RefundPolicy.PRORATE),),
)
TEXT = """
[[entitlement]]
key = "exports"
name = "Exports"
type = "quota"
unit = "export"
thresholds = [50, 90]

[[offer]]
sku = "pack"

[[offer.allowance]]
key = "a"
entitlement = "exports"
units = 5
lasts = "P1M"
refund = "prorate"
"""


def test_a_file_reads_as_the_definitions_it_writes_with_the_defaults_of_the_domain() -> None:
    defined = definitions_of_toml(TEXT)

    assert defined.entitlements == (ENTITLEMENT,)
    assert defined.offers == (OFFER,)
    assert defined.problems == ()


def test_every_field_of_an_entitlement_and_of_an_allowance_can_be_written() -> None:
    text = """
    [[entitlement]]
    key = "exports"
    name = "Exports"
    type = "quota"
    description = "Files that leave the house"
    resources = ["api:export"]
    unit = "export"
    merge = "union"
    limit = "soft"
    debt = "block"
    overage = "carry"
    late_usage = "ignore_and_tell"
    on_shrink = "block_new"
    thresholds = [50, 90]
    expiring_soon = ["P7D", "PT12H"]

    [[offer]]
    sku = "plan"
    apply = "next_period"
    [[offer.allowance]]
    key = "a"
    entitlement = "exports"
    units = 5
    value = ["eu", {size = 25, name = "x"}]
    lasts = "period"
    priority = 7
    refund = "full_with_debt"
    on_cancel = "keep"
    leeway_seconds = 60
    grace_seconds = 120
    on_change = "prorate"
    pause = "runs"
    rollover_units = 3
    rollover_times = 2
    extend_on_won = true
    return_after_end = "regrant"
    every = "P3M"
    time_zone = "Europe/Berlin"
    times = 4
    """

    defined = definitions_of_toml(text)

    assert defined.problems == ()
    assert defined.entitlements == (
        Entitlement(
            key="exports",
            name="Exports",
            type=EntitlementType.QUOTA,
            description="Files that leave the house",
            resources=("api:export",),
            unit="export",
            merge=MergePolicy.UNION,
            limit=LimitPolicy.SOFT,
            debt=DebtPolicy.BLOCK,
            overage=OveragePolicy.CARRY,
            late_usage=LateUsage.IGNORE_AND_TELL,
            on_shrink=OnShrink.BLOCK_NEW,
            thresholds=(50, 90),
            expiring_soon=("P7D", "PT12H"),
        ),
    )
    allowance = Allowance(
        key="a",
        entitlement="exports",
        units=5,
        value=JsonText('["eu",{"name":"x","size":25}]'),
        lasts="period",
        priority=7,
        refund=RefundPolicy.FULL_WITH_DEBT,
        on_cancel=OnCancel.KEEP,
        leeway_seconds=60,
        grace_seconds=120,
        on_change=OnChange.PRORATE,
        pause=Clock.RUNS,
        rollover_units=3,
        rollover_times=2,
        extend_on_won=True,
        return_after_end=ReturnAfterEnd.REGRANT,
        every="P3M",
        time_zone="Europe/Berlin",
        times=4,
    )
    assert defined.offers == (Offer(sku="plan", apply=Apply.NEXT_PERIOD, allowances=(allowance,)),)
    written = {line.split("=")[0].strip() for line in text.splitlines() if "=" in line}
    assert written == {field.name for kind in (Entitlement, Offer, Allowance) for field in fields_of(kind)}


def test_the_same_as_json_reads_the_same() -> None:
    tables = json.loads(
        """{"entitlement": [{"key": "exports", "name": "Exports", "type": "quota", "unit": "export",
                             "thresholds": [50, 90]}],
            "offer": [{"sku": "pack", "allowance": [{"key": "a", "entitlement": "exports", "units": 5, "lasts": "P1M",
                                                     "refund": "prorate"}]}]}"""
    )

    assert definitions_of(tables) == definitions_of_toml(TEXT)


def test_an_empty_file_defines_nothing() -> None:
    defined = definitions_of_toml("")

    assert (defined.entitlements, defined.offers, defined.problems) == ((), (), ())


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ('name = "Exports"', "", "entitlement exports: name is missing, expected a text"),
        ('name = "Exports"', "name = 4", "entitlement exports: name is 4, expected a text"),
        ("[50, 90]", "[50.5]", "entitlement exports: thresholds is [50.5], expected a list of whole numbers"),
        (
            'type = "quota"',
            'type = "credit"',
            'entitlement exports: type is "credit", expected one of access, quota, seats, setting',
        ),
        ('key = "exports"', "version = 2", "entitlement number 1: version is no field of entitlement, expected one of"),
        ("units = 5", "units = true", "offer pack, allowance a: units is true, expected a whole number"),
        ("units = 5", "extend_on_won = 1", "offer pack, allowance a: extend_on_won is 1, expected true or false"),
        (
            "units = 5",
            'on_change = "prorated"',
            'offer pack, allowance a: on_change is "prorated", expected one of carry_used, fresh, prorate',
        ),
        ("units = 5", "value = 2.5", "offer pack, allowance a: value is no value of a setting: it has the number 2.5"),
        (
            "units = 5",
            "value = 2026-03-01",
            "offer pack, allowance a: value is no value of a setting: it has 2026-03-01",
        ),
        ("units = 5", "unit = 5", "offer pack, allowance a: unit is no field of allowance, expected one of key"),
        ('sku = "pack"', 'sku = "pack"\nallowances = []', "offer pack: allowances is no field of offer"),
        ("[[offer.allowance]]", "[offer.allowance]", "offer pack: allowance is {"),
        ("[[entitlement]]", "[entitlement]", "the file: entitlement is {"),
        ("[[offer]]", "price = 3\n[[offer]]", "entitlement exports: price is no field of entitlement"),
    ],
)
def test_a_problem_names_the_table_the_field_what_was_found_and_what_was_expected(
    before: str, after: str, problem: str
) -> None:
    problems = definitions_of_toml(TEXT.replace(before, after, 1)).problems

    assert any(found.startswith(problem) for found in problems), problems


def test_every_problem_of_a_file_is_told_at_once() -> None:
    bad = TEXT.replace('type = "quota"', 'type = "credit"').replace("units = 5", "units = []")

    assert len(definitions_of_toml(bad).problems) == 2


def test_text_that_is_not_toml_is_one_problem_with_its_line() -> None:
    (problem,) = definitions_of_toml("[[entitlement]]\nkey = \n").problems

    assert problem.startswith("the file is not TOML: ")
    assert "line 2" in problem


def test_more_tables_than_a_file_may_have_are_refused() -> None:
    defined = definitions_of({"entitlement": [{}] * (DEFINITIONS_MAX + 1)})

    assert defined.problems == (
        f"the file: {DEFINITIONS_MAX + 1} tables entitlement, expected at most {DEFINITIONS_MAX}",
    )


@pytest.mark.parametrize("kind", [Entitlement, Offer, Allowance])
def test_every_field_that_can_be_written_says_what_is_expected_and_its_default(
    kind: type[Entitlement | Offer | Allowance],
) -> None:
    required = {field.name for field in msgspec.structs.fields(kind) if field.required} - {"allowances"}

    assert {field.name for field in fields_of(kind) if field.default is None} == required
    assert all(field.expected for field in fields_of(kind))
