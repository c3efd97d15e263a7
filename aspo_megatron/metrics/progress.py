"""What a run shows while it goes: a live line in a terminal, a line a step elsewhere, nothing on the other ranks."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.console import drawn, lines, print_text, shown_console, words

_RECENT_STEPS = 20  # over which the time left is estimated


class ProgressDisplay(Protocol):
    """The course of a run, for the person who waits for it. Use as a context manager.

    What is shown is no part of training: a terminal or file that takes nothing more raises nothing.
    """

    def __enter__(self) -> Self:
        """Start to show."""

    def __exit__(self, *exception: object) -> None:
        """Stop, and leave the last state visible."""

    def phase(self, label: str) -> None:
        """Say what is being done now, e.g. "generate", until the next phase or step."""

    def update(self, step: int, *, reward: float, tokens_per_second: float, heldout: float | None = None) -> None:
        """Step `step` (from 1) is done: mean reward, speed, and held-out accuracy (0 to 1) if it was measured."""

    def message(self, text: str) -> None:
        """Show a line that stays."""


def progress_display(total_steps: int, *, leader: bool, console: Console | None = None) -> ProgressDisplay:
    """The display that fits: silent unless `leader`, live if the console (default: stdout) is a terminal.

    A terminal that cannot move its cursor (`TERM=dumb`) is given the lines that a log would be.
    """
    if not leader:
        return SilentProgress()
    console = shown_console(console)
    live = console.is_terminal and not console.is_dumb_terminal
    return LiveProgress(total_steps, console) if live else PlainProgress(total_steps, console)


class SilentProgress:
    """Shows nothing; for the ranks that are not the leader."""

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to stop."""

    def phase(self, label: str) -> None:
        """Ignored."""

    def update(self, step: int, *, reward: float, tokens_per_second: float, heldout: float | None = None) -> None:
        """Ignored."""

    def message(self, text: str) -> None:
        """Ignored."""


class PlainProgress:
    """One line of plain text for each step, so that a log stays readable."""

    def __init__(self, total_steps: int, console: Console) -> None:
        self._total = total_steps
        self._console = shown_console(console)
        self._clock = _Clock(total_steps)
        self._heldout: float | None = None

    def __enter__(self) -> Self:
        """Start the clock."""
        self._clock.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Every line is already there."""

    def phase(self, label: str) -> None:
        """Not shown: a log has a line for each step only."""

    def update(self, step: int, *, reward: float, tokens_per_second: float, heldout: float | None = None) -> None:
        """Print the step's line."""
        self._heldout = self._heldout if heldout is None else heldout
        left = self._clock.step_done(step)
        parts = [f"step {step}/{self._total}", *_numbers(reward, tokens_per_second, self._heldout)]
        self.message("  ".join([*parts, f"{_duration(left)} left"]))

    def message(self, text: str) -> None:
        """Print the line, with no markup and no wrapping."""
        print_text(self._console, lines(text))


class LiveProgress:
    """One line at the bottom of the terminal that is kept up to date."""

    def __init__(self, total_steps: int, console: Console) -> None:
        self._total = total_steps
        self._clock = _Clock(total_steps)
        self._heldout: float | None = None
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[numbers]}", markup=False),
            _TimeLeftColumn(self._clock),
            TextColumn("{task.description}", style="dim", markup=False),
            console=shown_console(console),
            redirect_stdout=False,
            redirect_stderr=False,  # stderr goes to the rank's log too
        )
        self._drawn = drawn(self._bar)
        self._task = self._bar.add_task("start", total=total_steps, numbers="")

    def __enter__(self) -> Self:
        """Start to draw."""
        self._clock.start()
        self._drawn.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Draw the last state and give the terminal back."""
        self._bar.update(self._task, description="")
        self._drawn.__exit__(None, None, None)

    def phase(self, label: str) -> None:
        """Show the label at the end of the line."""
        self._bar.update(self._task, description=one_line(label))

    def update(self, step: int, *, reward: float, tokens_per_second: float, heldout: float | None = None) -> None:
        """Show the step's numbers."""
        self._heldout = self._heldout if heldout is None else heldout
        self._clock.step_done(step)
        numbers = "  ".join(_numbers(reward, tokens_per_second, self._heldout))
        self._bar.update(self._task, completed=step, numbers=numbers, description="", refresh=True)

    def message(self, text: str) -> None:
        """Print the line above the live one."""
        print_text(self._bar.console, lines(text), wrap=True)


class _Clock:
    """Estimates the time left from the latest steps: they cost more as responses grow."""

    def __init__(self, total_steps: int) -> None:
        self._total = total_steps
        self._done = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=_RECENT_STEPS + 1)
        self.start()

    def start(self) -> None:
        self._marks.clear()
        self._marks.append((time.monotonic(), self._done))

    def step_done(self, step: int) -> float:
        """Seconds left after `step` steps."""
        if self._done == 0 and step > 1:  # a resumed run: the steps before were not done in this time
            first, _ = self._marks[0]
            self._marks[0] = (first, step - 1)
        self._done = step
        self._marks.append((time.monotonic(), step))
        left = self.seconds_left()
        assert left is not None
        return left

    def seconds_left(self) -> float | None:
        """Seconds left, None before the first step is done; falls while a step goes on."""
        (first_time, first_step), (last_time, last_step) = self._marks[0], self._marks[-1]
        if last_step == first_step:
            return None
        per_step = (last_time - first_time) / (last_step - first_step)
        return max(0.0, per_step * (self._total - last_step) - (time.monotonic() - last_time))


class _TimeLeftColumn(ProgressColumn):
    max_refresh = 0.5

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def render(self, task: Task) -> Text:
        left = self._clock.seconds_left()
        return words("" if left is None or task.finished else f"{_duration(left)} left", style="cyan")


def _numbers(reward: float, tokens_per_second: float, heldout: float | None) -> list[str]:
    known = [] if heldout is None else [f"held-out {heldout:.1%}"]
    return [f"reward {reward:.3f}", *known, f"{tokens_per_second:,.0f} tokens/s"]


def _duration(seconds: float) -> str:
    """E.g. 0:07, 4:31 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
