"""Bytes that a layer keeps for backward, and what its backward takes beside them.

Each formula follows the code that it is about: megatron-core's local layers with our attention. Sizes are those of one
rank; docs/planning.md has the formulas as a table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from aspo_megatron.config import ParallelConfig
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.device.plain_attention import QUERY_CHUNK
from aspo_megatron.plan.memory.gathered_experts import GatheredExperts
from aspo_megatron.plan.memory.setting import Setting
from aspo_megatron.plan.memory.workload import LocalBatch

_STATISTICS = 4
"""Bytes of a row's log-sum-exp or reciprocal deviation: fp32 always."""


@dataclass(frozen=True)
class Widths:
    """Sizes of one rank. Elements unless said otherwise.

    tokens: packed tokens of the rank. stream: those of the residual stream, tokens / tp under sequence parallelism.
    all_tokens: tokens whose keys are gathered over cp. hidden, queries, keys: a token's hidden state, its queries and
    its keys. head, heads: size and number of the rank's heads. ffn: of a dense feed-forward. routed: tokens that the
    rank's experts get, if they are used evenly. expert_ffn, expert_tp: of an expert, and the ranks that share it.
    bytes: of an element. cpu: norms that keep their input in normalised form, too, and a fused attention kernel.
    fused: the activation is one kernel, which keeps its input alone (`model.kernels.fusion`).
    varlen: attention is computed by segments, not by blocks (`model.kernels.attention`).
    gathered: sizes of experts whose ranks gather all tokens (`model.kernels.experts`); None for others.
    fused_heads: norms of heads and rotary positions are one kernel (`model.kernels.rotary`).
    """

    tokens: int
    stream: int
    all_tokens: int
    hidden: int
    head: int
    heads: int
    kv_heads: int
    ffn: int
    routed: int
    expert_ffn: int
    expert_tp: int
    experts: int
    top_k: int
    qk_norm: bool
    bytes: int
    cpu: bool
    fused: bool
    varlen: bool
    gathered: GatheredExperts | None
    fused_heads: bool

    @classmethod
    def of(cls, family: Family, parallel: ParallelConfig, batch: LocalBatch, setting: Setting) -> Widths:
        """Those of a layout and a micro-batch."""
        tp = parallel.tp
        stream = batch.tokens // tp if parallel.sequence_parallel else batch.tokens
        return cls(
            tokens=batch.tokens,
            stream=stream,
            all_tokens=batch.all_tokens,
            hidden=family.hidden_size,
            head=family.head_dim,
            heads=family.num_heads // tp,
            kv_heads=-(-family.num_kv_heads // tp),
            ffn=0 if family.num_experts else family.ffn_hidden_size // tp,
            # Every rank sends its own tokens away and gets as many of others; the ranks of an expert share theirs.
            routed=stream * family.experts_per_token * parallel.expert_tp if family.num_experts else 0,
            expert_ffn=family.expert_ffn_size // parallel.expert_tp,
            expert_tp=parallel.expert_tp,
            experts=family.num_experts,
            top_k=family.experts_per_token,
            qk_norm=family.qk_norm,
            bytes=setting.bytes,
            cpu=setting.cpu,
            fused=setting.fused,
            varlen=setting.varlen(family),
            gathered=GatheredExperts.of(family, parallel, stream, setting.bytes)
            if setting.gathers(family, parallel)
            else None,
            fused_heads=not setting.cpu and setting.kernels.rotary != "eager",
        )

    @property
    def queries(self) -> int:
        """Elements of all queries of a token."""
        return self.heads * self.head

    @property
    def mixed(self) -> int:
        """Elements of a token's queries, keys and values."""
        return (self.heads + 2 * self.kv_heads) * self.head

    @property
    def keys(self) -> int:
        """Elements of a token's keys."""
        return self.kv_heads * self.head

    @property
    def views_values(self) -> bool:
        """Whether attention has values as a part of the projection, which the norms of heads keep."""
        return self.fused_heads and self.qk_norm and self.all_tokens == self.tokens

    @property
    def shares_keys(self) -> bool:
        """Whether several heads have the same keys."""
        return self.heads > self.kv_heads

    def norm(self, size: int, rows: int) -> int:
        """Bytes a norm keeps beside its input: on CPU the normalised input; the rows' deviations."""
        return (self.bytes * size if self.cpu else 0) + _STATISTICS * rows


def without_buffer(w: Widths) -> Widths:
    """For a model whose weights lie apart: those of the experts are copied into one tensor to compute with them."""
    return w if w.gathered is None else replace(w, gathered=replace(w.gathered, stacked=True))


def layer_input(w: Widths) -> int:
    """The residual stream that goes into a layer: all that full recomputation keeps."""
    return w.bytes * w.stream * w.hidden


def saved_whole(w: Widths) -> int:
    """All that a layer keeps without recomputation, its input included."""
    return layer_input(w) + _block_inputs(w) + _attention_inputs(w) + core_inner(w) + feed_forward_inner(w)


def saved_light(w: Widths) -> int:
    """All but the outputs of both norms, and what the activation has but its input."""
    norms = 2 * w.bytes * w.stream * w.hidden
    return saved_whole(w) - norms - feed_forward_inner(w) + feed_forward_inner(w, light=True)


def saved_selective(w: Widths) -> int:
    """What a layer keeps if core attention and feed-forward are computed again."""
    own = layer_input(w) + _block_inputs(w) + _projections(w)
    # The inputs of core attention: queries and keys after rotation, values as part of the projection, or by themselves
    # if nothing else keeps it; and its output.
    values = 0 if w.qk_norm else w.keys if w.fused_heads else w.mixed
    own += w.bytes * w.tokens * (w.queries + w.keys + values + w.queries)
    return own


def rotary_table(w: Widths) -> int:
    """Cosines and sines, which a micro-batch has once for all layers of a chunk."""
    return _STATISTICS * w.tokens * w.head if w.fused_heads else 0


def _block_inputs(w: Widths) -> int:
    """The two norms with their outputs, and the residual stream between attention and feed-forward."""
    size = w.stream * w.hidden
    return 2 * (w.norm(size, w.stream) + w.bytes * size) + w.bytes * size


def _projections(w: Widths) -> int:
    """Between the projection and core attention: norms of heads, and cosines and sines of both rotations.

    By one kernel: the projection, out of which the norms are computed again.
    """
    if w.fused_heads:
        return w.bytes * w.tokens * w.mixed if w.qk_norm else 0
    kept = 4 * w.bytes * w.tokens * w.head
    if w.qk_norm:
        kept += w.norm(w.tokens * w.queries, w.tokens * w.heads) + w.norm(w.tokens * w.keys, w.tokens * w.kv_heads)
        # Queries as a copy where heads share keys; keys as a view, which holds all of the projection's output.
        kept += w.bytes * w.tokens * (w.mixed + (w.queries if w.shares_keys else 0))
    return kept


def _attention_inputs(w: Widths) -> int:
    """Queries, keys and values of core attention, and what comes before."""
    return _projections(w) + w.bytes * (w.tokens * w.queries + (1 if w.views_values else 2) * w.all_tokens * w.keys)


def core_inner(w: Widths) -> int:
    """The output of core attention and the log-sum-exp of each query."""
    return w.bytes * w.tokens * w.queries + _STATISTICS * w.tokens * w.heads


def feed_forward_inner(w: Widths, *, light: bool = False) -> int:
    """What a feed-forward keeps beside its input.

    Gate and up, and their product; without fusion up once more, and the activation. Experts: for every routed token,
    its hidden state and the same, without fusion also the product that the router has not weighted; and the router's.
    `light`: gate and up alone.
    """
    if w.gathered is not None:
        return w.gathered.saved
    if not w.experts:
        return (2 if light else 3 if w.fused else 5) * w.bytes * w.tokens * w.ffn
    widths = 2 if light else 3 if w.fused else 6
    routed = w.routed * (w.bytes * (w.hidden + widths * w.expert_ffn) + _STATISTICS + 8)
    router = w.stream * (w.experts * (2 * _STATISTICS + 1) + 3 * _STATISTICS * w.top_k)
    return routed + router


def feed_forward_backward(w: Widths, *, again: bool, light: bool = False) -> int:
    """Beside what is saved, at its most: the gradients of the product's two factors, and of the residual stream.

    Experts take most in their forward pass, or when it is done `again`: the routed tokens as they come, and their
    outputs before and after they are joined. `light`: the gradient of the product has not taken its place, as nothing
    of it was saved; and experts have the output of the norm before them.
    """
    stream = w.bytes * w.stream * w.hidden
    if w.gathered is not None:
        return max(w.gathered.backward, _experts_forward(w) + 2 * stream if again else 0) + light * stream
    if w.experts:
        own = 3 * w.bytes * w.routed * w.hidden - (0 if light else stream)
        return _experts_forward(w) + 2 * stream if again else own
    factors = (3 if light else 2) * w.bytes * w.tokens * w.ffn
    if w.stream < w.tokens:  # the output's gradient is gathered over tp before
        factors = max(factors, w.bytes * w.tokens * ((2 if light else 1) * w.ffn + w.hidden))
    return factors + stream


def attention_backward(w: Widths, batch: LocalBatch) -> int:
    """Beside what is saved: gradients of output, queries, keys and values, and the copies that their computation takes.

    By segments, those of the keys and values of one call with their gradients, and in the second the first's of the
    queries. By blocks, those of a batch of blocks; on a GPU in fp32 also the scores of 512 queries.
    """
    if w.varlen:
        all_keys = 2 * w.all_tokens * w.keys
        first = (4 if batch.own_keys else 2) * (batch.own_keys or w.all_tokens) * w.keys
        second = w.tokens * w.queries + all_keys + 4 * batch.prompt_keys * w.keys
        copied_back = all_keys + 2 * batch.own_keys * w.keys
        return w.bytes * (w.stream * w.hidden + 2 * w.tokens * w.queries + max(first, copied_back, second))
    largest = max(batch.blocks, key=lambda block: block.count * (block.queries + block.keys), default=None)
    total = w.bytes * (w.stream * w.hidden + 2 * w.tokens * w.queries + 2 * w.all_tokens * w.keys)
    if largest is not None:
        total += 4 * w.bytes * largest.count * (w.queries * largest.queries + w.keys * largest.keys)
    return total + (0 if w.cpu or w.bytes == 2 else score_buffers(w, batch))


def score_buffers(w: Widths, batch: LocalBatch) -> int:
    """What the plain attention kernel of a GPU holds of scores and probabilities."""
    scores = max(
        (w.heads * block.count * min(block.queries, QUERY_CHUNK) * block.keys for block in batch.blocks), default=0
    )
    return scores * (4 * _STATISTICS + w.bytes)


def layer_forward(w: Widths, *, saves: bool, light: bool = False) -> int:
    """What a layer's forward pass computes with at its most, beside what `saves` keeps, or if nothing is kept.

    `light`: experts have the output of the norm before them until they are done.
    """
    stream = w.bytes * w.stream * w.hidden
    if saves:
        return _experts_forward(w) + light * stream if w.experts else 0
    if w.gathered is not None:
        return 3 * stream + w.gathered.saved + w.gathered.forward
    if w.experts:
        return 3 * stream + w.bytes * w.routed * w.hidden + _experts_forward(w)
    attention = w.bytes * w.tokens * (w.mixed + 2 * w.queries + w.keys) + 2 * w.bytes * w.all_tokens * w.keys
    return 3 * stream + max(attention, (3 if w.fused else 4) * w.bytes * w.tokens * w.ffn)


def _experts_forward(w: Widths) -> int:
    """What experts compute with beside what is kept, as their outputs are joined.

    Tokens in the order of experts as they were sent and received; the outputs apart and joined. Where ranks share an
    expert, the outputs as they are joined and sorted, both again in fp32, and this rank's part of their sum.
    """
    if w.gathered is not None:
        return w.gathered.forward
    if w.expert_tp == 1:
        return 4 * w.bytes * w.routed * w.hidden
    sent = 2 * w.bytes * w.routed // w.expert_tp
    outputs = 2 * w.bytes * w.routed + (_STATISTICS * w.routed if w.bytes < _STATISTICS else 0)
    return w.hidden * (sent + outputs + _STATISTICS * w.routed // w.expert_tp)
