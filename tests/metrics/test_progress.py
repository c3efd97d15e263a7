"""What a run shows, in a terminal and in a log."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from aspo_megatron.metrics.progress import LiveProgress, PlainProgress, SilentProgress, progress_display

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return ESCAPES.sub("", console.file.getvalue())


def test_display_fits_the_place() -> None:
    assert isinstance(progress_display(3, leader=False), SilentProgress)
    assert isinstance(progress_display(3, leader=True, console=terminal()), LiveProgress)
    assert isinstance(progress_display(3, leader=True, console=Console(file=io.StringIO())), PlainProgress)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = terminal()
    with progress_display(2, leader=True, console=console) as display:
        display.phase("generate")
        display.update(1, reward=0.5, tokens_per_second=10.0)
        display.update(2, reward=0.5, tokens_per_second=10.0)
    assert [line.split("  ")[0] for line in text_of(console).splitlines()] == ["step 1/2", "step 2/2"]


def test_log_has_one_plain_line_a_step() -> None:
    console = Console(file=io.StringIO(), width=20)  # lines are not wrapped, whatever the width
    with progress_display(12, leader=True, console=console) as display:
        display.message("held-out accuracy [before]: 48.5%")
        display.phase("generate")
        display.update(1, reward=0.5, tokens_per_second=1234.4)
        display.update(2, reward=0.53125, tokens_per_second=20.0, heldout=0.625)
        display.update(3, reward=0.75, tokens_per_second=20.0)
    lines = text_of(console).splitlines()
    assert lines[0] == "held-out accuracy [before]: 48.5%"
    assert re.fullmatch(r"step 1/12  reward 0\.500  1,234 tokens/s  0:00 left", lines[1])
    assert lines[2].startswith("step 2/12  reward 0.531  held-out 62.5%  20 tokens/s  ")
    assert lines[3].startswith("step 3/12  reward 0.750  held-out 62.5%  ")
    assert len(lines) == 4


def test_terminal_shows_phase_numbers_and_the_last_state() -> None:
    console = terminal()
    with progress_display(12, leader=True, console=console) as display:
        display.phase("generate [all]")
        display.update(7, reward=0.5, tokens_per_second=1234.4, heldout=0.625)
        display.message("a line that stays")
    shown = text_of(console)
    assert "a line that stays" in shown
    last = shown.splitlines()[-1]
    for words in ("step 7/12", "reward 0.500", "held-out 62.5%", "1,234 tokens/s", "left"):
        assert words in last


def test_resumed_run_does_not_count_earlier_steps_as_done_in_no_time() -> None:
    console = Console(file=io.StringIO())
    with PlainProgress(1000, console) as display:
        display.update(900, reward=0.0, tokens_per_second=1.0)
        display.update(1000, reward=0.0, tokens_per_second=1.0)
    assert text_of(console).splitlines()[-1].endswith("0:00 left")


def test_other_ranks_show_nothing(capsys) -> None:
    with progress_display(2, leader=False) as display:
        display.phase("train")
        display.update(1, reward=1.0, tokens_per_second=1.0)
        display.message("x")
    assert capsys.readouterr() == ("", "")
