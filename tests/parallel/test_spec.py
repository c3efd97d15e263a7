"""What megatron-core is told where Transformer Engine is: layers and their gradients, groups for FP8, routing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer import ModuleSpec
from megatron.core.transformer.moe import moe_utils
from packaging.version import Version
from torch import Tensor

from aspo_megatron import losses
from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.config import KernelsConfig, ModelConfig, ParallelConfig
from aspo_megatron.config.words import Recompute
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import ConfigError
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.device.kernels import Kernels, Machine
from aspo_megatron.parallel.device.packages import Packages
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.parallel.model.policy import build_model
from aspo_megatron.parallel.model.spec import parts_of, transformer_config
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.passes import PassLimits
from aspo_megatron.parallel.update.step import aggregation_of, update
from distributed import Ranks

from .engine_stand_in import engine_stand_in
from .layouts import PLATFORM, hf_gradients, hf_weights, load, relative
from .test_step import MAX_RESPONSE_TOKENS, OPTIMIZER, SETUPS, TEMPERATURE, make_batch

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

ENGINE_WITHOUT_APEX = Machine(
    Packages(Version("2.11"), apex=False, other_apex=False, apex_gradient_kernels=False, triton=True),
    (9, 0),
)
KERNELS = KernelsConfig(fusion=False, log_prob="eager", rotary="eager")
"""The rest of what Transformer Engine has cannot be imitated on a CPU."""
ROUTER_LOSS = "router loss, one sample at a time"


def trained(
    parallel: ParallelConfig,
    folder: Path,
    groups: list[list[Sample]],
    setup_name: str,
    kernels: KernelsConfig | None,
    recompute: Recompute = "none",
) -> tuple[dict[str, Tensor], dict[str, Tensor], set[str]]:
    """Gradients and weights after one update, and the parameters whose gradients their own layers added.

    With `kernels`: on a machine that has Transformer Engine and not Apex.
    """
    setup = SETUPS[setup_name]
    with process_grid(parallel, PLATFORM, seed=1) as topology, ExitStack() as stack:
        if kernels is not None:
            stack.enter_context(engine_stand_in())
            topology.platform.machine = ENGINE_WITHOUT_APEX
        settings = ModelConfig(path=folder, kernels=kernels or KernelsConfig(), recompute=recompute)
        with SafetensorsFolder(folder) as tensors:
            model = build_model(read_family(folder), topology, settings, tensors)
        optimizer = Optimizer(model, OPTIMIZER, 3, parallel)
        objective = PolicyObjective(losses.build(setup.loss, setup.hyperparameters), setup.config)
        limits = PassLimits(setup.max_tokens, log_prob_chunk=16, temperature=TEMPERATURE)
        weighting = aggregation_of(setup.config, MAX_RESPONSE_TOKENS)
        update(model, optimizer, groups, objective, weighting, limits, setup.router_aux_coef)
        added = {
            name.split(".", 1)[-1]
            for name, parameter in model.named_parameters()
            if getattr(parameter, "grad_added_to_main_grad", False)
        }
        return hf_gradients(model, optimizer), hf_weights(model), added


@pytest.mark.parametrize(
    ("family", "parallel", "recompute"),
    [
        ("llama-tied", ParallelConfig(), "none"),
        ("llama-tied", ParallelConfig(pp=2), "none"),
        ("qwen2", ParallelConfig(), "light"),
        ("qwen2", ParallelConfig(pp=2), "none"),
        ("qwen3-moe", ParallelConfig(), "light"),
    ],
)
def test_transformer_engine_without_apex_adds_its_gradients_itself(
    ranks: Ranks, folders: dict[str, Path], family: str, parallel: ParallelConfig, recompute: Recompute
) -> None:
    """Where pip installed it: the output layer is megatron's own, which has no such kernel then."""
    experts = {"grouped_gemm": False, "expert_fusion": False} if family == "qwen3-moe" else {}
    kernels = KERNELS.model_copy(update=experts)
    folder, setup = folders[family], ROUTER_LOSS if experts else "aspo, token-mean"
    groups = make_batch("full", folder)
    want_gradients, want_weights, _ = ranks.run(1, trained, ParallelConfig(), folder, groups, setup, None)[0]
    arguments = (parallel, folder, groups, setup, kernels, recompute)
    for gradients, weights, added in ranks.run(parallel.world_size, trained, *arguments):
        assert gradients.keys() == want_gradients.keys()
        errors = {name: relative(gradients[name], want_gradients[name]) for name in want_gradients}
        assert {name: error for name, error in errors.items() if error > 2e-5} == {}
        assert max(float((weights[name] - want_weights[name]).abs().max()) for name in want_weights) <= 1e-6
        layers = {name.split(".", 4)[-1] for name in added}
        assert {"self_attention.linear_qkv.weight", "self_attention.linear_proj.weight"} < layers
        assert any("linear_fc2" in name for name in layers)


def maxima_groups(parallel: ParallelConfig, folder: Path) -> tuple[list[int], list[int]]:
    """Ranks over which FP8's recipe `delayed` takes its maxima, and those of this rank's replica and stage."""
    with process_grid(parallel, PLATFORM, seed=1) as topology:
        config = transformer_config(read_family(folder), topology, ModelConfig(path=folder), Kernels())
        group = parallel_state.get_amax_reduction_group(
            with_context_parallel=True, tp_only_amax_red=config.tp_only_amax_red
        )
        return dist.get_process_group_ranks(group), topology.ranks_of_replica(topology.dp.rank)


