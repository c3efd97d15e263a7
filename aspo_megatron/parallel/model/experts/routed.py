"""A rank's experts over the tokens of all ranks that share experts, by products whose sizes the GPU alone knows.

Which experts a token goes to is known on the GPU. A product for each expert, and messages of as many tokens as go to
each rank, need their numbers on the host, which waits for them in every layer. Here the host needs none: all ranks hand
each other all of their tokens, and each computes what goes to its own experts, in a room of as many rows as were set
aside before. Rows beyond those that are used hold nothing, and nothing that is computed with them is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.fusions.fused_bias_swiglu import weighted_swiglu, weighted_swiglu_back
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Rows:
    """What the rows of a room hold, one expert after the other: tokens' choices of experts.

    Attributes:
        choices: [rows], int64, which of all tokens' k choices each a row is; of a row that holds nothing, one beyond
            the last.
        ends: [experts], int32, where the rows of each expert end.
        tokens: how many there are.
        top_k: choices of each.
    """

    choices: Tensor
    ends: Tensor
    tokens: int
    top_k: int

    @classmethod
    def of(cls, expert_of: Tensor, experts: int, rows: int) -> tuple[Rows, Tensor]:
        """For tokens whose choices are `expert_of`, [tokens, k]: experts 0 and so on; others are not here.

        And how many rows these choices take, a scalar: if it is more than `rows`, some are left out.
        """
        tokens, top_k = expert_of.shape
        here = (expert_of >= 0) & (expert_of < experts)
        ordered, order = torch.where(here, expert_of, experts).flatten().sort(stable=True)
        ends = torch.searchsorted(ordered, torch.arange(1, experts + 1, device=ordered.device, dtype=ordered.dtype))
        used = torch.arange(rows, device=ordered.device) < ends[-1]
        choices = torch.where(used, order[:rows], tokens * top_k)
        return cls(choices, ends.clamp(max=rows).to(torch.int32), tokens, top_k), ends[-1]

    def weights_of(self, weights: Tensor) -> Tensor:
        """Of each row, [rows, 1], out of those of all choices, [tokens, k]; 0 for a row that holds nothing."""
        return torch.cat([weights.flatten(), weights.new_zeros(1)])[self.choices, None]

    def weight_gradients(self, of_rows: Tensor) -> Tensor:
        """The gradient of all choices' weights, [tokens, k], of that of the rows', [rows, 1]."""
        whole = of_rows.new_zeros(self.tokens * self.top_k + 1)
        # Rows that hold nothing all write to the same place, which nobody reads.
        return whole.index_copy_(0, self.choices, of_rows.squeeze(1))[:-1].view(self.tokens, self.top_k)

    def take(self, values: Tensor) -> Tensor:
        """The tokens of the rows, [rows, size], out of all, [tokens, size]; any where a row holds nothing."""
        return values.index_select(0, self._tokens.clamp(max=self.tokens - 1))

    def sum(self, values: Tensor) -> Tensor:
        """What the rows add up to for each token, [tokens, size], of `values`, [rows, size]."""
        whole = values.new_zeros(self.tokens + 1, values.size(1))
        return whole.index_add_(0, self._tokens, values)[:-1]

    @property
    def _tokens(self) -> Tensor:
        return self.choices.div(self.top_k, rounding_mode="floor")


class ExpertWeights:
    """The weights of a rank's experts: of gate and up, [2 x inner, hidden] each, and of down, [hidden, inner] each.

    A distributed optimizer has them in one buffer, the last expert first. Experts are taken in the order of memory, so
    that there all of their weights are one tensor without a copy.
    """

    def __init__(self, up: Sequence[Tensor], down: Sequence[Tensor]) -> None:
        """In the order of the experts."""
        self._backwards = up[0].data_ptr() > up[-1].data_ptr()
        order = slice(None, None, -1 if self._backwards else 1)
        self._up, self._down = list(up[order]), list(down[order])

    @property
    def count(self) -> int:
        """How many experts."""
        return len(self._up)

    @property
    def learn(self) -> bool:
        """Whether they have gradients."""
        return self._up[0].requires_grad

    @property
    def up(self) -> Tensor:
        """[experts, 2 x inner, hidden]."""
        return _stacked(self._up)

    @property
    def down(self) -> Tensor:
        """[experts, hidden, inner]."""
        return _stacked(self._down)

    def numbers(self, local: Tensor) -> Tensor:
        """Experts' places in `up` and `down`, of their numbers on this rank; outside of 0..count where not here."""
        return self.count - 1 - local if self._backwards else local

    def add_to_up(self, grads: Tensor) -> None:
        """Add to the gradients of `up`, in megatron's buffers."""
        _add(self._up, grads)

    def add_to_down(self, grads: Tensor) -> None:
        """Add to the gradients of `down`, in megatron's buffers."""
        _add(self._down, grads)


def _stacked(weights: Sequence[Tensor]) -> Tensor:
    together = _in_one_buffer(weights)
    return torch.stack([weight.detach() for weight in weights]) if together is None else together


def _add(weights: Sequence[Tensor], grads: Tensor) -> None:
    totals: list[Tensor] = [weight.main_grad for weight in weights]  # type: ignore[attr-defined]
    together = _in_one_buffer(totals)
    if together is not None:
        together.add_(grads)
    else:
        torch._foreach_add_(totals, list(grads.unbind(0)))


