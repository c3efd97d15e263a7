"""From rewards to advantages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import numpy as np
import numpy.typing as npt

from aspo_megatron.config.words import Baseline, Scale
from aspo_megatron.errors import UserError

STD_FLOOR = 1e-6
"""Added to the standard deviation, as the field does; it shrinks the advantages of rewards that hardly differ."""


def estimate_advantages(
    rewards: npt.NDArray[np.floating], groups: npt.NDArray[np.integer], baseline: Baseline, scale: Scale
) -> npt.NDArray[np.float64]:
    """Advantages: what a reward is beyond its baseline, divided by a standard deviation (+ 1e-6), a mean, or nothing.

    | method | baseline | scale |
    | --- | --- | --- |
    | GRPO (arXiv 2402.03300), and with it ASPO and DAPO | group | group |
    | Dr. GRPO (arXiv 2503.20783) | group | none |
    | RLOO (arXiv 2402.14740) | leave-one-out | none |
    | REINFORCE++ (arXiv 2501.03262) | batch | batch |
    | REINFORCE++-baseline (the same) | group | batch |
    | MaxRL (arXiv 2602.02710) | group | mean |

    MaxRL is for rewards of 0 and 1: the fewer of a group are right, the more each of them counts. A group whose mean is
    not above 0 has advantages of 0. (From its code, SkyRL's and prime-rl's; the paper's own text was not to be had.)

    Standard deviations are the unbiased ones (divisor n - 1), as in `torch.std` and hence in verl and TRL: a group of
    two has GRPO advantages of +-0.707. Where all rewards that are compared agree, advantages are exactly 0, and so
    are those of a group of one, which has nothing to compare with.

    Args:
        rewards: [samples], those of the whole batch.
        groups: [samples], any integers: samples with the same one answer the same prompt, in any order.
        baseline: the mean of the group, of the group's others, or of the batch.
        scale: of what the standard deviation is: the group's rewards, or what is left of the batch's rewards beyond
            their baselines. Or the mean of the group's rewards.

    Returns:
        [samples], finite (squares of rewards must fit into float64, though).

    Raises:
        UserError: a reward is not finite.
    """
    values = rewards.astype(np.float64)
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UserError(
            f"reward of sample {index} is {values[index]}: rewards must be finite, check the reward function"
        )
    if len(values) == 0:
        return values
    member, sizes, in_group = _centered(values, groups)
    centered = in_group if baseline != "batch" else _centered(values, np.zeros_like(groups))[2]
    if baseline == "leave-one-out":
        centered = centered * (sizes / np.maximum(sizes - 1, 1))[member]
    match scale:
        case "none":
            return centered
        case "batch":
            return np.asarray(centered / (_deviation(centered) + STD_FLOOR))
        case "group":
            squares = np.bincount(member, weights=in_group**2)
            return np.asarray(centered / (np.sqrt(squares / np.maximum(sizes - 1, 1))[member] + STD_FLOOR))
        case "mean":
            means = (np.bincount(member, weights=values) / sizes)[member]
            return np.divide(centered, means, out=np.zeros_like(centered), where=means > 0)
        case _:
            assert_never(scale)


def advantages_of_parts(
    parts: Mapping[str, tuple[npt.NDArray[np.integer], npt.NDArray[np.floating]]],
    weights: Mapping[str, float],
    groups: npt.NDArray[np.integer],
    baseline: Baseline,
    scale: Scale,
) -> npt.NDArray[np.float64]:
    """GDPO (arXiv 2601.05242v1, eq. 4, 6 and 7): each part of a reward has advantages of its own.

    Their sum, by the weights, less its mean over the batch's responses, is divided by its standard deviation over them
    (+ 1e-6). So a part counts by its weight, however small its differences are. verl takes mean and deviation over
    tokens, and NeMo-RL's baseline is leave-one-out unless it is told otherwise; the paper, TRL and this do not.

    Args:
        parts: by name, the numbers of the samples that have it, and its value for each of these.
        weights: of the parts, by name.
        groups: [samples], as for `estimate_advantages`, which is asked for each part.
        baseline: of each part.
        scale: of each part.

    Returns:
        [samples], finite.

    Raises:
        UserError: a value is not finite.
    """
    total = np.zeros(len(groups))
    for name, (samples, values) in parts.items():
        total[samples] += weights[name] * estimate_advantages(values, groups[samples], baseline, scale)
    if baseline == "batch":
        return estimate_advantages(total, groups, "batch", "batch")
    # Within groups its mean is 0 but for rounding, which would give an advantage to a group that agrees in all parts.
    return np.asarray(total / (_deviation(total) + STD_FLOOR))


def _centered(
    values: npt.NDArray[np.float64], groups: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Each value's group as a number from 0 on, the groups' sizes, and the values less the mean of their group."""
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    # Grouped together in `order`; group g begins at starts[g].
    order = np.argsort(member, kind="stable")
    starts = np.cumsum(sizes) - sizes
    # Exact, while rounding could make the mean of equal rewards differ from them.
    agree = np.maximum.reduceat(values[order], starts) == np.minimum.reduceat(values[order], starts)
    means = np.add.reduceat(values[order], starts) / sizes
    return member, sizes, np.where(agree[member], 0.0, values - means[member])


def _deviation(values: npt.NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
