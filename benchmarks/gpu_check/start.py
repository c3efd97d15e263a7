"""What all else stands on: versions, the card, process groups, which kernels are chosen, and what a rank sets.

The process group of one rank is the product's own (`cpu:gloo,cuda:nccl`), with all of megatron-core's groups: each must
take tensors of the GPU and of the host. What moves objects between ranks must leave the GPU alone.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch
import torch.distributed as dist
from packaging.version import Version
from torch import Tensor

from aspo_megatron.config import KernelsConfig, ParallelConfig, PlatformConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.launch.rank import rank_settings
from aspo_megatron.parallel.device.expert_traits import ExpertTraits
from aspo_megatron.parallel.device.kernels import Kernels, Machine, choose_kernels
from aspo_megatron.parallel.grid.exchange import from_leader, gather, to_replicas
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from aspo_megatron.parallel.model.export import _all_gather_flat
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.machine import find_machine

_DOCUMENTED = "docs/gpu.md"


def run(sheet: Sheet, place: Place) -> None:
    """All of it."""
    _show_versions(sheet, place)
    _show_settings(sheet, place)
    with process_grid(ParallelConfig(), PlatformConfig(device=place.device.type), seed=1) as topology:
        backend = topology.platform.backend
        sheet.equal("ranks of the process group", dist.get_world_size(), 1, reference=f"backend {backend}")
        _show_groups(sheet, place, topology)
        _show_messages(sheet, place, topology)
        _show_kernels(sheet, place, topology.platform.machine)


def _show_versions(sheet: Sheet, place: Place) -> None:
    machine = find_machine()
    sheet.holds("Python", Version(platform.python_version()) >= Version("3.11"), reference="3.11", note=str(machine))
    sheet.holds("PyTorch", Version(torch.__version__) >= Version("2.11"), reference="2.11", note=torch.__version__)
    core = machine.versions["megatron-core"]
    newer = core is not None and Version(core) >= Version("0.16.1")
    sheet.holds("megatron-core", newer, reference="0.16.1", note=str(core))
    if not place.on_gpu:
        return
    major, minor = torch.cuda.get_device_capability(place.device)
    name = torch.cuda.get_device_name(place.device)
    sheet.at_least("compute capability", major + minor / 10, 8.0, reference="flash attention", note=name)
    sheet.holds("16-bit numbers (bf16)", torch.cuda.is_bf16_supported(), reference="PyTorch")
    sheet.holds("NCCL is built in", dist.is_nccl_available(), reference="PyTorch", note=str(torch.cuda.nccl.version()))
    free, total = torch.cuda.mem_get_info(place.device)
    sheet.measured("memory of the card", total / 2**30, "GiB", note=f"{free / 2**30:.1f} free")


def _show_settings(sheet: Sheet, place: Place) -> None:
    """What `rank.rank_settings` sets before PyTorch starts; the check's processes have it as ranks do."""
    for name, value in rank_settings({}).items():
        found = os.environ.get(name)
        sheet.holds(f"{name} is set", found is not None, reference=value, note=f"{found}")
    if not place.on_gpu or "expandable_segments:True" not in os.environ.get("PYTORCH_ALLOC_CONF", ""):
        return
    held = torch.empty(64 << 20, dtype=torch.uint8, device=place.device)
    # Not more than what the allocator says of memory that it has just given.
    segments = [segment for segment in torch.cuda.memory_snapshot() if _holds(segment, held)]
    expandable = bool(segments) and all(segment.get("is_expandable") for segment in segments)
    sheet.holds("memory lies in expandable segments", expandable, reference="PyTorch's allocator")


def _holds(segment: dict[str, int], tensor: Tensor) -> bool:
    return segment["address"] <= tensor.data_ptr() < segment["address"] + segment["total_size"]


def _show_groups(sheet: Sheet, place: Place, topology: Topology) -> None:
    """Every collective that training uses, of every group, on tensors of the device and of the host."""
    # The world's group is among the messages.
    groups = {name: getattr(topology, name).group for name in ("tp", "cp", "pp", "dp", "ep", "etp")}
    devices = [torch.device("cpu")] + ([place.device] if place.on_gpu else [])
    for device in devices:
        for what, collective in COLLECTIVES.items():
            wrong = []
            for name, group in groups.items():
                try:
                    given = collective(device, group)
                except (RuntimeError, NotImplementedError) as error:
                    wrong.append(f"{name}: {str(error).splitlines()[0]}")
                    continue
                if not torch.equal(given.cpu(), torch.arange(8.0)):
                    wrong.append(f"{name}: gave {given.tolist()}")
            where = "the GPU" if device.type == "cuda" else "the host"
            sheet.holds(f"{what} of {where}", not wrong, reference=f"groups {', '.join(groups)}", note="; ".join(wrong))


def _numbers(device: torch.device) -> Tensor:
    return torch.arange(8.0, device=device)


def _all_reduce(device: torch.device, group: dist.ProcessGroup) -> Tensor:
    numbers = _numbers(device)
    dist.all_reduce(numbers, group=group)
    return numbers


def _broadcast(device: torch.device, group: dist.ProcessGroup) -> Tensor:
    numbers = _numbers(device)
    dist.broadcast(numbers, src=0, group=group)
    return numbers


