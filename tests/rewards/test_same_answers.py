"""What people take for the same answer is right, whatever its form; a part of an answer, or one beside it, is wrong."""

from __future__ import annotations

import pytest

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.forms.tidy import tidied
from aspo_megatron.rewards.mathematics.reward import score

pytestmark = pytest.mark.timeout(120)


def grade(reference: str, response: str, question: str = "?") -> float:
    return score(Problem("p-0", question, (1,), reference), response)


def in_box(content: str) -> str:
    return rf"So the answer is $\boxed{{{content}}}$."


SAME = {
    "words": [
        (r"\text{ellipse}", r"\text{an ellipse}"),
        ("the hexagon", r"\text{Hexagon}"),
        ("7:45", r"\text{7:45}"),
        ("(3,-4)", r"\text{(3, -4)}"),
        (r"\{1,2,3\}", r"A \cap B = \{1,2,3\}"),
        (r"\text{x-axis}", "x-axis"),
        ("7:45 PM", r"7{:}45 \text{ p.m.}"),
    ],
    "powers of ten": [
        ("2.5e17", r"2.5 \times 10^{17}"),
        ("2.5e17", r"2.5 \cdot 10^{17} \text{ J}"),
        ("2.5E-17", r"2.5 \times 10^{-17}"),
        ("7e-4", r"0.0007"),
        (r"6 \times 10^{5}", "6e5"),
        ("6e5", "600000"),
        ("1.5e3 m/s", "1500"),
        ("4.2 x 10^6", "4200000"),
    ],
    "currencies and units": [
        (r"\$48", "48"),
        (r"\$48", r"48 \text{ dollars}"),
        (r"\$1,\!250", r"\$1250"),
        ("48 dollars", r"\$48.00"),
        ("48", "48 euros"),
        ("48", r"48\,\mathrm{kg}"),
        ("48", r"48~\mathrm{m}/\mathrm{s}^2"),
        ("48", r"48 \text{ square units}"),
        ("48", r"48\ \text{cm}^{2}"),
        ("48 (apples)", "48"),
        ("48", "48 apples"),
        ("48", "48公里"),
        ("3", r"n = 3 \text{ minutes}"),
        ("3500000", r"3.5 \text{ million}"),
        ("3500000", r"\$3.5 \text{ million dollars}"),
        ("20 $cm^{3}$", r"20 \text{ cm}^3"),
    ],
    "separators": [
        (r"\frac{4321}{30,\!000}", r"\frac{4321}{30000}"),
        (r"7{,}000\pi", r"7000 \pi"),
        ("12,345", r"12\,345"),
        ("$11,222,333$", "11, 222, 333"),
        ("11, 222", "11,222"),
        ("11,222", "11222"),
    ],
    "several": [
        ("$4$;$9$", "4; 9"),
        ("$4$;$9$", "4, 9"),
        ("$4$ and $9$", "9, 4"),
        ("4,9", r"4 \text{ or } 9"),
        ("4,9", r"x = 4 \quad \text{and} \quad x = 9"),
        ("-2,-1,3", "-1, 3, -2"),
        ("4 和 9", "4, 9"),
    ],
    "constants": [
        (r"2-\mathrm{i}", "2-i"),
        (r"\frac{3}{\mathrm{e}}", r"\frac{3}{e}"),
        ("3e", r"3\text{e}"),
        (r"\mathrm{e}^{2}", "e^2"),
        (r"3\pi", "3\\mathrm{\\pi}"),
        (r"\sin 2", r"\operatorname{sin} 2"),
    ],
    "options": [
        ("(B) 18", "(B) 18"),
        ("(B) 18", "B"),
        ("(B) 18", "18"),
        ("(B) 18", r"\textbf{(B)}\ 18"),
        (r"D. 2-\mathrm{i}", "D"),
        (r"D. 2-\mathrm{i}", "2-i"),
        ("A)5 km", "A"),
        ("C", "C."),
        ("C", r"\text{Option C}"),
        ("C", r"\text{(C)}"),
        ("C", r"\mathrm{(C)}\ 12"),
        ("C", "Answer: C"),
    ],
    "looks": [
        ("7", "7."),
        ("7", r"7 \\"),
        ("7", r"\color{blue}{7}"),
        ("7", r"{\color{blue} 7}"),
        ("7", r"\textcolor{red}{7}"),
        ("7", r"\underline{7}"),
        ("7", r"\mathbf{7}"),
        ("7", r"\textbf{(007)}"),
        ("7", r"\displaystyle 7"),
        ("7", r"\boxed{7}"),
        ("7", "**7**"),
        ("7", "$7$"),
        ("7", r"\text{The answer is } 7"),
        ("x+1", r"\bm{x} + 1"),
        (r"\sqrt[5]{3}", r"\sqrt[5]3"),
        (r"\frac{2}{3}", r"\dfrac 2 3"),
        (r"\emptyset", r"\varnothing"),
    ],
    "Unicode": [
        (r"\frac{3}{4}", "¾"),
        (r"\frac{7}{4}", "1¾"),
        (r"\sqrt{3}", "√3"),
        (r"\sqrt{x+1}", "√(x+1)"),
        (r"2\sqrt[3]{5}", "2∛5"),
        ("8", "\uff18"),
        ("3,4", "3\uff0c4"),
        ("(3,4)", "\uff083\uff0c4\uff09"),
        ("x^2", "x²"),
        ("10^{-3}", "10⁻³"),
        (r"2\pi", "2π"),
        (r"x \le 3", "x ≤ 3"),
        (r"x \ne 3", "x ≠ 3"),
        (r"\infty", "∞"),
        ("-3", "\u22123"),
        (r"30^\circ", "30°"),
        ("3x", "3\U0001d465"),
        (r"[1,2]\cup[3,4]", "[1,2]\u222a[3,4]"),
    ],
    "numbers": [
        ("17 1/2", "17.5"),
        ("17.5", "17 1/2"),
        ("17 1/2", r"17\frac{1}{2}"),
        ("-2.25", "-2 1/4"),
        (r"\frac{2}{3}", r"0.\overline{6}"),
        (r"\frac{1}{6}", r"0.1\overline{6}"),
        (r"\frac{1}{7}", r"0.\dot{1}4285\dot{7}"),
        (r"\frac{4}{3}", r"1.\overline{3}"),
        (r"\frac{1}{3}", "0.(3)"),
        ("0.00000031", "3.1e-7"),
        ("6.02e23", r"6.020 \times 10^{23}"),
        (r"\frac{1}{3}", "0.333333"),
        (r"10^6\pi", "3141592.65"),
        ("2516_8", "2516"),
        ("2516", "2516_8"),
        ("1A_{16}", "1a_{16}"),
        ("-3./2", "-1.5"),
        (".5", "0.5"),
    ],
    "sets": [
        (r"(-\infty,3)", "x<3"),
        (r"[1,\infty)", r"x \ge 1"),
        (r"[1,3)", r"1 \le x < 3"),
        ("x<3", r"(-\infty,3)"),
        (r"\{x|x<3\}", r"(-\infty,3)"),
        (r"\{x \mid -1 \leq x < 3\}", "[-1,3)"),
        (r"\{y \in \mathbb{R} : y > 3\}", "y>3"),
        (r"\{4,9\}", r"\{9,4\}"),
    ],
    "equations": [
        ("7", "x = 7"),
        ("7", "f(3) = 7"),
        ("7", r"3 + 4 = 7"),
        ("7", "|AB| = 7"),
        ("7", r"\angle ABC = 7"),
        ("7", r"\text{Area} = 7"),
        ("x = 7", "7"),
        ("y=2x+1", "2x+1"),
    ],
}  # fmt: skip

