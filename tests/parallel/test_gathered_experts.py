"""Experts over gathered tokens: as one after the other, whatever the room, the weights' memory, what is unused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from aspo_megatron.config import KernelsConfig, LossConfig, ModelConfig, OptimizerConfig, ParallelConfig
from aspo_megatron.losses import build
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from aspo_megatron.parallel.model.context_parallel import context_slice
from aspo_megatron.parallel.model.experts.room import rows_set_aside
from benchmarks.gpu_check.experts import sum_of_experts
from tiny_models import qwen3_moe_folder

from .layouts import PLATFORM
from .samples import make_groups

TOKENS, HIDDEN, INNER, EXPERTS, TOP_K = 30, 8, 12, 5, 2
FIRST, LOCAL = 1, 3
"""Experts 1 to 3 are here."""
ALONE: Any = SimpleNamespace(size=lambda: 1)


@pytest.fixture(scope="module", autouse=True)
def topology() -> Iterator[Topology]:
    with process_grid(ParallelConfig(), PLATFORM, seed=1) as grid:
        yield grid


@dataclass
class Given:
    hidden: Tensor
    weights: Tensor
    chosen: Tensor
    up: list[Tensor]
    down: list[Tensor]


def apart(shape: tuple[int, ...]) -> list[Tensor]:
    return [torch.empty(shape) for _ in range(LOCAL)]


def in_one_buffer(shape: tuple[int, ...]) -> list[Tensor]:
    size = torch.Size(shape).numel() + 4  # something lies between them
    buffer = torch.empty(LOCAL * size)
    return [buffer[number * size :][: size - 4].view(shape) for number in range(LOCAL)]


def last_first(shape: tuple[int, ...]) -> list[Tensor]:
    return in_one_buffer(shape)[::-1]


MEMORIES: list[Callable[[tuple[int, ...]], list[Tensor]]] = [apart, in_one_buffer, last_first]


def given(memory: Callable[[tuple[int, ...]], list[Tensor]]) -> Given:
    """Expert 2 gets no token."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(TOKENS, EXPERTS, generator=generator)
    scores[:, 2] = -1.0
    matrices = [(2 * INNER, HIDDEN), (HIDDEN, INNER)]
    up, down = ([weight.normal_(generator=generator) for weight in memory(shape)] for shape in matrices)
    for weights, shape in zip((up, down), matrices, strict=True):
        for weight, total in zip(weights, memory(shape), strict=True):
            weight.requires_grad_().main_grad = total.fill_(0.25)  # type: ignore[attr-defined]
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator, requires_grad=True)
    counted = torch.rand(TOKENS, TOP_K, generator=generator, requires_grad=True)
    return Given(hidden, counted, scores.topk(TOP_K).indices, up, down)


def one_by_one(own: Given) -> Tensor:
    """In fp64, with gradients by autograd."""
    up, down = ([weight.double() for weight in weights] for weights in (own.up, own.down))
    return sum_of_experts(own.hidden.double(), own.weights.double(), own.chosen, up, down, FIRST)


def gathered(own: Given, rows: int) -> tuple[Tensor, Tensor]:
    from aspo_megatron.parallel.model.experts.routed import ExpertWeights, routed_experts

    return routed_experts(own.hidden, own.weights, own.chosen, ExpertWeights(own.up, own.down), FIRST, rows, ALONE)


def wanted_rows(own: Given) -> int:
    return int(((own.chosen >= FIRST) & (own.chosen < FIRST + LOCAL)).sum())


def close(got: Tensor, want: Tensor) -> None:
    difference = (got.double() - want.double()).abs().max()
    assert difference <= 1e-6 * want.abs().max()


@pytest.mark.parametrize("spare", [0, 9])
@pytest.mark.parametrize("memory", MEMORIES)
def test_values_and_gradients(
    memory: Callable[[tuple[int, ...]], list[Tensor]], spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = functional.grouped_mm

    def leaving_rubbish(rows: Tensor, matrices: Tensor, *, offs: Tensor) -> Tensor:
        """As a GPU leaves rows that are no group's."""
        product = real(rows, matrices, offs=offs)
        if matrices.dim() == 3:
            product[int(offs[-1]) :] = torch.nan
        return product

    monkeypatch.setattr(functional, "grouped_mm", leaving_rubbish)
    own, other = given(memory), given(apart)
    output, wanted = gathered(own, wanted_rows(own) + spare)
    want = one_by_one(other)
    assert int(wanted) == wanted_rows(own)
    close(output, want)
    upstream = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(2))
    output.backward(upstream)
    want.backward(upstream.double())
    for got, plain in ((own.hidden, other.hidden), (own.weights, other.weights)):
        assert got.grad is not None
        assert plain.grad is not None
        close(got.grad, plain.grad)
    for mine, plain in zip(own.up + own.down, other.up + other.down, strict=True):
        assert mine.grad is None  # it was added to what megatron has
        close(mine.main_grad - 0.25, torch.zeros_like(plain) if plain.grad is None else plain.grad)  # type: ignore[attr-defined]


