"""Triton kernels between a layer's projection and its attention: norms of heads, rotary positions, and back.

A token of the projection has its heads group by group: the queries of a group, their key, their value. A head has two
halves, which are rotated with each other. Numbers are read once, computed in the precision of the rotary table, and
rounded once as they are written. Launched by `rotary.py` alone; imported through `kernels_in`, since a process may lack
Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rotate(
    projection: tl.tensor,
    table: tl.tensor,
    q_weight: tl.tensor,
    k_weight: tl.tensor,
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    stride: tl.tensor,
    eps: tl.constexpr,
    groups: tl.constexpr,
    group: tl.constexpr,
    size: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """One program for each token: its queries and keys, normed if there are weights, and rotated.

    Args:
        projection: [tokens, groups * (group + 2) * size] in any floating dtype, rows `stride` apart.
        table: [tokens, size] fp32 (fp64), contiguous: cosines of a head's pairs, and then their sines.
        q_weight: [size] in any floating dtype; None without norms.
        k_weight: the same.
        q: [tokens, groups * group, size] in any floating dtype, contiguous.
        k: [tokens, groups, size], the same.
        v: as `k`, for a copy of the values; or None.
        stride: see there.
        eps: of the norms.
        groups: of heads.
        group: queries of a group.
        size: of a head, even.
        rows: heads at a time, a power of 2.
        columns: at least half of `size`, a power of 2.
    """
    token = tl.program_id(0).to(tl.int64)
    inside = tl.arange(0, columns) < size // 2
    cos, sin = _halves(table + token * size, inside, size, columns)
    line = projection + token * stride
    queries, keys = q + token * (groups * group * size), k + token * (groups * size)
    _rotate(line, queries, q_weight, cos, sin, inside, eps, groups, group, group, size, rows, columns)
    keys_of = line + group * size
    _rotate(keys_of, keys, k_weight, cos, sin, inside, eps, groups, group, 1, size, rows, columns)
    if v is not None:
        values, values_of = v + token * (groups * size), line + (group + 1) * size
        _copy(values_of, values, inside, groups, (group + 2) * size, size, size, rows, columns)


@triton.jit
def _rotate(
    heads: tl.tensor,
    out: tl.tensor,
    weight: tl.tensor | None,
    cos: tl.tensor,
    sin: tl.tensor,
    inside: tl.tensor,
    eps: tl.constexpr,
    groups: tl.constexpr,
    group: tl.constexpr,
    count: tl.constexpr,
    size: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """The first `count` heads of each group, counted from `heads`, to `out`."""
    column = tl.arange(0, columns)[None, :]
    if weight is not None:
        weight_a, weight_b = _halves(weight, inside, size, columns)
    for start in range(0, groups * count, rows):
        row = start + tl.arange(0, rows)
        here = (row < groups * count)[:, None] & inside[None, :]
        source = heads + (row // count * (group + 2) + row % count)[:, None] * size + column
        a = tl.load(source, mask=here, other=0.0).to(cos.dtype)
        b = tl.load(source + size // 2, mask=here, other=0.0).to(cos.dtype)
        if weight is not None:
            scale = _scale(a, b, eps, size)
            a, b = a * scale * weight_a, b * scale * weight_b
        target = out + row[:, None] * size + column
        tl.store(target, (a * cos - b * sin).to(out.dtype.element_ty), mask=here)
        tl.store(target + size // 2, (b * cos + a * sin).to(out.dtype.element_ty), mask=here)


@triton.jit
def _halves(
    line: tl.tensor, inside: tl.tensor, size: tl.constexpr, columns: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Both halves of `size` numbers, [1, columns] each."""
    column = tl.arange(0, columns)[None, :]
    first = tl.load(line + column, mask=inside[None, :], other=0.0)
    return first, tl.load(line + size // 2 + column, mask=inside[None, :], other=0.0)


@triton.jit
def _scale(a: tl.tensor, b: tl.tensor, eps: tl.constexpr, size: tl.constexpr) -> tl.tensor:
    """1 / the root mean square of each head, whose halves are `a` and `b`; [rows, 1]."""
    return tl.rsqrt(tl.sum(a * a + b * b, axis=1) / size + eps)[:, None]


@triton.jit
def _copy(
    heads: tl.tensor,
    out: tl.tensor,
    inside: tl.tensor,
    groups: tl.constexpr,
    step: tl.constexpr,
    out_step: tl.constexpr,
    size: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """One head of each group; they are `step` apart, and then `out_step`."""
    column = tl.arange(0, columns)[None, :]
    for start in range(0, groups, rows):
        row = start + tl.arange(0, rows)
        here = (row < groups)[:, None] & inside[None, :]
        source, target = heads + row[:, None] * step + column, out + row[:, None] * out_step + column
        tl.store(target, tl.load(source, mask=here), mask=here)
        tl.store(target + size // 2, tl.load(source + size // 2, mask=here), mask=here)


@triton.jit
def rotate_back(
    projection: tl.tensor,
    table: tl.tensor,
    q_weight: tl.tensor,
    k_weight: tl.tensor,
    by_q: tl.tensor,
    by_k: tl.tensor,
    by_v: tl.tensor,
    out: tl.tensor,
    sums: tl.tensor,
    tokens: tl.tensor,
    stride: tl.tensor,
    eps: tl.constexpr,
    groups: tl.constexpr,
    group: tl.constexpr,
    size: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    span: tl.constexpr,
) -> None:
    """One program for `span` tokens: the gradient of all of their projection, and their part of that of the weights.

    Args:
        projection: as for `rotate`; without norms it is not read.
        table: as for `rotate`.
        q_weight: as for `rotate`.
        k_weight: as for `rotate`.
        by_q: the gradient of `q`, shaped as it, contiguous.
        by_k: the gradient of `k`, the same.
        by_v: the gradient of the values, the same.
        out: [tokens, groups * (group + 2) * size], contiguous.
        sums: [programs, 2, size] in the dtype of `table`: over a program's tokens, for both weights; None without.
        tokens: see there.
        stride: as for `rotate`.
        eps: as for `rotate`.
        groups: as for `rotate`.
        group: as for `rotate`.
        size: as for `rotate`.
        rows: as for `rotate`.
        columns: as for `rotate`.
        span: see there.
    """
    program, whole, keys = tl.program_id(0).to(tl.int64), groups * (group + 2) * size, groups * size
    nothing = tl.zeros([rows, columns], table.dtype.element_ty)
    q_a, q_b, k_a, k_b = nothing, nothing, nothing, nothing
    for step in range(span):
        token = program * span + step
        inside = (tl.arange(0, columns) < size // 2) & (token < tokens)
        cos, sin = _halves(table + token * size, inside, size, columns)
        line, target, upstream = projection + token * stride, out + token * whole, by_q + token * (keys * group)
        q_a, q_b = _rotate_back(
            line, upstream, target, q_weight, cos, sin, inside, q_a, q_b, eps, groups, group, group, size, rows, columns
        )
        line, target, upstream = line + group * size, target + group * size, by_k + token * keys
        k_a, k_b = _rotate_back(
            line, upstream, target, k_weight, cos, sin, inside, k_a, k_b, eps, groups, group, 1, size, rows, columns
        )
        _copy(by_v + token * keys, target + size, inside, groups, size, (group + 2) * size, size, rows, columns)
    if q_weight is not None:
        _store_sums(sums + program * 2 * size, q_a, q_b, k_a, k_b, size, columns)


@triton.jit
def _rotate_back(
    heads: tl.tensor,
    upstream: tl.tensor,
    out: tl.tensor,
    weight: tl.tensor | None,
    cos: tl.tensor,
    sin: tl.tensor,
    inside: tl.tensor,
    sum_a: tl.tensor,
    sum_b: tl.tensor,
    eps: tl.constexpr,
    groups: tl.constexpr,
    group: tl.constexpr,
    count: tl.constexpr,
    size: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The gradient of the first `count` heads of each group, counted from `heads` and `out`.

    With x a head, s = 1 / its root mean square, n = s x, and g the upstream gradient rotated back: the weight's
    gradient is the sum of g n, which is added to the sums; the head's is s (w g - n mean(w g n)).
    """
    column = tl.arange(0, columns)[None, :]
    if weight is not None:
        weight_a, weight_b = _halves(weight, inside, size, columns)
    for start in range(0, groups * count, rows):
        row = start + tl.arange(0, rows)
        here = (row < groups * count)[:, None] & inside[None, :]
        source = upstream + row[:, None] * size + column
        c = tl.load(source, mask=here, other=0.0).to(cos.dtype)
        d = tl.load(source + size // 2, mask=here, other=0.0).to(cos.dtype)
        g_a, g_b = c * cos + d * sin, d * cos - c * sin
        place = (row // count * (group + 2) + row % count)[:, None] * size + column
        if weight is not None:
            a = tl.load(heads + place, mask=here, other=0.0).to(cos.dtype)
            b = tl.load(heads + place + size // 2, mask=here, other=0.0).to(cos.dtype)
            scale = _scale(a, b, eps, size)
            a, b = a * scale, b * scale
            sum_a, sum_b = sum_a + g_a * a, sum_b + g_b * b
            g_a, g_b = g_a * weight_a, g_b * weight_b
            mean = tl.sum(g_a * a + g_b * b, axis=1)[:, None] / size
            g_a, g_b = (g_a - a * mean) * scale, (g_b - b * mean) * scale
        tl.store(out + place, g_a.to(out.dtype.element_ty), mask=here)
        tl.store(out + place + size // 2, g_b.to(out.dtype.element_ty), mask=here)
    return sum_a, sum_b


@triton.jit
def _store_sums(
    out: tl.tensor,
    q_a: tl.tensor,
    q_b: tl.tensor,
    k_a: tl.tensor,
    k_b: tl.tensor,
    size: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """The sums over the rows of both halves, for queries and then for keys."""
    column = tl.arange(0, columns)
    inside, half = column < size // 2, size // 2
    tl.store(out + column, tl.sum(q_a, axis=0), mask=inside)
    tl.store(out + half + column, tl.sum(q_b, axis=0), mask=inside)
    tl.store(out + size + column, tl.sum(k_a, axis=0), mask=inside)
    tl.store(out + size + half + column, tl.sum(k_b, axis=0), mask=inside)
