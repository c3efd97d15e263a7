"""Model and optimizer, saved under one layout and loaded under another: the same weights, moments and updates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from thorough import one_in

from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron
from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.config import ModelConfig, OptimizerConfig, ParallelConfig, PlatformConfig
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import process_grid
from distributed import Ranks
from tiny_models import llama_folder, qwen3_moe_folder

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

PLATFORM = PlatformConfig(device="cpu", timeout_minutes=2)
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """Save under `first`, load under `second`."""

    first: dict[str, Any]
    second: dict[str, Any]
    moe: bool = False
    dtype: str = "float32"


DIST = {"distributed_optimizer": True}
CASES = {
    "dp2-distopt to tp2": Case({"dp": 2, **DIST}, {"tp": 2}),
    "tp2 to dp2-distopt": Case({"tp": 2}, {"dp": 2, **DIST}),
    "pp2-vpp2 to tp2-sp": Case({"pp": 2, "vpp": 2}, {"tp": 2, "sequence_parallel": True}),
    "pp2-uneven to single": Case({"pp": 2, "pp_layers": (3, 1)}, {}),
    "bf16 dp2-distopt to pp2": Case({"dp": 2, **DIST}, {"pp": 2}, dtype="bfloat16"),
    "bf16 tp2 to dp2-distopt": Case({"tp": 2}, {"dp": 2, **DIST}, dtype="bfloat16"),
    "moe dp2-ep2-distopt to tp2-sp": Case({"dp": 2, "ep": 2, **DIST}, {"tp": 2, "sequence_parallel": True}, moe=True),
    "moe tp2-ep2-etp1 to dp2-distopt": Case(
        {"tp": 2, "ep": 2, "etp": 1, "sequence_parallel": True}, {"dp": 2, **DIST}, moe=True
    ),
    "moe tp2-etp1 to dp2-etp2-distopt": Case(
        {"tp": 2, "etp": 1, "sequence_parallel": True}, {"dp": 2, "etp": 2, **DIST}, moe=True
    ),
    "moe dp2-tp2-etp1-distopt to tp2-etp1": Case(
        {"dp": 2, "tp": 2, "etp": 1, "sequence_parallel": True, **DIST},
        {"tp": 2, "etp": 1, "sequence_parallel": True},
        moe=True,
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    work = tmp_path_factory.mktemp("models")
    return {
        False: llama_folder(work / "llama", tied=True, num_hidden_layers=4),
        True: qwen3_moe_folder(work / "moe", num_hidden_layers=4),
    }


@pytest.mark.parametrize("name", one_in(3, CASES))
def test_nothing_is_lost_between_layouts(ranks: Ranks, folders: dict[bool, Path], tmp_path: Path, name: str) -> None:
    case = CASES[name]
    first, second = ParallelConfig(**case.first), ParallelConfig(**case.second)
    settings = ModelConfig(path=folders[case.moe], dtype=case.dtype)
    saving = ranks.run(first.world_size, save_state, settings, first, tmp_path / "state")
    saved = saving[0][0]
    places = [place for _, written in saving for place in written]
    assert len(set(places)) == len(places)  # of copies one is written
    loaded = ranks.run(second.world_size, load_state, settings, second, tmp_path / "state")[0]
    assert saved.keys() == loaded.keys()
    for key, (own, after) in saved.items():
        other, other_after = loaded[key]
        assert torch.equal(own, other), key
        # Adam's step is the same for the same moments: bit for bit, whoever holds them.
        assert torch.equal(after, other_after), key


def save_state(settings: ModelConfig, parallel: ParallelConfig, folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Two updates, a save, and a third update; weights before and after it, and which parts this rank has written."""
    with process_grid(parallel, PLATFORM, seed=1) as topology:
        from aspo_megatron.checkpoint.states.sharded_state import model_shards, optimizer_shards
        from aspo_megatron.checkpoint.states.writer import CheckpointDescription, CheckpointWriter

        model, optimizer = build(settings, parallel, topology)
        for number in range(2):
            update(model, optimizer, number)
        before = weights(model)
        writer = CheckpointWriter(folder, CheckpointDescription(model.family, settings.path, parallel))
        shards = [*model_shards(model), *optimizer_shards(model, optimizer)]
        places = [(shard.key, shard.offset) for shard in shards]
        writer.begin(shards, {}, {})
        assert writer.complete() is None
        assert optimizer.counters() == {"updates": 2, "scheduled": 3}
        update(model, optimizer, 2)
        after = weights(model)
        return {name: (before[name], after[name]) for name in before}, places


