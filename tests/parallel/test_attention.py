"""Attention over packed spans against attention with a whole mask, in float64: by blocks, and as a GPU's flash does it.

Context parallelism is taken apart here: each rank's queries meet the keys of all ranks, laid end to end, as they do
after the gather. The gather itself is part of the model's tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.data.packing import PackedBatch, pack
from aspo_megatron.parallel.device.attention_kernels import attend, attend_backward
from aspo_megatron.parallel.device.kernels import Kernels
from aspo_megatron.parallel.device.plain_attention import attend_plainly, attend_plainly_backward
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.parallel.model.attention import SpanAttention, plan_attention
from aspo_megatron.parallel.model.context_parallel import context_slice

from .samples import make_groups

Shapes = Sequence[tuple[int, Sequence[int]]]

LAYOUTS: dict[str, Shapes] = {
    "one response": [(3, (4,))],
    "responses of one token, which add no token": [(5, (1, 1))],
    "ragged group": [(6, (1, 2, 9, 1, 5, 5))],
    "prompt of one token": [(1, (3, 1, 2))],
    "several groups, equal and unequal lengths": [(4, (3, 3, 8)), (4, (8, 1, 3)), (7, (2,)), (1, (1,)), (2, (5, 5))],
    "long": [(23, (40, 17)), (9, (31,))],
    "no sample": [],
}
"""Prompt and response lengths of each group."""

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8

WAYS = {
    "blocks": Kernels(attention="blocks"),
    "varlen": Kernels(attention="varlen"),
    "varlen, merged by Triton": Kernels(attention="varlen", triton_merge=True),
}
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module", autouse=True)
def grid() -> Iterator[None]:
    with process_grid(ParallelConfig(), PlatformConfig(device="cpu"), seed=1):
        yield


def span_attention(kv_heads: int = KV_HEADS) -> SpanAttention:
    config = TransformerConfig(
        num_layers=1,
        hidden_size=HEADS * HEAD_DIM // 2,  # heads of a size of their own, as Qwen3 has them
        num_attention_heads=HEADS,
        num_query_groups=kv_heads,
        kv_channels=HEAD_DIM,
        use_cpu_initialization=True,
    )
    return SpanAttention(config, 1, AttnMaskType.causal, "self")


def attention(
    inputs: Sequence[Tensor], shapes: Shapes, cp: int = 1, multiple_of: int = 1, way: str = "blocks"
) -> Tensor:
    """Packed attention of packed queries, keys and values, computed as by `cp` ranks one after the other."""
    spans = pack_shapes(shapes).spans
    slices = [context_slice(spans, cp, rank, multiple_of) for rank in range(cp)]
    laid_out = torch.cat([own.tokens for own in slices])
    # Padding tokens hold rubbish that must not be felt.
    q, k, v = (
        torch.where((laid_out >= 0)[:, None, None, None], tensor[laid_out], 7.0) if len(tensor) else tensor
        for tensor in inputs
    )
    size = len(slices[0].tokens)
    outs = [
        span_attention(k.size(2))(
            q[own.rank * size : (own.rank + 1) * size], k, v, None, packed_seq_params=plan_attention(own, WAYS[way])
        )
        for own in slices
    ]
    return torch.cat(outs)[slices[0].where]


def pack_shapes(shapes: Shapes) -> PackedBatch:
    groups = make_groups(shapes)
    return pack(groups, [[0.0] * len(group) for group in groups])


def whole_mask(shapes: Shapes) -> Tensor:
    """[T, T], true where a query sees a key, from the lengths alone."""
    owner: list[tuple[int, int]] = []  # group and response; response -1 is the prompt
    for number, (prompt, responses) in enumerate(shapes):
        owner += [(number, -1)] * prompt
        for index, length in enumerate(responses):
            owner += [(number, index)] * (length - 1)
    rows = [
        [
            key <= query and owner[key][0] == owner[query][0] and owner[key][1] in (-1, owner[query][1])
            for key in range(len(owner))
        ]
        for query in range(len(owner))
    ]
    return torch.tensor(rows, dtype=torch.bool).view(len(owner), len(owner))


def random_qkv(tokens: int, kv_heads: int = KV_HEADS, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [
        (2 * torch.randn(tokens, 1, heads, HEAD_DIM, generator=generator, dtype=torch.float64)).to(dtype)
        for heads in (HEADS, kv_heads, kv_heads)
    ]


def dense_attention(qkv: Sequence[Tensor], mask: Tensor) -> Tensor:
    q, k, v = qkv
    repeat = q.size(2) // k.size(2)
    k, v = k.repeat_interleave(repeat, dim=2), v.repeat_interleave(repeat, dim=2)
    scores = torch.einsum("qbhd,kbhd->hqk", q, k) / math.sqrt(HEAD_DIM)
    probs = scores.masked_fill(~mask, -math.inf).softmax(-1)
    return torch.einsum("hqk,kbhd->qbhd", probs, v).reshape(q.size(0), 1, -1)


@pytest.mark.parametrize(("cp", "multiple_of"), [(1, 1), (1, 8), (2, 1), (3, 2), (4, 1)])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("name", [name for name in LAYOUTS if LAYOUTS[name]])
@every_way
def test_values_and_gradients(way: str, name: str, kv_heads: int, cp: int, multiple_of: int) -> None:
    mask = whole_mask(LAYOUTS[name])
    inputs = [tensor.requires_grad_() for tensor in random_qkv(len(mask), kv_heads)]
    out = attention(inputs, LAYOUTS[name], cp, multiple_of, way)
    want = dense_attention(inputs, mask)
    torch.testing.assert_close(out, want, rtol=0, atol=1e-12)
    upstream = torch.randn(want.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for got, reference in zip(
        torch.autograd.grad(out, inputs, upstream), torch.autograd.grad(want, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(got, reference, rtol=0, atol=1e-12)


@every_way
def test_no_sample(way: str) -> None:
    """A rank without samples attends with padding alone: to nothing, or to itself. Without a gradient it gives none."""
    own = context_slice(pack_shapes([]).spans, 1, 0, multiple_of=4)
    inputs = [tensor.requires_grad_() for tensor in random_qkv(4)]
    out = span_attention()(*inputs, None, packed_seq_params=plan_attention(own, WAYS[way]))
    assert out.shape == (4, 1, HEADS * HEAD_DIM)
    assert out.isfinite().all()
    assert out.any() == (way != "blocks")
    gradients = torch.autograd.grad(out, inputs, torch.full_like(out, float(way == "blocks")))
    assert not any(gradient.any() for gradient in gradients)


@every_way
def test_scores_far_apart(way: str) -> None:
    """The merge of a response's own span with its prompt neither overflows nor loses the smaller part."""
    shapes = [(4, (6, 6))]
    mask = whole_mask(shapes)
    q, k, v = random_qkv(len(mask))
    k[:4] *= 100.0  # scores of +-1e3 on the prompt
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    out = attention(inputs, shapes, way=way)
    want = dense_attention(inputs, mask)
    torch.testing.assert_close(out, want, rtol=0, atol=1e-11)
    for got, reference in zip(
        torch.autograd.grad(out.sum(), inputs), torch.autograd.grad(want.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(got, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@every_way
def test_dtypes(way: str, dtype: torch.dtype, bound: float) -> None:
    """Outputs are mixtures of values up to 8: the error is a few units of rounding of the dtype (bf16: 2^-8)."""
    shapes = LAYOUTS["several groups, equal and unequal lengths"]
    mask = whole_mask(shapes)
    inputs = random_qkv(len(mask), dtype=dtype)
    out = attention(inputs, shapes, way=way)
    assert out.dtype == dtype
    want = dense_attention([tensor.double() for tensor in inputs], mask)
    assert (out - want).abs().max() <= bound


@every_way
def test_gradients_in_bfloat16(way: str) -> None:
    """Each key-value head gets the sum over its heads, rounded once: the error is that of the rounded inputs."""
    shapes = LAYOUTS["ragged group"]
    mask = whole_mask(shapes)
    inputs = [tensor.requires_grad_() for tensor in random_qkv(len(mask), dtype=torch.bfloat16)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    out, want = attention(inputs, shapes, way=way), dense_attention(exact, mask)
    upstream = torch.randn(want.shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for got, reference in zip(
        torch.autograd.grad(out, inputs, upstream), torch.autograd.grad(want, exact, upstream.double()), strict=True
    ):
        assert (got - reference).norm() <= 0.02 * reference.norm()


@pytest.mark.parametrize("changed", [(0, -1), (0, 0), (0, 2), (1, -1), (1, 1)])
@every_way
def test_nothing_leaks(way: str, changed: tuple[int, int]) -> None:
    """Other inputs at one prompt or response change, bit for bit, no output that does not see it."""
    shapes = [(4, (3, 7, 7)), (4, (3, 7, 1)), (3, (2, 2))]
    mask = whole_mask(shapes)
    own = owned_tokens(shapes, changed)
    inputs = random_qkv(len(mask))
    before = attention(inputs, shapes, multiple_of=8, way=way)
    for tensor in inputs:
        tensor[own] += 1.0
    after = attention(inputs, shapes, multiple_of=8, way=way)
    sees = mask[:, own].any(dim=1)
    assert torch.equal(before[~sees], after[~sees])
    assert (before[sees] != after[sees]).any(dim=(1, 2)).all()


def owned_tokens(shapes: Shapes, owner: tuple[int, int]) -> list[int]:
    start = 0
    for number, (prompt, responses) in enumerate(shapes):
        for index, length in enumerate((prompt, *(length - 1 for length in responses)), start=-1):
            if (number, index) == owner:
                return list(range(start, start + length))
            start += length
    raise AssertionError(owner)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_kernel_and_plain_attention_agree(causal: bool, dtype: torch.dtype, tolerance: float) -> None:
    """Over more queries than the plain one takes at a time, and with a log-sum-exp merged from elsewhere."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    queries = 1100
    keys = queries if causal else 37
    q, k, v = normal(2, queries, 2, 8), normal(2, keys, 2, 8), normal(2, keys, 2, 8)
    plain_q, plain_k, plain_v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    out, lse = attend(q, k, v, causal, 0.3)
    plain_out, plain_lse = attend_plainly(plain_q, plain_k, plain_v, causal, 0.3)
    torch.testing.assert_close(out, plain_out.transpose(1, 2), rtol=0, atol=tolerance)
    torch.testing.assert_close(lse, plain_lse.transpose(1, 2), rtol=0, atol=tolerance)
    assert lse.dtype == dtype

    grad = normal(*out.shape)
    merged_lse = lse + normal(*lse.shape).abs()
    got = attend_backward(grad, q, k, v, out, merged_lse, causal, 0.3)
    plain_grad, plain_out, plain_lse = (tensor.transpose(1, 2) for tensor in (grad, out, merged_lse))
    want = attend_plainly_backward(plain_grad, plain_q, plain_k, plain_v, plain_out, plain_lse, causal, 0.3)
    for actual, reference in zip(got, want, strict=True):
        scale = max(1.0, reference.abs().max().item())
        torch.testing.assert_close(actual, reference.transpose(1, 2), rtol=0, atol=tolerance * scale)
