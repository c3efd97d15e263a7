"""Runs operations on the stand-in's tensors: without values, and with a note of what they would cost.

PyTorch's Python backend for `PrivateUse1` lets autograd know the device; `FakeTensorMode` says what shapes and strides
an operation gives, and refuses tensors of two devices in one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from aspo_megatron.simulation.collectives import run_collective
from aspo_megatron.simulation.demands import check_demands
from aspo_megatron.simulation.devices import PinnedMemory, gpu, means_gpu, on_gpu
from aspo_megatron.simulation.known_values import KnownValues
from aspo_megatron.simulation.ledger import Ledger

aten = torch.ops.aten
_SIZED_BY_VALUES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
}
"""The host waits for the size of what they give."""


class StandIn(TorchDispatchMode):
    """A mode in which the device can be computed with; of one thread and those that autograd starts for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger, self.pinned, self.known = Ledger(), PinnedMemory(), KnownValues()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation. See `TorchDispatchMode`."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device if on_gpu(args[0]) else func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if func.namespace == "c10d":
                return run_collective(self, func, args, kwargs)
            there = any(map(on_gpu, pytree.arg_tree_leaves(*args, **kwargs)))
            if not there and not means_gpu(kwargs.get("device")):
                return func(*args, **kwargs)
            answers: dict[Any, Callable[..., Any]] = {aten._local_scalar_dense.default: self.number}
            if func is aten._to_copy.default and there and not means_gpu(kwargs.get("device") or gpu()):
                answers[func] = self._to_host
            if func is aten.copy_.default and not on_gpu(args[0]):
                answers[func] = self._into_host
            return answers[func](*args, **kwargs) if func in answers else self._compute(func, args, kwargs)

    def number(self, tensor: Tensor, what: str = "number") -> Any:
        """The value of a tensor of one element, for which the host waits: a plausible one where it is not known."""
        self.ledger.wait(what)
        return self.values(tensor).item()

    def numbers(self, tensor: Tensor) -> Any:
        """All values of a tensor as a list, for which the host waits once."""
        self.ledger.wait("tolist")
        return self.values(tensor).tolist()

    def values(self, tensor: Tensor) -> Tensor:
        """On the CPU: the values of a tensor where they are known, else ones (of a bool: False)."""
        known = self.known.of(tensor)
        if known is not None:
            return known.clone()
        return torch.full(tuple(tensor.shape), tensor.dtype != torch.bool, dtype=tensor.dtype)

    def empty(self, shape: Any, dtype: torch.dtype) -> Tensor:
        """A new tensor on the device."""
        with self._fake:
            tensor = torch.empty(tuple(shape), dtype=dtype, device=gpu())
        self.ledger.hold(tensor)
        return tensor

    def _to_host(self, tensor: Tensor, **options: Any) -> Tensor:
        result = self.values(tensor).to(options.get("dtype") or tensor.dtype)
        if options.get("non_blocking"):
            return self.pinned.pin(result)  # as PyTorch does, so that the host need not wait
        self.ledger.wait("to host")
        return result

    def _into_host(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if not (non_blocking and self.pinned.has(target)):
            self.ledger.wait("to host")
        return target.copy_(self.values(source))

    def _compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        self._note_copies(func, args, kwargs)
        check_demands(func, args, kwargs)
        self.ledger.calls[str(func)] += 1
        if _is_sized_by_values(func, args, kwargs):
            return self._of_size(func, args, kwargs)
        fake_args, fake_kwargs = pytree.tree_map(self._lift, (args, kwargs))
        with self._fake:
            result = func(*fake_args, **fake_kwargs)
        for leaf in pytree.tree_leaves(result):
            if on_gpu(leaf):
                self.ledger.hold(leaf)
        self.known.follow(func, args, kwargs, result)
        return result

    def _note_copies(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """A copy to the device: of pageable memory it is one event, of pinned memory that is waited for another."""
        if func is aten._to_copy.default and not on_gpu(args[0]):
            source, waited_for = args[0], not kwargs.get("non_blocking")
        elif func is aten.copy_.default and not on_gpu(args[1]):
            source, waited_for = args[1], not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        elif func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            for index in args[1]:
                if isinstance(index, Tensor) and not on_gpu(index):
                    self.ledger.copy("index to device")
            return
        else:
            return
        if not self.pinned.has(source):
            self.ledger.copy("to device")
        elif waited_for:
            self.ledger.wait("copy to device")

    def _lift(self, value: Any) -> Any:
        if isinstance(value, Tensor) and not on_gpu(value):
            return self._fake.from_tensor(value)
        return gpu() if isinstance(value, torch.device) and means_gpu(value) else value

    def _of_size(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The result of an operation whose size depends on values; the largest possible if those are unknown."""
        self.ledger.wait("size")
        values = self.known.compute(func, args, kwargs)
        known = values is not None
        if values is None:
            values = pytree.tree_leaves(func(*pytree.tree_map(self._known_or_ones, args), **kwargs))
        found: list[Tensor] = []
        for value in values:
            found.append(self.empty(value.shape, value.dtype))
            if known:
                self.known.keep(found[-1], value)
        return found[0] if len(func._schema.returns) == 1 else tuple(found)

    def _known_or_ones(self, leaf: Any) -> Any:
        if not on_gpu(leaf):
            return leaf
        known = self.known.of(leaf)
        return torch.ones((), dtype=leaf.dtype).expand(leaf.shape) if known is None else known


def _is_sized_by_values(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    if func is aten.index.Tensor:
        return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])
    if func is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    return func in _SIZED_BY_VALUES
