"""Shows sampled responses in a terminal, each token coloured by the weight that the loss gives its gradient."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.console import lines, print_text, words
from aspo_megatron.plots.sample_file import Selection, ShownSample, weight_summary
from aspo_megatron.plots.weight_classes import LEGEND, LEGEND_TITLE, NEUTRAL, WeightClass, shown_token, weight_class


def print_samples(selection: Selection, console: Console) -> None:
    """Print responses, question first. Without colours, tokens off the neutral class are written as [token|weight]."""
    if any(sample.weights for sample in selection.samples):
        print_text(console, _terminal_legend(console))
    for sample in selection.samples:
        console.print(Rule(characters="-" if console.options.ascii_only else "─", style="dim"))
        print_text(console, words(heading(sample), style="bold"))
        for label, text in asked(sample):
            print_text(console, lines((f"{label}: ", "bold"), text))
        print_text(console, words("response:", style="bold"))
        print_text(console, _terminal_response(sample, console))
        if sample.weights:
            print_text(console, words(f"({weight_summary(sample)})", style="dim"))
        print_text(console, words())
    print_text(console, words(footer(selection), style="dim"))


def _colored(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def _terminal_legend(console: Console) -> Text:
    if not _colored(console):
        return lines(f"{LEGEND_TITLE} [token|weight]; 0 is dropped; unmarked is {NEUTRAL.label}")
    entries = [(f" {entry.label} ", _terminal_style(entry, console)) for entry in LEGEND]
    return lines(f"{LEGEND_TITLE}\n", *(part for entry in entries for part in (entry, " ")))


def _terminal_style(entry: WeightClass, console: Console) -> str:
    if console.color_system not in ("256", "truecolor"):
        return entry.basic
    parts = ["strike"] if entry.struck else []
    parts += [entry.color] if entry.color else []
    parts += [f"on {entry.background}"] if entry.background else []
    return " ".join(parts)


def _terminal_response(sample: ShownSample, console: Console) -> Text:
    if not sample.weights or sample.is_neutral:
        return lines(sample.response)
    parts: list[str | tuple[str, str]] = []
    for token, weight in zip(sample.tokens, sample.weights, strict=True):
        entry = weight_class(weight)
        if _colored(console):
            parts.append((shown_token(token, entry), _terminal_style(entry, console)))
        else:
            shown = shown_token(token, NEUTRAL)
            parts.append(shown if entry is NEUTRAL else f"[{shown}|{weight:.2g}]")
    return lines(*parts)


def heading(sample: ShownSample, *, alone: bool = True) -> str:
    """A response in a line. `alone`: without its problem and step above it, so with them."""
    parts = [] if sample.step is None or not alone else [f"step {sample.step}"]
    parts += [f"problem {one_line(sample.problem)}"] if alone else []
    parts += [f"reward {sample.reward:.4g}"]
    if sample.advantage is not None:
        pushed = "" if sample.is_neutral else " (pushed up)" if sample.advantage > 0 else " (pushed down)"
        parts.append(f"advantage {sample.advantage if pushed else 0:+.2f}{pushed}")
    if sample.finish_reason:
        cut = " (cut)" if sample.cut else ""
        parts.append(f"finish {one_line(sample.finish_reason)}{cut}")
    return " | ".join(parts)


def asked(sample: ShownSample) -> Iterable[tuple[str, str]]:
    """What the response answers, and the right answer, each with its name."""
    if sample.question:
        yield "question", sample.question
    if sample.answer is not None:
        yield "answer", sample.answer


def footer(selection: Selection) -> str:
    """How many are shown, of how many."""
    shown = len(selection.samples)
    text = f"{shown} of {selection.matching} responses"
    if selection.matching < selection.total:
        text += f" that match, of {selection.total}"
    if shown < selection.matching:
        text += "; the last ones: --count shows more"
    if not any(sample.weights for sample in selection.samples):
        text += "; token weights are not recorded with them"
    return text
