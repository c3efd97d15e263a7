"""Updates of a tiny model in this very process: the matrix of test_step.py in small, for the tests of each change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aspo_megatron import losses
from aspo_megatron.config import LossConfig, ModelConfig, OptimizerConfig, ParallelConfig, RunConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.losses.base import Stat
from aspo_megatron.parallel.grid.topology import Axis, Topology, process_grid
from aspo_megatron.parallel.log_prob import triton_ops
from aspo_megatron.parallel.model.micro_batch import MicroBatch
from aspo_megatron.parallel.model.pipeline_stages import _in_order
from aspo_megatron.parallel.update.micro_batches import PlannedGroups, micro_batches_of
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.passes import PassLimits, token_outputs
from aspo_megatron.parallel.update.selection import select_tokens
from aspo_megatron.parallel.update.statistics import StepStatistics
from aspo_megatron.parallel.update.step import aggregation_of, update
from aspo_megatron.train.learner import Learner
from tiny_models import llama_folder, qwen3_folder

from .layouts import PLATFORM, TRITON, Layout, load
from .samples import make_groups
from .test_step import (
    MAX_RESPONSE_TOKENS,
    OPTIMIZER,
    SETUPS,
    TEMPERATURE,
    assert_as_hugging_face,
    hf_outputs,
    make_batch,
    two_updates,
)

LIMITS = PassLimits(45, log_prob_chunk=16, temperature=TEMPERATURE)


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with process_grid(ParallelConfig(), PLATFORM, seed=1) as grid:
        yield grid


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("llama"), tied=True)


@pytest.fixture(scope="module")
def batch(folder: Path) -> list[list[Sample]]:
    return make_batch("full", folder)


@pytest.mark.parametrize(
    "name",
    [
        *("aspo, token-mean", "grpo, seq-mean-token-sum-norm", "low-entropy KL, truncated importance sampling"),
        *("kl-cov, token-mean", "on-policy"),
    ],
)
def test_an_update_is_that_of_hugging_face(
    topology: Topology, folder: Path, batch: list[list[Sample]], name: str
) -> None:
    """Several micro-batches; a loss whose gradient is made chunk by chunk, and others."""
    outcome = two_updates(topology, Layout(), folder, batch, SETUPS[name])
    assert_as_hugging_face(outcome, folder, batch, SETUPS[name])
    assert [result.lr for result in outcome.results] == [
        OPTIMIZER.lr,
        pytest.approx(OPTIMIZER.min_lr + (OPTIMIZER.lr - OPTIMIZER.min_lr) * 2 / 3),
    ]


def make_update(model: Any, optimizer: Optimizer, groups: list[list[Sample]], max_tokens: int) -> Any:
    config = SETUPS["aspo, token-mean"].config
    objective = PolicyObjective(losses.build("aspo", {}), config)
    limits = replace(LIMITS, max_tokens=max_tokens)
    return update(model, optimizer, groups, objective, aggregation_of(config, MAX_RESPONSE_TOKENS), limits)


def test_an_update_whose_logits_are_worked_on_by_triton(
    topology: Topology, folder: Path, batch: list[list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `model.kernels.log_prob=triton` asks for on a CPU, of the shortest group."""
    sums, tokens, norms = triton_ops.token_sums, list[int](), list[float]()

    def counted(logits: torch.Tensor, *rest: Any) -> None:
        tokens.append(len(logits))
        sums(logits, *rest)

    monkeypatch.setattr(triton_ops, "token_sums", counted)
    group = min(batch, key=lambda group: sum(len(sample.response_ids) for sample in group))
    for row in (Layout(), Layout(kernels=TRITON)):
        assert not tokens
        model = load(folder, topology, row=row)
        optimizer = Optimizer(model, OptimizerConfig(lr=1e-12, clip_grad=0.0), 4, row.parallel)
        norms.append(make_update(model, optimizer, [group], 10_000).grad_norm)
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    assert sum(tokens) == sum(len(sample.response_ids) for sample in group)


