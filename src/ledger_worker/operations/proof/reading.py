"""Reading: stored bytes become values, or a finding says which row cannot be read and what is left out by that."""

import msgspec

from ledger_worker.domain.ledger import Account
from ledger_worker.operations.proof.findings import Check, Findings
from ledger_worker.operations.proof.rows import AccountRow, Member
from ledger_worker.store.accounts import Carried, carried_of

__all__ = ["UNREADABLE", "json_holds_more", "msgpack_holds_more", "read_accounts", "unreadable"]

UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
"""What decoding raises for bytes that nobody of us wrote. A flipped bit in a text is a UnicodeDecodeError."""


def unreadable(error: Exception) -> str:
    """What a finding says of a value that cannot be read."""
    return f"it cannot be read: {error}; what follows from it is not proven"


def msgpack_holds_more(value: msgspec.Struct, stored: bytes) -> bool:
    """Whether msgpack that was read as `value` says anything beside it: fields that are not known are passed over."""
    try:
        return bool(msgspec.msgpack.decode(stored) != msgspec.msgpack.decode(msgspec.msgpack.encode(value)))
    except UNREADABLE:
        return True


def json_holds_more(value: msgspec.Struct, stored: str) -> bool:
    """As `msgpack_holds_more`, of JSON."""
    try:
        return bool(msgspec.json.decode(stored) != msgspec.json.decode(msgspec.json.encode(value)))
    except UNREADABLE:
        return True


def read_accounts(member: Member, findings: Findings) -> None:
    """The customer's accounts are with the member; one whose `carried` cannot be read is there with its counters."""
    for row in member.rows.accounts:
        name = f"account {row.entitlement}"
        try:
            carried = carried_of(row.carried)
        except UNREADABLE as error:
            carried = carried_of(None)
            member.unread.accounts.add((member.customer_id, row.entitlement))
            findings.add(Check.SETTLEMENT, member.customer_id, name, f"what it carries: {unreadable(error)}")
        else:
            if row.carried is not None and msgpack_holds_more(carried, row.carried):
                message = "what it carries holds more than what an account can carry"
                findings.add(Check.SETTLEMENT, member.customer_id, name, message)
        member.accounts[row.entitlement] = _account(row, carried)


def _account(row: AccountRow, carried: Carried) -> Account:
    return Account(
        entitlement=row.entitlement,
        usage=row.usage,
        used_total=row.used_total,
        overage=row.overage,
        debt=row.debt,
        forgiven=row.forgiven,
        settled_at=row.settled_at,
        settled_tie=row.settled_tie,
        owed=carried.owed,
        overage_since=carried.overage_since,
        last_end=row.last_end,
        level=row.level,
        next_transition_at=row.next_transition_at,
        waiting=carried.waiting,
        holds=carried.holds,
        claims=carried.claims,
        released_at=carried.released_at,
        warned_at=carried.warned_at,
        warned_tie=carried.warned_tie,
        holders=carried.holders,
        stated_until=row.stated_until,
        since_state=row.since_state,
    )
