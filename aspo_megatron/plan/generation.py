"""Memory and time of generation: SGLang servers with GPUs of their own, or the engine inside each rank."""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron.config import RunConfig
from aspo_megatron.models.family import Family
from aspo_megatron.plan.hardware import Assumptions, Gpu
from aspo_megatron.plan.memory import resident
from aspo_megatron.plan.parameters import active_elements, model_elements
from aspo_megatron.plan.setting import setting_of
from aspo_megatron.rollout.batch_tokens import ON_CPU, tokens_in


@dataclass(frozen=True)
class Engine:
    """One server (or a rank's own engine): bytes are of each of its `gpus` GPUs.

    `cache`: bytes for keys and values; `cached_tokens`: how many tokens' keys and values that is.
    """

    kind: str
    count: int
    gpus: int
    weights: int
    cache: int
    cached_tokens: int

    @property
    def bytes(self) -> int:
        """Of one GPU."""
        return self.weights + self.cache


def cache_bytes(family: Family, dtype_bytes: int) -> int:
    """Keys and values of a token in all layers."""
    return 2 * family.num_layers * family.num_kv_heads * family.head_dim * dtype_bytes


def server_count(config: RunConfig) -> int:
    """Servers of a run with rollout.engine=sglang, over all of its nodes."""
    servers = config.rollout.servers
    return len(servers.addresses) or servers.count * max(config.slurm.server_nodes, 1)


def engine_of(config: RunConfig, family: Family, gpu: Gpu, assume: Assumptions, dtype_bytes: int) -> Engine:
    """What generates, and its memory on `gpu`. A `cache` of 0 or less: the weights alone do not fit."""
    rollout = config.rollout
    whole = model_elements(family) * dtype_bytes
    token = cache_bytes(family, dtype_bytes)
    if rollout.engine == "embedded":
        cached = rollout.max_batch_tokens or _embedded_tokens(config, family, gpu, assume, whole, token)
        return Engine("embedded", config.parallel.world_size, 1, whole, cached * token, cached)
    servers = rollout.servers
    fraction = servers.memory_fraction or assume.server_fraction
    weights = whole // servers.tp
    cache = int(fraction * gpu.memory) - weights
    # Fewer key-value heads than GPUs are repeated.
    per_gpu = token * max(family.num_kv_heads // servers.tp, 1) // family.num_kv_heads
    return Engine("sglang", server_count(config), servers.tp, weights, cache, max(cache, 0) // per_gpu)


def _embedded_tokens(config: RunConfig, family: Family, gpu: Gpu, assume: Assumptions, weights: int, token: int) -> int:
    """What the embedded engine holds by itself, beside what is always there on the fullest stage; 0 for no room."""
    parallel, setting = config.parallel, setting_of(config, config.parallel)
    if setting.cpu:
        return ON_CPU
    held = max(resident(family, parallel, setting, stage).total for stage in range(parallel.pp))
    free = gpu.memory - assume.reserved - held - weights
    return tokens_in(free, token) if free > 0 else 0


def generation_seconds(
    config: RunConfig, family: Family, engine: Engine, gpu: Gpu, assume: Assumptions, dtype_bytes: int
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
