"""Seats: units of an entitlement that named holders take and give back.

How many seats there are follows from grants, which are never burnt. Who holds them are decisions: each is recorded as
it was made, and the holders are what the decisions come to in the order in which they were recorded. So a fact told
late changes how many seats there are, never who has taken one; where fewer are left than there are holders, the
entitlement says what becomes of these (`OnShrink`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from ledger_worker.domain.catalogue import Entitlement, EntitlementType, OnShrink
from ledger_worker.domain.events import SeatAssigned, SeatFact, SeatsRevoked, SeatSwapped, SeatUnassigned
from ledger_worker.domain.ledger import Holder
from ledger_worker.domain.settlement import Book

__all__ = [
    "CUSTOMER_HOLDERS_BYTES_MAX",
    "HOLDERS_BYTES_MAX",
    "HOLDERS_MAX",
    "HoldersTold",
    "beyond_bounds",
    "bytes_of",
    "evicted",
    "holders_after",
    "may_evict",
    "merged",
    "seats_of",
]

HOLDERS_MAX = 10_000
"""Most holders of one customer and entitlement that can be assigned."""
HOLDERS_BYTES_MAX = 400_000
"""Most bytes of UTF-8 that their names can have together: a change says them twice, in one message."""
CUSTOMER_HOLDERS_BYTES_MAX = 1_000_000
"""Most bytes that the names of all holders of one customer can have: its picture says those of all entitlements."""


def holders_after(holders: Sequence[Holder], fact: SeatFact, at: datetime) -> tuple[Holder, ...]:
    """Who holds a seat, in the order of taking, once that was decided at `at`."""
    match fact:
        case SeatAssigned(holder=name):
            return (*holders, Holder(name, at))
        case SeatUnassigned(holder=name):
            return tuple(one for one in holders if one.name != name)
        case SeatSwapped(holder=name, to=to):
            return tuple(Holder(to, one.since) if one.name == name else one for one in holders)
        case SeatsRevoked(holders=names):
            gone = frozenset(names)
            return tuple(one for one in holders if one.name not in gone)


def merged(one: Sequence[Holder], other: Sequence[Holder]) -> tuple[Holder, ...]:
    """The holders of both, each once, in the order of taking; of one met twice the earlier seat counts."""
    found: dict[str, Holder] = {}
    for holder in sorted((*one, *other), key=_by_taking):
        found.setdefault(holder.name, holder)
    return tuple(found.values())


def bytes_of(holders: Iterable[Holder]) -> int:
    """How many bytes of UTF-8 the names of the holders have together."""
    return sum(len(one.name.encode()) for one in holders)


def beyond_bounds(holders: Mapping[str, Sequence[Holder]]) -> dict[str, tuple[Holder, ...]]:
    """Who of a customer's holders, given by entitlement, cannot be told any more: the newest, in the order of taking.

    Of an entitlement from the first that is one too many of it, or too long, and of all from the first too long for the
    customer. Only a merge brings so many together.
    """
    beyond: dict[str, list[Holder]] = {}
    counts, sizes = Counter[str](), Counter[str]()
    is_customer_full = False
    taken = sorted(((one, entitlement) for entitlement in holders for one in holders[entitlement]), key=_by_seat)
    for one, entitlement in taken:
        size = bytes_of([one])
        is_customer_full = is_customer_full or sizes.total() + size > CUSTOMER_HOLDERS_BYTES_MAX
        is_full = counts[entitlement] >= HOLDERS_MAX or sizes[entitlement] + size > HOLDERS_BYTES_MAX
        if is_customer_full or is_full or entitlement in beyond:
            beyond.setdefault(entitlement, []).append(one)
        else:
            counts[entitlement] += 1
            sizes[entitlement] += size
    return {entitlement: tuple(beyond[entitlement]) for entitlement in sorted(beyond)}


def seats_of(book: Book) -> int | None:
    """How many seats there are by the active grants, suspended ones too; None for any number."""
    seats = 0
    for grant in book.active:
        if grant.terms.amount is None:
            return None
        seats += grant.granted - grant.revoked - grant.moved - grant.expired
    return seats


def may_evict(entitlement: Entitlement) -> bool:
    """Whether holders lose their seats where there are fewer."""
    return entitlement.type is EntitlementType.SEATS and entitlement.on_shrink is OnShrink.REVOKE_NEWEST


def evicted(book: Book, until: datetime) -> tuple[Holder, ...]:
    """Who has no seat any more where `book` stands, settled up to `until`: the newest, in the order of their taking.

    Nobody while more happens at that instant: a period that ends where the next one begins takes nobody's seat.
    """
    if not book.holders or not may_evict(book.entitlement):
        return ()
    seats = seats_of(book)
    if seats is None or len(book.holders) <= seats:
        return ()
    if book.next_transition_at is not None and book.next_transition_at <= until:
        return ()
    return book.holders[seats:]


class HoldersTold:
    """The holders of one entitlement, of all customers, by what is told in the order in which it was recorded."""

    def __init__(self) -> None:
        self._holders: dict[str, tuple[Holder, ...]] = {}
        self._into: dict[str, str] = {}

    def tell(self, teller: str, fact: SeatFact, at: datetime) -> None:
        """It was decided of the teller, or of whom it had gone on as."""
        owner = self._owner(teller)
        self._holders[owner] = holders_after(self.of(owner), fact, at)

    def merge(self, old: str, into: str) -> None:
        """The holders of the old id are those of whom it goes on as; of two merges of one id the first counts."""
        if old not in self._into:
            self._into[old] = into
            owner = self._owner(old)
            self._holders[owner] = merged(self.of(owner), self._holders.pop(old, ()))

    def of(self, customer_id: str) -> tuple[Holder, ...]:
        """Who holds a seat of the customer; an alias has none."""
        return self._holders.get(customer_id, ())

    def owners(self) -> tuple[str, ...]:
        """The customers of whom anybody has held a seat, and who are no aliases."""
        return tuple(self._holders)

    def _owner(self, customer_id: str) -> str:
        while customer_id in self._into:
            customer_id = self._into[customer_id]
        return customer_id


def _by_seat(seat: tuple[Holder, str]) -> tuple[datetime, bytes, str]:
    holder, entitlement = seat
    return (*_by_taking(holder), entitlement)


def _by_taking(holder: Holder) -> tuple[datetime, bytes]:
    return holder.since, holder.name.encode()
