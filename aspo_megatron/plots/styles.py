"""How runs look: colours that any kind of vision tells apart, and lines and marks for more runs than colours."""

from __future__ import annotations

from dataclasses import dataclass

Dashes = str | tuple[float, tuple[float, ...]]
"""A line style of matplotlib: its name, or where in the pattern a line begins, and the pattern in line widths."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's."""

_AGAIN = ("#003F63", "#7A3600", "#00563F", "#7E3F63", "#8A5F00", "#23688F", "#777777")
"""The same, darker (black: lighter), for the next so many runs."""

_TURNS: tuple[tuple[tuple[str, ...], Dashes, str], ...] = (
    (COLORS, "-", ""),
    (_AGAIN, (0, (7, 1.5)), "o"),
    (COLORS, (0, (7, 1.5, 1, 1.5)), "s"),
    (_AGAIN, (0, (3, 1.2)), "^"),
)
"""For each turn through the colours: which they are, the line, and a mark on it."""


@dataclass(frozen=True)
class RunStyle:
    """The look of a run or group. `marker` is empty for none."""

    color: str
    dashes: Dashes
    marker: str


def run_style(number: int) -> RunStyle:
    """Of the run with this number, from 0. After 28 they begin again."""
    colors, dashes, marker = _TURNS[number // len(COLORS) % len(_TURNS)]
    return RunStyle(colors[number % len(COLORS)], dashes, marker)


def stripe(turn: int, of: int, *, apart: bool = False, length: float = 5.0) -> Dashes:
    """The dashes of one of `of` (2 or more) curves that lie on each other, seen in turn; `apart`: with gaps."""
    length *= 0.6 if apart else 1.0
    every = 2 * length if apart else length
    return (turn * every, (length, of * every - length))


def swatch(number: int) -> str:
    """A sample of a run's line, as SVG for a page: two ems wide, with its colour, dashes and mark."""
    style = run_style(number)
    dashes = "" if isinstance(style.dashes, str) else ' stroke-dasharray="' + " ".join(map(_px, style.dashes[1])) + '"'
    line = f'<line x1="0" y1="6" x2="28" y2="6" stroke="{style.color}" stroke-width="2.5"{dashes}/>'
    return (
        f'<svg class="swatch" viewBox="0 0 28 12" width="28" height="12" aria-hidden="true">{line}{_mark(style)}</svg>'
    )


def _px(widths: float) -> str:
    return f"{1.6 * widths:g}"


def _mark(style: RunStyle) -> str:
    paint = f'fill="#fff" stroke="{style.color}" stroke-width="1.5"'
    shapes = {
        "": "",
        "o": f'<circle cx="14" cy="6" r="3.6" {paint}/>',
        "s": f'<rect x="10.6" y="2.6" width="6.8" height="6.8" {paint}/>',
        "^": f'<path d="M14 1.6 L18 9.6 L10 9.6 Z" {paint}/>',
    }
    return shapes[style.marker]
