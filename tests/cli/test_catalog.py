from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import create_engine

from ledger_worker.store import catalogue as catalogue_store
from tests.cli.conftest import Command, Ran

EXAMPLE = Path("docs/examples/catalogue.toml").read_text(encoding="utf-8")
SMALL = """
[[entitlement]]
key = "exports"
name = "Report exports"
type = "quota"
unit = "export"

[[offer]]
sku = "pack"
[[offer.allowance]]
key = "exports"
entitlement = "exports"
units = 100
lasts = "P30D"
"""


def standings(ran: Ran) -> dict[str, tuple[str, int]]:
    return {f"{each['kind']} {each['key']}": (each["standing"], each["version"]) for each in ran.json["definitions"]}


def test_check_needs_no_database_and_counts_what_is_defined() -> None:
    from tests.cli.conftest import run_with

    ran = run_with({})("catalog", "check", "-", "--json", stdin=EXAMPLE)

    assert ran.status == 0
    assert ran.json == {"entitlements": 2, "offers": 2, "problems": []}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("unit =", "units ="), "entitlement exports: units is no field of entitlement, expected one of key, name"),
        (('type = "quota"', 'type = "quotas"'), 'entitlement exports: type is "quotas", expected one of access, quota'),
        (('entitlement = "exports"', 'entitlement = "video"'), "entitlement video is not in the catalogue"),
        (('lasts = "P30D"', 'lasts = "a month"'), "lasts is 'a month', expected period, forever, or an ISO 8601"),
        (("units = 100", 'units = "100"'), 'offer pack, allowance exports: units is "100", expected a whole number'),
        (("[[offer]]", "[[offers]]"), "offers is no table of a catalogue"),
        (("units = 100", "units = "), "the file is not TOML"),
    ],
)
def test_a_bad_file_is_status_1_and_the_problem_says_where_what_and_what_was_expected(
    command: Command, change: tuple[str, str], problem: str
) -> None:
    bad = SMALL.replace(*change)

    checked = command("catalog", "check", "-", stdin=bad)
    applied = command("catalog", "apply", "-", "--json", stdin=bad)

    assert (checked.status, applied.status) == (1, 1)
    assert problem in checked.errors
    assert any(problem in each for each in applied.json["problems"])
    assert applied.json["published"] is False


def test_apply_publishes_what_is_new_and_the_same_file_again_publishes_nothing(command: Command) -> None:
    first = command("catalog", "apply", "docs/examples/catalogue.toml", "--json")
    second = command("catalog", "apply", "docs/examples/catalogue.toml", "--json")

    assert (first.status, first.json["published"], first.json["catalogue_version"]) == (0, True, 1)
    assert set(standings(first).values()) == {("new", 1)}
    assert (second.status, second.json["published"], second.json["catalogue_version"]) == (0, False, 1)
    assert set(standings(second).values()) == {("unchanged", 1)}


def test_only_what_changed_gets_a_new_version_and_what_is_left_out_stays(command: Command) -> None:
    command("catalog", "apply", "-", stdin=EXAMPLE)

    ran = command(
        "catalog", "apply", "-", "--json", stdin=EXAMPLE.replace("Report exports", "Exports").split("[[offer]]")[0]
    )

    assert standings(ran) == {
        "entitlement exports": ("changed", 2),
        "entitlement video": ("unchanged", 1),
        "offer exports-100": ("not_in_file", 1),
        "offer video-monthly": ("not_in_file", 1),
    }
    assert ran.json["catalogue_version"] == 2


def test_diff_shows_each_field_and_publishes_nothing(command: Command) -> None:
    command("catalog", "apply", "-", stdin=SMALL)
    changed = SMALL.replace("units = 100", "units = 150")

    differing = command("catalog", "diff", "-", "--json", stdin=changed)
    same = command("catalog", "diff", "-", "--json", stdin=SMALL)

    (offer,) = [each for each in differing.json["definitions"] if each["kind"] == "offer"]
    assert differing.status == 1
    assert offer["differences"] == [{"field": "allowance exports.units", "published": "100", "defined": "150"}]
    assert (same.status, same.json["catalogue_version"]) == (0, 1)
    assert "Nothing differs" in command("catalog", "diff", "-", stdin=SMALL).output


def test_a_dry_run_says_what_would_be_and_leaves_nothing(command: Command) -> None:
    rehearsed = command("catalog", "apply", "--dry-run", "-", "--json", stdin=SMALL)

    assert (rehearsed.status, rehearsed.json["published"], rehearsed.json["catalogue_version"]) == (0, False, 1)
    assert set(standings(command("catalog", "apply", "-", "--json", stdin=SMALL)).values()) == {("new", 1)}


def test_a_definition_written_twice_is_refused(command: Command) -> None:
    ran = command("catalog", "apply", "-", "--json", stdin=SMALL + SMALL[SMALL.index("[[offer]]") :])

    assert ran.status == 1
    assert ran.json["problems"] == ["offer pack: defined twice, expected once"]


def test_apply_now_in_the_file_is_a_wish_for_the_first_version_alone(command: Command) -> None:
    at_first = SMALL.replace('sku = "pack"', 'sku = "pack"\napply = "now"')
    command("catalog", "apply", "-", stdin=at_first)

    taken_out = command("catalog", "apply", "-", "--json", stdin=SMALL)
    later = command("catalog", "apply", "-", "--json", stdin=at_first.replace("100", "150"))

    assert standings(taken_out)["offer pack"] == ("unchanged", 1)
    assert later.status == 1
    assert "only a SKU's first version can apply now" in later.json["problems"][0]


def test_publishing_waits_for_the_decisions_that_are_under_way(command: Command, database_url: str) -> None:
    engine = create_engine(database_url.replace("postgresql:", "postgresql+psycopg:"))
    answers: list[Ran] = []
    applying = Thread(target=lambda: answers.append(command("catalog", "apply", "-", "--json", stdin=SMALL)))

    with engine.connect() as connection, connection.begin():
        catalogue_store.lock_shared(connection)
        applying.start()
        applying.join(0.5)
        was_waiting = applying.is_alive()
        version_meanwhile = catalogue_store.read_ledger(connection).catalogue_version
    applying.join(10)
    engine.dispose()

    assert was_waiting
    assert version_meanwhile == 0
    assert answers[0].json["published"] is True
