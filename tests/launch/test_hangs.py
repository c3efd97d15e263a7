"""Ranks that wait in vain name those that did not arrive, and where each was."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from thorough import some_of

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

HERE = Path(__file__).parent
MINUTES = 0.3

LAUNCHER = """
import sys
from pathlib import Path
from aspo_megatron.launch.launcher import launch
folder = Path(sys.argv[1])
argv = sys.argv[1:]
sys.exit(launch(
    "hanging_rank", argv, len(argv) - 2, 1, log_dir=folder / "logs", grace_seconds=1.0, timeout_minutes=float(argv[1])
))
"""

HANGS = {
    "stopped in the phase": (["wait", "wait", "stop in update"], {2: r"is stopped \(SIGSTOP\), last seen in .*update"}),
    "endless loop": (["wait", "loop in update"], {1: r"runs at launch/hanging_rank.py:\d+ endless_loop"}),
    "loop that holds the interpreter": (["wait", "hold in generate"], {1: r"does not answer, and was .*generate"}),
    "another collective": (
        ["wait", "elsewhere in update", "wait"],
        {1: r"waits for something else at .* wait_for_something_else"},
    ),
    "rank 0, stopped": (["stop in generate", "wait"], {0: r"is stopped \(SIGSTOP\), last seen in step 1, generate"}),
    "two": (
        ["wait", "stop in generate", "wait", "loop in update"],
        {1: r"is stopped \(SIGSTOP\)", 3: "runs at .* endless_loop"},
    ),
    "one gives up before": (["wait longer", "wait", "stop in update"], {2: r"is stopped \(SIGSTOP\), .*update"}),
    "arrives later": (["wait", "late"], {1: "runs at .* late"}),
}


ALONE = {name: HANGS[name] for name in ("rank 0, stopped", "two")} | {
    "one dies": (["wait", "die in update"], {1: "does not answer, and was last seen in step 1, update"})
}
"""Without the launcher, which has other words for a rank that dies."""


def names(text: str, size: int, late: dict[int, str]) -> None:
    """See that `text` says of these ranks, and of no others, that they did not arrive."""
    found = {
        int(number): words for number, words in re.findall(rf"^rank (\d+) of {size} did not arrive(.*)$", text, re.M)
    }
    assert found.keys() == late.keys(), text
    for number, pattern in late.items():
        assert re.search(pattern, found[number]), text
        assert "SIGSTOP" not in found[number] or "stop" in pattern.lower()


def launcher(folder: Path, *behaviours: str, minutes: float = MINUTES) -> subprocess.Popen[str]:
    """The launcher of ranks that behave so."""
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(folder), str(minutes), *behaviours],
        env={**os.environ, "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"},
        stderr=subprocess.PIPE,
        text=True,
    )


def launched(folder: Path, *behaviours: str, minutes: float = MINUTES) -> str:
    """What a launch of ranks that behave so has said, which has failed."""
    with launcher(folder, *behaviours, minutes=minutes) as process:
        _, said = process.communicate()
    assert process.returncode == 1
    return said


@pytest.mark.parametrize("name", some_of(HANGS, ["another collective"]))
def test_launcher_names_the_ranks_that_did_not_arrive(tmp_path: Path, name: str) -> None:
    behaviours, late = HANGS[name]
    said = launched(tmp_path, *behaviours)
    names(said, len(behaviours), late)
    assert "did not arrive and the run was ended" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert "in step 1, update, at" in said  # where the others wait
    logs = [log.read_text() for log in (tmp_path / "logs").glob("rank*.log")]
    assert any("Timed out" in log for log in logs)  # its own error is kept


@pytest.mark.thorough
def test_launcher_that_looks_when_all_ranks_have_ended(tmp_path: Path) -> None:
    behaviours, late = ["wait", "elsewhere in update", "stop the launcher in update"], HANGS["another collective"][1]
    with launcher(tmp_path, *behaviours) as process:
        parent = psutil.Process(process.pid)
        try:
            while not (parent.status() == psutil.STATUS_STOPPED and all(has_ended(rank) for rank in parent.children())):
                time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGCONT)
        _, said = process.communicate()
    names(said, 3, late)


def has_ended(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.thorough
def test_rank_that_is_lost_before_the_others_meet(tmp_path: Path) -> None:
    said = launched(tmp_path, "wait", "start-up", minutes=0.1)
    names(said, 2, {1: "has not met the other ranks: it is in its start-up"})


@pytest.mark.thorough
def test_process_that_a_watchdog_aborts_is_not_the_one_that_is_named(tmp_path: Path) -> None:
    names(launched(tmp_path, "abort", "stop in generate"), 2, {1: r"is stopped \(SIGSTOP\)"})


@pytest.mark.parametrize("name", some_of(ALONE, ["rank 0, stopped"]))
def test_ranks_without_the_launcher_name_them_too(tmp_path: Path, port: int, name: str) -> None:
    behaviours, late = ALONE[name]
    size = len(behaviours)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "hanging_rank", str(tmp_path), str(MINUTES), *behaviours],
            env={
                **os.environ,
                "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
                "RANK": str(number),
                "LOCAL_RANK": str(number),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(size)
    ]
    waiting = next(number for number, behaviour in enumerate(behaviours) if behaviour.startswith("wait"))
    try:
        _, said = ranks[waiting].communicate(timeout=100)
        assert ranks[waiting].returncode == 1
        # Rank 0 holds the store: while it is stopped nothing can be learnt of the others, nor what it did last.
        names(said, size, {0: r"is stopped \(SIGSTOP\)|does not answer"} if behaviours[0].startswith("stop") else late)
        assert re.search(r"^error: ranks? .*did not arrive", said.splitlines()[-1])
    finally:
        for rank in ranks:
            rank.send_signal(signal.SIGKILL)
            rank.communicate()
