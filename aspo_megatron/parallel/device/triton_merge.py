"""The Triton kernel of `attention_merge.py`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def merge(out, lse, more, more_lse, tokens, heads, size, ROWS: tl.constexpr, SIZE: tl.constexpr):
    """`ROWS` rows of a token and a head each, of `size` numbers, up to `SIZE`, a power of two."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < tokens * heads
    place = (row % heads) * tokens + row // heads
    one = tl.load(lse + place, mask=inside, other=0.0)
    other = tl.load(more_lse + place, mask=inside, other=0.0)
    other = tl.where(tl.abs(other) == float("inf"), -float("inf"), other)
    largest = tl.maximum(one, other)
    merged = largest + tl.log(tl.exp(one - largest) + tl.exp(other - largest))
    column = tl.arange(0, SIZE)
    values = row[:, None] * size + column[None, :]
    here = inside[:, None] & (column < size)[None, :]
    kept = tl.load(out + values, mask=here, other=0.0).to(merged.dtype) * tl.exp(one - merged)[:, None]
    added = tl.load(more + values, mask=here, other=0.0).to(merged.dtype) * tl.exp(other - merged)[:, None]
    tl.store(out + values, (kept + added).to(out.dtype.element_ty), mask=here)
    tl.store(lse + place, merged, mask=inside)
