"""The one configuration schema: it serves the command line, the run folder and the reference in docs/.

Every model refuses unknown keys. Only `loss` admits more: the hyperparameters of the chosen loss, which that
loss declares and checks itself (`aspo_megatron.losses.build`).
"""

from __future__ import annotations

from aspo_megatron.config.base import Section
from aspo_megatron.config.data import DataConfig, SourceConfig
from aspo_megatron.config.learning import LossConfig, OptimizerConfig, TrainConfig, WarmupConfig
from aspo_megatron.config.model import KernelsConfig, ModelConfig, ParallelConfig, PlatformConfig
from aspo_megatron.config.reward import AdvantageConfig, CodeConfig, RewardComponent, RewardConfig, ShapingConfig
from aspo_megatron.config.rollout import RolloutConfig, SamplingConfig, ServersConfig
from aspo_megatron.config.run import CheckpointConfig, EvalConfig, LogConfig, RunConfig, SlurmConfig

__all__ = [
    "AdvantageConfig",
    "CheckpointConfig",
    "CodeConfig",
    "DataConfig",
    "EvalConfig",
    "KernelsConfig",
    "LogConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PlatformConfig",
    "RewardComponent",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "SamplingConfig",
    "Section",
    "ServersConfig",
    "ShapingConfig",
    "SlurmConfig",
    "SourceConfig",
    "TrainConfig",
    "WarmupConfig",
]
