"""Checks of environment variables that are known to disturb a run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aspo_megatron.doctor.host import Host
from aspo_megatron.doctor.lines import Line, ok, warn, wrong
from aspo_megatron.doctor.nvidia import Gpus
from aspo_megatron.doctor.requirements import Requirements
from aspo_megatron.launch.rank import rank_settings

_SLOW = {
    "CUDA_LAUNCH_BLOCKING": "the host waits for each kernel",
    "TORCH_NCCL_BLOCKING_WAIT": "the host waits for each collective, and no watchdog detects a hang",
    "NCCL_BLOCKING_WAIT": "the host waits for each collective, and no watchdog detects a hang",
    "NCCL_P2P_DISABLE": "GPUs cannot access each other's memory",
    "NCCL_SHM_DISABLE": "ranks on one machine communicate over the network where GPUs are not peers",
    "NCCL_IB_DISABLE": "nodes communicate over TCP instead of InfiniBand",
}
_OURS = ("megatron", "apex", "torch", "transformers", "transformer_engine")
_LIBRARIES = re.compile(r"lib(nccl|cudnn|cublas|cublasLt|cudart)\.so\.\d")
_MANY_CORES = 8
_RANKS = rank_settings({})
"""What a rank sets for itself where the user has not."""


def environment_lines(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """A line for each that disturbs, or one that says that none does."""
    found = [*_python_path(host), *_threads(host, needs, gpus)]
    if gpus.there:
        found += [*_slow(host), *_cumem(host, needs), *_allocator(host), *_queues(host, needs)]
        found += [*_libraries(host), *_hidden(host, needs, gpus)]
    yield from found or [ok("variables", "none that interferes is set")]


def _slow(host: Host) -> Iterator[Line]:
    for name, effect in _SLOW.items():
        value = host.env.get(name, "")
        if value not in ("", "0"):
            yield warn(name, f"{value}: {effect}", f"unset {name}, unless you are debugging")


def _cumem(host: Host, needs: Requirements) -> Iterator[Line]:
    """Servers that others started must have what the trainer has; NCCL connects no others on a machine."""
    for name in ("NCCL_CUMEM_ENABLE", "NCCL_NVLS_ENABLE"):
        value = host.env.get(name)
        if value is not None and needs.run.rollout.engine == "sglang" and needs.run.rollout.servers.addresses:
            yield warn(name, f"{value}: servers on this machine must have it too", f"unset {name} on both sides")


def _allocator(host: Host) -> Iterator[Line]:
    old, new = host.env.get("PYTORCH_CUDA_ALLOC_CONF"), host.env.get("PYTORCH_ALLOC_CONF")
    if old is not None and new is not None and old != new:
        found = f"{old}, and PYTORCH_ALLOC_CONF={new}: which one takes effect is up to PyTorch"
        yield warn("PYTORCH_CUDA_ALLOC_CONF", found, "unset PYTORCH_CUDA_ALLOC_CONF, the older name")
    elif (text := new or old) is not None and _RANKS["PYTORCH_ALLOC_CONF"] not in text:
        name = "PYTORCH_ALLOC_CONF" if new is not None else "PYTORCH_CUDA_ALLOC_CONF"
        todo = f"unset {name}: ranks then set {_RANKS['PYTORCH_ALLOC_CONF']}, as micro-batches differ in length"
        yield warn(name, f"{text}: memory may be lost to fragmentation", todo)


def _queues(host: Host, needs: Requirements) -> Iterator[Line]:
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    value = host.env.get(name)
    if value is not None and value != _RANKS[name] and needs.run.parallel.tp > 1:
        found = f"{value}: tensor parallelism needs communication to start first, hence {_RANKS[name]}"
        yield warn(name, found, f"unset {name}: ranks then set {_RANKS[name]}")


def _python_path(host: Host) -> Iterator[Line]:
    """Folders before the environment's own that hold another copy of a package the run imports."""
    for folder in host.env.get("PYTHONPATH", "").split(":"):
        names = host.names(folder) if folder else ()
        hidden = [name for name in _OURS if name in names or f"{name}.py" in names]
        if hidden:
            found = f"{folder} has {', '.join(hidden)}, which Python imports instead of what is installed"
            yield warn("PYTHONPATH", found, f"unset PYTHONPATH, or remove {folder} from it")


def _libraries(host: Host) -> Iterator[Line]:
    """Folders that come before torch's own libraries, and hold others of these."""
    for folder in host.env.get("LD_LIBRARY_PATH", "").split(":"):
        found = sorted({match[1] for name in host.names(folder) if (match := _LIBRARIES.match(name))}) if folder else []
        if found and "site-packages" not in folder:
            told = f"{folder} has {', '.join(found)}, which torch may load in place of its own"
            yield warn("LD_LIBRARY_PATH", told, f"remove {folder} from it if torch fails or reports another NCCL")


def _threads(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """`aspo train` sets it for ranks that it starts; torchrun and srun do not, or not as the run says."""
    value = host.env.get("OMP_NUM_THREADS")
    launched = "SLURM_JOB_ID" in host.env or "TORCHELASTIC_RUN_ID" in host.env
    if value is None and launched and host.cores() >= _MANY_CORES and needs.ranks_here > 1:
        found = f"not set: each of {needs.ranks_here} ranks starts up to {host.cores()} threads"
        yield warn("OMP_NUM_THREADS", found, "export OMP_NUM_THREADS=1, as slurm/train.sbatch does")
    elif value is not None and value.isdecimal() and int(value) * needs.ranks_here > host.cores() and launched:
        found = f"{value} threads for each of {needs.ranks_here} ranks, on {host.cores()} cores"
        yield warn("OMP_NUM_THREADS", found, "export OMP_NUM_THREADS=1")


def _hidden(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    value = host.env.get("CUDA_VISIBLE_DEVICES")
    if value is None or not gpus.gpus:
        return
    if value in ("", "-1", "NoDevFiles"):
        say = warn if needs.run.platform.device == "cpu" else wrong
        yield say("CUDA_VISIBLE_DEVICES", f"{value!r} hides all GPUs", "unset CUDA_VISIBLE_DEVICES")
    elif len(value.split(",")) < len(gpus.gpus):
        yield ok("CUDA_VISIBLE_DEVICES", f"{value}: {len(value.split(','))} of {len(gpus.gpus)} GPUs")
