"""Pieces of tensors as torch.save writes them, read as views of the file; nothing in a piece is ever run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorProperties, TensorStorageMetadata

from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader
from aspo_megatron.checkpoint.torch_dist.writer import (
    TensorPiece,
    TorchDistWriter,
    check_cover,
    without_crc,
    write_index,
)
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.families import llama
from aspo_megatron.models.family import Family

FAMILY = Family(
    "llama", llama.FAMILY.rows_of(tied_embeddings=True), "{}", 2, 48, 72, 12, 6, 4, 97, 256, 1e-6, True, False, False
)
"""Of a small model; no more is asked of it here than how many tensors it may have."""

TENSORS: dict[str, Callable[[], Tensor]] = {
    "fp32": lambda: torch.randn(5, 7),
    "bf16": lambda: torch.randn(129).bfloat16(),
    "fp16": lambda: torch.randn(3, 2, 4).half(),
    "fp64": lambda: torch.randn(2, 2, dtype=torch.float64),
    "int64": lambda: torch.arange(9).view(3, 3),
    "fp8": lambda: torch.randn(4, 4).to(torch.float8_e4m3fn),
    "transposed": lambda: torch.randn(6, 4).t(),
    "slice": lambda: torch.randn(100, 3)[10:20],
    "columns": lambda: torch.randn(10, 10)[:, 3:5],
    "single": lambda: torch.randn(1),
}


def write(folder: Path, tensors: dict[str, Tensor]) -> list[TensorPiece]:
    with TorchDistWriter(folder, 0) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor, tuple(tensor.shape), (0,) * tensor.dim())
    write_index(folder, writer.pieces)
    return writer.pieces


@pytest.mark.parametrize("crc", [True, False])
def test_what_is_written_is_read(tmp_path: Path, crc: bool) -> None:
    tensors = {name: make() for name, make in TENSORS.items()}
    if crc:
        pieces = write(tmp_path, tensors)
    else:
        with without_crc():
            pieces = write(tmp_path, tensors)
        assert torch.serialization.get_crc32_options()
    content = (tmp_path / "__0_0.distcp").read_bytes()
    assert all(piece.start % 64 == 0 for piece in pieces)
    with TorchDistReader(tmp_path, FAMILY) as reader:
        for piece in pieces:
            want = tensors[piece.key]
            own = torch.load(io.BytesIO(content[piece.start : piece.start + piece.length]), weights_only=True)
            for found in (reader.read(piece.key), own):
                assert found.dtype == want.dtype
                assert torch.equal(found.contiguous().view(torch.uint8), want.contiguous().view(torch.uint8))


def test_a_tensor_outlives_its_reader(tmp_path: Path) -> None:
    want = torch.randn(1000)
    write(tmp_path, {"t": want})
    with TorchDistReader(tmp_path, FAMILY) as reader:
        found = reader.read("t")
    del reader
    assert torch.equal(found, want)
    found.add_(1)  # does not reach the file
    with TorchDistReader(tmp_path, FAMILY) as again:
        assert torch.equal(again.read("t"), want)


def test_pieces_of_one_tensor(tmp_path: Path) -> None:
    whole = torch.randn(6, 8)
    with TorchDistWriter(tmp_path, 0) as first, TorchDistWriter(tmp_path, 1) as second:
        second.write("rows", whole[4:], (6, 8), (4, 0))
        first.write("rows", whole[:4], (6, 8), (0, 0))
        first.write("columns", whole[:, :3], (6, 8), (0, 0))
        second.write("columns", whole[:, 3:], (6, 8), (0, 3))
    write_index(tmp_path, [*second.pieces, *first.pieces])
    with TorchDistReader(tmp_path, FAMILY) as reader:
        assert [len(part) for part in reader.read_parts("rows")] == [4, 2]
        assert torch.equal(reader.read("rows"), whole)
        assert torch.equal(reader.read("columns"), whole)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_a_piece_that_would_act_is_refused(tmp_path: Path) -> None:
    (piece,) = write(tmp_path, {"t": torch.ones(4)})
    hostile = io.BytesIO()
    torch.save(Hostile(tmp_path / "pwned"), hostile)
    refuse(tmp_path, piece, hostile.getvalue(), "cannot be read")
    assert not (tmp_path / "pwned").exists()


def test_a_piece_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    (piece,) = write(tmp_path, {"t": torch.ones(4)})
    saved = io.BytesIO()
    torch.save(torch.ones(4), saved)
    forged = io.BytesIO()
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(forged, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"" if name.endswith("data/0") else old.read(name))
    refuse(tmp_path, piece, forged.getvalue(), "cannot be read")
    refuse(tmp_path, piece, b"no archive", "cannot be read")


def refuse(folder: Path, piece: TensorPiece, content: bytes, message: str) -> None:
    (folder / piece.file).write_bytes(content)
    write_index(
        folder,
        [TensorPiece(piece.key, piece.dtype, piece.whole, piece.offset, piece.size, piece.file, 0, len(content))],
    )
    with TorchDistReader(folder, FAMILY) as reader, pytest.raises(CheckpointError, match=message):
        reader.read(piece.key)


def pieces(count: int, dims: int, length: int) -> TensorStorageMetadata:
    """A tensor of `dims` dimensions in so many pieces along the first."""
    rest = [1] * (dims - 1)
    chunks = [
        ChunkStorageMetadata(torch.Size([number * length, *[0] * (dims - 1)]), torch.Size([length, *rest]))
        for number in range(count)
    ]
    return TensorStorageMetadata(TensorProperties(torch.float32), torch.Size([count * length, *rest]), chunks)


@pytest.mark.timeout(60)
def test_pieces_of_many_dimensions_take_no_hours() -> None:
    check_cover("w", pieces(1000, dims=8, length=1))
    check_cover("w", pieces(300_000, dims=8, length=0))
    with pytest.raises(CheckpointError, match="tensor w: of 20,000 pieces, which is more than any layout makes"):
        check_cover("w", pieces(20_000, dims=8, length=1))
