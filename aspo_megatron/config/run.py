"""A whole run, and what is kept of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from aspo_megatron.config.base import Section
from aspo_megatron.config.data import DataConfig
from aspo_megatron.config.learning import LossConfig, OptimizerConfig, TrainConfig, WarmupConfig
from aspo_megatron.config.model import ModelConfig, ParallelConfig, PlatformConfig
from aspo_megatron.config.plain import plain, some_path
from aspo_megatron.config.reward import AdvantageConfig, RewardConfig, ShapingConfig
from aspo_megatron.config.rollout import RolloutConfig, SamplingConfig
from aspo_megatron.config.words import WandbMode

_TIME = r"([0-9]+-)?[0-9]+(:[0-9]+){0,2}|-1|(?i:UNLIMITED|INFINITE)"


class EvalConfig(Section):
    """Evaluation on the held-out problems: before, during and after training."""

    every: NonNegativeInt = Field(10, description="Steps between evaluations; 0: only before and after.")
    samples: PositiveInt = Field(1, description="Responses to each problem (K of avg@K).")
    pass_k: tuple[PositiveInt, ...] = Field((1,), description="The k of pass@k; none may exceed `samples`.")
    sampling: SamplingConfig | None = Field(None, description="Sampling for evaluation; null: that of the rollouts.")
    max_problems: PositiveInt | None = Field(None, description="Only the first so many held-out problems.")
    chunk: PositiveInt | None = Field(
        None,
        description="Problems that `aspo eval` asks at a time and then writes, which is what a kill can cost; null: as "
        "many as make 256 responses for each process or server.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(k > self.samples for k in self.pass_k):
            raise ValueError(f"pass_k {list(self.pass_k)} needs at least that many `samples`, not {self.samples}")
        return self


class LogConfig(Section):
    """What a run writes besides metrics.jsonl, which is always there."""

    tensorboard: bool = Field(True, description="Write TensorBoard events to RUN/tensorboard/.")
    wandb: Literal["none", WandbMode] = Field(
        "none", description="Log to Weights & Biases (`pip install wandb`); `offline` into RUN/wandb/ for `wandb sync`."
    )
    wandb_project: str = Field("aspo-megatron", description="Project there.")
    samples_per_step: NonNegativeInt = Field(4, description="Responses of each step kept in RUN/samples.jsonl.")
    alarms: bool = Field(
        True,
        description="Warn of a run that learns nothing or collapses, and mark it in its plots, see docs/alarms.md.",
    )
    profile_step: NonNegativeInt = Field(
        0, description="Step whose time and memory are written to RUN/profile/ (`--profile`); 0: none."
    )


class CheckpointConfig(Section):
    """Training state, from which a killed run resumes, and models exported while training."""

    every: NonNegativeInt = Field(
        10, description="Steps between saves of the training state; 0: none, except when a signal stops the run."
    )
    keep: PositiveInt = Field(2, description="Saved states to keep; the oldest goes when a new one is complete.")
    async_save: bool = Field(True, description="Write the state while training continues, from a copy in host memory.")
    export_every: NonNegativeInt = Field(
        0, description="Steps between Hugging Face folders in RUN/exports/; 0: none but RUN/hf at the end."
    )


class SlurmConfig(Section):
    """The job that `aspo slurm` makes of a run, see docs/slurm.md. A resumed run may have another."""

    nodes: PositiveInt | None = Field(
        None, description="Nodes of the ranks, without those of server_nodes; null: as many as the ranks need."
    )
    gpus_per_node: NonNegativeInt = Field(
        8,
        description="GPUs of a node, all of them for ranks and the servers that the run starts beside them; 0: ranks "
        "on CPUs.",
    )
    server_nodes: NonNegativeInt = Field(
        0, description="Further nodes of the job: each has rollout.servers.count SGLang servers, which the run uses."
    )
    server_directives: tuple[str, ...] = Field(
        (),
        description="Options of sbatch for the server nodes alone, e.g. `--partition=inference`, `--gpus-per-node=4`: "
        "the job is then a heterogeneous one.",
    )
    servers_of: Path | None = Field(
        None, description="Folder of a job of slurm/serve.sbatch: the run waits for its servers and uses them."
    )
    cpus_per_task: PositiveInt = Field(
        8, description="CPU cores of each rank, and for each GPU of servers that the run starts beside them."
    )
    time: str | None = Field(
        "24:00:00",
        description="Time limit, as Slurm writes it: `minutes`, `hours:minutes:seconds`, `days-hours`, `UNLIMITED`; "
        "null: that of the partition.",
    )
    save_seconds: PositiveInt = Field(
        300, description="So long before the time limit the run saves its state: longer than a step, at most 65535."
    )
    partition: str | None = Field(None, description="Partition; null: the cluster's default.")
    account: str | None = Field(None, description="Account; null: the user's default.")
    qos: str | None = Field(None, description="Quality of service; null: the default.")
    constraint: str | None = Field(None, description="Features that the nodes must have.")
    directives: tuple[str, ...] = Field(
        (),
        description="Further options of sbatch, e.g. `--mem=0`; `--gres=gpu:8` takes the place of `--gpus-per-node`.",
    )
    setup: tuple[str, ...] = Field((), description="Shell lines run first, e.g. `module load cuda`.")
    venv: Path | None = Field(
        None,
        description="Environment of the ranks, of venv, conda or another folder with bin/aspo; null: that of `aspo "
        "slurm`; `none`: aspo is in PATH, by a module or a line of `setup`.",
    )
    container: str | None = Field(None, description="Image with aspo inside; null: none.")
    container_runtime: Literal["pyxis", "apptainer"] = Field("pyxis", description="What runs the image.")
    mounts: tuple[str, ...] = Field((), description="Folders that the container sees, `FROM:TO`.")
    log_dir: Path = Field(Path("slurm-logs"), validate_default=False, description="Folder of the jobs' logs.")

    _one_line = field_validator(
        *("server_directives", "servers_of", "time", "partition", "account", "qos", "constraint", "directives"),
        *("venv", "container", "mounts", "log_dir"),
    )(plain)

    @field_validator("time")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(_TIME, value):
            forms = "minutes, hours:minutes:seconds, days-hours or UNLIMITED"
            raise ValueError(f"{value!r} is no time limit as Slurm writes it: {forms}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("directives", "server_directives"):
            for line in self.model_dump()[key]:
                if not line.startswith("--"):
                    raise ValueError(f"{key}: {line!r} is no option of sbatch; they begin with --")
        if self.server_directives and not self.server_nodes:
            raise ValueError("server_directives: are for server_nodes, of which there are none")
        if self.server_nodes and self.servers_of:
            raise ValueError("server_nodes, servers_of: the servers are on nodes of this job or of another, not both")
        return self


class RunConfig(Section):
    """A whole run. `output_dir`, `model.path` and `data.train` have no default."""

    output_dir: Path = Field(description="The run folder. One that holds this same run is resumed.")
    seed: int = Field(1, description="Seed of everything random; the same seed gives the same curve.")
    model: ModelConfig
    platform: PlatformConfig = PlatformConfig()
    parallel: ParallelConfig = ParallelConfig()
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    shaping: ShapingConfig = ShapingConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    warmup: WarmupConfig = WarmupConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    slurm: SlurmConfig = SlurmConfig()

    _named = field_validator("output_dir", mode="before")(some_path)

    @property
    def has_reference(self) -> bool:
        """Whether a KL, in the loss or in the reward, refers to the policy as it began."""
        return bool(self.loss.kl_coef or self.shaping.kl_coef)

    @property
    def eval_sampling(self) -> SamplingConfig:
        """Sampling of evaluations: `eval.sampling`, or that of the rollouts where it is null."""
        return self.eval.sampling or self.rollout.sampling

    @property
    def mini_batches(self) -> int:
        """Parts of a rollout, each for one optimizer update."""
        return self.rollout.prompts_per_step // self.train.prompts_per_update

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates that a step plans; dynamic sampling may leave some out."""
        return self.mini_batches * self.train.epochs

    @property
    def first_update_is_on_policy(self) -> bool:
        """Whether a step's first update computes its mini-batch's old log-probs itself, so that no other pass does.

        Not if they are needed before it (for a KL in the reward) or after it (in a second epoch), nor if the user
        wants the engine's.
        """
        return self.train.old_log_probs != "rollout" and self.train.epochs == 1 and not self.shaping.kl_coef

    @property
    def takes_log_probs_of_engine(self) -> bool:
        """Whether the engine's log-probs are the old ones, so that no pass computes them."""
        if self.train.old_log_probs != "auto":
            return self.train.old_log_probs == "rollout"
        same = self.rollout.engine == "embedded" and self.model.dtype == "float32"
        return same and self.loss.rollout_correction == "none"

    @property
    def share_scored(self) -> float:
        """Share of a step's samples whose old log-probs a forward pass computes."""
        if self.takes_log_probs_of_engine:
            return 0.0
        first = self.train.prompts_per_update / self.rollout.prompts_per_step
        return 1.0 - first if self.first_update_is_on_policy else 1.0

    def _check_parts(self) -> None:
        """What is taken off the sum of a mixture is no part of it."""
        if self.reward.kind != "mixture":
            raise ValueError(
                f"advantage.of=parts: reward.kind={self.reward.kind} has no parts; use reward.kind=mixture with "
                "reward.components, or advantage.of=reward"
            )
        shaping = self.shaping
        for key, used in (
            ("overlong_tokens", bool(shaping.overlong_tokens and shaping.overlong_penalty)),
            ("kl_coef", bool(shaping.kl_coef)),
        ):
            if used:
                raise ValueError(
                    f"advantage.of=parts with shaping.{key}={getattr(shaping, key)}: that is taken off the sum of the "
                    f"parts, of which none is made; set shaping.{key}=0 and make it a part of the mixture, or leave "
                    "advantage.of=reward"
                )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rollout.prompts_per_step % self.train.prompts_per_update:
            raise ValueError(
                f"rollout.prompts_per_step={self.rollout.prompts_per_step} is not a multiple of "
                f"train.prompts_per_update={self.train.prompts_per_update}"
            )
        if self.loss.rollout_correction != "none" and self.train.old_log_probs == "rollout":
            raise ValueError(
                f"loss.rollout_correction={self.loss.rollout_correction} compares the trainer's log-probs with the "
                "engine's: train.old_log_probs must not be rollout"
            )
        if self.advantage.of == "parts":
            self._check_parts()
        if self.rollout.sampling.temperature == 0:
            raise ValueError("rollout.sampling.temperature=0: greedy responses of a group are all the same")
        return self
