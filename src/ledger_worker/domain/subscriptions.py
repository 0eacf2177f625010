"""From the facts of a subscription to its grants: how long each lasts, what suspends it, and what rolls over.

Which periods there are, and in which SKU and quantity an item is in them, is worked out in `periods`; how a period's
allowances become grants in `stretches`. Here are the ends, the causes of suspension and
the children that roll-over makes.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from ledger_worker.domain.catalogue import Allowance, Catalogue, Clock, OnCancel, lasts_until
from ledger_worker.domain.events import (
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionCancelled,
    SubscriptionExpired,
    SubscriptionPaused,
    SubscriptionPaymentFailed,
    SubscriptionPaymentRecovered,
    SubscriptionResumed,
    SubscriptionRevoked,
    SubscriptionTrialExpired,
)
from ledger_worker.domain.ledger import GrantTerms, Origin
from ledger_worker.domain.periods import Period, SubscriptionPeriods, walk
from ledger_worker.domain.stretches import (
    Given,
    Interval,
    Run,
    Step,
    child_id,
    grants_of_stretches,
    moved_end,
    runs_of_versions,
    stretches,
    unions,
)
from ledger_worker.domain.told import Latest, PlacedFact, Told

__all__ = ["SubscriptionTelling", "subscription_grants", "tell_subscription"]


class SubscriptionTelling(msgspec.Struct):
    """What the facts of a subscription say taken together.

    `ends` are cancellations (None: withdrawn), expiries and revocations by their keys. `unpaid` are the windows from a
    first failure to its recovery. `cancellations` are the ids of those that were told, withdrawn or not.
    """

    periods: SubscriptionPeriods
    ends: Latest[tuple[str, str], datetime | None]
    trial_end: Told[datetime] | None
    paused: Latest[str, datetime]
    resumed: Latest[str, datetime]
    unpaid: list[Interval]
    cancellations: set[str]

    def pauses(self) -> dict[str, Interval]:
        """Each pause that was told, from its instant to its resumption, where that comes later."""
        found: dict[str, Interval] = {}
        for pause_id, told in self.paused.items():
            resumed = self.resumed.get(pause_id)
            if resumed is None or resumed.content > told.content:
                found[pause_id] = (told.content, None if resumed is None else resumed.content)
        return found


def tell_subscription(facts: Sequence[PlacedFact]) -> SubscriptionTelling:
    """What the facts of a subscription, in their true order, say taken together."""
    telling = SubscriptionTelling(walk(facts), Latest(), None, Latest(), Latest(), [], set())
    trial_end: Latest[None, datetime] = Latest()
    failures: Latest[tuple[str, str], bool] = Latest()
    for place, (at, recorded) in enumerate(facts):
        match recorded.fact:
            case (SubscriptionCancellationScheduled() | SubscriptionCancelled()) as fact:
                telling.ends.tell(("cancellation", fact.cancellation_id), place, at, fact.effective_at)
                telling.cancellations.add(fact.cancellation_id)
            case SubscriptionCancellationWithdrawn() as fact:
                telling.ends.tell(("cancellation", fact.cancellation_id), place, at, None)
            case SubscriptionExpired() as fact:
                telling.ends.tell(("expiry", fact.expiry_id), place, at, fact.effective_at)
            case SubscriptionRevoked() as fact:
                telling.ends.tell((_REVOCATION, fact.revocation_id), place, at, fact.effective_at)
            case SubscriptionTrialExpired() as fact:
                trial_end.tell(None, place, at, fact.effective_at)
            case SubscriptionPaused() as fact:
                telling.paused.tell(fact.pause_id, place, at, fact.effective_at)
            case SubscriptionResumed() as fact:
                telling.resumed.tell(fact.pause_id, place, at, fact.effective_at)
            case SubscriptionPaymentFailed() as fact:
                failures.tell(("failed", fact.failure_id), place, at, content=True)
            case SubscriptionPaymentRecovered() as fact:
                failures.tell(("recovered", fact.recovery_id), place, at, content=False)
            case _:
                pass  # periods and changes are walked; a transfer gives nothing
    telling.trial_end = trial_end.get(None)
    telling.unpaid = _unpaid(failures)
    return telling


def subscription_grants(
    telling: SubscriptionTelling, source_key: str, catalogue: Catalogue, as_of_version: int
) -> list[GrantTerms]:
    """The grants of all items and periods, as if one customer held the subscription for good."""
    return _Giving(telling, source_key, catalogue, as_of_version).grants()


_REVOCATION = "revocation"


def _unpaid(failures: Latest[tuple[str, str], bool]) -> list[Interval]:
    """The windows from a first failure that is not resolved to the recovery that resolves it."""
    windows: list[Interval] = []
    failed_at: datetime | None = None
    for told in failures.values():
        if told.content and failed_at is None:
            failed_at = told.at
        elif not told.content and failed_at is not None:
            windows.append((failed_at, told.at))
            failed_at = None
    return windows if failed_at is None else [*windows, (failed_at, None)]


class _Ends(msgspec.Struct, frozen=True):
    """What ends the grants of one period from outside: what `keep` outlasts, and what nothing does."""

    at: datetime | None
    forced_at: datetime | None

    @property
    def first(self) -> datetime | None:
        """The first of both."""
        return _sooner(self.at, self.forced_at)


class _Giving:
    """One subscription while its grants are worked out."""

    def __init__(self, telling: SubscriptionTelling, source_key: str, catalogue: Catalogue, as_of_version: int) -> None:
        self._telling = telling
        self._source_key = source_key
        self._catalogue = catalogue
        self._as_of_version = as_of_version
        pauses = telling.pauses()
        self._stops = unions(pauses.values())
        self._pause_causes = [(f"pause/{pause_id}", start, end) for pause_id, (start, end) in pauses.items()]
        self._causes_by_grace: dict[int, list[tuple[str, datetime, datetime | None]]] = {}

    def grants(self) -> list[GrantTerms]:
        """All grants, children among them."""
        found: list[GrantTerms] = []
        for periods in self._telling.periods.of_item.values():
            ending: list[Given] = []
            for period in periods:
                given = self._grants_of(period)
                ending, children = _rolled_over(ending, given, period)
                found += [one.terms for one in ending]
                ending = given + children
                if period.is_trial:
                    # Nothing rolls out of a trial.
                    found += [one.terms for one in ending]
                    ending = []
            found += [one.terms for one in ending]
        return found

    def _grants_of(self, period: Period) -> list[Given]:
        """The grants of one period of one item."""
        if period.paid_until <= period.start:
            return []
        runs: list[Run] = []
        for run in _runs(period):
            entered_at = self._telling.periods.entered_at[period.item_id, run.sku]
            runs += runs_of_versions(
                run, self._catalogue, self._as_of_version, entered_at, period.start, period.next_start
            )
        ends = self._ends(period)
        if ends.first is not None and ends.first <= period.start:
            return []
        given = grants_of_stretches(
            stretches(runs),
            source_key=self._source_key,
            line_id=period.item_id,
            period=(period.start, period.paid_until),
            period_start=period.start,
            end_of=lambda stretch: self._end(period, stretch.allowance, ends),
            causes_of=self._causes,
            stops_of=self._stops_of,
        )
        return [
            Given(
                msgspec.structs.replace(one.terms, period_end=self._own_end(period, one.stretch.allowance)),
                one.stretch,
            )
            for one in given
        ]

    def _own_end(self, period: Period, allowance: Allowance) -> datetime | None:
        """The end by the allowance alone, moved by pauses: at most to the item's next period, if it lasts a period."""
        until = lasts_until(allowance.lasts, period.start, period.paid_until)
        if not isinstance(until, datetime):
            return None
        moved = moved_end(period.start, until, self._stops_of(allowance))
        bound = period.next_start if allowance.lasts == "period" else None
        return moved if bound is None else bound if moved is None else min(moved, bound)

    def _end(self, period: Period, allowance: Allowance, ends: _Ends) -> datetime | None:
        """When the grants of an allowance end if no change closes them sooner."""
        own_end = self._own_end(period, allowance)
        if ends.at is not None and allowance.on_cancel is OnCancel.KEEP:
            return _sooner(own_end, ends.forced_at)
        end = own_end
        if own_end is not None and allowance.lasts == "period" and self._is_living(period):
            end = self._outlived_until(period, allowance)
        return _sooner(end, ends.forced_at if allowance.on_cancel is OnCancel.KEEP else ends.first)

    def _is_living(self, period: Period) -> bool:
        """Whether nothing was told of the time after the period: neither of the subscription nor of this item."""
        last_start = self._telling.periods.last_start
        return period.next_start is None and (last_start is None or last_start <= period.start)

    def _outlived_until(self, period: Period, allowance: Allowance) -> datetime | None:
        """The end of a living period with its leeway, later while a failed payment may still come."""
        stops = self._stops_of(allowance)
        end = moved_end(period.start, period.paid_until + timedelta(seconds=allowance.leeway_seconds), stops)
        grace = timedelta(seconds=allowance.grace_seconds)
        for failed_at, recovered_at in self._telling.unpaid:
            if end is None or failed_at > end:
                break
            until = failed_at + grace
            end = max(end, until if recovered_at is None else min(until, recovered_at))
        return end

    def _ends(self, period: Period) -> _Ends:
        """What ends the period from outside."""
        at: list[datetime] = []
        forced: list[datetime] = []
        for key, told in self._telling.ends.items():
            ends_at = told.content
            if ends_at is None or (told.place < period.place and ends_at <= period.start):
                continue
            (forced if key[0] == _REVOCATION else at).append(ends_at)
        if period.is_trial and self._telling.trial_end is not None:
            forced.append(self._telling.trial_end.content)
        return _Ends(min(at, default=None), min(forced, default=None))

    def _stops_of(self, allowance: Allowance) -> Sequence[Interval]:
        return self._stops if allowance.pause is Clock.STOPS else ()

    def _causes(self, allowance: Allowance) -> list[tuple[str, datetime, datetime | None]]:
        """What suspends: each pause, and each failed payment once its grace is over."""
        found = self._causes_by_grace.get(allowance.grace_seconds)
        if found is None:
            grace = timedelta(seconds=allowance.grace_seconds)
            found = list(self._pause_causes)
            found += [
                ("payment", failed_at + grace, recovered_at)
                for failed_at, recovered_at in self._telling.unpaid
                if recovered_at is None or failed_at + grace < recovered_at
            ]
            self._causes_by_grace[allowance.grace_seconds] = found
        return found


