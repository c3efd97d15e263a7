"""Weights for tokens that an engine drew with probabilities of its own, unlike the trainer's for the same weights.

With k = pi_old(token) / pi_engine(token), both of the weights that generated the response, of which K is the product
over its unmasked tokens and g = K ^ (1 / their number):

| kind | weight | bounds by default |
| --- | --- | --- |
| `tis` | min(k, max) | 2 |
| `icepop` | k if min <= k <= max, else 0 | 0.5, 2 |
| `kpop` | 1 if neither KL between "this token or another" of both, in nats, is above max, else 0 | 0.5 |
| `sequence-tis` | min(K, max) | 2 |
| `sequence-mask` | 1 if min <= K <= max, else 0 | 0.5, 2 |
| `geometric-mask` | 1 if min <= g <= max, else 0 | 0.999, 1.001 |
| `k3-mask` | 1 if the mean over the response of k - 1 - log k is at most max, else 0 | 0.01 |

Sources: `tis`, truncated importance sampling, Yao et al., "Your efficient RL framework secretly brings you off-policy
RL training", 2025; `icepop`, Ling team, "Every step evolves", 2025; `kpop`, report of Ling and Ring 2.6, 2026, which
does not say whether the kept tokens keep a weight k: AReaL has it, the pull requests to verl and prime-rl do not, nor
has this. The others are verl's `rollout_correction`: `rollout_is: sequence`, and `rollout_rs` of `seq_sum_k1`,
`seq_mean_k1`, `seq_mean_k3`, with the bounds of its presets.

The policy loss of a token is multiplied by its weight, whatever the loss; KL and entropy bonus are not. No gradient
flows through a weight, and the denominator of the loss stays as it is: a token of weight 0 counts as one of loss 0, as
in TRL, NeMo-RL, AReaL, slime and miles (verl's shrinks, unless the engine's log-probs are the old ones).
"""

from __future__ import annotations

import math
from typing import assert_never

import torch
from torch import Tensor

from aspo_megatron.config.corrections import CORRECTION_BOUNDS
from aspo_megatron.config.words import RolloutCorrection
from aspo_megatron.losses import kl
from aspo_megatron.losses.binary import binary_kl
from aspo_megatron.losses.largest_ratio import ratio_of
from aspo_megatron.losses.responses import response_mean, response_sum

OF_RESPONSES: frozenset[RolloutCorrection] = frozenset({"sequence-tis", "sequence-mask", "geometric-mask", "k3-mask"})
"""Kinds that need whole responses."""


def correction_weights(
    kind: RolloutCorrection,
    log_probs: tuple[Tensor, Tensor],
    mask: Tensor,
    cu_seqlens: Tensor,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Tensor:
    """The weight of each token, [tokens]; 1 where the mask is False.

    Args:
        kind: see the module.
        log_probs: the trainer's and the engine's, each [tokens].
        mask: the response mask, bool [tokens].
        cu_seqlens: [responses + 1], as in `LossInput`; only `OF_RESPONSES` look at it.
        bounds: least and largest; None for the kind's own.
    """
    least, most = _bounds(kind, bounds)
    old, engine = (values.masked_fill(~mask, 0.0) for values in log_probs)  # not finite, perhaps, where nothing counts
    log_ratio = old - engine

    def mean(values: Tensor) -> Tensor:
        return response_mean(values, mask, cu_seqlens)

    match kind:
        case "none":
            weights = torch.ones_like(log_ratio)
        case "tis":
            weights = ratio_of(log_ratio).clamp(max=most)
        case "icepop":
            ratio = ratio_of(log_ratio)
            weights = torch.where((ratio >= least) & (ratio <= most), ratio, 0.0)
        case "kpop":
            weights = (torch.maximum(binary_kl(old, engine), binary_kl(engine, old)) <= most).to(log_ratio.dtype)
        case "sequence-tis":
            weights = ratio_of(response_sum(log_ratio, mask, cu_seqlens)).clamp(max=most)
        case "sequence-mask":
            weights = _inside(ratio_of(response_sum(log_ratio, mask, cu_seqlens)), least, most)
        case "geometric-mask":
            weights = _inside(ratio_of(mean(log_ratio)), least, most)
        case "k3-mask":
            weights = _inside(mean(kl.k3(log_ratio)), least, most)
        case _:
            assert_never(kind)
    return torch.where(mask, weights, 1.0)


def _bounds(kind: RolloutCorrection, given: tuple[float | None, float | None]) -> tuple[float, float]:
    """The least and the largest, given or the kind's own; 0 and infinity for none."""
    least, most = (own if each is None else each for own, each in zip(CORRECTION_BOUNDS[kind], given, strict=True))
    return 0.0 if least is None else least, math.inf if most is None else most


def _inside(values: Tensor, least: float, most: float) -> Tensor:
    return ((values >= least) & (values <= most)).to(values.dtype)
