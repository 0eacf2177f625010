"""The periods of a subscription's items: who is in them, in which SKU and quantity, and what changes within (RULES 22, 23).

Tellings open periods: with items, each of them; without, every item that is alive. Changes act on the running period of
their item, or open one of their own. The facts are walked once by the instants at which they act; how long a grant of a
period lasts, and what it is, is in `subscriptions`.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import msgspec

from ledger_worker.domain.events import (
    SubscriptionActivated,
    SubscriptionAddOnAdded,
    SubscriptionAddOnRemoved,
    SubscriptionItem,
    SubscriptionPlanChanged,
    SubscriptionQuantityChanged,
    SubscriptionRenewed,
    SubscriptionTrialConverted,
    SubscriptionTrialStarted,
)
from ledger_worker.domain.told import Latest, PlacedFact, Told

__all__ = ["Period", "PlanStep", "SubscriptionPeriods", "walk"]


class PlanStep(msgspec.Struct, frozen=True):
    """From `at` on the item has this SKU (None: it left) and quantity, because of the change `change_id`."""

    at: datetime
    sku: str | None
    quantity: int
    change_id: str


class Period(msgspec.Struct):
    """One period of one item as told last. `place` is that of its telling; `next_start` is where the item's next begins.

    `opened_by` is the change that opened it, empty for a telling. The first step is how it begins.
    """

    item_id: str
    start: datetime
    end: datetime
    place: int
    is_trial: bool
    opened_by: str
    steps: list[PlanStep]
    next_start: datetime | None = None

    @property
    def now(self) -> PlanStep:
        """The item as it stands after the last change."""
        return self.steps[-1]


class SubscriptionPeriods(msgspec.Struct):
    """What the tellings and changes of a subscription come to.

    `entered_at` is where each (item, SKU) was first told; `told_starts` are the starts of all tellings and `paid_starts`
    of those that are no trial. `without_effect` are the changes that found nothing to act on.
    """

    of_item: dict[str, list[Period]]
    entered_at: dict[tuple[str, str], datetime]
    told_starts: list[datetime]
    paid_starts: list[datetime]
    without_effect: frozenset[str]

    def all(self) -> Iterator[Period]:
        """The periods of all items."""
        return (period for periods in self.of_item.values() for period in periods)


_Change = SubscriptionPlanChanged | SubscriptionQuantityChanged | SubscriptionAddOnAdded | SubscriptionAddOnRemoved
_Telling = SubscriptionTrialStarted | SubscriptionTrialConverted | SubscriptionActivated | SubscriptionRenewed


class _Named(msgspec.Struct, frozen=True):
    """What a telling says of one item."""

    item: SubscriptionItem
    end: datetime
    is_trial: bool


class _Tellings(msgspec.Struct):
    """All that opens periods and changes items, by business key."""

    named: Latest[tuple[str, datetime], _Named]
    bare: Latest[datetime, datetime]
    changes: Latest[str, _Change]
    naming_starts: set[datetime]
    told_starts: set[datetime]
    paid_starts: set[datetime]
    entered_at: dict[tuple[str, str], datetime]


def walk(facts: Sequence[PlacedFact]) -> SubscriptionPeriods:
    """The periods of every item, from the facts of a subscription in their true order."""
    tellings = _tellings(facts)
    walked = _Walk(tellings)
    for instant in sorted(tellings.told_starts | {told.content.effective_at for told in walked.changes}):
        walked.step(instant)
    return SubscriptionPeriods(
        of_item=walked.of_item,
        entered_at=tellings.entered_at,
        told_starts=sorted(tellings.told_starts),
        paid_starts=sorted(tellings.paid_starts),
        without_effect=frozenset(walked.without_effect),
    )


def _tellings(facts: Sequence[PlacedFact]) -> _Tellings:
    told = _Tellings(Latest(), Latest(), Latest(), set(), set(), set(), {})
    for place, (at, recorded) in enumerate(facts):
        fact = recorded.fact
        if isinstance(fact, _Telling):
            is_trial = isinstance(fact, SubscriptionTrialStarted)
            start, end = _interval(fact)
            told.told_starts.add(start)
            if not is_trial:
                told.paid_starts.add(start)
            if fact.items:
                told.naming_starts.add(start)
            else:
                told.bare.tell(start, place, at, end)
            for item in fact.items:
                told.entered_at.setdefault((item.item_id, item.sku), at)
                told.named.tell((item.item_id, start), place, at, _Named(item, end, is_trial))
        elif isinstance(fact, _Change):
            told.changes.tell(fact.change_id, place, at, fact)
            if isinstance(fact, SubscriptionPlanChanged):
                told.entered_at.setdefault((fact.item_id, fact.sku), at)
            elif isinstance(fact, SubscriptionAddOnAdded):
                told.entered_at.setdefault((fact.item.item_id, fact.item.sku), at)
    return told


def _interval(fact: _Telling) -> tuple[datetime, datetime]:
    if isinstance(fact, SubscriptionTrialStarted):
        return fact.trial_start, fact.trial_end
    return fact.period_start, fact.period_end


def _item_of(change: _Change) -> str:
    return change.item.item_id if isinstance(change, SubscriptionAddOnAdded) else change.item_id


def _not_overruled(changes: Iterable[Told[_Change]]) -> list[Told[_Change]]:
    """The changes in order of place, without the schedules that a later told change of that item overruled (RULES 23)."""
    standing: list[Told[_Change]] = []
    for told in changes:
        change = told.content
        keeps = getattr(change, "keep_schedule", False)
        if not keeps:
            standing = [
                earlier
                for earlier in standing
                if _item_of(earlier.content) != _item_of(change)
                or earlier.content.effective_at < change.effective_at
                or earlier.content.effective_at <= earlier.at
            ]
        standing.append(told)
    return standing


class _Walk:
    """The items while the instants are walked."""

    def __init__(self, tellings: _Tellings) -> None:
        self._tellings = tellings
        self.changes = _not_overruled(tellings.changes.values())
        self.of_item: dict[str, list[Period]] = {}
        self.without_effect: set[str] = set()
        self._named_at: dict[datetime, dict[str, Told[_Named]]] = {}
        for (item_id, start), named in tellings.named.items():
            self._named_at.setdefault(start, {})[item_id] = named
        self._changes_at: dict[datetime, list[Told[_Change]]] = {}
        for told in self.changes:
            self._changes_at.setdefault(told.content.effective_at, []).append(told)

    def step(self, instant: datetime) -> None:
        """Everything that acts at the instant: tellings with items, then changes by place, then tellings without.

        An item that joins does so last: it joins the period that runs then.
        """
        changes = self._changes_at.get(instant, [])
        named = self._named_at.get(instant, {})
        bare = self._tellings.bare.get(instant)
        goes_on = self._alive_before(instant) if bare is not None else frozenset()
        overruled_items = set()
        for item_id, told in sorted(named.items()):
            if bare is not None and bare.place > told.place and self._is_alive_after(item_id, instant, goes_on):
                continue
            overruled_items.add(item_id)
            item = told.content.item
            first = PlanStep(instant, item.sku, item.quantity, "")
            self._open(Period(item_id, instant, told.content.end, told.place, told.content.is_trial, "", [first]))
        joining: dict[str, list[Told[_Change]]] = {}
        for change in changes:
            item_id = _item_of(change.content)
            if item_id in overruled_items and change.place < named[item_id].place:
                continue
            joins = isinstance(change.content, SubscriptionAddOnAdded) and not self._is_there(item_id)
            if joins or item_id in joining:
                joining.setdefault(item_id, []).append(change)
            else:
                self._change(change)
        if bare is not None:
            self._go_on(instant, bare, goes_on - overruled_items - joining.keys())
        for change in sorted((each for of_item in joining.values() for each in of_item), key=_place_of):
            self._change(change)

    def _go_on(self, instant: datetime, bare: Told[datetime], item_ids: frozenset[str]) -> None:
        """A telling without items goes on with those that are there."""
        for item_id in sorted(item_ids):
            before = self.of_item[item_id][-1]
            if before.now.sku is None or before.start == instant:
                continue
            first = PlanStep(instant, before.now.sku, before.now.quantity, "")
            self._open(Period(item_id, instant, bare.content, bare.place, is_trial=False, opened_by="", steps=[first]))

    def _is_there(self, item_id: str) -> bool:
        periods = self.of_item.get(item_id)
        return bool(periods) and periods[-1].now.sku is not None

    def _alive_before(self, instant: datetime) -> frozenset[str]:
        """The items that a telling without items at the instant may go on with."""
        named_last = max((start for start in self._tellings.naming_starts if start < instant), default=None)
        return frozenset(
            item_id
            for item_id, periods in self.of_item.items()
            if named_last is not None and periods[-1].start >= named_last
        )

    def _is_alive_after(self, item_id: str, instant: datetime, goes_on: frozenset[str]) -> bool:
        """Whether the item is there once the changes of the instant have acted on what it was before."""
        if item_id not in goes_on:
            return False
        is_there = self.of_item[item_id][-1].now.sku is not None
        for told in self._changes_at.get(instant, []):
            if _item_of(told.content) == item_id:
                is_added = isinstance(told.content, SubscriptionAddOnAdded)
                is_there = is_added or (is_there and not isinstance(told.content, SubscriptionAddOnRemoved))
        return is_there

    def _open(self, period: Period) -> None:
        """The item has a further period; one that began at the same instant is replaced."""
        periods = self.of_item.setdefault(period.item_id, [])
        if periods and periods[-1].start == period.start:
            periods.pop()
        if periods:
            # What changes where the next period begins is of that one alone.
            last = periods[-1]
            last.next_start = period.start
            last.steps = [last.steps[0], *(step for step in last.steps[1:] if step.at < period.start)]
        periods.append(period)

    def _change(self, told: Told[_Change]) -> None:
        change, at = told.content, told.content.effective_at
        running = self.of_item.get(_item_of(change), [])
        now = running[-1].now if running else None
        is_there = now is not None and now.sku is not None
        if isinstance(change, SubscriptionAddOnAdded) and not is_there:
            self._add(told, change)
        elif now is None or now.sku is None:
            self.without_effect.add(change.change_id)
        elif isinstance(change, SubscriptionPlanChanged) and change.period_end is not None:
            first = PlanStep(at, change.sku, change.quantity or now.quantity, change.change_id)
            self._open(
                Period(
                    change.item_id,
                    at,
                    change.period_end,
                    told.place,
                    is_trial=False,
                    opened_by=change.change_id,
                    steps=[first],
                )
            )
        else:
            running[-1].steps.append(_changed(now, change))

    def _add(self, told: Told[_Change], change: SubscriptionAddOnAdded) -> None:
        """An item that is not there joins until the end of the period that runs."""
        at, item = change.effective_at, change.item
        begun = [period for periods in self.of_item.values() for period in periods if period.start <= at]
        last_start = max((period.start for period in begun), default=None)
        end = max((period.end for period in begun if period.start == last_start), default=at)
        if end <= at:
            self.without_effect.add(change.change_id)
            return
        first = PlanStep(at, item.sku, item.quantity, change.change_id)
        self._open(Period(item.item_id, at, end, told.place, is_trial=False, opened_by=change.change_id, steps=[first]))


def _place_of(told: Told[_Change]) -> int:
    return told.place


def _changed(now: PlanStep, change: _Change) -> PlanStep:
    at, change_id = change.effective_at, change.change_id
    if isinstance(change, SubscriptionPlanChanged):
        return PlanStep(at, change.sku, change.quantity or now.quantity, change_id)
    if isinstance(change, SubscriptionQuantityChanged):
        return PlanStep(at, now.sku, change.quantity, change_id)
    if isinstance(change, SubscriptionAddOnAdded):
        return PlanStep(at, change.item.sku, change.item.quantity, change_id)
    return PlanStep(at, None, now.quantity, change_id)
