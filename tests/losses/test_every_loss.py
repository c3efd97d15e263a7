"""What each registered loss does to a packed batch, against its formula in plain Python; a loss without one fails."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from aspo_megatron.losses import build, get, names

from .test_selection import update_tokens


@dataclass(frozen=True)
class Response:
    """What a formula takes: a response's unmasked tokens."""

    ratios: Sequence[float]
    advantage: float
    entropies: Sequence[float]
    before: Sequence[float]
    """pi_old of each token."""
    selected: Sequence[bool]
    """Of the whole update, by the loss."""

    @property
    def outward(self) -> list[bool]:
        return [ratio > 1 if self.advantage > 0 else ratio < 1 for ratio in self.ratios]

    @property
    def now(self) -> list[float]:
        return [old * ratio for old, ratio in zip(self.before, self.ratios, strict=True)]


ResponseWeights = Callable[[Response], list[float]]
"""w of each token's gradient -A * w * grad log pi."""


def of_tokens(weight: Callable[[float, float], float]) -> ResponseWeights:
    return lambda response: [weight(ratio, response.advantage) for ratio in response.ratios]


def ppo(ratio: float, advantage: float, low: float = 0.2, high: float = 0.2, cap: float = math.inf) -> float:
    if advantage > 0:
        return ratio if ratio <= 1 + high else 0.0
    return ratio if 1 - low <= ratio <= cap else 0.0


def aspo(ratio: float, advantage: float, eps: float = 0.2, cap: float = 3.0) -> float:
    if advantage > 0:
        return min(1 / ratio, cap) if ratio <= 1 + eps else 0.0
    return min(ratio, cap) if ratio >= 1 - eps else 0.0


def sapo(ratio: float, advantage: float) -> float:
    tau = 1.0 if advantage > 0 else 1.05
    gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
    return 4 * gate * (1 - gate) * ratio


def aspo_released(response: Response) -> list[float]:
    entropies = response.entropies
    place = 0.8 * (len(entropies) - 1)
    below, above = (sorted(entropies)[end] for end in (math.floor(place), math.ceil(place)))
    threshold = below + (place - math.floor(place)) * (above - below)
    eps = [0.2 if entropy <= threshold else 0.4 for entropy in entropies]
    return [aspo(ratio, response.advantage, half) for ratio, half in zip(response.ratios, eps, strict=True)]


def grpo_response_mean(response: Response) -> list[float]:
    ratios, advantage = response.ratios, response.advantage
    weights = [ppo(ratio, advantage) for ratio in ratios]
    return [sum(ratios) / len(ratios) if weight and advantage > 0 else weight for weight in weights]


def gspo(response: Response, low: float = 3e-4, high: float = 4e-4) -> list[float]:
    ratios = response.ratios
    of_response = math.prod(ratios) ** (1 / len(ratios))
    return [ppo(of_response, response.advantage, low, high)] * len(ratios)


def gmpo(response: Response) -> list[float]:
    ratios, advantage = response.ratios, response.advantage
    bound = math.exp(0.4) if advantage > 0 else math.exp(-0.4)
    clipped = [min(ratio, bound) if advantage > 0 else max(ratio, bound) for ratio in ratios]
    mean = math.prod(clipped) ** (1 / len(ratios))
    return [mean if ratio == kept else 0.0 for ratio, kept in zip(ratios, clipped, strict=True)]


def coins(old: float, now: float) -> float:
    return old * math.log(old / now) + (1 - old) * math.log((1 - old) / (1 - now))


def dppo(distance: Callable[[float, float], float], delta: float) -> ResponseWeights:
    def weights(response: Response) -> list[float]:
        far = [distance(old, now) > delta for old, now in zip(response.before, response.now, strict=True)]
        lost = [one and other for one, other in zip(response.outward, far, strict=True)]
        return [0.0 if gone else min(ratio, 5.0) for ratio, gone in zip(response.ratios, lost, strict=True)]

    return weights


def cppo(response: Response) -> list[float]:
    weights = []
    free = drifted = 0.0
    tokens = list(zip(response.ratios, response.before, response.now, response.outward, strict=True))
    for place, (ratio, old, now, outward) in enumerate(tokens):
        of_place = 1 - 0.2 * place / max(len(tokens) - 1, 1)
        drift = of_place * abs(now - old)
        weights.append(0.0 if outward and drift > min(0.15, 0.15 + 0.015 * free - drifted) else ratio)
        free, drifted = free + of_place, drifted + drift
    return weights


