"""Bytes of log-probs on the last pipeline stage, see docs/log_prob.md."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from aspo_megatron.config import ParallelConfig
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.log_prob.vocabulary import BLOCK_ROWS, DeviceTraits, chunk_for, even_chunk, needs_short_copy
from aspo_megatron.plan.memory.setting import Setting

_FP32 = 4


@dataclass(frozen=True)
class LogProbBytes:
    """Of `token_objective` or `token_log_probs`, for the scored tokens of a micro-batch.

    forward: without gradients. with_gradients: at their most, where they are computed. handed_on: of the output
    weight's gradient, which a loss that is not token-wise gives to autograd.
    """

    forward: int
    with_gradients: int
    handed_on: int


def log_prob_bytes(family: Family, parallel: ParallelConfig, setting: Setting, scored: int) -> LogProbBytes:
    """The buffers of a chunk, hidden states of scored tokens, and the gradients of both.

    Triton's kernels work without a tile beside the chunk.
    """
    device = torch.device("cpu" if setting.cpu else "meta")  # what is no CPU has a GPU's traits
    rows, hidden = family.shape(parallel.tp).padded_vocab_size // parallel.tp, family.hidden_size
    weight = torch.empty(rows, 0, dtype=getattr(torch, setting.dtype), device=device)
    traits = DeviceTraits.of(weight)
    most = setting.log_prob_chunk or chunk_for(weight, memory=setting.gpu_memory)
    chunk = even_chunk(scored, min(most, max(scored, 1)))
    short = setting.bytes if needs_short_copy(weight) else 0
    tile = 0
    if setting.cpu or setting.eager_log_prob:
        tile = min(max(traits.tile_bytes // (rows * _FP32), 1), chunk) * rows * _FP32
    states = scored * hidden * setting.bytes
    forward = chunk * rows * (_FP32 + short) + tile + scored * 4 * _FP32 + states
    product = chunk * hidden * _FP32
    if not short and setting.dtype != "float32":  # on a CPU a block of the weight in fp32 beside it
        product += min(BLOCK_ROWS, rows) * hidden * _FP32
    if setting.token_wise:
        return LogProbBytes(forward, forward + states + product, 0)
    handed_on = rows * hidden * setting.bytes
    total = rows * hidden * _FP32
    rounded = handed_on if setting.dtype != "float32" else 0
    return LogProbBytes(forward, forward + states + total + max(product, rounded), handed_on)
