"""tp=2 on two processes against tp=1 on one, by turns in the same two processes; one thread each."""

from __future__ import annotations

import json
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.multiprocessing.spawn import spawn

from benchmarks.log_prob_methods import OURS, Case, Problem
from benchmarks.log_prob_report import TpResult
from benchmarks.measure import peak_bytes, seconds


def measure_tp(case: Case, device: str, dtype: torch.dtype, repeats: int) -> list[TpResult]:
    """Seconds and peak memory of a rank, of both ways to the gradient."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (folder, case, device, str(dtype).split(".")[1], repeats), nprocs=2)
        found = json.loads((Path(folder) / "result.json").read_text())
    return [TpResult(case, **row) for row in found]


def _rank(rank: int, folder: str, case: Case, device_type: str, dtype_name: str, repeats: int) -> None:
    torch.set_num_threads(1)
    cuda = device_type == "cuda"
    device = torch.device(device_type, rank) if cuda else torch.device(device_type)
    if cuda:
        torch.cuda.set_device(device)
    dtype: torch.dtype = getattr(torch, dtype_name)
    store = FileStore(f"{folder}/store", 2)
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=2)
    alone, both = dist.new_group([0]), dist.group.WORLD
    assert both is not None
    problems = [Problem.draw(case, device, dtype, both)]
    if rank == 0:
        problems.append(Problem.draw(case, device, dtype, alone))
    rows = []
    for name, method in OURS.items():
        times: tuple[list[float], list[float]] = ([], [])
        peaks = [0, 0]
        for round_number in range(repeats + 1):
            for index, mine in ((0, rank == 0), (1, True)):
                dist.barrier()
                if not mine:
                    continue
                problem = problems[1 - index]
                problem.clear()
                if round_number:
                    times[index].append(seconds(partial(method, problem), device))
                else:
                    peaks[index] = peak_bytes(partial(method, problem), device)
        if rank == 0:
            one, two = (statistics.median(values) for values in times)
            rows.append({"method": name, "one": one, "two": two, "peak_one": peaks[0], "peak_two": peaks[1]})
    if rank == 0:
        (Path(folder) / "result.json").write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()