def ce_gppo(ratio: float, advantage: float) -> float:
    if advantage > 0:
        return ratio if ratio <= 1.2 else 1.2
    return ratio if ratio >= 0.8 else 0.5 * 0.8


def vespo(response: Response) -> list[float]:
    product = math.prod(response.ratios)
    power, decay = (2, 3) if response.advantage > 0 else (3, 2)
    return [product**power * math.exp(decay * (1 - product))] * len(response.ratios)


def topr(response: Response) -> list[float]:
    return [1.0 if response.advantage > 0 else min(1.0, math.prod(response.ratios))] * len(response.ratios)


def drpo(response: Response) -> list[float]:
    moved = [now - old for now, old in zip(response.now, response.before, strict=True)]
    sign = math.copysign(1, response.advantage)
    return [ratio * (1 - sign * by / 12.5) for ratio, by in zip(response.ratios, moved, strict=True)]


def but_selected(weight: Callable[[float, float], float]) -> ResponseWeights:
    def weights(response: Response) -> list[float]:
        tokens = zip(response.ratios, response.selected, strict=True)
        return [0.0 if selected else weight(ratio, response.advantage) for ratio, selected in tokens]

    return weights


def kl_cov(response: Response) -> list[float]:
    tokens = zip(response.ratios, response.selected, strict=True)
    return [ratio - selected * math.copysign(1, ratio - 1) / response.advantage for ratio, selected in tokens]


WEIGHTS: dict[str, ResponseWeights] = {
    "aspo": of_tokens(aspo),
    "aspo-released": aspo_released,
    "aspo-without-dual-clip": of_tokens(lambda ratio, advantage: aspo(ratio, advantage, cap=math.inf)),
    "ce-gppo": of_tokens(ce_gppo),
    "cispo": of_tokens(lambda ratio, advantage: min(ratio, 5.0)),
    "clip-cov": but_selected(lambda ratio, advantage: ppo(ratio, advantage, low=1.0, high=1.0)),
    "cppo": cppo,
    "dapo": of_tokens(lambda ratio, advantage: ppo(ratio, advantage, high=0.28)),
    "dppo-kl": dppo(coins, 0.05),
    "dppo-tv": dppo(lambda old, now: abs(now - old), 0.2),
    "drpo": drpo,
    "gmpo": gmpo,
    "grpo": of_tokens(ppo),
    "grpo-response-mean": grpo_response_mean,
    "grpo-without-is": of_tokens(lambda ratio, advantage: 1.0),
    "gspo": gspo,
    "kl-cov": kl_cov,
    "luspo": lambda response: gspo(response, 2e-3, 2.5e-3),
    "m2po": but_selected(lambda ratio, advantage: ratio),
    "ppo-dual-clip": of_tokens(lambda ratio, advantage: ppo(ratio, advantage, cap=3.0)),
    "sapo": of_tokens(sapo),
    "topr": topr,
    "up": of_tokens(lambda ratio, advantage: 1.0 if advantage > 0 else ppo(ratio, advantage)),
    "vespo": vespo,
}
"""At default hyperparameters."""

LENGTHS = (40, 1, 17, 6, 0, 8, 3)
SPREADS = (1.2, 0.3, 1e-3)
"""Of log-ratios, in nats: around each clip range there are."""


def test_every_loss_has_a_formula() -> None:
    assert set(WEIGHTS) == set(names()), "every registered loss, and no other, has its formula in WEIGHTS"


def batch(spread: float) -> dict[str, Tensor]:
    """Responses of both signs, one without an advantage, one masked as a whole, in fp64."""
    generator = torch.Generator().manual_seed(7)
    tokens, lengths = sum(LENGTHS), torch.tensor(LENGTHS)
    draw = [torch.randn(tokens, generator=generator, dtype=torch.float64) for _ in range(2)]
    mask = torch.rand(tokens, generator=generator) < 0.8
    mask[-3:] = False
    old = 0.8 * draw[0].clamp(-2.0, 2.0) - 1.7
    per_response = torch.tensor([1.3, -0.7, -1.9, 0.4, 1.0, 0.0, 2.0], dtype=torch.float64)
    return {
        "log_probs": (old + spread * draw[1]).clamp(max=-0.01),
        "old_log_probs": old,
        "advantages": per_response.repeat_interleave(lengths),
        "mask": mask,
        "entropy": torch.rand(tokens, generator=generator, dtype=torch.float64),
        "selected": torch.rand(tokens, generator=generator) < 0.2,
        "cu_seqlens": torch.tensor([0, *itertools.accumulate(LENGTHS)]),
    }


