"""Verify: the whole ledger proven from its own rows, customer by customer, in one snapshot, beside running workers.

A server-side cursor for each table gives its rows in the order of customers; merged, they are one customer's rows at a
time, also of a customer that only a stray row names. Customers that any row ties to each other are proven as one group,
where the first of them comes up: the rows of the others are then read by their ids, and passed over when they come up
themselves. What is checked of a group is in `proof`; here are the statements, the merge, and the checks of the whole
ledger (input partitions, claimed sources, dead letters). First answers are compared in `answers`.

The snapshot is REPEATABLE READ and read only, so workers and verify do not wait for each other, and nothing half done
is seen. It keeps PostgreSQL from vacuuming what died since it began, for as long as it runs. Memory is bounded by the
ids of tied customers, the rows of the largest group (of at most `TIED_MAX`), and a window of others.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from sqlalchemy import Connection, TextClause, text

from ledger_worker.domain.catalogue import Entitlement, Offer
from ledger_worker.operations.answers import Answers
from ledger_worker.operations.proof.findings import Check, Finding, Findings
from ledger_worker.operations.proof.group import prove
from ledger_worker.operations.proof.reading import UNREADABLE
from ledger_worker.operations.proof.rows import (
    AccountRow,
    CustomerRow,
    CustomerRows,
    DayStateRow,
    EntryRow,
    EventRow,
    GrantRow,
    OutboxRow,
    PostingRow,
    Published,
    SourceRow,
)
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import customers as customers_store

__all__ = ["Check", "CheckResult", "Finding", "Progress", "Verdict", "verify"]

FINDINGS_MAX = 20
"""How many findings are named when the caller says nothing else; all are counted."""
TIED_MAX = 10_000
"""Most customers proven together; more are a finding. Whoever decides about one of them locks the rows of all."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """One check: how many things it looked at, and how many findings it made."""

    check: Check
    looked_at: int
    findings: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What verify found.

    `findings` are the first ones, by customer id (of those that are tied, the first) and then from cause to effect.
    `unproven` accounts are those whose entitlement changed its policies for debt or overage while they were used,
    and that no single version explains.
    """

    customers: int
    postings: int
    entries: int
    events: int
    checks: tuple[CheckResult, ...]
    findings: tuple[Finding, ...]
    unproven: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def first(self) -> Finding | None:
        """The first bad row."""
        return self.findings[0] if self.findings else None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far verify is."""

    customers: int
    customers_total: int
    events: int
    findings: int


def verify(
    connection: Connection,
    *,
    customer_id: str | None = None,
    findings_max: int = FINDINGS_MAX,
    on_progress: Callable[[Progress], None] | None = None,
) -> Verdict:
    """Every row of the ledger, or of one customer and those it is tied to, was compared; nothing was changed.

    Begins and ends a transaction of its own: the connection must not be in one. At least one finding is kept, whatever
    `findings_max`. `on_progress` is called after each window of customers. With `customer_id` the checks of the whole
    ledger are left out.
    """
    snapshot = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with snapshot.begin():
        # The pages of a large table may be read for hours, and each answer is worked on for a while.
        snapshot.execute(_NO_TIMEOUTS)
        return _Verification(snapshot, customer_id, max(findings_max, 1), on_progress).run()


_NO_TIMEOUTS = text("""
SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)
""")
_WINDOW_CUSTOMERS_MAX = 200
_WINDOW_ROWS_MAX = 20_000
_FETCH_ROWS = 2_000
_FIRST_ID, _LAST_ID = "", chr(0x10FFFF)
"""Between these, in the order of bytes, is every id."""
_Group = list[CustomerRows]
"""The rows of customers that are proven together, by customer id."""
_Ids = tuple[str, ...]


class _Verification:
    """One run: what is counted and found so far."""

    def __init__(
        self,
        connection: Connection,
        customer_id: str | None,
        findings_max: int,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._connection = connection
        self._customer_id = customer_id
        self._on_progress = on_progress
        self._findings = Findings(findings_max)
        self._published = _published(connection, self._findings)
        self._answers = Answers(connection, self._findings)
        self._arrived: Counter[tuple[str, int]] = Counter()
        self._last_offsets: dict[tuple[str, int], int] = {}
        self._customers = 0

    def run(self) -> Verdict:
        """Everything was checked."""
        findings = self._findings
        total = self._connection.execute(_COUNT_CUSTOMERS, self._between()).scalar_one()
        with ExitStack() as open_cursors:
            for window in _windows(self._groups(open_cursors)):
                self._prove_window(window)
                if self._on_progress is not None:
                    self._on_progress(
                        Progress(
                            customers=self._customers,
                            customers_total=max(total, self._customers),
                            events=findings.looked_at[Check.EVENT],
                            findings=findings.found.total(),
                        )
                    )
        if self._customer_id is None:
            self._answers.check_all()
            self._check_owners()
            self._check_dead_letters()
            self._check_partitions()
        return Verdict(
            customers=self._customers,
            postings=findings.looked_at[Check.POSTING],
            entries=findings.looked_at[Check.ENTRY],
            events=findings.looked_at[Check.EVENT],
            checks=tuple(
                CheckResult(check=check, looked_at=findings.looked_at[check], findings=findings.found[check])
                for check in Check
            ),
            findings=tuple(findings.kept),
            unproven=findings.unproven,
        )

    def _between(self) -> dict[str, str]:
        if self._customer_id is None:
            return {"first": _FIRST_ID, "last": _LAST_ID}
        return _only(self._customer_id)

    # -- one group after the other --

    def _groups(self, open_cursors: ExitStack) -> Iterator[_Group]:
        """The rows of every customer, those that are tied together; each group once, at the first of it."""
        if self._customer_id is None:
            tied = _all_tied(self._connection)
        else:
            tied = _tied_to(self._connection, self._customer_id)
        proven: set[str] = set()
        for rows in _customers(self._connection, self._between(), open_cursors):
            ids = tied.get(rows.customer_id, (rows.customer_id,))
            if ids[0] in proven:
                continue
            if len(ids) > TIED_MAX:
                message = f"it is tied to {len(ids) - 1} others, expected at most {TIED_MAX}: they are not proven"
                self._findings.add(Check.CUSTOMER, rows.customer_id, "customer", message)
                proven.add(ids[0])
                continue
            if len(ids) > 1:
                proven.add(ids[0])
            yield [rows if each == rows.customer_id else _customer(self._connection, each) for each in ids]

    def _prove_window(self, window: Sequence[_Group]) -> None:
        for group in window:
            self._prove(group)
            self._customers += len(group)
            self._answers.see(event for rows in group for event in rows.events)
            for event in (event for rows in group for event in rows.events):
                if event.topic is not None and event.partition is not None and event.offset is not None:
                    place = (event.topic, event.partition)
                    self._arrived[place] += 1
                    self._last_offsets[place] = max(self._last_offsets.get(place, 0), event.offset)

    def _prove(self, group: _Group) -> None:
        """The group is proven; where rows that are wrong make its computations fail, it ends there and is told."""
        found = self._findings.found.total()
        try:
            prove(group, self._published, self._findings)
        except Exception as error:
            if self._findings.found.total() == found:
                raise
            message = f"its proof ends here, by what is wrong in it: {type(error).__name__}: {error}"
            self._findings.add(Check.CUSTOMER, group[0].customer_id, "customer", message)

    # -- the whole ledger --

    def _check_owners(self) -> None:
        self._findings.looked_at[Check.SOURCE_OWNER] += self._connection.execute(_COUNT_OWNERS).scalar_one()
        for source_key, customer_id in self._connection.execute(_OWNERS_WITHOUT_SOURCE):
            message = f"source {source_key} was first told of it, but it does not keep it"
            self._findings.add(Check.SOURCE_OWNER, customer_id, f"source_owner {source_key}", message)

    def _check_dead_letters(self) -> None:
        for dead_letter_id in self._connection.execute(_ANNOUNCED_WITHOUT_DEAD_LETTER).scalars():
            message = "the outbox announces it, but it is not kept"
            self._findings.add(Check.OUTBOX, None, f"dead letter {dead_letter_id}", message)

    def _check_partitions(self) -> None:
        dead = {(topic, partition): count for topic, partition, count in self._connection.execute(_COUNT_DEAD_LETTERS)}
        known = set()
        for topic, partition, next_offset, records, duplicates, dead_letters in self._connection.execute(_PARTITIONS):
            place = (topic, partition)
            known.add(place)
            self._findings.looked_at[Check.INPUT_PARTITION] += 1
            name = f"partition {topic}/{partition}"
            kept = dead.get(place, 0)
            arrived = self._arrived[place]
            if dead_letters != kept:
                message = f"dead_letters is {dead_letters}, expected {kept} as they are kept"
                self._findings.add(Check.INPUT_PARTITION, None, name, message)
            if records != arrived + duplicates + dead_letters:
                message = (
                    f"records is {records}, expected {arrived + duplicates + dead_letters}: {arrived} events,"
                    f" {duplicates} duplicates, {dead_letters} dead letters"
                )
                self._findings.add(Check.INPUT_PARTITION, None, name, message)
            last = self._last_offsets.get(place, -1)
            if last >= next_offset:
                message = f"next_offset is {next_offset}, but the event of offset {last} is in the inbox"
                self._findings.add(Check.INPUT_PARTITION, None, name, message)
        for topic, partition in sorted(self._arrived.keys() - known):
            message = f"{self._arrived[topic, partition]} events came of it, but it has no row"
            self._findings.add(Check.INPUT_PARTITION, None, f"partition {topic}/{partition}", message)


_COUNT_CUSTOMERS = text("SELECT count(*) FROM customer WHERE customer_id BETWEEN :first AND :last")
_COUNT_OWNERS = text("SELECT count(*) FROM source_owner")
_OWNERS_WITHOUT_SOURCE = text("""
SELECT source_owner.source_key, source_owner.customer_id
FROM source_owner
WHERE NOT EXISTS (
    SELECT FROM source
    WHERE source.customer_id = source_owner.customer_id
      AND source.source_key = source_owner.source_key
)
ORDER BY source_owner.source_key
""")
_ANNOUNCED_WITHOUT_DEAD_LETTER = text("""
SELECT outbox.dead_letter_id
FROM outbox
WHERE outbox.dead_letter_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM dead_letter WHERE dead_letter.dead_letter_id = outbox.dead_letter_id)
ORDER BY outbox.dead_letter_id
""")
_COUNT_DEAD_LETTERS = text("SELECT topic, partition, count(*) FROM dead_letter GROUP BY topic, partition")
_PARTITIONS = text("""
SELECT topic, partition, next_offset, records, duplicates, dead_letters
FROM input_partition
ORDER BY topic, partition
""")

_LEDGER = text("SELECT catalogue_version, lanes FROM ledger")
_ENTITLEMENTS = text("SELECT key, version, definition FROM entitlement ORDER BY key, version")
_OFFERS = text("SELECT sku, version, definition FROM offer ORDER BY sku, version")
_NOT_PROVEN = "sources, what they give and settlement are not proven"


def _published(connection: Connection, findings: Findings) -> Published:
    """What everything was decided by; without a catalogue where it cannot be read as a whole."""
    found = findings.found.total()
    ledger = connection.execute(_LEDGER).one_or_none()
    findings.looked_at[Check.CATALOGUE] += 1
    if ledger is None:
        findings.add(Check.CATALOGUE, None, "ledger", f"there is no row, expected one; {_NOT_PROVEN}")
    versions: dict[str, tuple[Entitlement, ...]] = {}
    for key, number, entitlement in _definitions(connection, _ENTITLEMENTS, Entitlement, findings):
        versions[key] = (*versions.get(key, ()), msgspec.structs.replace(entitlement, version=number))
    _definitions(connection, _OFFERS, Offer, findings)
    is_whole = ledger is not None and findings.found.total() == found
    return Published(
        catalogue=catalogue_store.read(connection, ledger.catalogue_version) if ledger and is_whole else None,
        versions=versions,
        lanes=ledger.lanes if ledger else None,
    )


_Definition = TypeVar("_Definition", Entitlement, Offer)


def _definitions(
    connection: Connection, statement: TextClause, kind: type[_Definition], findings: Findings
) -> list[tuple[str, int, _Definition]]:
    """Every version that can be read, with its key and number; of each that cannot there is a finding."""
    read = []
    for key, number, definition in connection.execute(statement):
        findings.looked_at[Check.CATALOGUE] += 1
        try:
            read.append((key, number, msgspec.convert(definition, kind)))
        except UNREADABLE as error:
            name = f"{kind.__name__.lower()} {key} version {number}"
            findings.add(Check.CATALOGUE, None, name, f"it cannot be read: {error}; {_NOT_PROVEN}")
    return read


_TIED = text("SELECT customer_id, linked FROM customer WHERE linked <> CAST('{}' AS text[]) ORDER BY customer_id")


def _all_tied(connection: Connection) -> dict[str, _Ids]:
    """Of each customer that any row ties to another: all that belong together with it, in order; read once."""
    tied: dict[str, set[str]] = {}
    for customer_id, linked in connection.execute(_TIED):
        together = {customer_id, *linked}
        known = [tied[each] for each in together if each in tied]
        if all(each in tied for each in together) and all(one is known[0] for one in known):
            continue
        together.update(*known)
        tied.update(dict.fromkeys(together, together))
    groups = {id(together): tuple(sorted(together, key=str.encode)) for together in tied.values()}
    return {customer_id: groups[id(together)] for customer_id, together in tied.items()}


def _tied_to(connection: Connection, customer_id: str) -> dict[str, _Ids]:
    """All that belong together with one customer, as `_all_tied` says it; a round for each step away, often two."""
    found, asked = {customer_id}, [customer_id]
    while asked and len(found) <= TIED_MAX:
        heads, _ = customers_store.read_heads(connection, asked)
        asked = sorted({each for head in heads.values() for each in head.linked} - found)
        found.update(asked)
    return {customer_id: tuple(sorted(found, key=str.encode))}


_CUSTOMERS = text("""
SELECT customer_id, key_hash, posting_number, sequence, chain_head, recorded_at, linked,
       alias_of, alias_at, merge_id
