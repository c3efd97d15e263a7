"""The matrix: an update is the same however it is packed and spread over ranks (the loss-scale contract).

Here a choice of layouts goes through many losses, batches and options; in test_every_layout.py all go through one.

Everywhere: loss, gradient norm, every gradient, every logged figure, and the weights after two updates.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from thorough import some_of
from torch import Tensor
from transformers import AutoModelForCausalLM

from aspo_megatron import losses
from aspo_megatron.config import LossConfig, OptimizerConfig, ParallelConfig, PlatformConfig
from aspo_megatron.config.words import Aggregation, KlTokens, ModelDtype, Recompute, RolloutCorrection
from aspo_megatron.data.samples import Sample
from aspo_megatron.losses import kl
from aspo_megatron.models.hf_names import by_checkpoint_name
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.passes import PassLimits
from aspo_megatron.parallel.update.step import UpdateResult, aggregation_of, update
from distributed import Ranks, once

from .conftest import MatrixRow
from .layouts import LAYOUTS, PLATFORM, Layout, hf_gradients, hf_weights, load, relative
from .samples import make_groups

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

LOSSES: dict[str, dict[str, Any]] = {"aspo": {}, "aspo-released": {}, "grpo": {"dual_clip": 3.0}}
RIVALS: dict[str, dict[str, Any]] = {
    "aspo-without-dual-clip": {},
    "ce-gppo": {},
    "cispo": {},
    "clip-cov": {"share": 0.2, "cov_low": 0.1},
    "cppo": {},
    "dapo": {},
    "dppo-kl": {},
    "dppo-tv": {},
    "drpo": {"delta": 0.5},
    "gmpo": {},
    "grpo-response-mean": {},
    "grpo-without-is": {},
    "gspo": {"eps_low": 0.2, "eps_high": 0.2},
    "kl-cov": {"share": 0.2},
    "luspo": {"eps_low": 0.2, "eps_high": 0.2},
    "m2po": {"budget": 0.5},
    "ppo-dual-clip": {},
    "sapo": {},
    "topr": {},
    "up": {},
    "vespo": {},
}
CORRECTIONS: dict[RolloutCorrection, tuple[float | None, float]] = {
    "none": (None, 1.0),
    "tis": (None, 1.2),
    "icepop": (0.5, 2.0),
    "kpop": (None, 0.05),
    "sequence-tis": (None, 1.2),
    "sequence-mask": (0.2, 5.0),
    "geometric-mask": (0.7, 1.4),
    "k3-mask": (None, 0.5),
}
"""Bounds that keep some tokens of the batches, and not others."""
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
OPTIMIZER = OptimizerConfig(
    lr=4e-4, min_lr=1e-4, warmup_updates=1, schedule="linear", eps=1e-4, weight_decay=0.1, clip_grad=4.0
)


@dataclass(frozen=True)
class Setup:
    """What is trained on, and how a replica's share is cut up: token budget, order of samples."""

    loss: str = "aspo"
    aggregation: Aggregation = "token-mean"
    batch: str = "full"
    max_tokens: int = 45
    backwards: bool = False
    router_aux_coef: float = 0.0
    kl_tokens: KlTokens = "all"
    rollout_correction: RolloutCorrection = "none"
    on_policy: bool = False

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return (LOSSES | RIVALS)[self.loss]

    @property
    def config(self) -> LossConfig:
        return LossConfig(
            name=self.loss,
            aggregation=self.aggregation,
            kl_coef=0.05,
            kl_tokens=self.kl_tokens,
            rollout_correction=self.rollout_correction,
            rollout_ratio_min=CORRECTIONS[self.rollout_correction][0],
            rollout_ratio_max=CORRECTIONS[self.rollout_correction][1],
            entropy_coef=0.01,
            router_aux_coef=self.router_aux_coef,
            **self.hyperparameters,
        )


