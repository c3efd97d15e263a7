"""Log-probs of tokens from hidden states, for whoever has a model and a trainer of his own."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from aspo_megatron.parallel.device.triton_calls import has_triton
from aspo_megatron.parallel.log_prob import token_log_probs as of_rows
from aspo_megatron.parallel.log_prob.vocabulary import chunk_for


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    tp_group: dist.ProcessGroup | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probs of tokens, and the entropy at each, without logits of all tokens and the whole vocabulary.

    The logits of a token with hidden state h are `h @ weight.T / temperature`. They are made for a chunk of tokens at
    a time, in one buffer, and made again in the backward pass. Both results carry gradients to `hidden` and `weight`.
    With the output projection split over ranks, every rank of `tp_group` has to make this call, and the backward pass.

    Args:
        hidden: Hidden states before the output projection, of shape [..., hidden size]: those from which each target
            is predicted, so of a sequence all but the last. fp64, fp32, bf16 or fp16. On all ranks of `tp_group` the
            same; its gradient is summed over them.
        weight: Output projection of the same dtype, of shape [rows, hidden size]: all rows, or this rank's slice.
        targets: Token ids of shape [...], that of `hidden` without its last dimension; int64.
        temperature: What logits are divided by; above 0.
        vocab_size: Ids from here on are padding, and have probability 0. None: all rows of all ranks are words.
        tp_group: Process group over which the rows are split in equal parts, rank r with the r-th. None: they are not.
        chunk: The most tokens whose logits exist at the same time. None: as many as fit in 256 MiB on a CPU; on a GPU
            4,096 or what fits in a twentieth of its memory, but at least what fits in 1 GiB.

    Returns:
        Log-probs, and entropies in nats, both of the shape of `targets`; fp32, for fp64 inputs fp64.

    Raises:
        ValueError: Shapes or dtypes do not fit, the temperature is not above 0, or, on a CPU, a target is not in the
            vocabulary. On a GPU, which nobody waits for, a target that is not in the vocabulary ends the process.

    Example:
        ```python
        hidden = torch.randn(2, 5, 16, requires_grad=True)
        weight = torch.randn(100, 16, requires_grad=True)
        log_probs, entropy = token_log_probs(hidden, weight, torch.randint(100, (2, 5)))
        (-log_probs.mean()).backward()
        ```
    """
    _check(hidden, weight, targets, temperature, chunk)
    ranks = 1 if tp_group is None else dist.get_world_size(tp_group)
    words = len(weight) * ranks if vocab_size is None else vocab_size
    if not 0 < words <= len(weight) * ranks:
        raise ValueError(f"vocab_size={words}: weight has {len(weight)} rows on each of {ranks} ranks")
    log_probs, entropy = of_rows(
        hidden.reshape(-1, hidden.size(-1)),
        weight,
        targets.reshape(-1),
        temperature=temperature,
        vocab_size=words,
        tp_group=tp_group,
        chunk=chunk or chunk_for(weight),
        triton=weight.device.type != "cpu" and has_triton(),
    )
    return log_probs.view(targets.shape), entropy.view(targets.shape)


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int | None) -> None:
    if weight.dim() != 2 or hidden.dim() < 1 or hidden.size(-1) != weight.size(1) or len(weight) == 0:
        raise ValueError(
            f"hidden of shape {list(hidden.shape)} and weight of shape {list(weight.shape)}: "
            "must be [..., hidden size] and [rows, hidden size]"
        )
    if hidden.shape[:-1] != targets.shape:
        raise ValueError(f"targets of shape {list(targets.shape)}: must have that of hidden, {list(hidden.shape[:-1])}")
    if hidden.dtype != weight.dtype or not hidden.is_floating_point():
        raise ValueError(f"hidden of {hidden.dtype} and weight of {weight.dtype}: must be of one dtype, a float")
    if targets.dtype.is_floating_point or targets.dtype.is_complex or targets.element_size() != 8:
        raise ValueError(f"targets of {targets.dtype}: must be int64")
    if len({hidden.device, weight.device, targets.device}) > 1:
        raise ValueError(
            f"hidden, weight and targets on {hidden.device}, {weight.device}, {targets.device}: must agree"
        )
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: must be above 0, and finite")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk={chunk}: must be at least 1")
