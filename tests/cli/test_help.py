"""What `--help` prints."""

from itertools import pairwise

from typer.testing import CliRunner

from ledger_worker.cli import app
from ledger_worker.cli.reference import commands_page
from ledger_worker.kafka.topics import INPUT_PARTITIONS

WIDTH = 80


def test_paragraphs_fill_the_width_of_the_terminal() -> None:
    ran = CliRunner().invoke(app, ["catalog", "apply", "--help"], env={"COLUMNS": str(WIDTH)})

    lines = [line.strip() for line in ran.output.splitlines()]
    first = next(place for place, line in enumerate(lines) if line.startswith("What is published stays"))
    paragraph = lines[first : lines.index("", first)]
    assert len(paragraph) > 5
    fitting = [
        (line, following) for line, following in pairwise(paragraph) if len(f" {line} {following.split()[0]} ") <= WIDTH
    ]
    assert fitting == []


def test_the_partitions_that_are_made_without_a_number_are_those_that_the_help_says() -> None:
    assert f"input topic that is made; {INPUT_PARTITIONS} if not said" in commands_page()
