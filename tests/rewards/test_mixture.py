"""Weighted mixtures, and rewards chosen by a field of the problem."""

from __future__ import annotations

import json
import logging
import re

import pytest
from pydantic import ValidationError

from aspo_megatron.config import RewardConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.rewards.mixture import applies, refuse_unknown_fields
from aspo_megatron.rewards.scorers import build, check
from aspo_megatron.rewards.workers.pool import Reward, RewardPool

pytestmark = pytest.mark.timeout(120)

MATH = Problem("m-0", "3 + 4 =", (1,), "7", {"source": "aime"})
CODE = Problem("c-0", "double", (1,), json.dumps({"inputs": ["4"], "outputs": ["8"]}), {"source": "lcb"})
OTHER = Problem("o-0", "?", (1,), "7", {})

USER_MODULE = """
def length(problem, response, *, at_most=10):
    return float(len(response) <= at_most)

def fails(problem, response):
    raise RuntimeError("no such luck")
"""


@pytest.fixture(autouse=True)
def user_module(tmp_path, monkeypatch):
    (tmp_path / "user_rewards_m.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def mixture(**components) -> RewardConfig:
    return RewardConfig.model_validate({"kind": "mixture", "workers": 1, "components": components})


def test_a_weighted_sum():
    score = build(
        mixture(
            right={"kind": "math", "weight": 0.7},
            short={"kind": "user_rewards_m:length", "weight": 0.2},
            shorter={"kind": "user_rewards_m:length", "weight": 0.1, "options": {"at_most": 3}},
        )
    )
    assert score(MATH, "7").value == 1.0
    assert score(MATH, "It is 7").value == pytest.approx(0.9)
    scored = score(MATH, "It is certainly 7")
    assert scored.value == 0.7
    assert dict(scored.parts) == {"right": 1.0, "short": 0.0, "shorter": 0.0}


def test_a_negative_weight():
    score = build(mixture(right={"kind": "math"}, short={"kind": "user_rewards_m:length", "weight": -0.5}))
    assert score(MATH, "7").value == 0.5


def test_mathematics_and_code_in_one_run():
    config = mixture(
        math={"kind": "math", "when": {"source": ["aime", "amc"]}},
        code={"kind": "code", "when": {"source": "lcb"}, "code": {"seconds_per_test": 5.0}},
        short={"kind": "user_rewards_m:length", "weight": 0.5, "options": {"at_most": 40}},
    )
    check(config, [MATH, CODE, OTHER])
    right = "```python\nprint(2 * int(input()))\n```"
    with RewardPool(config) as pool:
        rewards = pool.score([(MATH, "7"), (CODE, right), (CODE, "7"), (OTHER, "8")])
    assert rewards == [
        Reward(1.5, None, {"math": 1.0, "short": 1.0}),
        Reward(1.5, None, {"code": 1.0, "short": 1.0}),
        Reward(0.5, None, {"code": 0.0, "short": 1.0}),
        Reward(0.5, None, {"short": 1.0}),
    ]


def test_a_part_that_fails_costs_the_response_its_reward():
    with RewardPool(mixture(right={"kind": "math"}, odd={"kind": "user_rewards_m:fails"})) as pool:
        [reward] = pool.score([(MATH, "7")])
    assert reward.value == 0.0
    assert "no such luck" in (reward.error or "")


@pytest.mark.parametrize(
    ("wanted", "value", "is_met"),
    [
        (3, 3, True),
        (3, "3", True),  # from a table
        (3, 3.0, True),  # from a Parquet file with gaps
        (3, "3.0", True),
        (3, 4, False),
        (3, "three", False),
        (3, None, False),
        (3, [3], False),
        (0.5, "0.50", True),
        ("3", 3, True),
        ("3", 3.0, False),
        ([3, 4], 4, True),
        ([3, "hard"], "hard", True),
        ([3, 4], 5, False),
        (True, True, True),
        (True, "true", True),
        (True, 1, False),
        (1, True, False),
        ("True", True, True),
    ],
)
def test_values_of_a_field(wanted, value, is_met):
    (part,) = mixture(a={"kind": "math", "when": {"level": wanted}}).components.values()
    assert applies(part, Problem("x", "?", (1,), "7", {"level": value})) == is_met


def test_a_field_within_a_field():
    (part,) = mixture(a={"kind": "math", "when": {"extra_info.level": 3}}).components.values()
    assert applies(part, Problem("x", "?", (1,), "7", {"extra_info": {"level": 3}}))
    assert not applies(part, Problem("x", "?", (1,), "7", {"extra_info": None}))


def test_a_misspelt_field_is_refused_and_what_is_for_no_problem_is_said(caplog):
    parts = mixture(all={"kind": "math"}, some={"kind": "math", "when": {"sorce": "aime"}}).components
    said = (
        "reward.components.some.when: no problem has a field 'sorce'; did you mean 'source'? The fields are: "
        "source, level"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
        refuse_unknown_fields(parts, [MATH, CODE, Problem("x", "?", (1,), "7", {"level": 1})])
    parts = mixture(some={"kind": "math", "when": {"split": "a"}}).components
    with pytest.raises(ConfigError, match=r"no problem has a field 'split'\. The fields are: source$"):
        refuse_unknown_fields(parts, [MATH])
    parts = mixture(all={"kind": "math"}, some={"kind": "math", "when": {"level": [2, 3]}}).components
    with caplog.at_level(logging.WARNING):
        refuse_unknown_fields(parts, [MATH, Problem("x", "?", (1,), "7", {"level": 1})])
    assert "reward.components.some applies to no problem: none has {'level': (2, 3)}" in caplog.text


def test_no_more_problems_are_looked_at_than_are_needed():
    parts = mixture(some={"kind": "math", "when": {"source": "aime"}}).components
    left = iter([OTHER, MATH, CODE, CODE])
    refuse_unknown_fields(parts, left)
    assert list(left) == [CODE]


@pytest.mark.parametrize(
    ("components", "problems", "message"),
    [
        ({"a": {"kind": "maths"}}, [], r"reward\.components\.a\.kind: unknown reward 'maths'; did you mean 'math'"),
        ({"a": {"kind": "math"}}, [Problem("x", "?", (1,))], r"reward\.components\.a\.kind: math needs reference"),
        (
            {"a": {"kind": "code", "when": {"source": "aime"}}},
            [MATH],
            r"reward\.components\.a\.kind: code needs tests, and problem m-0 has none; set reward\.components\.a\.code",
        ),
        (
            {"a": {"kind": "math", "when": {"source": "aime"}}},
            [MATH, CODE],
            r"reward\.components: none applies to problem c-0: its source is 'lcb'; add one whose `when` it meets",
        ),
        (
            {"a": {"kind": "math", "when": {"sorce": "aime"}}},
            [MATH, CODE],
            r"none applies to problem m-0: it has no field 'sorce', its fields are: source; add one",
        ),
        ({"a": {"kind": "math", "options": {"x": 1}}}, [], r"reward\.components\.a\.options: .* math takes none"),
        (
            {"a": {"kind": "user_rewards_m:length", "options": {"most": 1}}},
            [],
            r"is called with \(problem, response, most\): got an unexpected keyword argument 'most'",
        ),
    ],
)
def test_mixtures_that_cannot_work(components, problems, message):
    with pytest.raises(ConfigError, match=message):
        check(mixture(**components), problems)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "mixture"}, "a mixture needs some"),
        ({"components": {"a": {"kind": "math"}}}, "they need kind: mixture"),
        ({"kind": "mixture", "components": {"a": {"kind": "mixture"}}}, "a mixture cannot be a part of a mixture"),
        ({"kind": "mixture", "components": {"a": {"weight": 1.0}}}, "Field required"),
        ({"code": {"memory_mib": 1}}, "greater than or equal to 128"),
    ],
)
def test_configurations_that_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        RewardConfig.model_validate(values)


