r"""Where a response states an answer: in a box, a field, a tag, after `answer is`, as the subject of a sentence."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from aspo_megatron.rewards.choice import doubts, elsewhere
from aspo_megatron.rewards.choice.lines import first_line, last_line, without_lead
from aspo_megatron.rewards.choice.options import Options

_LONGEST = 1000
"""Characters of a statement that are looked at."""

_MOST = 200
"""Statements of each form that are looked at, from the last on."""

_APART = 60
"""Characters between two boxes that may be one statement."""

_BOX = re.compile(
    r"\\(?:boxed|fbox)\s{0,9}\{(?:(?P<said>(?:[^{}]++|\{(?:[^{}]++|\{(?:[^{}]++|\{[^{}]*+\})*+\})*+\})*+)\})?"
)
_JOINED = re.compile(
    r"[ \t]*[,;/&]?[ \t]*|[ \t,;/&]*(?:(?:or|and|maybe|perhaps|possibly)\b[ \t,]*){1,3}", re.IGNORECASE
)
_OR_ANOTHER = re.compile(r"\s{0,9}(?:,\s?)?(?:or|and|/|&)\s{0,9}(?:option\s)?[(\[]?[A-J][)\]]?(?![\w'])")
_MENTIONED = re.compile(
    r"(?:\b(?:not|instead\sof|rather\sthan|than|either)|n't|\b(?:for\sexample|e\.g\.|such\sas),?)\s{1,3}\Z",
    re.IGNORECASE,
)
_FIELD = re.compile(
    r"(?:(?P<key>[\"'])|(?:^|(?<=[{,]))[ \t]{0,9})"
    r"(?:(?:final|correct|right|best|my|model|chosen|selected|predicted|the)_)?(?:answer|choice|option|letter)(?:_letter|_choice)?"
    r"(?(key)(?P=key))\s{0,9}:\s{0,9}(?:\[\s{0,9})?(?:(?P<quote>[\"'])(?P<said>(?:(?!(?P=quote))[^\n]){0,1000})(?P=quote)"
    r"|(?P<bare>(?<=:)\s{0,9}[A-J])(?=\s{0,9}[,}]))(?P<more>\s{0,9},\s{0,9}[\"'][^\n]{0,1000}\])?",
    re.IGNORECASE | re.MULTILINE,
)
_TAG = re.compile(
    r"<(?P<tag>(?:final_)?answer)>(?P<said>(?:(?!</?(?:final_)?answer>).){0,1000})</(?P=tag)>",
    re.IGNORECASE | re.DOTALL,
)
_HASHES = re.compile(r"^####[ \t]{0,9}(?P<said>[^\n]{1,1000})$", re.MULTILINE)
_HEADING = re.compile(
    r"^[#>\-\s]{0,9}(?:the\s)?(?:final\s|correct\s)?answer[ \t]{0,9}\n\s{0,9}(?P<said>[^\n]{1,1000})$",
    re.MULTILINE | re.IGNORECASE,
)
_LABEL = re.compile(
    r"^[#>\-\s]{0,9}(?:solution|final(?:\s(?:decision|verdict|pick))?)[ \t]{0,9}:[ \t]{0,9}(?P<said>[^\n]{1,1000})$",
    re.MULTILINE | re.IGNORECASE,
)

_ADJECTIVE = (
    r"(?:only|single|most|correct|right|best|final|true|appropriate|accurate|suitable|likely|likeliest|logical|probable"
    r"|plausible|fitting|possible|closest|nearest|matching|corresponding|proper|expected)"
)
_LEAD = rf"(?:(?:the|my|our)\s{{1,3}})?(?:{_ADJECTIVE}\s{{1,3}}){{0,3}}"
_FOR = (
    r"(?:(?:to|for)\s(?:this|the)\s(?:above\s|given\s|multiple[\s-]choice\s)?(?:question|problem)|here"
    r"|(?:that|which)\s(?:best\s)?(?:fits|matches)(?:\sbest)?)"
)
_IS = (
    r"(?:(?:is|was|becomes|corresponds\sto|matches|'s(?=\s)"
    r"|(?P<would>would)\sbe|(?:should|must|will|has\sto|seems\sto|appears\sto|turns\sout\sto)\sbe)\b(?!')"
    r"(?:\s{0,3}[:=])?|[:=\u2192]|-+>|(?<=\s)[\u2013\u2014-]+(?=\s)"
    r"|(?P<not>(?:isn't|wasn't|(?:can't|cannot|can\snot|couldn't|shouldn't)\sbe)\b))"
)
_SAID = re.compile(
    rf"(?<![\w'-])(?P<lead>{_LEAD})(?:(?:final|correct)_)?(?P<noun>answer|ans|option|choice|letter)"
    rf"(?:\s{{1,3}}(?:choice|option|letter))?(?:\s{{1,3}}{_FOR})?\s{{0,9}}(?P<is>{_IS})",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"\b(?P<who>I|we)(?:'d|'ll|\s(?:would|will|shall|must|therefore|thus))?\s(?:choose|select|pick|go\swith|opt\sfor)\s"
    r"(?P<said>[^\n]{1,1000})"
)
_AN_OPTION = re.compile(r"\A(?:the\s)?(?:option|choice|answer)\b", re.IGNORECASE)
_VARIABLE = re.compile(r"\A[A-J]\b(?!\)\s)")
_SUBJECT = re.compile(
    rf"\s(?:is|must\sbe|would\sbe)\s(?:therefore\s|thus\s|clearly\s|indeed\s)?(?:the\s)(?:{_ADJECTIVE}\s){{0,3}}"
    r"(?:answer|option|choice)\b(?!\s(?:if|unless|only|in|to\sa|for\sa|when|where|without|assuming|under|provided|were)\b)"
    r"(?![^.!?\n]{0,120}\?)"
)
_SENTENCE = re.compile(r"[.!?;:](?=\s)|\n")

Kind = Literal["mark", "prose", "aside"]


@dataclass(frozen=True)
class Statement:
    """What is stated, and where.

    Attributes:
        start: in the text.
        end: where what may take it back begins: behind it, or of a line where what is said begins.
        said: the statement.
        kind: `mark`: in a box, a field, or after a colon, where a small letter counts, too. `prose`: after `answer is`.
            `aside`: only a statement if it is an option and nothing else.
        is_closed: whether `end` is behind it.
    """

    start: int
    end: int
    said: str
    kind: Kind
    is_closed: bool = True


def statements(text: str, options: Options, *, is_formula: bool) -> list[Statement]:
    """All statements of an answer in a text, as `look.plain` has it, in their order.

    Args:
        text: what is read.
        options: of the question.
        is_formula: whether its last line is one.
    """
    first, last = first_line(text, options), last_line(text, options, is_formula=is_formula)
    ends = ((first, first[0] + len(first[1]) if first else 0), (last, len(text)))
    lines = [Statement(line[0], end, line[1], "aside") for line, end in ends if line]
    found = [*_boxes(text), *_marked(text), *_worded(text), *_chosen(text), *_subjects(text), *lines]
    return sorted(found, key=lambda statement: statement.start)


def _boxes(text: str) -> Iterator[Statement]:
    """Boxes in a row, as in `\\boxed{A} or \\boxed{B}`, are one statement."""
    before: re.Match[str] | None = None
    for match in _last(_BOX, text):
        said = (match["said"] or "")[:_LONGEST]
        within = _BOX.fullmatch(said.strip())
        said = within["said"] or "" if within else said
        other = _OR_ANOTHER.match(text, match.end())
        if before and before["said"] and match.start() - before.end() < _APART:
            joined = _JOINED.fullmatch(text, before.end(), match.start())
            said = f"{before['said'][:_LONGEST]} or {said}" if joined else said
        before = match
        is_open = match["said"] is None
        if (said.strip() or is_open) and not _MENTIONED.search(text[max(0, match.start() - _APART) : match.start()]):
            yield Statement(match.start(), match.end(), said + (other[0] if other else ""), "mark")


def _last(pattern: re.Pattern[str], text: str) -> Iterable[re.Match[str]]:
    """The last matches of a pattern, of which there may be as many as a text has letters."""
    return deque(pattern.finditer(text), maxlen=_MOST)


def _marked(text: str) -> Iterator[Statement]:
    for match in _last(_FIELD, text):
        said = match["bare"] if match["said"] is None else match["said"]
        yield Statement(match.start(), match.end(), said + (match["more"] or "").replace('"', ""), "mark")
    for pattern in (_TAG, _HASHES, _HEADING):
        for match in _last(pattern, text):
            yield Statement(match.start(), match.end(), match["said"], "mark")
    for match in _last(_LABEL, text):
        yield Statement(match.start(), match.end(), match["said"], "aside")


def _worded(text: str) -> Iterator[Statement]:
    """After `the answer is` and the like: up to the end of the line, or to where the next such words begin."""
    heads = [match for match in _last(_SAID, text) if _states(text, match)]
    places = sorted([(one.start(), one.end(), one["is"][0] in ":=", bool(one["not"])) for one in heads]
                    + [(one.start(), one.end(), True, False) for one in _last(elsewhere.STATED, text)
                       if not doubts.supposed_elsewhere(doubts.sentence_before(text, one.start()))])  # fmt: skip
    for number, (start, end, is_marked, is_denied) in enumerate(places):
        limit = places[number + 1][0] if number + 1 < len(places) else len(text)
        said = text[end : min(limit, end + _LONGEST)]
        first, _, rest = said.partition("\n")
        said = first if first.strip(" \t:") else rest.lstrip().partition("\n")[0]
        said = ("not " if is_denied else "") + said.lstrip(" \t:=,")
        yield Statement(start, end, said, "mark" if is_marked else "prose", is_closed=False)


def _states(text: str, match: re.Match[str]) -> bool:
    """Whether words such as `answer is` state an answer: not `if the answer is`, `another option is`."""
    before, lead = doubts.sentence_before(text, match.start()), match["lead"].strip().lower()
    if doubts.governed(before) or doubts.another_case(before, is_unreal=bool(match["would"])):
        return False
    if not lead.startswith(("the", "my", "our")) and doubts.of_a_kind(before):
        return False
    noun = match["noun"].lower()
    if noun in ("answer", "ans"):
        return True
    is_first = not without_lead(f"{before} ").strip(" #>-")
    return (is_first and (noun != "letter" or not lead)) or lead not in ("", "the")


def _chosen(text: str) -> Iterator[Statement]:
    """`I choose B`; what `we choose` may be a quantity, unless it is called an option, or is one's text."""
    for match in _last(_CHOSEN, text):
        said = match["said"]
        before = doubts.sentence_before(text, match.start())
        if doubts.governed(before) or doubts.another_case(before, is_unreal=False):
            continue
        is_ours = match["who"] == "we" and not _AN_OPTION.match(said)
        if not is_ours:
            yield Statement(match.start(), match.start("said"), said, "prose", is_closed=False)
        elif not _VARIABLE.match(said):
            yield Statement(match.start(), match.start("said"), _SENTENCE.split(said)[0], "aside", is_closed=False)


def _subjects(text: str) -> Iterator[Statement]:
    """`(B) is the correct answer`."""
    for match in _last(_SUBJECT, text):
        before = text[max(0, match.start() - _LONGEST) : match.start()]
        ends = [end.end() for end in _SENTENCE.finditer(before)]
        for cut in {ends[-1] if ends else 0, ends[-2] if len(ends) > 1 else 0}:  # the letter may have a point
            said = before[cut:]
            yield Statement(match.start() - len(said), match.end(), without_lead(said), "aside")
