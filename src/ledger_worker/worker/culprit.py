"""Which event of a batch makes the transaction fail.

The first that does so behind all that stand before it: the shortest prefix that fails ends with it. A prefix and not
any half, because an event may be harmful only after others (two sums that overflow together), and because the answer
must not depend on how the batch was cut. Rehearsals are rolled back, so nothing is skipped while one searches.
"""

from collections.abc import Callable

__all__ = ["shortest_failing"]


def shortest_failing(count: int, fails: Callable[[int], bool], *, passes: int = 0) -> int | None:
    """The length of the shortest prefix that fails, given that all `count` fail and the first `passes` do not.

    None when the empty prefix fails: no event is to blame. Asks about log2(count) times.
    """
    if passes == 0 and fails(0):
        return None
    low, high = passes, count
    while high - low > 1:
        middle = (low + high) // 2
        if fails(middle):
            high = middle
        else:
            low = middle
    return high
