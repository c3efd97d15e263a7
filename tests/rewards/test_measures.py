"""Units, counted things, scales and percentages around a number: what leaves it as it is, and what changes it."""

from __future__ import annotations

import time

import pytest

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.forms.compound import without_compound
from aspo_megatron.rewards.mathematics.forms.tidy import tidied
from aspo_megatron.rewards.mathematics.reward import score

pytestmark = pytest.mark.timeout(120)


def grade(reference: str, content: str, question: str = "?") -> float:
    return score(Problem("p-0", question, (1,), reference), rf"So the answer is $\boxed{{{content}}}$.")


UNITS = [
    r"7.2\,\mathrm{kg\,m^2/s^2}",
    r"7.2 \mathrm{m \cdot s^{-1}}",
    r"7.2\,\mathrm{J\,mol^{-1}\,K^{-1}}",
    r"7.2\ \text{J/(mol·K)}",
    r"7.2 \mathrm{J/(kg\cdot K)}",
    r"7.2\ (\mathrm{m\,s^{-1}})",
    r"7.2\,\mathrm{erg\,s^{-1}\,cm^{-2}}",
    r"7.2 \text{ kg·m}^2",
    r"7.2{\rm\,km\,s^{-1}}",
    r"7.2 \frac{\text{m}}{\text{s}}",
    r"7.2 \tfrac{\text{mi}}{\text{hr}}",
    r"7.2\,\frac{\mathrm{kg}}{\mathrm{m}^3}",
    r"7.2\,\frac{kg}{m^3}",
    r"7.2 kg m^2/s^2",
    r"7.2 J/(mol K)",
    r"7.2\,\Omega",
    r"7.2 Ω",
    r"7.2\,\mathrm{k\Omega}",
    r"7.2\,\mathrm{k}\Omega",
    r"7.2\,\mu m",
    r"7.2\,\mu\text{m}",
    r"7.2\,\mathrm{\mu m}",
    r"7.2 μs",
    r"7.2 \AA",
    "7.2 Å",
    r"7.2 \text{Å}",
    r"7.2\,\mathring{A}",
    r"7.2^\circ\text{C}",
    r"7.2\,^{\circ} C",
    "7.2°C",
    "7.2 ℃",
    r"7.2^\circ\mathrm{F}",
    r"7.2\,M_\odot",
    r"7.2\,\mathrm{M}_\odot",
    r"7.2\,\mathrm{~M}_{\odot}",
    r"7.2 R_{\odot}",
    r"7.2\,\mathrm{L_\odot}",
    r"7.2 \times 10^0\,\mathrm{kg \cdot m/s}",
    r"x = 7.2\,\mathrm{N\cdot m}",
    r"7.2 \text{ min}",
    r"7.2 \text{ sec}",
    r"\text{7.2 cm}",
    r"\text{7.2 apples}",
    r"\text{\$7.20}",
    r"\textdollar 7.2",
    r"\mathdollar{}7.20",
    r"7.2\text{元}",
    r"7.2 \text{ 元}",
    r"7.2\,\text{秒}",
    "7.2元/千克",
    r"7.2\text{元/千克}",
    r"\text{7.2元}",
    "7.2\uff08米\uff09",
    "7.2(米)",
    "7.2\\text{\uff08米\uff09}",
    r"7.2\mathrm{元}",
    r"x=7.2\text{元}",
    "共7.2元",
    r"\text{共7.2元}",
    "7.2千克",
    r"7.2\text{千米/小时}",
    "7.2 円",
]

