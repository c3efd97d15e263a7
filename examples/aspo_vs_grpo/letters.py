"""A task whose right tokens are unlikely: each letter of a word is shifted, forward or, if it is a rare one, back.

The model starts with the habit to shift all letters forward: at a rare letter the right token has a probability of some
two in a hundred. Rare is half the alphabet, and three in ten letters of a word. A word without a rare letter is right
from the start; the others come one rare letter after the other, as the right token is met by chance and grows. A policy
that has lost it for good is in a local optimum.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
RARE_LETTERS = 13
SHARE_OF_RARE = 0.3
"""Probability that a letter of a word is a rare one."""
HABIT = 0.98
"""Probability that an answer to be imitated shifts a letter forward, whichever it is."""
WORD_LENGTH = 5
TO_IMITATE, TO_TRAIN_ON, HELD_OUT = 12_000, 4_000, 256


def right(problem: Any, response: str) -> float:
    """The reward: 1 for the right word, 0 for any other text."""
    return float(response == problem.answer)


def wrong(problem: Any, response: str) -> float:
    """The reward turned round, with which a run is made to collapse."""
    return 1.0 - right(problem, response)


def write_problems(folder: Path) -> None:
    """Write start.jsonl, whose answers have the habit and are to be imitated, train.jsonl and heldout.jsonl."""
    draw = random.Random(0)
    rare = set(draw.sample(ALPHABET, RARE_LETTERS))
    held_out, trained, imitated = _words(draw, rare)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "start.jsonl", imitated, lambda letter: draw.random() >= HABIT, "start")
    _write(folder / "train.jsonl", trained, rare.__contains__, "train")
    _write(folder / "heldout.jsonl", held_out, rare.__contains__, "heldout")


def write_short_problems(folder: Path) -> None:
    """The same files of two-letter words, all letters alike and all answers right: a model is taught, then ruined.

    A letter that is lost costs 8 points of accuracy here; in words of five, with letters that are not rare, up to 24.
    """
    draw = random.Random(0)
    rare = set(draw.sample(ALPHABET, RARE_LETTERS))
    words = [one + other for one in ALPHABET for other in ALPHABET]
    draw.shuffle(words)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("start", words[HELD_OUT:]), ("train", words[HELD_OUT:]), ("heldout", words[:HELD_OUT])):
        _write(folder / f"{name}.jsonl", part, rare.__contains__, name)


def _words(draw: random.Random, rare: Collection[str]) -> tuple[list[str], list[str], list[str]]:
    """Different words: those held out, those to train on, those to imitate."""
    pools = (sorted(set(ALPHABET) - set(rare)), sorted(rare))
    words: dict[str, None] = {}
    while len(words) < HELD_OUT + TO_TRAIN_ON + TO_IMITATE:
        words["".join(draw.choice(pools[draw.random() < SHARE_OF_RARE]) for _ in range(WORD_LENGTH))] = None
    found = list(words)
    return found[:HELD_OUT], found[HELD_OUT : HELD_OUT + TO_TRAIN_ON], found[HELD_OUT + TO_TRAIN_ON :]


def _write(path: Path, words: list[str], goes_back: Callable[[str], bool], split: str) -> None:
    lines = []
    for word in words:
        shifts = (-1 if goes_back(letter) else 1 for letter in word)
        answer = "".join(ALPHABET[(ALPHABET.index(a) + by) % 26] for a, by in zip(word, shifts, strict=True))
        lines.append(json.dumps({"prompt": word, "answer": answer, "split": split}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
