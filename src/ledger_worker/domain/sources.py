"""From the facts of one source to the terms of its grants. Terms never depend on usage, nor on the order of arrival.

A source is an order or a subscription. Its state is its facts in their true order (RULES 7), which is all a fold needs:
the newest fact is appended, a late one is inserted, and `terms` reads them from the first to the last either way. So a
repetition or another order of the same facts gives the same state and the same terms by construction.

Facts are keyed by the thing they speak of (RULES 8): order + line, refund id, item + period start, cancellation id. Of
two facts with one key the last in order wins. Effects are absolute for their key.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import assert_never
from uuid import UUID, uuid5

import msgspec

from ledger_worker.domain.catalogue import Allowance, Catalogue, Offer, OnCancel, RefundPolicy, lasts_until, offer_at
from ledger_worker.domain.events import (
    Event,
    OrderFact,
    PurchaseCompleted,
    PurchaseRefunded,
    RefundLine,
    SourceFact,
    SubscriptionActivated,
    SubscriptionCancelled,
    SubscriptionItem,
    SubscriptionRenewed,
)
from ledger_worker.domain.ledger import Cut, CutPolicy, GrantTerms
from ledger_worker.domain.outcomes import Outcome

_GRANT_IDS_MAX = 20_000

__all__ = ["Folded", "RecordedFact", "SourceState", "fold", "grant_id", "refunded_units", "terms"]


class RecordedFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fact of a source as it was told, with what orders it."""

    event_source: str
    event_id: str
    occurred_at: datetime
    fact: SourceFact
    source_version: int | None = None


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """The folded state of one source: its facts in their true order, each with the instant at which it stands.

    `catalogue_version` is the catalogue it was last folded with: what is booked of it are its terms by that version.
    """

    facts: tuple[tuple[datetime, RecordedFact], ...] = ()
    catalogue_version: int = 0


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """A source after one more fact: its new state, its terms before and after, and what became of the fact."""

    state: SourceState
    before: tuple[GrantTerms, ...]
    terms: tuple[GrantTerms, ...]
    outcome: Outcome


def fold(state: SourceState, event: Event, source_key: str, catalogue: Catalogue) -> Folded:
    """The source after `event`, whose fact is about `source_key`.

    The same events in any order end in the same state.
    """
    fact = event.fact
    if not isinstance(fact, SourceFact):
        msg = f"event {event.event_id} of {event.event_source} is about no source"
        raise TypeError(msg)
    recorded = RecordedFact(
        event_source=event.event_source,
        event_id=event.event_id,
        occurred_at=event.occurred_at,
        fact=fact,
        source_version=event.source_version,
    )
    known = [placed[1] for placed in state.facts]
    after = SourceState(facts=_in_order([*known, recorded]), catalogue_version=catalogue.version)
    telling = _telling(after)
    before = terms(state, source_key, catalogue)
    told = _terms(telling, source_key, catalogue, after.catalogue_version)
    outcome = _outcome(known, fact, telling, catalogue, changes_terms=told != before)
    return Folded(state=after, before=before, terms=told, outcome=outcome)


def terms(state: SourceState, source_key: str, catalogue: Catalogue) -> tuple[GrantTerms, ...]:
    """The terms of every grant the source gives by the catalogue it was folded with, ordered by grant id."""
    return _terms(_telling(state), source_key, catalogue, state.catalogue_version)


@lru_cache(maxsize=_GRANT_IDS_MAX)
def grant_id(
    source_key: str, line_id: str, sku: str, allowance: str, period_start: datetime | None, segment: str
) -> UUID:
    """The id of a grant (RULES 10).

    Everything it is given for, and neither the event that told it nor the offer's version. Kept for a while, because
    each fact about a source names the grants of the source again.
    """
    start = "" if period_start is None else period_start.isoformat(timespec="microseconds")
    return uuid5(_GRANT_NAMESPACE, f"{source_key}\0{line_id}\0{sku}\0{allowance}\0{start}\0{segment}")


