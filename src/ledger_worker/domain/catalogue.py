"""What can be had: entitlements, and offers that say which of them one SKU gives.

Immutable versions, looked up by instant.

A catalogue is everything ever published, never "the latest": a fold pins each item to the version of its offer that was
in force when the item entered its source (`offer_at`). Policies of an entitlement are those of its newest version.
"""

import re
from calendar import monthrange
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Literal

import msgspec

from ledger_worker.domain.events import UNITS_MAX
from ledger_worker.domain.occurrences import EVERY_EXPECTED, OCCURRENCES_MAX, is_every, is_time_zone
from ledger_worker.domain.values import JsonText, MergePolicy, is_canonical, misfit

__all__ = [
    "Allowance",
    "Apply",
    "Catalogue",
    "Clock",
    "DebtPolicy",
    "Entitlement",
    "EntitlementType",
    "LateUsage",
    "LimitPolicy",
    "Offer",
    "OnCancel",
    "OnChange",
    "OnShrink",
    "OveragePolicy",
    "RefundPolicy",
    "ReturnAfterEnd",
    "definition_problems",
    "lasts_until",
    "offer_at",
    "value_problem",
    "versions_for",
]


class EntitlementType(StrEnum):
    """What holding an entitlement means.

    Yes or no (`access`), units to use (`quota`), seats for named holders (`seats`), a JSON value (`setting`).
    """

    ACCESS = "access"
    QUOTA = "quota"
    SEATS = "seats"
    SETTING = "setting"

    @property
    def has_units(self) -> bool:
        """Whether it is given in units."""
        return self in {EntitlementType.QUOTA, EntitlementType.SEATS}


class LimitPolicy(StrEnum):
    """What a request beyond the allocation meets: refusal (`hard`), or overage (`soft`)."""

    HARD = "hard"
    SOFT = "soft"


class DebtPolicy(StrEnum):
    """What becomes of units consumed that a refund took back.

    Forgiven, paid by later grants, or paid and refused meanwhile.
    """

    FORGIVE = "forgive"
    CARRY = "carry"
    BLOCK = "block"


class OveragePolicy(StrEnum):
    """What becomes of usage that no grant covers: kept apart, or paid by grants that begin at or after it."""

    SEPARATE = "separate"
    CARRY = "carry"


class LateUsage(StrEnum):
    """What becomes of usage from beyond the settlement window.

    Counted when it is recorded, as if used then; booked when it occurred, all of it as overage; or kept with an outcome
    that says so, and not counted.
    """

    COUNT_NOW = "count_now"
    OVERAGE = "overage"
    IGNORE_AND_TELL = "ignore_and_tell"


class RefundPolicy(StrEnum):
    """What a refund takes: only what is unused, the unused time's share, or all, making debt of what was used."""

    UNUSED_ONLY = "unused_only"
    PRORATE = "prorate"
    FULL_WITH_DEBT = "full_with_debt"


class OnCancel(StrEnum):
    """Whether a cancellation at once ends the grant (`forfeit`) or lets it run to the end of what was paid (`keep`)."""

    FORFEIT = "forfeit"
    KEEP = "keep"


class OnChange(StrEnum):
    """What a new plan gives when it begins within a period.

    All its units (`fresh`), all but what the plans before it used in that period (`carry_used`), or the share of the
    period that remains (`prorate`).
    """

    CARRY_USED = "carry_used"
    FRESH = "fresh"
    PRORATE = "prorate"


class OnShrink(StrEnum):
    """What becomes of holders when fewer seats are left than they are.

    They stay (`keep`), nobody new comes in meanwhile, not even by a swap (`block_new`), or the newest lose their seats.
    """

    KEEP = "keep"
    BLOCK_NEW = "block_new"
    REVOKE_NEWEST = "revoke_newest"


class Clock(StrEnum):
    """Whether a pause moves the end by the time it took (`stops`) or the paid time goes on (`runs`)."""

    STOPS = "stops"
    RUNS = "runs"


class ReturnAfterEnd(StrEnum):
    """What becomes of units that a reversed usage gives back after their grant ended: lost, or granted once more."""

    EXPIRE = "expire"
    REGRANT = "regrant"


