"""What a proof leaves: the closed list of checks, what each found and how much it looked at, and the words for it."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

__all__ = ["Check", "Finding", "Findings", "differing", "differing_fields", "shown"]


class Check(StrEnum):
    """What is recomputed, in the order in which it is done for one group.

    The first and the last two are of the whole ledger, and so is most of the third last.
    """

    CATALOGUE = "catalogue"
    """The row of the ledger is there, and every published definition can be read."""
    EVENT = "event"
    """The key, the content hash and the columns of each event follow from its id and its payload.

    Its outcome is one that its fact can have and that what is booked allows: what was true when it was applied is not
    judged again. What the ledger tells itself came by no topic.
    """
    POSTING = "posting"
    """Postings are numbered from 1 without a gap, their instants rise, and each is of an event with its content."""
    HASH_CHAIN = "hash_chain"
    """Each posting's hash is that of the hash before it and of its own content."""
    ENTRY = "entry"
    """Each entry is a numbered line of a posting that exists."""
    CUSTOMER = "customer"
    """The customer stands at its last posting, its lane follows from its id, and sources tie it to whom it names."""
    SOURCE = "source"
    """The recorded facts, folded again, give the stored state, in the keeping of whom the source was first told of."""
    TERMS = "terms"
    """The grants are those that the sources give each holder, and stand as their entries last said."""
    UNITS = "units"
    """The entries add up to the counters of each grant and account, and no unit came from nowhere or is gone."""
    USAGE = "usage"
    """The lines about each usage add up to the units that were used and not reversed."""
    SETTLEMENT = "settlement"
    """Each account, settled again from nothing, is covered as it is booked, and grants once more what it granted so.

    Who holds a seat of it is what was decided.
    """
    DAY_STATE = "day_state"
    """Each day state is how its account, settled from nothing, stands at that instant."""
    CHECK_PATH = "check_path"
    """What an access check reads of an account is what the settled account shows."""
    OUTBOX = "outbox"
    """What waits to be published is the end of the customer's sequence, without a gap, each change as it was posted.

    What it shows after is proven while a customer who is tied to nobody still stands there.
    """
    ANSWER = "answer"
    """What a first answer granted is recorded, and what requests did was granted by their first answer."""
    SOURCE_OWNER = "source_owner"
    """Each source that was claimed is there."""
    INPUT_PARTITION = "input_partition"
    """The records counted of each input partition are its events, duplicates and dead letters."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One row that does not agree with the others: `row` names it within its customer, `message` says why.

    `customer_id` is None where the row belongs to no customer.
    """

    check: Check
    customer_id: str | None
    row: str
    message: str


class Findings:
    """What the checks come to, added up over all groups; the first `kept_max` findings are kept, all are counted.

    `unproven` accounts are those that no single version of their entitlement's policies explains.
    """

    def __init__(self, kept_max: int) -> None:
        self.kept: list[Finding] = []
        self.found: Counter[Check] = Counter()
        self.looked_at: Counter[Check] = Counter()
        self.unproven = 0
        self._kept_max = kept_max

    def add(self, check: Check, customer_id: str | None, row: str, message: str) -> None:
        """A row does not agree."""
        self.found[check] += 1
        if len(self.kept) < self._kept_max:
            self.kept.append(Finding(check=check, customer_id=customer_id, row=row, message=message))


def differing(names: Sequence[str], stored: Sequence[object], expected: Sequence[object]) -> str:
    """What of `stored` is not as expected, name by name."""
    return ", ".join(
        f"{name} is {shown(is_now)}, expected {shown(should_be)}"
        for name, is_now, should_be in zip(names, stored, expected, strict=True)
        if is_now != should_be
    )


def differing_fields(stored: msgspec.Struct, expected: msgspec.Struct) -> str:
    """What of two values of one kind differs, field by field."""
    return differing(stored.__struct_fields__, msgspec.structs.astuple(stored), msgspec.structs.astuple(expected))


def shown(value: object) -> str:
    """The value as a finding says it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple | list):
        return ", ".join(map(shown, value)) or "none"
    return "none" if value is None else str(value)
