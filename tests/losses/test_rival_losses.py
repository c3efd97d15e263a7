"""The rivals and ablations: gradients against surrogates in float64, differentiated by autograd, in every region."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from aspo_megatron.losses import build, get, names
from aspo_megatron.losses.binary import binary_kl
from aspo_megatron.losses.largest_ratio import LARGEST_RATIO

from . import reference
from .reference import Case, gather_log_probs, make_case, reference_gradient, run
from .test_policy_losses import RATIOS, SETTINGS, call, double, hyperparameters, random_case

TOLERANCE = 1e-10
Surrogate = Callable[[Tensor, Tensor, float], Tensor]


def cispo(pi: Tensor, pi_old: Tensor, advantage: float) -> Tensor:
    return (pi / pi_old).clamp(0.5, 3.0).detach() * advantage * pi.log()


def sapo(pi: Tensor, pi_old: Tensor, advantage: float) -> Tensor:
    tau = 1.2 if advantage > 0 else 1.7
    return torch.sigmoid(tau * (pi / pi_old - 1)) * 4 / tau * advantage


def up(pi: Tensor, pi_old: Tensor, advantage: float) -> Tensor:
    if advantage > 0:
        return advantage * pi / pi.detach()
    return reference.ppo(pi, pi_old, advantage, 0.3, 0.0, None)


def ce_gppo(pi: Tensor, pi_old: Tensor, advantage: float) -> Tensor:
    ratio = pi / pi_old
    if advantage < 0 and ratio < 0.7:
        return 0.25 * 0.7 / ratio.detach() * ratio * advantage
    if advantage > 0 and ratio > 1.15:
        return 0.75 * 1.15 / ratio.detach() * ratio * advantage
    return ratio * advantage


def drpo(pi: Tensor, pi_old: Tensor, advantage: float) -> Tensor:
    ratio = pi / pi_old
    return ratio * advantage - abs(advantage) / (2 * 0.7) * pi_old * (ratio - 1) ** 2


def dppo_tv(pi: Tensor, pi_old: Tensor, advantage: float) -> Tensor:
    ratio, far = float((pi / pi_old).detach()), float((pi - pi_old).detach().abs()) > 0.1
    if far and ((advantage > 0 and ratio > 1) or (advantage < 0 and ratio < 1)):
        return pi * 0
    return min(ratio, 2.0) * advantage * pi.log()


def without_is(pi: Tensor, pi_old: Tensor, advantage: float) -> Tensor:
    return advantage * pi.log()


TOKEN_WISE: dict[str, tuple[dict[str, float], Surrogate]] = {
    "cispo": ({"eps_low": 0.5, "eps_high": 2.0}, cispo),
    "sapo": ({"tau_positive": 1.2, "tau_negative": 1.7}, sapo),
    "up": ({"eps_low": 0.3}, up),
    "ce-gppo": ({"eps_low": 0.3, "eps_high": 0.15, "beta_positive": 0.75, "beta_negative": 0.25}, ce_gppo),
    "drpo": ({"delta": 0.7}, drpo),
    "dppo-tv": ({"delta": 0.1, "ratio_max": 2.0}, dppo_tv),
    "grpo-without-is": ({}, without_is),
    "dapo": ({}, lambda pi, pi_old, a: reference.ppo(pi, pi_old, a, 0.2, 0.28, None)),
    "ppo-dual-clip": ({}, lambda pi, pi_old, a: reference.ppo(pi, pi_old, a, 0.2, 0.2, 3.0)),
    "clip-cov": ({}, lambda pi, pi_old, a: reference.ppo(pi, pi_old, a, 1.0, 1.0, None)),
    "kl-cov": ({}, lambda pi, pi_old, a: pi / pi_old * a),
    "m2po": ({}, lambda pi, pi_old, a: pi / pi_old * a),
    "aspo-without-dual-clip": ({}, lambda pi, pi_old, a: reference.aspo(pi, pi_old, a, 0.2, 0.2, None)),
}


OTHERS = {
    *("aspo", "aspo-released", "cppo", "dppo-kl", "gmpo", "grpo", "grpo-response-mean", "gspo", "luspo", "topr"),
    "vespo",
}
"""Losses that a test of their own holds against a surrogate, here or in test_policy_losses.py."""


def test_every_loss_is_held_against_a_surrogate() -> None:
    told = "every registered loss is in TOKEN_WISE, or in OTHERS with a test of its own"
    assert sorted([*TOKEN_WISE, *OTHERS]) == list(names()), told


@pytest.mark.parametrize("advantage", [-1.7, -0.3, 0.0, 0.3, 1.7])
@pytest.mark.parametrize("name", TOKEN_WISE)
def test_gradient_in_every_region(name: str, advantage: float) -> None:
    settings, surrogate = TOKEN_WISE[name]
    case = make_case(RATIOS, [advantage] * len(RATIOS))
    expected = reference_gradient(case, lambda i, pi, pi_old, a: surrogate(pi, pi_old, a))
    _, gradient = run(build(name, settings), case)
    torch.testing.assert_close(gradient, expected, rtol=TOLERANCE, atol=TOLERANCE)


SELECTED: dict[str, tuple[dict[str, float], Surrogate]] = {
    "clip-cov": ({"eps_high": 0.2}, lambda pi, pi_old, a: 0 * pi),
    "kl-cov": ({"beta": 0.7}, lambda pi, pi_old, a: pi / pi_old * a - 0.7 * (pi.log() - pi_old.log()).abs()),
    "m2po": ({}, lambda pi, pi_old, a: 0 * pi),
}
"""At a token that the loss has selected."""


def test_every_loss_that_selects_is_held_against_a_surrogate() -> None:
    assert sorted(SELECTED) == [name for name in names() if get(name).selects]


@pytest.mark.parametrize("advantage", [-1.7, -0.3, 0.0, 0.3, 1.7])
@pytest.mark.parametrize("name", SELECTED)
def test_gradient_of_selected_tokens_in_every_region(name: str, advantage: float) -> None:
    settings, surrogate = SELECTED[name]
    case = make_case(RATIOS, [advantage] * len(RATIOS))
    case = replace(case, selected=torch.ones_like(case.mask))
    expected = reference_gradient(case, lambda i, pi, pi_old, a: surrogate(pi, pi_old, a))
    output, gradient = run(build(name, settings), case)
    torch.testing.assert_close(gradient, expected, rtol=TOLERANCE, atol=TOLERANCE)
    pi_and_old = gather_log_probs(case.logits, case.token_ids).exp(), case.old_log_probs.exp()
    values = [float(surrogate(*pair, advantage)) for pair in zip(*pi_and_old, strict=True)]
    torch.testing.assert_close(output.per_token, -torch.tensor(values, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["sapo", "dapo", "ppo-dual-clip"])
@pytest.mark.parametrize("advantage", [-1.3, 1.3])
def test_value_is_the_surrogate(name: str, advantage: float) -> None:
    settings, surrogate = TOKEN_WISE[name]
    output, _ = run(build(name, settings), make_case(RATIOS, [advantage] * len(RATIOS)))
    for value, ratio in zip(output.per_token.tolist(), RATIOS, strict=True):
        assert value == pytest.approx(-surrogate(double([ratio]), double([1.0]), advantage).item(), rel=1e-12)


LENGTHS = [[1], [2, 1, 3], [40, 1, 17, 6], [11, 0, 6, 0]]


def responses(case: Case) -> list[list[int]]:
    """Unmasked tokens of each response that has any."""
    bounds = itertools.pairwise(case.cu_seqlens.tolist())
    found = [[i for i in range(start, stop) if case.mask[i]] for start, stop in bounds]
    return [tokens for tokens in found if tokens]


def narrow(case: Case, factor: float) -> Case:
    """The same case with log-ratios nearer to 0, so that responses fall on both sides of a narrow range."""
    log_probs = gather_log_probs(case.logits, case.token_ids)
    old = log_probs - factor * (log_probs - case.old_log_probs)
    return Case(case.logits, case.token_ids, old, case.advantages, case.mask, case.entropy, case.cu_seqlens)


@pytest.mark.parametrize("factor", [1.0, 0.3, 0.02])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_gspo_against_the_objective_of_its_paper(lengths: list[int], factor: float) -> None:
    case = narrow(random_case(lengths, seed=len(lengths)), factor)
    eps_low, eps_high = 0.05, 0.1
    logits = case.logits.clone().requires_grad_()
    log_probs = gather_log_probs(logits, case.token_ids)
    objective = logits.sum() * 0
    for tokens in responses(case):
        # (pi(y) / pi_old(y)) ^ (1 / |y|), from the probability of the whole response
        s = (log_probs[tokens].sum().exp() / case.old_log_probs[tokens].sum().exp()) ** (1 / len(tokens))
        advantage = case.advantages[tokens[0]]
        objective = objective - torch.min(s * advantage, s.clamp(1 - eps_low, 1 + eps_high) * advantage)
    (expected,) = torch.autograd.grad(objective, logits)

    ours = case.logits.clone().requires_grad_()
    output = build("gspo", {"eps_low": eps_low, "eps_high": eps_high})(
        gather_log_probs(ours, case.token_ids),
        case.old_log_probs,
        case.advantages,
        case.mask,
        entropy=case.entropy,
        cu_seqlens=case.cu_seqlens,
    )
    means = [output.per_token[tokens].mean() for tokens in responses(case)]
    (gradient,) = torch.autograd.grad(torch.stack(means).sum(), ours)
    torch.testing.assert_close(gradient, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert torch.stack(means).sum().item() == pytest.approx(objective.item(), rel=1e-12)


@pytest.mark.parametrize("factor", [1.0, 0.3, 0.02])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_gmpo_against_the_objective_of_its_paper(lengths: list[int], factor: float) -> None:
    case = narrow(random_case(lengths, seed=len(lengths)), factor)
    eps_low, eps_high = 0.1, 0.25
    logits = case.logits.clone().requires_grad_()
    probabilities = logits.softmax(-1).gather(-1, case.token_ids[:, None])[:, 0]
    objective = logits.sum() * 0
    for tokens in responses(case):
        ratios = probabilities[tokens] / case.old_log_probs[tokens].exp()
        advantage = case.advantages[tokens[0]]
        if advantage > 0:
            ratios = ratios.clamp(max=math.exp(eps_high))
        elif advantage < 0:
            ratios = ratios.clamp(min=math.exp(-eps_low))
        objective = objective - ratios.prod() ** (1 / len(tokens)) * advantage
    (expected,) = torch.autograd.grad(objective, logits)

    ours = case.logits.clone().requires_grad_()
    output = build("gmpo", {"eps_low": eps_low, "eps_high": eps_high})(
        gather_log_probs(ours, case.token_ids),
        case.old_log_probs,
        case.advantages,
        case.mask,
        entropy=case.entropy,
        cu_seqlens=case.cu_seqlens,
    )
    means = [output.per_token[tokens].mean() for tokens in responses(case)]
    (gradient,) = torch.autograd.grad(torch.stack(means).sum(), ours)
    torch.testing.assert_close(gradient, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert torch.stack(means).sum().item() == pytest.approx(objective.item(), rel=1e-12)


def luspo(pi: Tensor, pi_old: Tensor, advantage: Tensor) -> Tensor:
    s = (pi.prod() / pi_old.prod()) ** (1 / len(pi))
    return torch.min(s * advantage, s.clamp(1 - 0.05, 1 + 0.1) * advantage) * len(pi)


def vespo(pi: Tensor, pi_old: Tensor, advantage: Tensor) -> Tensor:
    w = (pi.prod() / pi_old.prod()).detach()
    power, decay = (1.5, 2.0) if advantage > 0 else (2.5, 1.0)
    return w**power * (decay * (1 - w)).exp() * advantage * pi.log().sum()


def topr(pi: Tensor, pi_old: Tensor, advantage: Tensor) -> Tensor:
    w = (pi.prod() / pi_old.prod()).detach()
    return (1.0 if advantage > 0 else w.clamp(0.0, 0.8)) * advantage * pi.log().sum()


def cppo(pi: Tensor, pi_old: Tensor, advantage: Tensor) -> Tensor:
    total, last = pi.sum() * 0, max(len(pi) - 1, 1)
    places = [1 - (1 - 0.6) * t / last for t in range(len(pi))]
    far = [places[t] * float((pi[t] - pi_old[t]).detach().abs()) for t in range(len(pi))]
    for t in range(len(pi)):
        ratio = pi[t] / pi_old[t]
        budget = min(0.1, 0.1 + 0.05 * sum(places[:t]) - sum(far[:t]))
        if advantage * (ratio - 1) <= 0 or far[t] <= budget:
            total = total + ratio * advantage
    return total


OF_RESPONSES: dict[str, tuple[dict[str, float], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "luspo": ({"eps_low": 0.05, "eps_high": 0.1}, luspo),
    "vespo": ({"power_positive": 1.5, "decay_positive": 2.0, "power_negative": 2.5, "decay_negative": 1.0}, vespo),
    "topr": ({"negative_max": 0.8}, topr),
    "cppo": ({"delta": 0.1, "budget": 0.05, "last_weight": 0.6}, cppo),
}
"""Of a response's probabilities, summed over its tokens: the papers' aggregation."""


@pytest.mark.parametrize("factor", [1.0, 0.3, 0.02])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", OF_RESPONSES)
def test_against_the_objective_of_whole_responses(name: str, lengths: list[int], factor: float) -> None:
    case = narrow(random_case(lengths, seed=len(lengths)), factor)
    settings, surrogate = OF_RESPONSES[name]
    logits = case.logits.clone().requires_grad_()
    probabilities = logits.softmax(-1).gather(-1, case.token_ids[:, None])[:, 0]
    objective = logits.sum() * 0
    for tokens in responses(case):
        old = case.old_log_probs[tokens].exp()
        objective = objective - surrogate(probabilities[tokens], old, case.advantages[tokens[0]])
    (expected,) = torch.autograd.grad(objective, logits)
    _, gradient = run(build(name, settings), case)
    torch.testing.assert_close(gradient, expected, rtol=TOLERANCE, atol=TOLERANCE)


PROBABILITIES = (1e-6, 0.01, 0.3, 0.5, 0.9, 0.999, 1 - 1e-9)


@pytest.mark.parametrize("advantage", [-1.3, 1.3])
def test_dppo_kl_in_every_region(advantage: float) -> None:
    """The KL of two coins, from probabilities; a few are on either side of every bound."""
    pairs = list(itertools.product(PROBABILITIES, PROBABILITIES))
    log_probs = double([now for _, now in pairs]).log().requires_grad_()
    before = double([old for old, _ in pairs]).log()
    count = len(pairs)
    output = build("dppo-kl", {"delta": 0.2, "ratio_max": None})(
        log_probs,
        before,
        double([advantage] * count),
        torch.ones(count, dtype=torch.bool),
        entropy=before,
        cu_seqlens=torch.tensor([0, count]),
    )
    (gradient,) = torch.autograd.grad(output.per_token.sum(), log_probs)
    dropped = 0
    for (old, now), found in zip(pairs, gradient.tolist(), strict=True):
        far = old * math.log(old / now) + (1 - old) * math.log((1 - old) / (1 - now)) > 0.2
        lost = far and (now > old if advantage > 0 else now < old)
        dropped += lost
        assert found == pytest.approx(0.0 if lost else -advantage * now / old, rel=1e-9), (old, now)
    assert 0 < dropped < count / 2


def test_the_kl_of_two_coins_has_its_digits_near_one() -> None:
    """In fp32 the probability of anything but a certain token is not 1 - p."""
    old, now = torch.tensor([-1e-6, -1e-6, 0.0, -1e-9]), torch.tensor([-2e-6, -1e-2, 0.0, 0.0])
    exact = [coins(float(a), float(b)) for a, b in zip(old.double()[:2], now.double()[:2], strict=True)]
    found = binary_kl(old, now)
    assert found[:2].tolist() == pytest.approx(exact, rel=1e-3)
    assert found.isfinite().all()
    assert found[2] == 0


def coins(old: float, now: float) -> float:
    """From log-probs, in fp64."""
    rest, other = -math.expm1(old), -math.expm1(now)
    return math.exp(old) * (old - now) + rest * math.log(rest / other)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_response_mean_against_a_loop(lengths: list[int]) -> None:
    case = random_case(lengths, seed=len(lengths))
    ratios = (gather_log_probs(case.logits, case.token_ids) - case.old_log_probs).exp()
    mean_of = {i: float(ratios[tokens].mean()) for tokens in responses(case) for i in tokens}

    def surrogate(i: int, pi: Tensor, pi_old: Tensor, advantage: float) -> Tensor:
        if advantage > 0:
            return pi * 0 if float((pi / pi_old).detach()) > 1.2 else advantage * mean_of[i] * pi.log()
        return reference.ppo(pi, pi_old, advantage, 0.2, 0.2, None)

    _, gradient = run(build("grpo-response-mean", {}), case)
    torch.testing.assert_close(gradient, reference_gradient(case, surrogate), rtol=TOLERANCE, atol=TOLERANCE)


def test_aspo_without_dual_clip_is_aspo_with_null() -> None:
    case = make_case(RATIOS, [1.3] * len(RATIOS))
    for setting in SETTINGS:
        values = hyperparameters(setting[0], setting[1], None)
        _, expected = run(build("aspo", values), case)
        _, gradient = run(build("aspo-without-dual-clip", values), case)
        assert torch.equal(gradient, expected)


@pytest.mark.parametrize("name", names())
def test_on_policy_all_losses_are_grpo(name: str) -> None:
    """At r = 1 every loss has the gradient -A * grad log pi."""
    case = make_case([1.0] * 20, [0.5] * 9 + [-0.5] + [1.5] * 10, lengths=[9, 1, 10])
    _, gradient = run(build(name, {}), case)
    _, expected = run(build("grpo", {}), case)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", names())
def test_masked_tokens_do_not_matter(name: str) -> None:
    case = random_case([12, 1, 7], seed=5)
    loss = build(name, {})
    expected, _ = run(loss, case)
    for junk in (math.inf, -math.inf, math.nan):
        log_probs = gather_log_probs(case.logits, case.token_ids).masked_fill(~case.mask, junk).requires_grad_()
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


@pytest.mark.parametrize("name", names())
def test_a_token_wise_loss_sees_each_token_alone(name: str) -> None:
    """What a loss declares is what it does: alone, and in any company, a token has the same loss and gradient."""
    loss = build(name, {})
    log_ratio = double([0.4, -0.9, 0.05, -0.36, 1.5, 0.3])
    advantages = double([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    entropy = double([0.1, 2.0, 0.5, 3.0, 0.2, 0.9])
    whole, gradient = call(loss, log_ratio, advantages, entropy=entropy)
    alone = [call(loss, log_ratio[i : i + 1], advantages[i : i + 1], entropy=entropy[i : i + 1]) for i in range(6)]
    same = all(
        torch.equal(output.per_token, whole.per_token[i : i + 1]) and torch.equal(slope, gradient[i : i + 1])
        for i, (output, slope) in enumerate(alone)
    )
    assert same == loss.token_wise


@pytest.mark.parametrize("name", names())
def test_all_log_the_same_names(name: str) -> None:
    case = random_case([5, 3], seed=1)
    assert set(run(build(name, {}), case)[0].stats) == set(run(build("aspo", {}), case)[0].stats)


@pytest.mark.parametrize(
    ("name", "weights"), [("cispo", [5, 0, 5, 0]), ("sapo", [0, 0, 0, 0]), ("grpo-without-is", [1, 1, 1, 1])]
)
def test_extreme_ratios_are_finite(name: str, weights: list[float]) -> None:
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    output, gradient = call(build(name, {}), torch.tensor([1e4, -1e4, 1e4, -1e4]), advantages)
    assert torch.equal(gradient, -advantages * torch.tensor(weights))
    assert output.per_token.isfinite().all()


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("ce-gppo", [1.2, 0, 0, 0.4]),
        ("cppo", [0, 0, 0, 0]),
        ("dppo-kl", [0, 0, 5, 0]),
        ("dppo-tv", [0, 0, 5, 0]),
        ("drpo", [0, 0, 0, 0]),
        ("topr", [1, 1, 1, 0]),
        ("up", [1, 1, 0, 0]),
        ("vespo", [0, 0, 0, 0]),
    ],
)
def test_extreme_probabilities_are_finite(name: str, weights: list[float]) -> None:
    """A token that was impossible and is certain, and the other way round; each a response."""
    now = torch.tensor([0.0, -1e4, 0.0, -1e4], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    output = build(name, {})(
        now,
        torch.tensor([-1e4, 0.0, -1e4, 0.0]),
        advantages,
        torch.ones(4, dtype=torch.bool),
        entropy=torch.zeros(4),
        cu_seqlens=torch.arange(5),
    )
    (gradient,) = torch.autograd.grad(output.per_token.sum(), now)
    assert torch.equal(gradient, -advantages * torch.tensor(weights))
    assert output.per_token.isfinite().all()


def test_a_token_that_cppo_drops_has_no_loss_however_far_it_is() -> None:
    far = torch.tensor([24.5], dtype=torch.float64)
    output, gradient = call(build("cppo", {}), far, torch.ones(1, dtype=torch.float64))
    assert output.per_token.item() == gradient.item() == 0.0


@pytest.mark.parametrize("decay", [0.0, 1e-8])
def test_vespo_without_a_decay_weighs_no_response_beyond_the_bound(decay: float) -> None:
    loss = build("vespo", {"decay_positive": decay, "decay_negative": decay})
    for advantage in (-1.0, 1.0):
        log_ratio = torch.full((4,), 39.5)
        output, gradient = call(loss, log_ratio, torch.full((4,), advantage))
        assert output.per_token.isfinite().all()
        assert gradient.abs().max() <= LARGEST_RATIO * 1.01
