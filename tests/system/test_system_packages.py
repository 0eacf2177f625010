"""`deploy/system-packages` and the tests of this folder speak of the same programs."""

import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "system-packages"

PROGRAMS = re.findall(r"^    ([a-z-]+)=[a-z-]+", SCRIPT.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.system
def test_the_script_has_nothing_left_to_install() -> None:
    answer = subprocess.run([SCRIPT], check=True, capture_output=True, text=True)
    assert answer.stdout == ""


@pytest.mark.system
@pytest.mark.parametrize(
    ("program", "version"),
    [("kcat", ["-V"]), ("promtool", ["--version"])],
    ids=["kcat", "promtool"],
)
def test_every_program_answers_with_its_version(program: str, version: list[str]) -> None:
    assert program in PROGRAMS
    answer = subprocess.run([program, *version], check=True, capture_output=True, text=True)
    assert re.search(r"\d+\.\d+", answer.stdout + answer.stderr)
