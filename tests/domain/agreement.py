"""What must be true of customers after every step, whatever was told and in whatever order."""

from collections import defaultdict
from datetime import datetime
from itertools import pairwise
from uuid import UUID

import msgspec

from ledger_worker.domain.booked import standing_of
from ledger_worker.domain.catalogue import EntitlementType, OnShrink
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.course import Course, Stops
from ledger_worker.domain.events import Event, SeatsRevoked, TransitionsDue, event_key
from ledger_worker.domain.ledger import EFFECTS, Account, DayState, GrantTerms, Kind, Line, Origin, Phase
from ledger_worker.domain.places import all_of
from ledger_worker.domain.runs import fresh_run
from ledger_worker.domain.seats import seats_of
from ledger_worker.domain.settlement import Book
from ledger_worker.domain.sources import child_id, grant_id, terms
from ledger_worker.local.oracle.terms import Given, Suspended, TakenBack, given
from ledger_worker.local.oracle.units import Outcome, Telling, outcomes
from tests.domain.driver import Customer, World, without_states
from tests.domain.histories import AFTER_ALL

Coverage = dict[UUID, dict[object, int]]
"""Of each usage, by inbox key: how many units each grant covers, and how many are overage, debt and forgiven."""


class Names:
    """The ledger's own names of grants, for the oracle: only ties are broken by them."""

    @staticmethod
    def root(source: str, line: str, sku: str, allowance: str, period_start: datetime | None, segment: str) -> UUID:
        return grant_id(source, line, sku, allowance, period_start, segment)

    @staticmethod
    def child(parent: UUID, kind: str, cause: str) -> UUID:
        return child_id(parent, kind, cause)


NAMES = Names()


def kept_events(world: World) -> list[Event]:
    """The events that the ledger keeps, told or of granted requests, without what fell due."""
    return [one.event for one in world.inbox.values() if not isinstance(one.event.fact, TransitionsDue)]


def assert_all(world: World) -> None:
    """Everything that must hold after each step."""
    for customer in world.customers.values():
        assert_conserved(customer)
        assert_numbered(world, customer)
        assert_seated(world, customer)
        assert_settling_again_changes_nothing(world, customer)
        assert_states_hold(world, customer)
        if customer.head.recorded_at is not None:
            assert_told(world, customer)
    assert_units_moved(world)
    last = max((one.head.recorded_at for one in world.customers.values() if one.head.recorded_at), default=None)
    if last is not None:
        assert_as_the_oracle_says(world, last)


def assert_conserved(life: Customer) -> None:
    """Each grant and each account is conserved, adds up to its lines, and the account to its grants."""
    for grant in life.grants.values():
        counters = (grant.available, grant.held, grant.used, grant.expired, grant.revoked, grant.moved)
        assert min(*counters, grant.short) >= 0, grant
        if grant.terms.amount is not None:
            assert grant.granted == sum(counters), grant
            if grant.terms.origin not in {Origin.ROLLOVER, Origin.REGRANT} or grant.phase is Phase.VOID:
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


def assert_numbered(world: World, life: Customer) -> None:
    """Postings and changes are numbered without a gap, and the customer's instants strictly increase."""
    assert [posting.number for posting in life.postings] == list(range(1, life.head.posting_number + 1))
    assert [change.sequence for change in life.changes] == list(range(1, life.head.sequence + 1))
    assert len({change.change_id for change in life.changes}) == len(life.changes)
    customer_id = life.head.customer_id
    own = [decided for decided in world.inbox.values() if decided.event.customer_id == customer_id]
    instants = [decided.recorded_at for decided in own]
    assert all(earlier < later for earlier, later in pairwise(instants)), instants
    posted_at = [posting.recorded_at for posting in life.postings]
    assert all(earlier < later for earlier, later in pairwise(posted_at)), posted_at
    for posting in life.postings:
        cause = world.inbox[posting.told_to or customer_id, posting.event_key]
        assert cause.recorded_at == posting.recorded_at
        assert posting.entries or any(change.posting == posting.number for change in life.changes)


