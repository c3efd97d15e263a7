"""Which of a question's options a statement names: by its letter, by its text, or by both."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from aspo_megatron.rewards.choice.look import plain

MOST = 10
"""Options that a question may have: A to J."""

_BULLETS = re.compile(r"\A(?:[>*\u2022-]\s+){0,3}")
_NOT_BUT = re.compile(r"\Anot\b[^\n]{0,80}?\bbut(?:\s+rather)?\b\s*", re.IGNORECASE)
_BEFORE = re.compile(
    r"\A(?:(?:clearly|therefore|thus|hence|simply|actually|definitely|indeed|most\s+likely|likely|probably|given\s+by|found\s+in"
    r"|represented\s+by|then|that)\b[\s,:]*){0,4}(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+)?"
    r"(?:option|choice|answer|letter|opci\xf3n|op\xe7\xe3o|opzione|\u9009\u9879|\u9078\u9805)(?![^\W_])\s*:?\s*)?",
    re.IGNORECASE,
)
_WORD = r"A-Za-z0-9_\xc0-\u052f"
_LETTER = re.compile(
    rf"(?:(?P<open>[(\[{{<\"']{{1,2}})\s*(?P<inside>[A-Ja-j])\s*\.?[)\]}}>\"']{{1,2}}(?![{_WORD}'(-])|(?P<plain>[A-J])(?![{_WORD}']))"
    r"(?P<after>.*)\Z",
    re.DOTALL,
)
_ALONE = re.compile(r"(?P<letter>[A-Ja-j])(?P<more>\s*[.)!:,;]{0,2})")
_CJK = r"\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
_DELIMITER = re.compile(
    rf"\s*(?:[)\]}}]|[.:,;!](?=\s|\Z|[{_CJK}\"])|\s[\u2013\u2014-]+(?=\s)|\u2014)\s*|\s+(?=\()|(?=[{_CJK}])"
)
_REASON = re.compile(
    r"\b(?:because|since|as(?!\s+well)|which|with|for|due|given|so|by|based|from|where|whose|in|while|whereas|rather|instead|not|than"
    r"|and)\b",
    re.IGNORECASE,
)
_END = re.compile(r"[.!?;](?=\s|\Z)|\n")
_ANOTHER = re.compile(
    r"\A(?:(?:option|choice|maybe|perhaps|possibly|even)\s){0,3}(?P<first>[A-J])(?![\w'])(?!\s+[a-z]{2,})|[(\[](?P<inside>[A-J])[)\]]"
    r"|(?:[,/&+;|]|\b(?:or|and|und|oder|ou|o|y|e|nor|with|as\swell\sas)\b|[\u548c\u6216])\s*"
    r"(?:(?:option|choice|maybe|perhaps|possibly|even)\s){0,3}(?:[(\[](?P<small>[a-j])[)\]]"
    r"|(?P<joined>[A-J])(?![\w'])(?!\s+(?!(?:or|and|is|are|both)\b)[a-z]{2,}))"
)
_JOINED = re.compile(r"\s*(?:and|with)\s+[(\[]?[A-J][)\]]?(?![\w'])(?!\s+(?!(?:is|are|both|together)\b)[a-z])")
_TAKEN_BACK = re.compile(
    r"[\s.,;:!)\]-]*(?:\?|wait\b|hmm*\b|no\b|or\s(?:not|is|maybe|perhaps|possibly)\b|maybe\b|perhaps\b|scratch\b"
    r"|on\ssecond\b|actually\b|but\b"
    r"|(?:if|unless|provided|depending|otherwise)\b)",
    re.IGNORECASE,
)
_WRITTEN_OUT = re.compile(r"[^\W\d_][a-z\xdf-\xff]{3,}")


class Options:
    """The options of one question."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        """`texts`: of the options in the order of their letters; none: they are not known, and letters to J count."""
        self.letters = string.ascii_uppercase[: min(len(texts), MOST) or MOST]
        bare = [_bare(text) for text in texts[:MOST]]
        self._exact = _by_text(self.letters[: len(bare)], bare)
        self._small = _by_text(self.letters[: len(bare)], [text.casefold() for text in bare])

    def named(self, said: str, *, small: bool, exact: bool) -> str | None:
        """The letter that a statement names; None if none, or two, or one with the text of another option.

        Args:
            said: the statement.
            small: whether a small letter without brackets is one.
            exact: whether no more than the letter and its text may be said.
        """
        said = said.strip().strip("{}").strip()
        if not exact:
            said = _NOT_BUT.sub("", _BULLETS.sub("", said))
        said = _BEFORE.sub("", said, count=1).strip()
        alone = _ALONE.fullmatch(said)
        if alone is not None and (small or alone["letter"].isupper()):
            return None if exact and alone["more"].endswith((":", ",", ";")) else self._one(alone["letter"])
        match = _LETTER.match(said)
        by_text = self._of_text(said) or (None if exact or match else self._of_first_sentence(said))
        if by_text is not None or match is None:
            return by_text
        letter = self._one(match["inside"] or match["plain"])
        return letter if letter and self._goes_with(letter, match, exact=exact) else None

    def _one(self, letter: str) -> str | None:
        """The letter, if it is one of the question's."""
        return letter.upper() if letter.upper() in self.letters else None

    def _goes_with(self, letter: str, match: re.Match[str], *, exact: bool) -> bool:
        """Whether what follows a letter leaves it the answer: nothing, its text, a reason."""
        after = match["after"].rstrip()
        delimiter = _DELIMITER.match(after)
        named = after[delimiter.end() :] if delimiter else after.strip()
        if not named.strip(".,:;!)]}\"' "):
            return True
        clause = _END.split(_REASON.split(named, maxsplit=1)[0], maxsplit=1)[0]
        own = self._of_text(named)
        if own is not None or exact:
            return own == letter
        own = self._of_text(clause)
        if own is not None:
            return own == letter and not _TAKEN_BACK.match(named, len(clause))
        joined = _JOINED.match(named, len(clause))
        told = clause + joined[0] if joined else clause
        others = {one[one.lastgroup or 0].upper() for one in _ANOTHER.finditer(told)}
        if others - {letter} or _TAKEN_BACK.match(after) or re.search(r"\bbut\b", clause):
            return False
        is_delimited = delimiter is not None or match["inside"] is not None
        if delimiter is not None and delimiter[0].strip() == "." and named[:1].islower():
            return _REASON.match(named) is not None  # C. elegans
        return is_delimited or _REASON.match(named) is not None

    def _of_first_sentence(self, said: str) -> str | None:
        """The option whose text the first of several sentences is, unless the next takes it back."""
        end = _END.search(said)
        return None if end is None or _TAKEN_BACK.match(said, end.start()) else self._of_text(said[: end.start()])

    def _of_text(self, text: str) -> str | None:
        """The one option with this text; None if there is none, or more than one."""
        bare = _bare(text)
        if not bare:
            return None
        if bare in self._exact:
            return self._exact[bare]
        return self._small.get(bare.casefold()) if _WRITTEN_OUT.search(bare) else None


def _by_text(letters: str, texts: Sequence[str]) -> Mapping[str, str | None]:
    """Letters by text; None where several options have the same."""
    times = Counter(texts)
    return {text: letter if times[text] == 1 else None for letter, text in zip(letters, texts, strict=True)}


def _bare(text: str) -> str:
    """A text as it is compared: without blanks, and what encloses it or ends a sentence."""
    return re.sub(r"\s+", "", plain(text)).strip(".,;:!\"'{}")