FROM customer
WHERE customer_id BETWEEN :first AND :last
ORDER BY customer_id
""")
_POSTINGS = text("""
SELECT customer_id, number, event_key, told_to, content_hash, recorded_at, catalogue_version, rules_version, hash
FROM posting
WHERE customer_id BETWEEN :first AND :last
ORDER BY customer_id, number
""")
_ENTRIES = text("""
SELECT customer_id, posting, line, recorded_at, entitlement, kind, units, at, grant_id, usage_key, cut_id,
       CAST(terms AS text)
FROM entry
WHERE customer_id BETWEEN :first AND :last
ORDER BY customer_id, posting, line, recorded_at
""")
_EVENTS = text("""
SELECT customer_id, event_key, content_hash, event_source, event_id, type, source_key, entitlement, units, counted_at,
       source_version, occurred_at, recorded_at, outcome, payload, topic, partition, "offset"
FROM event
WHERE customer_id BETWEEN :first AND :last
ORDER BY customer_id, event_key
""")
_GRANTS = text("""
SELECT customer_id, grant_id, entitlement, source_key, amount, effective_at, expires_at, phase, set_by, granted,
       available, held, used, expired, revoked, moved, short, parent_id, terms
FROM "grant"
WHERE customer_id BETWEEN :first AND :last
ORDER BY customer_id, grant_id
""")
_ACCOUNTS = text("""
SELECT customer_id, entitlement, usage, used_total, overage, debt, forgiven, settled_at, settled_tie, carried,
       last_end, level, next_transition_at, stated_until, since_state, allowance, used, held
