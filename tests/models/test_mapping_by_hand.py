"""Where each row of a Megatron parameter comes from, written out for a small model.

Conversion there and back is the same for any order of rows; which of them megatron wants is said here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aspo_megatron.models.hf_names import by_checkpoint_name
from aspo_megatron.models.mapping import ModelShape, ParameterRow, export_tensors, gate_up, import_shard, qkv, vocab

SHAPE = ModelShape(
    num_layers=1,
    hidden_size=1,
    ffn_hidden_size=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    vocab_size=5,
    padded_vocab_size=8,
    num_experts=0,
    expert_ffn_size=0,
)


class Numbered:
    """Tensors of one column whose rows are numbered: from 100 on in the first tensor, from 200 in the second."""

    def __init__(self, row: ParameterRow) -> None:
        self.tensors = {
            name: torch.arange(size[0])[:, None] + 100.0 * number
            for number, (name, size) in enumerate(zip(row.hf, row.sizes(SHAPE), strict=True), start=1)
        }

    def read(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        return self.tensors[name].narrow(dim, start, stop - start)

    def read_whole(self, name: str) -> Tensor:
        return self.tensors[name]


ROWS: list[tuple[ParameterRow, int, list[list[int]]]] = [
    (
        qkv("qkv", ("q", "k", "v")),
        2,
        [[100, 101, 102, 103, 200, 201, 300, 301], [104, 105, 106, 107, 202, 203, 302, 303]],
    ),
    (
        qkv("qkv", ("q", "k", "v")),
        4,
        [[100, 101, 102, 103], [200, 201, 300, 301], [104, 105, 106, 107], [202, 203, 302, 303]],
    ),
    (
        gate_up("fc1", ("gate", "up"), lambda shape: shape.ffn_hidden_size),
        2,
        [[100, 101, 200, 201], [102, 103, 202, 203]],
    ),
    (vocab("embedding", "embed"), 2, [[100, 101, 102, 103], [104, 0, 0, 0]]),
    (vocab("embedding", "embed"), 4, [[100, 101], [102, 103], [104, 0], [0, 0]]),
]


def test_rows_of_each_rank_and_back() -> None:
    for row, tp, wanted in ROWS:
        source = Numbered(row)
        shards = [import_shard(row, row.hf, source, SHAPE, tp, rank) for rank in range(tp)]
        assert [shard[:, 0].tolist() for shard in shards] == wanted, (row.megatron, tp)
        back = dict(zip(row.hf, export_tensors(row, shards, SHAPE), strict=True))
        assert all(torch.equal(back[name], tensor) for name, tensor in source.tensors.items()), (row.megatron, tp)


def test_experts_that_share_a_tensor_have_names_of_their_own() -> None:
    """Of each expert the gate's rows come first."""
    given = {
        "model.layers.0.mlp.experts.gate_up_proj": torch.arange(2 * 4).reshape(2, 4, 1),
        "model.layers.0.mlp.experts.down_proj": torch.arange(2 * 2).reshape(2, 1, 2),
        "model.layers.0.mlp.gate.weight": torch.zeros(2, 1),
    }
    found = {name: tensor.flatten().tolist() for name, tensor in by_checkpoint_name(given.items())}
    experts = "model.layers.0.mlp.experts"
    assert found == {
        f"{experts}.0.gate_proj.weight": [0, 1],
        f"{experts}.0.up_proj.weight": [2, 3],
        f"{experts}.1.gate_proj.weight": [4, 5],
        f"{experts}.1.up_proj.weight": [6, 7],
        f"{experts}.0.down_proj.weight": [0, 1],
        f"{experts}.1.down_proj.weight": [2, 3],
        "model.layers.0.mlp.gate.weight": [0.0, 0.0],
    }
