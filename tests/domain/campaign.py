"""Campaigns: a claim held for very many numbered histories, on all processors, from a printed seed."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

SEED = int(os.environ.get("LEDGER_TEST_SEED", "1"))
_AT_ONCE = 250


def hold(claim: Callable[[int], None], part: int, parts: int, campaign: int) -> None:
    """The claim holds for every number of this part of the campaign; the first that breaks it is named.

    `claim` raises where it does not hold; it is called in processes of its own, so it has to be a module's function.
    """
    first = SEED * campaign + part * (campaign // parts)
    end = first + campaign // parts
    print(f"numbers {first} to {end - 1}")  # noqa: T201 -- so that one can be run again
    with ProcessPoolExecutor() as processes:
        portions = [range(start, min(start + _AT_ONCE, end)) for start in range(first, end, _AT_ONCE)]
        held = [processes.submit(_hold_all, claim, portion) for portion in portions]
        try:
            assert sum(one.result() for one in held) == end - first
        except BaseException:
            processes.shutdown(cancel_futures=True)
            raise


def _hold_all(claim: Callable[[int], None], numbers: range) -> int:
    for number in numbers:
        try:
            claim(number)
        except Exception as error:
            error.add_note(f"{claim.__module__}.{claim.__name__}({number})")
            raise
    return len(numbers)
