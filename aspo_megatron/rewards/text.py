"""Finding the answer in a response, and naming its problem in messages."""

from __future__ import annotations

from aspo_megatron.data.samples import Problem
from aspo_megatron.foreign_text import one_line

_OPENING, _CLOSING = "<answer>", "</answer>"


def named(problem: Problem) -> str:
    """A problem in a message, by the beginning of its name."""
    return f"problem {one_line(problem.id[:100])}"


def after_thinking(response: str) -> str:
    """What follows the last `</think>`; the whole response if there is none."""
    return response.rpartition("</think>")[2]


def extract_answer(response: str, reference: str | None) -> str:
    """The answer that a response gives to a problem whose reference answer is known.

    Text before `</think>` does not count. Of the rest: the last `<answer>...</answer>` if there is one; else the
    first line with text in it if the reference is a single line, as a plain completion may run on after its
    answer; else all of it (grids and other answers of several lines).
    """
    text = after_thinking(response).strip()
    tagged = _last_tagged(text)
    if tagged is not None:
        return tagged.strip()
    if reference is not None and "\n" not in reference.strip():
        return text.partition("\n")[0].strip()
    return text


def _last_tagged(text: str) -> str | None:
    """What the last complete pair of tags holds; each part of the text is looked at once."""
    end = text.rfind(_CLOSING)
    while end >= 0:
        before = text.rfind(_CLOSING, 0, end)
        begin = text.find(_OPENING, before + 1, end)
        if begin >= 0:
            return text[begin + len(_OPENING) : end]
        end = before
    return None
