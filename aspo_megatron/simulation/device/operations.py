"""Runs operations on the stand-in's tensors: without values, and with a note of what they would cost.

PyTorch's Python backend for `PrivateUse1` lets autograd know the device; `FakeTensorMode` says what shapes and strides
an operation gives, and refuses tensors of two devices in one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from aspo_megatron.simulation.device.collectives import run_collective
from aspo_megatron.simulation.device.demands import check_demands
from aspo_megatron.simulation.device.devices import PinnedMemory, gpu, means_gpu, on_gpu
from aspo_megatron.simulation.device.known_values import KnownValues, written
from aspo_megatron.simulation.device.ledger import Ledger
from aspo_megatron.simulation.device.storages import Storages, key_of
from aspo_megatron.simulation.device.timeline import Timeline
from aspo_megatron.simulation.device.waiting import is_sized_by_values, waits_for_value

aten = torch.ops.aten
_MOST_WRITTEN = 1 << 16
"""Elements of unknown values, or of one number, that a copy to given memory of the host writes. What is larger is
weights and the like: left as it is, memory that nobody has written to takes none of this machine's. So are copies of
such memory."""


class StandIn(TorchDispatchMode):
    """A mode in which the device can be computed with. Each thread that does enters it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages = Storages()
        self.ledger, self.pinned = Ledger(self.storages), PinnedMemory(self.storages)
        self.known, self.timeline = KnownValues(self.storages), Timeline(self.storages)
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._given_back: set[int] = set()
        self.storages.tell(self._given_back.discard)
        self._one_thread = threading.RLock()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation. See `TorchDispatchMode`."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device if on_gpu(args[0]) else func(*args, **kwargs)
        with self._one_thread, torch._C.DisableTorchFunction():
            self.storages.settle()
            return self._answer(func, args, kwargs)

    def _answer(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func.namespace == "c10d":
            return run_collective(self, func, args, kwargs)
        tensors = [leaf for leaf in pytree.arg_tree_leaves(*args, **kwargs) if isinstance(leaf, Tensor)]
        there = any(map(on_gpu, tensors))
        device = kwargs.get("device")
        if not there and not means_gpu(device):
            if not func.is_view:
                self.timeline.touch(str(func), *_reads_and_writes(func, args, kwargs, tensors))
            if func is aten.copy_.default and args[0].numel() > _MOST_WRITTEN and all(map(self.pinned.has, tensors)):
                return args[0]
            return func(*args, **kwargs)
        special: dict[Any, Callable[..., Any]] = {aten._local_scalar_dense.default: self.number}
        if func is aten.copy_.default and not on_gpu(args[0]):
            special[func] = self._into_host
        if device is not None and there and not means_gpu(device):
            special[func] = self._to_host if func is aten._to_copy.default else self._made_on_host(func)
        return special[func](*args, **kwargs) if func in special else self._compute(func, args, kwargs, tensors)

    # ---- from the device to the host -------------------------------------------------------------------------

    def wait(self, what: str) -> None:
        """The host waits for the present stream."""
        self.ledger.wait(what)
        self.timeline.host.merge(self.timeline.current)

    def synchronize(self) -> None:
        """The host waits for all streams."""
        self.ledger.wait("synchronize")
        self.timeline.synchronize()

    def number(self, tensor: Tensor, what: str = "number") -> Any:
        """The value of a tensor of one element, for which the host waits: a plausible one where it is not known."""
        self.wait(what)
        return self.values(tensor).item()

    def numbers(self, tensor: Tensor) -> Any:
        """All values of a tensor as a list, for which the host waits once."""
        self.wait("tolist")
        return self.values(tensor).tolist()

    def values(self, tensor: Tensor) -> Tensor:
        """On the CPU: the values of a tensor where they are known, else ones (of a bool: False)."""
        self._check_memory("read", [tensor], [])
        known = self.known.of(tensor)
        if known is not None:
            return known.clone()
        return torch.full(tuple(tensor.shape), tensor.dtype != torch.bool, dtype=tensor.dtype)

    def _to_host(self, tensor: Tensor, **options: Any) -> Tensor:
        result = self.values(tensor).to(options.get("dtype") or tensor.dtype)
        if options.get("non_blocking"):  # PyTorch gives page-locked memory then, and the host need not wait
            self.timeline.work("to host", [tensor], [self.pinned.pin(result)], copies=True)
            return result
        self.wait("to host")
        return result

    def _into_host(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        known = self.known.of(source)
        says_something = known is not None and any(known.stride())  # not one number everywhere
        if source.numel() <= _MOST_WRITTEN or says_something:
            target.copy_(self.values(source))
        else:
            self._check_memory("read", [source], [])
        if non_blocking and self.pinned.has(target):
            self.timeline.work("to host", [source], [target], copies=True)
        else:
            self.wait("to host")
        return target

    def _made_on_host(self, func: Any) -> Callable[..., Any]:
        """An operation that is told to make something on the CPU, of the shape of what is on the device."""

        def like(leaf: Any) -> Any:
            return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype) if on_gpu(leaf) else leaf

        return lambda *args, **kwargs: func(*pytree.tree_map(like, args), **kwargs)

    # ---- on the device ---------------------------------------------------------------------------------------

    def empty(self, shape: Any, dtype: torch.dtype) -> Tensor:
        """A new tensor on the device."""
        with self._fake:
            tensor = torch.empty(tuple(shape), dtype=dtype, device=gpu())
        self.ledger.hold(tensor.untyped_storage())
        return tensor

    def resized(self, storage: torch.UntypedStorage) -> None:
        """A storage of the device has another size now: whatever was in it is lost."""
        if not self.ledger.holds(storage):  # from 2.15 on PyTorch sizes its descriptions of CPU tensors so
            return
        self.ledger.hold(storage)
        self.known.forget(storage)
        self._given_back.add(storage._cdata)

    def _compute(self, func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
        reads, writes = _reads_and_writes(func, args, kwargs, tensors)
        if not func.is_view:
            self._check_memory(str(func), reads, writes)
        check_demands(func, args, kwargs, tensors, writes)
        copies = self._note_copies(func, args, kwargs)
        if waits_for_value(func, args, kwargs):
            self.wait("value")
        self.ledger.calls[str(func)] += 1
        if is_sized_by_values(func, args, kwargs):
            return self._of_size(func, args, kwargs)
        fake_args, fake_kwargs = pytree.tree_map(self._lift, (args, kwargs))
        with self._fake:
            result = func(*fake_args, **fake_kwargs)
        made = [leaf for leaf in pytree.tree_leaves(result) if on_gpu(leaf)]
        for leaf in made:
            self.ledger.hold(leaf.untyped_storage())
        if not func.is_view:
            self.timeline.work(str(func), [t for t in reads if copies or on_gpu(t)], [*writes, *made], copies=copies)
        self.known.follow(func, args, kwargs, result)
        return result

    def _check_memory(self, name: str, reads: list[Tensor], writes: list[Tensor]) -> None:
        """Refuse memory that was given back, and what has not been written since it was taken again."""
        for tensor in filter(on_gpu, (*reads, *writes)):
            if tensor.numel() and not tensor.untyped_storage().nbytes():
                raise RuntimeError(f"{name}: computes with memory that was freed")
        for tensor in filter(on_gpu, reads):
            if key_of(tensor) in self._given_back:
                raise RuntimeError(f"{name}: reads memory that was reallocated and not written to since")
        for tensor in writes:
            self._given_back.discard(key_of(tensor))

    def _note_copies(self, func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
        """Whether it is a copy to the device that the host does not wait for. Others are noted.

        Pageable memory is one event, page-locked memory that is waited for another.
        """
        if func is aten._to_copy.default and not on_gpu(args[0]):
            source, patient = args[0], not kwargs.get("non_blocking")
        elif func is aten.copy_.default and not on_gpu(args[1]):
            source, patient = args[1], not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        else:
            for index in args[1] if func in _TAKES_INDICES else ():
                if isinstance(index, Tensor) and not on_gpu(index):
                    self.ledger.copy("index to device")
            if func is aten.where.self and not all(on_gpu(arg) for arg in args):
                self.ledger.copy("to device")
            return False
        if not self.pinned.has(source):
            self.ledger.copy("to device")
        elif patient:
            self.wait("copy to device")
        else:
            return True
        return False

    def _lift(self, value: Any) -> Any:
        if isinstance(value, Tensor) and not on_gpu(value):
            return self._fake.from_tensor(value)
        return gpu() if isinstance(value, torch.device) and means_gpu(value) else value

    def _of_size(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The result of an operation whose size depends on values; the largest possible if those are unknown."""
        self.wait("size")
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


def present() -> StandIn | None:
    """The stand-in that this thread computes with."""
    modes = (mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, StandIn))
    return next(modes, None)


_TAKES_INDICES = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}


def _reads_and_writes(
    func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Those of an operation's `tensors` that it only reads, and those that it writes."""
    writes = written(func, args, kwargs)
    ids = set(map(id, writes))  # `in` would compare values
    return [tensor for tensor in tensors if id(tensor) not in ids], writes
