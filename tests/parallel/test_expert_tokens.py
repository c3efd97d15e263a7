"""Tokens in the order of their experts: as megatron-core does it, without asking how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import torch
from megatron.core.transformer.moe import token_dispatcher
from megatron.core.transformer.moe.moe_utils import permute
from torch import Tensor

from aspo_megatron.parallel.device.expert_tokens import permute_by_known_count
from aspo_megatron.parallel.device.platform import CpuPlatform, installed

EXPERTS, CHOSEN, SIZE = 6, 2, 5


@pytest.fixture(autouse=True)
def platform() -> Iterator[None]:
    with installed(CpuPlatform()):
        yield


def routing(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, probabilities of all experts, and which of them each token goes to."""
    generator = torch.Generator().manual_seed(tokens)
    probs = torch.rand(tokens, EXPERTS, generator=generator)
    probs[:, 3] = 0.0  # an expert without tokens
    chosen = torch.zeros(tokens, EXPERTS, dtype=torch.bool).scatter(1, probs.topk(CHOSEN).indices, True)
    return torch.randn(tokens, SIZE, generator=generator), probs, chosen


@pytest.mark.parametrize("tokens", [0, 1, 40])
def test_values_and_gradients(tokens: int) -> None:
    results = []
    for way in (permute, token_dispatcher.permute):
        hidden, probs, chosen = routing(tokens)
        hidden.requires_grad_(), probs.requires_grad_()
        moved, weights, source, *_ = way(hidden, chosen, probs=probs, num_out_tokens=tokens * CHOSEN)
        (moved * weights[:, None] * torch.arange(len(moved))[:, None]).sum().backward()
        results.append((moved.detach(), weights.detach(), source, hidden.grad, probs.grad))
    for want, got in zip(*results, strict=True):
        assert torch.equal(want, got)


def test_no_number_is_asked_for() -> None:
    """Meta tensors have none to give, as a GPU has not without a wait."""
    hidden, probs, chosen = (tensor.to("meta") for tensor in routing(40))
    moved, weights, source, *_ = token_dispatcher.permute(hidden, chosen, probs=probs, num_out_tokens=40 * CHOSEN)
    assert (moved.shape, weights.shape, source.shape) == ((80, SIZE), (80,), (80,))


def test_without_probabilities() -> None:
    hidden, _, chosen = routing(12)
    wanted, given = (way(hidden, chosen, num_out_tokens=24) for way in (permute, token_dispatcher.permute))
    for want, got in zip(wanted, given, strict=True):
        assert (want is None and got is None) or torch.equal(want, got)


def test_without_a_count_it_is_megatrons_own() -> None:
    asked = []

    def megatrons(tokens: Tensor, routing_map: Tensor, **options: Any) -> tuple[Tensor, None, Tensor]:
        asked.append(options)
        return tokens, None, routing_map

    hidden, probs, chosen = routing(12)
    given = permute_by_known_count(megatrons)(hidden, chosen, probs=probs)
    assert given == (hidden, None, chosen)
    assert asked == [{"probs": probs, "num_out_tokens": None, "fused": False, "drop_and_pad": False}]


def test_newer_versions_of_megatron_get_all_that_theirs_gives() -> None:
    """From 0.17 on it takes the tokens of each expert, and gives them back after where it has padded."""

    def megatrons(tokens: Tensor, routing_map: Tensor, tokens_per_expert: Tensor | None = None, **_: Any) -> NoReturn:
        raise AssertionError("it waits for the number of tokens")

    hidden, probs, chosen = routing(12)
    counts = chosen.sum(dim=0)
    given = permute_by_known_count(megatrons)(hidden, chosen, probs=probs, num_out_tokens=24, tokens_per_expert=counts)
    wanted = permute(hidden, chosen, probs=probs, num_out_tokens=24)
    for want, got in zip(wanted[:3], given[:3], strict=True):
        assert got is not None
        assert torch.equal(want, got)
    padded, told = given[3:]
    assert padded is None
    assert told is counts
