"""What a reader of foreign files never does, noted by the interpreter's own audit, also in what it forks.

Such are: to start a program, connect, run code that is in a file, unpickle a class, open a file that a name in a file
leads to, write or remove anything outside the folder.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from typing import Any

from jinja2.debug import fake_traceback

from aspo_megatron.data.isolated_process import Isolated
from benchmarks.fuzz.mutations import ELSEWHERE

_NEVER = frozenset(
    (
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.fork",
        "os.forkpty",
        "os.kill",
        "os.killpg",
        "subprocess.Popen",
        "pty.spawn",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "urllib.Request",
        "webbrowser.open",
        "ctypes.dlopen",
        "code.__new__",
    )
)
_BY_THE_PRODUCT = {
    "os.fork": Isolated.__init__.__code__,
    "os.kill": Isolated.__exit__.__code__,
    "code.__new__": fake_traceback.__code__,
}
"""The one function that may. The product starts one process for foreign input, a fork of this one, in which this watch
goes on; jinja2 names the line of a template in tracebacks."""
_CHANGES = {
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
}
"""By event: which of its arguments are paths of what is changed."""
_MESSAGE_CLASSES = {("pathlib", "PosixPath")}
"""What `Isolated` sends besides plain values."""


class Watch:
    """Notes forbidden deeds while `folder` is set."""

    def __init__(self) -> None:
        self.folder = ""
        self._temporary = f"{tempfile.gettempdir()}/tmp"  # asked for within a hook this would wait for itself
        self._notes = os.memfd_create("deeds")  # one file, and one place in it, for this process and its forks

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See `sys.addaudithook`."""
        if not self.folder or not self._is_forbidden(event, arguments):
            return
        frame = inspect.currentframe()
        caller = frame and frame.f_back
        if caller is None or caller.f_code is not _BY_THE_PRODUCT.get(event):
            os.write(self._notes, f"{event} {str(arguments)[:200]}\n".encode("utf-8", "backslashreplace"))

    def take(self) -> list[str]:
        """The deeds since this was called last."""
        noted = os.pread(self._notes, os.fstat(self._notes).st_size, 0)
        os.ftruncate(self._notes, 0)
        os.lseek(self._notes, 0, os.SEEK_SET)
        return noted.decode().splitlines()

    def _is_forbidden(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event in _CHANGES:
            by_descriptor = event != "os.truncate" and arguments[-1] not in (-1, None)
            return not all(self._is_own(arguments[index], by_descriptor) for index in _CHANGES[event])
        if event == "open":
            path = arguments[0]
            return path in ELSEWHERE or (self._writes(arguments) and not self._is_own(path))
        if event == "import":  # of a library; that of a Python file shows as `exec`
            return self._is_within(arguments[1])
        if event == "exec":
            return self._is_within(getattr(arguments[0], "co_filename", None))
        if event == "pickle.find_class":
            return arguments not in _MESSAGE_CLASSES
        return event in _NEVER

    def _is_within(self, path: object) -> bool:
        return isinstance(path, str) and os.path.realpath(path).startswith(f"{self.folder}/")

    def _is_own(self, path: object, by_descriptor: bool = False) -> bool:
        """Within the folder, or in the folder of temporary files, or relative to an open folder, or open itself."""
        if not isinstance(path, str | bytes | os.PathLike):
            return True
        text = os.fsdecode(path)
        relative = by_descriptor and not os.path.isabs(text)
        return relative or self._is_within(text) or text.startswith(self._temporary)

    @staticmethod
    def _writes(arguments: tuple[Any, ...]) -> bool:
        path, mode, flags = arguments
        if path == "/dev/null":
            return False
        return any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & os.O_ACCMODE)
