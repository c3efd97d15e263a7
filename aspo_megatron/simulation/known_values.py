"""Values of tensors on the stand-in, where they follow from values on the CPU.

Positions, lengths and masks are copied to a device and computed with there, and sizes may depend on them. So a storage
of the device can have a shadow on the CPU, of the same bytes. An operation whose inputs all have shadows is computed on
the shadows too; one that writes something unknown into a storage takes its shadow away.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from aspo_megatron.simulation.devices import on_gpu

_MOST_ELEMENTS = 1 << 22
"""Of a shadow: enough for a micro-batch's tokens times its experts, too few for a layer's activations."""

aten = torch.ops.aten
_OF_ANY_VALUES = {
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
}
"""Operations that look at their tensor's shape alone."""


class KnownValues:
    """The shadows of one device."""

    def __init__(self) -> None:
        self._shadows: dict[int, torch.UntypedStorage] = {}

    def of(self, tensor: Tensor) -> Tensor | None:
        """A CPU tensor with the values of one on the device, which shares memory as that does; None: not known."""
        shadow = self._shadows.get(tensor.untyped_storage()._cdata)
        if shadow is None:
            return None
        empty = torch.empty(0, dtype=tensor.dtype)
        viewed: Tensor = empty.set_(shadow, tensor.storage_offset(), tensor.size(), tensor.stride())
        return viewed

    def keep(self, tensor: Tensor, values: Tensor) -> None:
        """Note the `values` (on the CPU) of a tensor that is the first of its storage."""
        storage = tensor.untyped_storage()
        if storage.nbytes() > _MOST_ELEMENTS * 8:
            return
        if storage._cdata not in self._shadows:
            weakref.finalize(storage, self._shadows.pop, storage._cdata, None)
        self._shadows[storage._cdata] = torch.UntypedStorage(storage.nbytes())
        shadow = self.of(tensor)
        assert shadow is not None
        shadow.copy_(values)

    def forget(self, tensor: Tensor) -> None:
        """The values are not known any more."""
        self._shadows.pop(tensor.untyped_storage()._cdata, None)

    def compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> list[Any] | None:
        """The leaves of what an operation gives for known values; None if some are not known.

        What it writes into its arguments is written into their shadows; of what is not known, those are gone.
        """
        try:
            if func is aten.copy_.default and not on_gpu(args[1]) and args[0].dtype.is_floating_point:
                raise _UnknownError  # weights, which no size depends on, would be computed with here
            if not _draws(func):
                real_args, real_kwargs = pytree.tree_map(self._real(func), (args, kwargs))
                return pytree.tree_leaves(func(*real_args, **real_kwargs))
        except _UnknownError:
            pass
        for tensor in written(func, args, kwargs):
            if on_gpu(tensor):
                self.forget(tensor)
        return None

    def _real(self, func: Any) -> Any:
        def of_leaf(leaf: Any) -> Any:
            if not on_gpu(leaf):
                return torch.device("cpu") if isinstance(leaf, torch.device) else leaf
            if func in _OF_ANY_VALUES:
                return torch.empty(leaf.shape, dtype=leaf.dtype)
            known = self.of(leaf)
            if known is None:
                raise _UnknownError
            return known

        return of_leaf


class _UnknownError(Exception):
    """A value is not known."""


def large(result: Any) -> bool:
    """Whether an operation's result is too large for its values to be kept."""
    leaves = pytree.tree_leaves(result)
    return any(leaf.numel() > _MOST_ELEMENTS for leaf in leaves if isinstance(leaf, Tensor))


def written(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operation writes into."""
    found: list[Tensor] = []
    for number, name in _written_places(func):
        value = args[number] if number < len(args) else kwargs.get(name)
        found += [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


@cache
def _written_places(func: Any) -> list[tuple[int, str]]:
    arguments = func._schema.arguments
    return [(i, arg.name) for i, arg in enumerate(arguments) if arg.alias_info is not None and arg.alias_info.is_write]


@cache
def _draws(func: Any) -> bool:
    """Whether it gives random or uninitialised numbers."""
    return "empty" in func.name() or torch.Tag.nondeterministic_seeded in func.tags
