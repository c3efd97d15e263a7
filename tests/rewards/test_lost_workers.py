"""What is done to reward workers from outside changes no reward; what a response does to them costs it alone."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from rewards.patience import reward_workers, until
from thorough import one_in, some_of

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.workers.pool import Reward, RewardPool

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("nothing_is_left")]

PROBLEM = Problem("p-0", "?", (1, 2), "7")
KIND = "troubled_scorer:act"
FATAL = ["TERM", "HUP", "USR2", "XCPU", "QUIT", "KILL", "SEGV", "ABRT", "BUS", "SYS", "ALRM", "RTMIN"]
HARMLESS = ["INT", "USR1", "PIPE", "CHLD", "WINCH", "URG"]


def number_of(name: str) -> int:
    return int(getattr(signal, f"SIG{name}"))


def pool_of(workers: int = 2, timeout: float = 100.0) -> RewardPool:
    return RewardPool(RewardConfig(kind=KIND, workers=workers, timeout_seconds=timeout))


def score(pool: RewardPool, *responses: str) -> list[Reward]:
    return pool.score((PROBLEM, response) for response in responses)


def works(pool: RewardPool) -> bool:
    return score(pool, *(f"number {k}" for k in range(10))) == [Reward(float(k)) for k in range(10)]


def waiting(path: Path) -> list[int]:
    """Of the processes that `wait` for a path."""
    return [int(found.suffix[1:]) for found in path.parent.glob(f"{path.name}.*") if found.suffix[1:].isdigit()]


def state(pid: int) -> str:
    return str(psutil.Process(pid).status())


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: state(pid) == psutil.STATUS_STOPPED)


@pytest.mark.parametrize("name", some_of(FATAL, ["SEGV", "RTMIN"]))
def test_a_response_that_ends_its_worker_costs_itself_only(name):
    with pool_of() as pool:
        rewards = score(pool, "number 1", f"die {number_of(name)}", "number 2", "number 3")
        assert works(pool)
    assert [reward.value for reward in rewards] == [1.0, 0.0, 2.0, 3.0]
    crash = "crashed (signal 34)" if name == "RTMIN" and number_of(name) != 34 else "crashed (SIG"
    assert f"the scorer {crash}" in (rewards[1].error or "")
    assert "(3 tries)" in (rewards[1].error or "")


@pytest.mark.parametrize("name", HARMLESS)
def test_signals_that_are_meant_for_others_are_ignored(name):
    with pool_of(1) as pool:
        assert score(pool, f"die {number_of(name)}", "number 2") == [Reward(1.0), Reward(2.0)]


SPOILING = [
    ("_exit", "ended its process (exit code 9)"),
    ("_exit0", "ended its process (exit code 0)"),
    ("abort", "crashed (SIGABRT)"),
    ("exit-in-thread", "ended its process (exit code 4)"),
    ("half", "ended its process (exit code 3)"),
    ("garbage", "wrote to its worker's connection"),
    ("zeros", "wrote to its worker's connection"),
    ("lies", "wrote to its worker's connection"),
    ("unasked", "wrote to its worker's connection"),
    ("flood", "wrote to its worker's connection"),
    ("close", "ended its process (exit code 1)"),
    ("shut", "ended its process (exit code 1)"),
    ("fork-and-die", "ended its process (exit code 9)"),
]


@pytest.mark.parametrize(("deed", "error"), one_in(3, SPOILING, first=1))
def test_a_response_that_spoils_its_worker_costs_itself_only(deed, error):
    with pool_of() as pool:
        rewards = score(pool, "number 1", deed, "number 2", "number 3")
        assert works(pool)
    assert [reward.value for reward in rewards] == [1.0, 0.0, 2.0, 3.0]
    assert rewards[1].error == f"the scorer {error} (3 tries)"


NO_REWARDS = [
    ("raise error", "RuntimeError: no such luck (troubled"),
    ("raise huge", "RuntimeError: xxx"),
    ("raise lines", "RuntimeError: a b c (troubled"),
    ("raise surrogate", "RuntimeError: \\ud800 (troubled"),
    ("raise wordless", "Wordless:  (troubled"),
    ("raise interrupt", "KeyboardInterrupt: "),
    ("raise generator", "GeneratorExit: "),
    ("raise base", "BaseException: base"),
    ("raise memory", "MemoryError: "),
    ("raise exit", "SystemExit: bye"),
    ("function", "it must give a finite number"),
    ("lambda", "it must give a finite number"),
    ("lock", "it must give a finite number"),
    ("nothing", "gave None"),
    ("text", "gave 'xxx"),
    ("complex", "gave 1j"),
    ("infinite", "gave inf"),
    ("too-big", "it must give a finite number"),
]


@pytest.mark.parametrize(("deed", "error"), one_in(3, NO_REWARDS, first=2))
def test_what_cannot_be_a_reward_is_an_error_of_one_short_line(deed, error):
    with pool_of(1) as pool:
        [reward, other] = score(pool, deed, "number 2")
    assert reward.value == 0.0
    assert error in (reward.error or "")
    assert "\n" not in (reward.error or "")
    assert len(reward.error or "") < 3000
    assert other == Reward(2.0)


@pytest.mark.parametrize(
    ("deed", "value"),
    [("fork", 1.0), ("daemon-thread", 1.0), ("thread", 1.0), ("deaf", 1.0), ("everywhere", 1.0), ("integer", 1e30)],
)
def test_odd_scorers_whose_rewards_count(deed, value):
    with pool_of(1) as pool:
        assert score(pool, deed, "number 2", deed) == [Reward(value), Reward(2.0), Reward(value)]
        assert works(pool)


@pytest.mark.parametrize("deed", some_of(["loop", "sleep"], ["loop"]))
@pytest.mark.parametrize("before", ["number 1", "deaf"])
def test_time_is_limited(deed, before):
    with pool_of(1, timeout=1.0) as pool:
        rewards = score(pool, before, deed, "number 2")
    assert rewards == [Reward(1.0), Reward(0.0, "scoring took longer than reward.timeout_seconds=1"), Reward(2.0)]


def test_a_response_that_stops_its_worker_costs_itself_only():
    with pool_of(timeout=1.0) as pool:
        rewards = score(pool, "number 1", "stop", "number 2")
    assert rewards[0] == Reward(1.0)
    assert rewards[1] == Reward(0.0, "scoring took longer than reward.timeout_seconds=1 (3 tries)")
    assert rewards[2] == Reward(2.0)


@pytest.mark.parametrize("name", some_of(FATAL, ["KILL"]))
def test_a_busy_worker_is_ended_from_outside(tmp_path, caplog, name):
    path = tmp_path / "go"
    with pool_of() as pool:
        pending = pool.submit([(PROBLEM, f"wait {path}"), *[(PROBLEM, "number 3")] * 5])
        until(lambda: waiting(path))
        [pid] = waiting(path)
        os.kill(pid, number_of(name))
        until(lambda: len(waiting(path)) == 2)
        path.touch()
        assert pending.result() == [Reward(2.0), *[Reward(3.0)] * 5]
    assert caplog.text.count("while a response was scored; that is done again (try 2 of 3)") == 1


@pytest.mark.parametrize("name", some_of(FATAL[::3], ["SEGV"]))
def test_idle_workers_are_ended_from_outside(name):
    with pool_of() as pool:
        assert works(pool)
        for child in reward_workers():
            os.kill(child.pid or 0, number_of(name))
        assert works(pool)


@pytest.mark.parametrize("name", some_of([*FATAL[1::3], *HARMLESS], ["ABRT", "INT"]))
def test_workers_are_signalled_as_they_start(name):
    with pool_of() as pool:
        until(lambda: len(reward_workers()) == 2)
        for child in reward_workers():
            os.kill(child.pid or 0, number_of(name))
        assert works(pool)


@pytest.mark.parametrize(("workers", "stopped"), some_of([(1, 1), (2, 1), (3, 3)], [(2, 1)]))
@pytest.mark.parametrize("moment", ["starting", "idle"])
def test_workers_without_work_are_stopped(caplog, workers, stopped, moment):
    with pool_of(workers) as pool:
        until(lambda: len(reward_workers()) == workers)
        assert moment == "starting" or works(pool)
        for child in reward_workers()[:stopped]:
            stop(child.pid or 0)
        assert works(pool)
        assert works(pool)
    assert caplog.text.count("was stopped (SIGSTOP); another takes its place") <= stopped
    assert stopped < workers or caplog.text.count("was stopped (SIGSTOP)") == stopped


@pytest.mark.parametrize(("workers", "stopped"), some_of([(1, 1), (2, 1), (3, 3)], [(2, 1)]))
@pytest.mark.parametrize("timeout", some_of([2.0, 100.0], [2.0]))
def test_busy_workers_are_stopped(tmp_path, caplog, workers, stopped, timeout):
    paths = [tmp_path / f"go{index}" for index in range(workers)]
    with pool_of(workers, timeout) as pool:
        assert works(pool)
        pending = pool.submit([*((PROBLEM, f"first {path}") for path in paths), *[(PROBLEM, "number 3")] * 20])
        until(lambda: all(waiting(path) for path in paths))
        for path in paths[:stopped]:
            stop(waiting(path)[0])
        for path in paths:
            path.touch()
        rewards = pending.result()
    assert rewards == [*[Reward(5.0)] * stopped, *[Reward(7.0)] * (workers - stopped), *[Reward(3.0)] * 20]
    assert caplog.text.count("that is done again (try 2 of 3)") == stopped


@pytest.mark.parametrize("times", some_of([1, 2, 10], [2]))
def test_a_worker_that_was_stopped_for_a_moment_scores_again(tmp_path, times):
    path = tmp_path / "go"
    with pool_of(1) as pool:
        pending = pool.submit([(PROBLEM, f"first {path}"), (PROBLEM, "number 3")])
        until(lambda: waiting(path))
        for _ in range(times):
            stop(waiting(path)[0])
            os.kill(waiting(path)[0], signal.SIGCONT)
        path.touch()
        assert pending.result() == [Reward(5.0), Reward(3.0)]
        assert [child.pid for child in reward_workers()] == waiting(path)


LOST = [(name, workers) for name in ("KILL", "STOP", "TERM") for workers in (1, 2, 4)]


@pytest.mark.parametrize(("name", "workers"), some_of(LOST, [("KILL", 2), ("TERM", 1)]))
def test_workers_are_lost_while_large_responses_are_handed_over(name, workers):
    large = "number 1" + " " * 1_000_000
    with pool_of(workers) as pool:
        assert works(pool)
        pending = pool.submit([(PROBLEM, large)] * 20)
        for child in reward_workers():
            os.kill(child.pid or 0, number_of(name))
        more = pool.submit([(PROBLEM, large)] * 5)
        assert pending.result() == [Reward(1.0)] * 20
        assert more.result() == [Reward(1.0)] * 5


def test_small_ones_do_not_wait_behind_a_slow_one(tmp_path):
    path = tmp_path / "go"
    with pool_of(2) as pool:
        score(pool, *["number 1"] * 300)  # so quick that workers are given many ahead
        slow = pool.submit([(PROBLEM, f"wait {path}" if index == 7 else "number 1") for index in range(200)])
        others = pool.submit([(PROBLEM, "number 2")] * 100)
        assert others.result() == [Reward(2.0)] * 100
        path.touch()
        assert sum(reward.value for reward in slow.result()) == 199 + 2


def test_a_problem_that_cannot_be_sent_costs_itself_only():
    odd = Problem("p-1", "?", (1,), "7", {"lock": threading.Lock()})
    with pool_of(1) as pool:
        rewards = pool.score([(PROBLEM, "number 1"), (odd, "number 2"), (PROBLEM, "number 3")])
    assert [reward.value for reward in rewards] == [1.0, 0.0, 3.0]
    assert "the problem cannot be sent to a worker: TypeError: cannot pickle" in (rewards[1].error or "")


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(2))
def test_random_losses_change_no_reward(seed, tmp_path):
    """Kills and stops at random moments; each is followed by some work, as an outage that lasts is another matter."""
    draw = random.Random(seed)
    names = ["KILL", "KILL", "STOP", "TERM", "SEGV", "HUP", "STOP and CONT"]
    with pool_of(3) as pool:
        batches = [pool.submit([(PROBLEM, f"number {batch * 1000 + k}") for k in range(400)]) for batch in range(30)]
        for batch, pending in enumerate(batches):
            if batch % 3 == 0:
                time.sleep(draw.random() * 0.1)
                until(reward_workers)
                pid = draw.choice(reward_workers()).pid or 0
                for name in draw.choice(names).split(" and "):
                    os.kill(pid, number_of(name))
            assert pending.result() == [Reward(float(batch * 1000 + k)) for k in range(400)]
        assert works(pool)
