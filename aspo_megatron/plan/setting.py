"""What memory depends on, out of a configuration."""

from __future__ import annotations

from aspo_megatron import losses
from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.parallel.objective import PolicyObjective
from aspo_megatron.plan.memory import Setting


def setting_of(config: RunConfig, parallel: ParallelConfig) -> Setting:
    """What memory depends on beside model and layout.

    Raises:
        ConfigError: there is no such loss, or not with these hyperparameters.
    """
    loss = losses.build(config.loss.name, config.loss.hyperparameters)
    groups = -(-config.train.prompts_per_update // parallel.dp)
    response = config.rollout.sampling.max_response_tokens
    tokens = groups * (config.data.max_prompt_tokens + config.rollout.responses_per_prompt * response)
    return Setting(
        dtype=config.model.dtype,
        recompute=config.model.recompute,
        token_wise=PolicyObjective(loss, config.loss).token_wise,
        reference=config.has_reference,
        log_prob_chunk=config.train.log_prob_chunk,
        micro_batches=-(-tokens // config.train.max_tokens_per_micro_batch),
        offload=config.optimizer.offload,
        cpu=config.platform.device == "cpu",
        reference_on_host=config.model.reference == "host",
    )
