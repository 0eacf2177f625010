"""Settlement: which usage is covered by which grant, and what cuts and endings take.

For one customer and entitlement a `Book` runs through time once. Happenings go in one fixed order: at one instant
ends (with what goes on in a child), begins, suspensions and lifts, cuts, payment of debt, then usage by (event source,
event id). Each moves units by lines, and the sum of its lines is what the book counts.

The same run serves three ways. *Advance*: a happening behind everything settled so far takes one step on the stored
book. *Settle again*: a happening that lies before the book's position starts a run from nothing over all terms and all
usage; the difference between its lines and the booked ones, line by line, is what is booked. *Look ahead*: a
read runs what is due on a book that is never stored. Which of the first two is taken depends on the book alone, never
on how events were batched, and both end in the same book: settling is a function of terms, usage and reversals.

Usage that was reversed burns only what is left of it. The reversed units would have burnt last, so the grants that
would have covered them are known; where they have ended and their offer says so, a run makes a child of what came back
and was not needed. Such a child is the one kind of grant that no source names.

When a customer goes on as another, its overage and debt leave at that instant, with their part of `usage`,
and arrive in the other's book as what they are. Both sides are lines; what they carry beside their units is in
`Parcel`.

A run need not begin at nothing. Where a day ends, or much usage was booked since, the book keeps a `DayState`; what
touches nothing up to such a state settles again from there, to the same books. States after the first place that is
touched are wrong from then on and are dropped, and the run makes new ones.

A step that needs the account's history (grants, usage and booked lines, all or those since a state) and has none
raises `HistoryNeeded`; the caller loads it and decides the customer anew.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heappush
from uuid import UUID

import msgspec

from ledger_worker.domain.catalogue import DebtPolicy, Entitlement, OveragePolicy
from ledger_worker.domain.ledger import (
    EFFECTS,
    Account,
    Cut,
    CutPolicy,
    DayState,
    Debt,
    Grant,
    GrantTerms,
    Kind,
    Line,
    Origin,
    Phase,
    Reversal,
    Standing,
    Suspension,
    UsageFact,
    precedence,
)
from ledger_worker.domain.stretches import child_id
from ledger_worker.domain.told import Latest

__all__ = [
    "STATE_USAGE_MAX",
    "STATE_USAGE_MIN",
    "Book",
    "BookedGrant",
    "History",
    "HistoryNeeded",
    "Parcel",
    "Place",
    "Stops",
    "Transition",
    "all_of",
    "granted_ahead",
    "is_open",
    "is_suspended",
    "left_by",
    "standing_of",
    "usage_tie",
]

_LEAVE, _ARRIVE = "0!", "1"
_END, _BEGIN, _SUSPEND, _CUT, _PAY, _USE = "0", "2", "3", "4", "5", "7"
_AFTER_ALL = "8"
_LIFT_SUFFIX = "/lift"
_KINDS = {_END: "end", _BEGIN: "begin", _SUSPEND: "suspend", _CUT: "cut", _PAY: "pay"}
"""Ranks within one instant; 6 is for the ends of holds."""

Place = tuple[datetime, str]
"""Where a happening stands in a run: its instant, then rank and tie as one string."""

STATE_USAGE_MIN = 50
"""A day state is kept at the end of a day on which, with those before it, at least so many usages were booked."""
STATE_USAGE_MAX = 2_000
"""It is kept without waiting for the end of the day once so many usages were booked since the last one."""

_BEGINNING = datetime.min.replace(tzinfo=UTC)
_NOWHERE: Place = (_BEGINNING, "")
"""Before every place: what reaches so far back is settled again from nothing."""
_MICROSECOND = timedelta(microseconds=1)


class HistoryNeeded(Exception):
    """The step reaches behind what is loaded: the account's history is needed.

    From a day state before the instant `before` on; all of it where that is None, or no such state is stored.
    """

    def __init__(self, entitlement: str, customer_id: str, before: datetime | None = None) -> None:
        super().__init__(customer_id, entitlement, before)
        self.entitlement = entitlement
        self.customer_id = customer_id
        self.before = before


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an account ever saw, or everything since a day state.

    All its grants, all reversals of usage, and of usage and booked lines (summed by identity) all, or those that are
    later than the state `since`.
    """

    grants: tuple[Grant, ...]
    usage: tuple[UsageFact, ...]
    lines: tuple[Line, ...]
    reversals: tuple[Reversal, ...] = ()
    since: DayState | None = None


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """An instant the books know of that has come or will come: a grant's begin or end, a cut dated ahead, a payment."""

    place: Place
    grant_id: UUID
    entitlement: str
    set_by: int

    @property
    def kind(self) -> str:
        """What happens, as a word."""
        return "lift" if self.place[1].endswith(_LIFT_SUFFIX) else _KINDS[self.place[1][0]]

    @property
    def is_payment(self) -> bool:
        """Whether it is the payment of what is owed, which moves units and ends no access."""
        return self.place[1][0] == _PAY


class Parcel(msgspec.Struct, frozen=True):
    """Overage or debt on its way to another customer: from `at`, of the usage at `used_at`, owed as `debt` says."""

    at: datetime
    used_at: datetime
    debt: Debt

    @property
    def place(self) -> Place:
        """Where it arrives."""
        return (self.at, f"{_ARRIVE}{self.debt.at.isoformat()}{self.debt.tie}")

    @property
    def label(self) -> str:
        """What its lines carry beside usage and units."""
        cut_id = self.debt.cut_id
        cut = "" if cut_id is None else cut_id
        told = f"{self.used_at.isoformat()}|{self.debt.at.isoformat()}|{-1 if cut_id is None else len(cut)}"
        return f"{told}|{cut}{self.debt.tie}"

    @classmethod
    def of_line(cls, line: Line) -> "Parcel":
        """The parcel that a line of leaving or arriving tells of."""
        used_at, owed_at, length, rest = (line.cut_id or "").split("|", 3)
        size = int(length)
        cut_id, tie = (None, rest) if size < 0 else (rest[:size], rest[size:])
        debt = Debt(datetime.fromisoformat(owed_at), line.usage_key or UUID(int=0), cut_id, line.units, tie)
        return cls(line.at, datetime.fromisoformat(used_at), debt)


class Stops(msgspec.Struct):
    """Instants, rising, at which a run is looked at: when everything up to and including them has happened."""

    instants: list[datetime]
    look: Callable[[datetime], None]