def _into_tensor(device: torch.device, group: dist.ProcessGroup) -> Tensor:
    found = torch.full((8,), torch.nan, device=device)
    dist.all_gather_into_tensor(found, _numbers(device), group=group)
    return found


def _exported(device: torch.device, group: dist.ProcessGroup) -> Tensor:
    found = torch.full((1, 8), torch.nan, device=device)
    _all_gather_flat(found, _numbers(device)[None], group=group)
    return found[0]


def _into_views(device: torch.device, group: dist.ProcessGroup) -> Tensor:
    found = torch.full((1, 8), torch.nan, device=device)
    dist.all_gather(list(found.unbind(0)), _numbers(device), group=group)
    return found[0]


def _reduce_scatter(device: torch.device, group: dist.ProcessGroup) -> Tensor:
    found = torch.full((8,), torch.nan, device=device)
    dist.reduce_scatter_tensor(found, _numbers(device), group=group)
    return found


def _all_to_all(device: torch.device, group: dist.ProcessGroup) -> Tensor:
    found = torch.full((8,), torch.nan, device=device)
    dist.all_to_all_single(found, _numbers(device), group=group)
    return found


COLLECTIVES: dict[str, Callable[[torch.device, dist.ProcessGroup], Tensor]] = {
    "sum over ranks": _all_reduce,
    "broadcast": _broadcast,
    "gather into one tensor": _into_tensor,
    "gather of exported weights": _exported,
    "gather into views": _into_views,
    "sum, of which each rank gets a part": _reduce_scatter,
    "exchange": _all_to_all,
}


def _show_messages(sheet: Sheet, place: Place, topology: Topology) -> None:
    """Objects between ranks, by the product's own functions: right, and by the host's memory alone."""
    before = _peak(place, start=True)
    text = "a message, \N{GREEK SMALL LETTER ALPHA}"
    sheet.holds("gather of objects", gather({"text": text}) == [{"text": text}], reference="what was sent")
    sheet.holds("the leader's object", from_leader((1, text)) == (1, text), reference="what was sent")
    groups = [[_sample(number, length) for length in (3, 5)] for number in range(4)]
    received = to_replicas(groups, 2, topology)
    numbers = [[group[0].group for group in batch] for batch in received]
    sent = [sample.response_ids for group in groups for sample in group]
    got = [sample.response_ids for batch in received for group in batch for sample in group]
    same = len(sent) == len(got) and all(map(np.array_equal, sent, got))
    sheet.holds("samples handed to replicas", numbers == [[0, 1], [2, 3]] and same, reference="what was sent")
    dist.barrier()
    if place.on_gpu:
        taken = _peak(place, start=False) - before
        sheet.equal("memory of the GPU for messages", taken, 0, unit="bytes", reference="messages go by gloo")


def _peak(place: Place, *, start: bool) -> int:
    if not place.on_gpu:
        return 0
    if start:
        torch.cuda.reset_peak_memory_stats(place.device)
        return torch.cuda.memory_allocated(place.device)
    return torch.cuda.max_memory_allocated(place.device)


def _sample(number: int, length: int) -> Sample:
    ids = np.arange(length, dtype=np.int64) + 10 * number
    return Sample(
        problem_id=str(number),
        group=number,
        prompt_ids=np.arange(2, dtype=np.int64),
        response_ids=ids,
        response_mask=np.ones(length, dtype=np.bool_),
        rollout_log_probs=np.zeros(length, dtype=np.float32),
        weight_version=0,
        finish_reason="stop",
    )


SOME_EXPERTS = ExpertTraits("bfloat16", rows_fit=True, few_ranks=True)


def documented(machine: Machine) -> Kernels:
    """What docs/gpu.md says that `auto` takes here."""
    packages, gpu = machine.packages, machine.capability is not None
    engine = gpu and packages.engine_lack is None
    version = packages.transformer_engine
    gathers = machine.capability is not None and machine.capability[0] in (9, 10)
    return Kernels(
        attention="varlen" if gpu else "blocks",
        triton_merge=gpu and packages.triton,
        flash_attention_3=packages.flash_attention_3 and machine.capability is not None and machine.capability[0] == 9,
        transformer_engine=engine,
        fusion=gpu,
        rope_fusion=engine and not packages.triton,
        gradient_fusion=gpu and (engine or packages.apex_gradient_kernels),
        gathered_experts=gathers,
        grouped_gemm=engine and not gathers,
        expert_fusion=engine and version is not None and version >= Version("2.10"),
        triton_log_prob=gpu and packages.triton,
        triton_rotary=gpu and packages.triton,
    )


def _show_kernels(sheet: Sheet, place: Place, machine: Machine) -> None:
    """Each choice of `model.kernels` with its defaults."""
    chosen = asdict(choose_kernels(KernelsConfig(), machine, experts=SOME_EXPERTS, flash=True))
    for name, expected in asdict(documented(machine)).items():
        right = chosen[name] == expected
        sheet.holds(f"kernels by default: {name} is {chosen[name]}", right, reference=f"{_DOCUMENTED}: {expected}")
    if place.on_gpu:
        sheet.holds("Triton is there", machine.packages.triton, reference="log-prob, fused layers")
