"""Checks of limits, cores, disks, the clock, and of what programs of a model are shut off by."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from pathlib import Path

from aspo_megatron.doctor.demand import demand_of
from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.lines import Line, gib, ok, unknown, unneeded, warn, wrong
from aspo_megatron.doctor.nvidia import Gpus
from aspo_megatron.doctor.requirements import Requirements
from aspo_megatron.doctor.slurm import shown_own
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import counted
from aspo_megatron.plan.machine import core_quota, usable_cores

_OWN_FILES = 512
"""Open files of a rank besides its requests: libraries, pipes to workers, NCCL's sockets and devices."""
_LOCKED_FOR_RDMA = 1 << 30
_PROCESSES = 4096
_LITTLE_DISK = 5 << 30
_LITTLE_TEMPORARY = 1 << 30


def limit_lines(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """The machine beside its GPUs and memory."""
    yield _files(host, needs)
    yield _locked(host, needs, gpus)
    yield _processes(host)
    yield _core_files(host, gpus)
    yield _cores(host, needs, gpus)
    yield _output(host, needs, gpus)
    yield _temporary(host)
    yield _clock(host)
    yield _sandbox(host, needs)


def _files(host: Host, needs: Requirements) -> Line:
    limit, run = host.limit("nofile"), needs.run
    servers = len(run.rollout.servers.addresses) or run.rollout.servers.count
    asked = servers * run.rollout.servers.concurrency if run.rollout.engine == "sglang" else 0
    if limit is None or limit >= asked + _OWN_FILES:
        return ok("open files", _shown(limit))
    found = f"{limit}; a rank needs {asked + _OWN_FILES}" + (f", {asked} of them for requests" if asked else "")
    hard = host.hard_limit("nofile")
    can = hard is None or hard >= asked + _OWN_FILES
    return warn("open files", found, f"ulimit -n {asked + _OWN_FILES if can else hard}")


def _locked(host: Host, needs: Requirements, gpus: Gpus) -> Line:
    """CUDA locks memory past this limit; what InfiniBand is given to read and write counts."""
    limit, what = host.limit("memlock"), "locked memory"
    cards = host.names("/sys/class/infiniband")
    if limit is None:
        return ok(what, "unlimited")
    found = gib(limit) if limit >= 2**20 else f"{limit // 1024} KiB"
    if not cards:
        if not gpus.there:
            return unneeded(what, f"{found}; it matters only with InfiniBand")
        return ok(what, f"{found}; no InfiniBand here, and memory that CUDA locks does not count")
    if limit >= _LOCKED_FOR_RDMA:
        return ok(what, found)
    todo = "ulimit -l unlimited; containers: --ulimit memlock=-1; Slurm: LimitMEMLOCK=infinity for slurmd"
    say = wrong if needs.nodes > 1 and gpus.usable else warn
    return say(what, f"{found}: InfiniBand ({', '.join(cards)}) fails with 'Cannot allocate memory'", todo)


def _processes(host: Host) -> Line:
    limit = host.limit("nproc")
    if limit is None or limit >= _PROCESSES:
        return ok("processes", _shown(limit))
    found = f"{limit}, counting the threads of all the user's programs"
    return warn("processes", found, f"ulimit -u {host.hard_limit('nproc') or 'unlimited'}")


def _core_files(host: Host, gpus: Gpus) -> Line:
    limit = host.limit("core")
    if limit == 0 or not gpus.usable:
        return unneeded("core files", "none are written" if limit == 0 else _shown(limit))
    found = f"{'unlimited' if limit is None else gib(limit)}: a rank that crashes writes its memory to disk"
    return warn("core files", found, "ulimit -c 0, unless you want them")


def _shown(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)


def _cores(host: Host, needs: Requirements, gpus: Gpus) -> Line:
    cores, quota, usable = host.cores(), core_quota(host), usable_cores(host)
    found = f"{cores}" + (f", limited to {quota:g} by a control group" if quota is not None else "")
    ranks = 1 if shown_own(host, gpus) else needs.ranks_here  # cores are given to each task as well
    threads = ranks * needs.run.platform.threads_per_rank
    if needs.away:
        return ok("CPU cores", found)
    if threads > usable and (needs.config is not None or needs.run.platform.device == "cpu"):
        told = f"{counted(ranks, 'rank')} x {counted(needs.run.platform.threads_per_rank, 'thread')}"
        todo = "fewer ranks or platform.threads_per_rank=1; more cores (docker --cpus, Slurm's --cpus-per-task)"
        return warn("CPU cores", f"{found}; {told} compete for them", todo)
    if gpus.usable and usable < 2 * min(gpus.usable, ranks):
        todo = "more cores (slurm.cpus_per_task, docker --cpus): rewards and data have none of their own"
        return warn("CPU cores", f"{found}, for {counted(min(gpus.usable, ranks), 'rank')} on GPUs", todo)
    return ok("CPU cores", found)


def _output(host: Host, needs: Requirements, gpus: Gpus) -> Line:
    """The run folder, or what of its path is there: runs, and saved states."""
    folder = needs.run.output_dir.absolute()
    there = next((place for place in (folder, *folder.parents) if host.exists(place)), Path("/"))
    what = "disk for runs"
    if not host.writable(there):
        return wrong(what, f"{there} cannot be written", "output_dir=FOLDER, on a file system that all ranks see")
    disk = host.disk(there)
    if disk is None:
        return unknown(what, f"{there}: its free space is not known")
    found = f"{gib(disk.free)} free at {there}"
    demand = demand_of(host, needs, bool(gpus.usable)) if needs.run.checkpoint.every else None
    if demand is not None:
        states = needs.run.checkpoint.keep + 1  # the oldest goes when the new one is complete
        wanted = states * demand.state
        if disk.free < wanted:
            todo = "free some space, lower checkpoint.keep, or put output_dir on a larger disk"
            told = f"{found}; {states} saved states take {gib(wanted)}, the model {gib(demand.weights)}"
            # A run goes on without a state that was not saved, but ends with nothing if its model has no room.
            return wrong(what, told, todo) if disk.free < demand.weights else warn(what, told, todo)
        return ok(what, f"{found}; {states} saved states take {gib(wanted)}")
    if disk.free < _LITTLE_DISK:
        return warn(what, found, "free some space: a saved state takes 12 to 14 bytes per parameter")
    return ok(what, found)


def _temporary(host: Host) -> Line:
    folder = host.temporary()
    if folder is None:
        return wrong("TMPDIR", "no folder for temporary files is writable", "export TMPDIR=FOLDER")
    disk = host.disk(folder)
    if disk is None or disk.free >= _LITTLE_TEMPORARY:
        return ok("TMPDIR", f"{folder}" + (f", {gib(disk.free)} free" if disk else ""))
    return warn("TMPDIR", f"{folder}: {gib(disk.free)} free", "export TMPDIR=FOLDER, on a larger disk")


def _clock(host: Host) -> Line:
    """A clock that is behind what was installed is wrong: Slurm's keys and certificates are then not valid yet."""
    now = host.now()
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    try:
        metadata = importlib.metadata.distribution("torch").locate_file("torch/version.py")
    except importlib.metadata.PackageNotFoundError:
        return ok("clock", shown)
    installed = host.modified(Path(str(metadata)))
    if installed is not None and now < installed - 86400:
        return warn("clock", f"{shown}, before torch was installed", "sudo chronyc makestep, or set the clock by hand")
    return ok("clock", shown)


def _sandbox(host: Host, needs: Requirements) -> Line:
    """What `reward.kind=code` shuts programs off by."""
    reward = needs.run.reward
    settings = [part.code or reward.code for part in reward.components.values() if part.kind == "code"]
    settings += [reward.code] if reward.kind == "code" or not settings else []
    asks = reward.kind == "code" or any(part.kind == "code" for part in reward.components.values())
    try:
        modes = dict.fromkeys(host.sandbox(each.sandbox) for each in settings)
    except ConfigError as error:
        todo = "docs/rewards.md says what it needs; reward.code.sandbox=rlimits works without it, for models you trust"
        return wrong("code sandbox", str(error), todo) if asks else warn("code sandbox", str(error), todo)
    return ok("code sandbox", f"{', '.join(modes)}" + ("" if asks else "; needed only for reward.kind=code"))
