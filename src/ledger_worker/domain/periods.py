"""The periods of a subscription's items: in which SKU and quantity each is, and what changes it.

Tellings open periods: with items, each of them; without, every item that is alive. Changes act on the running period of
their item, or open one of their own. The facts are walked once by the instants at which they act; how long a grant of a
period lasts, and what it is, is in `subscriptions`.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from ledger_worker.domain.events import (
    SubscriptionActivated,
    SubscriptionAddOnAdded,
    SubscriptionAddOnRemoved,
    SubscriptionExtended,
    SubscriptionItem,
    SubscriptionPlanChanged,
    SubscriptionQuantityChanged,
    SubscriptionRenewed,
    SubscriptionTrialConverted,
    SubscriptionTrialExpired,
    SubscriptionTrialStarted,
)
from ledger_worker.domain.told import Latest, PlacedFact, Told

__all__ = ["Period", "PlanStep", "SubscriptionPeriods", "walk"]


_NEVER = datetime.max.replace(tzinfo=UTC)


class PlanStep(msgspec.Struct, frozen=True):
    """From `at` on the item has this SKU (None: it left) and quantity, because of the change `change_id`."""

    at: datetime
    sku: str | None
    quantity: int
    change_id: str


class Period(msgspec.Struct, kw_only=True):
    """One period of one item as told last.

    `place` is that of its telling; `next_start` is where the item's next begins.
    `end` is as told, None of an item that joined: its period lasts as long as those in `joined`. `paid_until` is what
    comes of that by extensions and what follows. `opened_by` is the change that opened it, empty for a telling. The
    first step is how it begins.
    """

    item_id: str
    start: datetime
    end: datetime | None
    place: int
    steps: list[PlanStep]
    is_trial: bool = False
    is_named: bool = False
    opened_by: str = ""
    joined: tuple["Period", ...] = ()
    next_start: datetime | None = None
    paid_until: datetime = _NEVER

    @property
    def now(self) -> PlanStep:
        """The item as it stands after the last change."""
        return self.steps[-1]

    @property
    def told_end(self) -> datetime:
        """The end that was told of it, or of those it joined."""
        if self.end is not None:
            return self.end
        return max((period.told_end for period in self.joined), default=self.start)


class SubscriptionPeriods(msgspec.Struct):
    """What the tellings and changes of a subscription come to.

    `entered_at` is where each (item, SKU) was first told; `last_start` is the last start of all tellings.
    `without_effect` are the changes that found nothing to act on.
    """

    of_item: dict[str, list[Period]]
    entered_at: dict[tuple[str, str], datetime]
    last_start: datetime | None
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
    extensions: Latest[str, datetime]
    trial_end: Latest[None, datetime]
    starts: set[datetime]
    entered_at: dict[tuple[str, str], datetime]


def walk(facts: Sequence[PlacedFact]) -> SubscriptionPeriods:
    """The periods of every item, from the facts of a subscription in their true order."""
    tellings = _tellings(facts)
    walked = _Walk(tellings)
    for instant in sorted(tellings.starts | {told.content.effective_at for told in walked.changes}):
        walked.step(instant)
    walked.settle_ends()
    return SubscriptionPeriods(
        of_item=walked.of_item,
        entered_at=tellings.entered_at,
        last_start=max(tellings.starts, default=None),
        without_effect=frozenset(walked.without_effect),
    )


def _tellings(facts: Sequence[PlacedFact]) -> _Tellings:
    told = _Tellings(Latest(), Latest(), Latest(), Latest(), Latest(), set(), {})
    for place, (at, recorded) in enumerate(facts):
        fact = recorded.fact
        if isinstance(fact, _Telling):
            is_trial = isinstance(fact, SubscriptionTrialStarted)
            start, end = _interval(fact)
            told.starts.add(start)
            if not fact.items:
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
        elif isinstance(fact, SubscriptionExtended):
            told.extensions.tell(fact.extension_id, place, at, fact.new_period_end)
        elif isinstance(fact, SubscriptionTrialExpired):
            told.trial_end.tell(None, place, at, fact.effective_at)
    return told


def _interval(fact: _Telling) -> tuple[datetime, datetime]:
    if isinstance(fact, SubscriptionTrialStarted):
        return fact.trial_start, fact.trial_end
    return fact.period_start, fact.period_end


def _item_of(change: _Change) -> str:
    return change.item.item_id if isinstance(change, SubscriptionAddOnAdded) else change.item_id


def _not_overruled(changes: Iterable[Told[_Change]]) -> list[Told[_Change]]:
    """The changes in order of place, without the schedules that a later change of that item overruled."""
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
        self._opened: list[Period] = []
        self._naming_starts = sorted({start for _, start in tellings.named})
        self._named_at: dict[datetime, dict[str, Told[_Named]]] = {}
        for (item_id, start), named in tellings.named.items():
            self._named_at.setdefault(start, {})[item_id] = named
        self._changes_at: dict[datetime, list[Told[_Change]]] = {}
        for told in self.changes:
            self._changes_at.setdefault(told.content.effective_at, []).append(told)

    def step(self, instant: datetime) -> None:
        """Everything that acts at the instant: periods that are told begin, then changes act by place."""
        changes = self._changes_at.get(instant, [])
        named = self._named_at.get(instant, {})
        bare = self._tellings.bare.get(instant)
        goes_on = frozenset[str]() if bare is None else self._going_on(instant, changes)
        beginning = []
        for item_id in sorted(named.keys() | goes_on):
            of_item = named.get(item_id)
            if bare is not None and item_id in goes_on and (of_item is None or of_item.place < bare.place):
                now = self.of_item[item_id][-1].now
                first = PlanStep(instant, now.sku, now.quantity, "")
                beginning.append(
                    Period(item_id=item_id, start=instant, end=bare.content, place=bare.place, steps=[first])
                )
            elif of_item is not None:
                item = of_item.content.item
                beginning.append(
                    Period(
                        item_id=item_id,
                        start=instant,
                        end=of_item.content.end,
                        place=of_item.place,
                        steps=[PlanStep(instant, item.sku, item.quantity, "")],
                        is_trial=of_item.content.is_trial,
                        is_named=True,
                    )
                )
        for period in beginning:
            self._open(period)
        for change in changes:
            self._change(change)

    def settle_ends(self) -> None:
        """Each period is paid until the end told of it, or sooner where another follows, or later where it is extended.

        A trial also ends where the first paid period starts, and where it expired. What joined a period, and stands
        behind it, ends with it.
        """
        expired = self._tellings.trial_end.get(None)
        paid_starts = sorted({period.start for period in self._opened if not (period.is_trial or period.opened_by)})
        for period in self._opened:
            ends = [base.paid_until for base in period.joined] if period.end is None else [period.end]
            end = max(ends, default=period.start)
            followers = [period.next_start]
            if period.is_trial:
                followers.append(next((start for start in paid_starts if start > period.start), None))
                followers.append(None if expired is None else expired.content)
            paid_until = min([end, *(start for start in followers if start is not None)])
            extended = [
                told.content
                for told in self._tellings.extensions.values()
                if self._last_begun(period.item_id, told.content) is period
            ]
            period.paid_until = max([paid_until, *extended])

    def _last_begun(self, item_id: str, before: datetime) -> Period | None:
        """The item's period with the latest start before that instant."""
        return next((period for period in reversed(self.of_item[item_id]) if period.start < before), None)

    def _going_on(self, instant: datetime, changes: Sequence[Told[_Change]]) -> frozenset[str]:
        """The items that a telling without items goes on with: alive by the last telling with items, or since."""
        named_last = max((start for start in self._naming_starts if start < instant), default=None)
        removed = {_item_of(told.content) for told in changes if isinstance(told.content, SubscriptionAddOnRemoved)}
        return frozenset(
            item_id
            for item_id, periods in self.of_item.items()
            if named_last is not None
            and periods[-1].start >= named_last
            and periods[-1].now.sku is not None
            and item_id not in removed
        )

    def _open(self, period: Period) -> None:
        """The item has a further period, and what changes from there on is of that one alone."""
        periods = self.of_item.setdefault(period.item_id, [])
        if periods:
            periods[-1].next_start = period.start
        periods.append(period)
        self._opened.append(period)

    def _change(self, told: Told[_Change]) -> None:
        """A change acts on the item's running period, or opens one of its own."""
        change, at = told.content, told.content.effective_at
        item_id = _item_of(change)
        periods = self.of_item.get(item_id)
        running = periods[-1] if periods else None
        starts_here = running is not None and running.start == at
        if running is not None and running.is_named and starts_here and told.place < running.place:
            return  # told with items: what was told before it has no effect at its start
        if isinstance(change, SubscriptionAddOnAdded) and not self._is_there(running, at):
            self._join(told, change)
        elif running is None or running.now.sku is None:
            self.without_effect.add(change.change_id)
        elif isinstance(change, SubscriptionPlanChanged) and change.period_end is not None:
            first = PlanStep(at, change.sku, change.quantity or running.now.quantity, change.change_id)
            self._open(
                Period(
                    item_id=item_id,
                    start=at,
                    end=change.period_end,
                    place=told.place,
                    steps=[first],
                    opened_by=change.change_id,
                )
            )
        elif starts_here and not running.is_named and not running.opened_by:
            # Told without items: it begins as what the item is by then.
            changed = _changed(running.now, change)
            running.steps[-1] = PlanStep(at, changed.sku, changed.quantity, "")
        else:
            running.steps.append(_changed(running.now, change))

    def _is_there(self, running: Period | None, at: datetime) -> bool:
        """Whether the item is in the subscription: not removed, nor left out by a later telling and over."""
        if running is None or running.now.sku is None:
            return False
        named_last = max((start for start in self._naming_starts if start <= at), default=running.start)
        return running.start >= named_last or running.told_end > at

    def _join(self, told: Told[_Change], change: SubscriptionAddOnAdded) -> None:
        """An item that is not there joins until the end of the period that runs."""
        last_start = max((period.start for period in self._opened), default=None)
        if last_start is None:
            self.without_effect.add(change.change_id)
            return
        first = PlanStep(change.effective_at, change.item.sku, change.item.quantity, change.change_id)
        self._open(
            Period(
                item_id=change.item.item_id,
                start=change.effective_at,
                end=None,
                place=told.place,
                steps=[first],
                opened_by=change.change_id,
                joined=tuple(period for period in self._opened if period.start == last_start),
            )
        )


def _changed(now: PlanStep, change: _Change) -> PlanStep:
    at, change_id = change.effective_at, change.change_id
    if isinstance(change, SubscriptionPlanChanged):
        return PlanStep(at, change.sku, change.quantity or now.quantity, change_id)
    if isinstance(change, SubscriptionQuantityChanged):
        return PlanStep(at, now.sku, change.quantity, change_id)
    if isinstance(change, SubscriptionAddOnAdded):
        return PlanStep(at, change.item.sku, change.item.quantity, change_id)
    return PlanStep(at, None, now.quantity, change_id)
