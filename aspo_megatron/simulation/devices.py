"""The device of the stand-in, and the host memory that it can copy from without a wait."""

from __future__ import annotations

import weakref
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_NAME = "gpu"


def gpu() -> torch.device:
    """The device. PyTorch is told of it at the first call in a process, which cannot be undone."""
    if torch._C._get_privateuse1_backend_name() != _NAME:
        _setup_privateuseone_for_python_backend(_NAME)
    return torch.device(_NAME, 0)


def means_gpu(device: Any) -> bool:
    """Whether a `device` argument asks for the GPU: as megatron-core writes it, too."""
    if device is None or isinstance(device, Tensor):
        return False
    return isinstance(device, int) or torch.device(device).type in ("cuda", _NAME)


def on_gpu(value: Any) -> TypeGuard[FakeTensor]:
    """Whether it is a tensor of the stand-in."""
    return isinstance(value, FakeTensor) and value.fake_device.type == _NAME


class PinnedMemory:
    """Which tensors on the CPU are in pinned memory."""

    def __init__(self) -> None:
        self._storages: set[int] = set()

    def pin(self, tensor: Tensor) -> Tensor:
        """Note that a tensor's memory is pinned."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages.add(storage._cdata)
            weakref.finalize(storage, self._storages.discard, storage._cdata)
        return tensor

    def has(self, tensor: Tensor) -> bool:
        """Whether it is."""
        return tensor.untyped_storage()._cdata in self._storages
