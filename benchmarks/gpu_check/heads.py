"""Norms of heads and rotary positions as one kernel each way, in bf16, against PyTorch in fp64; and their time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aspo_megatron.parallel.device.rotary import HeadNorms, rotary_table, rotated_heads
from aspo_megatron.parallel.device.triton_calls import has_triton
from benchmarks.gpu_check.figures import poison, relative, seconds
from benchmarks.gpu_check.lines import Place, Sheet

_REFERENCE = "PyTorch in fp64 of the same inputs"
EPS = 1e-3
"""Of the norms: more than a model has, so that it matters."""
_ERROR = 5e-3
"""Relative. All is computed in fp32, and rounded to bf16 once: 1.7e-3; 3.4e-3 by Triton's interpreter, which cuts."""
_PARTS = ("q", "k", "v", "grad of the projection", "grad of the q norm", "grad of the k norm")


@dataclass(frozen=True)
class Shape:
    """`groups` of `group` queries, a key and a value, heads of `size` numbers; with norms or without."""

    name: str
    tokens: int
    groups: int
    group: int
    size: int
    normed: bool


SHAPES = (
    Shape("Qwen3-8B, tp=4", 16380, 2, 4, 128, True),
    Shape("Qwen3-30B-A3B, tp=4", 16380, 1, 8, 128, True),
    Shape("Qwen2.5-1.5B", 16380, 2, 6, 128, False),
    Shape("heads of 64, odd", 4099, 3, 7, 64, True),
)
SMALL_SHAPES = (Shape("with norms", 5, 2, 2, 16, True), Shape("without norms", 6, 1, 3, 64, False))


@dataclass(frozen=True)
class Problem:
    """A projection [T, groups, (group + 2) x size], angles [T, size / 2], weights of norms, upstream gradients."""

    projection: Tensor
    angles: Tensor
    weights: tuple[Tensor, ...]
    upstream: tuple[Tensor, Tensor, Tensor]

    @property
    def group(self) -> int:
        """Queries of a group."""
        return self.upstream[0].shape[1] // self.upstream[1].shape[1]

    def to(self, dtype: torch.dtype) -> Problem:
        """Of these numbers, rounded; the angles stay as they are."""
        return Problem(
            self.projection.to(dtype),
            self.angles,
            tuple(weight.to(dtype) for weight in self.weights),
            tuple(each.to(dtype) for each in self.upstream),  # type: ignore[arg-type]
        )


def drawn(shape: Shape, device: torch.device) -> tuple[Problem, Tensor]:
    """In bf16, and the model's table. Positions up to 40,000; their angles are products in fp32, as the model's are."""

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, device=device).bfloat16()

    keys = (shape.tokens, shape.groups, shape.size)
    frequencies = 1e6 ** -(torch.arange(shape.size // 2, device=device) / (shape.size // 2))
    positions = torch.randint(0, 40_000, (shape.tokens,), device=device)
    problem = Problem(
        normal(shape.tokens, shape.groups, (shape.group + 2) * shape.size),
        torch.outer(positions.float(), frequencies).double(),
        tuple(1 + normal(shape.size) / 4 for _ in range(2 if shape.normed else 0)),
        (normal(shape.tokens, shape.groups * shape.group, shape.size), normal(*keys), normal(*keys)),
    )
    return problem, rotary_table(positions, frequencies)


def show_heads(sheet: Sheet, place: Place) -> None:
    """A line for each result of each shape, and the time beside that of the operations it stands for."""
    if not has_triton():
        sheet.not_done("norms of heads and rotary positions", "Triton is not installed")
        return
    for shape in SMALL_SHAPES if place.small else SHAPES:
        with sheet.part(shape.name):
            _show(sheet, place, shape.name, *drawn(shape, place.device))


def _show(sheet: Sheet, place: Place, name: str, problem: Problem, table: Tensor) -> None:
    want = eager(problem.to(torch.float64))
    poison(place.device)
    for part, ours, theirs in zip(_PARTS, fused(problem, table), want, strict=False):
        sheet.at_most(f"{name}: {part}", relative(ours, theirs), _ERROR, reference=_REFERENCE)
    del want
    ways = {"one kernel": lambda: fused(problem, table), "operations": lambda: eager(problem)}
    times = seconds(ways, place.device, 1 if place.small else 10)
    ratio = times["operations"] / times["one kernel"]
    note = f"{1e3 * times['operations']:.2f} ms operation by operation, in bf16: {ratio:.1f} times as long"
    sheet.measured(f"{name}: time with backward", 1e3 * times["one kernel"], "ms", note=note)


def fused(problem: Problem, table: Tensor) -> list[Tensor]:
    """q, k and v as the model computes them, and the gradients of what they come from."""
    leaves = [tensor.detach().requires_grad_() for tensor in (problem.projection, *problem.weights)]
    norms = HeadNorms(leaves[1], leaves[2], EPS) if problem.weights else None
    out = rotated_heads(leaves[0], table, norms, problem.group)
    return [*(each.detach() for each in out), *torch.autograd.grad(out, leaves, problem.upstream)]


def eager(problem: Problem) -> list[Tensor]:
    """The same as megatron's layer does it, by operations of PyTorch and autograd in the dtype of the problem."""
    leaves = [tensor.detach().requires_grad_() for tensor in (problem.projection, *problem.weights)]
    size, dtype = problem.upstream[1].shape[-1], problem.projection.dtype
    queries, key, value = leaves[0].split([problem.group * size, size, size], dim=2)
    heads = [queries.reshape(problem.upstream[0].shape), key]
    if problem.weights:
        heads = [functional.rms_norm(x, (size,), w, EPS) for x, w in zip(heads, leaves[1:], strict=True)]
    angles = torch.cat((problem.angles, problem.angles), dim=-1)[:, None]
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    turned = (torch.cat((-x[..., size // 2 :], x[..., : size // 2]), dim=-1) for x in heads)
    out = [*(x * cos + y * sin for x, y in zip(heads, turned, strict=True)), value]
    gradients = torch.autograd.grad(out, leaves, problem.upstream)
    return [*(x.detach() for x in out), *gradients]
