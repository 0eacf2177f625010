"""First answers proven: what a request was granted is recorded, and what is recorded of requests they were granted.

An answer names no event: both ways go by the ids that `domain.requests` makes of a caller, a key and an entitlement.
Why a request was refused is not judged again, nor which grants an answer named: it says how the books stood then.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.domain.events import (
    REQUEST_PREFIX,
    Fact,
    HoldConfirmed,
    HoldReleased,
    HoldTaken,
    SeatFact,
    UsageRecorded,
    fact_of,
)
from ledger_worker.domain.requests import Answer, Granted, RequestId, request_id_of
from ledger_worker.operations.proof.findings import Check, Findings, differing, differing_fields
from ledger_worker.operations.proof.reading import UNREADABLE, msgpack_holds_more, unreadable
from ledger_worker.operations.proof.rows import EventRow, event_name
from ledger_worker.store.arrays import of_texts, of_uuids
from ledger_worker.store.idempotency import Key

__all__ = ["Answers"]

_FETCH_ROWS = 2_000
_ALL = text("SELECT caller, key, customer_id, answer, recorded_at FROM idempotency ORDER BY caller, key")
_OF_KEYS = text("""
SELECT idempotency.caller, idempotency.key, idempotency.customer_id, idempotency.answer, idempotency.recorded_at
FROM unnest(CAST(:callers AS text[]), CAST(:keys AS text[])) AS asked (caller, key)
JOIN idempotency ON idempotency.caller = asked.caller AND idempotency.key = asked.key
""")
_EVENTS = text("""
SELECT event.customer_id, event.event_key, event.recorded_at, event.payload
FROM unnest(CAST(:customers AS text[]), CAST(:keys AS uuid[])) AS asked (customer_id, event_key)
JOIN event ON event.customer_id = asked.customer_id AND event.event_key = asked.event_key
""")
_Place = tuple[str, UUID]
"""Customer and inbox key of an event."""


class Answers:
    """The comparison of one run: what is recorded is seen customer by customer, then all answers are looked at."""

    def __init__(self, connection: Connection, findings: Findings) -> None:
        self._connection = connection
        self._findings = findings
        self._ends_recorded = 0

    def see(self, rows: Iterable[EventRow]) -> None:
        """Of each event that a request made there is a first answer that granted it."""
        asked = [(row, request_id_of(row.event_source, row.event_id)) for row in rows if _is_of_request(row)]
        if not asked:
            return
        answers = self._answers_of([(made.caller, made.key) for _, made in asked if made is not None])
        for row, made in asked:
            answer = None if made is None else answers.get((made.caller, made.key))
            if made is None or answer is None:
                self._add(row.customer_id, event_name(row), "no first answer tells of it, expected one that grants it")
            elif not _grants(answer, made):
                message = f"the first answer to {made.caller} under {made.key} does not grant it"
                self._add(row.customer_id, event_name(row), message)
            self._ends_recorded += made is not None and made.what == "ended"

    def check_all(self) -> None:
        """Every first answer of the ledger did what it says; each customer's events were seen before."""
        ends = 0
        result = self._connection.execute(_ALL, execution_options={"stream_results": True, "yield_per": _FETCH_ROWS})
        with result:
            for rows in result.partitions(_FETCH_ROWS):
                self._findings.looked_at[Check.ANSWER] += len(rows)
                answers = [answer for row in rows if (answer := self._read(row, is_told=True)) is not None]
                granted = [answer for answer in answers if answer.is_granted]
                self._check_granted(granted)
                ends += sum(len(answer.items) for answer in granted if answer.hold is not None)
        if ends != self._ends_recorded:
            message = f"{self._ends_recorded} ends of holds are recorded, expected {ends} by the first answers"
            self._add(None, "ends of holds", message)

    def _check_granted(self, answers: Sequence[Answer]) -> None:
        held = self._answers_of([(answer.caller, answer.hold) for answer in answers if answer.hold is not None])
        tellers = [(answer, _teller(answer, held)) for answer in answers]
        places = {
            (teller, made.event_key)
            for answer, teller in tellers
            if teller is not None
            for item in _recorded_items(answer)
            for made in _ids(answer, item.entitlement)
        }
        events = self._events_at(places)
        for answer, teller in tellers:
            if teller is None:
                self._add(answer.customer_id, _name(answer), f"nobody knows the hold {answer.hold} that it ended")
            else:
                self._check_one(answer, teller, events)

    def _check_one(self, answer: Answer, teller: str, events: dict[_Place, tuple[datetime, Fact | None]]) -> None:
        last: datetime | None = None
        for item in _recorded_items(answer):
            found = [
                event for made in _ids(answer, item.entitlement) if (event := events.get((teller, made.event_key)))
            ]
            if not found:
                message = f"nothing is recorded of the {item.granted} of {item.entitlement} that it granted"
                self._add(answer.customer_id, _name(answer), message)
                return
            recorded_at, fact = found[0]
            last = recorded_at if last is None else max(last, recorded_at)
            differs = None if fact is None else _differs(answer, item, fact)
            if differs:
                self._add(answer.customer_id, _name(answer), f"what is recorded of {item.entitlement}: {differs}")
        if last is not None and last != answer.recorded_at:
            message = f"it was recorded at {answer.recorded_at.isoformat()}, expected {last.isoformat()} by its events"
            self._add(answer.customer_id, _name(answer), message)

    # -- reading --

    def _answers_of(self, keys: Sequence[Key]) -> dict[Key, Answer]:
        """Those that there are and that can be read."""
        if not keys:
            return {}
        asked = {"callers": of_texts(caller for caller, _ in keys), "keys": of_texts(key for _, key in keys)}
        rows = self._connection.execute(_OF_KEYS, asked)
        return {(row[0], row[1]): answer for row in rows if (answer := self._read(row, is_told=False)) is not None}

    def _events_at(self, places: set[_Place]) -> dict[_Place, tuple[datetime, Fact | None]]:
        """When each was recorded, and its fact; None where that cannot be read, which is told of the event."""
        ordered = sorted(places)
        asked = {"customers": of_texts(each for each, _ in ordered), "keys": of_uuids(key for _, key in ordered)}
        events = {}
        for customer_id, event_key, recorded_at, payload in self._connection.execute(_EVENTS, asked):
            try:
                fact: Fact | None = fact_of(payload)
            except UNREADABLE:
                fact = None
            events[customer_id, event_key] = (recorded_at, fact)
        return events

    def _read(self, row: Any, *, is_told: bool) -> Answer | None:  # noqa: ANN401 - a row of a statement
        caller, key, customer_id, stored, recorded_at = row
        name = f"answer to {caller} under {key}"
        try:
            answer = msgspec.msgpack.decode(stored, type=Answer)
        except UNREADABLE as error:
            if is_told:
                self._add(customer_id, name, unreadable(error))
            return None
        if is_told:
            columns = (caller, key, customer_id, recorded_at)
            expected = (answer.caller, answer.key, answer.customer_id, answer.recorded_at)
            if columns != expected:
                names = ("caller", "key", "customer_id", "recorded_at")
                self._add(customer_id, name, f"{differing(names, columns, expected)} by the answer itself")
            if msgpack_holds_more(answer, stored):
                self._add(customer_id, name, "it holds more than what an answer says")
        return answer

    def _add(self, customer_id: str | None, row: str, message: str) -> None:
        self._findings.add(Check.ANSWER, customer_id, row, message)


