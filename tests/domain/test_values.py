"""Which JSON is a value of a setting, its canonical form, and what several values come to."""

import json
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_worker.domain.values import (
    DEPTH_MAX,
    MERGED_BYTES_MAX,
    VALUE_BYTES_MAX,
    JsonText,
    MergePolicy,
    canonical,
    is_canonical,
    kind_of,
    merged,
    misfit,
    value_of,
)
from tests.wire.values import setting_values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 25 ", "25"),
        ("-0", "0"),
        ("9007199254740992", "9007199254740992"),
        ("true", "true"),
        ("null", "null"),
        (r'"\u0041\/\n\u00e9"', r'"A/\né"'),
        ('{"b": 1, "a": [ 2, "x y" ], "B": {}}', '{"B":{},"a":[2,"x y"],"b":1}'),
        ("[" * DEPTH_MAX + "]" * DEPTH_MAX, "[" * DEPTH_MAX + "]" * DEPTH_MAX),
        (f'"{"x" * (VALUE_BYTES_MAX - 2)}"', f'"{"x" * (VALUE_BYTES_MAX - 2)}"'),
    ],
)
def test_a_value_is_kept_in_one_form(text: str, value: str) -> None:
    assert canonical(text) == value
    assert is_canonical(value)
    assert text == value or not is_canonical(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gold", 'it is not JSON (Expecting value at character 0), expected such as 25, "gold" or ["eu"]'),
        ("1 2", "it is not JSON (Extra data at character 2)"),
        ("2.5", "it has the number 2.5, expected whole numbers only, without a fraction or an exponent"),
        ("[1e3]", "it has the number 1e3, expected whole numbers only"),
        ("2.0", "it has the number 2.0, expected whole numbers only"),
        ("NaN", "it has the number NaN, expected whole numbers only"),
        ("-Infinity", "it has the number -Infinity, expected whole numbers only"),
        ("9007199254740993", "it has a number beyond 9007199254740992 either way"),
        ("-9007199254740993", "it has a number beyond 9007199254740992 either way"),
        ("9" * 5000, "it has a number beyond 9007199254740992 either way"),
        ('{"a": 1, "a": 1}', "it has the member 'a' twice, expected each once"),
        (r'"\ud800"', "it has half a surrogate pair, expected text that UTF-8 can hold"),
        (r'{"\u0000": 1}', "it has the character U+0000, expected text that a database can hold"),
        ("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1), "it is nested deeper than 8 lists and objects"),
        ("[" * 16_000, "it is nested deeper than 8 lists and objects"),
        (f'"{"x" * (VALUE_BYTES_MAX - 1)}"', "it has 4097 bytes, expected at most 4096"),
        (f'"{"é" * (VALUE_BYTES_MAX // 2)}"', "it has 4098 bytes, expected at most 4096"),
        (" " * 20_000, "it has 20000 characters, expected at most 16384"),
    ],
)
def test_what_no_setting_can_have_is_refused_with_what_was_expected(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        canonical(text)

    assert str(refused.value).startswith(says)


@given(setting_values)
def test_a_value_says_what_it_was_made_of(value: JsonText) -> None:
    assert canonical(value) == value_of(json.loads(value)) == value


@pytest.mark.parametrize(
    ("merge", "value", "found"),
    [
        (None, '"anything"', None),
        (MergePolicy.MAX, "-5", None),
        (MergePolicy.MAX, '"5"', "is a text, expected a whole number for the merge max"),
        (MergePolicy.MIN, "null", "is null, expected a whole number for the merge min"),
        (MergePolicy.UNION, "[]", None),
        (MergePolicy.UNION, "{}", "is an object, expected a list for the merge union"),
        (MergePolicy.ANY, "false", None),
        (MergePolicy.ANY, "1", "is a whole number, expected true or false for the merge any"),
    ],
)
def test_a_value_fits_its_merge_or_not(merge: MergePolicy | None, value: str, found: str | None) -> None:
    assert misfit(JsonText(value), merge) == found


def test_every_value_has_a_kind_in_words() -> None:
    of_each: list[object] = [None, True, False, 0, -1, "", [], {}]
    kinds = {kind_of(value_of(one)) for one in of_each}

    assert kinds == {"null", "true or false", "a whole number", "a text", "a list", "an object"}


@pytest.mark.parametrize(
    ("merge", "values", "together"),
    [
        (MergePolicy.MAX, ["9", "10", "-3"], "10"),
        (MergePolicy.MIN, ["9", "10", "-3"], "-3"),
        (MergePolicy.ANY, ["false", "true", "false"], "true"),
        (MergePolicy.ANY, ["false", "false"], "false"),
        (MergePolicy.UNION, ['["eu","us"]', "[]", '["asia","eu"]'], '["asia","eu","us"]'),
        (MergePolicy.UNION, ["[10,9]", '["9",1,true,null,[1],{"a":1}]'], '[1,9,10,"9",[1],null,true,{"a":1}]'),
        (MergePolicy.UNION, ['["a","a"]'], '["a"]'),
    ],
)
def test_values_are_merged_in_whatever_order_they_come(merge: MergePolicy, values: list[str], together: str) -> None:
    for order in permutations(map(JsonText, values)):
        assert merged(order, merge) == together


@given(st.lists(st.lists(setting_values, max_size=4), min_size=1, max_size=4))
def test_a_union_is_a_list_of_all_elements_each_once(lists: list[list[JsonText]]) -> None:
    values = [JsonText(f"[{','.join(elements)}]") for elements in lists]

    union = merged(values, MergePolicy.UNION)

    elements = [value_of(element) for element in json.loads(union)]
    assert sorted(elements) == sorted({element for each in lists for element in each})
    assert merged([union, *values], MergePolicy.UNION) == union


def test_a_union_stops_where_it_would_be_too_long() -> None:
    values = [value_of([f"{place}-{'x' * 1000}" for place in range(start, start + 4)]) for start in range(0, 36, 4)]

    union = merged(values, MergePolicy.UNION)

    assert len(union) <= MERGED_BYTES_MAX < len(union) + 1010
    assert json.loads(union) == sorted(element for value in values for element in json.loads(value))[:8]
