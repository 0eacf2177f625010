"""What waits in the outbox is told, whatever happens to who tells it. On real servers."""

import os
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import cast
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka import Message
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but not marked so
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from sqlalchemy import Connection, Engine, text

from ledger_worker.config import Settings
from ledger_worker.domain.changes import CustomerPicture, EntitlementPicture
from ledger_worker.domain.events import ID_LENGTH_MAX
from ledger_worker.domain.seats import CUSTOMER_HOLDERS_BYTES_MAX, HOLDERS_BYTES_MAX
from ledger_worker.kafka.client import admin_client
from ledger_worker.kafka.topics import RECORD_BYTES
from ledger_worker.store import database
from ledger_worker.store.outgoing import DeadLetterRow, append_dead_letters
from ledger_worker.wire.decode import decode_dead_letter_reference
from ledger_worker.wire.framing import Registry
from ledger_worker.wire.headers import without_dead_letter_headers
from ledger_worker.wire.record import Record
from ledger_worker.wire.schemas import full_name, newest
from ledger_worker.worker.relay import transactional_id
from tests.shared_cluster import Endpoints
from tests.worker.relays import (
    read_all,
    read_told,
    relay_process,
    require_nothing_lost_and_no_inversion,
    running_relay,
    settings_with_topics,
    wait_until,
    wait_until_frozen,
    wait_until_told,
)
from tests.worker.waiting_changes import LANES, make_changes, make_changes_at_random, pictures

_CUSTOMERS = [f"customer-{number}" for number in range(60)]
_STAGES = ["relay_read", "relay_sent", "relay_committed", "relay_deleted"]
_FAILED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def settings(cluster: Endpoints, database_url: str, topic_prefix: str) -> Settings:
    return settings_with_topics(database_url, cluster.kafka_bootstrap, topic_prefix)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Engine]:
    engine = database.engine(settings.database_url)
    yield engine
    engine.dispose()


def _holders(engine: Engine) -> dict[int, str | None]:
    with engine.connect() as conn:
        return {row.lane: row.owner for row in conn.execute(text("SELECT lane, owner FROM lane"))}


def _dead_letter(record: Record) -> DeadLetterRow:
    return DeadLetterRow(
        dead_letter_id=uuid4(),
        record=record,
        topic_id="topic-id",
        reason="undecodable",
        message="expected a record",
        customer_id=None,
        event_source=None,
        event_id=None,
        failed_at=_FAILED_AT,
    )


def _record(key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes | None], ...] = ()) -> Record:
    return Record(
        topic="commerce.purchases", partition=2, offset=17, timestamp=_FAILED_AT, key=key, value=value, headers=headers
    )


def _headers(message: Message) -> list[tuple[str, bytes | None]]:
    return cast("list[tuple[str, bytes | None]]", message.headers() or [])


def test_each_change_is_told_once_and_in_order(settings: Settings, ledger: Engine) -> None:
    with running_relay(settings) as shared:
        for _ in range(5):
            with ledger.begin() as conn:
                make_changes(conn, _CUSTOMERS, each=2)
            shared.wake.set()
        wait_until_told(ledger)
    told = read_told(settings)
    assert told.changes == {customer_id: list(range(1, 11)) for customer_id in _CUSTOMERS}
    require_nothing_lost_and_no_inversion(ledger, told)


def test_a_record_lies_where_java_would_put_its_key_and_says_what_it_is(settings: Settings, ledger: Engine) -> None:
    with ledger.begin() as conn:
        make_changes(conn, ["customer-1"])
        lane, change_id = conn.execute(text("SELECT lane, change_id FROM outbox")).one()
    with running_relay(settings):
        wait_until_told(ledger)
    (change,) = read_all(settings, settings.topic_changes)
    (state,) = read_all(settings, settings.topic_state)
    assert [(each.key(), each.partition()) for each in (change, state)] == [(b"customer-1", lane)] * 2
    headers = dict(_headers(change))
    assert headers["ce_id"] == str(change_id).encode()
    assert headers["ce_type"] == full_name("EntitlementChanged").encode()
    assert headers["ce_sequence"] == b"0000000001.0000000000000000001"
    assert headers["traceparent"] == b"00-00000000000000000000000000000001-0000000000000001-01"


def test_rows_that_were_there_before_the_relay_are_told_in_rounds(settings: Settings, ledger: Engine) -> None:
    with ledger.begin() as conn:
        make_changes(conn, [f"customer-{number}" for number in range(500)], each=12)
    with running_relay(settings):
        wait_until_told(ledger)
    require_nothing_lost_and_no_inversion(ledger, read_told(settings))


