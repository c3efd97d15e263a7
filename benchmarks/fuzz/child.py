"""The process that reads: one folder a line of standard input, one line of what came of it.

It has a bound on memory, and notes what a reader of foreign files never does: start a program, connect, unpickle
something outside a short list, open a file outside its folder for writing.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from aspo_megatron.errors import UserError
from benchmarks.fuzz.mutations import MARKER_VARIABLE
from benchmarks.fuzz.subjects import SUBJECTS

_MOST_BYTES = 1 << 30
"""What reading a folder of small files may take."""
_LONGEST_MESSAGE = 4000
_STARTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pty.spawn",
)
_CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request")
_OTHERS = ("ctypes.dlopen", "code.__new__")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


class Watch:
    """Notes forbidden deeds while `folder` is set."""

    def __init__(self) -> None:
        self.folder = ""
        self._temporary = f"{tempfile.gettempdir()}/tmp"  # asked for within a hook this would wait for itself
        self.deeds: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See `sys.addaudithook`."""
        if not self.folder:
            return
        if event in _STARTS or event in _CONNECTS or event in _OTHERS:
            self.deeds.append(f"{event} {str(arguments)[:100]}")
        elif event == "import" and self._is_within(getattr(sys.modules.get(arguments[0]), "__file__", None)):
            self.deeds.append(f"import {arguments[0]}")
        elif event in _CHANGES and not all(map(self._is_own, arguments[: 1 + (event == "os.rename")])):
            self.deeds.append(f"{event} {arguments}")
        elif event == "open" and self._writes(arguments) and not self._is_own(arguments[0]):
            self.deeds.append(f"open {arguments[0]!r} {arguments[1]!r}")

    def _is_within(self, path: object) -> bool:
        return isinstance(path, str) and os.path.realpath(path).startswith(f"{self.folder}/")

    def _is_own(self, path: object) -> bool:
        """Within the folder, or in the folder of temporary files, or relative to an open folder."""
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        return not os.path.isabs(text) or self._is_within(text) or text.startswith(self._temporary)

    @staticmethod
    def _writes(arguments: tuple[Any, ...]) -> bool:
        path, mode, flags = arguments
        if not isinstance(path, str) or path == "/dev/null":
            return False
        return any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & os.O_ACCMODE)


def _outcome(name: str, folder: Path, watch: Watch) -> dict[str, Any]:
    """What came of reading a folder: `refused` has the message, `wrong` what must not be."""
    marker = Path(os.environ[MARKER_VARIABLE])
    marker.unlink(missing_ok=True)
    watch.deeds.clear()
    before = _peak()
    refused = None
    wrong = []
    watch.folder = os.path.realpath(folder)
    try:
        SUBJECTS[name].read(folder)
    except UserError as error:
        refused = str(error)
        if len(refused) > _LONGEST_MESSAGE:
            wrong.append(f"a message of {len(refused)} characters")
        if "Traceback" in refused:
            wrong.append(f"a traceback in the message: {refused[:200]}")
    except BaseException as error:  # a panic of the tokenizers library is none of Exception
        frames = traceback.extract_tb(error.__traceback__)
        here = [f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames]
        wrong.append(f"{type(error).__name__}: {str(error)[:200]} at {' '.join(here[-6:])}")
    finally:
        watch.folder = ""
    wrong += watch.deeds
    if marker.exists():
        wrong.append("code that is in a file has run")
    grown = _peak() - before
    if grown > _MOST_BYTES:
        wrong.append(f"{grown >> 20} MiB of memory")
    return {"refused": refused, "wrong": wrong}


def _peak() -> int:
    """The largest resident memory since this was asked for last, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak


def main() -> None:
    """Read the good folder once, so that all is imported; then what is asked for."""
    name, good = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what readers print
    SUBJECTS[name].read(Path(good))
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + 3 * _MOST_BYTES,) * 2)
    watch = Watch()
    sys.addaudithook(watch)
    print("ready", file=answers)
    for line in sys.stdin:
        print(json.dumps(_outcome(name, Path(json.loads(line)), watch)), file=answers)


if __name__ == "__main__":
    main()
