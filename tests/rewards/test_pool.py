"""Scoring in worker processes: order, time-outs, crashes, and that no process stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from thorough import some_of

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.rewards.workers.pool import Reward, RewardPool

pytestmark = pytest.mark.timeout(120)

PROBLEM = Problem("p-0", "3 + 4 =", (1, 2), "7")

USER_MODULE = """
import multiprocessing, os, sys, time

if os.environ.get("DIE_ON_IMPORT") and multiprocessing.parent_process() is not None:
    os._exit(3)

def act(problem, response):
    if response == "hang":
        while True:
            try:
                time.sleep(1)
            except BaseException:
                pass
    if response == "hang in C":
        return 1.0 + (7 ** 7 ** 11 > 0)
    if response == "exit":
        os._exit(9)
    if response.startswith("/"):
        if not os.path.exists(response):
            open(response, "w").close()
            os.kill(os.getpid(), 15)
        return 5.0
    if response == "segfault":
        os.kill(os.getpid(), 11)
    if response == "raise":
        raise RuntimeError("no such luck")
    if response == "sys.exit":
        sys.exit("bye")
    if response == "stop":
        os.kill(os.getpid(), 19)
    if response == "pid":
        return os.getpid()
    if response == "torch":
        return "torch" in sys.modules
    return float(response)
"""


@pytest.fixture
def kind(tmp_path, monkeypatch):
    (tmp_path / "user_rewards_pool.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "user_rewards_pool:act"


def workers_of(pid: int) -> list[psutil.Process]:
    """Child processes, without Python's resource tracker, which lives as long as its parent."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    """After each test there are no child processes that were not there before."""
    before = set(workers_of(os.getpid()))
    yield
    assert set(workers_of(os.getpid())) <= before


def test_built_in_rewards_in_order():
    responses = ["7", "8", r"\boxed{7}", "", "The answer is 7."]
    with RewardPool(RewardConfig(kind="math")) as pool:
        assert pool.score([]) == []
        pending = pool.submit((PROBLEM, response) for response in responses)
        assert pool.score([(PROBLEM, "7")]) == [Reward(1.0)]
        assert [reward.value for reward in pending.result()] == [1.0, 0.0, 1.0, 0.0, 1.0]
        assert pending.result() is pending.result()


def test_threads_may_submit_at_once():
    with RewardPool(RewardConfig(kind="math", workers=2)) as pool, ThreadPoolExecutor(4) as threads:
        pending = threads.map(lambda text: pool.submit([(PROBLEM, text)] * 20), ["7", "8"] * 10)
        values = [{reward.value for reward in each.result()} for each in pending]
    assert values == [{1.0}, {0.0}] * 10


def test_a_formula_too_big_to_compute_is_wrong_at_once():
    with RewardPool(RewardConfig(kind="math", workers=1, timeout_seconds=2.0)) as pool:
        huge, small = pool.score([(PROBLEM, r"\boxed{\int_0^1 e^{x^{x^x}} \sin(\tan x) dx}"), (PROBLEM, "7")])
    assert huge == Reward(0.0)
    assert small == Reward(1.0)


def test_order_is_kept_over_many_items(kind):
    with RewardPool(RewardConfig(kind=kind, workers=2)) as pool:
        rewards = pool.score((PROBLEM, str(number)) for number in range(2000))
    assert [reward.value for reward in rewards] == list(map(float, range(2000)))


def test_bad_items_cost_only_themselves(kind, caplog):
    late = "longer than reward.timeout_seconds=0.7"
    expected = {
        "1": (1.0, None),
        "hang": (0.0, late),
        "2": (2.0, None),
        "hang in C": (0.0, late),
        "exit": (0.0, "ended its process (exit code 9)"),
        "segfault": (0.0, "crashed (SIGSEGV)"),
        "raise": (0.0, "RuntimeError: no such luck (user_rewards_pool.py:"),
        "sys.exit": (0.0, "SystemExit: bye"),
        "nan": (0.0, "gave nan for problem p-0; it must give a finite number"),
        "words": (0.0, "ValueError: could not convert string to float: 'words'"),
        "3": (3.0, None),
    }
    with RewardPool(RewardConfig(kind=kind, workers=2, timeout_seconds=0.7)) as pool:
        rewards = pool.score((PROBLEM, response) for response in expected)
        assert pool.score([(PROBLEM, "4")]) == [Reward(4.0)]
    for (response, (value, error)), reward in zip(expected.items(), rewards, strict=True):
        assert reward.value == value, response
        assert (reward.error is None) if error is None else (error in (reward.error or "")), response
    assert "8 of 11 responses got reward 0 by an error; the first: scoring took longer" in caplog.text


