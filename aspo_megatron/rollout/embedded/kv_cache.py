"""A key-value cache that takes a token without copying all that came before it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

_ROOM = 128
"""Tokens for which room is made at a time."""


def decode_cache(config: PretrainedConfig) -> DynamicCache:
    """An empty cache for a model: transformers' own, but for layers that keep every token."""
    cache = DynamicCache(config=config)
    cache.layers = [_RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def cache_name(model: PreTrainedModel) -> str:
    """What a model calls the cache that it is given: older versions of transformers had another name for it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def takes_masks(config: PretrainedConfig) -> bool:
    """Whether a model's attention takes a ready mask [rows, 1, queries, tokens], the same for all of its layers."""
    keeps_every_token = all(isinstance(layer, _RoomyLayer) for layer in decode_cache(config).layers)
    return keeps_every_token and config._attn_implementation == "sdpa"


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """A layer whose keys and values are the begin of larger buffers; a `DynamicLayer` concatenates for each token.

    `keys` and `values` stay what they are there: [rows, heads, tokens, head_dim].
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append [rows, heads, new tokens, head_dim] of each; returns all."""
        before = self.get_seq_length()
        length = before + key_states.size(2)
        if self._buffers is None or length > self._buffers[0].size(2):
            old = (self.keys, self.values) if before else (key_states[:, :, :0], value_states[:, :, :0])
            self._buffers = (_with_room(old[0], length + _ROOM), _with_room(old[1], length + _ROOM))
        keys, values = self._buffers
        keys[:, :, before:length] = key_states
        values[:, :, before:length] = value_states
        self.keys, self.values, self.is_initialized = keys[:, :, :length], values[:, :, :length], True
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows only; a row may be named several times."""
        super().batch_select_indices(indices)
        self._buffers = None


def _with_room(values: Tensor, length: int) -> Tensor:
    roomy = torch.empty(*values.shape[:2], length, values.size(3), dtype=values.dtype, device=values.device)
    roomy[:, :, : values.size(2)] = values
    return roomy
