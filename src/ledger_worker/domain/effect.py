"""What one event does in the books of all whom it reaches: what is booked, handed on, and posted at each.

The event changes one book, or those of whoever holds what a source gives. From there units go on: what a transfer moves
is as many units at the receiver as left the giver, and overage, debt and later usage of a customer who goes on as
another arrive there. Only then is it posted, once for each customer, and told where the picture before differs.

An effect may ask for a history that was not loaded (`HistoryNeeded`): the decision is then given up as a whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.booked import BookedGrant
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.customers import Customers
from ledger_worker.domain.decided import Told
from ledger_worker.domain.expiring import is_told_to_expire
from ledger_worker.domain.history import HistoryNeeded
from ledger_worker.domain.holds import pieces
from ledger_worker.domain.ledger import Entry, GrantTerms, Line, Phase, Reversal
from ledger_worker.domain.merging import adopt, leave, receive
from ledger_worker.domain.owners import Held, goes_on_as
from ledger_worker.domain.parcels import Parcel
from ledger_worker.domain.places import Place, all_of
from ledger_worker.domain.seats import merged as holders_merged
from ledger_worker.domain.side import Side, entries_of
from ledger_worker.domain.sources import Folded

__all__ = ["Effect"]


class Effect:
    """What one event does to the books of the customers that are decided together.

    Books are settled up to `until`: the event's instant `now`, or the place of a transition. `merged` is the customer
    who goes on as another by the event, if it is a merge. `also` are kinds of change that no picture shows.
    """

    def __init__(
        self,
        customers: Customers,
        now: datetime,
        *,
        until: Place | None = None,
        merged: Side | None = None,
        also: tuple[str, ...] = (),
    ) -> None:
        self._customers = customers
        self._now = now
        self._until = until or all_of(now)
        self._merged = merged
        self._also = also
        # By customer: the entries, and the pictures to compare with, each drawn before its book changed, and whether an
        # end was near then, and told.
        self._entries: dict[str, list[Entry]] = {}
        self._before: dict[str, dict[str, EntitlementPicture]] = {}
        self._is_near: dict[str, dict[str, bool]] = {}
        self._touched: list[tuple[Side, str]] = []

    @property
    def until(self) -> datetime:
        """The instant up to which the books are settled."""
        return self._until[0]

    @property
    def touched(self) -> list[tuple[Side, str]]:
        """Whose book of which entitlement may have changed, each once, in key order."""
        found = {(side.customer_id, entitlement): side for side, entitlement in self._touched}
        return [(side, key[1]) for key, side in sorted(found.items())]

    def touch(self, side: Side, entitlement: str) -> None:
        """The entitlement's book, which is open, is about to change: a later call for it does nothing."""
        pictures = self._before.setdefault(side.customer_id, {})
        if entitlement not in pictures:
            pictures[entitlement] = side.shown(entitlement)
            is_near = is_told_to_expire(side.books[entitlement], self._until)
            self._is_near.setdefault(side.customer_id, {})[entitlement] = is_near
            self._touched.append((side, entitlement))

    def add(self, side: Side, entries: Iterable[Entry]) -> None:
        """These entries are booked at the customer, behind those that are booked at it already."""
        self._entries.setdefault(side.customer_id, []).extend(entries)

    def has_changed(
        self, side: Side, entitlement: str, entries: Sequence[Entry], before: EntitlementPicture | None
    ) -> None:
        """The first book of this effect has changed already, by these entries; told against `before`, if it is told."""
        self._before[side.customer_id] = {} if before is None else {entitlement: before}
        self._touched.append((side, entitlement))
        self.add(side, entries)

    def book(self, folded: Folded) -> None:
        """The difference of the terms is in the books of whoever holds the grants, givers before receivers."""
        before, after = _by_customer(folded.before), _by_customer(folded.terms)
        chain = [holding.customer_id for holding in folded.owners]
        for customer_id in dict.fromkeys((*chain, *sorted(before))):
            was, will = before.get(customer_id, {}), after.get(customer_id, {})
            changed = [grant_id for grant_id in was.keys() | will.keys() if was.get(grant_id) != will.get(grant_id)]
            if not changed:
                continue
            side = self._customers.side(customer_id)
            entitlements = sorted(
                {terms[grant_id].entitlement for terms in (was, will) for grant_id in changed if grant_id in terms}
            )
            for entitlement in entitlements:
                book = side.open(entitlement)
                self.touch(side, entitlement)
                old = self._with_units(side, _of(entitlement, was, changed))
                new = self._with_units(side, _of(entitlement, will, changed))
                lines = book.set_terms(old, new, self._until)
                self.add(side, entries_of(book, lines, new))
                side.is_changed(entitlement)
        self.couple()

    def leave(self, side: Side, entitlement: str, at: datetime) -> None:
        """Overage, debt, open holds, later usage and the holders of one entitlement go on with the customer."""
        book = side.open(entitlement)
        self.touch(side, entitlement)
        lines, usage, holds = leave(book, at, self._now)
        self.add(side, entries_of(book, lines, {}))
        side.is_changed(entitlement)
        same = self._customers.aliases(side.customer_id)
        merges = self._customers.merges
        if book.holders:
            root = same[0]
            joined = root.open(entitlement)
            self.touch(root, entitlement)
            joined.holders, book.holders = holders_merged(joined.holders, book.holders), ()
            root.is_changed(entitlement)
        reversals = {one.tie: one for each in same for one in each.open(entitlement).reversals()}
        gone_on = [piece for hold in holds for piece in pieces(hold, side.customer_id, merges)]
        for other in same:
            theirs = [each for each in usage if goes_on_as(side.customer_id, merges, each.at) == other.customer_id]
            reserved = [hold for owner, hold in gone_on if owner == other.customer_id]
            if not theirs and not reserved and not reversals:
                continue
            self.touch(other, entitlement)
            adopted = adopt(other.open(entitlement), theirs, reserved, tuple(reversals.values()), self._until)
            self.add(other, entries_of(other.open(entitlement), adopted, {}))
            other.is_changed(entitlement)

    def reverse_at_aliases(self, side: Side, reversals: tuple[Reversal, ...], entitlement: str) -> list[Line]:
        """What reverses usage of one id of a person may have reversed other usage, of another id, before."""
        lines = []
        for other in self._customers.aliases(side.customer_id):
            if other is not side:
                book = other.open(entitlement)
                self.touch(other, entitlement)
                adopted = adopt(book, (), (), reversals, self._until)
                self.add(other, entries_of(book, adopted, {}))
                other.is_changed(entitlement)
                lines += adopted
        return lines

    def couple(self) -> None:
        """What moved between customers is as many units at the receiver as left the giver, through any chain of them.

        Each round goes on to a later instant, so it ends with the last transfer. Raises HistoryNeeded where the
        receiver's book does not know the grant that receives.
        """
        for side, entitlement in self._touched:
            if not side.linked:
                continue
            self._deliver(side, entitlement)
            for grant in sorted(side.books[entitlement].grants.values(), key=_by_start):
                terms = grant.terms
                if terms.moves_to is None or terms.amount is None or terms.rolls_into is None:
                    continue
                if grant.phase is Phase.VOID:
                    continue
                receiver = self._customers.side(terms.moves_to)
                book = receiver.open(entitlement)
                child = book.grants.get(terms.rolls_into)
                if child is None:
                    if book.history is None:
                        raise HistoryNeeded(entitlement, receiver.customer_id)
                    continue
                if child.terms.amount == grant.moved:
                    continue
                self.touch(receiver, entitlement)
                old = {terms.rolls_into: child.terms}
                new = {terms.rolls_into: msgspec.structs.replace(child.terms, amount=grant.moved)}
                lines = book.set_terms(old, new, self._until)
                self.add(receiver, entries_of(book, lines, new))
                receiver.is_changed(entitlement)
                # Its own children may have changed by that, also where it was looked at before.
                self._touched.append((receiver, entitlement))

    def post(self, told: Told) -> bool:
        """One posting for each customer that the event `told` did something to; False when there is none."""
        any_posted = False
        for customer_id in sorted(self._before.keys() | self._entries.keys(), key=str.encode):
            side = self._customers.sides[customer_id]
            entries = self._entries.get(customer_id, ())
            also = ("merged",) if side is self._merged else self._also
            before = self._before.get(customer_id, {})
            is_near = self._is_near.get(customer_id, {})
            is_posted = side.post(told, self._now, entries, before, is_near, until=self._until, also=also)
            any_posted = any_posted or is_posted
            if is_posted and (side.last is None or side.last < self._now):
                side.last = self._now
        return any_posted

    def _with_units(self, side: Side, terms: dict[UUID, GrantTerms]) -> dict[UUID, GrantTerms]:
        """The terms of children by transfer with the units that moved to them: their source does not know how many.

        Of a new child nobody does yet: it gets them when what it receives is coupled to what its giver lost.
        """
        return {grant_id: self._with_moved(side, one) for grant_id, one in terms.items()}

    def _with_moved(self, side: Side, terms: GrantTerms) -> GrantTerms:
        if not terms.receives_from_another or terms.parent is None:
            return terms
        booked = side.open(terms.entitlement).grants.get(terms.grant_id)
        if booked is not None and booked.phase is not Phase.VOID:
            return msgspec.structs.replace(terms, amount=booked.terms.amount)
        return terms

    def _deliver(self, side: Side, entitlement: str) -> None:
        """What has left the books of customers who went on as others has arrived in theirs.

        In the book of whom they have gone on as by then: who has gone on himself passes nothing on.
        """
        if side.merge is None or (self._merged is None and not side.books[entitlement].has_new_parcels):
            return
        same = self._customers.aliases(side.customer_id)
        sent: dict[str, list[Parcel]] = {each.customer_id: [] for each in same}
        for each in same:
            if each.merge is not None:
                for parcel in each.open(entitlement).parcels():
                    sent[goes_on_as(each.merge.into, self._customers.merges, parcel.at)].append(parcel)
        for receiver in same:
            book = receiver.open(entitlement)
            parcels = sorted(sent[receiver.customer_id], key=_by_label)
            if parcels == sorted(book.arrived(), key=_by_label):
                continue
            self.touch(receiver, entitlement)
            self.add(receiver, entries_of(book, receive(book, parcels, self._until), {}))
            receiver.is_changed(entitlement)
            self._touched.append((receiver, entitlement))


def _by_start(grant: BookedGrant) -> tuple[datetime, bytes]:
    return (grant.terms.effective_at, grant.terms.grant_id.bytes)


def _by_label(parcel: Parcel) -> tuple[datetime, bytes, str, int]:
    return (parcel.at, parcel.debt.usage_key.bytes, parcel.label, parcel.debt.units)


def _by_customer(held: Iterable[Held]) -> dict[str, dict[UUID, GrantTerms]]:
    found: dict[str, dict[UUID, GrantTerms]] = {}
    for one in held:
        found.setdefault(one.customer_id, {})[one.terms.grant_id] = one.terms
    return found


def _of(entitlement: str, terms: Mapping[UUID, GrantTerms], changed: Iterable[UUID]) -> dict[UUID, GrantTerms]:
    return {
        grant_id: terms[grant_id]
        for grant_id in changed
        if grant_id in terms and terms[grant_id].entitlement == entitlement
    }
