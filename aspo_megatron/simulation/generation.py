"""The embedded engine of a simulated rank, with its cache as full as it gets.

Import it where the stand-in is installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from aspo_megatron.config import RunConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import hf_sizes
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.plan.memory.workload import worst_groups
from aspo_megatron.rollout.embedded.engine import EmbeddedEngine, _Rows
from aspo_megatron.rollout.engine import Request

_DRAWN = 2
"""Tokens that are generated: the last two of a response, as memory is most at the end."""


class SimulatedEngine:
    """What `EmbeddedEngine` does on one rank."""

    def __init__(self, config: RunConfig, family: Family, topology: Topology) -> None:
        dtype, device = getattr(torch, config.model.dtype), topology.platform.device
        tokenizer: Any = SimpleNamespace(eos_token_id=None)
        rollout = config.rollout
        self._engine = EmbeddedEngine(config.model.path, tokenizer, dtype, device, rollout.max_batch_tokens)
        self._device, self._dtype = device, dtype
        self._sizes = hf_sizes(family.rows, family.shape(tp=1))
        self._sampling = rollout.sampling
        (prompt, _), *_ = worst_groups(config, family.context_length)
        problem = Problem("", "", (0,) * prompt)
        share = -(-rollout.prompts_per_step // topology.world_size)
        self._requests = [Request(problem, rollout.responses_per_prompt, (0, i), group=i) for i in range(share)]

    def take(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """The weights: those of other pipeline stages too, which nobody sends here."""
        self._engine.update_weights(self._with_missing(tensors), version=1)

    def _with_missing(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        missing = dict(self._sizes)
        for name, tensor in tensors:
            del missing[name]
            yield name, tensor
        for name, size in missing.items():
            yield name, torch.empty(size, dtype=self._dtype, device=self._device)

    @torch.no_grad()
    def generate(self) -> None:
        """The prompts of the largest batch, and the last tokens of its responses."""
        batch = next(iter(self._engine._batches(self._requests, self._sampling)))
        length = self._sampling.max_response_tokens
        few = self._sampling.model_copy(update={"max_response_tokens": min(length, _DRAWN)})
        rule: Any = SimpleNamespace(ends=lambda tokens: False)
        rows = _LateRows(self._engine._model, self._device, rule, few, [self._requests[i] for i in batch])
        rows.before = max(length - _DRAWN, 0)
        rows.run(self._engine._tokens_at_once)

    def release(self) -> None:
        """All memory."""
        self._engine.release_memory()


class _LateRows(_Rows):
    """Responses of which `before` tokens are there already."""

    before = 0

    def _prefill(self) -> tuple[Tensor, DynamicCache, Tensor]:
        logits, cache, mask = super()._prefill()
        for layer in cache.layers if self.before else ():
            rows, heads, _, size = layer.keys.shape
            layer.update(*(layer.keys.new_empty(rows, heads, self.before, size) for _ in range(2)))
        return logits, cache, torch.cat([mask, mask.new_ones(len(mask), self.before)], dim=1)
