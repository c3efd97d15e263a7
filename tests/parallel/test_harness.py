"""The harness of the multi-process tests itself: a failure is told as it was, and leaves nothing behind."""

from __future__ import annotations

import os
import time

import psutil
import pytest
import torch
import torch.distributed as dist

from distributed import RankError, Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]


def sum_of_ranks() -> tuple[int, float]:
    dist.init_process_group("gloo")
    total = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(total)
    dist.destroy_process_group()
    return os.getpid(), total.item()


def fail_or_wait(failing: int) -> None:
    dist.init_process_group("gloo")
    if dist.get_rank() == failing:
        raise ValueError("the first error")
    dist.all_reduce(torch.zeros(1))


def die_or_wait(dying: int) -> None:
    if int(os.environ["RANK"]) == dying:
        os._exit(7)
    time.sleep(60)


def wait_for_ever() -> None:
    time.sleep(3600)


def test_ranks_are_kept_until_one_fails() -> None:
    with Ranks() as ranks:
        first = ranks.run(2, sum_of_ranks)
        assert [total for _, total in first] == [3.0, 3.0]
        assert ranks.run(2, sum_of_ranks) == first
        pids = [pid for pid, _ in first]

        with pytest.raises(RankError, match=r"(?s)rank 1 of 2:.*ValueError: the first error"):
            ranks.run(2, fail_or_wait, failing=1)
        assert not any(psutil.pid_exists(pid) for pid in pids)

        with pytest.raises(RankError, match="rank 0 died: 7"):
            ranks.run(2, die_or_wait, dying=0)
        with pytest.raises(RankError, match=r"no answer from ranks \[0, 1\] within 1 s"):
            ranks.run_within(1.0, 2, wait_for_ever)

        last = ranks.run(2, sum_of_ranks)
        assert [total for _, total in last] == [3.0, 3.0]
    assert not any(psutil.pid_exists(pid) for pid, _ in last)
