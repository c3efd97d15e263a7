"""Collectives of a rank that is alone: the others are taken to hold what this rank holds.

A gather gives this rank's part once for each rank; a reduction and a broadcast leave numbers as they are. Values follow
where they are known (`known_values.py`), so that the sizes that ranks tell each other are those of equal shares.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FakeProcessGroup, FakeWork
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils import _pytree as pytree

from aspo_megatron.simulation.device.devices import on_gpu
from aspo_megatron.simulation.device.known_values import KnownValues
from aspo_megatron.simulation.device.ledger import Ledger

_BACKEND = "stand_in"
_SENDS_SECOND = {
    "allgather_",
    "_allgather_base_",
    "allgather_into_tensor_coalesced_",
    "reduce_scatter_",
    "_reduce_scatter_base_",
    "reduce_scatter_tensor_coalesced_",
    "alltoall_",
    "alltoall_base_",
    "gather_",
    "scatter_",
}
"""Collectives whose arguments are outputs, then inputs."""
_NCCL_TYPES = {
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
}


class Device(Protocol):
    """What collectives need of the stand-in."""

    ledger: Ledger
    known: KnownValues

    def wait(self, what: str) -> None:
        """The host waits for the present stream."""
        ...


def join(rank: int, world_size: int) -> None:
    """Be `rank` of `world_size` ranks, of which there is no other."""
    if _BACKEND not in dist.Backend.backend_list:
        dist.Backend.register_backend(_BACKEND, _group, extended_api=True, devices=["cpu", "gpu"])
    dist.init_process_group(_BACKEND, store=FakeStore(), rank=rank, world_size=world_size)


def _group(common: Any, options: Any) -> FakeProcessGroup:
    return FakeProcessGroup._create_internal(common.group_rank, common.group_size, options)  # type: ignore[call-arg]


def gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
    """In place of `dist.all_gather_object`."""
    object_list[:] = [obj] * len(object_list)


def broadcast_objects(objects: list[Any], *_: Any, **__: Any) -> None:
    """In place of `dist.broadcast_object_list`: what the others would send is what is there."""


def gather_object_to_one(obj: Any, object_gather_list: list[Any] | None = None, **_: Any) -> None:
    """In place of `dist.gather_object`."""
    if object_gather_list is not None:
        object_gather_list[:] = [obj] * len(object_gather_list)


def scatter_objects(
    scatter_object_output_list: list[Any], scatter_object_input_list: list[Any] | None = None, **_: Any
) -> None:
    """In place of `dist.scatter_object_list`; only the rank that sends knows what it is."""
    if scatter_object_input_list is None:
        raise RuntimeError("scatter_object_list: what another rank would send is not known")
    scatter_object_output_list[0] = scatter_object_input_list[dist.get_rank()]


def run_collective(stand_in: Device, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation of `c10d` and count what this rank sends.

    Raises:
        RuntimeError: NCCL would refuse it, or read something else.
    """
    name, group = func._schema.name.partition("::")[2], _group_of(args)
    first = _tensors(args[0])
    outputs, inputs = (first, _tensors(args[1])) if name in _SENDS_SECOND else (first, first)
    if name == "barrier":
        stand_in.wait("barrier")
    elif any(map(on_gpu, inputs + outputs)):
        _check(name, outputs, inputs, group.size())
        stand_in.ledger.calls[str(func)] += 1
        if group.size() > 1:
            stand_in.ledger.traffic[name] += sum(tensor.nbytes for tensor in inputs)
    if name.startswith("recv"):
        for output in filter(on_gpu, outputs):
            stand_in.known.forget(output)
    elif outputs is not inputs:
        for number, output in enumerate(outputs):
            source = _sent(name, inputs[min(number, len(inputs) - 1)], group, args) if inputs else None
            _fill(stand_in, output, source)
    work = FakeWork()
    work.seq_id = 0
    return (args[0], work.boxed()) if len(func._schema.returns) > 1 else work.boxed()


def _check(name: str, outputs: list[Tensor], inputs: list[Tensor], ranks: int) -> None:
    for tensor in (*inputs, *outputs):
        if not on_gpu(tensor):
            raise RuntimeError(f"{name}: takes tensors of the CPU and of the GPU at once")
        if not tensor.is_contiguous():
            raise RuntimeError(f"{name}: NCCL reads a tensor by its pointer; this one is not contiguous")
        if tensor.dtype not in _NCCL_TYPES:
            raise RuntimeError(f"{name}: NCCL has no {tensor.dtype}")
    if len({tensor.dtype for tensor in (*inputs, *outputs)}) > 1 and "coalesced" not in name:
        raise RuntimeError(f"{name}: takes tensors of one dtype")
    whole, part = (outputs, inputs) if name == "_allgather_base_" else (inputs, outputs)
    if name in ("_allgather_base_", "_reduce_scatter_base_") and whole[0].numel() != ranks * part[0].numel():
        raise RuntimeError(f"{name}: {whole[0].numel()} elements are not {ranks} times {part[0].numel()}")


def _sent(name: str, source: Tensor, group: dist.ProcessGroup, args: Any) -> Tensor:
    """What of an input comes to this rank, from each rank: the views of the others' are those of its own."""
    if name in ("_reduce_scatter_base_", "reduce_scatter_tensor_coalesced_") and source.numel() >= group.size():
        return source.chunk(group.size())[group.rank()]
    if name == "alltoall_base_" and source.numel():
        parts: tuple[Tensor, ...] = source.split(list(args[4]) or len(source) // group.size())
        return parts[group.rank()]
    return source


def _fill(stand_in: Device, output: Tensor, source: Tensor | None) -> None:
    """Give `output` the values of `source`, repeated or cut to its size; unknown ones if those are not known."""
    values = None if source is None else stand_in.known.of(source) if on_gpu(source) else source
    if values is not None and output.numel() and values.numel():
        times = -(-output.numel() // values.numel())
        values = values.reshape(-1).repeat(times)[: output.numel()].view(output.shape)
    if not on_gpu(output):
        if values is not None and values.shape == output.shape:
            output.copy_(values)
    elif values is None or values.shape != output.shape or output.untyped_storage().nbytes() != output.nbytes:
        stand_in.known.forget(output)
    else:
        stand_in.known.keep(output, values)


def _group_of(args: Any) -> dist.ProcessGroup:
    return dist.ProcessGroup.unbox(next(arg for arg in args if isinstance(arg, torch.ScriptObject)))


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
