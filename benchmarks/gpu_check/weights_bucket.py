"""A bucket of weights that another process of the machine opens where it lies: CUDA IPC, or shared memory on a CPU.

`python -m benchmarks.gpu_check.weights_bucket PICKLE` is that other process, which does what a server does.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import reductions

from aspo_megatron.rollout.weight_sync.shared_bucket import SharedBucket
from benchmarks.gpu_check import memory
from benchmarks.gpu_check.commands import Command
from benchmarks.gpu_check.lines import Place, Sheet

_DEVICE = 6
"""The place of the device among the arguments of `rebuild_cuda_tensor`."""
_SECONDS = 60.0
_NAME = "a bucket of weights in another process"


def shared_bucket(sheet: Sheet, place: Place) -> None:
    """Hand a bucket over; the other process says what it has read, after a change, too."""
    expandable = "expandable_segments:True"
    if place.on_gpu and expandable not in os.environ.get("PYTORCH_ALLOC_CONF", ""):
        raise RuntimeError(f"ranks set PYTORCH_ALLOC_CONF={expandable} before CUDA is used; this process has not")
    before = memory.held() if place.on_gpu else 0
    tensors = _tensors(place)
    bucket = SharedBucket(tensors, on_gpu=place.on_gpu)
    if place.on_gpu:
        _segments(sheet, tensors[0][1], bucket._flat)
        torch.cuda.synchronize()  # what another process reads must be there
    pickled = place.work / "bucket.pickle"
    pickled.write_bytes(bucket.pickled())
    with Command([sys.executable, "-m", __spec__.name, str(pickled)], place.work / "bucket.txt") as other:
        code = other.wait(_SECONDS)
    if code:
        sheet.failed(_NAME, f"exit code {code}: {other.last_lines()}")
        return
    found: dict[str, str] = json.loads(other.output().splitlines()[-1]) if code == 0 else {}
    differ = sum(found.get(name) != _digest(tensor) for name, tensor in tensors)
    size = sum(tensor.nbytes for _, tensor in tensors)
    note = f"{len(tensors)} tensors, {memory.mib(size):.0f} MiB"
    sheet.equal(_NAME, differ, 0, reference="checksums of their bytes", unit="tensors differ", note=note)
    if place.on_gpu:
        del bucket, tensors
        torch.cuda.ipc_collect()
        sheet.at_most("memory left of a bucket", memory.held() - before, 0, reference="before it", unit="B")


def _tensors(place: Place) -> list[tuple[str, Tensor]]:
    """Of several dtypes, one of them large, one a scalar."""
    generator = torch.Generator().manual_seed(4)
    rows = 300 if place.small else 120_000
    made = {
        "first": torch.randn(7, 13, generator=generator),
        "large": torch.randn(rows, 257, generator=generator).to(torch.bfloat16),
        "bytes": torch.randint(0, 255, (1023,), generator=generator, dtype=torch.uint8),
        "scalar": torch.randn((), generator=generator),
    }
    return [(name, tensor.to(place.device)) for name, tensor in made.items()]


def _segments(sheet: Sheet, ordinary: Tensor, flat: Tensor) -> None:
    """Ordinary memory is in expandable segments, as ranks ask for; the bucket's must not be."""
    kinds = {}
    for name, tensor in (("others", ordinary), ("the bucket", flat)):
        kinds[name] = [
            bool(segment["is_expandable"])
            for segment in torch.cuda.memory_snapshot()
            if segment["address"] <= tensor.data_ptr() < segment["address"] + segment["total_size"]
        ]
    right = kinds == {"others": [True], "the bucket": [False]}
    note = f"expandable: {kinds}"
    sheet.holds("a bucket is outside of expandable segments", right, reference="the allocator", note=note)


def _digest(tensor: Tensor) -> str:
    host = tensor.detach().cpu().contiguous().flatten()
    return hashlib.sha256(host.view(torch.uint8).numpy().tobytes()).hexdigest()


class _Opener(pickle.Unpickler):
    """Finds a GPU by its UUID, as SGLang does."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return _by_uuid if found is reductions.rebuild_cuda_tensor else found


def _by_uuid(*arguments: Any) -> Tensor:
    uuids = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    number = uuids.index(arguments[_DEVICE])
    rebuild: Callable[..., Tensor] = reductions.rebuild_cuda_tensor
    return rebuild(*arguments[:_DEVICE], number, *arguments[_DEVICE + 1 :])


def opened(pickled: bytes) -> dict[str, str]:
    """Checksums of what is in a bucket, by name."""
    content = _Opener(BytesIO(pickled)).load()
    flat, entries = content["flattened_tensor"], content["metadata"]
    parts: Sequence[tuple[str, Tensor]] = [
        (entry.name, flat[entry.start_idx : entry.end_idx].view(entry.dtype).view(entry.shape)) for entry in entries
    ]
    return {name: _digest(tensor) for name, tensor in parts}


if __name__ == "__main__":
    print(json.dumps(opened(Path(sys.argv[1]).read_bytes())))