FROM account
WHERE customer_id BETWEEN :first AND :last
ORDER BY customer_id, entitlement
""")
_DAY_STATES = text("""
SELECT customer_id, entitlement, at, posting, state
FROM day_state
WHERE customer_id BETWEEN :first AND :last
ORDER BY customer_id, entitlement, at
""")
_SOURCES = text("""
SELECT source.customer_id, source.source_key, source.state, source_owner.customer_id
FROM source
LEFT JOIN source_owner ON source_owner.source_key = source.source_key
WHERE source.customer_id BETWEEN :first AND :last
ORDER BY source.customer_id, source.source_key
""")
_OUTBOX = text("""
SELECT customer_id, sequence, timeline, lane, change_id, payload, ce_type, recorded_at
FROM outbox
WHERE change_id IS NOT NULL
  AND customer_id BETWEEN :first AND :last
ORDER BY customer_id, timeline, sequence
""")


class _OfCustomer(Protocol):
    """A row that says whose it is."""

    @property
    def customer_id(self) -> str:
        """Whose it is."""
        ...


_RowType = TypeVar("_RowType", bound=_OfCustomer)


class _Cursor(Generic[_RowType]):
    """The rows of one statement, given out customer by customer in the order of ids."""

    def __init__(self, rows: Iterator[_RowType]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    @property
    def customer_id(self) -> str | None:
        """Whose rows come next; None at the end."""
        return None if self._next is None else self._next.customer_id

    def take(self, customer_id: str) -> list[_RowType]:
        """The rows of that customer, which has to be the next one or one before it."""
        taken = []
        while self._next is not None and self._next.customer_id == customer_id:
            taken.append(self._next)
            self._next = next(self._rows, None)
        return taken


def _customers(connection: Connection, between: dict[str, str], stack: ExitStack) -> Iterator[CustomerRows]:
    """The rows of each customer that any row names, by customer id. The cursors are closed with the stack."""

    def cursor(statement: TextClause, kind: type[_RowType]) -> _Cursor[_RowType]:
        """The rows of that statement, fetched as they are taken."""
        result: Any = connection.execute(
            statement, between, execution_options={"stream_results": True, "yield_per": _FETCH_ROWS}
        )
        stack.callback(result.close)
        return _Cursor(kind(*row) for row in result)

    customers = cursor(_CUSTOMERS, CustomerRow)
    postings = cursor(_POSTINGS, PostingRow)
    entries = cursor(_ENTRIES, EntryRow)
    events = cursor(_EVENTS, EventRow)
    grants = cursor(_GRANTS, GrantRow)
    accounts = cursor(_ACCOUNTS, AccountRow)
    states = cursor(_DAY_STATES, DayStateRow)
    sources = cursor(_SOURCES, SourceRow)
    outbox = cursor(_OUTBOX, OutboxRow)
    while True:
        waiting = [
            each.customer_id
            for each in (customers, postings, entries, events, grants, accounts, states, sources, outbox)
            if each.customer_id is not None
        ]
        if not waiting:
            return
        # By code points as by the bytes of UTF-8, which is how COLLATE "C" orders them.
        customer_id = min(waiting)
        yield CustomerRows(
            customer_id=customer_id,
            customer=next(iter(customers.take(customer_id)), None),
            postings=postings.take(customer_id),
            entries=entries.take(customer_id),
            events=events.take(customer_id),
            grants=grants.take(customer_id),
            accounts=accounts.take(customer_id),
            states=states.take(customer_id),
            sources=sources.take(customer_id),
            outbox=outbox.take(customer_id),
        )


def _customer(connection: Connection, customer_id: str) -> CustomerRows:
    """The rows of one customer, of whom there may be none."""
    with ExitStack() as open_cursors:
        found = next(_customers(connection, _only(customer_id), open_cursors), None)
    if found is not None:
        return found
    return CustomerRows(
        customer_id=customer_id,
        customer=None,
        postings=[],
        entries=[],
        events=[],
        grants=[],
        accounts=[],
        states=[],
        sources=[],
        outbox=[],
    )


def _only(customer_id: str) -> dict[str, str]:
    return {"first": customer_id, "last": customer_id}


def _windows(groups: Iterator[_Group]) -> Iterator[list[_Group]]:
    """Groups by the window, after each of which progress is told."""
    window: list[_Group] = []
    customers = size = 0
    for group in groups:
        window.append(group)
        customers += len(group)
        size += sum(len(rows.entries) + len(rows.events) for rows in group)
        if customers >= _WINDOW_CUSTOMERS_MAX or size >= _WINDOW_ROWS_MAX:
            yield window
            window, customers, size = [], 0, 0
    if window:
        yield window
