"""A ledger with nothing but customers and an outbox: changes are written as `apply` writes them, pictures read back.

A customer's picture holds its sequence and no entitlement: enough to compare what is told with what was told before.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, text

from ledger_worker.domain.changes import Cause, Change, CustomerPicture, EntitlementPicture
from ledger_worker.kafka.murmur2 import murmur2
from ledger_worker.store.customers import lock
from ledger_worker.store.outgoing import OutgoingChange, append_changes
from ledger_worker.wire.encode import encode_change

LANES = 4
_NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
_BEFORE = EntitlementPicture(
    entitlement="export", entitlement_version=1, type="access", state="none", allowed=False, reason="not_granted"
)
_AFTER = EntitlementPicture(
    entitlement="export", entitlement_version=1, type="access", state="active", allowed=True, reason="granted"
)
_ADVANCE = text("""
UPDATE customer
SET sequence = sequence + :changes, recorded_at = :recorded_at
WHERE customer_id = ANY(CAST(:ids AS text[]))
RETURNING customer_id, sequence - :changes
""")
_READ = text("""
SELECT customer_id, sequence, recorded_at
FROM customer
WHERE customer_id = ANY(CAST(:ids AS text[]))
""")


def make_changes(
    conn: Connection,
    customer_ids: Sequence[str],
    *,
    each: int = 1,
    before: EntitlementPicture = _BEFORE,
    after: EntitlementPicture = _AFTER,
) -> None:
    """Each customer's next changes wait, in the order in which `apply` would write them. The caller commits."""
    customer_ids = sorted(customer_ids, key=str.encode)
    lock(conn, customer_ids, murmur2)
    stood = conn.execute(_ADVANCE, {"ids": customer_ids, "changes": each, "recorded_at": _NOW})
    append_changes(
        conn,
        [
            _outgoing(customer_id, sequence, before, after)
            for customer_id, last in stood
            for sequence in range(last + 1, last + each + 1)
        ],
    )


def make_changes_at_random(engine: Engine, customer_ids: Sequence[str], *, transactions: int, seed: int) -> None:
    """A transaction after another advances some of the customers."""
    chosen = random.Random(seed)
    for _ in range(transactions):
        with engine.begin() as conn:
            make_changes(conn, chosen.sample(list(customer_ids), len(customer_ids) // 3), each=chosen.randint(1, 3))


def pictures(conn: Connection, customer_ids: Sequence[str]) -> list[CustomerPicture]:
    """What stands in the row of the customer."""
    return [
        CustomerPicture(
            customer_id=row.customer_id, timeline=1, sequence=row.sequence, recorded_at=row.recorded_at, entitlements=()
        )
        for row in conn.execute(_READ, {"ids": list(customer_ids)})
    ]


def _outgoing(customer_id: str, sequence: int, before: EntitlementPicture, after: EntitlementPicture) -> OutgoingChange:
    change = Change(
        change_id=uuid4(),
        customer_id=customer_id,
        timeline=1,
        sequence=sequence,
        entitlement="export",
        kinds=("state",),
        before=before,
        after=after,
        cause=Cause(event_source="test", event_id=str(sequence), type="PurchaseCompleted", occurred_at=_NOW),
        effective_at=_NOW,
        recorded_at=_NOW,
        posting=sequence,
        posting_hash=UUID(int=sequence).bytes * 2,
    )
    return OutgoingChange(
        lane=murmur2(customer_id) % LANES,
        customer_id=customer_id,
        timeline=1,
        sequence=sequence,
        change_id=change.change_id,
        payload=encode_change(change),
        traceparent=f"00-{sequence:032x}-{1:016x}-01",
        recorded_at=_NOW,
    )
