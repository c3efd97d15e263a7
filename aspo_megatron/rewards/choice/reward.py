r"""Multiple choice: 1 if the option that a response states as its answer is the right one, else 0.

Only what is stated counts, and of several statements the last: `\boxed{B}`, `"answer": "B"`, `the answer is (B)`,
`Answer: B`, the same in other languages, or a last line that is an option and nothing else. A letter that is merely
mentioned is no answer, nor are two letters, nor is a letter with the text of another option. Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.choice.doubts import head, is_remark, taken_back, without_denial
from aspo_megatron.rewards.choice.look import ends_in_a_formula, plain
from aspo_megatron.rewards.choice.options import MOST, Options
from aspo_megatron.rewards.choice.statements import Statement, statements
from aspo_megatron.rewards.text import after_thinking, named

OPTIONS = "options"
"""The field of a problem's metadata that has the texts of its options, in the order of their letters."""


def score(problem: Problem, response: str) -> float:
    """1 if the response states the letter that is the problem's answer, else 0.

    Raises:
        ValueError: see `right_letter`.
    """
    return float(stated(response, options_of(problem)) == right_letter(problem))


def stated(response: str, options: Sequence[str] = ()) -> str | None:
    """The letter of the option that a response states as its answer; None if it states none.

    Args:
        response: of which what comes before `</think>` does not count.
        options: their texts, in the order of their letters; if none are known, letters to J count.
    """
    known = Options(options)
    text = after_thinking(response).partition("<think>")[0]  # of a thought that was cut off nothing counts
    read, denied = plain(text), set[str]()
    for one in reversed(statements(read, known, is_formula=ends_in_a_formula(text))):
        letter = known.named(one.said, small=one.kind != "prose", exact=one.kind == "aside")
        if letter is not None:
            stays = letter not in denied and not taken_back(read[one.end :], at_once=one.is_closed)
            return letter if stays else None
        not_it = _denied(one.said, known)
        denied |= not_it
        if not (one.kind == "aside" or not_it or _is_remark(one, known)):
            return None
    return None


def _denied(said: str, known: Options) -> set[str]:
    """The letters that are said not to be the answer."""
    denied = without_denial(said)
    if denied is None:
        return set()
    by_text = known.named(denied, small=False, exact=False)
    return known.mentioned(denied) | ({by_text} if by_text else set())


def _is_remark(one: Statement, known: Options) -> bool:
    return is_remark(one.said, is_prose=one.kind == "prose") and not known.mentioned(head(one.said))


def options_of(problem: Problem) -> Sequence[str]:
    """The texts of a problem's options; none if it has none.

    Raises:
        ValueError: they are no list of two to ten texts.
    """
    options = problem.metadata.get(OPTIONS)
    if options is None:
        return ()
    texts = [text for text in options if isinstance(text, str)] if isinstance(options, list | tuple) else []
    if not isinstance(options, list | tuple) or len(texts) != len(options) or not 2 <= len(texts) <= MOST:
        raise ValueError(f"field {OPTIONS!r} of {named(problem)} must be a list of 2 to {MOST} texts")
    return texts


def right_letter(problem: Problem) -> str:
    """The letter of a problem's right option.

    Raises:
        ValueError: its answer is none of its letters, or see `options_of`.
    """
    letters = Options(options_of(problem)).letters
    answer = (problem.answer or "").strip()
    if len(answer) != 1 or answer not in letters:
        raise ValueError(f"the reference answer of {named(problem)} must be a letter from A to {letters[-1]}")
    return answer