def load_state(settings: ModelConfig, parallel: ParallelConfig, folder: Path) -> dict[str, Any]:
    """A load, and the third update."""
    with process_grid(parallel, PLATFORM, seed=1) as topology:
        from aspo_megatron.checkpoint.states.sharded_state import load_model, load_optimizer

        model, optimizer = build(settings, parallel, topology)
        update(model, optimizer, 7)  # what is loaded must replace all of it
        load_model(model, folder)
        load_optimizer(model, optimizer, {"updates": 2, "scheduled": 3}, folder)
        before = weights(model)
        update(model, optimizer, 2)
        after = weights(model)
        return {name: (before[name], after[name]) for name in before}


def build(settings: ModelConfig, parallel: ParallelConfig, topology: Any, clip_grad: float = 0.0) -> Any:
    from aspo_megatron.parallel.model.policy import build_model
    from aspo_megatron.parallel.update.optimizer import Optimizer

    family = read_family(settings.path)
    with SafetensorsFolder(settings.path) as tensors:
        model = build_model(family, topology, settings, tensors)
    config = OptimizerConfig(lr=0.01, schedule="linear", warmup_updates=1, clip_grad=clip_grad)
    return model, Optimizer(model, config, 20, parallel)


def update(model: Any, optimizer: Any, seed: int) -> None:
    """Adam on gradients that depend on the place in the Hugging Face tensors alone, not on the layout."""
    from aspo_megatron.models.mapping import import_shard

    class Gradients:
        def read_whole(self, name: str) -> torch.Tensor:
            generator = torch.Generator().manual_seed(seed * 1000 + sum(map(ord, name)))
            return torch.randn(sizes[name], generator=generator)

        def read(self, name: str, dim: int, start: int, stop: int) -> torch.Tensor:
            return self.read_whole(name).narrow(dim, start, stop - start)

    from aspo_megatron.models.mapping import hf_sizes
    from aspo_megatron.parallel.model.export import split_over

    sizes = hf_sizes(model.family.rows, model.family.shape(tp=1))
    optimizer.zero_grad()
    for chunk in model.chunks:
        for local in chunk.local_parameters():
            ranks, rank, _ = split_over(local.row, model.topology)
            names = local.row.hf_names(local.layer, local.expert)
            local.parameter.main_grad.copy_(import_shard(local.row, names, Gradients(), model.shape, ranks, rank))
    optimizer.step()


def weights(model: Any) -> Tensors:
    return {name: tensor.clone() for name, tensor in model.hf_tensors()}


@pytest.mark.parametrize(("moe", "layout"), [(False, {"pp": 2}), (True, {"dp": 2, "ep": 2})], ids=["dense", "moe"])
def test_megatron_itself_loads_what_was_converted(
    ranks: Ranks, folders: dict[bool, Path], tmp_path: Path, moe: bool, layout: dict[str, Any]
) -> None:
    """With `dist_checkpointing.load` and the model's own names, under another layout than it was written for."""
    family = read_family(folders[moe])
    further: dict[str, Any] = {"ep": 2} if moe else {"pp": 2, "vpp": 2}
    parallel = converter_layout(family, tp=2, **further)
    hf_to_megatron(folders[moe], tmp_path / "converted", parallel, None, lambda count: None)
    ranks.run(2, plain_load, ModelConfig(path=folders[moe]), ParallelConfig(**layout), tmp_path / "converted")


def plain_load(settings: ModelConfig, parallel: ParallelConfig, folder: Path) -> None:
    with process_grid(parallel, PLATFORM, seed=1) as topology:
        from megatron.core import dist_checkpointing

        model, _ = build(settings, parallel, topology)
        want = weights(model)
        for parameter in model.parameters():
            parameter.data.fill_(7.0)
        for chunk in model.chunks:
            described = chunk.sharded_state_dict(
                metadata={"singleton_local_shards": True, "non_homogeneous_layers": True}
            )
            described = {name: value for name, value in described.items() if not name.endswith("_extra_state")}
            chunk.load_state_dict(dist_checkpointing.load(described, str(folder)), strict=False)
        got = weights(model)
        assert all(torch.equal(got[name], want[name]) for name in want)


