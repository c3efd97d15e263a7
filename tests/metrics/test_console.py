"""What is shown, where nothing can be shown."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import IO, cast

import pytest
from launch.stuck import HOW, read_what_is_there, stuck
from rich.console import Console

from aspo_megatron.evaluation.progress import EvalProgress
from aspo_megatron.evaluation.scores import Scores
from aspo_megatron.metrics.progress import progress_display
from aspo_megatron.streams import ShownStream

CODES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE, errno.EBADF, errno.EAGAIN, errno.EFBIG, errno.ENXIO)


class Failing(io.StringIO):
    """A terminal or log that takes so many writes and then fails."""

    def __init__(self, error: Exception, takes: int, terminal: bool) -> None:
        super().__init__()
        self._error, self._takes, self._terminal = error, takes, terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self._takes -= 1
        if self._takes < 0:
            raise self._error
        return super().write(text)


def show_a_run(file: IO[str] | ShownStream) -> None:
    console = Console(file=cast(IO[str], file), force_terminal=file.isatty(), width=120)
    with progress_display(3, leader=True, console=console) as display:
        display.message("a line")
        for step in (1, 2, 3):
            display.phase("generate")
            display.update(step, reward=0.5, tokens_per_second=1.0, heldout=0.5)
        display.message("the last line")


def show_an_evaluation(file: IO[str]) -> None:
    console = Console(file=file, force_terminal=file.isatty(), width=120)
    with EvalProgress("sums", 1, 3, console) as display:
        for done in (2, 3):
            display.update(done, Scores.of([1] * done, 2, (1,)))
        display.message("the last line")


@pytest.mark.parametrize("show", [show_a_run, show_an_evaluation])
@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("takes", [0, 1, 2, 5])
@pytest.mark.parametrize("code", CODES)
def test_an_error_of_the_display_is_said_once(
    show: Callable[[IO[str]], None],
    terminal: bool,
    takes: int,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = Failing(OSError(code, os.strerror(code)), takes, terminal)
    show(file)
    said = capsys.readouterr().err
    line = f"warning: stdout cannot be written ({os.strerror(code)}); the command continues, but shows nothing there\n"
    assert said == line * (file._takes < 0)


@pytest.mark.parametrize("show", [show_a_run, show_an_evaluation])
def test_a_closed_file_object(show: Callable[[IO[str]], None], capsys: pytest.CaptureFixture[str]) -> None:
    file = Failing(ValueError("I/O operation on closed file"), 0, terminal=False)
    show(file)
    assert capsys.readouterr().err.count("I/O operation on closed file") == 1


@pytest.mark.parametrize("how", HOW)
def test_a_reader_that_stands_still_is_not_waited_for_again(how: str, capfd: pytest.CaptureFixture[str]) -> None:
    with stuck(how) as (reading, writing), os.fdopen(os.dup(writing), "w") as file:
        stream = ShownStream(file, patience_seconds=0.1)
        show_a_run(stream)
        assert capfd.readouterr().err.count("stdout cannot be written (its reader stands still)") == 1
        assert read_what_is_there(reading).strip(b"x") == b""
        show_a_run(stream)
        assert b"the last line" in read_what_is_there(reading)
        assert capfd.readouterr().err == ""


def test_a_terminal_that_is_gone(capfd: pytest.CaptureFixture[str]) -> None:
    main, other = os.openpty()
    with os.fdopen(other, "w") as file:
        os.close(main)
        show_a_run(file)
        show_an_evaluation(file)
    assert "Input/output error" in capfd.readouterr().err


def test_without_stdout_and_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with progress_display(1, leader=True) as display:
        display.message("nobody hears it")
