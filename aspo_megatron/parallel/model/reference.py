"""The model that the KL refers to: a copy of the policy as it began, which only gives log-probs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from aspo_megatron.config.words import ReferencePlace
from aspo_megatron.parallel.device.host_memory import HostArena
from aspo_megatron.parallel.model.policy import PolicyModel


class Reference:
    """A copy of a policy, made of the weights that it has now."""

    def __init__(self, policy: PolicyModel, where: ReferencePlace) -> None:
        """`where` its weights are while it has nothing to do. On a CPU there is one place."""
        self._model = policy.copy().requires_grad_(False)
        away = where == "host" and policy.topology.platform.device.type != "cpu"
        self._weights = HostWeights(self._model) if away else None

    @contextmanager
    def ready(self) -> Iterator[PolicyModel]:
        """The model, with its weights in the device's memory for the length of the block."""
        if self._weights is None:
            yield self._model
            return
        self._weights.bring()
        try:
            yield self._model
        finally:
            self._weights.release()


class HostWeights:
    """A model's weights in page-locked host memory. Nobody may change them; the model begins without them.

    Its parameters stay the same tensors, whose memory comes and goes. Copies run in the GPU's own order, and the host
    waits for none of them.
    """

    @torch.no_grad()
    def __init__(self, model: torch.nn.Module) -> None:
        arena = HostArena()
        self._places: list[tuple[Tensor, Tensor]] = []
        for parameter in model.parameters():
            place = arena.empty(parameter.shape, parameter.dtype)
            self._places.append((parameter, place.copy_(parameter, non_blocking=True)))
        self.release()

    @torch.no_grad()
    def bring(self) -> None:
        """To the GPU."""
        for parameter, place in self._places:
            parameter.untyped_storage().resize_(parameter.nbytes)
            parameter.copy_(place, non_blocking=True)

    def release(self) -> None:
        """Give the GPU's memory back."""
        for parameter, _ in self._places:
            parameter.untyped_storage().resize_(0)
