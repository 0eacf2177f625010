"""Units are asked for on the command line, and answered as a service is."""

import pytest

from tests.cli.conftest import Command, apply_examples


@pytest.fixture
def with_ada(command: Command, database_url: str) -> Command:
    """Ada has bought a hundred exports."""
    command("catalog", "apply", "docs/examples/catalogue.toml")
    apply_examples(database_url, "purchase")
    return command


def test_units_are_granted_until_none_are_left(with_ada: Command) -> None:
    ran = [with_ada("customer", "consume", "ada", f"exports={units}") for units in (60, 40, 1)]

    assert [one.status for one in ran] == [0, 0, 1]
    assert [one.output for one in ran] == [
        "exports: 60 granted, 40 of 100 left\n",
        "exports: 40 granted, 0 of 100 left\n",
        "",
    ]
    assert ran[2].errors == "error: exhausted: 1 of exports were asked for and 0 are left\n"
    assert with_ada("ledger", "verify").status == 0


def test_with_up_to_what_is_left_is_taken(with_ada: Command) -> None:
    ran = with_ada("customer", "consume", "ada", "exports=170", "--up-to")

    assert (ran.status, ran.output) == (0, "exports: 100 of 170 granted, 0 of 100 left\n")


def test_asked_again_under_a_key_it_is_answered_as_the_first_time(with_ada: Command) -> None:
    first, again = (with_ada("customer", "consume", "ada", "exports=60", "--key", "k", "--json") for _ in range(2))
    other = with_ada("customer", "consume", "ada", "exports=1", "--key", "k", "--json")

    assert first.json == again.json
    assert (first.json["is_granted"], first.json["items"][0]["covered"][0]["units"]) == (True, 60)
    assert (other.status, other.json["reason"]) == (1, "key_reused")


@pytest.mark.parametrize(
    ("items", "status", "expected"),
    [
        (("exports=0",), 1, "impossible_value: units of exports is 0, expected 1 to"),
        (("exports=1", "exports=2"), 1, "impossible_value: exports is asked for twice"),
        (("unheard-of=1",), 1, "unknown_entitlement: 1 of unheard-of were asked for: unknown entitlement"),
        (("video=1",), 1, "wrong_type: 1 of video were asked for: wrong type"),
        (("exports",), 2, "asks for nothing, expected ENTITLEMENT=UNITS"),
        (("exports=many",), 2, "asks for nothing, expected ENTITLEMENT=UNITS"),
        (("exports=--5",), 2, "asks for nothing, expected ENTITLEMENT=UNITS"),
        (("exports=" + "9" * 5_000,), 2, "expected ENTITLEMENT=UNITS"),
        (("exports=1", "--key", ""), 1, "impossible_value: key has 0 characters, expected 1 to"),
        (("exports=1", "--key", "k\udcff"), 1, "impossible_value"),
    ],
)
def test_what_cannot_be_asked_is_said(with_ada: Command, items: tuple[str, ...], status: int, expected: str) -> None:
    ran = with_ada("customer", "consume", "ada", *items)

    assert ran.status == status
    assert expected in " ".join(ran.errors.split())


def test_what_is_held_is_confirmed_in_part_and_the_rest_is_left(with_ada: Command) -> None:
    held = with_ada("customer", "hold", "ada", "exports=70", "--for", "60", "--key", "h")
    refused = with_ada("customer", "consume", "ada", "exports=31")
    confirmed = with_ada("customer", "confirm", "ada", "h", "exports=50")
    late = with_ada("customer", "release", "ada", "h")

    assert (held.status, held.output.splitlines()[0]) == (0, "exports: 70 held, 30 of 100 left")
    assert held.output.splitlines()[1].startswith("held under h until 20")
    assert (refused.status, refused.errors) == (1, "error: exhausted: 31 of exports were asked for and 30 are left\n")
    assert (confirmed.status, confirmed.output) == (0, "exports: 50 confirmed, 50 of 100 left\n")
    assert (late.status, late.errors) == (
        1,
        "error: hold_ended: what was held under the key h was confirmed or released before\n",
    )
    assert with_ada("ledger", "verify").status == 0


