"""What is shown, where nothing can be shown."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from rich.console import Console

from aspo_megatron.metrics.eval_progress import EvalProgress
from aspo_megatron.metrics.progress import progress_display
from aspo_megatron.metrics.scores import Scores
from aspo_megatron.metrics.shown import ShownStream, say, stdout_never_fails

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


def show_a_run(file: IO[str]) -> None:
    console = Console(file=file, force_terminal=file.isatty(), width=120)
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
    line = f"warning: stdout cannot be written ({os.strerror(code)}); this goes on, and is not shown there\n"
    assert said == line * (file._takes < 0)


@pytest.mark.parametrize("show", [show_a_run, show_an_evaluation])
def test_a_closed_file_object(show: Callable[[IO[str]], None], capsys: pytest.CaptureFixture[str]) -> None:
    file = Failing(ValueError("I/O operation on closed file"), 0, terminal=False)
    show(file)
    assert capsys.readouterr().err.count("I/O operation on closed file") == 1


def full_pipe(blocking: bool) -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, blocking)
    return reading, writing


@pytest.mark.parametrize("blocking", [False, True])
def test_a_reader_that_stands_still_is_not_waited_for_again(
    blocking: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspo_megatron.metrics.shown._PATIENCE_SECONDS", 0.1)
    reading, writing = full_pipe(blocking)
    with os.fdopen(writing, "w") as file:
        show_a_run(file)
        assert capfd.readouterr().err.count("stdout cannot be written") == 1
        assert os.read(reading, 1 << 20).strip(b"x") == b""
        show_a_run(file)
        assert b"the last line\n" in os.read(reading, 1 << 20)
        assert capfd.readouterr().err == ""
    os.close(reading)


def test_a_slow_reader_gets_all_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = full_pipe(blocking=True)
    got = bytearray()

    def read() -> None:
        while data := os.read(reading, 1000):
            got.extend(data)

    thread = threading.Thread(target=read)
    with os.fdopen(writing, "w") as file:
        stream = ShownStream(file, "stdout")
        thread.start()
        for number in range(500):
            stream.write(f"line {number} {'y' * 500}\n")
    thread.join()
    os.close(reading)
    lines = got.lstrip(b"x").decode().splitlines()
    assert [line.split()[1] for line in lines] == [str(number) for number in range(500)]
    assert capfd.readouterr().err == ""


def test_a_terminal_that_is_gone(capfd: pytest.CaptureFixture[str]) -> None:
    main, other = os.openpty()
    with os.fdopen(other, "w") as file:
        os.close(main)
        show_a_run(file)
        show_an_evaluation(file)
    assert "Input/output error" in capfd.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_what_the_encoding_lacks_is_an_escape(tmp_path: Path, encoding: str) -> None:
    with (tmp_path / "log").open("w", encoding=encoding) as file:
        ShownStream(file, "stdout").write("é ∞ \ud800\n")
    shown = (tmp_path / "log").read_text(encoding=encoding)
    assert shown == "é ∞ \ud800\n".encode(encoding, errors="backslashreplace").decode(encoding)


def test_without_stdout_and_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    say("nobody hears it")
    with stdout_never_fails():
        print("nor this")
    with progress_display(1, leader=True) as display:
        display.message("nor this")


def test_stderr_that_cannot_be_written_either() -> None:
    with Path("/dev/full").open("w") as full:
        ShownStream(full, "stderr").write("a line\n")


SCRIPT = """
import logging
from aspo_megatron.metrics.progress import progress_display
from aspo_megatron.metrics.shown import stdout_never_fails
with stdout_never_fails():
    with progress_display(3, leader=True) as display:
        for step in range(1, 4):
            display.update(step, reward=0.5, tokens_per_second=1.0)
            logging.getLogger("a").warning("a warning")
            print("a library's line")
    print("the result")
"""


@pytest.mark.parametrize(
    "redirection",
    [
        ">/dev/full", "2>/dev/null >/dev/full", ">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-", "| true", "| head -1",
        "2>&1 | head -c 1",
        "2>/dev/full",
        ">/dev/full 2>&1",
    ],
)  # fmt: skip
def test_a_process_ends_well_wherever_it_shows(redirection: str) -> None:
    command = f'set -o pipefail; "$0" -c "$1" {redirection}'
    argv = ["bash", "-c", command, sys.executable, SCRIPT]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
