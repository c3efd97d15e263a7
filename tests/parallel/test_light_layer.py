"""What `model.recompute: light` frees until backward, and that gradients are those of `none`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aspo_megatron.config import KernelsConfig, ParallelConfig
from aspo_megatron.data.packing import pack
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from aspo_megatron.parallel.model.light_layer import GatedProduct, free_until_backward
from aspo_megatron.parallel.model.micro_batch import MicroBatch
from tiny_models import llama_folder, qwen3_moe_folder

from .layouts import DEFAULT, FUSED, PLATFORM, Layout, load, relative
from .test_step import SETUPS, differences, make_batch, two_updates


def test_memory_is_freed_until_the_gradient_comes() -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(4, 4, generator=generator, requires_grad=True) for _ in range(2))
    sizes: list[int] = []

    def make() -> Tensor:
        assert not torch.is_grad_enabled()
        sizes.append(made.untyped_storage().nbytes())
        return x.tanh()

    made = x.tanh().mul(1)  # nobody but the product keeps it
    out = made @ weight
    free_until_backward(made, make, out)
    assert made.untyped_storage().nbytes() == 0
    out.square().sum().backward()
    assert sizes == [0]
    assert weight.grad is not None
    want = x.detach().tanh().t() @ (2 * out.detach())
    assert torch.equal(weight.grad, want)
    assert torch.equal(made, x.tanh())


def test_what_has_no_gradient_is_left_alone() -> None:
    made = torch.ones(4)
    free_until_backward(made, lambda: pytest.fail("made again"), made * 2)
    assert made.untyped_storage().nbytes() == 16


def test_another_s_memory_is_not_freed() -> None:
    whole = torch.ones(8)
    with pytest.raises(AssertionError):
        free_until_backward(whole[:4], lambda: whole, torch.ones(4, requires_grad=True) * 1)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_gated_product(fused: bool, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    gate_up = torch.randn(5, 12, dtype=torch.float64, generator=generator, requires_grad=True)
    scale = torch.rand(5, 1, dtype=torch.float64, generator=generator, requires_grad=True) if weighted else None
    upstream = torch.randn(5, 6, dtype=torch.float64, generator=generator)

    def plain() -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up * (1.0 if scale is None else scale)

    inputs = [gate_up] if scale is None else [gate_up, scale]
    got = GatedProduct.apply(gate_up, scale, fused)
    assert relative(got, plain()) < 1e-12
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, upstream), torch.autograd.grad(plain(), inputs, upstream), strict=True
    ):
        assert relative(ours, theirs) < 1e-12


@pytest.mark.parametrize("fused", [False, True])
def test_gated_product_in_bf16_with_weights_in_fp32(fused: bool) -> None:
    gate_up = torch.randn(5, 12, dtype=torch.bfloat16, requires_grad=True)
    scale = torch.rand(5, 1, requires_grad=True)
    out = GatedProduct.apply(gate_up, scale, fused)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert gate_up.grad is not None
    assert scale.grad is not None
    assert (gate_up.grad.dtype, scale.grad.dtype) == (torch.bfloat16, torch.float32)


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with process_grid(ParallelConfig(), PLATFORM, seed=1) as grid:
        yield grid


@pytest.fixture(scope="module", params=[partial(llama_folder, tied=True), qwen3_moe_folder], ids=["dense", "experts"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("model"))
    return made


@pytest.mark.parametrize("kernels", [DEFAULT, FUSED], ids=["eager", "fused"])
def test_gradients_are_those_of_a_layer_that_keeps_all(
    topology: Topology, folder: Path, kernels: KernelsConfig
) -> None:
    groups, setup = make_batch("full", folder), SETUPS["aspo, token-mean"]
    want, got = (
        two_updates(topology, Layout(recompute=recompute, kernels=kernels), folder, groups, setup)
        for recompute in ("none", "light")
    )
    assert differences(got, want) <= (1e-6, 1e-7)


def test_a_layer_frees_the_inputs_of_its_linear_layers_if_there_will_be_a_backward_pass(
    topology: Topology, folder: Path
) -> None:
    model = load(folder, topology, row=Layout(recompute="light"))
    (chunk,) = model.chunks
    seen: list[Tensor] = []
    held: list[int] = []
    for name, module in chunk.decoder.named_modules():
        if name.endswith(("linear_qkv", "linear_fc2", "pre_mlp_layernorm")):
            norm = name.endswith("layernorm")
            module.register_forward_hook(lambda _, args, output, norm=norm: seen.append(output if norm else args[0]))

    def note(*_: Any) -> None:
        held.extend(tensor.untyped_storage().nbytes() for tensor in seen if tensor.numel())
        seen.clear()

    chunk.decoder.final_layernorm.register_forward_hook(note)
    groups = make_batch("full", folder)[:1]
    batch = pack(groups, [[1.0] * len(groups[0])])
    micro_batch = MicroBatch.of(batch, topology, model.kernels)
    chunk.hidden_states(micro_batch)
    assert len(held) >= 3 * len(chunk.decoder.layers)
    assert set(held) == {0}
    held.clear()
    with torch.no_grad():
        chunk.hidden_states(micro_batch)
    assert held
    assert 0 not in held
