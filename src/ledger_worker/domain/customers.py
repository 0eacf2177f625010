"""The customers that are decided together: each one's side, who is tied to whom, and who is the same person.

Customers are *tied* when a transfer or a merge connects them, through any others: what reaches back in the books of
one may move units in another's. They stay tied. Customers are the same *person* when, by merges, they go on as the same
one: what is told to reverse usage of one id of the person may concern usage that was told of another.

What an event moves between them is `effect`'s matter.
"""

from collections.abc import Iterable
from uuid import UUID

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.decided import Loaded
from ledger_worker.domain.events import CustomersMerged, Event, OfSource, customers_of, source_key
from ledger_worker.domain.owners import Merge, goes_on_as
from ledger_worker.domain.side import Side

__all__ = ["Customers"]


class Customers:
    """The customers of one decision.

    `sides` are those that were asked for so far, by id. `merges` are the merges as they are known by now, each by who
    goes on as another.
    """

    def __init__(self, loaded: Loaded, catalogue: Catalogue, timeline: int) -> None:
        self.sides: dict[str, Side] = {}
        self.merges: dict[str, Merge] = {
            customer_id: one.head.merge for customer_id, one in loaded.customers.items() if one.head.merge is not None
        }
        self._loaded = loaded
        self._catalogue = catalogue
        self._timeline = timeline

    def side(self, customer_id: str) -> Side:
        """The customer's side of the decision, the same each time; the customer is one of those loaded."""
        side = self.sides.get(customer_id)
        if side is None:
            side = Side(self._loaded.customers[customer_id], self._catalogue, self._timeline)
            self.sides[customer_id] = side
        return side

    # -- ties --

    def touched_by(self, event: Event) -> list[Side]:
        """The customers whose books the event may change, in key order: those it names and those tied to them."""
        if len(self._loaded.customers) == 1:
            return [self.side(event.customer_id)]
        ids = set(customers_of(event))
        fact = event.fact
        if isinstance(fact, OfSource):
            ids.add(self._loaded.claimants.get(source_key(fact), event.customer_id))
        for customer_id in tuple(ids):
            ids.update(self.side(customer_id).linked)
        return [self.side(customer_id) for customer_id in sorted(ids, key=str.encode)]

    def link(self, customer_ids: Iterable[str]) -> None:
        """These customers, and all that are tied to any of them, are tied to each other."""
        tied = set(customer_ids)
        for customer_id in tuple(tied):
            tied.update(self.side(customer_id).linked)
        if len(tied) > 1:
            for customer_id in tied:
                self.side(customer_id).linked = tuple(sorted(tied - {customer_id}, key=str.encode))

    # -- persons --

    def closes_circle(self, event: Event) -> bool:
        """Whether the event is a merge by which the customer would go on as itself."""
        fact = event.fact
        return (
            isinstance(fact, CustomersMerged)
            and event.customer_id not in self.merges
            and (goes_on_as(fact.into_customer_id, self.merges) == event.customer_id)
        )

    def aliases(self, customer_id: str) -> list[Side]:
        """The customer and all who are the same person as it, by merges: whom it goes on as first."""
        root = goes_on_as(customer_id, self.merges)
        same = [each for each in self.side(root).linked if goes_on_as(each, self.merges) == root]
        return [self.side(each) for each in (root, *same)]

    def user_of(self, customer_id: str, entitlement: str, usage_key: UUID) -> Side:
        """Whose usage that is, of all who are the same person; whom they go on as where it was not told yet."""
        if not self.merges:
            return self.side(customer_id)
        sides = self.aliases(customer_id)
        return next((side for side in sides if side.open(entitlement).has_used(usage_key)), sides[0])

    def share_reversals(self, side: Side, entitlement: str) -> None:
        """All ids of the person know what was told to reverse usage of any, also where it is not stored yet."""
        same = self.aliases(side.customer_id)
        told = {one.tie: one for each in same for one in each.open(entitlement).reversals()}
        for each in same:
            each.open(entitlement).learn(told.values())

    def hand_over_waiting(self, side: Side, entitlement: str, usage_key: UUID) -> None:
        """A reversal that waits for the usage at another id of the same person waits here."""
        if not self.merges:
            return
        for other in self.aliases(side.customer_id):
            if other is not side and other.open(entitlement).waits_for(usage_key):
                self.share_reversals(side, entitlement)
                side.open(entitlement).wait_for(usage_key)
                return
