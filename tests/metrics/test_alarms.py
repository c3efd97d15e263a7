"""What the console says of a run that cannot learn: when, how often, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from aspo_megatron.config.io import load_config
from aspo_megatron.metrics.alarms import Alarms

HEALTHY = {
    "reward/mean": 0.4,
    "reward/failed": 0.0,
    "groups/all_agree": 0.3,
    "response_tokens/cut": 0.1,
    "grad_norm": 0.5,
}
ALL_WRONG = HEALTHY | {"groups/all_agree": 1.0, "reward/mean": 0.0}
GIVEN = ["output_dir=runs/mine", "model.path=m", "data.train={kind: jsonl, path: p}"]


def said(figures: list[dict[str, float]], *settings: str) -> dict[int, list[str]]:
    """The lines after each step, where there are any."""
    alarms = Alarms(load_config(None, [*GIVEN, *settings]))
    lines = {step: alarms.after(step, one) for step, one in enumerate(figures, start=1)}
    return {step: found for step, found in lines.items() if found}


def test_a_healthy_run_hears_nothing() -> None:
    assert said([HEALTHY] * 50) == {}


@pytest.mark.parametrize(
    ("changes", "settings", "line"),
    [
        (
            {"groups/all_agree": 1.0, "reward/mean": 0.0},
            [],
            "warning: steps 1 to 3: the responses to 100% of the prompts got equal rewards (0 on average) and teach "
            "nothing: see what the model writes (aspo samples runs/mine) and whether the reward knows a right answer "
            "(aspo try-reward); take easier problems, or a higher rollout.responses_per_prompt",
        ),
        (
            {"groups/all_agree": 0.96, "reward/mean": 0.99},
            [],
            "warning: steps 1 to 3: the responses to 96% of the prompts got equal rewards (0.99 on average) and teach "
            "nothing: take harder problems",
        ),
        (
            {"response_tokens/cut": 0.75},
            ["rollout.sampling.max_response_tokens=128"],
            "warning: steps 1 to 3: 75% of the responses were cut before they had ended: raise "
            "rollout.sampling.max_response_tokens=128, or ask for shorter answers (data.template)",
        ),
        (
            {"response_tokens/cut": 1.0},
            ["shaping.mask_truncated=true", "rollout.sampling.max_response_tokens=64"],
            "warning: steps 1 to 3: 100% of the responses were cut before they had ended: those are left out "
            "(shaping.mask_truncated); raise rollout.sampling.max_response_tokens=64, or ask for shorter answers "
            "(data.template)",
        ),
        (
            {"reward/failed": 0.5},
            [],
            "warning: steps 1 to 3: 50% of the responses could not be scored, and count as 0: the first errors are in "
            "runs/mine/logs; see aspo try-reward",
        ),
    ],
)
def test_three_steps_in_a_row_are_said(changes: dict[str, float], settings: list[str], line: str) -> None:
    assert said([HEALTHY | changes] * 5, *settings) == {3: [line]}


def test_it_is_said_again_each_time_that_it_has_lasted_twice_as_long() -> None:
    assert list(said([ALL_WRONG] * 50)) == [3, 6, 12, 24, 48]
    assert list(said([*[ALL_WRONG] * 2, HEALTHY, *[ALL_WRONG] * 3])) == [6]
    assert said([HEALTHY, *[ALL_WRONG] * 6])[7][0].startswith("warning: steps 2 to 7: ")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ([], "every prompt's rewards agree"),
        (["rollout.dynamic_sampling=drop"], "every prompt's rewards agree (rollout.dynamic_sampling=drop)"),
        (
            ["shaping.mask_truncated=true"],
            "every prompt's rewards agree or every response was cut (shaping.mask_truncated=true)",
        ),
    ],
)
def test_a_step_without_an_update_is_said_at_once(settings: list[str], why: str) -> None:
    nothing: dict[str, Any] = {name: value for name, value in HEALTHY.items() if name != "grad_norm"}
    lines = said([HEALTHY, *[nothing] * 5], *settings)
    what = f"no update was made, as there was nothing to learn from: {why}"
    assert lines == {
        2: [f"warning: step 2: {what}"],
        3: [f"warning: steps 2 to 3: {what}"],
        5: [f"warning: steps 2 to 5: {what}"],
    }
