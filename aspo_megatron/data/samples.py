"""The records that travel through a training step: a problem, and a sampled response to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FinishReason = Literal["stop", "length", "abort"]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
VersionSpan = tuple[int, int]
"""A version of the weights, and how many tokens in a row it made."""


@dataclass(frozen=True)
class Problem:
    """One problem, ready to be asked. `metadata` is what the source had besides (for rewards)."""

    id: str
    question: str
    prompt_ids: tuple[int, ...]
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Sample:
    """One response: ragged arrays, no padding. Per-token arrays have the length of `response_ids`.

    `rollout_log_probs` are the engine's: log_softmax(logits / temperature) before top-p and top-k. `group` says
    which prompt of the rollout it answers. `finish_reason` is `length` for a response that was cut, `abort` for one
    that is to be continued. `versions` are the weights that made the tokens, in order, and `weight_version` those that
    made the last; left out, these made all. `reward_parts`: of a mixture, not yet weighted. `selected`: the tokens
    that the loss chose of the update (`Loss.select`).
    """

    problem_id: str
    group: int
    prompt_ids: IntArray
    response_ids: IntArray
    response_mask: BoolArray
    rollout_log_probs: FloatArray
    weight_version: int
    finish_reason: FinishReason
    reward: float = 0.0
    reward_parts: Mapping[str, float] = field(default_factory=dict)
    advantage: float = 0.0
    old_log_probs: FloatArray | None = None
    ref_log_probs: FloatArray | None = None
    selected: BoolArray | None = None
    versions: tuple[VersionSpan, ...] = ()

    def __post_init__(self) -> None:
        """One version for all tokens, unless there are several."""
        if not self.versions:
            self.versions = ((self.weight_version, len(self.response_ids)),)

    @property
    def num_tokens(self) -> int:
        """Prompt and response tokens."""
        return len(self.prompt_ids) + len(self.response_ids)
