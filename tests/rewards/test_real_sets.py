r"""Sets of real numbers are the same in whatever form; `and` is not `or`, and `no solution` is the empty set."""

from __future__ import annotations

from time import process_time

import pytest

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.reward import score

pytestmark = pytest.mark.timeout(120)

TWO_RAYS = r"(-\infty,2)\cup(3,\infty)"


def grade(reference: str, content: str, question: str = "?") -> float:
    return score(Problem("p-0", question, (1,), reference), rf"So the answer is $\boxed{{{content}}}$.")


SAME = {
    "one interval": [
        (r"(2,\infty)", r"]2,\infty["),
        (r"(2,\infty)", r"(2,+\infty)"),
        (r"(2,\infty)", r"\text{all } x>2"),
        (r"(2,\infty)", r"x \text{ such that } x > 2"),
        (r"(2,\infty)", r"\left\{ x \,\middle|\, x>2\right\}"),
        (r"(2,\infty)", r"\{x\in R|x>2\}"),
        (r"(2,\infty)", "2<x"),
        ("x>2", r"(2, \infty)"),
        ("x>2", r"x>2, x \in \mathbb{R}"),
        ("[-2,3)", "[-2;3)"),
        ("[-2,3)", "[-2,3["),
        ("[-2,3)", r"x\ge-2 \text{ and } x<3"),
        ("[-2,3)", r"x \ge -2, x<3"),
        ("[-2,3)", r"3 > x \geqslant -2"),
        ("[-2,3)", r"x<3\text{ 且 }x\ge -2"),
        (r"[\frac{1}{2},\sqrt{2})", r"0.5 \le x < 2^{\frac{1}{2}}"),
        (r"-2 \leq a < \frac{1}{e}", "[-2, e^{-1})"),
        (r"x > -1 \text{ and } x < 3", "-1<x<3"),
        ("x > -1 and x < 3", "(-1,3)"),
        ("[0,1] \\cup [1,3]", "[0,3]"),
        ("|x|<2", "-2<x<2"),
    ],
    "a pair or an interval": [("(1,3)", "(1,3)"), ("(1,3)", "1<x<3"), ("1<x<3", "(1,3)"), ("(1,3)", r"x \in (1,3)")],
    "several intervals": [
        (TWO_RAYS, r"x<2 \text{ or } x>3"),
        (TWO_RAYS, "x<2 or x>3"),
        (TWO_RAYS, "x>3 or x<2"),
        (TWO_RAYS, r"x<2 \quad \text{or} \quad x>3"),
        (TWO_RAYS, r"\{x|x<2 \text{ or } x>3\}"),
        (TWO_RAYS, r"(-\infty, 2) \bigcup (3, \infty)"),
        (TWO_RAYS, "x<2, x>3"),
        (TWO_RAYS, r"(-\infty,2)\text{ and }(3,\infty)"),
        (TWO_RAYS, r"(-\infty, 2), (3,\infty)"),
        (TWO_RAYS, r"x<2 \lor x>3"),
        (TWO_RAYS, r"x < 2 \vee x > 3"),
        (TWO_RAYS, r"x < 2 \cup x > 3"),
        (TWO_RAYS, "x<2或x>3"),
        (TWO_RAYS, r"(-\infty,2) U (3,\infty)"),
        (TWO_RAYS, r"x \in (-\infty,2) \text{ or } x \in (3,\infty)"),
        (r"x<2 \text{ or } x>3", TWO_RAYS),
        (r"x<2 \text{ or } x>3", rf"x \in {TWO_RAYS}"),
        ("|x|>2", r"x>2 \text{ or } x<-2"),
        (r"x=1 \text{ or } x>3", r"\{1\}\cup(3,\infty)"),
        (r"x=1 \text{ or } x=3", "3, 1"),
    ],
    "all but some": [
        (r"\{x \mid x \neq 2\}", r"x \in \mathbb{R}, x \neq 2"),
        (r"\{x \mid x \neq 2\}", r"\mathbb{R} - \{2\}"),
        (r"\{x \mid x \neq 2\}", r"\mathbb{R} \setminus \{2\}"),
        (r"\{x \mid x \neq 2\}", r"x \not= 2"),
        (r"\{x \mid x \neq 2\}", r"\text{all real numbers except } 2"),
        (r"\{x \mid x \neq 2\}", r"(-\infty,2)\cup(2,\infty)"),
        (r"x \neq 4", r"4 \ne x"),
        (r"x \ne \pm 2", r"x \ne -2, 2"),
        (r"x \ne \pm 2", r"x \ne 2 \text{ and } x \ne -2"),
        (r"(0,1)\cup(1,2]", r"0<x\le 2, x \ne 1"),
    ],
    "all": [
        (r"\text{all real numbers}", r"\mathbb{R}"),
        (r"\text{all real numbers}", r"(-\infty,\infty)"),
        (r"\text{all real numbers}", r"x \in \mathbb{R}"),
        (r"\text{all real numbers}", r"-\infty<x<\infty"),
        (r"\text{all real numbers}", r"\text{All reals}"),
        (r"\text{all real numbers}", r"\text{all real } x"),
        (r"(-\infty,\infty)", r"\text{all real numbers}"),
        (r"\mathbb{R}", r"\mathbb R"),
        (r"\mathbb{R}", r"\mathrm{R}"),
        (r"x\in\mathbb{Z}", r"x \in \mathbb Z"),
    ],
    "none": [
        (r"\emptyset", r"\text{No solution}"),
        (r"\emptyset", r"\text{the empty set}"),
        (r"\emptyset", r"\phi"),
        (r"\emptyset", r"\{\}"),
        (r"\text{no solution}", r"\varnothing"),
        (r"\text{no solution}", r"\text{There are no real solutions}"),
        (r"\text{no solution}", r"\text{None}"),
        ("no solution", r"\text{no solutions exist}"),
    ],
}  # fmt: skip