SETUPS = {
    **{f"{loss}, {mode}": Setup(loss, mode) for loss in LOSSES for mode in AGGREGATIONS},
    **{f"{loss}, token-mean": Setup(loss) for loss in RIVALS},
    "low-entropy KL, truncated importance sampling": Setup(kl_tokens="low-entropy", rollout_correction="tis"),
    **{f"corrected by {kind}": Setup(rollout_correction=kind) for kind in CORRECTIONS if kind not in ("none", "tis")},
    "on-policy": Setup("aspo-released", rollout_correction="tis", on_policy=True),
    "one micro-batch": Setup(max_tokens=10_000),
    "one sample at a time": Setup(max_tokens=1),
    "backwards": Setup(max_tokens=40, backwards=True),
    "released, one sample at a time, backwards": Setup(
        "aspo-released", "seq-mean-token-mean", max_tokens=1, backwards=True
    ),
    "a replica without samples": Setup(batch="one prompt", aggregation="seq-mean-token-mean"),
    "a replica without unmasked tokens": Setup(batch="half masked", aggregation="seq-mean-token-sum"),
    "a replica without samples, of a loss that selects": Setup("m2po", batch="one prompt"),
    "a replica without unmasked tokens, of a loss that selects": Setup("kl-cov", batch="half masked"),
    "nothing to learn from": Setup(batch="all masked"),
    # The load-balancing loss is one of each micro-batch: the same for the same micro-batches only.
    "router loss, one sample at a time": Setup(max_tokens=1, router_aux_coef=0.5),
}


BROADLY = ("tp2-sp", "pp2", "cp2", "dp2-distopt", "cp2-tp2-sp", "pp2-cp2", "moe-tp2-sp-ep2-etp1")
"""Layouts that share all setups, each in two of them, with each kind of parallelism. The others go through `CORE` only:
every rule, and the losses of whole responses, which are the ones that a layout could cut."""
CUT = ("tp2-sp", "dp2-distopt", "pp2-cp2", "moe-tp2-sp-ep2-etp1")
"""Those that go through `CUTS`."""
CORE = (
    "aspo, token-mean",
    "aspo-released, seq-mean-token-mean",
    "grpo, seq-mean-token-sum-norm",
    "gmpo, token-mean",
    "gspo, token-mean",
    "released, one sample at a time, backwards",
    "a replica without samples",
    "a replica without unmasked tokens",
    "nothing to learn from",
)


CUTS = {
    "one micro-batch": "aspo, token-mean",
    "one sample at a time": "aspo, token-mean",
    "backwards": "aspo, token-mean",
    "released, one sample at a time, backwards": "aspo-released, seq-mean-token-mean",
}
"""Setups that differ from another one in nothing but how the batch is cut up and in its order."""
ROUTER_LOSS = "router loss, one sample at a time"
EXPERTS = ("aspo, token-mean", "a replica without samples", "nothing to learn from", ROUTER_LOSS)
"""What rows with experts go through. (Where a rounding decides which experts a token goes to, rows could not agree; the
tokens of these batches are far enough from that.)"""


FP32 = [name for name, row in LAYOUTS.items() if row.dtype == "float32"]
BF16 = [name for name, row in LAYOUTS.items() if row.dtype == "bfloat16"]
IN_BF16 = ("aspo, token-mean", "aspo-released, seq-mean-token-mean")


OF_OTHERS = (
    *("tp2", "tp3", "dp2", "dp3-distopt", "dp2-tp2", "dp2-overlap", "dp2-pp2-overlap", "pp2-vpp2", "pp3", "pp2-tp2-sp"),
    *("recompute-full", "recompute-selective", "cp2-recompute-selective", "tp2-sp-recompute-full"),
    *("moe-dp2", "moe-dp2-ep2", "moe-dp2-ep2-overlap", "moe-dp2-ep2-recompute-selective"),
    *("dp2-tp2-distopt-overlap", "moe-tp2-sp-etp1-overlap"),
)
"""Layouts whose options others have together, or test_every_layout.py has."""


def setups_of(layout: str) -> Sequence[str]:
    """Those that a layout goes through; one process goes through all that its layouts do."""
    if layout == "single":
        return tuple(SETUPS)
    if layout in BF16:
        return IN_BF16
    own = set(EXPERTS if LAYOUTS[layout].model == "qwen3-moe" else CORE)
    for turn, name in enumerate(BROADLY):
        if layout in (name, LAYOUTS[name].single):
            own |= {*CORE, *(setup for number, setup in enumerate(SETUPS) if (number - turn) % len(BROADLY) < 2)}
    if any(layout in (name, LAYOUTS[name].single) for name in CUT):
        own |= set(CUTS)
    return tuple(setup for setup in SETUPS if setup in own)


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


