"""The updates of a step: each at its place in the run, those that are skipped counted, a step without any told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aspo_megatron import losses
from aspo_megatron.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, SourceConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import AgreedError
from aspo_megatron.parallel.update.micro_batches import PlannedGroups
from aspo_megatron.parallel.update.objective import PolicyObjective
from aspo_megatron.parallel.update.schedule import Schedule
from aspo_megatron.parallel.update.step import SKIPPED, UpdateResult
from aspo_megatron.train import updates

LR = 1e-3
STEPS = 4
MADE = UpdateResult(loss=1.0, grad_norm=2.0, lr=0.0, skipped=False, stats={})


class StandIn:
    """Of the optimizer and of `update`: notes the rate of each update that is made."""

    def __init__(self, config: RunConfig) -> None:
        self._adam = SimpleNamespace(param_groups=[{}])
        self._schedule = Schedule(self._adam, config.optimizer, STEPS * config.updates_per_step)
        self.stand_at = self._schedule.stand_at
        self.rates: list[float] = []
        self.on_policy: list[bool] = []
        self.result = MADE

    @property
    def lr(self) -> float:
        return float(self._adam.param_groups[0]["lr"])

    @property
    def place(self) -> int:
        return self._schedule.place

    def counters(self) -> dict[str, int]:
        return {"updates": len(self.rates)}

    def update(self, model: Any, optimizer: Any, batch: Any, objective: PolicyObjective, *_: Any) -> UpdateResult:
        if not batch.samples:
            return SKIPPED
        self.rates.append(self.lr)
        self.on_policy.append(objective.on_policy)
        self.stand_at(self.place + 1)
        return self.result


def make(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[updates.StepUpdates, StandIn, list[str]]:
    """Three mini-batches in a step, and a rate that falls to 0."""
    config = RunConfig(
        output_dir=Path("unused"),
        model=ModelConfig(path=Path("unused")),
        data=DataConfig(train=SourceConfig(kind="jsonl", path="unused")),
        optimizer=OptimizerConfig(lr=LR, schedule="linear"),
    )
    sections = {"rollout": {"prompts_per_step": 6}, "train": {"prompts_per_update": 2}} | changes
    config = RunConfig.model_validate(
        {**config.model_dump(exclude_unset=True), **{name: dict(section) for name, section in sections.items()}}
    )
    stand_in, told = StandIn(config), list[str]()
    monkeypatch.setattr(updates, "planned_update", stand_in.update)
    objective = PolicyObjective(losses.build("aspo", {}), config.loss)
    optimizer: Any = stand_in
    return updates.StepUpdates(config, None, optimizer, objective, None, told.append), stand_in, told  # type: ignore[arg-type]


def group(advantage: float, counts: bool = True) -> list[Sample]:
    """A response whose tokens have this advantage."""
    ids = np.arange(3)
    mask = np.full(3, counts)
    return [Sample("p", 0, ids, ids, mask, np.zeros(3, np.float32), 0, "stop", advantage=advantage)]


def planned(*batches: list[list[Sample]]) -> list[PlannedGroups]:
    """A micro-batch each, of which nothing is computed."""
    return [PlannedGroups(batch, [batch], 0, []) for batch in batches]


FULL = planned([group(1.0)], [group(1.0)], [group(1.0)])
FIRST = planned([group(1.0)], [], [])
LAST = planned([], [], [group(1.0)])
NONE = planned([], [], [])
AGREE = planned(*[[group(0.0), group(0.0)]] * 3)
ONE_DIFFERS = planned([group(0.0)], [group(0.0), group(-1.0)], [group(0.0)])


def test_each_update_has_the_rate_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    step_updates, optimizer, told = make(monkeypatch)
    figures = [step_updates.make(step, batches) for step, batches in enumerate((FIRST, LAST, NONE, FULL), start=1)]
    assert optimizer.rates == pytest.approx([LR * (1 - place / 12) for place in (0, 5, 9, 10, 11)])
    assert [step["updates/skipped"] for step in figures] == [2, 2, 3, 0]
    assert [step["lr"] for step in figures] == pytest.approx([LR * (1 - place / 12) for place in (2, 5, 8, 11)])
    assert [step.get("grad_norm") for step in figures] == [2.0, 2.0, None, 2.0]
    assert optimizer.place == 12
    step_updates.tell_if_none()
    assert told == []


def test_a_run_that_goes_on_is_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    step_updates, optimizer, _ = make(monkeypatch)
    optimizer.stand_at(1)  # as a state of an older version has it, which counted the updates that were made
    step_updates.make(3, LAST)
    assert optimizer.rates == pytest.approx([LR * (1 - 8 / 12)])


def test_every_epoch_has_places_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    step_updates, optimizer, _ = make(monkeypatch, train={"prompts_per_update": 2, "epochs": 2})
    assert step_updates.make(2, LAST)["updates/skipped"] == 4
    assert optimizer.rates == pytest.approx([LR * (1 - place / 24) for place in (8, 11)])


def test_only_the_first_mini_batch_is_on_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old log-probs of the others are computed, also where nothing is left of the first."""
    step_updates, optimizer, _ = make(monkeypatch)
    for batches in (FULL, LAST):
        step_updates.make(1, batches)
    assert optimizer.on_policy == [True, False, False, False]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rollout": {"prompts_per_step": 6, "dynamic_sampling": "drop"}}, ["every prompt's rewards agree"]),
        ({"shaping": {"mask_truncated": True}}, ["every response was cut (shaping.mask_truncated=true)"]),
        (
            {
                "rollout": {"prompts_per_step": 6, "dynamic_sampling": "refill"},
                "shaping": {"mask_truncated": True},
            },
            ["(rollout.dynamic_sampling=refill) or every response was cut"],
        ),
    ],
)
def test_a_run_without_an_update_is_told_why(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], why: list[str]
) -> None:
    step_updates, _, told = make(monkeypatch, **changes)
    step_updates.make(1, NONE)
    step_updates.tell_if_none()
    (line,) = told
    assert line.startswith("warning: no step made an update, so the model is the one that the run began with: ")
    assert all(part in line for part in why)


