"""The library of faults does what it says: each kind, at the call that it was armed for; and it sees every file."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from benchmarks.soak.injection import ERRORS, FOR_GOOD, KILLS, Faults, read_log

from .preloaded import Preloaded

CODES = {
    "full": errno.ENOSPC,
    "quota": errno.EDQUOT,
    "broken": errno.EIO,
    "read-only": errno.EROFS,
    "stale": errno.ESTALE,
    "short": errno.ENOSPC,
}


def errors_of(folder: Path, kind: str, number: int, times: int) -> list[int]:
    """The errno of each of: mkdir, create, write, fsync, ftruncate, close, rename, unlink, rmdir."""
    faults = Faults()
    faults.watch(folder)
    faults.arm(number, kind, times)
    place, file = folder / "place", folder / "place" / "file"
    held: list[int] = []
    calls = [
        lambda: os.mkdir(place),
        lambda: held.append(os.open(file, os.O_CREAT | os.O_WRONLY)),
        lambda: os.write(held[0], b"some words"),
        lambda: os.fsync(held[0]),
        lambda: os.ftruncate(held[0], 4),
        lambda: os.close(held[0]),
        lambda: os.rename(file, place / "other"),
        lambda: os.unlink(place / "other"),
        lambda: os.rmdir(place),
    ]
    found = []
    for call in calls:
        try:
            call()
            found.append(0)
        except OSError as error:
            found.append(error.errno or 0)
            break
    else:
        assert faults.count == len(calls)
    faults.disarm()
    return found


MAY_FAIL = {
    "full": [1, 2, 3, 4, 7],
    "quota": [1, 2, 3, 4, 7],
    "broken": range(1, 10),
    "read-only": [1, 2, 3, 5, 7, 8, 9],
    "stale": range(1, 10),
}


@pytest.mark.parametrize("kind", MAY_FAIL)
@pytest.mark.parametrize("number", range(1, 10))
def test_a_call_fails(preloaded: Preloaded, tmp_path: Path, kind: str, number: int) -> None:
    """The one that was armed, or the next that can meet this fault."""
    at = next((each for each in MAY_FAIL[kind] if each >= number), None)
    expected = [0] * 9 if at is None else [0] * (at - 1) + [CODES[kind]]
    assert preloaded.run(errors_of, tmp_path, kind, number, 1) == expected


def write_in_parts(folder: Path, kind: str, room: Path | None, times: int) -> tuple[list[int], bytes]:
    """Eight writes of ten bytes, the fault from the fourth call (the third write) on; `room` comes after the fifth."""
    faults = Faults()
    faults.watch(folder)
    faults.arm(4, kind, times, room)
    descriptor = os.open(folder / "file", os.O_CREAT | os.O_WRONLY)
    said = []
    for number in range(8):
        try:
            said.append(os.write(descriptor, b"0123456789"))
        except OSError as error:
            said.append(-(error.errno or 0))
        if number == 5 and room:
            room.touch()
    faults.disarm()
    os.close(descriptor)
    return said, (folder / "file").read_bytes()


@pytest.mark.parametrize("kind", ["full", "quota", "broken", "read-only", "stale"])
@pytest.mark.parametrize("times", [1, 3, FOR_GOOD])
def test_for_some_calls_or_for_good(preloaded: Preloaded, tmp_path: Path, kind: str, times: int) -> None:
    failing = 6 if times == FOR_GOOD else times
    said, content = preloaded.run(write_in_parts, tmp_path, kind, None, times)
    assert said == [10, 10, *[-CODES[kind]] * failing, *[10] * (6 - failing)]
    assert len(content) == 10 * (8 - failing)


def test_until_there_is_room(preloaded: Preloaded, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    said, content = preloaded.run(write_in_parts, tmp_path / "run", "full", tmp_path / "room", 1)
    assert said == [10, 10, *[-errno.ENOSPC] * 4, 10, 10]
    assert len(content) == 40


def test_a_short_write(preloaded: Preloaded, tmp_path: Path) -> None:
    said, content = preloaded.run(write_in_parts, tmp_path, "short", None, 1)
    assert said == [10, 10, 5, -errno.ENOSPC, 10, 10, 10, 10]
    assert content.startswith(b"0123456789" * 2 + b"01234" + b"0123456789")


def die(folder: Path, kind: str, number: int) -> tuple[int | None, list[str]]:
    process = get_context("fork").Process(target=errors_of, args=(folder, kind, number, 1))
    process.start()
    process.join(20)
    return process.exitcode, sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", KILLS)
@pytest.mark.parametrize("number", range(1, 10))
def test_the_process_is_killed_at_the_call(preloaded: Preloaded, tmp_path: Path, kind: str, number: int) -> None:
    code, left = preloaded.run(die, tmp_path, kind, number)
    assert code == -signal.SIGKILL
    done = number if kind == "kill-after" else number - 1
    names = ["place", "file"] if 2 <= done < 7 else ["place", "other"] if done == 7 else ["place"] * (done in (1, 8))
    assert left == sorted({"place": "place"}.get(n, f"place/{n}") for n in names)
    if number == 3:
        size = (tmp_path / "place" / "file").stat().st_size
        assert size == {"kill": 0, "torn": 5, "kill-after": 10}[kind]


def use_libraries(folder: Path, log: Path) -> None:
    """Files written by Python, by torch's C++, by Rust, by copying, by logging and by TensorBoard."""
    import torch
    from safetensors.torch import save_file
    from torch.utils.tensorboard.writer import SummaryWriter

    faults = Faults()
    faults.log(log)
    faults.watch(folder)
    (folder / "python").write_text("words")
    save_file({"a": torch.zeros(5000)}, folder / "rust")
    torch.save({"a": torch.zeros(5000)}, folder / "cpp")
    shutil.copyfile("/proc/self/exe", folder / "copied")
    with SummaryWriter(str(folder / "events")) as writer:
        writer.add_scalar("a", 1.0, 1)
    faults.disarm()
    faults.log(None)


def test_every_file_is_seen(preloaded: Preloaded, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    preloaded.run(use_libraries, folder, tmp_path / "log")
    calls = read_log(tmp_path / "log")
    files = {path for path in folder.rglob("*") if path.is_file()}
    assert len(files) == 5
    changing = ("write", "writev", "pwrite", "sendfile", "copy_file_range")
    seen = {call.path for call in calls if call.name in changing}
    beside = {path for path in seen if path.name.startswith(".tmp")}  # Rust renames it without the C library
    assert len(beside) == 1
    assert files == (seen - beside) | {folder / "rust"}
    assert [call.number for call in calls] == list(range(1, len(calls) + 1))
    assert ERRORS.keys() == CODES.keys()
