"""Time and kernels of one layer's attention, forward and backward, of micro-batches of several shapes.

`varlen` is what the model computes with on a GPU, `blocks` the other plan (`model.kernels.attention`), FlexAttention is
given the same mask. `one causal` is a single causal sequence of as many tokens: more arithmetic, but one kernel. They
take turns, so that ratios come from the same clocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.parallel.device.attention_kernels import attend, attend_backward
from aspo_megatron.parallel.device.kernels import Kernels
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.parallel.model.micro_batch import copied
from benchmarks.gpu_check.attention_cases import ERROR, Group, spans_of
from benchmarks.gpu_check.figures import kernels, relative, seconds
from benchmarks.gpu_check.lines import Place, Sheet

WORKLOADS = {
    "1 prompt, 16 responses of 500-8000": [Group(512, [500 * number for number in range(1, 17)])],
    "1 prompt, 5 responses of 800-4000": [Group(512, [800, 1600, 2400, 3200, 4000])],
    "4 prompts, 16 responses of 40-340 each": [
        Group(200, [40 + 20 * ((7 * number + row) % 16) for number in range(16)]) for row in range(4)
    ],
    "64 prompts, a response of 30-280 each": [Group(60 + row, [30 + 4 * ((11 * row) % 64)]) for row in range(64)],
}
SMALL_WORKLOADS = {"1 prompt, 3 responses": [Group(9, [5, 11, 20])], "3 prompts, a response each": [Group(4, [6])] * 3}
_REPEATS = 10
_FLEX_TOKENS = 20_000
"""FlexAttention's mask of many more would take seconds to make."""
GOAL = 1.15
"""Of `varlen / one causal`."""


def run(sheet: Sheet, place: Place) -> None:
    """All workloads, with a tensor-parallel rank's heads of a model of 8B at tp=4."""
    calls: dict[str, Callable[[], object]] = {}
    with process_grid(ParallelConfig(), PlatformConfig(device=place.device.type), seed=1):
        for name, groups in (SMALL_WORKLOADS if place.small else WORKLOADS).items():
            with sheet.part(name):
                calls |= show(sheet, place, name, groups)
        what = "kernels and copies" if place.on_gpu else "operations"
        for name, function in calls.items():  # when all is timed: the profiler leaves calls of CUDA slower
            with sheet.part(f"{name}: {what}"):
                started = kernels(function, place.device)
                if started:
                    sheet.measured(f"{name}: {what}", started, "")
                else:
                    sheet.not_done(f"{name}: {what}", "the profiler sees none here")


def show(sheet: Sheet, place: Place, name: str, groups: list[Group]) -> dict[str, Callable[[], object]]:
    """One workload: time of each way, and ratios. Gives what was timed, by name."""
    heads, kv_heads, d = (2, 1, 64) if place.small else (8, 2, 128)
    tokens = spans_of(groups)[-1].stop
    name = f"{name} ({tokens} tokens)"
    q, grad = (torch.randn(tokens, heads, d, device=place.device).to(torch.bfloat16) for _ in range(2))
    k, v = (torch.randn(tokens, kv_heads, d, device=place.device).to(torch.bfloat16) for _ in range(2))
    ways: dict[str, Planned | OneCausal] = {
        "varlen": Planned(Kernels(attention="varlen", triton_merge=place.on_gpu), groups, q, k, v, grad),
        "blocks": Planned(Kernels(attention="blocks"), groups, q, k, v, grad),
        "one causal": OneCausal(groups, q, k, v, grad, place.device),
    }
    if place.on_gpu and tokens <= _FLEX_TOKENS:
        add_flex(sheet, name, ways, lambda: Flex(groups, q, k, v, grad))
    outs = {way: runs.forward() for way, runs in ways.items()}
    difference = relative(outs["blocks"], outs["varlen"])
    sheet.at_most(f"{name}: varlen gives what blocks give", difference, ERROR, reference="blocks")
    repeats = 2 if place.small else _REPEATS
    timed: dict[str, Callable[[], object]] = {}
    for direction in ("forward", "backward"):
        calls: dict[str, Callable[[], object]] = {way: getattr(runs, direction) for way, runs in ways.items()}
        times = seconds(calls, place.device, repeats)
        for way, function in calls.items():
            sheet.measured(f"{name}, {direction}: {way}", 1e3 * times[way], "ms")
            timed[f"{name}, {direction}: {way}"] = function
        for other in (way for way in ways if way != "varlen"):
            ratio = times["varlen"] / times[other]
            note = f"goal: {GOAL}" if other == "one causal" else ""
            sheet.measured(f"{name}, {direction}: varlen / {other}", ratio, "", reference=other, note=note)
    return timed


