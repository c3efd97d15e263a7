"""Checks of the machine's memory: what there is, what a control group leaves of it, what is shared."""

from __future__ import annotations

from collections.abc import Iterator

from aspo_megatron.doctor.demand import demand_of
from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.lines import Line, gib, ok, unknown, warn, wrong
from aspo_megatron.doctor.nvidia import Gpus
from aspo_megatron.doctor.requirements import Requirements
from aspo_megatron.foreign_text import counted
from aspo_megatron.plan.machine import available_memory, memory_limit, memory_sizes

_SHARED = "/dev/shm"
_NCCL_SHARED = 1 << 30
"""What NCCL's page on troubleshooting wants a container to have."""
_LEAST = 2 << 30
"""A rank with nothing in it: torch, megatron-core and transformers."""


def memory_lines(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """The host's memory against what the ranks take of it, the GPUs', and /dev/shm."""
    yield _host_memory(host, needs, gpus)
    yield from _gpu_memory(host, needs, gpus)
    yield _shared(host, needs, gpus)


def _host_memory(host: Host, needs: Requirements, gpus: Gpus) -> Line:
    what = "host memory"
    sizes = memory_sizes(host)
    if "MemTotal" not in sizes:
        return unknown(what, "/proc/meminfo does not say")
    limit = memory_limit(host)
    limited = limit is not None and limit < sizes["MemTotal"]
    most = limit if limit is not None and limited else sizes["MemTotal"]
    free = available_memory(host) or 0
    found = f"{gib(sizes['MemTotal'])}, {gib(free)} available"
    if limited:
        found += f", limited to {gib(most)} by a control group"
    on_gpu = bool(gpus.usable) and needs.run.platform.device != "cpu"
    demand = None if needs.away else demand_of(host, needs, on_gpu)
    taken = f"{needs.ranks_here} ranks lock" if on_gpu else f"the peak of {_ranks(needs)} is"
    # A run on CPUs is refused beyond what is free now; on GPUs, what is in use may be gone when the ranks lock theirs.
    if demand is not None and demand.host > (most if on_gpu else free):
        todo = f"aspo plan{needs.words}; more ranks, or nodes; {_smaller(on_gpu)}"
        todo += "; end other programs" if demand.host <= most else ""
        todo += "; Slurm: slurm.directives=[--mem=0]" if needs.slurm else ""
        return wrong(what, f"{found}; {taken} {gib(demand.host)}", todo)
    if demand is not None and demand.host > free:
        return warn(what, f"{found}; {taken} {gib(demand.host)}", "end other programs, or use another node")
    if free < _LEAST * min(needs.ranks_here, 2):
        todo = "a larger limit (docker --memory, Slurm's --mem=0), or end other programs"
        return warn(what, f"{found}; a rank needs 2 GiB before it holds a model", todo)
    return ok(what, found + (f"; {taken} {gib(demand.host)}" if demand is not None else ""))


def _smaller(on_gpu: bool) -> str:
    if on_gpu:
        return "model.reference=device, checkpoint.async_save=false, optimizer.offload=false"
    from aspo_megatron.plan.cpu_ranks import SMALLER  # imports torch

    return SMALLER


def _ranks(needs: Requirements) -> str:
    return counted(needs.ranks_here, "rank")


def _gpu_memory(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """Whether what is always there fits; `aspo plan` knows the rest."""
    on_gpu = gpus.usable and needs.run.platform.device != "cpu"
    demand = demand_of(host, needs, on_gpu=True) if on_gpu else None
    if demand is None or gpus.memory is None:
        return
    found = f"{gib(gpus.memory)}; weights, gradients and optimizer take {gib(demand.device)}"
    if demand.device > gpus.memory:
        todo = f"aspo plan{needs.words} --gpus N: a larger tp, pp or ep, parallel.distributed_optimizer=true"
        yield wrong("GPU memory", found, todo)
    else:
        yield ok("GPU memory", f"{found}; aspo plan shows the rest")


def _shared(host: Host, needs: Requirements, gpus: Gpus) -> Line:
    """Python's locks between processes, NCCL where GPUs are not peers, buckets of weights for servers on CPUs."""
    disk, larger = host.disk(_SHARED), "docker run --shm-size=8g, or --ipc=host"
    if disk is None or not host.writable(_SHARED):
        why = "does not exist" if disk is None else "cannot be written"
        return wrong(_SHARED, f"{why}: the reward's workers need it", f"mount -t tmpfs tmpfs {_SHARED}; {larger}")
    found = f"{gib(disk.free)} free of {gib(disk.total)}"
    servers = needs.run.rollout.servers
    buckets = 2 * servers.bucket_mib << 20
    if gpus.usable > 1 and needs.run.platform.device != "cpu" and disk.free < _NCCL_SHARED:
        return warn(_SHARED, f"{found}: NCCL may fail there with 'No space left on device'; it needs 1 GiB", larger)
    if needs.run.rollout.engine == "sglang" and servers.sync == "tensor" and not gpus.usable and disk.free < buckets:
        return warn(
            _SHARED,
            f"{found}: two buckets of weights take {gib(buckets)}, so they are sent by value, which is slow",
            larger,
        )
    return ok(_SHARED, found)
