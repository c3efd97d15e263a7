"""What `aspo eval` shows while it goes: a bar with the average so far in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from aspo_megatron.evaluation.scores import Scores
from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.console import drawn, lines, print_text, shown_console

_LINE_SECONDS = 10.0


class EvalProgress:
    """The course of one evaluation. Use as a context manager. It raises nothing when nothing can be shown."""

    def __init__(self, name: str, done: int, total: int, console: Console | None = None) -> None:
        """`done` of `total` problems were answered by an earlier process."""
        self._name, self._before, self._total = one_line(name), done, total
        self._console = shown_console(console)
        self._began = self._said = time.monotonic()
        self._shown = ExitStack()
        self._bar: Progress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f} problems"),
                TextColumn("{task.fields[average]}", markup=False),
                TimeRemainingColumn(),
                console=self._console,
                redirect_stdout=False,
                redirect_stderr=False,  # stderr goes to the rank's log too
                transient=True,
            )
            self._task = self._bar.add_task(self._name, total=total, completed=done, average="")

    def __enter__(self) -> Self:
        """Start to show."""
        if self._bar:
            self._shown.enter_context(drawn(self._bar))
        if self._before:
            self.message(f"{self._name}: {self._before} of {self._total} problems were done before")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Give the terminal back."""
        self._shown.close()

    def update(self, done: int, scores: Scores) -> None:
        """So many problems are done, with these scores."""
        average = f"avg@{scores.samples} {scores.average.value:.1%}"
        if self._bar:
            self._bar.update(self._task, completed=done, average=average)
            return
        now = time.monotonic()
        if done < self._total and now - self._said >= _LINE_SECONDS:
            self._said = now
            left = (now - self._began) / (done - self._before) * (self._total - done)
            self.message(f"{self._name}: {done} of {self._total} problems, {average} so far, {left / 60:.0f} min left")

    def message(self, text: str) -> None:
        """Show a line that stays."""
        print_text(self._console, lines(text))
