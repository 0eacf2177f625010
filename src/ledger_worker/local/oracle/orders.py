"""What the lines of an order give, and what refunds and disputes take back of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import groupby
from math import ceil, floor
from typing import NamedTuple

from ledger_worker.domain.catalogue import Catalogue, OnChange, RefundPolicy
from ledger_worker.domain.events import (
    ChargebackLost,
    ChargebackOpened,
    ChargebackWon,
    Fact,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseRefunded,
    RefundReversed,
)
from ledger_worker.local.oracle.calendars import begins as begins_of
from ledger_worker.local.oracle.clocks import Stop, end_of, moved, running, share
from ledger_worker.local.oracle.facts import Standing, kept
from ledger_worker.local.oracle.given import Given, Made, NameOfGrant, TakenBack, clipped, is_after
from ledger_worker.local.oracle.owners import Owners, held_by
from ledger_worker.local.oracle.runs import OF_OFFER, Run, Step, runs_of

TOGETHER = 5_000
"""How many: of what recurs of one order, all in all."""


class Refund(NamedTuple):
    """What one refund, or one lost dispute, does to the shares of the lines that are gone."""

    why: str
    at: datetime
    before: dict[str, Fraction]
    after: dict[str, Fraction]


class Dispute(NamedTuple):
    """`[opened, closed)`, or without end."""

    cause: str
    opened: datetime
    closed: datetime | None
    is_won: bool


def order_grants(
    source: str, told: Sequence[Standing], catalogue: Catalogue, name: NameOfGrant, owners: Owners, until: datetime
) -> list[Made]:
    """Everything that the lines of an order give; what recurs up to the first that begins after all that was told."""
    made = []
    refunds, disputes = refunds_of(told), disputes_of(told)
    until = max([until, *(at for at, _ in told), *(move.at for move in owners.moves)])
    runs_of_lines = {
        line_id: runs_of([Step(entered, "", line.sku, line.quantity)], None, catalogue, {line.sku: entered}, None)
        for line_id, (entered, line) in lines_of(told).items()
    }
    most = most_of_each(runs_of_lines)
    for line_id, (entered, _) in sorted(lines_of(told).items()):
        runs = runs_of_lines[line_id]
        of_line: list[Made] = []
        again = [run for run in runs if recurs(run)]
        last = max([until, *(at for run in again for at in (run.start, run.closes) if at is not None)])
        for run in runs:
            if recurs(run):
                instants = begins_up_to(run, entered, last, most)
                made += [
                    held
                    for one in recurring(run, again, source, line_id, refunds, disputes, instants, name)
                    for held in held_by(owners, one, name)
                ]
            elif run.allowance.lasts != "period":
                of_line += grant_of(run, source, (line_id, entered), refunds, disputes, of_line, name)
        made += [held for one in of_line for held in held_by(owners, one, name)]
    return made


def lines_of(told: Sequence[Standing]) -> dict[str, tuple[datetime, PurchaseLine]]:
    """Orders: each line as last told, with the instant at which it enters, where it was first told."""
    found: dict[str, tuple[datetime, PurchaseLine]] = {}
    for at, event in told:
        for line in event.fact.lines if isinstance(event.fact, PurchaseCompleted) else ():
            found[line.line_id] = (found[line.line_id][0] if line.line_id in found else at, line)
    return found


def grant_of(
    run: Run,
    source: str,
    of_line: tuple[str, datetime],
    refunds: Sequence[Refund],
    disputes: Sequence[Dispute],
    earlier: Sequence[Made],
    name: NameOfGrant,
) -> list[Made]:
    """What one allowance of a line gives, to its own end or to where another version takes its place."""
    allowance, start = run.allowance, run.start
    line_id, entered = of_line
    # Disputes: the end moves by the time a won dispute took.
    won: list[Stop] = [(one.opened, one.closed) for one in disputes if one.is_won] if allowance.extend_on_won else []
    own_end = moved(end_of(allowance.lasts, entered), entered, won, None)
    is_closed = run.closes is not None and (own_end is None or run.closes < own_end)
    end = run.closes if is_closed else own_end
    units = None if allowance.units is None else allowance.units * run.quantity
    taken = []
    if run.carries_used and run.is_within and is_after(earlier, allowance, start):
        taken.append(TakenBack(f"carry/{run.segment.removeprefix(OF_OFFER)}", start, 0, "opening"))
    for refund in refunds:
        at = max(refund.at, start)
        before, after = refund.before[line_id], refund.after[line_id]
        if units is None:
            # Units: a grant without units ends when the share reaches 1.
            if before < after == 1 and (end is None or at < end):
                end = at
        else:
            cut = ceil(units * (1 - before)) - ceil(units * (1 - after))
            if allowance.refund is RefundPolicy.PRORATE and end is not None and start < end:
                cut = floor(cut * share(running(at, end, won), running(start, end, won)))
            if cut:
                taken.append(TakenBack(refund.why, at, cut, allowance.refund.value))
    if end is not None and end <= start:
        return []
    grant = Given(
        name=name.root(source, line_id, run.sku, allowance.key, None, run.segment),
        holder="",
        source=source,
        line=line_id,
        sku=run.sku,
        allowance=allowance.key,
        entitlement=allowance.entitlement,
        units=units,
        priority=allowance.priority,
        start=start,
        end=end,
        period_start=None,
        taken_back=tuple(sorted(taken, key=lambda one: one.at)),
        suspensions=clipped([(one.cause, one.opened, one.closed) for one in disputes], start, end),
        value=allowance.value,
    )
    return [Made(grant, allowance, run.closes)]


def recurring(
    run: Run,
    runs: Sequence[Run],
    source: str,
    line_id: str,
    refunds: Sequence[Refund],
    disputes: Sequence[Dispute],
    begins: Iterable[datetime],
    name: NameOfGrant,
) -> list[Made]:
    """Recurring grants: one for each occurrence within the run; each of them ends where the next of `begins` is."""
    allowance = run.allowance
    made: list[Made] = []
    instants = [instant for instant, _ in groupby(begins)]
    last = len(instants) - 1
    for number, begin in enumerate(instants[:last]):
        end = instants[number + 1]
        start, stop = max(begin, run.start), end if run.closes is None else min(end, run.closes)
        if start >= stop:
            continue
        # A refund that came before leaves less of what begins after it, or nothing.
        gone = max([Fraction(0), *(one.after[line_id] for one in refunds if one.at <= start)])
        if gone == 1:
            continue
        units = None if allowance.units is None else allowance.units * run.quantity
        if units is not None and begin < start and allowance.on_change is OnChange.PRORATE:
            units = ceil(units * share(end - start, end - begin))
        taken = []
        if begin < start and run.carries_used and closed_within(runs, run, begin):
            taken.append(TakenBack(f"carry/{run.segment.removeprefix(OF_OFFER)}", start, 0, "opening"))
        for refund in refunds:
            before, after = refund.before[line_id], refund.after[line_id]
            if refund.at <= start:
                continue
            if units is None:
                stop = min(stop, refund.at) if before < after == 1 else stop
                continue
            cut = ceil(units * (1 - before)) - ceil(units * (1 - after))
            if allowance.refund is RefundPolicy.PRORATE:
                cut = floor(cut * share(max(stop - refund.at, timedelta()), stop - start))
            if cut:
                taken.append(TakenBack(refund.why, refund.at, cut, allowance.refund.value))
        grant = Given(
            name=name.root(source, line_id, run.sku, allowance.key, begin, run.segment if begin < start else ""),
            holder="",
            source=source,
            line=line_id,
            sku=run.sku,
            allowance=allowance.key,
            entitlement=allowance.entitlement,
            units=None if units is None else ceil(units * (1 - gone)),
            priority=allowance.priority,
            start=start,
            end=stop,
            period_start=begin,
            taken_back=tuple(taken),
            suspensions=clipped([(one.cause, one.opened, one.closed) for one in disputes], start, stop),
        )
        made.append(Made(grant, allowance, run.closes))
    return made


def most_of_each(runs_of_lines: Mapping[str, Sequence[Run]]) -> int:
    """How many: all there may be are dealt out in turns, one at a time, to whatever recurs, while they last for a turn.

    Each has its first.
    """
    again = {(line_id, run.allowance.key) for line_id, runs in runs_of_lines.items() for run in runs if recurs(run)}
    dealt = 1
    while again and (dealt + 1) * len(again) <= TOGETHER:
        dealt += 1
    return dealt


def recurs(run: Run) -> bool:
    """Whether its allowance is given again and again."""
    return run.allowance.every is not None


def begins_up_to(run: Run, entered: datetime, until: datetime, most: int) -> Iterator[datetime]:
    """Recurring grants: where occurrences begin, up to the end of the first that begins in the run after `until`.

    Or to the end of the last of its `times`, or of as many as there may be at most.
    """
    ends = False
    for number, instant in enumerate(begins_of(run.allowance, entered)):
        yield instant
        if ends or number in {run.allowance.times, most}:
            return
        ends = max(instant, run.start) > until


def closed_within(runs: Sequence[Run], run: Run, begin: datetime) -> bool:
    """Whether a run of the same entitlement, and of the same rhythm, closed after `begin` and by the start of this."""
    rhythm = (run.allowance.entitlement, run.allowance.every, run.allowance.time_zone)
    return any(
        (one.allowance.entitlement, one.allowance.every, one.allowance.time_zone) == rhythm
        and one.closes is not None
        and begin < one.closes <= run.start
        for one in runs
    )


def refunds_of(told: Sequence[Standing]) -> list[Refund]:
    """Shares: each refund and lost dispute in order of place, with the share of each line gone before and after it."""
    undone = {one.content for one in kept(told, reversal)}
    lines = {line_id: line for line_id, (_, line) in lines_of(told).items()}
    gone = dict.fromkeys(lines, Fraction(0))
    found = []
    taking: list[tuple[int, datetime, PurchaseRefunded | ChargebackLost]] = []
    taking += [(one.place, one.at, one.content) for one in kept(told, refund) if one.key not in undone]
    for one in kept(told, closing):
        if isinstance(one.content, ChargebackLost):
            taking.append((one.place, one.at, one.content))
    for _, at, fact in sorted(taking, key=lambda one: one[0]):
        before, left = dict(gone), {key: (line.amount or 0) * (1 - gone[key]) for key, line in lines.items()}
        for key, line in lines.items():
            gone[key] = min(Fraction(1), before[key] + asked(fact, line, before[key], sum(left.values(), Fraction(0))))
        why = f"refund/{fact.refund_id}" if isinstance(fact, PurchaseRefunded) else f"dispute/{fact.dispute_id}"
        found.append(Refund(why, at, before, dict(gone)))
    return found


def asked(
    fact: PurchaseRefunded | ChargebackLost, line: PurchaseLine, gone: Fraction, total_left: Fraction
) -> Fraction:
    """Shares: what a refund asks of one line, `gone` of which went before it."""
    if isinstance(fact, PurchaseRefunded) and fact.lines:
        named = [one for one in fact.lines if one.line_id == line.line_id]
        if not named:
            return Fraction(0)
        if named[0].quantity is not None:
            return Fraction(named[0].quantity, line.quantity)
        if named[0].amount is not None:
            return Fraction(named[0].amount, line.amount) if line.amount else Fraction(0)
        return 1 - gone
    if fact.amount is None:
        return 1 - gone
    return fact.amount / total_left * (1 - gone) if line.amount and total_left else Fraction(0)


def disputes_of(told: Sequence[Standing]) -> list[Dispute]:
    """Disputes: from where the opening stands until where the closing stands; no later than that leaves nothing."""
    closings = {one.key: one for one in kept(told, closing)}
    found = []
    for opened in kept(told, opening):
        closed = closings.get(opened.key)
        if closed is None or closed.at > opened.at:
            is_won = closed is not None and isinstance(closed.content, ChargebackWon)
            found.append(Dispute(f"dispute/{opened.key}", opened.at, closed.at if closed is not None else None, is_won))
    return found


# -- business keys


def refund(fact: Fact) -> Iterable[tuple[str, PurchaseRefunded]]:
    """Refund id."""
    return [(fact.refund_id, fact)] if isinstance(fact, PurchaseRefunded) else []


def reversal(fact: Fact) -> Iterable[tuple[str, str]]:
    """Reversal id: what it says is which refund it is of."""
    return [(fact.reversal_id, fact.refund_id)] if isinstance(fact, RefundReversed) else []


def opening(fact: Fact) -> Iterable[tuple[str, None]]:
    """Dispute id, opened."""
    return [(fact.dispute_id, None)] if isinstance(fact, ChargebackOpened) else []


def closing(fact: Fact) -> Iterable[tuple[str, ChargebackWon | ChargebackLost]]:
    """Dispute id, closed: won or lost."""
    return [(fact.dispute_id, fact)] if isinstance(fact, ChargebackWon | ChargebackLost) else []
