"""What the stand-in for a GPU shows: each rule on a few tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from aspo_megatron.config import ParallelConfig
from aspo_megatron.parallel.log_prob import triton_ops
from aspo_megatron.simulation.rank import simulated_rank

ALONE = ParallelConfig()


def _error(action: Callable[[], Any]) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def devices() -> dict[str, Any]:
    with simulated_rank(ALONE):
        there, here = torch.zeros(4, 3, device="cuda"), torch.zeros(4, 3)
        index = torch.tensor([1, 2])
        return {
            "device": str(there.device.type),
            "is_cuda": (there.is_cuda, here.is_cuda),
            "type": there.bfloat16().type(),
            "sum of two devices": _error(lambda: there + here),
            "rows by an index on the CPU": _error(lambda: there.index_select(0, index)),
            "number of the CPU": _error(lambda: there * torch.tensor(2.0)),
            "shape": list((there @ there.t())[1:, ::2].shape),
            "real": (here + 1).tolist()[0],
        }


def test_tensors_of_two_devices_are_told_apart(simulated: Callable[..., Any]) -> None:
    found = simulated(devices)
    assert found["device"] == "gpu"
    assert found["is_cuda"] == (True, False)
    assert found["type"] == "torch.cuda.BFloat16Tensor"
    assert "device" in found["sum of two devices"]
    assert "device" in found["rows by an index on the CPU"]
    assert found["number of the CPU"] == "no error"
    assert found["shape"] == [3, 2]
    assert found["real"] == [1.0] * 3


WAITS: dict[str, tuple[Callable[[torch.Tensor], Any], int]] = {
    "item": (lambda t: t.sum().item(), 1),
    "float": (lambda t: float(t[0]), 1),
    "bool": (lambda t: bool(t.any()), 1),
    "if": (lambda t: 1 if t.any() else 2, 1),
    "tolist": (lambda t: t.tolist(), 1),
    "cpu": (lambda t: t.cpu(), 1),
    "copy to pageable memory": (lambda t: torch.empty(4).copy_(t, non_blocking=True), 1),
    "copy to pinned memory": (lambda t: torch.empty(4, pin_memory=True).copy_(t, non_blocking=True), 0),
    "copy to pinned memory, waited for": (lambda t: torch.empty(4, pin_memory=True).copy_(t), 1),
    "to the CPU without blocking": (lambda t: t.to("cpu", non_blocking=True), 0),
    "nonzero": (lambda t: t.nonzero(), 1),
    "mask": (lambda t: t[t > 0], 1),
    "where": (lambda t: torch.where(t > 0, t, 0.0), 0),
    "a number where a mask is": (lambda t: t.__setitem__(t > 0, 1.0), 0),
    "numbers where a mask is": (lambda t: t.__setitem__(t > 0, t[:1] * 2), 1),
    "filled from the device": (lambda t: t.masked_fill_(t > 0, t[0]), 1),
    "drawn": (lambda t: t.softmax(0).multinomial(1), 1),
    "repeats without a size": (lambda t: t.repeat_interleave(t.long()), 1),
    "repeats with a size": (lambda t: t.repeat_interleave(t.long(), output_size=9), 0),
    "numbers of a list": (lambda t: torch.tensor([t[0], t[1]]), 2),
    "synchronize": (lambda t: torch.cuda.synchronize(), 1),
    "stream": (lambda t: torch.cuda.Stream().synchronize(), 1),
    "event": (lambda t: torch.cuda.current_stream().record_event().synchronize(), 1),
    "streams among themselves": (lambda t: torch.cuda.Stream().wait_stream(torch.cuda.current_stream()), 0),
    "arithmetic": (lambda t: (t * 2 + 1).softmax(0), 0),
}

COPIES: dict[str, tuple[Callable[[torch.Tensor], Any], int, int]] = {
    "pageable": (lambda t: torch.ones(4).to("cuda", non_blocking=True), 1, 0),
    "pinned": (lambda t: torch.ones(4).pin_memory().to("cuda", non_blocking=True), 0, 0),
    "pinned, waited for": (lambda t: torch.ones(4).pin_memory().cuda(), 0, 1),
    "made in pinned memory": (lambda t: t.copy_(torch.zeros(4, pin_memory=True), non_blocking=True), 0, 0),
    "part of pinned memory": (lambda t: torch.zeros(8, pin_memory=True)[4:].to(t.device, non_blocking=True), 0, 0),
    "list": (lambda t: torch.tensor([1, 2], device="cuda"), 1, 0),
    "into": (lambda t: t.copy_(torch.ones(4)), 1, 0),
    "index": (lambda t: t[torch.tensor([0, 1])], 1, 0),
    "made there": (lambda t: torch.arange(4, device="cuda"), 0, 0),
    "a number": (lambda t: t.fill_(3.0), 0, 0),
}


def counted(names: list[str]) -> dict[str, tuple[int, int]]:
    with simulated_rank(ALONE) as simulated:
        found = {}
        for name in names:
            tensor = torch.empty(4, device="cuda")
            simulated.ledger.clear()
            (WAITS.get(name) or COPIES[name])[0](tensor)
            found[name] = simulated.ledger.copies.total(), simulated.ledger.waits.total()
        return found


def test_waits_of_the_host_are_counted(simulated: Callable[..., Any]) -> None:
    found = simulated(counted, list(WAITS))
    assert {name: waits for name, (_, waits) in found.items()} == {name: want for name, (_, want) in WAITS.items()}


def test_copies_to_the_device_are_counted(simulated: Callable[..., Any]) -> None:
    assert simulated(counted, list(COPIES)) == {name: (copies, waits) for name, (_, copies, waits) in COPIES.items()}


def memory() -> list[int]:
    with simulated_rank(ALONE) as simulated:
        ledger = simulated.ledger
        found = [ledger.held_bytes]
        tensor = torch.empty(1024, 1024, device="cuda")
        view = tensor[10:].t()
        found.append(ledger.held_bytes)
        del tensor
        found.append(ledger.held_bytes)
        view.untyped_storage().resize_(1 << 20)
        found.append(ledger.held_bytes)
        ledger.clear()
        torch.zeros(1 << 20, dtype=torch.int8, device="cuda") + 1  # the sum exists beside it
        found += [ledger.held_bytes, ledger.peak_bytes]
        del view
        found.append(ledger.held_bytes)
        with ledger.only() as part:
            torch.zeros(1 << 20, dtype=torch.int8, device="cuda")
        return [*found, part.peak_bytes, ledger.peak_bytes]


def test_memory_is_that_of_storages(simulated: Callable[..., Any]) -> None:
    start, made, viewed, resized, held, peak, gone, part, whole = simulated(memory)
    mib = 1 << 20
    assert made - start == viewed - start == 4 * mib
    assert resized - start == held - start == mib
    assert peak - start == 3 * mib
    assert gone == start
    assert part - start == mib
    assert whole == peak


def values() -> dict[str, Any]:
    with simulated_rank(ALONE):
        lengths = torch.tensor([3, 1, 2]).cuda()
        places = lengths.cumsum(0)
        mask = torch.arange(6, device="cuda") >= 2
        unknown = torch.empty(6, device="cuda")
        overwritten = torch.zeros(6, dtype=torch.int64, device="cuda")
        overwritten[1:3] = (unknown[:2] > 0).long()
        chosen = torch.zeros(8, 4, device="cuda").int().scatter(1, torch.empty(8, 4, device="cuda").topk(2, 1)[1], 1)
        return {
            "followed": places.tolist(),
            "a view written to": (places[1:].zero_(), places.tolist())[1],
            "chosen by a mask": list(unknown[mask].shape),
            "unknown": unknown[0].item(),
            "written with what is unknown": overwritten.tolist(),
            "experts' loads": chosen.sum(0).tolist(),
        }


def test_values_follow_from_values_of_the_cpu(simulated: Callable[..., Any]) -> None:
    assert simulated(values) == {
        "followed": [3, 4, 6],
        "a view written to": [3, 0, 0],
        "chosen by a mask": [4],
        "unknown": 1.0,
        "written with what is unknown": [1] * 6,
        "experts' loads": [4] * 4,
    }


def collectives() -> dict[str, Any]:
    with simulated_rank(ParallelConfig(tp=2, dp=2), rank=3) as simulated:
        topology = simulated.topology
        there, here = torch.tensor([1, 2]).cuda(), torch.tensor([5])
        gathered = torch.empty(4, dtype=torch.int64, device="cuda")
        dist.all_gather_into_tensor(gathered, there, group=topology.tp.group)
        parts = [torch.empty_like(here) for _ in range(4)]
        dist.all_gather(parts, here)
        objects = [None] * 4
        dist.all_gather_object(objects, "mine")
        transposed = torch.empty(3, 4, device="cuda").t()
        scattered, exchanged = torch.empty_like(there[:1]), torch.empty_like(there)
        dist.reduce_scatter_tensor(scattered, there, group=topology.tp.group)
        dist.all_to_all_single(exchanged, there, group=topology.tp.group)
        too_long, short = torch.empty(7, device="cuda"), torch.empty(4, dtype=torch.int16, device="cuda")
        ledger = simulated.ledger
        ledger.clear()
        dist.all_reduce(torch.empty(1024, device="cuda"), group=topology.dp.group)
        dist.all_reduce(torch.empty(1024, device="cuda"), group=topology.cp.group)
        return {
            "place": (topology.rank, topology.tp.rank, topology.dp.rank, topology.world_size),
            "gathered": gathered.tolist(),
            "on the CPU": [int(part) for part in parts],
            "objects": objects,
            "scattered": scattered.tolist(),
            "exchanged": exchanged.tolist(),
            "size": _error(lambda: dist.all_gather_into_tensor(too_long, too_long[:2], group=topology.tp.group)),
            "dtype": _error(lambda: dist.all_reduce(short)),
            "not contiguous": _error(lambda: dist.all_reduce(transposed)),
            "traffic": dict(ledger.traffic),
        }


def test_other_ranks_hold_what_this_one_holds(simulated: Callable[..., Any]) -> None:
    found = simulated(collectives)
    assert found["place"] == (3, 1, 1, 4)
    assert found["gathered"] == [1, 2, 1, 2]
    assert found["on the CPU"] == [5] * 4
    assert found["objects"] == ["mine"] * 4
    assert found["scattered"] == [2]  # as tp rank 1
    assert found["exchanged"] == [2, 2]
    assert "7 elements are not 2 times 2" in found["size"]
    assert "NCCL has no torch.int16" in found["dtype"]
    assert "not contiguous" in found["not contiguous"]
    assert found["traffic"] == {"allreduce_": 4096}


def kernels() -> dict[str, str]:
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    varlen, varlen_backward = torch.ops.aten._flash_attention_forward, torch.ops.aten._flash_attention_backward
    with simulated_rank(ALONE):

        def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device="cuda")

        q, k = tensor(1, 4, 6, 8), tensor(1, 2, 6, 8)
        row, key, lse = tensor(6, 4, 8), tensor(6, 2, 8), tensor(6, 4, dtype=torch.float32)
        bounds = tensor(3, dtype=torch.int32)
        wide, narrow = tensor(8, 8, dtype=torch.float32), tensor(8, 8)
        every_other = tensor(16, 16, dtype=torch.float32)[::2, ::2]
        part, stats = tensor(5, 48, dtype=torch.float32)[:4, :41], tensor(4, 4, dtype=torch.float32)
        target, of_token = tensor(4, dtype=torch.int64), stats[0]

        def gradient(logits: torch.Tensor, out: torch.Tensor, base: torch.Tensor, g: torch.Tensor) -> None:
            triton_ops.logit_gradient(logits, out, target, base, of_token, g, None, of_token, 1.0)

        heads, table = tensor(4, 2, 48), tensor(4, 1, 1, 8, dtype=torch.float32)
        rotate = torch.ops.aspo_megatron.rotate_heads

        def rotated(heads: torch.Tensor, table: torch.Tensor, key: torch.Tensor) -> None:
            rotate(heads, table, None, None, tensor(4, 8, 8), key, None, 0.0)

        return {
            "rotary": _error(lambda: rotated(tensor(4, 3, 48)[:, :2], table, tensor(4, 2, 8))),
            "its order": _error(lambda: rotated(tensor(2, 4, 48).transpose(0, 1), table, tensor(4, 2, 8))),
            "its keys": _error(lambda: rotated(heads, table, tensor(2, 4, 8).transpose(0, 1))),
            "its angles": _error(lambda: rotated(heads, table[..., :4].contiguous(), tensor(4, 2, 8))),
            "its table": _error(lambda: rotated(heads, table.bfloat16(), tensor(4, 2, 8))),
            "log-prob": _error(lambda: triton_ops.token_sums(part, target, stats, 1.0)),
            "its sums": _error(lambda: triton_ops.token_sums(part, target, stats.double(), 1.0)),
            "its targets": _error(lambda: triton_ops.token_sums(part, target.int(), stats, 1.0)),
            "its logits": _error(lambda: triton_ops.token_sums(part.bfloat16(), target, stats.bfloat16(), 1.0)),
            "its gradient": _error(lambda: gradient(part, part.bfloat16(), of_token, of_token[:1].expand(4))),
            "its gradient's shape": _error(lambda: gradient(part, part[:3], of_token, of_token)),
            "its gradient's order": _error(lambda: gradient(part, tensor(41, 4).t(), of_token, of_token)),
            "its tokens": _error(lambda: gradient(part, part, of_token[:3], of_token)),
            "grouped heads": _error(lambda: flash(q, k, k, 0.0, True, False, scale=1.0)),
            "uneven heads": _error(lambda: flash(q, tensor(1, 3, 6, 8), tensor(1, 3, 6, 8), 0.0, True, False)),
            "fp32": _error(lambda: flash(q.float(), k.float(), k.float(), 0.0, True, False)),
            "last dimension": _error(lambda: flash(tensor(1, 4, 8, 6).transpose(2, 3), k, k, 0.0, True, False)),
            "head of 12": _error(lambda: flash(tensor(1, 4, 6, 12), *[tensor(1, 4, 6, 12)] * 2, 0.0, True, False)),
            "segments": _error(lambda: varlen(row, key, key, bounds, bounds, 6, 6, 0.0, True, False)),
            "bounds of 64 bits": _error(lambda: varlen(row, key, key, bounds.long(), bounds, 6, 6, 0.0, True, False)),
            "no bounds": _error(lambda: varlen(row, key, key, None, None, 6, 6, 0.0, True, False)),
            "transposed sums": _error(
                lambda: varlen_backward(
                    row, row, key, key, row, lse.t(), *[bounds] * 2, 6, 6, 0.0, True, bounds, bounds
                )
            ),
            "wide product": _error(lambda: torch.mm(narrow, narrow, out_dtype=torch.float32, out=wide)),
            "wide product of fp32": _error(lambda: torch.mm(wide, wide, out_dtype=torch.float32)),
            "narrow result": _error(lambda: torch.mm(narrow, narrow, out_dtype=torch.float32, out=narrow)),
            "strided result": _error(lambda: torch.mm(wide, wide, out=every_other)),
        }


def test_kernels_that_read_addresses_are_handed_what_they_assume(simulated: Callable[..., Any]) -> None:
    found = simulated(kernels)
    fine = ("rotary", "grouped heads", "segments", "wide product", "log-prob", "its gradient")
    assert {name: found[name] for name in fine} == dict.fromkeys(fine, "no error")
    assert {name for name, error in found.items() if "DemandError" in error} == {
        "its order",
        "its keys",
        "its angles",
        "its table",
        "uneven heads",
        "fp32",
        "last dimension",
        "head of 12",
        "bounds of 64 bits",
        "no bounds",
        "transposed sums",
        "wide product of fp32",
        "narrow result",
        "strided result",
        "its sums",
        "its targets",
        "its logits",
        "its gradient's shape",
        "its gradient's order",
        "its tokens",
    }


def parts_of_one_block() -> dict[str, str]:
    with simulated_rank(ALONE):
        block = torch.zeros(12, pin_memory=True)
        block[:4].copy_(torch.zeros(4, device="cuda"), non_blocking=True)
        torch.empty(4, device="cuda").copy_(block[4:8], non_blocking=True)
        return {
            "reads what is filled": _error(lambda: block[3:5] + 1),
            "overwrites what is read": _error(lambda: block[6:9].fill_(1.0)),
            "reads what is read": _error(lambda: block[4:8] + 1),
            "another part": _error(lambda: block[8:].fill_(1.0)),
        }


def test_tensors_that_share_page_locked_memory_are_each_copied_by_themselves(simulated: Callable[..., Any]) -> None:
    found = simulated(parts_of_one_block)
    assert found.pop("reads what is filled").startswith("OrderError")
    assert found.pop("overwrites what is read").startswith("OrderError")
    assert set(found.values()) == {"no error"}
