"""The optimizer updates of a step, each at its place in the run, whatever dynamic sampling leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from aspo_megatron.config import RunConfig
from aspo_megatron.errors import AgreedError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.alarms import why_nothing
from aspo_megatron.parallel.grid.exchange import gather
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.update.micro_batches import PlannedGroups
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.passes import PassLimits
from aspo_megatron.parallel.update.step import SKIPPED, UpdateResult, aggregation_of, planned_update
from aspo_megatron.train.step_metrics import update_metrics


class StepUpdates:
    """Makes the updates of each step.

    A run plans `RunConfig.updates_per_step` of them in each. One that nothing is to be learnt from is skipped: it
    changes nothing, but it has its place all the same, so that the learning rate follows the run, also in one that is
    resumed. That is an update without a token that counts, and one whose gradient is 0 but for rounding, which Adam
    would make a full step of: every advantage is 0, and the loss has no other part, or only a KL whose gradient is 0
    as the policy still is what the KL refers to.
    """

    def __init__(
        self,
        config: RunConfig,
        model: PolicyModel,
        optimizer: Optimizer,
        objective: PolicyObjective,
        limits: PassLimits,
        tell: Callable[[str], None],
    ) -> None:
        """`tell` is told of a run without an update."""
        self._config, self._model, self._optimizer = config, model, optimizer
        self._objective, self._limits, self._tell = objective, limits, tell
        self._weighting = aggregation_of(config.loss, config.rollout.sampling.max_response_tokens)

    def make(self, step: int, batches: Sequence[PlannedGroups]) -> dict[str, float]:
        """All updates of a step. A collective.

        Args:
            step: its number, from 1.
            batches: this replica's samples of each mini-batch of the step, also of those that are empty.

        Returns:
            The figures, averaged over the updates that were made; `lr` is the last update's, made or not.

        Raises:
            AgreedError: the loss or the gradient's norm is no number, on all ranks alike. The weights are lost.
        """
        results: list[UpdateResult] = []
        lr, pushed = 0.0, _pushed(batches)
        on_policy = replace(self._objective, on_policy=self._config.first_update_is_on_policy)
        first = (step - 1) * self._config.updates_per_step
        for _ in range(self._config.train.epochs):
            for batch, has_advantages in zip(batches, pushed, strict=True):
                self._optimizer.stand_at(first + len(results))
                lr = self._optimizer.lr
                learns = has_advantages or self._learns_without_advantages
                results.append(self._update(batch, self._objective if results else on_policy) if learns else SKIPPED)
                _check_finite(step, len(results), results[-1])
        self._optimizer.stand_at(first + len(results))  # a skipped update has not moved it
        return update_metrics(results) | {"lr": lr}

    def _update(self, batch: PlannedGroups, objective: PolicyObjective) -> UpdateResult:
        coefficient = self._config.loss.router_aux_coef
        return planned_update(
            self._model, self._optimizer, batch, objective, self._weighting, self._limits, coefficient
        )

    @property
    def _learns_without_advantages(self) -> bool:
        """Whether the loss has a gradient where every advantage is 0."""
        loss = self._config.loss
        moved = self._optimizer.counters()["updates"] > 0
        # k1 alone has one, of noise, where the policy is what the KL refers to.
        pulled = loss.kl_coef != 0 and (moved or loss.kl_estimator == "k1")
        return pulled or loss.entropy_coef != 0 or loss.router_aux_coef != 0

    def tell_if_none(self) -> None:
        """Say so at the end of a run whose weights nothing has changed."""
        if not self._optimizer.counters()["updates"]:
            same = "warning: no step made an update, so the model is the one that the run began with"
            self._tell(one_line(f"{same}: {why_nothing(self._config)}"))


def _pushed(batches: Sequence[PlannedGroups]) -> list[bool]:
    """Of each mini-batch, whether any token that counts has an advantage, on any rank. A collective."""
    own = [any(sample.advantage != 0 and sample.response_mask.any() for sample in batch.samples) for batch in batches]
    return [any(ranks) for ranks in zip(*gather(own), strict=True)]


def _check_finite(step: int, number: int, result: UpdateResult) -> None:
    for what, value in (("loss", result.loss), ("gradient norm", result.grad_norm)):
        if not math.isfinite(value):
            raise AgreedError(
                f"step {step}, update {number}: the {what} is {value}, and the weights are lost with it. The states "
                "saved before are as they were; see NaN and collapse in docs/troubleshooting.md"
            )
