"""A picture of every loss: what weight it gives the gradient of a token, by the token's ratio. From the code itself.

`python -m aspo_megatron.plots.loss_gallery docs/images/losses.png`; names of losses after the file say which are
drawn, a user's own as package.module:Class. `aspo losses NAME` shows the same of one loss.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aspo_megatron import losses
from aspo_megatron.losses import gradient_weight
from aspo_megatron.plots.curves import write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OLD_PROBABILITY = 0.1
"""pi_old of the tokens in the picture: some losses look at probabilities, which the ratio must not bring above 1."""
LARGEST_WEIGHT = 6.0
"""What is above (or, the wrong way, below its negative) is out of the picture."""
SIGNS = ((1.0, "A > 0"), (-1.0, "A < 0"))
"""Advantages, and how they are called."""
CAPTION = f"responses of one token, of the old probability {OLD_PROBABILITY}, that no update selects"
_COLUMNS = 4
_DPI = 100


def picture_ratios() -> Tensor:
    """The ratios in the picture, fp64, evenly spaced on a logarithmic scale."""
    return torch.logspace(-1.3, 0.9, 2000, dtype=torch.float64)


def gradient_weights(name: str, ratios: Tensor, advantage: float) -> Tensor:
    """The weight w of the gradient -A * w * grad log pi, of responses of one token each, at default settings.

    Args:
        name: as `losses.get` has it.
        ratios: [n], fp64, pi / pi_old, where pi_old is `OLD_PROBABILITY`; one above its reciprocal counts as that.
        advantage: A, not 0.

    Raises:
        ConfigError: see `losses.build`.
    """
    tokens = len(ratios)
    old_log_probs = torch.full_like(ratios, OLD_PROBABILITY).log()
    return gradient_weight.gradient_weights(
        losses.build(name, {}),
        (old_log_probs + ratios.log()).clamp(max=0.0),
        old_log_probs,
        torch.full_like(ratios, advantage),
        torch.ones(tokens, dtype=torch.bool),
        torch.zeros_like(ratios),
        torch.arange(tokens + 1),
    )


def draw_gallery(output: Path, names: Sequence[str] = ()) -> None:
    """Write the picture, see `gallery_figure`.

    Args:
        output: the file; its suffix (.png, .pdf, .svg) is the format.
        names: of the losses, as `losses.get` has them; none for all registered ones.

    Raises:
        ConfigError: see `losses.build`.
        UserError: the picture cannot be written.
    """
    write_figure(gallery_figure(names or losses.names()), output, _DPI)


def gallery_figure(names: Sequence[str]) -> Figure:
    """A panel a loss, a line for each sign of the advantage, PPO-clip's in grey behind."""
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    size = (3.1 * columns, 2.2 * rows) if len(names) > 1 else (5.0, 3.8)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    ratios = picture_ratios()
    styles = (("#0072B2", "-"), ("#D55E00", "--"))
    grey = {advantage: gradient_weights("grpo", ratios, advantage) for advantage, _ in SIGNS}
    weights = {(name, sign): gradient_weights(name, ratios, sign) for name in names for sign, _ in SIGNS}
    # A weight below 0 pushes the wrong way: what has one must not be an empty panel.
    lowest = -LARGEST_WEIGHT if any(bool((values < 0).any()) for values in weights.values()) else -0.2
    for panel, name in zip(panels, names, strict=False):
        for (advantage, label), (color, style) in zip(SIGNS, styles, strict=True):
            panel.plot(ratios, grey[advantage], color="0.8", lw=3, ls=style)
            panel.plot(ratios, weights[name, advantage], color=color, ls=style, label=label)
        panel.set_title(name, fontsize=10)
        panel.set_xscale("log")
        panel.set_xticks([0.1, 0.5, 1, 2, 5], ["0.1", "0.5", "1", "2", "5"])
        panel.set_ylim(lowest, LARGEST_WEIGHT)
        panel.grid(alpha=0.3)
    for panel in panels[len(names) - columns : len(names)]:  # the lowest of each column
        panel.tick_params(labelbottom=True)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    panels[0].legend(fontsize=8)
    figure.supxlabel(f"ratio pi / pi_old ({CAPTION})", fontsize=10)
    figure.supylabel("weight of the gradient", fontsize=10)
    return figure


if __name__ == "__main__":
    draw_gallery(Path(sys.argv[1]), sys.argv[2:])
