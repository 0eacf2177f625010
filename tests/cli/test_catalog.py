from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import create_engine

from ledger_worker.operations.publish import publish
from ledger_worker.store import catalogue as catalogue_store
from ledger_worker.wire.catalogue_file import definitions_of_toml
from tests.apply.ledger import Ledger
from tests.cli.conftest import Command, Ran
from tests.domain.telling import bought, line, told

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
    assert ran.json == {"entitlements": 3, "offers": 2, "problems": []}


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


@pytest.mark.parametrize("file", ["docs/examples/catalogue.toml", "docs/examples/teams.toml"])
def test_apply_publishes_what_is_new_and_the_same_file_again_publishes_nothing(command: Command, file: str) -> None:
    first = command("catalog", "apply", file, "--json")
    second = command("catalog", "apply", file, "--json")

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
        "entitlement upload-megabytes": ("unchanged", 1),
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


SETTING = """
[[entitlement]]
key = "limits"
name = "Limits"
type = "setting"

[[offer]]
sku = "pack"
apply = "now"
[[offer.allowance]]
key = "limits"
entitlement = "limits"
value = {rows = 100, regions = ["eu"]}
lasts = "forever"
"""
LARGER = SETTING.replace("rows = 100", "rows = 500")


def test_a_value_is_compared_and_shown_as_the_json_that_it_is(command: Command) -> None:
    command("catalog", "apply", "-", stdin=SETTING)

    differing = command("catalog", "diff", "-", "--json", stdin=LARGER)
    other_way_round = SETTING.replace('rows = 100, regions = ["eu"]', 'regions = ["eu"], rows = 100')
    same = command("catalog", "diff", "-", stdin=other_way_round)

    (offer,) = [each for each in differing.json["definitions"] if each["kind"] == "offer"]
    assert offer["differences"] == [
        {
            "field": "allowance limits.value",
            "published": '{"regions":["eu"],"rows":100}',
            "defined": '{"regions":["eu"],"rows":500}',
        }
    ]
    assert same.status == 0


def test_a_merge_stays_as_it_was_published(command: Command) -> None:
    command("catalog", "apply", "-", stdin=SETTING)

    ran = command("catalog", "apply", "-", stdin=SETTING.replace('"setting"', '"setting"\nmerge = "union"'))

    assert ran.status == 1
    assert "entitlement limits: merge is union, expected none as published" in ran.errors


def test_a_dry_run_says_what_would_be_and_leaves_nothing(command: Command) -> None:
    rehearsed = command("catalog", "apply", "--dry-run", "-", "--json", stdin=SMALL)

    assert (rehearsed.status, rehearsed.json["published"], rehearsed.json["catalogue_version"]) == (0, False, 1)
    assert set(standings(command("catalog", "apply", "-", "--json", stdin=SMALL)).values()) == {("new", 1)}


def test_a_definition_written_twice_is_refused(command: Command) -> None:
    ran = command("catalog", "apply", "-", "--json", stdin=SMALL + SMALL[SMALL.index("[[offer]]") :])

    assert ran.status == 1
    assert ran.json["problems"] == ["offer pack: defined twice, expected once"]


@pytest.mark.parametrize(
    ("published", "apply", "units", "standing"),
    [
        # How the newest version reached what existed is done with: to wish for less is no difference.
        ("now", "new_only", 100, ("unchanged", 1)),
        ("now", "next_period", 100, ("unchanged", 1)),
        ("now", "now", 100, ("unchanged", 1)),
        ("next_period", "new_only", 100, ("unchanged", 1)),
        # To reach more than it did takes a version of its own.
        ("new_only", "now", 100, ("changed", 2)),
        ("next_period", "now", 100, ("changed", 2)),
        ("now", "new_only", 150, ("changed", 2)),
        ("now", "next_period", 150, ("changed", 2)),
        ("now", "now", 150, ("changed", 2)),
    ],
)
def test_apply_is_how_a_version_reaches_and_only_a_further_reach_is_a_difference(
    command: Command, published: str, apply: str, units: int, standing: tuple[str, int]
) -> None:
    def file(apply: str, units: int) -> str:
        return SMALL.replace('sku = "pack"', f'sku = "pack"\napply = "{apply}"').replace("100", str(units))

    command("catalog", "apply", "-", stdin=file(published, 100))

    ran = command("catalog", "apply", "-", "--json", stdin=file(apply, units))

    assert (ran.status, standings(ran)["offer pack"]) == (0, standing)


# -- whom a version reaches


FIRST = SMALL.replace('sku = "pack"', 'sku = "pack"\napply = "now"')
MORE = FIRST.replace("units = 100", "units = 150")


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """The database of the command, to tell it events."""
    made = Ledger(database_url)
    yield made
    made.close()


