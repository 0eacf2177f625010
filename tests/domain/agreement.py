"""What must be true of a life after every step, whatever was told and in whatever order."""

from collections import defaultdict
from datetime import datetime
from itertools import pairwise
from uuid import UUID

from ledger_worker.domain.catalogue import EntitlementType
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.events import Event
from ledger_worker.domain.ledger import EFFECTS, GrantTerms, Kind, Line, Phase
from ledger_worker.domain.settlement import Book
from ledger_worker.domain.sources import grant_id, terms
from tests.domain.driver import Life
from tests.domain.histories import AFTER_ALL
from tests.oracle.terms import Given, TakenBack, given
from tests.oracle.units import Outcome, outcome

Coverage = dict[UUID, dict[object, int]]
"""Of each usage, by inbox key: how many units each grant covers, and how many are overage, debt and forgiven."""


def name_of_grant(source: str, line: str, sku: str, allowance: str, period_start: datetime | None) -> UUID:
    return grant_id(source, line, sku, allowance, period_start, "")


def kept_events(life: Life) -> list[Event]:
    """The events told that the ledger keeps, without the ledger's own."""
    return [decided.event for decided in life.inbox.values() if decided.told is not None]


def assert_all(life: Life) -> None:
    """Everything that must hold after each step."""
    assert_conserved(life)
    assert_numbered(life)
    assert_settling_again_changes_nothing(life)
    if life.head.recorded_at is not None:
        assert_told(life)
        assert_as_the_oracle_says(life, life.head.recorded_at)


def assert_conserved(life: Life) -> None:
    """Each grant and each account is conserved, adds up to its lines, and the account to its grants."""
    for grant in life.grants.values():
        counters = (grant.available, grant.held, grant.used, grant.expired, grant.revoked, grant.moved)
        assert min(counters) >= 0, grant
        if grant.terms.amount is not None:
            assert grant.granted == sum(counters), grant
            assert grant.granted == (0 if grant.phase is Phase.VOID else grant.terms.amount), grant
    by_grant: dict[UUID | None, list[Line]] = defaultdict(list)
    by_account: dict[str, list[Line]] = defaultdict(list)
    for posting in life.postings:
        for entry in posting.entries:
            by_grant[entry.line.grant_id].append(entry.line)
            by_account[entry.entitlement].append(entry.line)
    for key, grant in life.grants.items():
        names = ("used",) if grant.terms.amount is None else _GRANT_COUNTERS
        assert _sums(by_grant[key], names) == {name: getattr(grant, name) for name in names}, grant
    for entitlement, account in life.accounts.items():
        assert account.usage == account.used_total + account.overage + account.debt + account.forgiven, account
        assert min(account.used_total, account.overage, account.debt, account.forgiven) >= 0, account
        assert _sums(by_account[entitlement], _ACCOUNT_COUNTERS) == {
            name: getattr(account, name) for name in _ACCOUNT_COUNTERS
        }
        grants = [grant for grant in life.grants.values() if grant.terms.entitlement == entitlement]
        assert account.used_total == sum(grant.used for grant in grants), account


def assert_numbered(life: Life) -> None:
    """Postings and changes are numbered without a gap, and the customer's instants strictly increase."""
    assert [posting.number for posting in life.postings] == list(range(1, life.head.posting_number + 1))
    assert [change.sequence for change in life.changes] == list(range(1, life.head.sequence + 1))
    assert len({change.change_id for change in life.changes}) == len(life.changes)
    instants = [decided.recorded_at for decided in life.inbox.values()]
    assert all(earlier < later for earlier, later in pairwise(instants)), instants
    recorded = {decided.key: decided.recorded_at for decided in life.inbox.values()}
    assert all(recorded[posting.event_key] == posting.recorded_at for posting in life.postings)
    assert all(
        posting.entries or any(change.posting == posting.number for change in life.changes) for posting in life.postings
    )


def assert_settling_again_changes_nothing(life: Life) -> None:
    """Every account stands where a run from nothing over all its facts ends (RULES 4)."""
    for entitlement, account in life.accounts.items():
        book = Book(life.catalogue.entitlements[entitlement], account, (), life.history(entitlement))
        lines = book._settle_again((life.head.recorded_at or AFTER_ALL, "9"))  # noqa: SLF001 -- the run itself
        assert lines == []
        assert book.account == account
        assert [life.grants[grant.terms.grant_id] for grant in book.touched_grants()] == book.touched_grants()


def assert_told(life: Life) -> None:
    """A change was told whenever the told fields differed, and only then; each begins where the one before it ended."""
    last: dict[str, dict[str, object]] = {}
    for change in life.changes:
        before, after = told_fields(change.before), told_fields(change.after)
        assert before != after, change
        assert before == last.get(change.entitlement, NOTHING[change.before.type]), change
        last[change.entitlement] = after
    assert life.head.recorded_at is not None
    for entitlement, shown in life.pictures(life.head.recorded_at).items():
        assert told_fields(shown) == last.get(entitlement, NOTHING[shown.type]), shown


def told_fields(shown: EntitlementPicture) -> dict[str, object]:
    """What has to be told when it differs (RULES 32), of the fields that exist so far."""
    return {
        "access": shown.allowed,
        "allocation": shown.allocated,
        "limit": (shown.limit, shown.unlimited),
        "value": shown.value,
        "end": shown.expires_at,
        "state": shown.state,
        "holders": shown.holders,
        "level": shown.level or 0,
        "has overage": bool(shown.overage),
        "has debt": bool(shown.debt),
    }


