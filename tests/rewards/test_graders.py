"""The reward `math` on the reference answers of AIME 2024, AMC 2023 and GSM8K: what is right, wrong and hostile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.reward import score
from aspo_megatron.rewards.workers.pool import RewardPool

pytestmark = pytest.mark.timeout(240)

Phrasing = Callable[[str], str]


def gold() -> dict[str, list[str]]:
    """The answers of each benchmark; one that occurs several times, once."""
    texts = json.loads((Path(__file__).parent / "gold_answers.json").read_text())
    return {name: sorted(set(text.split())) for name, text in texts.items()}


def all_gold() -> list[str]:
    return sorted({answer for answers in gold().values() for answer in answers})


def grouped(answer: str) -> str:
    return f"{int(answer):,}"


COMMON: dict[str, Phrasing] = {
    "boxed": lambda a: rf"Adding 3 and 4, we get \[\boxed{{{a}}}.\]",
    "formula": lambda a: f"Hence the final answer is ${a}$.",
    "sentence": lambda a: f"There are 12 ways. The answer is {a}.",
    "hashes": lambda a: f"She has 3 left and buys 4 more.\n#### {a}",
    "bold": lambda a: f"Adding 12 and 3, the answer is **{a}**.",
    "thousands": lambda a: f"The answer is {grouped(a)}.",
    "unit": lambda a: rf"\boxed{{{a}\text{{ dollars}}}}" + "\n\nThis follows from step 2, as 3 + 4 = 7.",
    "after thinking": lambda a: r"<think>maybe \boxed{99999} or 17</think>" + f"\nThe answer is {a}.",
    "tag": lambda a: f"It is not 5. <answer>{a}</answer>",
}

FURTHER: dict[str, Phrasing] = {
    "fraction": lambda a: rf"\boxed{{\frac{{{2 * int(a)}}}{{2}}}}",
    "decimal": lambda a: rf"\boxed{{{a}.0}}",
    "cents": lambda a: f"The answer is ${a}.00",
    "currency": lambda a: rf"\boxed{{\${a}}}",
    "currency and thousands": lambda a: f"Therefore she makes ${grouped(a)} every day at the market.",
    "thousands in a box": lambda a: rf"\boxed{{{grouped(a)}}}",
    "thousands by a thin space": lambda a: r"\boxed{" + grouped(a).replace(",", r"\,") + "}",
    "thousands in braces": lambda a: r"\boxed{" + grouped(a).replace(",", "{,}") + "}",
    "plain number": lambda a: a,
    "padded": lambda a: rf"\boxed{{ {a.zfill(3)} }}",
    "unpadded": lambda a: rf"\boxed{{{int(a)}}}",
    "equation": lambda a: rf"\boxed{{x = {a}}}",
    "approximately": lambda a: rf"\boxed{{\approx {a}}}",
    "last of a chain": lambda a: f"$3 \\cdot 4 + 7 = {a}$",
    "display": lambda a: f"Thus\n$$\n{a}\n$$",
    "parentheses": lambda a: rf"Thus \({a}\).",
    "text in a box": lambda a: rf"\boxed{{\text{{{a}}}}}",
    "bold in a box": lambda a: rf"**\boxed{{\textbf{{{a}}}}}**",
    "framed": lambda a: rf"\fbox{{{a}}}",
    "degrees": lambda a: rf"\boxed{{{a}^\circ}}",
    "area": lambda a: rf"\boxed{{{a} \, \text{{cm}}^2}}",
    "option and value": lambda a: rf"\boxed{{\textbf{{(B)}}\ {a}}}",
    "option, plain": lambda a: rf"\boxed{{(B) {a}}}",
    "tag with a unit": lambda a: f"<answer>{a} minutes</answer>",
    "tag with a formula": lambda a: f"<answer>${a}$</answer>",
    "hashes with a unit": lambda a: f"#### {a} eggs, of 7",
    "hashes with currency": lambda a: f"#### ${a}",
    "second box": lambda a: rf"At first \boxed{{99999}}. One case was forgotten, so \boxed{{{a}}}",
    "hope": lambda a: rf"The final answer is: $\boxed{{{a}}}$. I hope it is correct.",
    "label": lambda a: f"**Final Answer:** {a}",
    "list item": lambda a: f"* Total: {a}",
    "euros": lambda a: f"The answer is {a} €.",
    "time": lambda a: f"It takes **{a} minutes**.",
}

WRONG: dict[str, Callable[[int], str]] = {
    "one more": lambda n: rf"\boxed{{{n + 1}}}",
    "one less": lambda n: f"The answer is {n - 1}.",
    "other sign": lambda n: rf"\boxed{{{-n}}}",
    "other sign in a sentence": lambda n: f"The answer is -{n}.",
    "typographic minus": lambda n: f"The answer is \u2212{n}.",
    "negative amount": lambda n: f"The answer is -${n}.",
    "tenfold": lambda n: rf"\boxed{{{n * 10}}}",
    "in cents": lambda n: f"The answer is {n * 100} cents.",
    "in seconds": lambda n: rf"\boxed{{{n * 60}\text{{ seconds}}}}",
    "in thousands": lambda n: rf"\boxed{{{n},000}}",
    "hundredth": lambda n: rf"\boxed{{{n / 100}}}",
    "a half more": lambda n: rf"\boxed{{{n}.5}}",
    "a bit more": lambda n: rf"\boxed{{{n}.0001}}",
    "thousandth": lambda n: rf"\boxed{{\frac{{{n}}}{{1000}}}}",
    "reciprocal": lambda n: rf"\boxed{{\frac{{1}}{{{n}}}}}",
    "root": lambda n: rf"\boxed{{\sqrt{{{n}}}}}",
    "square": lambda n: rf"\boxed{{{n}^2}}",
    "factorial": lambda n: rf"\boxed{{{n}!}}",
    "times pi": lambda n: rf"\boxed{{{n}\pi}}",
    "times x": lambda n: rf"\boxed{{{n}x}}",
    "imaginary": lambda n: rf"\boxed{{{n}i}}",
    "plus a constant": lambda n: rf"\boxed{{{n} + C}}",
    "digits reversed": lambda n: rf"\boxed{{{int(str(n)[::-1] + '1')}}}",
    "a digit before": lambda n: rf"\boxed{{1{n}}}",
    "right only in thought": lambda n: rf"<think>\boxed{{{n}}}</think> The answer is {n + 1}.",
    "right before": lambda n: rf"At first \boxed{{{n}}}. One case was forgotten:" + "\n" + rf"\boxed{{{n + 1}}}",
    "right before hashes": lambda n: f"It has {n} so far.\n#### {n + 2}",
    "right before bold": lambda n: f"With {n} of them, the answer is **{n + 3}**.",
    "right before a tag": lambda n: f"It may be {n}. <answer>{n + 1}</answer>",
    "a list": lambda n: rf"\boxed{{{n}, {n + 1}}}",
    "a set": lambda n: rf"\boxed{{\{{{n}, {n + 1}\}}}}",
    "an alternative": lambda n: rf"\boxed{{{n} \text{{ or }} {n + 1}}}",
    "two boxes": lambda n: rf"\boxed{{{n}}} or \boxed{{{n + 1}}}",
    "an interval": lambda n: rf"\boxed{{({n}, {n + 1})}}",
    "an inequality": lambda n: rf"\boxed{{x > {n}}}",
    "a bound": lambda n: rf"\boxed{{x \le {n}}}",
    "unequal": lambda n: rf"\boxed{{x \neq {n}}}",
    "a residue": lambda n: rf"\boxed{{{n} \pmod{{7}}}}",
    "another option": lambda n: r"\boxed{C}",
    "another option's value": lambda n: rf"\boxed{{\textbf{{(B)}} {n + 1}}}",
    "an option without a value": lambda n: "The answer is (B).",
    "thin space": lambda n: r"\boxed{" + f"{n + 1:,}".replace(",", r"\,") + "}",
    "words": lambda n: "The answer is not known.",
    "empty box": lambda n: r"\boxed{}",
    "open box": lambda n: rf"\boxed{{{n}",
}


def grade(answer: str, response: str) -> float:
    return score(Problem("p-0", "?", (1,), answer), response)


def test_the_answers_are_all_there():
    texts = json.loads((Path(__file__).parent / "gold_answers.json").read_text())
    assert {name: len(text.split()) for name, text in texts.items()} == {"aime24": 30, "amc23": 40, "gsm8k": 1319}


@pytest.mark.parametrize("name", COMMON)
def test_every_gold_answer_is_right(name):
    """All 1389 gold answers (the different ones among them) in nine phrasings."""
    wrong = [answer for answer in all_gold() if grade(answer, COMMON[name](answer)) != 1.0]
    assert wrong == []


def test_gold_answers_are_right_in_further_phrasings():
    answers = [*gold()["aime24"][:3], *gold()["amc23"][-3:], "131250", "2", "0", "1625"]
    wrong = [
        (name, answer)
        for name, phrase in FURTHER.items()
        for answer in answers
        if answer.isdigit() and grade(answer, phrase(answer)) != 1.0
    ]
    assert wrong == []


def test_a_thousand_wrong_answers_are_wrong():
    benchmarks = gold()
    answers = [a for name in benchmarks for a in benchmarks[name][:: len(benchmarks[name]) // 8] if int(a) > 2][:25]
    cases = [(answer, name, phrase(int(answer))) for answer in answers for name, phrase in WRONG.items()]
    assert len(cases) >= 1000
    assert [(answer, name) for answer, name, response in cases if grade(answer, response) != 0.0] == []


@pytest.mark.parametrize(
    ("reference", "response", "reward"),
    [
        ("B", r"\boxed{\textbf{(B)}\ 18}", 1.0),
        ("B", r"\boxed{\textbf{(C)}\ 18}", 0.0),
        ("18", r"\boxed{\textbf{(B)}}", 0.0),
        ("B", "<answer>B</answer>", 1.0),
        ("1/2", r"<answer>\frac{1}{2}</answer>", 1.0),
        ("2x+1", "<answer>1+2x</answer>", 1.0),
        ("-5", "\\boxed{\u22125}", 1.0),
        ("1, 2", r"\boxed{2} and \boxed{1}", 1.0),
        (r"\{1,2\}", r"\boxed{\{2,1\}}", 1.0),
        ("(1,2)", r"\boxed{(2,1)}", 0.0),
        ("5", r"For $a \neq 0$ there are 100000! cases in all, and by symmetry the answer is 5", 1.0),
        (r"x \neq 1", r"\boxed{x \ne 1}", 1.0),
        ("2^{2^{2023}}", r"\boxed{2^{2^{2023}}}", 1.0),
        ("100!", r"\boxed{100!}", 1.0),
        ("10^{10}", r"\boxed{10000000000}", 1.0),
        (r"\text{east}", r"\boxed{east}", 1.0),
        ("18", "#### 18 eggs, of 7", 1.0),
        ("1/2", "#### 1/2", 1.0),
    ],
)
def test_answers_of_other_kinds(reference, response, reward):
    assert grade(reference, response) == reward


HOSTILE: dict[str, str] = {
    "empty": "",
    "spaces": " \n\t" * 100_000,
    "zero bytes": "\0" * 100_000,
    "a megabyte of letters": "a" * 1_000_000,
    "a megabyte of digits": "8" * 1_000_000,
    "a megabyte of dollars": "$" * 1_000_000,
    "a megabyte of boxes": r"\boxed{" * 150_000,
    "a megabyte of closed boxes": r"\boxed{3} " * 100_000,
    "a megabyte of braces": "{" * 1_000_000,
    "a megabyte of backslashes": "\\" * 1_000_000,
    "a megabyte of phrases": "the answer is " * 70_000,
    "a megabyte of numbers": "12 " * 330_000,
    "a megabyte of fractions": r"\frac{1}{" * 100_000,
    "a megabyte of fences": "```x\n" * 200_000,
    "nested parentheses": r"\boxed{" + "(" * 5000 + "7" + ")" * 5000 + "}",
    "nested fractions": r"\boxed{" + r"\frac{1}{" * 300 + "7" + "}" * 300 + "}",
    "nested roots": r"\boxed{" + r"\sqrt{" * 90 + "8" + "}" * 90 + "}",
    "nested sines": r"\boxed{" + r"\sin(" * 60 + "x" + ")" * 60 + "}",
    "tower of powers": r"\boxed{10^{10^{10}}}",
    "bare tower": r"\boxed{10^10^10}",
    "tower in a sentence": "The answer is $9^{9^{9^{9}}}$",
    "starred tower": "The answer is 10**10**10",
    "large power": r"\boxed{7^{99999999}}",
    "large factorial": r"\boxed{10000000!}",
    "nested factorials": r"\boxed{((9!)!)!}",
    "large binomial": r"\boxed{\binom{10^9}{500000000}}",
    "large exponent": r"\boxed{1e999999999}",
    "large logarithm": r"\boxed{\log_{10}{10^{10^{9}}}}",
    "integral": r"\boxed{\int_0^1 e^{x^{x^x}} \sin(\tan x) dx}",
    "expansion": r"\boxed{(x+y+z+w)^{200}}",
    "long decimal": "0." + "3" * 100_000,
    "long integer": r"\boxed{" + "9" * 20_000 + "}",
    "long list": r"\boxed{" + ",".join(map(str, range(3000))) + "}",
    "long set": r"\boxed{\{" + ",".join(rf"\frac{{{i}}}{{7}}" for i in range(500)) + r"\}}",
    "many variables": r"\boxed{" + "+".join(f"x_{{{i}}}" for i in range(500)) + "}",
    "chain of equals": r"\boxed{" + "=" * 10_000 + "}",
    "commas": r"\boxed{" + "," * 10_000 + "}",
    "broken fraction": r"\boxed{\frac{1}{",
    "broken root": r"\boxed{\sqrt[}{]}",
    "empty fraction": r"$\frac{}{}$ \left( \right",
    "matrix": r"\boxed{\begin{pmatrix}" + r"1 & 2 \\" * 200 + r"\end{pmatrix}}",
    "other scripts": "\\boxed{\u0668\u202e\u200b\U0001d7d6}",
    "emoji": "\U0001f600" * 10_000,
    "half a surrogate pair": "\\boxed{\ud800}",
    "combining marks": "8" + "\u0301" * 100_000,
    "thoughts": "<think>" * 100_000,
    "tags": "<answer>" * 100_000,
    "hashes": "####" * 100_000,
    "stars": "**" * 100_000,
    "minuses": "-" * 100_000 + "8",
    "carets": "2^" * 3000 + "2",
    "slashes": "1/" * 20_000 + "1",
    "code": r"\boxed{__import__('os').system('touch /tmp/aspo-was-here')}",
}


def test_hostile_responses_cost_no_more_than_their_time():
    """None is right, none ends a worker but by the time limit, and right answers in between stay right."""
    problem = Problem("p-0", "?", (1,), "7")
    items = [item for response in HOSTILE.values() for item in ((problem, response), (problem, r"\boxed{7}"))]
    with RewardPool(RewardConfig(kind="math", workers=2, timeout_seconds=3.0)) as pool:
        rewards = pool.score(items)
    assert {name for name, reward in zip(HOSTILE, rewards[::2], strict=True) if reward.value} == set()
    assert {reward.value for reward in rewards[1::2]} == {1.0}
    errors = {name: reward.error for name, reward in zip(HOSTILE, rewards[::2], strict=True) if reward.error}
    assert set(errors.values()) <= {"scoring took longer than reward.timeout_seconds=3"}, errors
    assert not Path("/tmp/aspo-was-here").exists()
