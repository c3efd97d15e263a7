"""The process that reads: a subject and a folder a line of standard input, one line of what came of it.

It has a bound on memory, and a `Watch` over it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from benchmarks.fuzz.mutations import MARKER_VARIABLE
from benchmarks.fuzz.subjects import SUBJECTS
from benchmarks.fuzz.watch import Watch

_MOST_BYTES = 1 << 30
"""What reading a folder of small files may take."""
_MOST_BYTES_OF_FORKS = 3 << 30
"""What a fork may have beyond this process: a GiB, and its threads' address space."""


def _outcome(name: str, folder: Path, watch: Watch) -> dict[str, Any]:
    """What came of reading a folder: `refused` has the message, `wrong` what must not be."""
    marker = Path(os.environ[MARKER_VARIABLE])
    marker.unlink(missing_ok=True)
    watch.take()
    before, before_of_forks = _peak(), _peak_of_forks()
    refused = None
    wrong = []
    watch.folder = os.path.realpath(folder)
    try:
        SUBJECTS[name].read(folder)
    except UserError as error:
        refused = str(error)
        lines = refused.split("\n")
        if "Traceback" in refused or len(lines) > len(error.args) or list(map(one_line, lines)) != lines:
            wrong.append(f"a message that is more than a line of text for each thing: {refused[:300]!r}")
    except BaseException as error:  # a panic of the tokenizers library is none of Exception
        frames = traceback.extract_tb(error.__traceback__)
        here = [f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames]
        wrong.append(f"{type(error).__name__}: {str(error)[:200]} at {' '.join(here[-6:])}")
    finally:
        watch.folder = ""
    wrong += watch.take()
    if marker.exists():
        wrong.append("code that is in a file has run")
    if _process_is_left():
        wrong.append("a process is left")
    peak = _peak()
    of_forks = _peak_of_forks()
    if peak - before > _MOST_BYTES:
        wrong.append(f"{(peak - before) >> 20} MiB of memory")
    if of_forks > before_of_forks and of_forks - peak > _MOST_BYTES_OF_FORKS:
        wrong.append(f"{(of_forks - peak) >> 20} MiB of memory in another process")
    return {"refused": refused, "wrong": wrong}


def _peak() -> int:
    """The largest resident memory since this was asked for last, in bytes."""
    # Not that of getrusage, which begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak


def _peak_of_forks() -> int:
    """The largest that any process had which was started by this one and has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _process_is_left() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def main() -> None:
    """Read the good folder once, so that all is imported; then what is asked for."""
    *names, good = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what readers print
    for name in names:
        with TemporaryDirectory() as folder:
            SUBJECTS[name].copy(Path(good), Path(folder) / "good")
            SUBJECTS[name].read(Path(folder) / "good")
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + 3 * _MOST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    watch = Watch()
    sys.addaudithook(watch)
    print("ready", file=answers)
    for line in sys.stdin:
        name, folder = json.loads(line)
        print(json.dumps(_outcome(name, Path(folder), watch)), file=answers)


if __name__ == "__main__":
    main()