@pytest.mark.parametrize("memory", [in_one_buffer, last_first])
def test_weights_of_a_buffer_are_not_copied(memory: Callable[[tuple[int, ...]], list[Tensor]]) -> None:
    from aspo_megatron.parallel.model.experts.routed import ExpertWeights

    own = given(memory)
    stacked = ExpertWeights(own.up, own.down).up
    assert stacked.untyped_storage().data_ptr() == own.up[0].untyped_storage().data_ptr()
    order = reversed(own.up) if memory is last_first else own.up
    assert all(torch.equal(each, weight) for each, weight in zip(stacked, order, strict=True))


def test_weights_without_gradients_take_none() -> None:
    own = given(apart)
    for weight in own.up + own.down:
        weight.requires_grad_(False)
        del weight.main_grad  # type: ignore[attr-defined]
    output, _ = gathered(own, 60)
    output.sum().backward()
    assert own.hidden.grad is not None


def test_too_few_rows_are_told() -> None:
    own = given(apart)
    _, wanted = gathered(own, 8)
    assert int(wanted) == wanted_rows(own) > 8


def test_rows_set_aside() -> None:
    assert rows_set_aside(1000, 8, 16, 128) == 1256  # a quarter more than 1000, in steps of 8
    assert rows_set_aside(1000, 8, 16, 128, 100.0) == 8000  # all choices of all tokens
    assert rows_set_aside(1000, 8, 4, 128, 1000.0) == 4000  # no token chooses an expert twice
    assert rows_set_aside(1000, 8, 128, 128) == 8000


def test_a_larger_share_of_a_batch_has_padding_at_its_end() -> None:
    from aspo_megatron.data.packing import Span

    spans = (Span(0, 5), Span(5, 12, 0, 5))
    for rank in (0, 1):
        small, large = (context_slice(spans, 2, rank, 2, at_least) for at_least in (None, 10))
        assert len(large.tokens) == 10
        assert large.tokens[: len(small.tokens)].tolist() == small.tokens.tolist()
        assert set(large.tokens[len(small.tokens) :].tolist()) == {-1}
        assert large.chunks == small.chunks
    assert (large.where >= 10).sum() == (small.where >= len(small.tokens)).sum()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3_moe_folder(tmp_path_factory.mktemp("moe"), num_experts=4, num_experts_per_tok=2)


def outcome(folder: Path, topology: Topology, factor: float) -> tuple[float, list[Any], dict[str, Tensor], Any]:
    """Gradient norm, log-probs before, gradients of an update, and the room afterwards, which begins at `factor`."""
    from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
    from aspo_megatron.parallel.model.policy import build_model
    from aspo_megatron.parallel.update.objective import PolicyObjective
    from aspo_megatron.parallel.update.optimizer import Optimizer
    from aspo_megatron.parallel.update.passes import PassLimits, response_log_probs
    from aspo_megatron.parallel.update.step import aggregation_of, update

    settings = ModelConfig(path=folder, kernels=KernelsConfig(experts="gathered"))
    with SafetensorsFolder(folder) as tensors:
        model = build_model(read_family(folder), topology, settings, tensors)
    optimizer = Optimizer(model, OptimizerConfig(), 3, topology.parallel)
    groups, limits = make_groups([(3, (4, 9)), (2, (6,))]), PassLimits(16, 16, 1.0)
    assert model.expert_room is not None
    model.expert_room.factor = factor
    log_probs = []
    for sample, values in response_log_probs(model, groups, limits):
        sample.old_log_probs = sample.ref_log_probs = values
        log_probs.append(values)
    model.expert_room.factor = factor
    config = LossConfig(name="aspo")
    objective = PolicyObjective(build("aspo", {}), config)
    result = update(model, optimizer, groups, objective, aggregation_of(config, 16), limits)
    return result.grad_norm, log_probs, dict(optimizer.hf_gradients(model)), model.expert_room


def test_what_had_too_little_room_is_computed_again(folder: Path, topology: Topology) -> None:
    norm, log_probs, gradients, room = outcome(folder, topology, 1.25)
    again_norm, again_log_probs, again_gradients, grown = outcome(folder, topology, 0.3)
    assert room.factor == 1.25
    assert grown.factor > 1.0
    assert again_norm == norm
    for got, want in zip(again_log_probs, log_probs, strict=True):
        assert (got == want).all()
    for name, want in gradients.items():
        assert torch.equal(again_gradients[name], want), name
