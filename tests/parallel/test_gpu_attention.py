"""What attention hands to the kernels of a GPU, without one.

Meta tensors stand in for those on a GPU: they have shapes, dtypes and strides, and no values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.data.packing import Span
from aspo_megatron.parallel.device.attention_kernels import attend_backward
from aspo_megatron.parallel.device.kernels import Kernels
from aspo_megatron.parallel.device.plain_attention import attend_plainly, attend_plainly_backward
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.parallel.model.attention import SpanAttention, SpanAttentionParams, plan_attention
from aspo_megatron.parallel.model.block_attention import Block, BlockPlan
from aspo_megatron.parallel.model.context_parallel import context_slice
from aspo_megatron.parallel.model.micro_batch import _tensors_in, _with_tensors

HEADS, KV_HEADS, HEAD_DIM, TOKENS = 8, 2, 64, 500

FLASH = "aten._scaled_dot_product_flash_attention.default"
FLASH_BACKWARD = "aten._scaled_dot_product_flash_attention_backward.default"


@dataclass
class Calls(TorchDispatchMode):
    """Notes every operation with its arguments."""

    made: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.made.append((str(func), args))
        return func(*args, **(kwargs or {}))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [args for made, args in self.made if made == name]


def one_layer(dtype: torch.dtype, head_dim: int = HEAD_DIM) -> tuple[Calls, list[Tensor], Sequence[Tensor]]:
    """Forward and backward of a layer's attention: a prompt, and responses of equal and other lengths.

    Gives the operations, queries, keys and values, and their gradients.
    """
    spans = [(0, 100), (100, 220), (220, 340), (340, 477)]
    blocks = [Block(index(start, stop), index(start, stop), True) for start, stop in spans]
    blocks.append(Block(index(100, 477), index(0, 100), False))
    inputs = [
        torch.empty(TOKENS, heads, head_dim, dtype=dtype, device="meta", requires_grad=True)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    # As it may come down from the output projection: not contiguous.
    grad_out = torch.empty(HEADS, TOKENS, head_dim, dtype=dtype, device="meta").transpose(0, 1)
    with Calls() as calls:
        out = BlockPlan(blocks).attend(inputs[0], inputs[1], inputs[2], 0.1)
        grads = torch.autograd.grad(out, inputs, grad_out)
    assert (out.shape, out.dtype) == (inputs[0].shape, dtype)
    return calls, inputs, grads


def index(start: int, stop: int) -> Tensor:
    return torch.arange(start, stop, device="meta")[None]


def assert_as_the_kernel_reads(arguments: tuple[Any, ...]) -> None:
    """The log-sum-exp is read by its pointer, as fp32 [n, heads, queries]; of the others the last dim is contiguous."""
    grad, q, k, v, out, lse, *rest = arguments
    assert lse.shape == q.shape[:3]
    assert lse.dtype == torch.float32
    assert lse.is_contiguous()
    for tensor in (grad, q, k, v, out):
        assert tensor.stride(-1) == 1
        assert tensor.dtype == q.dtype
    assert rest[2:4] == [q.size(2), k.size(2)]


def test_log_sum_exp_of_picked_rows() -> None:
    """As attention gives it: [n, queries, heads], contiguous."""
    q = torch.empty(3, 100, HEADS, HEAD_DIM, dtype=torch.bfloat16, device="meta")
    with Calls() as calls:
        attend_backward(q, q, q, q, q, torch.empty(3, 100, HEADS, device="meta"), True, 0.1)
    (arguments,) = calls.of(FLASH_BACKWARD)
    assert_as_the_kernel_reads(arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_gets_the_log_sum_exp_as_its_kernel_reads_it(dtype: torch.dtype) -> None:
    calls, _, _ = one_layer(dtype)
    backwards = calls.of(FLASH_BACKWARD)
    assert len(backwards) == 5
    for arguments in backwards:
        assert_as_the_kernel_reads(arguments)
    for q, k, v, *_ in calls.of(FLASH):
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1


@pytest.fixture(scope="module")
def layer() -> Iterator[SpanAttention]:
    config = TransformerConfig(
        num_layers=1,
        hidden_size=HEADS * HEAD_DIM,
        num_attention_heads=HEADS,
        num_query_groups=KV_HEADS,
        kv_channels=HEAD_DIM,
        use_cpu_initialization=True,
    )
    with process_grid(ParallelConfig(), PlatformConfig(device="cpu"), seed=1):
        yield SpanAttention(config, 1, AttnMaskType.causal, "self")


def test_flash_gets_keys_and_values_of_their_own_heads(layer: SpanAttention) -> None:
    """No copies for each of the heads that share them, forward and backward, and none saved for backward.

    What is saved does not keep alive the tensor that queries, keys and values are parts of.
    """
    group = HEADS // KV_HEADS * HEAD_DIM
    mixed = torch.empty(TOKENS, 1, KV_HEADS, group + 2 * HEAD_DIM, dtype=torch.bfloat16, device="meta")
    query, key, value = mixed.requires_grad_().split([group, HEAD_DIM, HEAD_DIM], dim=3)
    with Calls() as calls:
        params = SpanAttentionParams(plan=BlockPlan([Block(index(0, TOKENS), index(0, TOKENS), True)]))
        out = layer(query.reshape(TOKENS, 1, HEADS, HEAD_DIM), key, value, None, packed_seq_params=params)
        (saved,) = (node.saved_tensors for node in nodes_before(out) if node.name() == "_BlockAttentionBackward")
        out.sum().backward()
    ((q, k, v, *_),) = calls.of(FLASH)
    assert (q.size(1), k.size(1), v.size(1)) == (HEADS, KV_HEADS, KV_HEADS)
    ((_, q, k, v, *_),) = calls.of(FLASH_BACKWARD)
    assert (q.size(1), k.size(1), v.size(1)) == (HEADS, KV_HEADS, KV_HEADS)
    assert [tensor.untyped_storage().nbytes() for tensor in saved] == [tensor.nbytes for tensor in saved]
    elements = sum(tensor.numel() for tensor in saved)
    assert elements == TOKENS * (2 * HEADS * HEAD_DIM + 2 * KV_HEADS * HEAD_DIM + HEADS)


def nodes_before(tensor: Tensor) -> list[Any]:
    """The nodes of autograd's graph that lead to `tensor`."""
    found: list[Any] = []
    waiting = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.append(node)
            waiting += [before for before, _ in node.next_functions]
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gradients_are_added_without_sorting_indices(dtype: torch.dtype) -> None:
    """`index_put_` that accumulates sorts its indices on a GPU: a dozen kernels each."""
    calls, _, _ = one_layer(dtype)
    accumulated = [args for name, args in calls.made if "index_put" in name and args[3:] and args[3]]
    assert not accumulated
    assert len(calls.of("aten.index_add_.default")) == 15


