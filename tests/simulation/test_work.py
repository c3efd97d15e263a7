"""The rest of a rank's work in every layout: export in buckets, saving beside training, loading."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from aspo_megatron.config import OptimizerConfig, ParallelConfig
from aspo_megatron.config_io import save_config
from aspo_megatron.models.mapping import hf_sizes
from aspo_megatron.simulation.rank import simulated_rank

from .runs import Figures, Setup
from .test_host_memory import build, empty_update, run_config
from .test_layouts import CASES as STAGES
from .test_layouts import ROWS

BUCKET_BYTES = 1 << 14


@pytest.fixture(scope="module")
def states(
    simulated: Callable[..., Any], folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A saved state of one rank for each model of the matrix, which any layout can load."""
    root = tmp_path_factory.mktemp("states")
    return {
        name: simulated(saved, Setup(folders[name], ParallelConfig()), root / name)
        for name in ("llama-tied", "qwen3-moe")
    }


def saved(setup: Setup, run: Path) -> Path:
    """Save a state after one update; its folder."""
    from aspo_megatron.checkpoint.training import StateSaver, TrainerState, step_folder

    run.mkdir()
    config = run_config(setup, run)
    save_config(config, run / "config.yaml")
    with simulated_rank(setup.parallel) as rank:
        model, optimizer = build(setup, rank, OptimizerConfig())
        empty_update(optimizer)
        saver = StateSaver(config, model.family, model, optimizer, pytest.fail)
        saver.save(TrainerState(1, 0, 0, 0.0, None, None, ""))
        saver.finish()
    return step_folder(run, 1)


CASES = sorted({*STAGES, *((name, 0) for name in ROWS)})


@pytest.mark.parametrize(("name", "rank"), CASES, ids=[f"{name}-rank{rank}" for name, rank in CASES])
def test_export_save_and_load(
    name: str,
    rank: int,
    simulated: Callable[..., Any],
    folders: dict[str, Path],
    states: dict[str, Path],
    tmp_path: Path,
) -> None:
    row = ROWS[name]
    setup = Setup(folders[row.model], row.parallel, rank, row.recompute)
    exported, devices, figures = simulated(all_work, setup, states[row.model], tmp_path / "run")
    sizes = {name: tuple(size) for name, size in hf_sizes(setup.family.rows, setup.family.shape(tp=1)).items()}
    if row.parallel.pp == 1:  # what other stages hold, the stand-in does not know
        assert exported == sizes
    assert exported.items() <= sizes.items()
    assert devices == {"cpu"} or (devices == set() and rank)  # others may write all that a rank holds
    assert not figures["save"].copies
    assert figures["save"].waits.total() == len(devices)  # the writing thread's, if it has anything to write


def all_work(setup: Setup, state: Path, run: Path) -> tuple[dict[str, tuple[int, ...]], set[str], dict[str, Figures]]:
    """What was exported, the devices of what a save's thread was given, and the figures of each."""
    from megatron.core import dist_checkpointing

    from aspo_megatron.checkpoint.tensors import PieceWriter
    from aspo_megatron.checkpoint.training import StateSaver, TrainerState, load_state, step_folder
    from aspo_megatron.rollout.transports import DistributedTransport
    from aspo_megatron.rollout.weight_sync import buckets

    run.mkdir()
    config = run_config(setup, run)
    save_config(config, run / "config.yaml")
    exported: dict[str, tuple[int, ...]] = {}
    devices: set[str] = set()
    figures: dict[str, Figures] = {}
    write = PieceWriter.write

    def noted(writer: PieceWriter, key: str, tensor: torch.Tensor, *place: Any) -> None:
        devices.add(tensor.device.type)
        write(writer, key, tensor, *place)

    with simulated_rank(setup.parallel, setup.rank) as rank:
        model, optimizer = build(setup, rank, OptimizerConfig())
        if setup.rank:  # rank 0 leads megatron's reading, and makes the folder that is written to
            empty_update(optimizer)
            folder = step_folder(run, 1)
            folder.with_name(f"{folder.name}.partial").mkdir(parents=True)
        else:
            # The other ranks are taken to say what this one says, which megatron would take for a mistake.
            dist_checkpointing.load = partial(dist_checkpointing.load, validate_access_integrity=False)
            assert load_state(state, model, optimizer, setup.parallel).step == 1
        transport = DistributedTransport("nccl", 1, 10.0)
        rank.ledger.clear()
        for bucket in buckets(model.hf_tensors(bucket_bytes=BUCKET_BYTES), BUCKET_BYTES):
            for tensor in transport.prepare(bucket).tensors:
                assert tensor.is_cuda
            exported |= {name: tuple(tensor.shape) for name, tensor in bucket}
        figures["export"] = Figures.of(rank.ledger)
        saver = StateSaver(config, model.family, model, optimizer, lambda said: None)  # other ranks' parts are missing
        PieceWriter.write = noted  # type: ignore[method-assign]
        rank.ledger.clear()
        saver.save(TrainerState(1, 0, 0, 0.0, None, None, ""))
        saver.finish()
        figures["save"] = Figures.of(rank.ledger)
    return exported, devices, figures