def assert_seated(world: World, life: Customer) -> None:
    """Nobody has two seats; where the newest lose theirs, never more hold one than there are, behind any event."""
    for entitlement, account in life.accounts.items():
        names = [one.name for one in account.holders]
        assert len(names) == len(set(names))
        assert list(account.holders) == sorted(account.holders, key=lambda one: one.since)
        policy = world.catalogue.entitlements[entitlement]
        assert not names or policy.type is EntitlementType.SEATS
        book = Book(policy, account, life.open_grants(entitlement))
        seats = seats_of(book)
        is_due = account.next_transition_at is not None and account.next_transition_at <= (
            life.head.recorded_at or account.next_transition_at
        )
        if policy.on_shrink is OnShrink.REVOKE_NEWEST and seats is not None and not is_due:
            assert len(names) <= seats, (entitlement, names, seats)
    for decided in world.inbox.values():
        if isinstance(decided.event.fact, SeatsRevoked):
            assert world.catalogue.entitlements[decided.event.fact.entitlement].on_shrink is OnShrink.REVOKE_NEWEST


def assert_settling_again_changes_nothing(world: World, life: Customer) -> None:
    """Every account stands where a run from nothing over all its facts ends."""
    for entitlement, account in life.accounts.items():
        history = world.history_of(life.head.customer_id, entitlement)
        book = Book(world.catalogue.entitlements[entitlement], account, (), history)
        book.leaves_at = None if life.head.merge is None else life.head.merge.at
        # What is due at the instant of an event is recorded just before it, also of a customer it changed nothing of.
        recorded = [one.head.recorded_at for one in world.customers.values() if one.head.recorded_at is not None]
        recorded_at = life.head.recorded_at or max(recorded, default=AFTER_ALL)
        until = max(recorded_at, account.settled_at or recorded_at)
        lines = book.settle_again((until, "9"))
        assert lines == []
        # Up to where ends were told of beforehand is history: whoever settles again has told of all by then.
        warned = {"warned_at": account.warned_at, "warned_tie": account.warned_tie}
        assert msgspec.structs.replace(without_states(book.account), **warned) == without_states(account)
        assert [life.grants[grant.terms.grant_id] for grant in book.touched_grants()] == book.touched_grants()
        assert not book.made


def assert_states_hold(world: World, life: Customer) -> None:
    """Every day state is how a run from nothing stands at its instant, and tells of every grant that is not over."""
    for entitlement, states in life.states.items():
        if not states:
            continue
        history = world.history_of(life.head.customer_id, entitlement)
        assert [state.at for state in states] == sorted({state.at for state in states})
        stated_until = life.accounts[entitlement].stated_until
        assert stated_until is not None
        assert states[-1].at <= stated_until
        for state in states:
            book = Book(world.catalogue.entitlements[entitlement], Account(entitlement=entitlement), (), history)
            book.leaves_at = None if life.head.merge is None else life.head.merge.at
            run = fresh_run(book)
            usage = [fact for fact in history.usage if fact.at <= state.at]
            arrived = [one for one in book.arrived() if one.at <= state.at]
            stops, seen = _states_of(run, state.at)
            holds = [hold for hold in history.holds if hold.at <= state.at]
            run.run_all(usage, history.reversals, all_of(state.at), holds, arrived, stops=stops)
            (stood,) = seen
            assert _without_place(stood.account) == _without_place(state.account)
            told_at = {all_of(reversal.at) for reversal in history.reversals if reversal.at <= state.at}
            assert _place(state.account) in {_place(stood.account), *told_at}
            told = {one.grant_id: one for one in state.grants}
            now = {one.grant_id: one for one in map(standing_of, run.grants.values())}
            assert told == {grant_id: now[grant_id] for grant_id in told}
            assert {one.grant_id for one in stood.grants if one.phase is not Phase.ENDED} <= told.keys()


def _states_of(run: Course, at: datetime) -> tuple[Stops, list[DayState]]:
    """What has a run stop at an instant, and the states that it had at its stops, once it has run."""
    seen: list[DayState] = []
    return Stops([at], lambda _: seen.append(run.state())), seen


def _place(account: Account) -> tuple[datetime | None, str]:
    return account.settled_at, account.settled_tie


def _without_place(account: Account) -> Account:
    return msgspec.structs.replace(account, settled_at=None, settled_tie="")


def assert_units_moved(world: World) -> None:
    """What a transfer took from one customer is what the other got."""
    for customer in world.customers.values():
        for grant in customer.grants.values():
            terms = grant.terms
            if terms.moves_to is None or terms.amount is None or terms.rolls_into is None or grant.phase is Phase.VOID:
                continue
            child = world.customers[terms.moves_to].grants[terms.rolls_into]
            assert child.terms.amount == grant.moved, (grant, child)


