"""Writes a distributed checkpoint from all ranks: beside its place first, complete or not at all.

Success is said, never taken for granted: a rank's part counts when the rank has written it, read it back from the disk
and said so (`parts`), and a checkpoint gets its name when every rank finds in it all tensors that it wants.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from aspo_megatron.checkpoint.states.sharded_state import Shard, Sizes
from aspo_megatron.checkpoint.torch_dist.manifest import PARTS, FileEntry, model_identity, write_durably
from aspo_megatron.checkpoint.torch_dist.parts import PARTIAL, Holds, Part, finish_parts, give_name, remove, write_part
from aspo_megatron.checkpoint.torch_dist.sidecar import sidecar_files
from aspo_megatron.checkpoint.torch_dist.writer import TensorPiece, TorchDistWriter
from aspo_megatron.config import ParallelConfig
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import SIDECAR
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.device.host_copies import HostCopies
from aspo_megatron.parallel.grid.exchange import from_leader, gather


@dataclass(frozen=True)
class CheckpointDescription:
    """The model that a checkpoint is of. `model_folder`: whose tokenizer and so on are kept with it."""

    family: Family
    model_folder: Path
    parallel: ParallelConfig

    def holds(self) -> Holds:
        """The same for the manifest."""
        layout = self.parallel.model_dump(mode="json")
        return Holds(model_identity(self.family.hf_config), self.family.name, layout)


class CheckpointWriter:
    """One checkpoint in the making. Every method is a collective, except `is_written`."""

    def __init__(self, folder: Path, description: CheckpointDescription) -> None:
        """`folder`: the place it gets when it is complete."""
        self.folder = folder
        self._description = description
        self._partial = folder.with_name(folder.name + PARTIAL)
        self._leads = dist.get_rank() == 0
        self._attempt = from_leader(uuid.uuid4().hex)
        self._thread: threading.Thread | None = None
        self._wanted: Mapping[str, Sizes] = {}
        self._drawn: list[tuple[str, torch.dtype, Sizes, Sizes, Sizes]] = []
        self._error: str | None = None
        self._part: Part | None = None

    def begin(
        self,
        shards: Iterable[Shard],
        shared: Mapping[str, bytes | Path],
        own: Mapping[str, bytes],
        copies: HostCopies | None = None,
        wanted: Mapping[str, Sizes] | None = None,
    ) -> None:
        """Write this rank's part. `complete` tells what went wrong; only what `shards` raises is raised.

        Args:
            shards: this rank's tensors; drawn to the end whatever happens, since that may be a collective.
            shared: small files by name, which the leader writes, or copies.
            own: small files of this rank.
            copies: copy the tensors as they are drawn, and have a thread write the copies.
            wanted: sizes of the global tensors that this rank will look for when it reads the checkpoint.
        """
        self._wanted = wanted or {}
        if self._leads:
            self._try(self._prepare)
        self._error = from_leader(self._error)
        files: dict[str, bytes | Path] = {**(shared if self._leads else {}), **own}
        if copies is None:
            self._write(self._noted(shards), files)
            return
        copied = self._copy(self._noted(shards), copies)
        self._thread = threading.Thread(
            target=self._write_copied, args=(copied, files, copies), name="checkpoint", daemon=True
        )
        self._try(self._thread.start)

    def is_written(self) -> bool:
        """Whether this rank has nothing left to write."""
        return self._thread is None or not self._thread.is_alive()

    def complete(self) -> str | None:
        """Wait for the parts of all ranks and give the checkpoint its name; the reason if that was not possible."""
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()
        said = gather((self._part, self._error or "writing has ended before its end"))
        parts = [part for part, _ in said if part is not None]
        if len(parts) == len(said):
            self._error = next((lack for lack in gather(self._lack(parts)) if lack), None)
        else:
            self._error = next(error for part, error in said if part is None)
        if self._leads:
            if self._error is None:
                self._try(lambda: self._finish(parts))
            if self._error is not None:
                discard(self._partial)
        return from_leader(self._error)

    def _try(self, action: Callable[[], object]) -> None:
        """Do what may fail, if nothing has failed yet."""
        if self._error is not None:
            return
        try:
            action()
        except Exception as error:
            self._error = _reason(error)

    def _prepare(self) -> None:
        for left in self.folder.parent.glob(f"step-*{PARTIAL}"):  # what could not be removed when its save had failed
            discard(left)
        remove(self._partial)
        self._partial.mkdir(parents=True)

    def _noted(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """The shards; what they are is kept, to be compared with what is written."""
        for shard in shards:
            self._drawn.append((shard.key, shard.tensor.dtype, shard.whole, shard.offset, tuple(shard.tensor.shape)))
            yield shard
            del shard  # the next tensor is made before this name is given to it

    def _copy(self, shards: Iterable[Shard], copies: HostCopies) -> list[Shard]:
        """The shards on the host; fewer where there was no memory for them."""
        copied: list[Shard] = []
        for shard in shards:
            self._try(partial(_take, shard, copies, copied))
            del shard  # the next tensor is made before this name is given to it
        return copied

    def _write_copied(self, copied: list[Shard], files: Mapping[str, bytes | Path], copies: HostCopies) -> None:
        try:
            self._try(copies.wait)
            self._write(copied, files)
        except BaseException as error:  # nobody else would see it
            self._error = self._error or _reason(error)

    def _write(self, shards: Iterable[Shard], files: Mapping[str, bytes | Path]) -> None:
        written = _Written(self._partial)
        self._try(partial(written.begin, files, self._description.model_folder if self._leads else None))
        for shard in shards:  # what drawing raises is raised: the other ranks wait for this one
            self._try(partial(written.add, shard))
            del shard  # the next tensor is made before this name is given to it
        self._try(partial(self._say, written))
        written.end()

    def _say(self, written: _Written) -> None:
        """Say that this rank's part is on the disk: the last thing that is done for it."""
        pieces = written.pieces()
        there = [(piece.key, piece.dtype, piece.whole, piece.offset, piece.size) for piece in pieces]
        if there != self._drawn:
            raise CheckpointError(f"{len(there)} of {len(self._drawn)} pieces of tensors were written")
        part = Part(
            self._attempt, dist.get_world_size(), dist.get_rank(), self._description.holds(), written.entries, pieces
        )
        write_part(self._partial, part)
        self._part = part

    def _lack(self, parts: Iterable[Part]) -> str | None:
        """What this rank would look for in vain."""
        there = {piece.key: piece.whole for part in parts for piece in part.pieces}
        for key, size in self._wanted.items():
            if there.get(key) != size:
                return (
                    f"tensor {key} of size {list(size)} was expected, {list(there.get(key, ())) or 'none'} was written"
                )
        return None

    def _finish(self, parts: list[Part]) -> None:
        finish_parts(self._partial, parts)
        give_name(self._partial)