@pytest.mark.parametrize("overlap", [False, True])
def test_updates_do_not_feel_each_other(
    topology: Topology, tmp_path: Path, batch: list[list[Sample]], overlap: bool
) -> None:
    """At a rate of next to nothing all have the same gradient, however many micro-batches each has.

    No backward pass announces the gradient of the output projection, which nothing is tied to.
    """
    model = load(llama_folder(tmp_path, tied=False), topology)
    parallel = ParallelConfig(overlap_grad_reduce=overlap)
    optimizer = Optimizer(model, OptimizerConfig(lr=1e-12, clip_grad=0.0), 4, parallel)
    norms = [make_update(model, optimizer, batch, max_tokens).grad_norm for max_tokens in (45, 10_000, 1, 45)]
    assert norms == pytest.approx([norms[0]] * 4, rel=1e-5)


def test_log_probs_and_entropies_are_those_of_hugging_face(topology: Topology, tmp_path: Path) -> None:
    """A head's size is not hidden size over heads, and samples come back in another order than they were given."""
    folder = qwen3_folder(tmp_path, tied=True)
    groups = make_groups([(5, (1, 2, 9, 14)), (1, (4,)), (30, (12, 6))])
    wanted = {id(sample): (log_probs, entropy) for sample, log_probs, entropy in hf_outputs(folder, groups)}
    found = list(token_outputs(load(folder, topology), groups, LIMITS))
    assert {id(sample) for sample, _, _ in found} == wanted.keys()
    for sample, *values in found:
        for got, want in zip(values, wanted[id(sample)], strict=True):
            np.testing.assert_allclose(got, want.detach().numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("virtual", "budget", "count"), [(1, 1, 5), (2, 1, 6), (2, 10_000, 2), (1, 10_000, 1)])
def test_micro_batches_of_a_pipeline(topology: Topology, virtual: int, budget: int, count: int) -> None:
    """Under virtual stages a multiple of the stages, filled up with empty ones."""
    groups = make_groups([(5, (1, 2, 9)), (1, (4, 4))])
    pipeline = replace(topology, pp=Axis(2, 0, topology.pp.group), vpp=virtual)
    micro_batches = micro_batches_of(groups, budget, pipeline)
    assert len(micro_batches) == count
    assert sum(len(group) for groups in micro_batches for group in groups) == 5
    assert len(micro_batches_of([], budget, pipeline)) == virtual


@pytest.mark.parametrize("virtual", [1, 2])
def test_order_in_which_stages_receive(virtual: int) -> None:
    """With two stages of two chunks, two micro-batches go through one chunk before they go through the next."""
    place: Any = SimpleNamespace(vpp=virtual, pp=SimpleNamespace(size=2))
    shapes = [(number, 1, 8) for number in (10, 20, 30, 40)]
    order = [10, 20, 10, 20, 30, 40, 30, 40] if virtual == 2 else [10, 20, 30, 40]
    assert [shape[0] for shape in _in_order(shapes, place, without_first_chunk=False)] == order
    rest = [10, 20, 30, 40] if virtual == 2 else []
    assert [shape[0] for shape in _in_order(shapes, place, without_first_chunk=True)] == rest


def test_statistics_of_micro_batches(topology: Topology) -> None:
    """A mean is over all tokens that count, and what stands where nothing counts is not felt."""
    statistics = StepStatistics()
    for values, where in (([1.0, 3.0, math.inf], [1.0, 1.0, 0.0]), ([8.0, math.nan], [2.0, 0.0])):
        stats = {"mean": Stat(torch.tensor(values), torch.tensor(where))}
        statistics.add(stats)
        statistics.add_peaks({"peak": stats["mean"]})
        statistics.add_total("sum", torch.tensor(0.25))
    assert statistics.reduce(topology.dp.group) == {"mean": 5.0, "sum": 0.5, "peak": 8.0}


def test_log_probs_of_policy_and_reference(topology: Topology, folder: Path) -> None:
    """The reference stays what the policy was at first."""
    groups = make_groups([(5, (3, 4))])
    at_first = {id(sample): log_probs for sample, log_probs, _ in hf_outputs(folder, groups)}
    config = RunConfig.model_validate(
        {
            "output_dir": folder / "unused",
            "model": ModelConfig(path=folder, dtype="float32"),
            "data": {"train": {"kind": "jsonl", "path": "unused"}},
            "loss": {"kl_coef": 0.1},
            "rollout": {"prompts_per_step": 2, "sampling": {"temperature": TEMPERATURE}},
            "train": {"prompts_per_update": 1},
        }
    )
    model = load(folder, topology)
    learner = Learner(config, model, lambda _: nullcontext(), print)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    learner.add_log_probs(learner.plan([[], groups]))
    for sample in groups[0]:
        assert sample.old_log_probs is not None
        assert sample.ref_log_probs is not None
        want = at_first[id(sample)].detach().numpy()
        np.testing.assert_allclose(sample.ref_log_probs, want, rtol=0, atol=2e-5)
        assert np.abs(sample.old_log_probs - want).min() > 1e-3


