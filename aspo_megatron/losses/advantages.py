"""From rewards to advantages."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aspo_megatron.errors import UserError

STD_FLOOR = 1e-6
"""Added to the standard deviation, as the field does; it shrinks the advantages of rewards that hardly differ."""


def group_relative(
    rewards: npt.NDArray[np.floating], groups: npt.NDArray[np.integer], normalize_std: bool
) -> npt.NDArray[np.float64]:
    """GRPO's advantages: (r - mean) / (std + 1e-6) within the group of responses to one prompt.

    The standard deviation is the unbiased one (divisor n - 1), as in `torch.std` and hence in verl and TRL; a group
    of two has advantages of +-0.707. A group whose rewards all agree gets exactly 0, and so does a group of one,
    which has nothing to compare with.

    Args:
        rewards: [samples].
        groups: [samples], any integers: samples with the same one answer the same prompt, in any order.
        normalize_std: divide by the standard deviation; Dr. GRPO (arXiv 2503.20783) does not.

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
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    # Grouped together in `order`; group g begins at starts[g].
    order = np.argsort(member, kind="stable")
    starts = np.cumsum(sizes) - sizes
    # Exact, while rounding could make the mean of equal rewards differ from them.
    agree = np.maximum.reduceat(values[order], starts) == np.minimum.reduceat(values[order], starts)
    means = np.add.reduceat(values[order], starts) / sizes
    centered = np.where(agree[member], 0.0, values - means[member])
    if not normalize_std:
        return centered
    variances = np.add.reduceat(centered[order] ** 2, starts) / np.maximum(sizes - 1, 1)
    return np.asarray(centered / (np.sqrt(variances)[member] + STD_FLOOR))
