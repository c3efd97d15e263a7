"""The device of the stand-in, and the host memory that it can copy from without a wait."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from aspo_megatron.simulation.device.storages import Storages, key_of

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
    """Which tensors on the CPU are in page-locked memory."""

    def __init__(self, storages: Storages) -> None:
        self._storages = storages
        self._locked: dict[int, int] = {}
        storages.tell(self._gone)

    @property
    def held_bytes(self) -> int:
        """Of all that is locked now."""
        self._storages.settle()
        return sum(self._locked.values())

    def pin(self, tensor: Tensor) -> Tensor:
        """Note that a tensor's memory is page-locked."""
        self._storages.follow(tensor.untyped_storage())
        self._locked[key_of(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    def _gone(self, key: int) -> None:
        self._locked.pop(key, None)

    def has(self, tensor: Tensor) -> bool:
        """Whether it is, and in one piece: PyTorch copies any other by way of pageable memory."""
        return key_of(tensor) in self._locked and tensor.is_contiguous()
