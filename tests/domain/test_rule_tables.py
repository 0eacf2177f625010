"""`docs/reference/rule-tables.md` is true: each of its rows is computed by the rules, and no table goes unread.

A rule here names the columns of one table, those given and those computed, and computes a row. The document is read by
a parser that knows nothing but headings and tables.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest

from ledger_worker.domain.access import resolved
from ledger_worker.domain.catalogue import (
    Catalogue,
    Clock,
    DebtPolicy,
    LateUsage,
    OnCancel,
    OnChange,
    RefundPolicy,
    lasts_until,
)
from ledger_worker.domain.events import Fact, PurchaseRefunded, RefundLine, SourceFact, source_key
from ledger_worker.domain.ledger import Grant, GrantTerms, Phase, precedence
from ledger_worker.domain.occurrences import Recurrence, occurrences
from ledger_worker.domain.outcomes import Outcome
from ledger_worker.domain.sources import SourceState, fold
from ledger_worker.domain.stretches import Interval, stopped_time, unions, units_of_share
from ledger_worker.domain.told import RecordedFact, in_order
from ledger_worker.domain.values import MergePolicy, value_of
from tests.domain.driver import Life
from tests.domain.telling import (
    activated,
    assigned,
    bought,
    cancellation_scheduled,
    cancellation_withdrawn,
    cancelled,
    catalogue,
    day,
    dispute_lost,
    dispute_opened,
    dispute_won,
    expired,
    extended,
    gives,
    item,
    line,
    offer,
    order_transferred,
    paused,
    payment_failed,
    payment_recovered,
    plan_changed,
    quantity_changed,
    quota,
    refunded,
    renewed,
    resumed,
    revoked,
    setting,
    told,
    usage_reversed,
    used,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "rule-tables.md"
NOTHING = "-"
DAY = timedelta(days=1)

Row = dict[str, str]
Step = tuple[datetime, SourceFact]
Lived = tuple[datetime, Fact]


class Table(msgspec.Struct, frozen=True):
    """A table under its heading; `lines` are those of its rows in the document."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]


class Rule(msgspec.Struct, frozen=True):
    """What a table has to have: columns that are given, columns that are computed, and how."""

    given: tuple[str, ...]
    computed: tuple[str, ...]
    compute: Callable[[Row], tuple[str, ...]]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.given, *(f"→ {name}" for name in self.computed))


# -- the document


def problems(tables: Iterable[Table]) -> list[str]:
    """Everything in the tables that is not so, or that no rule reads."""
    found = []
    for table in tables:
        rule = RULES.get(table.heading)
        if rule is None:
            found.append(f"{table.heading}: no rule computes it")
        elif table.columns != rule.columns:
            found.append(f"{table.heading}: columns are {table.columns}, expected {rule.columns}")
        else:
            found += _wrong_rows(table, rule)
    return found


def _wrong_rows(table: Table, rule: Rule) -> list[str]:
    found = [] if table.rows else [f"{table.heading}: no rows"]
    seen = set()
    for number, cells in zip(table.lines, table.rows, strict=True):
        where = f"{table.heading}, line {number}"
        if len(cells) != len(table.columns):
            found.append(f"{where}: {len(cells)} cells, expected {len(table.columns)}")
            continue
        given, expected = cells[: len(rule.given)], cells[len(rule.given) :]
        if given in seen:
            found.append(f"{where}: a row before it has the same {given}")
        seen.add(given)
        try:
            computed = rule.compute(dict(zip(rule.given, given, strict=True)))
        except (KeyError, ValueError) as error:
            found.append(f"{where}: cannot be read: {error!r}")
            continue
        if computed != expected:
            found.append(f"{where}: {', '.join(given)} come to {computed}, the table says {expected}")
    return found


