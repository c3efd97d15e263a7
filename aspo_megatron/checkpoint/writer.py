"""Writes a distributed checkpoint from all ranks: beside its place first, complete or not at all."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from aspo_megatron.checkpoint.integrity import FileEntry, model_identity, sync, write_manifest
from aspo_megatron.checkpoint.sidecar import copy_sidecar
from aspo_megatron.checkpoint.state import Shard
from aspo_megatron.checkpoint.tensors import Piece, PieceWriter, write_index
from aspo_megatron.config import ParallelConfig
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.exchange import from_leader, gather
from aspo_megatron.parallel.host_copies import HostCopies


@dataclass(frozen=True)
class About:
    """What a checkpoint says of its model. `model_folder`: whose tokenizer and so on are kept with it."""

    family: Family
    model_folder: Path
    parallel: ParallelConfig


class CheckpointWriter:
    """One checkpoint in the making. Every method is a collective, except `is_written`."""

    def __init__(self, folder: Path, about: About) -> None:
        """`folder`: the place it gets when it is complete."""
        self.folder = folder
        self._about = about
        self._partial = folder.with_name(folder.name + ".partial")
        self._leads = dist.get_rank() == 0
        self._thread: threading.Thread | None = None
        self._error: str | None = None
        self._pieces: list[Piece] = []
        self._entries: dict[str, FileEntry] = {}

    def begin(
        self,
        shards: Iterable[Shard],
        shared: Mapping[str, bytes],
        own: Mapping[str, bytes],
        copies: HostCopies | None = None,
    ) -> None:
        """Write this rank's part. Nothing is raised: `complete` tells what went wrong.

        Args:
            shards: this rank's tensors; drawn to the end whatever happens, since that may be a collective.
            shared: small files by name, which the leader writes.
            own: small files of this rank.
            copies: copy the tensors as they are drawn, and have a thread write the copies.
        """
        if self._leads:
            self._error = self._prepare(shared)
        self._error = from_leader(self._error)
        if copies is None:
            self._write(shards, own)
            return
        copied = self._copy(shards, copies)
        self._thread = threading.Thread(
            target=self._write_copied, args=(copied, own, copies), name="checkpoint", daemon=True
        )
        self._thread.start()

    def is_written(self) -> bool:
        """Whether this rank has nothing left to write."""
        return self._thread is None or not self._thread.is_alive()

    def complete(self) -> str | None:
        """Wait for the parts of all ranks and give the checkpoint its name; the reason if that was not possible."""
        if self._thread is not None:
            self._thread.join()
        parts = gather((self._error, self._pieces, self._entries))
        error = next((error for error, _, _ in parts if error), None)
        if self._leads:
            if error is None:
                pieces = [piece for _, part, _ in parts for piece in part]
                entries = {name: entry for _, _, part in parts for name, entry in part.items()}
                error = self._finish(pieces, entries)
            if error is not None:
                shutil.rmtree(self._partial, ignore_errors=True)
        return from_leader(error)

    def _prepare(self, shared: Mapping[str, bytes]) -> str | None:
        try:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            for name, content in shared.items():
                (self._partial / name).write_bytes(content)
            copy_sidecar(self._about.model_folder, self._partial)
        except OSError as error:
            return _reason(error)
        return None

    def _copy(self, shards: Iterable[Shard], copies: HostCopies) -> list[Shard]:
        """The shards on the host; fewer where there was no memory for them."""
        copied: list[Shard] = []
        for shard in shards:
            try:
                if self._error is None:
                    copied.append(replace(shard, tensor=copies.take(shard.tensor, lasts=shard.lasts)))
            except RuntimeError as error:
                self._error = _reason(error)
            del shard  # the next tensor is made before this name is given to it
        return copied

    def _write_copied(self, copied: list[Shard], own: Mapping[str, bytes], copies: HostCopies) -> None:
        try:
            copies.wait()
        except RuntimeError as error:
            self._error = self._error or _reason(error)
        self._write(copied, own)

    def _write(self, shards: Iterable[Shard], own: Mapping[str, bytes]) -> None:
        remaining = iter(shards)
        try:
            if self._error is None:
                for name, content in own.items():
                    (self._partial / name).write_bytes(content)
                with PieceWriter(self._partial, dist.get_rank()) as writer:
                    for shard in remaining:
                        writer.write(shard.key, shard.tensor, shard.whole, shard.offset)
                        del shard  # the next tensor is made before this name is given to it
                self._pieces, self._entries = writer.pieces, {writer.name: writer.entry}
        except (OSError, RuntimeError) as error:
            self._error = _reason(error)
        for _ in remaining:
            pass

    def _finish(self, pieces: list[Piece], entries: dict[str, FileEntry]) -> str | None:
        family, layout = self._about.family, self._about.parallel.model_dump(mode="json")
        try:
            write_index(self._partial, pieces)
            write_manifest(self._partial, model_identity(family.hf_config), family.name, layout, entries)
            self._partial.rename(self.folder)
            sync(self.folder.parent)
        except (OSError, RuntimeError, CheckpointError) as error:
            return _reason(error)
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    cause: Any = error.__context__
    return _reason(cause) if isinstance(cause, OSError) else str(error).splitlines()[0]
