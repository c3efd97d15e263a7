"""The reward `mixture`: a weighted sum of other rewards, each for all problems or for those with certain fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aspo_megatron.config import RewardComponent
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.text import named


@dataclass(frozen=True)
class Score:
    """What a response is worth, and for a mixture the values of its parts, not yet weighted, by name."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)


def applies(component: RewardComponent, problem: Problem) -> bool:
    """Whether a part of a mixture counts for a problem: all fields in its `when` have a value that is listed."""
    for name, wanted in component.when.items():
        if name not in problem.metadata:
            return False
        values = (wanted,) if isinstance(wanted, str) else wanted
        if str(problem.metadata[name]) not in values:
            return False
    return True


@dataclass(frozen=True)
class Mixture:
    """Named parts: what the configuration says of each, and the function that scores it."""

    parts: Sequence[tuple[str, RewardComponent, Callable[[Problem, str], float]]]

    def score(self, problem: Problem, response: str) -> Score:
        """The sum of weight x value over the parts that apply to the problem.

        Raises:
            ValueError: no part applies.
            Exception: whatever a part raises.
        """
        values = {
            name: scorer(problem, response) for name, component, scorer in self.parts if applies(component, problem)
        }
        if not values:
            raise ValueError(f"no part of the mixture is for {named(problem)}; see reward.components.*.when")
        # fsum, so that weights such as 0.7, 0.2 and 0.1 make 1, from which on a response counts as right.
        weighted = [component.weight * values[name] for name, component, _ in self.parts if name in values]
        return Score(math.fsum(weighted), values)
