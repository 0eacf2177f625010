"""The input partitions: where each goes on, and who owns it.

One row is at once the committed offset and the fence. To own a partition is to know its newest epoch: `claim` raises
it, and from then on the batches of every earlier owner fail at their compare-and-set (`store.fence`). A claim waits for
a batch that is just being committed, because it needs the same row, and so answers the offset that this batch reached.

A topic enters the ledger as a whole, all its partitions in one transaction. Otherwise a second worker would find rows
of some partitions and take the rest for added ones, which begin elsewhere.
"""

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.errors import ConfigurationError

__all__ = ["Position", "claim", "introduce", "made_again", "read"]


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """The row of one partition. Offsets before `next_offset` are applied; `owner` is a name for people."""

    topic: str
    partition: int
    topic_id: str
    next_offset: int
    owner_epoch: int
    owner: str | None
    is_halted: bool
    halted_reason: str | None


_READ = text("""
SELECT topic, partition, topic_id, next_offset, owner_epoch, owner, is_halted, halted_reason
FROM input_partition
WHERE topic = ANY(CAST(:topics AS text[]))
ORDER BY topic, partition
""")


def read(conn: Connection, topics: Sequence[str]) -> dict[tuple[str, int], Position]:
    """The rows of all partitions of these topics, by topic and partition."""
    rows = conn.execute(_READ, {"topics": list(topics)})
    return {(row.topic, row.partition): Position(**row._mapping) for row in rows}  # noqa: SLF001 - public by its manual


_LOCK_TOPIC = text("SELECT pg_advisory_xact_lock(hashtextextended('input_partition/' || :topic, 0))")
_TOPIC_IDS = text("SELECT DISTINCT topic_id FROM input_partition WHERE topic = :topic")
_INTRODUCE = text("""
WITH found AS (
    SELECT * FROM unnest(CAST(:partitions AS integer[]), CAST(:offsets AS bigint[])) AS found (partition, next_offset)
)
INSERT INTO input_partition (topic, partition, topic_id, next_offset)
SELECT :topic, found.partition, :topic_id, found.next_offset
FROM found
ORDER BY found.partition
ON CONFLICT (topic, partition) DO NOTHING
""")


def introduce(
    conn: Connection, topic: str, topic_id: str, *, starts: Mapping[int, int], lows: Mapping[int, int]
) -> None:
    """Every partition of the topic has a row; those that have one are left alone. The caller commits.

    Both mappings name all partitions. A topic without rows is new to the ledger and begins at `starts`. Where a topic
    has rows, the missing partitions were added to it since, and begin at `lows`: their first records came after we knew
    the topic. Whoever introduces the same topic at the same time waits, and then finds nothing to do. Raises
    ConfigurationError as `claim`.
    """
    conn.execute(_LOCK_TOPIC, {"topic": topic})
    known = conn.execute(_TOPIC_IDS, {"topic": topic}).scalars().all()
    for other in known:
        if other != topic_id:
            raise made_again(topic, topic_id, other)
    offsets = lows if known else starts
    conn.execute(
        _INTRODUCE,
        {
            "topic": topic,
            "topic_id": topic_id,
            "partitions": list(offsets),
            "offsets": list(offsets.values()),
        },
    )


_CLAIM = text("""
UPDATE input_partition
SET owner_epoch = owner_epoch + 1,
    owner = :owner
WHERE topic = :topic
  AND partition = :partition
  AND topic_id = :topic_id
RETURNING topic, partition, topic_id, next_offset, owner_epoch, owner, is_halted, halted_reason
""")
_TOPIC_ID = text("SELECT topic_id FROM input_partition WHERE topic = :topic AND partition = :partition")


def claim(conn: Connection, topic: str, partition: int, topic_id: str, owner: str) -> Position:
    """The partition is ours once the caller commits, and every earlier owner is fenced, by each call anew.

    Waits for a batch of the partition that is being committed. Raises ConfigurationError when the row is of a topic
    with another id: it was deleted and made again, and its offsets mean other records now. LookupError when nobody has
    introduced the partition.
    """
    row = conn.execute(
        _CLAIM, {"topic": topic, "partition": partition, "topic_id": topic_id, "owner": owner}
    ).one_or_none()
    if row is not None:
        return Position(**row._mapping)  # noqa: SLF001 - public by its manual
    known = conn.execute(_TOPIC_ID, {"topic": topic, "partition": partition}).scalar_one_or_none()
    if known is None:
        raise LookupError(f"partition {topic}/{partition} has no row")
    raise made_again(topic, topic_id, known)


def made_again(topic: str, topic_id: str, known: str) -> ConfigurationError:
    """The error for a topic that is not the one we have read so far."""
    return ConfigurationError(
        f"topic {topic} has the id {topic_id}, but the ledger has read a topic of that name with the id {known}: it "
        "was deleted and made again, so its offsets mean other records. Once nothing of the old topic is missing, the "
        "owner of the schema removes the rows of this topic from the table input_partition, and it begins anew"
    )
