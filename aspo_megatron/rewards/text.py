"""Finding the answer in a response."""

from __future__ import annotations

import re

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


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
    tagged = _ANSWER.findall(text)
    if tagged:
        return str(tagged[-1]).strip()
    if reference is not None and "\n" not in reference.strip():
        return text.partition("\n")[0].strip()
    return text
