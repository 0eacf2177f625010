"""What the service writes about itself: JSON lines, and in them nothing that may be secret."""

import json
import subprocess
import sys
from typing import Any

SETUP = """
import logging
import structlog
from ledger_worker.config import LogLevel
from ledger_worker.logs import configure_logs

configure_logs(LogLevel.INFO)
"""
FAILS = """
def fails(password):
    raise ValueError(f"{len(password)} letters are no password")

try:
    fails("hunter" + str(2))
except ValueError as error:
    structlog.get_logger().error("failed", exc_info=error)
"""


def logged(program: str) -> Any:  # noqa: ANN401 - JSON
    """The line that the program writes to standard error."""
    ran = subprocess.run([sys.executable, "-c", SETUP + program], check=True, capture_output=True, text=True)
    return json.loads(ran.stderr)


def test_an_error_comes_with_its_traceback_and_without_the_values_in_its_frames() -> None:
    line = logged(FAILS)

    (found,) = line["exception"]
    assert (found["exc_type"], found["exc_value"]) == ("ValueError", "7 letters are no password")
    assert [frame["name"] for frame in found["frames"]][-1] == "fails"
    assert "hunter2" not in json.dumps(line)


def test_a_line_of_a_library_has_our_form() -> None:
    line = logged('logging.getLogger("somebody").warning("it is %s", "late")')

    assert (line["event"], line["library"], line["message"]) == ("library_log", "somebody", "it is late")
