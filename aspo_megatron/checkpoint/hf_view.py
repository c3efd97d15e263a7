"""The tensors of a megatron checkpoint under their Hugging Face names, made one at a time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from aspo_megatron.checkpoint.checked_json import shown
from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader
from aspo_megatron.checkpoint.torch_dist.tensor_names import checkpoint_keys
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import ParameterRow, each_parameter, export_tensors, exported, hf_sizes

_KEPT_BYTES = 256 << 20
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_OUTPUT = "output_layer.weight"


@dataclass(frozen=True)
class _Place:
    row: ParameterRow
    layer: int
    expert: int
    source: int


class HfView:
    """A `TensorSource` over a megatron checkpoint. `sizes`: of all its tensors, in the table's order.

    As a context manager it closes its reader.
    """

    def __init__(self, reader: TorchDistReader, family: Family) -> None:
        """See that every tensor is in the checkpoint, with the model's sizes.

        Raises:
            CheckpointError: one is missing, of another size, holds no floating-point numbers, or would be left out;
                names it.
        """
        self._reader = reader
        self._shape = family.shape(tp=1)
        self.sizes = hf_sizes(family.rows, self._shape)
        self._places: dict[str, _Place] = {}
        layers, experts = range(family.num_layers), range(family.num_experts)
        for row, layer, expert in each_parameter(exported(family.rows), layers, experts):
            for source, name in enumerate(row.hf_names(layer, expert)):
                self._places[name] = _Place(row, layer, expert, source)
        if family.tied_embeddings:  # some files hold the one matrix under both names
            if _OUTPUT in reader:
                raise CheckpointError(
                    f"tensor {_OUTPUT}: config.json ties the embeddings, but the checkpoint has an output layer"
                )
            self._places[HEAD] = self._places[EMBEDDING]
        # Query, key and value come from one tensor; they are wanted at about the same time.
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        for name, size in self.sizes.items():
            self._check(name, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, error, traceback)

    def _check(self, name: str, size: tuple[int, ...]) -> None:
        place = self._place(name)
        keys = checkpoint_keys(place.row, place.layer, place.expert)
        key = keys[place.source if len(keys) > 1 else 0]
        there, dtype = self._reader.size(key), self._reader.dtype(key)
        rows = sum(each[0] for each in place.row.sizes(self._shape)) if len(keys) == 1 else size[0]
        padded = name in (EMBEDDING, HEAD) and there[:1] > (rows,)
        if (there[:1] != (rows,) and not padded) or there[1:] != size[1:]:
            raise CheckpointError(
                f"tensor {name}: config.json asks for {list(size)}, the checkpoint has {list(there)} of it"
            )
        if not dtype.is_floating_point:
            raise CheckpointError(f"tensor {name}: has dtype {dtype}, but weights are floating-point numbers")

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._places

    def dtype(self, name: str) -> torch.dtype:
        """Precision of a tensor."""
        place = self._place(name)
        return self._reader.dtype(checkpoint_keys(place.row, place.layer, place.expert)[0])

    def path_of(self, name: str) -> Path:
        """The file that a tensor begins in."""
        place = self._place(name)
        return self._reader.path_of(checkpoint_keys(place.row, place.layer, place.expert)[0])

    def read(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        """Rows start..stop of a tensor along `dim`."""
        return self.read_whole(name).narrow(dim, start, stop - start)

    def read_whole(self, name: str) -> Tensor:
        """A whole tensor. It may be a view of the checkpoint's file.

        Raises:
            CheckpointError: it is missing or cannot be read.
        """
        parts = self.read_parts(name)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def read_parts(self, name: str) -> list[Tensor]:
        """A whole tensor as the parts that it is the concatenation of along dim 0, see `read_whole`."""
        if name in self._kept:
            return [self._kept.pop(name)]
        place = self._place(name)
        row = place.row
        keys = checkpoint_keys(row, place.layer, place.expert)
        key = keys[place.source if len(keys) > 1 else 0]
        if len(row.hf) <= 2:  # as it is, but for the padding of a vocabulary
            return _first_rows(self._reader.read_parts(key), row.sizes(self._shape)[place.source][0])
        names = row.hf_names(place.layer, place.expert)
        self._keep(zip(names, export_tensors(row, [self._reader.read(key)], self._shape), strict=True))
        return [self._kept.pop(name)]

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise CheckpointError(f"tensor {shown(name)} is not one that the model has")
        return self._places[name]

    def _keep(self, tensors: zip[tuple[str, Tensor]]) -> None:
        self._kept |= tensors
        while len(self._kept) > 3 and sum(tensor.nbytes for tensor in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)


def _first_rows(parts: list[Tensor], count: int) -> list[Tensor]:
    found = []
    for part in parts:
        found.append(part[:count])
        count -= found[-1].shape[0]
    return found