def run_rank(
    name: str, folder: Path, batches: dict[str, list[list[Sample]]], platform: PlatformConfig
) -> dict[str, Outcome]:
    """One rank's outcome of the layout's setups; each begins with the folder's weights."""
    row = LAYOUTS[name]
    with process_grid(row.parallel, platform, seed=1) as topology:
        setups = {setup: SETUPS[setup] for setup in setups_of(name)}
        return {key: two_updates(topology, row, folder, batches[setup.batch], setup) for key, setup in setups.items()}


def two_updates(topology: Topology, row: Layout, folder: Path, groups: list[list[Sample]], setup: Setup) -> Outcome:
    """This rank's outcome of a setup, which begins with the folder's weights."""
    model = load(folder, topology, row=row)
    optimizer = Optimizer(model, OPTIMIZER, 3, row.parallel)
    if setup.backwards:
        groups = [group[::-1] for group in groups[::-1]]
    outcome = Outcome()
    for _ in range(2):
        outcome.results.append(
            update(
                model,
                optimizer,
                groups[topology.dp.rank :: topology.dp.size],
                PolicyObjective(losses.build(setup.loss, setup.hyperparameters), setup.config, setup.on_policy),
                aggregation_of(setup.config, MAX_RESPONSE_TOKENS),
                PassLimits(setup.max_tokens, log_prob_chunk=16, temperature=TEMPERATURE),
                setup.router_aux_coef,
            )
        )
        if not outcome.results[-1].skipped:
            outcome.gradients.append(hf_gradients(model, optimizer))
    outcome.weights = hf_weights(model)
    return outcome


Outcomes = Callable[..., list[dict[str, Outcome]]]


Batches = Callable[[str], dict[str, list[list[Sample]]]]


@pytest.fixture(scope="module")
def folder(folders: dict[str, Path]) -> Path:
    return folders["llama-tied"]


@pytest.fixture(scope="module")
def batches(folders: dict[str, Path]) -> Batches:
    """All batches for a model, by name."""

    @functools.cache
    def make(model: str) -> dict[str, list[list[Sample]]]:
        return {name: make_batch(name, folders[model]) for name in BATCHES}

    return make


@pytest.fixture(scope="module")
def outcomes(ranks: Ranks, folders: dict[str, Path], batches: Batches) -> Outcomes:
    """All ranks' outcomes in a layout, each with every setup; computed once."""

    @once
    def run(layout: str, platform: PlatformConfig = PLATFORM) -> list[dict[str, Outcome]]:
        row = LAYOUTS[layout]
        return ranks.run_within(
            220.0, row.parallel.world_size, run_rank, layout, folders[row.model], batches(row.model), platform
        )

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


def differences(got: Outcome, want: Outcome) -> tuple[float, float]:
    """Worst difference of a gradient, relative to its parameter's largest, and of a weight."""
    gradients = [
        relative(ours[name], theirs[name])
        for ours, theirs in zip(got.gradients, want.gradients, strict=True)
        for name in theirs
    ]
    weights = [float((got.weights[name] - want.weights[name]).abs().max()) for name in want.weights]
    return max(gradients, default=0.0), max(weights)


