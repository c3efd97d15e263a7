"""Norms of heads and rotary positions as one kernel each way, in bf16, against PyTorch in fp64; and their time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aspo_megatron.parallel.device.rotary import HeadNorms, rotary_table, rotated_heads
from aspo_megatron.parallel.device.triton_calls import has_triton
from benchmarks.gpu_check.figures import poison, relative, seconds
from benchmarks.gpu_check.lines import Place, Sheet

REFERENCE = "PyTorch in fp64 of the same inputs"
_EPS = 1e-6
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
class Drawn:
    """A projection [T, groups, (group + 2) x size], weights of norms, frequencies, and gradients of q, k and v."""

    shape: Shape
    projection: Tensor
    norms: tuple[Tensor, ...]
    positions: Tensor
    frequencies: Tensor
    upstream: tuple[Tensor, ...]

    @classmethod
    def draw(cls, shape: Shape, device: torch.device) -> Drawn:
        """In bf16; positions up to 40,000, as if several prompts were in the batch."""

        def normal(*sizes: int) -> Tensor:
            return torch.randn(sizes, device=device).bfloat16()

        keys = (shape.tokens, shape.groups, shape.size)
        exponents = torch.arange(shape.size // 2, device=device) / (shape.size // 2)
        return cls(
            shape,
            normal(shape.tokens, shape.groups, (shape.group + 2) * shape.size).requires_grad_(),
            tuple((1 + normal(shape.size) / 4).requires_grad_() for _ in range(2 if shape.normed else 0)),
            torch.randint(0, 40_000, (shape.tokens,), device=device),
            1e6**-exponents,
            (normal(shape.tokens, shape.groups * shape.group, shape.size), normal(*keys), normal(*keys)),
        )


def show_heads(sheet: Sheet, place: Place) -> None:
    """A line for each result of each shape, and the time beside that of the operations it stands for."""
    if not has_triton():
        sheet.not_done("norms of heads and rotary positions", "Triton is not installed")
        return
    for shape in SMALL_SHAPES if place.small else SHAPES:
        with sheet.part(shape.name):
            _show(sheet, place, Drawn.draw(shape, place.device))


def _show(sheet: Sheet, place: Place, drawn: Drawn) -> None:
    name, table = drawn.shape.name, rotary_table(drawn.positions, drawn.frequencies)
    want = eager(drawn, torch.float64)
    poison(place.device)
    for part, ours, theirs in zip(_PARTS, fused(drawn, table), want, strict=False):
        sheet.at_most(f"{name}: {part}", relative(ours, theirs), _ERROR, reference=REFERENCE)
    del want
    ways = {"one kernel": lambda: fused(drawn, table), "operations": lambda: eager(drawn, torch.bfloat16)}
    times = seconds(ways, place.device, 1 if place.small else 10)
    ratio = times["operations"] / times["one kernel"]
    note = f"{1e3 * times['operations']:.2f} ms operation by operation, in bf16: {ratio:.1f} times as long"
    sheet.measured(f"{name}: time with backward", 1e3 * times["one kernel"], "ms", note=note)


def fused(drawn: Drawn, table: Tensor) -> Sequence[Tensor]:
    """q, k and v as the model computes them, and the gradients of what they come from."""
    norms = HeadNorms(drawn.norms[0], drawn.norms[1], _EPS) if drawn.norms else None
    out = rotated_heads(drawn.projection, table, norms, drawn.shape.group)
    return [*(x.detach() for x in out), *torch.autograd.grad(out, [drawn.projection, *drawn.norms], drawn.upstream)]


def eager(drawn: Drawn, dtype: torch.dtype) -> Sequence[Tensor]:
    """The same by operations of PyTorch and autograd, in a dtype."""
    shape = drawn.shape
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in (drawn.projection, *drawn.norms)]
    queries, key, value = leaves[0].split([shape.group * shape.size, shape.size, shape.size], dim=2)
    heads = [queries.reshape(shape.tokens, -1, shape.size), key]
    if drawn.norms:
        heads = [functional.rms_norm(x, (shape.size,), w, _EPS) for x, w in zip(heads, leaves[1:], strict=True)]
    half = torch.outer(drawn.positions.float(), drawn.frequencies)  # fp32, as the model has them
    angles = torch.cat((half, half), dim=-1)[:, None].double()
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    turned = (torch.cat((-x[..., shape.size // 2 :], x[..., : shape.size // 2]), dim=-1) for x in heads)
    out = [*(x * cos + y * sin for x, y in zip(heads, turned, strict=True)), value]
    gradients = torch.autograd.grad(out, leaves, [gradient.to(dtype) for gradient in drawn.upstream])
    return [*(x.detach() for x in out), *gradients]
