"""An equation gives its last side as a value if the first one is a name or the same number, or is what is asked for."""

from __future__ import annotations

import pytest

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.reward import score

pytestmark = pytest.mark.timeout(120)


def grade(reference: str, content: str, question: str = "?") -> float:
    return score(Problem("p-0", question, (1,), reference), rf"So the answer is $\boxed{{{content}}}$.")


@pytest.mark.parametrize(
    ("reference", "content"),
    [
        ("3", "x=3"),
        ("3", "1+2=3"),
        ("3", "x=1+2=3"),
        ("3", r"\sqrt{9}=3"),
        ("3", r"\frac{12}{4}=3"),
        ("3", "f(2)=3"),
        ("3", "|AB|=3"),
        ("3", "AB=3"),
        ("3", "XY=3"),
        ("3", "mn=3"),
        ("3", "abc=3"),
        ("3", r"\angle A=3"),
        ("3", "S_5=3"),
        ("3", r"\frac{S_1}{S_2}=3"),
        ("3", r"\frac{x}{y}=3"),
        (r"\frac{1}{3}", r"\cos\theta=\frac{1}{3}"),
        (r"\frac{1}{3}", r"\sin A=\frac{1}{3}"),
        (r"\ln x=3", r"\ln x=3"),
        ("0.33", r"\frac{1}{3}=0.33"),
        ("3.14", r"\frac{22}{7}=3.14"),
        ("17", "16.67=17"),
        ("1000", r"10^3=1{,}000"),
        ("0.5", r"50\%=0.5"),
        ("10", r"\binom{5}{2}=10"),
    ],
)
def test_a_name_or_the_same_number_tells_a_value(reference: str, content: str) -> None:
    assert grade(reference, content) == 1.0


@pytest.mark.parametrize(
    "content",
    ["4=3", "0=3", "1+1=3", "x=4=3", "10=3", "x/2=3", r"\frac{x}{2}=3", "2x=3", "xy=3", r"x \cdot y=3", r"\ln x=3",
     r"\log_2(x)=3", r"\sin x = 3", r"\sin^2 x=3", r"\sqrt{x}=3", "e^{x}=3", "|x|=3", r"\lfloor x\rfloor=3",
     "2.9=3.1=3"],
)  # fmt: skip
def test_what_is_said_of_an_unknown_or_is_false_tells_none(content: str) -> None:
    assert grade("3", content) == 0.0
    assert grade("3", content, f"Solve ${content}$.") == 0.0


@pytest.mark.parametrize(
    ("content", "question"),
    [
        ("xy=3", "Find $xy$."),
        (r"\ln x=3", r"Find $\ln(x)$."),
        (r"\sin x=3", r"Find the value of $\sin{x}$."),
        ("|x|=3", r"What is $\left|x\right|$?"),
        (r"\frac{x}{2}=3", r"Compute $\frac{x}{2}$."),
        (r"\lfloor x\rfloor=3", r"Compute $\lfloor x \rfloor$."),
    ],
)
def test_what_is_asked_for_tells_a_value(content: str, question: str) -> None:
    assert grade("3", content, question) == 1.0
    assert grade("4", content, question) == 0.0


@pytest.mark.parametrize(
    ("reference", "content", "reward"),
    [
        ("x+y=5", "5", 0.0),
        ("x+y=5", "2+3", 0.0),
        ("x+y=5", "y=5-x", 1.0),
        (r"\sin x+\cos x=1", "1", 0.0),
        ("xy=6", "6", 0.0),
        ("|x|=2", "2", 0.0),
        ("x=5", "5", 1.0),
        ("y=2x", "2x", 1.0),
        ("f(x)=3x", "3x", 1.0),
        ("|AB|=2", "2", 1.0),
    ],
)
def test_the_last_side_of_a_reference_is_enough_if_the_first_one_is_a_name(reference, content, reward) -> None:
    assert grade(reference, content) == reward


@pytest.mark.parametrize(
    ("content", "reward"),
    [
        ("(x+1)^2=x^2+2x+1", 1.0),
        ("x^2+2x+1=(x+1)^2", 1.0),
        ("x^2=x^2+2x+1", 0.0),
        ("x^2+2x+1=2x+x^2+1", 0.0),
        ("x^2+2x=x(x+2)", 0.0),
    ],
)
def test_of_an_identity_both_sides_are_the_answer(content: str, reward: float) -> None:
    assert grade("x^2+2x+1", content) == reward
