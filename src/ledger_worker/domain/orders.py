"""From the facts of an order to its grants: lines, refunds and their reversals, disputes."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from fractions import Fraction
from uuid import UUID

import msgspec

from ledger_worker.domain.catalogue import Allowance, Catalogue, RefundPolicy, lasts_until
from ledger_worker.domain.events import (
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    PurchaseCompleted,
    PurchaseRefunded,
    RefundLine,
    RefundReversed,
)
from ledger_worker.domain.ledger import Cut, CutPolicy, GrantTerms
from ledger_worker.domain.recurring import ends_early, most_of_each, occurrences_given
from ledger_worker.domain.stretches import (
    Given,
    Interval,
    Run,
    Step,
    Stretch,
    clipped,
    grants_of_stretches,
    moved_end,
    remaining_share,
    runs_of_versions,
    stopped_time,
    stretches,
    unions,
    units_of_share,
)
from ledger_worker.domain.told import Latest, PlacedFact

__all__ = ["Dispute", "OrderLine", "OrderTelling", "Taking", "order_grants", "recurs_less", "tell_order"]


class OrderLine(msgspec.Struct):
    """A line as last told; it counts from the first telling's instant."""

    entered_at: datetime
    sku: str
    quantity: int
    amount: int | None


class Taking(msgspec.Struct):
    """How one refund or lost dispute moved the share that is gone of each line.

    And whether it asked for more than there was, or by amount of nothing.
    """

    cut_id: str
    at: datetime
    shares: dict[str, tuple[Fraction, Fraction]]
    exceeds: bool = False
    takes_nothing: bool = False


class Dispute(msgspec.Struct, frozen=True):
    """One dispute: when it was opened, and when and how it was closed; None where that was not told."""

    opened_at: datetime | None
    closed_at: datetime | None
    is_won: bool


class OrderTelling(msgspec.Struct):
    """What the facts of an order say taken together; `reversed` are the refunds that did not happen."""

    lines: dict[str, OrderLine]
    takings: list[Taking]
    reversed: frozenset[str]
    refunds: frozenset[str]
    disputes: dict[str, Dispute]


def tell_order(facts: Sequence[PlacedFact]) -> OrderTelling:
    """What the facts of an order, in their true order, say taken together."""
    lines: dict[str, OrderLine] = {}
    refunds: Latest[str, PurchaseRefunded] = Latest()
    reversals: Latest[str, str] = Latest()
    opened: Latest[str, None] = Latest()
    closed: Latest[str, ChargebackWon | ChargebackLost] = Latest()
    for place, (at, recorded) in enumerate(facts):
        match recorded.fact:
            case PurchaseCompleted() as fact:
                for line in fact.lines:
                    known = lines.get(line.line_id)
                    entered_at = at if known is None else known.entered_at
                    lines[line.line_id] = OrderLine(entered_at, line.sku, line.quantity, line.amount)
            case PurchaseRefunded() as fact:
                refunds.tell(fact.refund_id, place, at, fact)
            case RefundReversed() as fact:
                reversals.tell(fact.reversal_id, place, at, fact.refund_id)
            case ChargebackOpened() as fact:
                opened.tell(fact.dispute_id, place, at, None)
            case (ChargebackWon() | ChargebackLost()) as fact:
                closed.tell(fact.dispute_id, place, at, fact)
            case _:
                pass  # a transfer moves what the order gives and gives nothing
    is_reversed = frozenset(told.content for told in reversals.values())
    asking: list[tuple[int, datetime, str, tuple[RefundLine, ...], int | None]] = [
        (told.place, told.at, f"refund/{refund_id}", told.content.lines, told.content.amount)
        for refund_id, told in refunds.items()
        if refund_id not in is_reversed
    ]
    asking += [
        (told.place, told.at, f"dispute/{dispute_id}", (), told.content.amount)
        for dispute_id, told in closed.items()
        if isinstance(told.content, ChargebackLost)
    ]
    disputes = {}
    for dispute_id in (*opened, *(each for each in closed if each not in opened)):
        begin, end = opened.get(dispute_id), closed.get(dispute_id)
        disputes[dispute_id] = Dispute(
            begin.at if begin else None, end.at if end else None, isinstance(end and end.content, ChargebackWon)
        )
    takings = _takings(sorted(asking, key=lambda one: one[0]), lines)
    return OrderTelling(lines, takings, is_reversed, frozenset(refunds), disputes)