def test_what_is_released_is_left_again(with_ada: Command) -> None:
    with_ada("customer", "hold", "ada", "exports=70", "--key", "h")
    released, again = (with_ada("customer", "release", "ada", "h", "--key", "r") for _ in range(2))

    assert (released.status, released.output) == (0, "exports: released, 100 of 100 left\n")
    assert again.output == released.output
    explained = with_ada("customer", "explain", "ada", "exports").output
    assert "held since" in explained
    assert "released at" in explained


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("hold", "ada", "exports=1", "--for", "0"), "impossible_value: hold_seconds is 0, expected 1 to"),
        (("hold", "ada", "exports=101"), "exhausted: 101 of exports were asked for and 100 are left"),
        (("hold", "nobody", "exports=1"), "not_entitled: customer nobody is not known to the ledger"),
        (("confirm", "ada", "never"), "unknown_hold: command-line holds nothing of ada under"),
        (("confirm", "ada", "h", "exports=71"), "more_than_held: 71 of exports were to be confirmed and 70 are held"),
        (("confirm", "ada", "h", "video=1"), "more_than_held: 1 of video were to be confirmed and 0 are held"),
        (("release", "nobody", "h"), "not_entitled: customer nobody is not known to the ledger"),
    ],
)
def test_what_cannot_be_held_confirmed_or_released_is_said(
    with_ada: Command, arguments: tuple[str, ...], expected: str
) -> None:
    if "h" in arguments:
        with_ada("customer", "hold", "ada", "exports=70", "--key", "h")

    ran = with_ada("customer", *arguments)

    assert ran.status == 1
    assert expected in " ".join(ran.errors.split())


# -- seats

TEAM = """
[[entitlement]]
key = "desks"
name = "Desks"
type = "seats"
on_shrink = "revoke_newest"

[[offer]]
sku = "team"
apply = "now"

    [[offer.allowance]]
    key = "desks"
    entitlement = "desks"
    units = 2
    lasts = "forever"
"""


@pytest.fixture
def team(command: Command) -> Command:
    """Ada has two desks, given by hand."""
    command("catalog", "apply", "-", stdin=TEAM)
    given = ("--units", "2", "--actor", "eve", "--note", "the team", "--id", "a1", "--from", "2026-01-01T00:00:00Z")
    ran = command("customer", "assign", "ada", "desks", *given)
    assert ran.status == 0, ran.errors
    return command


def test_seats_are_taken_until_none_is_left_and_passed_on(team: Command) -> None:
    ran = [
        team("customer", "seat", *asked)
        for asked in (
            ("assign", "ada", "desks", "ann"),
            ("assign", "ada", "desks", "ben"),
            ("assign", "ada", "desks", "cem"),
            ("swap", "ada", "desks", "ann", "cem"),
            ("unassign", "ada", "desks", "ben"),
            ("unassign", "ada", "desks", "ben"),
        )
    ]

    assert [one.status for one in ran] == [0, 0, 1, 0, 0, 1]
    assert [one.output for one in ran] == [
        "desks: 1 seats taken, 1 of 2 left\n",
        "desks: 2 seats taken, 0 of 2 left\n",
        "",
        "desks: 2 seats taken, 0 of 2 left\n",
        "desks: 1 seats taken, 1 of 2 left\n",
        "",
    ]
    assert [ran[2].errors, ran[5].errors] == [
        "error: exhausted: no seat of desks is left for cem\n",
        "error: unknown_holder: ben has no seat of desks\n",
    ]
    listed = team("customer", "seat", "list", "ada", "desks", "--json").json
    assert ([one["name"] for one in listed["holders"]], listed["limit"], listed["over_allocated"]) == (["cem"], 2, 0)
    assert "ada, desks: 1 of 2 seats taken" in team("customer", "seat", "list", "ada", "desks").output
    assert team("ledger", "verify").status == 0


def test_a_seat_asked_for_again_under_a_key_is_answered_as_the_first_time(team: Command) -> None:
    asked = ("customer", "seat", "assign", "ada", "desks", "ann", "--key", "k", "--json")
    first = team(*asked)
    team("customer", "seat", "unassign", "ada", "desks", "ann")

    again = team(*asked)

    assert again.json == first.json
    assert team("customer", "seat", "list", "ada", "desks", "--json").json["holders"] == []


def test_where_nobody_ever_had_seats_nothing_is_listed(team: Command) -> None:
    ran = team("customer", "seat", "list", "bob", "desks")

    assert (ran.status, ran.errors) == (1, "error: customer bob has no seats of desks and never had any\n")


def test_seats_are_explained_and_shown(team: Command) -> None:
    team("customer", "seat", "assign", "ada", "desks", "ann")

    explained = team("customer", "explain", "ada", "desks", "--units", "2").output

    assert "A request for 2 is refused, exhausted" in explained
    assert "1 seat more" in explained
    assert "in force without end, 2 seats" in explained
    assert "because of SeatAssigned request/command-line/seat!desks@" in explained
    team("customer", "revoke", "ada", "a1", "--actor", "eve", "--note", "no team any more")
    history = team("customer", "history", "ada").output
    assert "    ann has a seat of desks\n" in history
    assert "    fewer seats of desks are there, and none any more for ann\n" in history
    assert team("customer", "show", "ada", "--json").json["entitlements"][0]["holders"] == []
