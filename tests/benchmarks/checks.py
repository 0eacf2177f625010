"""The check: what a customer may do now, while the ledger grows to millions of entries.

Some hundred customers live through `apply_batch` and are verified; then the ledger grows by copies of their rows under
other ids, set by set, with every constraint and index in place. A check reads accounts and open grants of one customer
and computes the answer, and no entry; the floor beside it reads the one row of the account by its key. Everything that
is asked for was read once before: the cache is warm.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median

import msgspec
import psycopg
from psycopg import sql
from sqlalchemy import Connection, Engine, text

from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.transaction import apply_batch
from ledger_worker.domain.changes import CustomerPicture
from ledger_worker.domain.events import (
    Event,
    Fact,
    PurchaseCompleted,
    PurchaseLine,
    SubscriptionActivated,
    SubscriptionItem,
    UsageRecorded,
)
from ledger_worker.local.cluster import Cluster
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import pictures
from ledger_worker.store.database import engine, migrate
from tests.benchmarks.end_to_end import check_ledger
from tests.benchmarks.ledger import at_rest, in_batches, publish, require_all_applied, unseen_stages
from tests.shared_cluster import drop_database, make_database

__all__ = ["ENTRIES_MAX", "Size", "measure", "report"]

ENTRIES_MAX = 1_000_000
"""How far the ledger grows when nothing else is said; in steps of ten from a hundred thousand."""
_ENTRIES_MIN = 100_000
_CUSTOMERS = 500
_ENTRIES_EACH = 20
_USAGES = _ENTRIES_EACH - 4
_ASKED = 2_000
_COPIES_IN_A_STATEMENT = 50
_DATABASE = "bench_checks"
_COPIED = ("customer", "source_owner", "source", "event", "grant", "account", "posting", "entry")


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """So many entries and customers, how many gigabytes that is, and the milliseconds of each read, by its name."""

    entries: int
    customers: int
    gigabytes: float
    milliseconds: dict[str, list[float]]


def measure(cluster: Cluster, entries_max: int) -> list[Size]:
    """The reads at each size of one ledger; raises RuntimeError when an answer is not what it was when it was small."""
    url = make_database(cluster, _DATABASE)
    migrate(url)
    publish(url)
    _live(url)
    check_ledger(url)
    expected = _answers(url, 0)
    found, copies = [], 1
    entries = _ENTRIES_MIN
    while entries <= entries_max:
        until = entries // (_CUSTOMERS * _ENTRIES_EACH)
        _grow(url, copies, until)
        copies = until
        at_rest(cluster, url)
        found.append(_measure(url, copies))
        if found[-1].entries != entries or any(_answers(url, n) != expected for n in (0, copies // 2, copies - 1)):
            raise RuntimeError(f"with {found[-1].entries} entries of {entries} the answers are not what they were")
        print(f"checks, {entries:,} entries: {_line(found[-1])}", flush=True)
        entries *= 10
    drop_database(cluster, _DATABASE)
    return found


def report(sizes: Sequence[Size]) -> str:
    """The table, as Markdown."""
    names = list(_READS)
    heads = [f"{name}, {figure}" for name in names for figure in ("p50", "p99")]
    lines = [
        f"Checks of {_ASKED:,} customers, one at a time and each read before; milliseconds.",
        "",
        f"| entries | customers | GB | {' | '.join(heads)} |",
        "|---:|---:|---:|" + "---:|" * len(heads),
    ]
    for size in sizes:
        cells = [f"{figure:.2f}" for name in names for figure in _p50_p99(size.milliseconds[name])]
        lines.append(f"| {size.entries:,} | {size.customers:,} | {size.gigabytes:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _line(size: Size) -> str:
    return ", ".join(
        f"{name} p50 {p50:.2f} p99 {p99:.2f} ms"
        for name, (p50, p99) in ((name, _p50_p99(found)) for name, found in size.milliseconds.items())
    )


def _p50_p99(milliseconds: Sequence[float]) -> tuple[float, float]:
    return median(milliseconds), sorted(milliseconds)[len(milliseconds) * 99 // 100]


# -- the ledger and its copies -------------------------------------------------------------------------------


def _live(url: str) -> None:
    ledger, catalogues, stages = engine(url), Catalogues(), unseen_stages()
    for batch in in_batches(_lives()):
        require_all_applied(apply_batch(ledger, batch, catalogues, stages), len(batch.deliveries))
    ledger.dispose()


def _lives() -> Iterator[Event]:
    """Each bought credits, has a plan, and has used of both: four grants and a burn for each usage."""
    at = datetime.now(UTC) - timedelta(days=2)
    line, item = (
        PurchaseLine(line_id="1", sku="CREDITS", quantity=1, amount=900),
        SubscriptionItem(item_id="plan", sku="PLAN", quantity=1),
    )
    for number in range(_CUSTOMERS):
        yield _event(number, "bought", at, PurchaseCompleted(order_id=f"order-{number}", lines=(line,)))
        begun = SubscriptionActivated(
            subscription_id=f"plan-{number}", items=(item,), period_start=at, period_end=at + timedelta(days=30)
        )
        yield _event(number, "begun", at, begun)
    for place in range(_USAGES):
        used = UsageRecorded(entitlement=("api", "storage")[place % 2], units=3)
        for number in range(_CUSTOMERS):
            yield _event(number, f"used-{place}", at + timedelta(minutes=1 + place), used)


def _event(number: int, event_id: str, at: datetime, fact: Fact) -> Event:
    customer_id = _customer(number, 0)
    return Event(event_source="benchmark", event_id=event_id, customer_id=customer_id, occurred_at=at, fact=fact)


def _customer(number: int, copy: int) -> str:
    return f"customer-{number:04}" + (f"/{copy}" if copy else "")


def _grow(url: str, copies: int, until: int) -> None:
    """Where so many copies are, counting the first, `until` are afterwards."""
    with psycopg.connect(url, autocommit=True) as session:
        for first in range(copies, until, _COPIES_IN_A_STATEMENT):
            last = min(first + _COPIES_IN_A_STATEMENT, until) - 1
            with session.transaction():
                for table in _COPIED:
                    session.execute(_copy(session, table), {"first": first, "last": last})


def _copy(session: psycopg.Connection, table: str) -> sql.Composed:
    """Every row of those who lived, once for each copy, with the copy's number behind its customer and its source."""
    described = session.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = CAST(%s AS regclass) AND attnum > 0 AND NOT attisdropped"
        " ORDER BY attnum",
        (f'"{table}"',),
    )
    names = [name for (name,) in described.fetchall()]
    values = [
        sql.SQL("lived.{} || '/' || copy" if name in {"customer_id", "source_key"} else "lived.{}").format(
            sql.Identifier(name)
        )
        for name in names
    ]
    return sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {values} "
        "FROM generate_series(CAST(%(first)s AS integer), %(last)s) AS copy CROSS JOIN {table} AS lived "
        "WHERE lived.customer_id NOT LIKE '%%/%%'"
    ).format(
        table=sql.Identifier(table),
        names=sql.SQL(", ").join(map(sql.Identifier, names)),
        values=sql.SQL(", ").join(values),
    )


