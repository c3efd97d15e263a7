"""Bytes of a layer of experts whose ranks gather each other's tokens (`parallel/model/experts/routed.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron.config import ParallelConfig
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.model.experts.room import rows_set_aside

_FP32, _INT64 = 4, 8


@dataclass(frozen=True)
class GatheredExperts:
    """Sizes on one rank.

    Attributes:
        stream: the rank's own tokens.
        tokens: those of all ranks that share experts.
        rows: set aside for the choices of the rank's experts.
        hidden, inner: elements of a token's hidden state, and of an expert's feed-forward.
        experts, local: of the model, and of the rank.
        top_k: choices of a token.
        bytes: of an element.
        stacked: weights are copied into one tensor; those of a distributed optimizer are one.
    """

    stream: int
    tokens: int
    rows: int
    hidden: int
    inner: int
    experts: int
    local: int
    top_k: int
    bytes: int
    stacked: bool

    @classmethod
    def of(cls, family: Family, parallel: ParallelConfig, stream: int, element_bytes: int) -> GatheredExperts:
        """Of a layout, for so many tokens of each rank."""
        tokens, local = stream * parallel.ep * parallel.expert_tp, family.num_experts // parallel.ep
        return cls(
            stream=stream,
            tokens=tokens,
            rows=rows_set_aside(tokens, family.experts_per_token, local, family.num_experts),
            hidden=family.hidden_size,
            inner=family.expert_ffn_size // parallel.expert_tp,
            experts=family.num_experts,
            local=local,
            top_k=family.experts_per_token,
            bytes=element_bytes,
            stacked=not parallel.distributed_optimizer,
        )

    @property
    def saved(self) -> int:
        """Kept for backward beside the layer's input: gate and up of each row, its weight and its choice; the router's.

        That is the probabilities of all experts, and of the chosen ones what softmax gave, and their numbers thrice.
        """
        router = self.stream * (_FP32 * self.experts + (_FP32 + 3 * _INT64) * self.top_k)
        return self.rows * (2 * self.inner * self.bytes + _FP32 + _INT64) + router

    @property
    def forward(self) -> int:
        """The most beside what is kept: rows and their outputs, or these and their sums; weights that are copied."""
        outputs = self.rows * (self.hidden + self.inner) * self.bytes + self._down
        inputs = self.rows * self.hidden * self.bytes + 2 * self._down
        return max(inputs, outputs, (self.rows + self.tokens) * self.hidden * self.bytes)

    @property
    def backward(self) -> int:
        """The most beside what is kept: all tokens, a rank's rows, and gradients of these or of weights."""
        everything, rows = self.tokens * self.hidden * self.bytes, self.rows * self.hidden * self.bytes
        inner = self.rows * self.inner * self.bytes
        gradient = self.local * self.inner * self.hidden * self.bytes
        return everything + rows + max(everything, 3 * inner + gradient, 2 * inner + 2 * gradient, inner + self._down)

    @property
    def _down(self) -> int:
        """Of the weights that are copied, those of down; gate and up are twice as many."""
        return self.local * self.inner * self.hidden * self.bytes if self.stacked else 0