NOT_UNITS = [
    "7.2 m",
    r"7.2\mu",
    r"7.2\mu m g",
    r"7.2 x\,\Omega",
    r"7.2\,\frac{m}{s}",
    r"\frac{7.2}{\mathrm{s}}",
    r"7.2\,\mathrm{e^{2}}",
    r"7.2 \cdot \mathrm{kg} \cdot 3",
    r"7.2^{2}\,\mathrm{kg\,m^{2}}",
    r"7.2 \times 10^{3}\,\mathrm{kg\,m^{2}}",
    r"7.2\text{ R2}",
    r"7.2\text{ remainder }2",
    *(
        rf"7.2 \text{{ {word}}}"
        for word in ("tenths", "hundredths", "squared", "cubed", "factorial", "double", "negative", "approximately")
    ),
    *(rf"7.2 \text{{ {word}}}" for word in ("times", "pairs", "score", "gross", "tens", "into", "inverse", "loss")),
    *("7.2 (approximately)", "7.2 (dozen)"),
    *(
        "7.2万",
        "7.2亿",
        r"7.2\text{千}",
        r"7.2 \text{ 百}",
        "7.2万元",
        "7.2个半",
        "7.2左右",
        r"7.2\text{以上}",
        "7.2的平方",
    ),
]

SAME = {
    "scales": [
        ("36", "3 dozen"),
        ("36", r"3 \text{ dozen eggs}"),
        ("18", r"1\frac{1}{2} \text{ dozen}"),
        ("500000", r"5 \text{ lakh}"),
        ("50000000", r"5 \text{ crore rupees}"),
        ("5000000000", r"5\text{ bn}"),
        ("3000000", r"3 \text{ millions}"),
        ("500", r"5 \text{ hundreds}"),
        ("3000000", r"\text{3 million}"),
        ("5000000", r"\$5\text{M}"),
        ("5000", r"\$5k"),
        ("10000", r"10\text{k}"),
        ("5", r"5\text{K}"),
        ("50000", "5万"),
        ("50000", r"5\text{万元}"),
        ("5000000", "5百万"),
        ("300000000", r"3 \text{ 亿}"),
        ("3", "3千米"),
    ],
    "percent": [
        *((r"50\%", each) for each in (r"50\text{%}", r"50\text{\%}", r"50\mathrm{\%}", r"\text{50\%}", "50")),
        *((r"50\%", each) for each in (r"50 \text{ percent}", "50 percent", "50%", r"50\,\%", "0.5", r"\frac{1}{2}")),
        *((r"50\%", each) for each in (r"x = 50\%", r"50\%\text{ of the people}", r"50 \text{ percent of them}")),
        *(("12.5", each) for each in (r"12.5\%", r"12\frac{1}{2}\%", r"\frac{25}{2}\%", r"x = 12.5\%")),
        *((r"12\frac{1}{2}\%", each) for each in (r"12.5\%", "12.5", r"12\frac12\%", "0.125", r"\frac{1}{8}")),
        *((r"33\frac13\%", each) for each in (r"33\frac{1}{3}\%", r"33.\overline{3}\%", r"\frac{100}{3}\%")),
        (r"33\frac13\%", r"\frac13"),
        ("40", r"40\%"),
        ("40", r"40\text{ percent}"),
        ("-40", r"-40\%"),
        ("0.4", r"40\%"),
        ("1", r"100\%"),
        (r"\frac{2}{5}", r"40\%"),
        (r"5.3\%", "0.053"),
        (r"10\%, 20\%", r"20\%, 10\%"),
        ("(C) 20%", "20"),
    ],
    "different forms of a unit": [
        (r"24 \text{ mi/hr}", r"24\frac{\text{mi}}{\text{hr}}"),
        ("10000", r"\text{\$10,000.00}"),
        (r"3 \times 10^{8} \text{ m/s}", r"3.0 \times 10^8\,\mathrm{m\,s^{-1}}"),
        ("4.5e33", r"4.5 \times 10^{33}\,\mathrm{erg\,s^{-1}}"),
        (r"12 \text{ ways}", "12种不同的方法"),
    ],
}  # fmt: skip

