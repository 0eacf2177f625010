"""What a customer was given, read off the facts from the first to the last: the slow half of a second opinion.

Nothing here is shared with the rules under test but the values of events and offers. Every question is answered from
all facts, every time; nothing is kept between two questions. Grants are plain records, named by what they are for.

Numbers in comments are those of the rules of terms: order (7), business keys (8), offers (11), refunds (13), leeway
(19).
"""

import re
from calendar import monthrange
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import NamedTuple
from uuid import UUID

from ledger_worker.domain.catalogue import Allowance, Catalogue, Offer
from ledger_worker.domain.events import (
    Event,
    PurchaseCompleted,
    PurchaseRefunded,
    SubscriptionActivated,
    SubscriptionCancelled,
    SubscriptionItem,
    SubscriptionRenewed,
    UsageRecorded,
)

NameOfGrant = Callable[[str, str, str, str, datetime | None], UUID]
"""Gives a grant its id from source, line or item, SKU, allowance and period start; only ties are broken by it."""


class TakenBack(NamedTuple):
    """Up to `units` go back at `at` because of the refund `why`."""

    why: str
    at: datetime
    units: int
    policy: str


class Given(NamedTuple):
    """One grant by its source alone; `units` None is access or unlimited."""

    name: UUID
    source: str
    line: str
    sku: str
    allowance: str
    entitlement: str
    units: int | None
    priority: int
    start: datetime
    end: datetime | None
    period_start: datetime | None
    taken_back: tuple[TakenBack, ...]


class Standing(NamedTuple):
    """An event and the instant at which it stands in its source."""

    at: datetime
    event: Event


def given(events: Sequence[Event], catalogue: Catalogue, name: NameOfGrant) -> list[Given]:
    """Every grant that the facts of one customer give, from all of them at once."""
    sources: dict[str, list[Event]] = {}
    for event in events:
        match event.fact:
            case PurchaseCompleted(order_id=order) | PurchaseRefunded(order_id=order):
                sources.setdefault(f"order/{order}", []).append(event)
            case (
                SubscriptionActivated(subscription_id=subscription)
                | SubscriptionRenewed(subscription_id=subscription)
                | SubscriptionCancelled(subscription_id=subscription)
            ):
                sources.setdefault(f"subscription/{subscription}", []).append(event)
            case _:
                assert isinstance(event.fact, UsageRecorded)
    found: list[Given] = []
    for source, own in sorted(sources.items()):
        told = in_true_order(own)
        found += order_grants(source, told, catalogue, name) + subscription_grants(source, told, catalogue, name)
    return found


def in_true_order(events: Sequence[Event]) -> list[Standing]:
    """(7) By version, at the latest instant so far; those without a version in between, after a versioned one."""
    versioned = [event for event in events if event.source_version is not None]
    versioned.sort(
        key=lambda event: (event.source_version, event.occurred_at, kind(event), event.event_source, event.event_id)
    )
    standing = []
    for place, event in enumerate(versioned):
        at = max(earlier.occurred_at for earlier in versioned[: place + 1])
        standing.append((at, 0, place, event))
    rest = [event for event in events if event.source_version is None]
    rest.sort(key=lambda event: (event.occurred_at, kind(event), event.event_source, event.event_id))
    standing += [(event.occurred_at, 1, place, event) for place, event in enumerate(rest)]
    return [Standing(at, event) for at, _, _, event in sorted(standing, key=lambda one: one[:3])]


def kind(event: Event) -> int:
    """Begin, cut, end: the kinds of fact that there are, in that order."""
    if isinstance(event.fact, PurchaseRefunded):
        return 4
    return 5 if isinstance(event.fact, SubscriptionCancelled) else 0


# -- orders


