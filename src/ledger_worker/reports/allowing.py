"""What would allow a request that is refused now: ways of which each is enough, the nearest first.

Whether it is refused is asked of `domain.requests`, which decides requests; whether waiting is enough, of the pictures
that will be. Values in, words out.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from ledger_worker.domain.access import AccessReason
from ledger_worker.domain.catalogue import Catalogue, DebtPolicy, Entitlement, EntitlementType, LimitPolicy
from ledger_worker.domain.changes import EntitlementPicture
from ledger_worker.domain.due import transitions_ahead
from ledger_worker.domain.requests import Item, RequestReason, grantable
from ledger_worker.domain.seats import seats_of
from ledger_worker.domain.settlement import Book
from ledger_worker.reports.words import begins_words, instant_words, units_words

__all__ = ["INSTANTS_MAX", "Verdict", "instants_ahead", "judged"]

INSTANTS_MAX = 10
"""How many instants ahead are looked at for one at which waiting would help."""
_SKUS_NAMED_MAX = 5


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a request for `units` (None: for access, or a value) would be answered, and what would allow it.

    `reason` is why it would be refused (`access.AccessReason` or `requests.RequestReason`), None where it would not.
    """

    units: int | None
    reason: str | None
    would_allow: tuple[str, ...]


def instants_ahead(book: Book) -> list[datetime]:
    """The next instants at which a grant begins or a suspension is lifted, at most `INSTANTS_MAX`, in order."""
    ahead = {transition.place[0] for transition, _ in transitions_ahead(book) if transition.kind in {"begin", "lift"}}
    return sorted(ahead)[:INSTANTS_MAX]


def judged(
    book: Book,
    decision: EntitlementPicture,
    units: int,
    catalogue: Catalogue,
    ahead: Mapping[datetime, EntitlementPicture],
) -> Verdict:
    """The verdict on a request for so many units where the entitlement is as `decision` shows, which `book` stands for.

    `ahead` are the pictures at `instants_ahead`.
    """
    entitlement = book.entitlement
    reason = _reason(entitlement, decision, units, catalogue)
    asked = units if entitlement.type.has_units else None
    if reason is None:
        return Verdict(units=asked, reason=None, would_allow=())
    ways: list[str] = []
    if reason in {RequestReason.EXHAUSTED, AccessReason.EXHAUSTED, AccessReason.REVOKED}:
        ways.append(f"{units_words(units - _left(entitlement, decision), entitlement)} more")
    if reason == AccessReason.IN_DEBT:
        ways.append(f"the {units_words(decision.debt or 0, entitlement)} owed paid by the next grant")
    elif _is_enough_suspended(book, decision, units):
        ways.append(_lifted(book))
    ways += _waiting(book, units, catalogue, ahead)
    ways.append(_bought(entitlement, catalogue))
    return Verdict(units=asked, reason=reason, would_allow=tuple(ways))


def _reason(entitlement: Entitlement, decision: EntitlementPicture, units: int, catalogue: Catalogue) -> str | None:
    """Why it would be refused; None where it would be granted."""
    if entitlement.type is EntitlementType.SEATS:
        if not decision.allowed:
            return decision.reason
        return None if decision.unlimited or units <= (decision.remaining or 0) else RequestReason.EXHAUSTED
    if entitlement.type is not EntitlementType.QUOTA:
        return None if decision.allowed else decision.reason
    granted, reason = grantable(Item(entitlement=entitlement.key, units=units), catalogue, decision, up_to=False)
    return None if granted else reason


def _left(entitlement: Entitlement, decision: EntitlementPicture) -> int:
    """How many units are left of what is in force; below zero where more hold a seat than there are."""
    if entitlement.type is EntitlementType.SEATS:
        return (decision.limit or 0) - (decision.used or 0)
    return max(0, decision.remaining or 0)


def _is_enough_suspended(book: Book, decision: EntitlementPicture, units: int) -> bool:
    """Whether the units could be had if no active grant were suspended."""
    suspended = [grant for grant in book.active if book.open_causes(grant) and not grant.is_empty_child]
    entitlement = book.entitlement
    if not suspended or (book.debt and entitlement.debt is DebtPolicy.BLOCK):
        return False
    if not entitlement.type.has_units or any(grant.terms.amount is None for grant in suspended):
        return True
    if entitlement.limit is LimitPolicy.SOFT and any(grant.granted > grant.revoked for grant in suspended):
        return True
    if entitlement.type is EntitlementType.SEATS:
        seats = seats_of(book)
        return seats is None or seats - len(book.holders) >= units
    return sum(grant.available for grant in suspended) + _left(entitlement, decision) >= units


def _lifted(book: Book) -> str:
    causes = sorted({cause for grant in book.active for cause in book.open_causes(grant)})
    named = " and ".join(f"`{cause}`" for cause in causes)
    return f"the suspension{'' if len(causes) == 1 else 's'} {named} lifted"


def _waiting(
    book: Book, units: int, catalogue: Catalogue, ahead: Mapping[datetime, EntitlementPicture]
) -> Iterable[str]:
    """The first instant ahead at which it would be granted, and what happens then."""
    for at in sorted(ahead):
        if _reason(book.entitlement, ahead[at], units, catalogue) is not None:
            continue
        begins = [
            terms
            for transition, terms in transitions_ahead(book)
            if transition.place[0] == at and transition.kind == "begin" and terms.parent is None
        ]
        amounts = [terms.amount for terms in begins]
        what = begins_words(amounts, book.entitlement) if begins else "a suspension is lifted"
        yield f"waiting until {instant_words(at)}, when {what}"
        return


def _bought(entitlement: Entitlement, catalogue: Catalogue) -> str:
    skus: Sequence[str] = sorted(
        sku
        for sku, versions in catalogue.offers.items()
        if any(allowance.entitlement == entitlement.key for allowance in versions[-1].allowances)
    )
    named = ", ".join(skus[:_SKUS_NAMED_MAX]) + (" and others" if len(skus) > _SKUS_NAMED_MAX else "")
    return f"a purchase that gives it: {named}" if skus else "an offer that gives it: no product does"
