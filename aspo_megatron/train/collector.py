"""From problems to scored samples: responses, rewards, dynamic sampling, and the mask of responses that were cut.

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
from aspo_megatron.data.prompt_sampler import PromptSampler, PromptSlot
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import AgreedError
from aspo_megatron.parallel.grid.exchange import gather
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.rewards.scoring import ScoredGroup, Scoring
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.rollout.engine import ROLLOUT_STREAM, Request, WhenComplete


class Starter(Protocol):
    """Generates beside other things: see `PolicyEngine.start`."""

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
    """This rank's share of a step: all that was asked, and the groups to train on, whose samples bear their rewards.

    `left` is what the next step goes on with.
    """

    asked: list[ScoredGroup]
    groups: list[list[Sample]]
    left: list[PromptSlot]


@dataclass(frozen=True)
class _Round:
    """What this rank asks at a time, how many of it the step trains on, and what scores and awaits the responses."""

    slots: list[PromptSlot]
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
        sampler: PromptSampler,
        topology: Topology,
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """`sampler` says which problems are asked; `phase` is told what is going on."""
        self._config, self._engine, self._rewards, self._tokenizer = config, engine, rewards, tokenizer
        self._sampler, self._topology, self._phase = sampler, topology, phase
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
        self._sampler.carry_over(left, gather([slot.position for slot in left]))
        if not refills:
            self._begin_after(step)  # servers generate while these are scored
        asked = self._scored(step, groups, begun.scoring)
        if refills:
            asked += self._refill(step, asked)
            self._sampler.carry_over([], gather([]))
            self._begin_after(step)
        for group in asked:
            self._shape(group.samples)
        if rollout.cut_off < 1.0:
            _renumber([group.samples for group in asked])
        kept = [group.samples for group in asked if rollout.dynamic_sampling == "off" or not group.has_equal_rewards]
        if refills:
            _renumber(kept)
        return Rollout(asked, kept, left)

    def _begin_after(self, step: int) -> None:
        """Have the next step's first responses generated from now on, if servers are to do so beside the trainer."""
        if self._config.rollout.overlap != "none" and step < self._config.train.steps:
            self._begun = self._first(step + 1)

    def _first(self, step: int) -> _Round:
        return self._start(step, *self._sampler.next_batch(last_step=step == self._config.train.steps))

    def _refill(self, step: int, asked: Sequence[ScoredGroup]) -> list[ScoredGroup]:
        """Other problems for those whose rewards are all the same, until the batch is full or `max_asks` is reached."""
        rollout = self._config.rollout
        found: list[ScoredGroup] = []
        first = rollout.prompts_per_step
        for _ in range(rollout.max_asks - 1):
            usable = sum(not group.has_equal_rewards for group in [*asked, *found])
            missing = rollout.prompts_per_step - sum(gather(usable))
            if not missing:
                break
            begun = self._start(step, *self._sampler.refill(first, missing))
            groups, _ = self._finish(begun)
            found += self._scored(step, groups, begun.scoring)
            first += missing
        return found

    def _start(self, step: int, slots: list[PromptSlot], enough: int) -> _Round:
        config = self._config
        requests = [
            Request(
                slot.problem,
                config.rollout.responses_per_prompt,
                (config.seed, ROLLOUT_STREAM, step, slot.number),
                slot.number,
                tuple(replace(sample, group=slot.number) for sample in slot.begun),
            )
            for slot in slots
        ]
        components = config.reward.components if config.advantage.of == "parts" else {}
        parts = frozenset(name for name, component in components.items() if component.weight)
        scoring = Scoring(self._rewards, self._tokenizer, parts)
        finish = self._engine.start(
            requests, config.rollout.sampling, enough, lambda request, group: scoring.begin(request.problem, group)
        )
        return _Round(slots, enough, scoring, finish)

    def _finish(self, begun: _Round) -> tuple[list[tuple[PromptSlot, list[Sample]]], list[PromptSlot]]:
        """The groups that a step trains on, and those that are left to the next one."""
        with self._phase("generate"):
            groups = begun.finish()
        both = list(zip(begun.slots, groups, strict=True))
        complete = [pair for pair in both if all(sample.finish_reason != "abort" for sample in pair[1])]
        chosen = complete[: begun.enough]
        taken = {slot.number for slot, _ in chosen}
        left = [replace(slot, begun=tuple(group)) for slot, group in both if slot.number not in taken]
        return chosen, left

    def _scored(
        self, step: int, groups: Sequence[tuple[PromptSlot, list[Sample]]], scoring: Scoring
    ) -> list[ScoredGroup]:
        """Groups with their rewards.

        Raises:
            AgreedError: no response of any rank could be scored.
        """
        with self._phase("reward"):
            asked = scoring.results([(slot.problem, group) for slot, group in groups])
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
