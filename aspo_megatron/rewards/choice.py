r"""Multiple choice: which option a response states as its answer, and whether it is the right one.

Only what is stated counts, and of several statements the last: `\boxed{B}`, `"answer": "B"`, `the answer is (B)`,
`Answer: B`, the same in other languages, or a last line that is an option and nothing else. A letter that is merely
mentioned is no answer, nor are two letters, nor is a letter with the text of another option. Nothing is guessed.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.text import after_thinking

OPTIONS = "options"
"""The field of a problem's metadata that has the texts of its options, in the order of their letters."""

_MOST = 10
_LONGEST = 400
"""Characters of a statement that are looked at."""

_LOOK = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|mbox|bf|rm)(?![a-z])\s*|\*\*|__|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)"
    r"|[$`]|\\[()\[\]]"
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_FIELD = re.compile(
    r"[\"']?(?:final_|correct_)?(?:answer|choice|option)[\"']?\s*:\s*[\"'](?P<said>[^\"'\n]*)[\"']", re.IGNORECASE
)
_WORDS = (
    r"\b(?:answer|choice|option|solution)\b(?:\s+(?:choice|option|letter|here|to\s+th(?:is|e)\s+(?:question|problem)))?"
    r"\s*(?:is|are|was|would\s+be|should\s+be|must\s+be|will\s+be|has\s+to\s+be|seems\s+to\s+be|[:=\u2192])"
)
_ELSEWHERE = (
    r"(?:\b(?:antwort|l\u00f6sung|r\u00e9ponse|respuesta|resposta|risposta|antwoord|svar|odpowied\u017a)\b|\u043e\u0442\u0432\u0435\u0442"
    r"|\u7b54\u6848|\u7b54\u3048|\u6b63\u89e3|\u6b63\u786e\u9009\u9879|\uc815\ub2f5|\ub2f5|\u0627\u0644\u0625\u062c\u0627\u0628\u0629|\u0909\u0924\u094d\u0924\u0930)"
    r"\s*(?:is|ist|lautet|est|es|\u00e9|\u00e8|\u662f|\u4e3a|\u70ba|\u306f|\uc740|\ub294|\u2014|-|:)+"
)
_SAID = re.compile(rf"(?:{_WORDS}|{_ELSEWHERE})[ \t:]*(?P<said>[^\n]*)", re.IGNORECASE)
_NOT_BUT = re.compile(r"\Anot\b[^\n]*?\bbut(?:\s+rather)?\b\s*", re.IGNORECASE)
_BEFORE = re.compile(
    r"\A(?:(?:clearly|therefore|thus|simply|actually|definitely|most\s+likely|probably|indeed)\b[\s,]*)*"
    r"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+)?(?:option|choice|answer|letter)\b\s*:?\s*)?",
    re.IGNORECASE,
)
_LETTER = re.compile(
    r"(?:[(\[{]\s*(?P<inside>[A-Ja-j])\s*[)\]}]|(?P<plain>[A-J])(?![\w'\u2019]))\s*(?P<after>.*)\Z", re.DOTALL
)
_LOWER = re.compile(r"[a-j]\s*[.)]?")
_REASON = re.compile(
    r"(?:because|since|as|which|with|for|due|given|so|by|based|from|where|whose|in\s+this\s+case)\b", re.IGNORECASE
)
_ANOTHER = re.compile(r"\A\s*[,/&+]?\s*(?:or|and|und|ou|o|y|oder|\u548c|\u6216)?\s*[(\[]?[A-J](?![\w'\u2019])")


def score(problem: Problem, response: str) -> float:
    """1 if the response states the letter that is the problem's answer, else 0."""
    options = problem.metadata.get(OPTIONS) or ()
    return float(stated(response, [str(option) for option in options]) == (problem.answer or "").strip().upper())


def stated(response: str, options: Sequence[str] = ()) -> str | None:
    """The letter of the option that a response states as its answer, or None.

    Args:
        response: of which what comes before `</think>` does not count.
        options: their texts, in the order of their letters; if none are known, letters to J count.
    """
    text = plain(after_thinking(response))
    letters = string.ascii_uppercase[: len(options) or _MOST]
    found = [(where, option_of(said, options, letters, alone=alone)) for where, said, alone in statements(text)]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def plain(text: str) -> str:
    """Without what only changes how letters look: full width, bold, code, dollars, and LaTeX's fonts."""
    return _LOOK.sub("", unicodedata.normalize("NFKC", text).replace("\u3002", "."))


def statements(text: str) -> Iterator[tuple[int, str, bool]]:
    """Where each statement of an answer begins, what it says, and whether it says that and nothing else."""
    for match in _BOX.finditer(text):
        yield match.end(), _braced(text, match.end()), True
    for match in _FIELD.finditer(text):
        yield match.start("said"), match["said"], True
    for match in _SAID.finditer(text):
        said = match["said"][:_LONGEST]
        if not said.strip():  # on the next line
            said = text[match.end() :].lstrip().partition("\n")[0][:_LONGEST]
        if not _BOX.match(said) and not said.lstrip().startswith(("{", '"')):
            yield match.start("said"), said, False
    last = text.rstrip().rpartition("\n")
    if len(last[2]) <= _LONGEST and _LETTER.match(last[2].strip()):
        yield len(last[0]), last[2], True


def _braced(text: str, start: int) -> str:
    """What stands between braces of which the first is before `start`."""
    depth = 1
    for end, sign in enumerate(text[start : start + _LONGEST], start):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth == 0:
            return text[start:end]
    return ""


def option_of(said: str, options: Sequence[str], letters: str, *, alone: bool) -> str | None:
    """The letter that a statement names, by itself, with the option's text, or by the text; None if none, or two.

    `alone`: the statement is nothing but the option, so that a letter may have no more after it than the option's text.
    """
    said = _BEFORE.sub("", _NOT_BUT.sub("", said.strip().strip("{}\"' ")), count=1).strip()
    by_text = _by_text(said, options, letters)
    if by_text is not None:
        return by_text
    if _LOWER.fullmatch(said):
        said = said.upper()
    match = _LETTER.match(said)
    if match is None:
        return None
    letter, after = (match["inside"] or match["plain"]).upper(), match["after"].strip()
    if letter not in letters or _ANOTHER.match(after):
        return None
    named = re.sub(r"\A[.):,\u2014\u2013-]+\s*", "", after).strip()
    if not named:
        return letter
    other = _by_text(named, options, letters)
    if other is not None:
        return letter if other == letter else None
    if alone and options:
        return None
    delimited = match["inside"] is not None or after[0] in ".):,;\u2014\u2013-("
    return letter if delimited or _REASON.match(after) else None


def _by_text(said: str, options: Sequence[str], letters: str) -> str | None:
    """The one option with this text; None if there is none, or more than one."""
    same = [letter for letter, option in zip(letters, options, strict=False) if _bare(option) == _bare(said)]
    return same[0] if len(same) == 1 and _bare(said) else None


def _bare(text: str) -> str:
    """A text as it is compared: without case, blanks, and what ends a sentence."""
    return re.sub(r"\s+", "", plain(text)).strip(".,;:!\"'{}").casefold()
