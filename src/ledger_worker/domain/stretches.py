"""What one line of an order, or one item in one period, gives: grants by allowance, without who holds them.

A line or item is a sequence of *runs*: one SKU by one version of its offer, from an instant on. Each allowance of the
offer that is the same over neighbouring runs makes one *stretch*; a stretch gives a grant, and one more for each rise
of the quantity within it. Here too is the arithmetic of stopped time and of shares, with the one function
that rounds.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from uuid import UUID, uuid5

import msgspec

from ledger_worker.domain.catalogue import Allowance, Catalogue, Offer, OnChange, versions_for
from ledger_worker.domain.ledger import Cut, CutPolicy, GrantTerms, Suspension

__all__ = [
    "Given",
    "Interval",
    "Run",
    "Step",
    "Stretch",
    "child_id",
    "clipped",
    "grant_id",
    "grants_of_stretches",
    "moved_end",
    "remaining_share",
    "runs_of_versions",
    "stopped_time",
    "stretches",
    "unions",
    "units_of_share",
]

Interval = tuple[datetime, datetime | None]
"""From an instant to another, or without an end."""

_GRANT_IDS_MAX = 20_000
_OF_OFFER = "\x1f"
"""Before the segment of an offer's version, so that no change is of the same name: ids are printable."""
_MICROSECOND = timedelta(microseconds=1)


class Step(msgspec.Struct, frozen=True):
    """From `at` on the quantity is `quantity`, because of the change `change_id`."""

    at: datetime
    quantity: int
    change_id: str


class Run(msgspec.Struct, frozen=True):
    """One SKU by one version of its offer over `[start, end)`; `segment` is the change that opened it.

    The first step says its quantity at the start. `goes_on` is set where only the version is another than before.
    """

    start: datetime
    end: datetime | None
    sku: str
    offer: Offer | None
    segment: str
    steps: tuple[Step, ...]
    goes_on: bool = False


class Stretch(msgspec.Struct, frozen=True):
    """One allowance as long as it stays the same: opened by the change `segment`, closed by a change at `closes_at`."""

    sku: str
    offer: Offer
    allowance: Allowance
    start: datetime
    closes_at: datetime | None
    segment: str
    steps: tuple[Step, ...]


class Given(msgspec.Struct, frozen=True):
    """A grant and the stretch it comes from."""

    terms: GrantTerms
    stretch: Stretch


@lru_cache(maxsize=_GRANT_IDS_MAX)
def grant_id(
    source_key: str, line_id: str, sku: str, allowance: str, period_start: datetime | None, segment: str
) -> UUID:
    """The id of a grant.

    Everything it is given for, and neither the event that told it nor the offer's version. Kept for a while, because
    each fact about a source names the grants of the source again.
    """
    start = "" if period_start is None else period_start.isoformat(timespec="microseconds")
    return uuid5(_GRANT_NAMESPACE, f"{source_key}\0{line_id}\0{sku}\0{allowance}\0{start}\0{segment}")


@lru_cache(maxsize=_GRANT_IDS_MAX)
def child_id(parent: UUID, kind: str, cause: str) -> UUID:
    """The id of a child grant.

    `cause` is the next period's start, the transfer's id or the reversal's id; never an event's.
    """
    return uuid5(_GRANT_NAMESPACE, f"{parent}\0{kind}\0{cause}")


def units_of_share(units: int, share: Fraction) -> int:
    """How many of the units a share from 0 to 1 is, rounded down: the one place that rounds.

    It is what a refund takes, so that what stays is rounded up; and what goes of a plan's units with the time that has
    gone by.

    >>> [units_of_share(10, Fraction(n, 3)) for n in (1, 2, 3)]
    [3, 6, 10]
    """
    return units * share.numerator // share.denominator


def remaining_share(start: datetime, end: datetime | None, at: datetime, stops: Sequence[Interval] = ()) -> Fraction:
    """The part of `[start, end)` that is left at `at`, stopped time not counted.

    All of it where there is no end, or no time: where the clock stood throughout, nothing has gone by.
    """
    whole = None if end is None else (end - start) // _MICROSECOND
    if not whole:
        return Fraction(1)
    passed = (at - start - stopped_time(start, at, stops)) // _MICROSECOND
    return Fraction(min(max(whole - passed, 0), whole), whole)


