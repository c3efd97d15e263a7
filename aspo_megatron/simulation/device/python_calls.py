"""What Python asks of tensors before any operation is run: where `cuda` is meant, numbers, pinned memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from aspo_megatron.simulation.device.devices import gpu, means_gpu, on_gpu
from aspo_megatron.simulation.device.fused import attention, rms_norm

if TYPE_CHECKING:
    from aspo_megatron.simulation.device.operations import StandIn

_NUMBERS: dict[Any, Callable[[Any], Any]] = {
    Tensor.item: lambda value: value,
    Tensor.__int__: int,
    Tensor.__index__: int,
    Tensor.__float__: float,
    Tensor.__bool__: bool,
}


class PythonCalls(TorchFunctionMode):
    """Answers for a build of PyTorch that knows no GPU what one that does would answer."""

    def __init__(self, stand_in: StandIn) -> None:
        super().__init__()
        self._stand_in = stand_in
        self._handlers: dict[Any, Callable[..., Any]] = {
            torch.tensor: self._tensor,
            Tensor.cuda: lambda tensor, *_, **options: self._moved(tensor, **options),
            Tensor.to: self._to,
            Tensor.__setitem__: self._set_item,
            Tensor.backward: self._backward,
            torch.autograd.backward: self._backward_of_all,
            torch.autograd.grad: self._grad,
            torch.as_tensor: self._as_tensor,
            Tensor.type: self._type,
            torch.nn.functional.rms_norm: self._rms_norm,
            torch.rms_norm: self._rms_norm,
            torch.nn.functional.scaled_dot_product_attention: self._attention,
            Tensor.is_cuda.__get__: on_gpu,  # type: ignore[attr-defined]
            Tensor.pin_memory: lambda tensor, *_: self._stand_in.pinned.pin(tensor.clone()),
            Tensor.is_pinned: lambda tensor, *_: self._stand_in.pinned.has(tensor),
            Tensor.data.__set__: self._set_data,  # type: ignore[attr-defined]
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call. See `TorchFunctionMode`."""
        kwargs = kwargs or {}
        if func in _NUMBERS and on_gpu(args[0]):
            return _NUMBERS[func](self._stand_in.number(args[0], func.__name__.strip("_")))
        if func in self._handlers:
            return self._handlers[func](*args, **kwargs)
        if means_gpu(kwargs.get("device")):
            kwargs = {**kwargs, "device": gpu()}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
            return self._stand_in.pinned.pin(func(*args, **kwargs))
        return func(*args, **kwargs)

    def _tensor(self, data: Any, **options: Any) -> Tensor:
        device = options.pop("device", None)
        numbers = [leaf for leaf in pytree.tree_leaves(data) if on_gpu(leaf)]
        if numbers:
            data = pytree.tree_map(lambda leaf: self._stand_in.number(leaf) if on_gpu(leaf) else leaf, data)
        made = torch.tensor(data, **options)
        return self._moved(made) if means_gpu(device) else made.to(device or "cpu")

    def _as_tensor(self, data: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        if isinstance(data, Tensor):
            return self._to(data, device=device or data.device, dtype=dtype or data.dtype)
        return self._tensor(data, dtype=dtype, device=device)

    def _moved(self, tensor: Tensor, non_blocking: bool = False, **_: Any) -> Tensor:
        return tensor if on_gpu(tensor) else tensor.to(gpu(), non_blocking=non_blocking)

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`Tensor.to` with `cuda` turned into the device."""
        places: list[Any] = [gpu() if isinstance(arg, str | torch.device) and means_gpu(arg) else arg for arg in args]
        if means_gpu(kwargs.get("device")):
            kwargs = {**kwargs, "device": gpu()}
        return tensor.to(*places, **kwargs)

    def _set_data(self, tensor: Tensor, value: Tensor) -> None:
        """A tensor on the CPU stays there: of another kind it cannot become, and the module that has it moves later."""
        if on_gpu(tensor) or not on_gpu(value):
            tensor.data = value

    def _set_item(self, tensor: Tensor, index: Any, value: Any) -> None:
        """`tensor[index] = number`: a CUDA build leaves the number on the CPU, so that a mask is not counted."""
        if on_gpu(tensor) and isinstance(value, int | float):
            value = torch.tensor(value, dtype=tensor.dtype)
        tensor[index] = value

    def _backward(
        self,
        root: Tensor,
        gradient: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """`Tensor.backward`."""
        self._backward_of_all(root, gradient, retain_graph, create_graph, inputs=inputs)

    def _backward_of_all(
        self,
        roots: Any,
        grad_tensors: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        grad_variables: Any = None,
        inputs: Any = None,
    ) -> None:
        """`torch.autograd.backward`."""
        self._run(roots, grad_tensors, retain_graph, create_graph, inputs or (), accumulate_grad=True)

    def _grad(
        self,
        roots: Any,
        inputs: Any,
        grad_outputs: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        allow_unused: bool | None = None,
        **_: Any,
    ) -> Any:
        """`torch.autograd.grad`."""
        return self._run(roots, grad_outputs, retain_graph, create_graph, inputs, allow_unreachable=bool(allow_unused))

    def _run(
        self, roots: Any, gradients: Any, retain_graph: bool | None, create_graph: bool, inputs: Any, **options: bool
    ) -> Any:
        """Run autograd. While a call is answered this mode is off, but what backward calls needs it."""
        roots, inputs = ((x,) if isinstance(x, Tensor) else tuple(x) for x in (roots, inputs))
        given = (gradients,) if gradients is None or isinstance(gradients, Tensor) else tuple(gradients)
        given = given if given != (None,) else (None,) * len(roots)
        made = []
        for root, gradient in zip(roots, given, strict=True):
            if gradient is None and root.numel() != 1:
                raise RuntimeError("grad can be implicitly created only for scalar outputs")
            made.append(torch.ones_like(root) if gradient is None else gradient)
        keep = create_graph if retain_graph is None else retain_graph
        with self:
            return _engine_run_backward(
                roots, tuple(made), keep, create_graph, inputs, **{"allow_unreachable": True, **options}
            )

    def _attention(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        plain = torch.nn.functional.scaled_dot_product_attention
        return (attention if on_gpu(query) else plain)(query, *args, **kwargs)

    def _rms_norm(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (rms_norm if on_gpu(tensor) else torch.rms_norm)(tensor, *args, **kwargs)

    def _type(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        found = tensor.type(*args, **kwargs)
        return found.replace("torch.gpu.", "torch.cuda.") if isinstance(found, str) else found
