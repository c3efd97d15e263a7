"""The loss-scale contract: an update is the same however it is packed and spread over ranks.

Everywhere: loss, gradient norm, every gradient, every logged figure, and the weights after two updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from aspo_megatron import losses
from aspo_megatron.config import Aggregation, LossConfig, OptimizerConfig, ParallelConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.losses import kl
from aspo_megatron.parallel.optimizer import Optimizer
from aspo_megatron.parallel.step import Objective, PassLimits, UpdateResult, aggregation_of, update
from aspo_megatron.parallel.topology import process_grid
from distributed import Ranks, once

from .layouts import LAYOUTS, PLATFORM, hf_gradients, hf_weights, load
from .samples import make_groups

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

LOSSES: dict[str, dict[str, Any]] = {"aspo": {}, "aspo-released": {}, "grpo": {"dual_clip": 3.0}}
AGGREGATIONS: tuple[Aggregation, ...] = (
    "token-mean",
    "seq-mean-token-mean",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
)
BATCHES: dict[str, list[tuple[int, tuple[int, ...]]]] = {
    "full": [(5, (1, 2, 9, 14, 3)), (1, (4, 4)), (7, (12, 1, 6)), (3, (8,)), (2, (5, 5, 2))],
    "one prompt": [(4, (3, 10))],  # fewer prompts than replicas
    "half masked": [(4, (3, 6)), (5, (7, 2))],  # every token of the first prompt's responses is masked
    "all masked": [(4, (3, 6)), (5, (7, 2))],
}
MAX_RESPONSE_TOKENS = 16
TEMPERATURE = 0.8
OPTIMIZER = OptimizerConfig(lr=2e-4, eps=1e-4, weight_decay=0.1, clip_grad=4.0)


@dataclass(frozen=True)
class Setup:
    """What is trained on, and how a replica's share is cut up: token budget, order of samples."""

    loss: str = "aspo"
    aggregation: Aggregation = "token-mean"
    batch: str = "full"
    max_tokens: int = 45
    backwards: bool = False

    @property
    def config(self) -> LossConfig:
        return LossConfig(
            name=self.loss, aggregation=self.aggregation, kl_coef=0.05, entropy_coef=0.01, **LOSSES[self.loss]
        )


SETUPS = {
    **{f"{loss}, {mode}": Setup(loss, mode) for loss in LOSSES for mode in AGGREGATIONS},
    "one micro-batch": Setup(max_tokens=10_000),
    "one sample at a time": Setup(max_tokens=1),
    "backwards": Setup(max_tokens=40, backwards=True),
    "released, one sample at a time, backwards": Setup(
        "aspo-released", "seq-mean-token-mean", max_tokens=1, backwards=True
    ),
    "a replica without samples": Setup(batch="one prompt", aggregation="seq-mean-token-mean"),
    "a replica without unmasked tokens": Setup(batch="half masked", aggregation="seq-mean-token-sum"),
    "nothing to learn from": Setup(batch="all masked"),
}


BROADLY = ("single", "tp2", "dp2", "dp2-distopt", "dp2-tp2")
"""Layouts that go through all setups; the others go through `CORE`, which leaves no rule out."""
CORE = (
    "aspo, token-mean",
    "aspo-released, seq-mean-token-mean",
    "grpo, seq-mean-token-sum-norm",
    "released, one sample at a time, backwards",
    "a replica without samples",
    "a replica without unmasked tokens",
    "nothing to learn from",
)


def setups_of(layout: str) -> Sequence[str]:
    return tuple(SETUPS) if layout in BROADLY else CORE


@dataclass
class Outcome:
    """Two updates: their figures, their gradients, and the weights after them."""

    results: list[UpdateResult] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def make_batch(name: str, folder: Path) -> list[list[Sample]]:
    """Groups whose ratios lie on both sides of every bound, with random holes in the masks.

    Where a token is masked its log-probs are infinite: it must not be felt.
    """
    groups = make_groups(BATCHES[name])
    generator = np.random.default_rng(3)
    for sample, log_probs, _ in hf_outputs(folder, groups):
        size = len(sample.response_ids)
        sample.response_mask = (generator.random(size) < 0.8) | (size < 3)
        # Whole responses without a token that counts.
        if name == "all masked" or (name == "half masked" and sample.group == 0) or (name == "full" and size == 12):
            sample.response_mask[:] = False

        def shifted(std: float, of: Tensor = log_probs, mask: Any = sample.response_mask) -> Any:
            values = of.numpy() + generator.normal(0.0, std, len(of))
            return np.where(mask, values, -np.inf).astype(np.float32)

        sample.old_log_probs, sample.ref_log_probs, sample.rollout_log_probs = shifted(1.0), shifted(0.5), shifted(0.1)
    return groups


