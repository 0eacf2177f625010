"""What the items of a subscription give, period by period, and what of it rolls over."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from ledger_worker.domain.catalogue import Allowance, Catalogue, Clock, OnCancel, OnChange
from ledger_worker.domain.events import (
    Fact,
    SubscriptionAddOnAdded,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionPaused,
    SubscriptionPaymentFailed,
    SubscriptionPaymentRecovered,
    SubscriptionPlanChanged,
    SubscriptionResumed,
    SubscriptionRevoked,
)
from ledger_worker.local.oracle.clocks import Stop, end_of, moved, running, share
from ledger_worker.local.oracle.facts import Standing, kept
from ledger_worker.local.oracle.given import Given, Made, NameOfGrant, TakenBack, clipped, is_after
from ledger_worker.local.oracle.owners import Owners, held_by
from ledger_worker.local.oracle.periods import Period, applies, change, items_named, periods_of, trial_expired
from ledger_worker.local.oracle.runs import OF_OFFER, Resized, Run, runs_of


class End(NamedTuple):
    """The subscription ends at `at`; `is_hard` where an allowance cannot keep its own end."""

    place: int
    at: datetime
    is_hard: bool
    is_of_trials: bool = False


class Life(NamedTuple):
    """What is told of a subscription beside its periods."""

    source: str
    ends: list[End]
    pauses: list[tuple[str, datetime, datetime | None]]
    unpaid: list[Stop]


def subscription_grants(
    source: str, told: Sequence[Standing], catalogue: Catalogue, name: NameOfGrant, owners: Owners
) -> list[Made]:
    """Everything that the items of a subscription give."""
    life = Life(source, ends_of(told), pauses_of(told), unpaid_of(told))
    entered = entries_of(told)
    periods = periods_of(told)
    roots: dict[int, list[Made]] = {}
    for period in periods:
        of_period = roots[id(period)] = []
        for run in runs_of(
            period.steps,
            period.next.start if period.next else None,
            catalogue,
            {sku: at for (item_id, sku), at in entered.items() if item_id == period.item_id},
            period.start,
        ):
            of_period += grants_of(run, life, period, of_period, name)
    found = []
    children: dict[int, list[list[Made]]] = {id(period): [] for period in periods}
    for period in periods:
        for held in [held_by(owners, one, name) for one in roots[id(period)]] + children[id(period)]:
            rolls = rolling(held[-1], period, roots[id(period.next)], name) if period.next else None
            if period.next and rolls:
                held[-1], child = rolls
                children[id(period.next)].append(held_by(owners, child, name))
            found += held
    return found


def entries_of(told: Sequence[Standing]) -> dict[tuple[str, str], datetime]:
    """Which version of an offer: an item enters (with a SKU) where that was first told."""
    entered: dict[tuple[str, str], datetime] = {}
    for at, event in told:
        for (item_id, _), named in items_named(event.fact):
            entered.setdefault((item_id, named.item.sku), at)
        for _, fact in change(event.fact):
            if isinstance(fact, SubscriptionPlanChanged):
                entered.setdefault((fact.item_id, fact.sku), at)
            if isinstance(fact, SubscriptionAddOnAdded):
                entered.setdefault((fact.item.item_id, fact.item.sku), at)
    return entered


def grants_of(run: Run, life: Life, period: Period, earlier: Sequence[Made], name: NameOfGrant) -> list[Made]:
    """What one run of an allowance gives in a period: its units, and those that changes of the quantity add."""
    allowance = run.allowance
    units = None if allowance.units is None else allowance.units * run.quantity
    if units is not None and run.is_within and allowance.on_change is OnChange.PRORATE:
        units = ceil(units * rest_of(period, run.start, stops_for(allowance, life)))
    parts = [(run.segment, run.start, units)]
    cuts: list[list[TakenBack]] = [[]]
    if run.carries_used and run.is_within and is_after(earlier, allowance, run.start):
        cuts[0].append(TakenBack(f"carry/{run.segment.removeprefix(OF_OFFER)}", run.start, 0, "opening"))
    for one in run.resized:
        if allowance.units is None:
            continue
        if one.difference > 0:
            if allowance.units:
                parts.append((one.why, one.at, allowance.units * one.difference))
                cuts.append([])
        else:
            shrink(one, allowance.units, [part[2] or 0 for part in parts], cuts)
    made = []
    for (segment, start, amount), taken in zip(parts, cuts, strict=True):
        is_given, own_end = end_for(allowance, life, period)
        is_closed = run.closes is not None and (own_end is None or run.closes < own_end)
        end = run.closes if is_closed else own_end
        if not is_given or (end is not None and end <= start):
            continue
        grace = timedelta(seconds=allowance.grace_seconds)
        unpaid = [("payment", failed + grace, recovered) for failed, recovered in life.unpaid]
        grant = Given(
            name=name.root(life.source, period.item_id, run.sku, allowance.key, period.start, segment),
            holder="",
            source=life.source,
            line=period.item_id,
            sku=run.sku,
            allowance=allowance.key,
            entitlement=allowance.entitlement,
            units=amount,
            priority=allowance.priority,
            start=start,
            end=end,
            period_start=period.start,
            taken_back=tuple(sorted(taken, key=lambda one: one.at)),
            suspensions=clipped([*life.pauses, *unpaid], start, end),
            value=allowance.value,
        )
        made.append(Made(grant, allowance, run.closes))
    return made


def shrink(one: Resized, units: int, amounts: Sequence[int], cuts: list[list[TakenBack]]) -> None:
    """Quantity down: of the grant of the newest segment first, of each what earlier such cuts left of its amount."""
    left = -one.difference * units
    for amount, taken in reversed(list(zip(amounts, cuts, strict=True))):
        cut = min(left, amount - sum(earlier.units for earlier in taken if earlier.policy == "shrink"))
        if cut:
            taken.append(TakenBack(f"change/{one.why}", one.at, cut, "shrink"))
        left -= cut


def rest_of(period: Period, at: datetime, stops: Sequence[Stop]) -> Fraction:
    """Segments, prorate: the share of the period that remains, stopped time not counted."""
    whole = period.end - period.start if period.end else timedelta()
    return share(max(whole - running(period.start, at, stops), timedelta()), whole)


def stops_for(allowance: Allowance, life: Life) -> list[Stop]:
    """The pauses that stop the clock of an allowance."""
    return [(start, end) for _, start, end in life.pauses] if allowance.pause is Clock.STOPS else []


def end_for(allowance: Allowance, life: Life, period: Period) -> tuple[bool, datetime | None]:
    """Whether an allowance gives anything in a period, and when that ends if no change closes it.

    A duration of its own is from the period's start, whenever within it the allowance begins.
    """
    of_period = allowance.lasts == "period"
    own = period.end if of_period else end_of(allowance.lasts, period.start)
    stops = stops_for(allowance, life)
    # Pauses: the end moves by the time stopped; that of the period at most to the start of the item's next one.
    latest = period.next.start if period.next and of_period else None
    kept_end = moved(own, period.start, stops, latest)
    end = kept_end
    if of_period and period.is_living and own is not None:
        # Leeway and grace.
        end = moved(own + timedelta(seconds=allowance.leeway_seconds), period.start, stops, None)
        for failed, recovered in life.unpaid:
            grace = failed + timedelta(seconds=allowance.grace_seconds)
            if end is not None and failed <= end:
                end = max(end, grace if recovered is None else min(grace, recovered))
    # Ends.
    applying = [
        one for one in life.ends if (period.is_trial if one.is_of_trials else applies(one.place, one.at, period))
    ]
    if period.end is None or period.end <= period.start or any(one.at <= period.start for one in applying):
        return False, None
    if allowance.on_cancel is OnCancel.KEEP:
        if any(not one.is_hard for one in applying):
            end = kept_end
        applying = [one for one in applying if one.is_hard]
    return True, min([one.at for one in applying] + ([end] if end else []), default=None)


def rolling(last: Made, period: Period, following: Sequence[Made], name: NameOfGrant) -> tuple[Made, Made] | None:
    """Roll-over: a grant that ends with its period, with what it rolls into, and the child that this makes."""
    grant, allowance = last.grant, last.allowance
    # Into the item's next period, told as such; not what a change has closed, and not of a trial.
    is_closed = last.closes is not None and last.closes == grant.end
    if not (period.next and period.next.is_told) or is_closed or period.is_trial:
        return None
    if allowance is None or grant.units is None or not allowance.rollover_units:
        return None
    if grant.generation >= allowance.rollover_times or grant.end != period.next.start:
        return None
    for other in following:
        new = other.grant
        if (new.sku, new.allowance, new.start) == (grant.sku, grant.allowance, grant.end):
            cause = new.start.isoformat(timespec="microseconds")
            child = new._replace(
                name=name.child(grant.name, "rollover", cause),
                units=0,
                generation=grant.generation + 1,
                parent=grant.name,
                origin="rollover",
                taken_back=(),
            )
            units = other.allowance.rollover_units if other.allowance else 0
            limit = units * quantity_at_start(period.next)
            grant = grant._replace(rolls_into=child.name, rollover_max=limit)
            return last._replace(grant=grant), other._replace(grant=child)
    return None


def quantity_at_start(period: Period) -> int:
    """With how many the SKU begins in which the period begins, after the changes of plan of that very instant."""
    first = period.steps[0]
    for step in period.steps:
        if step.at == period.start and step.sku != first.sku:
            first = step
    return first.quantity


def ends_of(told: Sequence[Standing]) -> list[End]:
    """Ends: everything that ends the subscription, or its trial."""
    ends = [End(one.place, one.content, is_hard=False) for one in kept(told, cancellation) if one.content is not None]
    ends += [End(one.place, one.content, is_hard=False) for one in kept(told, expiry)]
    ends += [End(one.place, one.content, is_hard=True) for one in kept(told, revocation)]
    return ends + [End(one.place, one.content, is_hard=True, is_of_trials=True) for one in kept(told, trial_expired)]


def pauses_of(told: Sequence[Standing]) -> list[tuple[str, datetime, datetime | None]]:
    """Pauses: from the pause's own instant to the resumption's; nothing where that is no later."""
    resumed = {one.key: one.content for one in kept(told, resumption)}
    return [
        (f"pause/{one.key}", one.content, resumed.get(one.key))
        for one in kept(told, pause)
        if one.key not in resumed or resumed[one.key] > one.content
    ]


def unpaid_of(told: Sequence[Standing]) -> list[Stop]:
    """A failed payment is open from the first failure since the last recovery until the recovery."""
    windows: list[Stop] = []
    for _, at, is_recovery in sorted((one.place, one.at, one.content) for one in kept(told, payment)):
        is_open = bool(windows) and windows[-1][1] is None
        if is_recovery and is_open:
            windows[-1] = (windows[-1][0], at)
        elif not is_recovery and not is_open:
            windows.append((at, None))
    return windows


# -- business keys


def cancellation(fact: Fact) -> Iterable[tuple[str, datetime | None]]:
    """Cancellation id: the instant, or that it is withdrawn."""
    match fact:
        case SubscriptionCancellationScheduled() | SubscriptionCancelled():
            return [(fact.cancellation_id, fact.effective_at)]
        case SubscriptionCancellationWithdrawn():
            return [(fact.cancellation_id, None)]
        case _:
            return []


def expiry(fact: Fact) -> Iterable[tuple[str, datetime]]:
    """Expiry id."""
    return [(fact.expiry_id, fact.effective_at)] if isinstance(fact, SubscriptionExpired) else []


def revocation(fact: Fact) -> Iterable[tuple[str, datetime]]:
    """Revocation id."""
    return [(fact.revocation_id, fact.effective_at)] if isinstance(fact, SubscriptionRevoked) else []


def pause(fact: Fact) -> Iterable[tuple[str, datetime]]:
    """Pause id, paused."""
    return [(fact.pause_id, fact.effective_at)] if isinstance(fact, SubscriptionPaused) else []


def resumption(fact: Fact) -> Iterable[tuple[str, datetime]]:
    """Pause id, resumed."""
    return [(fact.pause_id, fact.effective_at)] if isinstance(fact, SubscriptionResumed) else []


def payment(fact: Fact) -> Iterable[tuple[tuple[str, str], bool]]:
    """Failure id, recovery id: two keys."""
    match fact:
        case SubscriptionPaymentFailed():
            return [(("failed", fact.failure_id), False)]
        case SubscriptionPaymentRecovered():
            return [(("recovered", fact.recovery_id), True)]
        case _:
            return []
