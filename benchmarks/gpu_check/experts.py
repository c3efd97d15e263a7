"""A rank's experts over gathered tokens, in bf16, against one after the other in fp64; waits, and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from aspo_megatron.config import KernelsConfig
from aspo_megatron.parallel.device.expert_traits import ExpertTraits
from aspo_megatron.parallel.model.experts.room import rows_set_aside
from benchmarks.gpu_check.figures import poison, relative, seconds
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.waits import watched

_REFERENCE = "one expert after the other in fp64, of the same inputs"
_ERROR = 1e-2
"""Relative. Inner values and outputs of experts are rounded to bf16, and so are sums over a token's experts: 1.7e-3 at
each step."""
_PARTS = ("out", "grad of hidden states", "grad of choices", "grad of gate and up", "grad of down")


@dataclass(frozen=True)
class Shape:
    """`here` experts of `experts`, the first of them number `first`, each [`inner`, `hidden`]; k choices of tokens."""

    name: str
    tokens: int
    hidden: int
    inner: int
    experts: int
    first: int
    here: int
    top_k: int


SHAPES = (
    Shape("Qwen3-30B-A3B, ep=8", 16384, 2048, 768, 128, 48, 16, 8),
    Shape("all experts, odd tokens", 3001, 1024, 512, 16, 0, 16, 4),
)
SMALL_SHAPES = (Shape("some of the experts", 61, 32, 16, 6, 2, 3, 2),)


class Drawn:
    """Tokens, what they chose, and experts whose weights and gradients lie in a buffer each, as the optimizer has them.

    Attributes:
        hidden: [tokens, hidden] bf16.
        upstream: of the output, likewise.
        chosen: [tokens, k] int64; one expert, which is here, is never chosen, and others much more often than even.
        weights: [tokens, k] fp32.
        up: of each expert, [2 x inner, hidden] bf16, the last expert first in memory; `main_grad` is in fp32.
        down: [hidden, inner] of each.
    """

    def __init__(self, shape: Shape, device: torch.device) -> None:
        def normal(*sizes: int) -> Tensor:
            return torch.randn(sizes, device=device)

        self.shape = shape
        self.hidden, self.upstream = (normal(shape.tokens, shape.hidden).bfloat16() for _ in range(2))
        self.hidden.requires_grad_()
        scores = normal(shape.tokens, shape.experts) + normal(shape.experts)
        scores[:, shape.first + 1] = -torch.inf
        highest, self.chosen = scores.topk(shape.top_k, dim=1)
        self.weights = highest.softmax(dim=1).requires_grad_()
        self.up = _experts(normal(shape.here, 2 * shape.inner, shape.hidden) * shape.hidden**-0.5)
        self.down = _experts(normal(shape.here, shape.hidden, shape.inner) * shape.inner**-0.5)

    def grads(self) -> tuple[Tensor, ...]:
        """Copies of the gradients that the experts' weights have: of gate and up, and of down."""
        return tuple(
            torch.stack([weight.main_grad for weight in weights])  # type: ignore[attr-defined]
            for weights in (self.up, self.down)
        )


def _experts(matrices: Tensor) -> list[Tensor]:
    weights, grads = matrices.bfloat16(), torch.randn_like(matrices)  # what comes is added to what is there
    experts = [weight.requires_grad_() for weight in weights.unbind()[::-1]]
    for weight, grad in zip(experts, grads.unbind()[::-1], strict=True):
        weight.main_grad = grad  # type: ignore[attr-defined]
    return experts


def show_experts(sheet: Sheet, place: Place, group: dist.ProcessGroup) -> None:
    """For each shape a line for each result, the time beside one expert after the other, and the host's waits."""
    shown = []
    for shape in SMALL_SHAPES if place.small else SHAPES:
        with sheet.part(shape.name):
            drawn = Drawn(shape, place.device)
            _show(sheet, place, drawn, group)
            shown.append(drawn)
    for drawn in shown:  # when all is timed: the profiler leaves calls of CUDA slower
        with sheet.part(f"{drawn.shape.name}: waits"):
            _show_waits(sheet, place, drawn, group)