def assert_gradients(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    errors = {name: relative(got[name], want[name]) for name in want}
    assert {name: error for name, error in errors.items() if not error <= 2e-5} == {}


AGREEING = [(layout, setup) for layout in FP32 if layout != LAYOUTS[layout].single for setup in setups_of(layout)]


@pytest.mark.parametrize(
    ("layout", "setup"),
    some_of(AGREEING, [case for case in AGREEING if case[0] not in OF_OTHERS]),
)
def test_layouts_agree(outcomes: Outcomes, matrix_row: MatrixRow, layout: str, setup: str) -> None:
    (single,) = outcomes(LAYOUTS[layout].single)
    for rank in outcomes(layout):
        matrix_row(layout, *differences(rank[setup], single[setup]))
        assert_same(rank[setup], single[setup])


@pytest.mark.parametrize(("layout", "setup"), [(layout, setup) for layout in BF16 for setup in IN_BF16])
def test_bf16_layouts_are_as_near_to_fp32_as_one_process(
    outcomes: Outcomes, matrix_row: MatrixRow, layout: str, setup: str
) -> None:
    """The tolerance is measured: rounding to bf16 on one process moves gradients so far, a layout twice that at most.

    A layout rounds other partial sums than one process, as often and as much: its error is as large, not the same.
    Errors are root mean squares over all of a parameter's gradient, relative to the gradient's.
    """
    exact = outcomes("single")[0][setup]
    own_error = rms_errors(outcomes("bf16")[0][setup], exact)
    for rank in outcomes(layout):
        errors = rms_errors(rank[setup], exact)
        matrix_row(layout, max(errors.values()), float("nan"))
        assert {name: error for name, error in errors.items() if not error <= 2 * own_error[name]} == {}
        assert rank[setup].results[0].grad_norm == pytest.approx(exact.results[0].grad_norm, rel=0.02)


def rms_errors(got: Outcome, exact: Outcome) -> dict[str, float]:
    """Of the first update's gradients, before clipping."""
    scale = got.results[0].grad_norm / exact.results[0].grad_norm
    return {
        name: float((got.gradients[0][name] * scale - gradient).norm() / gradient.norm())
        for name, gradient in exact.gradients[0].items()
    }


GPUS = torch.cuda.device_count()


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [name for name, row in LAYOUTS.items() if row.parallel.world_size <= 2])
def test_gpus(outcomes: Outcomes, layout: str) -> None:
    """The same rows on GPUs, against one process without one."""
    row = LAYOUTS[layout]
    if row.parallel.world_size > GPUS:
        pytest.skip(f"{layout}: needs {row.parallel.world_size} GPUs, {GPUS} found")
    platform = PLATFORM.model_copy(update={"device": "cuda"})
    setup = "aspo, token-mean"
    (single,) = outcomes(row.single)
    exact = outcomes("moe" if row.model == "qwen3-moe" else "single")[0][setup]
    for rank in outcomes(layout, platform):
        if row.dtype == "float32":
            assert_same(rank[setup], single[setup])
        else:
            own_error, errors = rms_errors(single[setup], exact), rms_errors(rank[setup], exact)
            assert {name: error for name, error in errors.items() if not error <= 2 * own_error[name]} == {}


@pytest.mark.parametrize("layout", CUT)
@pytest.mark.parametrize(("setup", "base"), CUTS.items())
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


@pytest.mark.parametrize(
    ("row", "name"),
    [
        *(("single", name) for name in SETUPS if name not in ("nothing to learn from", ROUTER_LOSS)),
        ("moe", "aspo, token-mean"),
        ("moe", ROUTER_LOSS),
    ],
)
def test_against_hugging_face(
    outcomes: Outcomes, folders: dict[str, Path], batches: Batches, row: str, name: str
) -> None:
    """Loss, gradients (after clipping) and their norm (before) of the first update."""
    setup, model = SETUPS[name], LAYOUTS[row].model
    (single,) = outcomes(row)
    assert_as_hugging_face(single[name], folders[model], batches(model)[setup.batch], setup)


