r"""Answers that hide an infinity, a division by zero or an equation without solutions are right for no reference."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from thorough import one_in

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.reward import score

pytestmark = pytest.mark.timeout(240)

HIDDEN = {
    "maximum": (
        *(r"\max(1,\infty)", r"\max(0,\infty)", r"\max(\infty,1)", r"\max(1,2,\infty)", r"\max(e,\infty)"),
        *(r"\max(x,\infty)", r"\max\{1,\infty\}", r"-\max(1,\infty)"),
        *(r"\max(1,\infty)+5", r"\lfloor\max(1,\infty)\rfloor"),
    ),
    "minimum": (r"\min(1,-\infty)", r"\min(x,-\infty)+1", r"\min(0,-\infty)", r"2\min(1,-\infty)"),
    "absolute value": (r"|-\infty|", r"|\infty|", r"7|\infty|", r"|\infty|^{2}", r"|\infty|+1", r"|\frac{1}{0}|"),
    "power": (r"2^{|\infty|}", r"3^{|\infty|}", r"2^{\infty+\infty}", r"\infty^0", r"2^{-|\infty|}", r"1^{\infty}"),
    "logarithm": (
        *(r"2^{|\ln 0|}", r"3^{|\log_2 0|}", r"\max(1,-\ln 0)"),
        *(r"|\ln 0|", r"2^{|\ln(1-1)|}", r"\max(1,\log_1 5)"),
    ),
    "pole": (
        *(r"\max(1,\tan\frac{\pi}{2})", r"2^{|\sec\frac{\pi}{2}|}", r"\max(1,\cot 0)", r"\max(2,\csc \pi)"),
        *(r"|\tan\frac{\pi}{2}|", r"2^{|\tan\frac{3\pi}{2}|}"),
    ),
    "division": (
        *(r"\max(1,\frac{1}{0})", r"\max(1,\frac{1}{1-1})", r"2^{|\frac{1}{0}|}"),
        *(r"|\frac{1}{\sin\pi}|", r"2^{|0^{-1}|}"),
        *(r"2^{|\frac{1}{\sqrt2\sqrt3-\sqrt6}|}", r"\max(1,\frac{1}{\sin^2 1+\cos^2 1-1})"),
    ),
    "gamma": (
        *(r"\Gamma(\max(1,\infty))", r"\Gamma(\max(\infty,\frac12))", r"\infty!"),
        *(r"\infty!+1", r"2^{|\Gamma(0)|}", r"\max(1,(-1)!)"),
    ),
    "difference": (
        *(r"5(-\infty-\infty)", r"5(\infty+\infty)"),
        *(r"5(\infty-\infty)", r"\sqrt{\infty+\infty}", r"\frac{1}{\infty+\infty}"),
    ),
    "limit": (
        *(r"\max(1,\sum_{k=1}^\infty k)", r"\max(1,\lim_{x\to0}\frac1x)", r"2^{|\lim_{x\to\infty}x|}"),
        *(r"\max(1,\int_0^\infty x dx)", r"2^{|\sum_{k=1}^\infty\frac1k|}"),
    ),
    "oscillation": (r"\max(\sin\infty,1)", r"\max(2,\cos\infty)", r"\max(1,\infty\cdot\sin\infty)"),
    "container": (
        *(r"\{\max(1,\infty)\}", r"x=\max(1,\infty)", r"\max(1,\infty),\max(1,\infty)"),
        *(r"(\max(1,\infty),\max(1,\infty))",),
        *(r"(\max(1,\infty),\max(1,\infty),\max(1,\infty))", r"[\max(1,\infty),\max(1,\infty)]"),
        *(r"(-\max(1,\infty),\max(1,\infty))",),
        *(r"\begin{pmatrix}\max(1,\infty)\\\max(1,\infty)\end{pmatrix}", r"x+\max(1,\infty)", r"x\cdot2^{|\infty|}"),
        *(r"y=2x+\max(1,\infty)", r"x>\max(1,\infty)", r"x+2^{|\ln 0|}", r"(3,\max(1,\infty))"),
    ),
    "variable": (r"2^{|\ln(x-x)|}", r"\max(1,\frac{1}{\sin^2x+\cos^2x-1})", r"x+2^{|\ln(\sin^2x+\cos^2x-1)|}"),
}
FORMULAS = (
    *("0", "-5", "3.14", r"\frac{7}{12}", r"\pi", r"\sqrt2", r"1+\sqrt2"),
    *(r"\log_2 3", "e^2", r"\sin 1", "2^{10}", "100!"),
    *("3+4i", r"50\%", r"5^\circ", "x", "x+1", "x^2+y^2", "2^n", r"\frac{n(n+1)}{2}", r"\binom{n}{2}", r"\ln|x|+C"),
    *("x=5", "y=2x+1", "x^2+y^2=4", "x^2+1=0", "f(x)=2x", "x>2", r"x\le 3", "1<x<2", "A", "(1,2)", "(3,4)", "[1,2]"),
    *("(1,2,3)", r"\{1,2\}", r"\{3\}", "1,2", r"\emptyset"),
    *(r"(0,\infty)", r"\mathbb{R}", r"[2,\infty)", r"(1,2)\cup(3,4)"),
    *(r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\text{yes}"),
    *(r"\infty", r"-\infty"),
)


def grade(reference: str, answer: str) -> float:
    return score(Problem("p", "?", (1,), reference), rf"\boxed{{{answer}}}")


def numbers() -> list[str]:
    """All reference answers of AIME 2024, AMC 2023 and GSM8K."""
    texts = json.loads((Path(__file__).parent / "gold_answers.json").read_text())
    return sorted({answer for text in texts.values() for answer in text.split()})


def test_there_are_many_such_answers():
    assert len(HIDDEN) >= 10
    assert sum(map(len, HIDDEN.values())) >= 60


@pytest.mark.parametrize("kind", one_in(3, HIDDEN))
def test_none_is_right_for_a_number(kind):
    """The first of each kind for all references, the others for some."""
    references = numbers()
    cases = [*product(references, HIDDEN[kind][:1]), *product(references[::37], HIDDEN[kind][1:])]
    assert [case for case in cases if grade(*case) != 0.0] == []


@pytest.mark.parametrize("kind", one_in(3, HIDDEN, first=1))
def test_none_is_right_for_a_formula(kind):
    assert [case for case in product(FORMULAS, HIDDEN[kind]) if grade(*case) != 0.0] == []


@pytest.mark.parametrize("response", [r"The answer is $@$.", "<answer>@</answer>", "#### @", r"\[@\]", r"\fbox{@}"])
def test_none_is_right_outside_a_box(response):
    problem = Problem("p", "?", (1,), "12")
    assert score(problem, response.replace("@", r"\max(1,\infty)")) == 0.0
    assert score(problem, response.replace("@", r"2^{|\ln 0|}")) == 0.0


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        *[(r"\mathbb{R}", r"\pm\infty"), (r"(-\infty,\infty)", r"\pm\infty"), (r"(0,\infty)", r"(0,\max(1,\infty))")],
        *[(r"-\infty", r"\tan(\frac{\pi}{2})"), (r"\infty", r"\sec(\frac{\pi}{2})"), (r"\infty", r"\csc \pi")],
        *[(r"\infty", r"\lim_{x\to0}\frac1x"), (r"\infty", r"\min(\infty,7)"), ("1", r"\gcd(5,\infty)")],
        *[(r"\infty", r"-\infty"), (r"\{1,\infty\}", r"\{1,-\infty\}"), ("(1,2)", r"1,\infty")],
        *[(r"\{1,2\}", r"1,2,\ldots"), ("(1,2)", r"1,2,\ldots"), ("1<x<2", r"1,2,\dots"), ("1,2", "1,2,...")],
    ],
)
def test_infinity_and_lists_that_go_on_are_nothing_else(reference, answer):
    assert grade(reference, answer) == 0.0


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        *[(r"\infty", r"+\infty"), (r"-\infty", r"-(\infty)"), (r"\infty", r"x=\infty")],
        *[(r"\{\infty,1\}", r"1,\infty")],
        *[("x>0", r"(0,\infty)"), (r"(0,\infty)", r"(0,+\infty)"), (r"\mathbb{R}", r"(-\infty,\infty)")],
        *[(r"(-\infty,-1)\cup(1,\infty)", r"(1,\infty)\cup(-\infty,-1)"), (r"(-\infty,3]", r"(-\infty,3]")],
        *[(r"(1,\infty),(2,3)", r"(2,3),(1,\infty)"), (r"(1,\infty)", r"x\in(1,\infty)")],
        *[(r"\frac{\pi^2}{6}", r"\sum_{n=1}^{\infty}\frac{1}{n^2}")],
        *[(r"\frac{\pi^2}{3}", r"2\sum_{n=1}^\infty\frac{1}{n^2}")],
        *[("1", r"\int_0^\infty e^{-x}dx"), ("e", r"\lim_{n\to\infty}(1+\frac1n)^n")],
        *[("5", r"\lim_{n\to\infty}a_n=5")],
        *[("1", r"\lim_{x\to0}\frac{\sin x}{x}"), ("2", r"\sum_{n=0}^\infty \frac{1}{2^n}")],
        *[("1", r"\lim_{x\to\infty}\frac{x+1}{x}")],
        *[(r"\tan x", r"\frac{\sin x}{\cos x}"), (r"\log_2 x", r"\frac{\ln x}{\ln 2}"), ("n!", r"\Gamma(n+1)")],
        *[("-100", r"\log_{10} 10^{-100}"), ("10^{50}", r"\frac{1}{10^{-50}}"), (r"\sqrt{\pi}", r"\Gamma(\frac12)")],
        *[(r"\frac{f(x)}{g(x)}", "f(x)/g(x)"), ("|x|", r"\sqrt{x^2}")],
        *[(r"\frac{\sqrt2+1}{1}", r"\frac{1}{\sqrt2-1}")],
        *[("5", r"\max(2,5)"), ("3", r"\lfloor\pi\rfloor"), (r"\frac{\pi}{4}", r"\arctan 1")],
        *[("1", r"\tan\frac{\pi}{4}")],
        *[("5050", r"1+2+\ldots+100=5050"), (r"\frac{1}{1-x}", r"\frac{-1}{x-1}"), (r"2^{-x}", r"\frac{1}{2^x}")],
    ],
)
def test_right_answers_stay_right(reference, answer):
    assert grade(reference, answer) == 1.0


WITHOUT_SOLUTIONS = (
    *("x^2+x+1=0", r"\omega^2+\omega+1=0", "z^2+1=0", "y'=y", r"\sin^2 x+\cos^2 x=1", "2+2=4", "x^2+1=0", "|x|=-1"),
    *(r"\sqrt{x}=-1", "z=1+i", "e^x=0", r"x^2+y^2=-1", "z^2=i", "x=x+1"),
)


@pytest.mark.parametrize("reference", one_in(3, WITHOUT_SOLUTIONS))
def test_equations_without_solutions_are_not_all_the_same(reference):
    others = ("7=7", "0=1", "t=t+1", r"\{\}", r"\emptyset", "x^2+3=0", "e^{2x}=0", "|x|=-2", "z=2i", "x^4+x^2+1=0")
    assert [other for other in others if grade(reference, other) != 0.0] == []


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        *[("x^2+x+1=0", "x+x^2+1=0"), ("x^2+x+1=0", "x^2+x=-1"), ("x^2+x+1=0", "0=2x^2+2x+2"), ("z^2+1=0", "z^2=-1")],
        *[(r"\sin^2 x+\cos^2 x=1", r"\cos^2 x+\sin^2 x=1"), (r"\sin^2 x+\cos^2 x=1", r"1=\sin^2x+\cos^2x")],
        *[("2+2=4", "4=2+2"), ("y'=y", "y'=y"), ("z=1+i", "z=i+1"), ("z=1+i", "1+i"), ("f(x)=2x", "f(x)=x+x")],
        *[("y=2x+3", "2x-y+3=0"), ("x^2+y^2=25", "x^2+y^2-25=0"), ("x=5", "5"), ("5", "x=5"), ("y=\\frac1x", "xy=1")],
        *[("(x,y)=(1,2)", "(1,2)"), ("x=1,y=2", "x = 1, y = 2"), ("e^x=0", "2e^x=0")],
    ],
)
def test_the_same_equation_is_right(reference, answer):
    assert grade(reference, answer) == 1.0


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        *[("no", "on"), ("yes", "yse"), ("east", "seat"), ("listen", "silent")],
        *[("no", r"\text{on}"), ("no", r"o\cdot n")],
        *[(r"\text{no}", "on"), (r"\text{no}", r"o\cdot n"), ("No solution", "son No lution"), ("TRUE", "ERUT")],
        *[("Monday", r"\text{dynamo}"), ("no", "<answer>$on$</answer>"), ("even", r"e^2vn")],
    ],
)
def test_words_are_no_products_of_letters(reference, answer):
    assert grade(reference, answer) == 0.0
    assert score(Problem("p", "?", (1,), reference), answer) == 0.0


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        *[("no", "No"), ("no", r"\text{No}"), ("no", r"\textbf{no}"), ("yes", "Yes."), (r"\text{yes}", "yes")],
        *[("no solution", r"\text{No solution.}"), ("Monday", r"\mathrm{Monday}"), ("first", "first")],
        *[("ab", "ba"), ("abc", "cab"), ("xy", "yx"), ("mgh", "hmg"), ("nRT", "TRn")],
        *[("IR", "RI"), ("A", r"\text{A}"), ("e", "e"), ("nqvA", "Anqv")],
    ],
)
def test_words_and_products_are_right_as_they_are_meant(reference, answer):
    assert grade(reference, answer) == 1.0


def test_lists_that_go_on_may_stand_before_the_answer():
    response = "The numbers 1, 2, ... are all there. So the answer is 7."
    assert score(Problem("p", "?", (1,), "7"), response) == 1.0
