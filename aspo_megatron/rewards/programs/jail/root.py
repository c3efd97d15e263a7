"""A root file system of its own for the sandbox: an empty one, with the interpreter and its libraries read-only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from . import kernel

WORK = "/aspo-sandbox"
"""The working folder: empty and writable for each program, in memory, gone with it."""

_OLD, _NEW = "/old", "/new"
_DEVICES = ("null", "zero", "urandom")
_FLAGS = {
    "ro": kernel.MS_RDONLY,
    "nosuid": kernel.MS_NOSUID,
    "nodev": kernel.MS_NODEV,
    "noexec": kernel.MS_NOEXEC,
    "noatime": kernel.MS_NOATIME,
    "nodiratime": kernel.MS_NODIRATIME,
    "relatime": kernel.MS_RELATIME,
}


def enter(readable: Iterable[str]) -> None:
    """Move this process, which is in a mount namespace of its own, to a new root with the paths given.

    Raises:
        OSError: the kernel or its security policy does not let it.
    """
    kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=1m")
    os.mkdir(f"/tmp{_OLD}")
    os.mkdir(f"/tmp{_NEW}")
    kernel.pivot_root("/tmp", f"/tmp{_OLD}")
    os.chdir("/")
    _bind(_NEW, _NEW)
    bound: list[str] = []
    for path in sorted(readable, key=len):
        _provide(path, bound)
    for folder in ("/dev", WORK):
        os.makedirs(f"{_NEW}{folder}", exist_ok=True)
    for name in _DEVICES:
        with open(f"{_NEW}/dev/{name}", "xb"):
            pass
        _bind(f"{_OLD}/dev/{name}", f"{_NEW}/dev/{name}")
    if not os.path.lexists(f"{_NEW}/tmp"):
        os.symlink(WORK, f"{_NEW}/tmp")
    _make_read_only()
    kernel.unmount(_OLD)
    os.chdir(_NEW)
    kernel.pivot_root(".", ".")  # The old root lies on top of the new one now.
    kernel.unmount(".")
    os.chdir("/")


def new_work_folder(size: int) -> None:
    """An empty folder of at most `size` bytes for one program, which has a mount namespace of its own."""
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("tmpfs", WORK, "tmpfs", flags, f"mode=777,size={size},nr_inodes=1000")
    os.chdir(WORK)


def _provide(path: str, bound: list[str]) -> None:
    """Bind a path of the old root to the same place in the new one, with the symbolic links that lead to it."""
    parts = path.strip("/").split("/")
    for index in range(len(parts)):
        current = "/" + "/".join(parts[: index + 1])
        if current in bound:
            return
        if os.path.islink(_OLD + current):
            target = os.readlink(_OLD + current)
            if not os.path.lexists(_NEW + current):
                os.makedirs(os.path.dirname(_NEW + current), exist_ok=True)
                os.symlink(target, _NEW + current)
            _provide(os.path.normpath(os.path.join(os.path.dirname(current), target, *parts[index + 1 :])), bound)
            return
    if os.path.isdir(_OLD + path):
        os.makedirs(_NEW + path, exist_ok=True)
    elif os.path.exists(_OLD + path):
        os.makedirs(os.path.dirname(_NEW + path), exist_ok=True)
        with open(_NEW + path, "xb"):
            pass
    else:
        return
    _bind(_OLD + path, _NEW + path)
    bound.append(path)


def _bind(source: str, target: str) -> None:
    # Recursive: without rights outside, mounts that lie below cannot be left out.
    kernel.mount(source, target, "none", kernel.MS_BIND | kernel.MS_REC)


def _make_read_only() -> None:
    """All mounts of the new root, also those that came along. Flags that were set must stay set."""
    with open(f"{_OLD}/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = [line.split() for line in file]
    for fields in mounts:
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        if point != _NEW and not point.startswith(f"{_NEW}/"):
            continue
        flags = kernel.MS_RDONLY | kernel.MS_NOSUID
        for option in fields[5].split(","):
            flags |= _FLAGS.get(option, 0)
        kernel.mount("none", point, "none", kernel.MS_BIND | kernel.MS_REMOUNT | flags)
