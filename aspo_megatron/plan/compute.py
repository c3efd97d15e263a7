"""Seconds that the stages of a pipeline compute, by layers, and what keeps products from being large.

docs/planning.md has the formulas under "Time".
"""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.models.counts import forward_operations
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.device.expert_traits import gathers_experts
from aspo_megatron.plan.hardware import Assumptions, Gpu
from aspo_megatron.plan.memory.parameters import bytes_per_weight, rank_parameters, stage_chunks
from aspo_megatron.plan.traffic import Passes

CALLS = 56
"""Operations of PyTorch in a forward pass of megatron's local layer, as `aspo plan --simulate` counts them: attention
by segments, norms of heads and rotary positions by one kernel."""
CALLS_OF_ROTARY = 30
"""What norms of heads and rotary positions add where they are megatron's (`model.kernels.rotary`)."""
CALLS_OF_GATHERING = 74
"""What choosing experts, gathering tokens for them and computing all of a rank's adds (`model.kernels.experts`)."""
CALLS_OF_ROUTING = 55
"""What choosing experts and sending tokens to them adds instead."""
CALLS_OF_EXPERT = 11
"""What each expert that a rank has adds, if tokens are sent."""
ADDED = 10
"""Bytes that a weight's gradient moves when megatron's buffer adds it: 2 read, 4 read and 4 written."""
MOVED_BY_NORM, MOVED_BY_PRODUCT = 4, 5
"""Elements that are read and written to make a norm's output again, or the activation's product (of two factors), each
for one of it: it is made, and copied to where it was."""
TILE = 128
"""Rows that a product is computed by: an expert's last tile is half empty on average."""


@dataclass(frozen=True)
class Compute:
    """Of one replica in a step, for the mean of its pipeline stages and for the slowest. Seconds and operations.

    scoring: passes without gradient. training: passes with one, recomputation included. slowest: both, of the slowest
    stage. starved: share of a layer's time in which the GPU waits for the host to call. operations: of one GPU.
    """

    scoring: float
    training: float
    slowest: float
    starved: float
    operations: float

    @property
    def work(self) -> float:
        """The mean stage's."""
        return self.scoring + self.training


@dataclass(frozen=True)
class _Layer:
    """A layer's forward pass over one micro-batch on one rank: operations, and seconds by the GPU's rate."""

    operations: float
    seconds: float
    calls: float


def compute_of(
    config: RunConfig,
    family: Family,
    parallel: ParallelConfig,
    passes: Passes,
    pairs: float,
    gpu: Gpu,
    assume: Assumptions,
) -> Compute:
    """What the busiest replica computes in a step; `pairs`: of a query's and a key's token, in one pass."""
    size = bytes_per_weight(config.model.dtype)
    rate = assume.rate(gpu, size)
    batches = _micro_batches(passes)
    layer = _layer(config, family, parallel, passes, pairs / batches, gpu, assume)
    forward = max(layer.seconds, layer.calls * assume.call)
    again = recomputed_share(config, family)
    light = _light_bytes(config, family, parallel, passes) / batches / (gpu.hbm * assume.elementwise)
    head = 2 * family.vocab_size * family.hidden_size * passes.scored / (parallel.tp * parallel.cp)
    scorings, trainings, operations = [], [], []
    for stage in range(parallel.pp):
        layers = sum(stage_chunks(family, parallel, stage))
        last = head if stage == parallel.pp - 1 else 0.0
        held = rank_parameters(family, parallel, stage)
        added = ADDED * held.total / (gpu.hbm * assume.elementwise)
        scorings.append(passes.forward * (batches * layers * forward + last / rate))
        with_gradients = batches * (layers * (forward * (3.0 + again) + light) + added) + 3.0 * last / rate
        trainings.append(passes.training * with_gradients)
        own = batches * layers * layer.operations
        operations.append(passes.forward * (own + last) + passes.training * (own * (3.0 + again) + 3.0 * last))
    slowest = max(a + b for a, b in zip(scorings, trainings, strict=True))
    return Compute(
        scoring=sum(scorings) / parallel.pp,
        training=sum(trainings) / parallel.pp,
        slowest=slowest,
        starved=1 - layer.seconds / forward,
        operations=sum(operations) / parallel.pp,
    )


def recomputed_share(config: RunConfig, family: Family) -> float:
    """Of a layer's forward pass that `model.recompute` repeats; attention's part of it grows with length."""
    ffn = family.expert_ffn_size * family.experts_per_token if family.num_experts else family.ffn_hidden_size
    feed_forward = 3 * ffn * family.hidden_size
    attention = 2 * (family.num_heads + family.num_kv_heads) * family.head_dim * family.hidden_size
    shares = {"none": 0.0, "light": 0.0, "selective": feed_forward / (feed_forward + attention), "full": 1.0}
    return shares[config.model.recompute]


def _light_bytes(config: RunConfig, family: Family, parallel: ParallelConfig, passes: Passes) -> float:
    """What `model.recompute: light` reads and writes on a GPU for a layer, over all tokens of a pass."""
    if config.model.recompute != "light":
        return 0.0
    ffn = family.expert_ffn_size * family.experts_per_token if family.num_experts else family.ffn_hidden_size
    share = parallel.tp if parallel.sequence_parallel else 1
    moved = 2 * MOVED_BY_NORM * family.hidden_size / share + MOVED_BY_PRODUCT * ffn / parallel.tp
    return bytes_per_weight(config.model.dtype) * moved * passes.tokens / parallel.cp


def _micro_batches(passes: Passes) -> float:
    """Of one pass over the step's samples; updates are those of all epochs."""
    return passes.micro_batches * passes.updates / passes.training


def _layer(
    config: RunConfig,
    family: Family,
    parallel: ParallelConfig,
    passes: Passes,
    pairs: float,
    gpu: Gpu,
    assume: Assumptions,
) -> _Layer:
    """The mean layer. Experts are counted apart: their rows fill tiles badly, and all of their weights are read."""
    size = bytes_per_weight(config.model.dtype)
    ranks, rate = parallel.tp * parallel.cp, assume.rate(gpu, size)
    tokens = passes.tokens / _micro_batches(passes)
    whole = forward_operations(family, tokens, 0.0, pairs) / family.num_layers / ranks
    calls = CALLS + (CALLS_OF_ROTARY if config.model.kernels.rotary == "eager" else 0)
    if not family.num_experts:
        return _Layer(whole, whole / rate, calls)
    shape = family.shape(tp=1)
    expert = sum(row.elements(shape) for row in family.rows if row.per_expert)
    operations = 2 * expert * family.experts_per_token * tokens / ranks
    group = parallel.ep * parallel.expert_tp
    rows = tokens / ranks * group * family.experts_per_token / family.num_experts
    full = rows / (rows + TILE / 2)
    here = family.num_experts / parallel.ep
    read = here * expert / parallel.expert_tp * size / (gpu.hbm * assume.elementwise)
    seconds = (whole - operations) / rate + max(operations / rate / full, read)
    if gathers_experts(family, parallel, config.model.dtype, config.model.kernels, gpu.capability):
        return _Layer(whole, seconds, calls + CALLS_OF_GATHERING)
    products = 1.0 if config.model.kernels.grouped_gemm else here
    return _Layer(whole, seconds, calls + CALLS_OF_ROUTING + CALLS_OF_EXPERT * products)
