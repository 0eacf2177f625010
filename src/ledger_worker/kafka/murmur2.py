"""The hash by which Java producers, and ours, choose the partition of a key.

This is the 32-bit murmur2 of `org.apache.kafka.common.utils.Utils`, seed included, made positive as its partitioner
makes it. It is computed here because the lane of a customer is the partition of its topics: a change must lie in the
partition where a Java consumer expects that customer.
"""

__all__ = ["murmur2", "partition_of"]

_SEED = 0x9747B28C
_M = 0x5BD1E995
_R = 24
_32_BITS = 0xFFFFFFFF
_POSITIVE = 0x7FFFFFFF


def murmur2(key: str) -> int:
    """The hash of the key's UTF-8 bytes, from 0 to 2**31 - 1."""
    data = key.encode()
    length = len(data)
    h = (_SEED ^ length) & _32_BITS
    whole = length & ~3
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * _M & _32_BITS
        k = (k ^ (k >> _R)) * _M & _32_BITS
        h = (h * _M & _32_BITS) ^ k
    if length > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _32_BITS
    h = (h ^ (h >> 13)) * _M & _32_BITS
    return (h ^ (h >> 15)) & _POSITIVE


def partition_of(key: str, partitions: int) -> int:
    """The partition in which the partitioner `murmur2_random` puts the key, of a topic with that many."""
    return murmur2(key) % partitions
