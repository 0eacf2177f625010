"""Where every single unit of a customer is at an instant, from all facts at once: the other half of a second opinion.

A grant is a list of its units, a usage is a list of its units, and time is walked from the first instant to the one
asked for. No unit is ever counted by adding and taking away, so nothing here can drift.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from ledger_worker.domain.catalogue import Catalogue, Entitlement
from ledger_worker.domain.events import Event, UsageRecorded
from tests.oracle.terms import Given, NameOfGrant, given


class Unit(msgspec.Struct, eq=False):
    """One unit of a grant: `free`, or what became of it; `of` is the used unit that it covers."""

    state: str = "free"
    of: "UsedUnit | None" = None


class Held(msgspec.Struct, eq=False):
    """A grant with its units (an unlimited one has as many as are used of it).

    `covered` are used units in order of covering.
    """

    terms: Given
    units: list[Unit]
    is_active: bool = False
    has_ended: bool = False
    covered: "list[UsedUnit]" = msgspec.field(default_factory=list)

    def count(self, state: str) -> int:
        return sum(unit.state == state for unit in self.units)


class UsedUnit(msgspec.Struct, eq=False):
    """One unit of usage: covered by a grant, or overage, debt or forgiven."""

    usage: tuple[str, str]
    at: datetime
    state: str
    by: Held | None = None


class Owed(NamedTuple):
    """Used units that are owed together since one instant, in the order in which they are paid."""

    units: list[UsedUnit]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What is so at an instant, per entitlement."""

    is_access: bool
    allowed: bool
    usage: int
    used: int
    overage: int
    debt: int
    forgiven: int
    limit: int | None
    used_in_force: int
    overage_counted: int
    level: int | None
    grants: dict[object, dict[str, int | None]]
    coverage: dict[tuple[str, str], dict[object, int]]


def outcome(
    events: Sequence[Event],
    catalogue: Catalogue,
    name: NameOfGrant,
    at: datetime,
    counted: dict[tuple[str, str], datetime] | None = None,
) -> dict[str, Outcome]:
    """What the facts of one customer come to at `at`, for every entitlement of the catalogue.

    `counted` says at which instant a usage counts where that is not its `occurred_at` (dated ahead of its arrival).
    """
    terms = given(events, catalogue, name)
    return {
        key: Walk(entitlement, [one for one in terms if one.entitlement == key], events, counted or {}, at).outcome()
        for key, entitlement in catalogue.entitlements.items()
    }


