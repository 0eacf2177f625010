"""What may be published, and how long an allowance lasts."""

from datetime import datetime

import msgspec
import pytest

from ledger_worker.domain.catalogue import (
    Allowance,
    Apply,
    Catalogue,
    Entitlement,
    Offer,
    definition_problems,
    lasts_until,
)
from ledger_worker.domain.values import JsonText, MergePolicy
from tests.domain.telling import access, catalogue, day, gives, offer, quota, setting

EMPTY = catalogue()


def replaced(value: Entitlement, **changed: object) -> Entitlement:
    return msgspec.structs.replace(value, **changed)


def allowance(**changed: object) -> Allowance:
    return msgspec.structs.replace(gives(10), **changed)


@pytest.mark.parametrize(
    ("entitlements", "offers", "says"),
    [
        ((replaced(quota(), key="no spaces"),), (), "key has to be 1 to 100 of letters"),
        ((replaced(quota(), name=""),), (), "name is empty"),
        ((replaced(quota(), resources=("video",)),), (), "expected a typed name such as service:video"),
        ((replaced(quota(), thresholds=(100, 80)),), (), "expected ascending percents"),
        ((replaced(quota(), thresholds=(80, 80)),), (), "expected ascending percents"),
        ((replaced(quota(), thresholds=(0,)),), (), "expected ascending percents"),
        ((replaced(quota(), unit=None),), (), "unit is missing"),
        ((quota(), quota()), (), "entitlement api: defined twice"),
        ((quota(),), (offer("pack", gives(1)), offer("pack", gives(1))), "offer pack: defined twice"),
        ((quota(),), (offer("pack"),), "0 allowances, expected 1 to 100"),
        ((quota(),), (offer("", gives(1)),), "sku is empty"),
        ((quota(),), (offer("pack", gives(1), gives(2)),), "an allowance key is repeated"),
        ((), (offer("pack", gives(1)),), "entitlement api is not in the catalogue"),
        ((access(),), (offer("pack", gives(1, "video")),), "expected none for an entitlement of type access"),
        ((quota(),), (offer("pack", gives(-1)),), "units is -1, expected 0 to"),
        ((quota(),), (offer("pack", allowance(lasts="a month")),), "lasts is 'a month'"),
        ((quota(),), (offer("pack", allowance(lasts="P")),), "lasts is 'P'"),
        ((quota(),), (offer("pack", allowance(lasts="P0D")),), "lasts is 'P0D'"),
        # A purchase of the last year that an event may name has to end in a year that can be written.
        ((quota(),), (offer("pack", allowance(lasts="P9999Y")),), "lasts is 'P9999Y'"),
        ((quota(),), (offer("pack", allowance(leeway_seconds=-1)),), "leeway_seconds is -1"),
        ((quota(),), (offer("pack", allowance(leeway_seconds=90 * 86_400 + 1)),), "leeway_seconds is 7776001"),
        (
            (replaced(access(), merge=MergePolicy.MAX),),
            (),
            "merge is max, expected none for an entitlement of type access",
        ),
        (
            (setting(),),
            (offer("pack", gives(1, "size", value=1)),),
            "units is 1, expected none for an entitlement of type setting",
        ),
        (
            (setting(),),
            (offer("pack", gives(None, "size")),),
            "value is missing, expected the JSON value that the setting has",
        ),
        (
            (access(),),
            (offer("pack", gives(None, "video", value=1)),),
            "value is set, expected none for an entitlement of type access",
        ),
        (
            (quota(),),
            (offer("pack", gives(1, value=1)),),
            "value is set, expected none for an entitlement of type quota",
        ),
        (
            (setting(),),
            (offer("pack", allowance(entitlement="size", units=None, value=JsonText("[1, 2]"))),),
            "value is not in canonical form",
        ),
        (
            (setting(merge=MergePolicy.MAX),),
            (offer("pack", gives(None, "size", value="large")),),
            "value is a text, expected a whole number for the merge max",
        ),
        (
            (setting(merge=MergePolicy.UNION),),
            (offer("pack", gives(None, "size", value=1)),),
            "value is a whole number, expected a list for the merge union",
        ),
        ((quota(),), (offer("pack", allowance(every="P0D")),), "every is 'P0D', expected P1D to P366D, P1W to P52W"),
        ((quota(),), (offer("pack", allowance(every="P13M")),), "every is 'P13M'"),
        ((quota(),), (offer("pack", allowance(every="P2Y")),), "every is 'P2Y'"),
        ((quota(),), (offer("pack", allowance(every="PT12H")),), "every is 'PT12H'"),
        ((quota(),), (offer("pack", allowance(every="P1M1D")),), "every is 'P1M1D'"),
        ((quota(),), (offer("pack", allowance(every="monthly")),), "every is 'monthly'"),
        (
            (quota(),),
            (offer("pack", allowance(every="P1M", lasts="P1D")),),
            "lasts is 'P1D', expected period with every",
        ),
        ((quota(),), (offer("pack", allowance(every="P1M", time_zone="Berlin")),), "time_zone is 'Berlin', expected"),
        ((quota(),), (offer("pack", allowance(every="P1M", times=0)),), "times is 0, expected 1 to 5000"),
        ((quota(),), (offer("pack", allowance(every="P1M", times=5_001)),), "times is 5001"),
        ((quota(),), (offer("pack", allowance(every="P1M", rollover_units=1)),), "expected it only without every"),
        ((quota(),), (offer("pack", allowance(every="P1M", extend_on_won=True)),), "extend_on_won is set"),
        ((quota(),), (offer("pack", allowance(times=3)),), "times is set, expected it only with every"),
        ((quota(),), (offer("pack", allowance(time_zone="UTC")),), "time_zone is set, expected it only with every"),
        ((quota(expiring_soon=("P1M",)),), (), "expiring_soon has 'P1M', expected each once: days or hours"),
        ((quota(expiring_soon=("P1D", "PT24H")),), (), "expiring_soon has 'PT24H', expected each once"),
        ((quota(expiring_soon=("P367D",)),), (), "expiring_soon has 'P367D'"),
        ((quota(expiring_soon=("soon",)),), (), "expiring_soon has 'soon'"),
        (
            (quota(expiring_soon=tuple(f"P{days}D" for days in range(1, 12))),),
            (),
            "11 times expiring_soon, expected at",
        ),
    ],
)
def test_what_is_wrong_in_a_definition_is_a_sentence(
    entitlements: tuple[Entitlement, ...], offers: tuple[Offer, ...], says: str
) -> None:
    assert [said for said in definition_problems(entitlements, offers, EMPTY) if says in said]


