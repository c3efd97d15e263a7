"""Which of a question's options a statement names: by its letter, by its text, or by both."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from aspo_megatron.rewards.choice.look import plain

MOST = 10
"""Options that a question may have: A to J."""

_NOT_BUT = re.compile(r"\Anot\b[^\n]{0,80}?\bbut(?:\s+rather)?\b\s*", re.IGNORECASE)
_BEFORE = re.compile(
    r"\A(?:(?:clearly|therefore|thus|hence|simply|actually|definitely|indeed|most\s+likely|likely|probably|given\s+by|found\s+in"
    r"|represented\s+by|then|that|indeed)\b[\s,:]*){0,4}(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+)?"
    r"(?:option|choice|answer|letter|opci\xf3n|op\xe7\xe3o|opzione|\u9009\u9879|\u9078\u9805)(?![^\W_])\s*:?\s*)?",
    re.IGNORECASE,
)
_WORD = r"A-Za-z0-9_\xc0-\u052f"
_LETTER = re.compile(
    rf"(?:(?P<open>[(\[{{<\"']{{1,2}})\s*(?P<inside>[A-Ja-j])\s*[)\]}}>\"'.]{{1,3}}(?![{_WORD}'(-])|(?P<plain>[A-J])(?![{_WORD}']))"
    r"(?P<after>.*)\Z",
    re.DOTALL,
)
_ALONE = re.compile(r"(?P<letter>[A-Ja-j])\s*[.)!:,;]{0,2}")
_CJK = r"\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
_DELIMITER = re.compile(
    rf"\s*(?:[)\]}}]|[.:,;!](?=\s|\Z|[{_CJK}\"])|\s[\u2013\u2014-]+(?=\s)|[\u2014=])\s*|\s+(?=\()|(?=[{_CJK}])"
)
_REASON = re.compile(
    r"\b(?:because|since|as|which|with|for|due|given|so|by|based|from|where|whose|in|while|whereas|rather|instead|not|than"
    r"|and)\b",
    re.IGNORECASE,
)
_END = re.compile(r"[.!?;](?=\s|\Z)|\n")
_ANOTHER = re.compile(
    r"(?:\A|[,/&+;|]|\b(?:or|and|und|oder|ou|o|y|e|nor|as\swell\sas)\b|[\u548c\u6216])\s*(?:(?:option|choice|maybe|perhaps|possibly|even)\s){0,3}"
    r"(?:[(\[](?P<inside>[A-Ja-j])[)\]]|(?P<plain>[A-J])(?![\w'])(?!\s+[a-z]{2,}\b(?<!\bor)(?<!\band)(?<!\bis)(?<!\bare)))"
)
_TAKEN_BACK = re.compile(
    r"[\s.,;:!)\]-]*(?:\?|wait\b|hmm*\b|no\b|or\s(?:not|is|maybe|perhaps|possibly)\b|maybe\b|perhaps\b|scratch\b"
    r"|on\ssecond\b|actually\b|but\b)",
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
            said = _NOT_BUT.sub("", said)
        said = _BEFORE.sub("", said, count=1).strip()
        alone = _ALONE.fullmatch(said)
        if alone is not None and (small or alone["letter"].isupper()):
            return self._one(alone["letter"])
        match = _LETTER.match(said)
        by_text = self._of_text(said) or (None if exact or match else self._of_text(_END.split(said)[0]))
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
        own = self._of_text(named) or self._of_text(clause)
        if own is not None or exact:
            return own == letter
        others = {(one["inside"] or one["plain"]).upper() for one in _ANOTHER.finditer(clause + _tail(named, clause))}
        if others - {letter} or _TAKEN_BACK.match(after) or re.search(r"\bbut\b", clause):
            return False
        is_delimited = delimiter is not None or match["inside"] is not None
        if delimiter is not None and delimiter[0].strip() == "." and named[:1].islower():
            return _REASON.match(named) is not None  # C. elegans
        return is_delimited or _REASON.match(named) is not None

    def _of_text(self, text: str) -> str | None:
        """The one option with this text; None if there is none, or more than one."""
        bare = _bare(text)
        if not bare:
            return None
        if bare in self._exact:
            return self._exact[bare]
        return self._small.get(bare.casefold()) if _WRITTEN_OUT.search(bare) else None


def _tail(named: str, clause: str) -> str:
    """Of what follows the first clause, a second letter that is joined to it: `B and C`."""
    match = re.match(r"\s*and\s+[(\[]?[A-J][)\]]?(?=\s*(?:[.,;!]|\Z))", named[len(clause) :])
    return match[0] if match else ""


def _by_text(letters: str, texts: Sequence[str]) -> Mapping[str, str | None]:
    """Letters by text; None where several options have the same."""
    times = Counter(texts)
    return {text: letter if times[text] == 1 else None for letter, text in zip(letters, texts, strict=True)}


def _bare(text: str) -> str:
    """A text as it is compared: without blanks, and what encloses it or ends a sentence."""
    return re.sub(r"\s+", "", plain(text)).strip(".,;:!\"'{}")
