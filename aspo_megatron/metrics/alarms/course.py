"""The course of a run up to a step: what its metrics are, and what they were at its start and at its best."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, stdev

from aspo_megatron.metrics.alarms.thresholds import (
    BEST_STEPS,
    FEWEST_JUMPS,
    GAIN_NOISE,
    GAIN_SHARE,
    HELDOUT_CHURN,
    HELDOUT_ERRORS,
    HELDOUT_FALL,
    HELDOUT_JUMPS,
    HELDOUT_LAST_JUMPS,
    HELDOUT_LEAST,
    HELDOUT_NOISE,
    HELDOUT_PROBLEMS,
    HELDOUT_UNSURE,
    KL_STEPS,
    MATCH_ROOM,
    MATCH_START,
    NEAR_TOP,
    NOISE_STEPS,
    RECENT_STEPS,
    SCORED,
    START_STEPS,
)

_HELDOUT = re.compile(r"eval/avg@(\d+)")
_COMPARED = ("entropy", "repetition/mean", "response_tokens/mean", "kl_ref")
"""Metrics whose earlier values are asked for."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation.

    Attributes:
        step: that it is of.
        accuracy: avg@K, 0 to 1.
        error: standard error of it, the problems given; None if it is not known.
        margin: how far below it another has to be to mean anything.
        reward: of the training of late, when it was made; None before the first step.
    """

    step: int
    accuracy: float
    error: float | None
    margin: float
    reward: float | None


class Course:
    """Is told the lines of metrics.jsonl one by one, in their order; what it answers is of the steps so far."""

    def __init__(self) -> None:
        self.figures: Mapping[str, float] = {}
        """Of the last step that trained."""
        self._best_reward: float | None = None
        self.best_evaluation: Evaluated | None = None
        self.evaluations: list[Evaluated] = []
        """The last two."""
        self._values: dict[str, list[float]] = {name: [] for name in _COMPARED}
        self._rewards: list[float] = []
        self._accuracies: list[float] = []

    def add(self, record: Mapping[str, float]) -> bool:
        """A line; returns whether it is one of a step that trained, and not of an evaluation alone."""
        trained = "reward/mean" in record
        if trained:
            self.figures = record
            for name, values in self._values.items():
                if (value := self.value(name)) is not None:
                    values.append(value)
            self._add_reward()
        self._add_evaluation(record)
        return trained

    def value(self, metric: str) -> float | None:
        """A metric of the last step; None if it is absent or not a number."""
        value = self.figures.get(metric, math.nan)
        return value if math.isfinite(value) else None

    def start(self, metric: str) -> float | None:
        """The median of a metric's first values; None until there are that many, and one more to compare."""
        values = self._values[metric]
        return median(values[:START_STEPS]) if len(values) > START_STEPS else None

    def earlier_median(self, metric: str) -> float | None:
        """The median of a metric over the steps before the most recent ones; None without any."""
        values = self._values[metric][-KL_STEPS - RECENT_STEPS : -RECENT_STEPS]
        return median(values) if len(values) >= START_STEPS else None

    # ---- the reward --------------------------------------------------------------------------------------------------

    @property
    def reward(self) -> float | None:
        """Mean over the last steps; None until there are enough."""
        return fmean(self._rewards[-RECENT_STEPS:]) if len(self._rewards) >= RECENT_STEPS else None

    @property
    def start_reward(self) -> float | None:
        """Mean over the first steps; None until there is one more to compare."""
        return fmean(self._rewards[:START_STEPS]) if len(self._rewards) > START_STEPS else None

    @property
    def best_reward(self) -> float | None:
        """Highest mean over `BEST_STEPS` steps, in a younger run over those there are; at first, before the last."""
        if self._best_reward is not None or len(self._rewards) < 2:
            return self._best_reward
        return fmean(self._rewards[:-1])

    @property
    def last_reward(self) -> float | None:
        """Of the last step; None if too few of its responses could be scored, or before the first."""
        return self._rewards[-1] if self._rewards and self._reward_of_step() is not None else None

    @property
    def noise(self) -> float | None:
        """Standard deviation of a step's reward; None if nobody can know.

        By the jumps from step to step, which a slow change does not widen: for normal noise of deviation s, a jump has
        the mean size 2 s / sqrt(pi). The jumps of the most recent steps are left out: they may be what is looked for.
        Before there are enough, it is the largest that n prompts with rewards in [0, 1] of mean m can have, which is
        sqrt(m (1 - m) / n), at the best mean so far.
        """
        rewards = self._rewards[-NOISE_STEPS - RECENT_STEPS - 1 : -RECENT_STEPS]
        jumps = [abs(after - before) for before, after in pairwise(rewards)]
        if len(jumps) >= FEWEST_JUMPS:
            return fmean(jumps) * math.sqrt(math.pi) / 2
        prompts, best = self.value("groups/asked"), self.best_reward
        if prompts is None or prompts < 1 or best is None or not self._is_share:
            return None
        return math.sqrt(best * (1 - best) / prompts)

    @property
    def size(self) -> float:
        """What a change of the reward is compared with: the size of its best, or how far that is above the start."""
        best, start = self.best_reward or 0.0, self.start_reward or 0.0
        return max(abs(best), best - start)

    @property
    def gain(self) -> float:
        """Of the reward, from the start to the steps of late; 0 before both are known."""
        return 0.0 if self.reward is None or self.start_reward is None else self.reward - self.start_reward

    @property
    def has_gained(self) -> bool:
        """Whether the reward has risen by more than noise."""
        error = (self.noise or 0.0) * math.sqrt(1 / RECENT_STEPS + 1 / START_STEPS)
        return self.gain > max(GAIN_NOISE * error, GAIN_SHARE * self.size)

    @property
    def is_near_top(self) -> bool:
        """Whether little can be gained: the reward of late is near 1, and was never above."""
        return self.reward is not None and self.reward >= NEAR_TOP and (self.best_reward or 0.0) <= 1

    @property
    def has_converged(self) -> bool:
        """Whether the reward has risen so much, or is so high, that little entropy is what is to be expected.

        Of rewards that are not from 0 to 1 nobody knows how much is much: any gain is enough.
        """
        if self.start_reward is None:
            return False
        wanted = min(MATCH_ROOM * (1 - self.start_reward), MATCH_START * self.start_reward) if self._is_share else 0.0
        return self.is_near_top or (self.has_gained and self.gain >= wanted)

    @property
    def _is_share(self) -> bool:
        """Whether all rewards of steps were from 0 to 1."""
        return bool(self._rewards) and 0 <= min(self._rewards) <= max(self._rewards) <= 1

    def _reward_of_step(self) -> float | None:
        return None if self.figures.get("reward/failed", 0.0) > SCORED else self.value("reward/mean")

    def _add_reward(self) -> None:
        value = self._reward_of_step()
        if value is None:
            return
        self._rewards.append(value)
        if len(self._rewards) >= RECENT_STEPS:
            mean = fmean(self._rewards[-BEST_STEPS:])
            self._best_reward = mean if self._best_reward is None else max(self._best_reward, mean)

    # ---- held-out accuracy -------------------------------------------------------------------------------------------

    def _add_evaluation(self, record: Mapping[str, float]) -> None:
        """Of several K, the largest: avg@K is an estimate of one number, whatever K is."""
        found = {int(match[1]): value for name, value in record.items() if (match := _HELDOUT.fullmatch(name))}
        found = {samples: value for samples, value in found.items() if math.isfinite(value)}
        if not found:
            return
        accuracy = found[max(found)]
        self._accuracies.append(accuracy)
        error = record.get("eval/sampling_error", math.nan)
        known = error if math.isfinite(error) and (error > 0 or accuracy in (0.0, 1.0)) else None
        alike = error == 0 and known is None
        margin = self._margin(1 if alike else max(found), record.get("eval/problems", math.nan), known)
        reward = fmean(self._rewards[-RECENT_STEPS:]) if self._rewards else None
        evaluated = Evaluated(int(record.get("step", 0)), accuracy, known, margin, reward)
        self.evaluations = [*self.evaluations, evaluated][-2:]
        if self.best_evaluation is None or accuracy > self.best_evaluation.accuracy:
            self.best_evaluation = evaluated

    def _margin(self, samples: int, problems: float, error: float | None) -> float:
        """How far below the best the last accuracy has to be to mean anything.

        `samples`: K of avg@K, 1 if all responses to a problem are alike; `problems`: how many, NaN if that is not
        known; `error`: of the last accuracy.
        """
        margin, least = HELDOUT_FALL, HELDOUT_LEAST
        if problems >= 1:
            least = max(least, HELDOUT_PROBLEMS / problems)
            shares = [min(max(value, 0.0), 1.0) for value in (self._accuracies[-1], max(self._accuracies))]
            variance = 2 * max(share * (1 - share) for share in shares) / problems
            best = self.best_evaluation
            if best is not None and best.error is not None and error is not None:
                of_responses = math.hypot(best.error, error)
                least = max(least, HELDOUT_ERRORS * of_responses)
                margin = max(margin, HELDOUT_ERRORS * math.hypot(of_responses, math.sqrt(HELDOUT_CHURN * variance)))
            else:
                margin = max(margin, HELDOUT_ERRORS * math.sqrt(variance / samples))
            margin = max(margin, least)
        jumps = [after - before for before, after in pairwise(self._accuracies[:-2][-HELDOUT_LAST_JUMPS - 1 :])]
        if len(jumps) < HELDOUT_JUMPS:
            return margin
        noise = stdev(jumps) / math.sqrt(2) * (1 + HELDOUT_UNSURE / len(jumps))
        return min(margin, max(least, HELDOUT_NOISE * noise))
