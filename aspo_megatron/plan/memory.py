"""Memory of a rank: what is always there, and the most that an update takes beyond it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from aspo_megatron.config import ParallelConfig
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.vocabulary import DeviceTraits, chunk_for, even_chunk, needs_short_copy
from aspo_megatron.plan import activations as kept
from aspo_megatron.plan.parameters import Parameters, rank_parameters, stage_chunks, weight_bytes
from aspo_megatron.plan.workload import LocalBatch

_GRADIENT = 4
_MOMENTS = 8
_FP32 = 4


@dataclass(frozen=True)
class Setting:
    """What memory depends on beside the model and the layout.

    Attributes:
        dtype: of the weights.
        recompute: `model.recompute`.
        token_wise: the loss is, see docs/log_prob.md.
        reference: there is a reference model.
        log_prob_chunk: `train.log_prob_chunk`.
        micro_batches: of an update on one replica.
        offload: Adam's moments are on the GPU only during the optimizer's step (`optimizer.offload`).
        cpu: the ranks are on CPUs.
        reference_on_host: the reference model is on the GPU only to compute (`model.reference`).
    """

    dtype: Literal["float32", "bfloat16"]
    recompute: Literal["none", "selective", "full"]
    token_wise: bool
    reference: bool
    log_prob_chunk: int | None
    micro_batches: int
    offload: bool
    cpu: bool
    reference_on_host: bool = False

    @property
    def bytes(self) -> int:
        """Of a weight."""
        return weight_bytes(self.dtype)


@dataclass(frozen=True)
class Resident:
    """Bytes that are there from the first update on."""

    weights: int
    gradients: int
    optimizer: int
    reference: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.reference


@dataclass(frozen=True)
class Passing:
    """Bytes beyond `Resident` at the moments of an update at which they may be most.

    Attributes:
        activations: kept for backward by all micro-batches in flight.
        log_probs: those and the log-prob's buffers, at the end of a forward pass; 0 on other stages than the last.
        backward: those and a layer's gradients, or a layer computed again.
        embedding: in-flight micro-batches and the gradient of the whole embedding; 0 beyond the first stage.
        optimizer: what the optimizer's step takes.
        reference: a pass of the reference model with its weights, where they come for that alone; else 0.
    """

    activations: int
    log_probs: int
    backward: int
    embedding: int
    optimizer: int
    reference: int

    @property
    def peak(self) -> int:
        """The largest."""
        return max(self.log_probs, self.backward, self.embedding, self.optimizer, self.reference)

    @property
    def when(self) -> str:
        """Which of them it is."""
        names = {"log-probs": self.log_probs, "backward": self.backward, "embedding": self.embedding}
        names |= {"optimizer": self.optimizer, "reference": self.reference}
        return max(names, key=lambda name: names[name])


def resident(family: Family, parallel: ParallelConfig, setting: Setting, pp_rank: int) -> Resident:
    """What `PolicyModel`, megatron's gradient buffers and Adam hold on a rank of a pipeline stage."""
    held = rank_parameters(family, parallel, pp_rank)
    # Beside bf16 weights, fp32 ones.
    state = (0 if _offloads(setting) else _MOMENTS) + (0 if setting.dtype == "float32" else _FP32)
    dense, expert = optimizer_shards(parallel)
    return Resident(
        weights=setting.bytes * held.total,
        gradients=_GRADIENT * held.total,
        optimizer=state * (-(-held.dense // dense) + -(-held.expert // expert)),
        reference=setting.bytes * held.total if setting.reference and not _visits(setting) else 0,
    )


def optimizer_shards(parallel: ParallelConfig) -> tuple[int, int]:
    """How many ranks share the optimizer's state of dense parameters, and of experts'."""
    if not parallel.distributed_optimizer:
        return 1, 1
    own = parallel.tp * parallel.cp * parallel.dp
    return parallel.dp * parallel.cp, max(own // (parallel.ep * parallel.expert_tp), 1)


def passing(family: Family, parallel: ParallelConfig, setting: Setting, batch: LocalBatch, pp_rank: int) -> Passing:
    """What micro-batches like `batch` take on a rank of a pipeline stage."""
    w = kept.Widths.of(family, parallel, batch, setting.bytes, cpu=setting.cpu)
    chunks = stage_chunks(family, parallel, pp_rank)
    flights = in_flight(parallel, pp_rank, setting.micro_batches)
    layer, again = _layer(w, parallel, setting)
    stream = w.bytes * w.stream * w.hidden
    last = pp_rank == parallel.pp - 1
    held = [layers * layer + stream for layers in chunks]  # with the chunk's output
    saved = sum(count * size for count, size in zip(flights, held, strict=True))
    backward = saved + again + _backward(w, batch, setting, parallel)
    if parallel.pp > 1:
        backward += stream  # the gradient that comes from the next stage, or the next micro-batch's hidden states
    if parallel.vpp > 1:
        backward += stream * 2 * parallel.pp  # and those of the other virtual stages, in both directions
    before = saved - (held[0] if flights[0] else 0)
    dense = rank_parameters(family, parallel, pp_rank)
    table = family.shape(parallel.tp).padded_vocab_size // parallel.tp * family.hidden_size
    return Passing(
        activations=saved,
        log_probs=saved + _log_probs(w, family, parallel, setting, batch) if last else 0,
        backward=backward,
        embedding=before + 2 * stream + w.bytes * table if pp_rank == 0 else 0,
        optimizer=_optimizer_step(dense, family, parallel, setting),
        reference=_reference_pass(w, family, parallel, setting, batch, dense, last=last) if _visits(setting) else 0,
    )


def in_flight(parallel: ParallelConfig, pp_rank: int, micro_batches: int) -> tuple[int, ...]:
    """Micro-batches of each virtual stage whose activations a pipeline rank holds at its most (1F1B, interleaved)."""
    if parallel.vpp == 1:
        return (min(parallel.pp - pp_rank, micro_batches),)
    warm_up = (parallel.pp - pp_rank - 1) * 2 + (parallel.vpp - 1) * parallel.pp
    forwards = min(warm_up + 1, micro_batches * parallel.vpp)
    counts = [0] * parallel.vpp
    for number in range(forwards):
        counts[number // parallel.pp % parallel.vpp] += 1
    return tuple(counts)


def log_prob_buffers(family: Family, parallel: ParallelConfig, setting: Setting, scored: int) -> int:
    """Of `token_objective` or `token_log_probs`, on the last stage: docs/log_prob.md."""
    device = torch.device("cpu" if setting.cpu else "meta")  # what is no CPU has a GPU's traits
    rows = family.shape(parallel.tp).padded_vocab_size // parallel.tp
    weight = torch.empty(rows, 0, dtype=getattr(torch, setting.dtype), device=device)
    traits = DeviceTraits.of(weight)
    chunk = min(setting.log_prob_chunk or chunk_for(weight), max(scored, 1))
    chunk = even_chunk(scored, chunk)
    short = setting.bytes if needs_short_copy(weight) else 0
    buffer = chunk * rows * (_FP32 + short)
    tile = min(max(traits.tile_bytes // (rows * _FP32), 1), chunk) * rows * _FP32
    hidden = family.hidden_size
    product = chunk * hidden * _FP32
    if setting.dtype != "float32":
        product += min(traits.block_rows, rows) * hidden * _FP32
    gradients = scored * hidden * setting.bytes
    if not setting.token_wise:
        gradients += rows * hidden * (_FP32 + (setting.bytes if setting.dtype != "float32" else 0))
    return buffer + tile + product + gradients + scored * 2 * _FP32


def _layer(w: kept.Widths, parallel: ParallelConfig, setting: Setting) -> tuple[int, int]:
    """What a layer keeps for backward, and what comes back when it is computed again."""
    if setting.recompute == "none":
        return kept.saved_whole(w), 0
    if setting.recompute == "full":
        return kept.layer_input(w), kept.saved_whole(w) - kept.layer_input(w)
    return kept.saved_selective(w), kept.feed_forward_inner(w)


def _backward(w: kept.Widths, batch: LocalBatch, setting: Setting, parallel: ParallelConfig) -> int:
    """Beside the activations, in backward through the last layer."""
    feed_forward = kept.feed_forward_backward(w, again=setting.recompute != "none")
    attention = kept.attention_backward(w, batch)
    inner = kept.feed_forward_inner(w)
    if setting.recompute == "selective":
        # Core attention is computed again when the feed-forward is done with.
        attention += kept.core_inner(w)
        attention += w.bytes * w.tokens * w.keys  # values apart from the projection that they are a part of
    return max(feed_forward, attention - inner)


def _log_probs(w: kept.Widths, family: Family, parallel: ParallelConfig, setting: Setting, batch: LocalBatch) -> int:
    """At the end of a forward pass: the final norm, hidden states of scored tokens, a chunk's buffers."""
    stream = w.stream * w.hidden
    final = w.norm(stream, w.stream) + w.bytes * stream
    if parallel.sequence_parallel:
        final += w.bytes * w.tokens * w.hidden
    scored = w.bytes * batch.scored * w.hidden
    return final + scored + log_prob_buffers(family, parallel, setting, batch.scored)


def _reference_pass(
    w: kept.Widths,
    family: Family,
    parallel: ParallelConfig,
    setting: Setting,
    batch: LocalBatch,
    held: Parameters,
    *,
    last: bool,
) -> int:
    """Its weights, and a forward pass without gradients: of the layers there is one at a time."""
    layer = kept.saved_whole(w)
    scoring = _log_probs(w, family, parallel, replace(setting, token_wise=True), batch) if last else 0
    return setting.bytes * held.total + w.bytes * w.stream * w.hidden + max(layer, scoring)


def _visits(setting: Setting) -> bool:
    return setting.reference and setting.reference_on_host and not setting.cpu


def _optimizer_step(held: Parameters, family: Family, parallel: ParallelConfig, setting: Setting) -> int:
    """Torch's Adam: on CPU one parameter at a time; on a GPU a further fp32 number for each element of the state.

    And the moments, if they come for the step alone.
    """
    if setting.cpu:
        shape = family.shape(parallel.tp)
        return 2 * _FP32 * shape.padded_vocab_size // parallel.tp * family.hidden_size
    dense, expert = optimizer_shards(parallel)
    each = _FP32 + (_MOMENTS if _offloads(setting) else 0)
    return each * (held.dense // dense + held.expert // expert)


def _offloads(setting: Setting) -> bool:
    return setting.offload and not setting.cpu  # on a CPU there is nowhere else to keep them
