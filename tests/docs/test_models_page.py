"""The table of docs/models.md is that of the recipes' plans."""

from __future__ import annotations

import re
from pathlib import Path

from tools import models_table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "models.md"


def test_the_table_is_that_of_the_recipes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(re.findall(r"\]\(\.\./examples/\w+\) \|", page)) == len(models_table.planned()) > 3
    assert models_table.with_table(page) == page, "make docs"


def test_the_rule_of_thumb_is_18_bytes_a_parameter() -> None:
    rows = re.findall(r"^\| ([\d.]+) \| (\d+) \| ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(rows) > 4
    for billions, gigabytes in rows:
        assert round(18 * float(billions)) == int(gigabytes)
