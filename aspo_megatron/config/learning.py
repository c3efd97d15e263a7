"""The loss, and how it is minimised."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from aspo_megatron.config.base import Section
from aspo_megatron.config.corrections import refuse_bounds
from aspo_megatron.config.words import Aggregation, KlEstimator, KlTokens, RolloutCorrection


class LossConfig(BaseModel):
    """The policy loss. Further keys are hyperparameters of the loss named, see `aspo losses`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(
        "aspo", description="Name of the loss; `aspo losses` lists them. Or `package.module:Class`, a loss of your own."
    )
    aggregation: Aggregation = Field("token-mean", description="How per-token losses become one number.")
    kl_coef: NonNegativeFloat = Field(0.001, description="Weight of the KL to the starting model; 0 switches it off.")
    kl_estimator: KlEstimator = Field("k3", description="Estimator of that KL.")
    kl_tokens: KlTokens = Field(
        "all",
        description="Where that KL counts; `low-entropy`: at tokens at or below the 0.8-quantile of their response's "
        "entropies, as ASPO's released code has it.",
    )
    entropy_coef: float = Field(0.0, description="Weight of an entropy bonus.")
    rollout_correction: RolloutCorrection = Field(
        "none",
        description="Weight of a token for what the engine's probability p differs from the trainer's pi_old, "
        "k = pi_old / p: `tis` min(k, max), `icepop` k inside min..max and 0 outside; the others are in docs/loss.md.",
    )
    rollout_ratio_min: NonNegativeFloat | None = Field(None, description="The min of that; null: the kind's own.")
    rollout_ratio_max: PositiveFloat | None = Field(None, description="The max of that; null: the kind's own.")
    router_aux_coef: NonNegativeFloat = Field(
        0.0,
        description="Weight of the load-balancing loss of a mixture of experts; it is computed in each micro-batch.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_bounds(self.rollout_correction, self.rollout_ratio_min, self.rollout_ratio_max)
        return self

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keys beyond the ones above; the loss checks them."""
        return dict(self.model_extra or {})


class OptimizerConfig(Section):
    """Adam of megatron-core."""

    lr: PositiveFloat = Field(1e-6, description="Learning rate after the warm-up.")
    min_lr: NonNegativeFloat = Field(
        0.0, description="Learning rate that a decaying schedule comes down to: the last update is one before it."
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="Course after the warm-up; updates that dynamic sampling leaves out count, too.",
    )
    warmup_updates: NonNegativeInt = Field(0, description="Optimizer updates over which lr rises; none is made at 0.")
    weight_decay: NonNegativeFloat = Field(0.1, description="Decoupled weight decay.")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="Decay of the first moment.")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="Decay of the second moment.")
    eps: PositiveFloat = Field(1e-8, description="Adam's epsilon.")
    clip_grad: NonNegativeFloat = Field(1.0, description="Limit of the global gradient norm; 0 switches it off.")
    offload: bool = Field(
        False,
        description="Keep Adam's moments, and the fp32 weights of a bf16 model, in the host's memory; an update brings "
        "them to the GPU and back in pieces (on a GPU).",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr} is above lr={self.lr}")
        return self


class TrainConfig(Section):
    """The training loop."""

    steps: PositiveInt = Field(100, description="Rollouts. Each is followed by epochs x mini-batches updates.")
    prompts_per_update: PositiveInt = Field(16, description="Prompts in one optimizer update (the mini-batch).")
    epochs: PositiveInt = Field(1, description="Passes over each rollout.")
    max_tokens_per_micro_batch: PositiveInt = Field(16384, description="Token budget of a packed micro-batch.")
    log_prob_chunk: PositiveInt | None = Field(
        None,
        description="Response tokens whose logits exist at the same time; null: what fits in 256 MiB; on a GPU 4,096, "
        "or what fits in a twentieth of its memory, but at least what fits in 1 GiB.",
    )
    old_log_probs: Literal["auto", "recompute", "rollout"] = Field(
        "auto",
        description="Take pi_old from a pass of the trainer, or from the engine that generated. `auto`: from the "
        "`embedded` engine in float32, which differs by rounding alone; otherwise from a pass.",
    )


class WarmupConfig(Section):
    """Supervised training on the reference answers before RL, for models that start from nothing."""

    updates: NonNegativeInt = Field(0, description="Supervised updates; 0 for none.")
    batch_size: PositiveInt = Field(64, description="Problems in one supervised update.")
    lr: PositiveFloat = Field(1e-3, description="Learning rate of the supervised updates.")
    response: str = Field(
        "{answer}", description="Text to imitate; `{answer}` is replaced by the reference answer, the end is added."
    )
