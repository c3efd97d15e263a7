"""KL estimators and the entropy quantile of responses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch

from aspo_megatron.config.words import KlEstimator
from aspo_megatron.losses import kl
from aspo_megatron.losses.entropy import low_entropy_mask, response_quantile

LOG_PROBS = torch.tensor([-0.1, -2.0, -1.0, -3.0, -1.0], dtype=torch.float64)
REF_LOG_PROBS = torch.tensor([-1.0, -0.5, -1.0, -3.0001, -9.0], dtype=torch.float64)


FORMULAS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "k1": (lambda d: -d, lambda d: 1.0),
    "k2": (lambda d: d * d / 2, lambda d: -d),
    "k3": (lambda d: math.exp(d) - d - 1, lambda d: 1 - math.exp(d)),
}
"""Value and gradient by log-prob, of d = log pi_ref - log pi."""
UNBIASED, BIASED = ("k1", "k3"), ("k2",)


def test_every_estimator_is_here() -> None:
    assert set(FORMULAS) == set(get_args(KlEstimator))
    assert sorted(UNBIASED + BIASED) == sorted(get_args(KlEstimator))


@pytest.mark.parametrize("kind", get_args(KlEstimator))
def test_value_and_gradient(kind: KlEstimator) -> None:
    value, gradient = FORMULAS[kind]
    log_probs = LOG_PROBS.clone().requires_grad_()
    ref = REF_LOG_PROBS.clone().requires_grad_()
    estimate = kl.estimate_kl(kind, log_probs, ref)
    (grad,) = torch.autograd.grad(estimate.sum(), log_probs, retain_graph=True)
    differences = (REF_LOG_PROBS - LOG_PROBS).tolist()
    assert estimate.tolist() == pytest.approx([value(d) for d in differences], abs=1e-14)
    assert grad.tolist() == pytest.approx([gradient(d) for d in differences], abs=1e-14)
    (ref_grad,) = torch.autograd.grad(estimate.sum(), ref, materialize_grads=True)
    assert not ref_grad.any()


@pytest.mark.parametrize("kind", UNBIASED)
def test_unbiased(kind: KlEstimator) -> None:
    """The expectation under pi, taken exactly over a small vocabulary, is the KL."""
    logits = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_probs, ref = logits.log_softmax(-1)
    expectation = (log_probs.exp() * kl.estimate_kl(kind, log_probs, ref)).sum()
    expected = torch.nn.functional.kl_div(ref, log_probs, log_target=True, reduction="sum")
    assert float(expectation) == pytest.approx(float(expected), abs=1e-14)


def test_k3_of_a_small_difference_in_fp32() -> None:
    estimate = kl.estimate_kl("k3", torch.tensor([0.0]), torch.tensor([1e-4]))
    assert float(estimate) == pytest.approx(5e-9, rel=1e-3)


@pytest.mark.parametrize("kind", get_args(KlEstimator))
def test_out_of_the_mask_nothing_counts(kind: KlEstimator) -> None:
    log_probs = torch.tensor([-1.0, -1e4, math.nan], requires_grad=True)
    estimate = kl.estimate_kl(kind, log_probs, torch.tensor([-2.0, 0.0, 0.0]), torch.tensor([True, False, False]))
    (grad,) = torch.autograd.grad(estimate.sum(), log_probs)
    assert estimate[1:].tolist() == grad[1:].tolist() == [0.0, 0.0]
    assert float(estimate[0].detach()) != 0
    assert float(grad[0]) != 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("quantile", [0.0, 0.25, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("lengths", [[1], [1, 2, 3, 4, 5, 6], [200, 0, 1, 77], [0, 11, 0]])
def test_response_quantile_is_torchs(lengths: list[int], quantile: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    values = torch.randn(sum(lengths), dtype=dtype, generator=generator).mul(4).round().div(4)  # with ties
    mask = torch.rand(sum(lengths), generator=generator) < 0.7
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    for q, value, kept in zip(
        response_quantile(values, mask, cu_seqlens, quantile),
        torch.split_with_sizes(values, lengths),
        torch.split_with_sizes(mask, lengths),
        strict=True,
    ):
        if kept.any():
            assert float(q) == float(torch.quantile(value[kept], quantile))
        else:
            assert q.isnan()


def test_low_entropy_mask() -> None:
    entropy = torch.tensor([5.0, 1.0, 2.0, 3.0, 4.0, 99.0, 7.0, 8.0])
    mask = torch.tensor([True, True, True, True, True, False, True, False])
    cu_seqlens = torch.tensor([0, 6, 7, 8])
    # The 0.8-quantile of 1..5 is 4.2; a response's only token has low entropy; a masked one has not.
    assert low_entropy_mask(entropy, mask, cu_seqlens, 0.8).tolist() == [
        False,
        True,
        True,
        True,
        True,
        False,
        True,
        False,
    ]
    assert low_entropy_mask(entropy, mask, cu_seqlens, 1.0).tolist() == mask.tolist()


def test_no_tokens() -> None:
    empty = torch.zeros(0)
    assert low_entropy_mask(empty, empty.bool(), torch.tensor([0]), 0.8).shape == (0,)
    assert response_quantile(empty, empty.bool(), torch.tensor([0, 0]), 0.8).isnan().tolist() == [True]
