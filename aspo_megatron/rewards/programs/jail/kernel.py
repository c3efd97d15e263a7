"""The system calls that Python's `os` does not have (or only from 3.12 on), as functions that raise OSError."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 1024, 2048, 4096, 16384, 1 << 18, 1 << 21
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_SECCOMP_SET_FILTER, _SECCOMP_ACTION_AVAILABLE = 1, 2
_SECCOMP_NEW_LISTENER = 8
_SECCOMP_ASK = 0x7FC00000
_CAPABILITY_VERSION_3 = 0x20080522

ARCHITECTURES = ("x86_64", "aarch64")
_PIVOT_ROOT = (155, 41)
_CAPSET = (126, 91)
_SECCOMP = (317, 277)

_libc = ctypes.CDLL(None, use_errno=True)


def architecture() -> int:
    """0 for x86-64, 1 for AArch64: the column of the system call tables.

    Raises:
        OSError: another one.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(f"system call filters are known for {' and '.join(ARCHITECTURES)}, not for {machine}")
    return ARCHITECTURES.index(machine)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(what: str, number: int, *arguments: object) -> int:
    """A system call by number; `what` names it in errors."""
    return _checked(int(_libc.syscall(ctypes.c_long(number), *arguments)), what)


def unshare(flags: int) -> None:
    """Leave the namespaces named by the CLONE_NEW flags for new ones."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system, or change a mount."""
    texts = [text.encode() for text in (source, target, kind)]
    _checked(_libc.mount(*texts, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def unmount(target: str) -> None:
    """Take a mount out of the tree at once, whatever still uses it."""
    _checked(_libc.umount2(target.encode(), ctypes.c_int(MNT_DETACH)), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make the mount `new` the root; the one so far goes to `old`."""
    syscall("pivot_root", _PIVOT_ROOT[architecture()], new.encode(), old.encode())


def prctl(what: str, option: int, value: int) -> None:
    """Change something about this process by one number; `what` names it in errors."""
    zero = ctypes.c_ulong(0)
    _checked(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero), what)


def die_with_parent() -> None:
    """Have this process killed when its parent dies. A change of user resets this, so it comes after."""
    prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, 9)


def hide() -> None:
    """Keep other processes of the same user from reading or tracing this one."""
    prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 0)


def gain_nothing() -> None:
    """No program executed from here on gains rights by its file's owner or capabilities."""
    prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    nothing = (ctypes.c_uint32 * 6)()
    header = _Header(_CAPABILITY_VERSION_3, 0)
    syscall("capset", _CAPSET[architecture()], ctypes.byref(header), ctypes.byref(nothing))


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    def __init__(self, program: bytes) -> None:
        self.kept = ctypes.create_string_buffer(program, len(program))
        super().__init__(len(program) // 8, ctypes.cast(self.kept, ctypes.c_void_p))


def install_filter(program: bytes) -> None:
    """Filter this process's system calls, for good. Needs `gain_nothing` first.

    Args:
        program: classic BPF, 8 bytes an instruction.
    """
    zero = ctypes.c_ulong(0)
    mode, filter_ = ctypes.c_ulong(_SECCOMP_MODE_FILTER), _Filter(program)
    result = _libc.prctl(ctypes.c_int(_PR_SET_SECCOMP), mode, ctypes.byref(filter_), zero, zero)
    _checked(result, "PR_SET_SECCOMP")


def install_asking_filter(program: bytes) -> int:
    """Like `install_filter`, for a filter that leaves some calls to whoever has the descriptor that this returns."""
    number, flags = _SECCOMP[architecture()], ctypes.c_uint(_SECCOMP_NEW_LISTENER)
    return syscall("seccomp", number, ctypes.c_uint(_SECCOMP_SET_FILTER), flags, ctypes.byref(_Filter(program)))


def can_ask() -> bool:
    """Whether filters can leave calls to another process, which lets the kernel go on with them (Linux 5.5)."""
    action = ctypes.c_uint32(_SECCOMP_ASK)
    number, operation = _SECCOMP[architecture()], ctypes.c_uint(_SECCOMP_ACTION_AVAILABLE)
    try:
        syscall("seccomp", number, operation, ctypes.c_uint(0), ctypes.byref(action))
    except OSError:
        return False
    return release() >= (5, 5)


def release() -> tuple[int, ...]:
    """The kernel's version, to compare: major and minor."""
    return tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])
