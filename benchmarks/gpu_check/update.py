"""An optimizer's update on the GPU: which Adam, its state and a reference in the host's memory, saves beside training.

Gradients are given, not computed, so that what must be equal is so to the last bit.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from aspo_megatron.parallel.device.piece_copies import PIECE_BYTES, PIECES
from aspo_megatron.parallel.grid.topology import Topology
from benchmarks.gpu_check import memory
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.policies import (
    Weights,
    adam,
    build,
    dense_folder,
    fill_gradients,
    made_update,
    micro_batch_tokens,
    one_rank,
    ragged_groups,
)
from benchmarks.gpu_check.update_saves import saves

if TYPE_CHECKING:
    from aspo_megatron.parallel.model.policy import PolicyModel
    from aspo_megatron.parallel.model.reference import Reference
    from aspo_megatron.parallel.update.optimizer import Optimizer

_FUSED = "aten::_fused_adamw_"
_NEEDS_GPU = "needs a GPU"


def run(sheet: Sheet, place: Place) -> None:
    """All lines of the section."""
    folder = dense_folder(place.work / "model", small=place.small)
    weights = Weights(folder)
    with one_rank(place.device) as topology:
        with sheet.part("Adam"):
            fused_adam(sheet, build(folder, topology, "bfloat16", weights))
        with sheet.part("optimizer.offload"):
            offload(sheet, topology, folder, weights)
        with sheet.part("a reference in the host's memory"):
            reference(sheet, topology, folder, weights, micro_batch_tokens(place))
        for distributed in (False, True):
            with sheet.part("saves, distributed optimizer" if distributed else "saves"):
                saves(sheet, topology, folder, weights, place.work, distributed=distributed)


def fused_adam(sheet: Sheet, model: PolicyModel) -> None:
    """Which Adam megatron-core has taken, and that torch's is the one that makes one pass over its state."""
    optimizer = adam(model)
    kinds = {type(part.optimizer) for part in optimizer._parts()}
    named = ", ".join(f"{kind.__module__}.{kind.__name__}" for kind in kinds)
    optimizer.zero_grad()
    fill_gradients(model, 1)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        optimizer.step()
    passes = sum(event.name == _FUSED for event in profiler.events())
    fused = passes > 0 or not any(issubclass(kind, torch.optim.Adam) for kind in kinds)
    sheet.holds("Adam is fused", fused, reference="operations of a step", note=f"{named}; {passes} fused passes")


def offload(sheet: Sheet, topology: Topology, folder: Path, weights: Weights) -> None:
    """Two updates with Adam's state in the host's memory, which passes the GPU in pieces, and two without."""
    found: dict[bool, tuple[list[Tensor], _Figures]] = {}
    device = topology.platform.device
    for away in (False, True):
        base = memory.held() if device.type != "cpu" else 0
        model = build(folder, topology, "bfloat16", weights)
        found[away] = _two_updates(model, adam(model, offload=away), device, base)
        del model
    (want, here), (got, gone) = found[False], found[True]
    differ = sum(int((one != other).sum()) for one, other in zip(got, want, strict=True))
    sheet.equal("weights after two updates with optimizer.offload", differ, 0, reference="without", unit="differ")
    if device.type == "cpu":
        sheet.not_done("memory with optimizer.offload", _NEEDS_GPU)
        return
    rounding = memory.rounding(here.tensors)
    left = abs(here.between - gone.between - here.state)
    freed = f"{memory.mib(here.between - gone.between):.1f} of {memory.mib(here.state):.1f} MiB of state are gone"
    sheet.at_most("state away between updates", left, rounding, reference="its bytes", unit="B", note=freed)
    visiting = min(PIECES * PIECE_BYTES, here.state)
    note = f"{memory.mib(gone.during):.0f} MiB instead of {memory.mib(here.during):.0f}; {PIECES} pieces at most"
    more = gone.during - (here.during - here.state)
    reference = "without any state"
    sheet.at_most(
        "an update's memory with offload", more, visiting + 2 * rounding, reference=reference, unit="B", note=note
    )
    speed = f"{here.state / gone.seconds / 1e9:.0f} GB/s each way"
    sheet.measured("an update with offload", 1e3 * gone.seconds, "ms", reference="without", note=speed)
    sheet.measured("an update without", 1e3 * here.seconds, "ms")


