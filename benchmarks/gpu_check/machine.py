"""Where the check runs: `python -m benchmarks.gpu_check.machine` prints it, in a process that may fail by itself."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

_DRIVER = Path("/proc/driver/nvidia/version")
_PACKAGES = ("megatron-core", "transformers", "triton", "transformer_engine", "liger_kernel", "sglang")


@dataclass(frozen=True)
class Machine:
    """Versions, None for what is not there; and the GPUs that PyTorch sees."""

    versions: dict[str, str | None]
    cards: list[str]

    def __str__(self) -> str:
        cards = ", ".join(dict.fromkeys(self.cards)) if self.cards else "no GPU"
        number = f"{len(self.cards)} x " if len(self.cards) > 1 else ""
        return f"{number}{cards}; " + ", ".join(f"{name} {found}" for name, found in self.versions.items() if found)


def find_machine() -> Machine:
    """What this process sees."""
    import torch

    versions: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    versions["cuda"] = torch.version.cuda
    versions["driver"] = driver_version()
    versions["cudnn"] = str(torch.backends.cudnn.version()) if torch.backends.cudnn.is_available() else None
    cards = []
    if torch.cuda.is_available():
        versions["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            cards.append(f"{card.name} ({card.total_memory / 2**30:.0f} GiB, capability {card.major}.{card.minor})")
    return Machine({**versions, **{name: _version(name) for name in _PACKAGES}}, cards)


def driver_version() -> str | None:
    """That of NVIDIA's driver, from the kernel or from nvidia-smi."""
    if _DRIVER.is_file() and (found := re.search(r"\s(\d+(?:\.\d+)+)\s", _DRIVER.read_text(encoding="utf-8"))):
        return found[1]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.split("\n")[0].strip() or None if asked.returncode == 0 else None


def ask_machine(env: dict[str, str], seconds: float = 120.0) -> Machine:
    """What a process with this environment sees; it gives the GPU back as it ends.

    Raises:
        RuntimeError: it failed, as with a driver that does not fit; says how.
    """
    command = [sys.executable, "-m", __spec__.name]
    try:
        asked = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer from PyTorch about the machine in {seconds:.0f} s") from error
    if asked.returncode:
        raise RuntimeError(f"PyTorch cannot say what machine this is: {asked.stderr.strip()[-1000:]}")
    return Machine(**json.loads(asked.stdout.splitlines()[-1]))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(json.dumps(asdict(find_machine())))
