"""Multiple choice as each data set has it: the options of a question by letter, and the letter of the right one.

Known are a list `options` with the letter as the answer (MMLU-Pro, and files of one's own), `choices` with texts and
labels (ARC), and a right answer beside `Incorrect Answer 1` to `3` (GPQA). Nothing within an option is changed.
"""

from __future__ import annotations

import hashlib
import math
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aspo_megatron.config.words import OnBad
from aspo_megatron.data.bad_problems import Reason, Unusable
from aspo_megatron.data.records import ProblemRecord
from aspo_megatron.data.sources.fields import ABSENT, lookup, plain
from aspo_megatron.foreign_text import one_line
from aspo_megatron.rewards.choice.options import MOST

_FILLING = "N/A"
"""What an earlier revision of MMLU-Pro has in place of options that a question lacks."""

_WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


@dataclass(frozen=True)
class Choice:
    """What there is to choose from, in the order of the letters, and the right letter."""

    options: tuple[str, ...]
    letter: str

    def asked(self, question: str) -> str:
        """The question with a line for each option: `A) text`."""
        lines = (f"{letter}) {text}" for letter, text in zip(string.ascii_uppercase, self.options, strict=False))
        return question.strip() + "\n\n" + "\n".join(lines)


def usable(records: Iterable[ProblemRecord], key: str, on_bad: OnBad, seed: int) -> list[tuple[ProblemRecord, Choice]]:
    """The problems with what there is to choose from.

    Args:
        records: of one of the known forms.
        key: what errors call them by.
        on_bad: as `data.on_bad`, for those without options or without the right one.
        seed: see `choice_of`.

    Raises:
        ConfigError: see `Unusable.settle`.
    """
    found, bad, total = [], Unusable(key, on_bad), 0
    for record in records:
        total += 1
        try:
            found.append((record, choice_of(record, seed)))
        except ValueError as error:
            bad.add(Reason("options that cannot be used", f"problem {one_line(record.id)}: {one_line(error)}"))
    bad.settle(total)
    return found


def choice_of(record: ProblemRecord, seed: int) -> Choice:
    """The options of a problem, without the spaces around them.

    Args:
        record: of one of the known forms.
        seed: where a set does not say which letter is the right one, the order of the options follows from it and the
            question, and from nothing else.

    Raises:
        ValueError: it has no options, one is neither a text nor a number, or what is right is not among them.
    """
    options = _texts(record, "options")
    if options is not None:
        return _of_place(options, list(string.ascii_uppercase[: len(options)]), record.answer)
    options, labels = _texts(record, "choices.text"), _texts(record, "choices.label")
    if options is not None and labels is not None:
        return _of_place(options, labels, record.answer)
    wrong = [record.metadata.get(name) for name in _WRONG]
    named = zip((record.answer, *wrong), ("answer", *_WRONG), strict=True)
    texts = [_text(text, name) for text, name in named if text is not None]
    if len(texts) <= len(_WRONG):
        raise ValueError(
            "it has no `options`, no `choices` with `text` and `label`, and no `Incorrect Answer 1` to `3`"
        )
    order = sorted(range(len(texts)), key=lambda place: _mixed(seed, record.question.strip(), place))
    return _checked([texts[place] for place in order], order.index(0))


def _texts(record: ProblemRecord, name: str) -> list[str] | None:
    """A field that is a list, its items as texts; None if it is not there."""
    value = plain(lookup(record.metadata, name))
    if value is None or value is ABSENT:
        return None
    if not isinstance(value, list | tuple):
        raise ValueError(f"its {name!r} are no list")
    return [_text(item, name) for item in value]


def _text(item: object, name: str) -> str:
    """An option as it is asked: a text, or a number; not what only Python would print for something else."""
    is_number = isinstance(item, int | float) and not isinstance(item, bool) and not math.isnan(item)
    if not (is_number or isinstance(item, str)):
        raise ValueError(f"its {name!r} have {one_line(repr(item)[:60])}, which is neither a text nor a number")
    return str(item).strip()


def _of_place(options: Sequence[str], labels: Sequence[str], answer: str | None) -> Choice:
    """Labels may be 1 to 4, as of some questions of ARC: it is the place that counts."""
    answer = (answer or "").strip()
    if len(labels) != len(options) or labels.count(answer) != 1:
        raise ValueError(f"its answer is {answer[:60]!r}, which is not one of {', '.join(labels)}")
    right = labels.index(answer)
    kept = [place for place, text in enumerate(options) if text != _FILLING]
    return _checked([options[place] for place in kept], kept.index(right) if right in kept else -1)


def _checked(options: Sequence[str], right: int) -> Choice:
    if not 2 <= len(options) <= MOST or not all(options):
        raise ValueError(f"it must have 2 to {MOST} options, and a text for each")
    if right < 0 or options.count(options[right]) > 1:
        raise ValueError("the right option is missing, or there twice")
    return Choice(tuple(options), string.ascii_uppercase[right])


def _mixed(seed: int, question: str, place: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{place}\n{question}".encode()).digest()
