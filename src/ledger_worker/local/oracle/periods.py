"""The periods of a subscription's items, walked from the first instant at which something acts to the last.

A telling opens periods where it starts; a change acts where it says, on what the item then is.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import msgspec

from ledger_worker.domain.events import (
    Fact,
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
from ledger_worker.local.oracle.facts import Kept, Standing, kept
from ledger_worker.local.oracle.runs import Step

Change = SubscriptionPlanChanged | SubscriptionQuantityChanged | SubscriptionAddOnAdded | SubscriptionAddOnRemoved


class Named(NamedTuple):
    """What a telling with items says of one of them."""

    item: SubscriptionItem
    end: datetime
    is_trial: bool


class Period(msgspec.Struct, eq=False, kw_only=True):
    """One period of one item: told as such (`is_named`: with items), or opened by a change.

    `told_end` None is the latest end of `bases`. `steps` is what the item is within it, the first at its start.
    `end` is without leeway and pauses.
    """

    item_id: str
    start: datetime
    told_end: datetime | None
    place: int
    is_told: bool
    is_named: bool
    is_trial: bool
    steps: list[Step]
    bases: "tuple[Period, ...]" = ()
    end: datetime | None = None
    next: "Period | None" = None
    is_living: bool = False

    @property
    def is_removed(self) -> bool:
        """Whether the last that happened to the item in this period is that it was removed."""
        return self.steps[-1].sku is None


class Timetable:
    """The periods of all items, as far as the walk has come."""

    def __init__(self, told: Sequence[Standing]) -> None:
        self.named = {one.key: one for one in kept(told, items_named)}
        self.bare = {one.key: one for one in kept(told, without_items)}
        self.changes = acting(kept(told, change))
        item_ids = {item_id for item_id, _ in self.named} | {item_of(one.content) for one in self.changes}
        self.of_item: dict[str, list[Period]] = {item_id: [] for item_id in sorted(item_ids)}
        self.periods: list[Period] = []

    def walk(self) -> list[Period]:
        """All periods. At one instant those that are told begin first, then changes act by place."""
        starts = {start for _, start in self.named} | set(self.bare)
        for at in sorted(starts | {one.content.effective_at for one in self.changes}):
            now = [one for one in self.changes if one.content.effective_at == at]
            beginning = [self.told_period(item_id, at, now) for item_id in self.of_item]
            for period in beginning:
                if period:
                    self.open(period)
            for one in now:
                self.act(item_of(one.content), one)
        return self.periods

    def open(self, period: Period) -> None:
        """The period is the last of its item so far."""
        self.of_item[period.item_id].append(period)
        self.periods.append(period)

    def told_period(self, item_id: str, at: datetime, now: Sequence[Kept[str, Change]]) -> Period | None:
        """The period of the item that is told to start here."""
        named, bare = self.named.get((item_id, at)), self.bare.get(at)
        # Where one start of one item is told with and without items, the later place wins.
        if bare and self.goes_on(item_id, at, now) and (named is None or named.place < bare.place):
            last = self.of_item[item_id][-1].steps[-1]
            return Period(
                item_id=item_id,
                start=at,
                told_end=bare.content,
                place=bare.place,
                is_told=True,
                is_named=False,
                is_trial=False,
                steps=[Step(at, "", last.sku, last.quantity)],
            )
        if named is None:
            return None
        return Period(
            item_id=item_id,
            start=at,
            told_end=named.content.end,
            place=named.place,
            is_told=True,
            is_named=True,
            is_trial=named.content.is_trial,
            steps=[Step(at, "", named.content.item.sku, named.content.item.quantity)],
        )

    def goes_on(self, item_id: str, at: datetime, now: Sequence[Kept[str, Change]]) -> bool:
        """Whether the item is alive where a telling without items starts: in the latest telling with items, or since.

        What removes it at that very instant has removed it by then.
        """
        before = self.of_item[item_id]
        removed = any(
            isinstance(one.content, SubscriptionAddOnRemoved) and item_of(one.content) == item_id for one in now
        )
        starts = [start for _, start in self.named if start < at]
        return bool(before) and not before[-1].is_removed and not removed and before[-1].start >= max(starts)

    def act(self, item_id: str, one: Kept[str, Change]) -> None:
        """A change acts on the item's running period: the last that has started."""
        fact, at = one.content, one.content.effective_at
        running = self.of_item[item_id][-1] if self.of_item[item_id] else None
        starts_here = running is not None and running.start == at
        if running and running.is_named and starts_here and one.place < running.place:
            return  # told with items: an earlier change at its start has no effect
        if isinstance(fact, SubscriptionAddOnAdded) and not self.is_there(running, at):
            if self.periods:
                self.open(self.add_on(one.place, fact, at))
            return
        if running is None or running.is_removed:
            return
        step = stepped(running.steps[-1], one.key, fact)
        if isinstance(fact, SubscriptionPlanChanged) and fact.period_end is not None:
            self.open(
                Period(
                    item_id=item_id,
                    start=at,
                    told_end=fact.period_end,
                    place=one.place,
                    is_told=False,
                    is_named=False,
                    is_trial=False,
                    steps=[step],
                )
            )
        elif starts_here and running.is_told and not running.is_named:
            # Told without items: it starts as what the item is by then.
            running.steps[-1] = step._replace(segment="")
        else:
            running.steps.append(step)

    def is_there(self, running: Period | None, at: datetime) -> bool:
        """Whether an add-on's item is there: not removed, and if a later telling left it out, not over either."""
        if running is None or running.is_removed:
            return False
        starts = [start for _, start in self.named if start <= at]
        return running.start >= max(starts, default=running.start) or told_end(running) > at

    def add_on(self, place: int, fact: SubscriptionAddOnAdded, at: datetime) -> Period:
        """A period of its own, to the end of the period with the latest start up to then."""
        latest = max(period.start for period in self.periods)
        bases = tuple(period for period in self.periods if period.start == latest)
        return Period(
            item_id=fact.item.item_id,
            start=at,
            told_end=None,
            place=place,
            is_told=False,
            is_named=False,
            is_trial=False,
            steps=[Step(at, fact.change_id, fact.item.sku, fact.item.quantity)],
            bases=bases,
        )


