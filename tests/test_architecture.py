"""Rules about whole rooms that import-linter cannot say: they are about what is called, not about what is imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "ledger_worker"

ROOMS_WITH_SQL = frozenset({"store", "reports", "operations"})
ROOMS_WITH_A_CLOCK = frozenset({"worker", "api", "cli", "local", "operations", "view"})

# Monotonic time is free for everyone: it measures how long something took and can decide nothing else.
WALL_CLOCKS = frozenset(
    {
        "time.time",
        "time.time_ns",
        "time.gmtime",
        "time.localtime",
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
        "datetime.datetime.today",
        "datetime.date.today",
    }
)
SQL_TEXT = frozenset({"sqlalchemy.text", "sqlalchemy.sql.text", "sqlalchemy.sql.expression.text"})


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def called_names(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the full dotted name of each call, with the file's own import aliases written out."""
    tree = ast.parse(source)
    meaning = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                meaning[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                meaning[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield node.lineno, meaning.get(first, first) + dot + rest


def calls_outside(rooms: frozenset[str], forbidden: frozenset[str]) -> list[str]:
    return [
        f"{path.relative_to(PACKAGE)}:{line} calls {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if room_of(path) not in rooms
        for line, name in called_names(path.read_text(encoding="utf-8"))
        if name in forbidden
    ]


def test_sql_text_is_written_only_in_store_reports_and_operations() -> None:
    assert calls_outside(ROOMS_WITH_SQL, SQL_TEXT) == []


def test_sql_reaches_the_driver_only_from_store_reports_and_operations() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line} calls {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if room_of(path) not in ROOMS_WITH_SQL
        for line, name in called_names(path.read_text(encoding="utf-8"))
        if name.endswith(".exec_driver_sql")
    ]
    assert found == []


def test_only_the_rooms_at_the_edge_read_the_clock_of_this_machine() -> None:
    assert calls_outside(ROOMS_WITH_A_CLOCK, WALL_CLOCKS) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from sqlalchemy import text\ntext('SELECT 1')", "sqlalchemy.text"),
        ("from sqlalchemy import text as sql\nsql('SELECT 1')", "sqlalchemy.text"),
        ("import sqlalchemy as sa\nsa.text('SELECT 1')", "sqlalchemy.text"),
        ("import sqlalchemy.sql\nsqlalchemy.sql.text('SELECT 1')", "sqlalchemy.sql.text"),
        ("from datetime import UTC, datetime\ndatetime.now(UTC)", "datetime.datetime.now"),
        ("import datetime as dt\ndt.datetime.now(dt.UTC)", "datetime.datetime.now"),
        ("from time import time\ntime()", "time.time"),
    ],
    ids=["plain", "renamed", "through the module", "through a submodule", "from", "module renamed", "function"],
)
def test_a_call_is_seen_under_whatever_name_it_was_imported(source: str, name: str) -> None:
    assert name in [found for _, found in called_names(source)]


def test_a_method_that_happens_to_be_called_text_is_no_sql() -> None:
    source = "from rich import console\nconsole.text('hello')\nresponse.text()"
    assert SQL_TEXT.isdisjoint(found for _, found in called_names(source))