class BookedGrant(msgspec.Struct):
    """A grant while a book is open: like `ledger.Grant`, and changing.

    `burns` is every use it covers, in order, each with its number among all of the run; None where the grant was loaded
    with some, which only a history tells. `returned` are the units that reversals gave back, in a run.
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
    short: int = 0
    order: tuple[bool, int, datetime, int, datetime, bytes] | None = None
    burns: list[tuple[int, UUID, int]] | None = None
    returned: list[tuple[Reversal, int]] | None = None

    @property
    def is_empty_child(self) -> bool:
        """Whether it is a child that received nothing: there as a place for units, and no right of its own."""
        return self.terms.parent is not None and self.terms.amount is not None and not self.granted

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
            short=self.short,
        )


def usage_tie(event_source: str, event_id: str) -> str:
    """What orders usage of one instant; ids are printable, so the separator sorts before all they can hold."""
    return f"{event_source}\x1f{event_id}"


_Happening = BookedGrant | UsageFact | Parcel | None
"""What happens in a run; None is the leaving of a customer who goes on as another."""
_LEAVING = frozenset({Kind.LEAVE_OVERAGE, Kind.LEAVE_DEBT})
_ARRIVING = frozenset({Kind.ARRIVE_OVERAGE, Kind.ARRIVE_DEBT})


class Book:
    """One customer's account of one entitlement while it is being settled.

    Made from the stored account and its open grants; lives for one decision or one read. `history` is set when the
    account's past was loaded. `posting` is the number of the posting that the next step will be in, and `made` are the
    terms of the children that settling made, until the caller has taken them. `new_states` are to be stored, and what
    is stored of `stale_from` and later is to be dropped before.
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
        self.customer_id = ""
        self.leaves_at: datetime | None = None
        self.posting = 0
        self.new_usage: list[UsageFact] = []
        self.new_reversals: list[Reversal] = []
        self.new_lines: list[Line] = []
        self.touched: set[UUID] = set()
        self.made: dict[UUID, GrantTerms] = {}
        self.new_states: list[DayState] = []
        self.stale_from: datetime | None = None
        self._burnt = 0
        self._is_run = False
        self._run_posting = 0
        self._stops: Stops | None = None
        self._coming: list[tuple[Place, int, _Happening]] = []
        self._reversed: dict[UUID, list[Reversal]] = {}
        self._overage_of: dict[UUID, Debt] = {}
        self._borders: list[datetime] = []
        self._arrivals: tuple[Parcel, ...] | None = None
        self._used_at: dict[UUID, datetime] = {}
        self.place: Place | None
        self.waiting: tuple[UUID, ...]
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
            waiting=self.waiting,
            stated_until=self.stated_until,
            since_state=self.since_state,
        )

    def ahead(self) -> list[tuple[Transition, GrantTerms]]:
        """What the terms of open grants will make happen behind the book's position, in order."""
        places = sorted(self._ahead(), key=_by_place)
        return [(self._transition(place, grant), grant.terms) for place, grant in places]

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
        minutes overtake each other cost no run. Usage without units that lies further back moves nothing.
        """
        place = (usage.at, _USE + usage.tie)
        if self.leaves_at is not None:
            self._require_history()
            self.new_usage.append(usage)
            return self._settle_again(all_of(until))
        if usage.usage_key in self.waiting:
            self._require_since(place)
            self.waiting = tuple(key for key in self.waiting if key != usage.usage_key)
            self.new_usage.append(usage)
            return self._settle_again(all_of(until), place)
        if self.follows(usage):
            self._pass_day(place)
            self.place = place
        elif not usage.units:
            self.new_usage.append(usage)
            return []
        elif self._could_be_last(usage):
            self._states_are_stale(usage.at)
            self.active[0].burns = None  # no longer in order; whoever needs them settles again
        else:
            self._require_since(place)
            self.new_usage.append(usage)
            return self._settle_again(all_of(until), place)
        self.new_usage.append(usage)
        self.since_state += 1
        return self._booked(self._burn(usage))

    def reverse(self, reversal: Reversal, until: datetime) -> list[Line]:
        """The named usage is smaller by what is reversed of it, and the account is settled again.

        Where the usage was not told yet, the reversal waits for it (`waits_for`). Reversals keep their order by the
        instant at which they count, event source and event id; of one reversal id the last counts.
        """
        first = all_of(reversal.at)
        history = self._require_since(first)
        known = {usage.usage_key: usage for usage in (*history.usage, *self.new_usage)}
        named = {one.usage_key for one in self.reversals() if one.reversal_id == reversal.reversal_id}
        named.add(reversal.usage_key)
        if history.since is not None and not named <= {*known, *self.waiting}:
            raise HistoryNeeded(self.entitlement.key, self.customer_id)  # it was told before the state, or never
        self.new_reversals.append(reversal)
        if reversal.usage_key not in known:
            self.wait_for(reversal.usage_key)
        places = [(known[key].at, _USE + known[key].tie) for key in named if key in known]
        return self._settle_again(all_of(until), min([first, *places]))

    def wait_for(self, usage_key: UUID) -> None:
        """The usage was reversed before it was told."""
        if usage_key not in self.waiting:
            self.waiting = tuple(sorted((*self.waiting, usage_key), key=_uuid_bytes))

    def has_used(self, usage_key: UUID) -> bool:
        """Whether the usage is one of this account; needs the history."""
        return any(usage.usage_key == usage_key for usage in (*self._require_history().usage, *self.new_usage))

    def reversals(self) -> tuple[Reversal, ...]:
        """Every reversal that was told of this account; needs a history."""
        return (*self._require_any_history().reversals, *self.new_reversals)

    def learn(self, reversals: Iterable[Reversal]) -> None:
        """What was told to reverse usage of another id of the same person is known here too; nothing is settled yet."""
        history = self._require_history()
        known = {reversal.tie for reversal in self.reversals()}
        new = tuple(reversal for reversal in reversals if reversal.tie not in known)
        self.history = msgspec.structs.replace(history, reversals=(*history.reversals, *new))

    def adopt(self, usage: Sequence[UsageFact], reversals: Sequence[Reversal], until: Place) -> list[Line]:
        """Usage of a customer who went on as this one counts here too, and what anyone told to reverse it.

        `reversals` are all that were told of both. The account is settled again.
        """
        self.history = msgspec.structs.replace(self._require_history(), reversals=tuple(reversals))
        self.new_reversals = []
        self.new_usage += usage
        return self._settle_again(until if self.place is None else max(until, self.place))

    def leave(self, leaves_at: datetime, until: datetime) -> tuple[list[Line], list[UsageFact]]:
        """The customer has gone on as another since `leaves_at`: overage and debt leave, usage since then is given up.

        Returns the lines, and that usage.
        """
        history = self._require_history()
        self.leaves_at = leaves_at
        gone = [usage for usage in (*history.usage, *self.new_usage) if usage.at >= leaves_at]
        self.history = msgspec.structs.replace(
            history, usage=tuple(usage for usage in history.usage if usage.at < leaves_at)
        )
        self.new_usage = [usage for usage in self.new_usage if usage.at < leaves_at]
        return self._settle_again(all_of(until)), gone

    def parcels(self) -> list[Parcel]:
        """What has left the book, as it is booked."""
        return _parcels((*self._require_history().lines, *self.new_lines), _LEAVING)

    def arrived(self) -> list[Parcel]:
        """What has arrived in the book, as it is booked."""
        return _parcels((*self._require_history().lines, *self.new_lines), _ARRIVING)

    def receive(self, parcels: Sequence[Parcel], until: Place) -> list[Line]:
        """These parcels, and no others, have arrived; the account is settled again."""
        self._arrivals = tuple(parcels)
        return self._settle_again(until if self.place is None else max(until, self.place))

    @property
    def has_new_parcels(self) -> bool:
        """Whether what leaves the book has changed since it was opened."""
        return any(line.kind in _LEAVING for line in self.new_lines)

    def waits_for(self, usage_key: UUID) -> bool:
        """Whether the usage was reversed before it was told."""
        return usage_key in self.waiting

    def knows(self, reversal: Reversal) -> bool:
        """Whether a reversal of that id and content was told before; needs a history."""
        told = self.reversals()
        content = (reversal.reversal_id, reversal.usage_key, reversal.units)
        return any((one.reversal_id, one.usage_key, one.units) == content for one in told)

    def pass_transition(self, transition: Transition) -> list[Line]:
        """One due transition is booked; they must be passed in order. No lines when nothing comes of it."""
        grant = self.grants[transition.grant_id]
        if transition.place[1][0] == _CUT and self._uncovers(grant.terms):
            lines = self._settle_again(transition.place)
        else:
            self._pass_day(transition.place)
            lines = self._booked(self._happen(transition.place, grant))
        self.place = max(self.place or transition.place, transition.place)
        self._is_ahead_known = False
        return lines

    def set_terms(
        self,
        before: Mapping[UUID, GrantTerms],
        after: Mapping[UUID, GrantTerms],
        until: Place,
    ) -> list[Line]:
        """The grants named have their new terms, and what follows from them up to `until` is booked.

        Everything else that is due by then was passed before. `before` and `after` hold only grants whose terms differ;
        a grant missing in `after` is undone.
        """
        first = self._first_touched(before, after)
        if self.history is None and any(grant_id not in self.grants for grant_id in before):
            self._require_since(first or _NOWHERE)
        if first is not None:
            self._require_since(first)
            self._put_terms(before, after, self.posting)
            return self._settle_again(until if self.place is None else max(until, self.place), first)
        lines = self._put_terms(before, after, self.posting)
        happenings = sorted(
            (place, grant_id)
            for grant_id in after
            for place in self._places(self.grants[grant_id].terms)
            if (self.place is None or place > self.place) and place <= until
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
        return usage.burns and (first.terms.amount is None or first.available >= usage.units)

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
        self.waiting = account.waiting
        self.stated_until = account.stated_until
        self.since_state = account.since_state
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
                grant.short,
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
            # By generation: what was rolled over sorts behind what was not, for "~" comes after every digit.
            places.append((terms.expires_at, f"{_END}~{terms.generation:03}{tie}" if terms.generation else _END + tie))
        places += [_cut_place(terms, cut) for cut in terms.cuts]
        for suspension in terms.suspensions:
            places += _suspension_places(terms, suspension)
        return places

    def _transition(self, place: Place, grant: BookedGrant) -> Transition:
        return Transition(
            place=place,
            grant_id=grant.terms.grant_id,
            entitlement=self.entitlement.key,
            set_by=grant.set_by,
        )

    def _first_touched(self, before: Mapping[UUID, GrantTerms], after: Mapping[UUID, GrantTerms]) -> Place | None:
        """The first place at or before the book's position at which the new terms change anything; None: none."""
        if self.leaves_at is not None:
            return _NOWHERE
        if self.place is None:
            return None
        touched = []
        for grant_id in before.keys() | after.keys():
            old, new = before.get(grant_id), after.get(grant_id)
            if new is not None and self._uncovers(new):
                return _NOWHERE
            touched += [_first_difference(old, new), *self._changes_of_order(grant_id, before, after)]
        first = min(touched, default=self.place)
        return first if touched and first <= self.place else None

    def _changes_of_order(
        self, grant_id: UUID, before: Mapping[UUID, GrantTerms], after: Mapping[UUID, GrantTerms]
    ) -> list[Place]:
        """Where a grant, begun before and after, begins to burn before or after another one as it did not before."""
        if grant_id not in before or grant_id not in after:
            return []
        old = before[grant_id]
        was, will = precedence(old), precedence(after[grant_id])
        if was == will:
            return []
        places = []
        for other_id, other in self.grants.items():
            if other_id == grant_id or other.phase is Phase.VOID:
                continue
            other_was = precedence(before.get(other_id, other.terms))
            other_will = precedence(after.get(other_id, other.terms))
            if (was < other_was) != (will < other_will):
                places.append((max(old.effective_at, other.terms.effective_at), _BEGIN))
        return places

    def _uncovers(self, terms: GrantTerms) -> bool:
        """Whether a cut yet to come takes units back that were used or went on: that needs the whole lineage."""
        grant = self.grants.get(terms.grant_id)
        return (
            grant is not None
            and grant.used + grant.moved > 0
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
            if _receives(terms):
                grant.terms = terms
                self._is_set(grant, posting)
                continue
            counts_alike = (grant.terms.amount is None) == (terms.amount is None)
            if grant.terms.effective_at == terms.effective_at and counts_alike:
                lines += self._grant_units(grant, terms, (terms.amount or 0) - grant.granted)
                grant.terms = terms
            else:
                # Units are counted by the terms that are set: the old ones while they go, the new ones when they come.
                lines += self._grant_units(grant, grant.terms, -grant.granted)
                grant.terms = terms
                lines += self._grant_units(grant, terms, terms.amount or 0)
            self._is_set(grant, posting)
        return lines

    def _is_set(self, grant: BookedGrant, posting: int) -> None:
        grant.set_by = posting
        if grant.phase is Phase.ACTIVE:
            grant.order = precedence(grant.terms)
            self.active.sort(key=_burning_order)
        self.touched.add(grant.terms.grant_id)

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
        if rank == _SUSPEND:
            self.touched.add(grant.terms.grant_id)
            return []
        cut_id = place[1].partition("/")[2]
        return self._cut(grant, next(cut for cut in grant.terms.cuts if cut.cut_id == cut_id and cut.at == at))

    def _begin(self, grant: BookedGrant, at: datetime) -> list[Line]:
        grant.phase = Phase.ACTIVE
        grant.order = precedence(grant.terms)
        self.active.append(grant)
        self.active.sort(key=_burning_order)
        self.touched.add(grant.terms.grant_id)
        if not grant.is_empty_child:
            self._new_stretch(at)
        return []

    def _end(self, grant: BookedGrant, at: datetime) -> list[Line]:
        """What is available goes on in a child, as far as there is one and room in it, and else expires."""
        grant.phase = Phase.ENDED
        self.active = [other for other in self.active if other is not grant]
        self.touched.add(grant.terms.grant_id)
        if not grant.is_empty_child:
            self.last_end = at
            self._new_stretch(at)
        lines: list[Line] = []
        if grant.available and grant.terms.rolls_into is not None:
            lines += self._go_on(grant, at)
        if grant.available and grant.returned:
            lines += self._grant_again(grant, at)
        if grant.available:
            lines.append(self._move(Kind.EXPIRE, at, grant, grant.available))
        return lines

    def _go_on(self, grant: BookedGrant, at: datetime) -> list[Line]:
        """Roll-over into a child of this book, or a transfer to a child in another customer's."""
        terms = grant.terms
        if terms.rolls_into is None:
            return []
        if terms.rollover_max is None:
            return [self._move(Kind.MOVE, at, grant, grant.available, None, f"to/{terms.rolls_into}")]
        child = self.grants.get(terms.rolls_into)
        if child is None:
            raise HistoryNeeded(self.entitlement.key, self.customer_id)
        siblings = sum(other.granted for other in self.grants.values() if _are_siblings(other.terms, child.terms))
        units = min(grant.available, terms.rollover_max - siblings)
        return self._hand_on(grant, child, units, at) if units > 0 else []

    def _hand_on(self, grant: BookedGrant, child: BookedGrant, units: int, at: datetime) -> list[Line]:
        return [
            self._move(Kind.MOVE, at, grant, units, None, f"to/{child.terms.grant_id}"),
            self._move(Kind.RECEIVE, at, child, units),
        ]

    def _grant_again(self, grant: BookedGrant, at: datetime) -> list[Line]:
        """Units that came back by reversals told at or after the end are granted once more from there."""
        lines: list[Line] = []
        terms = grant.terms
        for reversal, returned in sorted(grant.returned or (), key=_by_reversal):
            units = min(returned, grant.available)
            if not units or reversal.at < at:
                continue
            child_terms = msgspec.structs.replace(
                terms,
                grant_id=child_id(terms.grant_id, Origin.REGRANT, reversal.reversal_id),
                amount=0,
                effective_at=reversal.at,
                expires_at=reversal.at + (at - terms.effective_at),
                period_end=None,
                cuts=(),
                suspensions=(),
                parent=terms.grant_id,
                origin=Origin.REGRANT,
                root_at=terms.root_at or terms.effective_at,
                rolls_into=None,
                rollover_max=None,
            )
            child = self.grants.get(child_terms.grant_id)
            if child is None:
                child = self.grants[child_terms.grant_id] = BookedGrant(
                    child_terms, Phase.PENDING, self.posting, burns=[]
                )
                for place in self._places(child_terms):
                    heappush(self._coming, (place, -len(self.grants), child))
            lines += self._hand_on(grant, child, units, at)
        return lines

    def _pay(self, grant: BookedGrant, at: datetime) -> list[Line]:
        """What is owed is paid by the grant that begins, the oldest first; by a child as by its root."""
        lines: list[Line] = []
        root_at = grant.terms.root_at
        left: list[Debt] = []
        for owed in self.owed:
            units = owed.units if grant.terms.amount is None else min(owed.units, grant.available)
            if not units or (root_at is not None and not _is_owed_before(owed, root_at)):
                left.append(owed)
                continue
            kind = Kind.PAY_OVERAGE if owed.cut_id is None else Kind.PAY_DEBT
            lines.append(self._move(kind, at, grant, units, owed.usage_key, owed.cut_id))
            self._covers(grant, owed.usage_key, units)
            rest = msgspec.structs.replace(owed, units=owed.units - units)
            if owed.cut_id is None:
                self._shrink_stretch(self._used_at.get(owed.usage_key, owed.at), units)
                self._overage_of[owed.usage_key] = rest
            if rest.units:
                left.append(rest)
        self.owed = left
        return lines

    def _covers(self, grant: BookedGrant, usage_key: UUID, units: int) -> None:
        if grant.burns is not None:
            self._burnt += 1
            grant.burns.append((self._burnt, usage_key, units))

    def _cut(self, grant: BookedGrant, cut: Cut) -> list[Line]:
        """A cut takes what is available of the grant and then of its children.

        By `full_with_debt` then what expired of them, then what was used, the latest first. What a plan's cut cannot
        take is over-allocation.
        """
        self.touched.add(grant.terms.grant_id)
        left = self._asked(grant, cut)
        lineage = self._lineage(grant)
        lines: list[Line] = []
        for one in lineage:
            taken = min(left, one.available)
            if taken:
                lines.append(self._move(Kind.REVOKE, cut.at, one, taken, None, cut.cut_id))
                left -= taken
        if cut.policy in {CutPolicy.SHRINK, CutPolicy.OPENING}:
            grant.short += left
        if cut.policy is not CutPolicy.FULL_WITH_DEBT:
            return lines
        for one in lineage:
            taken = min(left, one.expired)
            if taken:
                lines.append(self._move(Kind.REVOKE_EXPIRED, cut.at, one, taken, None, cut.cut_id))
                left -= taken
        if left and any(one.used for one in lineage):
            lines += self._uncover(lineage, cut, left)
        return lines

    def _asked(self, grant: BookedGrant, cut: Cut) -> int:
        """How many units a cut asks for: its own, what the grants it names have used, or what is beyond what moved."""
        if cut.policy is CutPolicy.OPENING:
            named = [self.grants.get(grant_id) for grant_id in cut.of]
            if None in named:
                raise HistoryNeeded(self.entitlement.key, self.customer_id)
            return sum(one.used for one in named if one is not None)
        if cut.beyond is not None:
            return max(0, cut.beyond + cut.units - grant.moved) - max(0, cut.beyond - grant.moved)
        return cut.units

    def _lineage(self, grant: BookedGrant) -> list[BookedGrant]:
        """The grant and what became of its units in this book: children by generation, start and id."""
        if not grant.moved:
            return [grant]
        children: dict[UUID | None, list[BookedGrant]] = defaultdict(list)
        for other in self.grants.values():
            if other.terms.parent is not None and other.phase is not Phase.VOID:
                children[other.terms.parent].append(other)
        found = [grant]
        for one in found:
            found += children[one.terms.grant_id]
        gone_on = sum(one.moved for one in found if one.terms.moves_to is None)
        if not self._is_run and self.history is None and gone_on != sum(one.granted for one in found[1:]):
            raise HistoryNeeded(self.entitlement.key, self.customer_id)
        return [grant, *sorted(found[1:], key=_lineage_order)]

    def _uncover(self, lineage: Sequence[BookedGrant], cut: Cut, left: int) -> list[Line]:
        if any(one.burns is None for one in lineage):
            raise HistoryNeeded(self.entitlement.key, self.customer_id)
        kind = Kind.FORGIVE if self.entitlement.debt is DebtPolicy.FORGIVE else Kind.DEBT
        taken_of: dict[tuple[UUID, UUID], int] = defaultdict(int)
        by_id = {one.terms.grant_id: one for one in lineage}
        while left:
            last = max((one for one in lineage if one.burns), key=_last_burn, default=None)
            if last is None or last.burns is None:
                break
            number, usage_key, units = last.burns.pop()
            taken = min(left, units)
            left -= taken
            taken_of[last.terms.grant_id, usage_key] += taken
            if taken < units:
                last.burns.append((number, usage_key, units - taken))
        lines = []
        owed_of: dict[UUID, int] = defaultdict(int)
        for (grant_id, usage_key), units in taken_of.items():
            lines.append(self._move(kind, cut.at, by_id[grant_id], units, usage_key, cut.cut_id))
            owed_of[usage_key] += units
        if kind is Kind.DEBT:
            debts = [
                Debt(cut.at, usage_key, cut.cut_id, units, f"{_CUT}{lineage[0].terms.grant_id.hex}{place:04}")
                for place, (usage_key, units) in enumerate(owed_of.items())
            ]
            if self.leaves_at is not None and cut.at >= self.leaves_at:
                lines += [self._send(debt, cut.at) for debt in debts]
            else:
                self.owed += debts
        return lines

    def _leave(self, at: datetime) -> list[Line]:
        """Overage and debt go on to whom the customer goes on as."""
        owed = [debt for debt in self.owed if debt.cut_id is not None]
        over = [debt for debt in self._overage_of.values() if debt.units]
        self.owed = []
        self._overage_of = {}
        self.overage_since = [(started_at, 0) for started_at, _ in self.overage_since]
        return [self._send(debt, at) for debt in (*over, *owed)]

    def _send(self, debt: Debt, at: datetime) -> Line:
        parcel = Parcel(at, self._used_at.get(debt.usage_key, debt.at), debt)
        kind = Kind.LEAVE_OVERAGE if debt.cut_id is None else Kind.LEAVE_DEBT
        return self._move(kind, at, None, debt.units, debt.usage_key, parcel.label)

    def _arrive(self, parcel: Parcel) -> list[Line]:
        """Overage or debt of a customer who went on as this one is this one's, owed since its own instant."""
        debt = parcel.debt
        self._used_at[debt.usage_key] = parcel.used_at
        is_overage = debt.cut_id is None
        kind = Kind.ARRIVE_OVERAGE if is_overage else Kind.ARRIVE_DEBT
        if is_overage:
            self._overage_of[debt.usage_key] = debt
            self._add_to_stretch(parcel.used_at, debt.units)
        if not is_overage or self.entitlement.overage is OveragePolicy.CARRY:
            self.owed = sorted((*self.owed, debt), key=_owed_order)
        return [self._move(kind, parcel.at, None, debt.units, debt.usage_key, parcel.label)]

    def _add_to_stretch(self, at: datetime, units: int) -> None:
        """Overage that happened at `at` counts with that of its stretch, if any asks for that one still."""
        # Before the first begin of a grant all overage is of one stretch, from the first of it on.
        first = [start for start, _ in self.overage_since if not self._borders or start < self._borders[0]]
        started_at = max((border for border in self._borders if border <= at), default=min((at, *first)))
        oldest = min((grant.terms.effective_at for grant in self.active), default=started_at)
        if self.last_end is not None and started_at < min(oldest, self.last_end):
            return
        if first and started_at < first[0]:
            self.overage_since[0] = (started_at, self.overage_since[0][1])
        counted = dict(self.overage_since)
        counted[started_at] = counted.get(started_at, 0) + units
        self.overage_since = sorted(counted.items())

    def _burn(self, usage: UsageFact) -> list[Line]:
        """Usage burns the grants that are active and not suspended in their order; what none covers is overage.

        So is all of what does not burn.
        """
        lines: list[Line] = []
        left = usage.units
        returning = self._reversed.get(usage.usage_key)
        if returning:
            left = self._left_of(usage, returning)
        if not left:
            return lines
        for grant in self.active if usage.burns else ():
            units = left if grant.terms.amount is None else min(left, grant.available)
            if units and not is_suspended(grant.terms, usage.at):
                lines.append(self._move(Kind.BURN, usage.at, grant, units, usage.usage_key))
                self._covers(grant, usage.usage_key, units)
                left -= units
                if not left:
                    return lines
        lines.append(self._move(Kind.OVERAGE, usage.at, None, left, usage.usage_key))
        owed = Debt(usage.at, usage.usage_key, None, left, _USE + usage.tie)
        if self._is_run:
            self._overage_of[usage.usage_key] = owed
        if self.overage_since:
            started_at, units = self.overage_since[-1]
            self.overage_since[-1] = (started_at, units + left)
        else:
            starts = [grant.terms.effective_at for grant in self.active if not grant.is_empty_child]
            started_at = max(starts if self.last_end is None else [*starts, self.last_end], default=usage.at)
            self.overage_since.append((started_at, left))
        if self.entitlement.overage is OveragePolicy.CARRY:
            self.owed.append(owed)
        return lines

    def _left_of(self, usage: UsageFact, reversals: Sequence[Reversal]) -> int:
        """What reversals leave of a usage; the grants that would have covered the rest remember what came back.

        The reversed units would have burnt last, and of those the overage is the first to go back.
        """
        left = usage.units
        reversed_of = []
        for reversal in reversals:
            units = left if reversal.units is None else min(left, reversal.units)
            left -= units
            reversed_of.append((reversal, units))
        # From the first unit to the last: which grant would cover how many.
        covering: list[tuple[BookedGrant, int]] = []
        to_cover = usage.units
        for grant in self.active if usage.burns else ():
            units = to_cover if grant.terms.amount is None else min(to_cover, grant.available)
            if units and not is_suspended(grant.terms, usage.at):
                covering.append((grant, units))
                to_cover -= units
        for reversal, taken_back in reversed_of:
            units = taken_back
            from_overage = min(units, to_cover)
            to_cover -= from_overage
            units -= from_overage
            while units and covering:
                grant, covered = covering.pop()
                returned = min(units, covered)
                units -= returned
                if returned < covered:
                    covering.append((grant, covered - returned))
                if grant.terms.regrants and grant.terms.amount is not None:
                    grant.returned = [*(grant.returned or ()), (reversal, returned)]
        return left

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

        Those before every active grant and before the last end are dropped: whatever is suspended, none asks for them.
        """
        if self._is_run:
            self._borders.append(at)
        if self.overage_since and self.overage_since[-1][0] == at:
            return
        if self.overage_since and self.overage_since[-1][1] == 0:
            self.overage_since.pop()
        self.overage_since.append((at, 0))
        if len(self.overage_since) > 1 and self.last_end is not None:
            since = min((grant.terms.effective_at for grant in self.active), default=self.last_end)
            since = min(since, self.last_end)
            # By its own start: the one after it may have had no overage, and is then not kept.
            while len(self.overage_since) > 1 and self.overage_since[0][0] < since:
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

    def open_causes(self, grant: BookedGrant) -> list[str]:
        """What suspends the grant where the book stands: begun by then and not lifted."""
        if not grant.terms.suspensions or self.place is None:
            return []
        found = []
        for suspension in grant.terms.suspensions:
            places = _suspension_places(grant.terms, suspension)
            if places[0] <= self.place and (len(places) == 1 or places[1] > self.place):
                found.append(suspension.cause)
        return found

    # -- settling again --

    def _require_any_history(self) -> History:
        if self.history is None:
            raise HistoryNeeded(self.entitlement.key, self.customer_id)
        return self.history

    def _require_history(self) -> History:
        """All of it."""
        history = self._require_any_history()
        if history.since is not None:
            raise HistoryNeeded(self.entitlement.key, self.customer_id)
        return history

    def _require_since(self, first: Place) -> History:
        """The history of a time that begins before `first`, and before whatever made states stale just now."""
        before = first[0] if self.stale_from is None else min(first[0], self.stale_from)
        if self.history is None or (self.history.since is not None and self.history.since.at >= before):
            raise HistoryNeeded(self.entitlement.key, self.customer_id, before if first > _NOWHERE else None)
        return self.history

    def _settle_again(self, until: Place, first: Place = _NOWHERE) -> list[Line]:
        """A run over all terms and usage, or what is later than a state before `first`.

        Returns the difference to what is booked, line by line.
        """
        history = self._require_since(first)
        since = history.since
        booked = [*history.lines, *self.new_lines]
        usage = [*history.usage, *self.new_usage]
        if since is None:
            arriving = self.arrived() if self._arrivals is None else self._arrivals
            run = self._fresh_run()
        else:
            arriving = ()
            booked = [line for line in booked if line.at > since.at]
            usage = [fact for fact in usage if fact.at > since.at]
            run = self._run_from(since, booked, usage)
        target = run.run_all(usage, (*history.reversals, *self.new_reversals), until, arriving, since)
        difference = _difference(booked, target)
        self._states_are_stale(_BEGINNING if since is None else since.at + _MICROSECOND)
        self._take_over(run)
        self.new_states += run.new_states
        self.stated_until = run.new_states[-1].at if run.new_states else None if since is None else since.at
        self.since_state = run.since_state
        return self._booked(difference)

    def _fresh_run(self) -> "Book":
        """A book in which nothing has happened yet, with the same terms; children by regrant are made by the run."""
        run = self._empty(Account(entitlement=self.entitlement.key, waiting=self.waiting))
        for grant_id, grant in self.grants.items():
            if grant.terms.origin is not Origin.REGRANT:
                run.grants[grant_id] = _not_begun(grant)
        return run

    def _run_from(self, since: DayState, booked: Iterable[Line], usage: Iterable[UsageFact]) -> "Book":
        """A book as it stood at `since`, with the terms of now, which differ by nothing that happened up to then.

        Raises HistoryNeeded where the state does not tell enough of what may happen: what reversals gave back before
        it, or how a grant stood that was over and changes none the less.
        """
        run = self._empty(msgspec.structs.replace(since.account, waiting=self.waiting))
        stood = {one.grant_id: one for one in since.grants}
        over: set[UUID] = set()
        for grant_id, grant in self.grants.items():
            standing = stood.get(grant_id)
            if standing is not None:
                run._stand(grant, standing)  # noqa: SLF001 - another book
            elif grant.terms.effective_at > since.at:
                if grant.terms.origin is not Origin.REGRANT:
                    run.grants[grant_id] = _not_begun(grant)
            else:
                over.add(grant_id)
                run.grants[grant_id] = msgspec.structs.replace(grant, burns=None if grant.used else [])
        run.active.sort(key=_burning_order)
        known = {fact.usage_key for fact in usage}.union(self.waiting)
        is_enough = (
            len(stood.keys() - run.grants.keys()) == 0
            and not any(line.grant_id in over or line.kind in _LEAVING | _ARRIVING for line in booked)
            and not any(self._changes_when_over(run.grants[grant_id], since.at) for grant_id in over)
            and (
                not any(run.grants[grant_id].terms.regrants for grant_id in stood)
                or all(reversal.usage_key in known for reversal in self.reversals())
            )
        )
        if not is_enough:
            raise HistoryNeeded(self.entitlement.key, self.customer_id)
        return run

    def _empty(self, account: Account) -> "Book":
        run = Book(self.entitlement, account, ())
        run.posting = self.posting
        run.customer_id = self.customer_id
        run.leaves_at = self.leaves_at
        return run

    def _stand(self, grant: BookedGrant, standing: Standing) -> None:
        """The grant stands as it did then, by its terms of now."""
        booked = BookedGrant(
            grant.terms,
            Phase.VOID if grant.phase is Phase.VOID else standing.phase,
            grant.set_by,
            standing.granted,
            standing.available,
            standing.held,
            standing.used,
            standing.expired,
            standing.revoked,
            standing.moved,
            standing.short,
        )
        if not booked.used:
            booked.burns = []
        self.grants[grant.terms.grant_id] = booked
        if booked.phase is Phase.ACTIVE:
            booked.order = precedence(grant.terms)
            self.active.append(booked)

    def _changes_when_over(self, grant: BookedGrant, since: datetime) -> bool:
        if grant.phase is Phase.VOID:
            return False
        return bool(grant.short) or any(place[0] > since for place in self._places(grant.terms))

    def run_all(
        self,
        usage: Sequence[UsageFact],
        reversals: Sequence[Reversal],
        until: Place,
        arriving: Sequence[Parcel] = (),
        since: DayState | None = None,
        stops: Stops | None = None,
    ) -> list[Line]:
        """Everything up to `until` has happened, on a book that is empty or stands as at `since`. Returns its lines."""
        lines: list[Line] = []
        self._is_run = True
        self._stops = stops
        self._run_posting = 0 if since is None else since.posting
        self.since_state = 0
        self._reversed = _by_usage(reversals)
        self._coming = [((fact.at, _USE + fact.tie), 0, fact) for fact in usage]
        self._coming += [(parcel.place, 0, parcel) for parcel in arriving]
        self._used_at = {fact.usage_key: fact.at for fact in usage} if self.leaves_at is not None or arriving else {}
        if self.leaves_at is not None:
            self._coming.append(((self.leaves_at, _LEAVE), 0, None))
        for grant in self.grants.values():
            if grant.phase is Phase.VOID:
                continue
            if since is None or grant.terms.effective_at > since.at:
                lines += self._grant_units(grant, grant.terms, grant.terms.amount or 0)
            places = self._places(grant.terms)
            self._coming += [(place, 0, grant) for place in places if since is None or place[0] > since.at]
        # Numbered, so that the heap never compares what happens.
        self._coming = [(place, number, what) for number, (place, _, what) in enumerate(self._coming)]
        heapify(self._coming)
        while self._coming:
            place, _, what = heappop(self._coming)
            if place <= until:
                self._pass_day(place)
                self._pass_stops(place)
            if isinstance(what, UsageFact):
                self.since_state += 1
                lines += self._burn(what)
            elif place > until:
                continue
            elif isinstance(what, BookedGrant):
                lines += self._happen(place, what)
            else:
                lines += self._leave(place[0]) if what is None else self._arrive(what)
            self.place = place if self.place is None else max(self.place, place)
        self._pass_stops(None)
        # Where a grant ends decides what becomes of units that were given back before: such an end reaches back.
        told = [all_of(reversal.at) for reversal in reversals if reversal.at <= until[0]]
        self.place = max(told if self.place is None else (self.place, *told), default=None)
        return lines

    def _pass_day(self, place: Place) -> None:
        """What happens next is at `place`: the state before it is kept where a day has ended, or much has happened."""
        if self.since_state < STATE_USAGE_MIN or self.place is None or place[0] <= self.place[0]:
            return
        if place[0].date() > self.place[0].date() or self.since_state >= STATE_USAGE_MAX:
            self.new_states.append(self.state())
            self.stated_until = self.place[0]
            self.since_state = 0

    def _pass_stops(self, place: Place | None) -> None:
        """What happens next is at `place` (None: nothing more): whoever asked for a stop before it has a look."""
        stops = self._stops
        while stops is not None and stops.instants and (place is None or place[0] > stops.instants[0]):
            stops.look(stops.instants.pop(0))

    def state(self) -> DayState:
        """How the book stands. Only between two instants: all that happens at its position's must have happened."""
        place = self.place or _NOWHERE
        return DayState(
            at=place[0],
            posting=self._run_posting if self._is_run else self.posting - 1,
            account=Account(
                entitlement=self.entitlement.key,
                usage=self.usage,
                used_total=self.used_total,
                overage=self.overage,
                debt=self.debt,
                forgiven=self.forgiven,
                settled_at=place[0],
                settled_tie=place[1],
                owed=tuple(self.owed),
                overage_since=self._stretches(),
                last_end=self.last_end,
            ),
            grants=tuple(
                standing_of(grant)
                for _, grant in sorted(self.grants.items(), key=_grant_key)
                if self._is_in_state(grant, place)
            ),
        )

    def _is_in_state(self, grant: BookedGrant, place: Place) -> bool:
        """Whether a grant is not over, and has begun or received units, or something is yet to happen to it."""
        if grant.phase is Phase.VOID:
            return False
        if grant.phase is Phase.PENDING:
            return _receives(grant.terms) and grant.granted > 0
        return grant.phase is Phase.ACTIVE or any(each > place for each in self._places(grant.terms))

    def _states_are_stale(self, instant: datetime) -> None:
        """States of `instant` and later do not hold any more."""
        if self.stated_until is None or self.stated_until < instant:
            return
        self.new_states = [state for state in self.new_states if state.at < instant]
        self.stale_from = instant if self.stale_from is None else min(instant, self.stale_from)
        self.stated_until = instant - _MICROSECOND if instant > _BEGINNING else None
        self.since_state = max(self.since_state, STATE_USAGE_MIN)

    def _take_over(self, run: "Book") -> None:
        """The run's result becomes this book; grants that it left as they were are not touched."""
        for grant_id, grant in self.grants.items():
            if grant_id not in run.grants:
                phase, set_by = Phase.VOID, self.posting if grant.phase is not Phase.VOID else grant.set_by
                run.grants[grant_id] = BookedGrant(grant.terms, phase, set_by, burns=[])
        for grant_id, grant in run.grants.items():
            known = self.grants.get(grant_id)
            if known is not None and grant.terms.origin is Origin.REGRANT and grant.phase is not Phase.VOID:
                is_same = known.terms == grant.terms and known.phase is not Phase.VOID
                grant.set_by = known.set_by if is_same else self.posting
                if not is_same:
                    self.made[grant_id] = grant.terms
            elif known is None:
                grant.set_by = self.posting
                self.made[grant_id] = grant.terms
            if known is None or grant.value() != known.value():
                self.touched.add(grant_id)
        level = self.level
        self._restore(run.account, [grant.value() for grant in run.grants.values()])
        self.level = level
        self._is_ahead_known = False


def granted_ahead(grants: Iterable[Grant], after: datetime) -> list[Line]:
    """The lines by which stored grants that begin after the instant got their units, summed by identity."""
    return [
        Line(Kind.GRANTED, grant.terms.effective_at, grant.terms.grant_id, None, None, grant.granted)
        for grant in grants
        if grant.granted and grant.terms.effective_at > after and not _receives(grant.terms)
    ]


def standing_of(grant: BookedGrant) -> Standing:
    """How the grant stands; whether something is yet to happen to one that is over, its terms tell."""
    phase = Phase.ENDED if grant.phase is Phase.ENDING else grant.phase
    return Standing(
        grant.terms.grant_id,
        phase,
        grant.granted,
        grant.available,
        grant.held,
        grant.used,
        grant.expired,
        grant.revoked,
        grant.moved,
        grant.short,
    )


def is_suspended(terms: GrantTerms, at: datetime) -> bool:
    """Whether a suspension of the grant is open at `at`."""
    return bool(terms.suspensions) and any(is_open(suspension, at) for suspension in terms.suspensions)


def is_open(suspension: Suspension, at: datetime) -> bool:
    """Whether the cause is open at `at`."""
    return suspension.starts_at <= at and (suspension.ends_at is None or at < suspension.ends_at)


def left_by(lines: Iterable[Line]) -> list[Parcel]:
    """The parcels that the lines say have left a book, in the order of their places."""
    return _parcels(lines, _LEAVING)


def _parcels(lines: Iterable[Line], kinds: frozenset[Kind]) -> list[Parcel]:
    """The parcels that the lines come to, in the order of their places."""
    units: dict[tuple[Kind, datetime, UUID | None, UUID | None, str | None], int] = defaultdict(int)
    for line in lines:
        if line.kind in kinds:
            units[line.identity()] += line.units
    return sorted((Parcel.of_line(Line(*identity, total)) for identity, total in units.items() if total), key=_place_of)


def _not_begun(grant: BookedGrant) -> BookedGrant:
    phase = Phase.VOID if grant.phase is Phase.VOID else Phase.PENDING
    return BookedGrant(grant.terms, phase, grant.set_by, burns=[])


def _grant_key(item: tuple[UUID, BookedGrant]) -> bytes:
    return item[0].bytes


def _place_of(parcel: Parcel) -> Place:
    return parcel.place


def _owed_order(debt: Debt) -> tuple[datetime, bool, str]:
    return (debt.at, debt.cut_id is None, debt.tie)


def _receives(terms: GrantTerms) -> bool:
    """Whether the grant has no units by its terms and gets them from its parent in the same book."""
    return terms.origin in {Origin.ROLLOVER, Origin.REGRANT} and terms.amount is not None


def _are_siblings(one: GrantTerms, other: GrantTerms) -> bool:
    """Whether both are children by roll-over of one allowance and item into one period: they share its cap."""
    return (
        one.origin is other.origin is Origin.ROLLOVER
        and one.source_key == other.source_key
        and (one.line_id, one.sku, one.allowance, one.period_start)
        == (other.line_id, other.sku, other.allowance, other.period_start)
    )


def _by_usage(reversals: Iterable[Reversal]) -> dict[UUID, list[Reversal]]:
    """The reversals of each usage in their order; of one reversal id the last telling counts."""
    latest: Latest[str, tuple[UUID, int | None]] = Latest()
    placed = sorted(reversals, key=_reversal_order)
    for place, reversal in enumerate(placed):
        latest.tell(reversal.reversal_id, place, reversal.at, (reversal.usage_key, reversal.units))
    found: dict[UUID, list[Reversal]] = defaultdict(list)
    for told in latest.values():
        reversal = placed[told.place]
        found[reversal.usage_key].append(reversal)
    return found


def _reversal_order(reversal: Reversal) -> tuple[datetime, str]:
    return (reversal.at, reversal.tie)


def _by_reversal(returned: tuple[Reversal, int]) -> tuple[datetime, str]:
    return _reversal_order(returned[0])


def _is_owed_before(owed: Debt, root_at: datetime) -> bool:
    """Whether it was owed when a grant that began at `root_at` paid: cuts of that instant come before, usage after."""
    return owed.at < root_at or (owed.at == root_at and owed.cut_id is not None)


def _lineage_order(grant: BookedGrant) -> tuple[int, datetime, bytes]:
    return (grant.terms.generation, grant.terms.effective_at, grant.terms.grant_id.bytes)


def _last_burn(grant: BookedGrant) -> int:
    return grant.burns[-1][0] if grant.burns else 0


def _suspension_places(terms: GrantTerms, suspension: Suspension) -> list[Place]:
    """Where a suspension begins and where it is lifted, if it is within the grant's time."""
    tie = f"{_SUSPEND}{terms.grant_id.hex}/{suspension.cause}"
    places = [(suspension.starts_at, tie)]
    if suspension.ends_at is not None:
        places.append((suspension.ends_at, tie + _LIFT_SUFFIX))
    return places


def _cut_place(terms: GrantTerms, cut: Cut) -> Place:
    return (cut.at, f"{_CUT}{terms.grant_id.hex}/{cut.cut_id}")


def all_of(instant: datetime) -> Place:
    """The place behind everything that happens at the instant."""
    return (instant, _AFTER_ALL)


def _first_difference(old: GrantTerms | None, new: GrantTerms | None) -> Place:
    """The first place at which two terms of one grant make something else happen."""
    places = []
    if old is None or new is None or _burning_terms(old) != _burning_terms(new):
        places += [(terms.effective_at, _BEGIN) for terms in (old, new) if terms is not None]
        return min(places)
    if old.effective_at != new.effective_at:
        places += [(old.effective_at, _BEGIN), (new.effective_at, _BEGIN)]
    if old.expires_at != new.expires_at:
        places += [(terms.expires_at, _END) for terms in (old, new) if terms.expires_at is not None]
    if (old.rolls_into, old.rollover_max, old.regrants) != (new.rolls_into, new.rollover_max, new.regrants):
        places += [(terms.expires_at, _END) for terms in (old, new) if terms.expires_at is not None]
    places += [(cut.at, _CUT) for cut in set(old.cuts) ^ set(new.cuts)]
    places += _suspension_differences(old.suspensions, new.suspensions)
    return min(places, default=(datetime.max.replace(tzinfo=new.effective_at.tzinfo), ""))


def _burning_terms(terms: GrantTerms) -> tuple[int | None, int, datetime | None]:
    return (terms.amount, terms.priority, terms.root_at)


def _suspension_differences(old: Sequence[Suspension], new: Sequence[Suspension]) -> list[Place]:
    """Where suspensions begin to differ: at their start, or where only one of both is lifted."""
    if old == new:
        return []
    begun = {(one.cause, one.starts_at): one for one in old}
    places = []
    for one in new:
        other = begun.pop((one.cause, one.starts_at), None)
        if other is None:
            places.append((one.starts_at, _SUSPEND))
        elif other.ends_at != one.ends_at:
            places.append((min(end for end in (one.ends_at, other.ends_at) if end is not None), _SUSPEND))
    places += [(one.starts_at, _SUSPEND) for one in begun.values()]
    return places


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
