"""`benchmarks.fuzz.child` with a reader that does what none may: what the file that it reads names."""

from __future__ import annotations

import importlib.util
import os
import pickle
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

from aspo_megatron.data.isolated_process import Isolated
from aspo_megatron.errors import UserError
from benchmarks.fuzz import child
from benchmarks.fuzz.subjects import SUBJECTS, Subject


def read(folder: Path) -> None:
    content = (folder / "file").read_bytes()
    if content != b"good":
        DEEDS[content.decode()](folder)


def divide(folder: Path) -> None:
    assert 1 / (len(folder.parts) * 0)


def unpickle(folder: Path) -> None:
    pickle.loads((folder / "pickle").read_bytes())


def name_a_class(folder: Path) -> None:
    pickle.loads(b"cfractions\nFraction\n.")


def allocate(folder: Path) -> None:
    assert b"x" * (5 * 2**28)


def allocate_in_a_fork(folder: Path) -> None:
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_AS, (resource.getrlimit(resource.RLIMIT_AS)[1],) * 2)
        os._exit(not b"x" * (13 * 2**28))
    os.waitpid(process, 0)


def write_elsewhere(folder: Path) -> None:
    (folder.parent / "elsewhere").write_bytes(b"")


def write_beside_by_name(folder: Path) -> None:
    Path("elsewhere").write_bytes(b"")


def read_what_a_file_names(folder: Path) -> None:
    Path("/proc/version").read_bytes()


def remove_elsewhere(folder: Path) -> None:
    (folder.parent / "here").unlink()


def make_a_link_elsewhere(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)


def start_program(folder: Path) -> None:
    subprocess.run(["true"], check=True)


def start_program_apart(folder: Path) -> None:
    with Isolated(os.system) as elsewhere:
        elsewhere("true", 1.0)


def fork(folder: Path) -> None:
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)


def leave_a_process(folder: Path) -> None:
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)


def connect(folder: Path) -> None:
    with socket.socket() as one:
        one.connect_ex(("127.0.0.1", 9))


def run_module(folder: Path) -> None:
    _run(folder / "theirs.py")


def run_harmless_module(folder: Path) -> None:
    _run(folder / "harmless.py")


def _run(path: Path) -> None:
    spec = importlib.util.spec_from_file_location("theirs", path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def end(folder: Path) -> None:
    os._exit(3)


def sleep(folder: Path) -> None:
    time.sleep(1000)


class RawError(UserError):
    def __str__(self) -> str:
        return str(self.args[0])


def write_lines(folder: Path) -> None:
    raise RawError("a\nb")


def write_to_the_terminal(folder: Path) -> None:
    raise RawError("\x1b[2J")


DEEDS = {
    deed.__name__: deed
    for deed in (
        divide,
        unpickle,
        name_a_class,
        allocate,
        allocate_in_a_fork,
        write_elsewhere,
        write_beside_by_name,
        read_what_a_file_names,
        remove_elsewhere,
        make_a_link_elsewhere,
        start_program,
        start_program_apart,
        fork,
        leave_a_process,
        connect,
        run_module,
        run_harmless_module,
        end,
        sleep,
        write_lines,
        write_to_the_terminal,
    )
}

if __name__ == "__main__":
    SUBJECTS["wrong"] = Subject("wrong", ("file",), {}, read)
    sys.argv[1:1] = ["wrong"]
    child.main()
