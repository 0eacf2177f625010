"""The values of the ledger: terms, grants, lines, entries, postings; and what each kind of line does to the books.

A *line* is one signed movement of units. Everything a grant or an account counts is a sum of lines by the table
`EFFECTS`; that units are conserved follows from its rows summing to zero, and the database checks them on the rows
that result.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from uuid import UUID

import msgspec

from ledger_worker.domain.occurrences import Recurrence
from ledger_worker.domain.values import JsonText

__all__ = [
    "EFFECTS",
    "NEVER",
    "RULES_VERSION",
    "Account",
    "Claim",
    "Cut",
    "CutPolicy",
    "Debt",
    "Effect",
    "Entry",
    "Grant",
    "GrantTerms",
    "Hold",
    "Holder",
    "Kind",
    "Line",
    "OpenHold",
    "Origin",
    "Phase",
    "Posting",
    "Reversal",
    "Suspension",
    "UsageFact",
    "posting_hash",
    "precedence",
    "value_precedence",
]

NEVER = datetime.max.replace(tzinfo=UTC)
"""Stands for an end that never comes wherever ends are compared."""

RULES_VERSION = 1
"""Raised when a rule changes what the same facts give; recorded in every posting."""


class Kind(StrEnum):
    """What a line does. The names are those of the table `entry`."""

    GRANTED = "granted"
    BURN = "burn"
    OVERAGE = "overage"
    REVOKE = "revoke"
    EXPIRE = "expire"
    REVOKE_EXPIRED = "revoke_expired"
    DEBT = "debt"
    FORGIVE = "forgive"
    PAY_DEBT = "pay_debt"
    PAY_OVERAGE = "pay_overage"
    MOVE = "move"
    RECEIVE = "receive"
    LEAVE_OVERAGE = "leave_overage"
    LEAVE_DEBT = "leave_debt"
    ARRIVE_OVERAGE = "arrive_overage"
    ARRIVE_DEBT = "arrive_debt"
    HOLD = "hold"
    RELEASE = "release"
    CONFIRM = "confirm"
    REVOKE_HELD = "revoke_held"


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What one unit of a line adds to the counters of its grant and of its account."""

    granted: int = 0
    available: int = 0
    held: int = 0
    used: int = 0
    expired: int = 0
    revoked: int = 0
    moved: int = 0
    usage: int = 0
    used_total: int = 0
    overage: int = 0
    debt: int = 0
    forgiven: int = 0


EFFECTS = {
    Kind.GRANTED: Effect(granted=1, available=1),
    Kind.BURN: Effect(available=-1, used=1, usage=1, used_total=1),
    Kind.OVERAGE: Effect(usage=1, overage=1),
    Kind.REVOKE: Effect(available=-1, revoked=1),
    Kind.EXPIRE: Effect(available=-1, expired=1),
    Kind.REVOKE_EXPIRED: Effect(expired=-1, revoked=1),
    Kind.DEBT: Effect(used=-1, revoked=1, used_total=-1, debt=1),
    Kind.FORGIVE: Effect(used=-1, revoked=1, used_total=-1, forgiven=1),
    Kind.PAY_DEBT: Effect(available=-1, used=1, debt=-1, used_total=1),
    Kind.PAY_OVERAGE: Effect(available=-1, used=1, overage=-1, used_total=1),
    Kind.MOVE: Effect(available=-1, moved=1),
    Kind.RECEIVE: Effect(granted=1, available=1),
    Kind.LEAVE_OVERAGE: Effect(usage=-1, overage=-1),
    Kind.LEAVE_DEBT: Effect(usage=-1, debt=-1),
    Kind.ARRIVE_OVERAGE: Effect(usage=1, overage=1),
    Kind.ARRIVE_DEBT: Effect(usage=1, debt=1),
    Kind.HOLD: Effect(available=-1, held=1),
    Kind.RELEASE: Effect(available=1, held=-1),
    Kind.CONFIRM: Effect(held=-1, used=1, usage=1, used_total=1),
    Kind.REVOKE_HELD: Effect(held=-1, revoked=1),
}


class Phase(StrEnum):
    """Where a grant stands in the books.

    `ending` has ended with a cut yet to come or units still held, `void` was undone by a correction.
    """

    PENDING = "pending"
    ACTIVE = "active"
    ENDING = "ending"
    ENDED = "ended"
    VOID = "void"


class CutPolicy(StrEnum):
    """What a cut may take: what is available, or (`full_with_debt`) also what expired and what was used.

    What `shrink` and `opening` cannot take is over-allocation. How much `opening` asks for is settlement's: all that
    was used of the grants it names.
    """

    UNUSED_ONLY = "unused_only"
    PRORATE = "prorate"
    FULL_WITH_DEBT = "full_with_debt"
    SHRINK = "shrink"
    OPENING = "opening"


