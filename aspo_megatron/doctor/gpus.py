"""Checks of the GPUs themselves, and of the torch that is to use them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from packaging.version import Version

from aspo_megatron.doctor.host import Host, Torch
from aspo_megatron.doctor.lines import Line, gib, ok, unknown, unneeded, warn, wrong
from aspo_megatron.doctor.nvidia import SECONDS, Gpu, Gpus
from aspo_megatron.doctor.requirements import Requirements
from aspo_megatron.doctor.slurm import shown_own
from aspo_megatron.foreign_text import counted

_NEWER_DRIVER = "or install a newer driver"
_OLD_CUDA_INDEX = "--index-url https://download.pytorch.org/whl/cu126"
"""The builds for drivers of CUDA 12, which PyTorch has beside those of PyPI. They lack Blackwell's kernels."""
_PYPI_CUDA_MAJOR = 13
_HELD_MIB = 1024
_SPOKEN = 140


def gpu_lines(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """What nvidia-smi says of each GPU, and how many the run wants."""
    if not gpus.gpus:
        yield _no_list(needs, gpus)
    else:
        if gpus.problem:
            yield warn("nvidia-smi", gpus.problem, _doctor_driver())
        yield _named(gpus)
        yield from _modes(gpus)
        yield _memory_held(host, gpus)
        if len(gpus.gpus) > 1:
            yield from _peers(host, needs, gpus)
    yield _enough(host, needs, gpus)


def torch_lines(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """Whether torch's build, the driver and the GPUs fit together."""
    torch = host.torch
    if torch.problem:
        return  # said where packages are
    if not gpus.there:
        yield ok("torch's build", f"{_build(torch)}; there is no GPU")
    elif torch.cuda is None:
        yield _cpu_build(needs, torch, gpus)
    else:
        yield _driver(host, needs, gpus)
        yield from _architectures(needs, torch, gpus)


def _harm(needs: Requirements) -> Callable[[str, str, str], Line]:
    """How bad it is when GPUs that are there cannot be used."""
    return warn if needs.run.platform.device == "cpu" else wrong


def _build(torch: Torch) -> str:
    return f"{torch.version}, for {'CPUs' if torch.cuda is None else f'CUDA {torch.cuda}'}"


def _install(torch: Torch, gpus: Gpus) -> str:
    """The line that installs a build for the driver and the GPUs there are."""
    release = Version(torch.version).base_version
    old = gpus.cuda is not None and gpus.cuda.major < _PYPI_CUDA_MAJOR
    if not old:
        return f"pip install --force-reinstall 'torch=={release}'"
    if gpus.capability is not None and gpus.capability >= (10, 0):
        return "install a driver for CUDA 13 (580 or newer)"
    return f"pip install --force-reinstall 'torch=={release}' {_OLD_CUDA_INDEX}, {_NEWER_DRIVER}"


def _cpu_build(needs: Requirements, torch: Torch, gpus: Gpus) -> Line:
    found = f"{_build(torch)}, but this machine has {len(gpus.gpus) or 'a driver for'} NVIDIA GPUs, which it cannot use"
    if needs.run.platform.device == "cpu":
        return warn("torch's build", f"{found}; platform.device=cpu does not need them", _install(torch, gpus))
    return wrong("torch's build", found, _install(torch, gpus))


def _driver(host: Host, needs: Requirements, gpus: Gpus) -> Line:
    """Torch in a process of its own has the last word: a driver may be made compatible, or broken."""
    torch, seen, say = host.torch, gpus.seen, _harm(needs)
    built = Version(torch.cuda or "0")
    supports = f"the driver supports CUDA {gpus.cuda}" if gpus.cuda else "which CUDA the driver supports is not known"
    found = f"{_build(torch)}; {supports}"
    if seen is not None and seen.problem:
        return say("torch and driver", f"{found}; torch fails when asked for GPUs: {seen.problem}", _doctor_driver())
    if seen is not None and not seen.available:
        if gpus.cuda is not None and built.major > gpus.cuda.major:
            return say("torch and driver", found, _install(torch, gpus))
        said = f": {seen.said[:_SPOKEN]}" if seen.said else ""
        if hiding := host.env.get("CUDA_VISIBLE_DEVICES"):
            said += f"; CUDA_VISIBLE_DEVICES={hiding} may hide them"
        return say("torch and driver", f"{found}; torch sees no GPU{said}", _doctor_driver())
    if gpus.cuda is not None and built.major == gpus.cuda.major and built > gpus.cuda:
        todo = f"nothing, unless a kernel fails with 'unsupported toolchain': then {_install(torch, gpus)}"
        return warn("torch and driver", f"{found}, older only by minor versions, with which CUDA is compatible", todo)
    return ok("torch and driver", found)


def _doctor_driver() -> str:
    return "see what `nvidia-smi` and `sudo dmesg | grep -iE 'nvrm|xid'` say; reload the driver, or restart the machine"


def _architectures(needs: Requirements, torch: Torch, gpus: Gpus) -> Iterator[Line]:
    """Whether torch has kernels for each GPU: compiled for its generation, or in a form that the driver compiles."""
    if not torch.architectures:
        yield unknown("torch's kernels", "torch does not say which GPUs it has kernels for")
        return
    capabilities = {gpu.capability: gpu.name for gpu in gpus.gpus if gpu.capability is not None}
    for capability, name in sorted(capabilities.items()):
        number = f"{capability[0]}.{capability[1]}"
        if _has_kernels(torch.architectures, capability):
            yield ok("torch's kernels", f"for {name}, compute capability {number}")
        else:
            built = " ".join(torch.architectures)
            yield _harm(needs)(
                "torch's kernels",
                f"none for {name}, compute capability {number}: it was built for {built}",
                f"install a torch with sm_{capability[0]}{capability[1]}, or use other GPUs (CUDA_VISIBLE_DEVICES=...)",
            )


def _has_kernels(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    for text in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", text)
        if not found:
            continue
        built = (int(found[2]), int(found[3]))
        if found[4] == "a":  # for this one alone
            fits = built == capability
        elif found[1] == "sm" or found[4] == "f":
            fits = built[0] == capability[0] and built <= capability
        else:
            fits = built <= capability
        if fits:
            return True
    return False


def _no_list(needs: Requirements, gpus: Gpus) -> Line:
    if gpus.shown_none:
        asked = "docker --gpus all, apptainer --nv, Slurm --gpus-per-node=N"
        todo = f"nothing, for a run on CPUs; otherwise request them: {asked}"
        return warn("nvidia-smi", gpus.problem, todo)
    if gpus.driver and gpus.late:
        return _harm(needs)("nvidia-smi", f"{gpus.problem}: the driver hangs", _doctor_driver())
    if gpus.driver:
        mark = warn if gpus.problem == "not found" else _harm(needs)
        return mark("nvidia-smi", f"{gpus.problem}, although NVIDIA's driver is loaded", _doctor_driver())
    if gpus.late:
        return warn("nvidia-smi", gpus.problem, _doctor_driver())
    if gpus.problem == "not found":
        return unneeded("nvidia-smi", "no NVIDIA GPU or driver here")
    return warn(
        "nvidia-smi", gpus.problem, "nothing, if this machine should have no GPU; otherwise load NVIDIA's driver"
    )


def _named(gpus: Gpus) -> Line:
    names = [gpu.name for gpu in gpus.gpus]
    listed = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    first = gpus.gpus[0]
    memory = min((gpu.memory for gpu in gpus.gpus if gpu.memory is not None), default=None)
    of_each = f", {gib(memory * 2**20)} each" if memory is not None else ""
    return ok("GPUs", f"{listed}{of_each}, driver {first.driver}")


def _modes(gpus: Gpus) -> Iterator[Line]:
    mig = [gpu.index for gpu in gpus.gpus if gpu.mig]
    if mig:
        todo = f"sudo nvidia-smi -i {','.join(mig)} -mig 0, or use other GPUs (CUDA_VISIBLE_DEVICES=...)"
        yield warn(
            "MIG", f"on for GPU {', '.join(mig)}: a process sees one slice, and NCCL cannot connect slices", todo
        )
    broken = [f"{gpu.errors} on GPU {gpu.index}" for gpu in gpus.gpus if gpu.errors]
    if broken:
        yield warn("memory errors", f"uncorrected: {', '.join(broken)}", "have it reset (nvidia-smi -r) or checked")
    off = [gpu.index for gpu in gpus.gpus if gpu.persistence is False]
    if off:
        todo = "sudo nvidia-smi -pm 1, or run nvidia-persistenced"
        yield warn(
            "persistence", f"off for GPU {', '.join(off)}: the driver reloads for each run, which takes seconds", todo
        )


def _memory_held(host: Host, gpus: Gpus) -> Line:
    held = [gpu for gpu in gpus.gpus if (gpu.used or 0) > _HELD_MIB]
    if not held:
        return ok("memory in use", "no GPU has more than 1 GiB in use")
    command = ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,process_name,used_memory"]
    listed = host.run([*command, "--format=csv,noheader,nounits"], SECONDS).out
    rows = [[part.strip() for part in line.split(",")] for line in listed.splitlines()]
    said = "; ".join(_holder(gpu, [row for row in rows if len(row) == 4 and row[0] == gpu.uuid]) for gpu in held)
    return warn("memory in use", said, "end these processes, or use other GPUs (CUDA_VISIBLE_DEVICES=...)")


def _holder(gpu: Gpu, rows: list[list[str]]) -> str:
    by = ", ".join(f"{row[2].rpartition('/')[2]} (pid {row[1]})" for row in rows)
    return f"GPU {gpu.index}: {gib((gpu.used or 0) * 2**20)} held by {by or 'processes that are not visible from here'}"


def _peers(host: Host, needs: Requirements, gpus: Gpus) -> Iterator[Line]:
    """Whether GPUs read each other's memory, and over what."""
    answer = host.run(["nvidia-smi", "topo", "-p2p", "r"], SECONDS)
    pairs = _matrix(answer.out)
    apart = [pair for pair, value in pairs.items() if value != "OK"]
    if not pairs:
        yield unknown(
            "peers", f"nvidia-smi topo -p2p r: {answer.complaint if not answer.good else 'no matrix in its output'}"
        )
    elif apart:
        one, other = apart[0]
        yield warn(
            "peers",
            f"{len(apart)} of {len(pairs)} pairs cannot read each other's memory, such as GPU {one} and {other} "
            f"({pairs[one, other]}): NCCL goes through host memory",
            "IOMMU off or in passthrough, ACS off (see NCCL's troubleshooting page); some GPUs never support it",
        )
    else:
        yield ok("peers", "all GPUs can read each other's memory")
    links = _matrix(host.run(["nvidia-smi", "topo", "-m"], SECONDS).out)
    kinds = dict.fromkeys(links.values())
    if kinds:
        slow = not all(kind.startswith("NV") for kind in kinds) and needs.run.parallel.tp > 1
        found = f"between GPUs: {', '.join(kinds)}"
        todo = "nothing; NVLink (NV#) would make parallel.tp faster, pp and dp need it less"
        yield warn("links", found, todo) if slow else ok("links", found)


def _matrix(text: str) -> dict[tuple[int, int], str]:
    """The pairs of GPUs in a table of `nvidia-smi topo`; its other columns are of network cards and of affinities."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).split() for line in text.splitlines()]
    header = next((line for line in lines if line and line[0] == "GPU0" and "X" not in line), [])
    columns = [int(name[3:]) for name in header if re.fullmatch(r"GPU\d+", name)]
    pairs: dict[tuple[int, int], str] = {}
    for line in lines:
        if len(line) > len(columns) and re.fullmatch(r"GPU\d+", line[0]) and "X" in line:
            row = int(line[0][3:])
            values = zip(columns, line[1 : len(columns) + 1], strict=True)
            pairs |= {(row, column): value for column, value in values if column > row}
    return pairs


def _enough(host: Host, needs: Requirements, gpus: Gpus) -> Line:
    """Whether there is a GPU for each rank and server."""
    device, ranks, servers = needs.run.platform.device, needs.ranks_here, needs.server_gpus
    wanted = counted(ranks, "rank") + (f" and {servers} for servers" if servers else "")
    if device == "cpu":
        return unneeded("GPUs for the run", f"platform.device=cpu: {wanted} on CPUs")
    if needs.away:
        there = f"srun --nodes=1 --gpus-per-node={needs.ranks_here + servers} aspo doctor{needs.words}"
        return unneeded("GPUs for the run", f"{wanted} per node, on nodes that have them; to check there: {there}")
    if not gpus.usable:
        return _none_to_use(needs, gpus, wanted)
    if shown_own(host, gpus) and not servers:
        return ok("GPUs for the run", "torch sees the one GPU of this task's rank")
    if ranks + servers > gpus.usable:
        todo = "smaller parallel.dp, tp, cp or pp; fewer rollout.servers.count; or more nodes (docs/slurm.md)"
        return wrong("GPUs for the run", f"{wanted} need {ranks + servers}, but torch sees {gpus.usable}", todo)
    return ok("GPUs for the run", f"torch sees {gpus.usable}, {wanted}")


def _none_to_use(needs: Requirements, gpus: Gpus, wanted: str) -> Line:
    what = "GPUs for the run"
    if needs.run.platform.device == "cuda":
        todo = "run it on a machine with GPUs, or set platform.device=cpu"
        return wrong(what, f"platform.device=cuda, but torch sees none; needed for {wanted}", todo)
    if needs.config is None or gpus.there:
        return unneeded(what, f"none to use: platform.device=auto uses CPUs for {wanted}")
    todo = f"run it on a machine with GPUs; a small copy of it runs on CPUs: aspo train{needs.words} --tiny"
    return warn(what, f"none: platform.device=auto uses CPUs for {wanted}", todo)
