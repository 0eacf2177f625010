"""The partitions that this worker was assigned: claimed in the database, fetched or held back, and given up.

A partition that is assigned is paused at once. Outside the callback, its row is claimed (`store.partitions`), then the
consumer seeks to the row's offset and resumes. From then on a predecessor that still believes it owns the partition
writes nothing: its next batch is fenced.

When a batch of ours is fenced, another worker has claimed one of its partitions. What is still assigned to us is
claimed again, each time after a longer wait, so that two workers that both believe they own a partition do not keep
taking it from each other. An idle partition that another has claimed is left alone until a batch of it is fenced.

Offsets are committed to Kafka as a hint for tools that watch the lag. Nothing of ours reads them.

A row stands behind the last record that was applied. Behind that there may be offsets that hold no record for us: the
marker that ends a transaction, the records of one that was aborted. They move no row, since there is nothing to apply,
but a lag that counted them would never end. So hints and gauges go by how far the consumer has read (`note_passed`)
where that is further.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, TopicDescription  # type: ignore[attr-defined]  # public, but not marked so
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ledger_worker.apply.batch import Move
from ledger_worker.config import Start
from ledger_worker.errors import ConfigurationError, LedgerError, UnavailableError
from ledger_worker.kafka.positions import ask_topics, find_topics, found_topics, watermarks
from ledger_worker.metrics import Stage, Stages
from ledger_worker.store import partitions
from ledger_worker.store.partitions import Position
from ledger_worker.worker.faults import Backoff, Fault, fault_of, sqlstate_class, sqlstate_of
from ledger_worker.worker.shared import Shared

__all__ = ["Assignment", "Place"]

Place = tuple[str, int]
"""A partition: topic and number."""

_CLAIMS = "claims"


class Assignment:
    """What is assigned to one consumer. `on_gone` is told which partitions were revoked or lost."""

    def __init__(
        self,
        shared: Shared,
        stages: Stages,
        consumer: Consumer,
        admin: AdminClient,
        on_gone: Callable[[set[Place]], None],
    ) -> None:
        self.was_made = False
        self._shared = shared
        self._stages = stages
        self._metrics = shared.metrics
        self._consumer = consumer
        self._admin = admin
        self._on_gone = on_gone
        self._log = structlog.get_logger()
        self._owner = f"{socket.gethostname()}/{os.getpid()}"
        # None until it is claimed.
        self._assigned: dict[Place, Position | None] = {}
        # What the consumer fetches now: claimed, not halted, and not held back.
        self._fetched: set[Place] = set()
        # What the client has stopped fetching, since it asked for an offset that the broker does not have.
        self._stopped: set[Place] = set()
        self._claim_at = 0.0
        self._claim_backoff = Backoff()
        self._fence_backoff = Backoff(longest_seconds=10.0)
        self._hinted: dict[Place, int] = {}
        # Every record before this offset is applied. For hints and gauges alone: what is fetched goes by the row.
        self._passed: dict[Place, int] = {}
        self._newest: dict[Place, datetime] = {}
        self._asked_topics: Mapping[str, Future[TopicDescription]] = {}

    def subscribe(self, topics: Sequence[str]) -> None:
        """The group is joined; what it assigns arrives during polls."""
        self._consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def fetched(self, place: Place) -> Position | None:
        """Where a partition that is fetched now goes on; None for all others, whose records are not to be taken."""
        return self._assigned.get(place) if place in self._fetched else None

    def claimed(self, place: Place) -> Position | None:
        """Where a partition that we have claimed goes on; None when we have not."""
        return self._assigned.get(place)

    def advance(self, moves: Iterable[Move], newest: Mapping[Place, datetime]) -> None:
        """A batch is committed: its partitions go on behind it. `newest` are the times of their last records."""
        for move in moves:
            place = (move.topic, move.partition)
            position = self._assigned.get(place)
            if position is not None:
                self._assigned[place] = msgspec.structs.replace(position, next_offset=move.to_offset)
            self._metrics.next_offset.labels(topic=move.topic, partition=str(move.partition)).set(move.to_offset)
        self._newest.update(newest)
        self._fence_backoff.reset()

    def were_ours(self, moves: Sequence[Move]) -> bool:
        """Whether the database shows these moves as made, and by us. Raises DBAPIError.

        If not, what another owner took is claimed again later, and all of it is fetched anew from where the rows stand.
        """
        with self._shared.engine.connect() as conn:
            rows = partitions.read(conn, sorted({move.topic for move in moves}))
        self._shared.health.database_answered()
        found = [(move, rows.get((move.topic, move.partition))) for move in moves]
        if all(row is not None and _reached(row, move) for move, row in found):
            return True
        for move, row in found:
            place = (move.topic, move.partition)
            ours = self._assigned.get(place)
            if ours is not None:
                self._passed.pop(place, None)
                self._assigned[place] = row if row is not None and row.owner_epoch == ours.owner_epoch else None
                self.hold([place])
        self._claim_at = time.monotonic() + self._fence_backoff.next_seconds()
        return False

    # -- claims --------------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Every assigned partition is claimed, or the attempt is repeated later. Raises ConfigurationError."""
        unclaimed = [place for place, position in self._assigned.items() if position is None]
        if not unclaimed or time.monotonic() < self._claim_at:
            return
        try:
            found = find_topics(self._admin, sorted({topic for topic, _ in unclaimed}))
            for place in unclaimed:
                self._claim_one(place, found[place[0]].topic_id, found[place[0]].partitions)
        except (UnavailableError, PoolTimeoutError, LookupError) as error:
            self._claim_later(str(error))
        except DBAPIError as error:
            self._metrics.database_failures.labels(sqlstate_class=sqlstate_class(error)).inc()
            if fault_of(error) is not Fault.OUTAGE:
                raise
            self._claim_later(f"{type(error.orig).__name__} (SQLSTATE {sqlstate_of(error)})")
        else:
            self._claim_backoff.reset()
            self._shared.health.database_answered()
            self._shared.health.waits(_CLAIMS, None)
        self._count()

    def _claim_one(self, place: Place, topic_id: str, partition_count: int) -> None:
        """A transaction for each partition: one that has to wait for a zombie's batch keeps no other waiting."""
        topic, partition = place
        try:
            with self._shared.engine.begin() as conn:
                position = partitions.claim(conn, topic, partition, topic_id, self._owner)
        except LookupError:
            self._introduce(topic, topic_id, partition_count)
            with self._shared.engine.begin() as conn:
                position = partitions.claim(conn, topic, partition, topic_id, self._owner)
        self._assigned[place] = position
        self._log.info(
            "partition_claimed",
            topic=topic,
            partition=partition,
            owner_epoch=position.owner_epoch,
            next_offset=position.next_offset,
            is_halted=position.is_halted,
        )

    def _introduce(self, topic: str, topic_id: str, partition_count: int) -> None:
        found = watermarks(self._admin, [(topic, partition) for partition in range(partition_count)])
        lows = {partition: known.low for (_, partition), known in found.items()}
        highs = {partition: known.high for (_, partition), known in found.items()}
        starts = lows if self._shared.settings.start is Start.EARLIEST else highs
        with self._shared.engine.begin() as conn:
            partitions.introduce(conn, topic, topic_id, starts=starts, lows=lows)

    def _claim_later(self, why: str) -> None:
        seconds = self._claim_backoff.next_seconds()
        self._claim_at = time.monotonic() + seconds
        self._shared.health.waits(_CLAIMS, why)
        self._log.warning("claim_waits", seconds=round(seconds, 2), error=why)

    # -- fetching ------------------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        """What is claimed and not halted is fetched, from where its row stands."""
        for place, position in self._assigned.items():
            if position is None or position.is_halted or place in self._fetched:
                continue
            target = TopicPartition(*place, position.next_offset)
            try:
                self._consumer.seek(target)
            except KafkaException as error:
                if place in self._stopped:
                    self._begin_again(target)
                else:
                    self._log.debug("seek_waits", topic=place[0], partition=place[1], error=str(error))
                continue  # it is still being assigned: the next turn seeks again
            self._consumer.resume([target])
            self._stopped.discard(place)
            self._fetched.add(place)

    def _begin_again(self, target: TopicPartition) -> None:
        """A partition that the client has stopped is given to it anew, at an offset: it would refuse every seek."""
        try:
            self._consumer.incremental_unassign([target])
            self._consumer.incremental_assign([target])
            self._consumer.pause([target])
        except KafkaException as error:
            self._log.debug("assignment_waits", topic=target.topic, partition=target.partition, error=str(error))
        else:
            self._stopped.discard((target.topic, target.partition))

    def hold(self, places: Iterable[Place] | None = None) -> None:
        """These partitions (None: all) are held back until `fetch`; what was fetched and not taken is forgotten."""
        held = self._fetched.intersection(self._fetched if places is None else places)
        if held:
            self._consumer.pause([TopicPartition(*place) for place in held])
            self._fetched -= held

    def on_missing_offset(self, place: Place) -> None:
        """The broker has no record at the offset that was asked for; that must never be skipped in silence.

        Raises ConfigurationError when the records that come next do not exist.
        """
        if place in self._assigned:
            self._stopped.add(place)
        position = self.fetched(place)
        if position is None:
            return  # the claim, or the next seek, has yet to tell whether it matters
        try:
            known = watermarks(self._admin, [place])[place]
        except UnavailableError:
            self._fetched.discard(place)  # seek once more, and ask again
            return
        if known.low <= position.next_offset <= known.high:
            self._fetched.discard(place)  # the answer was about another offset: seek once more
            self._passed.pop(place, None)  # the end of the topic may have been behind it and is lost
            return
        raise ConfigurationError(
            f"partition {place[0]}/{place[1]} goes on at offset {position.next_offset}, but the topic has offsets from "
            f"{known.low} to {known.high}: records were deleted before they were applied, or the topic lost its end. "
            "Nothing is skipped: restore the records, or the owner of the schema sets next_offset in input_partition"
        )

    # -- rebalances: called by the client inside a poll; they must not raise -------------------------------------------

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        # With an offset, so that the client asks for none of the group; paused, until the claim has told the true one.
        # A fetch may go out before the pause, and its records may come after the seek. So it must not begin behind the
        # true offset, where they would look like a gap in the topic and what lies between would be lost. Nor should it
        # begin at an offset that retention has deleted, after which the client refuses every seek (`_begin_again`).
        known = self._known_offsets([(each.topic, each.partition) for each in assigned])
        begun = [TopicPartition(each.topic, each.partition, known[each.topic, each.partition]) for each in assigned]
        consumer.incremental_assign(begun)
        consumer.pause(begun)
        for each in begun:
            self._assigned[each.topic, each.partition] = None
        self.was_made = True
        self._claim_at = 0.0
        self._rebalanced("assign", begun)

    def _known_offsets(self, places: Sequence[Place]) -> dict[Place, int]:
        """An offset for each that exists and is not behind the true one: the row's, else the first of the partition."""
        known = dict.fromkeys(places, 0)
        try:
            with self._shared.engine.connect() as conn:
                rows = partitions.read(conn, sorted({topic for topic, _ in places}))
            known |= {place: rows[place].next_offset for place in places if place in rows}
            new = [place for place in places if place not in rows]
            if new:
                known |= {place: found.low for place, found in watermarks(self._admin, new).items()}
        except (DBAPIError, PoolTimeoutError, LedgerError) as error:
            self._log.warning("assigned_from_the_beginning", error=type(error).__name__)
        return known

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        self.hint()
        self._forget(revoked)
        consumer.incremental_unassign(revoked)
        self._rebalanced("revoke", revoked)

    def _on_lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        self._forget(lost)
        consumer.incremental_unassign(lost)
        self._rebalanced("lost", lost)

    def _forget(self, gone: Iterable[TopicPartition]) -> None:
        places = {(each.topic, each.partition) for each in gone}
        for place in places:
            self._assigned.pop(place, None)
            self._hinted.pop(place, None)
            self._newest.pop(place, None)
            self._passed.pop(place, None)
            for gauge in (self._metrics.lag_records, self._metrics.lag_seconds, self._metrics.next_offset):
                with contextlib.suppress(KeyError):
                    gauge.remove(place[0], str(place[1]))
        self._fetched -= places
        self._stopped -= places
        self._on_gone(places)

    def _rebalanced(self, kind: str, places: Iterable[TopicPartition]) -> None:
        self._metrics.rebalances.labels(kind=kind).inc()
        self._count()
        self._log.info("rebalanced", kind=kind, partitions=sorted(f"{each.topic}/{each.partition}" for each in places))

    # -- now and then --------------------------------------------------------------------------------------------------

    def note_passed(self) -> None:
        """How far the consumer has read is remembered; only to be called when all that it gave us is applied.

        Not asked of the consumer when it is needed: a revocation comes in the middle of taking records.
        """
        # Not of what is held back: records of it may have been dropped. A seek makes the position unknown (negative)
        # until something is read from there.
        for each in self._consumer.position([TopicPartition(*place) for place in self._fetched]):
            if each.offset >= 0:
                self._passed[each.topic, each.partition] = each.offset

    def hint(self) -> None:
        """Kafka is told where we stand, if there is news."""
        stand = {
            place: self._stand(place, position) for place, position in self._assigned.items() if position is not None
        }
        news = {place: offset for place, offset in stand.items() if self._hinted.get(place) != offset}
        if not news:
            return
        self._stages.begin()
        with contextlib.suppress(KafkaException):
            offsets = [TopicPartition(*place, offset) for place, offset in news.items()]
            self._consumer.commit(offsets=offsets, asynchronous=True)
            self._hinted.update(news)
        self._stages.reached(Stage.OFFSETS_HINTED)

    def watch(self) -> None:
        """What others did is noticed: a partition halted or released, a topic made again (ConfigurationError)."""
        if not self._assigned:
            return
        topics = sorted({topic for topic, _ in self._assigned})
        self._compare_topics()
        self._asked_topics = ask_topics(self._admin, topics)
        try:
            with self._shared.engine.connect() as conn:
                rows = partitions.read(conn, topics)
        except (DBAPIError, PoolTimeoutError) as error:
            self._log.warning("watch_failed", error=type(error).__name__)
            return
        self._shared.health.database_answered()
        for place, position in self._assigned.items():
            row = rows.get(place)
            if position is None or row is None or row.owner_epoch != position.owner_epoch:
                continue  # taken by another: our next batch finds out, and until then there is nothing to do
            if row.is_halted != position.is_halted:
                self._assigned[place] = msgspec.structs.replace(
                    position, is_halted=row.is_halted, halted_reason=row.halted_reason
                )
                name = "partition_halted" if row.is_halted else "partition_released"
                self._log.warning(name, topic=place[0], partition=place[1], reason=row.halted_reason)
                self.hold([place])
        self._count()

    def _compare_topics(self) -> None:
        """Looks at the answer to the question of the last time: nobody waits for it."""
        if not self._asked_topics or not all(future.done() for future in self._asked_topics.values()):
            return
        try:
            found = found_topics(self._asked_topics)
        except UnavailableError:
            return
        for (topic, _), position in self._assigned.items():
            if position is not None and topic in found and found[topic].topic_id != position.topic_id:
                raise partitions.made_again(topic, found[topic].topic_id, position.topic_id)

    def set_gauges(self) -> None:
        """The lag of each partition, by what the last fetch answered: no request is made."""
        now = datetime.now(UTC)
        for place, position in self._assigned.items():
            if position is None:
                continue
            _, high = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
            if high < 0:
                continue
            waiting = max(high - self._stand(place, position), 0)
            newest = self._newest.get(place)
            age = max((now - newest).total_seconds(), 0.0) if waiting and newest is not None else 0.0
            labels = {"topic": place[0], "partition": str(place[1])}
            self._metrics.lag_records.labels(**labels).set(waiting)
            self._metrics.lag_seconds.labels(**labels).set(age)

    def _stand(self, place: Place, position: Position) -> int:
        return max(position.next_offset, self._passed.get(place, 0))

    def _count(self) -> None:
        held = [position for position in self._assigned.values() if position is not None]
        self._metrics.claimed.set(len(held))
        self._metrics.unclaimed.set(len(self._assigned) - len(held))
        self._metrics.halted.set(sum(position.is_halted for position in held))


def _reached(row: Position, move: Move) -> bool:
    return (row.owner_epoch, row.next_offset) == (move.owner_epoch, move.to_offset)
