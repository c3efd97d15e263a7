"""From problems to samples that are ready to train on: responses, rewards, shaping, dynamic sampling, advantages.

Each rank asks and scores its share of the prompts; which samples there are does not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from aspo_megatron.config import RunConfig
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.data.stream import ProblemStream
from aspo_megatron.errors import UserError
from aspo_megatron.losses import advantages
from aspo_megatron.parallel.exchange import gather
from aspo_megatron.parallel.topology import Topology
from aspo_megatron.rewards.pool import Reward, RewardPool
from aspo_megatron.rewards.shaping import overlong_penalty
from aspo_megatron.rollout.engine import Request, ResponseSource

_ROLLOUT_STREAM = 0
"""Separates the random numbers of rollouts from those of evaluation."""


@dataclass(frozen=True)
class Asked:
    """A problem's group of responses, their texts and their rewards."""

    problem: Problem
    samples: list[Sample]
    texts: list[str]
    rewards: list[Reward]

    @property
    def agrees(self) -> bool:
        """Whether all rewards are the same: nothing can be learnt from their differences then."""
        return len({reward.value for reward in self.rewards}) == 1


@dataclass(frozen=True)
class Rollout:
    """This rank's share of a step: all that was asked, and the groups to train on, which bear their advantages."""

    asked: list[Asked]
    groups: list[list[Sample]]


class Collector:
    """Makes the samples of a step."""

    def __init__(
        self,
        config: RunConfig,
        engine: ResponseSource,
        rewards: RewardPool,
        tokenizer: PreTrainedTokenizerBase,
        stream: ProblemStream,
        topology: Topology,
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """`stream` has the same problems on all ranks; `phase` is told what is going on."""
        self._config, self._engine, self._rewards, self._tokenizer = config, engine, rewards, tokenizer
        self._stream, self._topology, self._phase = stream, topology, phase

    def collect(self, step: int) -> Rollout:
        """The samples of a step. A collective.

        Raises:
            UserError: no response could be scored.
            ServersLostError: see `ResponseSource`.
        """
        rollout = self._config.rollout
        asked: list[Asked] = []
        first, missing = 0, rollout.prompts_per_step
        for _ in range(rollout.max_asks if rollout.dynamic_sampling == "refill" else 1):
            asked += self._ask(step, first, missing)
            first += missing
            missing = rollout.prompts_per_step - sum(gather(sum(not group.agrees for group in asked)))
            if not missing:
                break
        for group in asked:
            self._shape(group.samples)
        kept = [group.samples for group in asked if rollout.dynamic_sampling == "off" or not group.agrees]
        if rollout.dynamic_sampling == "refill":
            _renumber(kept)
        self._set_advantages(kept)
        return Rollout(asked, kept)

    def _ask(self, step: int, first: int, count: int) -> list[Asked]:
        """This rank's share of `count` more problems, which bear the numbers from `first` on."""
        config, topology = self._config, self._topology
        numbered = list(enumerate(self._stream.take(count), start=first))[topology.rank :: topology.world_size]
        requests = [
            Request(problem, config.rollout.responses_per_prompt, (config.seed, _ROLLOUT_STREAM, step, number), number)
            for number, problem in numbered
        ]
        with self._phase("generate"):
            groups = self._engine.generate(requests, config.rollout.sampling)
        with self._phase("reward"):
            texts = [[self._decode(sample) for sample in group] for group in groups]
            scored = self._rewards.score(
                (request.problem, text) for request, group in zip(requests, texts, strict=True) for text in group
            )
        failed = [reward.error for reward in scored if reward.error is not None]
        responses, failures = (sum(counts) for counts in zip(*gather((len(scored), len(failed))), strict=True))
        if responses and failures == responses:
            error = failed[0] if failed else "see the other ranks' logs"
            raise UserError(f"reward.kind={config.reward.kind}: no response of step {step} was scored ({error})")
        for sample, reward in zip((sample for group in groups for sample in group), scored, strict=True):
            sample.reward = reward.value
        rewards = iter(scored)
        return [
            Asked(request.problem, group, group_texts, [next(rewards) for _ in group])
            for request, group, group_texts in zip(requests, groups, texts, strict=True)
        ]

    def _shape(self, samples: Sequence[Sample]) -> None:
        """Mask responses that were cut, if asked."""
        for sample in samples:
            if self._config.shaping.mask_truncated and sample.finish_reason == "length":
                sample.response_mask[:] = False

    def _set_advantages(self, groups: Sequence[Sequence[Sample]]) -> None:
        """From the rewards of all ranks, as an estimate may look at the whole batch."""
        shaping, limit = self._config.shaping, self._config.rollout.sampling.max_response_tokens
        own = [sample for group in groups for sample in group]
        worth = [
            sample.reward
            + shaping.overlong_penalty * overlong_penalty(len(sample.response_ids), limit, shaping.overlong_tokens)
            for sample in own
        ]
        parts = gather([(sample.group, value) for sample, value in zip(own, worth, strict=True)])
        everywhere = [pair for part in parts for pair in part]
        values = advantages.estimate(
            np.array([value for _, value in everywhere]),
            np.array([number for number, _ in everywhere], dtype=np.int64),
            self._config.advantage.baseline,
            self._config.advantage.scale,
        )
        start = sum(len(part) for part in parts[: self._topology.rank])
        for sample, advantage in zip(own, values[start : start + len(own)].tolist(), strict=True):
            sample.advantage = advantage

    def _decode(self, sample: Sample) -> str:
        text: str = self._tokenizer.decode(sample.response_ids, skip_special_tokens=True)
        return text


def _renumber(groups: Sequence[Sequence[Sample]]) -> None:
    """Give the groups of all ranks the numbers from 0 on, in the order in which they were asked."""
    order = sorted(number for part in gather([group[0].group for group in groups]) for number in part)
    place = {number: index for index, number in enumerate(order)}
    for group in groups:
        number = place[group[0].group]
        for sample in group:
            sample.group = number
