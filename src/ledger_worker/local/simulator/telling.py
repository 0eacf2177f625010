"""How badly lives are told: late, out of order, twice, under two ids, with two contents, for two customers.

Everything about one source that is told for one customer is on one partition, so what arrives first is what was sent
first; of two topics or two customers nobody knows. `Teller` counts only what is certain all the same.
"""

import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from ledger_worker.domain.events import Event, PurchaseCompleted, PurchaseLine, UsageRecorded, UsageReversed
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from ledger_worker.local.simulator.life import DAY, HOUR, LIFE_DAYS_MAX, Happening
from ledger_worker.local.simulator.poison import poison
from ledger_worker.local.simulator.shop import PRICES, UNKNOWN_SKU, WITHOUT_PERIOD
from ledger_worker.wire.encode import encode_event, family_of
from ledger_worker.wire.headers import Header, event_headers
from ledger_worker.wire.schemas import TopicFamily

__all__ = ["SimulatedRecord", "Teller"]


class SimulatedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record as it is to be sent, to the topic of its family."""

    family: TopicFamily
    key: str
    value: bytes
    headers: tuple[Header, ...] = ()


_SECOND = timedelta(seconds=1)
_SENT_TWICE_SHARE = 0.02
_TOLD_AGAIN_SHARE = 0.015
_CONTRADICTED_SHARE = 0.002
_DELAYS = (_SECOND, HOUR, DAY, 20 * DAY)
_DELAY_WEIGHTS = (75, 15, 8, 2)


class Teller:
    """Everything told so far, each record with the instant at which it is sent.

    `history` are the events that a ledger must keep, but for those of `claimed` orders: who has these depends on what
    arrives first. `outcomes`, `duplicates` and `dead_letters` count what is certain whatever overtakes what.
    """

    def __init__(self, chance: random.Random, now: datetime) -> None:
        self._chance = chance
        self._now = now
        self._sent: list[tuple[datetime, int, SimulatedRecord]] = []
        self.history: list[Event] = []
        self.claimed = 0
        self.duplicates = 0
        self.outcomes: Counter[str] = Counter()
        self.dead_letters: Counter[str] = Counter()
        self.types: Counter[str] = Counter()

    def records(self) -> tuple[SimulatedRecord, ...]:
        """All records in the order of sending."""
        return tuple(record for _, _, record in sorted(self._sent, key=lambda sent: sent[:2]))

    def tell(self, happenings: Sequence[Happening]) -> None:
        """The events of one life are sent, with all that goes wrong in telling."""
        sent_at: dict[str, datetime] = {}
        for happening in happenings:
            event = happening.event
            sent_at[event.event_id] = at = self._send_late(event)
            self._keep(event)
            drawn = self._chance.random()
            if drawn < _SENT_TWICE_SHARE:
                self.duplicates += 1
                self._send_late(event)
            elif drawn < _SENT_TWICE_SHARE + _TOLD_AGAIN_SHARE:
                self._tell_again(happening, sent_at)
            elif drawn > 1 - _CONTRADICTED_SHARE:
                self.dead_letters[DeadLetterReason.CONFLICTING_CONTENT] += 1
                self._send(at + _SECOND, _record(_contradicting(event)))

    def tell_claimed_order(self, number: int) -> None:
        """One order is told for two customers of its own: the one whose telling is applied first has it."""
        at = self._now - self._chance.random() * LIFE_DAYS_MAX * DAY
        lines = (PurchaseLine(line_id="1", sku="video-pass", quantity=1, amount=PRICES["video-pass"]),)
        for claimant in ("first", "second"):
            event = Event(
                event_source="shop",
                event_id=f"claimed-{number}-{claimant}",
                customer_id=f"claimant-{number:04}-{claimant}",
                occurred_at=at,
                fact=PurchaseCompleted(order_id=f"claimed-{number}", lines=lines, currency="EUR"),
            )
            self.types[type(event.fact).__name__] += 1
            self._send_late(event)
        self.claimed += 1

    def tell_poison(self, customer_id: str, number: int) -> None:
        """One of each kind of record that cannot be applied is sent, told of this customer."""
        for bad in poison(self._chance, customer_id, number, self._now):
            self.dead_letters[bad.reason] += 1
            at = self._now - self._chance.random() * LIFE_DAYS_MAX * DAY
            self._send(at, SimulatedRecord(family=bad.family, key=customer_id, value=bad.value))

    def _tell_again(self, happening: Happening, sent_at: dict[str, datetime]) -> None:
        """What is plain is told under another id: of the two the one that arrives later tells nothing new.

        Of a reversal only when its usage was sent before both, so that neither has to wait for it.
        """
        event = happening.event
        at = event.occurred_at + self._delay()
        if isinstance(event.fact, UsageReversed):
            used_at = sent_at[event.fact.usage_event_id]
            if used_at >= min(at, sent_at[event.event_id]):
                return
        if happening.is_plain:
            again = msgspec.structs.replace(event, event_id=f"{event.event_id}-again")
            self.outcomes[Outcome.DUPLICATE_FACT] += 1
            self._keep(again, is_new=False)
            self._send(at, _record(again))

    def _keep(self, event: Event, *, is_new: bool = True) -> None:
        self.history.append(event)
        self.types[type(event.fact).__name__] += 1
        if is_new and isinstance(event.fact, PurchaseCompleted):
            skus = {line.sku for line in event.fact.lines}
            self.outcomes[Outcome.NO_OFFER] += UNKNOWN_SKU in skus
            self.outcomes[Outcome.NO_PERIOD] += WITHOUT_PERIOD in skus

    def _send_late(self, event: Event) -> datetime:
        at = event.occurred_at + self._delay()
        self._send(at, _record(event))
        return at

    def _send(self, at: datetime, record: SimulatedRecord) -> None:
        self._sent.append((at, len(self._sent), record))

    def _delay(self) -> timedelta:
        """How late a record is sent: most at once, some by minutes or hours, few by weeks."""
        return self._chance.random() * self._chance.choices(_DELAYS, _DELAY_WEIGHTS)[0]


def _contradicting(event: Event) -> Event:
    """The same id with another content."""
    fact = event.fact
    if isinstance(fact, UsageRecorded):
        return msgspec.structs.replace(event, fact=msgspec.structs.replace(fact, units=fact.units + 1))
    return msgspec.structs.replace(event, occurred_at=event.occurred_at - _SECOND)


def _record(event: Event) -> SimulatedRecord:
    return SimulatedRecord(
        family=family_of(event),
        key=event.customer_id,
        value=encode_event(event),
        headers=tuple(event_headers(event)),
    )
