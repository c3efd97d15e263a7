"""Weights that are seen to be numbers while they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.mapping import TensorSource

_BLOCK = 1 << 20
"""Elements that are looked at together: they stay in a processor's cache."""


class FiledTensors(TensorSource, Protocol):
    """Tensors of files."""

    def path_of(self, name: str) -> Path:
        """The file that a tensor is in, or begins in."""
        ...


class FiniteTensors:
    """A `TensorSource` that refuses NaN and infinity in what is read of another."""

    def __init__(self, source: FiledTensors) -> None:
        self._source = source

    def read(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        """Rows start..stop of a tensor along `dim`.

        Raises:
            CheckpointError: not all of them are finite; names file and tensor.
        """
        return self._checked(name, self._source.read(name, dim, start, stop))

    def read_whole(self, name: str) -> Tensor:
        """A whole tensor, see `read`."""
        return self._checked(name, self._source.read_whole(name))

    def _checked(self, name: str, tensor: Tensor) -> Tensor:
        odd = not_finite(tensor)
        if odd is not None:
            raise CheckpointError(
                f"{self._source.path_of(name)}: tensor {name} holds {odd}, with which no model can be trained; "
                "copy or download the file again, or take weights from before they diverged"
            )
        return tensor


def not_finite(tensor: Tensor) -> str | None:
    """What a tensor holds that is no finite number; None if all are. At the speed of memory, with none of its own."""
    if not tensor.is_floating_point():
        return None
    for block in tensor.detach().reshape(-1).split(_BLOCK) if tensor.numel() else ():
        least, most = torch.aminmax(block if block.dtype.itemsize > 1 else block.float())  # NaN goes into both
        if not torch.isfinite(least) or not torch.isfinite(most):
            return "NaN" if torch.isnan(least) else "infinity"
    return None
