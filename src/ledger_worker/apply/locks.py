"""What has to be true of the customers that a transaction holds."""

from collections.abc import Mapping

from ledger_worker.domain.decided import CustomerHead
from ledger_worker.errors import BrokenInvariantError

__all__ = ["MoreCustomersError", "require_all_locked", "require_not_parked"]


class MoreCustomersError(Exception):
    """Under the locks it shows that more customers are tied to those that were locked: lock them all from the start."""

    def __init__(self, customer_ids: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(customer_ids)))
        self.customer_ids = customer_ids


def require_not_parked(heads: Mapping[str, CustomerHead]) -> None:
    """No event passes a parked customer: this release does not hold its events back, so it stops."""
    parked = [customer_id for customer_id, head in heads.items() if head.is_parked]
    if parked:
        msg = f"customer {parked[0]} is parked, and its events cannot be held back by this release"
        raise BrokenInvariantError(msg)


def require_all_locked(heads: Mapping[str, CustomerHead], claimants: Mapping[str, str]) -> None:
    """Ties are read before the locks; where they have grown meanwhile, the transaction begins again with all locked."""
    needed = {*claimants.values(), *(other for head in heads.values() for other in head.linked)}
    if not needed <= heads.keys():
        raise MoreCustomersError(frozenset(needed | heads.keys()))
