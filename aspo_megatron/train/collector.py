"""From problems to samples that are ready to train on: responses, rewards, shaping, dynamic sampling, advantages.

Each rank asks and scores its share of the prompts; which samples there are does not depend on the number of ranks.
The responses of the next step can be begun before it is due, where the engine generates beside the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from aspo_megatron.config import RunConfig, SamplingConfig
from aspo_megatron.data.prompt_sampler import Asking, Question
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import AgreedError
from aspo_megatron.parallel.grid.exchange import gather
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.rewards.scoring import Asked, Scoring
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.rollout.engine import Request, WhenComplete
from aspo_megatron.train.advantages import set_advantages

_ROLLOUT_STREAM = 0
"""Separates the random numbers of rollouts from those of evaluation."""


class Starter(Protocol):
    """Generates beside other things: see `SyncedEngine.start`."""

    def start(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        enough: int | None = None,
        when_complete: WhenComplete | None = None,
    ) -> Callable[[], list[list[Sample]]]:
        """Begin; what is returned is a collective that waits for the responses."""
        ...


@dataclass(frozen=True)
class Rollout:
    """This rank's share of a step: all that was asked, and the groups to train on, which bear their advantages.

    `left` is what the next step goes on with.
    """

    asked: list[Asked]
    groups: list[list[Sample]]
    left: list[Question]


@dataclass(frozen=True)
class _Round:
    """What this rank asks at a time, how many of it the step trains on, and what scores and awaits the responses."""

    questions: list[Question]
    enough: int
    scoring: Scoring
    finish: Callable[[], list[list[Sample]]]


class Collector:
    """Makes the samples of a step."""

    def __init__(
        self,
        config: RunConfig,
        engine: Starter,
        rewards: RewardPool,
        tokenizer: PreTrainedTokenizerBase,
        asking: Asking,
        topology: Topology,
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """`asking` says which problems are asked; `phase` is told what is going on."""
        self._config, self._engine, self._rewards, self._tokenizer = config, engine, rewards, tokenizer
        self._asking, self._topology, self._phase = asking, topology, phase
        self._begun: _Round | None = None

    def collect(self, step: int) -> Rollout:
        """The samples of a step. A collective. With `rollout.overlap` the next step's are begun before it returns.

        Raises:
            AgreedError: no response could be scored.
            ServersLostError: see `RolloutEngine`.
        """
        rollout = self._config.rollout
        refills = rollout.dynamic_sampling == "refill"
        begun, self._begun = self._begun or self._first(step), None
        groups, left = self._finish(begun)
        self._asking.carry(left, gather([question.position for question in left]))
        if not refills:
            self._begin_after(step)  # servers are at it while these are scored
        asked = self._scored(step, groups, begun.scoring)
        if refills:
            asked += self._refill(step, asked)
            self._asking.carry([], gather([]))
            self._begin_after(step)
        for group in asked:
            self._shape(group.samples)
        if rollout.cut_off < 1.0:
            _renumber([group.samples for group in asked])
        kept = [group.samples for group in asked if rollout.dynamic_sampling == "off" or not group.agrees]
        if refills:
            _renumber(kept)
        set_advantages(kept, self._config)
        return Rollout(asked, kept, left)

    def _begin_after(self, step: int) -> None:
        """Have the next step's first responses generated from now on, if servers are to do so beside the trainer."""
        if self._config.rollout.overlap != "none" and step < self._config.train.steps:
            self._begun = self._first(step + 1)

    def _first(self, step: int) -> _Round:
        return self._start(step, *self._asking.first(last_step=step == self._config.train.steps))

    def _refill(self, step: int, asked: Sequence[Asked]) -> list[Asked]:
        """Other problems for those whose responses agree, until the batch is full or `max_asks` is reached."""
        rollout = self._config.rollout
        found: list[Asked] = []
        first = rollout.prompts_per_step
        for _ in range(rollout.max_asks - 1):
            missing = rollout.prompts_per_step - sum(gather(sum(not group.agrees for group in [*asked, *found])))
            if not missing:
                break
            begun = self._start(step, *self._asking.more(first, missing))
            groups, _ = self._finish(begun)
            found += self._scored(step, groups, begun.scoring)
            first += missing
        return found

    def _start(self, step: int, questions: list[Question], enough: int) -> _Round:
        config = self._config
        requests = [
            Request(
                question.problem,
                config.rollout.responses_per_prompt,
                (config.seed, _ROLLOUT_STREAM, step, question.number),
                question.number,
                tuple(replace(sample, group=question.number) for sample in question.begun),
            )
            for question in questions
        ]
        scoring = Scoring(self._rewards, self._tokenizer)
        finish = self._engine.start(
            requests, config.rollout.sampling, enough, lambda request, group: scoring.begin(request.problem, group)
        )
        return _Round(questions, enough, scoring, finish)

    def _finish(self, begun: _Round) -> tuple[list[tuple[Question, list[Sample]]], list[Question]]:
        """The groups that a step trains on, and those that are left to the next one."""
        with self._phase("generate"):
            groups = begun.finish()
        both = list(zip(begun.questions, groups, strict=True))
        complete = [pair for pair in both if all(sample.finish_reason != "abort" for sample in pair[1])]
        chosen = complete[: begun.enough]
        taken = {question.number for question, _ in chosen}
        left = [replace(q, begun=tuple(group)) for q, group in both if q.number not in taken]
        return chosen, left

    def _scored(self, step: int, groups: Sequence[tuple[Question, list[Sample]]], scoring: Scoring) -> list[Asked]:
        """Groups with their rewards.

        Raises:
            AgreedError: no response of any rank could be scored.
        """
        with self._phase("reward"):
            asked = scoring.results([(q.problem, group) for q, group in groups])
        scored = [reward for group in asked for reward in group.rewards]
        failed = [reward.error for reward in scored if reward.error is not None]
        responses, failures = (sum(counts) for counts in zip(*gather((len(scored), len(failed))), strict=True))
        if responses and failures == responses:
            error = failed[0] if failed else "see the other ranks' logs"
            kind = self._config.reward.kind
            raise AgreedError(f"reward.kind={kind}: no response of step {step} was scored ({error})")
        return asked

    def _shape(self, samples: Sequence[Sample]) -> None:
        """Mask responses that were cut, if asked."""
        for sample in samples:
            if self._config.shaping.mask_truncated and sample.finish_reason == "length":
                sample.response_mask[:] = False


def _renumber(groups: Sequence[Sequence[Sample]]) -> None:
    """Give the groups of all ranks the numbers from 0 on, in the order in which they were asked."""
    order = sorted(number for part in gather([group[0].group for group in groups]) for number in part)
    place = {number: index for index, number in enumerate(order)}
    for group in groups:
        number = place[group[0].group]
        for sample in group:
            sample.group = number