def refunded_units(granted: int, share: Fraction) -> int:
    """R of RULES 13, the one place that rounds.

    What a refunded share takes of `granted`, so that what stays is rounded up.

    >>> [refunded_units(10, Fraction(n, 3)) for n in (1, 2, 3)]
    [3, 6, 10]
    """
    kept = granted * (1 - share)
    return granted - -(-kept.numerator // kept.denominator)


_GRANT_NAMESPACE = UUID("6f3d9a52-8d0b-5c5e-9b64-0c7f1f1f4e01")
_RANK = {
    PurchaseCompleted: 0,
    SubscriptionActivated: 0,
    SubscriptionRenewed: 0,
    PurchaseRefunded: 4,
    SubscriptionCancelled: 5,
}
"""The kind's place among facts of one instant: begin, change, suspend, lift, cut, end."""


# -- order ---------------------------------------------------------------------------------------------------


def _in_order(facts: Iterable[RecordedFact]) -> tuple[tuple[datetime, RecordedFact], ...]:
    """Facts in their true order, each with the instant it stands at (RULES 7).

    Facts with a version go by version and stand at the running maximum of `occurred_at`; facts without are inserted by
    `occurred_at`, after a versioned one of the same instant.
    """
    placed: list[tuple[tuple[datetime, bool, int, datetime, int, str, str], RecordedFact]] = []
    running: datetime | None = None
    for fact in sorted(facts, key=_version_order):
        if fact.source_version is None:
            stands_at = fact.occurred_at
        else:
            running = fact.occurred_at if running is None else max(running, fact.occurred_at)
            stands_at = running
        unversioned = fact.source_version is None
        order = (stands_at, unversioned, fact.source_version or 0, fact.occurred_at, _RANK[type(fact.fact)])
        placed.append(((*order, fact.event_source, fact.event_id), fact))
    placed.sort(key=lambda pair: pair[0])
    return tuple((order[0], fact) for order, fact in placed)


def _version_order(fact: RecordedFact) -> tuple[bool, int, datetime, int, str, str]:
    return (
        fact.source_version is None,
        fact.source_version or 0,
        fact.occurred_at,
        _RANK[type(fact.fact)],
        fact.event_source,
        fact.event_id,
    )


# -- outcome -------------------------------------------------------------------------------------------------


def _outcome(
    known: Sequence[RecordedFact], fact: SourceFact, after: "_Telling", catalogue: Catalogue, *, changes_terms: bool
) -> Outcome:
    keyed = {key: content for earlier in known for key, content in _keyed(earlier.fact)}
    if not changes_terms and all(keyed.get(key) == content for key, content in _keyed(fact)):
        return Outcome.DUPLICATE_FACT
    if _waits(fact, after):
        return Outcome.WAITING
    if isinstance(fact, PurchaseRefunded):
        return _refund_outcome(fact, after)
    offers = [offer_at(catalogue, sku, entered_at) for sku, entered_at in _skus(fact, after)]
    if any(offer is None for offer in offers):
        return Outcome.NO_OFFER
    if isinstance(fact, PurchaseCompleted) and any(
        allowance.lasts == "period" for offer in offers if offer is not None for allowance in offer.allowances
    ):
        return Outcome.NO_PERIOD
    return Outcome.APPLIED if changes_terms else Outcome.NO_EFFECT


def _keyed(fact: SourceFact) -> list[tuple[tuple[object, ...], object]]:
    """The things a fact speaks of, each with what it says of it."""
    match fact:
        case PurchaseCompleted():
            return [(("line", line.line_id), line) for line in fact.lines]
        case PurchaseRefunded():
            return [(("refund", fact.refund_id), fact)]
        case SubscriptionActivated() | SubscriptionRenewed():
            if not fact.items:
                return [(("period", fact.period_start), fact.period_end)]
            return [(("item", item.item_id, fact.period_start), (item, fact.period_end)) for item in fact.items]
        case SubscriptionCancelled():
            return [(("cancellation", fact.cancellation_id), fact)]
        case _:
            assert_never(fact)


def _waits(fact: SourceFact, after: "_Telling") -> bool:
    """Whether the fact speaks of something nobody has told yet."""
    if isinstance(fact, PurchaseRefunded):
        return not after.lines or any(line.line_id not in after.lines for line in fact.lines)
    if isinstance(fact, SubscriptionRenewed) and not fact.items:
        return not any(period.start == fact.period_start for periods in after.periods.values() for period in periods)
    if isinstance(fact, SubscriptionCancelled):
        return not after.periods
    return False


def _skus(fact: SourceFact, after: "_Telling") -> list[tuple[str, datetime]]:
    """The SKUs a fact names, each with the instant its item entered the source."""
    if isinstance(fact, PurchaseCompleted):
        return [(line.sku, after.lines[line.line_id].entered_at) for line in fact.lines]
    if isinstance(fact, SubscriptionActivated | SubscriptionRenewed):
        return [
            (period.item.sku, period.entered_at)
            for periods in after.periods.values()
            for period in periods
            if period.start == fact.period_start
        ]
    return []


class _Telling(msgspec.Struct):
    """What the facts of a source say taken together; of an order the periods are empty, of a subscription the lines."""

    lines: dict[str, "_OrderLine"]
    refunds: list["_Refunded"]
    periods: dict[str, list["_Period"]]
    cancellations: list[tuple[int, datetime]]


def _telling(state: SourceState) -> _Telling:
    if state.facts and isinstance(state.facts[0][1].fact, OrderFact):
        lines = _lines(state)
        return _Telling(lines, _refunds(state, lines), {}, [])
    cancellations: dict[str, tuple[int, datetime]] = {}
    for place, (_, recorded) in enumerate(state.facts):
        fact = recorded.fact
        if isinstance(fact, SubscriptionCancelled):
            known = cancellations.get(fact.cancellation_id)
            if known is None or known[1] != fact.effective_at:
                cancellations[fact.cancellation_id] = (place, fact.effective_at)
    return _Telling({}, [], _periods(state), list(cancellations.values()))


def _terms(telling: _Telling, source_key: str, catalogue: Catalogue, version: int) -> tuple[GrantTerms, ...]:
    given = _order_terms(telling, source_key, catalogue, version)
    given += _subscription_terms(telling, source_key, catalogue, version)
    given.sort(key=_grant_id_bytes)
    return tuple(given)


def _grant_id_bytes(grant: GrantTerms) -> bytes:
    return grant.grant_id.bytes


# -- orders --------------------------------------------------------------------------------------------------


class _OrderLine(msgspec.Struct):
    """A line as last told; it counts from the first telling's instant."""

    entered_at: datetime
    sku: str
    quantity: int
    amount: int | None


class _Refunded(msgspec.Struct):
    """How one refund moved the share that is gone of each line, and whether it asked for more than there was."""

    refund_id: str
    at: datetime
    shares: dict[str, tuple[Fraction, Fraction]]
    exceeds: bool = False
    takes_nothing: bool = False


def _order_terms(telling: _Telling, source_key: str, catalogue: Catalogue, version: int) -> list[GrantTerms]:
    given = []
    for line_id, line in telling.lines.items():
        offer = offer_at(catalogue, line.sku, line.entered_at, version)
        if offer is None:
            continue
        for allowance in offer.allowances:
            expires_at = lasts_until(allowance.lasts, line.entered_at, None)
            if expires_at == "no_period":
                continue
            grant = GrantTerms(
                grant_id=grant_id(source_key, line_id, line.sku, allowance.key, None, ""),
                entitlement=allowance.entitlement,
                source_key=source_key,
                line_id=line_id,
                sku=line.sku,
                allowance=allowance.key,
                offer_version=offer.version,
                amount=_amount(allowance, line.quantity),
                priority=allowance.priority,
                effective_at=line.entered_at,
                expires_at=expires_at,
            )
            grant = _refund_grant(grant, line_id, allowance, telling.refunds)
            if grant.expires_at is None or grant.effective_at < grant.expires_at:
                given.append(grant)
    return given


def _lines(state: SourceState) -> dict[str, _OrderLine]:
    lines: dict[str, _OrderLine] = {}
    for stands_at, recorded in state.facts:
        if isinstance(recorded.fact, PurchaseCompleted):
            for line in recorded.fact.lines:
                known = lines.get(line.line_id)
                entered_at = stands_at if known is None else known.entered_at
                lines[line.line_id] = _OrderLine(entered_at, line.sku, line.quantity, line.amount)
    return lines


def _refunds(state: SourceState, lines: dict[str, _OrderLine]) -> list[_Refunded]:
    """What each refund takes of each line, in order; shares are exact and end at one (RULES 13).

    A refund stands where it was first told as it is now.
    """
    last_told: dict[str, tuple[datetime, PurchaseRefunded]] = {}
    for stands_at, recorded in state.facts:
        fact = recorded.fact
        if isinstance(fact, PurchaseRefunded) and last_told.get(fact.refund_id, (None, None))[1] != fact:
            last_told.pop(fact.refund_id, None)
            last_told[fact.refund_id] = (stands_at, fact)
    gone = dict.fromkeys(lines, Fraction(0))
    refunds = []
    for refund_id, (at, fact) in last_told.items():
        asked, takes_nothing = _asked_shares(fact, lines, gone)
        refund = _Refunded(refund_id, at, {}, takes_nothing=takes_nothing)
        for line_id, share in asked.items():
            before = gone[line_id]
            gone[line_id] = min(Fraction(1), before + share)
            refund.exceeds = refund.exceeds or before + share > 1
            refund.shares[line_id] = (before, gone[line_id])
        refunds.append(refund)
    return refunds


def _asked_shares(
    fact: PurchaseRefunded, lines: dict[str, _OrderLine], gone: dict[str, Fraction]
) -> tuple[dict[str, Fraction], bool]:
    """The share of each line that one refund asks for, before any cap.

    And whether it is by amount with nothing left.
    """
    if fact.lines:
        named = [line for line in fact.lines if line.line_id in lines]
        without_amount = [line for line in named if line.amount is not None and not lines[line.line_id].amount]
        shares = {line.line_id: _line_share(line, lines[line.line_id], gone[line.line_id]) for line in named}
        return shares, bool(named) and len(without_amount) == len(named)
    if fact.amount is None:
        return {line_id: 1 - gone[line_id] for line_id in lines}, False
    left = {line_id: (line.amount or 0) * (1 - gone[line_id]) for line_id, line in lines.items()}
    total = sum(left.values(), Fraction(0))
    if total == 0:
        return {}, True
    return {line_id: Fraction(fact.amount) / total * (1 - gone[line_id]) for line_id in lines if left[line_id]}, False


def _line_share(refund: RefundLine, line: _OrderLine, gone: Fraction) -> Fraction:
    if refund.quantity is not None:
        return Fraction(refund.quantity, line.quantity)
    if refund.amount is not None:
        return Fraction(refund.amount, line.amount) if line.amount else Fraction(0)
    return 1 - gone


def _refund_grant(grant: GrantTerms, line_id: str, allowance: Allowance, refunds: Sequence[_Refunded]) -> GrantTerms:
    """The grant with a cut for each refund of its line; without units it ends when the whole line is refunded."""
    cuts = []
    for refund in refunds:
        if line_id not in refund.shares:
            continue
        before, after = refund.shares[line_id]
        at = max(refund.at, grant.effective_at)
        if grant.amount is None:
            if after == 1 and (grant.expires_at is None or at < grant.expires_at):
                grant = msgspec.structs.replace(grant, expires_at=at)
            continue
        units = refunded_units(grant.amount, after) - refunded_units(grant.amount, before)
        if allowance.refund is RefundPolicy.PRORATE:
            units = _remaining_share(units, grant, at)
        if units:
            cuts.append(
                Cut(cut_id=f"refund/{refund.refund_id}", at=at, units=units, policy=CutPolicy(allowance.refund.value))
            )
    return msgspec.structs.replace(grant, cuts=tuple(cuts)) if cuts else grant


def _remaining_share(units: int, grant: GrantTerms, at: datetime) -> int:
    """`units` times what is left of the grant's time at `at`, rounded down; a grant without end is wholly remaining."""
    end = grant.period_end or grant.expires_at
    if end is None:
        return units
    whole, remaining = end - grant.effective_at, max(end - at, timedelta())
    return units * (remaining // _MICROSECOND) // max(whole // _MICROSECOND, 1)


def _refund_outcome(fact: PurchaseRefunded, after: _Telling) -> Outcome:
    refund = next(refund for refund in after.refunds if refund.refund_id == fact.refund_id)
    if refund.takes_nothing:
        return Outcome.NOTHING_TO_REFUND
    if refund.exceeds:
        return Outcome.OVER_REFUNDED
    return Outcome.APPLIED if any(before != then for before, then in refund.shares.values()) else Outcome.NO_EFFECT


# -- subscriptions -------------------------------------------------------------------------------------------


class _Period(msgspec.Struct):
    """One told period of one item; `told_at` is where it was first told as it is now, in the order of facts."""

    item: SubscriptionItem
    start: datetime
    end: datetime
    entered_at: datetime
    told_at: int


def _periods(state: SourceState) -> dict[str, list[_Period]]:
    """Each item's periods by start. A renewal without items continues the items of the period before it."""
    told: dict[tuple[str, datetime], _Period] = {}
    entered: dict[tuple[str, str], datetime] = {}
    renewals: list[tuple[int, datetime, SubscriptionRenewed]] = []
    for place, (stands_at, recorded) in enumerate(state.facts):
        fact = recorded.fact
        if not isinstance(fact, SubscriptionActivated | SubscriptionRenewed):
            continue
        if isinstance(fact, SubscriptionRenewed) and not fact.items:
            renewals.append((place, stands_at, fact))
        for item in fact.items:
            entered_at = entered.setdefault((item.item_id, item.sku), stands_at)
            _tell_period(told, _Period(item, fact.period_start, fact.period_end, entered_at, place))
    for place, _, fact in sorted(renewals, key=lambda renewal: (renewal[2].period_start, renewal[0])):
        earlier = [period for period in told.values() if period.start < fact.period_start]
        last_start = max((period.start for period in earlier), default=None)
        for before in [period for period in earlier if period.start == last_start]:
            known = told.get((before.item.item_id, fact.period_start))
            if known is None or known.told_at < place:
                _tell_period(told, _Period(before.item, fact.period_start, fact.period_end, before.entered_at, place))
    by_item: dict[str, list[_Period]] = {}
    for (item_id, _), period in sorted(told.items(), key=lambda pair: pair[0]):
        by_item.setdefault(item_id, []).append(period)
    return by_item


def _tell_period(told: dict[tuple[str, datetime], _Period], period: _Period) -> None:
    """The period is as told, and stays where it was first told so: the same told again moves nothing (RULES 8)."""
    key = (period.item.item_id, period.start)
    known = told.get(key)
    if known is None or (known.item, known.end) != (period.item, period.end):
        told[key] = period


def _subscription_terms(telling: _Telling, source_key: str, catalogue: Catalogue, version: int) -> list[GrantTerms]:
    last_start = max((period.start for periods in telling.periods.values() for period in periods), default=None)
    given = []
    for item_id, periods in telling.periods.items():
        for place, period in enumerate(periods):
            offer = offer_at(catalogue, period.item.sku, period.entered_at, version)
            if offer is not None:
                follower = periods[place + 1].start if place + 1 < len(periods) else None
                ends = [at for told_at, at in telling.cancellations if told_at > period.told_at or at > period.start]
                is_living = period.start == last_start
                given += _period_grants(
                    period, item_id, offer, source_key, follower, min(ends, default=None), is_living=is_living
                )
    return given


def _period_grants(
    period: _Period,
    item_id: str,
    offer: Offer,
    source_key: str,
    follower: datetime | None,
    cancelled_at: datetime | None,
    *,
    is_living: bool,
) -> list[GrantTerms]:
    """The grants of one period of one item.

    It ends at its end, or where the item's next period starts, if sooner; while nothing renews or ends it, its leeway
    later (RULES 19). A cancellation ends it at its own instant, also within the leeway; none is left of a period
    cancelled before it began.
    """
    given = []
    period_end = period.end if follower is None else min(period.end, follower)
    for allowance in offer.allowances:
        by_period = allowance.lasts == "period"
        own_end = lasts_until(allowance.lasts, period.start, period_end)
        if own_end == "no_period":
            continue
        leeway = timedelta(seconds=allowance.leeway_seconds) if by_period and is_living else timedelta()
        expires_at = None if own_end is None else own_end + leeway
        if cancelled_at is not None:
            expires_at = _end_by_cancellation(allowance, period.start, own_end, expires_at, cancelled_at)
        if expires_at is not None and expires_at <= period.start:
            continue
        given.append(
            GrantTerms(
                grant_id=grant_id(source_key, item_id, period.item.sku, allowance.key, period.start, ""),
                entitlement=allowance.entitlement,
                source_key=source_key,
                line_id=item_id,
                sku=period.item.sku,
                allowance=allowance.key,
                offer_version=offer.version,
                amount=_amount(allowance, period.item.quantity),
                priority=allowance.priority,
                effective_at=period.start,
                expires_at=expires_at,
                period_start=period.start,
                period_end=period_end if by_period else own_end,
            )
        )
    return given


def _end_by_cancellation(
    allowance: Allowance, start: datetime, own_end: datetime | None, expires_at: datetime | None, cancelled_at: datetime
) -> datetime | None:
    if cancelled_at <= start:
        return start
    if allowance.on_cancel is OnCancel.KEEP:
        return own_end
    return cancelled_at if expires_at is None else min(cancelled_at, expires_at)


def _amount(allowance: Allowance, quantity: int) -> int | None:
    return None if allowance.units is None else allowance.units * quantity


_MICROSECOND = timedelta(microseconds=1)