OTHER = {
    "a part": [
        (r"$2-\frac{1}{\mathrm{e}}$", "2"),
        (r"2-\mathrm{i}", "2"),
        ("7", r"7\mathrm{e}"),
        ("7", r"7\text{x}"),
        ("7", "7c"),
        ("7", "7 h"),
        (r"-\mathrm{e}^{2}", r"-\mathrm{e}^{3}"),
        (r"7-\sqrt{5\mathrm{i}}", "7"),
        ("7", r"7 \text{ or more}"),
        ("7", r"7 \text{ million}"),
        ("0", r"0 \text{ or more}"),
        ("a^2b/c", "a^2b"),
        ("7", r"7 \foo"),
        ("1:58 am", "1:58 pm"),
        ("$x$ is $3$ or more, and $y$ is $4$", "4"),
    ],
    "an equation": [
        ("0", "x^2-7x+12=0"),
        ("7", "x^2+y^2=7"),
        ("7", "x^2=7"),
        ("7", "m+n=7"),
        ("1", "1=1"),
        ("x^2=1", "1=1"),
        (r"\log_2 8=3", "2=2"),
    ],
    "numbers": [
        ("0.00000031", "0.00000041"),
        ("3.1e-19", "3.2e-19"),
        ("6.02e23", "6.03e23"),
        ("6.02e23", r"6.02 \times 10^{23}+1"),
        (r"\frac{1}{1999!}", r"\frac{1}{2001!}"),
        (r"10^{10}", r"\sqrt{10^{20}+1}"),
        ("10^{-20}", "0"),
        ("0", "10^{-20}"),
        ("1234567", "1234568.0"),
        ("131250", "131250.0001"),
        (r"\frac{2}{3}", "0.6"),
        (r"0.\overline{6}", "0.6"),
        ("2516_8", "2516_9"),
        ("2516_8", "1358"),
        ("17 1/2", "17"),
        ("17 1/2", "8.5"),
    ],
    "sets": [
        (r"(-\infty,3)", r"x \le 3"),
        (r"(-\infty,3)", "x > 3"),
        ("(1,3)", "x < 1"),
        (r"\{x|x<3\}", "3"),
    ],
    "options": [
        ("(B) 18", "(C) 18"),
        ("(B) 18", "(B) 19"),
        ("(B) 18", "C"),
        ("(B) 18", "19"),
        ("(A), (C)", "A"),
        ("C", "D."),
        ("C", r"\text{Option D}"),
    ],
    "several": [
        ("4,9", "4"),
        ("4", "4, 9"),
        ("$4$;$9$", "4; 8"),
        ("4,9", r"4 \text{ or } 8"),
        ("4", "4; 4.5"),
        ("4", r"\not= 4"),
        ("5", r"A \cap B = \{1\}, C \cup D = 5"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("reference", "content"), [pair for pairs in SAME.values() for pair in pairs])
def test_the_same_is_right(reference: str, content: str) -> None:
    assert grade(reference, in_box(content)) == 1.0


@pytest.mark.parametrize(("reference", "content"), [pair for pairs in OTHER.values() for pair in pairs])
def test_something_else_is_wrong(reference: str, content: str) -> None:
    assert grade(reference, in_box(content)) == 0.0
    assert grade(reference, f"<answer>{content}</answer>") == 0.0


@pytest.mark.parametrize(
    "reference", sorted({reference for kinds in (SAME, OTHER) for pairs in kinds.values() for reference, _ in pairs})
)
def test_a_reference_is_equal_to_itself(reference: str) -> None:
    plain = reference[1:-1] if reference.count("$") == 2 and reference[0] == reference[-1] == "$" else reference
    assert grade(reference, rf"\[\boxed{{{reference}}}\]") == 1.0
    assert grade(reference, in_box(plain)) == 1.0
    assert grade(reference, f"<think>no</think> <answer>{reference}</answer>") == 1.0
    assert grade(reference, f"Hence it is so.\n#### {reference}") == 1.0
    assert grade(reference, rf"\boxed{{\displaystyle {plain}.}}") == 1.0
    assert tidied(tidied(reference)) == tidied(reference)


@pytest.mark.parametrize(
    ("reference", "response", "reward"),
    [
        # Headings are no GSM8K answers.
        ("9", "#### Step 1\nWe have 5.\n\n#### Step 2\nAdd 4.\n\nThe answer is 9.", 1.0),
        ("9", "#### Final answer\n9", 1.0),
        ("9", "#### Result\n\n**Answer:** $9$", 1.0),
        ("2", "#### 2. Check\n5 + 4 = 9\n\nThe answer is 9.", 0.0),
        ("9", "##### 9", 1.0),
        ("9", "#### 9\n\nQuestion: and then?", 1.0),
        ("9", "5 + 4 = 9 #### 9", 1.0),
        ("no solution", "#### no solution", 1.0),
        ("x<4", "#### x<4", 1.0),
        ("-3,0,3", "#### -3, 0, 3", 1.0),
        ("3,4", "#### 3 and 4", 1.0),
        ("2n+1", "#### 2n+1", 1.0),
        ("2", "#### 2n+1", 0.0),
        # Tags.
        ("x<4", "<answer>x<4</answer>", 1.0),
        ("2<m<5", "<answer>2<m<5</answer>", 1.0),
        ("1", "<answer>1 + i</answer>", 0.0),
        ("3", "<answer>3 - x</answer>", 0.0),
        ("3 xy", "<answer>3 xy</answer>", 1.0),
        ("3", "<answer>3 xy</answer>", 0.0),
        ("9", "<answer>The answer is 9</answer>", 1.0),
        ("9", "<answer>9 apples, not 8</answer>", 1.0),
        ("B) 36 km", "<answer>B) 36 km</answer>", 1.0),
        # Boxes that are one list.
        ("(2,2),(6,2)", r"$$\boxed{(2,2)} \quad \text{and} \quad \boxed{(6,2)}$$", 1.0),
        ("1,2", r"$\boxed{1}\text{ or }\boxed{2}$", 1.0),
        ("1,2", r"$\boxed{1}; \boxed{2}$", 1.0),
        ("1,2", r"**$\boxed{1}$** and **$\boxed{2}$**", 1.0),
        ("1,2", "- $\\boxed{1}$\n- $\\boxed{2}$", 1.0),
        ("1,2", "1. $\\boxed{1}$\n2. $\\boxed{2}$", 1.0),
        ("1,2", r"$x = \boxed{1}$, $y = \boxed{2}$", 1.0),
        ("1,2", r"$$\boxed{1} \\ \boxed{2}$$", 1.0),
        ("2", r"$\boxed{1}; \boxed{2}$", 0.0),
        ("2", r"$\boxed{1}$ $\boxed{2}$", 1.0),
        ("2", r"At first \boxed{1}. But then \boxed{2}", 1.0),
        ("2", "$$\\boxed{2}$$\n\n$\\boxed{2}$", 1.0),
        ("2", "$$\\boxed{x=2}$$\n\n$\\boxed{2}$", 1.0),
        # Formulas that are in no box.
        ("45", "Hence\n\\[\nv = 45 \\text{ mph}\n\\]", 1.0),
        ("2.5", r"\[ 2.5 \mathrm{~m} \]", 1.0),
        ("2.5", r"so it is $ 2.5 \mathrm{~m} $", 1.0),
        ("1-5i", r"\[ 1-5\mathrm{i} \]", 1.0),
        ("1", r"Therefore $1-\foo$.", 0.0),
        ("4.5e33", "The answer is 4.5e33.", 1.0),
        ("4.5", "The answer is 4.5e33.", 0.0),
        ("17.5", "The answer is 17 1/2.", 1.0),
        ("17", "The answer is 17 1/2.", 0.0),
        ("5;10", "The answer is $5$;$10$.", 1.0),
        ("10", "The answer is $5$;$10$.", 0.0),
        (r"\frac{1}{2}", "The answer is ½.", 1.0),
        ("(B) 18", "The answer is $(B) 18$.", 1.0),
    ],
)
def test_wherever_it_is(reference: str, response: str, reward: float) -> None:
    assert grade(reference, response) == reward


def test_the_left_side_may_be_what_is_asked_for():
    assert grade("113", r"\boxed{m+n=113}", "Find $m + n$.") == 1.0
    assert grade("113", r"\boxed{m-n=113}", "Find $m + n$.") == 0.0
    assert grade("0", r"\boxed{x^2-5x+6=0}", "How many solutions has $x^2-5x+6=0$?") == 0.0
