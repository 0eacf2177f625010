"""A customer goes on as another: what that does to the book of either.

The book of the one leaves: usage and holds since then are given up, overage and debt go on. The other's adopts what was
given up, and receives what has left.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from ledger_worker.domain.ledger import Hold, Line, Reversal, UsageFact
from ledger_worker.domain.parcels import Parcel
from ledger_worker.domain.places import Place, all_of
from ledger_worker.domain.settlement import Book

__all__ = ["adopt", "leave", "receive"]


def leave(book: Book, leaves_at: datetime, until: datetime) -> tuple[list[Line], list[UsageFact], list[Hold]]:
    """The customer has gone on as another since `leaves_at`: overage and debt leave, usage since then is given up.

    So are holds, as far as they are since then. Returns the lines, that usage, and those holds.
    """
    history = book.require_history()
    book.leaves_at = leaves_at
    gone = [usage for usage in (*history.usage, *book.new_usage) if usage.at >= leaves_at]
    book.history = msgspec.structs.replace(
        history, usage=tuple(usage for usage in history.usage if usage.at < leaves_at)
    )
    book.new_usage = [usage for usage in book.new_usage if usage.at < leaves_at]
    lasting = [hold for hold in book.all_holds() if hold.ends_at > leaves_at]
    staying = [hold for hold in book.all_holds() if hold.ends_at <= leaves_at]
    staying += [
        msgspec.structs.replace(hold, ended_at=leaves_at, confirmed=0) for hold in lasting if hold.at < leaves_at
    ]
    book.history = msgspec.structs.replace(book.history, holds=())
    book.new_holds = {hold.hold_key: hold for hold in staying}
    going_on = [msgspec.structs.replace(hold, at=max(hold.at, leaves_at)) for hold in lasting]
    return book.settle_again(all_of(until)), gone, going_on


def adopt(
    book: Book, usage: Sequence[UsageFact], holds: Sequence[Hold], reversals: Sequence[Reversal], until: Place
) -> list[Line]:
    """Usage and holds of a customer who went on as this one count here too, and what anyone told to reverse it.

    `reversals` are all that were told of both. The account is settled again.
    """
    book.history = msgspec.structs.replace(book.require_history(), reversals=tuple(reversals))
    book.new_reversals = []
    book.new_usage += usage
    book.new_holds |= {hold.hold_key: hold for hold in holds}
    return book.settle_again(until if book.place is None else max(until, book.place))


def receive(book: Book, parcels: Sequence[Parcel], until: Place) -> list[Line]:
    """These parcels, and no others, have arrived; the account is settled again."""
    book.arrivals = tuple(parcels)
    return book.settle_again(until if book.place is None else max(until, book.place))
