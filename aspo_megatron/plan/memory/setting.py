"""What memory depends on, out of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from aspo_megatron import losses
from aspo_megatron.config import KernelsConfig, ParallelConfig, RunConfig
from aspo_megatron.config.words import ModelDtype, Recompute
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.device.attention_kernels import flash_takes
from aspo_megatron.parallel.device.expert_traits import gathers_experts
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.plan.memory.parameters import bytes_per_weight

MOMENTS_BYTES = 8
"""Of Adam's two moments of a weight."""
FP32_BYTES = 4


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
        offload: the optimizer's state is in the host's memory, and passes the GPU in its step (`optimizer.offload`).
        cpu: the ranks are on CPUs.
        turns: the engine generates on the trainer's GPUs (`RolloutConfig.takes_turns`).
        reference_on_host: the reference model is on the GPU only to compute (`model.reference`).
        fused: activations are one kernel (`model.kernels.fusion`).
        blocks: attention is computed block by block on a GPU, too (`model.kernels.attention`).
        eager_log_prob: on a GPU, too, the log-prob uses no Triton kernels (`model.kernels.log_prob`).
        kernels: `model.kernels`.
        capability: of the GPU; no matter on CPUs.
        gpu_memory: bytes of the GPU, by which a log-prob's chunk goes; no matter on CPUs.
        scored: micro-batches of a pass over the samples of a step; None: as many as an update has.
    """

    dtype: ModelDtype
    recompute: Recompute
    token_wise: bool
    reference: bool
    log_prob_chunk: int | None
    micro_batches: int
    offload: bool
    cpu: bool
    turns: bool = False
    reference_on_host: bool = False
    fused: bool = False
    blocks: bool = False
    eager_log_prob: bool = False
    kernels: KernelsConfig = field(default_factory=KernelsConfig)
    capability: tuple[int, int] = (9, 0)
    gpu_memory: int = 0
    scored: int | None = None

    @property
    def bytes(self) -> int:
        """Of a weight."""
        return bytes_per_weight(self.dtype)

    def varlen(self, family: Family) -> bool:
        """Whether a GPU computes attention by segments."""
        flash = flash_takes(getattr(torch, self.dtype), family.head_dim)
        return not self.cpu and flash and not self.blocks

    def gathers(self, family: Family, parallel: ParallelConfig) -> bool:
        """Whether ranks hand each other all tokens for their experts."""
        return gathers_experts(family, parallel, self.dtype, self.kernels, None if self.cpu else self.capability)

    @property
    def main_bytes(self) -> int:
        """Of the fp32 weight that the optimizer has beside one in 16 bits."""
        return 0 if self.dtype == "float32" else FP32_BYTES

    @property
    def reference_visits(self) -> bool:
        """Whether the reference model has memory of the GPU for its pass alone."""
        return self.reference and self.reference_on_host and not self.cpu

    @property
    def state_visits(self) -> bool:
        """Whether the optimizer's state passes the GPU in pieces; a CPU has nowhere else to keep it."""
        return self.offload and not self.cpu

    @property
    def state_bytes(self) -> int:
        """Of the optimizer's state of a weight: two moments, and the fp32 weight beside one in 16 bits."""
        return MOMENTS_BYTES + self.main_bytes

    @property
    def gradients_leave(self) -> bool:
        """Whether gradients have memory of the GPU during updates alone."""
        return self.turns and not self.cpu


def setting_of(config: RunConfig, parallel: ParallelConfig) -> Setting:
    """What memory depends on beside model and layout.

    Raises:
        ConfigError: there is no such loss, or not with these hyperparameters.
    """
    loss = losses.build(config.loss.name, config.loss.hyperparameters)
    groups = -(-config.train.prompts_per_update // parallel.dp)
    response = config.rollout.sampling.max_response_tokens
    tokens = groups * (config.data.max_prompt_tokens + config.rollout.responses_per_prompt * response)
    micro_batches = -(-tokens // config.train.max_tokens_per_micro_batch)
    cpu = config.platform.device == "cpu"
    return Setting(
        dtype=config.model.dtype,
        recompute=config.model.recompute,
        token_wise=PolicyObjective(loss, config.loss).token_wise,
        reference=config.has_reference,
        log_prob_chunk=config.train.log_prob_chunk,
        micro_batches=micro_batches,
        offload=config.optimizer.offload,
        turns=config.rollout.takes_turns,
        cpu=cpu,
        reference_on_host=config.model.reference == "host",
        blocks=config.model.kernels.attention == "blocks",
        fused=not cpu if config.model.kernels.fusion is None else config.model.kernels.fusion,
        eager_log_prob=config.model.kernels.log_prob == "eager",
        kernels=config.model.kernels,
        scored=micro_batches * config.mini_batches,
    )
