"""From responses to their texts and rewards: what rollouts and evaluation have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from aspo_megatron.data.decoding import decode
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.rewards.workers.pool import PendingRewards, Reward, RewardPool, log_errors


@dataclass(frozen=True)
class ScoredGroup:
    """A problem's group of responses, their texts and their rewards.

    `parts`: of the mixture that each have advantages of their own; none: the rewards have.
    """

    problem: Problem
    samples: list[Sample]
    texts: list[str]
    rewards: list[Reward]
    parts: frozenset[str] = frozenset()

    @property
    def has_equal_rewards(self) -> bool:
        """Whether nothing can be learnt from differences of the rewards."""
        if self.parts:
            values = [[reward.parts.get(name, 0.0) for name in sorted(self.parts)] for reward in self.rewards]
            return all(each == values[0] for each in values)
        return len({reward.value for reward in self.rewards}) == 1


class Scoring:
    """Decodes responses and has them scored: groups that it is told of early, while others are still generated."""

    def __init__(
        self, rewards: RewardPool, tokenizer: PreTrainedTokenizerBase, parts: frozenset[str] = frozenset()
    ) -> None:
        """`parts`: see `ScoredGroup`."""
        self._rewards, self._tokenizer, self._parts = rewards, tokenizer, parts
        self._begun: dict[int, tuple[list[Sample], list[str], PendingRewards]] = {}

    def begin(self, problem: Problem, samples: list[Sample]) -> None:
        """Have a complete group scored; from any thread, but not beside `results`."""
        texts = [decode(self._tokenizer, sample.response_ids, skip_special_tokens=True) for sample in samples]
        pending = self._rewards.submit((problem, text) for text in texts)
        self._begun[id(samples)] = samples, texts, pending  # which keeps the samples, and so their id, alive

    def results(self, groups: Sequence[tuple[Problem, list[Sample]]]) -> list[ScoredGroup]:
        """The groups with their rewards, which their samples are given too. One that was begun is the same list."""
        for problem, samples in groups:
            if id(samples) not in self._begun:
                self.begin(problem, samples)
        scored = []
        for problem, samples in groups:
            _, texts, pending = self._begun.pop(id(samples))
            scored.append(ScoredGroup(problem, samples, texts, pending.result(), self._parts))
        log_errors([reward for group in scored for reward in group.rewards])
        for group in scored:
            for sample, reward in zip(group.samples, group.rewards, strict=True):
                sample.reward, sample.reward_parts = reward.value, reward.parts
        return scored


def score_groups(
    groups: Sequence[tuple[Problem, list[Sample]]], rewards: RewardPool, tokenizer: PreTrainedTokenizerBase
) -> list[ScoredGroup]:
    """The responses to each problem, decoded and scored; the samples are given their rewards."""
    return Scoring(rewards, tokenizer).results(groups)
