"""Memory and time of generation: SGLang servers with GPUs of their own, or the engine inside each rank."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from aspo_megatron.config import RunConfig, SamplingConfig
from aspo_megatron.models.counts import active_elements, model_elements
from aspo_megatron.models.family import Family
from aspo_megatron.plan.hardware import Assumptions, Gpu
from aspo_megatron.plan.memory.rank import resident
from aspo_megatron.plan.memory.setting import setting_of
from aspo_megatron.plan.memory.workload import worst_groups
from aspo_megatron.rollout.embedded.batch_tokens import _DRAWN, _SORTED, ON_CPU, rows_in, tokens_in


@dataclass(frozen=True)
class PlannedEngine:
    """One server (or a rank's own engine): bytes are of each of its `gpus` GPUs.

    `cache`: bytes for keys and values; `cached_tokens`: how many tokens' keys and values that is. `drawing`: what an
    embedded engine takes to draw a token of each response.
    """

    kind: str
    count: int
    gpus: int
    weights: int
    cache: int
    cached_tokens: int
    drawing: int = 0

    @property
    def bytes(self) -> int:
        """Of one GPU."""
        return self.weights + self.cache + self.drawing


def cache_bytes(family: Family, dtype_bytes: int) -> int:
    """Keys and values of a token in all layers."""
    return 2 * family.num_layers * family.num_kv_heads * family.head_dim * dtype_bytes


def server_count(config: RunConfig) -> int:
    """Servers of a run with rollout.engine=sglang, over all of its nodes."""
    servers = config.rollout.servers
    return len(servers.addresses) or servers.count * max(config.slurm.server_nodes, 1)


def planned_engine(config: RunConfig, family: Family, gpu: Gpu, assume: Assumptions, dtype_bytes: int) -> PlannedEngine:
    """What generates, and its memory on `gpu`. A `cache` of 0 or less: the weights alone do not fit."""
    rollout = config.rollout
    whole = model_elements(family) * dtype_bytes
    token = cache_bytes(family, dtype_bytes)
    if rollout.engine == "embedded":
        rows = _embedded_rows(config, family, gpu, assume, whole, token)
        cached = rows * sum(_longest(config, family))
        # A layer's keys and values are copied as they grow, at another time than tokens are drawn.
        growing = cached * token // family.num_layers
        drawing = rows * family.vocab_size * _bytes_of_logit(rollout.sampling)
        return PlannedEngine(
            "embedded", config.parallel.world_size, 1, whole, cached * token, cached, max(growing, drawing)
        )
    servers = rollout.servers
    fraction = servers.memory_fraction or assume.server_fraction
    weights = whole // servers.tp
    cache = int(fraction * gpu.memory) - weights
    # Fewer key-value heads than GPUs are repeated.
    per_gpu = token * max(family.num_kv_heads // servers.tp, 1) // family.num_kv_heads
    return PlannedEngine("sglang", server_count(config), servers.tp, weights, cache, max(cache, 0) // per_gpu)


def _longest(config: RunConfig, family: Family) -> tuple[int, int]:
    """Tokens of the longest prompt and response that the model's context takes."""
    (prompt, (response, *_)), *_ = worst_groups(config, family.context_length)
    return prompt, response


def _bytes_of_logit(sampling: SamplingConfig) -> int:
    """As `rollout/embedded/batch_tokens.py` counts them."""
    return _SORTED if sampling.top_k or sampling.top_p < 1.0 else _DRAWN


def _embedded_rows(config: RunConfig, family: Family, gpu: Gpu, assume: Assumptions, weights: int, token: int) -> int:
    """Responses that the embedded engine holds at once, as `EmbeddedEngine` batches a rank's share; 0 for no room.

    Where the configuration does not say how many tokens, those that fill half of what is free beside what is there on
    the fullest stage, and no more responses than a quarter of it draws tokens for.
    """
    parallel, setting, rollout = config.parallel, setting_of(config, config.parallel), config.rollout
    share = -(-rollout.prompts_per_step // parallel.world_size)
    most, rows = rollout.max_batch_tokens or ON_CPU, sys.maxsize
    if not setting.cpu and not rollout.max_batch_tokens:
        stages = [resident(family, parallel, setting, stage) for stage in range(parallel.pp)]
        held = max(stage.total - stage.gradients for stage in stages)  # which are given back meanwhile
        free = gpu.memory - assume.reserved - held - weights
        if free <= 0:
            return 0
        most, rows = tokens_in(free, token), rows_in(free, family.vocab_size, rollout.sampling)
    count = rollout.responses_per_prompt
    prompts = min(most // (count * sum(_longest(config, family))), rows // count)
    return count * min(max(prompts, 1), share)


def generation_seconds(
    config: RunConfig, family: Family, engine: PlannedEngine, gpu: Gpu, assume: Assumptions, dtype_bytes: int
) -> float:
    """All responses of a step. Each token of a batch reads the weights once, and each response its keys and values."""
    rollout = config.rollout
    prompt, response = mean_lengths(config, assume)
    requests = -(-rollout.prompts_per_step * rollout.responses_per_prompt // engine.count)
    live = prompt + response / 2
    batch = max(min(requests, int(engine.cached_tokens / live)), 1)
    if rollout.engine == "sglang":
        batch = min(batch, rollout.servers.concurrency * config.parallel.world_size)
    read = (engine.weights * engine.gpus + batch * live * cache_bytes(family, dtype_bytes)) / engine.gpus
    moved = read / (gpu.hbm * assume.decode)
    computed = 2 * active_elements(family) * batch / (gpu.bf16 * assume.mfu * engine.gpus)
    waves = requests / batch
    tail = rollout.sampling.max_response_tokens - response  # the longest go on alone
    alone = engine.weights / (gpu.hbm * assume.decode)
    return waves * response * max(moved, computed) + tail * alone


def mean_lengths(config: RunConfig, assume: Assumptions) -> tuple[float, float]:
    """Tokens of a prompt and of a response, in the mean."""
    return (
        max(assume.prompt * config.data.max_prompt_tokens, 1.0),
        max(assume.length * config.rollout.sampling.max_response_tokens, 1.0),
    )