def _nothing(units: int | None) -> dict[str, object]:
    return {
        "access": False,
        "allocation": units,
        "limit": (units, False),
        "value": None,
        "end": None,
        "state": "none",
        "holders": None,
        "level": 0,
        "has overage": False,
        "has debt": False,
    }


NOTHING = {EntitlementType.ACCESS.value: _nothing(None), EntitlementType.QUOTA.value: _nothing(0)}
"""What is told of an entitlement that the customer never had, by its type."""


def assert_as_the_oracle_says(life: Life, at: datetime) -> None:
    """Terms, every unit, and access at `at` are what a second opinion computes from the facts alone."""
    events = kept_events(life)
    counted = {
        (decided.event.event_source, decided.event.event_id): decided.counted_at
        for decided in life.inbox.values()
        if decided.counted_at is not None
    }
    assert sorted(booked_terms(life), key=_by_name) == sorted(
        given(events, life.catalogue, name_of_grant), key=_by_name
    )
    expected = outcome(events, life.catalogue, name_of_grant, at, counted)
    for entitlement, shown in life.pictures(at).items():
        assert shown_units(shown) == expected_units(expected[entitlement]), entitlement
    if at != life.head.recorded_at:
        return
    keys = {(decided.event.event_source, decided.event.event_id): decided.key for decided in life.inbox.values()}
    for entitlement, account in life.accounts.items():
        of = expected[entitlement]
        booked = (account.usage, account.used_total, account.overage, account.debt, account.forgiven)
        assert booked == (of.usage, of.used, of.overage, of.debt, of.forgiven), entitlement
        assert coverage(life, entitlement) == {keys[usage]: dict(by) for usage, by in of.coverage.items()}
        for key, counts in of.grants.items():
            assert isinstance(key, UUID)
            assert counts == booked_counts(life, key)


def booked_terms(life: Life) -> list[Given]:
    """The terms that the sources give, in the oracle's shape; what is booked says the same."""
    told = [one for key, state in life.sources.items() for one in terms(state, key, life.catalogue)]
    booked = [grant.terms for grant in life.grants.values() if grant.phase is not Phase.VOID]
    assert sorted(told, key=_id_of) == sorted(booked, key=_id_of)
    return [_as_given(one) for one in told]


def booked_counts(life: Life, key: UUID) -> dict[str, int | None]:
    grant = life.grants[key]
    if grant.terms.amount is None:
        return {"granted": None, "used": grant.used}
    return {name: getattr(grant, name) for name in ("granted", "available", "used", "expired", "revoked")}


def coverage(life: Life, entitlement: str) -> Coverage:
    """Who covers each usage, added up from the lines."""
    found: dict[UUID, dict[object, int]] = defaultdict(lambda: defaultdict(int))
    for line in life.history(entitlement).lines:
        if line.usage_key is None:
            continue
        of_usage = found[line.usage_key]
        used = EFFECTS[line.kind].used
        if used:
            of_usage[line.grant_id] += used * line.units
        for state, change in (
            ("overage", EFFECTS[line.kind].overage),
            ("debt", EFFECTS[line.kind].debt),
            ("forgiven", EFFECTS[line.kind].forgiven),
        ):
            if change:
                of_usage[state] += change * line.units
        assert line.kind is not Kind.GRANTED
    return {usage: {by: units for by, units in of.items() if units} for usage, of in found.items()}


def shown_units(shown: EntitlementPicture) -> tuple[object, ...]:
    if shown.type == EntitlementType.ACCESS.value:
        return (shown.allowed,)
    return (
        shown.allowed,
        shown.limit,
        shown.used,
        shown.remaining,
        shown.overage,
        shown.debt,
        shown.forgiven,
        shown.level,
    )


def expected_units(of: Outcome) -> tuple[object, ...]:
    if of.is_access:
        return (of.allowed,)
    remaining = None if of.limit is None else of.limit - of.used_in_force
    return (of.allowed, of.limit, of.used_in_force, remaining, of.overage_counted, of.debt, of.forgiven, of.level)


_GRANT_COUNTERS = ("granted", "available", "held", "used", "expired", "revoked", "moved")
_ACCOUNT_COUNTERS = ("usage", "used_total", "overage", "debt", "forgiven")


def _sums(lines: list[Line], names: tuple[str, ...]) -> dict[str, int]:
    return {name: sum(getattr(EFFECTS[line.kind], name) * line.units for line in lines) for name in names}


def _as_given(one: GrantTerms) -> Given:
    return Given(
        name=one.grant_id,
        source=one.source_key,
        line=one.line_id,
        sku=one.sku,
        allowance=one.allowance,
        entitlement=one.entitlement,
        units=one.amount,
        priority=one.priority,
        start=one.effective_at,
        end=one.expires_at,
        period_start=one.period_start,
        taken_back=tuple(
            TakenBack(cut.cut_id.removeprefix("refund/"), cut.at, cut.units, cut.policy.value) for cut in one.cuts
        ),
    )


def _by_name(one: Given) -> bytes:
    return one.name.bytes


def _id_of(one: GrantTerms) -> bytes:
    return one.grant_id.bytes