def order_grants(source: str, told: Sequence[Standing], catalogue: Catalogue, name: NameOfGrant) -> list[Given]:
    """What an order's lines give: from the instant each was first told, with the content last told."""
    grants = []
    purchases = [(at, event.fact) for at, event in told if isinstance(event.fact, PurchaseCompleted)]
    for line_id in sorted({line.line_id for _, fact in purchases for line in fact.lines}):
        tellings = [(at, line) for at, fact in purchases for line in fact.lines if line.line_id == line_id]
        start, line = tellings[0][0], tellings[-1][1]
        offer = offer_in_force(catalogue, line.sku, start)
        for allowance in offer.allowances if offer else ():
            if allowance.lasts == "period":
                continue
            end = end_of(allowance.lasts, start)
            units = None if allowance.units is None else allowance.units * line.quantity
            taken = []
            for why, at, before, after in refunded(told):
                acts_at = max(at, start)
                if units is None:
                    if after[line_id] == 1 and before[line_id] < 1 and (end is None or acts_at < end):
                        end = acts_at
                elif (cut := cut_units(allowance, units, before[line_id], after[line_id], start, end, acts_at)) > 0:
                    taken.append(TakenBack(why, acts_at, cut, allowance.refund.value))
            if end is None or start < end:
                grants.append(
                    Given(
                        name(source, line_id, line.sku, allowance.key, None),
                        source,
                        line_id,
                        line.sku,
                        allowance.key,
                        allowance.entitlement,
                        units,
                        allowance.priority,
                        start,
                        end,
                        None,
                        tuple(taken),
                    )
                )
    return grants


def refunded(told: Sequence[Standing]) -> list[tuple[str, datetime, dict[str, Fraction], dict[str, Fraction]]]:
    """(13) Each refund in order, with the share of each line that is gone before and after it."""
    lines = {}
    for _, event in told:
        if isinstance(event.fact, PurchaseCompleted):
            lines.update({line.line_id: line for line in event.fact.lines})
    gone = dict.fromkeys(lines, Fraction(0))
    result = []
    for at, fact in last_tellings(told):
        before = dict(gone)
        left = {key: Fraction(line.amount or 0) * (1 - gone[key]) for key, line in lines.items()}
        for key, line in lines.items():
            asked = Fraction(0)
            of_line = [one for one in fact.lines if one.line_id == key]
            if of_line and of_line[0].quantity is not None:
                asked = Fraction(of_line[0].quantity, line.quantity)
            elif of_line and of_line[0].amount is not None:
                asked = Fraction(of_line[0].amount, line.amount) if line.amount else Fraction(0)
            elif of_line or (not fact.lines and fact.amount is None):
                asked = 1 - before[key]
            elif fact.amount is not None and line.amount and sum(left.values()):
                asked = fact.amount * left[key] / sum(left.values()) / line.amount
            gone[key] = min(Fraction(1), before[key] + asked)
        result.append((fact.refund_id, at, before, dict(gone)))
    return result


def last_tellings(told: Sequence[Standing]) -> list[tuple[datetime, PurchaseRefunded]]:
    """(8) Each refund as last told, standing where that was first told; saying the same again moves nothing."""
    last: dict[str, tuple[int, datetime, PurchaseRefunded]] = {}
    for place, (at, event) in enumerate(told):
        if isinstance(event.fact, PurchaseRefunded):
            known = last.get(event.fact.refund_id)
            if known is None or known[2] != event.fact:
                last[event.fact.refund_id] = (place, at, event.fact)
    return [(at, fact) for _, at, fact in sorted(last.values(), key=lambda one: one[0])]


