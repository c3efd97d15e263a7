"""Reference answers that no response can be compared with are found before the run; all others are left alone."""

from __future__ import annotations

import pytest
from rewards.test_graders import all_gold

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.rewards.mathematics.reading import references
from aspo_megatron.rewards.mathematics.reward import score
from aspo_megatron.rewards.scorers import check, unfit

EMPTY = ["", " ", "\n", "\u3000", "\u200b", "####", "So it is. ####", "$$", "$ $", "{", r"\(\)", r"\[ \]", r"\text{}"]
EMPTY += [r"\boxed{}", r"\boxed{ }", r"$\boxed{}$", r"\boxed{\text{}}", r"\displaystyle", r"\quad", r"\\", r"\, \;"]
UNREADABLE = ["?", "...", "\u2026", ".", "__", "''", '""', "$x", r"\boxed{3"]
READABLE = [
    "0",
    "7",
    "x",
    "{}",
    r"\{\}",
    r"\boxed{\{\}}",
    r"\emptyset",
    "∅",
    "π",
    "∞",
    r"\infty",
    "-",
    "+",
    "<",
    "()",
    "[]",
]
READABLE += [
    "$100",
    r"\$100",
    r"$\$100$",
    r"50\%",
    "$5$",
    r"\boxed{3}}",
    "#### 72",
    "no solution",
    "(1,2]",
    "是",
    "3 cm",
]
READABLE += [r"\left\{1,2\right.", "10^{10^{10}}", "$2^{2^{2023}}", r"x=\begin{cases}1\\2\end{cases}"]


def problem(answer: str | None) -> Problem:
    return Problem("p-0", "?", (1,), answer)


@pytest.mark.parametrize(("answer", "what"), [*((a, "empty") for a in EMPTY), *((a, "unreadable") for a in UNREADABLE)])
def test_it_is_named_before_the_run(answer, what):
    reason = unfit(RewardConfig(kind="math"), problem(answer))
    assert reason is not None
    assert reason.kind == f"{what} reference answer"
    assert reason.text.startswith("reward.kind: math: the reference answer ")
    assert f"of problem p-0 is {what}" in reason.text
    assert reason.text.isprintable()
    with pytest.raises(ConfigError, match="no response could be compared with it; correct it"):
        check(RewardConfig(kind="math"), [problem("7"), problem(answer)])


def test_it_is_named_in_a_part_of_a_mixture():
    parts = {"m": {"kind": "math"}, "r": {"kind": "reasoning_gym", "when": {"x": "1"}}}
    reason = unfit(RewardConfig.model_validate({"kind": "mixture", "components": parts}), problem(" "))
    assert reason is not None
    assert reason.text.startswith("reward.components.m.kind: math: the reference answer")


@pytest.mark.parametrize("answer", READABLE)
def test_what_can_be_an_answer_is_left_alone(answer):
    assert unfit(RewardConfig(kind="math"), problem(answer)) is None


def test_answers_of_benchmarks_are_left_alone_without_parsing_any(monkeypatch):
    """Parsing one takes a millisecond, and there may be a million."""
    monkeypatch.setattr(references, "parse_reference", None)
    found = [answer for answer in all_gold() if unfit(RewardConfig(kind="math"), problem(answer)) is not None]
    assert found == []


@pytest.mark.parametrize("answer", [a for a in EMPTY if a.strip()])
@pytest.mark.parametrize("response", [r"The final answer is $\boxed{5}$.", "7", "", r"\boxed{x}"])
def test_to_nothing_no_answer_is_equal(answer, response):
    assert score(problem(answer), response) == 0.0


def test_without_a_reference_there_is_no_reward():
    with pytest.raises(ValueError, match="problem p-0 has no reference answer"):
        score(problem(None), "7")
    with pytest.raises(ValueError, match=r"cannot read the reference answer '\$x' of problem p-0"):
        score(problem("$x"), "7")


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        (r'["34"]', "34", "43"),
        (r'["12\\%"]', "12", "21"),
        (r'["1,000"]', "1000", "1"),
        (r'["\\{1,2\\}"]', r"\{1,2\}", "1"),
        (r'["1", "2"]', "1, 2", "2"),
        ("[1, 2]", "[1, 2]", "1, 2"),
    ],
)
def test_a_list_of_texts_in_json_is_no_part_of_the_answer(answer, right, wrong):
    """Skywork-OR1 keeps its references so."""
    assert unfit(RewardConfig(kind="math"), problem(answer)) is None
    assert score(problem(answer), rf"\boxed{{{right}}}") == 1.0
    assert score(problem(answer), rf"\boxed{{{wrong}}}") == 0.0


def test_nothing_in_a_list_is_nothing():
    for answer in ('[""]', '["$$"]'):
        reason = unfit(RewardConfig(kind="math"), problem(answer))
        assert reason is not None
        assert reason.kind == "empty reference answer"
