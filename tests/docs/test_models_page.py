"""The table of docs/models.md is that of the recipes' plans."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "models.md"


def test_the_table_is_that_of_the_recipes() -> None:
    spec = importlib.util.spec_from_file_location("models_table", ROOT / "tools" / "models_table.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = PAGE.read_text(encoding="utf-8")
    assert len(re.findall(r"\]\(\.\./examples/\w+\) \|", page)) == len(tool.planned()) > 3
    assert tool.with_table(page) == page, "make docs"


def test_the_rule_of_thumb_is_18_bytes_a_parameter() -> None:
    rows = re.findall(r"^\| ([\d.]+) \| (\d+) \| ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(rows) > 4
    for billions, gigabytes in rows:
        assert round(18 * float(billions)) == int(gigabytes)
