"""docs/gpu.md says of every option what was shown of it, by which means, when, and with which figure."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from aspo_megatron.config import KernelsConfig

PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
MEANS = ("simulated", "on CPUs", "imitated", "refused", "read", "not at all")
CARD = re.compile(r"\b(?:[ABHLTV]\d{2,3}|GB\d{3}|RTX \d+)\b")


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    part = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in part.splitlines() if line.startswith("|")]
    end = next((n for n, line in enumerate(table[2:], 2) if line.startswith("| ---")), len(table))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:end]]


def options(cell: str) -> set[str]:
    return {name for text in re.findall(r"`([^`]+)`", cell) for name in [text.partition(":")[0]] if "." in name}


def test_every_option_has_what_was_shown_of_it() -> None:
    offered = {name for row in rows("Options") for name in options(row[0])}
    shown = {name for row in rows("What was shown") for name in options(row[0])}
    assert offered == shown
    kernels = {f"model.kernels.{name}" for name in KernelsConfig.model_fields} - {"model.kernels.fp8_recipe"}
    assert kernels <= offered


def test_each_row_says_how_and_when() -> None:
    for option, shown, means, when, _ in rows("What was shown"):
        assert shown, option
        assert any(word in means for word in MEANS) or CARD.search(means), option
        assert datetime.date.fromisoformat(when) <= datetime.date.today(), option


def test_no_card_is_named_while_nothing_was_run_on_one() -> None:
    """A row that names a card comes with the end of that sentence, in both directions."""
    named = [row[0] for row in rows("What was shown") if CARD.search(row[2])]
    none = "**Nothing here was run on a GPU.**" in PAGE.read_text(encoding="utf-8")
    assert none == (not named)