OTHER = {
    "signs that are units behind a mere number": [
        ("2x", r"2x\,\Omega"),
        (r"2\pi x", r"2\pi x\,\mu m"),
        ("2x", r"2x M_\odot"),
        (r"\sqrt{2}x", r"\sqrt{2}x^\circ C"),
    ],
    "scales": [
        *(("5", each) for each in (r"5 \text{ dozen}", r"5 \text{ lakh}", r"5\text{ bn}", r"5 \text{ hundreds}")),
        *(("5", each) for each in (r"\$5\text{M}", r"5\text{k}", "5万3千", r"2 \text{ million and 5}")),
        ("53000", "5万3"),
        ("5000000", r"5 \text{ dozen}"),
        ("3", r"3 \text{ half-dozen}"),
    ],
    "percent": [
        ("50", r"5000\%"),
        ("12.5", r"1250\%"),
        (r"50\%", "5000"),
        (r"50\%", r"0.5\%"),
        (r"50\%", r"5000\%"),
        (r"50\%", r"50^\circ"),
        (r"50^\circ", r"50\%"),
        (r"50\%", r"50 \text{ percentage points}"),
        (r"33\frac13\%", r"33\%"),
        (r"33\frac13\%", "0.33"),
        (r"33\frac13\%", "11"),
        ("40", r"4\%"),
        ("0.4", r"0.4\%"),
        ("0.4", r"4\%"),
        (r"40\%", "4"),
        (r"\frac{2}{5}", r"\frac{2}{5}\%"),
        ("40", r"40\%4"),
        ("40", r"40\% \text{ or more}"),
        (r"10\%, 20\%", r"10\%"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("content", UNITS)
def test_a_unit_leaves_the_number(content: str) -> None:
    assert grade("7.2", content) == 1.0
    assert grade(content, "7.2") == 1.0
    assert grade(content, content) == 1.0
    assert grade("7.3", content) == 0.0
    assert tidied(tidied(content)) == tidied(content)


@pytest.mark.parametrize("content", NOT_UNITS)
def test_what_is_no_unit_changes_the_number(content: str) -> None:
    assert grade("7.2", content) == 0.0
    assert grade(content, "7.2") == 0.0
    assert grade(content, content) == 1.0


@pytest.mark.parametrize(("reference", "content"), [pair for pairs in SAME.values() for pair in pairs])
def test_the_same_is_right(reference: str, content: str) -> None:
    assert grade(reference, content) == 1.0


@pytest.mark.parametrize(("reference", "content"), [pair for pairs in OTHER.values() for pair in pairs])
def test_something_else_is_wrong(reference: str, content: str) -> None:
    assert grade(reference, content) == 0.0


def test_below_one_the_question_tells_whether_percent_is_meant() -> None:
    assert grade("0.4", r"0.4\%", "What percentage of them is left?") == 1.0
    assert grade("0.4", r"0.4\%", "How many are left?") == 0.0
    assert grade("50", r"5000\%", "What percentage of them is left?") == 0.0


@pytest.mark.parametrize(
    ("reference", "content", "question", "reward"),
    [
        ("3", r"3 \text{ dozen}", "How many dozen eggs are there?", 1.0),
        ("3", r"3 \text{ dozen}", "How many eggs are there?", 0.0),
        ("36", r"3 \text{ dozen}", "How many dozen eggs are there?", 1.0),
        ("3", r"3 \text{ pairs of shoes}", "How many pairs of shoes has she?", 1.0),
        ("3", "3 pairs", "How many shoes has she?", 0.0),
        ("3", r"3 \text{ times}", "How many times larger is it?", 1.0),
        ("3", r"3 \text{ times as often or more}", "How many times larger is it?", 0.0),
        ("3", r"3 \text{ real solutions}", "How many real solutions are there?", 1.0),
        ("3", r"3 \text{ or more}", "How many times or days?", 0.0),
        ("14 (times)", "14", "?", 1.0),
        ("88 (quarters)", "88", "?", 1.0),
        ("3 (dozen)", "3", "?", 0.0),
    ],
)
def test_what_the_question_counts_is_a_unit(reference: str, content: str, question: str, reward: float) -> None:
    assert grade(reference, content, question) == reward


@pytest.mark.parametrize(
    "piece", [r"\,", r"\text{", "(", r"\frac{", "{m}", "m/", "1", "%", r"\mathrm{kg}", "万", r"^{2}", "m ", "1 "]
)
def test_long_texts_are_quick(piece: str) -> None:
    start = time.process_time()
    tidied("5" + piece * (4000 // len(piece)))
    assert without_compound(piece * (4000 // len(piece)) + "m") is not None
    assert time.process_time() - start < 10.0
