"""What a machine lacks is one line that names it; and what scoring may take of its memory is bounded."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import subprocess
import sys
import threading

import pytest
from thorough import one_in, some_of

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.rewards.programs import reward as code_reward
from aspo_megatron.rewards.scorers import check, is_built_in
from aspo_megatron.rewards.workers import output, supervisor
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.rewards.workers.worker_process import WorkerContext

PROBLEM = Problem("p-0", "?", (1,), "7")
NO_PROCESS = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
NO_DESCRIPTOR = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
NO_MEMORY = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
NO_THREAD = RuntimeError("can't start new thread")
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS))


def refuse(error: Exception):
    def refused(*arguments: object, **options: object) -> None:
        raise error

    return refused


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (os, "eventfd", NO_DESCRIPTOR),
        (os, "eventfd", NO_MEMORY),
        (output, "Pipe", NO_DESCRIPTOR),
        (output, "Pipe", NO_MEMORY),
        (threading.Thread, "start", NO_THREAD),
        (selectors, "DefaultSelector", NO_DESCRIPTOR),
    ],
)
def test_a_pool_that_cannot_start(owner, name, error, monkeypatch):
    monkeypatch.setattr(owner, name, refuse(error))
    with pytest.raises(UserError, match=r"^the reward workers cannot be started: .*ulimit -u.*ulimit -n") as raised:
        RewardPool(RewardConfig(kind="math"))
    monkeypatch.undo()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", one_in(2, [NO_PROCESS, NO_DESCRIPTOR, NO_MEMORY, READ_ONLY]))
@pytest.mark.parametrize("place", ["socket", "process"])
def test_workers_that_cannot_start(place, error, monkeypatch, nothing_is_left):
    monkeypatch.setattr(supervisor, "_PAUSE_SECONDS", 0.001)
    owner, name = (socket, "socketpair") if place == "socket" else (WorkerContext.Process, "start")
    monkeypatch.setattr(owner, name, refuse(error))
    with (
        RewardPool(RewardConfig(kind="math", workers=1)) as workers,
        pytest.raises(UserError, match=r"^the reward workers cannot be started: .*" + os.strerror(error.errno)),
    ):
        workers.score([(PROBLEM, "7")])


@pytest.mark.parametrize("error", [NO_PROCESS, NO_DESCRIPTOR, NO_MEMORY, READ_ONLY])
def test_a_sandbox_that_cannot_start(error, monkeypatch):
    monkeypatch.setattr(code_reward, "find_mode", refuse(error))
    with pytest.raises(ConfigError, match=r"^reward\.code\.sandbox: a sandbox cannot be started: .*ulimit -u"):
        check(RewardConfig(kind="code"))


ROOMLESS = """
import os, resource, sys
from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import UserError
from aspo_megatron.rewards.workers.pool import RewardPool
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
    try:
        with RewardPool(RewardConfig(kind="math", workers=1)) as pool:
            print([reward.value for reward in pool.score([(Problem("p", "?", (1,), "7"), "7")])])
    except UserError as error:
        print("refused:", error)
"""


@pytest.mark.parametrize("descriptors", some_of([4, 6, 9, 12, 40], [6, 40]))
def test_with_few_descriptors(descriptors):
    """Of one process alone, so that the limit holds for nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", ROOMLESS, str(descriptors)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: the reward workers cannot be started: ") or descriptors == 40
    assert done.stdout != ""
    assert "Traceback" not in done.stderr


def test_without_a_folder_for_temporary_files(monkeypatch, nothing_is_left):
    for name in ("TMPDIR", "TMP", "TEMP"):
        monkeypatch.setenv(name, "/nowhere")
    with RewardPool(RewardConfig(kind="math", workers=1)) as workers:
        assert workers.score([(PROBLEM, "7")])[0].value == 1.0


@pytest.mark.parametrize(
    ("config", "is_limited"),
    [
        ({"kind": "math"}, True),
        ({"kind": "code"}, True),
        ({"kind": "choice"}, True),
        ({"kind": "reasoning_gym"}, True),
        ({"kind": "my.module:function"}, False),
        ({"kind": "mixture", "components": {"a": {"kind": "math"}, "b": {"kind": "code"}}}, True),
        ({"kind": "mixture", "components": {"a": {"kind": "math"}, "b": {"kind": "my:function"}}}, False),
    ],
)
def test_whose_memory_is_limited(config, is_limited):
    assert is_built_in(RewardConfig.model_validate(config)) is is_limited


HUNGRY = """
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.workers import worker
from aspo_megatron.rewards.mixture import Score
import pickle, resource
task = bytearray(pickle.dumps((Problem("p", "?", (1,), "7"), "x")))
worker.limit_memory()
limits = resource.getrlimit(resource.RLIMIT_AS)
worker.limit_memory()
assert resource.getrlimit(resource.RLIMIT_AS) == limits and limits[1] == resource.RLIM_INFINITY
for take in (lambda: bytes(3 << 30), lambda: [bytes(1 << 20) for _ in range(3 << 10)], lambda: 1 << (3 << 33)):
    print(worker._score(lambda problem, response: take() and Score(1.0), 60.0, bytearray(task)))
print(worker._score(lambda problem, response: Score(float(len(bytes(1 << 30)) > 0)), 60.0, bytearray(task)))
"""


def test_too_much_memory_costs_one_reward():
    """The worker goes on, and a gigabyte is not too much."""
    done = subprocess.run([sys.executable, "-c", HUNGRY], capture_output=True, text=True, timeout=120, check=True)
    *refused, last = done.stdout.splitlines()
    assert len(refused) == 3
    assert all(line.startswith("(Score(value=0.0, parts={}), 'MemoryError:") for line in refused)
    assert last == "(Score(value=1.0, parts={}), None)"
