"""The reference of the configuration."""

from __future__ import annotations

from pathlib import Path

from aspo_megatron.config.reference import help_text, key_names, main, reference_text, sections

COMMITTED = Path(__file__).parents[2] / "docs" / "configuration.md"

LISTED_ELSEWHERE = ("data.heldout.", "eval.sampling.", "reward.components.<name>.code.")
"""Sections whose keys are those of another, where the texts list them."""


def test_committed_reference_is_up_to_date() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == reference_text(), (
        "the schema has changed: run `python -m aspo_megatron.config.reference docs/configuration.md`"
    )


def test_writes_the_file(tmp_path: Path) -> None:
    assert main([str(tmp_path / "reference.md")]) == 0
    assert (tmp_path / "reference.md").read_text(encoding="utf-8") == reference_text()


def test_rows_give_type_default_and_meaning() -> None:
    text = reference_text()
    assert "| `optimizer.lr` | number > 0 | `1e-06` | Learning rate after the warm-up. |" in text
    assert "| `model.path` | path | **required** |" in text
    assert "| `optimizer.beta1` | number >= 0, < 1 | `0.9` |" in text
    assert "| `eval.pass_k` | list of whole number > 0 | `[1]` |" in text
    assert "| `data.train.limit` | whole number > 0 or null | `null` |" in text
    assert "| `optimizer.schedule` | `constant`, `linear` or `cosine` | `constant` |" in text


def test_every_key_has_a_meaning_and_is_in_both_texts() -> None:
    for section in sections():
        for key in section.keys:
            assert key.meaning, f"{key.name} has no description"
    for name in key_names():
        if not name.startswith(LISTED_ELSEWHERE):
            assert f"`{name}`" in reference_text()
            assert name in help_text()


def test_help_fits_the_terminal() -> None:
    for width in (80, 100):
        assert max(len(line) for line in help_text(width).splitlines()) <= width
