"""The words that settings take, where modules outside the configuration need their types, too."""

from __future__ import annotations

from typing import Literal

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]
"""`loss.aggregation`."""

KlEstimator = Literal["k1", "k2", "k3"]
"""`loss.kl_estimator` and `shaping.kl_estimator`."""

KlTokens = Literal["all", "low-entropy"]
"""`loss.kl_tokens`."""

RolloutCorrection = Literal[
    "none", "tis", "icepop", "kpop", "sequence-tis", "sequence-mask", "geometric-mask", "k3-mask"
]
"""`loss.rollout_correction`."""

Baseline = Literal["group", "leave-one-out", "batch"]
"""`advantage.baseline`."""

AdvantageOf = Literal["reward", "parts"]
"""`advantage.of`."""

Scale = Literal["group", "batch", "mean", "none"]
"""`advantage.scale`."""

ModelDtype = Literal["float32", "bfloat16"]
"""`model.dtype`."""

Recompute = Literal["none", "light", "selective", "full"]
"""`model.recompute`, the least first."""

ReferencePlace = Literal["device", "host"]
"""`model.reference`."""

AttentionPlan = Literal["varlen", "blocks"]
"""`model.kernels.attention` without `auto`."""

OnBad = Literal["refuse", "drop"]
"""`data.on_bad`."""

ProblemSide = Literal["train", "heldout"]
"""Which problems of a run; each has its source in `data` under this key."""

SandboxChoice = Literal["auto", "namespaces", "landlock", "rlimits"]
"""`reward.code.sandbox`. The jail, which imports nothing of this package, has its own list without `auto`."""

WeightSync = Literal["distributed", "tensor", "disk"]
"""`rollout.servers.sync` without `auto`."""

WandbMode = Literal["online", "offline"]
"""`log.wandb` without `none`."""

TritonUse = Literal["auto", "eager", "triton"]
"""`model.kernels.log_prob` and `rotary`: plain PyTorch, or kernels of Triton."""