def periods_of(told: Sequence[Standing]) -> list[Period]:
    """Every period of every item, each with its end, its next one, and whether it is living."""
    timetable = Timetable(told)
    periods = timetable.walk()
    for of_item in timetable.of_item.values():
        for period, following in pairwise(of_item):
            period.next = following
    # Trial: it ends at its end, or sooner where the first paid period starts, or where it expired.
    paid = [period.start for period in periods if period.is_told and not period.is_trial]
    expired = kept(told, trial_expired)
    extensions = [one.content for one in kept(told, extension)]
    starts = [start for _, start in timetable.named] + list(timetable.bare)
    for period in periods:
        ends = [period.told_end] if period.told_end else [base.end for base in period.bases if base.end]
        end = max(ends, default=period.start)
        if period.next:
            end = min(end, period.next.start)
        if period.is_trial:
            end = min([end, *(start for start in paid if start > period.start)])
            end = min([end, *(one.content for one in expired)])
        for new_end in extensions:
            latest = [one for one in timetable.of_item[period.item_id] if one.start < new_end]
            if latest and latest[-1] is period:
                end = max(end, new_end)
        period.end = end
        period.is_living = period.next is None and not any(start > period.start for start in starts)
    return periods


def told_end(period: Period) -> datetime:
    """The end that was told of a period, or of those that an add-on's goes by."""
    return period.told_end or max((told_end(base) for base in period.bases), default=period.start)


def applies(place: int, at: datetime, period: Period) -> bool:
    """Ends: what is told after the period, or acts after its start."""
    return place > period.place or at > period.start


def stepped(last: Step, change_id: str, fact: Change) -> Step:
    """What the item is after a change."""
    at = fact.effective_at
    match fact:
        case SubscriptionPlanChanged():
            return Step(at, change_id, fact.sku, last.quantity if fact.quantity is None else fact.quantity)
        case SubscriptionQuantityChanged():
            return Step(at, change_id, last.sku, fact.quantity)
        case SubscriptionAddOnAdded():
            return Step(at, change_id, fact.item.sku, fact.item.quantity)
        case SubscriptionAddOnRemoved():
            return Step(at, change_id, None, 0)


def acting(changes: Sequence[Kept[str, Change]]) -> list[Kept[str, Change]]:
    """Changes, in order of place, without the schedules that a later place has dropped."""
    left: list[Kept[str, Change]] = []
    for one in changes:
        if not keeps_schedule(one.content):
            left = [
                earlier
                for earlier in left
                if item_of(earlier.content) != item_of(one.content)
                or earlier.content.effective_at < one.content.effective_at
                or earlier.content.effective_at <= earlier.at
            ]
        left.append(one)
    return left


def keeps_schedule(fact: Change) -> bool:
    """Whether a change leaves what was scheduled before it as it is."""
    return isinstance(fact, SubscriptionPlanChanged | SubscriptionQuantityChanged) and fact.keep_schedule


def item_of(fact: Change) -> str:
    """The item that a change is about."""
    return fact.item.item_id if isinstance(fact, SubscriptionAddOnAdded) else fact.item_id


# -- business keys


def items_named(fact: Fact) -> Iterable[tuple[tuple[str, datetime], Named]]:
    """Item + period start, told with items."""
    match fact:
        case SubscriptionTrialStarted():
            start, end = fact.trial_start, fact.trial_end
        case SubscriptionTrialConverted() | SubscriptionActivated() | SubscriptionRenewed():
            start, end = fact.period_start, fact.period_end
        case _:
            return []
    is_trial = isinstance(fact, SubscriptionTrialStarted)
    return [((item.item_id, start), Named(item, end, is_trial)) for item in fact.items]


def without_items(fact: Fact) -> Iterable[tuple[datetime, datetime]]:
    """Period start, told without items; what it says is the end."""
    if isinstance(fact, SubscriptionTrialConverted | SubscriptionRenewed) and not fact.items:
        return [(fact.period_start, fact.period_end)]
    return []


def change(fact: Fact) -> Iterable[tuple[str, Change]]:
    """Change id: one key for all four."""
    return [(fact.change_id, fact)] if isinstance(fact, Change) else []


def extension(fact: Fact) -> Iterable[tuple[str, datetime]]:
    """Extension id."""
    return [(fact.extension_id, fact.new_period_end)] if isinstance(fact, SubscriptionExtended) else []


def trial_expired(fact: Fact) -> Iterable[tuple[None, datetime]]:
    """The trial's end: one for a subscription."""
    return [(None, fact.effective_at)] if isinstance(fact, SubscriptionTrialExpired) else []
