"""The Makefile is how people and CI start everything, so what it promises is tested like the rest."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_make_alone_prints_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    declared = re.search(r"^\.PHONY: help (.+)$", makefile, flags=re.MULTILINE)
    assert declared is not None

    # Not the flags of a make that runs the tests: under it, another one says which folder it enters.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    printed = subprocess.run(["make"], cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout

    assert [line.split()[1] for line in printed.splitlines()] == declared[1].split()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_fresh_clone_sets_itself_up_and_the_second_time_has_nothing_to_do(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)

    subprocess.run(["make", "setup"], cwd=clone, check=True)
    found = subprocess.run(
        [".venv/bin/python", "-c", "import ledger_worker; print(ledger_worker.__file__)"],
        cwd=clone,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    again = subprocess.run(["make", "--question", "setup"], cwd=clone, check=False)

    assert Path(found.strip()) == clone / "src" / "ledger_worker" / "__init__.py"
    assert again.returncode == 0
