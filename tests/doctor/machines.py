"""Machines that are not here: what their programs print, their files, limits and packages."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from aspo_megatron.doctor.host import Answer, Disk, Host, Torch
from aspo_megatron.doctor.lines import Line
from aspo_megatron.doctor.report import examine
from aspo_megatron.doctor.requirements import Requirements, read_requirements
from aspo_megatron.errors import ConfigError
from aspo_megatron.parallel.device.packages import Packages

NOT_FOUND = Answer(None, problem="not found")
HANGS = Answer(None, problem="no answer within 15 s")
NO_PACKAGES = Packages(None, apex=False, other_apex=False, apex_gradient_kernels=False, triton=False)
WINDOW = SpecifierSet(">=2.9.0a0,<2.12.0")
ENGINE = replace(NO_PACKAGES, transformer_engine=Version("2.11.0"), triton=True, engine_window=WINDOW)
CUDA_TORCH = Torch(
    "2.13.0+cu130", "13.0", ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"), "2.29.7"
)
CPU_TORCH = Torch("2.13.0+cpu")
VERSIONS = {"python": "3.11.7", "torch": "2.13.0", "megatron-core": "0.16.1", "transformers": "5.23.0"}

UUID = "GPU-4f8a9b1c-0000-0000-0000-00000000000"
P2P = """\t\x1b[4mGPU0\tGPU1\x1b[0m
 GPU0\tX\t{value}
 GPU1\t{value}\tX

Legend:

  X    = Self
  OK   = Status Ok
  CNS  = Chipset not supported
"""
LINKS = """\t\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \t{value}\tSYS\t0-47,96-143\t0\t\tN/A
GPU1\t{value}\t X \tNODE\t48-95,144-191\t1\t\tN/A
NIC0\tSYS\tNODE\t X

Legend:

  X    = Self
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def gpu_row(number: int, **changed: object) -> str:
    """A line of `nvidia-smi --query-gpu`, of an H100 if nothing is changed."""
    values: dict[str, object] = {
        "index": number,
        "uuid": f"{UUID}{number}",
        "name": "NVIDIA H100 80GB HBM3",
        "driver": "580.95.05",
        "memory": 81559,
        "used": 4,
        "capability": "9.0",
        "mig": "Disabled",
        "persistence": "Enabled",
        "errors": 0,
    }
    return ", ".join(map(str, (values | changed).values()))


def versions_of_driver(driver: str = "580.95.05", cuda: str = "13.0") -> str:
    """`nvidia-smi --version`."""
    return (
        f"NVIDIA-SMI version  : {driver}\nNVML version        : {driver[:6]}\nDRIVER version      : {driver}\n"
        f"CUDA Version        : {cuda}\n"
    )


def nvidia_smi(
    rows: Sequence[str], *, driver: str = versions_of_driver(), p2p: str = "OK", link: str = "NV18"
) -> dict[str, Answer]:
    """Its answers to all questions."""
    return {
        "nvidia-smi --query-gpu=": Answer(0, "".join(f"{row}\n" for row in rows)),
        "nvidia-smi --version": Answer(0, driver),
        "nvidia-smi topo -p2p r": Answer(0, P2P.format(value=p2p)),
        "nvidia-smi topo -m": Answer(0, LINKS.format(value=link)),
        "nvidia-smi --query-compute-apps=": Answer(0, ""),
    }


def torch_sees(
    count: int, available: bool = True, said: str = "", memory: Sequence[tuple[str, int]] = ()
) -> dict[str, Answer]:
    """What torch in a process of its own says of GPUs; `memory`: bytes of each by its UUID."""
    words = f'["{said}"]' if said else "[]"
    seen = Answer(
        0, f"SEEN [{count}, {str(available).lower()}, {words}, {json.dumps([list(each) for each in memory])}]"
    )
    return {"PYTHON -c \nimport json, warnings, torch": seen, "PYTHON -c import transformer_engine": Answer(0)}


def eight_gpus(**changed: object) -> dict[str, Answer]:
    """A node with eight H100, of which each row is changed in the same way."""
    return nvidia_smi([gpu_row(number, **changed) for number in range(8)]) | torch_sees(8)


class Imitated(Host):
    """A machine of which nothing is real."""

    def __init__(
        self,
        answers: Mapping[str, Answer] | None = None,
        *,
        files: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        torch: Torch = CUDA_TORCH,
        packages: Packages = ENGINE,
        versions: Mapping[str, str] | None = None,
        requires: Sequence[str] = ("numpy",),
        limits: Mapping[str, int | None] | None = None,
        disks: Mapping[str, Disk] | None = None,
        cores: int = 96,
        programs: Sequence[str] = ("g++",),
        sandbox: str = "namespaces",
    ) -> None:
        self.env = dict(env or {})
        self.asked: list[str] = []
        self.__dict__ |= {"torch": torch, "packages": packages}
        self._answers = {"getent hosts": Answer(0, "10.0.0.7       node7\n")} | dict(answers or {})
        self._files = {
            "/proc/meminfo": "MemTotal:       2113537024 kB\nMemAvailable:   2000000000 kB\n",
            "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module",
            "/dev/nvidiactl": "",
            "/sys/class/net/eth0/operstate": "up\n",
        } | dict(files or {})
        self._versions = VERSIONS | {"numpy": "2.4.0"} | dict(versions or {})
        self._requires = tuple(requires)
        self._limits = {"nofile": 1048576, "memlock": None, "nproc": None, "core": 0} | dict(limits or {})
        self._disks = {"/dev/shm": Disk(1 << 40, 1 << 40)} | dict(disks or {})
        self._cores = cores
        self._programs = programs
        self._sandbox = sandbox

    def run(self, command: Sequence[str], seconds: float) -> Answer:
        text = " ".join(command).replace(sys.executable, "PYTHON")
        self.asked.append(text)
        return next((answer for start, answer in self._answers.items() if text.startswith(start)), NOT_FOUND)

    def read(self, path: str | Path) -> str | None:
        return self._files.get(str(path))

    def names(self, folder: str | Path) -> tuple[str, ...]:
        start = f"{folder}/"
        return tuple(sorted({path[len(start) :].split("/")[0] for path in self._files if path.startswith(start)}))

    def exists(self, path: str | Path) -> bool:
        return any(f"{name}/".startswith(f"{path}/") for name in self._files) or str(path) == "/"

    def unreadable(self, path: str | Path, *, folder: bool = False) -> str:
        return "" if self.exists(path) else "No such file or directory"

    def which(self, program: str) -> str | None:
        return f"/usr/bin/{program}" if program in self._programs else None

    def writable(self, folder: str | Path) -> bool:
        return True

    def disk(self, path: str | Path) -> Disk | None:
        return self._disks.get(str(path), Disk(1 << 50, 1 << 49))

    def limit(self, name: str) -> int | None:
        return self._limits[name]

    def hard_limit(self, name: str) -> int | None:
        return self._limits[name]

    def cores(self) -> int:
        return self._cores

    def name(self) -> str:
        return "node7"

    def temporary(self) -> Path:
        return Path("/tmp")

    def version(self, package: str) -> Version | None:
        text = self._versions.get(package)
        return Version(text) if text else None

    def requires(self, package: str) -> tuple[str, ...]:
        return self._requires

    def sandbox(self, wanted: str) -> str:
        if not self._sandbox:
            raise ConfigError("reward.code.sandbox: auto does not work on this machine (no namespaces)")
        return self._sandbox


def without_gpus(**changed: Any) -> Imitated:
    """A machine without an NVIDIA driver."""
    named: dict[str, Any] = {"torch": CPU_TORCH, "packages": NO_PACKAGES} | changed
    host = Imitated(**named)
    del host._files["/proc/driver/nvidia/version"]
    return host


def requirements_of(*overrides: str, host: Host, config: bool = False, nodes: int = 1) -> Requirements:
    """A run of `overrides`; with `config` as if they were in a file."""
    needs = read_requirements(None, overrides, host)
    if not config:
        return needs
    words = [*overrides, f"parallel.dp={8 * nodes}"] if nodes > 1 else overrides
    return replace(read_requirements(None, words, host), config=Path("run.yaml"), slurm=needs.slurm or nodes > 1)


def lines_of(host: Host, needs: Requirements | None = None) -> dict[str, Line]:
    """The lines of all checks, by what they look at."""
    groups = examine(host, needs or requirements_of(host=host))
    return {line.what: line for group in groups for line in group.lines}


def marked(lines: Mapping[str, Line], *marks: str) -> list[str]:
    """What has one of these marks."""
    return [line.what for line in lines.values() if line.mark in marks]
