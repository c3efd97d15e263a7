"""What each rank says of its part of a checkpoint, in a file of its own: `parts/rank-00000.json` of the folder.

It is written last, when the rest of the part is on the disk and has been read back. So a folder in which every rank has
said so lacks nothing, even if all ranks were killed before it got its name: `finish_parts` completes it, then or later.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aspo_megatron.checkpoint import checked_json
from aspo_megatron.checkpoint.checked_json import self_consistent, with_digest
from aspo_megatron.checkpoint.torch_dist.manifest import (
    PARTS,
    FileEntry,
    file_entries,
    read_back,
    read_manifest,
    write_durably,
    write_manifest,
)
from aspo_megatron.checkpoint.torch_dist.torch_file import DTYPES
from aspo_megatron.checkpoint.torch_dist.writer import TensorPiece, is_piece_file, write_index
from aspo_megatron.errors import CheckpointError
from aspo_megatron.files import to_disk
from aspo_megatron.folders import MANIFEST
from aspo_megatron.reading import MOST_BYTES, parse_json

PARTIAL = ".partial"
"""Ending of what has not got its name yet."""


@dataclass(frozen=True)
class Holds:
    """What the manifest will say of the model: see `Manifest`."""

    model: str
    family: str
    layout: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What a rank has written in an attempt (a name that no other has) of `ranks` ranks."""

    attempt: str
    ranks: int
    rank: int
    holds: Holds
    files: dict[str, FileEntry]
    pieces: list[TensorPiece]


def write_part(folder: Path, part: Part) -> None:
    """Say that a part is written, which it must be. Durable, and read back, when this returns.

    Raises:
        OSError: it cannot be written.
        CheckpointError: the disk gives back something else.
    """
    read_back(folder, part.files)
    for name in {str(Path(name).parent) for name in part.files}:
        to_disk(folder / name)
    (folder / PARTS).mkdir(exist_ok=True)
    name = f"{PARTS}/rank-{part.rank:05d}.json"
    pieces = [{**vars(piece), "dtype": str(piece.dtype).removeprefix("torch.")} for piece in part.pieces]
    content = {**vars(part), "holds": asdict(part.holds), "pieces": pieces}
    content["files"] = {file: asdict(entry) for file, entry in part.files.items()}
    read_back(folder, {name: write_durably(folder / name, with_digest(content))})
    to_disk(folder / PARTS)
    to_disk(folder)


def finish_parts(folder: Path, parts: Sequence[Part]) -> None:
    """Make the files of all ranks a checkpoint, which lacks nothing but its name.

    Raises:
        CheckpointError: tensors or files are missing, or a file is there that nobody has written.
        OSError: a file cannot be written.
    """
    holds, files = parts[0].holds, _files(parts)
    index = write_index(folder, [piece for part in parts for piece in part.pieces])
    read_back(folder, index)
    write_manifest(folder, holds.model, holds.family, holds.layout, files | index)
    with contextlib.suppress(OSError):  # the manifest says all of it now
        shutil.rmtree(folder / PARTS)


def give_name(folder: Path) -> None:
    """Rename `X.partial`, which is complete, to `X`.

    Raises:
        OSError: that cannot be done.
    """
    folder.rename(folder.with_name(folder.name.removesuffix(PARTIAL)))


def remove(path: Path) -> None:
    """Remove what has a name: a file, a folder with all that is in it, or a link, but not what that leads to.

    Raises:
        OSError: that cannot be done.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def complete_left(folder: Path) -> bool:
    """Give `X.partial`, which an ended run has left, its name if every rank has written its part; whether that was so.

    Raises:
        OSError: a file cannot be read now, or cannot be written; nothing is lost.
    """
    try:
        if os.path.lexists(folder.with_name(folder.name.removesuffix(PARTIAL))):
            return False
        if not all(_is_own(path) for path in folder.rglob("*")):  # what is written would go to what a link leads to
            return False
        if not _is_complete(folder):
            finish_parts(folder, _read_parts(folder))
    except CheckpointError:
        return False
    give_name(folder)
    to_disk(folder.parent)
    return True


def _is_own(path: Path) -> bool:
    """Whether this is a file or a folder, as a save makes them."""
    return not path.is_symlink() and (path.is_file() or path.is_dir())


def _is_complete(folder: Path) -> bool:
    if not (folder / MANIFEST).is_file():
        return False
    try:
        read_manifest(folder)
    except CheckpointError:  # half of it was written; the parts say the same
        return False
    return True


def _files(parts: Sequence[Part]) -> dict[str, FileEntry]:
    files: dict[str, FileEntry] = {}
    for part in parts:
        twice = files.keys() & part.files.keys()
        if twice:
            raise CheckpointError(f"{min(twice)}: two ranks have written it")
        files |= part.files
    return files


def _read_parts(folder: Path) -> list[Part]:
    """What all ranks have said.

    Raises:
        CheckpointError: not all of them have, or not of the same attempt.
        OSError: what one has said cannot be read now; it may be whole.
    """
    parts = [_read_part(path) for path in sorted((folder / PARTS).glob("rank-*.json"))]
    said = [(part.rank, part.ranks, part.attempt) for part in parts]
    if not parts or said != [(rank, len(parts), parts[0].attempt) for rank in range(len(parts))]:
        raise CheckpointError(f"{folder}: not every rank has written its part")
    return parts


def _read_part(path: Path) -> Part:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise CheckpointError(f"{path}: larger than what a rank writes there")
    content = parse_json(data, f"{path}: damaged", CheckpointError)
    try:
        return _part(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from error


def _part(content: Any) -> Part:
    if not self_consistent(checked_json.mapping(content, "it")):
        raise ValueError("it is not what it was written with")
    holds = checked_json.mapping(content.get("holds"), "holds")
    layout = checked_json.mapping(holds.get("layout"), "layout")
    return Part(
        checked_json.text(content, "attempt"),
        checked_json.whole(content, "ranks"),
        checked_json.whole(content, "rank"),
        Holds(checked_json.text(holds, "model"), checked_json.text(holds, "family"), layout),
        file_entries(content),
        [_piece(piece) for piece in checked_json.items(content.get("pieces"), "pieces")],
    )


def _piece(value: Any) -> TensorPiece:
    piece = checked_json.mapping(value, "a piece")
    whole, offset, size = (tuple(checked_json.wholes(piece, name)) for name in ("whole", "offset", "size"))
    dtype, file = DTYPES.get(checked_json.text(piece, "dtype")), checked_json.text(piece, "file")
    if dtype is None or not is_piece_file(file):
        raise ValueError("a piece of no tensor")
    start, length = checked_json.whole(piece, "start"), checked_json.whole(piece, "length")
    return TensorPiece(checked_json.text(piece, "key", 1000), dtype, whole, offset, size, file, start, length)
