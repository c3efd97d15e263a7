"""What quantising changes: log-probs of responses, and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from aspo_megatron.config import SamplingConfig
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.evaluation.results import CORRECT
from aspo_megatron.evaluation.scores import Estimate, difference_estimate, mean_estimate
from aspo_megatron.inputs.read import Inputs
from aspo_megatron.losses.kl import estimate_kl
from aspo_megatron.rewards.scoring import score_groups
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.rollout.embedded.engine import EmbeddedEngine
from aspo_megatron.rollout.engine import QUANTIZE_STREAM, Request


class OpenEngine(EmbeddedEngine):
    """The embedded engine with its model within reach, to be quantised in place."""

    @property
    def model(self) -> nn.Module:
        """The Hugging Face model that generates."""
        model: nn.Module = self._model
        return model


@dataclass(frozen=True)
class LogProbChange:
    """Between two models, over tokens that the first has sampled at temperature 1; log-probs are in nats.

    `kl` is the mean of k3, an estimate of the divergence of the first model from the second, per token.
    """

    responses: int
    tokens: int
    mean: float
    max: float
    kl: float


@dataclass(frozen=True)
class AccuracyChange:
    """Shares of problems that are answered right, greedily; `difference` is paired by problem. 95 % intervals."""

    problems: int
    original: Estimate
    quantized: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Behaviour:
    """What a model gives on the problems: log-probs of the responses' tokens, [tokens] each, and 1 or 0 for each."""

    log_probs: list[Tensor]
    right: list[float]


class Probe:
    """Asks a model before and after it is quantised, in the same way."""

    def __init__(
        self, engine: OpenEngine, inputs: Inputs, problems: Sequence[Problem], sampling: SamplingConfig, seed: int
    ) -> None:
        """Sample the responses whose tokens are compared, one to each problem, from the model as it is now."""
        self._engine, self._inputs, self._problems = engine, inputs, problems
        self._sampling = sampling.model_copy(update={"temperature": 1.0, "top_p": 1.0, "top_k": 0})
        self._seed = seed
        self._samples = self._responses(self._sampling)

    def behaviour(self, rewards: RewardPool) -> Behaviour:
        """What the engine's model gives now."""
        greedy = self._responses(self._sampling.model_copy(update={"temperature": 0.0}))
        groups = [(problem, [sample]) for problem, sample in zip(self._problems, greedy, strict=True)]
        asked = score_groups(groups, rewards, self._inputs.tokenizer)
        right = [float(one.rewards[0].value >= CORRECT) for one in asked]
        return Behaviour([self._log_probs(sample) for sample in self._samples], right)

    def _responses(self, sampling: SamplingConfig) -> list[Sample]:
        requests = [
            Request(problem, 1, (self._seed, QUANTIZE_STREAM, index), index)
            for index, problem in enumerate(self._problems)
        ]
        return [group[0] for group in self._engine.generate(requests, sampling)]

    def _log_probs(self, sample: Sample) -> Tensor:
        ids = [*sample.prompt_ids.tolist(), *sample.response_ids.tolist()]
        return torch.tensor(self._engine.prompt_log_probs(ids)["embedded"][len(sample.prompt_ids) - 1 :])


def compare_log_probs(before: Sequence[Tensor], after: Sequence[Tensor]) -> LogProbChange:
    """Of two models on the same responses; lists of [tokens]."""
    first, second = torch.cat(list(before)), torch.cat(list(after))
    distance = (second - first).abs()
    kl = estimate_kl("k3", first, second)
    return LogProbChange(len(before), len(first), distance.mean().item(), distance.max().item(), kl.mean().item())


def compare_accuracy(before: Sequence[float], after: Sequence[float]) -> AccuracyChange:
    """Of two models on the same problems, with 1 for a right answer and 0 for a wrong one."""
    return AccuracyChange(len(before), mean_estimate(before), mean_estimate(after), difference_estimate(after, before))


def open_engine(folder: Path, inputs: Inputs, device: torch.device, max_batch_tokens: int | None) -> OpenEngine:
    """An engine without weights yet: fp32 on a CPU, bfloat16 on a GPU. Its layers are plain ones, to be quantised."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    return OpenEngine(folder, inputs.tokenizer, dtype, device, max_batch_tokens, packs=False)
