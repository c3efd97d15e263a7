"""Commands whose stdin, stdout or stderr are closed, full or gone do what they do without them."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import pytest
from launch.stuck import HOW, read_what_is_there, stuck
from thorough import one_in, some_of

from aspo_megatron.streams import PATIENCE_SECONDS, ShownStream, say, shown, unfailing

ASPO = f"{sys.executable} -m aspo_megatron.cli"
ALL = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"]
UNWRITABLE = [">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full", "| true", "1</dev/null", "2</dev/null"]

LAUNCHER = """
import os, sys
from pathlib import Path
from aspo_megatron import streams
from aspo_megatron.launch.launcher import launch
streams.open_closed()
folder = Path(sys.argv[1])
names = {number: os.readlink(f"/proc/self/fd/{number}") for number in range(3)}
with streams.unfailing(patience_seconds=0.1):
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


@pytest.mark.parametrize("how", some_of([*ALL, *UNWRITABLE], [ALL[0], UNWRITABLE[0]]))
@pytest.mark.parametrize(("behaviours", "code"), [(["fine", "fine"], 0), (["sleep", "raise"], 1)])
def test_launcher_ends_as_it_would(tmp_path: Path, how: str, behaviours: list[str], code: int) -> None:
    done = shell(f'"$@" {how}', sys.executable, "-c", LAUNCHER, str(tmp_path), *behaviours)
    assert done.returncode == code, done
    ended = (tmp_path / "ended").read_text()
    assert ended.startswith(f"{code} ")
    assert "rank" not in ended  # no file of the run has one of the three numbers
    assert "Traceback" not in done.stderr or "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("how", one_in(3, HOW))
@pytest.mark.parametrize(("behaviours", "code"), [
    (["flood", "fine"], 0),
    (["flood-and-raise", "sleep"], 1),
    (["flood-and-sleep", "raise-after-flood"], 1),
])  # fmt: skip
def test_rank_0_goes_on_when_nobody_reads_the_launchers_stderr(
    tmp_path: Path, how: str, behaviours: list[str], code: int
) -> None:
    argv = [sys.executable, "-c", LAUNCHER, str(tmp_path), *behaviours]
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    with stuck(how) as (_, writing):
        done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, stderr=writing, text=True, check=False, timeout=50)
    assert done.returncode == code
    assert done.stdout.endswith("said at the end\n")
    log = (tmp_path / "logs" / "rank0.log").read_text().splitlines()
    assert [line.split()[0] for line in log if line.endswith("xxx")] == [str(number) for number in range(256)]


@cache
def alone(command: str) -> subprocess.CompletedProcess[str]:
    return shell(f"{ASPO} {command}")


@pytest.mark.parametrize("how", one_in(4, ALL))
@pytest.mark.parametrize("command", some_of(["losses", "train none.yaml"], ["losses"]))
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


def open_as(pid: int, name: str) -> int:
    """How many descriptors of a process are of this file."""
    with contextlib.suppress(OSError):
        return sum(os.readlink(each) == name for each in Path(f"/proc/{pid}/fd").iterdir())
    return 0


def test_output_that_was_asked_for_waits_for_its_reader() -> None:
    with stuck("pipe") as (reading, writing):
        process = subprocess.Popen([*ASPO.split(), "losses"], stdout=writing, stderr=subprocess.PIPE, text=True)
        while open_as(process.pid, os.readlink(f"/proc/self/fd/{writing}")) < 2:  # it has opened it to write to it
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(PATIENCE_SECONDS + 1)  # longer than a run would wait
        assert process.poll() is None, process.communicate()
        got = read_what_is_there(reading)
        _, stderr = process.communicate(timeout=100)
        got += read_what_is_there(reading)
    assert (process.returncode, stderr) == (0, "")
    assert got.lstrip(b"x").decode() == alone("losses").stdout


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


