"""Page-locked host memory, which a GPU reads and writes by itself while the host goes on.

Other host memory is copied through a small buffer of the driver's, at a fraction of the speed, and the host waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 256 << 20
_ALIGNMENT = 512


class HostArena:
    """Page-locked memory for many tensors, which is kept until the arena is gone.

    Locking memory takes longer than filling it, and PyTorch rounds each piece that it locks up to a power of two: so
    tensors have their places in large blocks.
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._used: list[int] = []

    @property
    def nbytes(self) -> int:
        """Of all blocks."""
        return sum(block.nbytes for block in self._blocks)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory for a tensor that no other has, until `clear`."""
        size = math.prod(shape) * dtype.itemsize
        number, start = self._place(size)
        self._used[number] = start + size
        return self._blocks[number][start : start + size].view(dtype).view(tuple(shape))

    def clear(self) -> None:
        """All that was given out is used no longer: the same requests get the same memory again."""
        self._used = [0] * len(self._blocks)

    def _place(self, size: int) -> tuple[int, int]:
        """A block with room for so many bytes, and where in it."""
        for number, (block, used) in enumerate(zip(self._blocks, self._used, strict=True)):
            start = -(-used // _ALIGNMENT) * _ALIGNMENT
            if start + size <= block.nbytes:
                return number, start
        capacity = 1 << (max(size, _BLOCK) - 1).bit_length()
        self._blocks.append(torch.empty(capacity, dtype=torch.uint8, pin_memory=True))
        self._used.append(0)
        return len(self._blocks) - 1, 0


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on `device`; on a GPU without waiting for what it has to do before."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
