"""What a pickle may take: memory is counted as its values are made, whatever instruction makes them."""

from __future__ import annotations

import pickle
import tracemalloc

import pytest
import torch
from thorough import one_in
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from aspo_megatron.checkpoint.torch_dist.index_file import MEMORY_OF_A_BYTE, index_memory, parse_index
from aspo_megatron.checkpoint.torch_dist.plain_pickle import PlainPickleError, read_pickle

MIB = 1 << 20
NAMES = {"torch": {"Size"}}
SIZE = b"ctorch\nSize\n"
VALUES = {
    "mappings": b"}",
    "lists": b"]",
    "numbers": b"M\xff\xff",
    "small numbers": b"K\x01",
    "long numbers": b"\x8a\x08" + b"\x7f" * 8,
    "floats": b"G" + b"\x01" * 8,
    "texts": b"\x8c\x02ab",
    "wide texts": b"\x8c\x04\xf0\x9f\x98\x80",
    "bytes": b"C\x02ab",
    "pairs": b"NN\x86",
    "tuples": b"(NNNNt",
    "names": SIZE,
    "made": SIZE + b")\x81",
    "kept elsewhere": b"NQ",
    "entries": b"}(NNNNNNNNu",
    "kept numbers": b"K\x01" + b"\x94" * 8,
    "references": b"h\x00",
}
"""What is put into lists again and again."""


@pytest.mark.parametrize("kind", one_in(3, VALUES))
def test_a_value_for_each_byte(kind: str) -> None:
    data = b"\x80\x02]\x94" + (b"(" + VALUES[kind] * 1000 + b"e") * 2000 + b"."
    tracemalloc.start()
    try:
        with pytest.raises(PlainPickleError, match=r"^it makes more values than"):
            read_pickle(data, NAMES, 4 * MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


def test_values_that_are_kept_alone() -> None:
    with pytest.raises(PlainPickleError, match=r"makes more values"):
        read_pickle(b"\x80\x04N" + b"\x94" * MIB + b".", {}, 4 * MIB)
    old = b"".join(b"r" + number.to_bytes(4, "little") for number in range(MIB // 4))
    with pytest.raises(PlainPickleError, match=r"makes more values"):
        read_pickle(b"\x80\x02N" + old + b".", {}, 4 * MIB)


def index(tensors: int, pieces: int) -> bytes:
    whole: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    storage = {}
    for number in range(tensors):
        key = f"optimizer.state.exp_avg_sq.decoder.layers.90.mlp.experts.local_experts.{number}.linear_fc1.weight_w"
        chunks = [ChunkStorageMetadata(torch.Size([1000 * i, 0]), torch.Size([1000, 4096])) for i in range(pieces)]
        whole[key] = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size([1000 * pieces, 4096]), chunks)
        for i, chunk in enumerate(chunks):
            place = _StorageInfo(f"__{i}_0.distcp", 10**9 + 12345 * number, 16_400_000)
            storage[MetadataIndex(key, chunk.offsets, i)] = place
    return pickle.dumps(Metadata(state_dict_metadata=whole, storage_data=storage, storage_meta=StorageMeta()))


@pytest.mark.parametrize(("tensors", "pieces"), [(500, 1), (100, 8), (20, 64)])
def test_an_index_of_a_model_of_any_size_has_room(tensors: int, pieces: int) -> None:
    """As if there were no room but that of its pieces."""
    content = index(tensors, pieces)
    room = (index_memory(weights=1) - index_memory(weights=0)) // (4 * 64) * tensors * pieces
    assert len(parse_index(content, room * 3 // 4).storage_data) == tensors * pieces
    assert len(content) * MEMORY_OF_A_BYTE < room
    with pytest.raises(PlainPickleError, match=r"makes more values"):
        parse_index(content, room // 8)


def test_the_index_of_the_largest_model_has_room() -> None:
    """37,000 weights with what the optimizer has of them, each in eight pieces; as much of it as 800 pieces get."""
    content = index(100, 8)
    room = index_memory(weights=37_000) * 800 // (37_000 * 4 * 8)
    assert len(parse_index(content, room).storage_data) == 800
    assert len(content) * MEMORY_OF_A_BYTE < room
