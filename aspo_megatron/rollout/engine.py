"""What every rollout engine does; the embedded engine and SGLang obey the same contract and the same tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from aspo_megatron.config import SamplingConfig
from aspo_megatron.data.samples import Problem, Sample


@dataclass(frozen=True)
class Request:
    """`count` responses to one problem. `seed` fixes them, whatever else is generated beside them.

    `group` is the number that the samples bear.
    """

    problem: Problem
    count: int
    seed: tuple[int, ...]
    group: int


class RolloutEngine(Protocol):
    """Generates responses with the policy's weights.

    Log-probs are log_softmax(logits / temperature) before any top-p or top-k (greedy: temperature 1).
    """

    def generate(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[list[Sample]]:
        """The responses to each request, in the requests' order, each with the version of the weights it is from."""
        ...

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Replace all weights, given by their Hugging Face names; later samples bear `version`.

        Raises:
            CheckpointError: if a name is unknown, a tensor has another shape, or one is missing.
        """
        ...
