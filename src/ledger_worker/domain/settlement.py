"""Settlement: which usage is covered by which grant, and what cuts and endings take.

For one customer and entitlement a `Book` runs through time once. Happenings go in the order of RULES 2: at one instant
ends, begins, cuts, payment of debt, then usage by (event source, event id). Each moves units by lines, and the sum of
its lines is what the book counts.

The same run serves three ways. *Advance*: a happening behind everything settled so far takes one step on the stored
book. *Settle again*: a happening that lies before the book's position starts a run from nothing over all terms and all
usage; the difference between its lines and the booked ones, line by line, is what is booked (RULES 3). *Look ahead*: a
read runs what is due on a book that is never stored. Which of the first two is taken depends on the book alone, never
on how events were batched, and both end in the same book: settling is a function of terms and usage.

A step that needs the account's history (all grants, usage and booked lines) and has none raises `HistoryNeeded`; the
caller loads it and decides the customer anew.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.catalogue import DebtPolicy, Entitlement, OveragePolicy
from ledger_worker.domain.ledger import (
    EFFECTS,
    Account,
    Cut,
    CutPolicy,
    Debt,
    Grant,
    GrantTerms,
    Kind,
    Line,
    Phase,
    UsageFact,
    precedence,
)

__all__ = ["Book", "BookedGrant", "History", "HistoryNeeded", "Transition", "is_suspended", "usage_tie"]

_END, _BEGIN, _CUT, _PAY, _USE = "0", "2", "4", "5", "7"
_AFTER_ALL = "8"
_KINDS = {_END: "end", _BEGIN: "begin", _CUT: "cut", _PAY: "pay"}
"""Ranks within one instant (RULES 2); 1, 3 and 6 are roll-overs, suspensions and ends of holds."""

Place = tuple[datetime, str]
"""Where a happening stands in a run: its instant, then rank and tie as one string."""


class HistoryNeeded(Exception):
    """The step reaches behind what is loaded; `entitlement` names the account whose history is needed."""

    def __init__(self, entitlement: str) -> None:
        super().__init__(entitlement)
        self.entitlement = entitlement


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an account ever saw: all its grants, all usage, and its booked lines summed by identity."""

    grants: tuple[Grant, ...]
    usage: tuple[UsageFact, ...]
    lines: tuple[Line, ...]


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """An instant the books know of that has come or will come: a grant's begin or end, a cut dated ahead, a payment."""

    place: Place
    grant_id: UUID
    entitlement: str
    set_by: int

    @property
    def kind(self) -> str:
        """What happens, as a word."""
        return _KINDS[self.place[1][0]]

    @property
    def is_payment(self) -> bool:
        """Whether it is the payment of what is owed, which moves units and ends no access."""
        return self.place[1][0] == _PAY


class BookedGrant(msgspec.Struct):
    """A grant while a book is open: like `ledger.Grant`, and changing.

    `burns` is every use it covers, in order; None where the grant was loaded with some, which only a history tells.
    """

    terms: GrantTerms
    phase: Phase
    set_by: int
    granted: int = 0
    available: int = 0
    held: int = 0
    used: int = 0
    expired: int = 0
    revoked: int = 0
    moved: int = 0
    order: tuple[bool, int, datetime, int, datetime, bytes] | None = None
    burns: list[tuple[UUID, int]] | None = None

    def value(self) -> Grant:
        """The grant as a value to be stored."""
        return Grant(
            terms=self.terms,
            phase=self.phase,
            set_by=self.set_by,
            granted=self.granted,
            available=self.available,
            held=self.held,
            used=self.used,
            expired=self.expired,
            revoked=self.revoked,
            moved=self.moved,
        )


def usage_tie(event_source: str, event_id: str) -> str:
    """What orders usage of one instant; ids are printable, so the separator sorts before all they can hold."""
    return f"{event_source}\x1f{event_id}"


