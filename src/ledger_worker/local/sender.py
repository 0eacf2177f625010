"""The simulator's records on their way to the topics, no further ahead of who applies them than a bounded lead.

So the topics race each other as they do in life, and do not drift apart by everything at once.
"""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from ledger_worker.config import Settings
from ledger_worker.kafka.sending import OutgoingRecord, send
from ledger_worker.local.simulator.simulate import Simulation
from ledger_worker.wire.schemas import TopicFamily

__all__ = ["Sender"]

_LEAD_RECORDS_MAX = 4000
_LOOK_SECONDS = 0.1


class Sender:
    """Sends the records in a thread, no further ahead of `applied` than the lead."""

    def __init__(self, settings: Settings, simulation: Simulation) -> None:
        self.applied = 0
        self.sent = 0
        self._topics = {
            TopicFamily.PURCHASES: settings.topic_purchases,
            TopicFamily.SUBSCRIPTIONS: settings.topic_subscriptions,
            TopicFamily.USAGE: settings.topic_usage,
        }
        self._simulation = simulation
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sender")
        self._sending: Future[None] = self._pool.submit(self._send, settings.broker)

    def require_well(self) -> None:
        """Raises what made the sending fail, if it did."""
        if self._sending.done():
            self._sending.result()

    def stop(self) -> None:
        """Nothing more is sent."""
        self._stop.set()
        self._pool.shutdown()

    def _send(self, broker: Mapping[str, str]) -> None:
        for acknowledged in send(broker, self._paced()):
            self.sent = sum(acknowledged.values())

    def _paced(self) -> Iterator[OutgoingRecord]:
        for number, record in enumerate(self._simulation.records):
            while number - self.applied > _LEAD_RECORDS_MAX:
                if self._stop.wait(_LOOK_SECONDS):
                    return
            yield OutgoingRecord(
                topic=self._topics[record.family], key=record.key, value=record.value, headers=record.headers
            )
