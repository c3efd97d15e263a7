"""A run as a page of a terminal: where it stands, what is alarming, its curves and its last responses."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.console import lines, words
from aspo_megatron.plots.panel_drawing import short
from aspo_megatron.plots.sample_file import ShownSample
from aspo_megatron.plots.text import brief_figure
from aspo_megatron.watch.alarms import alarms, silence
from aspo_megatron.watch.run_view import RunView

_PHASES = 5
_PREFIX = "seconds/"


def page(view: RunView, width: int, *, ascii_only: bool = False) -> Text:
    """The page, in lines of at most `width` columns (from 60 on) but for what a name makes longer.

    Args:
        view: of the run.
        width: columns.
        ascii_only: draw in ASCII.
    """
    width = max(60, width)
    parts = [_head(view, width)]
    if view.records:
        parts += [
            _speed(view, width),
            _alarms(view),
            lines("\n"),
            brief_figure(view.series, width, ascii_only=ascii_only),
        ]
    else:
        parts.append(lines("no step is recorded yet: the model is loaded, or the first step is under way\n"))
        parts += [lines((f"! {text}\n", "bold red")) for text in view.told]
    parts.append(_responses(view.samples, width))
    text = lines()
    for part in parts:
        text.append_text(part)
    text.rstrip()
    return text


def status_line(view: RunView) -> str:
    """Where the run stands, in a line."""
    of = f" of {view.total_steps}" if view.total_steps else ""
    if view.ended:
        return f"step {view.step}{of}; the run has ended"
    since = f"{ago(view.seconds_since)} ago"
    return f"step {view.step}{of}; last line {since}" if view.records else f"not begun; last change {since}"


def ago(seconds: float) -> str:
    """A time in two digits or so, e.g. 7 s, 3 min, 2 h, 5 days."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _head(view: RunView, width: int) -> Text:
    style = "green" if view.ended else "cyan"
    line = words((short(view.name, width // 2), "bold"), "  ", (status_line(view), style))
    line.append_text(lines("\n"))
    if view.phase is not None and not view.ended:
        label, seconds = view.phase
        line.append_text(words("now     ", short(label, width // 2), f", for {ago(seconds)}"))
        line.append_text(lines("\n"))
    return line


def _speed(view: RunView, width: int) -> Text:
    """Speed of late, the time that is left by it, and what a step's time goes to."""
    parts = []
    step_seconds, tokens = view.recent("seconds/step"), view.recent("tokens_per_second")
    if tokens is not None:
        parts.append(f"{tokens:,.0f} tokens/s")
    if step_seconds is not None:
        parts.append(f"{step_seconds:.3g} s a step")
        if view.total_steps and not view.ended:
            parts.append(f"about {ago(step_seconds * (view.total_steps - view.step))} left")
    last = {
        name.removeprefix(_PREFIX): view.recent(name) or 0.0 for name in view.records[-1] if name.startswith(_PREFIX)
    }
    whole = last.pop("step", 0.0)
    largest = [item for item in sorted(last.items(), key=lambda item: -item[1]) if item[1] > 0][:_PHASES]
    phases = ""
    for name, seconds in largest:
        more = f"{', ' if phases else ''}{one_line(name).replace('_', ' ')} {seconds:.2g} s"
        if len(phases) + len(more) <= width - 8:
            phases += more
    text = lines()
    if parts:
        text.append_text(lines(f"speed   {', '.join(parts)}\n"))
    if whole and phases:
        text.append_text(lines((f"phases  {phases}\n", "dim")))
    return text


def _alarms(view: RunView) -> Text:
    found = alarms(view.records, view.settings)
    steps_left = not view.ended and view.step != view.total_steps  # after the last, a model is exported
    if steps_left and (silent := silence(view.records, view.seconds_since)):
        found.insert(0, silent)
    found += view.told
    return lines(*((f"! {one_line(text)}\n", "bold red") for text in found))


def _responses(samples: Sequence[ShownSample], width: int) -> Text:
    """The last responses, two lines each."""
    text = lines()
    for number, sample in enumerate(samples):
        if number == 0:
            text.append_text(lines(("\nlast responses\n", "bold")))
        verdict = ("right", "green") if sample.right else ("wrong", "red")
        step = "" if sample.step is None else f"step {sample.step}, "
        cut = ", cut" if sample.cut else ""
        rest = short(f"  reward {sample.reward:.3g}{cut}  {step}problem {sample.problem}", width - 8)
        asked = short(f"{sample.question} -> ", width // 2)
        answered = short(sample.response.strip(), max(20, width - len(asked) - 4))
        text.append_text(words("  ", verdict, rest))
        text.append_text(lines("\n"))
        text.append_text(words("    ", (asked, "dim"), answered))
        text.append_text(lines("\n"))
    return text
