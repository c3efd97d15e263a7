"""A picture of every loss: what weight it gives the gradient of a token, by the token's ratio. From the code itself.

`python -m aspo_megatron.plots.loss_gallery docs/images/losses.png`; names of losses after the file say which are
drawn, a user's own as package.module:Class.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from aspo_megatron import losses
from aspo_megatron.losses import gradient_weight


def gradient_weights(name: str, ratios: Tensor, advantage: float) -> Tensor:
    """The weight w of the gradient -A * w * grad log pi, of responses of one token each, at default settings.

    Args:
        name: as `losses.get` has it.
        ratios: [n], fp64, pi / pi_old.
        advantage: A, not 0.
    """
    tokens = len(ratios)
    return gradient_weight.gradient_weights(
        losses.build(name, {}),
        ratios.log(),
        torch.zeros_like(ratios),
        torch.full_like(ratios, advantage),
        torch.ones(tokens, dtype=torch.bool),
        torch.zeros_like(ratios),
        torch.arange(tokens + 1),
    )


def draw_gallery(output: Path, names: Sequence[str] = ()) -> None:
    """Write the picture: a panel a loss, a line for each sign of the advantage, PPO-clip's in grey behind.

    Args:
        output: the PNG file.
        names: of the losses, as `losses.get` has them; none for all registered ones.
    """
    from matplotlib.figure import Figure

    names = names or losses.names()
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    ratios = torch.logspace(-1.3, 0.9, 2000, dtype=torch.float64)
    signs = ((1.0, "#0072B2", "-", "A > 0"), (-1.0, "#D55E00", "--", "A < 0"))
    grey = {advantage: gradient_weights("grpo", ratios, advantage) for advantage, *_ in signs}
    weights = {(name, sign): gradient_weights(name, ratios, sign) for name in names for sign, *_ in signs}
    # A weight below 0 pushes the wrong way: what has one must not be an empty panel.
    lowest = -6 if any(bool((values < 0).any()) for values in weights.values()) else -0.2
    for panel, name in zip(panels, names, strict=False):
        for advantage, color, style, label in signs:
            panel.plot(ratios, grey[advantage], color="0.8", lw=3, ls=style)
            panel.plot(ratios, weights[name, advantage], color=color, ls=style, label=label)
        panel.set_title(name, fontsize=10)
        panel.set_xscale("log")
        panel.set_xticks([0.1, 0.5, 1, 2, 5], ["0.1", "0.5", "1", "2", "5"])
        panel.set_ylim(lowest, 6)
        panel.grid(alpha=0.3)
    for panel in panels[len(names) - columns : len(names)]:  # the lowest of each column
        panel.tick_params(labelbottom=True)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    panels[0].legend(fontsize=8)
    figure.supxlabel("ratio pi / pi_old")
    figure.supylabel("weight of the gradient")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


if __name__ == "__main__":
    draw_gallery(Path(sys.argv[1]), sys.argv[2:])
