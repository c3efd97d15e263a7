"""Whatever fails in a save, for a moment or for good, costs that save and nothing else."""

from __future__ import annotations

import builtins
import errno
import io
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from file_size import limited
from thorough import one_in, some_of

from aspo_megatron.checkpoint.states.folders import saved_steps, step_folder
from aspo_megatron.checkpoint.torch_dist.manifest import read_manifest
from aspo_megatron.checkpoint.torch_dist.verification import verify_files
from aspo_megatron.config.io import load_config, save_config
from aspo_megatron.parallel.grid.topology import process_grid
from distributed import Ranks

from .test_saver import build, settings

__all__ = ["settings"]

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

BACKGROUNDS = ("true", "false")
"""Whether a save is written beside the training. It is the same code: `make test` has cases by turns."""


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks() as started:
        yield started


class Saves:
    """Two ranks that save; the weights of step N are all N."""

    def __init__(self, settings: list[str], topology: Any) -> None:
        from aspo_megatron.checkpoint.states.run_states import StateSaver

        self.config = load_config(None, settings)
        self.run, self.leads = self.config.output_dir, topology.is_leader
        self.model, self.optimizer = build(self.config, topology)
        if self.leads:
            self.run.mkdir()
            save_config(self.config, self.run / "config.yaml")
        torch.distributed.barrier()
        self.said: list[str] = []
        self.saver = StateSaver(self.config, self.model.family, self.model, self.optimizer, self.said.append)

    def fill(self, value: float) -> None:
        for parameter in self.model.parameters():
            parameter.data.fill_(value)

    def begin(self, step: int) -> None:
        from aspo_megatron.checkpoint.states.trainer_state import TrainerState

        self.fill(float(step))
        self.saver.save(TrainerState(step, step, step, 1.0, None, None, "digest"))
        self.fill(-1.0)

    def wait(self) -> None:
        """Until this rank has written its part, or has failed to."""
        while self.saver.writing:
            time.sleep(0.001)

    def save(self, step: int) -> None:
        self.begin(step)
        self.saver.finish()

    def check(self, newest: tuple[int, ...]) -> int:
        """What has the name of a state is one, `latest` names one of them, and one of `newest` is gone on from."""
        from aspo_megatron.checkpoint.states.run_states import find_state, load_state

        torch.distributed.barrier()
        steps = saved_steps(self.run)
        for step in steps:
            verify_files(step_folder(self.run, step), read_manifest(step_folder(self.run, step)))
        named = (self.run / "checkpoints" / "latest").read_text().strip()
        assert (self.run / "checkpoints" / named).is_dir(), (named, steps)
        said: list[str] = []
        folder = find_state(self.config, self.model.family, said.append)
        assert folder is not None
        step = load_state(folder, self.model, self.optimizer, self.config.parallel).step
        assert not said
        assert step in newest, (step, newest, self.said)
        assert all((parameter == float(step)).all() for parameter in self.model.parameters())
        return step


class Faults:
    """Lets the n-th call of a function that has to do with a folder fail, or from then on all."""

    def __init__(self, folder: Path, name: str, at: int, error: int, *, lasting: bool) -> None:
        self.folder, self.name, self.at, self.error, self.lasting = str(folder), name, at, error, lasting
        self.calls = 0
        self.hit = False

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*args: Any, **kwargs: Any) -> Any:
            if self._concerns(args[0] if args else "", args[1] if len(args) > 1 else kwargs.get("mode", "r")):
                self.calls += 1
                if self.calls == self.at or (self.lasting and self.calls > self.at):
                    self.hit = True
                    raise OSError(self.error, os.strerror(self.error), str(args[0]))
            return function(*args, **kwargs)

        return faulty

    def _concerns(self, what: Any, mode: Any) -> bool:
        if isinstance(what, int):
            what = os.readlink(f"/proc/self/fd/{what}")
        if self.name == "open" and not (isinstance(mode, str) and "w" in mode):
            return False
        return self.folder in str(what)


