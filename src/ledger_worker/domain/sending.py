"""What goes along when a customer goes on as another: overage and debt leave one book and arrive in the other's.

Both sides are lines; what they carry beside their units is in `Parcel`. Holds and usage that go along are none of it:
they are the other customer's own from then on.
"""

from datetime import datetime

from ledger_worker.domain.catalogue import OveragePolicy
from ledger_worker.domain.counted import Counted
from ledger_worker.domain.ledger import Debt, Kind, Line
from ledger_worker.domain.parcels import Parcel

__all__ = ["arrive", "send", "send_owed"]


def send_owed(counted: Counted, at: datetime) -> list[Line]:
    """Overage and debt go on to whom the customer goes on as."""
    owed = [debt for debt in counted.owed if debt.cut_id is not None]
    over = [debt for debt in counted.overage_of.values() if debt.units]
    counted.owed = []
    counted.overage_of = {}
    counted.overage_since.forget()
    return [send(counted, debt, at) for debt in (*over, *owed)]


def arrive(counted: Counted, parcel: Parcel) -> list[Line]:
    """Overage or debt of a customer who went on as this one is this one's, owed since its own instant."""
    debt = parcel.debt
    counted.used_at[debt.usage_key] = parcel.used_at
    is_overage = debt.cut_id is None
    kind = Kind.ARRIVE_OVERAGE if is_overage else Kind.ARRIVE_DEBT
    if is_overage:
        counted.overage_of[debt.usage_key] = debt
        counted.overage_since.add(parcel.used_at, debt.units, counted.starts(), counted.last_end)
    if not is_overage or counted.entitlement.overage is OveragePolicy.CARRY:
        counted.owed = sorted((*counted.owed, debt), key=Debt.order)
    return [counted.move(kind, parcel.at, None, debt.units, debt.usage_key, parcel.label)]


def send(counted: Counted, debt: Debt, at: datetime) -> Line:
    """What is owed goes on to whom the customer goes on as."""
    parcel = Parcel(at, counted.used_at.get(debt.usage_key, debt.at), debt)
    kind = Kind.LEAVE_OVERAGE if debt.cut_id is None else Kind.LEAVE_DEBT
    return counted.move(kind, at, None, debt.units, debt.usage_key, parcel.label)
