"""Attention of segments of unequal length, which the model computes with on a GPU; FlexAttention as a cross-check."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aspo_megatron.data.packing import Span
from aspo_megatron.parallel.device.varlen_kernels import Segments, attend_segments, attend_segments_backward
from aspo_megatron.parallel.model.micro_batch import copied
from benchmarks.gpu_check.attention_cases import (
    ERROR,
    LSE_ERROR,
    REFERENCE,
    Group,
    Values,
    in_fp64,
    masked_in_fp64,
    spans_of,
    whole_mask,
)
from benchmarks.gpu_check.figures import farthest, fresh_random, poison, relative, seconds
from benchmarks.gpu_check.lines import Place, Sheet

GROUPS = (Group(500, (700, 333, 1, 64)), Group(128, (1000,)), Group(1, (5, 5)), Group(200, ()))
SMALL_GROUPS = (Group(20, (30, 7, 1)), Group(5, (40,)), Group(1, (3,)), Group(6, ()))
_PADDING = 29
_MASK = "a whole mask in fp64"


def show_varlen(sheet: Sheet, place: Place) -> None:
    """Several kinds of segments by turns."""
    fresh_random(place.device)
    size = 1 if place.small else 24
    kinds = {
        "causal": ([size * 9, size * 40, 1], [size * 9, size * 40, 1], True),
        "causal, more keys than queries (the last query sees all)": ([size * 9, 3], [size * 31, size * 8], True),
        "whole, one segment without keys": ([size * 9, size * 11, size], [size * 5, 0, size * 3], False),
    }
    for name, (queries, keys, causal) in kinds.items():
        segments = Segments.of(queries, keys, causal=causal)
        show_segments(sheet, place, f"varlen, {name}", copied(segments, place.device) if place.on_gpu else segments)


def show_segments(sheet: Sheet, place: Place, name: str, segments: Segments) -> None:
    """Values and gradients of each segment; V is a part of another tensor; rows are left over behind the last bound."""
    heads, kv_heads, d = (4, 2, 64) if place.small else (16, 4, 128)
    queries, keys = int(segments.queries[-1]), int(segments.keys[-1])
    q, grad = (_normal(place, queries + _PADDING, heads, d) for _ in range(2))
    k, v = _normal(place, keys + _PADDING, 2 * kv_heads, d).split(kv_heads, dim=1)
    scale = 1 / math.sqrt(d)
    poison(place.device)
    out, lse = attend_segments(q, k, v, segments, scale)
    layout = lse.shape == (heads, queries + _PADDING) and lse.dtype == torch.float32 and lse.is_contiguous()
    text = f"{list(lse.shape)} {lse.dtype}, strides {lse.stride()}"
    sheet.holds(f"{name}: log-sum-exp is [heads, tokens] in fp32", layout, reference=text)
    if not layout:
        return
    left = [float(part.isnan().double().mean()) for part in (out[queries:], lse.t()[queries:])]
    sheet.measured(f"{name}: rows behind the last bound that are not written", left[0], "of 1", note=f"lse {left[1]:g}")
    poison(place.device)
    dq, dk, dv = attend_segments_backward(grad, q, k, v, out, lse, segments, scale)
    want = _in_fp64(q, k, v, grad, segments, scale)
    got = Values(out[:queries], lse.t()[:queries].abs(), dq[:queries], dk[:keys], dv[:keys])
    for part in ("out", "dq", "dk", "dv"):
        sheet.at_most(f"{name}: {part}", relative(getattr(got, part), getattr(want, part)), ERROR, reference=REFERENCE)
    reference = f"{REFERENCE}; infinity, of either sign, without keys; absolute"
    sheet.at_most(f"{name}: log-sum-exp", farthest(got.lse, want.lse.abs()), LSE_ERROR, reference=reference)


def _in_fp64(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, segments: Segments, scale: float) -> Values:
    """Segment after segment, without what is left over: [tokens, heads, d] each."""
    parts: list[Values] = []
    bounds = [edges.tolist() for edges in (segments.queries, segments.keys)]
    for number in range(len(bounds[0]) - 1):
        own, keys = (slice(edges[number], edges[number + 1]) for edges in bounds)
        if keys.start == keys.stop:
            lse = torch.full(q[own].shape[:2], math.inf, dtype=torch.float64, device=q.device)
            nothing = torch.zeros_like(q[own], dtype=torch.float64)
            parts.append(Values(nothing, lse, nothing, *(torch.zeros_like(k[keys]).double() for _ in range(2))))
        else:
            rows = q[own][None], k[keys][None], v[keys][None], grad[own][None]
            found = in_fp64(*rows, segments.causal, scale)
            parts.append(Values(*(getattr(found, part)[0] for part in ("out", "lse", "dq", "dk", "dv"))))
    return Values(*(torch.cat([getattr(part, name) for part in parts]) for name in ("out", "lse", "dq", "dk", "dv")))


def holds_or_not(sheet: Sheet, name: str, figure: float, bound: float, reference: str) -> None:
    """A line that passes, or is measured: of what the model does not compute with."""
    if figure <= bound:
        sheet.at_most(name, figure, bound, reference=reference)
    else:
        sheet.measured(name, figure, "", reference=reference, note=f"does not hold (bound {bound:g})")


def show_flex(sheet: Sheet, place: Place) -> None:
    """FlexAttention with the same mask, compiled, with its time. On a CPU it has no backward pass."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    spans, tokens, q, k, v, grad, scale = _packed(place)
    seen = whole_mask(spans, tokens, place.device)
    seen[spans[-1].stop :] = torch.eye(tokens, dtype=torch.bool, device=place.device)[spans[-1].stop :]

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return seen[query, key]

    attend: Callable[..., Any] = flex_attention
    if place.on_gpu:
        attend = torch.compile(flex_attention)
    inputs = [tensor.transpose(0, 1)[None].detach().requires_grad_(place.on_gpu) for tensor in (q, k, v)]
    upstream = grad.transpose(0, 1)[None]

    def once() -> list[Tensor]:
        out = attend(*inputs, block_mask=mask, scale=scale, enable_gqa=True)
        return [out.detach(), *(torch.autograd.grad(out, inputs, upstream) if place.on_gpu else ())]

    try:
        mask = create_block_mask(sees, None, None, tokens, tokens, device=str(place.device))
        got = once()
    except Exception as error:  # of a compiler, of any kind
        sheet.not_done("FlexAttention", f"{type(error).__name__}: {str(error).strip()[:300]}")
        return
    want = masked_in_fp64(q, k, v, grad, spans, scale)
    used = slice(0, spans[-1].stop)
    for part, ours in zip(("out", "dq", "dk", "dv")[: len(got)], got, strict=True):
        rows = ours[0].transpose(0, 1)[used]
        holds_or_not(sheet, f"FlexAttention: {part}", relative(rows, getattr(want, part)[used]), ERROR, _MASK)
    sheet.measured(
        "FlexAttention: time" + (" with backward" if place.on_gpu else ""),
        1e3 * seconds({"flex": once}, place.device, 5)["flex"],
        "ms",
    )


def _normal(place: Place, *shape: int) -> Tensor:
    return torch.randn(shape, device=place.device).to(torch.bfloat16)


def _packed(place: Place) -> tuple[tuple[Span, ...], int, Tensor, Tensor, Tensor, Tensor, float]:
    """Spans, tokens with padding, q, k, v and the upstream gradient [T, heads, d], and the scale."""
    heads, kv_heads, d = (4, 2, 64) if place.small else (16, 4, 128)
    spans = spans_of(SMALL_GROUPS if place.small else GROUPS)
    tokens = spans[-1].stop + _PADDING
    q, grad = (_normal(place, tokens, heads, d) for _ in range(2))
    k, v = (_normal(place, tokens, kv_heads, d) for _ in range(2))
    grad[spans[-1].stop :] = 0  # padding's gradient would go to its own keys alone, and is not looked at
    return spans, tokens, q, k, v, grad, 1 / math.sqrt(d)
