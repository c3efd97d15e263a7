"""Which kernels are chosen on machines with and without a GPU, Transformer Engine, Apex; and what is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from aspo_megatron.config import KernelsConfig
from aspo_megatron.data.packing import Span
from aspo_megatron.errors import ConfigError
from aspo_megatron.models.qwen3_moe import ROWS
from aspo_megatron.parallel.context import context_slice
from aspo_megatron.parallel.kernels import Kernels, Machine, choose_kernels
from aspo_megatron.parallel.packages import Packages, find_packages
from aspo_megatron.parallel.platform import CpuPlatform, attend, attend_backward

NOTHING = Packages(None, apex=False, other_apex=False, apex_gradient_kernels=False, triton=False)
ENGINE = replace(NOTHING, transformer_engine=(2, 9), triton=True)
APEX = replace(NOTHING, apex=True, apex_gradient_kernels=True, triton=True)
CPU = Machine(NOTHING, None, "g++", compiler_found=True)
AMPERE = Machine(ENGINE, (8, 0), "Triton", compiler_found=True)
HOPPER = replace(AMPERE, capability=(9, 0))
BARE_GPU = Machine(NOTHING, (9, 0), "Triton", compiler_found=False)


def choose(machine: Machine, *, experts: bool = False, **settings: Any) -> Kernels:
    return choose_kernels(KernelsConfig(**settings), machine, experts=experts)


def test_defaults_take_what_there_is() -> None:
    assert choose(CPU, experts=True) == Kernels()
    assert choose(replace(CPU, packages=ENGINE)) == Kernels()  # it does nothing without a GPU
    assert choose(BARE_GPU, experts=True) == Kernels(fusion=True)
    assert choose(replace(BARE_GPU, packages=APEX)) == Kernels(fusion=True, gradient_fusion=True)
    engine = Kernels(
        transformer_engine=True, fusion=True, rope_fusion=True, gradient_fusion=True, compiled_log_prob=True
    )
    assert choose(HOPPER) == engine
    assert choose(HOPPER, experts=True) == replace(engine, grouped_gemm=True)
    old = replace(HOPPER, packages=replace(ENGINE, transformer_engine=(1, 10)))
    assert choose(old, experts=True) == engine


def test_all_can_be_switched_off() -> None:
    settings = {
        "layers": "local",
        "fusion": False,
        "gradient_fusion": False,
        "grouped_gemm": False,
        "log_prob": "eager",
    }
    assert choose(HOPPER, experts=True, **settings) == Kernels()


@pytest.mark.parametrize("recipe", ["delayed", "blockwise", "tensorwise"])
def test_fp8(recipe: str) -> None:
    chosen = choose(HOPPER, fp8="hybrid", fp8_recipe=recipe)
    assert (chosen.fp8, chosen.fp8_recipe, chosen.token_multiple) == ("hybrid", recipe, 16)
    blackwell = replace(HOPPER, capability=(10, 0))
    assert choose(blackwell, fp8="e4m3", fp8_recipe="mxfp8").token_multiple == 32


@pytest.mark.parametrize(
    ("machine", "settings", "message"),
    [
        (CPU, {"layers": "transformer_engine"}, "layers=transformer_engine: needs a GPU"),
        (BARE_GPU, {"layers": "transformer_engine"}, "Transformer Engine is not installed"),
        (CPU, {"fp8": "hybrid"}, r"model\.kernels\.fp8=hybrid: needs a GPU"),
        (BARE_GPU, {"fp8": "hybrid"}, "needs the layers of Transformer Engine, but it is not installed"),
        (
            HOPPER,
            {"fp8": "e4m3", "layers": "local"},
            "needs the layers of Transformer Engine, but model.kernels",
        ),
        (AMPERE, {"fp8": "e4m3"}, r"fp8_recipe=delayed: needs a GPU of compute capability 8\.9, this one has 8\.0"),
        (HOPPER, {"fp8": "e4m3", "fp8_recipe": "mxfp8"}, r"mxfp8: needs a GPU of compute capability 10\.0"),
        (CPU, {"gradient_fusion": True}, "NVIDIA Apex built with its CUDA extensions"),
        (
            replace(BARE_GPU, packages=replace(NOTHING, other_apex=True)),
            {"gradient_fusion": True},
            "the package `apex` that is installed is an unrelated web toolkit",
        ),
        (BARE_GPU, {"grouped_gemm": True}, r"grouped_gemm=true: needs a GPU and Transformer Engine 1\.11"),
        (BARE_GPU, {"log_prob": "compiled"}, "log_prob=compiled: needs Triton, which is not installed"),
    ],
)
def test_what_is_missing_is_named(machine: Machine, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(machine, experts=True, **settings)


def test_grouped_gemm_is_no_matter_without_experts() -> None:
    assert not choose(BARE_GPU, grouped_gemm=True).grouped_gemm


def test_this_process_has_no_gpu_platform_on_a_cpu() -> None:
    machine = CpuPlatform().machine
    assert machine.capability is None
    assert machine.packages == find_packages()


def test_apex_is_told_from_its_namesake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are packages called `apex`; that of PyPI fails when it is imported, so it must not be."""
    package = tmp_path / "apex"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('no velruse')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "apex", raising=False)
    found = find_packages()
    assert (found.apex, found.other_apex, found.fused_adam) == (False, True, "PyTorch")
    (package / "optimizers").mkdir()
    (package / "optimizers" / "__init__.py").touch()
    found = find_packages()
    assert (found.apex, found.other_apex, found.fused_adam) == (True, False, "Apex")


def test_names_of_grouped_experts() -> None:
    names = {row.megatron_name(1, 3, True, True) for row in ROWS if row.per_expert}
    assert names == {f"decoder.layers.1.mlp.experts.linear_fc{part}.weight3" for part in (1, 2)}
    plain = {row.megatron_name(1, 3, True, False) for row in ROWS if row.per_expert}
    assert plain == {f"decoder.layers.1.mlp.experts.local_experts.3.linear_fc{part}.weight" for part in (1, 2)}


def test_tokens_are_padded_for_fp8() -> None:
    spans = (Span(0, 19), Span(19, 30, 0, 19))
    own = context_slice(spans, 1, 0, choose(HOPPER, fp8="hybrid").token_multiple)
    assert own.tokens.tolist() == [*range(30), -1, -1]


@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_is_called_as_torch_wants_it(causal: bool) -> None:
    """On a GPU in 16 bits. Shapes and dtypes only: fake tensors stand in for the GPU."""
    with FakeTensorMode():
        q, grad = (torch.empty(3, 130, 4, 64, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        keys = 130 if causal else 200
        k, v = (torch.empty(3, keys, 4, 64, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        out, lse = attend(q, k, v, causal, 0.1)
        gradients = attend_backward(grad, q, k, v, out, lse, causal, 0.1)
    assert (out.shape, out.dtype, lse.shape, lse.dtype) == (q.shape, q.dtype, (3, 130, 4), torch.float32)
    assert [gradient.shape for gradient in gradients] == [q.shape, k.shape, v.shape]
