"""Hostile names in pictures, pages and model cards are names there."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import pytest
import yaml

from aspo_megatron.checkpoint.hf.model_card import model_card
from aspo_megatron.config.io import load_config
from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.plots.curves import Pictures, draw_figure
from aspo_megatron.plots.page import plot_page
from aspo_megatron.plots.series import read_series
from text.hostile import HOSTILE, faults

NAMES = [
    "$x^$", "$\\frac{$", "$\\unknown$ $", "\\$", "_hidden", "__nolegend__", "a\nb", "x" * 100_000, "", " ", "中文",
    HOSTILE,
    "<script>alert(1)</script>", "%s %d {0} {name}",
]  # fmt: skip
"""Of benchmarks."""


@pytest.mark.filterwarnings("error::UserWarning:matplotlib.legend")
@pytest.mark.parametrize("format_name", ["png", "svg"])
def test_names_of_benchmarks_in_a_picture(format_name: str, tmp_path: Path) -> None:
    with Recorder(tmp_path / "$run_1$ $", tensorboard=True) as recorder:
        recorder.log(1, {f"eval/{name}/avg@4": 0.5 for name in NAMES})
        recorder.log(2, {f"eval/{name}/avg@4": 0.5 for name in NAMES})
    figure = draw_figure(read_series([tmp_path / "$run_1$ $"], {}))
    (panel,) = (axes for axes in figure.axes if axes.get_title() == "Held-out accuracy")
    legend = panel.get_legend()
    assert legend is not None
    shown = [text.get_text() for text in legend.get_texts()]
    assert len(shown) == len([name for name in NAMES if name and "\n" not in name])
    assert "$x^$ avg@4" in shown
    assert "_hidden avg@4" in shown
    assert all(len(text) <= 40 and faults(text, own=False) == [] and "\n" not in text for text in shown)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks
        figure.savefig(content, format=format_name)
    assert b"<script" not in content.getvalue()


def test_names_in_a_page(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", tensorboard=False) as recorder:
        recorder.log(1, {f"eval/{name}/avg@4": 0.5 for name in NAMES})
    page = plot_page(
        read_series([], {f"</title><script>{HOSTILE}": [tmp_path / "run"]}), Pictures(((HOSTILE, b""),), (HOSTILE,))
    )
    assert faults(page, own=False) == []
    assert "<script" not in page


BASES = [
    "Qwen2.5-1.5B", "a: b", "`code`", "a|b", "<img src=x>", "[a](http://evil.example)", "# head", "- item", "'quote\"",
    "a\nname: b", "{a: b}", "*alias", "true", "2.5", "---", "@somebody", HOSTILE.replace("/", "").replace("\0", ""),
]  # fmt: skip


@pytest.mark.parametrize("base", BASES, ids=lambda base: repr(base)[:20])
def test_a_model_card_says_the_name_of_a_folder(base: str) -> None:
    words = ["output_dir=x", "loss.name=aspo"]
    config = load_config(None, [*words, "model.path=m", "data.train={kind: jsonl, path: x}"])
    source = config.data.train.model_copy(update={"path": f"{base}.jsonl"})
    config = config.model_copy(
        update={
            "model": config.model.model_copy(update={"path": Path(base)}),
            "data": config.data.model_copy(update={"train": source}),
        }
    )
    card = model_card(config, 1, 1, None, None)
    assert faults(card, own=False) == []
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == one_line(Path(base).name)
    assert set(yaml.safe_load(head)) == {"library_name", "pipeline_tag", "base_model", "tags"}
    text, config_text = body.split("The run's whole configuration:")
    assert not re.search(r"<|\]\(|://", re.sub(r"`[^`\n]*`", "", text))
    assert len([line for line in text.splitlines() if line.startswith("#")]) == 1
    assert all(line.count("|") == 3 for line in text.splitlines() if line.startswith("|"))
    assert config_text.count("```") == 2 + base.count("```") * 2
