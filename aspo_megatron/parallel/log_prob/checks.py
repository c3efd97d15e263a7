"""What log-probs ask of their inputs: an error on the CPU; on a GPU, which nobody should wait for, a failure there."""

from __future__ import annotations

import torch
from torch import Tensor


def check_targets(targets: Tensor, vocab_size: int) -> None:
    """See that all targets, which are on the CPU, are in the vocabulary.

    Raises:
        ValueError: if one is not; names its position and id.
    """
    bad = (targets < 0) | (targets >= vocab_size)
    if bool(bad.any()):
        position = int(bad.nonzero()[0])
        raise ValueError(f"target {int(targets[position])} at position {position} is not in 0..{vocab_size - 1}")


def expect_targets_within(targets: Tensor, vocab_size: int) -> None:
    """As `check_targets`, wherever the targets are.

    Raises:
        ValueError: as there, on the CPU. Elsewhere the device fails, which ends the process.
    """
    if targets.device.type == "cpu":
        check_targets(targets, vocab_size)
        return
    inside = (targets >= 0) & (targets < vocab_size)
    torch._assert_async(inside.all(), f"token_log_probs: a target is not in 0..{vocab_size - 1}")


def expect_unscaled(grad: Tensor) -> None:
    """See that what comes down to the anchor of `token_objective` is 1.

    Raises:
        RuntimeError: if not, on the CPU. Elsewhere the device fails, which ends the process.
    """
    message = "not 1, but that of the weight is in weight_grad already; scale the derivative instead"
    if grad.device.type != "cpu":
        torch._assert_async(grad == 1.0, f"token_objective: the gradient of the anchor is {message}")
    elif float(grad) != 1.0:
        raise RuntimeError(f"token_objective: the gradient of the anchor is {float(grad)}, {message}")