def unions(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same time without overlaps, in order; empty ones are left out."""
    merged: list[Interval] = []
    for start, end in sorted(intervals, key=lambda one: one[0]):
        if end is not None and end <= start:
            continue
        last_end = merged[-1][1] if merged else start
        if merged and (last_end is None or start <= last_end):
            later = None if last_end is None or end is None else max(last_end, end)
            merged[-1] = (merged[-1][0], later)
        else:
            merged.append((start, end))
    return tuple(merged)


def stopped_time(start: datetime, until: datetime, stops: Sequence[Interval]) -> timedelta:
    """How long the clock stood within `[start, until)`; `stops` do not overlap."""
    stopped = timedelta()
    for begins, ends in stops:
        left, right = max(begins, start), until if ends is None else min(ends, until)
        stopped += max(right - left, timedelta())
    return stopped


def moved_end(start: datetime, end: datetime, stops: Sequence[Interval]) -> datetime | None:
    """`end` later by the time the clock stood since `start`; None while it stands."""
    for begins, ends in stops:
        if begins >= end:
            break
        if ends is None:
            return None
        end += max(ends - max(begins, start), timedelta())
    return end


def clipped(
    causes: Iterable[tuple[str, datetime, datetime | None]], start: datetime, end: datetime | None
) -> tuple[Suspension, ...]:
    """The suspensions of a grant over `[start, end)`: from the later start, without an end where they outlast it."""
    kept = []
    for cause, begins, ends in causes:
        outlasts = ends is None or (end is not None and ends >= end)
        if (end is None or begins < end) and (ends is None or ends > max(start, begins)):
            suspension = Suspension(cause=cause, starts_at=max(begins, start), ends_at=None if outlasts else ends)
            kept.append(suspension)
    return tuple(sorted(kept, key=lambda one: (one.starts_at, one.cause)))


def runs_of_versions(
    run: Run,
    catalogue: Catalogue,
    as_of_version: int,
    entered_at: datetime,
    period_start: datetime,
    next_start: datetime | None = None,
) -> list[Run]:
    """The run, parted where a version published with `now` reaches it; its offer is found here.

    What is published when the item's next period has begun (`next_start`) is of that period. Versions published with
    `next_period` apply where the period starts at or after their publication.
    """
    pinned, later = versions_for(catalogue, run.sku, entered_at, as_of_version)
    in_force = pinned
    boundaries: list[tuple[datetime, Offer]] = []
    for offer in later:
        published_at = offer.published_at
        if published_at is None or published_at <= period_start or (offer.reaches_now and published_at <= run.start):
            in_force = offer
        elif (
            offer.reaches_now
            and (run.end is None or published_at < run.end)
            and (next_start is None or published_at < next_start)
        ):
            boundaries.append((published_at, offer))
    if not boundaries:
        return [msgspec.structs.replace(run, offer=in_force)]
    parts = []
    start, segment, offer_now = run.start, run.segment, in_force
    for at, following in (*boundaries, (run.end, None)):
        # What changes where a version is published comes after it.
        is_first = start == run.start
        before = run.steps[:1] if is_first else [step for step in run.steps if step.at < start]
        within = [
            step for step in run.steps[1:] if step.at >= start and (following is None or at is None or step.at < at)
        ]
        first = before[0] if is_first else Step(start, before[-1].quantity, segment)
        parts.append(Run(start, at, run.sku, offer_now, segment, (first, *within), goes_on=not is_first))
        if at is not None and following is not None:
            start, segment, offer_now = at, f"{_OF_OFFER}offer/{following.version}", following
    return parts


def stretches(runs: Sequence[Run]) -> list[Stretch]:
    """The allowances of the runs, in order of their opening and then of their offer; what stays the same is one."""
    open_now: dict[str, Stretch] = {}
    opened: list[Stretch] = []
    for run in runs:
        kept: dict[str, Stretch] = {}
        allowances = () if run.offer is None else run.offer.allowances
        for allowance in allowances:
            known = open_now.get(allowance.key) if run.goes_on else None
            if known is not None and known.allowance == allowance and run.offer is not None:
                longer = msgspec.structs.replace(
                    known, closes_at=run.end, offer=run.offer, steps=(*known.steps, *run.steps[1:])
                )
                opened[opened.index(known)] = kept[allowance.key] = longer
            elif run.offer is not None:
                stretch = Stretch(run.sku, run.offer, allowance, run.start, run.end, run.segment, run.steps)
                opened.append(stretch)
                kept[allowance.key] = stretch
        open_now = kept
    return opened


def grants_of_stretches(
    opened: Sequence[Stretch],
    *,
    source_key: str,
    line_id: str,
    period: Interval,
    period_start: datetime | None,
    end_of: Callable[[Stretch], datetime | None],
    causes_of: Callable[[Allowance], Iterable[tuple[str, datetime, datetime | None]]],
    stops_of: Callable[[Allowance], Sequence[Interval]],
) -> list[Given]:
    """The grants of a line or of an item in one period.

    `end_of` says when a stretch ends if no change closes it; `period` is what `prorate` takes a share of. Grants that
    would have no time are left out.
    """
    given: list[Given] = []
    carrying: set[tuple[str, datetime]] = set()
    for stretch in opened:
        allowance = stretch.allowance
        own_end = end_of(stretch)
        expires_at = _sooner(own_end, stretch.closes_at)
        first, *later = stretch.steps
        amount = allowance.units_of(first.quantity)
        cuts: list[Cut] = []
        opens_later = stretch.segment != ""
        if amount is not None and opens_later and allowance.on_change is OnChange.PRORATE:
            share = remaining_share(period[0], period[1], stretch.start, stops_of(allowance))
            amount -= units_of_share(amount, 1 - share)
        elif amount is not None and opens_later and allowance.on_change is OnChange.CARRY_USED:
            mark = (allowance.entitlement, stretch.start)
            if mark not in carrying:
                carrying.add(mark)
                cuts = _opening_cuts(stretch, given)
        amounts = [(stretch.start, stretch.segment, amount, cuts)]
        if allowance.units is not None:
            amounts += _rises_and_falls(allowance, first.quantity, later, amounts)
        for start, segment, units, own_cuts in amounts:
            if expires_at is not None and expires_at <= start:
                continue
            terms = GrantTerms(
                grant_id=grant_id(source_key, line_id, stretch.sku, allowance.key, period_start, segment),
                entitlement=allowance.entitlement,
                source_key=source_key,
                line_id=line_id,
                sku=stretch.sku,
                allowance=allowance.key,
                offer_version=stretch.offer.version,
                amount=units,
                priority=allowance.priority,
                effective_at=start,
                expires_at=expires_at,
                period_start=period_start,
                cuts=tuple(own_cuts),
                suspensions=clipped(causes_of(allowance), start, expires_at),
                regrants=allowance.regrants,
                value=allowance.value,
            )
            given.append(Given(terms, stretch))
    return given


_GRANT_NAMESPACE = UUID("6f3d9a52-8d0b-5c5e-9b64-0c7f1f1f4e01")


def _sooner(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _opening_cuts(stretch: Stretch, given: Sequence[Given]) -> list[Cut]:
    """The opening cut by what was used of the grants of that entitlement that changes have closed by then."""
    closed = tuple(
        one.terms.grant_id
        for one in given
        if one.terms.entitlement == stretch.allowance.entitlement
        and one.stretch.closes_at is not None
        and one.stretch.closes_at <= stretch.start
    )
    if not closed:
        return []
    cut_id = f"carry/{stretch.segment.removeprefix(_OF_OFFER)}"
    return [Cut(cut_id=cut_id, at=stretch.start, units=0, policy=CutPolicy.OPENING, of=closed)]


_Amounts = list[tuple[datetime, str, int | None, list[Cut]]]


def _rises_and_falls(allowance: Allowance, quantity: int, steps: Sequence[Step], base: _Amounts) -> _Amounts:
    """Quantity up adds a grant; down cuts the newest of them first, whose cuts are added in place."""
    added: _Amounts = []
    left = [base[0][2] or 0]
    for step in steps:
        difference = (allowance.units_of(step.quantity) or 0) - (allowance.units_of(quantity) or 0)
        quantity = step.quantity
        if difference > 0:
            added.append((step.at, step.change_id, difference, []))
            left.append(difference)
        for place in range(len(left) - 1, -1, -1):
            taken = min(-difference, left[place])
            if taken > 0:
                cuts = (base[0] if place == 0 else added[place - 1])[3]
                cuts.append(Cut(cut_id=f"change/{step.change_id}", at=step.at, units=taken, policy=CutPolicy.SHRINK))
                left[place] -= taken
                difference += taken
    return added