def add_flex(sheet: Sheet, name: str, ways: dict[str, Planned | OneCausal], make: Callable[[], Flex]) -> None:
    """One more of `ways`, if it runs: the others are timed all the same."""
    try:
        flex = make()
        flex.forward()
        flex.backward()
    except Exception as error:  # of a compiler, of any kind
        sheet.not_done(f"{name}: FlexAttention", f"{type(error).__name__}: {str(error).strip()[:300]}")
        return
    ways["FlexAttention"] = flex


class Planned:
    """As the model does it."""

    def __init__(self, kernels: Kernels, groups: list[Group], q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> None:
        from aspo_megatron.parallel.model.attention import plan_attention
        from aspo_megatron.parallel.model.context_parallel import context_slice

        params = plan_attention(context_slice(spans_of(groups), 1, 0, multiple_of=1), kernels)
        plan = (copied(params, q.device) if q.device.type != "cpu" else params).plan
        assert plan is not None
        self._inputs = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
        self._run: Callable[..., Tensor] = partial(plan.attend, scale=1 / math.sqrt(q.size(-1)))
        self._grad = grad
        self._out: Tensor | None = None

    def forward(self) -> Tensor:
        """Of all tokens, with what backward needs."""
        self._out = self._run(*self._inputs)
        return self._out.detach()

    def backward(self) -> tuple[Tensor, ...]:
        """Of the last forward pass, which is kept."""
        assert self._out is not None
        return torch.autograd.grad(self._out, self._inputs, self._grad, retain_graph=True)


class Flex(Planned):
    """FlexAttention under the same mask: a token sees what is before it of its own span, and all of its prompt.

    On a CPU it is not compiled, and has no backward pass.
    """

    def __init__(self, groups: list[Group], q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> None:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        spans = spans_of(groups)
        own = torch.cat([torch.full((span.stop - span.start,), number) for number, span in enumerate(spans)])
        starts = {(span.start, span.stop): number for number, span in enumerate(spans)}
        prompts = torch.tensor([starts.get((span.prefix_start, span.prefix_stop), -1) for span in spans])
        own, prompt = own.to(q.device), prompts[own].to(q.device)

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return ((own[query] == own[key]) & (query >= key)) | (prompt[query] == own[key])

        mask = create_block_mask(sees, None, None, len(q), len(q), device=str(q.device))
        compiled = q.device.type != "cpu"
        self._inputs = [tensor.detach().requires_grad_(compiled) for tensor in (q, k, v)]
        self._grad, self._out = grad, None
        attend: Callable[..., Any] = flex_attention
        if compiled:
            attend = torch.compile(flex_attention)
        scale = 1 / math.sqrt(q.size(-1))

        def run(*inputs: Tensor) -> Tensor:
            rows = (tensor.transpose(0, 1)[None] for tensor in inputs)
            out: Tensor = attend(*rows, block_mask=mask, scale=scale, enable_gqa=True)
            return out[0].transpose(0, 1)

        self._run = run


class OneCausal:
    """One sequence of all tokens."""

    def __init__(
        self, groups: list[Group], q: Tensor, k: Tensor, v: Tensor, grad: Tensor, device: torch.device
    ) -> None:
        self._inputs, self._grad, self._scale = (q[None], k[None], v[None]), grad[None], 1 / math.sqrt(q.size(-1))
        self._done: tuple[Tensor, Tensor] | None = None

    def forward(self) -> Tensor:
        """See `Planned`."""
        self._done = attend(*self._inputs, True, self._scale)
        return self._done[0][0]

    def backward(self) -> tuple[Tensor, ...]:
        """See `Planned`."""
        assert self._done is not None
        return attend_backward(self._grad, *self._inputs, *self._done, True, self._scale)