def assert_as_hugging_face(outcome: Outcome, folder: Path, batch: list[list[Sample]], setup: Setup) -> None:
    """The first update's loss, gradients (after clipping) and their norm (before)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    loss = losses.build(setup.loss, setup.hyperparameters)
    values, masks = [], []
    outputs = hf_outputs(folder, batch, model)
    selected = selection(loss, outputs)
    for sample, log_probs, entropy in outputs:
        mask = torch.from_numpy(sample.response_mask)
        old_log_probs = log_probs.detach() if setup.on_policy else torch.tensor(sample.old_log_probs)
        output = loss(
            log_probs,
            old_log_probs,
            torch.full_like(log_probs, sample.advantage),
            mask,
            entropy=entropy.detach(),
            cu_seqlens=torch.tensor([0, len(log_probs)]),
            selected=selected[id(sample)],
        )
        divergence = kl.estimate_kl("k3", log_probs, torch.tensor(sample.ref_log_probs), mask=mask)
        if setup.kl_tokens == "low-entropy" and mask.any():
            divergence = divergence * (entropy <= torch.quantile(entropy[mask], 0.8))
        old, engine = (
            each.double().where(mask, 0.0) for each in (old_log_probs, torch.tensor(sample.rollout_log_probs))
        )
        weights = correction(setup.rollout_correction, old, engine, mask)
        values.append(weights * output.per_token + 0.05 * divergence - 0.01 * entropy)
        masks.append(mask)
    total = aggregate(values, masks, setup.aggregation)
    balance = 0.5 * balancing_loss(model, batch) if setup.router_aux_coef else torch.zeros(())
    (total + balance).backward()
    gradients = dict(by_checkpoint_name((key, parameter.grad) for key, parameter in model.named_parameters()))
    norm = math.sqrt(sum(float(grad.double().square().sum()) for grad in gradients.values()))

    result = outcome.results[0]
    assert not result.skipped
    assert result.loss == pytest.approx(float(total.detach()), rel=1e-5, abs=1e-6)
    assert result.grad_norm == pytest.approx(norm, rel=1e-5)
    clipped = min(1.0, OPTIMIZER.clip_grad / norm)
    assert_gradients(outcome.gradients[0], {key: grad * clipped for key, grad in gradients.items()})


def selection(loss: losses.Loss, outputs: Sequence[tuple[Sample, Tensor, Tensor]]) -> dict[int, Tensor]:
    """What the first update of a run selects of each sample; the samples are in the order of their groups."""
    masks = [torch.from_numpy(sample.response_mask) for sample, _, _ in outputs]
    rows = []
    for sample, log_probs, _ in outputs:
        assert sample.old_log_probs is not None
        rows.append(np.stack([log_probs.detach(), sample.old_log_probs, np.full(len(log_probs), sample.advantage)]))
    tokens = np.concatenate(rows, axis=1).astype(np.float64)[:, torch.cat(masks).numpy()]
    chosen = torch.zeros(sum(len(mask) for mask in masks), dtype=torch.bool)
    chosen[torch.cat(masks)] = torch.from_numpy(
        loss.select(losses.UpdateTokens(tokens[0], tokens[1], tokens[2], seed=1))
    )
    parts = chosen.split([len(mask) for mask in masks])
    return {id(sample): part for (sample, _, _), part in zip(outputs, parts, strict=True)}


def correction(kind: RolloutCorrection, old: Tensor, engine: Tensor, mask: Tensor) -> Tensor:
    """Weights of one response's tokens, by `CORRECTIONS`; the log-probs are 0 where the mask is False."""
    least, most = CORRECTIONS[kind][0] or 0.0, CORRECTIONS[kind][1]
    ratio, count = (old - engine).exp(), max(1, int(mask.sum()))
    product = ratio.prod()
    root = product ** (1 / count)
    p, q = old.exp(), engine.exp()
    mean_k3 = (ratio - 1 - ratio.log()).sum() / count
    weights = {
        "none": torch.ones_like(ratio),
        "tis": ratio.clamp(max=most),
        "icepop": ratio * ((ratio >= least) & (ratio <= most)),
        "kpop": ((coins(p, q) <= most) & (coins(q, p) <= most)).double(),
        "sequence-tis": product.clamp(max=most).expand_as(ratio),
        "sequence-mask": ((product >= least) & (product <= most)).double().expand_as(ratio),
        "geometric-mask": ((root >= least) & (root <= most)).double().expand_as(ratio),
        "k3-mask": (mean_k3 <= most).double().expand_as(ratio),
    }
    return torch.where(mask, weights[kind], 1.0).float()


def coins(p: Tensor, q: Tensor) -> Tensor:
    """KL between two outcomes, one of them with these probabilities."""
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def balancing_loss(model: Any, groups: Sequence[Sequence[Sample]]) -> Tensor:
    """Switch Transformer's, of each sample alone; mean over samples weighted by their tokens, summed over layers.

    From the routers' inputs and weights: what transformers 5.0 calls `router_logits` are probabilities.
    """
    all_logits: list[Tensor] = []

    def note(gate: Any, inputs: tuple[Tensor], _: Any) -> None:
        all_logits.append(torch.nn.functional.linear(inputs[0].flatten(0, -2), gate.weight))

    hooks = [layer.mlp.gate.register_forward_hook(note) for layer in model.model.layers]
    total, tokens = torch.zeros(()), 0
    for sample in (sample for group in groups for sample in group):
        ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.response_ids[:-1]]))
        all_logits.clear()
        model(ids[None])
        assert len(all_logits) == model.config.num_hidden_layers
        for logits in all_logits:
            probs = torch.softmax(logits, dim=-1)
            chosen = torch.zeros_like(probs).scatter(1, probs.topk(model.config.num_experts_per_tok).indices, 1.0)
            share = chosen.mean(dim=0) / model.config.num_experts_per_tok
            total = total + len(ids) * probs.size(1) * (share * probs.mean(dim=0)).sum()
        tokens += len(ids)
    for hook in hooks:
        hook.remove()
    return total / tokens