def order_grants(
    telling: OrderTelling, source_key: str, catalogue: Catalogue, as_of_version: int, until: datetime
) -> list[GrantTerms]:
    """The grants of all lines, as if one customer held the order for good; what recurs is unrolled up to `until`."""
    causes = [
        (f"dispute/{dispute_id}", dispute.opened_at, dispute.closed_at)
        for dispute_id, dispute in telling.disputes.items()
        if dispute.opened_at is not None and (dispute.closed_at is None or dispute.opened_at < dispute.closed_at)
    ]
    won = unions(
        (dispute.opened_at, dispute.closed_at)
        for dispute in telling.disputes.values()
        if dispute.is_won and dispute.opened_at is not None
    )
    given = []
    of_lines = _stretches(telling, catalogue, as_of_version)
    each_max = most_of_each(of_lines)
    for line_id, line in telling.lines.items():
        start, opened = line.entered_at, of_lines[line_id]
        given += _recurring(opened, source_key, line_id, line, telling.takings, causes, until, each_max)

        def end_of(stretch: Stretch, start: datetime = start) -> datetime | None:
            """Where what the stretch gives ends: at `start`, so that it gives nothing, where it needs a period."""
            until = lasts_until(stretch.allowance.lasts, start, None)
            if until == "no_period":
                return start
            if until is None:
                return None
            return moved_end(start, until, won) if stretch.allowance.extend_on_won else until

        for one in grants_of_stretches(
            [stretch for stretch in opened if stretch.allowance.every is None],
            source_key=source_key,
            line_id=line_id,
            period=(start, None),
            period_start=None,
            end_of=end_of,
            causes_of=lambda _: causes,
            stops_of=_no_stops,
        ):
            stops = won if one.stretch.allowance.extend_on_won else ()
            terms = _with_takings(one, line_id, telling.takings, stops)
            if terms.expires_at is None or terms.effective_at < terms.expires_at:
                given.append(terms)
    there = {terms.grant_id for terms in given}
    return [_opened_by_those(terms, there) if terms.cuts else terms for terms in given]


def recurs_less(telling: OrderTelling, catalogue: Catalogue, as_of_version: int) -> bool:
    """Whether so much recurs of the order that some of it ends sooner than its offer says, within ten years."""
    of_lines = _stretches(telling, catalogue, as_of_version)
    each_max = most_of_each(of_lines)
    return any(
        ends_early(stretch, telling.lines[line_id].entered_at, each_max)
        for line_id, opened in of_lines.items()
        for stretch in opened
    )


def _stretches(telling: OrderTelling, catalogue: Catalogue, as_of_version: int) -> dict[str, list[Stretch]]:
    """What gives something, by line."""
    found = {}
    for line_id, line in telling.lines.items():
        start = line.entered_at
        run = Run(start, None, line.sku, None, "", (Step(start, line.quantity, ""),))
        found[line_id] = stretches(runs_of_versions(run, catalogue, as_of_version, start, start))
    return found


def _recurring(
    opened: Sequence[Stretch],
    source_key: str,
    line_id: str,
    line: OrderLine,
    takings: Sequence[Taking],
    causes: Sequence[tuple[str, datetime, datetime | None]],
    until: datetime,
    each_max: int,
) -> list[GrantTerms]:
    """The grants of what recurs: one that begins after a refund is of what is left, and none begins after the whole."""
    given: list[tuple[datetime | None, GrantTerms]] = []
    ended: set[tuple[str, datetime | None]] = set()
    for one in occurrences_given(
        [stretch for stretch in opened if stretch.allowance.every is not None],
        source_key=source_key,
        line_id=line_id,
        anchor=line.entered_at,
        until=until,
        each_max=each_max,
        causes=causes,
    ):
        terms, whole = one.terms, one.terms.amount
        of_line = [taking for taking in takings if line_id in taking.shares]
        before = [taking for taking in of_line if taking.at <= terms.effective_at]
        gone = before[-1].shares[line_id][1] if before else Fraction(0)
        if gone == 1:
            ended.add((terms.allowance, terms.effective_at))
            continue
        kept = _with_takings(one, line_id, of_line[len(before) :], ())
        if whole is not None:
            kept = msgspec.structs.replace(kept, amount=whole - units_of_share(whole, gone))
        given.append((terms.expires_at, kept))
    return [
        msgspec.structs.replace(terms, recurs=None) if (terms.allowance, end) in ended else terms
        for end, terms in given
    ]


