"""The script in the how-to decodes every published example."""

import re
from pathlib import Path
from typing import Any

import pytest

from ledger_worker.wire.json_form import record_of_json
from ledger_worker.wire.schemas import OUTPUTS, full_name
from tests.wire.values import example, example_fields

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("record_type", OUTPUTS)
def test_the_script_of_the_how_to_decodes_the_output_topics(record_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "how-to" / "read-the-topics.md").read_text(encoding="utf-8")
    script = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert script is not None
    scope: dict[str, Any] = {}
    exec(script[1], scope)  # noqa: S102 - the page is ours
    name, record = scope["decode"](record_of_json(example(record_type)))
    assert name == full_name(record_type)
    assert set(record) == set(example_fields(record_type)) - {"type"}
