"""Recurring grants: what an allowance gives again and again, without anybody telling of it.

A source gives every occurrence that has begun where the books stand, and the next one. When that one begins, settlement
makes the one after it (`next_of`), by the terms of the one that begins and nothing else: so it is known ahead, falls
due like any grant, and is made by whoever passes its begin. What settlement made is what the source gives, because the
books have passed what is due whenever the source is folded: its terms are a function of the facts and of that instant.

A source is unrolled at least up to the last instant that it was told of. Whatever refunds, disputes and transfers do,
they do to the occurrences up to there; all later ones are alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from ledger_worker.domain.ledger import GrantTerms, Suspension
from ledger_worker.domain.occurrences import OCCURRENCES_MAX, Recurrence, following, occurrences
from ledger_worker.domain.stretches import Given, Interval, Step, Stretch, grant_id, grants_of_stretches

__all__ = ["ends_early", "most_of_each", "next_of", "occurrences_given"]

_TOLD_WITHIN = timedelta(days=3653)

_Period = tuple[Interval, tuple[str | None, str | None]]
"""An occurrence, with how often it recurs and by whose clock."""


def occurrences_given(
    opened: Sequence[Stretch],
    *,
    source_key: str,
    line_id: str,
    anchor: datetime,
    until: datetime,
    each_max: int,
    causes: Sequence[tuple[str, datetime, datetime | None]],
) -> list[Given]:
    """What the stretches give whose allowances recur: each occurrence that begins up to `until`, and the next one.

    No allowance has more than `each_max` occurrences (`most_of_each`).

    An occurrence is a period of its own: where a version of the offer takes the place of another within it, and both
    recur alike, the new one begins as in any period. Up to there, too, all that the stretches give is unrolled.
    """
    until = max([until, *(at for one in opened for at in (one.start, one.closes_at) if at is not None)])
    parts: dict[_Period, dict[tuple[str, str], tuple[Stretch, Recurrence | None]]] = {}
    for stretch in opened:
        for interval, part, recurs in _parts(stretch, anchor, until, each_max):
            rhythm = (part.allowance.every, part.allowance.time_zone)
            parts.setdefault((interval, rhythm), {})[part.allowance.key, part.segment] = (part, recurs)
    given = []
    for (interval, _), of_interval in sorted(parts.items(), key=_by_begin):

        def end_of(_: Stretch, end: datetime | None = interval[1]) -> datetime | None:
            """The occurrence's end, which all of its parts share; of this turn of the loop, not of the last one."""
            return end

        given += [
            Given(
                msgspec.structs.replace(
                    one.terms, recurs=of_interval[one.stretch.allowance.key, one.stretch.segment][1]
                ),
                one.stretch,
            )
            for one in grants_of_stretches(
                [part for part, _ in of_interval.values()],
                source_key=source_key,
                line_id=line_id,
                period=interval,
                period_start=interval[0],
                end_of=end_of,
                causes_of=lambda _: causes,
                stops_of=lambda _: (),
            )
        ]
    return given


def next_of(terms: GrantTerms) -> GrantTerms | None:
    """The occurrence after this one, the last to which its source is unrolled; None where none follows."""
    found = None if terms.recurs is None else following(terms.recurs)
    if found is None:
        return None
    recurs, begin, end = found
    return msgspec.structs.replace(
        terms,
        grant_id=grant_id(terms.source_key, terms.line_id, terms.sku, terms.allowance, begin, ""),
        effective_at=begin,
        expires_at=end,
        period_start=begin,
        cuts=(),
        suspensions=tuple(
            Suspension(cause=one.cause, starts_at=begin) for one in terms.suspensions if one.ends_at is None
        ),
        recurs=None if following(recurs) is None else recurs,
    )


def most_of_each(opened: Mapping[str, Sequence[Stretch]]) -> int:
    """How many occurrences each allowance of a source may have, by the stretches of its lines: all have as many.

    Together they are `OCCURRENCES_MAX` at most; one that nothing has begun to recur of has the first at least.
    """
    sharing = {(line_id, one.allowance.key) for line_id, of_line in opened.items() for one in of_line if _recurs(one)}
    return max(OCCURRENCES_MAX // max(len(sharing), 1), 1)


def ends_early(stretch: Stretch, anchor: datetime, each_max: int) -> bool:
    """Whether `each_max` leaves an occurrence of the stretch out that would begin within ten years of the anchor."""
    if not _recurs(stretch):
        return False
    left_out = next(occurrences(msgspec.structs.replace(_recurrence(stretch, anchor), number=each_max)), None)
    if left_out is None:
        return False
    _, begin, _ = left_out
    is_of_stretch = stretch.closes_at is None or begin < stretch.closes_at
    return is_of_stretch and begin < anchor + _TOLD_WITHIN


def _recurs(stretch: Stretch) -> bool:
    return stretch.allowance.every is not None


def _recurrence(stretch: Stretch, anchor: datetime) -> Recurrence:
    allowance = stretch.allowance
    return Recurrence(
        anchor=anchor,
        every=allowance.every or "",
        time_zone=allowance.time_zone,
        times=OCCURRENCES_MAX if allowance.times is None else allowance.times,
    )


def _parts(
    stretch: Stretch, anchor: datetime, until: datetime, each_max: int
) -> Iterator[tuple[Interval, Stretch, Recurrence | None]]:
    """The parts of a stretch by occurrence, each with what says that another one of the stretch follows it."""
    closes_at, recurrence = stretch.closes_at, _recurrence(stretch, anchor)
    bounded = msgspec.structs.replace(recurrence, times=min(recurrence.times, each_max))
    for occurrence, begin, end in occurrences(bounded):
        if end <= stretch.start:
            continue
        start = max(begin, stretch.start)
        part = msgspec.structs.replace(
            stretch,
            start=start,
            closes_at=None if closes_at is None or closes_at >= end else closes_at,
            segment=stretch.segment if begin < start else "",
            steps=(Step(start, stretch.steps[0].quantity, ""),),
        )
        goes_on = (closes_at is None or end < closes_at) and following(occurrence) is not None
        yield (begin, end), part, occurrence if goes_on else None
        if not goes_on or start > until:
            return


def _by_begin(item: tuple[_Period, object]) -> tuple[datetime, datetime]:
    (begin, end), _ = item[0]
    return begin, begin if end is None else end