class Walk:
    """One entitlement, walked from the first instant to `until`."""

    def __init__(
        self,
        entitlement: Entitlement,
        terms: Sequence[Given],
        events: Sequence[Event],
        counted: dict[tuple[str, str], datetime],
        until: datetime,
    ) -> None:
        self.entitlement = entitlement
        self.until = until
        self.grants = [Held(one, [Unit() for _ in range(one.units or 0)]) for one in terms]
        self.used: list[UsedUnit] = []
        self.owed: list[UsedUnit] = []
        self.last_end: datetime | None = None
        happenings: list[tuple[datetime, int, tuple[str, ...], object]] = []
        for grant in self.grants:
            tie = grant.terms.name.hex
            happenings += [
                (grant.terms.start, 2, (tie,), lambda grant=grant: self.begin(grant)),
                (grant.terms.start, 5, (tie,), lambda grant=grant: self.pay(grant)),
            ]
            if grant.terms.end is not None:
                happenings.append((grant.terms.end, 0, (tie,), lambda grant=grant: self.end(grant)))
            happenings += [
                (one.at, 4, (tie, one.why), lambda grant=grant, one=one: self.take_back(grant, one.units, one.policy))
                for one in grant.terms.taken_back
            ]
        for event in events:
            if isinstance(event.fact, UsageRecorded) and event.fact.entitlement == entitlement.key:
                key = (event.event_source, event.event_id)
                when = counted.get(key, event.occurred_at)
                happenings.append(
                    (when, 7, key, lambda key=key, when=when, units=event.fact.units: self.use(key, when, units))
                )
        for when, _, _, happen in sorted(happenings, key=lambda one: one[:3]):
            if when <= until:
                assert callable(happen)
                happen()

    def begin(self, grant: Held) -> None:
        grant.is_active = True

    def end(self, grant: Held) -> None:
        grant.is_active, grant.has_ended = False, True
        self.last_end = grant.terms.end
        for unit in grant.units:
            if unit.state == "free":
                unit.state = "expired"

    def pay(self, grant: Held) -> None:
        while self.owed and self.cover(grant, self.owed[0]):
            self.owed.pop(0)

    def use(self, key: tuple[str, str], when: datetime, units: int) -> None:
        for _ in range(units):
            unit = UsedUnit(key, when, "overage")
            self.used.append(unit)
            if (
                not any(self.cover(grant, unit) for grant in self.burning_order())
                and self.entitlement.overage.value == "carry"
            ):
                self.owed.append(unit)

    def burning_order(self) -> list[Held]:
        """Unlimited last; then priority, sooner end, earlier start, id."""
        return sorted(
            (grant for grant in self.grants if grant.is_active),
            key=lambda grant: (
                grant.terms.units is None,
                grant.terms.priority,
                grant.terms.end is None,
                grant.terms.end or grant.terms.start,
                grant.terms.start,
                grant.terms.name.bytes,
            ),
        )

    def cover(self, grant: Held, used: UsedUnit) -> bool:
        if grant.terms.units is None:
            grant.units.append(Unit())
        free = next((unit for unit in grant.units if unit.state == "free"), None)
        if free is None:
            return False
        free.state, free.of = "used", used
        used.state, used.by = "covered", grant
        grant.covered.append(used)
        return True

    def take_back(self, grant: Held, units: int, policy: str) -> None:
        """Free units first; by `full_with_debt` then expired ones, then used ones, the latest covered first."""
        states = ["free", "expired"] if policy == "full_with_debt" else ["free"]
        chosen = [unit for state in states for unit in grant.units if unit.state == state][:units]
        for unit in chosen:
            unit.state = "revoked"
        if policy != "full_with_debt":
            return
        newly_owed: dict[tuple[str, str], list[UsedUnit]] = {}
        for _ in range(min(units - len(chosen), len(grant.covered))):
            used = grant.covered.pop()
            next(unit for unit in grant.units if unit.of is used).state = "revoked"
            next(unit for unit in grant.units if unit.of is used).of = None
            used.by = None
            used.state = "forgiven" if self.entitlement.debt.value == "forgive" else "debt"
            newly_owed.setdefault(used.usage, []).append(used)
        if self.entitlement.debt.value != "forgive":
            self.owed += [unit for of_usage in newly_owed.values() for unit in of_usage]

    def outcome(self) -> Outcome:
        in_force = [grant for grant in self.grants if grant.is_active]
        is_quota = self.entitlement.type.value == "quota"
        unlimited = any(grant.terms.units is None for grant in in_force)
        limit = sum(grant.count("free") + grant.count("used") for grant in in_force)
        used_in_force = sum(len(grant.covered) for grant in in_force)
        since = min((grant.terms.start for grant in in_force), default=self.last_end)
        counted = sum(unit.state == "overage" and (since is None or unit.at >= since) for unit in self.used)
        states = Counter(unit.state for unit in self.used)
        coverage: dict[tuple[str, str], Counter[object]] = {}
        for unit in self.used:
            covering = unit.state if unit.by is None else unit.by.terms.name
            coverage.setdefault(unit.usage, Counter())[covering] += 1
        return Outcome(
            is_access=not is_quota,
            allowed=self.is_allowed(in_force, unlimited=unlimited or not is_quota, owes=states["debt"] > 0),
            usage=len(self.used),
            used=states["covered"],
            overage=states["overage"],
            debt=states["debt"],
            forgiven=states["forgiven"],
            limit=None if unlimited or not is_quota else limit,
            used_in_force=used_in_force,
            overage_counted=counted,
            level=None if unlimited or not is_quota else self.level(limit, used_in_force + counted),
            grants={grant.terms.name: self.counts(grant) for grant in self.grants},
            coverage={usage: dict(of) for usage, of in coverage.items()},
        )

    def is_allowed(self, in_force: Sequence[Held], *, unlimited: bool, owes: bool) -> bool:
        if not in_force or (owes and self.entitlement.debt.value == "block"):
            return False
        if unlimited:
            return True
        if self.entitlement.limit.value == "soft":
            return any(grant.terms.units == 0 or grant.count("revoked") < len(grant.units) for grant in in_force)
        return any(grant.count("free") for grant in in_force)

    def level(self, limit: int, counted: int) -> int:
        reached = [percent for percent in self.entitlement.thresholds if 100 * counted >= percent * limit]
        return 0 if limit == counted == 0 else max(reached, default=0)

    @staticmethod
    def counts(grant: Held) -> dict[str, int | None]:
        if grant.terms.units is None:
            return {"granted": None, "used": len(grant.covered)}
        return {
            "granted": grant.terms.units,
            "available": grant.count("free"),
            "used": grant.count("used"),
            "expired": grant.count("expired"),
            "revoked": grant.count("revoked"),
        }
