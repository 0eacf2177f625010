"""Who has something due: what the clock books, found by the index over `account.next_transition_at`."""

from datetime import datetime

from sqlalchemy import Connection, text

__all__ = ["lock_due", "read_first_due", "read_tied_due", "wait_shortly"]

_SCANNED_FOR_EACH = 10
"""How many accounts that are due are looked at for each customer wanted, so that several clocks find work at once."""
_TIED_SCANNED_MAX = 2_000

_LOCK_DUE = text("""
SELECT customer.customer_id
FROM customer
WHERE customer.customer_id IN (
    SELECT account.customer_id
    FROM account
    JOIN customer AS owner ON owner.customer_id = account.customer_id
    WHERE account.next_transition_at <= statement_timestamp()
      AND owner.linked = '{}'
      AND NOT owner.is_parked
    ORDER BY account.next_transition_at
    LIMIT :accounts_max
)
ORDER BY customer.customer_id
LIMIT :customers_max
FOR UPDATE SKIP LOCKED
""")

# Looked for among the first accounts that are due, whoever's they are: those before them are booked meanwhile.
_READ_TIED_DUE = text("""
SELECT DISTINCT first.customer_id
FROM (
    SELECT account.customer_id, owner.linked
    FROM account
    JOIN customer AS owner ON owner.customer_id = account.customer_id
    WHERE account.next_transition_at <= statement_timestamp()
      AND NOT owner.is_parked
    ORDER BY account.next_transition_at
    LIMIT :accounts_max
) AS first
WHERE first.linked <> '{}'
LIMIT :customers_max
""")

_WAIT_SHORTLY = text("SELECT set_config('lock_timeout', '50ms', true)")

_READ_FIRST_DUE = text("""
SELECT min(next_transition_at), statement_timestamp()
FROM account
WHERE next_transition_at IS NOT NULL
""")


def lock_due(connection: Connection, customers_max: int) -> list[str]:
    """At most so many customers who are tied to nobody and have something due now are held; returns who, in key order.

    Who is held by somebody else is passed over: whoever holds a customer books what is due of it. Nobody is waited for,
    so the order in which they are taken makes no circle.
    """
    binds = {"customers_max": customers_max, "accounts_max": customers_max * _SCANNED_FOR_EACH}
    return list(connection.execute(_LOCK_DUE, binds).scalars())


def read_tied_due(connection: Connection, customers_max: int) -> list[str]:
    """At most so many customers who are tied to others and have something due now, of those who have had it longest."""
    binds = {"customers_max": customers_max, "accounts_max": _TIED_SCANNED_MAX}
    return list(connection.execute(_READ_TIED_DUE, binds).scalars())


def wait_shortly(connection: Connection) -> None:
    """In this transaction a lock that somebody holds is waited for no longer than a moment."""
    connection.execute(_WAIT_SHORTLY)


def read_first_due(connection: Connection) -> tuple[datetime | None, datetime]:
    """The first instant at which anything falls due or fell due, if there is one, and the database's clock."""
    due_at, now = connection.execute(_READ_FIRST_DUE).one()
    return due_at, now
