"""Attention as the model computes it, in bf16, against plain attention in fp64: values, log-sum-exp, gradients.

Blocks: `attend` and `attend_backward`, of every shape that a plan of blocks may hold. Segments of unequal length, the
same (`attention_varlen.py`). The layer: `SpanAttention` of prompts that responses share, whose log-sum-exps are merged,
by both kinds of plan and as ranks of context parallelism have it, against a whole mask. And FlexAttention as a
cross-check: where it does not agree, a line is measured, not failed.
"""

from __future__ import annotations

import itertools
import math

import torch

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.parallel.device.attention_kernels import attend, attend_backward
from aspo_megatron.parallel.device.kernels import Kernels
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.parallel.model.attention import SpanAttention, plan_attention
from aspo_megatron.parallel.model.micro_batch import copied
from benchmarks.gpu_check.attention_cases import (
    ERROR,
    LSE_ERROR,
    REFERENCE,
    Case,
    Group,
    Values,
    draw,
    in_fp64,
    masked_in_fp64,
    spans_of,
)
from benchmarks.gpu_check.attention_varlen import show_flex, show_varlen
from benchmarks.gpu_check.figures import distance, farthest, fresh_random, norm, poison, relative
from benchmarks.gpu_check.lines import Place, Sheet

CASES = (
    Case("causal", 2, 1024, 1024, 16, 16, 64, True),
    Case("causal, grouped heads", 2, 2048, 2048, 32, 8, 128, True),
    Case("causal, odd length", 3, 1177, 1177, 14, 2, 64, True),
    Case("causal, parts of one tensor", 2, 777, 777, 16, 8, 128, True, mixed=True),
    Case("whole, more keys", 4, 333, 1501, 16, 8, 128, False),
    Case("whole, fewer keys", 2, 1501, 77, 16, 2, 64, False),
    Case("whole, parts of one tensor", 2, 129, 1000, 16, 8, 128, False, mixed=True),
    Case("whole, one query", 8, 1, 3000, 32, 8, 128, False),
    Case("whole, one key", 2, 500, 1, 8, 2, 64, False),
    Case("causal, one token", 16, 1, 1, 32, 8, 128, True),
    Case("causal, other head size", 2, 600, 600, 8, 4, 96, True),
    Case("causal, largest head size", 1, 600, 600, 8, 2, 256, True),
)
SMALL_CASES = (
    Case("causal, grouped heads", 2, 67, 67, 8, 2, 64, True),
    Case("causal, parts of one tensor", 2, 33, 33, 4, 2, 128, True, mixed=True),
    Case("whole, more keys", 2, 19, 101, 4, 2, 64, False),
    Case("whole, one query", 3, 1, 50, 4, 2, 64, False),
    Case("whole, one key", 2, 50, 1, 4, 2, 64, False),
    Case("causal, one token", 3, 1, 1, 4, 2, 64, True),
)
GROUPS = (Group(700, (900, 333, 333, 1, 64)), Group(128, (1000,)), Group(1, (5, 5)), Group(300, ()))
SMALL_GROUPS = (Group(20, (30, 7, 7, 1)), Group(5, (40,)), Group(1, (3,)))
WAYS = {
    "blocks": Kernels(attention="blocks"),
    "varlen": Kernels(attention="varlen"),
    "varlen, merged by Triton": Kernels(attention="varlen", triton_merge=True),
}
_PADDING = 29
_MASK = "a whole mask in fp64"
_FP32_ERROR = 1e-5
"""Of plain attention in fp32, relative: steps of 2^-23, sums of a few thousand."""


def run(sheet: Sheet, place: Place) -> None:
    """All of it."""
    fresh_random(place.device)
    for case in SMALL_CASES if place.small else CASES:
        with sheet.part(str(case)):
            show_blocks(sheet, place, case)
    with sheet.part("fp32"):
        show_plain_fp32(sheet, place)
    with sheet.part("varlen"):
        show_varlen(sheet, place)
    with process_grid(ParallelConfig(), PlatformConfig(device=place.device.type), seed=1):
        fresh_random(place.device)  # the grid has set a seed
        ways = {way: kernels for way, kernels in WAYS.items() if place.on_gpu or not kernels.triton_merge}
        for (way, kernels), ranks in itertools.product(ways.items(), (1, 2)):
            name = f"prompts shared by responses, {way}" + (f", {ranks} ranks" if ranks > 1 else "")
            with sheet.part(name):
                show_layer(sheet, place, SMALL_GROUPS if place.small else GROUPS, name, kernels, ranks)
    show_flex(sheet, place)


def show_blocks(sheet: Sheet, place: Place, case: Case) -> None:
    """`attend` and `attend_backward` of one shape: a line for each result."""
    q, k, v, grad = draw(case, place.device, torch.bfloat16)
    scale = 1 / math.sqrt(case.head_dim)
    want = in_fp64(q, k, v, grad, case.causal, scale)
    poison(place.device)
    out, lse = attend(q, k, v, case.causal, scale)
    grads = attend_backward(grad, q, k, v, out, lse, case.causal, scale)
    _judge(sheet, str(case), Values(out, lse, *grads), want, norm(grad))


