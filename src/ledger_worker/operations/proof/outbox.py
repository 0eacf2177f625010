"""The outbox: what waits to be published is the end of the customer's sequence, each change of the posting it names."""

from ledger_worker.errors import BadBytesError
from ledger_worker.operations.proof.findings import Check, Findings, differing
from ledger_worker.operations.proof.rows import Member, Published
from ledger_worker.wire.decode import decode_change

__all__ = ["check_outbox"]


def check_outbox(member: Member, published: Published, findings: Findings) -> None:
    """What waits to be published is the end of the customer's sequence, each change of the posting it names."""
    rows = member.rows.outbox
    customer = member.rows.customer
    if customer is None:
        return
    hashes = {posting.number: posting.hash for posting in member.rows.postings}
    for row, sequence in zip(rows, range(customer.sequence - len(rows) + 1, customer.sequence + 1), strict=True):
        findings.looked_at[Check.OUTBOX] += 1
        name = f"change {row.sequence}"
        if row.sequence != sequence:
            message = f"sequence is {row.sequence}, expected {sequence}: the customer has told {customer.sequence}"
            findings.add(Check.OUTBOX, member.customer_id, name, message)
            return
        try:
            change = decode_change(row.payload)
        except BadBytesError as error:
            findings.add(Check.OUTBOX, member.customer_id, name, f"its payload cannot be read: {error}")
            continue
        names = ("customer_id", "timeline", "sequence", "change_id", "lane", "posting_hash")
        lane = row.lane if published.lanes is None else customer.key_hash % published.lanes
        stored = (row.customer_id, row.timeline, row.sequence, row.change_id, row.lane, change.posting_hash)
        ids = (change.customer_id, change.timeline, change.sequence, change.change_id)
        expected = (*ids, lane, hashes.get(change.posting))
        if stored != expected:
            findings.add(Check.OUTBOX, member.customer_id, name, differing(names, stored, expected))