class _Written:
    """The files of a rank in the making."""

    def __init__(self, folder: Path) -> None:
        self.entries: dict[str, FileEntry] = {}
        self._folder = folder
        self._writer: TorchDistWriter | None = None

    def begin(self, files: Mapping[str, bytes | Path], model_folder: Path | None) -> None:
        """Write the small files, also those beside the weights of `model_folder`, and open that of tensors."""
        beside = (
            {} if model_folder is None else {f"{SIDECAR}/{path.name}": path for path in sidecar_files(model_folder)}
        )
        for name, content in {**files, **beside}.items():
            (self._folder / name).parent.mkdir(exist_ok=True)
            data = content.read_bytes() if isinstance(content, Path) else content
            self.entries[name] = write_durably(self._folder / name, data)
        self._writer = TorchDistWriter(self._folder, dist.get_rank())

    def add(self, shard: Shard) -> None:
        """Append a tensor."""
        assert self._writer is not None
        self._writer.write(shard.key, shard.tensor, shard.whole, shard.offset)

    def pieces(self) -> list[TensorPiece]:
        """What was appended: the disk has it now."""
        assert self._writer is not None
        self._writer.close(durable=True)
        self.entries[self._writer.name] = self._writer.entry
        return self._writer.pieces

    def end(self) -> None:
        """Close what is open."""
        if self._writer is not None:
            self._writer.close(durable=False)


def discard(partial_folder: Path) -> None:
    """Remove what is not going to be complete, as far as that is possible."""
    if not partial_folder.is_symlink():
        shutil.rmtree(partial_folder / PARTS, ignore_errors=True)  # first, so that nobody completes what is left
    with contextlib.suppress(OSError):
        remove(partial_folder)


def _take(shard: Shard, copies: HostCopies, copied: list[Shard]) -> None:
    copied.append(replace(shard, tensor=copies.take(shard.tensor, lasts=shard.lasts)))


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    cause: Any = error.__context__
    if isinstance(cause, OSError):
        return _reason(cause)
    lines = str(error).splitlines() or [""]
    named = isinstance(error, RuntimeError | CheckpointError) and lines[0]
    return lines[0] if named else f"{type(error).__name__}: {lines[0]}".removesuffix(": ")