def _opened_by_those(terms: GrantTerms, there: AbstractSet[UUID]) -> GrantTerms:
    """The terms without what an opening cut names and refunds have left no time."""
    cuts = [
        msgspec.structs.replace(cut, of=tuple(grant_id for grant_id in cut.of if grant_id in there))
        for cut in terms.cuts
    ]
    kept = tuple(cut for cut, told in zip(cuts, terms.cuts, strict=True) if cut.of or not told.of)
    return msgspec.structs.replace(terms, cuts=kept)


def _no_stops(_allowance: Allowance) -> tuple[Interval, ...]:
    return ()


def _takings(
    asking: Sequence[tuple[int, datetime, str, tuple[RefundLine, ...], int | None]], lines: dict[str, OrderLine]
) -> list[Taking]:
    """What each refund and lost dispute takes of each line, in order; shares are exact and end at one."""
    gone = dict.fromkeys(lines, Fraction(0))
    takings = []
    for _, at, cut_id, of_lines, amount in asking:
        asked, takes_nothing = _asked_shares(of_lines, amount, lines, gone)
        taking = Taking(cut_id, at, {}, takes_nothing=takes_nothing)
        for line_id, share in asked.items():
            before = gone[line_id]
            gone[line_id] = min(Fraction(1), before + share)
            taking.exceeds = taking.exceeds or before + share > 1
            taking.shares[line_id] = (before, gone[line_id])
        takings.append(taking)
    return takings


def _asked_shares(
    of_lines: tuple[RefundLine, ...], amount: int | None, lines: dict[str, OrderLine], gone: dict[str, Fraction]
) -> tuple[dict[str, Fraction], bool]:
    """The share of each line that is asked for, before any cap.

    And whether it is by amount with nothing left.
    """
    if of_lines:
        named = [line for line in of_lines if line.line_id in lines]
        without_amount = [line for line in named if line.amount is not None and not lines[line.line_id].amount]
        shares = {line.line_id: _line_share(line, lines[line.line_id], gone[line.line_id]) for line in named}
        return shares, bool(named) and len(without_amount) == len(named)
    if amount is None:
        return {line_id: 1 - gone[line_id] for line_id in lines}, False
    left = {line_id: (line.amount or 0) * (1 - gone[line_id]) for line_id, line in lines.items()}
    total = sum(left.values(), Fraction(0))
    if total == 0:
        return {}, True
    return {line_id: Fraction(amount) / total * (1 - gone[line_id]) for line_id in lines if left[line_id]}, False


def _line_share(refund: RefundLine, line: OrderLine, gone: Fraction) -> Fraction:
    if refund.quantity is not None:
        return Fraction(refund.quantity, line.quantity)
    if refund.amount is not None:
        return Fraction(refund.amount, line.amount) if line.amount else Fraction(0)
    return 1 - gone


def _with_takings(given: Given, line_id: str, takings: Sequence[Taking], stops: Sequence[Interval]) -> GrantTerms:
    """The grant with a cut for each taking of its line; without units it ends when the whole line is gone."""
    grant, allowance = given.terms, given.stretch.allowance
    cuts = list(grant.cuts)
    for taking in takings:
        if line_id not in taking.shares:
            continue
        before, after = taking.shares[line_id]
        at = max(taking.at, grant.effective_at)
        if grant.amount is None:
            if after == 1 and before != 1 and (grant.expires_at is None or at < grant.expires_at):
                causes = ((one.cause, one.starts_at, one.ends_at) for one in grant.suspensions)
                shorter = clipped(causes, grant.effective_at, at)
                grant = msgspec.structs.replace(grant, expires_at=at, suspensions=shorter)
            continue
        units = units_of_share(grant.amount, after) - units_of_share(grant.amount, before)
        if allowance.refund is RefundPolicy.PRORATE:
            units = units_of_share(units, _unused_share(grant, at, stops))
        if units:
            policy = CutPolicy(allowance.refund.value)
            cuts.append(Cut(cut_id=taking.cut_id, at=at, units=units, policy=policy))
    if cuts == list(grant.cuts):
        return grant
    return msgspec.structs.replace(grant, cuts=tuple(sorted(cuts, key=_cut_order)))


def _unused_share(grant: GrantTerms, at: datetime, stops: Sequence[Interval]) -> Fraction:
    """The part of the grant's time that is left, neither counting what disputes stopped."""
    end = grant.expires_at
    if end is None:
        return Fraction(1)
    return remaining_share(grant.effective_at, end - stopped_time(grant.effective_at, end, stops), at, stops)


def _cut_order(cut: Cut) -> tuple[datetime, str]:
    return (cut.at, cut.cut_id)