def hf_outputs(
    folder: Path, groups: Sequence[Sequence[Sample]], model: Any = None
) -> list[tuple[Sample, Tensor, Tensor]]:
    """Each sample with its log-probs and entropy, by Hugging Face."""
    model = model or AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    outputs = []
    for sample in (sample for group in groups for sample in group):
        tokens = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.response_ids]))
        logits = model(tokens[None]).logits[0, len(sample.prompt_ids) - 1 : -1]
        log_p = torch.log_softmax(logits / TEMPERATURE, dim=-1)
        log_probs = log_p.gather(1, torch.from_numpy(sample.response_ids)[:, None]).squeeze(1)
        outputs.append((sample, log_probs, -(log_p.exp() * log_p).sum(-1)))
    return outputs


def run_rank(name: str, folder: Path, batches: dict[str, list[list[Sample]]]) -> dict[str, Outcome]:
    """One rank's outcome of the layout's setups; each begins with the folder's weights."""
    layout = LAYOUTS[name]
    with process_grid(layout, PLATFORM, seed=1) as topology:
        outcomes = {}
        for setup_name in setups_of(name):
            setup = SETUPS[setup_name]
            model = load(folder, topology)
            optimizer = Optimizer(model, OPTIMIZER, 10, distributed_optimizer=layout.distributed_optimizer)
            groups = batches[setup.batch]
            if setup.backwards:
                groups = [group[::-1] for group in groups[::-1]]
            outcome = Outcome()
            for _ in range(2):
                outcome.results.append(
                    update(
                        model,
                        optimizer,
                        groups[topology.dp_rank :: topology.dp],
                        Objective(losses.build(setup.loss, LOSSES[setup.loss]), setup.config),
                        aggregation_of(setup.config, MAX_RESPONSE_TOKENS),
                        PassLimits(setup.max_tokens, log_prob_chunk=16, temperature=TEMPERATURE),
                    )
                )
                if not outcome.results[-1].skipped:
                    outcome.gradients.append(hf_gradients(model, optimizer, layout))
            outcome.weights = hf_weights(model)
            outcomes[setup_name] = outcome
        return outcomes


Outcomes = Callable[[str], list[dict[str, Outcome]]]


@pytest.fixture(scope="module")
def folder(folders: dict[str, Path]) -> Path:
    return folders["llama-tied"]


@pytest.fixture(scope="module")
def batches(folder: Path) -> dict[str, list[list[Sample]]]:
    return {name: make_batch(name, folder) for name in BATCHES}


@pytest.fixture(scope="module")
def outcomes(ranks: Ranks, folder: Path, batches: dict[str, list[list[Sample]]]) -> Outcomes:
    """All ranks' outcomes in a layout, each with every setup; computed once."""

    @once
    def run(layout: str) -> list[dict[str, Outcome]]:
        return ranks.run(LAYOUTS[layout].world_size, run_rank, layout, folder, batches)

    return run


def assert_same(got: Outcome, want: Outcome) -> None:
    for result, expected in zip(got.results, want.results, strict=True):
        assert result.skipped == expected.skipped
        assert result.lr == expected.lr
        assert result.loss == pytest.approx(expected.loss, rel=1e-5, abs=1e-6)
        assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
        assert result.stats == pytest.approx(expected.stats, rel=1e-5, abs=1e-6)
    for gradients, expected_gradients in zip(got.gradients, want.gradients, strict=True):
        assert_gradients(gradients, expected_gradients)
    assert got.weights.keys() == want.weights.keys()
    assert max(float((got.weights[name] - want.weights[name]).abs().max()) for name in want.weights) <= 1e-6


