import pytest

from tests.cli.conftest import Command, apply_examples


@pytest.fixture
def command_with_ada(command: Command, database_url: str) -> Command:
    """Ada has bought a hundred exports."""
    command("catalog", "apply", "docs/examples/catalogue.toml")
    apply_examples(database_url, "purchase")
    return command


def test_show_tells_each_entitlement_as_it_stands(command_with_ada: Command) -> None:
    ran = command_with_ada("customer", "show", "ada", "--json")

    (exports,) = ran.json["entitlements"]
    assert (ran.status, ran.json["customer_id"], ran.json["sequence"]) == (0, "ada", 1)
    assert (exports["entitlement"], exports["allowed"], exports["remaining"]) == ("exports", True, 100)


def test_people_read_a_table(command_with_ada: Command) -> None:
    ran = command_with_ada("customer", "show", "ada")

    assert "ada, change #1" in ran.output
    assert "exports" in ran.output


def test_a_customer_nobody_told_us_of_is_status_1(command: Command) -> None:
    ran = command("customer", "show", "nobody")

    assert ran.status == 1
    assert ran.errors == "error: customer nobody is not known to the ledger\n"
