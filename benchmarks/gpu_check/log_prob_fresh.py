"""Times of the log-prob after a first call of some size, in a process of its own: a kernel is compiled once in one.

python -m benchmarks.gpu_check.log_prob_fresh DEVICE FIRST LAST
"""

from __future__ import annotations

import json
import sys

import torch

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.parallel.log_prob.chunk_kernels import CompiledKernels
from aspo_megatron.parallel.log_prob.vocabulary import chunk_for, even_chunk
from benchmarks.gpu_check.figures import seconds
from benchmarks.gpu_check.log_prob_cases import Problem
from benchmarks.gpu_check.log_prob_time import into_buffer


def main(device: str, first: int, last: int) -> dict[str, float]:
    """Seconds of the whole, and of the sums over the vocabulary alone, for `last` tokens."""
    hidden, vocabulary = (24, 501) if device == "cpu" else (1536, 151936)
    compiled = device != "cpu"
    with process_grid(ParallelConfig(), PlatformConfig(device=device), seed=1) as topology:
        place = topology.platform.device

        def problem_of(tokens: int) -> Problem:
            return Problem.draw(tokens, hidden, vocabulary, 1.0, place)

        into_buffer(problem_of(first), topology.tp.group, compiled=compiled)()
        problem = problem_of(last)
        ways = {"log-prob with gradients": into_buffer(problem, topology.tp.group, compiled=compiled)}
        if compiled:
            rows = even_chunk(last, chunk_for(problem.weight))
            logits = torch.randn(rows, vocabulary, device=place)
            peak, total, weighted = torch.empty(3, rows, device=place)
            ways["sums over the vocabulary"] = lambda: CompiledKernels().softmax_sums(logits, peak, total, weighted)
        return seconds(ways, place, 10)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
