"""A signal at any moment of a run's start ends it as documented: exit code, no traceback, nothing left behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import psutil
import pytest
from thorough import some_of

from .command import ASPO, finish, start

pytestmark = [pytest.mark.e2e, pytest.mark.distributed, pytest.mark.timeout(240)]

SETTINGS = [
    "output_dir=run",
    "parallel.dp=2",
    "train.steps=40",
    "eval.every=0",
    "eval.max_problems=8",
    "reward.workers=2",
]
SETTINGS += ["warmup={updates: 8, batch_size: 8}"]
CODES = {signal.SIGTERM: 0, signal.SIGUSR1: 0, signal.SIGINT: 130, signal.SIGHUP: 129}

Moment = Callable[[Path, psutil.Process], bool]


def has_mapped(library: str) -> Moment:
    """The process itself has loaded a library."""
    return lambda run, process: library in Path(f"/proc/{process.pid}/maps").read_text()


def ranks_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if "aspo_megatron.launch.rank" in child.cmdline()]


def all_ranks(run: Path, process: psutil.Process) -> bool:
    return len(ranks_of(process)) == 2


def rank_has_mapped(library: str) -> Moment:
    def moment(run: Path, process: psutil.Process) -> bool:
        found = ranks_of(process)
        return bool(found) and library in Path(f"/proc/{found[-1].pid}/maps").read_text()

    return moment


def exists(pattern: str) -> Moment:
    return lambda run, process: any(run.glob(pattern))


def worker(run: Path, process: psutil.Process) -> bool:
    return any(
        "multiprocessing.spawn" in word for child in process.children(recursive=True) for word in child.cmdline()
    )


IN_EACH_PROCESS: dict[str, Moment] = {
    "the command is being imported": has_mapped("_pydantic_core"),
    "torch is being imported": has_mapped("libtorch"),
    "the configuration is kept": exists("config.yaml"),
    "a warm-up was done": exists("checkpoints/start*"),
    "the model was evaluated": exists("eval/step-000000.jsonl"),
    "workers start": worker,
}
UNDER_LAUNCH: dict[str, Moment] = IN_EACH_PROCESS | {
    "all ranks are there": all_ranks,
    "a rank is being imported": rank_has_mapped("_pydantic_core"),
    "a rank imports torch": rank_has_mapped("libtorch"),
}

BEFORE_THE_RUN = ("the command is being imported", "torch is being imported")
AS_RANKS_START = ("the configuration is kept",)
"""The command may or may not look after ranks at this moment."""

GOES_ON = "a warm-up was done"
"""The moment after which the same command is run to its end; test_places.py has the later ones."""


def wait_for(moment: Moment, run: Path, processes: list[subprocess.Popen[str]]) -> list[psutil.Process]:
    """Until the moment has come in the last of the processes; all there are then."""
    process = psutil.Process(processes[-1].pid)
    deadline = time.monotonic() + 120
    while True:
        if time.monotonic() > deadline or any(each.poll() is not None for each in processes):
            for each in processes:
                each.kill()
            raise AssertionError([finish(each) for each in processes])
        try:
            if moment(run, process):
                return [p for each in processes for p in psutil.Process(each.pid).children(recursive=True)]
        except (psutil.Error, OSError):
            pass
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def hears_sighup() -> Iterator[None]:
    """Where the tests run under nohup, so would what they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def assert_goes_on(folder: Path, work: Path) -> None:
    done = finish(start([*ASPO, "train", str(work / "small.yaml"), *SETTINGS, "train.steps=4"], folder))
    assert (done.code, done.stderr) == (0, "")
    assert (folder / "run" / "summary.json").is_file()


CASES = list(zip(UNDER_LAUNCH, cycle(CODES)))
QUICK = [case for case in CASES if "being imported" in case[0] or case[0] == "all ranks are there"]


