"""What makes a statement none: a doubt, a denial or another case before it, or that it is taken back after it."""

from __future__ import annotations

import re

BEFORE = 250
"""Characters before a statement that are looked at: of its own sentence."""

_SENTENCE = re.compile(r"[.!?;:](?=\s)|\n")

# The clause that governs a statement: what follows the last of these.
_CLAUSE = re.compile(r"[,(\"]|\b(?:so|thus|hence|therefore|and|but|then|means|because|since)\b", re.IGNORECASE)
_SURELY = re.compile(
    r"\b(?:not\s(?:hard|difficult)|(?:no|without|beyond)\s(?:(?:a|any)\s)?(?:doubt|question)"
    r"|(?:safe|fair|reasonable)\sto\s(?:say|think|believe|conclude|assume))\b",
    re.IGNORECASE,
)
_DOUBTED = re.compile(
    r"n't\b|\b(?:not|no|never|cannot|neither|false|wrong|incorrect|incorrectly|mistake|mistaken|mistakenly|error|rule[sd]?\sout"
    r"|reject|deny|doubt|doubtful|unlikely|impossible|possible(?=\sthat|\s*\Z)|possibly|perhaps|maybe|might|may|could|tempting|tempted"
    r"|forget|if|whether|suppose|supposing|assume|assuming|unless|imagine|why|thought|guess|guessed|confidence|while|whereas)\b",
    re.IGNORECASE,
)
_IF_ELSEWHERE = re.compile(
    r"\b(?:wenn|falls|ob|si|se|\u0435\u0441\u043b\u0438|n\u1ebfu|jika|kalau|e\u011fer|nicht|nie)\b"
    r"|\u5982\u679c|\u82e5|\u5047\u8bbe|\u5047\u5982|\u3082\u3057|\ub9cc\uc57d|\u0905\u0917\u0930|\u0625\u0630\u0627",
    re.IGNORECASE,
)
_OPINION = re.compile(
    r"\b(?:thinks?|says?|said|believes?|argues?|claims?|answers?|chooses?|picks?|concludes?|expects?)\b", re.IGNORECASE
)
_OURS = re.compile(r"\b(?:I|we|can|us|must|allows?)\b", re.IGNORECASE)
_OTHER = re.compile(
    r"(?:\b(?:wrong|incorrect|false|other|another|first|second|third|alternative|rejected|eliminated|excluded|worst|least|initial"
    r"|previous|earlier|tempting|common|popular|naive|opposite|any|every|which|what|falsche|mauvaise|foute|\u043d\u0435\u043f\u0440\u0430\u0432\u0438\u043b\u044c\u043d\u044b\u0439"
    r"|sai)|\w's|\w')\s{1,3}(?:the\s)?\Z|(?:\u9519\u8bef|\u932f\u8aa4)\u7684?\Z|[\u4e0d\u975e]\Z",
    re.IGNORECASE,
)
_OF_A_KIND = re.compile(
    r"\b(?:the|an?|one|this|that|each|every|some|her|his|their|your|its)\s{1,3}(?:[\w'-]{1,30}\s{1,3}){0,2}\Z",
    re.IGNORECASE,
)

_FOLLOWS = re.compile(r".*\b(?:so|thus|hence|therefore)\b", re.IGNORECASE | re.DOTALL)
_CASE = re.compile(
    r"(?:\A[\s>#*-]{0,9}|,\s{0,3}|\b(?:and|but|even|only|that|however|while)[\s,]{1,3})"
    r"(?:if|unless|suppose|supposing|assume|assuming|imagine|ignoring|neglecting)\b",
    re.IGNORECASE,
)
_UNREAL = re.compile(
    r"\A[\s>#*-]{0,9}(?:had|were)\b|\b(?:if|suppose|assuming|without|absent|in\san?|in\sthe\sabsence|otherwise)\b",
    re.IGNORECASE,
)

_FALSE = (
    r"(?:clearly\s|obviously\s|definitely\s|simply\s)?(?:wrong|incorrect|false|impossible|absurd|an?\s(?:mistake|error)"
    r"|not\s(?:right|correct|possible|true))\b(?!\sto\b)"
)
_AT_ONCE = re.compile(
    rf"\A[ .,)\]]{{0,9}}(?:\?|(?:is|was|seems)\s{_FALSE}|no[,.!]|or\b|but\b|maybe\b|perhaps\b)", re.IGNORECASE
)
_WHICH = re.compile(rf"\bwhich\s(?:is|was|seems|looks)\s{_FALSE}|\bwhich\s(?:can't|cannot)\sbe\b", re.IGNORECASE)
_DENIED = re.compile(
    r"(?:(?:but|however|hmm|wait|no|oh|actually|still)\b[\s,.]{1,3}){0,3}(?:that|this|it)"
    rf"(?:(?:'s|\s(?:is|was|seems|looks))\s{_FALSE}|\s(?:can't|cannot|couldn't|isn't|doesn't)\s(?:be|seem|look|right|correct|fit))"
    r"|(?:but|however),?\s(?:that|this|it)\b|(?:or|maybe|perhaps)\s"
    r"|(?:option\s)?[(\[]?[A-J][)\]]?\s(?:is|are|may|might|could|seems)\s(?:be\s)?(?:also|equally|too|just\sas)\b",
    re.IGNORECASE,
)
_AGAIN = re.compile(
    r"(?:\A|[.!?\n])[\s>*-]{0,9}(?:(?:no,?\s)?wait\b|hmm|hold\son\b|oops\b|scratch\sthat|on\ssecond\sthought|i\smade\san?\s(?:mistake|error)"
    r"|let\sme\s(?:double|re-?(?:check|compute|calculate|consider|examine|think|do|evaluate|read|verify))"
    r"|actually,?\s(?:no|that|I)\b|I(?:'m|\sam)\snot\s(?:sure|certain))",
    re.IGNORECASE,
)
_NEXT = re.compile(r"[.!?;](?=\s)\s{1,9}|\n\s{0,9}")

