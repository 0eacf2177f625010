"""What the values of a setting come to, by "Values of a setting" of `docs/reference/rules.md`."""

import json
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from ledger_worker.domain.catalogue import Entitlement, EntitlementType
from ledger_worker.local.oracle.given import Given

UNION_BYTES = 8192


def value_at(entitlement: Entitlement, in_force: Sequence[Given]) -> str | None:
    """The value as JSON text; None of what is no setting, or with nothing in force."""
    if entitlement.type is not EntitlementType.SETTING or not in_force:
        return None
    if entitlement.merge is None:
        return reduce(stronger, in_force).value
    together: dict[str, Callable[[list[Any]], object]] = {"max": max, "min": min, "any": any, "union": united}
    return written(together[entitlement.merge]([json.loads(one.value or "") for one in in_force]))


def stronger(one: Given, other: Given) -> Given:
    """Which of two values counts: lower priority number, later start, later end (never last), lower id."""
    if one.priority != other.priority:
        return one if one.priority < other.priority else other
    if one.start != other.start:
        return one if one.start > other.start else other
    if one.end != other.end:
        outlasts = one.end is None or (other.end is not None and one.end > other.end)
        return one if outlasts else other
    return one if one.name.bytes < other.name.bytes else other


def united(lists: Sequence[list[object]]) -> list[object]:
    """Merge `union`: each element once, numbers by size, then the others by their text, as far as there is room."""
    once = {written(element): element for one in lists for element in one}
    # What is true is no number, though a number to Python.
    numbers = sorted(one for one in once.values() if isinstance(one, int) and not isinstance(one, bool))
    others = sorted(text for text, one in once.items() if isinstance(one, bool) or not isinstance(one, int))
    together: list[object] = [*numbers, *(once[text] for text in others)]
    while len(written(together).encode()) > UNION_BYTES:
        together.pop()
    return together


def written(value: object) -> str:
    """JSON as settings have it: members by name, no space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