def _show(sheet: Sheet, place: Place, drawn: Drawn, group: dist.ProcessGroup) -> None:
    name, first = drawn.shape.name, drawn.shape.first
    want = one_by_one(drawn, torch.float64)
    wanted = int(((drawn.chosen >= first) & (drawn.chosen < first + drawn.shape.here)).sum())
    poison(place.device)
    got, used = gathered(drawn, group)
    for part, ours, theirs in zip(_PARTS, got, want, strict=True):
        sheet.at_most(f"{name}: {part}", relative(ours, theirs), _ERROR, reference=_REFERENCE)
    sheet.equal(f"{name}: rows that experts take", used, wanted, reference="choices of these experts")
    del got, want
    ways = {"gathered": lambda: passes(drawn, group), "one by one": lambda: one_by_one(drawn, torch.bfloat16)}
    times = seconds(ways, place.device, 1 if place.small else 10)
    ratio = times["one by one"] / times["gathered"]
    note = f"{1e3 * times['one by one']:.2f} ms one after the other: {ratio:.1f} times as long"
    sheet.measured(f"{name}: time with backward", 1e3 * times["gathered"], "ms", note=note)


def _show_waits(sheet: Sheet, place: Place, drawn: Drawn, group: dist.ProcessGroup) -> None:
    name = f"{drawn.shape.name}: waits"
    if not place.on_gpu:
        sheet.not_done(name, "needs a GPU")
        return
    capability = torch.cuda.get_device_capability(place.device)
    lack = ExpertTraits("bfloat16", rows_fit=True, few_ranks=True).gathering_lack(KernelsConfig(), capability)
    if lack is not None:
        sheet.not_done(name, f"needs {lack}")
        return
    seen = watched(lambda: passes(drawn, group))
    sheet.equal(name, seen.waits, 0, reference="docs/gpu.md", note=str(seen))


def passes(drawn: Drawn, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Forward and backward as the model makes them: the output, and the rows used. Twice the rows of an even use."""
    # Within a grid, which decides what megatron-core compiles as it is imported.
    from aspo_megatron.parallel.model.experts.routed import ExpertWeights, routed_experts

    shape = drawn.shape
    rows = rows_set_aside(shape.tokens, shape.top_k, shape.here, shape.experts, 2.0)
    weights = ExpertWeights(drawn.up, drawn.down)
    out, used = routed_experts(drawn.hidden, drawn.weights, drawn.chosen, weights, shape.first, rows, group)
    out.backward(drawn.upstream)
    return out.detach(), used


def gathered(drawn: Drawn, group: dist.ProcessGroup) -> tuple[list[Tensor], int]:
    """The results of `passes` in the order of the lines, and the rows used."""
    drawn.hidden.grad = drawn.weights.grad = None
    before = drawn.grads()
    out, used = passes(drawn, group)
    assert drawn.hidden.grad is not None
    assert drawn.weights.grad is not None
    added = [after.double() - there.double() for after, there in zip(drawn.grads(), before, strict=True)]
    return [out, drawn.hidden.grad, drawn.weights.grad, *added], int(used)


def one_by_one(drawn: Drawn, dtype: torch.dtype) -> list[Tensor]:
    """The same by autograd, in a dtype."""
    hidden, weights = leaves = [each.detach().to(dtype).requires_grad_() for each in (drawn.hidden, drawn.weights)]
    up, down = ([each.detach().to(dtype).requires_grad_() for each in of] for of in (drawn.up, drawn.down))
    out = sum_of_experts(hidden, weights, drawn.chosen, up, down, drawn.shape.first)
    of_leaves = torch.autograd.grad(out, [*leaves, *up, *down], drawn.upstream.to(dtype))
    by_up, by_down = (torch.stack(grads) for grads in (of_leaves[2 : 2 + len(up)], of_leaves[2 + len(up) :]))
    return [out.detach(), *of_leaves[:2], by_up, by_down]


def sum_of_experts(
    hidden: Tensor, weights: Tensor, chosen: Tensor, up: Sequence[Tensor], down: Sequence[Tensor], first: int
) -> Tensor:
    """What experts number `first` and so on add up to for each token, one after the other. All of one dtype.

    The host is told how many tokens each expert has.
    """
    out = torch.zeros_like(hidden)
    for number, (wide, narrow) in enumerate(zip(up, down, strict=True), start=first):
        tokens, choices = (chosen == number).nonzero(as_tuple=True)
        gate, value = (hidden[tokens] @ wide.t()).chunk(2, dim=1)
        made = (functional.silu(gate) * value * weights[tokens, choices, None]) @ narrow.t()
        out = out.index_add(0, tokens, made)
    return out
