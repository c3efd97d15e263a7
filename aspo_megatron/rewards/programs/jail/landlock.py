"""Landlock: a process gives up the file system but for some paths, and needs no rights for it (Linux 5.13)."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from . import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_QUERY = 1
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_SINCE, _SCOPES_SINCE = 4, 6


def version() -> int:
    """The kernel's Landlock version.

    Raises:
        OSError: it has none, or it is switched off.
    """
    return kernel.syscall("Landlock", _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_QUERY))


def restrict(readable: Iterable[str]) -> None:
    """Let this process read below the given paths, and do nothing else with files. Needs `gain_nothing` first.

    Raises:
        OSError: there is no Landlock, or a path cannot be opened.
    """
    known = version()
    rights = [(1 << _FILE_RIGHTS[min(known, max(_FILE_RIGHTS))]) - 1]
    if known >= _NETWORK_SINCE:
        rights.append(0b11)  # TCP bind and connect
    if known >= _SCOPES_SINCE:
        rights.append(0b11)  # abstract sockets and signals of outside processes
    attributes = struct.pack(f"={len(rights)}Q", *rights)
    ruleset = kernel.syscall(
        "landlock_create_ruleset", _CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)
    )
    for path in readable:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        rule = struct.pack("=Qi", _READ_FILE | (_READ_DIR if folder else 0), descriptor)
        kernel.syscall(
            "landlock_add_rule", _ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0)
        )
        os.close(descriptor)
    kernel.syscall("landlock_restrict_self", _RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)