def none_selected(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**given, "selected": torch.zeros_like(given["mask"])}


def computed(name: str, given: dict[str, Tensor], **hyperparameters: float) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the unmasked tokens, 0 at the others."""
    log_probs = given["log_probs"].clone().requires_grad_()
    output = build(name, hyperparameters)(**{**given, "log_probs": log_probs})
    kept = torch.where(given["mask"], output.per_token, 0.0)
    (gradient,) = torch.autograd.grad(kept.sum(), log_probs)
    return kept.detach(), gradient


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_gradient_is_that_of_its_formula(name: str, spread: float) -> None:
    given = batch(spread)
    expected = torch.zeros(sum(LENGTHS), dtype=torch.float64)
    ratios = (given["log_probs"] - given["old_log_probs"]).exp()
    for start, stop in itertools.pairwise(given["cu_seqlens"].tolist()):
        tokens = [i for i in range(start, stop) if given["mask"][i]]
        if tokens:
            advantage = float(given["advantages"][start]) or 1e-300  # KL-Cov's |log r| counts at A = 0 too
            before = given["old_log_probs"][tokens].exp().tolist()
            entropies, selected = given["entropy"][tokens].tolist(), given["selected"][tokens].tolist()
            response = Response(ratios[tokens].tolist(), advantage, entropies, before, selected)
            weights = WEIGHTS[name](response)
            expected[tokens] = -advantage * torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(computed(name, given)[1], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", names())
def test_responses_do_not_depend_on_each_other(name: str) -> None:
    """In another order, and each by itself, they have the same loss and gradient."""
    given = batch(0.3)
    whole = computed(name, given)
    bounds = list(itertools.pairwise(given["cu_seqlens"].tolist()))
    backwards = torch.cat([torch.arange(start, stop) for start, stop in reversed(bounds)])
    reordered = {key: value[backwards] for key, value in given.items() if key != "cu_seqlens"}
    reordered["cu_seqlens"] = torch.tensor([0, *itertools.accumulate(reversed(LENGTHS))])
    for values, others in zip(whole, computed(name, reordered), strict=True):
        torch.testing.assert_close(others, values[backwards], rtol=1e-12, atol=1e-12)
    for start, stop in bounds:
        alone = {key: value[start:stop] for key, value in given.items() if key != "cu_seqlens"}
        alone["cu_seqlens"] = torch.tensor([0, stop - start])
        for values, own in zip(whole, computed(name, alone), strict=True):
            torch.testing.assert_close(own, values[start:stop], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", names())
def test_masked_tokens_might_as_well_not_be_there(name: str) -> None:
    given = batch(0.3)
    mask, bounds = given["mask"], given["cu_seqlens"]
    kept = {key: value[mask] for key, value in given.items() if key != "cu_seqlens"}
    kept["cu_seqlens"] = torch.tensor([int(mask[:bound].sum()) for bound in bounds])
    for values, others in zip(computed(name, given), computed(name, kept), strict=True):
        torch.testing.assert_close(others, values[mask], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", names())
def test_on_policy_a_good_token_gets_likelier_and_a_bad_one_less_likely(name: str) -> None:
    given = none_selected(batch(0.0))
    values, gradient = computed(name, given)
    assert values.isfinite().all()
    assert torch.equal(gradient.sign(), torch.where(given["mask"], -given["advantages"].sign(), 0.0))


OF_THE_VALUE = {
    *("clip-cov", "cppo", "dapo", "drpo", "gmpo", "grpo", "gspo", "kl-cov", "luspo", "m2po", "ppo-dual-clip", "sapo"),
}
"""Losses whose gradient is that of their value."""
CHOSEN = {
    *("aspo", "aspo-released", "aspo-without-dual-clip"),
    *("ce-gppo", "cispo", "dppo-kl", "dppo-tv", "grpo-response-mean", "grpo-without-is", "topr", "up", "vespo"),
}
"""Losses with a stop-gradient: their gradient is not that of their value."""


def test_every_loss_is_of_one_kind() -> None:
    assert sorted([*OF_THE_VALUE, *CHOSEN]) == list(names()), "every registered loss is in OF_THE_VALUE or in CHOSEN"


@pytest.mark.parametrize("spread", [1.2, 3e-4])
@pytest.mark.parametrize("name", sorted(CHOSEN))
def test_the_value_of_a_chosen_gradient_has_its_weight(name: str, spread: float) -> None:
    """-A * w, wherever there is a gradient: no derivative tells a wrong value there."""
    value, gradient = computed(name, batch(spread))
    kept = gradient != 0
    assert kept.any()
    torch.testing.assert_close(value[kept], gradient[kept], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", names())
def test_the_figures_of_its_weights_are_those_of_its_gradient(name: str) -> None:
    given = none_selected(batch(1.2)) if name == "kl-cov" else batch(1.2)  # no weight has its part of |log r|
    gradient = computed(name, given)[1]
    stats, advantages = build(name, {})(**given).stats, given["advantages"]
    for stat, counts in (("weight/pos", advantages > 0), ("weight/neg", advantages < 0)):
        counted = counts & given["mask"]
        assert torch.equal(stats[stat].where, counted)
        of_gradient = -gradient[counted] / advantages[counted]
        torch.testing.assert_close(stats[stat].values[counted], of_gradient, rtol=1e-12, atol=1e-12)
    counted = given["mask"] & (advantages != 0)
    assert torch.equal(stats["clip/fraction"].values[counted] == 1, gradient[counted] == 0)


HYPERPARAMETERS = [(name, key) for name in names() for key in get(name).model_fields]


@pytest.mark.parametrize(("name", "key"), HYPERPARAMETERS)
def test_every_hyperparameter_counts(name: str, key: str) -> None:
    """Half of its default, or 1.5 for none, is another gradient: the formulas of this file are for defaults alone."""
    default = get(name).model_fields[key].default
    other = 1.5 if default is None else default / 2
    given = [batch(spread) for spread in (*SPREADS, 0.1, 9e-3, 6e-3, 4e-3, 7e-4)]
    assert any(differs(name, each, **{key: other}) for each in given)


def differs(name: str, given: dict[str, Tensor], **hyperparameters: float) -> bool:
    """Whether other hyperparameters give another gradient, or select other tokens."""
    tokens = update_tokens(20_000)
    selections = [build(name, each).select(tokens).tolist() for each in ({}, hyperparameters)]
    gradients = [computed(name, given)[1], computed(name, given, **hyperparameters)[1]]
    return selections[0] != selections[1] or not torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("spread", [1.2, 3e-4])
@pytest.mark.parametrize("name", names())
def test_the_value_moves_as_the_gradient_says(name: str, spread: float) -> None:
    """By finite differences; where a gradient is chosen, only that a token's own value stays where there is none."""
    given, step = batch(spread), 1e-6

    def value(nudge: Tensor) -> Tensor:
        return computed(name, {**given, "log_probs": given["log_probs"] + nudge})[0].sum()

    nudges = step * torch.eye(sum(LENGTHS), dtype=torch.float64)
    slopes = torch.stack([(value(nudge) - value(-nudge)) / (2 * step) for nudge in nudges])
    gradient = computed(name, given)[1]
    held = torch.ones_like(given["mask"]) if name in OF_THE_VALUE else (gradient == 0) & build(name, {}).token_wise
    torch.testing.assert_close(gradient[held], slopes[held], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", names())
def test_a_gradient_flows_to_the_policy_alone(name: str) -> None:
    given = batch(0.3)
    others = {key: given[key].clone().requires_grad_() for key in ("old_log_probs", "advantages", "entropy")}
    output = build(name, {})(**{**given, **others, "log_probs": given["log_probs"].requires_grad_()})
    total = torch.where(given["mask"], output.per_token, 0.0).sum()
    gradients = torch.autograd.grad(total, list(others.values()), materialize_grads=True, allow_unused=True)
    assert not any(gradient.any() for gradient in gradients)
