"""First answers: what a request was answered under the key its caller gave it."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, text

from ledger_worker.domain.requests import Answer
from ledger_worker.store.arrays import of_bytes, of_instants, of_texts

__all__ = ["Key", "find", "keep"]

Key = tuple[str, str]
"""Caller and key."""

_FIND = text("""
SELECT idempotency.caller, idempotency.key, idempotency.request_hash, idempotency.answer
FROM unnest(CAST(:callers AS text[]), CAST(:keys AS text[])) AS asked (caller, key)
JOIN idempotency ON idempotency.caller = asked.caller AND idempotency.key = asked.key
""")

_KEEP = text("""
INSERT INTO idempotency (caller, key, customer_id, request_hash, answer, recorded_at)
SELECT answered.*
FROM unnest(
    CAST(:callers AS text[]), CAST(:keys AS text[]), CAST(:customers AS text[]), CAST(:hashes AS bytea[]),
    CAST(:answers AS bytea[]), CAST(:instants AS timestamptz[])
) AS answered (caller, key, customer_id, request_hash, answer, recorded_at)
ORDER BY answered.caller COLLATE "C", answered.key COLLATE "C"
ON CONFLICT (caller, key) DO NOTHING
""")

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Answer)


def find(connection: Connection, keys: Sequence[Key]) -> dict[Key, tuple[bytes, Answer]]:
    """Of those that were answered before: the hash of the request, and its answer."""
    asked = {"callers": of_texts(caller for caller, _ in keys), "keys": of_texts(key for _, key in keys)}
    return {
        (caller, key): (bytes(request_hash), _DECODER.decode(answer))
        for caller, key, request_hash, answer in connection.execute(_FIND, asked).all()
    }


def keep(connection: Connection, answers: Sequence[tuple[bytes, Answer]]) -> bool:
    """These are the first answers, each beside the hash of its request; False when one of them was not the first."""
    kept = connection.execute(
        _KEEP,
        {
            "callers": of_texts(answer.caller for _, answer in answers),
            "keys": of_texts(answer.key for _, answer in answers),
            "customers": of_texts(answer.customer_id for _, answer in answers),
            "hashes": of_bytes(request_hash for request_hash, _ in answers),
            "answers": of_bytes(_ENCODER.encode(answer) for _, answer in answers),
            "instants": of_instants(answer.recorded_at for _, answer in answers),
        },
    ).rowcount
    return kept == len(answers)
