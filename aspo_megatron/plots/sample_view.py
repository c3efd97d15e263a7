"""Shows sampled responses, each token coloured by the weight that the loss gives its gradient: terminal and HTML."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from aspo_megatron.foreign_text import one_line, safe
from aspo_megatron.metrics.console import lines, print_text, words
from aspo_megatron.plots.page import html_page, html_text
from aspo_megatron.plots.sample_file import Selection, ShownSample, weight_summary


@dataclass(frozen=True)
class _Class:
    """A class of weights. Colours as #rrggbb, "" for the page's or terminal's own.

    `basic` is the style for a terminal of 16 colours, to whose palette the pale ones would become one.
    """

    label: str
    background: str = ""
    color: str = ""
    struck: bool = False
    basic: str = ""


# Blue below 1 and orange above: told apart with any kind of colour vision, and by lightness from neutral.
_DROPPED = _Class("0 dropped", color="#767676", struck=True, basic="strike bright_black")
_UNKNOWN = _Class("not finite", "#000000", "#ffff00", basic="bright_yellow on black")
_NEUTRAL = _Class("0.91-1.1")
_EDGES = (0.5, 0.71, 0.91, 1.1, 1.4, 2.0)
_CLASSES = (
    _Class("<0.5", "#0072b2", "#ffffff", basic="bright_white on blue"),
    _Class("0.5-0.71", "#6bb5de", "#000000", basic="black on cyan"),
    _Class("0.71-0.91", "#c9e4f5", "#000000", basic="cyan"),
    _NEUTRAL,
    _Class("1.1-1.4", "#fbdcb0", "#000000", basic="yellow"),
    _Class("1.4-2", "#f0a040", "#000000", basic="black on yellow"),
    _Class(">=2", "#b84a00", "#ffffff", basic="bright_white on red"),
)
_LEGEND = (_DROPPED, *_CLASSES)
_LEGEND_TITLE = "Weight of a token's gradient (1: as REINFORCE):"


def weight_class(weight: float) -> _Class:
    """Which class a weight falls into. Below 0, which no loss gives, is the lowest."""
    if weight == 0:
        return _DROPPED
    if not math.isfinite(weight):
        return _UNKNOWN
    return _CLASSES[bisect_right(_EDGES, weight)]  # an edge belongs to the class above it


# ---- terminal ------------------------------------------------------------------------------------------------


def print_samples(selection: Selection, console: Console) -> None:
    """Print responses, question first. Without colours, tokens off the neutral class are written as [token|weight]."""
    if any(sample.weights for sample in selection.samples):
        print_text(console, _terminal_legend(console))
    for sample in selection.samples:
        console.print(Rule(characters="-" if console.options.ascii_only else "─", style="dim"))
        print_text(console, words(_heading(sample), style="bold"))
        for label, text in _asked(sample):
            print_text(console, lines((f"{label}: ", "bold"), text))
        print_text(console, words("response:", style="bold"))
        print_text(console, _terminal_response(sample, console))
        if sample.weights:
            print_text(console, words(f"({weight_summary(sample)})", style="dim"))
        print_text(console, words())
    print_text(console, words(_footer(selection), style="dim"))


def _colored(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def _terminal_legend(console: Console) -> Text:
    if not _colored(console):
        return lines(f"{_LEGEND_TITLE} [token|weight]; 0 is dropped; unmarked is {_NEUTRAL.label}")
    entries = [(f" {entry.label} ", _terminal_style(entry, console)) for entry in _LEGEND]
    return lines(f"{_LEGEND_TITLE}\n", *(part for entry in entries for part in (entry, " ")))


def _terminal_style(entry: _Class, console: Console) -> str:
    if console.color_system not in ("256", "truecolor"):
        return entry.basic
    parts = ["strike"] if entry.struck else []
    parts += [entry.color] if entry.color else []
    parts += [f"on {entry.background}"] if entry.background else []
    return " ".join(parts)


def _terminal_response(sample: ShownSample, console: Console) -> Text:
    if not sample.weights:
        return lines(sample.response)
    parts: list[str | tuple[str, str]] = []
    for token, weight in zip(sample.tokens, sample.weights, strict=True):
        entry = weight_class(weight)
        if _colored(console):
            parts.append((_shown(token, entry), _terminal_style(entry, console)))
        else:
            shown = _shown(token, _NEUTRAL)
            parts.append(shown if entry is _NEUTRAL else f"[{shown}|{weight:.2g}]")
    return lines(*parts)


def _shown(token: str, entry: _Class) -> str:
    """The token. One without text (special, or a part of a character) gets a sign, as does a coloured newline."""
    if not token:
        return "∅"
    return safe(token) if entry is _NEUTRAL else safe(token).replace("\n", "↵\n")


# ---- both ----------------------------------------------------------------------------------------------------


def _heading(sample: ShownSample) -> str:
    parts = [] if sample.step is None else [f"step {sample.step}"]
    parts += [f"problem {one_line(sample.problem)}", f"reward {sample.reward:.4g}"]
    if sample.advantage is not None:
        # Where all rewards of a group agree, rounding may leave a trace of an advantage.
        pushed = "" if abs(sample.advantage) < 1e-6 else " (pushed up)" if sample.advantage > 0 else " (pushed down)"
        parts.append(f"advantage {sample.advantage if pushed else 0:+.2f}{pushed}")
    if sample.finish_reason:
        cut = " (cut)" if sample.finish_reason == "length" else ""
        parts.append(f"finish {one_line(sample.finish_reason)}{cut}")
    return " | ".join(parts)


def _asked(sample: ShownSample) -> Iterable[tuple[str, str]]:
    if sample.question:
        yield "question", sample.question
    if sample.answer is not None:
        yield "answer", sample.answer


def _footer(selection: Selection) -> str:
    shown = len(selection.samples)
    text = f"{shown} of {selection.matching} responses"
    if selection.matching < selection.total:
        text += f" that match, of {selection.total}"
    if shown < selection.matching:
        text += "; the last ones: --count shows more"
    if not any(sample.weights for sample in selection.samples):
        text += "; token weights are not recorded with them"
    return text


# ---- HTML ----------------------------------------------------------------------------------------------------

_BASE_STYLE = """
.text { white-space: pre-wrap; overflow-wrap: anywhere; font: 13.5px/1.6 ui-monospace, monospace;
  margin: .3rem 0 .6rem; }
