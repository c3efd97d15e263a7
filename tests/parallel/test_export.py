"""Weights that leave the ranks in buckets: bit for bit those that came in, with few collectives and little memory."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from aspo_megatron.config import ParallelConfig
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.parallel.model import export
from distributed import Ranks

from .layouts import FP32, PLATFORM, Layout, load
from .memory import Allocations

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

BUCKETS = (1, 40_000, 1 << 30)


class Collectives(TorchDispatchMode):
    """Counts the collectives of tensors that run while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.name().startswith("c10d::"):  # type: ignore[attr-defined]
            self.count[func.name().removeprefix("c10d::")] += 1  # type: ignore[attr-defined]
        return func(*args, **(kwargs or {}))


def exported(layout: Layout, folder: Path) -> list[tuple[dict[str, torch.Tensor], dict[str, int]]]:
    """Weights and collectives for each size of buckets."""
    found = []
    with process_grid(layout.parallel, PLATFORM, seed=1) as topology:
        model = load(folder, topology, row=layout)
        for bucket_bytes in BUCKETS:
            with Collectives() as collectives:
                # Kept as they come: none may be a view of what the next bucket is written into.
                weights = dict(model.hf_tensors(bucket_bytes=bucket_bytes))
            found.append(({name: tensor.clone() for name, tensor in weights.items()}, dict(collectives.count)))
    return found


@pytest.mark.parametrize(
    ("family", "layout", "collectives"),
    [
        ("llama-tied", "tp3", {"_allgather_base_": 1}),
        ("one-kv-head", "tp2-sp", {"_allgather_base_": 1}),
        ("llama-tied", "pp2-uneven", {"broadcast_": 4}),
        ("llama-tied", "pp2-vpp2-tp2-sp", {"broadcast_": 8, "_allgather_base_": 4}),
        ("qwen3-moe", "moe-tp2-sp-ep2-etp1", {"_allgather_base_": 2}),
        ("qwen3-moe", "moe-dp2-tp2-sp-ep2", {"_allgather_base_": 3}),
    ],
)
def test_bit_for_bit_with_one_collective_for_a_bucket_and_an_axis(
    ranks: Ranks, folders: dict[str, Path], family: str, layout: str, collectives: dict[str, int]
) -> None:
    """`collectives`: with large buckets. Split, not split, and experts go separately, from each stage of the pipeline.

    A stage also sends a list of what it has, which is two small broadcasts.
    """
    row = FP32[layout]
    lists = 2 * row.parallel.pp * row.parallel.vpp if row.parallel.pp > 1 else 0
    want = load_file(folders[family] / "model.safetensors")
    for found in ranks.run(row.parallel.world_size, exported, row, folders[family]):
        for weights, _ in found:
            assert weights.keys() == want.keys()
            assert all(torch.equal(weights[name], want[name]) for name in want)
        one_by_one, some, few = (count for _, count in found)
        assert few == {name: count + (lists if name == "broadcast_" else 0) for name, count in collectives.items()}
        assert sum(few.values()) < sum(some.values()) < sum(one_by_one.values())


def exported_by_older_torch(row: Layout, folder: Path) -> dict[str, torch.Tensor]:
    with process_grid(row.parallel, PLATFORM, seed=1) as topology, pytest.MonkeyPatch.context() as patch:
        patch.delattr(dist, "all_gather_single", raising=False)  # PyTorch has it from 2.13 on
        spec = importlib.util.spec_from_file_location("export_of_older_torch", export.__file__)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        patch.setattr("aspo_megatron.parallel.model.policy.Exporter", module.Exporter)
        return {name: tensor.clone() for name, tensor in load(folder, topology, row=row).hf_tensors()}


def test_torch_2_11_and_2_12_gather_them_too(ranks: Ranks, folders: dict[str, Path]) -> None:
    want = load_file(folders["llama-tied"] / "model.safetensors")
    for weights in ranks.run(2, exported_by_older_torch, FP32["tp2-sp"], folders["llama-tied"]):
        assert all(torch.equal(weights[name], want[name]) for name in want)


def memory(parallel: ParallelConfig, folder: Path, bucket_bytes: int) -> tuple[int, int]:
    """Peak bytes that the export takes, if its tensors are let go of, and bytes of the whole model.

    The least of three exports: a thread of gloo's may let go of a tensor a moment after all have it.
    """
    with process_grid(parallel, PLATFORM, seed=1) as topology:
        model = load(folder, topology)
        peaks = []
        for _ in range(3):
            whole = 0
            with Allocations() as allocations:
                for _, tensor in model.hf_tensors(bucket_bytes=bucket_bytes):
                    whole += tensor.nbytes
                    del tensor
            peaks.append(allocations.peak)
        return min(peaks), whole


@pytest.mark.parametrize(
    "parallel",
    [ParallelConfig(tp=2, sequence_parallel=True), ParallelConfig(pp=2), ParallelConfig(tp=2, pp=2)],
    ids=["tp2", "pp2", "pp2-tp2"],
)
def test_a_bucket_and_a_half_at_a_time(ranks: Ranks, tmp_path: Path, parallel: ParallelConfig) -> None:
    from tiny_models import llama_folder

    folder = llama_folder(tmp_path / "deep", tied=True, num_hidden_layers=24)
    bucket = 100_000
    for peak, whole in ranks.run(parallel.world_size, memory, parallel, folder, bucket):
        assert whole > 15 * bucket
        # A bucket, a rank's shards of it, and the tensor that is on its way out.
        assert peak < 2.1 * bucket
