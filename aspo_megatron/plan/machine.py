"""What this machine has for the processes of a run: memory and CPU cores, with what control groups leave of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

_GROUPS = "/sys/fs/cgroup"
_NO_LIMIT = 1 << 60
"""Version 1 of control groups writes a number near 2^63 for none."""


class Machine(Protocol):
    """Where the figures are read; tests put another in its place."""

    def read(self, path: str | Path) -> str | None:
        """The text of a file; None if it cannot be read."""

    def exists(self, path: str | Path) -> bool:
        """Whether there is something."""

    def cores(self) -> int:
        """CPU cores that this process may run on."""


class ThisMachine:
    """The one that runs this."""

    def read(self, path: str | Path) -> str | None:
        """See `Machine`."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def exists(self, path: str | Path) -> bool:
        """See `Machine`."""
        return os.path.exists(path)

    def cores(self) -> int:
        """See `Machine`."""
        return len(os.sched_getaffinity(0))


def memory_sizes(machine: Machine) -> dict[str, int]:
    """Bytes by the names of /proc/meminfo; empty where that does not say."""
    text = machine.read("/proc/meminfo") or ""
    return {name: int(size) * 1024 for name, size in re.findall(r"^(\w+): +(\d+) kB", text, flags=re.MULTILINE)}


def available_memory(machine: Machine) -> int | None:
    """Bytes that processes may still take, or that control groups allow; None where nobody says. Swap does not count.

    What other processes of the control group hold is not subtracted from its limit.
    """
    sizes, limit = memory_sizes(machine), memory_limit(machine)
    found = [size for size in (sizes.get("MemAvailable", sizes.get("MemTotal")), limit) if size is not None]
    return min(found, default=None)


def memory_limit(machine: Machine) -> int | None:
    """The least limit of the control groups that this process is in, in bytes; None without one."""
    limits = []
    for text in _settings(machine, "memory", "memory.max", "memory.limit_in_bytes"):
        if text.isdecimal() and int(text) < _NO_LIMIT:
            limits.append(int(text))
    return min(limits, default=None)


def usable_cores(machine: Machine) -> float:
    """CPU cores that this process may run on, or the time of so many that its control groups allow."""
    quota = core_quota(machine)
    return float(machine.cores()) if quota is None else min(float(machine.cores()), quota)


def core_quota(machine: Machine) -> float | None:
    """CPU time that the control groups allow, in cores; None without a quota."""
    quotas = []
    for text in _settings(machine, "cpu", "cpu.max", None):
        quota, _, period = text.partition(" ")
        if quota.isdecimal() and period.isdecimal():
            quotas.append(int(quota) / int(period))
    pairs = zip(
        _settings(machine, "cpu", None, "cpu.cfs_quota_us"),
        _settings(machine, "cpu", None, "cpu.cfs_period_us"),
        strict=False,
    )
    quotas += [int(quota) / int(period) for quota, period in pairs if quota.isdecimal() and period.isdecimal()]
    return min(quotas, default=None)


def _settings(machine: Machine, controller: str, second: str | None, first: str | None) -> Iterator[str]:
    """The values of a file in this process's control group and those around it; named for both versions."""
    for line in (machine.read("/proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            folder, name = _GROUPS, second
        elif controller in controllers.split(","):
            folder, name = f"{_GROUPS}/{controllers}", first
            if not machine.exists(folder):
                folder = f"{_GROUPS}/{controller}"
        else:
            continue
        # A container sees its own group as the root, but may be told its path outside.
        places = PurePosixPath(path)
        for place in dict.fromkeys((places, *places.parents, PurePosixPath("/"))) if name else ():
            value = machine.read(f"{folder}{'' if str(place) == '/' else place}/{name}")
            if value is not None:
                yield value.strip()
