r"""Where a response states an answer: in a box, a field, a tag, after `answer is`, as the subject of a sentence."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

_LONGEST = 1000
"""Characters of a statement that are looked at."""

_MOST = 200
"""Statements of each form that are looked at, from the last on."""

_BEFORE_IT = 60
"""Characters before a statement in which a doubt is looked for."""

_BOX = re.compile(
    r"\\(?:boxed|fbox)\s{0,9}\{(?:(?P<said>(?:[^{}]++|\{(?:[^{}]++|\{(?:[^{}]++|\{[^{}]*+\})*+\})*+\})*+)\})?"
)
_JOINED = re.compile(
    r"[ \t]*[,;/&]?[ \t]*|[ \t,;/&]*(?:(?:or|and|maybe|perhaps|possibly)\b[ \t,]*){1,3}", re.IGNORECASE
)
_OR_ANOTHER = re.compile(r"\s{0,9}(?:,\s?)?(?:or|and|/|&)\s{0,9}(?:option\s)?[(\[]?[A-J][)\]]?(?![\w'])")
_FIELD = re.compile(
    r"(?<!\w)(?P<key>[\"']?)(?:\w{1,20}_)?(?<!wrong_)(?<!not_)(?:answer|choice|option|letter)(?:_letter|_choice)?(?P=key)"
    r"\s{0,9}:\s{0,9}(?:(?P<quote>[\"'])(?P<said>(?:(?!(?P=quote))[^\n]){0,1000})(?P=quote)"
    r"|(?P<bare>(?<=:)\s{0,9}[A-J])(?=\s{0,9}[,}]))",
    re.IGNORECASE,
)
_TAG = re.compile(r"<answer>(?P<said>(?:(?!</?answer>).){0,1000})</answer>", re.IGNORECASE | re.DOTALL)
_HASHES = re.compile(r"^####[ \t]{0,9}(?P<said>[^\n]{1,1000})$", re.MULTILINE)
_HEADING = re.compile(
    r"^[#>\-\s]{0,9}(?:the\s)?(?:final\s|correct\s)?answer[ \t]{0,9}\n\s{0,9}(?P<said>[^\n]{1,1000})$",
    re.MULTILINE | re.IGNORECASE,
)

_ADJECTIVE = (
    r"(?:only|single|most|correct|right|best|final|true|appropriate|accurate|suitable|likely|likeliest|logical|probable"
    r"|plausible|fitting)"
)
_LEAD = rf"(?:(?:the|my|our)\s{{1,3}})?(?:{_ADJECTIVE}\s{{1,3}}){{0,3}}"
_FOR = r"(?:(?:to|for)\s(?:this|the)\s(?:above\s|given\s)?(?:question|problem)|here)"
_IS = (
    r"(?:(?:is|was|becomes|(?:would|should|must|will|has\sto|seems\sto|appears\sto|turns\sout\sto)\sbe)\b(?!')"
    r"(?:\s{0,3}[:=])?|[:=\u2192]|-+>|(?<=\s)[\u2013\u2014-]+(?=\s))"
)
_SAID = re.compile(
    rf"(?<![\w'-])(?P<lead>{_LEAD})(?:(?:final|correct)_)?(?P<noun>answer|ans|option|choice|letter)"
    rf"(?:\s{{1,3}}(?:choice|option|letter))?(?:\s{{1,3}}{_FOR})?\s{{0,9}}(?P<is>{_IS})",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    r"(?:(?<!\w)(?:antwort|l\xf6sung|r\xe9ponse|respuesta|resposta|risposta|antwoord|svaret|svar|odpowied\u017a|odpov\u011b\u010f|cevap"
    r"|yan\u0131t|jawaban(?:nya)?|\u0111\xe1p\s\xe1n|\u043e\u0442\u0432\u0435\u0442|\u0432\u0456\u0434\u043f\u043e\u0432\u0456\u0434\u044c|\u0627\u0644\u0625\u062c\u0627\u0628\u0629|\u0627\u0644\u062c\u0648\u0627\u0628"
    r"|\u0909\u0924\u094d\u0924\u0930)"
    r"(?:\s(?:correcte|correcta|correta|corretta|giusta|juste|finale?|\u0627\u0644\u0635\u062d\u064a\u062d\u0629))?"
    r"|\u7b54\u6848|\u7b54\u3048|\u6b63\u89e3|\u6b63\u786e\u9009\u9879|\u6b63\u78ba\u9078\u9805|\uc815\ub2f5|\ub2f5)"
    r"\s{0,9}(?:(?:ist|lautet|est|es|\xe9|\xe8|is|jest|\xe4r|er|je|adalah|l\xe0|\u0647\u064a|\u0647\u0648|\u0939\u0948)(?!\w)"
    r"|\u5e94\u8be5\u662f|\u5e94\u4e3a|\u662f|\u4e3a|\u70ba|\u306f|\uc740|\ub294|[\u2014\u2013:-])\s{0,3}:?"
    r"|(?:\u6545|\u5e94|\u6240\u4ee5|\u56e0\u6b64|\u6211)\u9009(?:\u62e9|\u9879)?\s{0,3}:?",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"\b(?:I|we)(?:'d|'ll|\s(?:would|will|shall|must|therefore|thus))?\s(?:choose|select|pick|go\swith|opt\sfor)\s"
    r"(?P<said>[^\n]{1,1000})"
)
_SUBJECT = re.compile(
    rf"\s(?:is|must\sbe|would\sbe)\s(?:therefore\s|thus\s|clearly\s|indeed\s)?(?:the\s)(?:{_ADJECTIVE}\s){{0,3}}"
    r"(?:answer|option|choice)\b(?!\s(?:if|unless|only|in\scase|to\sa|for\sa)\b)(?![^.!?\n]{0,120}\?)"
)
_LEADS_TO = re.compile(
    r"\A[\s,]*(?:(?:so|thus|therefore|hence|clearly|finally|then|(?:we|I)\s(?:think|believe|conclude|find)|in\sconclusion|this\smeans"
    r"|it\sfollows|the)\b[\s,]*(?:that\b[\s,]*)?){0,3}",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"(?:\b(?:if|whether|suppose|supposing|assume|assuming|unless|imagine|why|thought|guessed|(?:not|n't)\s(?:think|believe|say"
    r"|sure|certain|mean)|(?:one|you|someone|somebody|some|people|students?|many|he|she|they|who)\s(?:\w+\s){0,2}"
    r"(?:say|says|said|think|thinks|argue|argues|claim|claims|believe|believes))(?:\s(?:that|if))?"
    r"|\b(?:wrong|incorrect|false|other|another|first|second|initial|previous|earlier|tempting|common|their|his|her|your|no"
    r"|an|opposite|not|any)|\w's|\w')\s{1,3}(?:the\s)?\Z",
    re.IGNORECASE,
)
_MENTIONED = re.compile(r"(?:\b(?:not|instead\sof|rather\sthan|than|either)|n't)\s{1,3}\Z", re.IGNORECASE)
_COMMENT = re.compile(
    r"\s*(?:correct|right|clear|clearly\s(?:not\s)?(?:supported|correct)|consistent|supported|based|confirmed|obvious|verified"
    r"|found|as\sfollows|below|above|now|also|straightforward|determined|derived|justified|in\s(?:line|agreement))\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?;:](?=\s)|\n")
_ONE_OF_SEVERAL = re.compile(
    r"\b(?:options|choices|each|following|consider|candidates|possibilities|answers)\b", re.IGNORECASE
)

_ITEM = re.compile(r"^[\-#>* \t]{0,9}[(\[]?(?P<letter>[A-Ja-j])(?:[)\].:](?=\s|\Z)|\Z)", re.MULTILINE)

Kind = Literal["mark", "prose", "aside"]


@dataclass(frozen=True)
class Statement:
    """What is stated, and where it begins.

    Attributes:
        start: in the text.
        said: the statement.
        kind: `mark`: in a box, a field, or after a colon, where a small letter counts, too. `prose`: after `answer is`.
            `aside`: only a statement if it is an option and nothing else.
    """

    start: int
    said: str
    kind: Kind


def statements(text: str) -> list[Statement]:
    """All statements of an answer in a text, as `look.plain` has it, in their order."""
    found = [*_boxes(text), *_marked(text), *_worded(text), *_subjects(text), *_last_line(text)]
    return sorted(found, key=lambda statement: statement.start)


def _boxes(text: str) -> Iterator[Statement]:
    """Boxes in a row, as in `\\boxed{A} or \\boxed{B}`, are one statement."""
    before: re.Match[str] | None = None
    for match in _last(_BOX, text):
        said = (match["said"] or "")[:_LONGEST]
        within = _BOX.fullmatch(said.strip())
        said = within["said"] or "" if within else said
        other = _OR_ANOTHER.match(text, match.end())
        if before and before["said"] and match.start() - before.end() < _BEFORE_IT:
            joined = _JOINED.fullmatch(text, before.end(), match.start())
            said = f"{before['said'][:_LONGEST]} or {said}" if joined else said
        before = match
        is_open = match["said"] is None
        if (said.strip() or is_open) and not _MENTIONED.search(_before(text, match.start())):
            yield Statement(match.start(), said + (other[0] if other else ""), "mark")


def _last(pattern: re.Pattern[str], text: str) -> Iterable[re.Match[str]]:
    """The last matches of a pattern, of which there may be as many as a text has letters."""
    return deque(pattern.finditer(text), maxlen=_MOST)


def _marked(text: str) -> Iterator[Statement]:
    for pattern in (_FIELD, _TAG, _HASHES, _HEADING):
        for match in _last(pattern, text):
            said = match["bare"] if pattern is _FIELD and match["said"] is None else match["said"]
            yield Statement(match.start(), said, "mark")


def _worded(text: str) -> Iterator[Statement]:
    """After `the answer is` and the like: up to the end of the line, or to where the next such words begin."""
    heads = [match for match in _last(_SAID, text) if _states(text, match)]
    places = sorted([(one.start(), one.end(), one["is"][0] in ":=") for one in heads]
                    + [(one.start(), one.end(), True) for one in _last(_ELSEWHERE, text)])  # fmt: skip
    for number, (start, end, is_marked) in enumerate(places):
        limit = places[number + 1][0] if number + 1 < len(places) else len(text)
        said = text[end : min(limit, end + _LONGEST)]
        first, _, rest = said.partition("\n")
        said = first if first.strip(" \t:") else rest.lstrip().partition("\n")[0]
        if not _COMMENT.match(said):
            yield Statement(start, said.lstrip(" \t:="), "mark" if is_marked else "prose")
    for match in _last(_CHOSEN, text):
        if not _DOUBT.search(_before(text, match.start())):
            yield Statement(match.start(), match["said"], "prose")


def _states(text: str, match: re.Match[str]) -> bool:
    """Whether words such as `answer is` state an answer: not `if the answer is`, `another option is`."""
    before = _before(text, match.start())
    if _DOUBT.search(before):
        return False
    return match["noun"].lower() in ("answer", "ans") or bool(match["lead"].strip()) or not before.strip(" #>-")


def _subjects(text: str) -> Iterator[Statement]:
    """`(B) is the correct answer`."""
    for match in _last(_SUBJECT, text):
        before = text[max(0, match.start() - _LONGEST) : match.start()]
        ends = [end.end() for end in _SENTENCE.finditer(before)]
        for cut in {ends[-1] if ends else 0, ends[-2] if len(ends) > 1 else 0}:  # the letter may have a point
            said = before[cut:]
            yield Statement(match.start() - len(said), _LEADS_TO.sub("", said), "aside")


def _last_line(text: str) -> Iterator[Statement]:
    """The last line, unless it is one of several options that are listed."""
    before, _, last = text.rstrip().rpartition("\n")
    above = before.rstrip().rpartition("\n")[2].strip()[-_LONGEST:]
    is_listed = (
        _ITEM.match(above) or (above.endswith(":") and _ONE_OF_SEVERAL.search(above)) or _continues(before, last)
    )
    is_pronoun = last.strip() == "I" and above
    if len(last) <= _LONGEST and not is_listed and not is_pronoun:
        yield Statement(len(before), _LEADS_TO.sub("", last), "aside")


def _continues(before: str, last: str) -> bool:
    """Whether a line that begins as `C) ...` is the next of a list of options, of which it is the first `C)`."""
    item = _ITEM.match(last)
    if item is None:
        return False
    letter, listed = item["letter"].upper(), {one["letter"].upper() for one in _ITEM.finditer(before)}
    return letter not in listed and chr(ord(letter) - 1) in listed


def _before(text: str, start: int) -> str:
    """The end of what stands before a place, of the same sentence."""
    return _SENTENCE.split(text[max(0, start - _BEFORE_IT) : start])[-1]
