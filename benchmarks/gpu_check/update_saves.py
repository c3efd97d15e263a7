"""Saves beside training: their memory, what they hold, and a run that goes on from one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aspo_megatron.config import ParallelConfig
from aspo_megatron.config.io import save_config
from aspo_megatron.parallel.grid.topology import Topology
from benchmarks.gpu_check import memory
from benchmarks.gpu_check.lines import Sheet
from benchmarks.gpu_check.policies import Weights, adam, build, made_update, run_config

if TYPE_CHECKING:
    from aspo_megatron.checkpoint.states.run_states import StateSaver
    from aspo_megatron.checkpoint.states.trainer_state import TrainerState
    from aspo_megatron.parallel.model.policy import PolicyModel
    from aspo_megatron.parallel.update.optimizer import Optimizer

_BUSY_CYCLES = 500_000_000
"""A quarter of a second on an H100, in which the GPU is kept from the copies of a save."""


def saves(sheet: Sheet, topology: Topology, folder: Path, weights: Weights, work: Path, *, distributed: bool) -> None:
    """Save twice, an update right behind the second; then load that and go on."""
    from aspo_megatron.checkpoint.states.folders import step_folder
    from aspo_megatron.checkpoint.states.run_states import StateSaver, load_state

    parallel = ParallelConfig(distributed_optimizer=distributed)
    label = "distributed optimizer" if distributed else "one rank's optimizer"
    run = work / f"run-{distributed:d}"
    run.mkdir(parents=True)
    config = run_config(folder, "bfloat16", run, parallel=parallel.model_dump())
    save_config(config, run / "config.yaml")
    model = build(folder, topology, "bfloat16", weights)
    optimizer = adam(model, parallel)
    made_update(model, optimizer, 1)
    said: list[str] = []
    saver = StateSaver(config, model.family, model, optimizer, said.append)
    if topology.platform.device.type != "cpu":
        _memory_of_a_save(sheet, saver, model, label, distributed=distributed)
    else:
        sheet.not_done(f"memory of a save, {label}", "needs a GPU")
    made_update(model, optimizer, 2)
    before = _state(model, optimizer)
    _save_beside_update(saver, topology.platform.device, model, optimizer)
    after = _state(model, optimizer)
    if said:
        sheet.failed(f"a save, {label}", said[-1])
        return
    state = step_folder(config.output_dir, 2)
    other = build(folder, topology, "bfloat16", weights)
    loaded = adam(other, parallel)
    load_state(state, other, loaded, parallel)
    changed = _differing(before, after)
    sheet.at_least(f"changed by an update behind a save, {label}", changed, 1, reference="the state before it")
    differ = _differing(_state(other, loaded), before) + (loaded.counters()["updates"] != 2)
    note = f"{len(before)} tensors"
    sheet.equal(f"what that save holds, {label}", differ, 0, reference="the state before", unit="differ", note=note)
    made_update(other, loaded, 3)
    differ = _differing(_state(other, loaded), after)
    sheet.equal(f"an update after loading, {label}", differ, 0, reference="of what was not saved", unit="differ")


def _memory_of_a_save(sheet: Sheet, saver: StateSaver, model: PolicyModel, label: str, *, distributed: bool) -> None:
    """The most that is held while it is made, with nothing beside it, and what is held after it."""
    before = memory.begin()
    began = time.perf_counter()
    saver.save(_trainer_state(1))
    queued = time.perf_counter() - began
    saver.finish()
    seconds, during, after = time.perf_counter() - began, memory.peak(), memory.held()
    largest = 4 * max(parameter.numel() for parameter in model.parameters()) if distributed else 0
    sizes = f"before {memory.mib(before):.1f} MiB, during {memory.mib(during):.1f}, after {memory.mib(after):.1f}"
    reference = "the largest tensor in fp32" if distributed else "nothing"
    bound = largest + memory.rounding(4)
    sheet.at_most(f"memory of a save, {label}", during - before, bound, reference=reference, unit="B", note=sizes)
    sheet.at_most(f"memory after a save, {label}", after - before, 0, reference="before", unit="B")
    note = f"{seconds:.2f} s until it is complete"
    sheet.measured(f"training waits for a save, {label}, the first", 1e3 * queued, "ms", note=note)


def _save_beside_update(saver: StateSaver, device: torch.device, model: PolicyModel, optimizer: Optimizer) -> None:
    """On a GPU the copies are still to be made when the update is queued."""
    if device.type != "cpu":
        torch.cuda._sleep(_BUSY_CYCLES)
    saver.save(_trainer_state(2))
    made_update(model, optimizer, 3)
    saver.finish()


def _state(model: PolicyModel, optimizer: Optimizer) -> list[Tensor]:
    """Copies of weights, moments and fp32 weights on the host."""
    found = [parameter.detach().to("cpu", copy=True) for parameter in model.parameters()]
    return found + [value.detach().to("cpu", copy=True) for _, _, value in optimizer.states() if value is not None]


def _differing(one: list[Tensor], other: list[Tensor]) -> int:
    return sum(int((a != b).sum()) for a, b in zip(one, other, strict=True))


def _trainer_state(step: int) -> TrainerState:
    from aspo_megatron.checkpoint.states.trainer_state import TrainerState

    return TrainerState(step, 0, 0, 0.0, None, None, "")
