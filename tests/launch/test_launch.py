"""The launcher with real processes: whatever ends one rank ends all of them, and the first error is the one shown."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from thorough import some_of

from aspo_megatron.errors import UserError
from aspo_megatron.launch.hang_verdict import Verdict
from aspo_megatron.launch.launcher import launch
from aspo_megatron.launch.outcome import explain, told
from aspo_megatron.launch.rank import running_under_launcher
from aspo_megatron.launch.rank_process import Failure, RankProcess

pytestmark = pytest.mark.timeout(60)

LAUNCHER = """
import signal, sys
from pathlib import Path
from aspo_megatron.launch.launcher import launch
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored if the tests run in the background
folder = Path(sys.argv[1])
sys.exit(launch("launcher_rank", sys.argv[1:], len(sys.argv) - 2, 3, log_dir=folder / "logs", grace_seconds=1.0))
"""


class Run:
    """A launcher in a process of its own, with one rank for each behaviour."""

    def __init__(self, folder: Path, behaviours: Sequence[str]) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(folder), *behaviours],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> tuple[int, str, str]:
        stdout, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stdout, stderr

    def rank(self, number: int) -> dict[str, Any]:
        """What the rank was given; waits for it to be there."""
        path = self.folder / f"{number}.json"
        wait_until(path.exists)
        return json.loads(path.read_text())

    def log(self, number: int) -> str:
        return (self.folder / "logs" / f"rank{number}.log").read_text()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for 20 seconds"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def assert_all_gone(run: Run) -> None:
    for path in run.folder.glob("*.json"):
        pid = json.loads(path.read_text())["pid"]
        assert is_gone(pid), f"{path.stem} still runs"


def test_ranks_get_what_torchrun_gives_and_the_launcher_their_success(tmp_path: Path) -> None:
    run = Run(tmp_path, ["fine", "fine"])
    code, stdout, stderr = run.finish()
    assert (code, stdout, stderr) == (0, "stdout of 0\n", "stderr of 0\n")
    given = [run.rank(0), run.rank(1)]
    assert [one["RANK"] for one in given] == ["0", "1"] == [one["LOCAL_RANK"] for one in given]
    for one in given:
        assert one["WORLD_SIZE"] == one["LOCAL_WORLD_SIZE"] == "2"
        assert one["MASTER_ADDR"] == "127.0.0.1"
        assert one["OMP_NUM_THREADS"] == "3"
        assert one["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
        assert one["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert given[0]["MASTER_PORT"] == given[1]["MASTER_PORT"]
    assert run.log(0) == "stderr of 0\n"
    assert sorted(run.log(1).splitlines()) == ["stderr of 1", "stdout of 1"]


def test_crash_in_one_rank_ends_the_sleeping_other_and_shows_the_traceback(tmp_path: Path) -> None:
    run = Run(tmp_path, ["sleep", "raise"])
    code, _, stderr = run.finish()
    assert code == 1
    assert "rank 1 of 2 failed:" in stderr
    assert "ZeroDivisionError: broken at 1" in stderr
    assert 'raise ZeroDivisionError(f"broken at {rank}")' in stderr
    assert "ZeroDivisionError: broken at 1" in run.log(1)
    assert_all_gone(run)


def test_first_error_is_shown_not_the_one_that_follows_from_it(tmp_path: Path) -> None:
    code, _, stderr = Run(tmp_path, ["raise-later", "raise"]).finish()
    assert code == 1
    assert "rank 1 of 2 failed:" in stderr
    assert "ZeroDivisionError" in stderr
    assert "closed by peer" not in stderr


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("os-exit", "rank 1 of 2 ended with exit code 7"), ("segfault", "rank 1 of 2 was killed by SIGSEGV")],
)
def test_rank_that_vanishes_is_named_with_its_last_output(tmp_path: Path, behaviour: str, words: str) -> None:
    run = Run(tmp_path, ["sleep", behaviour])
    code, _, stderr = run.finish()
    assert code == 1
    assert words in stderr
    assert "stderr of 1" in stderr
    if behaviour == "segfault":
        assert "launcher_rank.py" in stderr  # the stack at the fault
    assert_all_gone(run)


@pytest.mark.distributed
def test_killed_rank_is_blamed_and_not_the_peer_whose_connection_broke(tmp_path: Path) -> None:
    run = Run(tmp_path, ["store", "store"])
    code, stdout, stderr = run.finish()
    assert code == 1
    assert "sum 3" in stdout  # they did meet at the launcher's port
    assert "rank 1 of 2 was killed by SIGKILL" in stderr
    assert "rank 0 of 2" not in stderr
    assert "RuntimeError" in run.log(0)  # what rank 0 had to say is kept
    assert_all_gone(run)
    with socket.socket() as free:  # the port is free again: no SO_REUSEADDR needed, only TIME_WAIT may linger
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("", int(run.rank(0)["MASTER_PORT"])))
        free.listen()


GLOO = "Traceback ...\nRuntimeError: [.../pair.cc:553] Connection closed by peer [127.0.0.1]:35540"


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGSEGV, 1, 3])
def test_rank_that_is_found_dead_after_its_peers_is_blamed_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    """A large process is dead for a while before it can be seen: its connections are closed first."""
    failures = [Failure(0, 10.0, 1, GLOO, reported=True), Failure(1, 10.2, code, "", reported=False)]
    failures += [Failure(2, 10.1, 1, GLOO.replace("closed", "reset"), reported=True)]
    ranks = [
        RankProcess(number, subprocess.Popen(["true"]), tmp_path / f"rank{number}.log", tmp_path / "report")
        for number in range(3)
    ]
    for rank in ranks:
        rank.process.wait()
    assert told(explain(failures, Verdict([], ""), ranks, tmp_path)) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: rank 1 failed and the run was ended")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_to_the_launcher_ends_all_ranks(tmp_path: Path, number: signal.Signals, code: int) -> None:
    run = Run(tmp_path, ["ignore-sigterm", "sleep"])
    run.rank(0), run.rank(1)
    wait_until((tmp_path / "ignoring").exists)
    run.process.send_signal(number)
    got, _, stderr = run.finish()
    assert got == code
    assert f"interrupted by {number.name}" in stderr
    assert "Traceback" not in stderr
    assert_all_gone(run)


@pytest.mark.parametrize(("behaviour", "code"), [("end", 0), ("raise", 1), ("user-error", 2), ("os-exit", 1)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_that_comes_after_the_end_changes_nothing(
    tmp_path: Path, number: signal.Signals, behaviour: str, code: int
) -> None:
    """The launcher waits for the last output while rank 0 has ended."""
    run = Run(tmp_path, [f"linger-and-{behaviour}"])
    pid = run.rank(0)["pid"]
    wait_until(lambda: not psutil.pid_exists(pid))
    run.process.send_signal(number)
    (tmp_path / "let-go").touch()
    returned, _, stderr = run.finish()
    assert returned == code
    assert "interrupted" not in stderr
    assert ("broken at 0" in stderr) == (behaviour == "raise")


LARGE_LOG = """
import resource, sys
from pathlib import Path
from aspo_megatron.launch.rank_process import RankProcess
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
rank = RankProcess(0, None, Path(sys.argv[1]), Path("none"), None)
print(rank.tail(), rank._ended_by_watchdog(-6))
"""


@pytest.mark.parametrize("lines", some_of([1, 30, 300], [30]))
def test_log_that_is_larger_than_memory(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "rank0.log"
    with path.open("wb") as file:
        for _ in range(20):
            file.seek(1 << 26, os.SEEK_CUR)
            file.write(b"\n")
        file.writelines(b"line %d\n" % number for number in range(lines))
    said = subprocess.run([sys.executable, "-c", LARGE_LOG, path], capture_output=True, text=True, check=True).stdout
    assert said.endswith(f"'line {lines - 1}'] False\n")
    assert said.count("line ") == min(lines, 20)


def test_ranks_die_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    run = Run(tmp_path, ["ignore-sigterm", "sleep"])
    pids = [run.rank(0)["pid"], run.rank(1)["pid"]]
    run.process.kill()
    for pid in pids:
        wait_until(partial(is_gone, pid))
    run.finish()


@pytest.mark.parametrize("behaviour", ["child", "child-of-its-own-group"])
def test_processes_that_a_rank_has_started_end_with_it(tmp_path: Path, behaviour: str) -> None:
    run = Run(tmp_path, [behaviour, "raise"])
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text() != "")
    code, _, _ = run.finish()
    assert code == 1
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: is_gone(child))


def test_user_error_of_all_ranks_is_one_line_and_code_2(tmp_path: Path) -> None:
    run = Run(tmp_path, ["user-error", "user-error"])
    code, _, stderr = run.finish()
    assert code == 2
    assert stderr == "stderr of 0\nerror: data.train.path: no such file problems.jsonl\n"
    assert "no such file" in run.log(0)
    assert "no such file" in run.log(1)


@pytest.mark.parametrize("behaviours", [("sleep", "print-and-exit-2"), ("print-and-exit-2", "sleep")])
def test_line_of_a_rank_that_exits_with_2_is_shown_once(tmp_path: Path, behaviours: tuple[str, str]) -> None:
    code, _, stderr = Run(tmp_path, behaviours).finish()
    assert code == 2
    assert stderr.splitlines() == ["stderr of 0", "error: said by the rank itself"]


def test_error_while_importing_the_module_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch("aspo_megatron.no_such_module", [], 2, 1, log_dir=tmp_path) == 1
    assert "No module named aspo_megatron.no_such_module" in capfd.readouterr().err


def test_log_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        launch("launcher_rank", [], 1, 1, log_dir=tmp_path / "file" / "logs")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_handlers_are_put_back(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    launch("aspo_megatron.no_such_module", [], 1, 1, log_dir=tmp_path)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("main", "code", "last_line"), [
    ("raise UserError('no such file')", 2, "error: no such file"),
    ("raise ValueError('broken')", 1, "ValueError: broken"),
    ("return 5", 5, "before"),
])  # fmt: skip
def test_rank_main_without_the_launcher_writes_to_stderr(main: str, code: int, last_line: str) -> None:
    script = f"""
import sys
from aspo_megatron.errors import UserError
from aspo_megatron.launch.rank import rank_main
def main():
    print("before", file=sys.stderr)
    {main}
rank_main(main)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == code
    assert result.stderr.splitlines()[-1] == last_line


@pytest.mark.parametrize(("env", "expected"), [
    ({}, False),
    ({"RANK": "0", "WORLD_SIZE": "1"}, True),
    ({"RANK": "0"}, False),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, False),  # a batch script
    ({"SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}, True),
    ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}, False),
    # A shell in an allocation of four tasks: a step of one task.
    ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, False),
])  # fmt: skip
def test_running_under_launcher(env: dict[str, str], expected: bool) -> None:
    assert running_under_launcher(env) is expected