def test_with_a_registry_records_carry_its_ids(settings: Settings, ledger: Engine) -> None:
    ids = {newest(name).text: number for number, name in enumerate(["EntitlementChanged", "CustomerState"], 41)}
    registry = Registry(
        {number: text_ for text_, number in ids.items()}.__getitem__, lambda _subject, text_: ids[text_]
    )
    with ledger.begin() as conn:
        make_changes(conn, _CUSTOMERS)
    with running_relay(settings, registry=registry):
        wait_until_told(ledger)
    assert {(m.value() or b"")[:5] for m in read_all(settings, settings.topic_changes)} == {b"\0\0\0\0\x29"}
    assert {(m.value() or b"")[:5] for m in read_all(settings, settings.topic_state)} == {b"\0\0\0\0\x2a"}
    require_nothing_lost_and_no_inversion(ledger, read_told(settings, registry))


def test_two_relays_share_the_lanes_and_one_takes_over_what_the_other_leaves(
    settings: Settings, ledger: Engine
) -> None:
    def shares() -> list[int]:
        holders = list(_holders(ledger).values())
        return sorted(holders.count(owner) for owner in set(holders) - {None})

    with running_relay(settings):
        wait_until(lambda: shares() == [LANES + 1], "one relay holds every lane")
        with running_relay(settings):
            wait_until(lambda: shares() == [2, 3], "each of two relays holds its share")
            make_changes_at_random(ledger, _CUSTOMERS, transactions=20, seed=1)
            wait_until_told(ledger)
        wait_until(lambda: shares() == [LANES + 1], "one relay holds every lane again")
        make_changes_at_random(ledger, _CUSTOMERS, transactions=20, seed=2)
        wait_until_told(ledger)
    assert set(_holders(ledger).values()) == {None}
    require_nothing_lost_and_no_inversion(ledger, read_told(settings))


@pytest.mark.parametrize("stage", _STAGES)
def test_a_relay_that_was_frozen_past_its_lease_tells_nothing_old(
    settings: Settings, ledger: Engine, stage: str
) -> None:
    make_changes_at_random(ledger, _CUSTOMERS, transactions=10, seed=3)
    with relay_process(settings, freeze_at=f"{stage}:2") as frozen:
        wait_until_frozen(frozen)
        make_changes_at_random(ledger, _CUSTOMERS, transactions=10, seed=4)
        with running_relay(settings):
            wait_until_told(ledger)
            make_changes_at_random(ledger, _CUSTOMERS, transactions=5, seed=5)
            wait_until_told(ledger)
            os.kill(frozen.pid, signal.SIGCONT)
            wait_until(lambda: len(set(_holders(ledger).values()) - {None}) == 2, "the relay that woke up has a share")
            make_changes_at_random(ledger, _CUSTOMERS, transactions=10, seed=6)
            wait_until_told(ledger)
    require_nothing_lost_and_no_inversion(ledger, read_told(settings))


@pytest.mark.parametrize("stage", _STAGES)
def test_a_relay_killed_at_any_stage_loses_nothing(settings: Settings, ledger: Engine, stage: str) -> None:
    make_changes_at_random(ledger, _CUSTOMERS, transactions=10, seed=7)
    with relay_process(settings, crash_at=f"{stage}:3") as killed:
        assert killed.wait(60) == -signal.SIGKILL
    make_changes_at_random(ledger, _CUSTOMERS, transactions=10, seed=8)
    with running_relay(settings):
        wait_until_told(ledger)
    require_nothing_lost_and_no_inversion(ledger, read_told(settings))


def test_a_relay_killed_before_it_deleted_is_followed_by_repeats_and_no_others(
    settings: Settings, ledger: Engine
) -> None:
    with ledger.begin() as conn:
        make_changes(conn, ["customer-1"], each=3)
    with relay_process(settings, crash_at="relay_committed:1") as killed:
        killed.wait(60)
    with running_relay(settings):
        wait_until_told(ledger)
    told = read_told(settings)
    assert told.changes == {"customer-1": [1, 2, 3, 1, 2, 3]}
    assert told.pictures == {"customer-1": [3, 3]}


