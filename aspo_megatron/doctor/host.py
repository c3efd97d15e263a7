"""The machine, as the checks see it: programs that are run, files, limits, packages. Tests put another in its place."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.version import Version

from aspo_megatron import versions

if TYPE_CHECKING:
    from aspo_megatron.config.words import SandboxChoice
    from aspo_megatron.parallel.device.packages import Packages

Limit = Literal["nofile", "memlock", "nproc", "core"]

_LIMITS: dict[Limit, int] = {
    "nofile": resource.RLIMIT_NOFILE,
    "memlock": resource.RLIMIT_MEMLOCK,
    "nproc": resource.RLIMIT_NPROC,
    "core": resource.RLIMIT_CORE,
}
_LAST_WORDS = 1.0


@dataclass(frozen=True)
class Answer:
    """What a program said. `problem`: why it said nothing; then there is no `code`."""

    code: int | None
    out: str = ""
    err: str = ""
    problem: str = ""

    @property
    def good(self) -> bool:
        """It ran, and ended well."""
        return self.code == 0

    @property
    def complaint(self) -> str:
        """In one line, why it is not good: the last line that it wrote."""
        said = (self.err.strip() or self.out.strip()).splitlines()
        return self.problem or (said[-1].strip() if said else f"exit code {self.code}")


@dataclass(frozen=True)
class Torch:
    """What this environment's torch was built with. `problem`: why it cannot be imported; then nothing else is known.

    `cuda` is None for a build without; `architectures` are names such as `sm_90` and `compute_120`.
    """

    version: str = ""
    cuda: str | None = None
    architectures: tuple[str, ...] = ()
    nccl: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class Disk:
    """Bytes of a file system."""

    total: int
    free: int


class Host:
    """This machine. Nothing here raises for what is missing."""

    def __init__(self) -> None:
        self.env: Mapping[str, str] = dict(os.environ)

    def run(self, command: Sequence[str], seconds: float) -> Answer:
        """Run a program to its end, or no longer than `seconds`."""
        try:
            process = subprocess.Popen(
                list(command),
                env={**self.env, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except FileNotFoundError:
            return Answer(None, problem="not found")
        except OSError as error:
            return Answer(None, problem=f"cannot be started ({error.strerror})")
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # One that hangs in a driver does not even end by this, so it is not waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LAST_WORDS)
            return Answer(None, problem=f"no answer within {seconds:g} s")
        return Answer(process.returncode, out, err)

    def read(self, path: str | Path) -> str | None:
        """The text of a file; None if it cannot be read."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def names(self, folder: str | Path) -> tuple[str, ...]:
        """What a folder holds; nothing if it is none."""
        try:
            return tuple(sorted(os.listdir(folder)))
        except OSError:
            return ()

    def exists(self, path: str | Path) -> bool:
        """Whether there is something."""
        return os.path.exists(path)

    def unreadable(self, path: str | Path, *, folder: bool = False) -> str:
        """Why a file, or a folder, cannot be read; empty if it can."""
        try:
            if folder:
                os.listdir(path)
            elif os.path.isdir(path):
                return os.strerror(errno.EISDIR)
            else:  # of a pipe, nobody may write yet
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError as error:
            return error.strerror or type(error).__name__
        return ""

    def which(self, program: str) -> str | None:
        """Where a program is."""
        return shutil.which(program, path=self.env.get("PATH"))

    def writable(self, folder: str | Path) -> bool:
        """Whether files can be made in a folder that is there. Tries it, as some file systems know only then."""
        try:
            with tempfile.TemporaryFile(dir=folder):
                return True
        except OSError:
            return False

    def disk(self, path: str | Path) -> Disk | None:
        """Of the file system that a path is on."""
        try:
            usage = shutil.disk_usage(path)
        except OSError:
            return None
        return Disk(usage.total, usage.free)

    def limit(self, name: Limit) -> int | None:
        """The soft limit of `ulimit`, in its system call's unit; None: unlimited."""
        soft, _ = resource.getrlimit(_LIMITS[name])
        return None if soft == resource.RLIM_INFINITY else soft

    def hard_limit(self, name: Limit) -> int | None:
        """How far a user may raise the limit."""
        _, hard = resource.getrlimit(_LIMITS[name])
        return None if hard == resource.RLIM_INFINITY else hard

    def cores(self) -> int:
        """CPU cores that this process may run on."""
        return len(os.sched_getaffinity(0))

    def now(self) -> float:
        """Seconds since 1970, as the machine believes."""
        return time.time()

    def modified(self, path: str | Path) -> float | None:
        """When a file was last written."""
        try:
            return os.stat(path).st_mtime
        except OSError:
            return None

    def name(self) -> str:
        """What the machine calls itself."""
        return socket.gethostname()

    def temporary(self) -> Path | None:
        """The folder for temporary files; None if there is none that can be written."""
        try:
            return Path(tempfile.gettempdir())
        except OSError:
            return None

    def version(self, package: str) -> Version | None:
        """Of a package in this environment, or of `python`."""
        return versions.installed(package)

    def requires(self, package: str) -> tuple[str, ...]:
        """What an installed package's metadata asks for."""
        try:
            return tuple(importlib.metadata.requires(package) or ())
        except importlib.metadata.PackageNotFoundError:
            return ()

    @functools.cached_property
    def torch(self) -> Torch:
        """Imports torch, which looks at no GPU."""
        try:
            import torch
        except Exception as error:  # a missing library, another CUDA's symbols: whatever an import can end by
            return Torch(problem=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
        from aspo_megatron.rollout.weight_sync.transport_choice import version_here

        flags = getattr(torch._C, "_cuda_getArchFlags", lambda: None)()  # builds without CUDA do not have it
        return Torch(torch.__version__, torch.version.cuda, tuple((flags or "").split()), version_here())

    @functools.cached_property
    def packages(self) -> Packages:
        """The optional packages for GPUs. Only where torch can be imported."""
        from aspo_megatron.parallel.device.packages import find_packages

        return find_packages()

    def sandbox(self, wanted: SandboxChoice) -> str:
        """How programs are shut off here.

        Raises:
            ConfigError: they cannot be, as wanted.
        """
        from aspo_megatron.rewards.programs.sandbox import find_mode

        return find_mode(wanted)
