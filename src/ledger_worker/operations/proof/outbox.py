"""The outbox: what waits to be published is the end of the customer's sequence, each change as its posting told it.

Proven of a change that waits is whom and what it names, its posting with the event behind it, and that its kinds are
what differs between its two pictures. What it shows after is proven where the customer, tied to nobody, still stands at
that posting: then it is the picture of the settled account. What it shows otherwise, and what was there before, is not,
for the account has moved on. Nor is what is published already: it has no row any more.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ledger_worker.domain.access import picture
from ledger_worker.domain.changes import Change
from ledger_worker.domain.events import CustomersMerged
from ledger_worker.domain.ledger import Phase
from ledger_worker.domain.settlement import Book
from ledger_worker.domain.side import kinds_between
from ledger_worker.errors import BadBytesError
from ledger_worker.operations.proof.findings import Check, Findings, differing, differing_fields, shown
from ledger_worker.operations.proof.rows import (
    CustomerRow,
    EntryRow,
    EventRow,
    Member,
    OutboxRow,
    PostingRow,
    Published,
)
from ledger_worker.wire.decode import decode_change
from ledger_worker.wire.schemas import CHANGE

__all__ = ["check_outbox"]


def check_outbox(member: Member, members: Mapping[str, Member], published: Published, findings: Findings) -> None:
    """Every change of the customer that waits was looked at."""
    rows = member.rows.outbox
    customer = member.rows.customer
    if customer is None or not rows:
        return
    postings = {posting.number: posting for posting in member.rows.postings}
    entries: dict[int, list[EntryRow]] = defaultdict(list)
    for entry in member.rows.entries:
        entries[entry.posting].append(entry)
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
        posting = postings.get(change.posting)
        lane = row.lane if published.lanes is None else customer.key_hash % published.lanes
        messages = [_columns_wrong(row, change, posting, lane)]
        if posting is not None:
            teller = members.get(posting.told_to or member.customer_id, member)
            event = teller.events.get(posting.event_key)
            if event is not None:
                messages.append(_content_wrong(change, posting, event, entries.get(posting.number, ())))
            if len(members) == 1:
                messages.append(_shown_wrong(change, posting, customer, member, published))
        for message in filter(None, messages):
            findings.add(Check.OUTBOX, member.customer_id, name, message)


def _columns_wrong(row: OutboxRow, change: Change, posting: PostingRow | None, lane: int) -> str:
    """What of the row, and of the posting that the change names, is not as the change says; empty when nothing is."""
    names = ("customer_id", "timeline", "sequence", "change_id", "lane", "ce_type", "recorded_at", "posting_hash")
    stored = (
        *(row.customer_id, row.timeline, row.sequence, row.change_id, row.lane, row.ce_type, row.recorded_at),
        change.posting_hash,
    )
    ids = (change.customer_id, change.timeline, change.sequence, change.change_id)
    expected = (*ids, lane, CHANGE, change.recorded_at, None if posting is None else posting.hash)
    return differing(names, stored, expected)


def _content_wrong(change: Change, posting: PostingRow, event: EventRow, entries: Sequence[EntryRow]) -> str:
    """What a change says that does not follow from its posting, the event behind it and its own two pictures."""
    about = (change.before.entitlement, change.after.entitlement)
    if about != (change.entitlement, change.entitlement):
        return f"its pictures are of {shown(about)}, expected both of {change.entitlement}"
    own = [entry for entry in entries if entry.entitlement == change.entitlement]
    # Whoever goes on as another is told so of every entitlement, whatever its pictures show.
    also = ("merged",) if event.type == CustomersMerged.__name__ and posting.told_to is None else ()
    # A lead time before an end that is known it is told to come, alone or with what else is told.
    is_told_to_end = "expiring_soon" in change.kinds and change.after.expires_at is not None
    near = ("expiring_soon",) if is_told_to_end else ()
    cause = change.cause
    names = (
        *("cause's event_source", "cause's event_id", "cause's type", "cause's occurred_at"),
        *("kinds", "effective_at", "recorded_at", "correction"),
    )
    stored = (
        *(cause.event_source, cause.event_id, cause.type, cause.occurred_at),
        *(change.kinds, change.effective_at, change.recorded_at, change.correction),
    )
    expected = (
        *(event.event_source, event.event_id, event.type, event.occurred_at),
        (*kinds_between(change.before, change.after), *also, *near),
        min((entry.at for entry in own if entry.units), default=event.occurred_at),
        posting.recorded_at,
        any(entry.units < 0 for entry in own),
    )
    return differing(names, stored, expected)


def _shown_wrong(
    change: Change, posting: PostingRow, customer: CustomerRow, member: Member, published: Published
) -> str:
    """What the change shows after that is not what the account shows, of a customer who still stands where it was told.

    Where the customer stands later, or a newer catalogue is published, the account may show something else.
    """
    if (posting.number, posting.recorded_at) != (customer.posting_number, customer.recorded_at):
        return ""
    catalogue = published.catalogue
    if catalogue is None or catalogue.version != posting.catalogue_version or change.entitlement not in member.settled:
        return ""
    entitlement = change.entitlement
    open_grants = [grant for grant in member.grants.get(entitlement, ()) if grant.phase in _OPEN]
    expected = picture(Book(catalogue.entitlements[entitlement], member.accounts[entitlement], open_grants))
    return "" if change.after == expected else f"it shows after: {differing_fields(change.after, expected)}"


_OPEN = frozenset({Phase.PENDING, Phase.ACTIVE, Phase.ENDING})
