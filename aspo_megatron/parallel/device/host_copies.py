"""Copies of a GPU's tensors in the host's memory, made beside what the GPU computes."""

from __future__ import annotations

import torch
from torch import Tensor

from aspo_megatron.parallel.device.host_memory import HostArena


class HostCopies:
    """Copies that are made together and used together, in page-locked memory that the next ones use again.

    A stream of their own makes them, so that neither the host nor what it has the GPU compute meanwhile waits. What
    overwrites a tensor must come after `fence`. Without a GPU a copy is an ordinary one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._arena = HostArena()
        self._stream = None if device.type == "cpu" else torch.cuda.Stream(device)
        self._made: torch.cuda.Event | None = None

    def restart(self) -> None:
        """Begin anew: the copies that were made before are used no longer."""
        self._arena.clear()
        self._made = None

    def take(self, tensor: Tensor, *, lasts: bool) -> Tensor:
        """A copy on the host; its values are there after `wait`.

        Args:
            tensor: as it is when the GPU has done what it was given to do.
            lasts: somebody goes on holding its memory. If not, what the GPU is given to do next comes after the copy,
                so that it can have that memory: a row of tensors made for this alone takes no more than one of them.
        """
        if self._stream is None:
            return tensor.to("cpu", copy=True)
        copy = self._arena.empty(tensor.shape, tensor.dtype)
        if tensor.device.type == "cpu":
            return copy.copy_(tensor)
        now = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            copy.copy_(tensor, non_blocking=True)
            self._made = torch.cuda.Event(blocking=True)
            self._made.record(self._stream)
        if lasts:
            tensor.record_stream(self._stream)  # it may still be a copy that splitting a weight has made
        else:
            now.wait_event(self._made)
        return copy

    def fence(self) -> None:
        """What the GPU is given to do from here on comes after the copies. The host does not wait."""
        if self._made is not None:
            torch.cuda.current_stream(self._device).wait_event(self._made)

    def wait(self) -> None:
        """Until the copies are there. Any thread may: it waits for the last copy, and for nothing else of the GPU."""
        if self._made is None:
            return
        if self._device.type == "cuda":  # else a thread's first call has CUDA set up the first GPU for it
            torch.cuda.set_device(self._device)
        self._made.synchronize()