_SHORT = 40
"""Characters of a sentence that may stand before the one that takes a statement back."""

_NOT = re.compile(
    r"\A(?:(?:definitely|clearly|certainly|simply|therefore|thus)\s){0,2}(?:not|neither|never)\s", re.IGNORECASE
)
_IS_WRONG = re.compile(rf"\A(?P<denied>[(\[]?[A-J][)\]]?)\s(?:is|was)\s{_FALSE}", re.IGNORECASE)
_SEE = re.compile(r"\A(?:see|as)\s(?:above|below|stated|given|explained|shown|follows|the)\b", re.IGNORECASE)
_HEAD = re.compile(r"[.!?;,](?=\s|\Z)|\n|\b(?:because|since|as|so|which)\b", re.IGNORECASE)
_OPEN = re.compile(
    r"n't\b|[?\d]|\b(?:not|none|nothing|neither|either|both|wrong|incorrect|false|ambiguous|missing|unclear|unknown|uncertain|unsure"
    r"|undetermined|undefined|unavailable|maybe|perhaps|possibly|between|different|another|other|something)\b",
    re.IGNORECASE,
)


def sentence_before(text: str, start: int) -> str:
    """The end of what stands before a place, of the same sentence."""
    return _SENTENCE.split(text[max(0, start - BEFORE) : start])[-1]


def governed(before: str) -> bool:
    """Whether what stands before a statement doubts or denies it, or says that it is another's."""
    clause = _CLAUSE.split(_SURELY.sub(" ", before))[-1]
    others = _OPINION.search(clause) is not None and not _OURS.search(clause)
    return others or _DOUBTED.search(clause) is not None or _OTHER.search(before) is not None


def supposed_elsewhere(before: str) -> bool:
    """The same of other languages."""
    return (_IF_ELSEWHERE.search(_CLAUSE.split(before)[-1]) or _OTHER.search(before)) is not None


def of_a_kind(before: str) -> bool:
    """Whether the answer that is spoken of is a certain one: `one possible`, `her`, `the naive`."""
    return _OF_A_KIND.search(before) is not None


def another_case(before: str, *, is_unreal: bool) -> bool:
    """Whether a statement holds only in some case: `if there were no air, the answer would be`.

    Args:
        before: the sentence up to it.
        is_unreal: whether it says `would be`.
    """
    if is_unreal and _UNREAL.search(before):
        return True
    follows = _FOLLOWS.match(before)  # if x then y, so it is
    return _CASE.search(before, follows.end() if follows else 0) is not None


def taken_back(after: str, *, at_once: bool) -> bool:
    """Whether the text after a statement takes it back: in its sentence or the next, or by beginning anew.

    Args:
        after: the text.
        at_once: whether the statement is over, and not the beginning of this text.
    """
    if (at_once and _AT_ONCE.match(after)) or _AGAIN.search(after):
        return True
    first = _NEXT.search(after)
    if _WHICH.search(after[: first.start() if first else len(after)]):
        return True
    second = first and _NEXT.search(after, first.end(), first.end() + _SHORT)  # of `B. Venus.` the text, for one
    return any(end and _DENIED.match(after, end.end()) for end in (first, second))


def without_denial(said: str) -> str | None:
    """What is said not to be the answer: `A` of `not A`; None if it is no denial, or says what is, instead."""
    denies, is_wrong = _NOT.match(said), _IS_WRONG.match(said)
    if is_wrong is not None:
        return is_wrong["denied"]
    return None if denies is None or re.search(r"\bbut\b", said) else said[denies.end() :]


def head(said: str) -> str:
    """The beginning of what is said, without its reasons."""
    return _HEAD.split(said, maxsplit=1)[0].strip()


def is_remark(said: str, *, is_prose: bool) -> bool:
    """Whether what follows `the answer is`, and names no option, is about the answer: `reasonable`, `rounded`.

    After a colon only `see above` and the like is; a number, a doubt or a denial is another answer, or none.
    """
    told = head(said)
    return _SEE.match(said) is not None or (is_prose and bool(told) and not _OPEN.search(told))
