"""What an ended run has left: a state that every rank has written is completed, anything less is removed."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Server, fork_ranks, kill
from thorough import one_in, some_of

from aspo_megatron.checkpoint.states.folders import saved_steps, step_folder, tidy
from aspo_megatron.checkpoint.torch_dist.manifest import read_manifest
from aspo_megatron.checkpoint.torch_dist.verification import verify_files
from aspo_megatron.config.io import load_config
from aspo_megatron.parallel.grid.topology import process_grid
from distributed import Ranks

from .test_failing_saves import Saves
from .test_saver import settings, settings_in

__all__ = ["settings"]

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with states of steps 1 and 2, and step 3 written, but not named."""
    work = tmp_path_factory.mktemp("left")
    with Ranks() as ranks:
        ranks.run(2, leave, settings_in(work))
    return work


def leave(settings: list[str]) -> None:
    with process_grid(load_config(None, settings).parallel, load_config(None, settings).platform, seed=1) as topology:
        saves = Saves(settings, topology)
        saves.save(1)
        saves.save(2)
        saves.begin(3)
        saves.wait()
        torch.distributed.barrier()


@pytest.fixture
def partial(left: Path, tmp_path: Path) -> Path:
    """A copy of what was left."""
    shutil.copytree(left / "run", tmp_path / "run")
    return tmp_path / "run" / "checkpoints" / "step-000003.partial"


