"""Faults in how samples become micro-batches, and micro-batches each rank's share."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "data/packing.py",
        "pack",
        old="[[prompt_stop - 1], np",
        new="[[prompt_stop], np",
        tests=("parallel/test_packing.py",),
    ),
    Mutant(
        "data/packing.py",
        "pack",
        old="np.arange(len(prompt), len(prompt) + len(inputs))",
        new="np.arange(len(inputs))",
        tests=("parallel/test_packing.py",),
    ),
    Mutant(
        "data/packing.py",
        "split_by_budget",
        old="length + size <= max_tokens",
        new="length + size < max_tokens",
        tests=("parallel/test_packing.py",),
    ),
    Mutant(
        "data/packing.py",
        "packed_length",
        old="sample.response_ids[:-1]",
        new="sample.response_ids",
        tests=("parallel/test_packing.py",),
    ),
    Mutant(
        "data/packing.py",
        "PackedBatch.of_tokens",
        old='"targets", "mask", "selected", "weights", "advantages"',
        new='"targets", "mask", "selected", "advantages"',
        tests=(
            "parallel/test_micro_batch.py",
            "parallel/test_objective.py",
        ),
    ),
    Mutant(
        "parallel/model/context_parallel.py",
        "_chunks_of",
        old="(rank, 2 * cp - 1 - rank)",
        new="(2 * rank, 2 * rank + 1)",
        tests=("parallel/test_context_parallel.py",),
    ),
    Mutant(
        "parallel/model/micro_batch.py",
        "MicroBatch.of",
        old="padding.chunk(topology.tp.size)[topology.tp.rank]",
        new="padding.chunk(topology.tp.size)[topology.cp.rank]",
        tests=("parallel/test_micro_batch.py",),
    ),
    Mutant(
        "parallel/model/token_rows.py",
        "TokenRows.of",
        old="index.bincount(minlength=tokens) > 1",
        new="index.bincount(minlength=tokens) > 2",
        tests=("parallel/test_token_rows.py",),
    ),
)