@contextmanager
def planted(faults: Faults) -> Iterator[None]:
    """Put the fault where Python's own files, pathlib and shutil find it."""
    places = {
        "open": [(builtins, "open"), (io, "open")],
        "fsync": [(os, "fsync")],
        "rename": [(os, "rename")],
        "replace": [(os, "replace")],
        "mkdir": [(os, "mkdir")],
        "rmtree": [(shutil, "rmtree")],
    }[faults.name]
    with pytest.MonkeyPatch.context() as patch:
        for module, name in places:
            patch.setattr(module, name, faults(getattr(module, name)))
        yield


CALLS = {"open": 4, "fsync": 4, "rename": 2, "replace": 1, "mkdir": 1, "rmtree": 1}
"""How often a save of rank 0 calls each, at least."""


FAILING = list(product(CALLS, (0, 1), (False, True), BACKGROUNDS))
FEW_FAILING = [
    *(case for case in FAILING if case[1:] == (0, True, "true")),
    ("fsync", 1, False, "true"),
]


@pytest.mark.parametrize(
    ("name", "rank", "lasting", "background"),
    some_of(FAILING, FEW_FAILING),
)
def test_each_call_of_a_save_may_fail(
    ranks: Ranks, settings: list[str], name: str, rank: int, lasting: bool, background: str
) -> None:
    hits = ranks.run(2, fail_each, [*settings, f"checkpoint.async_save={background}"], name, rank, lasting)[rank]
    expected = CALLS[name]
    assert hits >= expected if rank == 0 else hits >= (2 if name in ("open", "fsync") else 0)


def fail_each(settings: list[str], name: str, rank: int, lasting: bool) -> int:
    """Let the first, second ... call in a save fail, each in a save of its own, until a save has no more of them."""
    config = load_config(None, settings)
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        saves = Saves(settings, topology)
        for step in (1, 2, 3):
            saves.save(step)
        step, last = 3, 3
        for at in range(1, 100):
            step += 1
            faults = Faults(config.output_dir, name, at if topology.rank == rank else 0, errno.ENOSPC, lasting=lasting)
            if topology.rank != rank:
                faults.lasting = False
            with planted(faults):
                saves.save(step)
            hits: list[Any] = [None, None]
            torch.distributed.all_gather_object(hits, faults.hit)
            if not any(hits):
                break
            told, saves.said[:] = list(saves.said), []
            assert all(line.startswith("warning: ") and "the run continues" in line for line in told)
            saved = not any("was not saved" in line for line in told)
            last = saves.check((step,) if saved else (last,))
            assert len(saved_steps(config.output_dir)) >= 2
        saves.save(step + 1)  # and then all is well again
        assert not saves.said
        saves.check((step + 1,))
        left = {path.name for path in (config.output_dir / "checkpoints").iterdir()}
        assert left == {"latest", f"step-{step:06d}", f"step-{step + 1:06d}"}
        return at - 1


FULL = list(product((0, 1, 100, 500, 1000, 3000, 5000, 10_000, 20_000, 30_000, 50_000, 100_000), BACKGROUNDS))


@pytest.mark.parametrize(("full", "background"), one_in(8, FULL, first=2))
def test_a_disk_that_was_full_for_a_moment(ranks: Ranks, settings: list[str], full: int, background: str) -> None:
    """There is room again before the save is completed."""
    said = ranks.run(2, save_on_full_disk, [*settings, f"checkpoint.async_save={background}"], full)[0]
    assert said in ([], ["3"], ["3", "4"])


def save_on_full_disk(settings: list[str], full: int) -> list[str]:
    config = load_config(None, settings)
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        saves = Saves(settings, topology)
        saves.save(1)
        saves.save(2)
        good = [2]
        for step in (3, 4):
            before = len(saves.said)
            with limited(full):
                saves.begin(step)
                saves.wait()
                torch.distributed.barrier()
            saves.saver.finish()
            good.append(step if len(saves.said) == before else good[-1])
            assert saves.check((good[-1],)) == good[-1]
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
        assert all(" was not saved (" in line for line in saves.said)
        return [str(step) for step in (3, 4) if any(f"step-{step:06d} was not" in line for line in saves.said)]


