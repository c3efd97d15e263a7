"""Readers that do what none may, one by its name: `python wrong_readers.py NAME FOLDER` is `benchmarks.fuzz.child`."""

from __future__ import annotations

import importlib.util
import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

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


def allocate(folder: Path) -> None:
    assert b"x" * (5 * 2**28)


def write_elsewhere(folder: Path) -> None:
    (folder.parent / "elsewhere").write_bytes(b"")


def remove_elsewhere(folder: Path) -> None:
    (folder.parent / "here").unlink()


def start_program(folder: Path) -> None:
    subprocess.run(["true"], check=True)


def connect(folder: Path) -> None:
    with socket.socket() as one:
        one.connect_ex(("127.0.0.1", 9))


def run_module(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("theirs", folder / "theirs.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def end(folder: Path) -> None:
    os._exit(3)


def sleep(folder: Path) -> None:
    time.sleep(1000)


def write_a_novel(folder: Path) -> None:
    raise UserError("x" * 10_000)


DEEDS = {
    deed.__name__: deed
    for deed in (
        divide,
        unpickle,
        allocate,
        write_elsewhere,
        remove_elsewhere,
        start_program,
        connect,
        run_module,
        end,
        sleep,
        write_a_novel,
    )
}

if __name__ == "__main__":
    SUBJECTS["wrong"] = Subject("wrong", {}, read)
    sys.argv[1:1] = ["wrong"]
    child.main()