STREAMED = {
    "whole": ({}, "bfloat16", False, False),
    "split": ({"dp": 2, **DIST}, "bfloat16", False, False),
    "split-fp32": ({"dp": 2, **DIST}, "float32", False, False),
    "whole-counts-in-groups": ({}, "float32", False, True),
    "split-counts-in-groups": ({"dp": 2, **DIST}, "bfloat16", False, True),
    "experts": ({"dp": 2, "ep": 2}, "bfloat16", True, False),
    "experts-split": ({"dp": 2, "ep": 2, **DIST}, "float32", True, False),
}


@pytest.mark.parametrize("name", STREAMED)
def test_a_state_that_streams_from_host_memory_changes_no_number(
    ranks: Ranks, folders: dict[bool, Path], tmp_path: Path, name: str
) -> None:
    """On a CPU, where it would stay: updates, what is saved, and an update after it is loaded."""
    layout, dtype, moe, fused = STREAMED[name]
    parallel, settings = ParallelConfig(**layout), ModelConfig(path=folders[moe], dtype=dtype)
    for same in ranks.run(parallel.world_size, compare_with_streamed, settings, parallel, tmp_path / "state", fused):
        assert same.pop("cuts") >= 3  # pieces that end within a parameter
        assert same == {"weights": True, "states": True, "loaded": True, "places": True}


class CountingInGroups(torch.optim.Optimizer):
    """Adam whose step is a number of a group of parameters, as Transformer Engine's and Apex's is."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for parameter in (one for one in group["params"] if one.grad is not None):
                state = self.state[parameter]
                for name in ("exp_avg", "exp_avg_sq"):
                    state.setdefault(name, torch.zeros_like(parameter))
                state["exp_avg"].lerp_(parameter.grad, 0.1)
                state["exp_avg_sq"].lerp_(parameter.grad**2, 0.01)
                mean, square = state["exp_avg"] / (1 - 0.9 ** group["step"]), state["exp_avg_sq"]
                parameter.sub_(group["lr"] * mean / (square.sqrt() + 1e-8))


def compare_with_streamed(settings: ModelConfig, parallel: ParallelConfig, folder: Path, fused: bool) -> dict[str, Any]:
    """What is the same with a state that is in host memory; `places`: it stays where it was first."""
    with process_grid(parallel, PLATFORM, seed=1) as topology, pytest.MonkeyPatch.context() as patch:
        from aspo_megatron.checkpoint.states.sharded_state import (
            load_model,
            load_optimizer,
            model_shards,
            optimizer_shards,
        )
        from aspo_megatron.checkpoint.states.writer import CheckpointDescription, CheckpointWriter
        from aspo_megatron.parallel.update import host_state

        patch.setattr(host_state, "PIECE_BYTES", 40_000)
        pairs = [build(settings, parallel, topology, clip_grad=1.0) for _ in range(3)]
        for part in (part for _, optimizer in pairs for part in optimizer._parts() if fused):
            part.optimizer = CountingInGroups(part.optimizer.param_groups)
        for _, optimizer in pairs[1:]:
            optimizer._send_away(torch.device("cpu"))
        (plain, plain_optimizer), (moved, moved_optimizer), (loaded, loaded_optimizer) = pairs
        places = []
        for number in range(2):
            update(plain, plain_optimizer, number)
            update(moved, moved_optimizer, number)
            moved_optimizer.release()  # gradients, which the next update has memory for again
            assert all(not parameter.main_grad.untyped_storage().nbytes() for parameter in moved.parameters())
            places.append([value.data_ptr() for value in moved_optimizer._away._places.values()])
        same: dict[str, Any] = {"cuts": cuts(moved_optimizer._away), "weights": equal(weights(plain), weights(moved))}
        same["places"] = bool(places[0]) and places[0] == places[1]
        states = zip(plain_optimizer.states(), moved_optimizer.states(), strict=True)
        found = [one if one is None else torch.equal(one, other) for (*_, one), (*_, other) in states]
        same["states"] = any(found) and False not in found
        writer = CheckpointWriter(folder, CheckpointDescription(moved.family, settings.path, parallel))
        writer.begin([*model_shards(moved), *optimizer_shards(moved, moved_optimizer)], {}, {})
        assert writer.complete() is None
        load_model(loaded, folder)
        load_optimizer(loaded, loaded_optimizer, moved_optimizer.counters(), folder)
        for model, optimizer in ((plain, plain_optimizer), (loaded, loaded_optimizer)):
            update(model, optimizer, 2)
        same["loaded"] = equal(weights(plain), weights(loaded))
        return same


def cuts(state: Any) -> int:
    """Pieces that begin within a parameter."""
    return sum(piece[0].start > 0 for streamed in state._streamed for piece in streamed._pieces)


def equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
