"""A whole ledger on PostgreSQL as tests see it.

Publish, tell, read back. Instants are given, so bytes can be compared.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.apply.batch import Applied, Batch, Delivery, Move, Rejected
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.requests import answer_requests
from ledger_worker.apply.transaction import apply_batch, by_database_clock
from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.changes import Change, CustomerPicture
from ledger_worker.domain.events import Event
from ledger_worker.domain.requests import Answer, Asked
from ledger_worker.metrics import CollectorRegistry, Metrics, Stages
from ledger_worker.operations.verify import Check, verify
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.store import database, partitions, pictures
from ledger_worker.wire.encode import encode_event
from ledger_worker.wire.record import Record

TOPIC = "commerce.purchases"
TOPIC_ID = "topic-id-1"

Dump = dict[str, list[tuple[Any, ...]]]
"""Every row of every table that tells of customers, without what says how and when it came."""

_CATALOGUE_SET_BACK = text("UPDATE ledger SET catalogue_version = :version")
_ENTITLEMENT = text("""
INSERT INTO entitlement (key, version, definition, published_at, catalogue_version)
VALUES (:key, :version, CAST(:definition AS jsonb), :published_at, :catalogue_version)
""")
_OFFER = text("""
INSERT INTO offer (sku, version, definition, published_at, catalogue_version)
VALUES (:sku, :version, CAST(:definition AS jsonb), :published_at, :catalogue_version)
""")
_TABLES = {
    "customer": """
        SELECT customer_id, posting_number, sequence, chain_head, recorded_at, linked, alias_of, alias_at, merge_id
        FROM customer ORDER BY 1
    """,
    "source_owner": "SELECT * FROM source_owner ORDER BY 1",
    "source": "SELECT * FROM source ORDER BY 1, 2",
    "event": """
        SELECT customer_id, event_key, content_hash, event_source, event_id, type, source_key, entitlement, units,
               counted_at, source_version, occurred_at, recorded_at, outcome, payload
        FROM event ORDER BY 1, 2
    """,
    "grant": 'SELECT * FROM "grant" ORDER BY 1, 2',
    # Without what it says of its day states: where those are kept may depend on the batches.
    "account": """
        SELECT customer_id, entitlement, usage, used_total, overage, debt, forgiven, settled_at, settled_tie, carried,
               last_end, level, allowance, used, held, next_transition_at
        FROM account ORDER BY 1, 2
    """,
    "posting": "SELECT * FROM posting ORDER BY 1, 2",
    "entry": "SELECT * FROM entry ORDER BY 1, 2, 3",
    "outbox": """
        SELECT lane, customer_id, sequence, change_id, payload, ce_type, recorded_at
        FROM outbox WHERE lane >= 0 ORDER BY customer_id, sequence
    """,
}


class Ledger:
    """One database with a schema. Close it."""

    def __init__(self, url: str, *, connections_max: int = 8) -> None:
        self.url = url
        self.engine = database.engine(url, connections_max=connections_max)
        self.catalogues = Catalogues()
        self.offset = 0

    def close(self) -> None:
        self.engine.dispose()

    def stages(self) -> Stages:
        """Measured by meters that nobody reads."""
        return Stages(Metrics(CollectorRegistry()))

    def publish(self, catalogue: Catalogue) -> None:
        """The catalogue is in force, each offer published at the instant it says."""
        with self.engine.begin() as connection:
            catalogue_store.lock_exclusive(connection)
            for entitlement in catalogue.entitlements.values():
                connection.execute(
                    _ENTITLEMENT,
                    {
                        "key": entitlement.key,
                        "version": entitlement.version,
                        "definition": _definition(entitlement),
                        "published_at": datetime.fromisoformat("2026-01-01T00:00:00+00:00"),
                        "catalogue_version": catalogue.version,
                    },
                )
            for offer in (version for versions in catalogue.offers.values() for version in versions):
                connection.execute(
                    _OFFER,
                    {
                        "sku": offer.sku,
                        "version": offer.version,
                        "definition": _definition(offer),
                        "published_at": offer.published_at,
                        "catalogue_version": offer.catalogue_version,
                    },
                )
            connection.execute(_CATALOGUE_SET_BACK, {"version": catalogue.version})

    def set_settlement_window(self, days: int) -> None:
        """Usage may lie so many days back."""
        with self.engine.begin() as connection:
            catalogue_store.lock_exclusive(connection)
            catalogue_store.set_settlement_window(connection, days)

    def tell(self, *told: tuple[Event, datetime]) -> Applied:
        """The events are one batch, each recorded at its instant."""
        instants = [now for _, now in told]
        batch = Batch(deliveries=tuple(self.delivery(event) for event, _ in told))
        return apply_batch(
            self.engine, batch, self.catalogues, self.stages(), lambda _connection, _deliveries: instants
        )

    def ask(self, now: datetime, *asked: Asked) -> tuple[Answer, ...]:
        """The requests are one batch, decided at that instant."""
        return answer_requests(self.engine, asked, self.catalogues, self.stages(), lambda _connection: now)

    def tell_now(self, *events: Event) -> Applied:
        """The events are one batch, recorded by the database's clock."""
        batch = Batch(deliveries=tuple(self.delivery(event) for event in events))
        return self.apply(batch)

    def apply(self, batch: Batch) -> Applied:
        """A batch of the test's own, with the moves it gives, recorded by the database's clock."""
        return apply_batch(self.engine, batch, self.catalogues, self.stages(), by_database_clock)

    def delivery(self, event: Event) -> Delivery:
        """The event as it came: the next record of the topic."""
        self.offset += 1
        try:
            value = encode_event(event)
        except KeyError:  # the ledger's own, which no topic carries
            value = b""
        return Delivery(event=event, record=record(self.offset, value))

    def introduce(self, *, partitions_of_topic: int = 1) -> None:
        """The topic is known, nobody owns it, all partitions stand at offset 0."""
        with self.engine.begin() as connection:
            places = dict.fromkeys(range(partitions_of_topic), 0)
            partitions.introduce(connection, TOPIC, TOPIC_ID, starts=places, lows=places)

    def claim(self, partition: int = 0, owner: str = "worker") -> int:
        """The partition is ours; returns the epoch."""
        with self.engine.begin() as connection:
            return partitions.claim(connection, TOPIC, partition, TOPIC_ID, owner).owner_epoch

    def pictures(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerPicture]:
        """As they are shown at that instant, booked or not; in key order."""
        with self.engine.connect() as connection:
            return pictures.load(connection, customer_ids, at)

    def rows(self, statement: str, **binds: object) -> list[tuple[Any, ...]]:
        """What any statement reads, by its binds."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement), binds)]

    def dump(self) -> Dump:
        with self.engine.connect() as connection:
            return {table: _rows(connection, statement) for table, statement in _TABLES.items()}


def record(offset: int, value: bytes, *, partition: int = 0) -> Record:
    """A record of TOPIC with one header twice, the second time without a value."""
    return Record(
        topic=TOPIC,
        partition=partition,
        offset=offset,
        timestamp=None,
        key=b"ada",
        value=value,
        headers=(("ce_id", b"1"), ("ce_id", None)),
    )


def move(from_offset: int, to_offset: int, *, epoch: int = 1, partition: int = 0) -> Move:
    """As whoever claimed the partition first moves it; the second claim has epoch 2."""
    return Move(
        topic=TOPIC,
        partition=partition,
        topic_id=TOPIC_ID,
        owner_epoch=epoch,
        from_offset=from_offset,
        to_offset=to_offset,
    )


def unproven(ledger: Ledger) -> list[str]:
    """What the proof of the whole ledger finds, but for what these tests leave out: partitions of their topic."""
    with ledger.engine.connect() as connection:
        found = verify(connection).findings
    return [f"{one.customer_id} {one.row}: {one.message}" for one in found if one.check is not Check.INPUT_PARTITION]


def changes_in(dump: Dump, decode: Callable[[bytes], Change]) -> list[Change]:
    """The changes that wait to be published, by customer and sequence."""
    return [decode(row[4]) for row in dump["outbox"]]


def _rows(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(text(statement))]


def _definition(value: msgspec.Struct) -> str:
    plain = msgspec.to_builtins(value)
    for added in ("version", "published_at", "catalogue_version"):
        plain.pop(added, None)
    return msgspec.json.encode(plain).decode()


__all__ = ["TOPIC", "TOPIC_ID", "Dump", "Ledger", "Rejected", "changes_in", "move", "record", "unproven"]
