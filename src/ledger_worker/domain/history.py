"""The past of an account: what a step that reaches back reads, and how it says that it is not loaded.

A step that needs the account's history (grants, usage and booked lines, all or those since a state) and has none
raises `HistoryNeeded`; the caller loads it and decides the customer anew.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from ledger_worker.domain.booked import receives
from ledger_worker.domain.ledger import DayState, Grant, Hold, Kind, Line, Reversal, UsageFact

__all__ = ["History", "HistoryNeeded", "granted_ahead"]


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

    All its grants, all reversals of usage, and of usage, holds and booked lines (summed by identity) all, or those that
    are later than the state `since`, or were open then.
    """

    grants: tuple[Grant, ...]
    usage: tuple[UsageFact, ...]
    lines: tuple[Line, ...]
    reversals: tuple[Reversal, ...] = ()
    holds: tuple[Hold, ...] = ()
    since: DayState | None = None


def granted_ahead(grants: Iterable[Grant], after: datetime) -> list[Line]:
    """The lines by which stored grants that begin after the instant got their units, summed by identity."""
    return [
        Line(Kind.GRANTED, grant.terms.effective_at, grant.terms.grant_id, None, None, grant.granted)
        for grant in grants
        if grant.granted and grant.terms.effective_at > after and not receives(grant.terms)
    ]