class Apply(StrEnum):
    """How a published version of an offer reaches what exists.

    Not at all (`new_only`), with the first period that starts after it (`next_period`), or at once (`now`; a SKU's
    first version as if in force from the beginning).
    """

    NEW_ONLY = "new_only"
    NEXT_PERIOD = "next_period"
    NOW = "now"


class Entitlement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of a catalogue entry.

    `resources` are typed names such as `service:video`; `thresholds` are percentages of the limit whose crossing is
    told, ascending. `expiring_soon` are the times before an end at which it is told that it comes, such as `P7D` or
    `PT12H`. Of a quota or seats is `unit`, which names one of them; of a quota are `limit`, `debt`, `overage` and
    `late_usage`; of seats is `on_shrink`; of a setting is `merge`, which stays as first published.
    """

    key: str
    name: str
    type: EntitlementType
    description: str = ""
    resources: tuple[str, ...] = ()
    unit: str | None = None
    merge: MergePolicy | None = None
    limit: LimitPolicy = LimitPolicy.HARD
    debt: DebtPolicy = DebtPolicy.FORGIVE
    overage: OveragePolicy = OveragePolicy.SEPARATE
    late_usage: LateUsage = LateUsage.COUNT_NOW
    on_shrink: OnShrink = OnShrink.KEEP
    thresholds: tuple[int, ...] = (80, 100)
    expiring_soon: tuple[str, ...] = ()
    version: int = 0

    @property
    def lead_times(self) -> tuple[timedelta, ...]:
        """How long before an end it is told that it comes."""
        return tuple(_duration(lead)[1] for lead in self.expiring_soon)


class Allowance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of an offer: what one entitlement is given per quantity of the SKU.

    `units` are per quantity; there are none for access, for a setting, and for an unlimited quota or any number of
    seats. `value` is what a setting is given, whatever the quantity. `lasts` is `period` (the subscription's billing
    period), `forever`, or an ISO 8601 duration such as `P30D`, `P1M`, `PT12H`. The lower `priority` burns first, and of
    a setting its value counts.
    `leeway_seconds` is how long a period grant outlives its period while the renewal has not been told, `grace_seconds`
    how long access goes on after a payment failed. What is left at a period's end goes on into the next one up to
    `rollover_units` per quantity (0: nothing does), at most `rollover_times` times. `extend_on_won` moves the end by
    the time a dispute took that was won.

    Where no subscription drives it, what lasts a period may recur `every` so long (`P1D`, `P1W`, `P1M`, `P3M`, `P1Y`),
    from the purchase on: a grant for each occurrence up to the next one, `times` in all (none: for ever). Occurrences
    are counted on the calendar and the clock of `time_zone`, such as `Europe/Berlin` (none: UTC).
    """

    key: str
    entitlement: str
    units: int | None = None
    value: JsonText | None = None
    lasts: str = "period"
    priority: int = 100
    refund: RefundPolicy = RefundPolicy.UNUSED_ONLY
    on_cancel: OnCancel = OnCancel.FORFEIT
    leeway_seconds: int = 86_400
    grace_seconds: int = 604_800
    on_change: OnChange = OnChange.CARRY_USED
    pause: Clock = Clock.STOPS
    rollover_units: int = 0
    rollover_times: int = 1
    extend_on_won: bool = False
    return_after_end: ReturnAfterEnd = ReturnAfterEnd.EXPIRE
    every: str | None = None
    time_zone: str | None = None
    times: int | None = None

    def units_of(self, quantity: int) -> int | None:
        """What so many of the SKU give: at most `UNITS_MAX`, as much as anything can count; None where not counted."""
        return None if self.units is None else min(self.units * quantity, UNITS_MAX)

    def rollover_of(self, quantity: int) -> int:
        """How much of what is left rolls over with so many of the SKU: at most `UNITS_MAX`."""
        return min(self.rollover_units * quantity, UNITS_MAX)

    @property
    def regrants(self) -> bool:
        """Whether units that come back after the end are granted once more."""
        return self.return_after_end is ReturnAfterEnd.REGRANT


