"""Faults in attention over packed spans."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "parallel/device/plain_attention.py",
        "_scores",
        old="first = start + k.size(2) - q.size(2)",
        new="first = k.size(2) - q.size(2)",
        tests=("parallel/test_attention.py::test_kernel_and_plain_attention_agree",),
    ),
    Mutant(
        "parallel/device/plain_attention.py",
        "attend_plainly_backward",
        old="(dprobs.to(lse.dtype) - delta) * scale",
        new="(dprobs.to(lse.dtype) - delta)",
        tests=("parallel/test_attention.py::test_kernel_and_plain_attention_agree",),
    ),
    Mutant(
        "parallel/device/attention_kernels.py",
        "_cpu_backward",
        old=".sum(dim=2)",
        new=".mean(dim=2)",
        tests=("parallel/test_attention.py::test_gradients_in_bfloat16",),
    ),
    Mutant(
        "parallel/model/block_attention.py",
        "plan_blocks",
        old="own.where[span.prefix_start : span.prefix_stop]",
        new="own.where[span.prefix_start : span.prefix_stop - 1]",
        tests=("parallel/test_attention.py::test_values_and_gradients",),
    ),
    Mutant(
        "parallel/model/attention.py",
        "SpanAttention.__init__",
        old="math.sqrt(config.kv_channels)",
        new="math.sqrt(config.hidden_size // config.num_attention_heads)",
        tests=("parallel/test_attention.py::test_values_and_gradients",),
    ),
    Mutant(
        "parallel/model/block_attention.py",
        "_BlockAttention.forward",
        old="_rows(out, block.queries) * kept + part * added",
        new="_rows(out, block.queries) + part * added",
        tests=("parallel/test_attention.py::test_values_and_gradients",),
    ),
    Mutant(
        "parallel/model/block_attention.py",
        "_BlockAttention.backward",
        old=".index_add_(0, index.flatten(),",
        new=".index_copy_(0, index.flatten(),",
        tests=("parallel/test_attention.py::test_values_and_gradients",),
    ),
    Mutant(
        "parallel/model/varlen_attention.py",
        "plan_varlen",
        old="own.where[chunk.span.start : chunk.stop]",
        new="own.where[chunk.start : chunk.stop]",
        tests=("parallel/test_attention.py::test_values_and_gradients",),
    ),
    Mutant(
        "parallel/model/varlen_attention.py",
        "_VarlenAttention.backward",
        old="dq.add_(more)",
        new="pass",
        tests=("parallel/test_attention.py::test_values_and_gradients",),
    ),
    Mutant(
        "parallel/device/triton_merge.py",
        "merge",
        old='tl.where(tl.abs(other) == float("inf"), -float("inf"), other)',
        new="other",
        tests=("parallel/test_attention.py::test_values_and_gradients",),
    ),
    Mutant(
        "parallel/model/context_parallel.py",
        "runs_of",
        old="            and chunk.span.start == chunk.start\n",
        new="",
        tests=("parallel/test_attention.py::test_values_and_gradients",),
    ),
    Mutant(
        "parallel/model/context_parallel.py",
        "_Spread.forward",
        old="dist.all_reduce(whole, group=group)",
        new="dist.all_reduce(whole[:1], group=group)",
        tests=("parallel/test_two_ranks.py::test_two_ranks_are_as_one[cp2]",),
    ),
)
