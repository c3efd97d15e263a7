"""What is done to a chunk's logits element by element, between the product and those of their gradient.

Two ways to the same numbers: tile by tile in plain PyTorch, the reference, which on a CPU stays in the cache; and two
Triton kernels for a GPU, which read a chunk's logits twice and write their gradient once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from aspo_megatron.parallel.log_prob import triton_ops

_LEAST_SCALE = 1e-20
"""Probabilities below it are as good as 0 beside the 1 of the target, in fp32 and in fp64."""


@dataclass(frozen=True)
class Upstream:
    """A chunk's derivatives of the loss: by log-prob, and by entropy or None for zero. Each [chunk].

    `entropy` is the entropy itself.
    """

    by_log_prob: Tensor
    by_entropy: Tensor | None
    entropy: Tensor


@dataclass(frozen=True)
class Probabilities:
    """A chunk's softmax in the form in which its kernels keep it.

    Attributes:
        values: [chunk, rows], in the workspace: of `EagerKernels` exponentials e, of `TritonKernels` the logits z.
        base: [chunk]: e is exp(z / T - base); with the logits undivided, it is one of them.
        log_scale: [chunk]: a probability is e exp(log_scale), or exp((z - base) / T + log_scale).
    """

    values: Tensor
    base: Tensor
    log_scale: Tensor


class ChunkKernels(Protocol):
    """Operations on a chunk's buffer, [chunk, rows]."""

    undivided: float
    """What the logits in the buffer are still to be divided by: 1, or the temperature."""

    def sums(self, logits: Tensor, local: Tensor, stats: Tensor) -> None:
        """Of logits z, which may be replaced by the form that is kept, with t = (z - max z) / `undivided`.

        Args:
            logits: [chunk, rows].
            local: [chunk] int64, the targets' columns; one beyond the rows is another rank's.
            stats: [4, chunk], takes max z, sum exp(t), sum exp(t) t, and the target's t or any number for another's.
        """
        ...

    def keep(self, logits: Tensor, base: Tensor) -> None:
        """Bring logits into the form that is kept, relative to `base`, [chunk]."""
        ...

    def gradient(self, probabilities: Probabilities, upstream: Upstream, local: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradient of h . w, [chunk, rows], in the dtype of the products with it; its form is used up.

        Without the second result's factors of each token, [chunk]: None if there are none.
        """
        ...


class EagerKernels:
    """A few rows at a time, in place."""

    undivided = 1.0

    def __init__(self, tile: Tensor, temperature: float, *, rounded: bool, short: Tensor | None) -> None:
        """`tile`: scratch space of a few rows. `rounded`: products take the gradient in 16 bits. `short`: for that."""
        self._tile, self._temperature = tile, temperature
        self._rounded, self._short = rounded, short

    def sums(self, logits: Tensor, local: Tensor, stats: Tensor) -> None:
        """See `ChunkKernels`. Leaves exp(t)."""
        _, column = located(local, logits.size(1))
        peak, total, weighted, target = stats
        target.copy_(logits.gather(1, column[:, None]).squeeze(1))
        for tokens, part, scratch in self._tiles(logits):
            torch.amax(part, dim=1, out=peak[tokens])
            torch.sub(part, peak[tokens, None], out=scratch)
            torch.exp(scratch, out=part)
            torch.sum(part, dim=1, out=total[tokens])
            torch.sum(scratch.mul_(part), dim=1, out=weighted[tokens])
        target -= peak

    def keep(self, logits: Tensor, base: Tensor) -> None:
        """See `ChunkKernels`. Leaves exp(z - base)."""
        logits.sub_(base[:, None]).exp_()

    def gradient(self, probabilities: Probabilities, upstream: Upstream, local: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `ChunkKernels`. With p = a e and without g': rows e - [v = y] / a, and factors -g a / T."""
        exponentials, log_scale = probabilities.values, probabilities.log_scale
        scale = log_scale.exp().clamp(min=_LEAST_SCALE)
        factor = upstream.by_log_prob.to(exponentials.dtype) / self._temperature
        if upstream.by_entropy is not None:
            by_entropy = upstream.by_entropy.to(exponentials.dtype) / self._temperature
            self._entropy_gradient(exponentials, factor, by_entropy, log_scale, upstream.entropy)
            one, rows_factor = factor, None
        elif self._rounded:
            # 16 bits keep few digits of 1 - p: the difference is taken before they do.
            exponentials *= (-factor * scale)[:, None]
            one, rows_factor = factor, None
        else:
            one, rows_factor = -1.0 / scale, -factor * scale
        mine, column = located(local, exponentials.size(1))
        exponentials.scatter_add_(1, column[:, None], torch.where(mine, one, 0.0)[:, None])
        if self._short is None:
            return exponentials, rows_factor
        return self._short[: len(exponentials)].copy_(exponentials), rows_factor

    def _entropy_gradient(
        self, exponentials: Tensor, factor: Tensor, grad_entropy: Tensor, log_scale: Tensor, entropy: Tensor
    ) -> None:
        """-p (g + g' (log p + H)) in place of the exponentials e; entr(e) = -e log e is 0 where e is."""
        scale = log_scale.exp()
        alone = -scale * (factor + grad_entropy * (log_scale + entropy))
        with_log = scale * grad_entropy
        for tokens, part, scratch in self._tiles(exponentials):
            torch.special.entr(part, out=scratch)
            part.mul_(alone[tokens, None]).addcmul_(scratch, with_log[tokens, None])

    def _tiles(self, values: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Parts of a chunk's `values`: which tokens, their values, and scratch space of the same shape."""
        step = len(self._tile)
        for start in range(0, len(values), step):
            part = values[start : start + step]
            yield slice(start, start + len(part)), part, self._tile[: len(part)]


class TritonKernels:
    """A whole chunk at once. The logits stay as the product made them until their gradient takes their place."""

    def __init__(self, temperature: float, *, short: Tensor | None) -> None:
        """`short`: takes the gradient in 16 bits; None: the logits' own buffer takes it."""
        self.undivided = temperature
        self._short = short

    def sums(self, logits: Tensor, local: Tensor, stats: Tensor) -> None:
        """See `ChunkKernels`."""
        triton_ops.token_sums(logits, local, stats, self.undivided)

    def keep(self, logits: Tensor, base: Tensor) -> None:
        """See `ChunkKernels`. Logits are what is kept."""

    def gradient(self, probabilities: Probabilities, upstream: Upstream, local: Tensor) -> tuple[Tensor, None]:
        """See `ChunkKernels`. Complete, and rounded once."""
        logits = probabilities.values
        out = logits if self._short is None else self._short[: len(logits)]
        triton_ops.logit_gradient(
            logits,
            out,
            local,
            probabilities.base,
            probabilities.log_scale,
            upstream.by_log_prob,
            upstream.by_entropy,
            upstream.entropy,
            self.undivided,
        )
        return out, None


def located(local: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Which targets are among `rows`, [chunk] bool, and their columns (any for the others)."""
    return (local >= 0) & (local < rows), local.clamp(0, max(rows - 1, 0))
