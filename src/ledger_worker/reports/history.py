"""Everything that was booked of one customer, page by page: what, when, of which instant, and because of whom.

A page is read from either end and goes on where the one before it ended, however much was booked meanwhile: postings
are numbered without a gap and never rewritten.
"""

from collections.abc import Callable
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from ledger_worker.reports.postings import ExplainedPosting, postings_numbered
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store

__all__ = ["PAGE", "PAGE_MAX", "CustomerHistory", "newest_first", "oldest_first"]

PAGE = 20
"""How many postings a page has when the caller says nothing else."""
PAGE_MAX = 1_000
"""Most postings of one page."""

_LAST_NUMBER = 2**63 - 1
_DIGITS_MAX = len(str(_LAST_NUMBER))


class CustomerHistory(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a customer's postings, and the cursor of the next one; None where there is nothing more by now.

    `recorded_at` is of the customer's last event, on this page or not.
    """

    customer_id: str
    recorded_at: datetime | None
    postings: tuple[ExplainedPosting, ...]
    next_cursor: str | None


def newest_first(
    connection: Connection, customer_id: str, cursor: str | None = None, *, postings_max: int = PAGE
) -> CustomerHistory | None:
    """The last postings, or those before `cursor`, the newest first; None for an unknown customer.

    Begins and ends a transaction of its own. Raises ValueError for a cursor that no page had, or a page of a size that
    cannot be.
    """
    before = _LAST_NUMBER if cursor is None else _number_of(cursor)
    return _page(connection, customer_id, lambda last: range(min(last, before - 1), 0, -1), postings_max)


def oldest_first(
    connection: Connection, customer_id: str, cursor: str | None = None, *, postings_max: int = PAGE
) -> CustomerHistory | None:
    """The first postings, or those after `cursor`, the oldest first; else as `newest_first`."""
    after = 0 if cursor is None else _number_of(cursor)
    return _page(connection, customer_id, lambda last: range(after + 1, last + 1), postings_max)


def _page(
    connection: Connection, customer_id: str, numbers_left: Callable[[int], range], postings_max: int
) -> CustomerHistory | None:
    """`numbers_left` says, by the number of the last posting, which are left to be read, in the order of reading."""
    if not 1 <= postings_max <= PAGE_MAX:
        msg = f"a page of {postings_max} postings, expected 1 to {PAGE_MAX}"
        raise ValueError(msg)
    snapshot = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with snapshot.begin():
        heads, _ = customers_store.read_heads(connection, [customer_id])
        if customer_id not in heads:
            return None
        catalogue = catalogue_store.read(connection, catalogue_store.read_ledger(connection).catalogue_version)
        left = numbers_left(heads[customer_id].posting_number)
        shown = left[:postings_max]
        return CustomerHistory(
            customer_id=customer_id,
            recorded_at=heads[customer_id].recorded_at,
            postings=postings_numbered(connection, heads[customer_id], shown, catalogue),
            next_cursor=str(shown[-1]) if len(left) > len(shown) else None,
        )


def _number_of(cursor: str) -> int:
    """The posting that a page ended with, by the cursor of the next one."""
    is_number = cursor.isascii() and cursor.isdecimal() and len(cursor) <= _DIGITS_MAX
    if not is_number or int(cursor) > _LAST_NUMBER:
        msg = f"cursor {cursor[:_DIGITS_MAX]!r} is none that a page had"
        raise ValueError(msg)
    return int(cursor)