def test_what_has_no_setting_is_stored_as_an_earlier_release_reads_it(command: Command, ledger: Ledger) -> None:
    command("catalog", "apply", "-", stdin=SMALL)
    command("catalog", "apply", "-", stdin=SETTING.replace('"pack"', '"other"'))

    definitions = "SELECT key, definition ? 'merge' FROM entitlement WHERE NOT definition ? 'on_shrink' ORDER BY 1"
    allowances = "SELECT sku, definition -> 'allowances' -> 0 ->> 'value' FROM offer ORDER BY 1"
    named = "SELECT sku FROM offer WHERE definition -> 'allowances' -> 0 ? 'value'"
    assert ledger.rows(definitions) == [("exports", False), ("limits", False)]
    assert ledger.rows(allowances) == [("other", '{"regions":["eu"],"rows":100}'), ("pack", None)]
    assert ledger.rows(named) == [("other",)]


def test_a_dry_run_lists_whose_value_changes(command: Command, ledger: Ledger) -> None:
    command("catalog", "apply", "-", stdin=SETTING)
    sold(ledger, 1)

    rehearsed = command("catalog", "apply", "--dry-run", "-", stdin=LARGER)
    ran = command("catalog", "apply", "-", "--json", stdin=LARGER)

    words = "".join(rehearsed.output.split())
    assert '{"regions":["eu"],"rows":100}->{"regions":["eu"],"rows":500}' in words
    (affected,) = ran.json["reach"]["affected"]
    assert (affected["verdict"], affected["after"]["value"]) == ("changes", '{"regions":["eu"],"rows":500}')


def sold(ledger: Ledger, customers: int, quantity: int = 1) -> None:
    """So many customers bought a pack an hour ago."""
    (now,) = ledger.rows("SELECT clock_timestamp()")[0]
    ledger.tell_now(
        *(
            told(f"p{n}", now - timedelta(hours=1), bought(line(quantity=quantity), order=f"o{n}"), customer=f"c{n:03}")
            for n in range(customers)
        )
    )


def test_a_dry_run_lists_who_gains_and_touches_nobody_and_the_run_lists_the_same(
    command: Command, ledger: Ledger
) -> None:
    command("catalog", "apply", "-", stdin=FIRST)
    sold(ledger, 2)
    before = ledger.dump()

    rehearsed = command("catalog", "apply", "--dry-run", "-", "--json", stdin=MORE)
    rehearsed_for_people = command("catalog", "apply", "--dry-run", "-", stdin=MORE)
    left = ledger.dump()
    ran = command("catalog", "apply", "-", "--json", stdin=MORE)
    again = command("catalog", "apply", "-", "--json", stdin=MORE)

    assert left == before
    assert (rehearsed.status, ran.status, again.status) == (0, 0, 0)
    assert ran.json["reach"] == rehearsed.json["reach"]
    assert ran.json["reach"]["counts"] == {"owes": 0, "loses": 0, "gains": 2, "changes": 0}
    assert [
        (each["customer_id"], each["verdict"], each["before"]["limit"], each["after"]["limit"])
        for each in ran.json["reach"]["affected"]
    ] == [("c000", "gains", 100, 150), ("c001", "gains", 100, 150)]
    assert (again.json["reach"]["sources"], again.json["reach"]["affected"]) == (0, [])
    assert "100 -> 150" in rehearsed_for_people.output
    assert "would be settled again: 2, to other terms: 2." in rehearsed_for_people.output
    assert "owes 0, loses 0, gains 2, changes 0." in rehearsed_for_people.output


def test_applying_an_unchanged_file_reaches_whom_an_interrupted_run_left(command: Command, ledger: Ledger) -> None:
    command("catalog", "apply", "-", stdin=FIRST)
    sold(ledger, 1)
    publish(ledger.engine, definitions_of_toml(MORE))

    ran = command("catalog", "apply", "-", "--json", stdin=MORE)

    assert (ran.json["published"], ran.json["reach"]["counts"]["gains"]) == (False, 1)


def test_what_is_published_for_new_items_alone_reaches_nobody(command: Command, ledger: Ledger) -> None:
    command("catalog", "apply", "-", stdin=FIRST)
    sold(ledger, 1)

    ran = command("catalog", "apply", "-", stdin=MORE.replace('apply = "now"', ""))

    assert ran.status == 0
    assert "settled again" not in ran.output
    assert ledger.rows("SELECT count(*) FROM event WHERE type = 'OfferReached'") == [(0,)]


def test_a_refused_file_reaches_nobody(command: Command, ledger: Ledger) -> None:
    command("catalog", "apply", "-", stdin=FIRST)
    sold(ledger, 1)
    publish(ledger.engine, definitions_of_toml(MORE))

    ran = command("catalog", "apply", "-", "--json", stdin=MORE.replace("P30D", "a month"))

    assert (ran.status, ran.json["reach"]) == (1, None)
    assert ledger.rows("SELECT count(*) FROM event WHERE type = 'OfferReached'") == [(0,)]


def test_people_are_shown_the_first_fifty_and_scripts_all(command: Command, ledger: Ledger) -> None:
    command("catalog", "apply", "-", stdin=FIRST)
    sold(ledger, 60)

    shown = command("catalog", "apply", "--dry-run", "-", stdin=MORE)
    whole = command("catalog", "apply", "--dry-run", "-", "--json", stdin=MORE)

    assert shown.output.count("100 -> 150") == 50
    assert "10 more are not shown" in shown.errors
    assert len(whole.json["reach"]["affected"]) == 60


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