# -- the reads -----------------------------------------------------------------------------------------------

_READ_ACCOUNT = text("""
SELECT allowance, used, held, level, next_transition_at
FROM account
WHERE customer_id = :customer_id
  AND entitlement = 'api'
""")
_COUNT = text("""
SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM customer), pg_database_size(current_database())
""")


def _measure(url: str, copies: int) -> Size:
    ledger = engine(url, statement_timeout_seconds=600)
    chance = random.Random(copies)
    asked = [_customer(chance.randrange(_CUSTOMERS), chance.randrange(copies)) for _ in range(_ASKED)]
    with ledger.connect() as connection:
        entries, customers, size = connection.execute(_COUNT).one()
        connection.rollback()
        milliseconds = {name: _timed(connection, read, asked) for name, read in _reads(ledger).items()}
    ledger.dispose()
    return Size(entries=entries, customers=customers, gigabytes=size / 1e9, milliseconds=milliseconds)


_READS = ("account row", "check")


def _reads(ledger: Engine) -> dict[str, Callable[[Connection, str], object]]:
    with ledger.connect() as connection:
        catalogue = catalogue_store.read(connection, catalogue_store.read_ledger(connection).catalogue_version)

    def account_row(connection: Connection, customer_id: str) -> object:
        return connection.execute(_READ_ACCOUNT, {"customer_id": customer_id}).one()

    def check(connection: Connection, customer_id: str) -> object:
        (shown,) = pictures.load(connection, [customer_id], catalogue=catalogue)
        return next(one for one in shown.entitlements if one.entitlement == "api")

    return dict(zip(_READS, (account_row, check), strict=True))


def _timed(
    connection: Connection, read: Callable[[Connection, str], object], customer_ids: Sequence[str]
) -> list[float]:
    """Milliseconds of each read in a transaction of its own, all of them having been read before."""
    found: list[float] = []
    for customer_id in (*customer_ids, *customer_ids):
        began_at = time.perf_counter()
        with connection.begin():
            read(connection, customer_id)
        found.append((time.perf_counter() - began_at) * 1_000)
    return found[len(customer_ids) :]


def _answers(url: str, copy: int) -> list[CustomerPicture]:
    """The answers to all checks about one copy, under the ids of those who lived."""
    ledger, at = engine(url), datetime.now(UTC)
    with ledger.connect() as connection:
        found = pictures.load(connection, [_customer(number, copy) for number in range(_CUSTOMERS)], at)
    ledger.dispose()
    return [msgspec.structs.replace(one, customer_id=one.customer_id.partition("/")[0]) for one in found]
