"""Checks of Slurm: whether this is a cluster of it, and whether its settings fit the run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.lines import Line, ok, unknown, unneeded, warn, wrong
from aspo_megatron.doctor.nvidia import Gpus
from aspo_megatron.doctor.requirements import Requirements

_SECONDS = 10.0


def slurm_lines(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """The programs, the controller, the allocation that this runs in, and the section `slurm`."""
    inside = "SLURM_JOB_ID" in host.env and not needs.away
    if not needs.slurm:
        yield unneeded("Slurm", "sbatch is not installed here")
        return
    version = host.run(["sbatch", "--version"], _SECONDS)
    if version.good:
        yield ok("Slurm", version.out.strip() or "sbatch is installed")
    elif inside:
        yield warn(
            "Slurm", f"sbatch: {version.complaint}", "jobs requeue with scontrol; it must be in PATH on the nodes"
        )
    else:
        yield warn("Slurm", f"sbatch: {version.complaint}", "ask your cluster's administrators")
    yield _controller(host)
    yield from _programs(host)
    if inside:
        yield _allocation(host, needs)
        yield _gpus_of_task(host, gpus)
    yield from _template(needs)
    if needs.config is not None and needs.shape_problem:
        yield warn("section slurm", needs.shape_problem, f"aspo slurm{needs.words} refuses this section as it is")
    elif needs.config is not None and needs.run.slurm.gpus_per_node and not inside:
        yield from _partition(host, needs)


def _controller(host: Host) -> Line:
    answer = host.run(["scontrol", "ping"], _SECONDS)
    said = " ".join(answer.out.split())
    if re.search(r"\bis UP\b", said):
        return ok("controller", said)
    todo = "jobs cannot be submitted until it is back"
    return warn("controller", said or answer.complaint, todo)


def _programs(host: Host) -> Iterator[Line]:
    lacking = [name for name in ("srun", "scontrol", "squeue", "scancel") if host.which(name) is None]
    if lacking:
        yield warn("its programs", f"{', '.join(lacking)} not in PATH", "slurm/train.sbatch calls them")
    else:
        yield ok("its programs", "srun, scontrol, squeue, scancel")


def _allocation(host: Host, needs: Requirements) -> Line:
    env = host.env
    nodes, tasks = env.get("SLURM_JOB_NUM_NODES", "1"), env.get("SLURM_NTASKS", "?")
    found = f"job {env['SLURM_JOB_ID']}: {nodes} nodes, {tasks} tasks"
    wanted = needs.run.parallel.world_size
    by_srun = "SLURM_PROCID" in env and "SLURM_STEP_ID" in env and tasks.isdecimal() and int(tasks) > 1
    if by_srun and needs.config is not None and int(tasks) != wanted:
        todo = f"srun --ntasks={wanted}, or another layout: each task is a rank"
        return wrong("allocation", f"{found}, but tp x cp x dp x pp = {wanted} ranks are needed", todo)
    return ok("allocation", found)


def shown_own(host: Host, gpus: Gpus) -> bool:
    """Whether this is one of several tasks on a node, and shown one GPU that the others are not."""
    env, tasks = host.env, _tasks_here(host)
    on_node = env.get("SLURM_GPUS_ON_NODE", "")
    apart = env.get("SLURM_GPUS_PER_TASK") or (on_node.isdecimal() and int(on_node) >= tasks)
    return tasks > 1 and gpus.usable == 1 and bool(apart)


def _tasks_here(host: Host) -> int:
    """Tasks on this node, of Slurm's `8(x2)`; 0 if it does not say."""
    if "SLURM_JOB_ID" not in host.env:
        return 0
    text = host.env.get("SLURM_STEP_TASKS_PER_NODE", host.env.get("SLURM_TASKS_PER_NODE", ""))
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def _gpus_of_task(host: Host, gpus: Gpus) -> Line:
    """A task that is shown one GPU takes it; one that is shown all takes that of its number on the node."""
    env = host.env
    on_node = env.get("SLURM_GPUS_ON_NODE", "")
    shown = f"{gpus.usable} GPUs are visible here" + (f", the job has {on_node} on this node" if on_node else "")
    if env.get("SLURM_GPUS_PER_TASK"):
        shown += f", {env['SLURM_GPUS_PER_TASK']} for each task"
    tasks = _tasks_here(host)
    if not gpus.usable:
        return warn("its GPUs", "this task sees none", "request them: --gpus-per-node=N or --gres=gpu:N (sinfo -o %G)")
    if shown_own(host, gpus):
        return ok("its GPUs", f"{shown}: each task uses the one that it sees")
    if tasks > gpus.usable:
        todo = f"--gpus-per-node={tasks}, or fewer tasks per node"
        return wrong("its GPUs", f"{shown}, for {tasks} tasks on a node", todo)
    return ok("its GPUs", shown)


def _template(needs: Requirements) -> Iterator[Line]:
    from aspo_megatron.errors import UserError
    from aspo_megatron.slurm.job import read_template

    try:
        read_template()
    except UserError as error:
        yield warn("slurm/train.sbatch", str(error), "reinstall aspo")
        return
    venv = needs.run.slurm.venv
    if venv is not None and venv != Path("none") and not (venv / "bin" / "aspo").is_file():
        yield warn(
            "slurm.venv", f"{venv} has no bin/aspo here", "set it to the folder that all nodes see, null, or none"
        )


def _partition(host: Host, needs: Requirements) -> Iterator[Line]:
    """Whether the partition has nodes with as many GPUs as a job would ask for."""
    slurm = needs.run.slurm
    command = ["sinfo", "--noheader", "--format=%R|%G|%l"]
    answer = host.run([*command, *([f"--partition={slurm.partition}"] if slurm.partition else [])], _SECONDS)
    if not answer.good:
        yield unknown("its nodes", f"sinfo: {answer.complaint}")
        return
    rows = [row for line in answer.out.splitlines() if len(row := line.strip().split("|")) == 3]
    if slurm.partition and not rows:
        yield wrong("its nodes", f"there is no partition {slurm.partition}", "slurm.partition=NAME, one of `sinfo -s`")
        return
    most = max((_gpus(row[1]) for row in rows), default=0)
    where = f"partition {slurm.partition}" if slurm.partition else "all partitions"
    if most < slurm.gpus_per_node:
        todo = f"slurm.gpus_per_node={most} and a layout for it, or slurm.partition=NAME with larger nodes"
        yield warn(
            "its nodes", f"{where}: at most {most} GPUs per node, but a job asks for {slurm.gpus_per_node}", todo
        )
    else:
        yield ok("its nodes", f"{where}: up to {most} GPUs per node")


def _gpus(gres: str) -> int:
    """Of Slurm's `gpu:h100:8(S:0-1),nvme:1`."""
    return sum(int(number) for number in re.findall(r"(?:^|,)gpu(?::[\w.-]+)?:(\d+)", gres))