def part(folder: Path, rank: int) -> Path:
    return folder / "parts" / f"rank-{rank:05d}.json"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def swap(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def finished(folder: Path) -> None:
    from aspo_megatron.checkpoint.torch_dist.parts import _read_parts, finish_parts

    finish_parts(folder, _read_parts(folder))


def finished_but_for_a_file(folder: Path) -> None:
    finished(folder)
    (folder / "__1_0.distcp").unlink()


WHOLE: dict[str, Callable[[Path], Any]] = {
    "as it was": lambda folder: None,
    "index begun": lambda folder: (folder / ".metadata").write_bytes(b"half"),
    "index and manifest begun": lambda folder: [(folder / n).write_text("{") for n in (".metadata", "manifest.json")],
    "all but the name": finished,
    "an older pointer": lambda folder: (folder.parent / "latest").write_text("step-000001\n"),
    "a pointer begun": lambda folder: (folder.parent / "latest.partial").write_text("st"),
    "an old state half removed": lambda folder: (folder.parent / "step-000001").rename(
        folder.parent / "step-000001.removed"
    ),
}
LACKING: dict[str, Callable[[Path], Any]] = {
    "no part of rank 1": lambda folder: part(folder, 1).unlink(),
    "no part of rank 0": lambda folder: part(folder, 0).unlink(),
    "no parts": lambda folder: shutil.rmtree(folder / "parts"),
    "a part cut": lambda folder: cut(part(folder, 1)),
    "an empty part": lambda folder: part(folder, 0).write_bytes(b""),
    "no JSON": lambda folder: part(folder, 0).write_bytes(b"\xff\xfe"),
    "a list": lambda folder: part(folder, 0).write_text("[]"),
    "a part edited": lambda folder: edit(part(folder, 0), ranks=1),
    "a checksum edited": lambda folder: swap(part(folder, 0), '"xxh3_128": "', '"xxh3_128": "0'),
    "a place edited": lambda folder: swap(part(folder, 0), '"start": 0', '"start": 64'),
    "a part of another attempt": lambda folder: edit(part(folder, 1), attempt="other"),
    "tensors cut": lambda folder: cut(folder / "__0_0.distcp"),
    "tensors gone": lambda folder: (folder / "__1_0.distcp").unlink(),
    "random states gone": lambda folder: (folder / "random-00001.safetensors").unlink(),
    "state gone": lambda folder: (folder / "state.json").unlink(),
    "model gone": lambda folder: shutil.rmtree(folder / "hf"),
    "a file of nobody": lambda folder: (folder / "__2_0.distcp").write_bytes(b""),
    "finished, a file gone": finished_but_for_a_file,
    "a state of the name": lambda folder: shutil.copytree(
        folder.with_name("step-000002"), folder.with_name("step-000003")
    ),
}


@pytest.mark.parametrize("damage", one_in(2, WHOLE))
def test_a_state_that_all_ranks_have_written_gets_its_name(partial: Path, damage: str) -> None:
    WHOLE[damage](partial)
    tidy(partial.parents[1], pytest.fail)
    folder = partial.with_name("step-000003")
    verify_files(folder, read_manifest(folder))
    assert not (folder / "parts").exists()
    assert not list(partial.parent.glob("*.partial"))
    assert not list(partial.parent.glob("*.removed"))


@pytest.mark.parametrize("damage", one_in(2, LACKING))
def test_what_is_less_than_that_is_removed(partial: Path, damage: str) -> None:
    LACKING[damage](partial)
    before = saved_steps(partial.parents[1])
    tidy(partial.parents[1], pytest.fail)
    assert saved_steps(partial.parents[1]) == before
    assert not partial.exists()


def test_a_disk_without_room_at_the_start_costs_nothing(partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said: list[str] = []
    tidy(partial.parents[1], said.append)
    assert said == [f"warning: {partial} is left as it is (No space left on device); the next start looks at it again"]
    monkeypatch.undo()
    tidy(partial.parents[1], pytest.fail)
    assert saved_steps(partial.parents[1]) == [3, 2, 1]


# ---- killed at each point of a save -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


POINTS = [*range(1, 25, 2), 25, 28, 31]


@pytest.mark.parametrize("background", some_of(["true", "false"], ["true"]))
def test_killed_at_each_point_of_a_save(server: Server, settings: list[str], tmp_path: Path, background: str) -> None:
    """The leader dies at its n-th sync, rename or removal of a save: what was whole is there at the next start."""
    found = server.run(kill_at_each, [*settings, f"checkpoint.async_save={background}"])
    assert all(newest == (2 if written else 1) for _, written, newest in found), found
    assert {named for named, _, _ in found} == {False, True}
    assert {written for named, written, _ in found if not named} == {False, True}


def kill_at_each(settings: list[str]) -> list[tuple[bool, bool, int]]:
    """Of each point: whether the state had its name, or its parts; and the newest state after the next start."""
    run = load_config(None, settings).output_dir
    found = []
    for point in POINTS:
        shutil.rmtree(run, ignore_errors=True)
        ranks = fork_ranks(2, die_at, settings, point)
        ranks[0].join(60)
        kill(ranks)
        named = 2 in saved_steps(run)
        parts = list(run.glob("checkpoints/step-000002.partial/parts/rank-*.json"))
        complete = (run / "checkpoints" / "step-000002.partial" / "manifest.json").exists()
        tidy(run, pytest.fail)
        newest = step_folder(run, saved_steps(run)[0])
        verify_files(newest, read_manifest(newest))
        found.append((named, named or complete or len(parts) == 2, saved_steps(run)[0]))
    return found


def die_at(settings: list[str], point: int) -> None:
    config = load_config(None, settings)
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        saves = Saves(settings, topology)
        saves.save(1)
        calls = 0

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def dying(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if topology.is_leader and calls == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return dying

        for name in ("fsync", "rename", "replace", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        saves.begin(2)
        saves.wait()
        torch.distributed.barrier()
        saves.saver.finish()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_state_that_cannot_be_read_now_is_left_for_the_next_start(
    partial: Path, monkeypatch: pytest.MonkeyPatch, rank: int, code: int
) -> None:
    opened, said = io.open, list[str]()

    def refusing(path: Any, *more: Any, **options: Any) -> Any:
        if str(path) == str(part(partial, rank)):
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", refusing)
        patch.setattr(builtins, "open", refusing)
        tidy(partial.parents[1], said.append)
    assert said == [f"warning: {partial} is left as it is ({os.strerror(code)}); the next start looks at it again"]
    tidy(partial.parents[1], pytest.fail)
    assert saved_steps(partial.parents[1]) == [3, 2, 1]
