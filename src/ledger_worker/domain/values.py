"""The values of settings: which JSON is one, in which form it is kept, and how several are merged into one.

A value is kept and told as text in one canonical form: members by name, no space outside of texts, no escape that JSON
does not need. So two values are the same where their texts are, and nothing is lost on the way through stores and
schemas that know no JSON. Numbers are whole, as everywhere here: a fraction or an exponent is refused and never rounded
(it can be written as text, or in a smaller unit). What no JSON library is sure to keep is refused too: numbers beyond
2^53 (RFC 7493, 2.2), a member named twice (2.3), texts that UTF-8 or a database cannot hold.
"""

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NewType, NoReturn

import msgspec

__all__ = [
    "DEPTH_MAX",
    "MERGED_BYTES_MAX",
    "VALUE_BYTES_MAX",
    "JsonText",
    "MergePolicy",
    "canonical",
    "is_canonical",
    "kind_of",
    "merged",
    "misfit",
    "value_of",
]

JsonText = NewType("JsonText", str)
"""A JSON value in canonical form."""

VALUE_BYTES_MAX = 4096
"""Most bytes of one value in canonical form."""
MERGED_BYTES_MAX = 8192
"""Most bytes of the union of several values."""
DEPTH_MAX = 8
"""How many lists and objects may be within each other."""


class MergePolicy(StrEnum):
    """How the values of a setting become one where several are in force.

    The largest number (`max`), the smallest (`min`), all elements of all lists (`union`), or true where one of them is
    (`any`). Without a merge the value of one grant counts: of the lowest priority number, then the latest start.
    """

    MAX = "max"
    MIN = "min"
    UNION = "union"
    ANY = "any"


def canonical(text: str) -> JsonText:
    """The canonical form of JSON text. Raises ValueError, with what is wrong and what was expected."""
    if len(text) > _TEXT_CHARACTERS_MAX:
        raise ValueError(f"it has {len(text)} characters, expected at most {_TEXT_CHARACTERS_MAX}")
    try:
        parsed = json.loads(
            text,
            parse_int=_whole_number,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
            object_pairs_hook=_members,
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f'it is not JSON ({error.msg} at character {error.pos}), expected such as 25, "gold" or ["eu"]'
        ) from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    return value_of(parsed)


def value_of(value: object) -> JsonText:
    """The canonical form of what a file or a JSON library read. Raises ValueError as `canonical` does."""
    _check(value, 0)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("it has half a surrogate pair, expected text that UTF-8 can hold") from None
    if size > VALUE_BYTES_MAX:
        raise ValueError(f"it has {size} bytes, expected at most {VALUE_BYTES_MAX}")
    return JsonText(text)


def is_canonical(text: str) -> bool:
    """Whether the text is a value as it is kept."""
    try:
        return canonical(text) == text
    except ValueError:
        return False


def misfit(value: JsonText, merge: MergePolicy | None) -> str | None:
    """What the value is and what the policy expected instead; None where it can be merged. Any can without a policy."""
    if merge is None or kind_of(value) == _MERGEABLE[merge]:
        return None
    return f"is {kind_of(value)}, expected {_MERGEABLE[merge]} for the merge {merge}"


def kind_of(value: JsonText) -> str:
    """What kind of JSON the value is, in words."""
    return _KIND_BY_FIRST.get(value[0], "a whole number")


def merged(values: Sequence[JsonText], merge: MergePolicy) -> JsonText:
    """What values that fit the policy, at least one, come to together, in whatever order they are.

    A union has each element once, numbers first by size, then all others by their text; what would make it longer than
    `MERGED_BYTES_MAX` bytes is left out, the last in that order.
    """
    match merge:
        case MergePolicy.MAX:
            return max(values, key=int)
        case MergePolicy.MIN:
            return min(values, key=int)
        case MergePolicy.ANY:
            return JsonText("true" if "true" in values else "false")
        case MergePolicy.UNION:
            elements = {bytes(element) for value in values for element in _ELEMENTS.decode(value)}
            return _list_of(sorted(elements, key=_place_in_union))


_KIND_BY_FIRST = {
    "{": "an object",
    "[": "a list",
    '"': "a text",
    "t": "true or false",
    "f": "true or false",
    "n": "null",
}
_MERGEABLE = {
    MergePolicy.MAX: "a whole number",
    MergePolicy.MIN: "a whole number",
    MergePolicy.UNION: "a list",
    MergePolicy.ANY: "true or false",
}
_TEXT_CHARACTERS_MAX = 4 * VALUE_BYTES_MAX
_NUMBER_MAX = 2**53
_SHOWN_CHARACTERS_MAX = 30
_TOO_FAR = f"it has a number beyond {_NUMBER_MAX} either way, expected one that every JSON library keeps"
_TOO_DEEP = f"it is nested deeper than {DEPTH_MAX} lists and objects, expected at most that"
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])


def _check(value: object, depth: int) -> None:
    """Raises ValueError where the value, `depth` lists and objects deep, is none that a setting can have."""
    match value:
        case None | bool():
            return
        case int():
            if not -_NUMBER_MAX <= value <= _NUMBER_MAX:
                raise ValueError(_TOO_FAR)
        case str():
            if "\0" in value:
                raise ValueError("it has the character U+0000, expected text that a database can hold")
        case list() | dict() if depth == DEPTH_MAX:
            raise ValueError(_TOO_DEEP)
        case list():
            for element in value:
                _check(element, depth + 1)
        case dict():
            for name, member in value.items():
                _check(name, depth + 1)
                _check(member, depth + 1)
        case float():
            _refuse_number(str(value))
        case _:
            raise ValueError(f"it has {value}, which JSON has no form for, expected it as text")


def _whole_number(written: str) -> int:
    if len(written) > len(f"-{_NUMBER_MAX}"):
        raise ValueError(_TOO_FAR)
    return int(written)


def _refuse_number(written: str) -> NoReturn:
    shown = written if len(written) <= _SHOWN_CHARACTERS_MAX else written[:_SHOWN_CHARACTERS_MAX] + "..."
    raise ValueError(f"it has the number {shown}, expected whole numbers only, without a fraction or an exponent")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the member {twice!r} twice, expected each once")
    return members


def _place_in_union(element: bytes) -> tuple[bool, int, bytes]:
    is_number = element[:1] in b"-0123456789"
    return (False, int(element), b"") if is_number else (True, 0, element)


def _list_of(elements: Iterable[bytes]) -> JsonText:
    kept: list[bytes] = []
    left = MERGED_BYTES_MAX - len("[]")
    for element in elements:
        left -= len(element) + (1 if kept else 0)
        if left < 0:
            break
        kept.append(element)
    return JsonText(f"[{b','.join(kept).decode()}]")
