"""Layers whose norms of heads and rotary positions are one kernel, against megatron's: the same gradients.

The kernels are interpreted on the CPU, so that the batch is small. `test_triton_rotary.py` has them by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Server
from thorough import some_of
from torch import Tensor

from aspo_megatron import losses
from aspo_megatron.config import KernelsConfig, OptimizerConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.parallel.device.rotary import rotated_heads
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from aspo_megatron.parallel.model import fused_heads
from aspo_megatron.parallel.model.fused_heads import FusedHeadsAttention
from aspo_megatron.parallel.model.varlen_attention import VarlenPlan
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.passes import PassLimits
from aspo_megatron.parallel.update.step import aggregation_of, update
from tiny_models import qwen2_folder, qwen3_folder, qwen3_moe_folder

from .engine_stand_in import engine_stand_in
from .layouts import PLATFORM, Layout, hf_gradients, layout, load, relative
from .samples import make_groups
from .test_spec import ENGINE_WITHOUT_APEX
from .test_step import MAX_RESPONSE_TOKENS, SETUPS, TEMPERATURE, hf_outputs
from .test_two_ranks import in_ranks

Case = tuple[Path, list[list[Sample]]]
pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

FOLDERS = {
    "qwen2": lambda path: qwen2_folder(path, tied=False, num_hidden_layers=1),
    "qwen3": lambda path: qwen3_folder(path, tied=True, num_hidden_layers=2),
    "qwen3-moe": lambda path: qwen3_moe_folder(path, num_hidden_layers=1),
    "one-kv-head": lambda path: qwen3_folder(
        path, tied=True, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=1
    ),
}
BOUND = 5e-6
"""Of a parameter's largest gradient. Megatron's own layers differ by 2.7e-6 (a norm of heads), and by up to 1e-6
elsewhere, when attention is computed by segments instead of by blocks: most of a sum over tokens and heads cancels."""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Models by name, and samples for each."""
    root = tmp_path_factory.mktemp("models")
    made = {}
    for name, make in FOLDERS.items():
        folder = make(root / name)
        groups = make_groups([(4, (3, 2)), (1, (4,))])
        for sample, log_probs, _ in hf_outputs(folder, groups):
            sample.old_log_probs = sample.ref_log_probs = log_probs.detach().numpy()
        made[name] = folder, groups
    return made


def gradients(topology: Topology, row: Layout, folder: Path, groups: list[list[Sample]]) -> dict[str, Tensor]:
    """Those of an update, by Hugging Face name, of all ranks together."""
    model = load(folder, topology, row=row)
    fused = {isinstance(each.self_attention, FusedHeadsAttention) for each in model.chunks[0].decoder.layers}
    assert fused == {row.kernels.rotary == "triton"}
    optimizer = Optimizer(model, OptimizerConfig(clip_grad=0.0), 1, row.parallel)
    config = SETUPS["aspo, token-mean"].config
    objective = PolicyObjective(losses.build("aspo", {}), config)
    limits = PassLimits(10_000, log_prob_chunk=16, temperature=TEMPERATURE)
    own = groups[topology.dp.rank :: topology.dp.size]
    update(model, optimizer, own, objective, aggregation_of(config, MAX_RESPONSE_TOKENS), limits)
    return hf_gradients(model, optimizer)


def both(row: Layout, folder: Path, groups: list[list[Sample]]) -> list[dict[str, Tensor]]:
    """Of megatron's layers, and of ours."""
    with process_grid(row.parallel, PLATFORM, seed=1) as topology:
        return [gradients(topology, layout_with(row, rotary=rotary), folder, groups) for rotary in ("eager", "triton")]


def layout_with(row: Layout, rotary: str) -> Layout:
    kernels = row.kernels.model_copy(update={"rotary": rotary})
    return Layout(row.parallel, row.model, row.recompute, row.dtype, kernels)


def assert_same(want: dict[str, Tensor], got: dict[str, Tensor], qk_norm: bool) -> None:
    assert got.keys() == want.keys()
    assert any("q_norm" in name for name in got) == qk_norm
    errors = {name: relative(got[name], want[name]) for name in want}
    assert {name: error for name, error in errors.items() if not error <= BOUND} == {}


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with process_grid(layout().parallel, PLATFORM, seed=1) as grid:
        yield grid