ENDS: dict[str, BaseException] = {
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "io": OSError(errno.EIO, "Input/output error"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "stale": OSError(errno.ESTALE, "Stale file handle"),
    "no text": OSError(),
    "closed": ValueError("I/O operation on closed file"),
    "memory": MemoryError(),
    "torch": RuntimeError("unexpected pos 64 vs 0"),
    "assertion": AssertionError(),
    "type": TypeError("a bytes-like object is required"),
    "unicode": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "recursion": RecursionError("maximum recursion depth exceeded"),
    "lookup": KeyError("key"),
    "end": SystemExit(1),
    "interrupt": KeyboardInterrupt(),
    "generator": GeneratorExit(),
}


ENDINGS = [
    (end, background)
    for end, error in ENDS.items()
    for background in BACKGROUNDS
    if background == "true" or isinstance(error, Exception)  # what else ends a process is no error of a save
]
FEW_ENDINGS = [("full", "false"), ("memory", "true"), ("interrupt", "true")]


@pytest.mark.parametrize(("end", "background"), some_of(ENDINGS, FEW_ENDINGS))
def test_whatever_ends_the_writing_is_an_error(ranks: Ranks, settings: list[str], end: str, background: str) -> None:
    said = ranks.run(2, end_writing, [*settings, f"checkpoint.async_save={background}"], end)[0]
    assert len(said) == 3
    assert all("was not saved (" in line and "()" not in line and len(line.splitlines()) == 1 for line in said)


def end_writing(settings: list[str], end: str) -> list[str]:
    """At the first tensor of a rank, in the middle, or as it says that it is done."""
    config = load_config(None, settings)
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        from aspo_megatron.checkpoint.states import writer
        from aspo_megatron.checkpoint.torch_dist.parts import write_part
        from aspo_megatron.checkpoint.torch_dist.writer import TorchDistWriter

        saves = Saves(settings, topology)
        saves.save(1)
        saves.save(2)
        write, say = TorchDistWriter.write, write_part
        calls = 0

        def ends(*args: Any) -> None:
            nonlocal calls
            calls += 1
            if topology.is_leader and calls == at:  # which writes the tensors that both have
                raise ENDS[end]
            write(*args)

        def ends_last(*args: Any) -> None:
            say(*args)
            raise ENDS[end]

        for step, at in ((3, 1), (4, 9), (5, 0)):
            calls = 0
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(TorchDistWriter, "write", ends)
                if not at and topology.rank == 1:
                    patch.setattr(writer, "write_part", ends_last)
                saves.save(step)
            saves.check((2,))
        said = list(saves.said)
        saves.save(6)
        saves.check((6,))
        assert saves.said == said
        return said


def nothing_is_done(patch: pytest.MonkeyPatch, saves: Saves) -> None:
    patch.setattr(threading.Thread, "run", lambda thread: None)


def a_weight_is_not_drawn(patch: pytest.MonkeyPatch, saves: Saves) -> None:
    from aspo_megatron.checkpoint.states import run_states
    from aspo_megatron.checkpoint.states.sharded_state import model_shards as shards

    patch.setattr(run_states, "model_shards", lambda model: list(shards(model))[:-1])


def a_weight_is_drawn_twice(patch: pytest.MonkeyPatch, saves: Saves) -> None:
    from aspo_megatron.checkpoint.states import run_states
    from aspo_megatron.checkpoint.states.sharded_state import model_shards as shards

    patch.setattr(run_states, "model_shards", lambda model: [*shards(model), *list(shards(model))[:1]])


def a_tensor_is_not_written(patch: pytest.MonkeyPatch, saves: Saves) -> None:
    from aspo_megatron.checkpoint.states import writer

    patch.setattr(writer._Written, "add", lambda written, shard: None)


def no_thread_is_to_be_had(patch: pytest.MonkeyPatch, saves: Saves) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    patch.setattr(threading.Thread, "start", refuse)


def before_it_is_finished(patch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> None:
    """Do something to the folder when all parts are written."""
    from aspo_megatron.checkpoint.states import writer
    from aspo_megatron.checkpoint.torch_dist.parts import finish_parts as finish

    def after(folder: Path, parts: Any) -> None:
        act(folder)
        finish(folder, parts)

    patch.setattr(writer, "finish_parts", after)


def a_file_appears(patch: pytest.MonkeyPatch, saves: Saves) -> None:
    before_it_is_finished(patch, lambda folder: (folder / "__7_0.distcp").write_bytes(b""))


def a_file_goes(patch: pytest.MonkeyPatch, saves: Saves) -> None:
    before_it_is_finished(patch, lambda folder: (folder / "__1_0.distcp").unlink())


def once_it_is_synced(patch: pytest.MonkeyPatch, name: str, act: Callable[[Path], object]) -> None:
    """Do something to a file as soon as the disk is said to have it."""
    sync = os.fsync

    def forgetful(descriptor: int) -> None:
        sync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.name == name:
            act(path)

    patch.setattr(os, "fsync", forgetful)


def the_disk_forgets(patch: pytest.MonkeyPatch, saves: Saves) -> None:
    """What was synced is another thing when it is read, its size as it was."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    once_it_is_synced(patch, "__0_0.distcp", damage)


def the_index_is_lost(patch: pytest.MonkeyPatch, saves: Saves) -> None:
    once_it_is_synced(patch, ".metadata", lambda path: path.write_bytes(b""))


def the_tokenizer_is_gone(patch: pytest.MonkeyPatch, saves: Saves) -> None:
    from aspo_megatron.checkpoint.states import writer

    patch.setattr(writer, "sidecar_files", lambda folder: [folder / "gone.json"])


def the_configuration_is_gone(patch: pytest.MonkeyPatch, saves: Saves) -> None:
    read = Path.read_bytes

    def missing(path: Path) -> bytes:
        if path.name == "config.yaml":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return read(path)

    patch.setattr(Path, "read_bytes", missing)


LACKS: dict[str, tuple[Callable[[pytest.MonkeyPatch, Saves], None], str]] = {
    "nothing is done": (nothing_is_done, "writing has ended before its end"),
    "a weight is not drawn": (a_weight_is_not_drawn, "was expected"),
    "a weight is drawn twice": (a_weight_is_drawn_twice, "two pieces at"),
    "a tensor is not written": (a_tensor_is_not_written, "pieces of tensors were written"),
    "no thread": (no_thread_is_to_be_had, "can't start new thread"),
    "a file appears": (a_file_appears, "no rank has recorded what is in it"),
    "a file goes": (a_file_goes, "missing from the checkpoint"),
    "the disk forgets": (the_disk_forgets, "the disk returns something other than what was written"),
    "the index is lost": (the_index_is_lost, "the disk returns something other than what was written"),
    "no tokenizer": (the_tokenizer_is_gone, "No such file"),
    "no configuration": (the_configuration_is_gone, "No such file"),
}


@pytest.mark.parametrize("lack", one_in(3, LACKS))
def test_what_is_not_whole_gets_no_name(ranks: Ranks, settings: list[str], lack: str) -> None:
    for said in ranks.run(2, save_without, settings, lack):
        (line,) = said
        assert f"step-000003 was not saved ({LACKS[lack][1]}" in line or LACKS[lack][1] in line


def save_without(settings: list[str], lack: str) -> list[str]:
    config = load_config(None, settings)
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        saves = Saves(settings, topology)
        saves.save(1)
        saves.save(2)
        with pytest.MonkeyPatch.context() as patch:
            LACKS[lack][0](patch, saves)
            saves.save(3)
        saves.check((2,))
        assert not list((config.output_dir / "checkpoints").glob("*.partial"))
        said = list(saves.said)
        saves.save(4)
        saves.check((4,))
        assert saves.said == said
        return said