class EveryThird:
    """A loss that chooses every third token of an update; it notes what it is asked."""

    selects = True

    def __init__(self) -> None:
        self.asked: list[losses.UpdateTokens] = []

    def select(self, tokens: losses.UpdateTokens) -> Any:
        self.asked.append(tokens)
        return np.arange(len(tokens.log_probs)) % 3 == 0


@pytest.mark.parametrize("on_policy", [False, True])
def test_a_loss_chooses_among_all_unmasked_tokens_of_an_update(
    topology: Topology, folder: Path, on_policy: bool
) -> None:
    """In the order of the groups' numbers, whatever the order and the micro-batches in which they are given."""
    groups = make_batch("full", folder)
    flat = [sample for group in groups for sample in group]
    wanted = {id(sample): log_probs.detach().numpy() for sample, log_probs, _ in hf_outputs(folder, groups)}
    loss: Any = EveryThird()
    objective = PolicyObjective(loss, LossConfig(), on_policy)
    model = load(folder, topology)
    select_tokens(model, PlannedGroups.of(model, groups[::-1], 30), objective, LIMITS, seed=7)
    (asked,) = loss.asked
    assert asked.seed == 7
    masks = [sample.response_mask for sample in flat]
    log_probs = np.concatenate([wanted[id(sample)][mask] for sample, mask in zip(flat, masks, strict=True)])
    old = np.concatenate([sample.old_log_probs[mask] for sample, mask in zip(flat, masks, strict=True)])  # type: ignore[index]
    np.testing.assert_allclose(asked.log_probs, log_probs, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(asked.old_log_probs, asked.log_probs if on_policy else old)
    advantages = np.concatenate([np.full(mask.sum(), s.advantage) for s, mask in zip(flat, masks, strict=True)])
    np.testing.assert_allclose(asked.advantages, advantages, rtol=1e-6)
    chosen = np.concatenate([sample.selected[mask] for sample, mask in zip(flat, masks, strict=True)])  # type: ignore[index]
    np.testing.assert_array_equal(chosen, np.arange(len(chosen)) % 3 == 0)
    assert not any(sample.selected[~sample.response_mask].any() for sample in flat)  # type: ignore[index]


def test_a_step_plans_its_micro_batches_once(topology: Topology, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes and epochs use them again, each with the values that samples have then."""
    made, seen = [], []
    plan, move = MicroBatch.of.__func__, MicroBatch.to  # type: ignore[attr-defined]
    monkeypatch.setattr(MicroBatch, "of", classmethod(lambda *args: made.append(args) or plan(*args)))
    monkeypatch.setattr(MicroBatch, "to", lambda self, device: seen.append(self) or move(self, device))
    config = RunConfig.model_validate(
        {
            "output_dir": folder / "unused",
            "model": ModelConfig(path=folder, dtype="float32"),
            "data": {"train": {"kind": "jsonl", "path": "unused"}},
            "loss": {"kl_coef": 0.1},
            "rollout": {"prompts_per_step": 2},
            "train": {"prompts_per_update": 1, "epochs": 2, "old_log_probs": "recompute"},
        }
    )
    learner = Learner(config, load(folder, topology), lambda _: nullcontext(), print)
    first, second = make_groups([(5, (3, 4)), (2, (6,))])
    planned = learner.plan([[first], [second]])
    learner.add_log_probs(planned)
    learner.update(1, planned)
    assert len(made) == 2
    old, reference, *updates = (seen[first : first + 2] for first in range(0, len(seen), 2))
    assert len(updates) == 2
    for part in (0, 1):
        attention = {id(each[part].attention) for each in (old, reference, *updates)}
        assert len(attention) == 1
        assert not old[part].batch.old_log_probs.any()
        for each in updates:
            assert each[part].scored is each[part].batch
            assert each[part].batch.old_log_probs.all()
            assert each[part].batch.weights.all()