def _is_of_request(row: EventRow) -> bool:
    return row.event_source.startswith(REQUEST_PREFIX)


def _name(answer: Answer) -> str:
    return f"answer to {answer.caller} under {answer.key}"


def _teller(answer: Answer, held: dict[Key, Answer]) -> str | None:
    """Of whom what was granted is recorded: who asked, or who took the hold; None where that is not known."""
    if answer.hold is None:
        return answer.customer_id
    taken = held.get((answer.caller, answer.hold))
    return None if taken is None else taken.customer_id


def _recorded_items(answer: Answer) -> list[Granted]:
    """Of which something is recorded: of a hold that ended all, also what nothing was used of."""
    return [item for item in answer.items if item.granted or answer.hold is not None]


def _ids(answer: Answer, entitlement: str) -> list[RequestId]:
    """The ids under which what was granted may be recorded; of one that is no end it may be units or a seat."""
    if answer.hold is not None:
        return [RequestId(caller=answer.caller, key=answer.hold, entitlement=entitlement, what="ended")]
    whats = ("", "seat") if answer.expires_at is None else ("",)
    return [RequestId(caller=answer.caller, key=answer.key, entitlement=entitlement, what=what) for what in whats]


def _grants(answer: Answer, made: RequestId) -> bool:
    is_hold = answer.expires_at is not None
    return (
        answer.is_granted
        and any(item.entitlement == made.entitlement and item.granted for item in answer.items)
        and (is_hold or made.what != "ended")
    )


def _differs(answer: Answer, item: Granted, fact: Fact) -> str:
    """How what is recorded differs from what was granted; empty when it does not."""
    if isinstance(fact, SeatFact):
        return "" if fact.entitlement == item.entitlement else f"a seat of {fact.entitlement}"
    expected: Fact
    if answer.expires_at is not None:
        expected = HoldTaken(entitlement=item.entitlement, units=item.granted, expires_at=answer.expires_at)
    elif answer.hold is None:
        expected = UsageRecorded(entitlement=item.entitlement, units=item.granted)
    elif item.granted:
        expected = HoldConfirmed(
            entitlement=item.entitlement, hold_event_id=_taken_id(answer, item), units=item.granted
        )
    else:
        expected = HoldReleased(entitlement=item.entitlement, hold_event_id=_taken_id(answer, item))
    if type(fact) is not type(expected):
        return f"it is {type(fact).__name__}, expected {type(expected).__name__}"
    return differing_fields(fact, expected)


def _taken_id(answer: Answer, item: Granted) -> str:
    return RequestId(caller=answer.caller, key=answer.hold or "", entitlement=item.entitlement).event_id