def test_a_worker_that_dies_idle_is_replaced(kind):
    with RewardPool(RewardConfig(kind=kind, workers=2)) as pool:
        [first] = pool.score([(PROBLEM, "pid")])
        psutil.Process(int(first.value)).kill()
        time.sleep(0.5)
        assert pool.score([(PROBLEM, "1"), (PROBLEM, "2")]) == [Reward(1.0), Reward(2.0)]


def test_what_a_terminated_worker_was_at_is_scored_again(kind, tmp_path):
    with RewardPool(RewardConfig(kind=kind, workers=2)) as pool:
        rewards = pool.score([(PROBLEM, "1"), (PROBLEM, str(tmp_path / "was_here")), (PROBLEM, "2")])
    assert rewards == [Reward(1.0), Reward(5.0), Reward(2.0)]


def test_workers_that_cannot_start_are_an_error(kind, monkeypatch):
    monkeypatch.setenv("DIE_ON_IMPORT", "1")
    with (
        RewardPool(RewardConfig(kind=kind, workers=1)) as pool,
        pytest.raises(
            UserError, match=r"the reward workers \(reward\.kind='user_rewards_pool:act'\) stop while starting"
        ),
    ):
        pool.score((PROBLEM, "1" * 200) for _ in range(1000))


@pytest.mark.thorough
def test_workers_that_are_always_ended_as_they_start(monkeypatch, tmp_path):
    (tmp_path / "dies_at_import.py").write_text(
        "import multiprocessing, os\n"
        "if multiprocessing.parent_process(): os.kill(os.getpid(), 11)\n"
        "def act(problem, response): return 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with (
        RewardPool(RewardConfig(kind="dies_at_import:act", workers=1)) as pool,
        pytest.raises(UserError, match="stop while starting, 10 times in a row"),
    ):
        pool.score([(PROBLEM, "1")])


def test_close_ends_hung_workers_and_refuses_further_work(kind):
    pool = RewardPool(RewardConfig(kind=kind, workers=2, timeout_seconds=100.0))
    pending = pool.submit([(PROBLEM, "hang"), (PROBLEM, "hang in C"), *[(PROBLEM, "1" * 200)] * 2000])
    time.sleep(1.0)
    pool.close()
    pool.close()
    for use in (pending.result, lambda: pool.score([(PROBLEM, "1")])):
        with pytest.raises(RuntimeError, match="the reward pool is closed"):
            use()


def test_an_exception_closes_the_pool(kind):
    def train() -> None:
        with RewardPool(RewardConfig(kind=kind)) as pool:
            pool.submit([(PROBLEM, "hang")])
            raise KeyError("in the training loop")

    with pytest.raises(KeyError, match="in the training loop"):
        train()


def test_a_wrong_kind_starts_no_process():
    with pytest.raises(ConfigError, match=r"reward\.kind"):
        RewardPool(RewardConfig(kind="maths"))


def script(folder: Path, body: str, options: str = "timeout_seconds=100.0", imports: str = "time") -> Path:
    """A user's script without a `__main__` guard, and a user's reward module beside it."""
    (folder / "user_rewards_pool.py").write_text(USER_MODULE)
    start = f"""
        import {imports}
        from aspo_megatron.config import RewardConfig
        from aspo_megatron.data.samples import Problem
        from aspo_megatron.rewards.workers.pool import RewardPool
        problem = Problem("p-0", "?", (1,))
        pool = RewardPool(RewardConfig(kind="user_rewards_pool:act", {options}))
    """
    path = folder / "script.py"
    path.write_text(textwrap.dedent(start) + textwrap.dedent(body))
    return path


def test_workers_import_neither_torch_nor_the_script(tmp_path):
    path = script(tmp_path, "print(pool.score([(problem, 'torch')]))\npool.close()\n", imports="torch")
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[Reward(value=0.0, error=None, parts={})]\n"


def test_a_script_that_forgets_to_close_still_ends(tmp_path):
    path = script(tmp_path, "pool.submit([(problem, 'hang')])\ntime.sleep(1)\nraise KeyError('x')\n")
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "KeyError: 'x'" in done.stderr


HELD = [("1", 100.0), ("hang", 100.0), ("hang in C", 100.0), ("stop", 100.0)]


@pytest.mark.parametrize(("busy", "timeout"), some_of(HELD, HELD[2:3]))
def test_workers_die_with_a_killed_parent(tmp_path, busy, timeout):
    path = script(
        tmp_path,
        f"""
        pool.score([(problem, '1')] * 2)
        pool.submit([(problem, {busy!r})] * 2)
        time.sleep(0.5)
        print('ready', flush=True)
        time.sleep(100)
        """,
        options=f"timeout_seconds={timeout}",
    )
    with subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        workers = workers_of(parent.pid)
        assert len(workers) == 2
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
