"""How many responses the embedded engine generates at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aspo_megatron.config import SamplingConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.rollout.embedded.engine import EmbeddedEngine
from aspo_megatron.rollout.engine import Request

from .conftest import Policy, ask


@pytest.mark.parametrize("policy", ["llama"], indirect=True)
@pytest.mark.parametrize(
    ("device", "tokens", "sampling", "expected"),
    [
        ("cuda", None, {}, [6, 6, 4]),
        ("cuda", None, {"top_p": 0.9}, [2] * 8),  # the responses of a request are not parted
        ("cuda", None, {"top_k": 20}, [2] * 8),
        ("cuda", 1000, {}, [16]),
        ("cpu", None, {"top_p": 0.9}, [16]),
    ],
)
def test_a_gpu_has_memory_for_drawing_the_tokens_of_all_rows(
    monkeypatch: pytest.MonkeyPatch,
    policy: Policy,
    device: str,
    tokens: int | None,
    sampling: dict[str, Any],
    expected: list[int],
) -> None:
    free = 4 * 7 * 26 * policy.model.config.vocab_size  # a quarter of it for seven responses
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    engine = EmbeddedEngine(policy.folder, policy.tokenizer, torch.float32, torch.device("cpu"), tokens)
    engine._device = torch.device(device)
    monkeypatch.setattr(engine, "_check_weights", lambda: None)
    batches: list[int] = []

    class Rows:
        """Stands in for the generation of a batch."""

        def __init__(self, *arguments: Any) -> None:
            self.requests: list[Request] = arguments[-1]
            batches.append(sum(request.count for request in self.requests))

        def run(self, at_once: int) -> None:
            pass

        def samples(self, version: int) -> list[list[Sample]]:
            return [[] for _ in self.requests]

    monkeypatch.setattr("aspo_megatron.rollout.embedded.engine._Rows", Rows)
    engine.generate(ask([[1, 2, 3]] * 8, [2] * 8), SamplingConfig(max_response_tokens=4, **sampling))
    assert batches == expected