@pytest.mark.parametrize(
    "parallel",
    [ParallelConfig(dp=2), ParallelConfig(dp=2, tp=2), ParallelConfig(dp=2, cp=2), ParallelConfig(cp=2, tp=2)],
    ids=["dp2", "dp2-tp2", "dp2-cp2", "cp2-tp2"],
)
def test_replicas_with_other_numbers_of_micro_batches_need_not_meet_for_fp8(
    ranks: Ranks, folders: dict[str, Path], parallel: ParallelConfig
) -> None:
    for maxima, replica in ranks.run(parallel.world_size, maxima_groups, parallel, folders["llama"]):
        assert sorted(maxima) == replica


@pytest.mark.parametrize(
    ("recipe", "parallel", "sizes", "message"),
    [
        ("blockwise", ParallelConfig(tp=2), {}, None),
        ("blockwise", ParallelConfig(tp=2, sequence_parallel=True), {}, "hidden_size is 576, not a multiple of 128"),
        ("tensorwise", ParallelConfig(tp=2, sequence_parallel=True), {}, None),
        (
            "mxfp8",
            ParallelConfig(tp=2),
            {"ffn_hidden_size": 96},
            "intermediate_size over tp=2 is 48, not a multiple of 32",
        ),
        ("delayed", ParallelConfig(tp=2), {"num_heads": 3, "head_dim": 16}, "heads' width over tp=2 is 24"),
        ("delayed", ParallelConfig(), {"num_experts": 4, "expert_ffn_size": 24}, "moe_intermediate_size over etp=1"),
    ],
)
def test_sizes_that_fp8_has_no_products_for_are_refused(
    folders: dict[str, Path], recipe: str, parallel: ParallelConfig, sizes: dict[str, int], message: str | None
) -> None:
    wide: dict[str, Any] = {
        "hidden_size": 576,
        "num_heads": 16,
        "num_kv_heads": 8,
        "head_dim": 64,
        "ffn_hidden_size": 1536,
    }
    family = replace(read_family(folders["llama"]), **(wide | sizes))
    one = SimpleNamespace(size=1)
    axes = {"tp": SimpleNamespace(size=parallel.tp), "cp": one, "pp": one, "ep": one, "etp": one}
    topology: Any = SimpleNamespace(**axes, vpp=1, sequence_parallel=parallel.sequence_parallel)
    kernels = Kernels(fp8="hybrid", fp8_recipe=recipe)
    with nullcontext() if message is None else pytest.raises(ConfigError, match=message):
        transformer_config(family, topology, ModelConfig(path=folders["llama"]), kernels)


def routed(folder: Path, fused: bool) -> tuple[Tensor, Tensor]:
    """What a router gives for some tokens, and the gradient that its load-balancing loss gives them."""
    with process_grid(ParallelConfig(), PLATFORM, seed=1) as topology, ExitStack() as stack:
        router = load(folder, topology).chunks[0].decoder.layers[0].mlp.router
        router.config.moe_aux_loss_coeff = 0.25
        router.config.moe_router_fusion = fused
        if fused:
            stack.enter_context(mock.patch.multiple(moe_utils, create=True, **_router_kernels()))
        generator = torch.Generator().manual_seed(2)
        hidden = torch.randn(12, 1, router.config.hidden_size, generator=generator).requires_grad_()
        padding = torch.arange(12)[:, None] >= 10
        probs, _ = router(hidden, padding)
        (probs.sum() * 0.0).backward()
        assert hidden.grad is not None
        return probs.detach(), hidden.grad


def _router_kernels() -> dict[str, Any]:
    """Of Transformer Engine, by the same functions without `fused`. That of the loss must not be reached."""
    plain: Callable[..., Any] = moe_utils.topk_routing_with_score_function
    scores: Callable[..., Any] = moe_utils.compute_routing_scores_for_aux_loss

    def no_loss(**_: Any) -> Tensor:
        raise AssertionError("the load-balancing loss is not ours")

    return {
        "HAVE_TE": True,
        "fused_topk_with_score_function": plain,
        "fused_compute_score_for_moe_aux_loss": scores,
        "fused_moe_aux_loss": no_loss,
    }


def test_a_fused_router_has_the_same_load_balancing_loss(ranks: Ranks, folders: dict[str, Path]) -> None:
    folder = folders["qwen3-moe"]
    (fused,), (plain,) = (ranks.run(1, routed, folder, choice) for choice in (True, False))
    assert float(plain[1].abs().max()) > 0
    for got, want in zip(fused, plain, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_swiglu_of_experts_without_tokens(ranks: Ranks) -> None:
    """What stands between the two grouped products on a rank that no token went to."""
    assert ranks.run(1, _swiglu_of_nothing) == [((0, 8), (0, 16), (0, 1))]


def _swiglu_of_nothing() -> tuple[tuple[int, ...], ...]:
    with process_grid(ParallelConfig(), PLATFORM, seed=1):
        from megatron.core.fusions.fused_bias_swiglu import weighted_bias_swiglu_impl

        values, probs = torch.empty(0, 16, requires_grad=True), torch.empty(0, 1, requires_grad=True)
        out = weighted_bias_swiglu_impl(values, None, probs)
        out.sum().backward()
        assert values.grad is not None
        assert probs.grad is not None
        return tuple(out.shape), tuple(values.grad.shape), tuple(probs.grad.shape)


def test_the_parts_of_a_module_are_found_in_either_form() -> None:
    parts = object()
    assert parts_of(ModuleSpec(module=torch.nn.Linear, submodules=parts)) is parts
    assert parts_of(functools.partial(torch.nn.Linear, submodules=parts)) is parts  # type: ignore[call-arg]
