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
    print("SEEN", json.dumps([torch.cuda.device_count(), torch.cuda.is_available(), [str(w.message) for w in said]]))
"""


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
    """What torch sees in a process of its own. `problem`: why it did not tell; `said`: its warnings."""

    count: int = 0
    available: bool = False
    said: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Gpus:
    """All of the machine.

    Attributes:
        gpus: those that nvidia-smi lists.
        problem: why it lists none.
        driver: NVIDIA's is loaded, whatever nvidia-smi says.
        late: nvidia-smi hangs.
        cuda: the newest that the driver supports.
        seen: what torch sees; None if it was not asked, as there is no GPU or it is built without CUDA.
    """

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    driver: bool = False
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


def read_gpus(host: Host) -> Gpus:
    """Ask nvidia-smi, and torch where there are GPUs for it."""
    driver = host.exists("/proc/driver/nvidia/version")
    answer, fields = _query(host)
    gpus, problem = _listed(answer, fields)
    if not gpus and not driver:
        return Gpus(problem=problem, late=answer.problem.startswith("no answer"))
    cuda = _CUDA.search(host.run(["nvidia-smi", "--version"], SECONDS).out) if gpus else None
    if gpus and cuda is None:  # older drivers say it in their table alone
        cuda = _CUDA.search(host.run(["nvidia-smi"], SECONDS).out)
    return Gpus(
        gpus=gpus,
        problem=problem,
        driver=driver,
        late=answer.problem.startswith("no answer"),
        cuda=Version(cuda[1]) if cuda else None,
        seen=_ask_torch(host) if host.torch.cuda is not None else None,
    )


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
    if not answer.good:
        return (), answer.complaint
    rows = [[part.strip() for part in line.split(",")] for line in answer.out.splitlines() if line.strip()]
    if any(len(row) != len(fields) or not row[0].isdecimal() for row in rows):
        return (), f"what it prints is not understood: {answer.out.strip().splitlines()[0][:100]!r}"
    if not rows:
        return (), "it lists no GPU"
    return tuple(_gpu(dict(zip(fields, row, strict=True))) for row in rows), ""


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
            count, available, said = json.loads(line.removeprefix("SEEN "))
            return Seen(count, available, " ".join(" ".join(said).split()))
    return Seen(problem=answer.complaint)
