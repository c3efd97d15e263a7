"""How the reward `math` and math-verify alone grade references of data sets, each against itself and against others.

    python -m benchmarks.graders data/minerva_math.jsonl data/olympiadbench.jsonl:final_answer

A file has an object a line; the field after the colon holds the reference, `answer` without one. Each reference is put
in several phrasings, which are right, and changed in several ways, which are wrong (but for what the change leaves
equal). `--show` prints what the two disagree on, and each reference that is not equal to itself.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pool
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from math_verify import parse, verify
from math_verify.errors import TimeoutException

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.mathematics.reading.formula import has_prose
from aspo_megatron.rewards.mathematics.reading.references import reference_text
from aspo_megatron.rewards.mathematics.reward import score

PHRASINGS: dict[str, Callable[[str], str]] = {
    "in a box": lambda text: rf"The final answer is $\boxed{{{text}}}$.",
    "in a displayed box": lambda text: f"Hence\n\\[\n\\boxed{{{text}}}\n\\]\nThat is all.",
    "in a tag": lambda text: f"<think>no</think><answer>{text}</answer>",
    "after hashes": lambda text: f"So it is.\n#### {text}",
    "in a sentence": lambda text: f"Therefore, the answer is {text if '$' in text else f'${text}$'}.",
    "in large print": lambda text: rf"**Final answer:** \boxed{{\displaystyle {text}}}",
}
CHANGES: dict[str, Callable[[str], str]] = {
    "one more": lambda text: f"{text}+1",
    "twice": lambda text: rf"2 \cdot ({text})",
    "negative": lambda text: f"-({text})",
    "with a variable": lambda text: f"{text} + x",
    "one of two": lambda text: rf"{text} \text{{ or }} 1717",
    "at least": lambda text: rf"{text} \text{{ or more}}",
    "not": lambda text: rf"x \ne {text}",
    "as an equation": lambda text: f"x^2+x={text}",
    "an identity": lambda text: "1=1",
}
_OF_NUMBERS = ("one more", "twice", "negative")

_OTHERS = 3
_SECONDS = 2.0


class Graded(NamedTuple):
    """One response; `ours` and `theirs` say whether it was taken for right."""

    data: str
    kind: str
    reference: str
    response: str
    is_right: bool
    ours: bool
    theirs: bool


def main(
    files: Annotated[list[str], typer.Argument(help="JSON lines, as FILE or FILE:FIELD.")],
    most: Annotated[int, typer.Option(help="References of a file at most, drawn at random.")] = 1000,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    show: Annotated[bool, typer.Option(help="Print each that they disagree on, or that is wrong.")] = False,
) -> None:
    """Print a line for each file, and for each phrasing and change."""
    with Pool(workers, initializer=_be_quiet) as pool:
        graded = [each for file in files for each in pool.imap(_grade, list(_responses(file, most)), chunksize=50)]
    for title, name in (("data", lambda each: each.data), ("kind", lambda each: each.kind)):
        _table(title, graded, name)
    if show:
        for each in graded:
            if each.ours != each.is_right or each.ours != each.theirs:
                print(json.dumps(each._asdict(), ensure_ascii=False))


def _responses(file: str, most: int) -> Iterator[tuple[str, str, str, str, bool]]:
    path, _, field = file.partition(":")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    found = (json.loads(line)[field or "answer"] for line in lines if line.strip())
    references = sorted({str(each[0] if isinstance(each, list) else each) for each in found} - {""})
    drawn = random.Random(1)
    drawn.shuffle(references)
    texts = {reference: plain(reference) for reference in references[:most]}
    for reference, text in texts.items():
        for kind, phrase in PHRASINGS.items():
            yield Path(path).stem, kind, reference, phrase(text), True
        others = drawn.sample(list(texts.values()), min(_OTHERS, len(texts)))
        boxes = [("another reference", rf"\boxed{{{other}}}") for other in others if other != text]
        for kind, response in (*changed(text), *boxes):
            yield Path(path).stem, kind, reference, response, False


def changed(text: str) -> Iterator[tuple[str, str]]:
    """The kinds of changes that leave something else of a reference, and a response for each."""
    for kind, change in CHANGES.items():
        # Twice nothing is nothing, and one more than a sentence is no answer.
        if kind not in _OF_NUMBERS or (any(digit in text for digit in "123456789") and not has_prose(text)):
            yield kind, rf"\boxed{{{change(text)}}}"


def plain(reference: str) -> str:
    """A reference without the dollars around it, as a response has it between its own."""
    text = reference_text(reference).strip()
    return text[1:-1] if text.count("$") == 2 and text[0] == text[-1] == "$" else text


def _grade(task: tuple[str, str, str, str, bool]) -> Graded:
    _, _, reference, response, _ = task
    return Graded(*task, ours=_ours(reference, response), theirs=_theirs(reference, response))


def _ours(reference: str, response: str) -> bool:
    try:
        return score(Problem("p", "?", (1,), reference), response, seconds=_SECONDS) == 1.0
    except ValueError:
        return False


def _theirs(reference: str, response: str) -> bool:
    """math-verify as its documentation says."""
    text = reference_text(reference)
    try:
        gold = parse(text if "$" in text else f"${text}$", parsing_timeout=int(_SECONDS))
        return bool(verify(gold, parse(response, parsing_timeout=int(_SECONDS)), timeout_seconds=int(_SECONDS)))
    except (Exception, TimeoutException):  # It raises what SymPy does.
        return False


def _be_quiet() -> None:
    logging.getLogger("math_verify").setLevel(logging.ERROR)


def _table(title: str, graded: Sequence[Graded], name: Callable[[Graded], str]) -> None:
    counts: dict[str, Counter[str]] = {}
    for each in graded:
        count = counts.setdefault(name(each), Counter())
        side = "right" if each.is_right else "wrong"
        count[side] += 1
        count[f"{side} ours"] += each.ours
        count[f"{side} theirs"] += each.theirs
    print(
        f"\n{title:20} {'right':>8} {'ours':>8} {'alone':>8}   {'wrong':>8} {'ours':>8} {'alone':>8}   taken for right"
    )
    for key, count in sorted(counts.items()):
        figures = [count[f"{side}{who}"] for side in ("right", "wrong") for who in ("", " ours", " theirs")]
        print(
            f"{key[:20]:20} {figures[0]:8} {figures[1]:8} {figures[2]:8}   {figures[3]:8} {figures[4]:8} {figures[5]:8}"
        )


if __name__ == "__main__":
    typer.run(main)
