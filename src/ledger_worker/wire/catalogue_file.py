"""A catalogue as a person writes it: `[[entitlement]]`, `[[offer]]` and `[[offer.allowance]]` in TOML, or as JSON.

Tables and fields are those of `domain.catalogue`; what publishing adds (`ADDED_BY_PUBLISHING`) cannot be written. Every
table is looked at before an answer is given, so that one reading of the answer is enough to put the file right. Whether
the definitions fit each other and what is published is not judged here (`domain.catalogue.definition_problems`).
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from ledger_worker.domain.catalogue import Allowance, Entitlement, Offer
from ledger_worker.domain.values import JsonText, value_of

__all__ = [
    "ADDED_BY_PUBLISHING",
    "DEFINITIONS_MAX",
    "Definitions",
    "Field",
    "definitions_of",
    "definitions_of_toml",
    "fields_of",
]

DEFINITIONS_MAX = 10_000
"""Most entitlements and most offers in one file."""
ADDED_BY_PUBLISHING = frozenset({"catalogue_version", "published_at", "version"})
"""The fields that no file has: publishing sets them."""


class Definitions(msgspec.Struct, frozen=True, kw_only=True):
    """What one file defines, in its order; each problem is a sentence, and with one nothing may be published."""

    entitlements: tuple[Entitlement, ...] = ()
    offers: tuple[Offer, ...] = ()
    problems: tuple[str, ...] = ()


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a table: what is expected in it, and its default as JSON, None when it must be written.

    `meaning` is what the words of a closed list mean, empty for other fields.
    """

    name: str
    expected: str
    default: str | None
    meaning: str


def definitions_of_toml(text: str) -> Definitions:
    """What the text of a catalogue file defines."""
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return Definitions(problems=(f"the file is not TOML: {error}",))
    return definitions_of(tables)


def definitions_of(tables: Mapping[str, object]) -> Definitions:
    """What these tables define: a list `entitlement`, and a list `offer` of which each has a list `allowance`."""
    problems = [
        f"{name} is no table of a catalogue, expected [[entitlement]] or [[offer]]"
        for name in tables
        if name not in {"entitlement", "offer"}
    ]
    entitlements = [
        _read(Entitlement, table, _named("entitlement", table.get("key"), number), problems)
        for number, table in enumerate(_tables(tables, "entitlement", "the file", problems), start=1)
    ]
    offers = [
        _read_offer(table, _named("offer", table.get("sku"), number), problems)
        for number, table in enumerate(_tables(tables, "offer", "the file", problems), start=1)
    ]
    defined = Definitions(
        entitlements=tuple(each for each in entitlements if each), offers=tuple(each for each in offers if each)
    )
    problems += _repeated("entitlement", [each.key for each in defined.entitlements])
    problems += _repeated("offer", [each.sku for each in defined.offers])
    return msgspec.structs.replace(defined, problems=tuple(problems))


def fields_of(kind: type[Entitlement | Offer | Allowance]) -> tuple[Field, ...]:
    """What can be written in a table of that kind, in its order, without the tables in it."""
    hints = get_type_hints(kind)
    return tuple(
        Field(
            name=field.name,
            expected=_expected(hints[field.name]),
            default=None if field.required else msgspec.json.encode(field.default).decode(),
            meaning=_meaning(hints[field.name]),
        )
        for field in msgspec.structs.fields(kind)
        if field.name not in ADDED_BY_PUBLISHING and field.name != "allowances"
    )


_SHOWN_CHARACTERS_MAX = 60
_EXPECTED: Mapping[Any, str] = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    tuple[str, ...]: "a list of texts",
    tuple[int, ...]: "a list of whole numbers",
    JsonText: "any JSON value",
}


def _read_offer(table: Mapping[str, object], where: str, problems: list[str]) -> Offer | None:
    allowances = [
        _read(Allowance, line, f"{where}, {_named('allowance', line.get('key'), number)}", problems)
        for number, line in enumerate(_tables(table, "allowance", where, problems), start=1)
    ]
    rest = {name: value for name, value in table.items() if name != "allowance"}
    given = tuple(each for each in allowances if each)
    offer: Offer | None = _read(Offer, rest, where, problems, allowances=given)
    return offer


def _read(
    kind: Any,  # noqa: ANN401 - Entitlement, Allowance or Offer, and the answer is one
    table: Mapping[str, object],
    where: str,
    problems: list[str],
    **given: object,
) -> Any:  # noqa: ANN401 - as above
    """The value of the table with what is `given` already, or None after its problems were added."""
    hints = get_type_hints(kind)
    names = [name for name in hints if name not in ADDED_BY_PUBLISHING and name not in given]
    found = [
        f"{where}: {name} is no field of {kind.__name__.lower()}, expected one of {', '.join(names)}"
        for name in table
        if name not in names
    ]
    values = dict(given)
    for field in msgspec.structs.fields(kind):
        if field.name not in names:
            continue
        if field.name in table:
            try:
                values[field.name] = _converted(table[field.name], hints[field.name])
            except msgspec.ValidationError:
                shown, expected = _shown(table[field.name]), _expected(hints[field.name])
                found.append(f"{where}: {field.name} is {shown}, expected {expected}")
            except ValueError as error:
                found.append(f"{where}: {field.name} is no value of a setting: {error}")
        elif field.required:
            found.append(f"{where}: {field.name} is missing, expected {_expected(hints[field.name])}")
    problems += found
    return None if found else kind(**values)


def _converted(written: object, annotation: Any) -> Any:  # noqa: ANN401 - as above
    return value_of(written) if _plain(annotation) is JsonText else msgspec.convert(written, annotation)


def _tables(parent: Mapping[str, object], name: str, where: str, problems: list[str]) -> Iterable[Mapping[str, object]]:
    found = parent.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        problems.append(f"{where}: {name} is {_shown(found)}, expected a list of tables")
        return []
    if len(found) > DEFINITIONS_MAX:
        problems.append(f"{where}: {len(found)} tables {name}, expected at most {DEFINITIONS_MAX}")
        return []
    return found


def _named(kind: str, key: object, number: int) -> str:
    return f"{kind} {key}" if isinstance(key, str) and key else f"{kind} number {number}"


def _repeated(kind: str, keys: list[str]) -> list[str]:
    return [
        f"{kind} {key}: defined twice, expected once" for key in sorted({key for key in keys if keys.count(key) > 1})
    ]


def _expected(annotation: Any) -> str:  # noqa: ANN401 - whatever stands behind a field
    annotation = _plain(annotation)
    if _is_closed_list(annotation):
        return "one of " + ", ".join(annotation)
    return _EXPECTED[annotation]


def _meaning(annotation: Any) -> str:  # noqa: ANN401 - as above
    annotation = _plain(annotation)
    return " ".join((annotation.__doc__ or "").split()) if _is_closed_list(annotation) else ""


def _plain(annotation: Any) -> Any:  # noqa: ANN401 - as above
    """Without the None that stands for a field that is not written."""
    return get_args(annotation)[0] if get_origin(annotation) in (Union, UnionType) else annotation


def _is_closed_list(annotation: Any) -> bool:  # noqa: ANN401 - as above
    return isinstance(annotation, type) and issubclass(annotation, StrEnum)


def _shown(found: object) -> str:
    text = json.dumps(found, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "..."
