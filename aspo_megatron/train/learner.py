"""What learns: the policy with its optimizer, and the model that a KL refers to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np

from aspo_megatron import losses
from aspo_megatron.config import RunConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.foreign_text import one_line
from aspo_megatron.losses import Loss
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.model.reference import Reference
from aspo_megatron.parallel.update.micro_batches import PlannedGroups
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.passes import PassLimits, planned_outputs, token_outputs
from aspo_megatron.train.updates import StepUpdates

Groups = list[list[Sample]]
T = TypeVar("T")


class Learner:
    """Computes log-probs of samples, and makes the updates that they give.

    All methods but `needs_log_probs`, `release_memory` and `tell_if_no_update` are collectives. `batches`: this
    replica's groups of each mini-batch of a step, or what was planned of them.
    """

    def __init__(
        self,
        config: RunConfig,
        model: PolicyModel,
        phase: Callable[[str], AbstractContextManager[None]],
        tell: Callable[[str], None],
    ) -> None:
        """`model` has the weights that the KL refers to; `phase` is told what is going on, `tell` what goes wrong."""
        self._config, self._phase = config, phase
        self.model = model
        self._reference = Reference(model, config.model.reference) if config.has_reference else None
        updates = config.train.steps * config.updates_per_step
        self.optimizer = Optimizer(model, config.optimizer, updates, config.parallel)
        objective = PolicyObjective(losses.build(config.loss.name, config.loss.hyperparameters), config.loss)
        self.loss: Loss = objective.loss
        self._limits = PassLimits.of(config.train, config.rollout.sampling.temperature)
        if advice := old_policy_advice(self.loss, config):
            tell(advice)
        self._updates = StepUpdates(config, model, self.optimizer, objective, self._limits, tell)

    def plan(self, batches: Sequence[Groups]) -> list[PlannedGroups]:
        """Each mini-batch of a step as micro-batches, for all that is computed of it."""
        return [PlannedGroups.of(self.model, batch, self._limits.max_tokens) for batch in batches]

    def add_log_probs(self, batches: Sequence[PlannedGroups]) -> None:
        """Give samples their old and reference log-probs; but see `RunConfig.first_update_is_on_policy`."""
        with self._phase("old log-probs"):
            if self._config.takes_log_probs_of_engine:
                for sample in (sample for batch in batches for sample in batch.samples):
                    sample.old_log_probs = sample.rollout_log_probs
            else:
                known = self._known(batches)
                shown = self.plan([self._shown([batch.groups for batch in known])] if known else [])
                for sample, log_probs, _ in planned_outputs(self.model, [*shown, *batches[len(known) :]], self._limits):
                    sample.old_log_probs = log_probs
        if self._reference is not None:
            with self._phase("reference log-probs"), self._reference.ready() as reference:
                for sample, log_probs, _ in planned_outputs(reference, batches, self._limits):
                    sample.ref_log_probs = log_probs

    def needs_log_probs(self, batches: Sequence[Groups]) -> Groups:
        """The groups whose old log-probs no update gives: also those that samples.jsonl shows."""
        known = self._known(batches)
        return [*self._shown(known), *(group for batch in batches[len(known) :] for group in batch)]

    def update(self, step: int, batches: Sequence[PlannedGroups]) -> dict[str, float]:
        """All updates of a step: see `StepUpdates.make`."""
        with self._phase("update"):
            return self._updates.make(step, batches)

    def release_memory(self) -> None:
        """Give back what only passes and updates need, until the next of them. On a CPU all stays."""
        if self.model.topology.platform.device.type != "cpu":
            self.optimizer.release()

    def shown_tokens(self, batches: Sequence[Groups]) -> list[tuple[Sample, np.ndarray, np.ndarray]]:
        """The samples that samples.jsonl shows, with log-prob and entropy of their tokens by the present policy."""
        with self._phase("samples"):
            return list(token_outputs(self.model, self._shown(batches), self._limits))

    def tell_if_no_update(self) -> None:
        """Say so at the end of a run whose weights nothing has changed."""
        self._updates.tell_if_none()

    def _known(self, batches: Sequence[T]) -> Sequence[T]:
        """The mini-batches whose old log-probs an update gives."""
        return batches[:1] if self._config.first_update_is_on_policy else []

    def _shown(self, batches: Sequence[Sequence[Sequence[Sample]]]) -> Groups:
        return samples_to_show([group for batch in batches for group in batch], self._config.log.samples_per_step)


def old_policy_advice(loss: Loss, config: RunConfig) -> str:
    """What a loss's source does otherwise than a run by default; empty if it does not, or if the run has chosen."""
    chosen = config.train.old_log_probs != "auto" or config.takes_log_probs_of_engine
    if loss.old_policy == "trainer" or chosen:
        return ""
    return (
        f"loss.name={one_line(config.loss.name)} is stated for ratios to the policy that sampled: "
        "train.old_log_probs=rollout takes the engine's log-probs for the old ones, which also saves the pass that "
        "computes them; recompute keeps the trainer's, without this line"
    )


def samples_to_show(groups: Sequence[Sequence[Sample]], count: int) -> Groups:
    """`count` samples, in their groups: the first of each group, then the second of each, and so on.

    So they answer as many problems as possible. Given only the first of the groups, it takes as many of each or more.
    """
    places = sorted((place, number) for number, group in enumerate(groups) for place in range(len(group)))
    taken = Counter(number for _, number in places[:count])
    return [list(group[: taken[number]]) for number, group in enumerate(groups) if taken[number]]