def _sooner(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _runs(period: Period) -> list[Run]:
    """The runs of one SKU in a period; one that another replaces at its own start has no time and is left out."""
    runs: list[Run] = []
    sku: str | None = None
    for step in period.steps:
        if step.sku == sku and sku is not None:
            same = runs.pop()
            quantity = Step(step.at, step.quantity, step.change_id)
            runs.append(msgspec.structs.replace(same, steps=(*same.steps, quantity)))
            continue
        if runs and sku is not None:
            last = runs.pop()
            if last.start < step.at:
                runs.append(msgspec.structs.replace(last, end=step.at))
        sku = step.sku
        if sku is not None:
            runs.append(Run(step.at, None, sku, None, step.change_id, (Step(step.at, step.quantity, ""),)))
    return runs


def _rolled_over(ending: Sequence[Given], given: Sequence[Given], period: Period) -> tuple[list[Given], list[Given]]:
    """What ends where the period begins, with the child each goes on in named; and those children."""
    if period.opened_by:
        return list(ending), []
    begun = {
        (one.terms.sku, one.terms.allowance): one for one in reversed(given) if one.terms.effective_at == period.start
    }
    named: list[Given] = []
    children: list[Given] = []
    for one in ending:
        terms, stretch = one.terms, one.stretch
        successor = begun.get((terms.sku, terms.allowance))
        if (
            successor is None
            or terms.amount is None
            or stretch.closes_at is not None
            or not stretch.allowance.rollover_units
            or terms.generation >= stretch.allowance.rollover_times
            or terms.expires_at != period.start
        ):
            named.append(one)
            continue
        start = period.start.isoformat(timespec="microseconds")
        child = msgspec.structs.replace(
            successor.terms,
            grant_id=child_id(terms.grant_id, Origin.ROLLOVER, start),
            amount=0,
            generation=terms.generation + 1,
            cuts=(),
            parent=terms.grant_id,
            origin=Origin.ROLLOVER,
            root_at=terms.root_at or terms.effective_at,
        )
        most = successor.stretch.allowance.rollover_of(successor.stretch.steps[0].quantity)
        named.append(Given(msgspec.structs.replace(terms, rolls_into=child.grant_id, rollover_max=most), stretch))
        children.append(Given(child, successor.stretch))
    return named, children