@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float32, 64), (torch.bfloat16, 12), (torch.bfloat16, 264)])
def test_what_flash_does_not_take_goes_to_plain_attention(dtype: torch.dtype, head_dim: int) -> None:
    calls, inputs, grads = one_layer(dtype, head_dim)
    assert not calls.of(FLASH) + calls.of(FLASH_BACKWARD)
    assert [(grad.shape, grad.dtype) for grad in grads] == [(tensor.shape, dtype) for tensor in inputs]


@pytest.mark.parametrize("cp", [1, 2])
def test_segments_are_handed_over_as_the_kernel_reads_them(cp: int) -> None:
    """Two calls each way, keys with heads of their own, 32-bit bounds; the merged sums in fp32, [heads, tokens]."""
    spans = [Span(0, 100), *(Span(start, start + 90, 0, 100) for start in range(100, 460, 90))]
    own = context_slice(spans, cp, 0, 8)
    params = plan_attention(own, Kernels(attention="varlen"))
    plan = _with_tensors(params.plan, {id(tensor): tensor.to("meta") for tensor in _tensors_in(params)})
    tokens = len(own.tokens)
    inputs = [
        torch.empty(size, heads, HEAD_DIM, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for size, heads in ((tokens, HEADS), (cp * tokens, KV_HEADS), (cp * tokens, KV_HEADS))
    ]
    grad = torch.empty(HEADS, tokens, HEAD_DIM, dtype=torch.bfloat16, device="meta").transpose(0, 1)
    with Calls() as calls:
        out = plan.attend(*inputs, 0.1)
        gradients = torch.autograd.grad(out, inputs, grad)
    assert [gradient.shape for gradient in gradients] == [tensor.shape for tensor in inputs]
    forward = calls.of("aten._flash_attention_forward.default")
    backward = calls.of("aten._flash_attention_backward.default")
    assert [args[8] for args in forward] == [args[11] for args in backward] == [True, False]
    for q, k, v, queries, keys, *_ in forward:
        assert (q.shape[1], k.shape[1], v.shape[1]) == (HEADS, KV_HEADS, KV_HEADS)
        assert queries.dtype == keys.dtype == torch.int32
        assert len(queries) == len(keys)
    for upstream, q, k, v, merged, lse, *_ in backward:
        assert (lse.shape, lse.dtype, lse.is_contiguous()) == ((HEADS, tokens), torch.float32, True)
        assert upstream.dtype == q.dtype == k.dtype == v.dtype == merged.dtype == torch.bfloat16


@pytest.mark.parametrize("causal", [True, False])
def test_plain_attention_of_heads_that_share_keys(causal: bool) -> None:
    """As with the keys and values repeated; the gradients of the copies are then summed. More queries than a chunk."""
    generator = torch.Generator().manual_seed(0)

    def normal(heads: int, tokens: int) -> Tensor:
        return torch.randn(2, heads, tokens, 4, generator=generator, dtype=torch.float64)

    keys = 700 if causal else 30
    q, k, v, grad = normal(6, 700), normal(2, keys), normal(2, keys), normal(6, 700)
    all_k, all_v = (tensor.repeat_interleave(3, dim=1) for tensor in (k, v))
    out, lse = attend_plainly(q, k, v, causal, 0.3)
    want_out, want_lse = attend_plainly(q, all_k, all_v, causal, 0.3)
    torch.testing.assert_close(out, want_out, rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, want_lse, rtol=0, atol=1e-12)
    dq, dk, dv = attend_plainly_backward(grad, q, k, v, out, lse, causal, 0.3)
    want_dq, *want = attend_plainly_backward(grad, q, all_k, all_v, out, lse, causal, 0.3)
    torch.testing.assert_close(dq, want_dq, rtol=0, atol=1e-12)
    for got, whole in zip((dk, dv), want, strict=True):
        torch.testing.assert_close(got, whole.unflatten(1, (2, 3)).sum(dim=2), rtol=0, atol=1e-11)
