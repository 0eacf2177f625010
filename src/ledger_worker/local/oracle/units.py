"""Where every single unit is at an instant, from all facts at once: the other half of a second opinion.

A grant is piles of its units, a usage is a list of its units, and time is walked from the first instant to the one
asked for. No unit is ever counted by adding and taking away, so nothing here can drift. Comments and docstrings name
the paragraph of `docs/reference/rules.md` that the code beside them follows.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from typing import NamedTuple
from uuid import UUID

import msgspec

from ledger_worker.domain.catalogue import (
    Catalogue,
    DebtPolicy,
    Entitlement,
    EntitlementType,
    LateUsage,
    LimitPolicy,
    OnShrink,
    OveragePolicy,
    ReturnAfterEnd,
)
from ledger_worker.domain.events import (
    Event,
    HoldConfirmed,
    PurchaseTransferred,
    SubscriptionTransferred,
    UsageRecorded,
    UsageReversed,
)
from ledger_worker.local.oracle.holds import Holds
from ledger_worker.local.oracle.seats import booked_until, evicted_later, holders_of, is_due
from ledger_worker.local.oracle.settings import value_at
from ledger_worker.local.oracle.terms import Given, Made, NameOfGrant, TakenBack, Terms, terms_of

ENDS, BEGINS, CUTS, PAYMENT, HOLD_ENDS, USAGE = range(6)
"""Settlement: the order of what happens at one instant. Whether a grant is suspended is asked when it matters."""

PERCENT = 100
NO_END = datetime.max.replace(tzinfo=UTC)
TRANSFERS = (PurchaseTransferred, SubscriptionTransferred)

UsageKey = tuple[str, str]
"""Event source and event id."""


class Telling(NamedTuple):
    """When usage was recorded, by (customer, event source, event id), and how far back it may lie then.

    What is not named was recorded when it occurred.
    """

    recorded: Mapping[tuple[str, str, str], datetime]
    window: timedelta


class Reversal(NamedTuple):
    """Of one usage, `units` (None: all) were not used after all; it stands at `at`, and `tie` is its event."""

    reversal_id: str
    at: datetime
    units: int | None
    tie: UsageKey = ("", "")


class Unit(msgspec.Struct, eq=False):
    """One unit of a grant."""


class UsedUnit(msgspec.Struct, eq=False, kw_only=True):
    """One unit of usage: `covered` by a unit of a grant, or `overage`, `debt` or `forgiven`.

    `covered_as` numbers all coverings; `owed_since` is the instant and phase where it came to be owed, and its number.
    """

    usage: UsageKey
    customer: str
    at: datetime
    state: str = "overage"
    grant: "Held | None" = None
    unit: Unit | None = None
    covered_as: int = 0
    owed_since: tuple[datetime, int, int] | None = None


class Held(msgspec.Struct, eq=False, kw_only=True):
    """A grant and its units, each in one pile; of an unlimited grant there are only the used ones.

    `used` is in order of covering. `open` is what a cut has asked for and not taken. For each unit that came back by a
    reversal and may be granted once more, `came_back` has that.
    """

    made: Made
    parent: "Held | None" = None
    children: "list[Held]" = msgspec.field(default_factory=list)
    free: list[Unit] = msgspec.field(default_factory=list)
    used: list[UsedUnit] = msgspec.field(default_factory=list)
    expired: list[Unit] = msgspec.field(default_factory=list)
    revoked: list[Unit] = msgspec.field(default_factory=list)
    moved: list[Unit] = msgspec.field(default_factory=list)
    held: list[Unit] = msgspec.field(default_factory=list)
    open: dict[str, int] = msgspec.field(default_factory=dict)
    came_back: list[Reversal] = msgspec.field(default_factory=list)
    has_begun: bool = False
    has_ended: bool = False

    @property
    def terms(self) -> Given:
        """What the grant is by its source."""
        return self.made.grant

    @property
    def granted(self) -> int:
        """Every unit that it ever had."""
        piles = (self.free, self.held, self.used, self.expired, self.revoked, self.moved)
        return sum(len(pile) for pile in piles)

    @property
    def is_active(self) -> bool:
        """Whether it has begun and not ended."""
        return self.has_begun and not self.has_ended

    @property
    def counts(self) -> bool:
        """A child that received nothing counts for nothing."""
        return self.parent is None or self.terms.units is None or self.granted > 0

    @property
    def root(self) -> "Held":
        """What it all comes from."""
        return self if self.parent is None else self.parent.root

    def causes(self, at: datetime) -> list[str]:
        """Why it does not burn at that instant; empty where it does."""
        return [one.cause for one in self.terms.suspensions if one.starts <= at and (one.ends is None or at < one.ends)]

    @property
    def is_of_a_run(self) -> bool:
        """Whether a run of an item gave it, to whichever customer: no roll-over, nothing granted once more."""
        if self.parent is None:
            return True
        return self.terms.origin == "transfer" and self.parent.is_of_a_run

    def revoke(self, pile: list[Unit], most: int) -> int:
        """How many units, at most `most`, went from this pile of its own to those taken back."""
        units = min(most, len(pile))
        self.revoked += [pile.pop() for _ in range(units)]
        return units

    def move(self, most: int, to: "Held") -> None:
        """Units that are available, at most so many, go on in another grant."""
        for _ in range(min(most, len(self.free))):
            self.moved.append(self.free.pop())
            to.free.append(Unit())

    def lineage(self) -> "list[Held]":
        """Cuts: the grant, then its children and theirs, by generation, then start, then id."""
        found, left = [self], list(self.children)
        while left:
            one = left.pop()
            found.append(one)
            left += one.children
        rest = sorted(found[1:], key=lambda one: (one.terms.generation, one.terms.start, one.terms.name.bytes))
        return [self, *rest]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What is so at an instant, of one customer and entitlement."""

    is_access: bool
    allowed: bool
    reason: str
    state: str
    usage: int
    used: int
    overage: int
    debt: int
    forgiven: int
    limit: int | None
    used_in_force: int
    held_in_force: int
    overage_counted: int
    over_allocated: int
    level: int | None
    value: str | None
    holders: tuple[str, ...] | None
    suspended: tuple[str, ...]
    grants: dict[UUID, dict[str, int | None]]
    coverage: dict[UsageKey, dict[UUID | str, int]]