class _Figures:
    """Of updates: bytes held between them and at most, seconds of one, and Adam's state: moments and fp32 weights."""

    def __init__(self, optimizer: Optimizer) -> None:
        mains = [slot.main for slot in optimizer._slots() if slot.main is not None]
        self.state, self.tensors = sum(3 * main.nbytes for main in mains), 4 * len(mains)  # and the number of a step
        self.between = self.during = 0
        self.seconds = 0.0


def _two_updates(
    model: PolicyModel, optimizer: Optimizer, device: torch.device, base: int
) -> tuple[list[Tensor], _Figures]:
    """The weights after them, on the host, and the figures of the second; `base`: what was held without all this."""
    on_gpu = device.type != "cpu"
    made_update(model, optimizer, 1)
    figures = _Figures(optimizer)
    optimizer.zero_grad()
    fill_gradients(model, 2)
    if on_gpu:
        memory.begin()
    began = time.perf_counter()
    optimizer.step()
    if on_gpu:
        torch.cuda.synchronize()
        figures.seconds = time.perf_counter() - began
        figures.during, figures.between = memory.peak() - base, memory.held() - base
    return [parameter.detach().to("cpu", copy=True) for parameter in model.parameters()], figures


def reference(sheet: Sheet, topology: Topology, folder: Path, weights: Weights, tokens: int) -> None:
    """The reference model in the host's memory against one that stays on the GPU."""
    from aspo_megatron.parallel.model.reference import Reference
    from aspo_megatron.parallel.update.passes import PassLimits, response_log_probs

    on_gpu = topology.platform.device.type != "cpu"
    groups, limits = ragged_groups(folder, small=not on_gpu), PassLimits(tokens, None, 1.0)
    policy = build(folder, topology, "bfloat16", weights)

    def scored_by(reference: Reference) -> Tensor:
        with reference.ready() as model:
            return torch.cat(
                [torch.from_numpy(log_probs) for _, log_probs in response_log_probs(model, groups, limits)]
            )

    stays = Reference(policy, "device")
    scored_by(stays)  # a library takes memory as it is first used, and some kernels are made anew for the second sizes
    expected = scored_by(stays)
    del stays
    before = memory.held() if on_gpu else 0
    visiting = Reference(policy, "host")
    added = memory.held() - before if on_gpu else 0
    differ = max(int((scored_by(visiting) != expected).sum()) for _ in range(2))
    name = "log-probs of a reference in the host's memory"
    sheet.equal(name, differ, 0, reference="of one on the device, bit for bit, twice", unit="differ")
    if not on_gpu:
        sheet.not_done("memory of a reference in the host's memory", _NEEDS_GPU)
        return
    size = sum(parameter.nbytes for parameter in policy.parameters())
    note = f"its weights are {memory.mib(size):.1f} MiB"
    sheet.at_most("memory of a reference that waits", added, memory.rounding(2), reference="none", unit="B", note=note)
    left = memory.held() - before - added
    sheet.at_most("memory left after its passes", left, 0, reference="before them", unit="B")
    _bring_seconds(sheet, visiting, size)


def _bring_seconds(sheet: Sheet, visiting: Reference, size: int) -> None:
    torch.cuda.synchronize()
    began = time.perf_counter()
    with visiting.ready():
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    note = f"{size / seconds / 1e9:.1f} GB/s"
    sheet.measured("time for a reference to come", 1e3 * seconds, "ms", reference="0.2 s for 4.4 GB", note=note)
