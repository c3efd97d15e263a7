"""A backend of `torch.distributed` that takes what lies on a GPU through the host's memory, to gloo.

NCCL connects no two ranks of one GPU, and gloo has not every collective for a GPU's tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import AllgatherOptions, Work

NAME = "through_host"


def register() -> Counter[str]:
    """Make `NAME` a backend of PyTorch; gives its count of the tensors that it copies, by type of device."""
    copied: Counter[str] = Counter()

    def make(about: Any, options: Any) -> HostGroup:
        return HostGroup(about, copied)

    dist.Backend.register_backend(NAME, make, extended_api=True, devices=["cpu", "cuda"])
    return copied


class HostWork(Work):
    """What is on its way; `wait` has it there."""

    def __init__(self, work: Work | None = None, sources: Sequence[Tensor] = (), places: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self._work, self._sources, self._places = work, sources, places

    def wait(self, timeout: Any = None) -> bool:
        """Until it is there."""
        if self._work is not None:
            self._work.wait()
            for place, source in zip(self._places, self._sources, strict=True):
                _copy_back(place, source)
            self._work = None
        return True

    def is_completed(self) -> bool:
        """Whether `wait` was called: nothing is copied back before."""
        return self._work is None


class HostGroup(dist.ProcessGroup):
    """A group whose collectives end before they return; sends and receives go on until they are waited for.

    Every tensor is copied, those of the CPU too, so that a machine without a GPU does the same.
    """

    def __init__(self, about: Any, copied: Counter[str]) -> None:
        """`about`: PyTorch's description of the group. `copied`: counts the tensors of each type of device."""
        super().__init__(about.group_rank, about.group_size)  # type: ignore[call-arg]  # for groups made in Python
        self._copied = copied
        gloo: Any = dist.ProcessGroupGloo  # whose types do not name all that it has
        self._gloo = gloo(about.store, about.group_rank, about.group_size, about.timeout)

    def getBackendName(self) -> str:  # noqa: N802 (PyTorch's)
        """Its name."""
        return NAME

    def allreduce(self, tensors: list[Tensor], opts: Any) -> HostWork:
        """Of each tensor, in place."""
        return self._in_place(self._gloo.allreduce, tensors, opts)

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any) -> HostWork:
        """Of several tensors, in place."""
        return self._in_place(self._gloo.allreduce_coalesced, tensors, opts)

    def reduce(self, tensors: list[Tensor], opts: Any) -> HostWork:
        """To one rank."""
        return self._in_place(self._gloo.reduce, tensors, opts)

    def broadcast(self, tensors: list[Tensor], opts: Any) -> HostWork:
        """From one rank."""
        return self._in_place(self._gloo.broadcast, tensors, opts)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> HostWork:
        """Each rank's tensor in one of its own."""
        hosts = [[_room(place) for place in places] for places in outputs]
        self._gloo.allgather(hosts, self._copies(inputs), opts).wait()
        for places, sources in zip(outputs, hosts, strict=True):
            _all_back(places, sources)
        return HostWork()

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> HostWork:
        """Each rank's tensor on one rank."""
        hosts = [[_room(place) for place in places] for places in outputs]
        self._gloo.gather(hosts, self._copies(inputs), opts).wait()
        for places, sources in zip(outputs, hosts, strict=True):
            _all_back(places, sources)
        return HostWork()

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> HostWork:
        """A tensor for each rank, from one rank."""
        hosts = [_room(place) for place in outputs]
        self._gloo.scatter(hosts, [self._copies(tensors) for tensors in inputs], opts).wait()
        return _all_back(outputs, hosts)

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> HostWork:
        """The sum of what all ranks have for this one."""
        hosts = [_room(place) for place in outputs]
        self._gloo.reduce_scatter(hosts, [self._copies(tensors) for tensors in inputs], opts).wait()
        return _all_back(outputs, hosts)

    def all_gather_single(self, output: Tensor, given: Tensor, opts: Any) -> HostWork:
        """Each rank's tensor, one after the other."""
        host = _room(output)
        self._gloo._allgather_base(host, self._copy(given), opts).wait()
        return _all_back([output], [host])

    def reduce_scatter_single(self, output: Tensor, given: Tensor, opts: Any) -> HostWork:
        """This rank's part of the sum."""
        host = _room(output)
        self._gloo._reduce_scatter_base(host, self._copy(given), opts).wait()
        return _all_back([output], [host])

    def all_to_all_single(
        self, output: Tensor, given: Tensor, sizes: list[int], sent: list[int], opts: Any
    ) -> HostWork:
        """A part of the tensor to each rank."""
        host = _room(output)
        self._gloo.alltoall_base(host, self._copy(given), sizes, sent, opts).wait()
        return _all_back([output], [host])

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> HostWork:
        """`all_gather_single` of several tensors."""
        for output, given in zip(outputs, inputs, strict=True):
            self.all_gather_single(output, given, opts or AllgatherOptions())
        return HostWork()

    def reduce_scatter_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any) -> HostWork:
        """`reduce_scatter_single` of several tensors."""
        for output, given in zip(outputs, inputs, strict=True):
            self.reduce_scatter_single(output, given, opts)
        return HostWork()

    # As PyTorch before 2.13 calls them.
    _allgather_base = all_gather_single  # type: ignore[assignment]
    _reduce_scatter_base = reduce_scatter_single  # type: ignore[assignment]
    alltoall_base = all_to_all_single  # type: ignore[assignment]
    allgather_into_tensor_coalesced = all_gather_single_coalesced  # type: ignore[assignment]
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced  # type: ignore[assignment]

    def send(self, tensors: list[Tensor], rank: int, tag: int) -> HostWork:
        """To a rank of the group."""
        hosts = self._copies(tensors)
        return HostWork(self._gloo.send(hosts, rank, tag), hosts, hosts)

    def recv(self, tensors: list[Tensor], rank: int, tag: int) -> HostWork:
        """From a rank of the group."""
        hosts = [_room(tensor) for tensor in tensors]
        return HostWork(self._gloo.recv(hosts, rank, tag), hosts, tensors)

    def barrier(self, opts: Any) -> HostWork:
        """Until all ranks are here."""
        self._gloo.barrier(opts).wait()
        return HostWork()

    def _in_place(self, collective: Any, tensors: list[Tensor], opts: Any) -> HostWork:
        hosts = self._copies(tensors)
        collective(hosts, opts).wait()
        return _all_back(tensors, hosts)

    def _copies(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [self._copy(tensor) for tensor in tensors]

    def _copy(self, tensor: Tensor) -> Tensor:
        self._copied[tensor.device.type] += 1
        return tensor.detach().to("cpu", copy=True).contiguous()


def _room(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=torch.device("cpu"))


def _all_back(places: Sequence[Tensor], sources: Sequence[Tensor]) -> HostWork:
    for place, source in zip(places, sources, strict=True):
        _copy_back(place, source)
    return HostWork()


def _copy_back(place: Tensor, source: Tensor) -> None:
    if place is not source:
        with torch.no_grad():
            place.copy_(source)