@pytest.mark.parametrize(
    ("loss", "made"),
    [
        ({"kl_coef": 0.0}, [0, 1, 0]),
        ({"kl_coef": 0.1, "kl_estimator": "k2"}, [0, 2, 3]),  # from the first update on the KL pulls back
        ({"kl_coef": 0.1, "kl_estimator": "k3"}, [0, 2, 3]),
        ({"kl_coef": 0.1, "kl_estimator": "k1"}, [3, 3, 3]),
        ({"kl_coef": 0.0, "entropy_coef": 0.01}, [3, 3, 3]),
        ({"kl_coef": 0.0, "router_aux_coef": 0.01}, [3, 3, 3]),
    ],
    ids=str,
)
def test_an_update_without_a_signal_is_skipped(
    monkeypatch: pytest.MonkeyPatch, loss: dict[str, Any], made: list[int]
) -> None:
    """Adam would make full steps of what rounding leaves of its gradient."""
    step_updates, optimizer, _ = make(monkeypatch, loss=loss, train={"prompts_per_update": 2})
    counts, places = [], []
    for step, batches in enumerate((AGREE, ONE_DIFFERS, AGREE), start=1):
        before = len(optimizer.rates)
        skipped = step_updates.make(step, batches)["updates/skipped"]
        counts.append(len(optimizer.rates) - before)
        places.append(optimizer.place)
        assert skipped == 3 - counts[-1]
    assert counts == made
    assert places == [3, 6, 9]


def test_an_advantage_counts_where_a_token_does(monkeypatch: pytest.MonkeyPatch) -> None:
    step_updates, optimizer, _ = make(monkeypatch, loss={"kl_coef": 0.0})
    assert step_updates.make(1, planned([group(1.0, counts=False), group(0.0)], [], []))["updates/skipped"] == 3
    assert not optimizer.rates


@pytest.mark.parametrize("figure", ["loss", "grad_norm"])
def test_a_figure_that_is_no_number_ends_the_run(monkeypatch: pytest.MonkeyPatch, figure: str) -> None:
    step_updates, optimizer, _ = make(monkeypatch)
    changed: dict[str, Any] = {figure: float("nan")}
    optimizer.result = replace(MADE, **changed)
    with pytest.raises(AgreedError, match=r"step 2, update 1: the .* is nan, and the weights are lost"):
        step_updates.make(2, FULL)
