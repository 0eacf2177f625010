"""Grants while a book is open: how they stand, and in which order they burn."""

from datetime import datetime
from uuid import UUID

import msgspec

from ledger_worker.domain.ledger import Grant, GrantTerms, Origin, Phase, Reversal, Standing, precedence

__all__ = [
    "BookedGrant",
    "are_siblings",
    "burning_order",
    "last_burn",
    "lineage_order",
    "not_begun",
    "receives",
    "standing_of",
]


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


def not_begun(grant: BookedGrant) -> BookedGrant:
    """The grant before anything has happened to it, with the terms and the posting that it has."""
    phase = Phase.VOID if grant.phase is Phase.VOID else Phase.PENDING
    return BookedGrant(grant.terms, phase, grant.set_by, burns=[])


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


def receives(terms: GrantTerms) -> bool:
    """Whether the grant has no units by its terms and gets them from its parent in the same book."""
    return terms.origin in {Origin.ROLLOVER, Origin.REGRANT} and terms.amount is not None


def are_siblings(one: GrantTerms, other: GrantTerms) -> bool:
    """Whether both are children by roll-over of one allowance and item into one period: they share its cap."""
    return (
        one.origin is other.origin is Origin.ROLLOVER
        and one.source_key == other.source_key
        and (one.line_id, one.sku, one.allowance, one.period_start)
        == (other.line_id, other.sku, other.allowance, other.period_start)
    )


def burning_order(grant: BookedGrant) -> tuple[bool, int, datetime, int, datetime, bytes]:
    """The order in which grants burn."""
    return grant.order or precedence(grant.terms)


def lineage_order(grant: BookedGrant) -> tuple[int, datetime, bytes]:
    """The order in which a cut goes through what became of a grant."""
    return (grant.terms.generation, grant.terms.effective_at, grant.terms.grant_id.bytes)


def last_burn(grant: BookedGrant) -> int:
    """The number of the last use that a grant covers; 0 where it covers none."""
    return grant.burns[-1][0] if grant.burns else 0
