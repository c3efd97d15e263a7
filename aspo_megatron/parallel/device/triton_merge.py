"""The Triton kernel of `attention_merge.py`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def merge(
    out: tl.tensor,
    lse: tl.tensor,
    more: tl.tensor,
    more_lse: tl.tensor,
    tokens: tl.tensor,
    heads: tl.tensor,
    size: tl.tensor,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """One program for `rows` of a token and a head each, of `size` numbers: no more than `columns`, a power of 2.

    Args:
        out: [tokens, heads, size] in any floating dtype; written to.
        lse: [heads, tokens] fp32 (fp64), in which is computed; written to.
        more: as `out`.
        more_lse: as `lse`.
        tokens: see there.
        heads: see there.
        size: see there.
        rows: see there.
        columns: see there.
    """
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    inside = row < tokens * heads
    place = (row % heads) * tokens + row // heads
    one = tl.load(lse + place, mask=inside, other=0.0)
    other = tl.load(more_lse + place, mask=inside, other=0.0)
    other = tl.where(tl.abs(other) == float("inf"), -float("inf"), other)
    largest = tl.maximum(one, other)
    merged = largest + tl.log(tl.exp(one - largest) + tl.exp(other - largest))
    column = tl.arange(0, columns)
    values = row[:, None] * size + column[None, :]
    here = inside[:, None] & (column < size)[None, :]
    kept = tl.load(out + values, mask=here, other=0.0).to(merged.dtype) * tl.exp(one - merged)[:, None]
    added = tl.load(more + values, mask=here, other=0.0).to(merged.dtype) * tl.exp(other - merged)[:, None]
    tl.store(out + values, (kept + added).to(out.dtype.element_ty), mask=here)
    tl.store(lse + place, merged, mask=inside)
