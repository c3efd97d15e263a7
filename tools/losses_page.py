"""docs/losses.md: every loss with formula, source and hyperparameters; `python tools/losses_page.py` writes it anew.

All of it is what the classes say themselves, as `aspo losses NAME` shows it.
"""

from __future__ import annotations

import re
from pathlib import Path

from aspo_megatron import losses
from aspo_megatron.plots.loss_gallery import CAPTION, LARGEST_WEIGHT
from aspo_megatron.plots.loss_words import LossWords, loss_words

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "losses.md"

_HEAD = f"""\
# Losses, one by one

<!-- Generated: python tools/losses_page.py -->

What each loss does, as its class says it; `aspo losses cispo` shows the same of one, and its picture, in a terminal.
[which_loss.md](which_loss.md) goes by question, [loss.md](loss.md) has what all have in common: scale, bound, KL and
corrections.

`r = pi / pi_old` is a token's ratio, `A` its response's advantage, `y` the response, `|y|` its unmasked tokens, `sg` a
stop-gradient. The formula is that of the weight `w`: the gradient at a token is `-A * w * grad log pi`. The figure has
the weights at default settings, as the code computes them
({CAPTION}; above {LARGEST_WEIGHT:g} nothing is drawn; grey: `grpo`):

![Gradient weight against ratio for every loss](images/losses.png)
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(loss_words(name)) for name in losses.names())])


def _section(words: LossWords) -> str:
    """One loss: summary, formula, source, what its docstring says further, hyperparameters."""
    formula = "\n".join(f"    {line}" for line in words.formula)
    parts = [f"## {words.name}", words.summary, formula, f"Source: {_linked(words.source)}.", *words.paragraphs]
    if words.hyperparameters:
        rows = [f"| `loss.{each.key}` | {each.default} | {_cell(each.description)} |" for each in words.hyperparameters]
        parts.append("\n".join(["| hyperparameter | default | |", "| --- | --: | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def _linked(source: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{5})(v\d+)?", r"[arXiv \1\2](https://arxiv.org/abs/\1\2)", source)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
