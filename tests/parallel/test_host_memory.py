"""Memory of the host that a GPU reads and writes by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aspo_megatron.parallel.device.host_memory import HostArena


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_memory_for_any_shape(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    empty = torch.empty

    def unlocked(*arguments: Any, pin_memory: bool = False, **named: Any) -> torch.Tensor:
        return empty(*arguments, **named)

    monkeypatch.setattr(torch, "empty", unlocked)  # without a GPU no memory can be locked
    first, second = (HostArena().empty(shape, torch.float32).fill_(value) for value in (1.0, 2.0))
    assert torch.equal(first, torch.ones(shape))
    assert torch.equal(second, 2 * torch.ones(shape))
