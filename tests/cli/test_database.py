from collections.abc import Callable

from tests.cli.conftest import run_with

Settings = Callable[[str], dict[str, str]]


def test_migrate_brings_an_empty_database_to_this_release_and_has_nothing_to_do_the_second_time(
    settings_of: Settings, empty_database_url: str
) -> None:
    command = run_with(settings_of(empty_database_url))

    before = command("database", "status", "--json")
    first = command("database", "migrate", "--json")
    second = command("database", "migrate", "--json")
    after = command("database", "status", "--json")

    assert (before.status, before.json["current"]) == (1, None)
    assert (first.status, first.json["from_revision"], first.json["ran"]) == (0, None, before.json["pending"])
    assert (second.status, second.json["ran"]) == (0, [])
    assert (after.status, after.json["current"], after.json["is_newer"]) == (0, first.json["to_revision"], False)


def test_people_read_sentences(settings_of: Settings, empty_database_url: str) -> None:
    command = run_with(settings_of(empty_database_url))

    assert "to be migrated" in command("database", "status").output
    assert "is now at revision" in command("database", "migrate").output
    assert "nothing to do" in command("database", "migrate").output
    assert "current" in command("database", "status").output
