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
    r"|represented\s+by|of\s+course|then|that)\b[\s,:]*){0,4}(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+)?"
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
_OTHER_SCRIPTS = r"\u0900-\u097f\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
_DELIMITER = re.compile(
    rf"\s*(?:[)\]}}]|[.:,;!](?=\s|\Z|[{_OTHER_SCRIPTS}\"])|\s[\u2013\u2014-]+(?=\s)|\u2014)\s*|\s+(?=\()|\s{{0,2}}(?=[{_OTHER_SCRIPTS}])"
)
_REASON = re.compile(
    r"\b(?:because|since|as(?!\s+well)|which|with|for|due|given|so|by|based|from|whose|in|while|whereas|rather|instead|not|than"
    r"|and)\b",
    re.IGNORECASE,
)
_WORDS = re.compile(rf"(?<![{_WORD}'-])(?P<letter>[A-J])(?![{_WORD}'-])")
_END = re.compile(r"[.!?;](?=\s|\Z)|\n")
_ANOTHER = re.compile(
    r"\A(?:(?:option|choice|maybe|perhaps|possibly|even)\s){0,3}(?P<first>[A-J])(?![\w'])(?!\s+[a-z]{2,})|[(\[](?P<inside>[A-J])[)\]]"
    r"|(?:[,/&+;|]|\b(?:or|and|und|oder|ou|o|y|e|nor|with|as\swell\sas)\b|[\u548c\u6216])\s*"
    r"(?:(?:option|choice|maybe|perhaps|possibly|even|also)\s){0,3}(?:[(\[](?P<small>[a-j])[)\]]"
    r"|(?P<joined>[A-J])(?![\w'])(?!\s+(?!(?:or|and|is|are|both)\b)[a-z]{2,}))"
)
_JOINED = re.compile(
    r"\s*(?:and|with)\s+(?:also\s+)?[(\[]?[A-J][)\]]?(?![\w'])(?!\s+(?!(?:is|are|both|together)\b)[a-z])"
)
_THEN_LETTER = re.compile(
    r"\s{0,3}[(\[]\s?(?:option\s|choice\s|answer\s)?(?P<inside>[A-J])\s?[)\]]"
    r"|(?:,?\s(?:which\s(?:is|corresponds\sto|matches)|i\.e\.,?|that\sis,?)(?:\s(?:option|choice|answer))?|,\s(?:option|choice)"
    r"|\s(?:\u2192|->))\s[(\[]?(?P<plain>[A-J])(?![\w'])[)\]]?",
    re.IGNORECASE,
)
_SINCE = re.compile(r",?\s(?:because|since|as(?!\s+well)|due\s+to)\b", re.IGNORECASE)
_TAKEN_BACK = re.compile(
    r"[\s.,;:!)\]-]*(?:\?|wait\b|hmm*\b|no(?=\s*(?:[,.!?;]|\Z|wait\b))|or\s(?:not|is|maybe|perhaps|possibly)\b|maybe\b|perhaps\b|scratch\b"
    r"|on\ssecond\b|actually\b|but\b"
    r")|[\s:-]*\(?(?:wrong|incorrect|rejected)\b|[\s,:)\]-]*(?:if|unless|provided|depending|otherwise)\b",
    re.IGNORECASE,
)
_IN_A_CASE = re.compile(
    r"\botherwise\b|\bin\s(?:the\s(?:first|second|other|former|latter)|one)\scase\b|\bas\swell\sas\b", re.IGNORECASE
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
        before = _BEFORE.match(said)
        if before is not None:
            said = said[before.end() :].strip()
            small = small or before[0].rstrip().endswith(("option", "choice"))
        alone = _ALONE.fullmatch(said)
        if alone is not None and (small or alone["letter"].isupper()):
            return None if exact and alone["more"].endswith((":", ",", ";")) else self._one(alone["letter"])
        match = _LETTER.match(said)
        by_text = self._of_text(said) or self._of_text_and_letter(said)
        if by_text is None and not exact and not match:
            by_text = self._of_first_sentence(said)
        if by_text is not None or match is None:
            return by_text
        letter = self._one(match["inside"] or match["plain"])
        return letter if letter and self._goes_with(letter, match, exact=exact) else None

    def mentioned(self, said: str) -> set[str]:
        """The letters that a text has as words, except I."""
        return {one["letter"] for one in _WORDS.finditer(said) if one["letter"] in self.letters.replace("I", "")}

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
        sentence = _END.split(named, maxsplit=1)[0]
        clause = _REASON.split(sentence, maxsplit=1)[0]
        own = self._of_text(named)
        if own is not None or exact:
            return own == letter
        own = self._of_text(clause)
        if own is not None:
            return own == letter and not _TAKEN_BACK.match(named, len(clause))
        if _TAKEN_BACK.match(after) or _IN_A_CASE.search(sentence) or _names_another(letter, clause, named):
            return False
        if match["plain"] == "I" and after.lstrip().startswith(","):  # I, myself
            return False
        is_reason = _REASON.match(named) is not None
        is_name = delimiter is not None and delimiter[0].strip() == "." and named[:1].islower()  # C. elegans
        return is_reason or not (is_name or (delimiter is None and match["inside"] is None))

    def _of_text_and_letter(self, said: str) -> str | None:
        """The option whose text is said before its letter: `osmosis (B)`, `osmosis, which is option B`."""
        for then in _THEN_LETTER.finditer(said):
            letter = (then["inside"] or then["plain"]).upper()
            if self._of_text(said[: then.start()]) == letter and not _TAKEN_BACK.match(said, then.end()):
                rest = _END.split(said[then.end() :], maxsplit=1)[0]
                return None if _ANOTHER.search(rest) else letter
        return None

    def _of_first_sentence(self, said: str) -> str | None:
        """The option whose text is said before a reason or the end of a sentence, unless it is then taken back."""
        for end in (_END.search(said), _SINCE.search(said)):
            if end is not None and not _TAKEN_BACK.match(said, end.start()):
                found = self._of_text(said[: end.start()])
                if found is not None:
                    return found
        return None

    def _of_text(self, text: str) -> str | None:
        """The one option with this text; None if there is none, or more than one."""
        bare = _bare(text)
        if not bare:
            return None
        if bare in self._exact:
            return self._exact[bare]
        return self._small.get(bare.casefold()) if _WRITTEN_OUT.search(bare) else None


def _names_another(letter: str, clause: str, named: str) -> bool:
    """Whether the clause after a letter, with which what is named begins, has another: `and C`."""
    joined = _JOINED.match(named, len(clause))
    found = _ANOTHER.finditer(clause + joined[0] if joined else clause)
    return (
        bool({one[one.lastgroup or 0].upper() for one in found} - {letter}) or re.search(r"\bbut\b", clause) is not None
    )


def _by_text(letters: str, texts: Sequence[str]) -> Mapping[str, str | None]:
    """Letters by text; None where several options have the same."""
    times = Counter(texts)
    return {text: letter if times[text] == 1 else None for letter, text in zip(letters, texts, strict=True)}


def _bare(text: str) -> str:
    """A text as it is compared: without blanks, and what encloses it or ends a sentence."""
    return re.sub(r"\s+", "", plain(text)).strip(".,;:!\"'{}")
