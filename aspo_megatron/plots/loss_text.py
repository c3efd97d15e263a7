"""The picture of a loss for a terminal: weight against ratio, a line of blocks for each sign of the advantage."""

from __future__ import annotations

import math

import torch
from rich.text import Text
from torch import Tensor

from aspo_megatron.metrics.console import lines, words
from aspo_megatron.plots.loss_gallery import CAPTION, LARGEST_WEIGHT, SIGNS, gradient_weights, picture_ratios
from aspo_megatron.plots.styles import COLORS
from aspo_megatron.plots.text import ASCII, BLOCKS, blocks

_WIDEST = 100
_TICKS = (0.1, 0.5, 1.0, 2.0, 5.0)
_NUMBERS = (0.1, 0.5, 0.9, 1.0, 1.1, 2.0, 5.0)
"""Ratios whose weights are printed as numbers."""
_CELL = 7


def loss_picture(name: str, width: int, *, ascii_only: bool) -> Text:
    """The curves, on one scale, and the weights at a few ratios; by `gradient_weights`.

    Args:
        name: as `losses.get` has it.
        width: columns.
        ascii_only: draw in ASCII.

    Raises:
        ConfigError: see `losses.build`.
    """
    ratios = picture_ratios()
    weights = {
        label: gradient_weights(name, ratios, sign).clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT) for sign, label in SIGNS
    }
    finite = torch.cat([values[values.isfinite()] for values in weights.values()])
    low, high = (float(end) for end in torch.cat([finite, finite.new_zeros(1)]).aminmax())
    more = " or more" if high == LARGEST_WEIGHT else ""
    text = lines((f"weight w of the gradient by the ratio r, {low:.3g} to {high:.3g}{more}", "bold"))
    text.append_text(lines((f"; {CAPTION}\n", "dim")))
    logs = ratios.log10()
    span = (float(logs[0]), float(logs[-1]))
    columns = max(20, min(width, _WIDEST) - 8)
    for (label, values), color in zip(weights.items(), COLORS, strict=False):
        curve = "not finite"
        if values.isfinite().all():
            levels = ASCII if ascii_only else BLOCKS
            curve = blocks(logs.numpy(), values.numpy(), (low, high), span, columns, levels)
        text.append_text(words(f"  {label} ", (curve, color)))
        text.append_text(lines("\n"))
    text.append_text(lines(f"  r     {_axis(span, columns)}\n\n"))
    text.append_text(_numbers(name, torch.tensor(_NUMBERS, dtype=torch.float64)))
    return text


def _axis(span: tuple[float, float], columns: int) -> str:
    """The ticks' numbers, each with its middle below its ratio."""
    line = [" "] * columns
    for tick in _TICKS:
        label = f"{tick:g}"
        place = int((math.log10(tick) - span[0]) / (span[1] - span[0]) * columns) - len(label) // 2
        line[place : place + len(label)] = label
    return "".join(line).rstrip()


def _numbers(name: str, ratios: Tensor) -> Text:
    rows = [("r", ratios), *((label, gradient_weights(name, ratios, sign)) for sign, label in SIGNS)]
    text = lines()
    for label, values in rows:
        cells = "".join(f" {value:>{_CELL}.3g}" for value in values.tolist())
        text.append_text(lines(f"  {label:<5}{cells}\n"))
    return text