class Cut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A term that takes up to `units` back at `at`.

    An opening cut has no units of its own: it asks for what was used of the grants `of`. `beyond` is set on what a
    giver still answers for after a transfer: the cut then takes what reaches beyond the units that moved, `beyond` of
    them having been asked for by earlier such cuts.
    """

    cut_id: str
    at: datetime
    units: int
    policy: CutPolicy
    of: tuple[UUID, ...] = ()
    beyond: int | None = None


class Origin(StrEnum):
    """Where the units of a child grant come from."""

    ROLLOVER = "rollover"
    TRANSFER = "transfer"
    REGRANT = "regrant"


class Suspension(msgspec.Struct, frozen=True, kw_only=True):
    """`[starts_at, ends_at)` in which the grant does not burn, and the cause that keeps it so."""

    cause: str
    starts_at: datetime
    ends_at: datetime | None = None


class GrantTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a grant is by its source alone: never by usage.

    In force over `[effective_at, expires_at)` (None: no end). `amount` None is access, a setting or unlimited; of a
    child with units it is 0, for what it has it receives from its parent. `value` is that of a setting, None of all
    else. `period_end` is the end of the paid period without leeway. Cuts and suspensions stand in order of their
    instants. What is left at the end goes into the grant `rolls_into`, where there is one: of this customer, so that
    the children of one period get at most `rollover_max` together, or all of it of the customer `moves_to`. `root_at`
    is when the root of a child began. `recurs` is set on an occurrence that another one follows, of the same
    customer: when it begins, settlement makes the one after it.
    """

    grant_id: UUID
    entitlement: str
    source_key: str
    line_id: str
    sku: str
    allowance: str
    offer_version: int
    amount: int | None
    priority: int
    effective_at: datetime
    expires_at: datetime | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
    generation: int = 0
    cuts: tuple[Cut, ...] = ()
    suspensions: tuple[Suspension, ...] = ()
    parent: UUID | None = None
    origin: Origin | None = None
    root_at: datetime | None = None
    rolls_into: UUID | None = None
    rollover_max: int | None = None
    moves_to: str | None = None
    regrants: bool = False
    value: JsonText | None = None
    recurs: Recurrence | None = None

    @property
    def receives_from_another(self) -> bool:
        """Whether its units come from another customer's grant: how many only that one's settlement knows."""
        return self.origin is Origin.TRANSFER and self.amount is not None


class UsageFact(msgspec.Struct, frozen=True, kw_only=True):
    """Usage as settlement sees it: `units` at `at` under its inbox key; `tie` orders facts of one instant.

    Where it does not burn (`burns`), all of it is overage. Usage that counts nothing has no units.
    """

    usage_key: UUID
    at: datetime
    units: int
    tie: str
    burns: bool = True


class Reversal(msgspec.Struct, frozen=True, kw_only=True):
    """A reversal as settlement sees it: of the usage `usage_key`, `units` (None: all) from `at`; `tie` orders them."""

    reversal_id: str
    usage_key: UUID
    at: datetime
    units: int | None
    tie: str


