"""What is done to a chunk's logits element by element, in the buffer that holds them.

Two ways to the same numbers: tile by tile in plain PyTorch, the reference, and by kernels of torch.compile, which pass
over a chunk once where plain PyTorch passes over it four times. On a CPU the tiles stay in the cache and are faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from aspo_megatron.parallel.device.platform import compiled


class ChunkKernels(Protocol):
    """Operations on a chunk's buffer, [chunk, rows]. All other tensors are [chunk]."""

    def softmax_sums(self, logits: Tensor, peak: Tensor, total: Tensor, weighted: Tensor) -> None:
        """With t = z - max z: leaves exp(t), and puts max z, sum exp(t) and sum exp(t) t into the other three."""
        ...

    def exponentials(self, logits: Tensor, peak: Tensor) -> None:
        """Leaves exp(z - peak)."""
        ...

    def entropy_gradient(self, exponentials: Tensor, alone: Tensor, with_log: Tensor) -> None:
        """Leaves e `alone` - e log e `with_log`, where e log e is 0 if e is."""
        ...


class TiledKernels:
    """A few rows at a time."""

    def __init__(self, tile: Tensor) -> None:
        """`tile`: scratch space of a few rows."""
        self._tile = tile

    def softmax_sums(self, logits: Tensor, peak: Tensor, total: Tensor, weighted: Tensor) -> None:
        """See `ChunkKernels`."""
        for tokens, part, scratch in self._tiles(logits):
            torch.amax(part, dim=1, out=peak[tokens])
            torch.sub(part, peak[tokens, None], out=scratch)
            torch.exp(scratch, out=part)
            torch.sum(part, dim=1, out=total[tokens])
            torch.sum(scratch.mul_(part), dim=1, out=weighted[tokens])

    def exponentials(self, logits: Tensor, peak: Tensor) -> None:
        """See `ChunkKernels`."""
        logits.sub_(peak[:, None]).exp_()

    def entropy_gradient(self, exponentials: Tensor, alone: Tensor, with_log: Tensor) -> None:
        """See `ChunkKernels`."""
        for tokens, part, scratch in self._tiles(exponentials):
            torch.special.entr(part, out=scratch)
            part.mul_(alone[tokens, None]).addcmul_(scratch, with_log[tokens, None])

    def _tiles(self, values: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Parts of a chunk's `values`: which tokens, their values, and scratch space of the same shape."""
        step = len(self._tile)
        for start in range(0, len(values), step):
            part = values[start : start + step]
            yield slice(start, start + len(part)), part, self._tile[: len(part)]


class CompiledKernels:
    """All rows at once, compiled at their first use in a process; sizes may differ later.

    What is compiled sees neither that a tensor is a part of another, nor where it begins there: each would be a reason
    to compile again.
    """

    def softmax_sums(self, logits: Tensor, peak: Tensor, total: Tensor, weighted: Tensor) -> None:
        """See `ChunkKernels`."""
        # Two kernels: where one changes the logits that it sums up, Inductor keeps another chunk of them.
        for out, values in zip((peak, total, weighted), compiled(_softmax_sums)(_alone(logits)), strict=True):
            out.copy_(values)
        self.exponentials(logits, peak)

    def exponentials(self, logits: Tensor, peak: Tensor) -> None:
        """See `ChunkKernels`."""
        compiled(_exponentials)(_alone(logits), peak.clone())

    def entropy_gradient(self, exponentials: Tensor, alone: Tensor, with_log: Tensor) -> None:
        """See `ChunkKernels`."""
        compiled(_entropy_gradient)(_alone(exponentials), alone.clone(), with_log.clone())


def _alone(rows: Tensor) -> Tensor:
    """The first rows of a buffer, in the same memory, as a tensor that is no part of the buffer for autograd."""
    return rows.data


def _softmax_sums(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    largest = logits.amax(dim=1)
    relative = logits - largest[:, None]
    values = relative.exp()
    return largest, values.sum(dim=1), (values * relative).sum(dim=1)


def _exponentials(logits: Tensor, peak: Tensor) -> None:
    logits.copy_((logits - peak[:, None]).exp())


def _entropy_gradient(exponentials: Tensor, alone: Tensor, with_log: Tensor) -> None:
    entr = torch.special.entr(exponentials)
    exponentials.copy_(exponentials * alone[:, None] + entr * with_log[:, None])