def _in_one_buffer(tensors: Sequence[Tensor]) -> Tensor | None:
    """Tensors of one shape as one, [number, ...], if they lie at equal distances in the same memory."""
    first = tensors[0].detach()
    step = tensors[1].storage_offset() - first.storage_offset() if len(tensors) > 1 else first.numel()
    memory = first.untyped_storage().data_ptr()
    places = (first.storage_offset() + number * step for number in range(len(tensors)))
    if step < first.numel() or any(
        tensor.untyped_storage().data_ptr() != memory or tensor.storage_offset() != place
        for tensor, place in zip(tensors, places, strict=True)
    ):
        return None
    return first.as_strided((len(tensors), *first.shape), (step, *first.stride()))


def routed_experts(
    hidden: Tensor,
    weights: Tensor,
    chosen: Tensor,
    experts: ExpertWeights,
    first: int,
    rows: int,
    group: dist.ProcessGroup,
) -> tuple[Tensor, Tensor]:
    """What the experts of all ranks of `group` make of this rank's tokens, and the rows that this rank's experts took.

    Args:
        hidden: [tokens, hidden size], of this rank; all ranks have as many.
        weights: [tokens, k], fp32, what each choice counts.
        chosen: [tokens, k], int64, the experts chosen, of the whole model's.
        experts: of this rank: `first` and those after it. Their gradients are added to `main_grad` in backward.
        first: see `experts`.
        rows: set aside for the choices of these experts. With fewer than they take the outputs are wrong.
        group: all ranks that hold experts, or parts of them.

    Returns:
        [tokens, hidden size]; and a scalar, int64.
    """
    outputs: tuple[Tensor, Tensor] = _RoutedExperts.apply(hidden, weights, chosen, experts, first, rows, group)  # type: ignore[no-untyped-call]
    return outputs


class _RoutedExperts(torch.autograd.Function):
    """Saves this rank's tokens alone, and gathers those of the others again in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weights: Tensor,
        chosen: Tensor,
        experts: ExpertWeights,
        first: int,
        rows: int,
        group: dist.ProcessGroup,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        # One message for both: numbers of experts are whole in fp32.
        told = _gather(torch.cat([weights, chosen.to(weights.dtype)], dim=1), group)
        all_weights, all_chosen = told.chunk(2, dim=1)
        held, wanted = Rows.of(experts.numbers(all_chosen.to(torch.int64) - first), experts.count, rows)
        row_weights = held.weights_of(all_weights)
        inner = _product(held.take(_gather(hidden, group)), experts.up.mT, held)
        made = _product(weighted_swiglu(inner, row_weights), experts.down.mT, held)
        ctx.save_for_backward(hidden, inner, row_weights, held.choices, held.ends)
        ctx.experts, ctx.group, ctx.tokens, ctx.top_k = experts, group, held.tokens, held.top_k
        ctx.mark_non_differentiable(wanted)
        return _scatter(held.sum(made), group), wanted

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 7
        hidden, inner, row_weights, choices, ends = ctx.saved_tensors
        held, experts = Rows(choices, ends, ctx.tokens, ctx.top_k), ctx.experts
        everything, work = _begin_gather(hidden, ctx.group)  # while the products below are computed
        grads = held.take(_gather(grad, ctx.group))
        by_inner, by_weights = weighted_swiglu_back(_product(grads, experts.down, held), inner, row_weights)
        if experts.learn:
            experts.add_to_down(_product_of_rows(grads, weighted_swiglu(inner, row_weights), held))
        del grads, inner
        if work is not None:
            work.wait()
        if experts.learn:
            experts.add_to_up(_product_of_rows(by_inner, held.take(everything), held))
        del everything
        by_hidden = _scatter(held.sum(_product(by_inner, experts.up, held)), ctx.group)
        return by_hidden, _scatter(held.weight_gradients(by_weights), ctx.group), None, None, None, None, None


def _product(rows: Tensor, matrices: Tensor, held: Rows) -> Tensor:
    """Of each row with the matrix of its expert, [experts, size, other size]: [rows, other size]."""
    return functional.grouped_mm(rows, matrices, offs=held.ends)


def _product_of_rows(left: Tensor, right: Tensor, held: Rows) -> Tensor:
    """Of each expert's rows with each other, over the rows: [experts, left size, right size]."""
    return functional.grouped_mm(left.t(), right, offs=held.ends)


def _begin_gather(own: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, dist.Work | None]:
    """The rows of all ranks. They are there when the second, if it is one, has been waited for, which no host does."""
    if group.size() == 1:
        return own, None
    whole = own.new_empty(group.size() * len(own), own.size(1))
    return whole, dist.all_gather_into_tensor(whole, own.contiguous(), group=group, async_op=True)


def _gather(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    whole, work = _begin_gather(own, group)
    if work is not None:
        work.wait()
    return whole


def _scatter(whole: Tensor, group: dist.ProcessGroup) -> Tensor:
    """This rank's rows of the sum over all ranks."""
    if group.size() == 1:
        return whole
    own = whole.new_empty(len(whole) // group.size(), whole.size(1))
    dist.reduce_scatter_tensor(own, whole.contiguous(), group=group)
    return own
