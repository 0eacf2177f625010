import psycopg
import pytest

from tests.cli.conftest import Command, apply_examples


@pytest.fixture
def command_with_ada(command: Command, database_url: str) -> Command:
    """Ada has bought a hundred exports and got her money back."""
    command("catalog", "apply", "docs/examples/catalogue.toml")
    apply_examples(database_url, "purchase", "refund")
    return command


def test_an_untouched_ledger_is_clean(command_with_ada: Command) -> None:
    ran = command_with_ada("ledger", "verify", "--json")

    assert ran.status == 0
    assert (ran.json["customers"], ran.json["postings"], ran.json["events"]) == (1, 2, 2)
    assert ran.json["findings"] == []
    assert {"check", "looked_at", "findings"} == set(ran.json["checks"][0])
    assert "The ledger is clean: 1 customers" in command_with_ada("ledger", "verify").output


def test_a_row_that_was_tampered_with_is_named_and_the_status_is_1(
    command_with_ada: Command, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE customer SET posting_number = 7 WHERE customer_id = 'ada'")

    ran = command_with_ada("ledger", "verify", "--json")
    told = command_with_ada("ledger", "verify", "--max", 1)

    assert ran.status == 1
    assert {(finding["customer_id"], finding["check"]) for finding in ran.json["findings"]} == {("ada", "customer")}
    assert told.status == 1
    assert "ada" in told.output


def test_one_customer_alone_is_verified(command_with_ada: Command) -> None:
    ran = command_with_ada("ledger", "verify", "--customer", "nobody", "--json")

    assert (ran.status, ran.json["customers"]) == (0, 0)