def outcomes(
    events: Sequence[Event],
    catalogue: Catalogue,
    name: NameOfGrant,
    at: datetime,
    telling: Telling | None = None,
    homes: Mapping[str, str] | None = None,
) -> dict[tuple[str, str], Outcome]:
    """What the facts come to at `at`, for every customer they name and every entitlement of the catalogue.

    `telling` says when usage was told (None: all of it when it occurred), `homes` whose facts about a source came
    first.
    """
    once = list({(one.customer_id, one.event_source, one.event_id): one for one in reversed(events)}.values())[::-1]
    terms = terms_of(once, catalogue, name, homes, lambda _: at)
    customers = {one.customer_id for one in once} | {one.grant.holder for one in terms.made}
    customers |= {merge.to for _, merge in terms.aliases.merges}
    customers |= {one.fact.to_customer_id for one in once if isinstance(one.fact, TRANSFERS)}
    found = {}
    for key, entitlement in catalogue.entitlements.items():
        walk = walked(entitlement, terms, name, at, once, telling)
        if entitlement.type is EntitlementType.SEATS:
            recorded = telling.recorded if telling else {}
            walk.holders = holders_of(key, once, terms, recorded, at)
            walk.evicted_later = evicted_later(key, once, at)
            walk.booked_until = booked_until(once, terms, recorded)
        found.update({(customer, key): walk.outcome(customer) for customer in customers})
    return found


def walked(
    entitlement: Entitlement,
    terms: Terms,
    name: NameOfGrant,
    at: datetime,
    events: Sequence[Event],
    telling: Telling | None,
) -> "Walk":
    """The walk up to `at`; again and again, until nothing new follows a transfer."""
    follows: Counter[UUID] = Counter()
    while True:
        walk = Walk(entitlement, terms, name, at, follows)
        walk.tell(events, telling)
        walk.run()
        if walk.followed == follows:
            return walk
        follows = walk.followed