def assert_told(world: World, life: Customer) -> None:
    """A change was told whenever the told fields differed, and only then; each begins where the one before it ended."""
    last: dict[str, dict[str, object]] = {}
    for change in life.changes:
        before, after = told_fields(change.before), told_fields(change.after)
        assert before != after or change.kinds in {("merged",), ("expiring_soon",)}, change
        assert before == last.get(change.entitlement, NOTHING[change.before.type]), change
        last[change.entitlement] = after
    assert life.head.recorded_at is not None
    for entitlement in world.catalogue.entitlements:
        shown = world.picture_of(life.head.customer_id, entitlement, life.head.recorded_at)
        assert told_fields(shown) == last.get(entitlement, NOTHING[shown.type]), shown


def told_fields(shown: EntitlementPicture) -> dict[str, object]:
    """What has to be told when it differs."""
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
        "is short": bool(shown.over_allocated),
    }


def _nothing(units: int | None, holders: tuple[str, ...] | None = None) -> dict[str, object]:
    return {
        "access": False,
        "allocation": units,
        "limit": (units, False),
        "value": None,
        "end": None,
        "state": "none",
        "holders": holders,
        "level": 0,
        "has overage": False,
        "has debt": False,
        "is short": False,
    }


NOTHING = {
    EntitlementType.ACCESS.value: _nothing(None),
    EntitlementType.QUOTA.value: _nothing(0),
    EntitlementType.SEATS.value: _nothing(0, ()),
    EntitlementType.SETTING.value: _nothing(None),
}
"""What is told of an entitlement that the customer never had, by its type."""


def assert_as_the_oracle_says(world: World, at: datetime) -> None:
    """Terms, every unit, and access at `at` are what a second opinion computes from the facts alone."""
    events = kept_events(world)
    recorded = {
        (decided.event.customer_id, decided.event.event_source, decided.event.event_id): decided.recorded_at
        for decided in world.inbox.values()
    }
    telling = Telling(recorded, world.settlement_window)
    homes = dict(world.claimants)
    expected_given = given(events, world.catalogue, NAMES, homes, lambda key: stands_at(world, key))
    holder_of = {one.name: one.holder for one in expected_given}
    expected_terms = [_comparable(one, holder_of) for one in expected_given]
    assert sorted(booked_terms(world), key=_by_name) == sorted(expected_terms, key=_by_name)
    expected = outcomes(events, world.catalogue, NAMES, at, telling, homes)
    for customer_id, customer in world.customers.items():
        for entitlement in world.catalogue.entitlements:
            of = expected.get((customer_id, entitlement))
            if of is None:
                continue
            shown = world.picture_of(customer_id, entitlement, at)
            assert shown_units(shown) == expected_units(of), (customer_id, entitlement)
            account = customer.accounts.get(entitlement)
            if (
                account is None
                or at
                != max(one.head.recorded_at for one in world.customers.values() if one.head.recorded_at is not None)
                or (account.next_transition_at is not None and account.next_transition_at <= at)
            ):
                continue
            booked = (account.usage, account.used_total, account.overage, account.debt, account.forgiven)
            assert booked == (of.usage, of.used, of.overage, of.debt, of.forgiven), (customer_id, entitlement)
            told = {event_key(*usage): dict(by) for usage, by in of.coverage.items()}
            assert coverage(world, entitlement, customer_id) == {key: by for key, by in told.items() if by}
            for key, counts in of.grants.items():
                assert counts == booked_counts(customer, key), (customer_id, entitlement)


def booked_terms(world: World) -> list[Given]:
    """The terms that the sources give, in the oracle's shape; what is booked says the same."""
    told = [
        _as_given(held.terms, held.customer_id)
        for key, state in world.sources.items()
        for held in terms(state, key, world.catalogue, world.merges(), stands_at(world, key))
    ]
    booked = [
        _as_given(grant.terms, customer_id)
        for customer_id, customer in world.customers.items()
        for grant in customer.grants.values()
        if grant.phase is not Phase.VOID and grant.terms.origin is not Origin.REGRANT
    ]
    assert sorted(told, key=_by_name) == sorted(booked, key=_by_name)
    return told


def stands_at(world: World, source_key: str) -> datetime:
    """Up to where the books of those whom a source ties have passed what is due."""
    claimant = world.claimants[source_key]
    tied = [world.customers[claimant], *(world.customers[one] for one in world.customers[claimant].head.linked)]
    return max(one.head.recorded_at for one in tied if one.head.recorded_at is not None)