@pytest.mark.parametrize(("name", "number"), some_of(CASES, QUICK))
def test_signal_to_the_command(tmp_path: Path, work: Path, name: str, number: signal.Signals) -> None:
    command = start([*ASPO, "train", str(work / "small.yaml"), *SETTINGS], tmp_path)
    others = wait_for(UNDER_LAUNCH[name], tmp_path / "run", [command])
    command.send_signal(number)
    done = finish(command)
    assert (done.code, "Traceback" in done.stderr) == (CODES[number], False), done
    ended = f"interrupted by {number.name}"
    left = f"{ended}; no state is saved yet; to resume: aspo train run/config.yaml\n"
    allowed = {BEFORE_THE_RUN: [f"{ended}\n"], AS_RANKS_START: [f"{ended}\n", left]}
    said = next((lines for names, lines in allowed.items() if name in names), [left])
    assert done.stderr in ([""] if CODES[number] == 0 else said)
    assert ("to resume" in done.stdout or "stopped by" in done.stdout) == (CODES[number] == 0)
    _, alive = psutil.wait_procs(others, timeout=10)
    assert alive == []
    if name == GOES_ON:
        assert_goes_on(tmp_path, work)


def start_rank(rank: int, port: int, folder: Path, work: Path) -> subprocess.Popen[str]:
    """One of two ranks, as srun starts them."""
    settings = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    settings |= {"RANK": rank, "LOCAL_RANK": rank}
    command = [*ASPO, "train", str(work / "small.yaml"), *SETTINGS]
    return start(["env", *(f"{key}={value}" for key, value in settings.items()), *command], folder)


OF_A_SCHEDULER = list(
    zip(
        ("the command is being imported", "torch is being imported", "a warm-up was done", "workers start"),
        CODES,
        strict=True,
    )
)


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "number"), OF_A_SCHEDULER)
def test_signal_to_ranks_of_a_scheduler(
    tmp_path: Path, work: Path, port: int, name: str, number: signal.Signals
) -> None:
    """All ranks get it, as from srun; at this moment in rank 0, and at any in the other."""
    both = [start_rank(rank, port, tmp_path, work) for rank in (1, 0)]
    others = wait_for(IN_EACH_PROCESS[name], tmp_path / "run", both)
    while not all(has_mapped("_pydantic_core")(tmp_path, psutil.Process(each.pid)) for each in both):
        time.sleep(0.002)  # before Python runs a signal ends a process by itself
    for each in both:
        each.send_signal(number)
    for each in both:
        done = finish(each)
        assert (done.code, "Traceback" in done.stderr) == (CODES[number], False), done
    _, alive = psutil.wait_procs(others, timeout=10)
    assert alive == []


@pytest.mark.parametrize("number", some_of([signal.SIGINT, signal.SIGHUP], [signal.SIGHUP]))
def test_a_rank_that_waits_for_rank_0_hears_signals(tmp_path: Path, work: Path, number: signal.Signals) -> None:
    """While torch connects no handler of Python's is called."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        process = start_rank(1, server.getsockname()[1], tmp_path, work)
        connection, _ = server.accept()
        with connection:
            time.sleep(0.5)
            process.send_signal(number)
            done = finish(process, timeout=20)
    assert (done.code, done.stderr) == (CODES[number], f"interrupted by {number.name}\n")


@pytest.mark.thorough
def test_a_warm_up_is_not_waited_for(tmp_path: Path, work: Path) -> None:
    """It would take hours. What a rank has computed shows that it is at it."""
    settings = [*SETTINGS, "warmup={updates: 1000000, batch_size: 8}"]
    command = start([*ASPO, "train", str(work / "small.yaml"), *settings], tmp_path)

    def at_it(run: Path, process: psutil.Process) -> bool:
        return any(rank.cpu_times().user > 15.0 for rank in ranks_of(process))

    wait_for(at_it, tmp_path / "run", [command])
    command.send_signal(signal.SIGTERM)
    done = finish(command)
    assert (done.code, done.stderr) == (0, "")
    assert "stopped as asked; to resume:" in done.stdout
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