def parsed(text: str) -> list[Table]:
    """The tables of the document, each under the last heading before it."""
    tables: list[Table] = []
    heading = ""
    block: list[tuple[int, tuple[str, ...]]] = []
    for number, each in enumerate([*text.splitlines(), ""], start=1):
        if each.startswith("#"):
            heading = each.lstrip("# ")
        if each.startswith("|"):
            block.append((number, tuple(cell.strip() for cell in each.strip().strip("|").split("|"))))
        elif block:
            (_, columns), _, *rows = block
            tables.append(
                Table(
                    heading, columns, tuple(cells for _, cells in rows), tuple(line_number for line_number, _ in rows)
                )
            )
            block = []
    return tables


# -- words


def listed(cell: str) -> list[str]:
    return [] if cell == NOTHING else [part.strip() for part in cell.split(",")]


def in_words(parts: Iterable[object]) -> str:
    return ", ".join(str(part) for part in parts) or NOTHING


def day_of(text: str) -> datetime:
    number = Fraction(text)
    return day(1) + (number - 1).numerator * DAY / (number - 1).denominator


def in_days(instant: datetime) -> str:
    number = Fraction((instant - day(1)) // timedelta(seconds=1), 86_400) + 1
    return str(number) if number.denominator == 1 else str(float(number))


def maybe_in_days(instant: datetime | None) -> str:
    return NOTHING if instant is None else in_days(instant)


def interval_of(text: str) -> Interval:
    """`3 to 5`, or `3 on` without an end."""
    if text.endswith(" on"):
        return day_of(text.removesuffix(" on")), None
    start, end = text.split(" to ")
    return day_of(start), day_of(end)


def intervals_in_words(intervals: Iterable[Interval]) -> str:
    return in_words(
        f"{in_days(start)} on" if end is None else f"{in_days(start)} to {in_days(end)}" for start, end in intervals
    )


def seconds_of(text: str) -> int:
    """`1 day`, `7 days`."""
    number, unit = text.split()
    if unit not in {"day", "days"}:
        raise ValueError(text)
    return int(number) * 86_400


def yes(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def matched(pattern: str, text: str) -> tuple[str, ...]:
    """The groups of the pattern, which has to match the whole text."""
    match = re.fullmatch(pattern, text)
    if match is None:
        raise ValueError(text)
    return tuple(group or "" for group in match.groups())


# -- facts to terms, and lives


def folded(offered: Catalogue, steps: Sequence[Step]) -> tuple[list[GrantTerms], list[Outcome]]:
    """The terms after the steps, by their start, and what became of each."""
    state = SourceState()
    terms: list[GrantTerms] = []
    outcomes = []
    for number, (at, fact) in enumerate(steps):
        after = fold(state, told(f"e{number}", at, fact), source_key(fact), offered)
        state, terms = after.state, [held.terms for held in after.terms]
        outcomes.append(after.outcome)
    return sorted(terms, key=lambda one: (one.effective_at, one.line_id)), outcomes


def lived(offered: Catalogue, steps: Sequence[Lived]) -> Life:
    life = Life(offered)
    for number, (at, fact) in enumerate(steps):
        life.tell((told(f"e{number}", at, fact), at))
    return life


def grants_of(life: Life) -> list[Grant]:
    """Those in the books by their start."""
    real = [grant for grant in life.grants.values() if grant.phase is not Phase.VOID]
    return sorted(real, key=lambda grant: (grant.terms.effective_at, grant.terms.line_id))


def taken_by(terms: GrantTerms, cut_ids: Iterable[str]) -> list[int]:
    return [sum(cut.units for cut in terms.cuts if cut.cut_id == cut_id) for cut_id in cut_ids]


def blocked(terms: GrantTerms) -> str:
    return intervals_in_words((one.starts_at, one.ends_at) for one in terms.suspensions)


def refund_of(text: str, refund: str) -> PurchaseRefunded:
    """`order`, `line`, `quantity 2`, `amount 50 of line`, `amount 50 of order`."""
    if text == "order":
        return refunded(refund)
    if text == "line":
        return PurchaseRefunded(order_id="o1", refund_id=refund, lines=(RefundLine(line_id="l1"),))
    if text.startswith("quantity"):
        (quantity,) = matched(r"quantity (\d+)", text)
        return refunded(refund, quantity=int(quantity))
    amount, of = matched(r"amount (\d+) of (line|order)", text)
    return refunded(refund, of_line=int(amount)) if of == "line" else refunded(refund, amount=int(amount))


def refunds_of(cell: str) -> list[Step]:
    return [(day(2 + place), refund_of(text, f"r{place}")) for place, text in enumerate(listed(cell))]


def cut_ids_of(refunds: Sequence[Step]) -> list[str]:
    return [f"refund/{fact.refund_id}" for _, fact in refunds if isinstance(fact, PurchaseRefunded)]


def amount_of(cell: str) -> int | None:
    return None if cell == NOTHING else int(cell)


PACK = catalogue(quota(), offer("pack", gives(10, lasts="forever")))


# -- the rules, a table each


def shares_and_rounding(row: Row) -> tuple[str, ...]:
    granted = int(row["granted"])
    gone, taken = [Fraction(0)], []
    for share in listed(row["shares refunded"]):
        gone.append(min(Fraction(1), gone[-1] + Fraction(share)))
    for before, after in pairwise(gone):
        taken.append(units_of_share(granted, after) - units_of_share(granted, before))
    return in_words(taken), str(granted - sum(taken))


def refunds_of_a_line(row: Row) -> tuple[str, ...]:
    refunds = refunds_of(row["refunds"])
    purchase = bought(line(quantity=int(row["quantity"]), amount=amount_of(row["amount"])))
    (terms,), outcomes = folded(PACK, [(day(1), purchase), *refunds])
    return in_words(taken_by(terms, cut_ids_of(refunds))), outcomes[-1].value


def refunds_by_amount(row: Row) -> tuple[str, ...]:
    lines = [
        line(line_id=f"l{place}", amount=amount_of(amount))
        for place, amount in enumerate(listed(row["amounts of the lines"]), start=1)
    ]
    refunds = refunds_of(row["refunds"])
    terms, _ = folded(PACK, [(day(1), bought(*lines)), *refunds])
    return (in_words(sum(cut.units for cut in one.cuts) for one in terms),)


def refund_policies(row: Row) -> tuple[str, ...]:
    policy = RefundPolicy(row["policy"])
    offered = catalogue(quota(debt=DebtPolicy.CARRY), offer("pack", gives(10, lasts=row["lasts"], refund=policy)))
    use: list[Lived] = [(day(2), used(int(row["used"])))] if row["used"] != "0" else []
    life = lived(offered, [(day(1), bought()), *use, (day_of(row["refunded"]), refunded())])
    (grant,) = grants_of(life)
    return str(grant.revoked), str(life.accounts["api"].debt)


def prorated_refunds(row: Row) -> tuple[str, ...]:
    allowance = gives(10, lasts=row["lasts"], refund=RefundPolicy.PRORATE, extend_on_won=True)
    disputes: list[Step] = []
    for start, end in map(interval_of, listed(row["dispute won, extending"])):
        disputes += [(start, dispute_opened())]
        disputes += [] if end is None else [(end, dispute_won())]
    offered = catalogue(quota(), offer("pack", allowance))
    (terms,), _ = folded(offered, [(day(1), bought()), *disputes, (day_of(row["refunded"]), refunded())])
    return (in_words(taken_by(terms, ["refund/r1"])),)


def disputes(row: Row) -> tuple[str, ...]:
    steps: list[Step] = [(day(1), bought())]
    if row["opened"] != NOTHING:
        steps.append((day_of(row["opened"]), dispute_opened()))
    if row["closed"] != NOTHING:
        how, at = matched(r"(won|lost) (\S+)", row["closed"])
        steps.append((day_of(at), dispute_won() if how == "won" else dispute_lost()))
    offered = catalogue(quota(), offer("pack", gives(10, lasts="P10D", extend_on_won=yes(row["extend on won"]))))
    (terms,), _ = folded(offered, steps)
    return blocked(terms), maybe_in_days(terms.expires_at), in_words(taken_by(terms, ["dispute/d1"]))


def month_ends(row: Row) -> tuple[str, ...]:
    until = lasts_until(row["lasts"], datetime.fromisoformat(row["from"]), None)
    return (f"{until:%Y-%m-%dT%H:%M:%SZ}" if isinstance(until, datetime) else until or NOTHING,)


def leeway_and_grace(row: Row) -> tuple[str, ...]:
    allowance = gives(10, leeway_seconds=seconds_of(row["leeway"]), grace_seconds=seconds_of(row["grace"]))
    steps: list[Step] = [(day(1), activated(day(1), day(11)))]
    steps += [(day_of(at), payment_failed(f"f{place}")) for place, at in enumerate(listed(row["failed"]))]
    steps += [(day_of(at), payment_recovered(f"y{place}")) for place, at in enumerate(listed(row["recovered"]))]
    (terms,), _ = folded(catalogue(quota(), offer("plan", allowance)), steps)
    return maybe_in_days(terms.expires_at), blocked(terms)


_ENDINGS: dict[str, Callable[[datetime], SourceFact]] = {
    "cancelled": cancelled,
    "cancellation scheduled": cancellation_scheduled,
    "expired": expired,
    "revoked": revoked,
    "extended": extended,
}


def ends(row: Row) -> tuple[str, ...]:
    steps: list[Step] = [(day(1), activated(day(1), day(11)))]
    for place, text in enumerate(listed(row["told"])):
        at = day(4) + place * timedelta(minutes=1)
        if text == "withdrawn":
            steps.append((at, cancellation_withdrawn()))
        else:
            what, when = matched(r"([a-z ]+) (\S+)", text)
            steps.append((at, _ENDINGS[what](day_of(when))))
    allowance = gives(10, on_cancel=OnCancel(row["on cancel"]))
    terms, _ = folded(catalogue(quota(), offer("plan", allowance)), steps)
    return (in_words(maybe_in_days(one.expires_at) for one in terms),)


def pausing(cell: str) -> list[Step]:
    steps: list[Step] = []
    for place, (start, end) in enumerate(map(interval_of, listed(cell))):
        steps.append((start, paused(start, f"p{place}")))
        if end is not None:
            steps.append((end, resumed(end, f"p{place}")))
    return steps


def pauses(row: Row) -> tuple[str, ...]:
    steps: list[Step] = [(day(1), activated(day(1), day(11))), *pausing(row["pauses"])]
    if row["next period"] != NOTHING:
        start = day_of(row["next period"])
        steps.append((start, renewed(start, start + 10 * DAY)))
    offered = catalogue(quota(), offer("plan", gives(10, leeway_seconds=0, pause=Clock(row["clock"]))))
    (terms, *_), _ = folded(offered, steps)
    return maybe_in_days(terms.expires_at), blocked(terms)


def overlapping_pauses(row: Row) -> tuple[str, ...]:
    stands = unions(map(interval_of, listed(row["pauses"])))
    return intervals_in_words(stands), str(stopped_time(day(1), day(11), stands) // DAY)


def plan_changes(row: Row) -> tuple[str, ...]:
    at = day_of(row["changed"])
    new = gives(int(row["new units"]), on_change=OnChange(row["on change"]))
    steps: list[Lived] = [(day(1), activated(day(1), day(11)))]
    if row["used"] != "0":
        steps.append((day(2), used(int(row["used"]))))
    steps += [*pausing(row["paused"]), (at, plan_changed("other", at))]
    offered = catalogue(quota(), offer("plan", gives(int(row["units"]))), offer("other", new))
    life = lived(offered, steps)
    (grant,) = (grant for grant in grants_of(life) if grant.terms.sku == "other")
    shown = life.picture("api", at)
    return str(grant.granted), str(grant.revoked), str(shown.over_allocated), str(shown.limit)


def quantity_steps(row: Row) -> tuple[str, ...]:
    steps: list[Lived] = []
    for place, text in enumerate(listed(row["steps"])):
        quantity, at = matched(r"(\d+) on (\S+)", text)
        steps.append((day_of(at), quantity_changed(int(quantity), day_of(at), f"ch{place}")))
    for text in listed(row["used"]):
        units, at = matched(r"(\d+) on (\S+)", text)
        steps.append((day_of(at), used(int(units))))
    steps.sort(key=lambda step: step[0])
    start = (day(1), activated(day(1), day(11), item(quantity=int(row["quantity"]))))
    life = lived(catalogue(quota(), offer("plan", gives(10))), [start, *steps])
    grants = grants_of(life)
    over = life.picture("api", day(10)).over_allocated
    return in_words(grant.granted for grant in grants), in_words(grant.revoked for grant in grants), str(over)


def roll_over(row: Row) -> tuple[str, ...]:
    allowance = gives(
        int(row["units"]), rollover_units=int(row["rollover_units"]), rollover_times=int(row["rollover_times"])
    )
    life = Life(catalogue(quota(), offer("plan", allowance)))
    limits = []
    items = (item(quantity=int(row["quantity"])),)
    for place, units in enumerate(map(int, listed(row["used in each"]))):
        start, end = day(1 + 10 * place), day(11 + 10 * place)
        begins = activated(start, end, *items) if place == 0 else renewed(start, end)
        life.tell((told(f"begin {place}", start, begins), start))
        limits.append(life.picture("api", start).limit)
        if units:
            life.tell((told(f"use {place}", start + DAY, used(units)), start + DAY))
    return (in_words(limits),)


def order_of_burning(row: Row) -> tuple[str, ...]:
    first = min(("one", "other"), key=lambda name: precedence(_grant(row[name])))
    return (first,)


def _grant(cell: str) -> GrantTerms:
    terms = GrantTerms(
        grant_id=UUID(int=0),
        entitlement="api",
        source_key="order/o1",
        line_id="l1",
        sku="pack",
        allowance="api",
        offer_version=1,
        amount=10,
        priority=100,
        effective_at=day(1),
    )
    for text in listed(cell):
        if text == "unlimited":
            terms = msgspec.structs.replace(terms, amount=None)
        elif text != "without end":
            what, number = matched(r"(priority|generation|from|until) (\d+)", text)
            values: dict[str, dict[str, object]] = {
                "priority": {"priority": int(number)},
                "generation": {"generation": int(number)},
                "from": {"effective_at": day(int(number))},
                "until": {"expires_at": day(int(number))},
            }
            terms = msgspec.structs.replace(terms, **values[what])
    return terms


def values_that_count(row: Row) -> tuple[str, ...]:
    terms = [
        msgspec.structs.replace(_grant(row[name]), grant_id=UUID(int=place), amount=None, value=value_of(name))
        for place, name in enumerate(("one", "other"))
    ]
    found, other_way_round = resolved(setting(), terms), resolved(setting(), terms[::-1])
    assert found is not None
    assert found == other_way_round
    return (json.loads(found.value),)


def merged_values(row: Row) -> tuple[str, ...]:
    life = Life(catalogue(setting(merge=MergePolicy(row["merge"]))))
    for place, text in enumerate(row["values"].split(" and ")):
        fact = assigned(None, day(1), entitlement="size", value=json.loads(text), assignment=f"a{place}")
        life.tell((told(f"e{place}", day(1), fact, source="by-hand"), day(1)))
    return (str(life.picture("size", day(2)).value),)


def reversal_of_usage(row: Row) -> tuple[str, ...]:
    steps: list[Lived] = [(day(1), bought())]
    steps += [(day(2 + place), used(int(units))) for place, units in enumerate(listed(row["used"]))]
    for place, text in enumerate(listed(row["reversed"])):
        units, of = matched(r"(\d+|all) of (\d+)", text)
        # The purchase is told as e0, so the first usage as e1.
        reversal = usage_reversed(f"e{of}", None if units == "all" else int(units), f"v{place}")
        steps.append((day(10 + place), reversal))
    life = lived(PACK, steps)
    (grant,) = grants_of(life)
    return str(grant.used), str(life.accounts["api"].overage), str(grant.available)


def late_usage(row: Row) -> tuple[str, ...]:
    offered = catalogue(quota(late_usage=LateUsage(row["policy"])), offer("pack", gives(10, lasts="forever")))
    life = Life(offered)
    life.tell((told("p", day(1), bought()), day(1)))
    life.tell((told("u", day_of(row["occurred"]), used(4)), day_of(row["told"])))
    for number, units in enumerate(listed(row["reversed"])):
        life.tell((told(f"r{number}", day(90), usage_reversed("u", int(units), f"v{number}")), day(90)))
    usage = next(one for one in life.inbox.values() if one.event.event_id == "u")
    account = life.accounts["api"]
    counts_at = NOTHING if usage.counted_at is None else in_days(usage.counted_at)
    return usage.outcome.value, counts_at, str(account.used_total), str(account.overage)


def thresholds(row: Row) -> tuple[str, ...]:
    percents = tuple(map(int, listed(row["thresholds"])))
    limit = row["limit"]
    units = None if limit == "unlimited" else int(limit)
    offered = catalogue(quota(thresholds=percents), offer("pack", gives(units, lasts="forever")))
    steps: list[Lived] = [(day(1), bought())]
    if row["used and overage"] != "0":
        steps.append((day(2), used(int(row["used and overage"]))))
    level = lived(offered, steps).picture("api", day(2)).level
    return (NOTHING if level is None else str(level),)


_FACTS: dict[str, SourceFact] = {
    "purchase": bought(),
    "transfer": order_transferred(),
    "dispute": dispute_opened(),
    "won": dispute_won(),
    "refund": refunded(),
}


def order_of_facts(row: Row) -> tuple[str, ...]:
    facts = []
    for text in listed(row["facts"]):
        event_id, kind, version, at, source = matched(r"(\w) (\w+)(?: v(\d+))? on (\S+)(?: from (\w+))?", text)
        facts.append(
            RecordedFact(
                event_source=source or "shop",
                event_id=event_id,
                occurred_at=day_of(at),
                fact=_FACTS[kind],
                source_version=int(version) if version else None,
            )
        )
    return (in_words(f"{fact.event_id} on {in_days(stands_at)}" for stands_at, fact in in_order(facts)),)


def recurring_grants(row: Row) -> tuple[str, ...]:
    """The three occurrences after the first, as the place's own clock and its distance from UTC show them."""
    zone = ZoneInfo(row["time zone"])
    anchor = datetime.fromisoformat(row["anchor"]).replace(tzinfo=zone).astimezone(UTC)
    found = islice(occurrences(Recurrence(anchor=anchor, every=row["every"], time_zone=zone.key)), 1, 4)
    return (in_words(begin.astimezone(zone).isoformat(" ", "minutes") for _, begin, _ in found),)


RULES: dict[str, Rule] = {
    "Shares and rounding": Rule(("granted", "shares refunded"), ("taken by each", "left"), shares_and_rounding),
    "Refunds of a line": Rule(("quantity", "amount", "refunds"), ("taken by each", "outcome"), refunds_of_a_line),
    "Refunds by amount of an order": Rule(
        ("amounts of the lines", "refunds"), ("taken of each line",), refunds_by_amount
    ),
    "Refund policies": Rule(("policy", "lasts", "used", "refunded"), ("revoked", "debt"), refund_policies),
    "Prorated refunds": Rule(("lasts", "refunded", "dispute won, extending"), ("taken",), prorated_refunds),
    "Disputes": Rule(("opened", "closed", "extend on won"), ("blocked", "ends", "taken"), disputes),
    "Month ends": Rule(("from", "lasts"), ("until",), month_ends),
    "Leeway and grace": Rule(("leeway", "grace", "failed", "recovered"), ("ends", "blocked"), leeway_and_grace),
    "Ends": Rule(("on cancel", "told"), ("ends",), ends),
    "Pauses": Rule(("clock", "pauses", "next period"), ("ends", "blocked"), pauses),
    "Overlapping pauses": Rule(("pauses",), ("the clock stands", "days stopped from 1 to 11"), overlapping_pauses),
    "Plan changes": Rule(
        ("units", "used", "new units", "on change", "changed", "paused"),
        ("granted", "taken", "over-allocated", "limit"),
        plan_changes,
    ),
    "Quantity steps": Rule(("quantity", "steps", "used"), ("granted", "taken", "over-allocated"), quantity_steps),
    "Roll-over": Rule(
        ("units", "quantity", "rollover_units", "rollover_times", "used in each"), ("limit of each",), roll_over
    ),
    "Order of burning": Rule(("one", "other"), ("burnt first",), order_of_burning),
    "Values that count": Rule(("one", "other"), ("counts",), values_that_count),
    "Merged values": Rule(("merge", "values"), ("value",), merged_values),
    "Reversal of usage": Rule(("used", "reversed"), ("used", "overage", "available"), reversal_of_usage),
    "Late usage": Rule(
        ("policy", "occurred", "told", "reversed"), ("outcome", "counts at", "used", "overage"), late_usage
    ),
    "Thresholds": Rule(("thresholds", "limit", "used and overage"), ("level",), thresholds),
    "Recurring grants": Rule(("anchor", "every", "time zone"), ("the next ones",), recurring_grants),
    "Order of facts": Rule(("facts",), ("in order",), order_of_facts),
}


# -- what is claimed


TABLES = parsed(DOCUMENT.read_text(encoding="utf-8"))


def test_every_table_is_computed_and_every_rule_has_its_table() -> None:
    assert sorted(table.heading for table in TABLES) == sorted(RULES)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.heading)
def test_every_row_is_what_the_rules_compute(table: Table) -> None:
    assert problems([table]) == []


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.heading)
def test_any_cell_that_is_changed_is_found(table: Table) -> None:
    columns = range(len(RULES[table.heading].given), len(table.columns))
    for column in columns:
        changed = [(*cells[:column], f"{cells[column]}9", *cells[column + 1 :]) for cells in table.rows]

        found = problems([msgspec.structs.replace(table, rows=tuple(changed))])

        assert len(found) == len(table.rows)
        assert all("the table says" in each for each in found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# Hearsay\n| a | → b |\n|---|---|\n| 1 | 2 |", "Hearsay: no rule computes it"),
        ("# Order of facts\n| facts | → order |\n|---|---|\n| a | a |", "expected ('facts', '→ in order')"),
        ("# Order of facts\n| facts |\n|---|\n| a |", "expected ('facts', '→ in order')"),
        ("# Order of facts\n| facts | → in order |\n|---|---|", "Order of facts: no rows"),
        ("# Order of facts\n| facts | → in order |\n|---|---|\n| - | - | - |", "line 4: 3 cells, expected 2"),
        ("# Order of facts\n| facts | → in order |\n|---|---|\n| - | - |\n| - | - |", "line 5: a row before it"),
        ("# Order of facts\n| facts | → in order |\n|---|---|\n| a gift on 3 | a on 3 |", "line 4: cannot be read"),
        (
            "# Thresholds\n| thresholds | limit | used and overage | → level |\n|---|---|---|---|\n| 80 | 10 | x | 0 |",
            "line 4: cannot be read",
        ),
    ],
)
def test_what_no_rule_reads_is_found(text: str, problem: str) -> None:
    (found,) = problems(parsed(text))

    assert problem in found
