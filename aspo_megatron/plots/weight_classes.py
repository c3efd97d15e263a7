"""Classes of gradient weights, each with its look in a terminal and on a light and a dark page."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from aspo_megatron.foreign_text import safe


@dataclass(frozen=True)
class WeightClass:
    """A class of weights. Colours as #rrggbb, "" for the page's or terminal's own; `dark` are those of a dark page.

    `basic` is the style for a terminal of 16 colours, to whose palette the pale ones would become one.
    """

    label: str
    background: str = ""
    color: str = ""
    struck: bool = False
    basic: str = ""
    dark: tuple[str, str] = ("", "")


# Blue below 1 and orange above: told apart with any kind of colour vision, and by lightness from neutral.
DROPPED = WeightClass("0 dropped", color="#767676", struck=True, basic="strike bright_black", dark=("", "#999999"))
UNKNOWN = WeightClass("not finite", "#000000", "#ffff00", basic="bright_yellow on black", dark=("#ffff00", "#000000"))
NEUTRAL = WeightClass("0.91-1.1")
_EDGES = (0.5, 0.71, 0.91, 1.1, 1.4, 2.0)
_CLASSES = (
    WeightClass("<0.5", "#0072b2", "#ffffff", basic="bright_white on blue", dark=("#7cc8f2", "#000000")),
    WeightClass("0.5-0.71", "#6bb5de", "#000000", basic="black on cyan", dark=("#1f6d9c", "#ffffff")),
    WeightClass("0.71-0.91", "#c9e4f5", "#000000", basic="cyan", dark=("#1d4258", "#e6e6e6")),
    NEUTRAL,
    WeightClass("1.1-1.4", "#fbdcb0", "#000000", basic="yellow", dark=("#553a12", "#e6e6e6")),
    WeightClass("1.4-2", "#f0a040", "#000000", basic="black on yellow", dark=("#99570a", "#ffffff")),
    WeightClass(">=2", "#b84a00", "#ffffff", basic="bright_white on red", dark=("#ffb04d", "#000000")),
)
LEGEND = (DROPPED, *_CLASSES)
LEGEND_TITLE = "Weight of a token's gradient, by the policy after the step's updates (1: as REINFORCE):"


def weight_class(weight: float) -> WeightClass:
    """Which class a weight falls into. Below 0, which no loss gives, is the lowest."""
    if weight == 0:
        return DROPPED
    if not math.isfinite(weight):
        return UNKNOWN
    return _CLASSES[bisect_right(_EDGES, weight)]  # an edge belongs to the class above it


def shown_token(token: str, entry: WeightClass) -> str:
    """The token. One without text (special, or a part of a character) gets a sign, as does a coloured newline."""
    if not token:
        return "∅"
    return safe(token) if entry is NEUTRAL else safe(token).replace("\n", "↵\n")
