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