def cut_units(
    allowance: Allowance,
    units: int,
    before: Fraction,
    after: Fraction,
    start: datetime,
    end: datetime | None,
    at: datetime,
) -> int:
    """(13) What one refund takes back of one grant.

    What it adds to R, and of that the unused time's share for `prorate`.
    """

    def kept(share: Fraction) -> int:
        exact = units * (1 - share)
        return int(exact) + (exact != int(exact))

    cut = kept(before) - kept(after)
    if allowance.refund.value == "prorate" and end is not None:
        remaining = max(end - at, timedelta())
        cut = int(
            Fraction(cut) * Fraction(remaining // timedelta(microseconds=1), (end - start) // timedelta(microseconds=1))
        )
    return cut


# -- subscriptions


class Period(NamedTuple):
    """One period of one item as last told, and the place among the facts where that was first told."""

    item: SubscriptionItem
    start: datetime
    end: datetime
    place: int


def subscription_grants(source: str, told: Sequence[Standing], catalogue: Catalogue, name: NameOfGrant) -> list[Given]:
    """What the items of a subscription give, period by period."""
    periods = periods_of(told)
    entered: dict[tuple[str, str], datetime] = {}
    for at, event in told:
        if isinstance(event.fact, SubscriptionActivated | SubscriptionRenewed):
            for item in event.fact.items:
                entered.setdefault((item.item_id, item.sku), at)
    grants = []
    for period in periods:
        item = period.item
        offer = offer_in_force(catalogue, item.sku, entered[item.item_id, item.sku])
        later = [one.start for one in periods if one.start > period.start]
        later_of_item = [one.start for one in periods if one.start > period.start and one.item.item_id == item.item_id]
        paid_until = min([period.end, *later_of_item])
        for allowance in offer.allowances if offer else ():
            # (19) while nothing renews or ends it, a period grant outlives its period
            leeway = (
                timedelta(seconds=allowance.leeway_seconds)
                if allowance.lasts == "period" and not later
                else timedelta()
            )
            own_end = paid_until if allowance.lasts == "period" else end_of(allowance.lasts, period.start)
            end = None if own_end is None else own_end + leeway
            cancelled = cancelled_at(told, period)
            if cancelled is not None:
                if cancelled <= period.start:
                    continue
                if allowance.on_cancel.value == "keep":
                    end = own_end
                else:
                    end = cancelled if end is None else min(end, cancelled)
            if end is not None and end <= period.start:
                continue
            grants.append(
                Given(
                    name(source, item.item_id, item.sku, allowance.key, period.start),
                    source,
                    item.item_id,
                    item.sku,
                    allowance.key,
                    allowance.entitlement,
                    None if allowance.units is None else allowance.units * item.quantity,
                    allowance.priority,
                    period.start,
                    end,
                    period.start,
                    (),
                )
            )
    return grants


def periods_of(told: Sequence[Standing]) -> list[Period]:
    """The periods of all items, by item and start.

    A renewal without items goes on with those of the period before it.
    """
    known: dict[tuple[str, datetime], Period] = {}

    def tell(item: SubscriptionItem, start: datetime, end: datetime, place: int) -> None:
        before = known.get((item.item_id, start))
        if before is None or (before.item, before.end) != (item, end):
            known[item.item_id, start] = Period(item, start, end, place)

    bare = []
    for place, (_, event) in enumerate(told):
        fact = event.fact
        if isinstance(fact, SubscriptionActivated | SubscriptionRenewed):
            for item in fact.items:
                tell(item, fact.period_start, fact.period_end, place)
            if not fact.items:
                bare.append((fact.period_start, place, fact.period_end))
    for start, place, end in sorted(bare):
        earlier = [one for one in known.values() if one.start < start]
        for one in earlier:
            if one.start == max(each.start for each in earlier):
                of_item = known.get((one.item.item_id, start))
                if of_item is None or of_item.place < place:
                    tell(one.item, start, end, place)
    return [known[key] for key in sorted(known)]


def cancelled_at(told: Sequence[Standing], period: Period) -> datetime | None:
    """The first instant at which a cancellation ends the period.

    One that was told before the period and acts no later than its start ended an earlier life, not this one.
    """
    last: dict[str, tuple[int, datetime]] = {}
    for place, (_, event) in enumerate(told):
        if isinstance(event.fact, SubscriptionCancelled):
            before = last.get(event.fact.cancellation_id)
            if before is None or before[1] != event.fact.effective_at:
                last[event.fact.cancellation_id] = (place, event.fact.effective_at)
    ends = [at for place, at in last.values() if place > period.place or at > period.start]
    return min(ends) if ends else None


# -- offers


def offer_in_force(catalogue: Catalogue, sku: str, at: datetime) -> Offer | None:
    """(11) The newest version published by then.

    A first version that applies now counts as in force from the beginning.
    """
    versions = [
        offer
        for offer in catalogue.offers.get(sku, ())
        if (offer.version == 1 and offer.apply.value == "now") or offer.published_at is None or offer.published_at <= at
    ]
    return versions[-1] if versions else None


def end_of(lasts: str, start: datetime) -> datetime | None:
    """When something that begins at `start` and lasts so long is over.

    Months keep the day, or take the month's last.
    """
    if lasts == "forever":
        return None
    count = {letter: int(number) for number, letter in re.findall(r"(\d+)([A-Z])", lasts.replace("T", ""))}
    if "M" in count and "T" not in lasts:
        year, month = start.year, start.month + count["M"]
        while month > 12:
            year, month = year + 1, month - 12
        return start.replace(year=year, month=month, day=min(start.day, monthrange(year, month)[1]))
    return start + timedelta(days=count.get("D", 0), hours=count.get("H", 0))
