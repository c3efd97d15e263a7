r"""Notations that would be read as something else, or not at all: `3(4)`, `\sin x \cdot 2`, `\frac\pi3`."""

from __future__ import annotations

import pytest

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.forms.tidy import tidied
from aspo_megatron.rewards.mathematics.reward import score

pytestmark = pytest.mark.timeout(120)

SAME = {
    "products without a sign": [
        ("15", "3(5)"),
        ("15", r"3\left(5\right)"),
        ("15", "(3)(5)"),
        ("15", "(3)5"),
        ("15", r"\frac{1}{2}(5)(6)"),
        ("15", r"\frac{6(5)}{2}"),
        ("15", r"3{\cdot}5"),
        (r"\frac{5}{2}", r"2\left(\frac54\right)"),
        ("x^2-4", "(x-2)(x+2)"),
        ("2x^2-8", r"2(x-2)\left(x+2\right)"),
        (r"2\frac{3}{4}", r"\frac{11}{4}"),
        ("f(3)", "f(3)"),
        ("(1,2),(3,4)", "(1,2),(3,4)"),
        ("x_1(2)", "x_1(2)"),
    ],
    "arguments without brackets": [
        (r"\sin x\cos x", r"\sin x \cdot \cos x"),
        (r"\sin x\cos x", r"\cos{x}\times\sin{x}"),
        (r"5\ln 2", r"\ln 2 \cdot 5"),
        (r"e^x \sin 2x", r"\sin 2x \cdot e^x"),
        (r"3\sin^2 x", r"\sin^2 x \cdot 3"),
        (r"\frac{\pi}{4}\cos\frac{\pi}{8}", r"\cos\frac{\pi}{8} \cdot \frac{\pi}{4}"),
    ],
    "fractions": [
        (r"\frac{\pi}{5}", r"\frac\pi5"),
        (r"\frac{\pi}{5}", r"\dfrac\pi{5}"),
        (r"\frac{a}{b}", r"\frac a b"),
        (r"\frac{a}{b}", r"\tfrac{a}b"),
        (r"\frac{3}{7}", r"\nicefrac{3}{7}"),
        (r"\frac{1}{1+\frac{1}{x}}", r"\frac1{1+\frac1x}"),
        ("0.25", "0{.}25"),
        (r"\frac{9}{b-5}", r"{9 \over b-5}"),
        ("24", "4!=24"),
        ("1,5,6", r"\text{1, 5, and 6}"),
    ],
    "plus and minus": [
        (r"\frac{5\pm\sqrt{13}}{6}", r"\frac{5+\sqrt{13}}{6}, \frac{5-\sqrt{13}}{6}"),
        (r"\frac{5+\sqrt{13}}{6}, \frac{5-\sqrt{13}}{6}", r"x = \frac{5 \pm \sqrt{13}}{6}"),
        (r"\frac{5\pm\sqrt{13}}{6}", r"\frac{5}{6} \pm \frac{\sqrt{13}}{6}"),
        (r"\pm 6", "6, -6"),
        ("6,-6", r"x = \pm 6"),
        (r"y=\pm\frac{2}{3}x", r"y=\frac23x \text{ and } y=-\frac{2}{3}x"),
        (r"(4,\pm 5)", "(4,5), (4,-5)"),
        (r"1 \pm 2i", "1-2i, 1+2i"),
    ],
    "columns": [
        (r"\begin{pmatrix} 4 \\ -1 \\ 2 \end{pmatrix}", "(4,-1,2)"),
        ("(4,-1,2)", r"\langle 4, -1, 2 \rangle"),
        ("(4,-1)", r"\left<4,-1\right>"),
        (r"\begin{pmatrix} 4 \\ -1/3 \end{pmatrix}", r"\begin{bmatrix} 4 \\[2pt] -\dfrac{1}{3} \end{bmatrix}"),
        (r"\begin{pmatrix} 4 \\ -1 \end{pmatrix}", r"\left[\begin{array}{c} 4 \\ -1 \end{array}\right]"),
        (r"\begin{pmatrix} 4 \\ -1 \end{pmatrix}", r"\mathbf{v} = \begin{pmatrix} 4 \\ -1 \end{pmatrix}"),
        (r"\begin{pmatrix} 4 & 0 \\ -1 & 1 \end{pmatrix}", r"\begin{pmatrix} 4 & 0 \cr -1 & 1 \end{pmatrix}"),
        ("x=4, y=-1", r"\begin{cases} x = 4 \\ y = -1 \end{cases}"),
        (r"\{1,6\}", r"\lbrace 1,6\rbrace"),
    ],
    "what the variable is": [
        ("f(x)=3x", r"f(x)=3x \text{ for all } x \in \mathbb{R}"),
        ("f(x)=3x", r"f(x)=3x, \quad \forall x \in \mathbb{R}"),
        (r"\frac{n}{4}", r"a_n = \frac{n}{4}, n \in \mathbb{N}^*"),
        ("x^2+1", r"x^2+1 \text{ for all } x"),
    ],
    "functions": [
        (r"\frac{\sqrt{3}}{2}", r"\sin 60^\circ"),
        (r"\frac{\sqrt{3}}{2}", "\\cos{30\u00b0}"),
        (r"\frac{3}{4}", r"\sin^2 60^{\circ}"),
        (r"\sin 20^\circ", r"\cos 70^\circ"),
        ("25", r"25\degree"),
        ("25", r"25^{\text{o}}"),
        (r"\lg 5", r"\log_{10} 5"),
        (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"),
        (r"1+\lg 2", r"\lg 20"),
        (r"\ln 7", r"\log_e 7"),
        (r"\ln 7", "ln(7)"),
        (r"12\pi", "12*pi"),
        (r"3\sqrt{2}", "3sqrt(2)"),
        (r"3\sqrt{2}", r"3\sqrt(2)"),
        (r"\binom{9}{4}", "C_9^4"),
        ("126", r"\mathrm{C}_{9}^{4}"),
        ("126", "{}_{9}C_{4}"),
    ],
}
OTHER = {
    "products without a sign": [
        ("8", "3(5)"),
        ("8", "(3)(5)"),
        ("8", "3 5"),
        ("8", r"3\,5"),
        ("8", r"3\quad 5"),
        ("35", "3 5"),
        ("8", r"3 \ldots 5"),
        (r"\frac{11}{4}", r"2\left(\frac34\right)"),
        (r"\frac{11}{4}", r"(2)\frac34"),
        ("15", "35"),
    ],
    "arguments without brackets": [(r"\sin(x\cos x)", r"\sin x \cdot \cos x"), (r"\sin(2x)", r"\sin 2 \cdot x")],
    "fractions": [(r"\frac{\pi}{5}", r"\frac5\pi"), (r"\frac{a}{b}", r"\frac b a")],
    "plus and minus": [
        (r"\frac{5\pm\sqrt{13}}{6}", r"\frac{5+\sqrt{13}}{6}"),
        (r"\frac{5+\sqrt{13}}{6}", r"\frac{5\pm\sqrt{13}}{6}"),
        ("6", r"\pm 6"),
        (r"\pm 6", "6"),
        (r"(4,\pm 5)", "(4,5)"),
    ],
    "columns": [
        (r"\begin{pmatrix} 4 \\ -1 \end{pmatrix}", "(-1,4)"),
        (r"\begin{pmatrix} 4 \\ -1 \end{pmatrix}", "4"),
        (r"\begin{pmatrix} 4 & 0 \\ -1 & 1 \end{pmatrix}", r"\begin{pmatrix} 4 & -1 \\ 0 & 1 \end{pmatrix}"),
    ],
    "what the variable is": [
        ("x>2", r"x>2, x \in \mathbb{Z}"),
        ("1", "1, x"),
        ("3", r"x \in \mathbb{R}"),
    ],
    "functions": [
        (r"\frac{1}{2}", r"\sin 60^\circ"),
        (r"\lg 5", r"\ln 5"),
        ("126", "C_4^9"),
        ("0", "C_4^9"),
        (r"\binom{9}{4}", r"\frac{9}{4}"),
    ],
}


def grade(reference: str, content: str) -> float:
    return score(Problem("p-0", "?", (1,), reference), rf"So the answer is $\boxed{{{content}}}$.")


@pytest.mark.parametrize(("reference", "content"), [pair for pairs in SAME.values() for pair in pairs])
def test_the_same_is_right(reference: str, content: str) -> None:
    assert grade(reference, content) == 1.0
    assert tidied(tidied(content)) == tidied(content)


@pytest.mark.parametrize(("reference", "content"), [pair for pairs in OTHER.values() for pair in pairs])
def test_something_else_is_wrong(reference: str, content: str) -> None:
    assert grade(reference, content) == 0.0
