"""Looking ahead of tied books: how one customer stands once what is due, of it and of those it is tied to, has passed.

What falls due in the book of one may move units into another's, so a read that passes only what is due of the one it
asks about would show less than is so. For reads: nothing of it is to be stored.
"""

from datetime import datetime, timedelta

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.decide import Decision
from ledger_worker.domain.decided import Loaded, NeedsHistory
from ledger_worker.domain.history import HistoryNeeded
from ledger_worker.domain.settlement import Book

__all__ = ["books_ahead"]


def books_ahead(loaded: Loaded, customer_id: str, at: datetime, catalogue: Catalogue) -> dict[str, Book] | NeedsHistory:
    """The customer's books by entitlement where they will stand at `at`; `loaded` has all whom it is tied to."""
    decision = Decision(loaded, catalogue, 0, timedelta(), timedelta())
    sides = [decision.customers.side(each) for each in sorted(loaded.customers, key=str.encode)]
    try:
        decision.pass_due(sides, at)
    except HistoryNeeded as needed:
        return NeedsHistory(customer_id=needed.customer_id, entitlement=needed.entitlement, before=needed.before)
    return decision.customers.side(customer_id).books