class Book:
    """One customer's account of one entitlement while it is being settled.

    Made from the stored account and its open grants; lives for one decision or one read. `history` is set when the
    account's whole past was loaded.
    """

    def __init__(
        self,
        entitlement: Entitlement,
        account: Account,
        grants: Iterable[Grant],
        history: History | None = None,
    ) -> None:
        self.entitlement = entitlement
        self.history = history
        self.new_usage: list[UsageFact] = []
        self.new_lines: list[Line] = []
        self.touched: set[UUID] = set()
        self.place: Place | None
        self._restore(account, grants if history is None else history.grants)

    # -- what decisions and pictures read --

    @property
    def account(self) -> Account:
        """The account as a value to be stored."""
        return Account(
            entitlement=self.entitlement.key,
            usage=self.usage,
            used_total=self.used_total,
            overage=self.overage,
            debt=self.debt,
            forgiven=self.forgiven,
            settled_at=self.place[0] if self.place else None,
            settled_tie=self.place[1] if self.place else "",
            owed=tuple(self.owed),
            overage_since=self._stretches(),
            last_end=self.last_end,
            level=self.level,
            next_transition_at=self.next_transition_at,
        )

    def due(self, until: datetime) -> list[Transition]:
        """The transitions after the book's position and not after `until`, in their order."""
        if self.next_transition_at is None or self.next_transition_at > until:
            return []
        places = [(place, grant) for place, grant in self._ahead() if place[0] <= until]
        places.sort(key=_by_place)
        return [self._transition(place, grant) for place, grant in places]

    def touched_grants(self) -> list[Grant]:
        """The grants that changed since the book was opened, to be stored, in key order."""
        stored = []
        for grant_id in sorted(self.touched, key=_uuid_bytes):
            grant = self.grants[grant_id]
            if grant.phase in {Phase.ENDED, Phase.ENDING}:
                is_cut_later = any(place > (self.place or place) for place in self._places(grant.terms))
                grant.phase = Phase.ENDING if is_cut_later else Phase.ENDED
            stored.append(grant.value())
        return stored

    # -- steps --

    def follows(self, usage: UsageFact) -> bool:
        """Whether the usage is behind everything settled so far: then one step books it."""
        return self.place is None or (usage.at, _USE + usage.tie) > self.place

    def use(self, usage: UsageFact, until: datetime) -> list[Line]:
        """Usage is booked: by one step when it is the last happening so far, else by settling again.

        Also by one step when it is late and could stand at the end as well, so that services whose reports of the same
        minutes overtake each other cost no run.
        """
        place = (usage.at, _USE + usage.tie)
        if not self.follows(usage):
            if self._could_be_last(usage):
                self.new_usage.append(usage)
                self.active[0].burns = None  # no longer in order; whoever needs them settles again
                return self._booked(self._burn(usage))
            if self.history is None:
                raise HistoryNeeded(self.entitlement.key)
            self.new_usage.append(usage)
            return self._settle_again(_all_of(until))
        self.new_usage.append(usage)
        self.place = place
        return self._booked(self._burn(usage))

    def pass_transition(self, transition: Transition) -> list[Line]:
        """One due transition is booked; they must be passed in order. No lines when nothing comes of it."""
        grant = self.grants[transition.grant_id]
        if transition.place[1][0] == _CUT and self._uncovers(grant.terms):
            lines = self._settle_again(transition.place)
        else:
            lines = self._booked(self._happen(transition.place, grant))
        self.place = max(self.place or transition.place, transition.place)
        self._is_ahead_known = False
        return lines

    def set_terms(
        self,
        before: Mapping[UUID, GrantTerms],
        after: Mapping[UUID, GrantTerms],
        posting: int,
        until: datetime,
    ) -> list[Line]:
        """The grants named have their new terms, and what follows from them up to `until` is booked.

        `before` and `after` hold only grants whose terms differ; a grant missing in `after` is undone.
        """
        is_unloaded = self.history is None and any(grant_id not in self.grants for grant_id in before)
        if is_unloaded or self._reaches_back(before, after):
            if self.history is None:
                raise HistoryNeeded(self.entitlement.key)
            self._put_terms(before, after, posting)
            return self._settle_again(_all_of(until))
        lines = self._put_terms(before, after, posting)
        happenings = sorted(
            (place, grant_id)
            for grant_id in after
            for place in self._places(self.grants[grant_id].terms)
            if (self.place is None or place > self.place) and place[0] <= until
        )
        for place, grant_id in happenings:
            lines += self._happen(place, self.grants[grant_id])
            self.place = place
        self._is_ahead_known = False
        return self._booked(lines)

    # -- inside --

    def _could_be_last(self, usage: UsageFact) -> bool:
        """Whether late usage is covered by the same grant, and all else as it is, wherever since then it stands.

        So it is when since then nothing happened but usage, and the grant that burns first still has that many units:
        then it has covered everything since, and would have covered this.
        """
        if not self.active or (self.last_end is not None and self.last_end > usage.at):
            return False
        for grant in self.active:
            terms = grant.terms
            if terms.effective_at > usage.at or terms.suspensions or any(cut.at > usage.at for cut in terms.cuts):
                return False
        first = self.active[0]
        return first.terms.amount is None or first.available >= usage.units

    def _restore(self, account: Account, grants: Iterable[Grant]) -> None:
        self.usage = account.usage
        self.used_total = account.used_total
        self.overage = account.overage
        self.debt = account.debt
        self.forgiven = account.forgiven
        self.place = None if account.settled_at is None else (account.settled_at, account.settled_tie)
        self.owed = list(account.owed)
        self.overage_since = list(account.overage_since)
        self.last_end = account.last_end
        self.level = account.level
        self._next_transition_at = account.next_transition_at
        self._is_ahead_known = True
        self.grants: dict[UUID, BookedGrant] = {}
        self.active: list[BookedGrant] = []
        for grant in grants:
            booked = BookedGrant(
                grant.terms,
                grant.phase,
                grant.set_by,
                grant.granted,
                grant.available,
                grant.held,
                grant.used,
                grant.expired,
                grant.revoked,
                grant.moved,
            )
            if not grant.used:
                booked.burns = []
            self.grants[grant.terms.grant_id] = booked
            if grant.phase is Phase.ACTIVE:
                booked.order = precedence(grant.terms)
                self.active.append(booked)
        if len(self.active) > 1:
            self.active.sort(key=_burning_order)

    def _booked(self, lines: list[Line]) -> list[Line]:
        if len(lines) > 1:
            lines.sort(key=_line_order)
        self.new_lines += lines
        return lines

    @property
    def next_transition_at(self) -> datetime | None:
        """The first instant after the book's position at which something happens by itself.

        Looked for when it is asked for: a hundred transitions passed in a row need it once.
        """
        if not self._is_ahead_known:
            self._next_transition_at = min((place[0] for place, _ in self._ahead()), default=None)
            self._is_ahead_known = True
        return self._next_transition_at

    def _ahead(self) -> list[tuple[Place, BookedGrant]]:
        """What the terms of the open grants will make happen after the book's position."""
        return [
            (place, grant)
            for grant in self.grants.values()
            if grant.phase is not Phase.VOID
            for place in self._places(grant.terms)
            if self.place is None or place > self.place
        ]

    @staticmethod
    def _places(terms: GrantTerms) -> list[Place]:
        """Where the terms of one grant make something happen."""
        tie = terms.grant_id.hex
        places = [(terms.effective_at, _BEGIN + tie), (terms.effective_at, _PAY + tie)]
        if terms.expires_at is not None:
            places.append((terms.expires_at, _END + tie))
        places += [_cut_place(terms, cut) for cut in terms.cuts]
        return places

    def _transition(self, place: Place, grant: BookedGrant) -> Transition:
        return Transition(
            place=place,
            grant_id=grant.terms.grant_id,
            entitlement=self.entitlement.key,
            set_by=grant.set_by,
        )

    def _reaches_back(self, before: Mapping[UUID, GrantTerms], after: Mapping[UUID, GrantTerms]) -> bool:
        """Whether the new terms change anything at or before the book's position."""
        if self.place is None:
            return False
        for grant_id in before.keys() | after.keys():
            first = _first_difference(before.get(grant_id), after.get(grant_id))
            if first <= self.place or self._changes_order(before.get(grant_id), after.get(grant_id)):
                return True
            new = after.get(grant_id)
            if new is not None and self._uncovers(new):
                return True
        return False

    def _changes_order(self, old: GrantTerms | None, new: GrantTerms | None) -> bool:
        """Whether a grant that burns already would have burnt before or after another one that burns."""
        if old is None or new is None:
            return False
        was, will = precedence(old), precedence(new)
        return was != will and any(
            (was < other.order) != (will < other.order)
            for other in self.active
            if other.order is not None and other.terms.grant_id != old.grant_id
        )

    def _uncovers(self, terms: GrantTerms) -> bool:
        """Whether a cut yet to come takes units back that were used: that needs each burn."""
        grant = self.grants.get(terms.grant_id)
        return (
            grant is not None
            and grant.used > 0
            and any(
                cut.policy is CutPolicy.FULL_WITH_DEBT and (self.place is None or _cut_place(terms, cut) > self.place)
                for cut in terms.cuts
            )
        )

    def _put_terms(
        self, before: Mapping[UUID, GrantTerms], after: Mapping[UUID, GrantTerms], posting: int
    ) -> list[Line]:
        """Terms and `granted` are set; nothing has happened by them yet. Returns the lines of `granted`."""
        lines: list[Line] = []
        for grant_id in sorted(before.keys() - after.keys(), key=_uuid_bytes):
            grant = self.grants[grant_id]
            lines += self._grant_units(grant, grant.terms, -grant.granted)
            grant.phase = Phase.VOID
            grant.set_by = posting
            self.touched.add(grant_id)
        for grant_id in sorted(after, key=_uuid_bytes):
            terms = after[grant_id]
            grant = self.grants.get(grant_id) or BookedGrant(terms, Phase.PENDING, posting, burns=[])
            self.grants[grant_id] = grant
            if grant.phase is Phase.VOID:
                grant.phase = Phase.PENDING
            counts_alike = (grant.terms.amount is None) == (terms.amount is None)
            if grant.terms.effective_at == terms.effective_at and counts_alike:
                lines += self._grant_units(grant, terms, (terms.amount or 0) - grant.granted)
                grant.terms = terms
            else:
                # Units are counted by the terms that are set: the old ones while they go, the new ones when they come.
                lines += self._grant_units(grant, grant.terms, -grant.granted)
                grant.terms = terms
                lines += self._grant_units(grant, terms, terms.amount or 0)
            grant.set_by = posting
            if grant.phase is Phase.ACTIVE:
                grant.order = precedence(terms)
                self.active.sort(key=_burning_order)
            self.touched.add(grant_id)
        return lines

    def _grant_units(self, grant: BookedGrant, terms: GrantTerms, units: int) -> list[Line]:
        if not units:
            return []
        return [self._move(Kind.GRANTED, terms.effective_at, grant, units)]

    def _happen(self, place: Place, grant: BookedGrant) -> list[Line]:
        """What the terms of `grant` make happen at `place`."""
        at, rank = place[0], place[1][0]
        if rank == _BEGIN:
            return self._begin(grant, at)
        if rank == _END:
            return self._end(grant, at)
        if rank == _PAY:
            return self._pay(grant, at)
        cut_id = place[1].partition("/")[2]
        return self._cut(grant, next(cut for cut in grant.terms.cuts if cut.cut_id == cut_id and cut.at == at))

    def _begin(self, grant: BookedGrant, at: datetime) -> list[Line]:
        grant.phase = Phase.ACTIVE
        grant.order = precedence(grant.terms)
        self.active.append(grant)
        self.active.sort(key=_burning_order)
        self.touched.add(grant.terms.grant_id)
        self._new_stretch(at)
        return []

    def _end(self, grant: BookedGrant, at: datetime) -> list[Line]:
        grant.phase = Phase.ENDED
        self.active = [other for other in self.active if other is not grant]
        self.touched.add(grant.terms.grant_id)
        self.last_end = at
        self._new_stretch(at)
        return [self._move(Kind.EXPIRE, at, grant, grant.available)] if grant.available else []

    def _pay(self, grant: BookedGrant, at: datetime) -> list[Line]:
        """What is owed is paid by the grant that begins, the oldest first (RULES 15)."""
        lines: list[Line] = []
        while self.owed and (grant.available or grant.terms.amount is None):
            owed = self.owed[0]
            units = owed.units if grant.terms.amount is None else min(owed.units, grant.available)
            kind = Kind.PAY_OVERAGE if owed.cut_id is None else Kind.PAY_DEBT
            lines.append(self._move(kind, at, grant, units, owed.usage_key, owed.cut_id))
            if grant.burns is not None:
                grant.burns.append((owed.usage_key, units))
            if owed.cut_id is None:
                self._shrink_stretch(owed.at, units)
            if units == owed.units:
                self.owed.pop(0)
            else:
                self.owed[0] = Debt(owed.at, owed.usage_key, owed.cut_id, owed.units - units)
        return lines

    def _cut(self, grant: BookedGrant, cut: Cut) -> list[Line]:
        """A cut takes what is available.

        By `full_with_debt` then what expired, then what was used, the latest first.
        """
        lines: list[Line] = []
        self.touched.add(grant.terms.grant_id)
        left = cut.units
        taken = min(left, grant.available)
        if taken:
            lines.append(self._move(Kind.REVOKE, cut.at, grant, taken, None, cut.cut_id))
            left -= taken
        if cut.policy is not CutPolicy.FULL_WITH_DEBT:
            return lines
        taken = min(left, grant.expired)
        if taken:
            lines.append(self._move(Kind.REVOKE_EXPIRED, cut.at, grant, taken, None, cut.cut_id))
            left -= taken
        if left and grant.used:
            lines += self._uncover(grant, cut, left)
        return lines

    def _uncover(self, grant: BookedGrant, cut: Cut, left: int) -> list[Line]:
        if grant.burns is None:
            raise HistoryNeeded(self.entitlement.key)
        kind = Kind.FORGIVE if self.entitlement.debt is DebtPolicy.FORGIVE else Kind.DEBT
        taken_of: dict[UUID, int] = defaultdict(int)
        while left and grant.burns:
            usage_key, units = grant.burns.pop()
            taken = min(left, units)
            left -= taken
            taken_of[usage_key] += taken
            if taken < units:
                grant.burns.append((usage_key, units - taken))
        lines = []
        for usage_key, units in taken_of.items():
            lines.append(self._move(kind, cut.at, grant, units, usage_key, cut.cut_id))
            if kind is Kind.DEBT:
                self.owed.append(Debt(cut.at, usage_key, cut.cut_id, units))
        return lines

    def _burn(self, usage: UsageFact) -> list[Line]:
        """Usage burns the grants that are active and not suspended in their order; what none covers is overage."""
        lines: list[Line] = []
        left = usage.units
        for grant in self.active:
            units = left if grant.terms.amount is None else min(left, grant.available)
            if units and not is_suspended(grant.terms, usage.at):
                lines.append(self._move(Kind.BURN, usage.at, grant, units, usage.usage_key))
                if grant.burns is not None:
                    grant.burns.append((usage.usage_key, units))
                left -= units
                if not left:
                    return lines
        lines.append(self._move(Kind.OVERAGE, usage.at, None, left, usage.usage_key))
        if self.overage_since:
            started_at, units = self.overage_since[-1]
            self.overage_since[-1] = (started_at, units + left)
        else:
            starts = [grant.terms.effective_at for grant in self.active]
            started_at = max(starts if self.last_end is None else [*starts, self.last_end], default=usage.at)
            self.overage_since.append((started_at, left))
        if self.entitlement.overage is OveragePolicy.CARRY:
            self.owed.append(Debt(usage.at, usage.usage_key, None, left))
        return lines

    def _move(
        self,
        kind: Kind,
        at: datetime,
        grant: BookedGrant | None,
        units: int,
        usage_key: UUID | None = None,
        cut_id: str | None = None,
    ) -> Line:
        """Units move as `EFFECTS` says; a grant without amount only counts what was used of it."""
        effect = EFFECTS[kind]
        self.usage += effect.usage * units
        self.used_total += effect.used_total * units
        self.overage += effect.overage * units
        self.debt += effect.debt * units
        self.forgiven += effect.forgiven * units
        grant_id = None
        if grant is not None:
            grant_id = grant.terms.grant_id
            self.touched.add(grant_id)
            grant.used += effect.used * units
            if grant.terms.amount is not None:
                grant.granted += effect.granted * units
                grant.available += effect.available * units
                grant.held += effect.held * units
                grant.expired += effect.expired * units
                grant.revoked += effect.revoked * units
                grant.moved += effect.moved * units
        return Line(kind, at, grant_id, usage_key, cut_id, units)

    def _new_stretch(self, at: datetime) -> None:
        """A begin or an end starts a new stretch of overage.

        Stretches before every active grant and the last end are dropped.
        """
        if self.overage_since and self.overage_since[-1][0] == at:
            return
        if self.overage_since and self.overage_since[-1][1] == 0:
            self.overage_since.pop()
        self.overage_since.append((at, 0))
        if len(self.overage_since) > 1:
            since = self.counted_since()
            while len(self.overage_since) > 1 and since is not None and self.overage_since[1][0] <= since:
                self.overage_since.pop(0)

    def _stretches(self) -> tuple[tuple[datetime, int], ...]:
        """The stretches that have overage, and the present one while any has.

        Where none has, nothing is kept: the present one began with the last begin or end of a grant.
        """
        last = len(self.overage_since) - 1
        kept = tuple(stretch for place, stretch in enumerate(self.overage_since) if stretch[1] or place == last)
        return kept if any(units for _, units in kept) else ()

    def _shrink_stretch(self, at: datetime, units: int) -> None:
        for place in range(len(self.overage_since) - 1, -1, -1):
            started_at, overage = self.overage_since[place]
            if started_at <= at:
                self.overage_since[place] = (started_at, max(0, overage - units))
                return

    def counted_since(self) -> datetime | None:
        """From when overage counts in a picture (RULES 27): the earliest start of what is active, else the last end."""
        starts = [grant.terms.effective_at for grant in self.active]
        return min(starts, default=self.last_end)

    def _settle_again(self, until: Place) -> list[Line]:
        """A run from nothing over all terms and usage; returns the difference to what is booked, line by line."""
        if self.history is None:
            raise HistoryNeeded(self.entitlement.key)
        usage = [*self.history.usage, *self.new_usage]
        run = self._fresh_run()
        target = run.run_all(usage, until)
        difference = _difference([*self.history.lines, *self.new_lines], target)
        self._take_over(run)
        return self._booked(difference)

    def _fresh_run(self) -> "Book":
        run = Book(self.entitlement, Account(entitlement=self.entitlement.key), ())
        for grant_id, grant in self.grants.items():
            phase = Phase.VOID if grant.phase is Phase.VOID else Phase.PENDING
            run.grants[grant_id] = BookedGrant(grant.terms, phase, grant.set_by, burns=[])
        return run

    def run_all(self, usage: Sequence[UsageFact], until: Place) -> list[Line]:
        """Everything up to `until` has happened, on a book that is still empty. Returns all its lines."""
        lines: list[Line] = []
        happenings: list[tuple[Place, BookedGrant | UsageFact]] = [((fact.at, _USE + fact.tie), fact) for fact in usage]
        for grant in self.grants.values():
            if grant.phase is Phase.VOID:
                continue
            lines += self._grant_units(grant, grant.terms, grant.terms.amount or 0)
            happenings += [(place, grant) for place in self._places(grant.terms) if place <= until]
        happenings.sort(key=_by_place)
        for place, what in happenings:
            lines += self._burn(what) if isinstance(what, UsageFact) else self._happen(place, what)
            self.place = place
        return lines

    def _take_over(self, run: "Book") -> None:
        """The run's result becomes this book; grants that it left as they were are not touched."""
        for grant_id, grant in run.grants.items():
            if grant.value() != self.grants[grant_id].value():
                self.touched.add(grant_id)
        level = self.level
        self._restore(run.account, [grant.value() for grant in run.grants.values()])
        self.level = level
        self._is_ahead_known = False