class Walk:
    """One entitlement of all customers, walked from the first instant to `until`."""

    HOLD_ENDS, USAGE = HOLD_ENDS, USAGE

    def __init__(
        self,
        entitlement: Entitlement,
        terms: Terms,
        name: NameOfGrant,
        until: datetime,
        follows: Mapping[UUID, int],
    ) -> None:
        self.entitlement = entitlement
        self.terms = terms
        self.name = name
        self.until = until
        self.follows = follows
        self.followed: Counter[UUID] = Counter()
        self.grants: dict[UUID, Held] = {}
        self.used: list[UsedUnit] = []
        self.coverings = 0
        self.numbered = 0
        self.holds = Holds(self)
        self.holders: dict[str, list[str]] = {}
        self.evicted_later: set[str] = set()
        self.booked_until: dict[str, datetime] = {}
        self.ended_last: dict[str, datetime] = {}
        self.happenings: list[tuple[datetime, int, tuple[str | int, ...], int, Callable[[], None]]] = []
        own = [one for one in terms.made if one.grant.entitlement == entitlement.key]
        for made in sorted(own, key=lambda one: (one.grant.start, one.grant.generation)):
            self.add(made)

    def add(self, made: Made) -> Held:
        """The grant is known, and everything that its terms say will happen."""
        terms = made.grant
        parent = self.grants[terms.parent] if terms.parent else None
        grant = self.grants[terms.name] = Held(made=made, parent=parent)
        grant.free = [Unit() for _ in range(terms.units or 0)]
        if parent:
            parent.children.append(grant)
        tie = (terms.name.hex,)
        self.at(terms.start, BEGINS, tie, partial(self.begin, grant))
        self.at(terms.start, PAYMENT, tie, partial(self.pay, grant))
        if terms.end is not None:
            self.at(terms.end, ENDS, (terms.generation, *tie), partial(self.end, grant))
        for cut in terms.taken_back:
            self.at(cut.at, CUTS, (*tie, cut.why), partial(self.take_back, grant, cut))
        return grant

    def at(self, when: datetime, phase: int, tie: tuple[str | int, ...], happen: Callable[[], None]) -> None:
        """It happens then, after everything of an earlier phase or a lower tie."""
        self.numbered += 1
        heappush(self.happenings, (when, phase, tie, self.numbered, happen))

    def tell(self, events: Sequence[Event], telling: Telling | None) -> None:
        """Usage happens where it counts, with everything that was told to reverse it; merges where they occurred.

        Late usage: beyond the window it happens when it was recorded, or burns nothing, or does not happen.
        """
        told = [one for one in events if isinstance(one.fact, UsageRecorded) and self.is_about(one.fact.entitlement)]
        reversals = self.reversals(events, told)
        for event in told:
            usage = (event.event_source, event.event_id)
            when, burns = event.occurred_at, True
            if telling:
                recorded = telling.recorded.get((event.customer_id, *usage), when)
                when = min(when, recorded)
                if recorded > when + telling.window:
                    burns = self.entitlement.late_usage is not LateUsage.OVERAGE
                    if self.entitlement.late_usage is LateUsage.IGNORE_AND_TELL:
                        continue
                    if self.entitlement.late_usage is LateUsage.COUNT_NOW:
                        when = recorded
            tie = (*usage, event.customer_id)
            taken_back = reversals.get((event.customer_id, usage), [])
            self.at(when, USAGE, tie, partial(self.use, event, when, taken_back, burns=burns))
        self.holds.tell(events, reversals)
        for old, merge in self.terms.aliases.merges:
            self.at(merge.at, ENDS, (0, merge.why), partial(self.merge, old, merge.at))

    def is_about(self, entitlement: str) -> bool:
        """Whether it is this entitlement."""
        return entitlement == self.entitlement.key

    def reversals(self, events: Sequence[Event], told: Sequence[Event]) -> dict[tuple[str, UsageKey], list[Reversal]]:
        """Reversal of usage: of each customer's usage, by (`occurred_at`, event source, event id).

        Of several tellings of one reversal id the last wins, and stands where it was first told so. The usage is the
        customer's own, or else of who is the same person by now.
        """
        aliases = self.terms.aliases
        known = {(one.customer_id, (one.event_source, one.event_id)) for one in told}
        known |= {
            (one.customer_id, (one.event_source, one.fact.hold_event_id))
            for one in events
            if isinstance(one.fact, HoldConfirmed) and self.is_about(one.fact.entitlement)
        }
        last: dict[tuple[str, str], tuple[Event, tuple[str, UsageKey], Reversal]] = {}
        for event in sorted(events, key=lambda one: (one.occurred_at, one.event_source, one.event_id)):
            fact, customer = event.fact, event.customer_id
            if isinstance(fact, UsageReversed) and self.is_about(fact.entitlement):
                usage = (fact.usage_event_source or event.event_source, fact.usage_event_id)
                same = [one for one, key in sorted(known) if key == usage and aliases.of(one) == aliases.of(customer)]
                whose = customer if customer in same or not same else same[0]
                reversal = Reversal(
                    fact.reversal_id, event.occurred_at, fact.units, (event.event_source, event.event_id)
                )
                before = last.get((aliases.of(customer), fact.reversal_id))
                if before is None or (before[1], before[2].units) != ((whose, usage), fact.units):
                    last[aliases.of(customer), fact.reversal_id] = (event, (whose, usage), reversal)
        found: dict[tuple[str, UsageKey], list[Reversal]] = {}
        in_order = sorted(last.values(), key=lambda one: (one[0].occurred_at, one[0].event_source, one[0].event_id))
        for _, key, reversal in in_order:
            found.setdefault(key, []).append(reversal)
        return found

    def merge(self, old: str, at: datetime) -> None:
        """Merge: all overage and debt becomes the new customer's, and stays owed since its own instants."""
        self.holds.merge(old, at)
        for one in self.used:
            if one.customer == old and one.state in {"overage", "debt"}:
                one.customer = self.terms.aliases.of(old, at)

    def run(self) -> None:
        """Everything up to the instant asked for has happened."""
        while self.happenings and self.happenings[0][0] <= self.until:
            heappop(self.happenings)[-1]()

    def begin(self, grant: Held) -> None:
        """The grant is active, with what will follow it by then or later."""
        grant.has_begun = True
        grant.free += [Unit() for _ in range(self.follows.get(grant.terms.name, 0))]

    def end(self, grant: Held) -> None:
        """Ending: what is available rolls over, moves, is granted once more, or expires."""
        terms = grant.terms
        grant.has_ended = True
        if grant.counts and terms.end is not None:
            self.ended_last[terms.holder] = terms.end
        self.pass_on(grant)
        self.grant_again(grant, terms.end or self.until)
        grant.expired += grant.free
        grant.free.clear()

    def grant_again(self, grant: Held, at: datetime) -> None:
        """Reversal of usage: of what has come back by `at` and is there, the first reversals get theirs."""
        first = sorted(grant.came_back, key=lambda one: (one.at, one.tie))
        for reversal in first[: len(grant.free)]:
            grant.moved.append(grant.free.pop())
            self.granted_again(grant, reversal, at).free.append(Unit())
        grant.came_back.clear()

    def follow(self, grant: Held) -> None:
        """Transfer: what comes back to the giver later is the receiver's since the transfer."""
        for receiver in grant.children:
            if receiver.terms.origin == "transfer":
                self.followed[receiver.terms.name] += len(grant.free)
                grant.moved += grant.free
                grant.free.clear()

    def pass_on(self, grant: Held) -> list[Held]:
        """Ending: what is available moves with a transfer, or rolls over; returns to whom it may have."""
        terms = grant.terms
        receivers = []
        for receiver in grant.children:
            if receiver.terms.origin == "transfer":
                grant.move(len(grant.free), receiver)
        if terms.rolls_into and terms.rollover_max:
            child = self.grants[terms.rolls_into]
            if child.terms.holder == terms.holder:
                grant.move(terms.rollover_max - self.rolled_into(child.terms), child)
                receivers.append(child)
        return receivers

    def rolled_into(self, child: Given) -> int:
        """Roll-over: what all children of one allowance, item and period have received together."""
        return sum(
            one.granted
            for one in self.grants.values()
            if one.terms.origin == child.origin
            and (one.terms.source, one.terms.line, one.terms.allowance, one.terms.period_start)
            == (child.source, child.line, child.allowance, child.period_start)
        )

    def granted_again(self, grant: Held, reversal: Reversal, at: datetime) -> Held:
        """Reversal of usage: a child from where the reversal stands, but not before `at`; as long as the parent was."""
        terms = grant.terms
        name = self.name.child(terms.name, "regrant", reversal.reversal_id)
        if name not in self.grants and terms.end is not None:
            start = max(reversal.at, at)
            child = terms._replace(
                name=name,
                units=0,
                start=start,
                end=start + (terms.end - terms.start),
                parent=terms.name,
                origin="regrant",
                taken_back=(),
                suspensions=(),
                rolls_into=None,
                rollover_max=None,
            )
            self.add(grant.made._replace(grant=child))
        return self.grants[name]

    def burning_order(self, customer: str, at: datetime) -> list[Held]:
        """Burning: limited first, lower priority number, sooner end, higher generation, earlier start, id."""
        return sorted(
            (
                one
                for one in self.grants.values()
                if one.is_active and one.terms.holder == customer and not one.causes(at)
            ),
            key=lambda one: (
                one.terms.units is None,
                one.terms.priority,
                one.terms.end or NO_END,
                -one.terms.generation,
                one.terms.start,
                one.terms.name.bytes,
            ),
        )

    def use(self, event: Event, at: datetime, reversals: Sequence[Reversal], *, burns: bool) -> None:
        """The usage burns whole, then what was reversed goes back: overage first, then what was covered last.

        Where it does not burn, all of it is overage. From a merge on it is the new customer's.
        """
        units = event.fact.units if isinstance(event.fact, UsageRecorded) else 0
        usage, customer = (event.event_source, event.event_id), self.terms.aliases.of(event.customer_id, at)
        order = self.burning_order(customer, at) if burns else []
        burnt = [UsedUnit(usage=usage, customer=customer, at=at) for _ in range(units)]
        for one in burnt:
            any(self.cover(grant, one) for grant in order)
        for reversal in reversals:
            for _ in range(len(burnt) if reversal.units is None else min(reversal.units, len(burnt))):
                self.give_back(burnt.pop(), reversal)
        self.used += burnt
        if self.entitlement.overage is OveragePolicy.CARRY:
            self.owe([one for one in burnt if one.state == "overage"], at, USAGE)

    def use_one(self, usage: UsageKey, customer: str, at: datetime) -> UsedUnit:
        """One unit is used, and nothing covers it yet."""
        one = UsedUnit(usage=usage, customer=customer, at=at)
        self.used.append(one)
        return one

    def cover(self, grant: Held, one: UsedUnit) -> bool:
        """Whether the grant had a unit for it, which it then covers."""
        if grant.terms.units is not None:
            if not grant.free:
                return False
            one.unit = grant.free.pop()
        self.cover_with(one, grant, one.unit)
        return True

    def cover_with(self, one: UsedUnit, grant: Held, unit: Unit | None) -> None:
        """The grant's unit covers it."""
        self.coverings += 1
        one.state, one.grant, one.covered_as, one.owed_since = "covered", grant, self.coverings, None
        one.unit = unit
        grant.used.append(one)

    def give_back(self, one: UsedUnit, reversal: Reversal) -> None:
        """The unit was not used after all; its grant has it again."""
        grant, unit = one.grant, one.unit
        if grant is None:
            return
        grant.used.pop()  # what was covered last goes back first
        if unit is None:
            return
        self.may_be_granted_again(grant, reversal)
        grant.free.append(unit)

    @staticmethod
    def may_be_granted_again(grant: Held, reversal: Reversal) -> None:
        """Reversal of usage: a unit of the grant comes back, which is granted once more if it is then not needed."""
        allowance, end = grant.made.allowance, grant.terms.end
        is_regranted = allowance is not None and allowance.return_after_end is ReturnAfterEnd.REGRANT
        if is_regranted and end is not None and reversal.at >= end:
            grant.came_back.append(reversal)

    def owe(self, units: Sequence[UsedUnit], at: datetime, phase: int) -> None:
        """These are owed from now on, in this order."""
        for one in units:
            self.numbered += 1
            one.owed_since = (at, phase, self.numbered)

    def pay(self, grant: Held) -> None:
        """Payment: where a grant begins, the oldest first; a child pays only what was owed when its root began."""
        began = (grant.root.terms.start, PAYMENT, 0)
        owed = [
            (one.owed_since, one)
            for one in self.used
            if one.owed_since is not None
            and one.customer == grant.terms.holder
            and (grant.parent is None or one.owed_since < began)
        ]
        for _, one in sorted(owed, key=lambda pair: pair[0]):
            if not self.cover(grant, one):
                break

    def take_back(self, grant: Held, cut: TakenBack) -> None:
        """Cuts: what is available in the lineage; by `full_with_debt` then what expired of it, then what was used."""
        lineage = grant.lineage()
        left = self.used_before(grant, cut) if cut.policy == "opening" else cut.units
        is_full = cut.policy == "full_with_debt"
        for one in lineage:
            left -= one.revoke(one.free, left)
        self.holds.found_by(grant, cut, lineage, 0 if is_full else left)
        for one in lineage if is_full else ():
            left -= one.revoke(one.expired, left)
        if is_full:
            left = self.holds.take_back(lineage, left)
            left = self.uncover(lineage, left, cut.at)
            # Transfer: what reaches beyond the units that moved is taken from what the giver used.
            giver = grant
            while left and giver.parent and giver.terms.origin == "transfer":
                giver = giver.parent
                left = self.holds.take_back([giver], left)
                left = self.uncover([giver], left, cut.at)
        if cut.policy in {"opening", "shrink"}:
            grant.open[cut.why] = left

    def used_before(self, grant: Held, cut: TakenBack) -> int:
        """Segments: all that was then used of what earlier runs of that item and period gave of the entitlement."""
        terms = grant.terms
        return sum(
            len(one.used)
            for one in self.grants.values()
            if one.is_of_a_run
            and one.terms.holder == terms.holder
            and (one.terms.source, one.terms.line, one.terms.period_start)
            == (terms.source, terms.line, terms.period_start)
            and one.made.closes is not None
            and one.made.closes <= cut.at
        )

    def uncover(self, grants: Sequence[Held], units: int, at: datetime) -> int:
        """Use is un-covered, the latest covered first over all of the grants; what could not be is returned.

        That usage becomes debt, or is forgiven.
        """
        newly_owed: dict[tuple[UsageKey, str], list[UsedUnit]] = {}
        left = units
        while left and any(grant.used for grant in grants):
            grant = max((grant for grant in grants if grant.used), key=lambda one: one.used[-1].covered_as)
            one = grant.used.pop()
            grant.revoked.append(one.unit or Unit())
            one.grant, one.unit = None, None
            one.state = "forgiven" if self.entitlement.debt is DebtPolicy.FORGIVE else "debt"
            if one.state == "debt":
                one.customer = self.terms.aliases.of(one.customer, at)
            newly_owed.setdefault((one.usage, one.customer), []).append(one)
            left -= 1
        if self.entitlement.debt is not DebtPolicy.FORGIVE:
            self.owe([one for of_usage in newly_owed.values() for one in of_usage], at, CUTS)
        return left

    def outcome(self, customer: str) -> Outcome:
        """What the walk has come to for one customer."""
        own = [one for one in self.grants.values() if one.terms.holder == customer]
        active = [one for one in own if one.is_active and one.counts]
        in_force = [one for one in active if not one.causes(self.until)]
        used = [one for one in self.used if one.customer == customer]
        states = Counter(one.state for one in used)
        is_quota = self.entitlement.type is EntitlementType.QUOTA
        is_seats = self.entitlement.type is EntitlementType.SEATS
        has_limit = (is_quota or is_seats) and all(one.terms.units is not None for one in in_force)
        limit = sum(len(one.free) + len(one.held) + len(one.used) for one in in_force)
        used_in_force = sum(len(one.used) for one in in_force)
        # Thresholds: overage of usage not before the earliest start among these, or, without any, the last end.
        since = min((one.terms.start for one in in_force), default=self.ended_last.get(customer))
        counted = sum(one.state == "overage" and (since is None or one.at >= since) for one in used)
        coverage: dict[UsageKey, Counter[UUID | str]] = {}
        for one in used:
            coverage.setdefault(one.usage, Counter())[one.grant.terms.name if one.grant else one.state] += 1
        over_allocated = sum(sum(one.open.values()) for one in active)
        holders = self.holders.get(customer, [])
        if is_seats:
            used_in_force = len(holders)
            # Seats: those of suspended grants count here.
            seats = [unit for one in active for unit in one.free]
            is_endless = any(one.terms.units is None for one in active)
            evicts = self.entitlement.on_shrink is OnShrink.REVOKE_NEWEST and customer not in self.evicted_later
            evicts = evicts and is_due([one.terms for one in own], self.booked_until.get(customer), self.until)
            if evicts and not is_endless:
                # Where nobody has booked it yet, the newest have lost their seats all the same.
                holders = holders[: len(seats)]
                used_in_force = len(holders)
            over_allocated = 0 if is_endless else len(holders[len(seats) :])
        state = self.state(own, active, in_force)
        reason = self.reason(state, in_force, is_in_debt=states["debt"] > 0)
        return Outcome(
            is_access=not is_quota and not is_seats,
            allowed=reason == "allowed",
            reason=reason,
            state=state,
            usage=len(used),
            used=states["covered"],
            overage=states["overage"],
            debt=states["debt"],
            forgiven=states["forgiven"],
            limit=limit if has_limit else None,
            used_in_force=used_in_force,
            held_in_force=sum(len(one.held) for one in in_force),
            overage_counted=counted,
            over_allocated=over_allocated,
            level=self.level(limit, used_in_force + counted) if has_limit else None,
            holders=tuple(holders) if is_seats else None,
            value=value_at(self.entitlement, [one.terms for one in in_force]),
            suspended=tuple(sorted({cause for one in active for cause in one.causes(self.until)})),
            grants={one.terms.name: counted_units(one) for one in own},
            coverage={usage: dict(by) for usage, by in coverage.items()},
        )

    def state(self, own: Sequence[Held], active: Sequence[Held], in_force: Sequence[Held]) -> str:
        """In what state the customer's grants are together."""
        if not in_force:
            if active:
                return "suspended"
            if any(not one.has_begun and one.counts for one in own):
                return "pending"
            return "expired" if any(one.has_ended and one.counts for one in own) else "none"
        if any(one.terms.units is None or one.free for one in in_force):
            return "active"
        return (
            "exhausted"
            if any(one.used or one.held for one in in_force) or not any(one.granted for one in in_force)
            else "revoked"
        )

    def reason(self, state: str, in_force: Sequence[Held], *, is_in_debt: bool) -> str:
        """Why the entitlement may be used or not, the first that is true."""
        if in_force and is_in_debt and self.entitlement.debt is DebtPolicy.BLOCK:
            return "in_debt"
        is_soft = self.entitlement.limit is LimitPolicy.SOFT
        if state == "active" or (
            is_soft and any(len(one.revoked) < one.granted or not one.granted for one in in_force)
        ):
            return "allowed"
        return {"pending": "not_yet_active", "none": "not_entitled"}.get(state, state)

    def level(self, limit: int, counted: int) -> int:
        """Thresholds: the highest percent that is reached."""
        if limit == counted == 0:
            return 0
        return max((one for one in self.entitlement.thresholds if PERCENT * counted >= one * limit), default=0)


def counted_units(grant: Held) -> dict[str, int | None]:
    """How many units are in each pile."""
    if grant.terms.units is None:
        return {"granted": None, "used": len(grant.used)}
    return {
        "granted": grant.granted,
        "available": len(grant.free),
        "held": len(grant.held),
        "used": len(grant.used),
        "expired": len(grant.expired),
        "revoked": len(grant.revoked),
        "moved": len(grant.moved),
    }
