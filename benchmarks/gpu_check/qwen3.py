"""The dense models whose updates and steps are timed: the sizes of Qwen3, as many layers as a GPU has memory for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aspo_megatron.models.family import Family, read_family
from benchmarks.gpu_check.policies import dense_folder

_LAYERS_AT_A_TIME = 4
_ALL = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151936}


@dataclass(frozen=True)
class Shape:
    """A model by its name and the sizes in its config.json.

    Attributes:
        name: as it is published.
        layers: of the whole model.
        sizes: all others that differ from `policies.dense_folder`'s.
    """

    name: str
    layers: int
    sizes: dict[str, Any]

    def family(self, folder: Path, *, small: bool) -> Family:
        """The whole model; its config.json is put into a new `folder`."""
        return read_family(dense_folder(folder, small=small, num_hidden_layers=self.layers, **self.sizes))


def _qwen3(name: str, layers: int, hidden: int, inner: int, heads: int, *, tied: bool = True) -> Shape:
    own = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads, "tie_word_embeddings": tied}
    return Shape(name, layers, {**_ALL, **own})


SHAPES = (
    _qwen3("Qwen3-0.6B", 28, 1024, 3072, 16),
    _qwen3("Qwen3-1.7B", 28, 2048, 6144, 16),
    _qwen3("Qwen3-4B", 36, 2560, 9728, 32),
    _qwen3("Qwen3-8B", 36, 4096, 12288, 32, tied=False),
)
SMALL_SHAPES = (Shape("a small model", 2, {}),)


def fitting_layers(family: Family, bytes_of: Callable[[Family], int], most: float) -> int:
    """As many layers of a model as take at most so many bytes: all of them, else a multiple of four; 0 if none do.

    `bytes_of`: a model of some layers takes.
    """
    fewer = range(family.num_layers - 1, 0, -1)
    counts = [family.num_layers, *(count for count in fewer if count % _LAYERS_AT_A_TIME == 0)]
    return next((count for count in counts if bytes_of(replace(family, num_layers=count)) <= most), 0)


def named(shape: Shape, layers: int) -> str:
    """The shape, and how many of its layers where these are not all."""
    return shape.name if layers == shape.layers else f"{shape.name}, {layers} of {shape.layers} layers"