def is_suspended(terms: GrantTerms, at: datetime) -> bool:
    """Whether a suspension of the grant is open at `at`."""
    return bool(terms.suspensions) and any(
        suspension.starts_at <= at and (suspension.ends_at is None or at < suspension.ends_at)
        for suspension in terms.suspensions
    )


def _cut_place(terms: GrantTerms, cut: Cut) -> Place:
    return (cut.at, f"{_CUT}{terms.grant_id.hex}/{cut.cut_id}")


def _all_of(instant: datetime) -> Place:
    """A place behind everything that happens at the instant."""
    return (instant, _AFTER_ALL)


def _first_difference(old: GrantTerms | None, new: GrantTerms | None) -> Place:
    """The first place at which two terms of one grant make something else happen."""
    places = []
    if old is None or new is None or (old.amount, old.priority) != (new.amount, new.priority):
        places += [(terms.effective_at, _BEGIN) for terms in (old, new) if terms is not None]
        return min(places)
    if old.effective_at != new.effective_at:
        places += [(old.effective_at, _BEGIN), (new.effective_at, _BEGIN)]
    if old.expires_at != new.expires_at:
        places += [(terms.expires_at, _END) for terms in (old, new) if terms.expires_at is not None]
    places += [(cut.at, _CUT) for cut in set(old.cuts) ^ set(new.cuts)]
    places += [(suspension.starts_at, "3") for suspension in set(old.suspensions) ^ set(new.suspensions)]
    return min(places, default=(datetime.max.replace(tzinfo=new.effective_at.tzinfo), ""))


def _difference(booked: Iterable[Line], target: Iterable[Line]) -> list[Line]:
    """For each identity, what has to be added to the booked units to get the target's."""
    units: dict[tuple[Kind, datetime, UUID | None, UUID | None, str | None], int] = defaultdict(int)
    for line in target:
        units[line.identity()] += line.units
    for line in booked:
        units[line.identity()] -= line.units
    return [Line(*identity, delta) for identity, delta in units.items() if delta]


def _by_place(happening: tuple[Place, BookedGrant | UsageFact]) -> Place:
    return happening[0]


def _burning_order(grant: BookedGrant) -> tuple[bool, int, datetime, int, datetime, bytes]:
    return grant.order or precedence(grant.terms)


def _uuid_bytes(value: UUID) -> bytes:
    return value.bytes


def _line_order(line: Line) -> tuple[datetime, Kind, bytes, bytes, str]:
    return (
        line.at,
        line.kind,
        b"" if line.grant_id is None else line.grant_id.bytes,
        b"" if line.usage_key is None else line.usage_key.bytes,
        line.cut_id or "",
    )