.legend { position: sticky; top: 0; background: #fff; padding: .5rem 0; border-bottom: 1px solid #ddd; }
.legend span { padding: .1rem .4rem; margin-right: .3rem; border-radius: 3px; white-space: nowrap; }
section { border-top: 1px solid #ccc; margin-top: 1.5rem; }
"""


def samples_page(title: str, selection: Selection) -> str:
    """The responses as a page of its own; the weight of a token shows when the pointer is on it."""
    legend = "".join(f'<span class="{_css(entry)}">{html_text(entry.label)}</span>' for entry in _LEGEND)
    body = [f"<h1>{html_text(title)}</h1>"]
    if any(sample.weights for sample in selection.samples):
        body.append(f'<p class="legend">{html_text(_LEGEND_TITLE)} {legend}</p>')
    body += [_html_sample(sample) for sample in selection.samples]
    body.append(f'<p class="note">{html_text(_footer(selection))}</p>')
    return html_page(title, _BASE_STYLE + _colors((*_LEGEND, _UNKNOWN)), "\n".join(body))


def _css(entry: _Class) -> str:
    return f"w{(*_LEGEND, _UNKNOWN).index(entry)}"


def _colors(entries: Sequence[_Class]) -> str:
    rules = []
    for entry in entries:
        parts = [f"background: {entry.background}"] if entry.background else []
        parts += [f"color: {entry.color}"] if entry.color else []
        parts += ["text-decoration: line-through"] if entry.struck else []
        rules.append(f".{_css(entry)} {{ {'; '.join(parts)} }}")
    return "\n".join(rules)


def _html_sample(sample: ShownSample) -> str:
    parts = [f"<section>\n<h2>{html_text(_heading(sample))}</h2>"]
    for label, text in (*_asked(sample), ("response", None)):
        parts.append(f'<div class="note">{label}</div>')
        parts.append(f'<div class="text">{_html_response(sample) if text is None else html_text(text)}</div>')
    if sample.weights:
        parts.append(f'<p class="note">{html_text(weight_summary(sample))}</p>')
    return "\n".join(parts) + "\n</section>"


def _html_response(sample: ShownSample) -> str:
    if not sample.weights:
        return html_text(sample.response)
    spans = []
    for token, weight in zip(sample.tokens, sample.weights, strict=True):
        entry = weight_class(weight)
        shown = html_text(_shown(token, entry))
        spans.append(f'<span class="{_css(entry)}" title="weight {weight:.3g}">{shown}</span>')
    return "".join(spans)
