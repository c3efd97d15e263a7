"""A user's reward is tried before anything is started."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.rewards.scorers import check
from aspo_megatron.rewards.trial import try_reward

MODULE = """
import re
from pathlib import Path

def fine(problem, response):
    with Path("calls").open("a") as calls:
        calls.write(f"{problem.id} {response};")
    return 1.0

def broken(problem, response):
    return {}[response]

def words(problem, response):
    return float(response.split()[0] == "x")

def numbers(problem, response):
    return float(response or 0)

def not_the_first(problem, response):
    return {"p-0": [], "p-1": [1.0], "p-2": []}[problem.id][0]

def hanging(problem, response):
    with Path("calls").open("a") as calls:
        calls.write(f"{problem.id};")
    while True:
        pass

def tagged(problem, response):
    return float(re.search("<answer>(.*)</answer>", response)[1] == "how?")

def reasoned(problem, response):
    return float("how?" in response.split("</think>")[1])

def boxed(problem, response):
    return float(re.findall(r"boxed{(.*)}", response)[-1] == "how?")
"""
PROBLEMS = [
    Problem("p-0", "how?", (1,), None, {"topic": "a"}),
    Problem("p-1", "2 + 2?", (1,), "4", {"topic": "a"}),
    Problem("p-2", "2 + 3?", (1,), "5", {"topic": "b"}),
]


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trial_rewards.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)


def config(kind: str, **other: object) -> RewardConfig:
    return RewardConfig.model_validate({"kind": kind, "workers": 2, **other})


def test_one_that_works_is_called_once(tmp_path: Path) -> None:
    try_reward(config("trial_rewards:fine"), PROBLEMS)
    assert (tmp_path / "calls").read_text() == "p-0 how?;"


@pytest.mark.parametrize("name", ["words", "numbers", "tagged", "reasoned", "boxed"])
def test_one_of_the_texts_is_enough(name: str) -> None:
    try_reward(config(f"trial_rewards:{name}"), PROBLEMS)


def test_a_broken_one_is_refused_with_what_it_raised() -> None:
    said = "reward.kind=trial_rewards:broken: a trial of it fails: asked what 'how?' is worth as a response to problem "
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}p-0: KeyError: 'how\\?' \\(trial_rewards.py:"):
        try_reward(config("trial_rewards:broken"), PROBLEMS)


def test_a_problem_that_cannot_be_scored_is_not_the_reward() -> None:
    try_reward(config("trial_rewards:not_the_first"), PROBLEMS)


def test_one_that_takes_too_long_is_not_tried_on_more_texts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"p-0: scoring took longer than reward\.timeout_seconds=0\.2;"):
        try_reward(config("trial_rewards:hanging", timeout_seconds=0.2), PROBLEMS)
    calls = (tmp_path / "calls").read_text().split(";")[:-1]
    assert len(calls) <= 2 * len(PROBLEMS)  # one that a busy machine kept waiting is scored once more


def test_each_part_of_a_mixture_is_tried_on_a_problem_of_its_own(tmp_path: Path) -> None:
    fine = {"kind": "trial_rewards:fine", "weight": 1.0}
    broken = {"kind": "trial_rewards:broken", "weight": 1.0, "when": {"topic": "b"}}
    with pytest.raises(ConfigError, match="'5' is worth as a response to problem p-2: KeyError"):
        try_reward(config("mixture", components={"fine": fine, "broken": broken}), PROBLEMS)
    calls = (tmp_path / "calls").read_text().split(";")
    assert (calls[:2], calls[-2:]) == (["p-0 how?", "p-2 5"], ["p-2 ", ""])


def test_built_in_rewards_start_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspo_megatron.rewards.trial.RewardPool", None)
    try_reward(config("math"), PROBLEMS)


def test_a_module_that_goes_to_another_folder_leaves_us_in_ours(tmp_path: Path) -> None:
    (tmp_path / "wandering_rewards.py").write_text(
        'import os\nos.chdir("/")\n\ndef fine(problem, response):\n    return 1.0\n'
    )
    check(config("wandering_rewards:fine"))
    assert Path.cwd() == tmp_path