@pytest.mark.parametrize(
    "record",
    [
        _record(b"customer-1", b"\xc3\x01 not a record", (("traceparent", b"00-x"), ("empty", b""), ("none", None))),
        _record(None, b"", (("twice", b"1"), ("twice", b"2"))),
        _record(b"", None),
        _record(b"\xff\x00", b"\x00" * 100_000, (("dlq.error.reason", b"of an earlier life"),)),
    ],
    ids=["headers", "no key and an empty value", "an empty key and no value", "binary"],
)
def test_a_dead_letter_keeps_its_bytes(settings: Settings, ledger: Engine, record: Record) -> None:
    with ledger.begin() as conn:
        append_dead_letters(conn, [_dead_letter(record)])
    with running_relay(settings):
        wait_until_told(ledger)
    (message,) = read_all(settings, settings.topic_dead_letters)
    headers = _headers(message)
    assert (message.key(), message.value()) == (record.key, record.value)
    assert headers[: len(record.headers)] == list(record.headers)
    assert without_dead_letter_headers(headers[len(record.headers) :]) == []
    added = dict(headers)
    assert added["dlq.error.reason"] == b"undecodable"
    assert (added["dlq.error.topic"], added["dlq.error.offset"]) == (b"commerce.purchases", b"17")


def test_a_dead_letter_that_no_topic_takes_becomes_a_reference(settings: Settings, ledger: Engine) -> None:
    value = os.urandom(3_000_000)
    row = _dead_letter(_record(b"customer-1", value, (("large", b"x" * 1000),)))
    small = _dead_letter(_record(b"customer-1", b"small"))
    with ledger.begin() as conn:
        append_dead_letters(conn, [row, small])
    with running_relay(settings):
        wait_until_told(ledger)
    reference, after = read_all(settings, settings.topic_dead_letters)
    told = decode_dead_letter_reference(reference.value())
    assert told.dead_letter_id == row.dead_letter_id
    assert (told.size_bytes, told.sha256) == (3_000_000, sha256(value).digest())
    assert (reference.key(), after.value()) == (b"customer-1", b"small")


def _set_size(settings: Settings, topic: str, bytes_max: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(bytes_max), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = admin_client(settings.broker)
    (altered,) = admin.incremental_alter_configs([resource]).values()
    altered.result(30)


def test_a_picture_that_the_topic_refuses_waits_until_the_topic_takes_it(settings: Settings, ledger: Engine) -> None:
    _set_size(settings, settings.topic_state, 100)
    with running_relay(settings) as shared:
        with ledger.begin() as conn:
            make_changes(conn, ["customer-1"])
        shared.wake.set()
        wait_until(lambda: shared.metrics.publish_failures._value.get() >= 2, "the topic has refused twice")  # noqa: SLF001 - the client has no reading of its own
        assert read_told(settings).changes == {}
        _set_size(settings, settings.topic_state, 1_000_000)
        wait_until_told(ledger)
    require_nothing_lost_and_no_inversion(ledger, read_told(settings))


def _full(entitlement: str, holders: int) -> EntitlementPicture:
    """So many hold seats of it, by the longest names."""
    return EntitlementPicture(
        entitlement=entitlement,
        entitlement_version=1,
        type="seats",
        state="active",
        allowed=True,
        reason="allowed",
        holders=tuple(f"{number:0{ID_LENGTH_MAX}}" for number in range(holders)),
    )


def test_the_largest_change_and_picture_that_holders_come_to_are_told(settings: Settings, ledger: Engine) -> None:
    of_one = HOLDERS_BYTES_MAX // ID_LENGTH_MAX
    held = CUSTOMER_HOLDERS_BYTES_MAX // ID_LENGTH_MAX
    full = [_full(f"seats-{number}", held // 4) for number in range(4)]

    def drawn(conn: Connection, customer_ids: Sequence[str]) -> Sequence[CustomerPicture]:
        return [msgspec.structs.replace(one, entitlements=tuple(full)) for one in pictures(conn, customer_ids)]

    with ledger.begin() as conn:
        make_changes(conn, ["customer-1"], before=_full("seats-0", of_one), after=_full("seats-0", 2 * of_one))
    with running_relay(settings, drawn=drawn):
        wait_until_told(ledger)

    (change,), (state,) = (read_all(settings, topic) for topic in (settings.topic_changes, settings.topic_state))
    sizes = [len(message.value() or b"") for message in (change, state)]
    assert sizes[0] > 3 * HOLDERS_BYTES_MAX
    assert sizes[1] > CUSTOMER_HOLDERS_BYTES_MAX
    assert max(sizes) < RECORD_BYTES // 4


def test_each_lane_has_an_id_of_its_own_behind_the_name_of_the_group() -> None:
    assert transactional_id("ledger", -1) != transactional_id("ledger", 0)
    assert transactional_id("ledger", -1).startswith("ledger.")