def assert_gradients(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    errors = {name: float((got[name] - want[name]).abs().max() / want[name].abs().max()) for name in want}
    assert {name: error for name, error in errors.items() if not error <= 2e-5} == {}


@pytest.mark.parametrize(
    ("layout", "setup"), [(layout, setup) for layout in LAYOUTS if layout != "single" for setup in setups_of(layout)]
)
def test_layouts_agree(outcomes: Outcomes, layout: str, setup: str) -> None:
    (single,) = outcomes("single")
    for rank in outcomes(layout):
        assert_same(rank[setup], single[setup])


@pytest.mark.parametrize("layout", BROADLY)
@pytest.mark.parametrize(
    ("setup", "base"),
    [
        ("one micro-batch", "aspo, token-mean"),
        ("one sample at a time", "aspo, token-mean"),
        ("backwards", "aspo, token-mean"),
        ("released, one sample at a time, backwards", "aspo-released, seq-mean-token-mean"),
    ],
)
def test_cuts_and_orders_agree(outcomes: Outcomes, layout: str, setup: str, base: str) -> None:
    for rank in outcomes(layout):
        assert_same(rank[setup], rank[base])


def aggregate(values: Sequence[Tensor], masks: Sequence[Tensor], mode: Aggregation) -> Tensor:
    """One number from the per-token losses of each response, as the names of the modes say."""
    pairs = [(value[mask], mask) for value, mask in zip(values, masks, strict=True) if mask.any()]
    match mode:
        case "token-mean":
            return torch.cat([value for value, _ in pairs]).mean()
        case "seq-mean-token-mean":
            return torch.stack([value.mean() for value, _ in pairs]).mean()
        case "seq-mean-token-sum":
            return torch.stack([value.sum() for value, _ in pairs]).mean()
        case _:
            return torch.stack([value.sum() / MAX_RESPONSE_TOKENS for value, _ in pairs]).mean()


@pytest.mark.parametrize("name", [name for name in SETUPS if name != "nothing to learn from"])
def test_against_hugging_face(
    outcomes: Outcomes, folder: Path, batches: dict[str, list[list[Sample]]], name: str
) -> None:
    """Loss, gradients (after clipping) and their norm (before) of the first update."""
    setup = SETUPS[name]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    loss = losses.build(setup.loss, LOSSES[setup.loss])
    values, masks = [], []
    for sample, log_probs, entropy in hf_outputs(folder, batches[setup.batch], model):
        mask = torch.from_numpy(sample.response_mask)
        output = loss(
            log_probs,
            torch.tensor(sample.old_log_probs),
            torch.full_like(log_probs, sample.advantage),
            mask,
            entropy=entropy.detach(),
            cu_seqlens=torch.tensor([0, len(log_probs)]),
        )
        divergence = kl.estimate("k3", log_probs, torch.tensor(sample.ref_log_probs), mask=mask)
        values.append(output.per_token + 0.05 * divergence - 0.01 * entropy)
        masks.append(mask)
    total = aggregate(values, masks, setup.aggregation)
    total.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    norm = math.sqrt(sum(float(grad.double().square().sum()) for grad in gradients.values()))

    (single,) = outcomes("single")
    result = single[name].results[0]
    assert not result.skipped
    assert result.loss == pytest.approx(float(total.detach()), rel=1e-5, abs=1e-6)
    assert result.grad_norm == pytest.approx(norm, rel=1e-5)
    clipped = min(1.0, OPTIMIZER.clip_grad / norm)
    assert_gradients(single[name].gradients[0], {key: grad * clipped for key, grad in gradients.items()})


def test_batch_exercises_every_rule(outcomes: Outcomes) -> None:
    """Or else the agreement above would prove little: each clip acts, and gradients are clipped in some setups."""
    (single,) = outcomes("single")
    for loss in LOSSES:
        stats = single[f"{loss}, token-mean"].results[0].stats
        rules = ("clip/pos_high", "clip/pos_low", "clip/neg_low", "clip/neg_high", "clip/dual")
        assert all(0.05 < stats[rule] < 0.95 for rule in rules), stats
    norms = {name: outcome.results[0].grad_norm for name, outcome in single.items()}
    assert norms["aspo, seq-mean-token-sum"] > OPTIMIZER.clip_grad > norms["aspo, seq-mean-token-sum-norm"]
    gradients = [single[name].gradients[0]["model.norm.weight"] for name in SETUPS if "," in name][:12]
    distinct = {tuple(gradient.tolist()) for gradient in gradients}
    assert len(distinct) == 12
    first, second = (result.loss for result in single["aspo, token-mean"].results)
    assert abs(first - second) > 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_to_learn_from_is_a_skipped_update(outcomes: Outcomes, folder: Path, layout: str) -> None:
    weights = load_file(folder / "model.safetensors")
    for rank in outcomes(layout):
        outcome = rank["nothing to learn from"]
        for result in outcome.results:
            assert result == UpdateResult(loss=0.0, grad_norm=0.0, lr=0.0, skipped=True, stats={})
        assert all(torch.equal(outcome.weights[name], weights[name]) for name in weights)


def test_skipped_update_leaves_the_optimizer_as_it_was(ranks: Ranks, folder: Path, batches: Any) -> None:
    """An update after a skipped one is the one that would have been without it."""
    both, alone = (
        ranks.run(1, updates_in_a_row, folder, [batches[name] for name in names])[0]
        for names in (("all masked", "full"), ("full",))
    )
    assert both.keys() == alone.keys()
    assert all(torch.equal(both[name], alone[name]) for name in both)


def updates_in_a_row(folder: Path, batches: Sequence[list[list[Sample]]]) -> dict[str, Tensor]:
    setup = replace(SETUPS["aspo, token-mean"])
    with process_grid(ParallelConfig(), PLATFORM, seed=1) as topology:
        model = load(folder, topology)
        warming_up = OPTIMIZER.model_copy(update={"warmup_updates": 3})
        optimizer = Optimizer(model, warming_up, 10, distributed_optimizer=False)
        for groups in batches:
            update(
                model,
                optimizer,
                groups,
                Objective(losses.build("aspo", {}), setup.config),
                aggregation_of(setup.config, MAX_RESPONSE_TOKENS),
                PassLimits(30, log_prob_chunk=16, temperature=TEMPERATURE),
            )
        return hf_weights(model)
