"""The learning rate by the place in the run: no update at rate 0, one course with and without a warm-up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from aspo_megatron.config import OptimizerConfig
from aspo_megatron.parallel.update.schedule import Schedule

LR = 1e-3
SHAPES = ["constant", "linear", "cosine"]


def course(schedule: str, warm_up: int, updates: int, min_lr: float = 0.0) -> list[float]:
    """The rates of all updates, as fractions of the largest."""
    config = OptimizerConfig.model_validate(
        {"lr": LR, "schedule": schedule, "warmup_updates": warm_up, "min_lr": min_lr * LR}
    )
    adam = SimpleNamespace(param_groups=[{}])
    stands = Schedule(adam, config, updates)
    rates = []
    for place in range(updates):
        assert stands.place == place
        rates.append(adam.param_groups[0]["lr"] / LR)
        stands.stand_at(place + 1)
    return rates


def transformers_course(schedule: str, warm_up: int, updates: int) -> list[float]:
    """With a warm-up one update more, of which the first, at rate 0, is left out."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    extra = int(warm_up > 0)
    length: dict[str, Any] = {} if schedule == "constant" else {"num_training_steps": updates + extra}
    make = {
        "constant": get_constant_schedule_with_warmup,
        "linear": get_linear_schedule_with_warmup,
        "cosine": get_cosine_schedule_with_warmup,
    }[schedule]
    scheduler = make(optimizer, num_warmup_steps=warm_up, **length)
    rates = []
    for _ in range(updates + extra):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates[extra:]


@pytest.mark.parametrize("updates", [1, 2, 4, 10, 24])
@pytest.mark.parametrize("warm_up", [0, 1, 3])
@pytest.mark.parametrize("schedule", SHAPES)
def test_course(schedule: str, warm_up: int, updates: int) -> None:
    rates = course(schedule, warm_up, updates)
    assert all(0 < rate <= 1 for rate in rates)
    assert rates == pytest.approx(transformers_course(schedule, warm_up, updates), abs=1e-12)
    if warm_up <= updates:
        assert max(rates) == 1


TABLE = {
    ("linear", 0, 4): [1.0, 0.75, 0.5, 0.25],
    ("linear", 1, 4): [1.0, 0.75, 0.5, 0.25],
    ("linear", 3, 5): [1 / 3, 2 / 3, 1.0, 2 / 3, 1 / 3],
    ("cosine", 1, 3): [1.0, 0.75, 0.25],
    ("cosine", 3, 5): [1 / 3, 2 / 3, 1.0, 0.75, 0.25],
    ("constant", 3, 5): [1 / 3, 2 / 3, 1.0, 1.0, 1.0],
    ("linear", 3, 2): [1 / 3, 2 / 3],
}


@pytest.mark.parametrize(("schedule", "warm_up", "updates"), TABLE)
def test_table(schedule: str, warm_up: int, updates: int) -> None:
    assert course(schedule, warm_up, updates) == pytest.approx(TABLE[schedule, warm_up, updates])


@pytest.mark.parametrize("updates", [1, 5])
@pytest.mark.parametrize("schedule", SHAPES)
def test_a_warm_up_of_one_update_is_none(schedule: str, updates: int) -> None:
    assert course(schedule, 0, updates) == course(schedule, 1, updates)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_it_comes_down_to_min_lr(schedule: str) -> None:
    rates = course(schedule, 3, 1000, min_lr=0.1)
    assert 0.1 < rates[-1] < 0.101
    config = OptimizerConfig.model_validate({"lr": LR, "schedule": schedule, "min_lr": LR / 10})
    adam = SimpleNamespace(param_groups=[{}])
    Schedule(adam, config, 10).stand_at(12)  # of a run that goes on for longer than was planned
    assert adam.param_groups[0]["lr"] == pytest.approx(LR / 10)
