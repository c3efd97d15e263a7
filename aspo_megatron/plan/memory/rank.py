"""Memory of a rank: what is always there, and the most that an update takes beyond it."""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron.config import ParallelConfig
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.device.piece_copies import PIECE_BYTES, PIECES
from aspo_megatron.plan.memory import activations
from aspo_megatron.plan.memory.log_probs import LogProbBytes, log_prob_bytes
from aspo_megatron.plan.memory.parameters import Parameters, largest_parameter, rank_parameters, stage_chunks
from aspo_megatron.plan.memory.setting import FP32_BYTES, Setting
from aspo_megatron.plan.memory.workload import LocalBatch

_GRADIENT = 4


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
    """Bytes beyond `Resident` at the moments of a step at which they may be most.

    Attributes:
        scoring: a pass without gradients, for old log-probs.
        reference: a pass of the reference model, with its weights where they come for that alone; 0 without one.
        activations: kept for backward by all micro-batches in flight.
        forward: those, and what the last of their layers computes with, or the log-prob's buffers.
        backward: those and a layer's gradients, or a layer computed again.
        embedding: in-flight micro-batches and the gradient of the whole embedding; 0 beyond the first stage.
        optimizer: what the optimizer's step takes.
        given_back: gradients, which are not there but in an update where the engine takes turns with the trainer.
    """

    scoring: int
    reference: int
    activations: int
    forward: int
    backward: int
    embedding: int
    optimizer: int
    given_back: int = 0

    @property
    def peak(self) -> int:
        """The largest, beyond `Resident` whole."""
        return max(self._moments.values())

    @property
    def when(self) -> str:
        """Which of them it is."""
        return max(self._moments, key=lambda name: self._moments[name])

    @property
    def _moments(self) -> dict[str, int]:
        updating = ("forward", "backward", "embedding", "optimizer")
        beside = {"scoring": self.scoring - self.given_back, "reference": self.reference - self.given_back}
        return {**beside, **{name: getattr(self, name) for name in updating}}