def test_every_loss_and_aggregation_is_in_the_matrix() -> None:
    assert LOSSES.keys() | RIVALS.keys() == set(losses.names()), "every registered loss is in RIVALS, or in LOSSES"
    assert set(AGGREGATIONS) == set(get_args(Aggregation))
    assert {setup.aggregation for setup in SETUPS.values()} == set(get_args(Aggregation))
    assert {setup.kl_tokens for setup in SETUPS.values()} == set(get_args(KlTokens))
    assert {setup.rollout_correction for setup in SETUPS.values()} == set(get_args(RolloutCorrection))


def test_every_setup_goes_through_two_layouts() -> None:
    through = {setup: [name for name in BROADLY if setup in setups_of(name)] for setup in SETUPS}
    assert {setup: names for setup, names in through.items() if len(names) < 2} == {}


def test_every_dtype_and_recomputation_is_in_the_matrix() -> None:
    assert {row.dtype for row in LAYOUTS.values()} == set(get_args(ModelDtype))
    assert {row.recompute for row in LAYOUTS.values()} == set(get_args(Recompute))


def test_corrections_keep_some_tokens_and_drop_others(outcomes: Outcomes) -> None:
    (single,) = outcomes("single")
    plain = single["aspo, token-mean"].gradients[0]["model.norm.weight"]
    for kind in CORRECTIONS:
        if f"corrected by {kind}" in SETUPS:
            outcome = single[f"corrected by {kind}"]
            assert 0.05 < outcome.results[0].stats["rollout_correction/weight"] < 0.97, kind
            assert not torch.allclose(outcome.gradients[0]["model.norm.weight"], plain, rtol=1e-3), kind


def test_losses_that_select_choose_some_tokens(outcomes: Outcomes) -> None:
    (single,) = outcomes("single")
    for loss in ("clip-cov", "m2po"):
        assert 0.02 < single[f"{loss}, token-mean"].results[0].stats["clip/fraction"] < 0.9, loss
    held, free = (single[f"{loss}, token-mean"].gradients[0]["model.norm.weight"] for loss in ("kl-cov", "drpo"))
    assert not torch.allclose(held, free, rtol=1e-3)


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


@pytest.mark.parametrize("layout", some_of(FP32, [layout for layout in FP32 if layout not in OF_OTHERS]))
def test_nothing_to_learn_from_is_a_skipped_update(outcomes: Outcomes, folders: dict[str, Path], layout: str) -> None:
    weights = load_file(folders[LAYOUTS[layout].model] / "model.safetensors")
    for rank in outcomes(layout):
        outcome = rank["nothing to learn from"]
        for result in outcome.results:
            assert result == UpdateResult(loss=0.0, grad_norm=0.0, lr=0.0, skipped=True, stats={})
        assert all(torch.equal(outcome.weights[name], weights[name]) for name in weights)


def test_skipped_update_leaves_the_optimizer_as_it_was(ranks: Ranks, folder: Path, batches: Batches) -> None:
    """An update after a skipped one is the one that would have been without it."""
    both, alone = (
        ranks.run(1, updates_in_a_row, folder, [batches("llama-tied")[name] for name in names])[0]
        for names in (("all masked", "full"), ("full",))
    )
    assert both.keys() == alone.keys()
    assert all(torch.equal(both[name], alone[name]) for name in both)


def updates_in_a_row(folder: Path, batches: Sequence[list[list[Sample]]]) -> dict[str, Tensor]:
    setup = replace(SETUPS["aspo, token-mean"])
    with process_grid(ParallelConfig(), PLATFORM, seed=1) as topology:
        model = load(folder, topology)
        warming_up = OPTIMIZER.model_copy(update={"warmup_updates": 3})
        optimizer = Optimizer(model, warming_up, 10, ParallelConfig())
        for groups in batches:
            update(
                model,
                optimizer,
                groups,
                PolicyObjective(losses.build("aspo", {}), setup.config),
                aggregation_of(setup.config, MAX_RESPONSE_TOKENS),
                PassLimits(30, log_prob_chunk=16, temperature=TEMPERATURE),
            )
        return hf_weights(model)