class Offer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of what a SKU gives; `version`, `published_at` and `catalogue_version` are set by publishing."""

    sku: str
    allowances: tuple[Allowance, ...]
    apply: Apply = Apply.NEW_ONLY
    version: int = 0
    published_at: datetime | None = None
    catalogue_version: int = 0

    @property
    def reaches_now(self) -> bool:
        """Whether it reaches what exists at its publication."""
        return self.apply is Apply.NOW


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """Everything published up to `version`.

    The newest entitlement by key, all versions of each offer by SKU, oldest first.
    """

    version: int
    entitlements: dict[str, Entitlement]
    offers: dict[str, tuple[Offer, ...]]


def offer_at(catalogue: Catalogue, sku: str, entered_at: datetime, as_of_version: int | None = None) -> Offer | None:
    """The version of the SKU's offer that was in force at `entered_at`, or None.

    A first version published with `now` counts as in force from the beginning; with `new_only`, earlier purchases get
    nothing. With `as_of_version`, as that version of the catalogue had it.
    """
    found = None
    for offer in catalogue.offers.get(sku, ()):
        if as_of_version is not None and offer.catalogue_version > as_of_version:
            break
        published_at = offer.published_at
        from_beginning = offer.version == 1 and offer.apply is Apply.NOW
        if from_beginning or published_at is None or published_at <= entered_at:
            found = offer
    return found


def versions_for(
    catalogue: Catalogue, sku: str, entered_at: datetime, as_of_version: int
) -> tuple[Offer | None, tuple[Offer, ...]]:
    """The version an item that entered at `entered_at` is pinned to, and the later ones that reach it."""
    pinned = offer_at(catalogue, sku, entered_at, as_of_version)
    after = 0 if pinned is None else pinned.version
    later = tuple(
        offer
        for offer in catalogue.offers.get(sku, ())
        if offer.version > after and offer.catalogue_version <= as_of_version and offer.apply is not Apply.NEW_ONLY
    )
    return pinned, later


def value_problem(value: JsonText | None, entitlement: Entitlement) -> str | None:
    """What is wrong with a value, or with its absence, where this entitlement is given; None when all is well."""
    if entitlement.type is not EntitlementType.SETTING:
        return None if value is None else f"value is set, expected none for an entitlement of type {entitlement.type}"
    if value is None:
        return "value is missing, expected the JSON value that the setting has"
    if not is_canonical(value):
        return "value is not in canonical form, expected JSON with its members by name and no space"
    found = misfit(value, entitlement.merge)
    return None if found is None else f"value {found}"


def lasts_until(lasts: str, start: datetime, period_end: datetime | None) -> datetime | Literal["no_period"] | None:
    """When an allowance that begins at `start` ends by its own rule.

    An instant, None for never, `no_period` when it needs one.

    Months and years keep the day of `start`, or take the last day of a shorter month; days are 24 hours.
    """
    if lasts == "forever":
        return None
    if lasts == "period":
        return "no_period" if period_end is None else period_end
    months, span = _duration(lasts)
    if months:
        index = start.year * 12 + start.month - 1 + months
        year, month = divmod(index, 12)
        start = start.replace(year=year, month=month + 1, day=min(start.day, monthrange(year, month + 1)[1]))
    return start + span


def definition_problems(
    entitlements: tuple[Entitlement, ...], offers: tuple[Offer, ...], known: Catalogue
) -> list[str]:
    """Everything that is wrong in what is about to be published beside what is known, a sentence each.

    Empty when all is well.
    """
    problems = []
    given = dict(known.entitlements)
    for entitlement in entitlements:
        problems += _entitlement_problems(entitlement)
        before = given.get(entitlement.key)
        if before is not None:
            problems += _changed_for_good(entitlement, before)
        given[entitlement.key] = entitlement
    for offer in offers:
        problems += _offer_problems(offer, given)
        problems += _moved_allowances(offer, known)
    for name, keys in (
        ("entitlement", [entitlement.key for entitlement in entitlements]),
        ("offer", [offer.sku for offer in offers]),
    ):
        problems += [
            f"{name} {key}: defined twice, expected once" for key in sorted({k for k in keys if keys.count(k) > 1})
        ]
    return problems


_PERCENT_MAX = 1000
_LEADS_MAX = 10
_LEAD_MAX = timedelta(days=366)
_LEEWAY_SECONDS_MAX = 90 * 86_400
_ALLOWANCES_MAX = 100
_ROLLOVER_TIMES_MAX = 100
_PRIORITY_MAX = 1_000_000
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")
_RESOURCE = re.compile(r"[a-z][a-z0-9_-]*:[^\s:]+")
_ISO_DURATION = re.compile(
    r"P(?:(\d{1,3})Y)?(?:(\d{1,4})M)?(?:(\d{1,4})W)?(?:(\d{1,5})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,8})M)?(?:(\d{1,9})S)?)?"
)


@lru_cache(1000)
def _duration(lasts: str) -> tuple[int, timedelta]:
    match = _ISO_DURATION.fullmatch(lasts)
    years, months, weeks, days, hours, minutes, seconds = (
        (int(part or 0) for part in match.groups()) if match else (0,) * 7
    )
    return years * 12 + months, timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)


def _entitlement_problems(entitlement: Entitlement) -> list[str]:
    where = f"entitlement {entitlement.key}"
    problems = []
    if not _KEY.fullmatch(entitlement.key):
        problems.append(f"{where}: key has to be 1 to 100 of letters, digits and ._:/-")
    if not entitlement.name:
        problems.append(f"{where}: name is empty, expected what people call it")
    problems += [
        f"{where}: resource {resource!r}, expected a typed name such as service:video"
        for resource in entitlement.resources
        if not _RESOURCE.fullmatch(resource)
    ]
    ascending = sorted(set(entitlement.thresholds)) == list(entitlement.thresholds)
    if not ascending or any(not 0 < percent <= _PERCENT_MAX for percent in entitlement.thresholds):
        shown = list(entitlement.thresholds)
        problems.append(f"{where}: thresholds are {shown}, expected ascending percents from 1 to {_PERCENT_MAX}")
    if entitlement.type is not EntitlementType.SETTING and entitlement.merge is not None:
        problems.append(
            f"{where}: merge is {entitlement.merge}, expected none for an entitlement of type {entitlement.type}"
        )
    if entitlement.type is not EntitlementType.SEATS and entitlement.on_shrink is not OnShrink.KEEP:
        problems.append(
            f"{where}: on_shrink is {entitlement.on_shrink}, expected it of an entitlement of type seats only"
        )
    if entitlement.type is EntitlementType.QUOTA and not entitlement.unit:
        problems.append(f"{where}: unit is missing, expected the name of the quota's smallest unit")
    if len(entitlement.expiring_soon) > _LEADS_MAX:
        problems.append(f"{where}: {len(entitlement.expiring_soon)} times expiring_soon, expected at most {_LEADS_MAX}")
    leads = entitlement.lead_times
    problems += [
        f"{where}: expiring_soon has {shown!r}, expected each once: days or hours up to {_LEAD_MAX.days} days, as P7D"
        for place, (shown, lead) in enumerate(zip(entitlement.expiring_soon, leads, strict=True))
        if _duration(shown)[0] or not timedelta() < lead <= _LEAD_MAX or lead in leads[:place]
    ]
    return problems


def _changed_for_good(entitlement: Entitlement, before: Entitlement) -> list[str]:
    """What stays as it was published: with another, what customers have would be another thing and nobody told."""
    where = f"entitlement {entitlement.key}"
    if before.type is not entitlement.type:
        return [f"{where}: type is {entitlement.type}, expected {before.type} as published"]
    if before.merge is not entitlement.merge:
        was, will = before.merge or "none", entitlement.merge or "none"
        return [f"{where}: merge is {will}, expected {was} as published (another merge needs another entitlement)"]
    return []


def _offer_problems(offer: Offer, given: dict[str, Entitlement]) -> list[str]:
    where = f"offer {offer.sku}"
    problems = []
    if not offer.sku:
        problems.append(f"{where}: sku is empty")
    if not 1 <= len(offer.allowances) <= _ALLOWANCES_MAX:
        problems.append(f"{where}: {len(offer.allowances)} allowances, expected 1 to {_ALLOWANCES_MAX}")
    keys = [allowance.key for allowance in offer.allowances]
    if len(set(keys)) != len(keys):
        problems.append(f"{where}: an allowance key is repeated, expected each once")
    for allowance in offer.allowances:
        problems += [
            f"{where}, allowance {allowance.key}: {problem}" for problem in _allowance_problems(allowance, given)
        ]
    return problems


def _moved_allowances(offer: Offer, known: Catalogue) -> list[str]:
    """An allowance key names one entitlement for good: grants are named after it."""
    versions = known.offers.get(offer.sku, ())
    before = {allowance.key: allowance.entitlement for version in versions for allowance in version.allowances}
    return [
        f"offer {offer.sku}, allowance {allowance.key}: entitlement is {allowance.entitlement}, "
        f"expected {before[allowance.key]} as in earlier versions (another entitlement needs another allowance key)"
        for allowance in offer.allowances
        if before.get(allowance.key, allowance.entitlement) != allowance.entitlement
    ]


def _allowance_problems(allowance: Allowance, given: dict[str, Entitlement]) -> list[str]:
    problems = []
    entitlement = given.get(allowance.entitlement)
    if entitlement is None:
        problems.append(f"entitlement {allowance.entitlement} is not in the catalogue, expected one that is")
    else:
        if not entitlement.type.has_units and allowance.units is not None:
            problems.append(f"units is {allowance.units}, expected none for an entitlement of type {entitlement.type}")
        problem = value_problem(allowance.value, entitlement)
        if problem is not None:
            problems.append(problem)
        if entitlement.type is EntitlementType.SEATS:
            problems += _seats_problems(allowance)
    if allowance.units is not None and not 0 <= allowance.units <= UNITS_MAX:
        problems.append(f"units is {allowance.units}, expected 0 to {UNITS_MAX}, or none for unlimited")
    if allowance.lasts not in ("period", "forever") and _duration(allowance.lasts) == (0, timedelta()):
        problems.append(f"lasts is {allowance.lasts!r}, expected period, forever, or an ISO 8601 duration such as P30D")
    for name, seconds in (("leeway_seconds", allowance.leeway_seconds), ("grace_seconds", allowance.grace_seconds)):
        if not 0 <= seconds <= _LEEWAY_SECONDS_MAX:
            problems.append(f"{name} is {seconds}, expected 0 to {_LEEWAY_SECONDS_MAX}")
    if not 0 <= allowance.priority <= _PRIORITY_MAX:
        problems.append(f"priority is {allowance.priority}, expected 0 to {_PRIORITY_MAX}")
    if not 0 <= allowance.rollover_units <= UNITS_MAX:
        problems.append(f"rollover_units is {allowance.rollover_units}, expected 0 to {UNITS_MAX}")
    if allowance.rollover_units and (allowance.units is None or allowance.lasts != "period"):
        problems.append("rollover_units is set, expected it only with units that last a period")
    if not 1 <= allowance.rollover_times <= _ROLLOVER_TIMES_MAX:
        problems.append(f"rollover_times is {allowance.rollover_times}, expected 1 to {_ROLLOVER_TIMES_MAX}")
    return problems + _recurrence_problems(allowance)


def _recurrence_problems(allowance: Allowance) -> list[str]:
    if allowance.every is None:
        return [
            f"{name} is set, expected it only with every"
            for name, value in (("time_zone", allowance.time_zone), ("times", allowance.times))
            if value is not None
        ]
    problems = []
    if not is_every(allowance.every):
        problems.append(f"every is {allowance.every!r}, expected {EVERY_EXPECTED}")
    if allowance.time_zone is not None and not is_time_zone(allowance.time_zone):
        problems.append(f"time_zone is {allowance.time_zone!r}, expected an IANA name such as Europe/Berlin")
    if allowance.times is not None and not 1 <= allowance.times <= OCCURRENCES_MAX:
        problems.append(f"times is {allowance.times}, expected 1 to {OCCURRENCES_MAX}, or none for ever")
    if allowance.lasts != "period":
        problems.append(f"lasts is {allowance.lasts!r}, expected period with every: each lasts until the next")
    if allowance.rollover_units:
        problems.append("rollover_units is set, expected it only without every")
    if allowance.extend_on_won:
        problems.append("extend_on_won is set, expected it only without every: the next one begins at the end")
    return problems


def _seats_problems(allowance: Allowance) -> list[str]:
    """Seats are there or not: nothing of them is left over, and a share of the time is no number of them."""
    problems = []
    if allowance.rollover_units:
        problems.append(f"rollover_units is {allowance.rollover_units}, expected 0 for seats")
    for name, is_share in (
        ("refund", allowance.refund is RefundPolicy.PRORATE),
        ("on_change", allowance.on_change is OnChange.PRORATE),
    ):
        if is_share:
            problems.append(f"{name} is prorate, expected another policy for seats")
    return problems