SCRIPT = """
import logging
from aspo_megatron.metrics.progress import progress_display
from aspo_megatron.streams import unfailing
with unfailing():
    print("before")
    with progress_display(3, leader=True) as display:
        for step in range(1, 4):
            display.update(step, reward=0.5, tokens_per_second=1.0)
            logging.getLogger("a").warning("a warning")
            print("a library's line")
    print("the result")
"""


@pytest.mark.parametrize("redirection", [
    ">/dev/full", "2>/dev/null >/dev/full", ">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-", "| true", "| head -1",
    "2>&1 | head -c 1", "2>/dev/full", ">/dev/full 2>&1", "1</dev/null",
])  # fmt: skip
def test_process_ends_well_wherever_it_shows(redirection: str) -> None:
    done = shell(f'"$@" {redirection}', sys.executable, "-c", SCRIPT)
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr
    told = done.stderr.count("warning: stdout cannot be written")
    assert told <= 1
    assert told == 1 or redirection not in (">/dev/full", "1</dev/null")


def test_rank_that_a_library_ends_because_of_an_error_is_the_one_that_is_named(tmp_path: Path) -> None:
    done = shell('"$@"', sys.executable, "-c", LAUNCHER, str(tmp_path), "exit-for-an-error", "raise-later")
    assert done.returncode == 1
    assert "rank 0 of 2 failed:" in done.stderr
    assert "BrokenPipeError: the reader is gone" in done.stderr
    assert "closed by peer" not in done.stderr


def test_slow_reader_gets_all_of_it() -> None:
    got = bytearray()
    errors: list[OSError] = []
    with stuck("pipe") as (reading, writing):

        def read() -> None:
            while not got.endswith(b"the end\n"):
                got.extend(os.read(reading, 1000))

        thread = threading.Thread(target=read)
        with os.fdopen(os.dup(writing), "w") as file:
            stream = ShownStream(file, errors.append)
            thread.start()
            for number in range(500):
                stream.write(f"line {number} {'y' * 500}\n")
            stream.write(f"{'z' * 200_000}\nthe end\n")
        thread.join()
    *lines, last, end = got.lstrip(b"x").decode().splitlines()
    assert [line.split()[1] for line in lines] == [str(number) for number in range(500)]
    assert (last, end, errors) == ("z" * 200_000, "the end", [])


class AlwaysReady:
    """Says that there is room, which others have taken by the time it is written to."""

    def register(self, descriptor: int, events: int) -> None:
        pass

    def poll(self, milliseconds: float | None) -> list[tuple[int, int]]:
        return [(0, select.POLLOUT)]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("how", [how for how in HOW if how != "socket"])
def test_room_that_others_take_first_keeps_nobody_waiting(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[OSError] = []
    with stuck(how) as (_, writing), os.fdopen(os.dup(writing), "w") as file:
        stream = ShownStream(file, errors.append, patience_seconds=0.1)
        monkeypatch.setattr("select.poll", AlwaysReady)
        for number in range(10):
            stream.write(f"line {number}\n")
    assert [error.errno for error in errors] == [errno.EAGAIN]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_what_the_encoding_lacks_is_an_escape(tmp_path: Path, encoding: str) -> None:
    with (tmp_path / "log").open("w", encoding=encoding) as file:
        ShownStream(file).write("é ∞ \ud800\n")
    found = (tmp_path / "log").read_text(encoding=encoding)
    assert found == "é ∞ \ud800\n".encode(encoding, errors="backslashreplace").decode(encoding)


def test_without_stdout_and_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    say("nobody hears it")
    with unfailing():
        print("nor this")
        print("nor this", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == (None, None)


def test_stderr_that_cannot_be_written_either(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        ShownStream(full).write("a line\n")
        say("a line")


def test_stream_that_never_fails_is_not_put_in_front_of_itself() -> None:
    with unfailing():
        outer = sys.stdout, sys.stderr
        assert shown(sys.stdout) is outer[0]
        with unfailing():
            assert (sys.stdout, sys.stderr) == outer
