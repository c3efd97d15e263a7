"""What learns: the policy with its optimizer, and the model that a KL refers to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np

from aspo_megatron import losses
from aspo_megatron.config import RunConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.losses import Loss
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.model.reference import Reference
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.step import PassLimits, response_log_probs, token_outputs
from aspo_megatron.train.updates import StepUpdates

Groups = list[list[Sample]]


class Learner:
    """Computes log-probs of samples, and makes the updates that they give.

    All methods but `needs_log_probs`, `release_memory` and `tell_if_no_update` are collectives. `batches`: this
    replica's groups of each mini-batch of a step.
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
        self._updates = StepUpdates(config, model, self.optimizer, objective, self._limits, tell)

    def add_log_probs(self, batches: Sequence[Groups]) -> None:
        """Give samples their old and reference log-probs; but see `RunConfig.first_update_is_on_policy`."""
        groups = [group for batch in batches for group in batch]
        with self._phase("old log-probs"):
            if self._config.takes_log_probs_of_engine:
                for group in groups:
                    for sample in group:
                        sample.old_log_probs = sample.rollout_log_probs
            else:
                for sample, log_probs in response_log_probs(self.model, self.needs_log_probs(batches), self._limits):
                    sample.old_log_probs = log_probs
        if self._reference is not None:
            with self._phase("reference log-probs"), self._reference.ready() as reference:
                for sample, log_probs in response_log_probs(reference, groups, self._limits):
                    sample.ref_log_probs = log_probs

    def needs_log_probs(self, batches: Sequence[Groups]) -> Groups:
        """The groups whose old log-probs no update gives: also those that samples.jsonl shows."""
        known = batches[:1] if self._config.first_update_is_on_policy else []
        return [*self._shown(known), *(group for batch in batches[len(known) :] for group in batch)]

    def update(self, step: int, batches: Sequence[Groups]) -> dict[str, float]:
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

    def _shown(self, batches: Sequence[Groups]) -> Groups:
        return samples_to_show([group for batch in batches for group in batch], self._config.log.samples_per_step)


def samples_to_show(groups: Sequence[Sequence[Sample]], count: int) -> Groups:
    """`count` samples, in their groups: the first of each group, then the second of each, and so on.

    So they answer as many problems as possible. Given only the first of the groups, it takes as many of each or more.
    """
    places = sorted((place, number) for number, group in enumerate(groups) for place in range(len(group)))
    taken = Counter(number for _, number in places[:count])
    return [list(group[: taken[number]]) for number, group in enumerate(groups) if taken[number]]
