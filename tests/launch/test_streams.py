"""Commands whose stdin, stdout or stderr are closed, full or gone do what they do without them."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ASPO = f"{sys.executable} -m aspo_megatron.cli"
ALL = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"]
UNWRITABLE = [">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full", "| true", "1</dev/null", "2</dev/null"]

LAUNCHER = """
import os, sys
from pathlib import Path
from aspo_megatron import streams
from aspo_megatron.launch import launch
streams.open_closed()
folder = Path(sys.argv[1])
names = {number: os.readlink(f"/proc/self/fd/{number}") for number in range(3)}
with streams.unfailing():
    code = launch("launcher_rank", sys.argv[1:], len(sys.argv) - 2, 1, log_dir=folder / "logs", grace_seconds=1.0)
    print("said at the end")
(folder / "ended").write_text(f"{code} {names}")
sys.exit(code)
"""


def shell(line: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, whose exit code is that of the first command of a pipe."""
    path = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}", "bash", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize("how", [*ALL, *UNWRITABLE])
@pytest.mark.parametrize(("behaviours", "code"), [(["fine", "fine"], 0), (["sleep", "raise"], 1)])
def test_launcher_ends_as_it_would(tmp_path: Path, how: str, behaviours: list[str], code: int) -> None:
    done = shell(f'"$@" {how}', sys.executable, "-c", LAUNCHER, str(tmp_path), *behaviours)
    assert done.returncode == code, done
    ended = (tmp_path / "ended").read_text()
    assert ended.startswith(f"{code} ")
    assert "rank" not in ended  # no file of the run has one of the three numbers
    assert "Traceback" not in done.stderr or "ZeroDivisionError" in done.stderr


@cache
def alone(command: str) -> subprocess.CompletedProcess[str]:
    return shell(f"{ASPO} {command}")


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("command", ["losses", "train none.yaml"])
def test_commands_with_closed_descriptors(how: str, command: str) -> None:
    expected = alone(command)
    done = shell(f"{ASPO} {command} {how}")
    assert done.returncode == expected.returncode == (2 if "none" in command else 0)
    assert done.stdout == ("" if ">&-" in how.replace("2>&-", "") else expected.stdout)
    assert done.stderr == ("" if "2>&-" in how else expected.stderr)


@pytest.mark.parametrize(("how", "said"), [
    (">/dev/full", "error: stdout cannot be written: No space left on device\n"),
    ("1</dev/null", "error: stdout cannot be written: Bad file descriptor\n"),
])  # fmt: skip
def test_output_that_was_asked_for_and_is_lost_is_an_error(how: str, said: str) -> None:
    done = shell(f"{ASPO} losses {how}")
    assert (done.returncode, done.stderr) == (1, said)


def test_reader_that_has_seen_enough(tmp_path: Path) -> None:
    done = shell(f"{ASPO} losses | head -1")
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


SAYS = """
import sys
from aspo_megatron.streams import unfailing
with unfailing():
    for number in range(3):
        print("line", number, "\\u2713")
    print("done", file=sys.stderr)
"""


@pytest.mark.parametrize(("how", "reason"), [(">/dev/full", "No space left on device"), ("1</dev/null", "Bad file")])
def test_lost_output_of_a_run_is_told_once(how: str, reason: str) -> None:
    done = shell(f'"$@" {how}', sys.executable, "-c", SAYS)
    assert done.returncode == 0
    assert [reason in line for line in done.stderr.splitlines()] == [True, False]
    assert done.stderr.endswith("done\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_text_that_a_terminal_cannot_show(encoding: str) -> None:
    done = shell(f'PYTHONIOENCODING={encoding} "$@"', sys.executable, "-c", SAYS)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 3


def test_rank_that_a_library_ends_because_of_an_error_is_the_one_that_is_named(tmp_path: Path) -> None:
    done = shell('"$@"', sys.executable, "-c", LAUNCHER, str(tmp_path), "exit-for-an-error", "raise-later")
    assert done.returncode == 1
    assert "rank 0 of 2 failed:" in done.stderr
    assert "BrokenPipeError: the reader is gone" in done.stderr
    assert "closed by peer" not in done.stderr