def booked_counts(life: Customer, key: UUID) -> dict[str, int | None]:
    """The counters of a grant by name; of an unlimited one only what was used of it."""
    grant = life.grants[key]
    if grant.terms.amount is None:
        return {"granted": None, "used": grant.used}
    return {name: getattr(grant, name) for name in _GRANT_COUNTERS}


def coverage(world: World, entitlement: str, customer_id: str = "ada") -> Coverage:
    """Who covers each usage, added up from the lines."""
    found: dict[UUID, dict[object, int]] = defaultdict(lambda: defaultdict(int))
    for line in world.history_of(customer_id, entitlement).lines:
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
    covered = {usage: {by: units for by, units in of.items() if units} for usage, of in found.items()}
    return {usage: by for usage, by in covered.items() if by}


def shown_units(shown: EntitlementPicture) -> tuple[object, ...]:
    """What a picture shows, in the order in which `expected_units` says it."""
    causes = shown.suspension_causes or ()
    if not EntitlementType(shown.type).has_units:
        return (shown.allowed, shown.reason, causes, shown.value)
    if shown.type == EntitlementType.SEATS.value:
        units = (shown.limit, shown.used, shown.remaining, shown.level, shown.over_allocated)
        assert (shown.held, shown.overage, shown.debt, shown.forgiven) == (None, None, None, None)
        return (shown.allowed, shown.reason, causes, shown.holders, *units)
    return (
        shown.allowed,
        shown.reason,
        causes,
        shown.limit,
        shown.used,
        shown.held,
        shown.remaining,
        shown.overage,
        shown.debt,
        shown.forgiven,
        shown.level,
        shown.over_allocated,
    )


def expected_units(of: Outcome) -> tuple[object, ...]:
    """What a picture has to show by the oracle; of seats and of access only what those have."""
    if of.is_access:
        return (of.allowed, of.reason, of.suspended, of.value)
    if of.holders is not None:
        left = None if of.limit is None else max(0, of.limit - len(of.holders))
        units = (of.limit, len(of.holders), left, of.level, of.over_allocated)
        return (of.allowed, of.reason, of.suspended, of.holders, *units)
    remaining = None if of.limit is None else of.limit - of.used_in_force - of.held_in_force
    return (
        of.allowed,
        of.reason,
        of.suspended,
        of.limit,
        of.used_in_force,
        of.held_in_force,
        remaining,
        of.overage_counted,
        of.debt,
        of.forgiven,
        of.level,
        of.over_allocated,
    )


_GRANT_COUNTERS = ("granted", "available", "held", "used", "expired", "revoked", "moved")
_ACCOUNT_COUNTERS = ("usage", "used_total", "overage", "debt", "forgiven")


def _sums(lines: list[Line], names: tuple[str, ...]) -> dict[str, int]:
    return {name: sum(getattr(EFFECTS[line.kind], name) * line.units for line in lines) for name in names}


def _as_given(one: GrantTerms, holder: str) -> Given:
    return Given(
        name=one.grant_id,
        holder=holder,
        source=one.source_key,
        line=one.line_id,
        sku=one.sku,
        allowance=one.allowance,
        entitlement=one.entitlement,
        units=0 if one.origin is Origin.TRANSFER and one.amount is not None else one.amount,
        priority=one.priority,
        start=one.effective_at,
        end=one.expires_at,
        period_start=one.period_start,
        generation=one.generation,
        parent=one.parent,
        origin="" if one.origin is None else one.origin.value,
        taken_back=tuple(
            sorted(TakenBack(cut.cut_id, cut.at, cut.units, cut.policy.value) for cut in one.cuts if cut.beyond is None)
        ),
        suspensions=tuple(
            sorted((Suspended(each.cause, each.starts_at, each.ends_at) for each in one.suspensions), key=_by_start)
        ),
        rolls_into=None if one.moves_to else one.rolls_into,
        rollover_max=one.rollover_max,
        value=one.value,
    )


def _comparable(one: Given, holder_of: dict[UUID, str]) -> Given:
    """The oracle's grant with its lists in one order; nothing rolls over to another customer."""
    rolls = one.rolls_into is not None and holder_of[one.rolls_into] == one.holder
    return one._replace(
        taken_back=tuple(sorted(one.taken_back)),
        suspensions=tuple(sorted(one.suspensions, key=_by_start)),
        rolls_into=one.rolls_into if rolls else None,
        rollover_max=one.rollover_max if rolls else None,
    )


def _by_start(one: Suspended) -> tuple[datetime, str]:
    return (one.starts, one.cause)


def _by_name(one: Given) -> bytes:
    return one.name.bytes
