"""The fence.

The committed offset of each input partition, moved by compare-and-set in the transaction that applies a batch.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from ledger_worker.errors import FencedError
from ledger_worker.store.arrays import of_integers, of_texts

__all__ = ["count", "move"]


_MOVE = text("""
WITH moved_partition AS (
    SELECT * FROM unnest(
        CAST(:topics AS text[]), CAST(:partitions AS integer[]), CAST(:epochs AS bigint[]), CAST(:froms AS bigint[]),
        CAST(:tos AS bigint[])
    ) AS moved_partition (topic, partition, owner_epoch, from_offset, to_offset)
)
UPDATE input_partition
SET next_offset = moved_partition.to_offset
FROM moved_partition
WHERE input_partition.topic = moved_partition.topic
  AND input_partition.partition = moved_partition.partition
  AND input_partition.owner_epoch = moved_partition.owner_epoch
  AND input_partition.next_offset = moved_partition.from_offset
  AND NOT input_partition.is_halted
""")

_COUNT = text("""
WITH counted AS (
    SELECT * FROM unnest(
        CAST(:topics AS text[]), CAST(:partitions AS integer[]), CAST(:records AS bigint[]),
        CAST(:duplicates AS bigint[]),
        CAST(:dead_letters AS bigint[])
    ) AS counted (topic, partition, records, duplicates, dead_letters)
)
UPDATE input_partition
SET records = input_partition.records + counted.records,
    duplicates = input_partition.duplicates + counted.duplicates,
    dead_letters = input_partition.dead_letters + counted.dead_letters
FROM counted
WHERE input_partition.topic = counted.topic
  AND input_partition.partition = counted.partition
""")


def move(connection: Connection, moves: Sequence[tuple[str, int, int, int, int]]) -> None:
    """Every partition stands at its next offset: (topic, partition, owner epoch, expected offset, next offset).

    Raises FencedError when one of them has another owner, stands elsewhere, or is halted; the caller rolls back.
    """
    if not moves:
        return
    topics, partitions, epochs, froms, tos = zip(*sorted(moves), strict=True)
    moved = connection.execute(
        _MOVE,
        {
            "topics": of_texts(topics),
            "partitions": of_integers(partitions),
            "epochs": of_integers(epochs),
            "froms": of_integers(froms),
            "tos": of_integers(tos),
        },
    )
    if moved.rowcount != len(moves):
        msg = f"{len(moves) - moved.rowcount} of {len(moves)} partitions have another owner or stand elsewhere"
        raise FencedError(msg)


def count(connection: Connection, counts: Sequence[tuple[str, int, int, int, int]]) -> None:
    """What came of the records is added to their partitions: (topic, partition, records, duplicates, dead letters)."""
    if not counts:
        return
    topics, partitions, records, duplicates, dead_letters = zip(*sorted(counts), strict=True)
    connection.execute(
        _COUNT,
        {
            "topics": of_texts(topics),
            "partitions": of_integers(partitions),
            "records": of_integers(records),
            "duplicates": of_integers(duplicates),
            "dead_letters": of_integers(dead_letters),
        },
    )