def resident(family: Family, parallel: ParallelConfig, setting: Setting, pp_rank: int) -> Resident:
    """What `PolicyModel`, megatron's gradient buffers and Adam hold on a rank of a pipeline stage."""
    held = rank_parameters(family, parallel, pp_rank)
    state = 0 if setting.state_visits else setting.state_bytes
    dense, expert = optimizer_shards(parallel)
    return Resident(
        weights=setting.bytes * held.total,
        gradients=_GRADIENT * held.total,
        optimizer=state * (-(-held.dense // dense) + -(-held.expert // expert)),
        reference=setting.bytes * held.total if setting.reference and not setting.reference_visits else 0,
    )


def optimizer_shards(parallel: ParallelConfig) -> tuple[int, int]:
    """How many ranks share the optimizer's state of dense parameters, and of experts'."""
    if not parallel.distributed_optimizer:
        return 1, 1
    own = parallel.tp * parallel.cp * parallel.dp
    return parallel.dp * parallel.cp, max(own // (parallel.ep * parallel.expert_tp), 1)


def passing(family: Family, parallel: ParallelConfig, setting: Setting, batch: LocalBatch, pp_rank: int) -> Passing:
    """What micro-batches like `batch` take on a rank of a pipeline stage."""
    w = activations.Widths.of(family, parallel, batch, setting)
    held = rank_parameters(family, parallel, pp_rank)
    first, last = pp_rank == 0, pp_rank == parallel.pp - 1
    flights = in_flight(parallel, pp_rank, setting.micro_batches)
    layer, again = _layer(w, setting)
    stream = w.bytes * w.stream * w.hidden
    shared = stream + activations.rotary_table(w)  # a chunk's output, and what its layers have together
    chunks = [layers * layer + shared for layers in stage_chunks(family, parallel, pp_rank)]
    saved = sum(count * size for count, size in zip(flights, chunks, strict=True))
    log_probs = log_prob_bytes(family, parallel, setting, batch.scored) if last else LogProbBytes(0, 0, 0)
    # A tied weight's gradient waits for the embedding's, where autograd adds it up.
    waiting = log_probs.handed_on if first and family.tied_embeddings else 0
    backward = saved + again + _backward(w, batch, setting) + _between_stages(stream, parallel, directions=2) + waiting
    score_of_last = saved + _final_norm(w) + log_probs.with_gradients if last else 0
    table = w.bytes * family.shape(parallel.tp).padded_vocab_size // parallel.tp * family.hidden_size
    before = saved - (chunks[0] if flights[0] else 0)
    embedding = before + w.bytes * w.tokens * w.hidden + table + (waiting and waiting + table)
    forward = saved + activations.layer_forward(w, saves=True, light=setting.recompute == "light")
    if setting.token_wise:
        forward = max(forward, score_of_last)
    else:
        forward = max(forward, saved + _final_norm(w) + log_probs.forward if last else 0)
        backward = max(backward, score_of_last)
    passed = stream + _between_stages(stream, parallel, directions=1)
    scoring, of_reference = (
        passed + max(activations.layer_forward(widths, saves=False), log_probs.forward)
        for widths in (w, activations.without_buffer(w))
    )
    visits = setting.bytes * held.total if setting.reference_visits else 0
    # What no phase gives back: the buffer into which sequence parallelism gathers, and the micro-batches themselves.
    gathered = gather_buffer(w, parallel)
    packed = gathered + batch.packed_bytes * setting.micro_batches
    scored = gathered + batch.packed_bytes * (setting.scored or setting.micro_batches)
    return Passing(
        scoring=scored + scoring,
        reference=scored + of_reference + visits if setting.reference else 0,
        activations=packed + saved,
        forward=packed + forward,
        backward=packed + backward,
        embedding=packed + embedding if first else 0,
        optimizer=packed + _optimizer_step(held, family, parallel, setting, pp_rank),
        given_back=_GRADIENT * held.total if setting.gradients_leave else 0,
    )


def gather_buffer(w: activations.Widths, parallel: ParallelConfig) -> int:
    """Megatron's buffer for the tokens of all tp ranks under sequence parallelism, kept from the first pass on."""
    return w.bytes * w.tokens * w.hidden if parallel.sequence_parallel else 0


def _between_stages(stream: int, parallel: ParallelConfig, directions: int) -> int:
    """Hidden states and gradients on their way to and from other (virtual) stages."""
    if parallel.pp == 1:
        return 0
    return stream * (1 + (directions * parallel.pp if parallel.vpp > 1 else 0))


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


def _layer(w: activations.Widths, setting: Setting) -> tuple[int, int]:
    """What a layer keeps for backward, and what comes back when it is computed again."""
    if setting.recompute == "none":
        return activations.saved_whole(w), 0
    if setting.recompute == "full":
        return activations.layer_input(w), activations.saved_whole(w) - activations.layer_input(w)
    if setting.recompute == "light":
        return activations.saved_light(w), 0
    return activations.saved_selective(w), activations.feed_forward_inner(w)


def _backward(w: activations.Widths, batch: LocalBatch, setting: Setting) -> int:
    """Beside the activations, in backward through the last layer."""
    light = setting.recompute == "light"
    again = setting.recompute in ("selective", "full")
    feed_forward = activations.feed_forward_backward(w, again=again, light=light)
    attention = activations.attention_backward(w, batch)
    inner = activations.feed_forward_inner(w, light=light)
    if setting.recompute == "selective":
        # Core attention is computed again when the feed-forward is done with.
        attention += activations.core_inner(w)
        if not w.fused_heads:
            attention += w.bytes * w.tokens * w.keys  # values apart from the projection that they are a part of
    return max(feed_forward, attention - inner)


def _final_norm(w: activations.Widths) -> int:
    """What the last norm keeps beside its input, which is the stage's output."""
    return w.norm(w.stream * w.hidden, w.stream)


def _optimizer_step(held: Parameters, family: Family, parallel: ParallelConfig, setting: Setting, pp_rank: int) -> int:
    """A gradient that is clipped, beside itself: the largest that the rank updates. After it pieces of a state.

    On a CPU, where the optimizer's kernel is another, two of the largest.
    """
    table = family.shape(parallel.tp).padded_vocab_size // parallel.tp * family.hidden_size
    if setting.cpu:
        return 2 * FP32_BYTES * table
    dense, expert = optimizer_shards(parallel)
    largest = min(largest_parameter(family, parallel, pp_rank), -(-held.dense // dense))
    state = setting.state_bytes * (held.dense // dense + held.expert // expert) if setting.state_visits else 0
    return max(FP32_BYTES * largest, min(PIECES * PIECE_BYTES, state))
