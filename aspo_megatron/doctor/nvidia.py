"""The GPUs, as nvidia-smi and torch tell of them. No kernel is started, and no memory of a GPU is taken."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass

from packaging.version import Version

from aspo_megatron.doctor.host import Answer, Host

SECONDS = 15.0
"""How long nvidia-smi may take. It opens each GPU, which takes up to a second each without persistence mode."""

_TORCH_SECONDS = 30.0
_SPOKEN = 200
_FIELDS = (
    *("index", "uuid", "name", "driver_version", "memory.total", "memory.used"),
    *("compute_cap", "mig.mode.current", "persistence_mode", "ecc.errors.uncorrected.volatile.total"),
)
_UNKNOWN_FIELD = re.compile(r'Field "([\w.]+)" is not a valid field to query')
_CUDA = re.compile(r"CUDA (?:UMD |Driver )?Version\s*:\s*(\d+\.\d+)", flags=re.IGNORECASE)
"""In `nvidia-smi --version`; drivers from 610 on call it by its user-mode part."""

_ASK_TORCH = """
import json, warnings, torch
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    count, available = torch.cuda.device_count(), torch.cuda.is_available()
    about = [torch.cuda.get_device_properties(number) for number in range(count if available else 0)]
    listed = [[str(getattr(each, "uuid", "")), each.total_memory] for each in about]
    print("SEEN", json.dumps([count, available, [str(w.message) for w in said], listed]))
"""
_NO_DEVICES = "No devices were found"
_NONE_SHOWN = "NVIDIA's driver is loaded, but no GPU is visible to this {}"


@dataclass(frozen=True)
class Gpu:
    """A GPU. None: nvidia-smi does not tell; memory in MiB."""

    index: str
    uuid: str
    name: str
    driver: str
    memory: int | None
    used: int | None
    capability: tuple[int, int] | None
    mig: bool
    persistence: bool | None
    errors: int | None


@dataclass(frozen=True)
class Seen:
    """What torch sees in a process of its own.

    Attributes:
        count: GPUs.
        available: they can be used.
        said: its warnings.
        memory: bytes of each GPU, or of a slice of it, by the end of its UUID.
        problem: why torch did not tell.
    """

    count: int = 0
    available: bool = False
    said: str = ""
    memory: tuple[tuple[str, int], ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Gpus:
    """All of the machine.

    Attributes:
        gpus: those that nvidia-smi lists, without those that are hidden from torch.
        problem: why it lists none, or what it says of those that it does not list.
        driver: NVIDIA's is loaded, whatever nvidia-smi says, and this process has the use of it.
        shown_none: it is loaded, but this container or job has not been given a GPU.
        late: nvidia-smi hangs.
        cuda: the newest that the driver supports.
        seen: what torch sees; None if it was not asked, as there is no GPU or it is built without CUDA.
    """

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    driver: bool = False
    shown_none: bool = False
    late: bool = False
    cuda: Version | None = None
    seen: Seen | None = None

    @property
    def there(self) -> bool:
        """Whether the machine has any, usable or not."""
        return bool(self.gpus) or self.driver

    @property
    def usable(self) -> int:
        """GPUs that a run would take."""
        return self.seen.count if self.seen is not None and self.seen.available else 0

    @property
    def capability(self) -> tuple[int, int] | None:
        """The least of all; None if it is not known."""
        known = [gpu.capability for gpu in self.gpus if gpu.capability is not None]
        return min(known, default=None)

    @property
    def memory(self) -> int | None:
        """Bytes of the smallest, or of its slice."""
        if self.seen is not None and self.seen.memory:
            return min(size for _, size in self.seen.memory)
        return min((gpu.memory * 2**20 for gpu in self.gpus if gpu.memory is not None), default=None)


def read_gpus(host: Host) -> Gpus:
    """Ask nvidia-smi, and torch where there are GPUs for it."""
    driver = host.exists("/proc/driver/nvidia/version")
    answer, fields = _query(host)
    gpus, problem = _listed(answer, fields)
    if driver and not gpus and (place := _without(host, answer)):
        return Gpus(problem=_NONE_SHOWN.format(place), shown_none=True)
    if not gpus and not driver:
        return Gpus(problem=problem, late=answer.problem.startswith("no answer"))
    cuda = _CUDA.search(host.run(["nvidia-smi", "--version"], SECONDS).out) if gpus else None
    if gpus and cuda is None:  # older drivers say it in their table alone
        cuda = _CUDA.search(host.run(["nvidia-smi"], SECONDS).out)
    seen = _ask_torch(host) if host.torch.cuda is not None else None
    return Gpus(
        gpus=_shown(gpus, seen),
        problem=problem,
        driver=driver,
        late=answer.problem.startswith("no answer"),
        cuda=Version(cuda[1]) if cuda else None,
        seen=seen,
    )


def _without(host: Host, answer: Answer) -> str:
    """Where this runs, if the driver is the machine's, but its GPUs are not for this process."""
    if answer.problem == "not found" and not any(re.fullmatch(r"nvidia(\d+|ctl)", name) for name in host.names("/dev")):
        return "container"
    return "job" if _NO_DEVICES in answer.out + answer.err and "SLURM_JOB_ID" in host.env else ""


