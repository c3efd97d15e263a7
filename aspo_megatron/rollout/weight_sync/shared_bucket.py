"""A bucket of weights that servers on this machine read where it lies; only its place in memory is in a request.

It is shared memory that has a file name, or memory of a GPU that is opened by CUDA IPC. SGLang takes one flat tensor
with a list of what is in it (`load_format: flattened_bucket`), as a pickle made of functions that it allows.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import reductions

_SHARED_MEMORY = Path("/dev/shm")
_DEVICE = 6
"""The place of the device among the arguments of PyTorch's `rebuild_cuda_tensor`."""


class SharedBucket:
    """Copies of tensors in memory that other processes of this machine can open, as long as this object lives."""

    def __init__(self, tensors: Sequence[tuple[str, Tensor]], on_gpu: bool) -> None:
        """`on_gpu`: the copies stay on the tensors' GPU; otherwise they are in the machine's memory."""
        # Wide dtypes first: then each tensor begins at a multiple of its element's size.
        ordered = sorted(tensors, key=lambda entry: -entry[1].element_size())
        device = ordered[0][1].device if on_gpu else torch.device("cpu")
        self._flat = _shared_bytes(sum(tensor.nbytes for _, tensor in ordered), device)
        self._contents: list[SimpleNamespace] = []
        start = 0
        for name, tensor in ordered:
            end = start + tensor.nbytes
            self._flat[start:end].view(tensor.dtype).view(tensor.shape).copy_(tensor.detach())
            # SGLang has a class for this, of which it reads these fields; this environment does not have SGLang.
            self._contents.append(
                SimpleNamespace(
                    name=name,
                    shape=tensor.shape,
                    dtype=tensor.dtype,
                    start_idx=start,
                    end_idx=end,
                    numel=tensor.nbytes,
                )
            )
            start = end

    def pickled(self) -> bytes:
        """For one process of a server, which opens it once. Each process needs its own."""
        opened = _open_cuda(self._flat) if self._flat.is_cuda else _open_cpu(self._flat)
        return pickle.dumps({"flattened_tensor": opened, "metadata": self._contents})


def has_room(tensors: Sequence[tuple[str, Tensor]]) -> bool:
    """Whether a bucket of these tensors fits into the machine's shared memory: containers often have little of it."""
    size = sum(tensor.nbytes for _, tensor in tensors)
    return _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > size


class _Call:
    """Pickles as a call of `function`, by the process that loads it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._function, self._arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._function, self._arguments


def _shared_bytes(size: int, device: torch.device) -> Tensor:
    if device.type == "cuda":
        with _plain_segments():
            return torch.empty(size, dtype=torch.uint8, device=device)
    # What torch.multiprocessing does with the sharing strategy `file_system`, without setting it for the whole process.
    storage = torch.UntypedStorage._new_using_filename_cpu(size)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


@contextlib.contextmanager
def _plain_segments() -> Iterator[None]:
    """Memory of the GPU that is allocated within is not in an expandable segment.

    Who opens such a segment takes a file descriptor from this process (pidfd_getfd), which kernels often forbid.
    """
    settings = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
    plain = settings.replace("expandable_segments:True", "expandable_segments:False")
    if plain == settings:
        yield
        return
    torch._C._accelerator_setAllocatorSettings(plain)
    try:
        yield
    finally:
        torch._C._accelerator_setAllocatorSettings(settings)


def _open_cpu(flat: Tensor) -> _Call:
    storage = flat.untyped_storage()
    manager, name, size = storage._share_filename_cpu_()
    storage._shared_incref()  # the process that opens it counts one down
    opened = _Call(reductions.rebuild_storage_filename, torch.UntypedStorage, manager, name, size)
    typed = _Call(reductions.rebuild_typed_storage, opened, flat.dtype)
    return _Call(reductions.rebuild_tensor, torch.Tensor, typed, (0, flat.size(), flat.stride(), False))


def _open_cuda(flat: Tensor) -> _Call:
    rebuild, arguments = reductions.reduce_tensor(flat)
    # A server may count the GPUs in another way: SGLang takes a GPU's UUID in the place of its number.
    uuid = str(torch.cuda.get_device_properties(flat.device).uuid)
    return _Call(rebuild, *arguments[:_DEVICE], uuid, *arguments[_DEVICE + 1 :])
