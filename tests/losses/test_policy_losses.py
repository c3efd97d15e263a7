"""ASPO (both forms) and GRPO/PPO-clip: gradients against the references, values, robustness, stats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import pytest
import torch
from torch import Tensor

from aspo_megatron.losses import Loss, LossOutput, Stat, build

from . import reference
from .reference import Case, make_case, reference_gradient, run

TOLERANCE = 1e-10
LN2 = math.log(2.0)

# Around every bound of eps = 0.2 / 0.28 and of the cap 3 (and its inverse), on both sides, and far from all of them.
NEAR = 1e-9
RATIOS = [
    *(bound + side for bound in (1 / 3, 0.8, 1.0, 1.2, 1.28, 3.0) for side in (-NEAR, NEAR)),
    *(1e-3, 0.1, 0.5, 0.9, 1.0, 1.1, 1.25, 1.9, 10.0, 1e3),
]
SETTINGS = [(0.2, 0.2, 3.0), (0.2, 0.2, None), (0.2, 0.28, 3.0), (0.3, 0.15, 1.5), (1.0, 0.05, 9.0)]


def hyperparameters(eps_low: float, eps_high: float, dual_clip: float | None) -> dict[str, float | None]:
    return {"eps_low": eps_low, "eps_high": eps_high, "dual_clip": dual_clip}


def double(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def mean(stat: Stat) -> float:
    return float((stat.values * stat.where).sum() / stat.where.sum())


def call(
    loss: Loss, log_ratio: Tensor, advantages: Tensor, mask: Tensor | None = None, entropy: Tensor | None = None
) -> tuple[LossOutput, Tensor]:
    """One response with these log-ratios; its loss and the gradient of the sum of it by log-prob."""
    old = torch.full_like(log_ratio, -1.0)
    log_probs = (log_ratio + old).requires_grad_()
    output = loss(
        log_probs,
        old,
        advantages,
        torch.ones(len(old), dtype=torch.bool) if mask is None else mask,
        entropy=torch.ones_like(old) if entropy is None else entropy,
        cu_seqlens=torch.tensor([0, len(old)]),
    )
    (gradient,) = torch.autograd.grad(output.per_token.sum(), log_probs)
    return output, gradient


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("advantage", [-1.7, -0.3, 0.0, 0.3, 1.7])
@pytest.mark.parametrize("name", ["aspo", "grpo"])
def test_gradient_in_every_region(name: str, advantage: float, setting: tuple[float, float, float | None]) -> None:
    case = make_case(RATIOS, [advantage] * len(RATIOS))
    surrogate = {"aspo": reference.aspo, "grpo": reference.ppo}[name]
    expected = reference_gradient(case, lambda i, pi, pi_old, a: surrogate(pi, pi_old, a, *setting))
    _, gradient = run(build(name, hyperparameters(*setting)), case)
    torch.testing.assert_close(gradient, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "advantage", "log_ratio", "weight"),
    [
        ("aspo", 1.0, LN2, 0.5),  # r = 1 + eps_high: kept
        ("aspo", -1.0, -LN2, 0.5),  # r = 1 - eps_low: kept
        ("aspo", -1.0, LN2, 2.0),  # r = c
        ("aspo", 1.0, -LN2, 2.0),  # 1/r = c
        ("grpo", 1.0, LN2, 2.0),
        ("grpo", -1.0, -LN2, 0.5),
        ("grpo", -1.0, LN2, 2.0),
        ("grpo", 1.0, -LN2, 0.5),
    ],
)
@pytest.mark.parametrize("dual_clip", [2.0, None])
def test_a_ratio_exactly_on_a_bound_is_inside(
    name: str, advantage: float, log_ratio: float, weight: float, dual_clip: float | None
) -> None:
    difference = double([log_ratio])
    assert float(difference.exp()) in (0.5, 2.0)
    # Multiples of ln 2 by powers of two, so that their difference is exact.
    log_probs = (2 * difference if log_ratio < 0 else -difference).requires_grad_()
    loss = build(name, hyperparameters(0.5, 1.0, dual_clip))
    output = loss(
        log_probs,
        log_probs.detach() - difference,
        double([advantage]),
        torch.tensor([True]),
        entropy=torch.zeros(1),
        cu_seqlens=torch.tensor([0, 1]),
    )
    (gradient,) = torch.autograd.grad(output.per_token.sum(), log_probs)
    assert float(gradient) == pytest.approx(-advantage * weight, abs=1e-15)
    assert float(output.stats["clip/fraction"].values.sum()) == 0
    assert float(output.stats["clip/dual"].values.sum()) == 0


@pytest.mark.parametrize(
    ("name", "advantage", "ratio", "weight", "value"),
    [
        # eps = 0.2, c = 3: gradient weight, and the value divided by -A.
        ("aspo", 2.0, 1.25, 0.0, 1 / 1.2),
        ("aspo", 2.0, 1.1, 1 / 1.1, 1 / 1.1),
        ("aspo", 2.0, 0.5, 2.0, 2.0),
        ("aspo", 2.0, 0.1, 3.0, 3.0),
        ("aspo", -2.0, 0.5, 0.0, 0.8),
        ("aspo", -2.0, 0.9, 0.9, 0.9),
        ("aspo", -2.0, 2.0, 2.0, 2.0),
        ("aspo", -2.0, 9.0, 3.0, 3.0),
        ("grpo", 2.0, 1.25, 0.0, 1.2),
        ("grpo", 2.0, 0.1, 0.1, 0.1),
        ("grpo", -2.0, 0.5, 0.0, 0.8),
        ("grpo", -2.0, 2.0, 2.0, 2.0),
        ("grpo", -2.0, 9.0, 0.0, 3.0),
        ("aspo", 0.0, 9.0, 0.0, 0.0),
        ("grpo", 0.0, 9.0, 0.0, 0.0),
    ],
)
def test_worked_values(name: str, advantage: float, ratio: float, weight: float, value: float) -> None:
    loss = build(name, hyperparameters(0.2, 0.2, 3.0))
    output, gradient = call(loss, double([ratio]).log(), double([advantage]))
    assert float(gradient) == pytest.approx(-advantage * weight, abs=1e-12)
    assert output.per_token.item() == pytest.approx(-advantage * value, abs=1e-12)


@pytest.mark.parametrize("dual_clip", [3.0, None])
@pytest.mark.parametrize("advantage", [-1.3, 1.3])
def test_ppo_value_is_the_clipped_surrogate(advantage: float, dual_clip: float | None) -> None:
    case = make_case(RATIOS, [advantage] * len(RATIOS))
    output, _ = run(build("grpo", hyperparameters(0.2, 0.28, dual_clip)), case)
    for i, ratio in enumerate(RATIOS):
        surrogate = reference.ppo(double([ratio]), double([1.0]), advantage, 0.2, 0.28, dual_clip)
        assert output.per_token[i].item() == pytest.approx(-surrogate.item(), rel=1e-12)


@pytest.mark.parametrize("name", ["aspo", "aspo-released"])
def test_aspo_is_grpo_on_policy(name: str) -> None:
    case = make_case([1.0] * 20, [0.5, -0.5, 1.5, 0.0] * 5, lengths=[9, 1, 10])
    output, gradient = run(build(name, {}), case)
    grpo_output, grpo_gradient = run(build("grpo", {}), case)
    torch.testing.assert_close(gradient, grpo_gradient, rtol=0, atol=1e-14)
    torch.testing.assert_close(output.per_token, grpo_output.per_token, rtol=0, atol=1e-14)


def random_case(lengths: list[int], seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    ratios = (1.2 * torch.randn(n, generator=generator, dtype=torch.float64)).exp().tolist()
    per_response = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    advantages = per_response.repeat_interleave(torch.tensor(lengths)).tolist()
    mask = (torch.rand(n, generator=generator) < 0.8).tolist()
    return make_case(ratios, advantages, mask, lengths)


@pytest.mark.parametrize("dual_clip", [3.0, None])
@pytest.mark.parametrize("quantile", [0.8, 0.5, 0.0, 1.0])
@pytest.mark.parametrize("lengths", [[1], [2, 1, 3], [40, 1, 17, 6], [11, 0, 6, 0]])
def test_released_form_against_a_loop_over_responses(
    lengths: list[int], quantile: float, dual_clip: float | None
) -> None:
    case = random_case(lengths, seed=len(lengths))
    eps: dict[int, float] = {}
    start = 0
    for length in lengths:
        inside = [i for i in range(start, start + length) if case.mask[i]]
        if inside:
            threshold = torch.quantile(case.entropy[inside], quantile)
            eps |= {i: 0.2 if case.entropy[i] <= threshold else 0.4 for i in inside}
        start += length
    expected = reference_gradient(
        case, lambda i, pi, pi_old, a: reference.aspo(pi, pi_old, a, eps[i], eps[i], dual_clip)
    )
    _, gradient = run(build("aspo-released", {"quantile": quantile, "dual_clip": dual_clip}), case)
    torch.testing.assert_close(gradient, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_released_form_widens_the_range_of_the_uncertain_tokens_only() -> None:
    log_ratio = double([1.3] * 10).log()
    entropy = double(range(10))
    _, gradient = call(build("aspo-released", {}), log_ratio, double([1.0] * 10), entropy=entropy)
    # The 0.8-quantile of 0..9 is 7.2: tokens 8 and 9 may reach 1.4.
    torch.testing.assert_close(gradient, double([0.0] * 8 + [-1 / 1.3] * 2))


@pytest.mark.parametrize("name", ["aspo", "aspo-released", "grpo"])
def test_masked_tokens_do_not_matter_whatever_they_hold(name: str) -> None:
    case = random_case([12, 1, 7], seed=5)
    loss = build(name, {})
    expected, _ = run(loss, case)
    for junk in (math.inf, -math.inf, math.nan, 1e4):
        log_probs = reference.gather_log_probs(case.logits, case.token_ids).masked_fill(~case.mask, junk)
        log_probs.requires_grad_()
        output = loss(
            log_probs,
            case.old_log_probs.masked_fill(~case.mask, -junk),
            case.advantages.masked_fill(~case.mask, junk),
            case.mask,
            entropy=case.entropy.masked_fill(~case.mask, junk),
            cu_seqlens=case.cu_seqlens,
        )
        (gradient,) = torch.autograd.grad(output.per_token.sum(), log_probs)
        assert torch.equal(output.per_token, expected.per_token)
        assert not gradient[~case.mask].any()
        assert gradient.isfinite().all()
        assert {key: mean(stat) for key, stat in output.stats.items()} == {
            key: mean(stat) for key, stat in expected.stats.items()
        }


@pytest.mark.parametrize("name", ["aspo", "aspo-released", "grpo"])
def test_all_masked_is_zero(name: str) -> None:
    output, gradient = call(
        build(name, {}), torch.tensor([0.1, -3.0, 1e4]), torch.tensor([1.0, -1.0, -1.0]), mask=torch.zeros(3).bool()
    )
    assert not output.per_token.any()
    assert not gradient.any()
    assert all(not stat.where.any() and not stat.values.any() for stat in output.stats.values())


@pytest.mark.parametrize("name", ["aspo", "aspo-released", "grpo"])
def test_no_tokens(name: str) -> None:
    output, gradient = call(build(name, {}), torch.zeros(0), torch.zeros(0))
    assert output.per_token.shape == gradient.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["aspo", "aspo-released", "grpo"])
def test_extreme_ratios_are_finite_where_masked_or_capped(name: str, dtype: torch.dtype) -> None:
    log_ratio = torch.tensor([1e4, -1e4, 1e4, -1e4, 1e4, -1e4], dtype=dtype)
    advantages = torch.tensor([1, 1, -1, -1, 0, 0], dtype=dtype)
    output, gradient = call(build(name, {"dual_clip": 3.0}), log_ratio, advantages)
    weights = {"aspo": [0, 3, 3, 0, 0, 0], "aspo-released": [0, 3, 3, 0, 0, 0], "grpo": [0, 0, 0, 0, 0, 0]}[name]
    assert torch.equal(gradient, -advantages * torch.tensor(weights, dtype=dtype))
    assert output.per_token.isfinite().all()


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("where", ["log_probs", "old_log_probs"])
@pytest.mark.parametrize("name", ["aspo", "aspo-released", "grpo"])
def test_nan_is_not_hidden(name: str, where: str, advantage: float) -> None:
    inputs = {"log_probs": double([-1.0, -1.0]), "old_log_probs": double([-1.0, -1.0])}
    inputs[where][0] = math.nan
    output = build(name, {})(
        **inputs,
        advantages=double([advantage, 1.0]),
        mask=torch.tensor([True, True]),
        entropy=double([1.0, 1.0]),
        cu_seqlens=torch.tensor([0, 2]),
    )
    assert output.per_token.isnan().tolist() == [True, False]


# Ratios of unmasked tokens by sign, with eps = 0.2 and c = 3.
POSITIVE = [0.1, 0.5, 1.0, 1.1, 1.3]
NEGATIVE = [0.5, 0.9, 2.0, 4.0]
RANGE_STATS = {
    "clip/pos_high": 1 / 5,
    "clip/pos_low": 2 / 5,
    "clip/neg_low": 1 / 4,
    "clip/neg_high": 2 / 4,
    "ratio/pos": sum(POSITIVE) / 5,
    "ratio/neg": sum(NEGATIVE) / 4,
    "approx_kl": sum(r - 1 - math.log(r) for r in [*POSITIVE, *NEGATIVE, 7.0]) / 10,
}
OWN_STATS = {
    "aspo": {
        "clip/dual": 2 / 7,  # r = 0.1 and r = 4, among 4 + 3 kept tokens
        "clip/fraction": 2 / 10,
        "weight/pos": (3 + 2 + 1 + 1 / 1.1 + 0) / 5,
        "weight/neg": (0 + 0.9 + 2 + 3) / 4,
    },
    "grpo": {
        "clip/dual": 1 / 7,
        "clip/fraction": 3 / 10,
        "weight/pos": (0.1 + 0.5 + 1 + 1.1 + 0) / 5,
        "weight/neg": (0 + 0.9 + 2 + 0) / 4,
    },
}


@pytest.mark.parametrize(("name", "own"), OWN_STATS.items())
def test_stats(name: str, own: Mapping[str, float]) -> None:
    ratios = double([*POSITIVE, *NEGATIVE, 7.0, 50.0])  # one of A = 0, and one masked
    advantages = double([2.0] * 5 + [-3.0] * 4 + [0.0, 1.0])
    mask = torch.tensor([True] * 10 + [False])
    output, _ = call(build(name, {"dual_clip": 3.0}), ratios.log(), advantages, mask)
    assert {key: mean(stat) for key, stat in output.stats.items()} == pytest.approx({**RANGE_STATS, **own}, rel=1e-12)
    assert all(stat.values.shape == stat.where.shape == mask.shape for stat in output.stats.values())
    assert not any(stat.values.requires_grad for stat in output.stats.values())


def test_losses_log_the_same_names() -> None:
    case = random_case([5, 3], seed=1)
    first, *others = (set(run(build(name, {}), case)[0].stats) for name in ("aspo", "aspo-released", "grpo"))
    assert all(other == first for other in others)
