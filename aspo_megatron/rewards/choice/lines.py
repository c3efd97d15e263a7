"""Lines that state an answer without saying so: the last one, or the first one of several paragraphs."""

from __future__ import annotations

import re

from aspo_megatron.rewards.choice.options import Options

_LONGEST = 1000
_MOST = 200
"""Characters of a line, and lines, that are looked at."""

_ITEM = re.compile(r"[\-#>* \t]{0,9}[(\[]?(?P<letter>[A-Ja-j])(?:[)\].:](?=\s|\Z)|\Z)")
_NUMBER = re.compile(r"\A[\-#>* \t]{0,9}(?:\d{1,2}[.)]\s)?")
_LEADS_TO = re.compile(
    r"\A[\s,]*(?:(?:so|thus|therefore|hence|clearly|finally|then|(?:we|I)\s(?:think|believe|conclude|find)|in\sconclusion|this\smeans"
    r"|it\sfollows|the)\b[\s,]*(?:that\b[\s,]*)?){0,3}",
    re.IGNORECASE,
)
_VERDICT = re.compile(
    r"(?:\A|[.!?]\s)(?:(?:so|thus|therefore|hence)\b|\u56e0\u6b64|\u6240\u4ee5|\u6545|\u7efc\u4e0a\u6240\u8ff0)[\s,]{0,3}"
    r"(?:\u9009\u9879\s?)?(?P<said>(?:(?:option|choice|answer)\s)?[(\[]?[A-J][)\]]?)"
    r"\s?(?:is\s(?:the\s)?(?:correct|right)(?:\s(?:one|answer|option|choice))?|\u662f?\u6b63\u786e\u7684?)\s?[.!]?\Z",
    re.IGNORECASE,
)

# What may stand above a last line.
_SENTENCE = re.compile(r"[.!?;](?=\s)")
_CONCLUDES = re.compile(
    r"[\s#>*-]{0,9}(?:so|thus|hence|therefore|then|finally|in\sconclusion|conclusion|result|final|verdict|summary)"
    r"(?:[\s,]{1,3}(?:we|I)\s(?:conclude|choose|select|pick))?[\s:.,]{0,9}",
    re.IGNORECASE,
)
_ANNOUNCES = re.compile(r"\b(?:answer|(?:correct|right|best)\s(?:option|choice|one))\b[^.!?]{0,60}:\Z", re.IGNORECASE)
_DENIES = re.compile(r"n't\b|\b(?:not|no|wrong|incorrect|false|least|worst)\b", re.IGNORECASE)
_LOOKS_AT = re.compile(
    r"\b(?:options|choices|candidates|possibilities|answers|each|next|following|let|let's|consider\w*|evaluat\w+|eliminat\w+"
    r"|examin\w+|compar\w+|check\w*|look\w*|see|analy\w+|whether|if|know|sure|unclear)\b",
    re.IGNORECASE,
)
_EXPLAINS = re.compile(
    r"\s*(?:explanation|reason\w*|because|why|justification|rationale|this\s(?:is|answer))\b", re.IGNORECASE
)


def without_lead(said: str) -> str:
    """What is said without `so`, `thus we conclude that` and the like."""
    return _LEADS_TO.sub("", said)


def last_line(text: str, options: Options, *, is_formula: bool) -> tuple[int, str] | None:
    """Where the last line begins and what it says, if it can state an answer.

    It can if it is the only one, if the line above concludes (`So:`) or announces an answer, or if a sentence is over
    above it; then neither if some line above is an option, too, as those that are looked at one by one are.

    Args:
        text: as `look.plain` has it.
        options: of the question.
        is_formula: whether the line is one, where a letter is a quantity.
    """
    before, _, last = text.rstrip().rpartition("\n")
    verdict = _VERDICT.search(last[-_LONGEST:])
    if verdict is not None:
        return len(before), verdict["said"]
    above = [line.strip() for line in before.splitlines() if line.strip(" \t-*_#=>")][-_MOST:]
    if len(last) > _LONGEST or (above and (last.strip() == "I" or not _may_follow(above, options, is_formula))):
        return None
    return len(before), without_lead(last)


def _may_follow(above: list[str], options: Options, is_formula: bool) -> bool:
    told = above[-1][-_LONGEST:].strip("* ")
    sentence = _SENTENCE.split(told)[-1].strip() or _SENTENCE.split(told.rstrip(".!"))[-1]
    if _CONCLUDES.fullmatch(sentence):
        return True
    if _LOOKS_AT.search(sentence):
        return False
    if _ANNOUNCES.search(sentence):
        return not _DENIES.search(sentence)
    return told.endswith((".", "!")) and not is_formula and not _lists(above, options)


def _lists(lines: list[str], options: Options) -> bool:
    """Whether one of some lines is an option."""
    short = [line for line in lines if len(line) <= _LONGEST]
    return any(
        _ITEM.match(line) or options.named(_NUMBER.sub("", line, count=1), small=False, exact=True) for line in short
    )


def first_line(text: str, options: Options) -> tuple[int, str] | None:
    """Where the first line begins and what it says, if it is an option with its letter and text follows.

    What is looked at one by one begins with A, too: of A the text that follows must begin as an explanation.
    """
    start = len(text) - len(text.lstrip())
    first, _, rest = text[start:].partition("\n")
    if (
        len(first) > _LONGEST
        or not rest.lstrip(" \t").startswith("\n")
        or not _ITEM.match(first)
        or first.strip() == "I"
    ):
        return None
    letter = options.named(first, small=False, exact=True)
    if letter is None or _lists(rest.splitlines()[:_MOST], options):
        return None
    return None if letter == options.letters[0] and not _EXPLAINS.match(rest) else (start, first)