def test_a_mixture_from_yaml_and_the_command_line(tmp_path):
    (tmp_path / "run.yaml").write_text("""
output_dir: run
model: {path: model}
data: {train: {kind: jsonl, path: p.jsonl}}
reward:
  kind: mixture
  components:
    math: {kind: math, when: {source: [aime, amc]}}
    code: {kind: code, weight: 2, when: {source: lcb}, code: {score: fraction}}
""")
    reward = load_config(tmp_path / "run.yaml", ["reward.components.math.weight=0.5"]).reward
    levels = load_config(tmp_path / "run.yaml", ["reward.components.math.when={level: [3, hard], odd: 1.5, new: true}"])
    assert levels.reward.components["math"].when == {
        "source": ("aime", "amc"), "level": (3, "hard"), "odd": 1.5, "new": True
    }  # fmt: skip
    assert reward.components["math"].weight == 0.5
    assert reward.components["math"].when == {"source": ("aime", "amc")}
    assert reward.components["code"].code is not None
    assert reward.components["code"].code.score == "fraction"
    with pytest.raises(ConfigError, match=r"reward\.components\.math\.wieght: unknown key"):
        load_config(tmp_path / "run.yaml", ["reward.components.math.wieght=0.5"])
    with pytest.raises(ConfigError, match=r"reward\.components\.other\.kind: required"):
        load_config(tmp_path / "run.yaml", ["reward.components.other.weight=0.5"])
