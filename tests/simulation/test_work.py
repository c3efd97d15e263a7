"""The rest of a rank's work in every layout: export in buckets, generation, saving beside training, loading."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from parallel.layouts import Layout
from thorough import some_of

from aspo_megatron.config import OptimizerConfig, ParallelConfig, SamplingConfig
from aspo_megatron.config.io import save_config
from aspo_megatron.data.samples import Problem
from aspo_megatron.models.mapping import hf_sizes
from aspo_megatron.rollout.engine import Request
from aspo_megatron.simulation.device.ledger import Figures, Ledger
from aspo_megatron.simulation.rank import simulated_rank

from .runs import Setup
from .test_host_memory import build, empty_update, run_config
from .test_layouts import CASES, ROWS, model_of

BUCKET_BYTES = 1 << 14
BF16_BYTES = 2
EVERY_FAMILY = Layout(ParallelConfig(tp=2, sequence_parallel=True, dp=2, distributed_optimizer=True))
WORK = {
    **{f"{name}-rank0": (row, 0) for name, row in ROWS.items()},
    **{
        f"{name}-rank{rank}": (ROWS[name], rank)
        for name, rank in CASES
        if ROWS[name].parallel.pp > 1 or ROWS[name].parallel.distributed_optimizer
    },
    **{f"qwen2-rank{r}": (replace(EVERY_FAMILY, model="qwen2"), r) for r in (0, 3)},
    **{f"qwen3-rank{r}": (replace(EVERY_FAMILY, model="qwen3"), r) for r in (0, 3)},
}
FEW = {
    "dp2-pp2-vpp2-distopt-overlap",
    "moe-dp2-ep2-distopt",
}


@pytest.fixture(scope="module")
def states(
    simulated: Callable[..., Any], folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A saved state of one rank for each model, which any layout can load."""
    root = tmp_path_factory.mktemp("states")
    names = {model_of(row) for row, _ in WORK.values()}
    return {name: simulated(saved, Setup(folders[name], ParallelConfig()), root / name) for name in names}


def saved(setup: Setup, run: Path) -> Path:
    """Save a state after one update; its folder."""
    from aspo_megatron.checkpoint.states.folders import step_folder
    from aspo_megatron.checkpoint.states.run_states import StateSaver
    from aspo_megatron.checkpoint.states.trainer_state import TrainerState

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


@pytest.mark.parametrize("work", some_of(WORK, [work for work in WORK if work.rpartition("-")[0] in FEW]))
def test_export_generate_save_and_load(
    work: str, simulated: Callable[..., Any], folders: dict[str, Path], states: dict[str, Path], tmp_path: Path
) -> None:
    row, rank = WORK[work]
    setup = Setup(folders[model_of(row)], row.parallel, rank, row.recompute)
    exported, devices, figures = simulated(all_work, setup, states[model_of(row)], tmp_path / "run")
    sizes = {name: tuple(size) for name, size in hf_sizes(setup.family.rows, setup.family.shape(tp=1)).items()}
    assert exported
    assert exported.items() <= sizes.items()
    assert not figures["export"].waits
    assert not figures["export"].copies
    if row.parallel.pp == 1:  # what other stages hold, the stand-in does not know
        assert exported == sizes
        before, engine, after = (figures[when] for when in ("before engine", "engine", "after engine"))
        assert engine.peak_bytes - before.held_bytes > BF16_BYTES * sum(map(math.prod, sizes.values()))
        assert after.held_bytes == before.held_bytes
        assert not engine.copies
    assert devices == {"cpu"} or (devices == set() and rank)  # others may write all that a rank holds
    assert not figures["save"].copies
    assert figures["save"].waits.total() == len(devices)  # the writing thread's, if it has anything to write


def generation(setup: Setup, model: Any, ledger: Ledger) -> dict[str, Figures]:
    """The embedded engine takes its weights, generates two tokens and gives its memory back."""
    from aspo_megatron.rollout.embedded.engine import EmbeddedEngine

    tokenizer: Any = SimpleNamespace(eos_token_id=9)
    engine = EmbeddedEngine(setup.folder, tokenizer, torch.bfloat16, model.topology.platform.device, None)
    ledger.clear()
    figures = {"before engine": ledger.figures()}
    engine.update_weights(model.hf_tensors(bucket_bytes=BUCKET_BYTES), version=1)
    request = Request(Problem("a", "", (3, 4, 5)), 2, (1, 0), group=0)
    (samples,) = engine.generate([request], SamplingConfig(max_response_tokens=2))
    assert [len(sample.response_ids) for sample in samples] == [2, 2]
    figures["engine"] = ledger.figures()
    del samples
    engine.release_memory()
    return figures | {"after engine": ledger.figures()}


def all_work(setup: Setup, state: Path, run: Path) -> tuple[dict[str, tuple[int, ...]], set[str], dict[str, Figures]]:
    """What was exported, the devices of what a save's thread was given, and the figures of each."""
    from megatron.core import dist_checkpointing

    from aspo_megatron.checkpoint.states.folders import step_folder
    from aspo_megatron.checkpoint.states.run_states import StateSaver, load_state
    from aspo_megatron.checkpoint.states.trainer_state import TrainerState
    from aspo_megatron.checkpoint.torch_dist.writer import TorchDistWriter
    from aspo_megatron.rollout.weight_sync.session import buckets
    from aspo_megatron.rollout.weight_sync.transports import DistributedTransport

    run.mkdir()
    config = run_config(setup, run)
    save_config(config, run / "config.yaml")
    exported: dict[str, tuple[int, ...]] = {}
    devices: set[str] = set()
    figures: dict[str, Figures] = {}
    write = TorchDistWriter.write

    def noted(writer: TorchDistWriter, key: str, tensor: torch.Tensor, *place: Any) -> None:
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
        figures["export"] = rank.ledger.figures()
        if setup.parallel.pp == 1:
            figures |= generation(setup, model, rank.ledger)
        saver = StateSaver(config, model.family, model, optimizer, lambda said: None)  # other ranks' parts are missing
        TorchDistWriter.write = noted  # type: ignore[method-assign, assignment]
        rank.ledger.clear()
        saver.save(TrainerState(1, 0, 0, 0.0, None, None, ""))
        saver.finish()
        figures["save"] = rank.ledger.figures()
    return exported, devices, figures