def test_what_is_right_has_no_problems() -> None:
    entitlements = (
        replaced(quota(expiring_soon=("P7D", "PT12H")), resources=("api:export",)),
        access(),
        setting(),
        setting("all", merge=MergePolicy.ANY),
    )
    offers = (
        offer("pack", gives(0), gives(None, key="more", lasts="forever"), gives(None, "video", lasts="PT12H")),
        offer("plan", gives(None, "size", value={"of": ["any", 1]}), gives(None, "all", value=False)),
        offer(
            "credits", gives(10, every="P1M", time_zone="Europe/Berlin", times=12), gives(None, "video", every="P1Y")
        ),
    )

    assert definition_problems(entitlements, offers, EMPTY) == []


@pytest.mark.parametrize(
    ("known", "entitlements", "offers", "says"),
    [
        (catalogue(access("api")), (quota(),), (), "type is quota, expected access as published"),
        (
            catalogue(
                quota(), quota("sms"), offer("pack", gives(1, key="a")), offer("pack", gives(1, key="b"), version=2)
            ),
            (),
            (offer("pack", gives(1, "sms", key="a"), apply=Apply.NOW),),
            "entitlement is sms, expected api as in earlier versions",
        ),
        (
            catalogue(quota(), quota("sms"), offer("pack", gives(1, key="a"))),
            (),
            (offer("pack", gives(1, "sms", key="a"), apply=Apply.NEW_ONLY),),
            "entitlement is sms, expected api",
        ),
        (
            catalogue(setting()),
            (setting(merge=MergePolicy.MAX),),
            (),
            "merge is max, expected none as published (another merge needs another entitlement)",
        ),
        (catalogue(setting(merge=MergePolicy.MAX)), (setting(),), (), "merge is none, expected max as published"),
        (
            catalogue(setting(merge=MergePolicy.MAX)),
            (),
            (offer("pack", gives(None, "size", value=True)),),
            "value is true or false, expected a whole number for the merge max",
        ),
    ],
)
def test_what_was_published_binds_what_comes_after_it(
    known: Catalogue, entitlements: tuple[Entitlement, ...], offers: tuple[Offer, ...], says: str
) -> None:
    assert [said for said in definition_problems(entitlements, offers, known) if says in said]


@pytest.mark.parametrize(
    ("lasts", "start", "end"),
    [
        ("P30D", day(1), day(31)),
        ("P1W", day(1), day(8)),
        ("PT12H", day(1), day(1, 12)),
        ("PT90M", day(1), day(1, 1.5)),
        ("P1M", day(1), day(32)),
        ("P1M", day(31), datetime.fromisoformat("2026-02-28T00:00:00+00:00")),
        (
            "P1M",
            datetime.fromisoformat("2028-01-31T08:00:00+00:00"),
            datetime.fromisoformat("2028-02-29T08:00:00+00:00"),
        ),
        (
            "P1Y",
            datetime.fromisoformat("2028-02-29T00:00:00+00:00"),
            datetime.fromisoformat("2029-02-28T00:00:00+00:00"),
        ),
        (
            "P14M",
            datetime.fromisoformat("2026-12-31T00:00:00+00:00"),
            datetime.fromisoformat("2028-02-29T00:00:00+00:00"),
        ),
        ("P1M1D", day(31), datetime.fromisoformat("2026-03-01T00:00:00+00:00")),
        ("forever", day(1), None),
        (
            "P999Y9999M9999W99999DT999999H",
            datetime.fromisoformat("2999-12-31T00:00:00+00:00"),
            datetime.fromisoformat("5411-10-01T15:00:00+00:00"),
        ),
    ],
)
def test_months_keep_the_day_or_take_the_months_last_and_days_are_24_hours(
    lasts: str, start: datetime, end: datetime | None
) -> None:
    assert lasts_until(lasts, start, None) == end


def test_an_allowance_by_period_lasts_as_long_as_the_period_and_needs_one() -> None:
    assert lasts_until("period", day(1), day(11)) == day(11)
    assert lasts_until("period", day(1), None) == "no_period"