VARLEN = KernelsConfig(attention="varlen")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("qwen2", layout()),
        ("qwen2", layout(recompute="selective", kernels=VARLEN)),
        ("qwen3", layout(kernels=VARLEN)),
        ("qwen3", layout(recompute="selective")),
        ("qwen3", layout(recompute="full", kernels=VARLEN)),
        ("qwen3-moe", layout()),
    ],
    ids=["qwen2", "qwen2-selective", "qwen3", "qwen3-selective", "qwen3-full", "qwen3-moe"],
)
def test_one_process(topology: Topology, cases: dict[str, Case], name: str, row: Layout) -> None:
    want, got = (gradients(topology, layout_with(row, rotary), *cases[name]) for rotary in ("eager", "triton"))
    assert_same(want, got, qk_norm=name != "qwen2")


def test_in_layers_of_transformer_engine(
    topology: Topology, cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imitated: a projection that has the norm before it, and adds its weight's gradient itself."""
    monkeypatch.setattr(topology.platform, "machine", ENGINE_WITHOUT_APEX)
    row = layout(kernels=KernelsConfig(fusion=False, log_prob="eager"))
    with engine_stand_in():
        want, got = (gradients(topology, layout_with(row, rotary), *cases["qwen3"]) for rotary in ("eager", "triton"))
    assert_same(want, got, qk_norm=True)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_values_are_a_part_of_the_projection_where_it_is_kept(
    topology: Topology, cases: dict[str, Case], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the norms of heads: attention keeps no copy of them then. Without, nothing else of it is kept."""
    folder, groups = cases[name]
    made: list[tuple[Tensor, ...]] = []

    def noted(projection: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        made.append((projection, *rotated_heads(projection, *rest)))
        return made[-1][1], made[-1][2], made[-1][3]

    monkeypatch.setattr(fused_heads, "rotated_heads", noted)
    kept: list[Tensor] = []
    attend = VarlenPlan.attend

    def attended(plan: VarlenPlan, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        kept.append(v)
        return attend(plan, q, k, v, scale)

    monkeypatch.setattr(VarlenPlan, "attend", attended)
    gradients(topology, layout_with(layout(kernels=VARLEN), rotary="triton"), folder, groups)
    assert len(made) == len(kept) > 0
    for (projection, q, k, _), v in zip(made, kept, strict=True):
        sources = {each.untyped_storage().data_ptr() for each in (projection, q, k)}
        assert len(sources) == 3
        assert (v.untyped_storage().data_ptr() == projection.untyped_storage().data_ptr()) == (name == "qwen3")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


TWO_RANKS = [
    ("qwen3", layout(tp=2, sequence_parallel=True, kernels=VARLEN)),
    ("qwen3", layout(cp=2)),
    ("qwen3", layout(cp=2, recompute="selective", kernels=VARLEN)),
    ("one-kv-head", layout(tp=2, sequence_parallel=True)),
]


@pytest.mark.parametrize(
    ("name", "row"),
    some_of(TWO_RANKS, TWO_RANKS[2:]),
    ids=["tp2-sp", "cp2", "cp2-selective", "tp2-sp-one-kv-head"],
)
def test_two_ranks(server: Server, cases: dict[str, Case], tmp_path: Path, name: str, row: Layout) -> None:
    folder, groups = cases[name]
    for want, got in server.run(in_ranks, tmp_path, 2, both, row, folder, groups):
        assert_same(want, got, qk_norm=True)


def test_scoring_in_bfloat16_is_as_near_to_float32_as_plain_pytorch(topology: Topology, cases: dict[str, Case]) -> None:
    """Where megatron rounds five times on the way of a query, here it is once."""
    from aspo_megatron.parallel.update.passes import response_log_probs

    folder, groups = cases["qwen3"]
    limits = PassLimits(10_000, log_prob_chunk=16, temperature=TEMPERATURE)

    def scored(row: Layout) -> Tensor:
        model = load(folder, topology, row=row)
        return torch.cat([torch.from_numpy(each[1]) for each in response_log_probs(model, groups, limits)])

    exact = scored(layout())
    eager, triton = (
        (scored(layout_with(layout(dtype="bfloat16"), rotary)) - exact).square().mean().sqrt()
        for rotary in ("eager", "triton")
    )
    assert 0.0 < float(triton) < 1.5 * float(eager)
