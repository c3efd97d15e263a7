r"""Ratios are compared as ratios, times of day as times, and pairs in their order."""

from __future__ import annotations

from time import process_time

import pytest

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.reward import score

pytestmark = pytest.mark.timeout(120)

RATIO, TIME = "What is the ratio of the areas?", "At what time does the train arrive, in a.m. or p.m.?"


def grade(reference: str, content: str, question: str = "?") -> float:
    return score(Problem("p-0", question, (1,), reference), rf"So the answer is $\boxed{{{content}}}$.")


SAME = {
    "ratios": [
        ("1:2:3", "2:4:6"),
        ("1:2:3", r"1\colon2\colon3"),
        ("1:2:3", r"1{:}2{:}3"),
        ("1:2:3", r"\frac12:1:\frac32"),
        ("1:2:3", "a:b:c=1:2:3"),
        (r"1:\sqrt{2}:2", r"\sqrt{2}:2:2\sqrt{2}"),
        ("3:4", "6:8"),
        ("3:4", r"\frac{3}{4}"),
        ("3:4", r"3 \text{ to } 4"),
        ("3:4", "3 to 4"),
        ("3:4", "3\u22364"),
        ("3:4", "a:b=3:4"),
    ],
    "times": [
        ("3:30", r"3{:}30"),
        ("3:30", r"3 \colon 30"),
        ("3:30", r"\text{3:30 p.m.}"),
        ("3:30", "03:30"),
        (r"\text{4:30 p.m.}", "4:30"),
        (r"\text{4:30 p.m.}", r"4{:}30\text{ p.m.}"),
        ("3:30 pm", "15:30"),
        ("15:30", r"3:30 \text{ PM}"),
    ],
    "pairs": [
        ("(3,-4)", "P(3,-4)"),
        ("(3,-4)", r"P\left(3,-4\right)"),
        ("P(3,-4)", "(3,-4)"),
        ("(3,-4)", r"\text{Point } (3,-4)"),
        ("(3,-4)", r"\{(3,-4)\}"),
        ("(3,-4)", "x=3, y=-4"),
        ("(3,-4)", r"y=-4 \text{ and } x=3"),
        ("(3,-4)", r"x=3\\y=-4"),
        ("(3,-4)", r"\begin{cases}x=3\\y=-4\end{cases}"),
        ("(3,-4)", r"\left\{\begin{array}{l}x=3\\y=-4\end{array}\right."),
        ("(3,-4)", "(x,y)=(3,-4)"),
        ("(x,y)=(3,-4)", "x=3, y=-4"),
        ("(1,2,3)", "a=1, c=3, b=2"),
        ("x=1,y=2", "y=2,x=1"),
        ("x=1,y=2", "(1,2)"),
        ("x=1,y=2", "1,2"),
        (r"(\frac{1}{2},2)", "(0.5,2)"),
        (r"\{(1,2),(3,4)\}", "(3,4),(1,2)"),
    ],
}  # fmt: skip

OTHER = {
    "ratios": [
        ("1:2:3", "1:3:2"),
        ("1:2:3", "1:2"),
        ("1:2:3", "1:6"),
        ("1:2:3", "1:1:6"),
        ("1:2:3", "1/2/3"),
        ("1:2:3", r"\frac16"),
        ("1:2:3", "c:a:b=1:2:3"),
        ("1:2:3", "1,2,3"),
        ("3:4", "4:3"),
        ("3:4", "4 to 3"),
        ("3", "3 to 4"),
        ("3:4", r"3 \text{ or } 4"),
    ],
    "times": [
        ("3:30", r"\frac{3}{30}"),
        ("3:30", "1:10"),
        ("3:30", "0.1"),
        ("3:30", "3.5"),
        ("3:30", "330"),
        ("1:58", "2:116"),
        ("8:15", "8:16"),
        ("3:30 am", "3:30 pm"),
        ("3:30 pm", "3:30 am"),
        ("15:30", "3:30"),
        ("3:30 am", "15:30"),
    ],
    "pairs": [
        ("(3,4)", r"\{3,4\}"),
        ("(3,4)", "y=3,x=4"),
        ("(3,4)", "(4,3)"),
        ("(3,4)", "x=4, y=3"),
        ("(3,4)", "x=3, x=4"),
        ("(3,4)", r"\{(3,4),(4,3)\}"),
        ("(3,4)", "P(4,3)"),
        ("(3,4)", "P(3,4), Q(4,3)"),
        ("P(3,4)", "Q(3,4)"),
        ("x=1,y=2", "(2,1)"),
        ("(x,y)=(1,2)", "x=2,y=1"),
        ("(3,4)", "(y,x)=(4,4)"),
        ("x=1,y=2", "2,1"),
        ("x=1,y=2", r"\{1,2\}"),
        ("x=1,y=2", "x=2,y=1"),
        ("x=1,y=2", "a=1,b=2"),
        ("x=1,y=2", "x=1"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("reference", "content"), [pair for pairs in SAME.values() for pair in pairs])
def test_the_same_is_right(reference: str, content: str) -> None:
    assert grade(reference, content) == 1.0
    assert grade(reference, reference) == 1.0


@pytest.mark.parametrize(("reference", "content"), [pair for pairs in OTHER.values() for pair in pairs])
def test_something_else_is_wrong(reference: str, content: str) -> None:
    assert grade(reference, content) == 0.0
    assert grade(reference, reference) == 1.0


@pytest.mark.parametrize(
    ("reference", "content", "question", "reward"),
    [
        ("3:20", "6:40", RATIO, 1.0),
        ("3:20", r"\frac{3}{20}", RATIO, 1.0),
        ("3:20", "3:20", RATIO, 1.0),
        ("3:20", r"3 \text{ to } 20", RATIO, 1.0),
        ("3:20", "20:3", RATIO, 0.0),
        ("3:20", "6:40", TIME, 0.0),
        ("3:20", r"\frac{3}{20}", TIME, 0.0),
        ("3:20", r"\frac{3}{20}", "Clocks run in the ratio of 3:2. What does the clock show?", 0.0),
        (r"3 \text{ to } 4", "6:8", RATIO, 1.0),
        (r"3 \text{ to } 4", "6:8", "?", 0.0),
    ],
)
def test_the_question_tells_whether_it_is_a_ratio(reference, content, question, reward):
    assert grade(reference, content, question) == reward


@pytest.mark.parametrize("content", ["1:" * 450, "1 to " * 180, "to" + " " * 900, ":" * 900, "(" * 900, "(1,2)," * 160,
                                     r"x=1\\" * 180, r"\begin{cases}" * 70,
                                     "x=1," * 240, "1:2:9^{9^{9^9}}"])  # fmt: skip
@pytest.mark.parametrize("reference", ["1:2:3", "3:30", "(3,4)", "x=1,y=2"])
def test_it_takes_little_time_to_read(reference, content):
    started = process_time()
    grade(reference, content)
    assert process_time() - started < 10.0
