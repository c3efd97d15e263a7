"""Values of tensors on the stand-in, where they follow from values on the CPU.

Positions, lengths and masks are copied to a device and computed with there, and sizes may depend on them. So a storage
of the device can have a shadow on the CPU, of the same bytes. An operation whose inputs all have shadows is computed on
the shadows too; one that writes something unknown into a storage takes its shadow away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from aspo_megatron.simulation.device.devices import on_gpu
from aspo_megatron.simulation.device.storages import Storages, key_of

_MOST_ELEMENTS = 1 << 22
"""Of a shadow: enough for a micro-batch's tokens times its experts, too few for a layer's activations."""

aten = torch.ops.aten
_FILLS: dict[Any, Callable[..., Any]] = {
    aten.zeros.default: lambda *_: 0,
    aten.zeros_like.default: lambda *_: 0,
    aten.new_zeros.default: lambda *_: 0,
    aten.ones.default: lambda *_: 1,
    aten.ones_like.default: lambda *_: 1,
    aten.new_ones.default: lambda *_: 1,
    aten.full.default: lambda size, value: value,
    aten.full_like.default: lambda like, value: value,
    aten.new_full.default: lambda like, size, value: value,
}
"""Operations that give one number everywhere, and which."""


class KnownValues:
    """The shadows of one device. That of a storage with one number everywhere is the number alone, however large."""

    def __init__(self, storages: Storages) -> None:
        self._shadows: dict[int, torch.UntypedStorage | Tensor] = {}
        storages.tell(self._gone)

    def of(self, tensor: Tensor) -> Tensor | None:
        """A CPU tensor with the values of one on the device, not to be written to; None: not known."""
        shadow = self._shadows.get(key_of(tensor))
        if isinstance(shadow, Tensor):
            return shadow.expand(tensor.size()) if shadow.dtype == tensor.dtype else None
        return None if shadow is None else _viewed(shadow, tensor)

    def keep(self, tensor: Tensor, values: Tensor) -> None:
        """Note the `values` (on the CPU) of a tensor that is the first of its storage."""
        if tensor.untyped_storage().nbytes() <= _MOST_ELEMENTS * 8:
            shadow = torch.UntypedStorage(tensor.untyped_storage().nbytes())
            _viewed(shadow, tensor).copy_(values)
            self._shadows[key_of(tensor)] = shadow

    def _gone(self, key: int) -> None:
        self._shadows.pop(key, None)

    def forget(self, memory: Tensor | torch.UntypedStorage) -> None:
        """The values are not known any more."""
        self._shadows.pop(key_of(memory) if isinstance(memory, Tensor) else memory._cdata, None)

    def follow(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        """Note what follows for the `result` of an operation, and for what it has written into its arguments."""
        leaves = pytree.tree_leaves(result)
        if func in _FILLS:
            number = torch.tensor(_FILLS[func](*args), dtype=leaves[0].dtype)
            self._shadows[key_of(leaves[0])] = number
            return
        values = self.compute(func, args, kwargs, too_large=_large(leaves))
        if func is aten.topk.default and values is None:
            values = [None, _even_choice(*args[:2])]
        for leaf, value in zip(leaves, values or (), strict=values is not None):
            if on_gpu(leaf) and isinstance(value, Tensor) and self.of(leaf) is None:
                self.keep(leaf, value)

    def compute(self, func: Any, args: Any, kwargs: dict[str, Any], too_large: bool = False) -> list[Any] | None:
        """The leaves of what an operation gives for known values; None if some are not known.

        What it writes into its arguments is written into their shadows; of what is not known, those are gone.
        """
        if func.is_view:
            return None  # the result has its argument's storage, and so its shadow
        there = [leaf for leaf in pytree.arg_tree_leaves(*args, **kwargs) if on_gpu(leaf)]
        writes = list(filter(on_gpu, written(func, args, kwargs)))
        known = not too_large and not _is_unknown(func, args) and self._know(there)
        if known:
            for tensor in writes:
                self._spread_out(tensor)
        if known and self._know(writes):
            real_args, real_kwargs = pytree.tree_map(self._real, (args, kwargs))
            with contextlib.suppress(NotImplementedError):  # what a GPU computes for more types than a CPU
                return pytree.tree_leaves(func(*real_args, **real_kwargs))
        for tensor in writes:
            self.forget(tensor)
        return None

    def _know(self, tensors: Iterable[Tensor]) -> bool:
        """Whether the values of all are known."""
        return all(self.of(tensor) is not None for tensor in tensors)

    def _real(self, leaf: Any) -> Any:
        if on_gpu(leaf):
            return self.of(leaf)
        return torch.device("cpu") if isinstance(leaf, torch.device) else leaf

    def _spread_out(self, tensor: Tensor) -> None:
        """Give a storage that has one number everywhere room for several, if it is not too large."""
        number = self._shadows.get(key_of(tensor))
        if isinstance(number, Tensor):
            size = tensor.untyped_storage().nbytes()
            self.forget(tensor)
            if size <= _MOST_ELEMENTS * 8:
                shadow = torch.UntypedStorage(size)
                torch.empty(0, dtype=number.dtype).set_(shadow).fill_(number)
                self._shadows[key_of(tensor)] = shadow


def _viewed(shadow: torch.UntypedStorage, tensor: Tensor) -> Tensor:
    viewed: Tensor = torch.empty(0, dtype=tensor.dtype).set_(
        shadow, tensor.storage_offset(), tensor.size(), tensor.stride()
    )
    return viewed


def _is_unknown(func: Any, args: Any) -> bool:
    """Whether an operation's result is not to be known though its arguments are."""
    if func is aten._to_copy.default or func is aten.copy_.default:
        source = args[func is aten.copy_.default]
        # Weights, which no size depends on, would be computed with here.
        return not on_gpu(source) and source.dtype.is_floating_point
    return _draws(func)


def _large(leaves: list[Any]) -> bool:
    return any(leaf.numel() > _MOST_ELEMENTS for leaf in leaves if isinstance(leaf, Tensor))


def _even_choice(scores: Tensor, count: int) -> Tensor:
    """Places that `topk` may choose: each of a row's as often as any other, so that experts get equal shares."""
    rows = scores.numel() // scores.shape[-1]
    return (torch.arange(rows * count) % scores.shape[-1]).view(*scores.shape[:-1], count)


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
