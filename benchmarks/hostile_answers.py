"""What a thousand answers cost which are made to be slow to grade, and whether a worker was lost to them.

    python -m benchmarks.hostile_answers

Each is a formula of its own, of one of the kinds below; right answers stand between them, alone for comparison first.
Rewards come from the pool as in a run. Seconds of processor time are those of the workers together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Annotated

import psutil
import typer

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.rewards.workers.tasks import Item, Reward

KINDS = {
    "towers": (
        r"9^{{9^{{{n}}}}}",
        r"{n}^{{12!}}",
        r"(10^{{99999}})^{{{n}9999}}",
        r"2^{{2^{{2^{{{n}}}}}}}",
        r"{n}**9**9**9",
    ),
    "factorials": (r"10^{{9}}{n}!", r"((({n}!)!)!)", r"\Gamma({n}000000)", r"\binom{{{n}000000}}{{500000}}"),
    "polynomials": (r"(x+{n})^{{99999}}", r"(x+y+z+{n})^{{200}}", r"((x+{n})^{{99}}+y)^{{99}}"),
    "roots": (r"\sqrt[3]{{10^{{99999}}+{n}}}", r"\sqrt{{{n}^{{9999}}+1}}"),
    "nested": (
        r"\sqrt{{2+\sqrt{{3+\sqrt{{5+\sqrt{{7+\sqrt{{11+\sqrt{{{n}}}}}}}}}}}}}",
        r"\sin(\sin(\sin(\tan({n}x))))",
    ),
    "trigonometry": (r"\sin^{{50}}(x)\cos^{{50}}(x)+\tan^{{20}}({n}x)", r"\tan(\tan(x))^{{30}}+\sin^{{{n}}} x"),
    "integrals": (
        r"\int_0^1 e^{{x^{{x^x}}}} \sin({n}\tan x) dx",
        r"\int_0^{{{n}}} \frac{{\ln x\sin x}}{{\sqrt{{x}}}} dx",
    ),
    "sums": (r"\sum_{{i=1}}^{{10^9}} i^{{{n}}}", r"\sum_{{i=1}}^\infty \frac{{\sin {n}i}}{{i^3+\cos i}}"),
    "sets": (r"(1,{n})\cup " * 40 + "(1,2)", r"\{{" + r"\sqrt{{{n}}}," * 40 + r"7\}}"),
    "brackets": (
        "(" * 60 + "{n}" + ")" * 60,
        "x_{{" * 30 + "{n}" + "}}" * 30,
        r"\frac{{1}}{{" * 60 + "{n}" + "}}" * 60,
    ),
    "series of matrices": (
        r"e^{{\begin{{pmatrix}}{n}&2&3\\4&5&6\\7&8&10\end{{pmatrix}}}}",
        r"\begin{{pmatrix}}{n}&2&3\\4&5&6\\7&8&10\end{{pmatrix}}^{{x}}",
        r"\begin{{pmatrix}}{n}&2&3\\4&5&6\\7&8&10\end{{pmatrix}}^{{1/2}}",
    ),
    "sums without end": (
        r"\sum_{{n=2}}^{{\infty}}\frac{{{n}}}{{n\ln n}}",
        r"\sum_{{n=1}}^{{\infty}}\frac{{\sin {n}n}}{{n}}",
        r"\sum_{{k=1}}^{{n}}(k+x)^{{{n}}}",
        r"\sum_{{k=1}}^{{n}}k^{{1{n}}}",
    ),
    "quick sums": (
        r"\sum_{{n=1}}^{{\infty}}\frac{{1}}{{{n}^n}}",
        r"\sum_{{k=1}}^{{n}}(k+{n})^3",
        r"\sum_{{n=1}}^{{\infty}}\frac{{{n}}}{{n^2}}",
    ),
    "further integrals": (
        r"\int\frac{{\ln x}}{{x^3+{n}}}dx",
        r"\int_0^\infty\frac{{\ln x}}{{x^2+{n}}}dx",
        r"\int\frac{{{n}}}{{(x^2+a)(x^2+b)(x^2+c)}}dx",
        r"\int (x^2+ax+{n})^{{7/2}}dx",
    ),
    "quick integrals": (r"\int_0^{{{n}}} x^2dx", r"\int_0^\pi\sin {n}xdx", r"\int_0^\infty e^{{-{n}x}}dx"),
    "roundings": (
        r"\lfloor\sum_{{k=1}}^{{90}}\frac{{{n}}}{{\sqrt{{k+\pi}}}}\rfloor",
        r"\operatorname{{floor}}(\prod_{{k=1}}^{{20}}(x+{n}\sqrt{{k}}))",
        r"|\prod_{{k=1}}^{{20}}(x+\sqrt{{k+{n}}})|",
        r"\max(\prod_{{k=1}}^{{20}}(x+\sqrt{{k}}), {n})",
    ),
    "relations": (
        r"\sqrt{{x+{n}}}+\sqrt{{x+2}}+\sqrt{{y+3}}+\sqrt[3]{{y}}=7",
        r"\sin x+\sin 2x+\sin 3x+\cos {n}x=y+\tan y",
        r"x^5+\sin(x)y^3+\sqrt{{x+y}}=\ln(x+{n}y)",
        r"x^4+xy^3+y^2+{n}x=1",
    ),
    "quick relations": (r"x^2+{n}y^2=9", r"\frac{{x}}{{{n}}}+\frac{{y}}{{2}}=1", r"y=\sqrt{{x+{n}}}"),
    "lists": ("+".join(f"x_{{{{{i}}}}}" for i in range(90)) + "+{n}", r"1 & {n} \\" * 90),
}

RELATIONS = ("relations", "quick relations")
"""These are answers to a line, as all that is needed of an equation where a number is asked for is its last side."""


def main(
    answers: Annotated[int, typer.Option(help="How many are graded.")] = 1000,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    reference: Annotated[str, typer.Option(help="The right answer.")] = "7",
) -> None:
    """Print a line for each kind, and one for all."""
    problem, line = Problem("p", "?", (1,), reference), Problem("p", "?", (1,), "y=2x+1")
    right: Item = (problem, rf"\boxed{{{reference}}}")
    with RewardPool(RewardConfig(kind="math", workers=workers)) as pool:
        _show("right answers", *_timed(pool, [right] * answers))
        everything: list[Item] = []
        for kind, templates in KINDS.items():
            asked = line if kind in RELATIONS else problem
            items = [(asked, rf"\boxed{{{text}}}") for text in _different(templates, answers // len(KINDS))]
            everything += items
            _show(kind, *_timed(pool, items))
        shifted = [(asked, response.replace("}", "+0}", 1)) for asked, response in everything]
        _show("all, and right ones", *_timed(pool, [item for each in shifted for item in (each, right)]))


def _different(templates: Sequence[str], count: int) -> list[str]:
    return [template.format(n=number) for number, template in enumerate(islice(cycle(templates), count), start=11)]


def _timed(pool: RewardPool, items: Sequence[Item]) -> tuple[float, float, list[Reward]]:
    begin, used = time.monotonic(), _used()
    rewards = pool.score(items)
    return time.monotonic() - begin, _used() - used, rewards


def _used() -> float:
    """Processor time of this process's children so far."""
    times = [child.cpu_times() for child in psutil.Process().children()]
    return float(sum(each.user + each.system for each in times))


def _show(name: str, seconds: float, used: float, rewards: list[Reward]) -> None:
    errors = sum(reward.error is not None for reward in rewards)
    right = sum(reward.value == 1.0 for reward in rewards)
    time_taken = f"{seconds:7.2f} s   processor {used:7.2f} s"
    print(f"{name:20} {len(rewards):5} answers {time_taken}   right {right:5}   lost to an error {errors}")


if __name__ == "__main__":
    typer.run(main)