class Hold(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Units reserved from `at` on, up to `ended_at`, or where it expires; then `confirmed` of them are used.

    `hold_key` is the inbox key of its taking; what is confirmed is usage under that key. `tie` orders it among usage of
    one instant.
    """

    hold_key: UUID
    at: datetime
    expires_at: datetime
    units: int
    tie: str
    ended_at: datetime | None = None
    confirmed: int = 0

    @property
    def ends_at(self) -> datetime:
        """Up to when it is open, by what is known of it."""
        return self.expires_at if self.ended_at is None else self.ended_at


class OpenHold(msgspec.Struct, frozen=True, array_like=True):
    """A hold where the book stands between its taking and its end, and how many units it reserves in which grants.

    Of its end only where it expires. The grants are in the order in which they burn. What it does not reserve was taken
    from under it, or never was there.
    """

    hold: Hold
    parts: tuple[tuple[UUID, int], ...]

    @property
    def uncovered(self) -> int:
        """The units of the hold that no grant reserves: confirmed, they are overage."""
        return self.hold.units - sum(units for _, units in self.parts)


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """Units that the cut `cut_id` of a grant found held, of it or its children: released, they go to the cut first.

    `is_short` says that they count as the grant's over-allocation until then.
    """

    grant_id: UUID
    cut_id: str
    units: int
    is_short: bool


class Line(msgspec.Struct, frozen=True):
    """One signed movement: its identity (all fields but `units`) and its units."""

    kind: Kind
    at: datetime
    grant_id: UUID | None
    usage_key: UUID | None
    cut_id: str | None
    units: int

    def identity(self) -> tuple[Kind, datetime, UUID | None, UUID | None, str | None]:
        """What makes two lines the same movement, so that their units add up."""
        return (self.kind, self.at, self.grant_id, self.usage_key, self.cut_id)


class Debt(msgspec.Struct, frozen=True, omit_defaults=True):
    """Units owed: usage that `cut_id` un-covered at `at` (or overage that is carried, `cut_id` None).

    `tie` orders those of one instant.
    """

    at: datetime
    usage_key: UUID
    cut_id: str | None
    units: int
    tie: str = ""

    def order(self) -> tuple[datetime, bool, str]:
        """In which order what is owed is paid."""
        return (self.at, self.cut_id is None, self.tie)

    def is_before(self, root_at: datetime) -> bool:
        """Whether it was owed when a grant that began then paid: cuts of that instant come before, usage after."""
        return self.at < root_at or (self.at == root_at and self.cut_id is not None)


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """A grant as booked: its terms, phase, counters, and the number of the posting that last set its terms.

    `short` is over-allocation: what changes of plan or quantity took back and could not take because it was used.
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


class Holder(msgspec.Struct, frozen=True, array_like=True):
    """Somebody who has a seat, and since when the seat is taken: a swap hands that on."""

    name: str
    since: datetime


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One customer and entitlement as booked.

    Settled up to and including (`settled_at`, `settled_tie`). `owed` are debts and carried overage in order;
    `overage_since` is overage by stretch: (start of the stretch, units), a new stretch at each begin or end of a grant.
    `next_transition_at` is the first instant after that at which something happens by itself. `waiting` are the inbox
    keys of usage that was reversed before it was told. `holds` are the open ones in the order of their taking, `claims`
    what cuts may still take of them, `released_at` is when the last hold ended. Ends that are near were told up to
    (`warned_at`, `warned_tie`). `holders` have seats, in the order of their taking: decisions, which settling never
    changes. No day state is stored of an instant after `stated_until`, and `since_state` usages and ends of holds were
    booked since the newest; both only say when the next one is due.
    """

    entitlement: str
    usage: int = 0
    used_total: int = 0
    overage: int = 0
    debt: int = 0
    forgiven: int = 0
    settled_at: datetime | None = None
    settled_tie: str = ""
    owed: tuple[Debt, ...] = ()
    overage_since: tuple[tuple[datetime, int], ...] = ()
    last_end: datetime | None = None
    level: int | None = None
    next_transition_at: datetime | None = None
    waiting: tuple[UUID, ...] = ()
    holds: tuple[OpenHold, ...] = ()
    claims: tuple[Claim, ...] = ()
    released_at: datetime | None = None
    warned_at: datetime | None = None
    warned_tie: str = ""
    holders: tuple[Holder, ...] = ()
    stated_until: datetime | None = None
    since_state: int = 0


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """How a grant stood: its counters, as in `Grant`."""

    grant_id: UUID
    phase: Phase
    granted: int
    available: int
    held: int
    used: int
    expired: int
    revoked: int
    moved: int
    short: int


class DayState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an account stood when everything up to and including `at` had happened: settling again may begin there.

    `grants` are those that had begun, or received units, and were not over. The lines after `at` of the postings up to
    number `posting` come to nothing, but for what was granted ahead.
    """

    at: datetime
    posting: int
    account: Account
    grants: tuple[Standing, ...]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line as booked in a posting; `terms` is set where the line also sets a grant's terms."""

    entitlement: str
    line: Line
    terms: GrantTerms | None = None


class Posting(msgspec.Struct, frozen=True, kw_only=True):
    """The entries that one event causes for one customer, as a link of the customer's hash chain.

    `told_to` is the customer as sent where that is another one.
    """

    number: int
    event_key: UUID
    content_hash: bytes
    recorded_at: datetime
    catalogue_version: int
    rules_version: int
    entries: tuple[Entry, ...]
    hash: bytes
    told_to: str | None = None


_CHAIN_ENCODER = msgspec.msgpack.Encoder(order="sorted")
_CHAIN_FORMAT = 1


def posting_hash(  # noqa: PLR0913, PLR0917 - each part of what is hashed is named
    previous: bytes,
    customer_id: str,
    number: int,
    event_key: UUID,
    content_hash: bytes,
    recorded_at: datetime,
    catalogue_version: int,
    rules_version: int,
    entries: Sequence[Entry],
) -> bytes:
    """sha256 over the previous hash and the canonical bytes of a posting, which begin with a format number.

    They hold what happened, not how it came: no offset, worker, batch or header.
    """
    lines = [
        (e.entitlement, e.line.kind, e.line.at, e.line.units, e.line.grant_id, e.line.usage_key, e.line.cut_id, e.terms)
        for e in entries
    ]
    canonical = _CHAIN_ENCODER.encode(
        (
            _CHAIN_FORMAT,
            customer_id,
            number,
            event_key,
            content_hash,
            recorded_at,
            catalogue_version,
            rules_version,
            lines,
        )
    )
    return sha256(previous + canonical).digest()


def precedence(terms: GrantTerms) -> tuple[bool, int, datetime, int, datetime, bytes]:
    """The order of burning, lower first.

    Unlimited last, priority, sooner end, higher generation, earlier start, id.
    """
    return (
        terms.amount is None,
        terms.priority,
        terms.expires_at or NEVER,
        -terms.generation,
        terms.effective_at,
        terms.grant_id.bytes,
    )


def value_precedence(terms: GrantTerms) -> tuple[int, timedelta, timedelta, bytes]:
    """The order in which values of a setting count, lower first: priority, later start, later end, id."""
    return (
        terms.priority,
        NEVER - terms.effective_at,
        NEVER - (terms.expires_at or NEVER),
        terms.grant_id.bytes,
    )