def _shown(gpus: tuple[Gpu, ...], seen: Seen | None) -> tuple[Gpu, ...]:
    """Those that torch sees: CUDA_VISIBLE_DEVICES may count in another order than nvidia-smi."""
    ends = tuple(uuid for uuid, _ in seen.memory if uuid) if seen is not None else ()
    # A slice has a UUID of its own, of which the list says nothing.
    return tuple(gpu for gpu in gpus if ends and gpu.uuid.endswith(ends)) or gpus


def _query(host: Host) -> tuple[Answer, list[str]]:
    """Nvidia-smi's answer, and the fields that it has: older drivers do not know all, and name the first such."""
    fields = list(_FIELDS)
    while True:
        command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        answer = host.run(command, SECONDS)
        unknown = _UNKNOWN_FIELD.search(answer.out + answer.err)
        if unknown is None or unknown[1] not in fields:
            return answer, fields
        fields.remove(unknown[1])


def _listed(answer: Answer, fields: list[str]) -> tuple[tuple[Gpu, ...], str]:
    """The GPUs in an answer, or why there are none."""
    rows, others = [], []
    for line in answer.out.splitlines():
        row = [part.strip() for part in line.split(",")]
        if len(row) == len(fields) and row[0].isdecimal():
            rows.append(row)
        elif line.strip():
            others.append(line.strip())
    # One that is lost, or whose memory for its own data is damaged, is told of beside those that are well.
    said = " ".join(others)[:_SPOKEN]
    if not answer.good:
        problem = said or " ".join(answer.err.split())[:_SPOKEN] or answer.problem or f"exit code {answer.code}"
    elif rows:
        problem = said
    else:
        problem = f"what it prints is not understood: {said!r}" if said else "it lists no GPU"
    return tuple(_gpu(dict(zip(fields, row, strict=True))) for row in rows), problem


def _gpu(row: dict[str, str]) -> Gpu:
    capability = re.fullmatch(r"(\d+)\.(\d+)", row.get("compute_cap", ""))
    persistence = row.get("persistence_mode")
    return Gpu(
        index=row.get("index", ""),
        uuid=row.get("uuid", ""),
        name=row.get("name", ""),
        driver=row.get("driver_version", ""),
        memory=_number(row.get("memory.total")),
        used=_number(row.get("memory.used")),
        capability=(int(capability[1]), int(capability[2])) if capability else None,
        mig=row.get("mig.mode.current") == "Enabled",
        persistence={"Enabled": True, "Disabled": False}.get(persistence or ""),
        errors=_number(row.get("ecc.errors.uncorrected.volatile.total")),
    )


def _number(text: str | None) -> int | None:
    """None for `[N/A]`, `[Not Supported]` and the like."""
    return int(text) if text is not None and text.isdecimal() else None


def _ask_torch(host: Host) -> Seen:
    """In a process of its own, as a driver that is broken may hang or end it."""
    answer = host.run([sys.executable, "-c", _ASK_TORCH], _TORCH_SECONDS)
    for line in answer.out.splitlines():
        if line.startswith("SEEN "):
            count, available, said, listed = json.loads(line.removeprefix("SEEN "))
            memory = tuple((uuid, size) for uuid, size in listed)
            return Seen(count, available, " ".join(" ".join(said).split()), memory)
    return Seen(problem=answer.complaint)
