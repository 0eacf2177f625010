"""The pages that are made from the code say what the code says."""

from pathlib import Path

from ledger_worker.cli.reference import api_page, catalogue_page, commands_page, openapi_page, outcomes_page
from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
from ledger_worker.domain.requests import RequestReason

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_the_page_of_commands_is_the_one_that_the_commands_make() -> None:
    assert (REFERENCE / "cli.md").read_text(encoding="utf-8") == commands_page()


def test_the_page_of_outcomes_is_the_one_that_the_lists_make() -> None:
    assert (REFERENCE / "outcomes.md").read_text(encoding="utf-8") == outcomes_page()


def test_the_page_of_the_catalogue_file_is_the_one_that_its_fields_make() -> None:
    assert (REFERENCE / "catalogue.md").read_text(encoding="utf-8") == catalogue_page()


def test_the_pages_of_the_api_are_those_that_its_table_makes() -> None:
    assert (REFERENCE / "api.md").read_text(encoding="utf-8") == api_page()
    assert (REFERENCE / "openapi.json").read_text(encoding="utf-8") == openapi_page()


def test_every_outcome_and_reason_has_a_meaning_in_its_order() -> None:
    page = outcomes_page()

    words = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert words == [*Outcome, *DeadLetterReason, *RequestReason]
