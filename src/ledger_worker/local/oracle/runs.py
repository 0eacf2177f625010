"""Which version of an offer is in force, and the runs in which an item gives one and the same allowance."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from ledger_worker.domain.catalogue import Allowance, Apply, Catalogue, Offer, OnChange

OF_OFFER = "\x1f"
"""No id holds it: a segment by a version of the offer begins with it, and is nobody's change."""


class Step(NamedTuple):
    """From `at` the item has this SKU (None: it is removed) in this quantity, because of the change `segment`."""

    at: datetime
    segment: str
    sku: str | None
    quantity: int


class Resized(NamedTuple):
    """At `at` the change `why` adds `difference` to the quantity."""

    why: str
    at: datetime
    difference: int


class Run(NamedTuple):
    """A stretch in which an item gives one allowance.

    Opened by the change `segment` (`is_within`: after the item's period began), closed where another run opens.
    """

    allowance: Allowance
    sku: str
    quantity: int
    start: datetime
    segment: str
    is_within: bool
    carries_used: bool
    closes: datetime | None
    resized: tuple[Resized, ...]


def version_at(
    catalogue: Catalogue, sku: str | None, entered: datetime, period_start: datetime | None, at: datetime
) -> Offer | None:
    """Which version of an offer: the newest that applies at `at`, of an item that entered with the SKU at `entered`.

    Published by then, or later with `next_period` by the start of the period, or later with `now` by that instant.
    """
    found = None
    for offer in catalogue.offers.get(sku or "", ()):
        published = offer.published_at
        if (
            published is None
            or published <= entered
            or (offer.version == 1 and offer.apply is Apply.NOW)
            or (offer.apply is Apply.NOW and published <= at)
            or (offer.apply is Apply.NEXT_PERIOD and period_start is not None and published <= period_start)
        ):
            found = offer
    return found


def runs_of(
    steps: Sequence[Step],
    until: datetime | None,
    catalogue: Catalogue,
    entered: Mapping[str, datetime],
    period_start: datetime | None,
) -> list[Run]:
    """The runs of an item within one period (or of a line within its order, which has none), in order of opening."""
    offered = [
        (step, version_at(catalogue, step.sku, entered[step.sku], period_start, step.at) if step.sku else None)
        for step in with_publications(steps, until, catalogue, entered, period_start)
    ]
    runs = []
    for place, (step, offer) in enumerate(offered):
        before = offered[place - 1] if place else None
        opening = [
            allowance
            for allowance in (offer.allowances if offer else ())
            if before is None or before[0].sku != step.sku or before[1] is None or allowance not in before[1].allowances
        ]
        carried: set[tuple[str, str | None, str | None]] = set()
        for allowance in opening:
            # Recurring grants: an occurrence is a period of its own, where no subscription has periods.
            every = (allowance.every, allowance.time_zone) if period_start is None else (None, None)
            rhythm = (allowance.entitlement, *every)
            carries = allowance.on_change is OnChange.CARRY_USED and allowance.units is not None
            runs.append(
                run_from(
                    offered[place:],
                    allowance,
                    is_within=place > 0 and step.at > steps[0].at,
                    # Segments: of several allowances of one entitlement only the first has the opening cut.
                    carries_used=carries and rhythm not in carried,
                )
            )
            if carries:
                carried.add(rhythm)
    return runs


def run_from(
    offered: Sequence[tuple[Step, Offer | None]], allowance: Allowance, *, is_within: bool, carries_used: bool
) -> Run:
    """The run of an allowance that opens with the first of these steps."""
    first = offered[0][0]
    closes = None
    resized = []
    quantity = first.quantity
    for step, offer in offered[1:]:
        if step.sku != first.sku or offer is None or allowance not in offer.allowances:
            closes = step.at
            break
        if step.quantity != quantity:
            resized.append(Resized(step.segment, step.at, step.quantity - quantity))
        quantity = step.quantity
    return Run(
        allowance,
        first.sku or "",
        first.quantity,
        first.at,
        first.segment,
        is_within,
        carries_used,
        closes,
        tuple(resized),
    )


def with_publications(
    steps: Sequence[Step],
    until: datetime | None,
    catalogue: Catalogue,
    entered: Mapping[str, datetime],
    period_start: datetime | None,
) -> list[Step]:
    """The same steps, and one more wherever a version is published with `now` within a run of its SKU."""
    found = []
    for place, step in enumerate(steps):
        found.append(step)
        following = steps[place + 1] if place + 1 < len(steps) else None
        for offer in catalogue.offers.get(step.sku or "", ()):
            at = offer.published_at
            if at is None or at <= step.at or (until is not None and at >= until):
                continue
            if following and (at > following.at or (at == following.at and step.sku != following.sku)):
                continue
            if version_at(catalogue, step.sku, entered[offer.sku], period_start, at) is offer and not is_known(
                offer, entered[offer.sku]
            ):
                found.append(Step(at, f"{OF_OFFER}offer/{offer.version}", step.sku, step.quantity))
    return found


def is_known(offer: Offer, entered: datetime) -> bool:
    """Whether a version needs no publication to reach an item that entered then."""
    is_first = offer.version == 1 and offer.apply is Apply.NOW
    return offer.apply is not Apply.NOW or is_first or offer.published_at is None or offer.published_at <= entered