OTHER = {
    "ends": [
        ("x>2", r"x \ge 2"),
        ("x>2", "x<2"),
        ("x>2", "x>2.1"),
        ("[-2,3)", r"x>-2 \text{ and } x<3"),
        ("(1,3)", r"1 \le x < 3"),
        (r"[\frac{1}{2},\sqrt{2})", r"0.5 \le x < 1.414"),
        ("x>5", "5"),
        (r"(5,\infty)", "5"),
    ],
    "joined otherwise": [
        (r"x<-1 \text{ or } x>3", r"x<-1 \text{ and } x>3"),
        ("x<-1 or x>3", "x<-1 and x>3"),
        (r"x>-1 \text{ and } x<3", r"x>-1 \text{ or } x<3"),
        (TWO_RAYS, r"x<2 \text{ and } x>3"),
        (r"(-\infty,2)\cup\{3\}", r"x<2 \text{ and } x=3"),
        (r"x>1 \text{ and } y<2", r"x>1 \text{ or } y<2"),
        (r"x \ne 1, 2", r"x \ne 1 \text{ or } x \ne 2"),
    ],
    "a part, or more": [
        (TWO_RAYS, "x<2"),
        (TWO_RAYS, r"(-\infty,2)"),
        (TWO_RAYS, "x<2, x>4"),
        (TWO_RAYS, r"(-\infty,2),(3,\infty),(5,7)"),
        (TWO_RAYS, r"x<2 \text{ or } y>3"),
        (TWO_RAYS, r"x<2 \text{ or } x>3 \text{ or } x=2.5"),
        (r"\mathbb{R}\setminus\{1,2\}", r"x \ne 1"),
        (r"\mathbb{R}\setminus\{1,2\}", r"x \ne 1, 3"),
        ("x>3", r"x>3, x\in\mathbb{Z}"),
        ("x>3", r"x>3 \text{ and } x\in\mathbb{Z}"),
        (r"x>3, x \in \mathbb{Z}", "x>3"),
    ],
    "pairs": [("(1,3)", "(3,1)"), ("(1,3)", "[1,3]"), ("(-3,0),(0,3)", r"(-3,0)\cup(0,3)"), ("x>2", "y>2")],
    "words": [
        (r"\mathbb{R}", "0"),
        (r"\mathbb{R}", r"\text{all integers}"),
        (r"\mathbb{R}", r"\text{no solution}"),
        ("R", r"\mathbb{R}"),
        (r"\emptyset", "0"),
        (r"\emptyset", r"\{0\}"),
        (r"\text{no solution}", "0"),
        (r"\text{no solution}", r"\text{one solution}"),
        (r"\text{none}", r"\text{all}"),
        (r"\phi", r"\emptyset"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("reference", "content"), [pair for pairs in SAME.values() for pair in pairs])
def test_the_same_set_is_right(reference: str, content: str) -> None:
    assert grade(reference, content) == 1.0
    assert grade(reference, reference) == 1.0


@pytest.mark.parametrize(("reference", "content"), [pair for pairs in OTHER.values() for pair in pairs])
def test_another_set_is_wrong(reference: str, content: str) -> None:
    assert grade(reference, content) == 0.0
    assert grade(reference, reference) == 1.0


def test_repeating_what_is_to_be_joined_is_no_answer():
    assert grade("(-1,3)", r"x>-1 \text{ and } x<3", r"Find all $x$ with $x>-1 \text{ and } x<3$.") == 0.0
    assert grade("(-1,3)", r"x>-1 \text{ and } x<3", r"Find all $x$ with $x^2-2x<3$.") == 1.0


@pytest.mark.parametrize(
    "content",
    ["(" * 900, "[1,2]," * 150, "x<2 or " * 140, "x<" * 450, r"\{" * 450, r"\cup" * 240, "|x|>" * 200, "x<2^{9^{9^9}}",
     "x<" + "(" * 60 + "1" + ")" * 60, "] " * 450, r"\text{" * 150, "R " * 450, " " * 900, "x<2 or" + " " * 900 + "x>3",
     "x<2" + r"\, " * 130 + "or x>3", ", ; " * 100, "x \\ne 1" + ",1" * 190],
)  # fmt: skip
def test_it_takes_little_time_to_read(content):
    started = process_time()
    grade(TWO_RAYS, content)
    assert process_time() - started < 10.0
