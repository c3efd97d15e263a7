"""Faults in conversion of checkpoints and their format."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "checkpoint/convert.py",
        "_write_place",
        "part.shape[row.dim] * place.rank",
        "part.shape[row.dim] * place.ranks",
        ("checkpoint/test_small_states.py",),
    ),
    Mutant(
        "checkpoint/convert.py",
        "compare",
        "tensors.read_whole(name), view.read_whole(name)",
        "tensors.read_whole(name), tensors.read_whole(name)",
        ("checkpoint/test_small_states.py",),
    ),
    Mutant(
        "checkpoint/convert.py",
        "hf_to_megatron",
        "if dtype is None:",
        "if dtype is not None:",
        ("checkpoint/test_convert.py::test_there_and_back_is_the_same_byte_for_byte[llama-untied-tp2-pp2]",),
    ),
    Mutant(
        "checkpoint/torch_dist/reader.py",
        "TorchDistReader.fill",
        "range(first[0] - chunk.offsets[0], first[0] - chunk.offsets[0] + sizes[0])",
        "range(first[0], first[0] + sizes[0])",
        ("checkpoint/test_small_states.py",),
    ),
    Mutant(
        "checkpoint/torch_dist/writer.py",
        "TorchDistWriter.write",
        "bytes(-self._file.tell() % _ALIGNMENT)",
        "bytes(self._file.tell() % _ALIGNMENT)",
        ("checkpoint/test_pieces.py::test_what_is_written_is_read",),
    ),
    Mutant(
        "checkpoint/torch_dist/manifest.py",
        "read_manifest",
        "if size != entry.size:",
        "if size > entry.size:",
        ("checkpoint/test_convert.py::test_a_damaged_checkpoint_is_refused_with_the_file",),
    ),
)
