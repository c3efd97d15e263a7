"""The reward pool's end, at any moment and of any kind, and what it makes of having been stopped itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
from rewards.patience import reward_workers, until
from thorough import one_in, some_of

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.workers.pool import RewardPool

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("nothing_is_left")]

PROBLEM = Problem("p-0", "?", (1, 2), "7")
LARGE = "number 1" + " " * 1_000_000


def submit(pool: RewardPool, *responses: str) -> None:
    pool.submit([(PROBLEM, response) for response in responses])


def signal_workers(*names: str) -> None:
    for child in reward_workers():
        for name in names:
            os.kill(child.pid or 0, int(getattr(signal, f"SIG{name}")))


def close_in_threads(pool: RewardPool) -> None:
    threads = [threading.Thread(target=pool.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    "before",
    [
        lambda pool: None,
        lambda pool: until(reward_workers),
        lambda pool: pool.score([(PROBLEM, "number 1")]),
        lambda pool: submit(pool, *["number 1"] * 5000),
        lambda pool: submit(pool, *[LARGE] * 30),
        lambda pool: submit(pool, "loop", "sleep", *["number 1"] * 500),
        lambda pool: (submit(pool, "stop", "stop"), time.sleep(0.3)),
        lambda pool: (pool.score([(PROBLEM, "number 1")]), signal_workers("STOP")),
        lambda pool: (pool.score([(PROBLEM, "number 1")]), signal_workers("STOP"), submit(pool, *[LARGE] * 30)),
        lambda pool: (pool.score([(PROBLEM, "number 1")]), signal_workers("KILL")),
        lambda pool: (until(reward_workers), signal_workers("STOP")),
        lambda pool: (until(reward_workers), signal_workers("KILL")),
        lambda pool: pool.score([(PROBLEM, "thread"), (PROBLEM, "deaf")]),
        close_in_threads,
        RewardPool.close,
    ],
)
def test_a_pool_is_closed_at_any_moment(before):
    pool = RewardPool(RewardConfig(kind="troubled_scorer:act", workers=2, timeout_seconds=100.0))
    before(pool)
    pool.close()
    assert not reward_workers()
    with pytest.raises(RuntimeError, match="the reward pool is closed"):
        submit(pool, "number 1")


@pytest.mark.parametrize("waiting", some_of(range(1, 4), [2]))
def test_those_who_wait_are_told_of_the_end(waiting):
    pool = RewardPool(RewardConfig(kind="troubled_scorer:act", workers=1, timeout_seconds=100.0))
    told: list[str] = []

    def wait() -> None:
        try:
            pool.score([(PROBLEM, "sleep"), (PROBLEM, "number 1")])
        except RuntimeError as error:
            told.append(str(error))

    threads = [threading.Thread(target=wait) for _ in range(waiting)]
    for thread in threads:
        thread.start()
    until(reward_workers)
    pool.close()
    for thread in threads:
        thread.join()
    assert set(told) == {"the reward pool is closed"}
    assert len(told) == waiting


def run(folder: Path, body: str, timeout: float = 100.0) -> subprocess.Popen[str]:
    """A script with a pool of two workers that have started; it waits for a line before it goes on."""
    start = f"""
        import os, signal, sys, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored if the tests run in the background
        sys.path.append({str(Path(__file__).parent)!r})
        from aspo_megatron.config import RewardConfig
        from aspo_megatron.data.samples import Problem
        from aspo_megatron.rewards.workers.pool import RewardPool
        problem = Problem("p-0", "?", (1,))
        pool = RewardPool(RewardConfig(kind="troubled_scorer:act", workers=2, timeout_seconds={timeout}))
        workers = set()
        while len(workers) < 2:
            workers |= {{int(reward.value) for reward in pool.score([(problem, "pid")] * 4)}}
        print(*workers, flush=True)
        sys.stdin.readline()
    """
    path = folder / "script.py"
    path.write_text(textwrap.dedent(start) + textwrap.dedent(body))
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, path], stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def go_on(script: subprocess.Popen[str]) -> None:
    assert script.stdin is not None
    script.stdin.write("\n")
    script.stdin.flush()


def workers_of(script: subprocess.Popen[str]) -> list[int]:
    assert script.stdout is not None
    return [int(pid) for pid in script.stdout.readline().split()]


ENDS = [
    ("pool.close()", 0),
    ("", 0),
    ("pool.submit([(problem, 'loop')] * 2)", 0),
    ("pool.submit([(problem, 'sleep'), (problem, 'deaf')])", 0),
    ("pool.submit([(problem, 'stop')] * 2); time.sleep(0.5)", 0),
    ("[os.kill(pid, signal.SIGSTOP) for pid in workers]", 0),
    ("import multiprocessing; multiprocessing.get_logger(); multiprocessing.log_to_stderr()", 0),
    ("sys.exit(5)", 5),
    ("raise KeyError('x')", 1),
    ("os._exit(7)", 7),
    ("os.kill(os.getpid(), signal.SIGKILL)", -9),
    ("os.kill(os.getpid(), signal.SIGSEGV)", -11),
    ("pool.submit([(problem, 'stop')] * 2); time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)", -9),
    ("[os.kill(pid, signal.SIGSTOP) for pid in workers]; os._exit(7)", 7),
    ("signal.raise_signal(signal.SIGINT)", -2),
    ("signal.alarm(1); signal.signal(14, lambda *_: os.killpg(0, 2)); pool.score([(problem, 'sleep')])", -2),
]


@pytest.mark.parametrize(("body", "code"), one_in(4, ENDS, first=2))
def test_a_process_ends_and_its_workers_with_it(tmp_path, body, code):
    with run(tmp_path, body) as script:
        workers = [psutil.Process(pid) for pid in workers_of(script)]
        assert len(workers) == 2
        go_on(script)
        _, errors = script.communicate(timeout=60)
    assert script.returncode == code, errors
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


@pytest.mark.parametrize("everything", some_of([False, True], [True]))
@pytest.mark.parametrize("response", some_of(["nap 0.5", "nap 0", "loop"], ["nap 0.5"]))
def test_a_pool_that_was_stopped_itself(tmp_path, everything, response):
    """What was finished meanwhile counts, and no response is late because nobody looked."""
    body = f"""
        pending = pool.submit([(problem, {response!r})] * 2)
        print("begun", flush=True)
        print([reward.value for reward in pending.result()], *(reward.error for reward in pending.result()))
    """
    with run(tmp_path, textwrap.dedent(body), timeout=1.5) as script:
        workers = workers_of(script)
        stopped = [script.pid, *(workers if everything else [])]
        assert script.stdout is not None
        go_on(script)
        assert script.stdout.readline() == "begun\n"
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5)  # longer than the time limit and the kernel's alarm
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):  # the pool goes on first, and may end the workers
                os.kill(pid, signal.SIGCONT)
        output = script.stdout.read()
    late = "scoring took longer than reward.timeout_seconds=1.5"
    assert output.startswith("[0.0, 0.0] " + late if response == "loop" else "[3.0, 3.0] None None")


STARTING = """
import time
from multiprocessing import util
from aspo_megatron.launch import stop
from aspo_megatron.config import RewardConfig
from aspo_megatron.rewards.workers.pool import RewardPool

spawn = util.spawnv_passfds

def slowly(*arguments):
    child = spawn(*arguments)
    if "spawn_main" in str(arguments):
        print("has nothing to read yet", flush=True)
        time.sleep(1)
    return child

util.spawnv_passfds = slowly
with stop.ended_by_signals(stop.ENDING), RewardPool(RewardConfig(kind="math", workers=1)):
    time.sleep(60)
"""


def test_a_signal_while_a_worker_is_started_is_one_line(tmp_path):
    """The worker, which the rank's end finds half started, has nothing to say."""
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "has nothing to read yet\n"
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (129, "interrupted by SIGHUP\n")
