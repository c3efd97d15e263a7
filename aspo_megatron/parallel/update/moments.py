"""Adam's moments in the host's memory, on the GPU only while an update is made."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from aspo_megatron.parallel.device.host_memory import HostArena

MOMENTS = ("exp_avg", "exp_avg_sq")

States = Iterable[tuple[Tensor, dict[str, Tensor]]]
"""What Adam updates, each with its state."""


class HostMoments:
    """The moments' places in page-locked memory, made once.

    Copies run in the GPU's own order, not beside it: an update needs all moments before it begins, and what comes after
    it wants their memory. So the host waits for nothing but in `wait`. Adam's state has the tensors of the host between
    updates, and may be read there.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._arena = HostArena()
        self._places: dict[tuple[int, str], Tensor] = {}
        self._left: torch.cuda.Event | None = None

    def bring(self, states: States) -> None:
        """To the GPU."""
        for _, state in states:
            for name in MOMENTS:
                if name in state:
                    state[name] = state[name].to(self._device, non_blocking=True)

    def leave(self, states: States) -> None:
        """Back to their places; the GPU's memory is free for what it is given to do next."""
        for main, state in states:
            for name in MOMENTS:
                if name in state:
                    state[name] = self.place(main, name, state[name]).copy_(state[name], non_blocking=True)
        self._left = torch.cuda.Event()
        self._left.record(torch.cuda.current_stream(self._device))

    def place(self, main: Tensor, name: str, like: Tensor) -> Tensor:
        """The place of a moment of `main`, which has the shape and type of `like`."""
        key = id(main), name
        if key not in self._places:
            self._places[key] = self._arena.empty(like.shape, like.dtype)
        return self._places[key]

    def wait(self) -> None:
        """Until what `leave` has begun is done: before the host reads moments, or writes them."""
        if self._left is not None:
            self._left.synchronize()