def _judge(sheet: Sheet, name: str, got: Values, want: Values, upstream: float) -> None:
    """A line for each result. Where one key gets all attention its scores have no gradient: of upstream's norm then."""
    sheet.at_most(f"{name}: out", relative(got.out, want.out), ERROR, reference=REFERENCE)
    sheet.at_most(f"{name}: log-sum-exp", farthest(got.lse, want.lse), LSE_ERROR, reference=f"{REFERENCE}; absolute")
    for part in ("dq", "dk", "dv"):
        ours, theirs = getattr(got, part), getattr(want, part)
        size = norm(theirs)
        none = size < 1e-9 * upstream
        figure = distance(ours, theirs) / (upstream if none else size)
        note = "no gradient: held against the upstream one" if none else ""
        sheet.at_most(f"{name}: {part}", figure, ERROR, reference=REFERENCE, note=note)


def show_plain_fp32(sheet: Sheet, place: Place) -> None:
    """What fp32 runs on: plain attention, in chunks of queries. Fails if TF32 gets in."""
    length = 67 if place.small else 1300
    for causal, keys in ((True, length), (False, length // 3)):
        case = Case("fp32, causal" if causal else "fp32, whole", 2, length, keys, 8, 2, 64, causal)
        q, k, v, grad = draw(case, place.device, torch.float32)
        want = in_fp64(q, k, v, grad, causal, 0.125)
        poison(place.device)
        out, lse = attend(q, k, v, causal, 0.125)
        got = Values(out, lse, *attend_backward(grad, q, k, v, out, lse, causal, 0.125))
        for part in ("out", "dq", "dk", "dv"):
            error = relative(getattr(got, part), getattr(want, part))
            sheet.at_most(f"{case}: {part}", error, _FP32_ERROR, reference=REFERENCE)


def show_layer(sheet: Sheet, place: Place, groups: tuple[Group, ...], name: str, kernels: Kernels, ranks: int) -> None:
    """`SpanAttention` with a merged backward pass, of what megatron hands it: parts of one tensor.

    As `ranks` of context parallelism do it, one after the other: each one's queries, the keys of all.
    """
    from aspo_megatron.parallel.model.context_parallel import context_slice

    spans = spans_of(groups)
    used = spans[-1].stop
    slices = [context_slice(spans, ranks, rank, multiple_of=1 + (used + _PADDING) // ranks) for rank in range(ranks)]
    size = len(slices[0].tokens)
    heads, kv_heads, d = (4, 2, 64) if place.small else (16, 8, 128)
    layer = _layer(heads, kv_heads, d)
    mixed = torch.full((ranks * size, 1, kv_heads, (heads // kv_heads + 2) * d), 7.0, device=place.device)
    where = slices[0].where.to(place.device)
    mixed[where] = torch.randn(used, *mixed.shape[1:], device=place.device)
    mixed = mixed.to(torch.bfloat16).requires_grad_()
    query, key, value = mixed.split([heads // kv_heads * d, d, d], dim=3)
    inputs = [query.reshape(ranks * size, 1, heads, d), key, value]
    grad = torch.randn(heads * d, ranks * size, device=place.device, dtype=torch.bfloat16).t()[:, None].clone()
    padding = torch.ones(ranks * size, dtype=torch.bool, device=place.device).index_fill_(0, where, False)
    alone = kernels.attention == "blocks"  # padding attends to nothing; else to itself, and nothing depends on it
    if not alone:
        grad[padding] = 0
    q, k, v = (tensor.detach().squeeze(1)[where] for tensor in inputs)
    want = masked_in_fp64(q, k, v, grad.reshape(-1, heads, d)[where], spans, layer.scale)
    poison(place.device)
    outs = []
    for own in slices:
        plan = plan_attention(own, kernels)
        plan = copied(plan, place.device) if place.on_gpu else plan  # as a micro-batch goes there
        queries = inputs[0][own.rank * size : (own.rank + 1) * size]
        outs.append(layer(queries, key, value, None, packed_seq_params=plan))
    out = torch.cat(outs)
    got = [out.detach().view(-1, heads, d)]
    got += [part.squeeze(1) for part in torch.autograd.grad(out, inputs, grad)]
    for part, ours in zip(("out", "dq", "dk", "dv"), got, strict=True):
        sheet.at_most(f"{name}: {part}", relative(ours[where], getattr(want, part)), ERROR, reference=_MASK)
    clean = not any(bool(ours[padding].any()) for ours in (got if alone else got[1:]))
    clean = clean and all(bool(ours.isfinite().all()) for ours in got)
    sheet.holds(f"{name}: padding gives nothing", clean, reference="zeros")


def _layer(heads: int, kv_heads: int, d: int) -> SpanAttention:
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.enums import AttnMaskType

    config = TransformerConfig(
        num_layers=1, hidden_size=heads * d, num_attention_heads=heads, num_query_groups=kv_heads, kv_channels=d
    )
    return SpanAttention(config, 1, AttnMaskType.causal, "self")
